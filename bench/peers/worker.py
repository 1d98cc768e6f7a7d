# SPDX-License-Identifier: MIT
"""Times the peers in a process of its own, which may die without the comparison.

Reads one request a line on standard input and answers with lines of JSON:
{"result": ...}, {"left_out": ...}, {"ceilings": ...}, {"ready": ...}, at last
{"done": true}. What libraries print goes to standard error, the caller's log.
"""

import gc
import json
import sys
import traceback
from types import SimpleNamespace

sys.dont_write_bytecode = True

from answers import answer  # noqa: E402, before what prints

import torch  # noqa: E402

import floors  # noqa: E402
import layers  # noqa: E402

DEVICE = "cuda"
SETS = 3  # inputs taken in turn, as moectl does
# Below this many bytes read, copies of the weights are taken in turn too, so that
# no call finds in a cache of some 50 MB what another left there.
COLD_BYTES = 300e6
SHORT_MS, SHORT_CALLS = 40, (10, 50)
SUSTAINED_CALLS = (10, 5000)


def log(text):
    print(text, file=sys.stderr, flush=True)


def time_calls(calls, count):
    """Milliseconds of `count` calls taken in turn, by device events, unwaited."""
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
              for _ in range(count)]
    torch.cuda.synchronize()
    for i, (start, end) in enumerate(events):
        start.record()
        calls[i % len(calls)]()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in events]


def calls_in(milliseconds, each, limits):
    return int(min(max(milliseconds / max(each, 1e-4), limits[0]), limits[1]))


def timer(call):
    """A quick median, for choosing between a few."""
    time_calls([call], 2)
    return floors.median(time_calls([call], 7))


def measure(calls, seconds, worth):
    """Short and sustained times; sustained only where the short one is worth it."""
    each = floors.median(time_calls(calls, 2 * len(calls))[len(calls):])
    short = time_calls(calls, calls_in(SHORT_MS, each, SHORT_CALLS))
    result = floors.summarize(short)
    if seconds > 0 and worth(result["ms"]):
        count = calls_in(seconds * 1000, result["ms"], SUSTAINED_CALLS)
        # The second half, when clocks and heat have settled.
        result["sustained_ms"] = floors.median(time_calls(calls, count)[count // 2:])
    return result


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


class Bench:
    """The weights of one shape, kept from point to point."""

    def __init__(self):
        self.shape, self.weights = None, []

    def provide_weights(self, shape, tokens):
        active = floors.expected_active(shape, tokens) / shape.experts
        small = active * floors.weight_bytes(shape) < COLD_BYTES
        copies = SETS if small and floors.weight_bytes(shape) < 4e9 else 1
        if self.shape != shape:
            self.shape, self.weights = shape, []
            gc.collect()
            torch.cuda.empty_cache()
        for seed in range(len(self.weights), copies):
            self.weights.append(layers.draw_weights(shape, DEVICE, torch.bfloat16, seed))
        return self.weights[:copies]

    def case(self, shape, tokens):
        weights = self.provide_weights(shape, tokens)
        inputs = layers.draw_inputs(shape, tokens, weights[0][0], SETS, 42)
        chosen = layers.sample_tokens(inputs[0], weights[0][0], shape.top_k)
        return SimpleNamespace(
            shape=shape, tokens=tokens, device=DEVICE, weights=weights, inputs=inputs,
            checked=chosen, timer=timer, log=log, best=float("inf"),
            expected=layers.reference(inputs[0], weights[0], shape.top_k, chosen))


def right(case, out):
    """The error of an answer; ValueError when it is wrong."""
    error = layers.error_of(out, case.expected, case.checked)
    if not error <= layers.TOLERANCE:
        raise ValueError(f"wrong answer: relative error {error:.3g} on sampled tokens")
    return error


def time_mode(case, name, calls, error, seconds):
    """The sustained time is for peers that may be the best: half as slow again at most."""
    result = measure(calls, seconds, lambda ms: ms <= 1.5 * case.best)
    case.best = min(case.best, result["ms"])
    answer(result={"name": name, "error": error, **result})


def leave_out(name, error):
    log(f"--- {name}\n{traceback.format_exc()}")
    lines = str(error).strip().splitlines() or [""]
    what = "not installed" if isinstance(error, ImportError) else type(error).__name__
    answer(left_out={"name": name, "why": f"{what}: {lines[0][:200]}"})
    # An illegal access breaks the process for good; the caller starts another.
    torch.cuda.synchronize()


def run_layer(case, name, function, capture, seconds):
    """One peer, eager and, where it can be captured, in a graph."""
    turns = [(case.inputs[i], case.weights[i % len(case.weights)]) for i in range(SETS)]
    calls = [lambda x=x, weights=weights: function(x, weights) for x, weights in turns]
    try:
        time_mode(case, f"{name}, eager", calls, right(case, calls[0]()), seconds)
    except Exception as error:
        leave_out(f"{name}, eager", error)
        return
    if not capture:
        return
    try:
        replays, output = captured(calls)
        output.zero_()  # what the check reads must be the replay's
        replays[0]()
        torch.cuda.synchronize()
        time_mode(case, f"{name}, graph", replays, right(case, output), seconds)
    except Exception as error:
        leave_out(f"{name}, graph", error)


def run_point(bench, request):
    shape = floors.SHAPES[request["shape"]]
    case = bench.case(shape, request["tokens"])
    for peer in request["peers"]:
        answer(begin=peer)
        try:
            for name, function, capture in layers.BUILDERS[peer](case):
                run_layer(case, name, function, capture, request["seconds"])
        except Exception as error:
            leave_out(peer, error)
        torch.cuda.empty_cache()
    # The next point of ours should find the memory free.
    del case
    gc.collect()
    torch.cuda.empty_cache()


def ceilings():
    """TFLOP/s of torch.matmul, 8192 cubed in bf16, and TB/s of a large copy."""
    a, b = (torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    source = torch.empty(1 << 30, device=DEVICE, dtype=torch.float32).normal_()
    target = torch.empty_like(source)
    out = torch.empty_like(a)
    rates = []
    for call, work in ((lambda: torch.matmul(a, b, out=out), 2 * 8192**3),
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
    return ", ".join(found)


def main():
    torch.set_grad_enabled(False)
    if not torch.cuda.is_available():
        answer(ready=False, why="PyTorch sees no CUDA device")
        return
    answer(ready=True, device=torch.cuda.get_device_name(), versions=versions())
    bench = Bench()
    for line in sys.stdin:
        request = json.loads(line)
        if request.get("ceilings"):
            answer(ceilings=ceilings())
            gc.collect()
            torch.cuda.empty_cache()
        else:
            run_point(bench, request)
        answer(done=True)


if __name__ == "__main__":
    main()
