# SPDX-License-Identifier: MIT
"""Times one GPU peer's whole layer of quantized (or bf16) experts, round by round, for formats.py.

    torch_formats.py --shape H:I:E:K --peer NAME

It is spoken to as layer_times is: "tokens T" and "run SECONDS" on standard input, lines of JSON on
standard output. Each answer is compared with double precision on the weights as they are stored;
where activations are quantized as well, its tolerance is wider. A layer runs eagerly or in CUDA
graphs, whichever is faster. Inputs are taken in turn, as many as layer_times has.
"""

import argparse
import statistics
import sys
import time
from types import SimpleNamespace

sys.dont_write_bytecode = True

import worker  # noqa: E402  (first: it keeps standard output for answers)

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

import floors  # noqa: E402
import layers  # noqa: E402

FP8_TOLERANCE = 0.08  # activations with three bits of fraction, twice
MOST_INPUTS = 16


# ---- the peers: (weights as they keep them, builders of a layer) ----


def keep(weights):
    return weights


def to_int4(weights):
    import triton_quantized as q
    return weights[0], q.quantize_int4(weights[1], 2), q.quantize_int4(weights[2], 1)


def to_fp8_blocks(weights):
    import triton_quantized as q
    return weights[0], q.quantize_fp8(weights[1], 2), q.quantize_fp8(weights[2], 1)


class RowMatrices:
    """E4M3 [E, rows, columns] with an fp32 scale a row."""

    def __init__(self, matrices):
        self.shape = tuple(matrices.shape)
        self.codes = torch.empty_like(matrices, dtype=torch.float8_e4m3fn)
        self.scales = torch.empty(matrices.shape[:2], device=matrices.device)
        for e, matrix in enumerate(matrices):
            self.scales[e] = (matrix.float().abs().amax(-1) / 448).clamp(min=1e-12)
            self.codes[e] = (matrix.float() / self.scales[e][:, None]).to(torch.float8_e4m3fn)

    def __getitem__(self, e):
        return self.codes[e].double() * self.scales[e][:, None].double()


def to_fp8_rows(weights):
    return weights[0], RowMatrices(weights[1]), RowMatrices(weights[2])


def build_triton(case):
    """Weights of 4 bits, or of 8 with activations of 8, in triton_quantized's kernels."""
    import triton_quantized as q
    tiles = q.tune(case.inputs[0], case.weights, case.top_k, worker.timer, worker.log)
    yield lambda x: q.layer(x, case.weights, case.top_k, tiles)


def build_scaled_grouped_mm(case):
    """PyTorch's grouped product of fp8 rows; rows are quantized by triton_quantized's kernel."""
    import triton_quantized as q
    if not hasattr(torch, "_scaled_grouped_mm"):
        raise layers.Unsuitable("this PyTorch has no scaled_grouped_mm")

    def product(rows, matrices, ends):
        codes, scales = q.quantize(rows.contiguous(), 0)
        return torch._scaled_grouped_mm(codes, matrices.codes.transpose(1, 2), scales[:, 0],
                                        matrices.scales, offs=ends, out_dtype=torch.bfloat16,
                                        use_fast_accum=True)

    class Transposed:
        """sorted_layer() turns matrices round; product() does that by itself."""

        def __init__(self, matrices):
            self.matrices = matrices

        def transpose(self, *_):
            return self.matrices
    router, gate_up, down = case.weights
    turned = (router, Transposed(gate_up), Transposed(down))
    yield lambda x: layers.sorted_layer(x, turned, case.top_k, product, layers.combine_ordered)


def build_vllm_fp8(case):
    """vLLM's fused experts on the same blocks, behind its own top-k."""
    from vllm.model_executor.layers.fused_moe import fused_experts, fused_topk
    from vllm.model_executor.layers.fused_moe.config import fp8_w8a8_moe_quant_config
    router, gate_up, down = case.weights
    if gate_up.rows // 2 % 128 or gate_up.columns % 128:
        raise layers.Unsuitable("its blocks of 128 do not fit these sizes")
    config = fp8_w8a8_moe_quant_config(w1_scale=gate_up.scales, w2_scale=down.scales,
                                       block_shape=[128, 128])

    def call(x):
        share, ids = fused_topk(x, F.linear(x, router), case.top_k, renormalize=True)[:2]
        return fused_experts(x, gate_up.codes, down.codes, share, ids, quant_config=config)
    yield call


def build_deepgemm(case):
    import deep_gemm  # noqa: F401
    raise layers.Unsuitable("DeepGEMM is installed, but has to be built for this GPU by hand")
    yield


def build_plain(name):
    """The bf16 peers of nvidia.py."""
    def build(case):
        plain = SimpleNamespace(shape=case.shape, device="cuda", inputs=case.inputs, timer=worker.timer,
                                weights=[case.weights], log=worker.log)
        for _, function, _ in layers.BUILDERS[name](plain):
            yield lambda x, function=function: function(x, case.weights)
    return build


