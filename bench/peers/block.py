#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Times moecl's transformer block beside PyTorch's, in turns, and prints both with their ratio.

    bench/peers/block.py --ours build/bench/block_times --out DIR
    bench/peers/block.py --points mixtral:1,128 qwen3:1@4096 --out DIR
    bench/peers/block.py --cpu --points olmoe:1,128        # fp32, on the default device

A point is TOKENS new tokens, or TOKENS@CONTEXT behind so many cached ones. On CUDA the block is
bf16 and PyTorch runs it eagerly and in a CUDA graph, with the best of its attention kernels; on
a CPU both are fp32. "wall" is a forward of many back to back, "device" from its first kernel's
start to its last one's end. DIR/block.json has every number, also of each stage.
Exit codes: 0, 1 a point of ours is missing, 2 bad usage.
"""

import argparse
import datetime
import json
import pathlib
import statistics
import subprocess
import sys
import time

sys.dont_write_bytecode = True

try:
    import torch
    import torch_block
except ImportError as error:
    torch, missing = None, error

ROOT = pathlib.Path(__file__).resolve().parents[2]
POINTS = ["mixtral:1,128,4096,1@4096", "olmoe:1,128,4096,1@4096", "qwen3:1,128,4096,1@4096"]
CPU_POINTS = ["olmoe:1,128,1@1024"]
ROUNDS = 2
SETS = 3  # inputs taken in turn


def parse_points(words):
    """[(model, [(tokens, context)])] from words like "mixtral:1,128,1@4096"."""
    parsed = []
    for word in words:
        model, colon, points = word.partition(":")
        try:
            pairs = [tuple(int(n) for n in (p if "@" in p else p + "@0").split("@"))
                     for p in points.split(",")]
        except ValueError:
            pairs = []
        if not pairs or not all(len(p) == 2 and p[0] > 0 and p[1] >= 0 for p in pairs):
            raise ValueError(f"{word}: expected MODEL:TOKENS[@CONTEXT],...")
        if any(tokens > 1 and context for tokens, context in pairs):
            raise ValueError(f"{word}: PyTorch's causal mask has no context for several tokens")
        parsed.append((model, pairs))
    return parsed


# ---- ours ----


class Ours:
    """block_times of one model; it draws its weights once and answers point by point."""

    def __init__(self, options, model, log):
        words = [str(options.ours), model, "--dtype", "fp32" if options.cpu else "bf16",
                 "--seconds", str(options.seconds)]
        words += ["--device", options.device] if options.device else []
        words += ["--attention", options.attention] if options.attention else []
        log.write(f"$ {' '.join(words)}\n")
        log.flush()
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=log, text=True)
        self.device = (self.read() or {}).get("device")

    def read(self):
        line = self.process.stdout.readline()
        return json.loads(line) if line.endswith("\n") else None

    def measure(self, tokens, context):
        """None when the program has ended: its log says why."""
        try:
            self.process.stdin.write(f"{tokens} {context}\n")
            self.process.stdin.flush()
        except OSError:
            return None
        return self.read()

    def close(self):
        try:
            self.process.stdin.close()
            self.process.wait(20)
        except OSError:  # it has ended
            self.process.wait()
        except subprocess.TimeoutExpired:
            self.process.kill()


# ---- PyTorch ----


def synchronize():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def per_call(calls, count):
    """Milliseconds a call of `count`, back to back."""
    synchronize()
    begun = time.perf_counter()
    for i in range(count):
        calls[i % len(calls)]()
    synchronize()
    return (time.perf_counter() - begun) * 1e3 / count


def measure_calls(calls, seconds, rounds=7):
    per_call(calls, 2)
    each = per_call(calls, 3) * 1e-3
    count = int(min(max(seconds / rounds / each, 1), 2000))
    per_call(calls, count)
    return statistics.median(per_call(calls, count) for _ in range(rounds))


def captured(block, inputs):
    """A CUDA graph an input."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for x in inputs:
            block.forward(x)
    torch.cuda.current_stream().wait_stream(stream)
    synchronize()
    graphs, pool = [], None
    for x in inputs:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            block.forward(x)
        pool = pool or graph.pool()
        graphs.append(graph)
    return [graph.replay for graph in graphs]


class Peer:
    """PyTorch at one point: calls made once, timed in rounds."""

    def __init__(self, block, tokens, context, seconds):
        self.seconds = seconds
        block.provide(tokens, context)
        inputs = [torch.randn(tokens, block.model.hidden, device=block.device).to(block.dtype)
                  for _ in range(SETS)]
        quick = min(seconds, 0.05)
        self.attention, self.times = torch_block.choose_attention(
            block, inputs[0], lambda call: measure_calls([call], quick, 3))
        if not all(torch.isfinite(block.forward(x)).all() for x in inputs):
            raise ValueError("PyTorch's output is not finite")
        self.modes = {"eager": [lambda x=x: block.forward(x) for x in inputs]}
        if block.device == "cuda":
            try:
                self.modes["graph"] = captured(block, inputs)
            except RuntimeError as error:
                print(f"no CUDA graph: {str(error).splitlines()[0]}", flush=True)

    def measure(self):
        return {mode: measure_calls(calls, self.seconds) for mode, calls in self.modes.items()}


# ---- both, in turns ----


