#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Times moecl's layer by weight format beside other systems, in turns, in one run.

On a CPU (--on cpu) beside llama.cpp's and PyTorch's: what is timed are the experts, from tokens and
the choice of the router, which moecl's own layer made, to every choice's row, SwiGLU included. On an
NVIDIA GPU (--on gpu) beside Triton's, PyTorch's and vLLM's: the whole layer, by device time.
All sides have the same sizes and threads. Every answer is compared with double precision on the
weights as they are stored before it is timed. In each round each side runs for --seconds; a ratio
is the median of the rounds' ratios.

    bench/peers/formats.py --threads 2 --ggml ./peer_ggml --python PYTHON --out DIR
    bench/peers/formats.py --shape 7168:2048:16:4 --points 1 4 128r --variants cpu,cpu_amx --out DIR
    bench/peers/formats.py --on gpu --shape mixtral --points 16 128 4096 --out DIR

A point is a number of tokens, or with an r behind it the rows that an expert gets on average. Groups
on a CPU: 16 (bf16, fp16), 8 (int8 beside Q8_0), int4 (int4-g32 beside Q4_0), mxfp4; on a GPU: 16, 8
(int8, fp8-block), 4 (int4-g128, mxfp4). --activations adds ours of 8 and 4 bits on activations of
that format, which llama.cpp's quantized types have by themselves. DIR/formats.json has every round.

Exit codes: 0 all of ours ran, 1 some did not, 2 bad usage.
"""

import argparse
import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys
import threading
from typing import NamedTuple

sys.dont_write_bytecode = True

import floors  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
TOLERANCE = 0.03  # of an answer, relative to its norm: bf16, or int8 activations


class Place(NamedTuple):
    """What is compared on a kind of device."""
    points: list
    metric: str  # what of a round's times is compared
    groups: dict  # name: (our formats, PyTorch's peers, ggml's types)


PLACES = {
    "cpu": Place(["1", "2", "4", "4r", "32r", "128r"], "experts", {
        "16": (("bf16", "fp16"), ("loop", "grouped_mm"), ("bf16", "f16")),
        "8": (("int8", "int8-g128"), (), ("q8_0",)),
        "int4": (("int4-g32",), (), ("q4_0",)),
        "mxfp4": (("mxfp4",), (), ("mxfp4",)),
    }),
    "gpu": Place(["1", "16", "128", "1024", "4096"], "layer", {
        "16": (("bf16",), ("triton_bf16", "grouped_mm_bf16"), ()),
        "8": (("int8", "fp8-block"), ("triton_fp8", "scaled_grouped_mm", "vllm_fp8", "deepgemm"), ()),
        "4": (("int4-g128", "mxfp4"), ("triton_int4",), ()),
    }),
}
LAYOUTS = ("stored", "repacked")


class Side:
    """A process that answers line by line; it waits, idle, while others run."""

    def __init__(self, name, words, ours=False, environment=None):
        self.name, self.words, self.ours = name, words, ours
        self.environment = {**os.environ, **(environment or {})}
        self.process, self.about = None, {}

    def start(self, cpus, log):
        log.write(f"$ {' '.join(self.words)}\n")
        log.flush()
        bind = (lambda: os.sched_setaffinity(0, cpus)) if cpus else None
        try:
            self.process = subprocess.Popen(self.words, text=True, stdin=subprocess.PIPE, stderr=log,
                                            stdout=subprocess.PIPE, env=self.environment,
                                            preexec_fn=bind)
        except OSError as error:
            self.about = {"error": f"{self.words[0]} did not start: {error}"}

    def why_not(self, limit):
        """None, or why it can't run: what its first line says."""
        self.about = self.about or self.read(limit)
        return None if "device" in self.about else self.about.get("unsuitable") or self.about["error"]

    def read(self, limit):
        timer = threading.Timer(limit, self.process.kill)
        timer.start()
        try:
            line = self.process.stdout.readline()
        finally:
            timer.cancel()
        if line.endswith("\n"):
            return json.loads(line)
        return {"error": f"its process ended, or took over {limit:g} s (formats.log)"}

    def ask(self, line, limit):
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except OSError:
            pass  # it has ended, as reading tells
        return self.read(limit)

    def close(self):
        if self.process:
            self.process.kill()
            self.process.wait()


