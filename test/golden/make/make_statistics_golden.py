#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes test/golden/statistics.safetensors: router logits and what other
implementations compute from them.

usage: make_statistics_golden.py [OUT]

Needs torch, transformers and safetensors. The losses come from transformers'
own functions (Mixtral's load_balancing_loss_func, Switch Transformer's
router_z_loss_func), the entropy from torch.distributions, and the counts from
torch.bincount. The versions are in the file's metadata.
"""

import pathlib
import sys

import torch
import transformers
from safetensors.torch import save_file
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
from transformers.models.switch_transformers.modeling_switch_transformers import router_z_loss_func

# name, tokens, experts, top_k, spread of the logits, bias towards low experts
CASES = [
    ("even", 64, 8, 2, 1.0, 0.0),
    ("skewed", 48, 16, 4, 2.0, 0.4),
    ("one_token", 1, 8, 2, 1.0, 0.0),
    ("one_expert", 5, 1, 1, 1.0, 0.0),
    ("all_experts", 20, 6, 6, 1.0, 0.0),
    ("sharp", 32, 13, 5, 50.0, 0.0),
]


def make_case(tensors, generator, name, tokens, experts, top_k, spread, slope):
    logits = spread * torch.randn(tokens, experts, generator=generator)
    logits -= slope * torch.arange(experts)
    # In double, as what is compared is the functions' meaning: in fp32 the sharp
    # case's scores underflow, and torch.topk takes any of the zeros.
    wide = logits.double()
    ids = torch.topk(torch.softmax(wide, dim=-1), top_k, dim=-1).indices
    counts = torch.bincount(ids.flatten(), minlength=experts)
    share = counts.double() / counts.double().mean()
    expected = {
        "load_balancing_loss": load_balancing_loss_func((wide,), experts, top_k),
        "router_z_loss": router_z_loss_func(wide.unsqueeze(0)),
        "entropy": torch.distributions.Categorical(logits=wide).entropy().mean(),
        "max_mean_imbalance": share.max(),
        "coefficient_of_variation": share.std(unbiased=False),
    }
    tensors[f"{name}.router_logits"] = logits
    tensors[f"{name}.topk_ids"] = ids.int()
    tensors[f"{name}.tokens_per_expert"] = counts
    for key, value in expected.items():
        tensors[f"{name}.{key}"] = torch.as_tensor(value, dtype=torch.float64).reshape(1)


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else "test/golden/statistics.safetensors"
    generator = torch.Generator().manual_seed(20240229)
    tensors = {}
    for case in CASES:
        make_case(tensors, generator, *case)
    metadata = {"torch": torch.__version__, "transformers": transformers.__version__}
    save_file(tensors, out, metadata=metadata)
    print(f"{out}: {pathlib.Path(out).stat().st_size} bytes, {metadata}")


if __name__ == "__main__":
    main()