PEERS = {  # name: (weights, builder, tolerance)
    "triton_bf16": (keep, build_plain("triton"), layers.TOLERANCE),
    "grouped_mm_bf16": (keep, build_plain("grouped_mm"), layers.TOLERANCE),
    "triton_int4": (to_int4, build_triton, layers.TOLERANCE),
    "triton_fp8": (to_fp8_blocks, build_triton, FP8_TOLERANCE),
    "scaled_grouped_mm": (to_fp8_rows, build_scaled_grouped_mm, FP8_TOLERANCE),
    "vllm_fp8": (to_fp8_blocks, build_vllm_fp8, FP8_TOLERANCE),
    "deepgemm": (to_fp8_blocks, build_deepgemm, FP8_TOLERANCE),
}


# ---- one point ----


class Peer:
    def __init__(self, shape, name):
        self.top_k, self.experts = shape.top_k, shape.experts
        kept, self.build, self.tolerance = PEERS[name]
        drawn = layers.draw_weights(shape, worker.DEVICE, torch.bfloat16, 0)
        self.weights = kept(drawn)
        del drawn
        torch.cuda.empty_cache()
        self.shape, self.calls, self.mode = shape, [], None

    def begin(self, tokens):
        """Builds the layer, keeps what is right and fastest, eager or captured: the error."""
        count = max(1, min(MOST_INPUTS, 2 * self.experts // (tokens * self.top_k)))
        self.inputs = layers.draw_inputs(self.shape, tokens, self.weights[0], count, 42)
        chosen = layers.sample_tokens(self.inputs[0], self.weights[0], self.top_k)
        expected = layers.reference(self.inputs[0], self.weights, self.top_k, chosen)
        found, why = [], ValueError("nothing ran")
        for function in self.build(self):
            for mode in ("eager", "graph"):
                try:
                    found.append(self.try_mode(function, mode, expected, chosen))
                except Exception as error:
                    why = error
                    worker.log(f"{mode}: {type(error).__name__}: {error}")
                    torch.cuda.synchronize()  # a broken process ends here
        if not found:
            raise why
        _, self.mode, self.calls, error = min(found, key=lambda one: one[0])
        return error

    def try_mode(self, function, mode, expected, chosen):
        calls = [lambda x=x: function(x) for x in self.inputs]
        out = calls[0]()
        if mode == "graph":
            calls, out = worker.captured(calls)
            out.zero_()  # what the check reads must be the replay's
            calls[0]()
            torch.cuda.synchronize()
        error = layers.error_of(out, expected, chosen)
        if not error <= self.tolerance:
            raise ValueError(f"wrong answer: relative error {error:.3g} on sampled tokens")
        each = floors.median(worker.time_calls(calls, 2 * len(calls))[len(calls):])
        return each, mode, calls, error

    def run(self, seconds):
        """(device milliseconds of a call, by the clock of calls back to back, samples)."""
        each = floors.median(worker.time_calls(self.calls, 5))
        count = worker.calls_in(500 * seconds, each, (5, 2000))
        device = statistics.median(worker.time_calls(self.calls, count))
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for i in range(count):
            self.calls[i % len(self.calls)]()
        torch.cuda.synchronize()
        return device, 1e3 * (time.perf_counter() - begun) / count, count


def serve(peer):
    for line in sys.stdin:
        word, number, *_ = line.split()
        if word == "tokens":
            try:
                error = peer.begin(int(number))
            except Exception as failure:
                lines = str(failure).strip().splitlines() or [""]
                worker.answer(error=f"{type(failure).__name__}: {lines[0][:200]}")
                continue
            worker.answer(tokens=int(number), error=error, tolerance=peer.tolerance, mode=peer.mode)
        else:
            device, wall, samples = peer.run(float(number))
            worker.answer(layer=device, wall=wall, samples=samples)


def missing(name):
    """Why the peer can't run here at all."""
    if not torch.cuda.is_available():
        return "PyTorch sees no CUDA device"
    modules = {"triton_bf16": "triton", "triton_int4": "triton", "triton_fp8": "triton",
               "scaled_grouped_mm": "triton", "vllm_fp8": "vllm", "deepgemm": "deep_gemm"}
    if name in modules:
        try:
            __import__(modules[name])
        except Exception as error:
            return f"not installed: {error}"
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", required=True)
    parser.add_argument("--peer", required=True, choices=PEERS)
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    why = missing(options.peer)
    if why:
        worker.answer(unsuitable=why)
        return
    sizes = [int(size) for size in options.shape.split(":")]
    peer = Peer(floors.Shape("", "", "", (), *sizes), options.peer)
    worker.answer(device=f"{torch.cuda.get_device_name()}, {worker.versions()}")
    serve(peer)


if __name__ == "__main__":
    main()