def median_of(rounds):
    """The median of every number of a few results of one shape."""
    first = rounds[0]
    if isinstance(first, dict):
        return {key: median_of([r[key] for r in rounds]) for key in first}
    return statistics.median(rounds) if isinstance(first, float) else first


def measure_point(ours, block, tokens, context, options):
    point = {"tokens": tokens, "context": context, "ours": None, "peer": None}
    peer = None
    if block:
        try:
            peer = Peer(block, tokens, context, options.seconds)
            point["attention"], point["attention_ms"] = peer.attention, peer.times
        except Exception as error:  # the comparison goes on without it
            point["peer_error"] = f"{type(error).__name__}: {str(error)[:200]}"
    mine, theirs = [], []
    for _ in range(ROUNDS):
        answer = ours.measure(tokens, context) if ours else None
        if answer:
            mine.append(answer)
        if peer:
            theirs.append(peer.measure())
    if len(mine) == ROUNDS:
        point["ours"] = median_of(mine)
    if theirs:
        point["peer"] = median_of(theirs)
    return point


def number(value):
    if value is None:
        return "n/a"
    return f"{value:.2f}" if value >= 10 else f"{value:.3f}" if value >= 0.1 else f"{value:.4f}"


HEADER = ("| block | tokens | ours wall | ours device | PyTorch eager | PyTorch graph | its attention "
          "| ours / PyTorch |\n|---|---|---|---|---|---|---|---|")


def row(model, point):
    mine, peer = point["ours"] or {}, point["peer"] or {}
    best = min(peer.values(), default=None)
    ratio = mine["wall"] / best if mine and best else None
    at = str(point["tokens"]) + (f" after {point['context']}" if point["context"] else "")
    cells = (model, at, number(mine.get("wall")), number(mine.get("device")),
             number(peer.get("eager")), number(peer.get("graph")),
             f"{point.get('attention', 'n/a')} "
             f"{number(point.get('attention_ms', {}).get(point.get('attention')))}",
             f"{ratio:.2f}" if ratio else "n/a")
    return "| " + " | ".join(cells) + " |"


def stage_line(model, point):
    mine = point["ours"]
    if not mine:
        return f"{model} {point['tokens']}@{point['context']}: ours is missing (ours.log)"
    stages = ", ".join(f"{name} {number(ms)}" for name, ms in mine["stages"].items())
    return f"{model} {point['tokens']}@{point['context']}: {stages}"


def run_model(options, model, pairs, record, log):
    ours = Ours(options, model, log) if not options.no_ours else None
    block = None
    if torch and not options.no_peer:
        on_cuda = not options.cpu
        block = torch_block.Block(torch_block.MODELS[model], "cuda" if on_cuda else "cpu",
                                  torch.bfloat16 if on_cuda else torch.float32)
    points = []
    for tokens, context in pairs:
        point = measure_point(ours, block, tokens, context, options)
        points.append(point)
        print(row(model, point), flush=True)
        if "peer_error" in point:
            print(f"PyTorch is missing: {point['peer_error']}", flush=True)
        record["models"][model] = points
        (options.out / "block.json").write_text(json.dumps(record, indent=1) + "\n")
    if ours:
        record["device"] = ours.device
        ours.close()
    del block
    if torch and torch.cuda.is_available():
        torch.cuda.empty_cache()
    return points


def parse(arguments):
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter,
                                     description=__doc__)
    parser.add_argument("--ours", type=pathlib.Path, default=ROOT / "build/bench/block_times")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("block-times"))
    parser.add_argument("--points", nargs="+", metavar="MODEL:TOKENS[@CONTEXT],...")
    parser.add_argument("--cpu", action="store_true", help="fp32, PyTorch on the CPU")
    parser.add_argument("--device", help="moecl's; default: gpu, with --cpu the default one")
    parser.add_argument("--attention", help="moecl's variant; default: the best that serves")
    parser.add_argument("--seconds", type=float, default=0.2, help="of one measurement")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--no-ours", action="store_true")
    options = parser.parse_args(arguments)
    if not options.cpu and not options.device:
        options.device = "gpu"
    try:
        points = parse_points(options.points or (CPU_POINTS if options.cpu else POINTS))
    except ValueError as error:
        parser.error(str(error))
    return options, points


def main(arguments):
    options, points = parse(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    if not torch:
        print(f"no PyTorch: {missing}")
    elif not options.cpu and not torch.cuda.is_available():
        print("PyTorch sees no CUDA device; --cpu compares on the CPU")
        options.no_peer = True
    if torch:
        torch.set_grad_enabled(False)
    record = {"schema": "moecl-block-1", "date": datetime.date.today().isoformat(),
              "command": sys.argv, "device": None, "torch": torch and torch.__version__,
              "models": {}}
    print(HEADER, flush=True)
    found = True
    with open(options.out / "ours.log", "w") as log:
        for model, pairs in points:
            ran = run_model(options, model, pairs, record, log)
            found = found and (options.no_ours or all(p["ours"] for p in ran))
    for model, ran in record["models"].items():
        for point in ran:
            print(stage_line(model, point))
        variants = next((p["ours"]["variants"] for p in ran if p["ours"]), {})
        print(f"{model}: " + ", ".join(f"{k} {v}" for k, v in variants.items()))
    (options.out / "block.json").write_text(json.dumps(record, indent=1) + "\n")
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
