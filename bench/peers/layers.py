# SPDX-License-Identifier: MIT
"""The peers: whole MoE layers in PyTorch, transformers, Triton, and others' packages.

Each is a function of (x [T, H], weights, top_k) for weights = (router [E, H],
gate_up [E, 2I, H] with the gate's rows first, down [E, H, I]), as moecl has them.
What a peer needs is imported when it is built. A builder yields (name, layer,
whether a CUDA graph can hold it).
"""

import importlib
import math

import torch
import torch.nn.functional as F


class Unsuitable(Exception):
    """A peer that can't run this case, with the reason."""


def draw_weights(shape, device, dtype, seed):
    """Random normal, scaled so that logits and activations stay of order one."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(scale, *size):
        tensor = torch.empty(*size, device=device, dtype=dtype)
        for item in tensor:  # one expert at a time: a draw needs no second copy
            item.normal_(0, scale, generator=generator)
        return tensor

    wide, narrow = 1 / math.sqrt(shape.hidden), 1 / math.sqrt(shape.intermediate)
    return (normal(wide, shape.experts, shape.hidden),
            normal(wide, shape.experts, 2 * shape.intermediate, shape.hidden),
            normal(narrow, shape.experts, shape.hidden, shape.intermediate))


def interleaved(gate_up):
    """Rows of gate and up in turn."""
    gate, up = gate_up.chunk(2, 1)
    return torch.stack((gate, up), 2).flatten(1, 2)


def route(x, router, top_k):
    logits = F.linear(x, router)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    share, ids = torch.topk(logits.softmax(-1), top_k, dim=-1)
    return ids, share / share.sum(-1, keepdim=True)


def grouped_mm(a, b, ends):
    """a's rows, sorted by expert, times b [E, K, N]; expert e's rows end at ends[e]."""
    if hasattr(F, "grouped_mm"):
        return F.grouped_mm(a, b, offs=ends)
    if hasattr(torch, "_grouped_mm"):
        return torch._grouped_mm(a, b, offs=ends)
    return grouped_loop(a, b, ends)


def grouped_loop(a, b, ends):
    """The same with one product an expert; waits for the counts."""
    starts = [0] + ends.tolist()
    return torch.cat([a[s:e] @ b[i] for i, (s, e) in enumerate(zip(starts, starts[1:]))])


def sorted_layer(x, weights, top_k, gemm, combine):
    router, gate_up, down = weights
    ids, share = route(x, router, top_k)
    # Not bincount, which waits for the device; ends[e] = how many ids are <= e.
    by_expert, order = torch.sort(ids.flatten())
    experts = torch.arange(router.shape[0], device=x.device)
    ends = torch.searchsorted(by_expert, experts, right=True, out_int32=True)
    token = torch.div(order, top_k, rounding_mode="floor")
    gate, up = gemm(x.index_select(0, token), gate_up.transpose(1, 2), ends).chunk(2, -1)
    y = gemm(F.silu(gate) * up, down.transpose(1, 2), ends)
    return combine(y, share, order, token, x)


def combine_index_add(y, share, order, token, x):
    scaled = y * share.flatten()[order].to(y.dtype)[:, None]
    return torch.zeros_like(x).index_add_(0, token, scaled)


def combine_ordered(y, share, order, token, x):
    """Back into token order, then one small product a token: no atomics."""
    restored = torch.empty_like(y).index_copy_(0, order, y)
    tokens, top_k = share.shape
    return torch.bmm(share.to(y.dtype)[:, None], restored.view(tokens, top_k, -1))[:, 0]


def reference(x, weights, top_k, tokens):
    """The layer for some tokens in double precision, a plain loop over experts."""
    router, gate_up, down = weights
    rows = x[tokens].double()
    ids, share = route(rows, router.double(), top_k)
    out = torch.zeros_like(rows)
    for expert in ids.unique().tolist():
        token, slot = torch.where(ids == expert)
        gate, up = (rows[token] @ gate_up[expert].double().t()).chunk(2, -1)
        y = (F.silu(gate) * up) @ down[expert].double().t()
        out.index_add_(0, token, y * share[token, slot][:, None].to(y.dtype))
    return out


def routing_gap(x, router, top_k):
    """By token: how far the last chosen logit is above the first that isn't."""
    logits = (x.float() @ router.float().t()).sort(-1, descending=True).values
    if logits.shape[1] == top_k:
        return torch.full((len(x),), math.inf, device=x.device)
    return logits[:, top_k - 1] - logits[:, top_k]