# ---- who takes part ----


def goes_with(form, activations):
    """8-bit weights take activations of their own kind, those of 4 bits any."""
    kinds = (activations.split("-")[0], "int4", "mxfp4", "nvfp4")
    return activations == "dtype" or form.split("-")[0] in kinds


def our_sides(options, shape, formats):
    """bf16 comes first: others are compared with it, and the router's choice is its."""
    common = [str(options.ours), "--shape", shape, "--device", options.device,
              "--threads", str(options.threads)]
    environment = {"POCL_MAX_PTHREAD_COUNT": str(options.threads)}
    if options.cpus == set(range(options.threads)):  # PoCL's sleep, and may wake on the same
        environment["POCL_AFFINITY"] = "1"
    sides = []
    for form in dict.fromkeys(("bf16",) + formats):
        for variant in options.variants:
            for activations in options.activations:
                if not goes_with(form, activations):
                    continue
                name = form + (f"+{activations}" if activations != "dtype" else "")
                words = common + ["--format", form]
                words += ["--activations", activations] if activations != "dtype" else []
                words += ["--variant", variant] if variant != "auto" else []
                if variant != "auto":
                    name += f"@{variant}"
                sides.append(Side(name, words, True, environment))
    return sides


def torch_sides(options, shape, peers):
    if options.on == "gpu":
        return [Side(peer, [options.python, str(HERE / "torch_formats.py"), "--shape", shape,
                            "--peer", peer]) for peer in peers]
    return [Side(f"PyTorch {peer} bf16",
                 [options.python, str(HERE / "torch_experts.py"), "--shape", shape, "--peer", peer,
                  "--threads", str(options.threads)], False,
                 {"OMP_NUM_THREADS": str(options.threads)}) for peer in peers]


def ggml_sides(options, shape, types):
    sides = []
    for program in options.ggml:
        for kind in types:
            for layout in LAYOUTS:
                name = f"llama.cpp {kind}" + (", repacked" if layout == "repacked" else "")
                sides.append(Side(name + (f" ({program.name})" if len(options.ggml) > 1 else ""),
                                  [str(program), "--shape", shape, "--type", kind, "--layout", layout,
                                   "--threads", str(options.threads)]))
    return sides


def sides_of(options, group):
    formats, torch_peers, types = PLACES[options.on].groups[group]
    return (our_sides(options, options.shape, formats)
            + (torch_sides(options, options.shape, torch_peers) if options.python else [])
            + ggml_sides(options, options.shape, types))


# ---- one point ----


