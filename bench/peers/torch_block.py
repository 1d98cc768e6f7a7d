# SPDX-License-Identifier: MIT
"""The transformer block of published models in PyTorch: RMSNorm, projections, rotary embedding,
scaled_dot_product_attention, residuals, and experts through grouped_mm (layers.py)."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import layers


class Model(NamedTuple):
    title: str
    hidden: int
    intermediate: int
    experts: int
    top_k: int
    renormalize: bool
    heads: int
    kv_heads: int
    head_dim: int
    theta: float
    qk_norm: str  # "none", "head", "full"


# As in bench/block/block.c.
MODELS = {
    "mixtral": Model("Mixtral-8x7B", 4096, 14336, 8, 2, True, 32, 8, 128, 1e6, "none"),
    "olmoe": Model("OLMoE-1B-7B", 2048, 1024, 64, 8, False, 16, 16, 128, 1e4, "full"),
    "qwen3": Model("Qwen3-30B-A3B", 2048, 768, 128, 8, True, 32, 4, 128, 1e6, "head"),
    "tiny": Model("tiny", 128, 64, 8, 2, True, 4, 2, 32, 1e4, "none"),
}


def rms_norm(x, weight):
    return F.rms_norm(x, x.shape[-1:], weight, 1e-5)


def turn(x, cosine, sine):
    """As transformers turns pairs: element i and i + D/2."""
    low, high = x.chunk(2, -1)
    return x * cosine + torch.cat((-high, low), -1) * sine


class Block:
    """Weights, and the keys and values of the tokens before; forward(x [T, H])."""

    def __init__(self, model, device, dtype):
        self.model, self.device, self.dtype = model, device, dtype
        generator = torch.Generator(device).manual_seed(7)

        def normal(scale, *size):
            tensor = torch.empty(*size, device=device, dtype=dtype)
            for item in tensor if len(size) > 2 else [tensor]:
                item.normal_(0, scale, generator=generator)
            return tensor

        m = model
        wide, narrow = m.hidden ** -0.5, m.intermediate ** -0.5
        size = m.heads * m.head_dim
        self.norms = normal(1, 2, m.hidden)
        self.qkv = normal(wide, (m.heads + 2 * m.kv_heads) * m.head_dim, m.hidden)
        self.out = normal(size ** -0.5, m.hidden, size)
        self.q_norm = normal(1, size if m.qk_norm == "full" else m.head_dim)
        self.k_norm = normal(1, m.kv_heads * m.head_dim if m.qk_norm == "full" else m.head_dim)
        self.router = normal(wide, m.experts, m.hidden)
        self.gate_up = normal(wide, m.experts, 2 * m.intermediate, m.hidden)
        self.down = normal(narrow, m.experts, m.hidden, m.intermediate)
        self.combine, self.attend = layers.combine_ordered, None

    def provide(self, tokens, context):
        """Tensors of a point: angles, the cache."""
        m = self.model
        self.context = context
        position = torch.arange(context, context + tokens, device=self.device).float()
        pair = torch.arange(0, m.head_dim, 2, device=self.device).float() / m.head_dim
        angle = torch.outer(position, m.theta ** -pair).repeat(1, 2)
        self.cosine, self.sine = angle.cos().to(self.dtype), angle.sin().to(self.dtype)
        size = (1, m.kv_heads, context + tokens, m.head_dim)
        self.keys = torch.randn(size, device=self.device).to(self.dtype)
        self.values = torch.randn(size, device=self.device).to(self.dtype)

    def queries(self, x):
        """Turned queries, keys and values [1, heads, T, D]; the latter two of all tokens."""
        m, tokens = self.model, len(x)
        q, k, v = F.linear(x, self.qkv).split(
            [m.heads * m.head_dim, m.kv_heads * m.head_dim, m.kv_heads * m.head_dim], -1)
        if m.qk_norm == "full":
            q, k = rms_norm(q, self.q_norm), rms_norm(k, self.k_norm)
        q, k, v = (t.view(tokens, -1, m.head_dim) for t in (q, k, v))
        if m.qk_norm == "head":
            q, k = rms_norm(q, self.q_norm), rms_norm(k, self.k_norm)
        q, k, v = (t.transpose(0, 1)[None] for t in (q, k, v))
        q, k = turn(q, self.cosine, self.sine), turn(k, self.cosine, self.sine)
        if self.context == 0:
            return q, k, v
        self.keys[:, :, self.context:] = k
        self.values[:, :, self.context:] = v
        return q, self.keys, self.values

    def experts(self, x):
        m = self.model
        share, ids = torch.topk(F.linear(x, self.router).float().softmax(-1), m.top_k, dim=-1)
        if m.renormalize:
            share = share / share.sum(-1, keepdim=True)
        by_expert, order = torch.sort(ids.flatten())
        numbers = torch.arange(m.experts, device=x.device)
        ends = torch.searchsorted(by_expert, numbers, right=True, out_int32=True)
        token = torch.div(order, m.top_k, rounding_mode="floor")
        gemm = layers.grouped_mm if x.is_cuda else layers.grouped_loop
        gate, up = gemm(x.index_select(0, token), self.gate_up.transpose(1, 2), ends).chunk(2, -1)
        y = gemm(F.silu(gate) * up, self.down.transpose(1, 2), ends)
        return self.combine(y, share, order, token, x)

    def forward(self, x):
        q, k, v = self.queries(rms_norm(x, self.norms[0]))
        attended = self.attend(q, k, v)  # [1, N, T, D]
        x = x + F.linear(attended[0].transpose(0, 1).reshape(len(x), -1), self.out)
        return x + self.experts(rms_norm(x, self.norms[1]))


# ---- attention: every way that PyTorch has ----


def sdpa(q, k, v):
    """One query looks at all keys; more are causal, and there are no keys before them."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1,
                                          enable_gqa=q.shape[1] != k.shape[1])