def sample_tokens(x, router, top_k):
    """Up to 8 tokens to check, from the whole batch: those whose experts are least
    in doubt, since bf16 logits may choose others where two are nearly equal."""
    spread = torch.linspace(0, len(x) - 1, min(len(x), 512), device=x.device).long()
    gaps = routing_gap(x[spread], router, top_k).topk(min(8, max(1, len(x) // 4)))
    keep = gaps.values > 0.03
    keep[0] = True
    return spread[gaps.indices[keep]]


def draw_inputs(shape, tokens, router, sets, seed):
    """Inputs of the sets; the first has a token whose experts are not in doubt."""
    generator = torch.Generator(router.device).manual_seed(seed)
    inputs = []
    for index in range(sets):
        for attempt in range(50):
            x = torch.empty(tokens, shape.hidden, device=router.device, dtype=router.dtype)
            x.normal_(0, 1, generator=generator)
            if index or routing_gap(x[:512], router, shape.top_k).max() > 0.06:
                break
        inputs.append(x)
    return inputs


def error_of(out, expected, tokens):
    """The worst token's error, relative to that token's norm; infinite for NaN."""
    difference = (out[tokens].double() - expected).norm(dim=-1) / expected.norm(dim=-1)
    worst = difference.max().item()
    return worst if math.isfinite(worst) else math.inf


# bf16 logits, activations and sums each cost a part in 256; a wrong expert costs all.
TOLERANCE = 0.03


def build_grouped_mm(case):
    if case.device == "cuda" and not (hasattr(F, "grouped_mm") or hasattr(torch, "_grouped_mm")):
        raise Unsuitable("this PyTorch has no grouped_mm")
    for name, combine in (("index_add", combine_index_add), ("ordered sum", combine_ordered)):
        yield (f"grouped_mm, {name}",
               lambda x, weights, combine=combine:
               sorted_layer(x, weights, case.shape.top_k, grouped_mm, combine), True)


def mixtral_block(shape, weights, implementation):
    """transformers' Mixtral block around these weights, no copy made."""
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
    config = MixtralConfig(hidden_size=shape.hidden, intermediate_size=shape.intermediate,
                           num_local_experts=shape.experts, num_experts_per_tok=shape.top_k)
    config._experts_implementation = implementation
    with torch.device("meta"):
        block = MixtralSparseMoeBlock(config).eval()
    if not hasattr(block.experts, "gate_up_proj"):
        raise Unsuitable("this transformers keeps a module an expert")
    for module, name, tensor in ((block.gate, "weight", weights[0]),
                                 (block.experts, "gate_up_proj", weights[1]),
                                 (block.experts, "down_proj", weights[2])):
        if getattr(module, name).shape != tensor.shape:
            raise Unsuitable(f"this transformers' {name} is {tuple(getattr(module, name).shape)}")
        setattr(module, name, torch.nn.Parameter(tensor, requires_grad=False))
    return block


def build_transformers(case):
    """Every implementation of the experts that suits the case."""
    shape = case.shape
    for implementation in ("grouped_mm", "batched_mm", "eager"):
        copied = case.tokens * shape.top_k * 3 * shape.hidden * shape.intermediate * 2
        if implementation == "batched_mm" and copied > 8 << 30:
            continue  # it copies an expert's weights for every assignment
        blocks = {id(w): mixtral_block(shape, w, implementation) for w in case.weights}

        def call(x, weights, blocks=blocks):
            out = blocks[id(weights)](x[None])
            return (out[0] if isinstance(out, tuple) else out)[0]
        yield f"transformers {implementation}", call, implementation != "eager"


def build_triton(case):
    import triton_moe
    x, weights, top_k = case.inputs[0], case.weights[0], case.shape.top_k
    hopper = case.device == "cuda" and torch.cuda.get_device_capability()[0] >= 9
    tiles = triton_moe.tune(x, weights, top_k, case.timer, hopper, case.log)
    yield "Triton", lambda x, weights: triton_moe.layer(x, weights, top_k, tiles), True


def build_vllm(case):
    """vLLM's fused experts behind its own top-k; where it can't be imported as a whole, its kernels."""
    try:
        from vllm.model_executor.layers.fused_moe import fused_experts, fused_topk
    except ImportError as error:
        case.log(f"vLLM as a whole: {error}")
        yield from build_package("fused_vllm")(case)
        return
    top_k = case.shape.top_k

    def call(x, weights):
        router, gate_up, down = weights
        share, ids = fused_topk(x, F.linear(x, router), top_k, renormalize=True)[:2]
        return fused_experts(x, gate_up, down, share, ids)
    yield "vLLM", call, True


def build_package(name):
    """The peer of a file of its own, imported when it is built."""
    return lambda case: importlib.import_module(name).build(case)


BUILDERS = {"grouped_mm": build_grouped_mm, "transformers": build_transformers,
            "triton": build_triton, "vllm": build_vllm}
BUILDERS.update({name: build_package(f"fused_{name}") for name in ("sglang", "lmdeploy", "sonicmoe")})
