#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes test/golden/attention.safetensors: norms, rotary embeddings and attention as
PyTorch and transformers compute them.

usage: make_attention_golden.py [OUT]

Needs torch, transformers and safetensors. Norms are torch.nn.functional's, attention is its
scaled_dot_product_attention, with sinks gpt-oss's, all in double precision. Rotary
frequencies are transformers' own, which are fp32; neighbours are turned as complex numbers.
The versions are in the file's metadata. `params` of a case are numbers in the order of
PARAMS.
"""

import pathlib
import sys
import types

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

PARAMS = ["num_heads", "num_kv_heads", "head_dim", "causal", "window", "scale", "sinks", "qk_norm",
          "qk_norm_epsilon", "qk_norm_plus_one", "rotary_dim", "theta", "interleaved", "scaling",
          "factor", "original_positions", "low_freq_factor", "high_freq_factor", "beta_fast",
          "beta_slow", "not_truncated", "attention_factor"]
SCALINGS = ["default", "linear", "llama3", "yarn"]
NONE, HEAD, FULL = 0, 1, 2
ONE_HEAD = dict(num_heads=1, num_kv_heads=1, head_dim=64)

# name, cached tokens, new tokens, what differs from the defaults
CASES = [
    ("plain", 0, 7, {}),
    ("grouped", 3, 5, dict(num_heads=6, num_kv_heads=2, head_dim=10)),
    ("one_query", 40, 1, dict(num_heads=3, num_kv_heads=1)),
    ("window", 9, 8, dict(window=4)),
    ("window_one", 2, 5, dict(window=1)),
    ("everything", 0, 9, dict(causal=0)),
    ("everything_window", 0, 12, dict(causal=0, window=3)),
    ("sinks", 11, 6, dict(num_heads=4, num_kv_heads=2, sinks=1, window=5)),
    ("head_norm", 1, 4, dict(num_kv_heads=1, qk_norm=HEAD, qk_norm_epsilon=1e-6)),
    ("head_norm_plus_one", 0, 3, dict(qk_norm=HEAD, qk_norm_epsilon=1e-6, qk_norm_plus_one=1)),
    ("full_norm", 5, 3, dict(num_heads=4, num_kv_heads=2, qk_norm=FULL, qk_norm_epsilon=1e-5)),
    ("partial", 20, 4, dict(head_dim=16, rotary_dim=4)),
    ("neighbours", 20, 4, dict(interleaved=1)),
    ("linear", 20, 4, dict(scaling=1, factor=4)),
    ("llama3", 9, 2, dict(ONE_HEAD, theta=5e5, scaling=2, factor=8, original_positions=8192,
                          low_freq_factor=1, high_freq_factor=4)),
    ("yarn", 9, 2, dict(ONE_HEAD, scaling=3, factor=40, original_positions=4096, beta_fast=32,
                        beta_slow=1)),
    ("yarn_gpt_oss", 9, 2, dict(ONE_HEAD, theta=150000, scaling=3, factor=32,
                                original_positions=4096, beta_fast=32, beta_slow=1,
                                not_truncated=1)),
]
NORMS = [("rms", 37, 1e-6, False, False), ("rms_plus_one", 16, 1e-6, True, False),
         ("layer", 37, 1e-5, False, True), ("layer_no_bias", 5, 1e-5, False, False)]


def complete(changes):
    p = dict(num_heads=2, num_kv_heads=2, head_dim=8, causal=1, window=0, scale=0, sinks=0,
             qk_norm=NONE, qk_norm_epsilon=0, qk_norm_plus_one=0, rotary_dim=0, theta=10000,
             interleaved=0, scaling=0, factor=1, original_positions=1, low_freq_factor=1,
             high_freq_factor=1, beta_fast=1, beta_slow=1, not_truncated=0, attention_factor=1)
    p.update(changes)
    p["scale"] = p["scale"] or p["head_dim"] ** -0.5
    p["rotary_dim"] = p["rotary_dim"] or p["head_dim"]
    return p


def frequencies(p):
    """transformers' frequencies, and what it multiplies sines and cosines by."""
    if p["scaling"] == 0:
        return 1.0 / p["theta"] ** (torch.arange(0, p["rotary_dim"], 2).double() / p["rotary_dim"])
    rope = {"rope_type": SCALINGS[p["scaling"]], "rope_theta": float(p["theta"]),
            "factor": float(p["factor"]),
            "original_max_position_embeddings": int(p["original_positions"]),
            "low_freq_factor": float(p["low_freq_factor"]),
            "high_freq_factor": float(p["high_freq_factor"]), "beta_fast": float(p["beta_fast"]),
            "beta_slow": float(p["beta_slow"]), "truncate": not p["not_truncated"],
            "partial_rotary_factor": p["rotary_dim"] / p["head_dim"]}
    config = LlamaConfig(hidden_size=p["head_dim"] * p["num_heads"],
                         num_attention_heads=p["num_heads"], head_dim=p["head_dim"],
                         max_position_embeddings=int(p["original_positions"]))
    config.rope_parameters = rope
    frequency, p["attention_factor"] = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, "cpu")
    return frequency.double()


