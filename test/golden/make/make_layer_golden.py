#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes test/golden/{mixtral,deepseek_v3,...}.safetensors: whole layers computed
by transformers' own blocks.

usage: make_layer_golden.py [OUT_DIR]

Needs torch and transformers. Each file holds the layer's inputs
and weights in moecl's names and layouts, the router's decisions, the output
and, where the family has it, the load-balancing loss, all fp32; its metadata
holds the rule in moecl's parameters, and the versions. Made again by the same
versions, the files are the same.

Not there: NLLB-MoE, whose experts in transformers 5 index a mask as if it were
expert ids (NllbMoeExperts.forward), so that there is nothing to compare with.
"""

import json
import pathlib
import struct
import sys

import torch
import transformers
from transformers import models as families

TOKENS = 31
SIZES = dict(hidden_size=24, num_experts_per_tok=3, num_attention_heads=4, num_key_value_heads=4)


def weights_of_size_one(block):
    """Weights of a size that keeps every value near 1; biases small."""
    with torch.no_grad():
        for name, weight in list(block.named_parameters()) + list(block.named_buffers()):
            scale = weight.shape[-1] ** -0.5 if weight.dim() > 1 else 0.3
            weight.copy_(torch.randn_like(weight) * scale)


def plain(block):
    """Experts as most families have them now: stacked, gate rows first."""
    return {"experts.gate_up_proj": block.experts.gate_up_proj,
            "experts.down_proj": block.experts.down_proj}


def mlp(block):
    """A shared expert."""
    return {"shared.gate_up_proj": torch.cat((block.gate_proj.weight, block.up_proj.weight)),
            "shared.down_proj": block.down_proj.weight}


def routed(block, hidden, output, gate):
    """A block whose gate gives (logits, weights, ids)."""
    logits, weights, ids = gate(hidden)
    return {"router.weight": gate.weight, "router_logits": logits, "topk_weights": weights,
            "topk_ids": ids, "output": output(hidden)}


def first(value):
    return value[0] if isinstance(value, tuple) else value


def run(block):
    return lambda hidden: first(block(hidden.unsqueeze(0))).reshape(hidden.shape)


def simple(block, hidden):
    gate = block.gate if hasattr(block, "gate") else block.router
    return routed(block, hidden, run(block), gate) | plain(block)


def with_loss(block, hidden):
    tensors = simple(block, hidden)
    loss = families.mixtral.modeling_mixtral.load_balancing_loss_func
    logits, ids = tensors["router_logits"], tensors["topk_ids"]
    return tensors | {"load_balancing_loss": loss((logits,), logits.shape[1], ids.shape[1])}


def deepseek(block, hidden):
    bias = getattr(block.gate, "e_score_correction_bias", None)
    extra = {} if bias is None else {"router.correction_bias": bias}
    return simple(block, hidden) | mlp(block.shared_experts) | extra


def low_bias(block, hidden):
    """All choice scores negative: 0 would be better than any."""
    block.gate.e_score_correction_bias -= 3
    return deepseek(block, hidden)


def qwen2(block, hidden):
    return (simple(block, hidden) | mlp(block.shared_expert) |
            {"shared.gate": block.shared_expert_gate.weight[0]})


def minimax(block, hidden):
    bias = block.e_score_correction_bias
    gate = lambda x: block.gate(x, bias)
    gate.weight = block.gate.weight
    return routed(block, hidden, run(block), gate) | plain(block) | {"router.correction_bias": bias}


def gpt_oss(block, hidden):
    """Stored transposed, gate and up rows in turns."""
    experts = block.experts
    rows, bias = experts.gate_up_proj.transpose(1, 2), experts.gate_up_proj_bias
    return routed(block, hidden, run(block), block.router) | {
        "router.bias": block.router.bias,
        "experts.gate_up_proj": torch.cat((rows[:, ::2], rows[:, 1::2]), 1),
        "experts.gate_up_proj_bias": torch.cat((bias[:, ::2], bias[:, 1::2]), 1),
        "experts.down_proj": experts.down_proj.transpose(1, 2),
        "experts.down_proj_bias": experts.down_proj_bias,
    }


def llama4(block, hidden):
    """Stored transposed; scores are there for every expert, 0 where it was not taken."""
    scores, logits = block.router(hidden)
    weights, ids = scores.topk(block.top_k, 1)
    return mlp(block.shared_expert) | {
        "router.weight": block.router.weight, "router_logits": logits, "topk_weights": weights,
        "topk_ids": ids, "output": first(block(hidden)),
        "experts.gate_up_proj": block.experts.gate_up_proj.transpose(1, 2),
        "experts.down_proj": block.experts.down_proj.transpose(1, 2),
    }


def jetmoe(block, hidden):
    """One bias for all experts, added once: the weights' sum is 1."""
    logits = block.router.layer(hidden)
    top, ids = logits.topk(block.router.top_k, 1)
    experts = logits.shape[1]
    return {"router.weight": block.router.layer.weight, "router_logits": logits,
            "topk_weights": top.softmax(1), "topk_ids": ids, "output": run(block)(hidden),
            "experts.gate_up_proj": block.input_linear.weight,
            "experts.down_proj": block.output_linear.weight,
            "experts.down_proj_bias": block.bias.expand(experts, -1)}