def packed(q, k, v):
    """The heads of a group as queries of one head: for a single query, which has no mask."""
    group = q.shape[1] // k.shape[1]
    rows = q.view(1, k.shape[1], group, q.shape[3])
    return F.scaled_dot_product_attention(rows, k, v).reshape(q.shape)


def ways(tokens):
    """Names and functions; what a device has no kernel for raises when it is called."""
    for name in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION", "MATH"):
        for shape, function in (("", sdpa), (", packed", packed)):
            if shape and tokens > 1:
                continue

            def attend(q, k, v, backend=getattr(SDPBackend, name), function=function):
                with sdpa_kernel(backend):
                    return function(q, k, v)

            yield name.split("_")[0].lower() + shape, attend


def exact(q, k, v):
    """A few queries' answers in double precision, and which ones."""
    tokens, group = q.shape[2], q.shape[1] // k.shape[1]
    chosen = torch.linspace(0, tokens - 1, min(tokens, 5), device=q.device).long()
    k, v = (t.double().repeat_interleave(group, 1) for t in (k, v))
    logits = q[:, :, chosen].double() @ k.transpose(-1, -2) / math.sqrt(q.shape[3])
    position = chosen + k.shape[2] - tokens
    hidden = torch.arange(k.shape[2], device=q.device)[None] > position[:, None]
    return chosen, logits.masked_fill(hidden, -math.inf).softmax(-1) @ v


def choose_attention(block, x, timer):
    """Sets the fastest way that gives the right answer; returns its name and all times."""
    q, k, v = (t.clone() for t in block.queries(rms_norm(x, block.norms[0])))
    chosen, want = exact(q, k, v)
    times = {}
    best = None
    for name, attend in ways(len(x)):
        try:
            error = (attend(q, k, v)[:, :, chosen].double() - want).norm() / want.norm()
            if not error < 0.02:
                continue
            times[name] = timer(lambda: attend(q, k, v))
        except RuntimeError:
            continue
        if best is None or times[name] < times[best[0]]:
            best = name, attend
    block.attend = best[1]
    return best[0], times
