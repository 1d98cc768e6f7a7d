#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Times moecl beside other systems on an NVIDIA GPU, point by point, in one run.

Five published MoE layers at six token counts, bf16, even routing, SwiGLU, softmax
over the top k, no bias. At each point `moectl run` comes first, in a process that
has ended before the peers start; each peer's answer is checked before it is timed.
The two ceilings of the machine, torch.matmul and a large copy, are measured in the
same run. DIR/comparison.md and .json are written after every point; DIR/ours.log
and DIR/peers.log hold what the programs said.

    bench/peers/nvidia.py --moectl build/bench/moectl/moectl --out DIR
    bench/peers/nvidia.py --points mixtral:1,16 olmoe:1024 --peers triton --out DIR
    bench/peers/nvidia.py --peers none --ceilings 777:2.95 --out DIR   # no PyTorch

Exit codes: 0 every point of ours ran, 1 some did not, 2 bad usage, or no GPU.
"""

import argparse
import datetime
import json
import os
import pathlib
import subprocess
import sys
import threading

sys.dont_write_bytecode = True

import floors  # noqa: E402
import ours  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
PEERS = ("grouped_mm", "transformers", "triton", "vllm")
START_LIMIT = 180  # seconds; importing PyTorch on a cold disk
DEATHS = 2  # a peer that ended its process so often is not tried again


class Worker:
    """The process that holds PyTorch; `lines` ends early when it dies or is late."""

    def __init__(self, python, log):
        self.process = subprocess.Popen([python, str(HERE / "worker.py")], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)

    def read(self, limit):
        """The next answer, None when there is none within `limit` seconds."""
        timer = threading.Timer(limit, self.process.kill)
        timer.start()
        try:
            line = self.process.stdout.readline()
        finally:
            timer.cancel()
        return json.loads(line) if line.endswith("\n") else None

    def ask(self, request, limit):
        """Yields the answers to a request; the last is {"done"}, or None if it died."""
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except OSError:
            yield None
            return
        while True:
            message = self.read(limit)
            yield message
            if message is None or message.get("done"):
                return

    def close(self):
        self.process.kill()
        self.process.wait()


class Peers:
    """The peers still in the race, and the worker that runs them."""

    def __init__(self, options, log):
        self.options, self.log = options, log
        self.names = list(options.peers)
        self.deaths = dict.fromkeys(self.names, 0)
        self.worker, self.about, self.notes = None, {}, []

    def start(self):
        """None, or why there are no peers."""
        self.close()
        try:
            self.worker = Worker(self.options.python, self.log)
        except OSError as error:
            return f"{self.options.python} did not start: {error}"
        ready = self.worker.read(START_LIMIT)
        if ready and ready["ready"]:
            self.about = ready
            return None
        self.close()
        return ready["why"] if ready else "PyTorch could not be imported (peers.log)"

    def close(self):
        if self.worker:
            self.worker.close()
        self.worker = None

    def ceilings(self):
        found = None
        for message in self.worker.ask({"ceilings": True}, self.options.limit):
            if message and "ceilings" in message:
                found = message["ceilings"]
        return found

    def run_point(self, shape, tokens, point):
        """Fills the point's "peers" and "left_out"; goes on after a peer's death."""
        left = list(self.names)
        while left:
            why = None if self.worker else self.start()
            if why:
                point["left_out"] += [{"name": name, "why": why} for name in left]
                return
            request = {"shape": shape.name, "tokens": tokens, "peers": left,
                       "seconds": self.options.seconds}
            running = None
            for message in self.worker.ask(request, self.options.limit):
                if message is None:
                    self.close()
                    left = self.bury(running, left, point)
                elif "begin" in message:
                    running = message["begin"]
                elif "result" in message:
                    point["peers"].append(message["result"])
                elif "left_out" in message:
                    self.leave_out(message["left_out"], point)
                else:
                    left = []

    def leave_out(self, out, point):
        """At this point; for good, and said once, when it isn't installed."""
        if out["name"] in self.names and out["why"].startswith("not installed"):
            self.names.remove(out["name"])
            self.notes.append(f"{out['name']} left out: {out['why']}")
        else:
            point["left_out"].append(out)

    def bury(self, running, left, point):
        """Who is still to run at this point after the worker died under `running`."""
        why = f"its process died or took over {self.options.limit} s (peers.log)"
        if running is None:  # drawing weights or the reference: no peer can run
            point["left_out"] += [{"name": name, "why": why} for name in left]
            return []
        point["left_out"].append({"name": running, "why": why})
        self.deaths[running] += 1
        if self.deaths[running] >= DEATHS:
            self.names.remove(running)
            self.notes.append(f"{running} given up: its process died {DEATHS} times")
        return left[left.index(running) + 1:]


def write_files(out, record):
    """Whole files or none: a time limit may end the run at any moment."""
    for name, text in (("comparison.json", json.dumps(record, indent=1) + "\n"),
                       ("comparison.md", floors.markdown(record))):
        path = out / (name + ".new")
        path.write_text(text)
        os.replace(path, out / name)


def say(text):
    print(text, flush=True)


