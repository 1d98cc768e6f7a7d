#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes test/golden/relative_bias.safetensors: the buckets of T5's relative position bias for all
distances up to twice the largest, and attention with such a bias, both by transformers' own
functions.

usage: make_relative_golden.py [OUT]

Needs torch, transformers and safetensors; the versions are in the file's metadata. Buckets are
computed in fp32, as models were trained with; attention is computed in double.
test/unit/test_relative_bias.c has the same cases.
"""

import pathlib
import sys

import torch
import transformers
from safetensors.torch import save_file
from transformers.models.switch_transformers import modeling_switch_transformers as switch

# buckets, largest distance
SIZES = [(32, 128), (8, 16), (4, 3), (5, 9), (7, 40), (64, 300), (320, 200), (33, 128), (2, 2)]
TOKENS, KEYS, HEADS, HEAD_DIM = 29, 41, 3, 5


def add_buckets(tensors, buckets, most):
    distances = torch.arange(-2 * most, 2 * most + 1)
    for name, bidirectional in (("both", True), ("causal", False)):
        if bidirectional and buckets < 4:
            continue
        tensors[f"{name}.{buckets}.{most}"] = \
            switch.SwitchTransformersAttention._relative_position_bucket(
                distances, bidirectional=bidirectional, num_buckets=buckets,
                max_distance=most).int()


def add_attention(tensors, name, is_decoder, generator):
    """The last tokens of a sequence of KEYS."""
    config = transformers.SwitchTransformersConfig(
        d_model=HEADS * HEAD_DIM, d_kv=HEAD_DIM, num_heads=HEADS, is_decoder=is_decoder,
        relative_attention_num_buckets=8, relative_attention_max_distance=20)
    layer = switch.SwitchTransformersAttention(config, has_relative_attention_bias=True,
                                               layer_idx=0).double()
    table = layer.relative_attention_bias.weight
    table.data = torch.randn(table.shape, generator=generator, dtype=torch.float64)
    q, k, v = (torch.randn(1, HEADS, count, HEAD_DIM, generator=generator, dtype=torch.float64)
               for count in (TOKENS, KEYS, KEYS))
    bias = layer.compute_bias(TOKENS, KEYS, past_seen_tokens=KEYS - TOKENS)
    behind = torch.arange(KEYS)[None] > torch.arange(KEYS - TOKENS, KEYS)[:, None]
    mask = torch.zeros(TOKENS, KEYS).double().masked_fill(behind, -torch.inf)
    output, _ = switch.eager_attention_forward(layer.eval(), q, k, v, mask if is_decoder else None,
                                               scaling=1.0, position_bias=bias)
    parts = {"q": q[0].transpose(0, 1), "k": k[0].transpose(0, 1), "v": v[0].transpose(0, 1),
             "bias": table, "output": output[0]}
    tensors |= {f"{name}.{part}": value.detach().contiguous().clone()
                for part, value in parts.items()}
    return tensors


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else "test/golden/relative_bias.safetensors"
    generator = torch.Generator().manual_seed(20191023)
    tensors = {}
    for buckets, most in SIZES:
        add_buckets(tensors, buckets, most)
    add_attention(tensors, "encoder", False, generator)
    add_attention(tensors, "decoder", True, generator)
    save_file(tensors, out, metadata={"versions": f"torch {torch.__version__}, "
                                                  f"transformers {transformers.__version__}"})
    print(f"{out}: {pathlib.Path(out).stat().st_size} bytes")


if __name__ == "__main__":
    main()