def rotate(p, x, positions, frequency):
    """[tokens, heads, head_dim]"""
    turned, rest = x[..., :p["rotary_dim"]], x[..., p["rotary_dim"]:]
    angle = positions[:, None].double() * frequency
    if p["interleaved"]:
        pairs = torch.view_as_complex(turned.reshape(*turned.shape[:-1], -1, 2))
        turned = torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)[:, None])
        turned = turned.flatten(-2)
    else:
        wide = torch.cat((angle, angle), -1)
        cos, sin = wide.cos() * p["attention_factor"], wide.sin() * p["attention_factor"]
        turned, _ = apply_rotary_pos_emb(turned, turned, cos, sin, unsqueeze_dim=1)
    return torch.cat((turned, rest), -1)


def normalize(p, x, weight):
    if p["qk_norm"] == NONE:
        return x
    weight = weight + 1 if p["qk_norm_plus_one"] else weight
    if p["qk_norm"] == HEAD:
        return F.rms_norm(x, weight.shape, weight, p["qk_norm_epsilon"])
    return F.rms_norm(x.flatten(1), weight.shape, weight, p["qk_norm_epsilon"]).reshape(x.shape)


def attention(p, q, k, v, sinks):
    tokens, keys, group = q.shape[0], k.shape[0], p["num_heads"] // p["num_kv_heads"]
    at = torch.arange(keys - tokens, keys)[:, None]
    key = torch.arange(keys)[None]
    seen = torch.ones(tokens, keys, dtype=torch.bool)
    if p["causal"]:
        seen &= key <= at
    if p["window"]:
        seen &= (at - key).abs() < p["window"]
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    if p["sinks"]:
        mask = torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, -torch.inf)
        module = types.SimpleNamespace(num_key_value_groups=group, sinks=sinks, training=False)
        return eager_attention_forward(module, q, k, v, mask, p["scale"])[0][0]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=p["scale"],
                                         enable_gqa=True)
    return out[0].transpose(0, 1)


def make_case(tensors, random, name, cached, tokens, changes):
    p = complete(changes)
    keys, dim = cached + tokens, p["head_dim"]
    draw = lambda *shape: torch.randn(*shape, generator=random, dtype=torch.float64)
    q, k, v = (draw(keys, heads, dim)
               for heads in (p["num_heads"], p["num_kv_heads"], p["num_kv_heads"]))
    span = [heads * dim if p["qk_norm"] == FULL else dim
            for heads in (p["num_heads"], p["num_kv_heads"])]
    q_weight, k_weight, sinks = draw(span[0]), draw(span[1]), 2 * draw(p["num_heads"])
    frequency, positions = frequencies(p), torch.arange(keys)
    turned_q = rotate(p, normalize(p, q, q_weight), positions, frequency)
    turned_k = rotate(p, normalize(p, k, k_weight), positions, frequency)
    output = attention(p, turned_q[cached:], turned_k, v, sinks)
    made = {"params": torch.tensor([float(p[name]) for name in PARAMS], dtype=torch.float64),
            "frequency": frequency, "q": q, "k": k, "v": v, "q_norm": q_weight, "k_norm": k_weight,
            "sinks": sinks, "turned_q": turned_q, "turned_k": turned_k, "output": output}
    tensors.update({f"{name}.{key}": value.contiguous().clone() for key, value in made.items()})


def make_norm(tensors, random, name, size, epsilon, plus_one, bias):
    x = 3 * torch.randn(4, size, generator=random, dtype=torch.float64) + 1
    weight = torch.randn(size, generator=random, dtype=torch.float64)
    shift = torch.randn(size, generator=random, dtype=torch.float64)
    if name.startswith("rms"):
        y = F.rms_norm(x, (size,), weight + 1 if plus_one else weight, epsilon)
    else:
        y = F.layer_norm(x, (size,), weight, shift if bias else None, epsilon)
    for key, value in {"x": x, "weight": weight, "bias": shift, "y": y}.items():
        tensors[f"norm.{name}.{key}"] = value


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else "test/golden/attention.safetensors"
    random = torch.Generator().manual_seed(20170612)
    tensors = {}
    for norm in NORMS:
        make_norm(tensors, random, *norm)
    for case in CASES:
        make_case(tensors, random, *case)
    save_file(tensors, out, metadata={"torch": torch.__version__,
                                      "transformers": transformers.__version__,
                                      "cases": " ".join(case[0] for case in CASES),
                                      "cached": " ".join(str(case[1]) for case in CASES)})
    print(f"{out}: {pathlib.Path(out).stat().st_size} bytes")


if __name__ == "__main__":
    main()
