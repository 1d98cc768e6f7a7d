#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs an experiment in other systems and writes what `moectl run` writes, to be compared.

The points, seeds, rounds and iterations are those of the experiment (`moectl check --json`), the
data of the same distributions, drawn anew. Each answer is compared with double precision before
it is timed. A peer has a folder of its own with a results.json in it.

    bench/peers/run.py configs/quickstart.yaml --out results/peers
    moectl run configs/quickstart.yaml --out results/ours
    moectl compare results/ours results/peers/*

Peers: loop (PyTorch, an expert after the other), grouped_mm (PyTorch's grouped product),
transformers (its MoE block), on GPUs grouped_mm_graph and transformers_graph (in a CUDA graph, which
the loop can't be in), llama.cpp (test-backend-ops: the experts' products alone). One that is not installed is
named and left out.

Exit codes: 0 every point of the peers that are there ran, 1 some did not, 2 bad usage, 3 there is
none of the peers.
"""

import argparse
import json
import pathlib
import shlex
import subprocess
import sys
import threading

sys.dont_write_bytecode = True

import llama_cpp  # noqa: E402
import record  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
TORCH = ("loop", "grouped_mm", "transformers")
PEERS = TORCH + ("grouped_mm_graph", "transformers_graph", "llama.cpp")


def say(text):
    print(text, file=sys.stderr, flush=True)


def torch_answers(options, name, defaults, results):
    """Yields what a process with PyTorch says; a last one says that it died."""
    request = {"peer": name, "device": options.device, "threads": options.threads,
               "defaults": defaults, "measure": results["experiment"]["measure"],
               "points": [point["params"] for point in results["points"]]}
    words = [options.python, str(HERE / "torch_run.py")]
    try:
        process = subprocess.Popen(words, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except OSError as error:
        yield {"missing": f"{options.python} did not start: {error}"}
        return
    timer = threading.Timer(options.limit, process.kill)
    timer.start()
    try:
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.close()
        except OSError:
            pass  # it has ended, as what it says, or does not, tells
        for line in process.stdout:
            yield json.loads(line)
        if process.wait() != 0:
            yield {"died": f"its process ended with {process.returncode}, or took over "
                           f"{options.limit:g} s"}
    finally:
        timer.cancel()
        process.kill()
        process.wait()


def answers_of(options, name, defaults, results):
    if name == "llama.cpp":
        return llama_cpp.answers(options.llama, defaults, results)
    return torch_answers(options, name, defaults, results)


def take(answer, name, results, command):
    """One answer into the results."""
    if "about" in answer:
        record.say_who(results, answer["about"], command)
        return
    if "died" in answer:
        for point in results["points"]:
            if not point["rounds"]:
                record.fail(point, answer["died"])
        return
    point = results["points"][answer["point"]]
    where = f"{name}: point {answer['point']} of {len(results['points'])}"
    if "unsuitable" in answer or "error" in answer:
        record.fail(point, answer.get("error") or f"{name} can't run it: {answer['unsuitable']}")
    elif "check" in answer:
        record.take_check(point, answer["check"])
    else:
        record.take_round(point, answer["round"])
        stages = answer["round"]["stages"]
        say(f"{where}, round {len(point['rounds'])}: " +
            ", ".join(f"{stage} {one['median']:.4g} ms" for stage, one in stages.items()))
        return
    if point["error"]:
        say(f"{where}: {point['error']}")


def run_peer(options, name, command):
    """None where the peer is not there, else whether every point ran."""
    defaults, results = record.points_of(options.moectl, options.experiment, options.set)
    experiment = results["experiment"]
    for key, value in (("layer.checkpoint", experiment["layer"]["checkpoint"]),
                       ("workload.file", experiment["workload"]["file"])):
        if value is not None:
            raise record.Refused(f"{key} is {value}: peers draw their own weights and inputs")
    for answer in answers_of(options, name, defaults, results):
        if "missing" in answer:
            say(f"{name} left out: {answer['missing']}")
            return None
        take(answer, name, results, command)
    for point in results["points"]:
        record.finish(point)
    record.write(results, options.out / name)
    print(f"results: {options.out / name}")
    return all(point["status"].startswith("ok") for point in results["points"])


def parse(arguments):
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter,
                                     description=__doc__)
    parser.add_argument("experiment", type=pathlib.Path, help="the file that moectl run takes")
    parser.add_argument("--out", type=pathlib.Path, required=True,
                        help="folder; each peer makes one in it")
    parser.add_argument("--set", action="append", default=[], metavar="K=V",
                        help="as moectl's --set; may be repeated")
    parser.add_argument("--peers", default="all",
                        help=f"all, or some of {','.join(PEERS)} (default: all)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument("--threads", type=int, default=0,
                        help="PyTorch's on a CPU (default: as it chooses)")
    parser.add_argument("--moectl", default=HERE.parents[1] / "build/bench/moectl/moectl")
    parser.add_argument("--python", default=sys.executable, help="the Python that has PyTorch")
    parser.add_argument("--llama", default="test-backend-ops",
                        help="llama.cpp's program (default: on the PATH)")
    parser.add_argument("--limit", type=float, default=3600,
                        help="seconds that one peer may take in all (default: 3600)")
    options = parser.parse_args(arguments)
    names = PEERS if options.peers == "all" else options.peers.split(",")
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        parser.error(f"{unknown[0]}: no such peer; there are {', '.join(PEERS)}")
    for name in names:
        if (options.out / name / "results.json").exists():
            parser.error(f"{options.out / name} already holds results; choose another --out")
    options.peers = names
    return options


def main(arguments):
    options = parse(arguments)
    command = shlex.join([sys.argv[0], *arguments])
    try:
        ran = [run_peer(options, name, command) for name in options.peers]
    except record.Refused as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 2
    there = [ok for ok in ran if ok is not None]
    return 3 if not there else 0 if all(there) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
