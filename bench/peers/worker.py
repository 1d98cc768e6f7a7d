# SPDX-License-Identifier: MIT
"""Holds the weights and inputs of a comparison, and the peers, in a process of its own that may die
without it.

    worker.py [--device cuda] [--window FILE] [--packages DIR]

Reads one request a line on standard input and answers with lines of JSON, at last {"done": true}.
What libraries print goes to standard error, the caller's log. FILE is memory that moecl's side maps
too: what is handed over lies at its beginning.

    {"shape": NAME}                        draws weights
    {"give": TENSOR, "first": F, "count": N}   puts so many items of them into the window
    {"tokens": T}                          draws inputs into the window: {"case": {"sets", "active"}}
    {"check": true}                        the window's beginning is an output: {"checked": ERROR}
    {"contend": [PEER, ...], "keep": N}    {"begin"}, {"result"} and {"left_out"}; the N fastest stay
    {"turn": NAME, "what": WHAT, "count": N, "pause": MS}   {"ms"}, as layer_turns has it
    {"ceilings": true}                     {"ceilings": {"tflops", "tbytes"}}
"""

import argparse
import gc
import json
import sys
import time
import traceback
from types import SimpleNamespace

sys.dont_write_bytecode = True

from answers import answer  # noqa: E402, before what prints

import torch  # noqa: E402

import floors  # noqa: E402
import layers  # noqa: E402
import packages  # noqa: E402

DEVICE = "cuda"
PACKAGES = None  # a folder with peers' packages
SEED = 42


def log(text):
    print(text, file=sys.stderr, flush=True)


def wait():
    if DEVICE != "cpu":
        torch.cuda.synchronize()


def forget():
    gc.collect()
    if DEVICE != "cpu":
        torch.cuda.empty_cache()


# ---- times ----


def burst(calls, count):
    """Milliseconds a call, so many back to back, by the clock."""
    wait()
    begun = time.perf_counter()
    for i in range(count):
        calls[i % len(calls)]()
    wait()
    return 1e3 * (time.perf_counter() - begun) / count


def time_calls(calls, count):
    """Milliseconds of `count` calls taken in turn, by device events, unwaited."""
    if DEVICE == "cpu":
        return [burst(calls[i % len(calls):], 1) for i in range(count)]
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
              for _ in range(count)]
    torch.cuda.synchronize()
    for i, (start, end) in enumerate(events):
        start.record()
        calls[i % len(calls)]()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in events]


def from_idle(calls, count, pause):
    """The median of single calls, each after a pause, until its output is there."""
    times = []
    wait()
    for i in range(count):
        time.sleep(pause / 1e3)
        begun = time.perf_counter()  # as layer_turns: the device is not asked before
        calls[i % len(calls)]()
        wait()
        times.append(1e3 * (time.perf_counter() - begun))
    return floors.median(times)