def point_line(point, ceilings):
    where = f"{point['shape']}:{point['tokens']}"
    time, peer, floor, over_floor, over_peer = floors.ratios(point, ceilings, lambda e: e["ms"])
    mine = f"ours {floors.digits(time, None)} ms" if time else f"ours: {point['ours']['error']}"
    theirs = f"{peer['name']} {floors.digits(peer['ms'], None)} ms" if peer else "no peer"
    return (f"{where:15} {mine}, {theirs}, floor {floors.digits(floor, None)}, "
            f"ours/floor {floors.digits(over_floor)}, ours/peer {floors.digits(over_peer)}")


def run(options, points, record, peers):
    said = len(peers.notes)
    with open(options.out / "ours.log", "w") as log:
        for shape, tokens in points:
            point = {"shape": shape.name, "tokens": tokens, "peers": [], "left_out": [],
                     "ours": {"error": "left out: --no-ours"}}
            if not options.no_ours:
                point["ours"] = ours.run_point(options, shape, tokens, log)
            peers.run_point(shape, tokens, point)
            record["device"] = record["device"] or point["ours"].get("device")
            record["points"].append(point)
            write_files(options.out, record)
            say(point_line(point, floors.record_ceilings(record)))
            for out in point["left_out"]:
                say(f"{'':15} {out['name']} left out: {out['why']}")
            for note in peers.notes[said:]:
                say(note)
            said = len(peers.notes)


def begin(options, peers):
    """The record's head: who measures what, and what is missing."""
    record = {"schema": "moecl-peers-1", "date": datetime.date.today().isoformat(),
              "command": sys.argv, "device": None, "versions": "no peers",
              "seconds": options.seconds, "ceilings": None, "notes": peers.notes, "points": []}
    if options.ceilings:
        record["ceilings"] = options.ceilings._asdict()
        record["notes"].append("the ceilings were given by hand, not measured in this run")
    if not peers.names:
        return record
    why = peers.start()
    if why:
        record["notes"].append(f"no peers: {why}")
        peers.names = []
        return record
    record["device"], record["versions"] = peers.about["device"], peers.about["versions"]
    if not options.ceilings:
        record["ceilings"] = peers.ceilings()
        if not record["ceilings"]:
            record["notes"].append("the ceilings could not be measured (peers.log)")
            peers.close()
    return record


def parse(arguments):
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter,
                                     description=__doc__)
    parser.add_argument("--moectl", type=pathlib.Path,
                        default=HERE.parents[1] / "build/bench/moectl/moectl")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the results")
    parser.add_argument("--points", nargs="+", metavar="SHAPE[:TOKENS]", default=[],
                        help=f"of {', '.join(floors.SHAPES)}; default: all thirty")
    parser.add_argument("--peers", default="all",
                        help=f"all, none, or some of {','.join(PEERS)} (default: all)")
    parser.add_argument("--seconds", type=float, default=0.5,
                        help="of each sustained measurement; 0: none (default: 0.5)")
    parser.add_argument("--ceilings", help="TFLOP/s:TB/s, in place of measuring them")
    parser.add_argument("--device", default="gpu", help="moectl's --device (default: gpu)")
    parser.add_argument("--verify-tokens", type=int, default=16, metavar="N",
                        help="moectl verifies points of up to N tokens (default: 16)")
    parser.add_argument("--limit", type=float, default=120,
                        help="seconds that one step of one point may take (default: 120)")
    parser.add_argument("--python", default=sys.executable, help="the Python that has PyTorch")
    parser.add_argument("--no-ours", action="store_true", help="only the peers")
    options = parser.parse_args(arguments)
    names = {"all": PEERS, "none": ()}.get(options.peers, options.peers.split(","))
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        parser.error(f"{unknown[0]}: no such peer; there are {', '.join(PEERS)}")
    options.peers = names
    try:
        points = floors.parse_points(options.points)
        options.ceilings = floors.parse_ceilings(options.ceilings) if options.ceilings else None
    except ValueError as error:
        parser.error(str(error))
    return options, points


def measure(options, points, peers):
    """The exit code; tells what is left out, and why there is nothing to measure."""
    record = begin(options, peers)
    for note in record["notes"]:
        say(note)
    if options.no_ours and not peers.names:
        print("nvidia.py: nothing to measure: --no-ours, and no peers; they need an NVIDIA GPU and "
              "a PyTorch with CUDA (--python)", file=sys.stderr)
        return 2
    try:
        run(options, points, record, peers)
    except ours.NoDevice as error:
        print(f"nvidia.py: there is no device for --device {options.device}: {error}\n"
              "nvidia.py: nothing was measured; this needs an NVIDIA GPU with its OpenCL driver, "
              "or another --device", file=sys.stderr)
        return 2
    for line in floors.summary_lines(record):
        say(line[2:])
    say(f"results: {options.out}/comparison.md")
    return int(any("error" in p["ours"] for p in record["points"]) and not options.no_ours)


def main(arguments):
    options, points = parse(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    with open(options.out / "peers.log", "w") as log:
        peers = Peers(options, log)
        try:
            return measure(options, points, peers)
        finally:
            peers.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
