#!/usr/bin/env python3
"""Makes test/golden/{mixtral,olmoe,...}.safetensors: whole layers computed by
transformers' own blocks.

usage: make_layer_golden.py [OUT_DIR]

Needs torch, transformers and safetensors. Each file holds the layer's inputs
and weights in moecl's names and layouts, the router's decisions, the output
and the load-balancing loss, all fp32, and in its metadata the parameters and
versions.
"""

import pathlib
import sys

import torch
import transformers
from safetensors.torch import save_file
from transformers import MixtralConfig, OlmoeConfig, Qwen3MoeConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock, load_balancing_loss_func
from transformers.models.olmoe.modeling_olmoe import OlmoeSparseMoeBlock
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

# name, block, its configuration, tokens, moecl's name of the activation
CASES = [
    (
        "mixtral",
        MixtralSparseMoeBlock,
        MixtralConfig(hidden_size=32, intermediate_size=24, num_local_experts=4, num_experts_per_tok=2),
        19,
        "swiglu",
    ),
    (
        "olmoe",
        OlmoeSparseMoeBlock,
        OlmoeConfig(hidden_size=16, intermediate_size=20, num_experts=16, num_experts_per_tok=4,
                    norm_topk_prob=False),
        23,
        "swiglu",
    ),
    (
        "olmoe_geglu_odd",
        OlmoeSparseMoeBlock,
        OlmoeConfig(hidden_size=17, intermediate_size=13, num_experts=7, num_experts_per_tok=3,
                    norm_topk_prob=True, hidden_act="gelu"),
        11,
        "geglu",
    ),
    (
        "qwen3_moe",
        Qwen3MoeSparseMoeBlock,
        Qwen3MoeConfig(hidden_size=24, moe_intermediate_size=10, num_experts=12, num_experts_per_tok=3,
                       norm_topk_prob=True),
        29,
        "swiglu",
    ),
]


def make_layer(block_class, config, tokens):
    """A block with weights of a size that keeps every value near 1."""
    block = block_class(config).eval()
    with torch.no_grad():
        for name, weight in block.named_parameters():
            weight.copy_(torch.randn_like(weight) * weight.shape[-1] ** -0.5)
    hidden_states = torch.randn(tokens, config.hidden_size)
    with torch.no_grad():
        logits, topk_weights, topk_ids = block.gate(hidden_states)
        output = block(hidden_states.clone().unsqueeze(0)).squeeze(0)
    return {
        "hidden_states": hidden_states,
        "router.weight": block.gate.weight,
        "experts.gate_up_proj": block.experts.gate_up_proj,
        "experts.down_proj": block.experts.down_proj,
        "router_logits": logits,
        "topk_ids": topk_ids.int(),
        "topk_weights": topk_weights,
        "output": output,
        "load_balancing_loss": load_balancing_loss_func((logits,), logits.shape[1], topk_ids.shape[1]),
    }


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "test/golden")
    torch.manual_seed(20240301)
    for name, block_class, config, tokens, activation in CASES:
        config._experts_implementation = "eager"
        tensors = {key: value.detach().contiguous() for key, value in
                   make_layer(block_class, config, tokens).items()}
        # Mixtral always renormalises and has no setting for it.
        renormalize = getattr(config, "norm_topk_prob", True)
        metadata = {
            "block": block_class.__name__,
            "activation": activation,
            "renormalize": "true" if renormalize else "false",
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
        path = folder / f"{name}.safetensors"
        save_file(tensors, path, metadata=metadata)
        print(f"{path}: {path.stat().st_size} bytes, {metadata}")


if __name__ == "__main__":
    main()