def second_half(calls, count):
    burst(calls, count // 2)
    return burst(calls, count // 2)


TURNS = {"burst": lambda calls, request: burst(calls, request["count"]),
         "load": lambda calls, request: second_half(calls, request["count"]),
         "device": lambda calls, request: floors.median(time_calls(calls, request["count"])),
         "idle": lambda calls, request: from_idle(calls, request["count"], request["pause"])}


def calls_in(milliseconds, each, limits):
    return int(min(max(milliseconds / max(each, 1e-4), limits[0]), limits[1]))


def timer(call):
    """A quick median, for choosing between a few."""
    time_calls([call], 2)
    return floors.median(time_calls([call], 7))


def quick(calls):
    """Who stays is chosen as the turns compare: inputs in turn, back to back, by the clock. One
    input again and again would find its experts' weights in a cache."""
    burst(calls, 4)
    return burst(calls, 12)


def captured(calls):
    """The same calls as CUDA graphs, one a set, and the first one's output."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graphs, pool, output = [], None, None
    for call in calls:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            out = call()
        pool = pool or graph.pool()
        output = out if output is None else output
        graphs.append(graph)
    return [graph.replay for graph in graphs], output


# ---- weights and inputs, handed over through the window ----


class Bench:
    def __init__(self, window):
        self.window, self.shape, self.weights = window, None, None
        self.case, self.kept = None, {}

    def use_shape(self, shape):
        """The same weights whenever they are drawn."""
        if self.shape == shape:
            return
        self.drop_case()
        self.shape, self.weights = shape, None
        forget()
        self.weights = layers.draw_weights(shape, DEVICE, torch.bfloat16, SEED)

    def drop_case(self):
        self.case, self.kept = None, {}
        forget()

    def place(self, elements):
        if elements > self.window.numel():
            raise ValueError("the window is smaller than what it is to hold")
        return self.window[:elements]

    def give(self, tensor, first, count):
        named = dict(zip(("router", "gate_up", "down"), self.weights))
        # The router is one item of many rows.
        items = self.weights[0][None] if tensor == "router" else named[tensor][first:first + count]
        self.place(items.numel()).view(items.shape).copy_(items)
        wait()

    def use_tokens(self, tokens):
        """Inputs whose routing all sides share: how many experts each makes active."""
        self.drop_case()
        shape, router, sets = self.shape, self.weights[0], floors.input_sets(tokens)
        inputs = layers.draw_inputs(shape, tokens, router, sets, SEED)
        checked = layers.sample_tokens(inputs[0], router, shape.top_k)
        self.case = SimpleNamespace(
            shape=shape, tokens=tokens, device=DEVICE, weights=[self.weights], inputs=inputs,
            checked=checked, timer=timer, log=log, packages=PACKAGES,
            expected=layers.reference(inputs[0], self.weights, shape.top_k, checked))
        size = inputs[0].numel()
        place = self.place(size * sets)
        for i, x in enumerate(inputs):
            place[i * size:(i + 1) * size].view(x.shape).copy_(x)
        wait()
        active = [layers.route(x, router, shape.top_k)[0].unique().numel() for x in inputs]
        return {"sets": sets, "active": active}

    def check(self):
        x = self.case.inputs[0]
        out = self.place(x.numel()).view(x.shape)
        return layers.error_of(out[self.case.checked.cpu()], self.case.expected.cpu(),
                               torch.arange(len(self.case.checked)))


# ---- peers ----


def right(case, out):
    """The error of an answer; ValueError when it is wrong."""
    error = layers.error_of(out, case.expected, case.checked)
    if not error <= layers.TOLERANCE:
        raise ValueError(f"wrong answer: relative error {error:.3g} on sampled tokens")
    return error


def leave_out(name, error):
    log(f"--- {name}\n{traceback.format_exc()}")
    lines = str(error).strip().splitlines() or [""]
    what = "not installed" if isinstance(error, ImportError) else type(error).__name__
    answer(left_out={"name": name, "why": f"{what}: {lines[0][:200]}"})
    wait()  # an illegal access breaks the process for good; the caller starts another


def try_layer(case, name, function, capture):
    """One peer, eager and, where it can be captured, in a graph: [(name, error, ms, calls)]."""
    calls = [lambda x=x: function(x, case.weights[0]) for x in case.inputs]
    found = []
    try:
        found.append((f"{name}, eager", right(case, calls[0]()), quick(calls), calls))
    except Exception as error:
        leave_out(f"{name}, eager", error)
        return found
    if not capture or DEVICE == "cpu":
        return found
    try:
        replays, output = captured(calls)
        output.zero_()  # what the check reads must be the replay's
        replays[0]()
        wait()
        found.append((f"{name}, graph", right(case, output), quick(replays), replays))
    except Exception as error:
        leave_out(f"{name}, graph", error)
    return found


def contend(bench, peers, keep):
    """Those that are right; the fastest stay for the turns."""
    case, found = bench.case, []
    for peer in peers:
        answer(begin=peer)
        try:
            for name, function, capture in layers.BUILDERS[peer](case):
                found += [(*one, peer) for one in try_layer(case, name, function, capture)]
        except Exception as error:
            leave_out(peer, error)
    found.sort(key=lambda one: one[2])
    bench.kept = {name: calls for name, _, _, calls, _ in found[:keep]}
    for i, (name, error, ms, _, peer) in enumerate(found):
        answer(result={"name": name, "of": peer, "error": error, "quick": ms, "stays": i < keep})
    del found
    forget()


def ceilings():
    """TFLOP/s of torch.matmul, 8192 cubed in bf16, and TB/s of a large copy."""
    side, words = (8192, 1 << 30) if DEVICE != "cpu" else (256, 1 << 20)
    a, b = (torch.randn(side, side, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    source = torch.empty(words, device=DEVICE, dtype=torch.float32).normal_()
    target = torch.empty_like(source)
    out = torch.empty_like(a)
    rates = []
    for call, work in ((lambda: torch.matmul(a, b, out=out), 2 * side**3),
                       (lambda: target.copy_(source), 2 * source.nbytes)):
        time_calls([call], 10)
        rates.append(work / floors.median(time_calls([call], 50)) * 1e-9)
    return {"tflops": rates[0], "tbytes": rates[1]}


def versions():
    found = [f"PyTorch {torch.__version__}"]
    for name in ("triton", "transformers"):
        try:
            found.append(f"{name} {__import__(name).__version__}")
        except Exception:
            found.append(f"no {name}")
    for name in ("vllm", "sglang", "lmdeploy", "sonic-moe"):
        if (there := packages.version(name, PACKAGES)) != "?":
            found.append(f"{name} {there}")
    return ", ".join(found)


# ---- the requests ----


def serve(bench, request):
    if "shape" in request:
        bench.use_shape(floors.SHAPES[request["shape"]])
    elif "give" in request:
        bench.give(request["give"], request["first"], request["count"])
    elif "tokens" in request:
        answer(case=bench.use_tokens(request["tokens"]))
    elif "check" in request:
        answer(checked=bench.check())
    elif "contend" in request:
        contend(bench, request["contend"], request["keep"])
    elif "turn" in request:
        answer(ms=TURNS[request["what"]](bench.kept[request["turn"]], request))
    elif "ceilings" in request:
        answer(ceilings=ceilings())
        forget()
    answer(done=True)


def map_window(path):
    """As a tensor that copies soon: page-locked, where that can be had."""
    if not path:
        return torch.empty(0, dtype=torch.bfloat16)
    with open(path, "rb") as file:
        size = file.seek(0, 2)
    window = torch.from_file(path, shared=True, size=size // 2, dtype=torch.bfloat16)
    if DEVICE != "cpu":
        torch.cuda.cudart().cudaHostRegister(window.data_ptr(), size, 0)
    return window


def main():
    global DEVICE, PACKAGES
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--window")
    parser.add_argument("--packages")
    options = parser.parse_args()
    DEVICE, PACKAGES = options.device, options.packages
    torch.set_grad_enabled(False)
    if DEVICE != "cpu" and not torch.cuda.is_available():
        answer(ready=False, why="PyTorch sees no CUDA device")
        return
    bench = Bench(map_window(options.window))
    device = "a processor" if DEVICE == "cpu" else torch.cuda.get_device_name()
    answer(ready=True, device=device, versions=versions())
    for line in sys.stdin:
        serve(bench, json.loads(line))


if __name__ == "__main__":
    main()