def switch(block, hidden):
    """Capacity in effect: dropped tokens give zeros."""
    _, weights, logits = block.router(hidden.unsqueeze(0))
    experts = [block.experts[f"expert_{e}"] for e in range(logits.shape[-1])]
    return {"router.weight": block.router.classifier.weight, "router_logits": logits[0],
            "topk_weights": weights[0], "topk_ids": logits[0].argmax(1, keepdim=True),
            "output": run(block)(hidden),
            "experts.up_proj": torch.stack([e.wi.weight for e in experts]),
            "experts.down_proj": torch.stack([e.wo.weight for e in experts])}


def case(name, family, block, config, tensors, **rule):
    module = getattr(getattr(families, family), f"modeling_{family}")
    return name, getattr(module, block), config, tensors, rule


def moe(config_name, **settings):
    config = getattr(transformers, config_name)(**(SIZES | settings))
    config._experts_implementation = "eager"
    return config


GROUPED = dict(moe_intermediate_size=20, n_routed_experts=24, n_group=6, topk_group=2,
               num_experts_per_tok=4, n_shared_experts=2, routed_scaling_factor=2.5)
GROUPS = dict(num_expert_group=6, topk_group=2, routed_scaling_factor=2.5)
SIGMOID = dict(scoring="sigmoid", renormalize=True, group_score="top2_sum")

CASES = [
    case("mixtral", "mixtral", "MixtralSparseMoeBlock",
         moe("MixtralConfig", intermediate_size=20, num_local_experts=8), with_loss, renormalize=True),
    case("olmoe", "olmoe", "OlmoeSparseMoeBlock",
         moe("OlmoeConfig", intermediate_size=20, num_experts=16, num_experts_per_tok=4,
             norm_topk_prob=False), with_loss),
    case("olmoe_geglu_odd", "olmoe", "OlmoeSparseMoeBlock",
         moe("OlmoeConfig", hidden_size=17, intermediate_size=13, num_experts=7,
             norm_topk_prob=True, hidden_act="gelu"), with_loss, activation="geglu", renormalize=True),
    case("qwen3_moe", "qwen3_moe", "Qwen3MoeSparseMoeBlock",
         moe("Qwen3MoeConfig", moe_intermediate_size=12, num_experts=12, norm_topk_prob=True),
         with_loss, renormalize=True),
    case("qwen2_moe", "qwen2_moe", "Qwen2MoeSparseMoeBlock",
         moe("Qwen2MoeConfig", moe_intermediate_size=12, shared_expert_intermediate_size=40,
             num_experts=12, norm_topk_prob=False), qwen2),
    case("deepseek_v2", "deepseek_v2", "DeepseekV2Moe",
         moe("DeepseekV2Config", topk_method="group_limited_greedy", **GROUPED), deepseek, **GROUPS),
    case("deepseek_v2_lite", "deepseek_v2", "DeepseekV2Moe",
         moe("DeepseekV2Config", topk_method="greedy", **GROUPED | dict(routed_scaling_factor=1.0)),
         deepseek),
    case("deepseek_v3", "deepseek_v3", "DeepseekV3MoE",
         moe("DeepseekV3Config", norm_topk_prob=True, **GROUPED), deepseek, **GROUPS, **SIGMOID),
    case("deepseek_v3_low", "deepseek_v3", "DeepseekV3MoE",
         moe("DeepseekV3Config", norm_topk_prob=True, **GROUPED), low_bias, **GROUPS, **SIGMOID),
    case("glm4_moe", "glm4_moe", "Glm4MoeMoE",
         moe("Glm4MoeConfig", norm_topk_prob=True,
             **GROUPED | dict(n_group=1, topk_group=1, n_shared_experts=1)),
         deepseek, scoring="sigmoid", renormalize=True, routed_scaling_factor=2.5),
    case("minimax_m2", "minimax_m2", "MiniMaxM2SparseMoeBlock",
         moe("MiniMaxM2Config", intermediate_size=20, num_local_experts=16), minimax,
         scoring="sigmoid", renormalize=True),
    case("gpt_oss", "gpt_oss", "GptOssMLP",
         moe("GptOssConfig", intermediate_size=20, num_local_experts=8, swiglu_limit=0.75), gpt_oss,
         activation="swiglu_clamped", swiglu_limit=0.75, score_after_topk=True),
    case("llama4", "llama4", "Llama4TextMoe",
         moe("Llama4TextConfig", intermediate_size=20, num_local_experts=8, num_experts_per_tok=1),
         llama4, scoring="sigmoid", weight_on_input=True),
    case("phimoe", "phimoe", "PhimoeSparseMoeBlock",
         moe("PhimoeConfig", intermediate_size=20, num_local_experts=16, num_experts_per_tok=2,
             router_jitter_noise=0.2), simple, scoring="sparsemixer", sparsemixer_jitter=0.2),
    case("granitemoe", "granitemoe", "GraniteMoeMoE",
         moe("GraniteMoeConfig", intermediate_size=20, num_local_experts=12), simple,
         score_after_topk=True),
    case("jetmoe", "jetmoe", "JetMoeMoE",
         moe("JetMoeConfig", intermediate_size=20, num_local_experts=8, num_experts_per_tok=2,
             activation_function="silu"), jetmoe, score_after_topk=True),
    case("switch", "switch_transformers", "SwitchTransformersSparseMLP",
         transformers.SwitchTransformersConfig(d_model=24, d_ff=20, num_experts=6,
                                               expert_capacity=5, router_dtype="float32"),
         switch, activation="relu", min_capacity=5),
]


