# SPDX-License-Identifier: MIT
"""Times a PyTorch peer on the points of an experiment, in a process of its own, for run.py.

Reads one request of JSON on standard input and answers with lines of JSON: {"missing"} or
{"about"}, then by point {"unsuitable"}, {"error"}, {"check"} and {"round"}. What libraries print
goes to standard error.
"""

import gc
import json
import os
import sys
import time

sys.dont_write_bytecode = True

from answers import answer  # noqa: E402, before what prints


try:
    import torch
except ImportError as error:
    answer(missing=f"PyTorch is not installed ({error}); --python names a Python that has it")
    sys.exit(0)

import layers  # noqa: E402
import record  # noqa: E402
import torch_layer  # noqa: E402

SETS = 3  # inputs taken in turn, as moectl does


# --- who ---------------------------------------------------------------------------------

def cpu_name():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return "a processor"


def describe(device):
    """The members of results.json's device that PyTorch knows."""
    if device.type == "cpu":
        capability = torch.backends.cpu.get_cpu_capability()
        return {"type": "cpu", "name": cpu_name(), "platform": f"PyTorch {torch.__version__}",
                "driver": f"{torch.get_num_threads()} threads, {capability}",
                "compute_units": torch.get_num_threads(),
                "global_memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")}
    found = torch.cuda.get_device_properties(device)
    return {"type": "gpu", "name": found.name, "platform": f"PyTorch {torch.__version__}",
            "driver": f"CUDA {torch.version.cuda}" if torch.version.cuda else f"HIP {torch.version.hip}",
            "compute_units": found.multi_processor_count,
            "global_memory_bytes": found.total_memory}


def system_of(name):
    version = torch.__version__
    if name.startswith("transformers"):
        import transformers
        version = f"{transformers.__version__}, PyTorch {version}"
    return {"name": name if name.startswith("transformers") else f"PyTorch {name}",
            "version": version, "commit": (torch.version.git_version or "not recorded")[:12]}


# --- times ---------------------------------------------------------------------------------

def time_calls(calls, count, device):
    """Milliseconds of `count` calls taken in turn, and of enqueueing each: on a CPU by the clock,
    on a GPU by device events, unwaited."""
    if device.type == "cpu":
        samples = []
        for i in range(count):
            begun = time.perf_counter()
            calls[i % len(calls)]()
            samples.append(1e3 * (time.perf_counter() - begun))
        return samples, None
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
    host = []
    torch.cuda.synchronize(device)
    for i, (start, end) in enumerate(events):
        begun = time.perf_counter()
        start.record()
        calls[i % len(calls)]()
        end.record()
        host.append(1e3 * (time.perf_counter() - begun))
    torch.cuda.synchronize(device)
    return [start.elapsed_time(end) for start, end in events], host


def captured(call):
    """A call as a CUDA graph: (replay, output)."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = call()
    return graph.replay, output


class Graphs:
    """A peer in CUDA graphs, one an input."""

    def __init__(self, peer, inputs):
        self.calls, outputs = zip(*(captured(lambda x=x: peer(x)) for x in inputs))
        self.output = outputs[0]

    def check_call(self, x, noise):
        """The first graph's answer, which an earlier one must not have left there."""
        self.output.zero_()
        self.calls[0]()
        torch.cuda.synchronize()
        return self.output


# --- points -----------------------------------------------------------------------------------

class Bench:
    def __init__(self, request):
        self.name = request["peer"].removesuffix("_graph")
        self.graph = request["peer"].endswith("_graph")
        self.defaults, self.measure = request["defaults"], request["measure"]
        self.points = request["points"]
        self.device = torch.device(request["device"])
        self.of, self.weights = None, None

    def provide_weights(self, params):
        """Those of the point before, where they are the same."""
        of = {**torch_layer.shapes_of(params), "dtype": params["dtype"], "seed": params["seed"]}
        if self.of != of:
            self.of, self.weights = of, None
            gc.collect()
            self.weights = torch_layer.draw_weights(params, self.device)
        return self.weights

    def make(self, params):
        """(the inputs, the peer, its variants)."""
        why = torch_layer.unsuitable(params, self.defaults)
        if why:
            raise layers.Unsuitable(why)
        weights = self.provide_weights(params)
        peer, variants = torch_layer.build(self.name, params, self.defaults, weights)
        return torch_layer.draw_inputs(params, self.device, SETS), peer, variants

    def calls_of(self, params, inputs, peer):
        """(calls, what the check calls)."""
        if not self.graph:
            return [lambda x=x: peer(x) for x in inputs], None
        if params["jitter"]:
            raise layers.Unsuitable("a graph's jitter can't be checked")
        graphs = Graphs(peer, inputs)
        return graphs.calls, graphs.check_call

    def run(self, index, number, planned):
        """One round of a point; how many rounds it has in all, 0: no more of it."""
        params, begun = self.points[index], time.perf_counter()
        inputs, peer, variants = self.make(params)
        calls, check_call = self.calls_of(params, inputs, peer)
        if number == 0:
            verify, why, counts = torch_layer.check(peer, inputs[0], self.weights, params, check_call)
            answer(point=index, check={"verify": verify, "why": why, "counts": counts,
                                       "variants": variants})
            if not verify["ok"]:
                return 0
        load = os.getloadavg()[0]
        time_calls(calls, self.measure["warmup"], self.device)
        planned = planned or record.rounds_planned(self.measure, len(self.points),
                                                   time.perf_counter() - begun)
        share = record.shares(self.measure["iterations"], planned)[number]
        samples, host = time_calls(calls, share, self.device)
        answer(point=index, round={
            "planned": planned, "iterations": share, "load_average": load,
            "stages": {"layer": record.summarize(samples)},
            "host_ms": record.summarize(host)["median"] if host else None})
        return planned

    def try_run(self, index, number, planned):
        try:
            return self.run(index, number, planned)
        except layers.Unsuitable as error:
            answer(point=index, unsuitable=str(error))
        except Exception as error:  # out of memory, what a kernel does not take
            lines = str(error).strip().splitlines() or [""]
            answer(point=index, error=f"{type(error).__name__}: {lines[0][:300]}")
            if self.device.type == "cuda":
                torch.cuda.synchronize()  # a broken process ends here
        return 0

    def run_all(self):
        """All points in turn, then again, as moectl does."""
        planned, number = [None] * len(self.points), 0
        while any(p is None or number < p for p in planned):
            for index, rounds in enumerate(planned):
                if rounds is None or number < rounds:
                    planned[index] = self.try_run(index, number, rounds)
            number += 1


def missing(request):
    """Why the peer can't run here at all."""
    cuda = torch.device(request["device"]).type == "cuda"
    if cuda and not torch.cuda.is_available():
        return "PyTorch sees no CUDA device"
    if request["peer"].endswith("_graph") and not cuda:
        return "CUDA graphs need a CUDA device"
    if request["peer"].startswith("transformers"):
        try:
            import transformers  # noqa: F401
        except ImportError as error:
            return f"transformers is not installed ({error})"
    return None


def main():
    request = json.loads(sys.stdin.readline())
    if request["device"] == "auto":
        request["device"] = "cuda" if torch.cuda.is_available() else "cpu"
    if request["threads"]:
        torch.set_num_threads(request["threads"])
    torch.set_grad_enabled(False)
    torch.backends.cuda.matmul.allow_tf32 = False
    why = missing(request)
    if why:
        answer(missing=why)
        return
    bench = Bench(request)
    answer(about={"system": system_of(request["peer"]), "device": describe(bench.device)})
    bench.run_all()


if __name__ == "__main__":
    main()