def tokens_of(point, shape):
    """(tokens, rows of an expert on average) of "4" or "128r"."""
    _, _, experts, top_k = map(int, shape.split(":"))
    if point.endswith("r"):
        return max(1, -(-int(point[:-1]) * experts // top_k))
    return int(point)


def ids_of(inputs):
    """" N ID...": what peers are told of the choices that our router made."""
    return f" {len(inputs)} " + " ".join(str(one) for ids in inputs for one in ids)


def begin_point(sides, tokens, limit):
    """(those who gave a right answer, who is left out and why)."""
    first, ids = None, ""
    there, left_out = [], []
    for side in sides:
        found = side.ask(f"tokens {tokens}" + ("" if side.ours else ids), limit)
        error = found["error"]  # a number, or a text
        if not isinstance(error, str) and error <= found.get("tolerance", TOLERANCE):
            there.append({"side": side, "name": side.name, "ours": side.ours, "error": error,
                          "weight_bytes": found.get("weight_bytes"), "rounds": [],
                          "mode": found.get("mode"), "all": []})
            if not first:
                first, ids = found, ids_of(found["ids"])
        else:
            left_out.append({"name": side.name, "why": error if isinstance(error, str)
                             else f"wrong answer: relative error {error:.3g}"})
            if not first:
                break  # nobody knows the choice
    return there, left_out


def measure_point(options, sides, group, tokens):
    there, left_out = begin_point(sides, tokens, options.limit)
    point = {"group": group, "tokens": tokens, "read": None, "sides": [], "left_out": left_out}
    if not there:
        return point
    if options.on == "cpu":
        point["read"] = there[0]["side"].ask("read", options.limit).get("read")
    for _ in range(options.rounds):
        for one in list(there):
            found = one["side"].ask(f"run {options.seconds}", options.limit)
            if options.metric in found:
                one["rounds"].append(found[options.metric])
                one["all"].append(found)
            else:
                left_out.append({"name": one["name"], "why": found["error"]})
                there.remove(one)
    for one in there:
        one.pop("side")
        one["ms"] = statistics.median(one["rounds"])
        walls = [found["wall"] for found in one["all"] if "wall" in found]
        one["wall_ms"] = statistics.median(walls) if walls else None
    point["sides"] = there
    return point


def ratio(above, below):
    """Of two sides: the median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(above["rounds"], below["rounds"]))


def best_bf16(point):
    """Ours; of several variants the fastest at this point."""
    return min((one for one in point["sides"] if one["name"].split("@")[0] == "bf16"),
               key=lambda one: one["ms"], default=None)


def best_peer(point):
    return min((one for one in point["sides"] if not one["ours"]), key=lambda one: one["ms"],
               default=None)


# ---- what is told ----

HEADER = ("| group | tokens | side | ms | bf16 / it | best peer / it | weights GB/s | of a plain read "
          "| wall ms, layer | error |\n|---|---|---|---|---|---|---|---|---|---|")


def rows_of(point):
    base, peer = best_bf16(point), best_peer(point)
    for one in point["sides"]:
        rate = one["weight_bytes"] and one["weight_bytes"] / one["ms"] * 1e-6
        share = rate and point["read"] and rate / point["read"]
        cells = (point["group"], point["tokens"],
                 one["name"] + (f", {one['mode']}" if one["mode"] else ""), floors.digits(one["ms"], None),
                 floors.digits(base and ratio(base, one)),
                 floors.digits(ratio(peer, one)) if one["ours"] and peer else "",
                 f"{rate:.1f}" if rate else "", f"{share:.0%}" if share else "",
                 floors.digits(one["wall_ms"], None) if one["wall_ms"] else "",
                 f"{one['error']:.1e}")
        yield "| " + " | ".join(map(str, cells)) + " |"


def markdown(record):
    what = ("experts alone: gate, up, SwiGLU, down" if record["on"] == "cpu"
            else "the whole layer, on the device")
    lines = [f"# moecl by weight format beside others: {record['device']}", "",
             f"{record['date']}, {record['threads']} threads, shape {record['shape']} (hidden, "
             f"intermediate, experts, top k). Medians of rounds in turns, milliseconds, of {what}. "
             "A ratio above 1: that side is the faster one.", ""]
    lines += [f"- {name}: {about}" for name, about in record["sides"].items()] + ["", HEADER]
    for point in record["points"]:
        lines += rows_of(point)
    notes = list(record["notes"])
    for point in record["points"]:
        notes += [f"{point['group']}, {point['tokens']} tokens: {out['name']} left out: {out['why']}"
                  for out in point["left_out"]]
    return "\n".join(lines + [""] + [f"- {note}" for note in notes]) + "\n"


def write_files(out, record):
    """Whole files or none: a time limit may end the run at any moment."""
    for name, text in (("formats.json", json.dumps(record, indent=1) + "\n"),
                       ("formats.md", markdown(record))):
        (out / (name + ".new")).write_text(text)
        os.replace(out / (name + ".new"), out / name)


def say_point(point):
    for row in rows_of(point):
        print(row, flush=True)
    for out in point["left_out"]:
        print(f"{out['name']} left out: {out['why']}", flush=True)


# ---- the command ----


def cpu_name():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return "a processor"


def take_in(options, started, record):
    """Those that can run; what can't be is said once."""
    sides = []
    for side in started:
        why = side.why_not(options.limit)
        if why:
            record["notes"].append(f"{side.name} left out: {why}")
            print(record["notes"][-1], flush=True)
            continue
        if options.on == "gpu" and side.ours:
            record["device"] = side.about["device"]
        record["sides"][side.name] = side.about["device"] + (
            f", variant {side.about['variant']}" if "variant" in side.about else "")
        sides.append(side)
    return sides


def run_group(options, group, record, log):
    """Whether all of ours were there at all points, beside what was asked for in addition: a
    variant by name, or activations, does not go with every format."""
    started = sides_of(options, group)
    wanted = {side.name for side in started if side.ours and "@" not in side.name
              and "+" not in side.name}
    try:
        for side in started:  # all at once: they draw their weights
            side.start(options.cpus, log)
        sides = take_in(options, started, record)
        wanted |= {side.name for side in sides if side.ours}
        for tokens in options.tokens if any(side.ours for side in sides) else ():
            point = measure_point(options, sides, group, tokens)
            record["points"].append(point)
            write_files(options.out, record)
            say_point(point)
    finally:
        for side in started:
            side.close()
    points = [point for point in record["points"] if point["group"] == group]
    return bool(points) and all(wanted <= {one["name"] for one in point["sides"]} for point in points)


def parse(arguments):
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter,
                                     description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the results")
    parser.add_argument("--on", choices=PLACES, default="cpu")
    parser.add_argument("--shape", default="olmoe",
                        help=f"H:I:E:K, or one of {', '.join(floors.SHAPES)} (default: olmoe)")
    parser.add_argument("--points", nargs="+", help="default: " + "; ".join(
        f"{' '.join(place.points)} on a {on}" for on, place in PLACES.items()))
    parser.add_argument("--groups", help="some, with commas (default: all)")
    parser.add_argument("--variants", default="auto",
                        help="our grouped GEMMs, by name; auto: what moecl chooses (default)")
    parser.add_argument("--activations", default="dtype",
                        help="dtype, int8, ..., several with commas (default: dtype)")
    parser.add_argument("--threads", type=int, default=2, help="of every side (default: 2)")
    parser.add_argument("--cpus", help="processors that all sides are bound to, for instance 0,2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.2,
                        help="of each side in each round (default: 0.2)")
    parser.add_argument("--ours", type=pathlib.Path,
                        default=HERE.parents[1] / "build/bench/layer_times")
    parser.add_argument("--device", help="moecl's (default: as --on)")
    parser.add_argument("--ggml", type=pathlib.Path, action="append", default=[],
                        help="peer_ggml (ggml.c tells how it is built); may be repeated")
    parser.add_argument("--python", default=sys.executable,
                        help="the Python that has PyTorch; '' for none")
    parser.add_argument("--limit", type=float, default=120,
                        help="seconds that one answer may take (default: 120)")
    options = parser.parse_args(arguments)
    if options.shape in floors.SHAPES:
        known = floors.SHAPES[options.shape]
        options.shape = f"{known.hidden}:{known.intermediate}:{known.experts}:{known.top_k}"
    place = PLACES[options.on]
    options.metric, options.device = place.metric, options.device or options.on
    options.points = options.points or place.points
    options.groups = options.groups.split(",") if options.groups else list(place.groups)
    options.variants, options.activations = options.variants.split(","), options.activations.split(",")
    for name in options.groups:
        if name not in place.groups:
            parser.error(f"{name}: no such group; there are {', '.join(place.groups)}")
    try:
        options.tokens = list(dict.fromkeys(tokens_of(point, options.shape) for point in options.points))
        options.cpus = {int(one) for one in options.cpus.split(",")} if options.cpus else None
    except ValueError:
        parser.error("--shape is H:I:E:K; a point is a number, or a number and r; --cpus are numbers")
    if min(options.tokens) < 1 or options.rounds < 1 or options.threads < 1:
        parser.error("points, rounds and threads are 1 or more")
    return options


def main(arguments):
    options = parse(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    record = {"schema": "moecl-formats-1", "date": datetime.date.today().isoformat(),
              "command": [sys.argv[0], *arguments], "on": options.on,
              "device": cpu_name() if options.on == "cpu" else "a GPU", "threads": options.threads,
              "shape": options.shape, "seconds": options.seconds, "sides": {}, "points": [],
              "notes": ["llama.cpp left out: no --ggml"] if options.on == "cpu" and not options.ggml else []}
    with open(options.out / "formats.log", "w", encoding="utf-8") as log:
        print(HEADER, flush=True)
        try:
            there = [run_group(options, group, record, log) for group in options.groups]
        except KeyboardInterrupt:
            there = [False]
            record["notes"].append("interrupted: points are missing")
    write_files(options.out, record)
    print(f"results: {options.out}/formats.md")
    return 0 if all(there) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