def prove(name, tensors, rule):
    """What a case is there for has happened."""
    ids = tensors["topk_ids"]
    experts = tensors["router.weight"].shape[0]
    counts = torch.bincount(ids.flatten().long(), minlength=experts)
    if "num_expert_group" in rule:
        scores = tensors["router_logits"].sigmoid() + tensors.get("router.correction_bias", 0)
        best = scores.topk(ids.shape[1], 1).indices
        cut = [t for t in range(len(ids)) if set(best[t].tolist()) != set(ids[t].tolist())]
        assert cut, f"{name}: groups cut off no expert that would have won"
    if "min_capacity" in rule:
        assert counts.max() > rule["min_capacity"], f"{name}: nothing is dropped"
    return f"{int((counts == 0).sum())} of {experts} experts empty, the busiest has {int(counts.max())}"


def save(path, tensors, metadata):
    """safetensors, with its header in a fixed order (the library's own is not)."""
    header, data = {"__metadata__": metadata}, b""
    for name, value in sorted(tensors.items()):
        raw = value.numpy().tobytes()
        header[name] = {"dtype": "I32" if value.dtype == torch.int32 else "F32",
                        "shape": list(value.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "test/golden")
    for name, block_class, config, tensors_of, rule in CASES:
        torch.manual_seed(20240301)
        block = block_class(config).eval()
        weights_of_size_one(block)
        hidden = torch.randn(TOKENS, getattr(config, "hidden_size", None) or config.d_model)
        hidden[TOKENS // 2:] = hidden[0] + 0.2 * hidden[TOKENS // 2:] # one hot expert
        with torch.no_grad():
            tensors = tensors_of(block, hidden.clone())
        tensors = {key: value.detach().float().contiguous().clone() for key, value in
                   ({"hidden_states": hidden} | tensors).items()}
        tensors["topk_ids"] = tensors["topk_ids"].int()
        metadata = {key: str(value).lower() if isinstance(value, bool) else str(value)
                    for key, value in ({"activation": "swiglu"} | rule).items()}
        metadata |= {"block": block_class.__name__, "torch": torch.__version__,
                     "transformers": transformers.__version__}
        path = folder / f"{name}.safetensors"
        save(path, tensors, metadata)
        print(f"{path}: {path.stat().st_size} bytes; {prove(name, tensors, rule)}")


if __name__ == "__main__":
    main()
