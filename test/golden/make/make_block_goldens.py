#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes test/golden/blocks/*.safetensors: what transformers' own decoder layers, and Switch's
encoder's blocks, small and random, make of a sequence.

usage: make_block_goldens.py [FOLDER]

Needs torch, transformers and safetensors; the versions are in each file's metadata. Computed
in fp32 with eager attention. Tensors are in moecl's layouts: q, k and v one matrix, gate rows
before up rows. test/golden/test_blocks.c has the same blocks as moecl_block_params. Tokens are
such that rounding changes none of their choices.
"""

import functools
import pathlib
import sys

import torch
import transformers
from safetensors.torch import save_file
from transformers.models.dots1 import modeling_dots1 as dots1
from transformers.models.ernie4_5_moe import modeling_ernie4_5_moe as ernie
from transformers.models.exaone_moe import modeling_exaone_moe as exaone_moe
from transformers.models.flint import modeling_flint as flint
from transformers.models.glm4_moe import modeling_glm4_moe as glm4_moe
from transformers.models.gpt_oss import modeling_gpt_oss as gpt_oss
from transformers.models.granitemoe import modeling_granitemoe as granitemoe
from transformers.models.hy_v3 import modeling_hy_v3 as hy_v3
from transformers.models.mellum import modeling_mellum as mellum
from transformers.models.minimax_m2 import modeling_minimax_m2 as minimax_m2
from transformers.models.mixtral import modeling_mixtral as mixtral
from transformers.models.olmoe import modeling_olmoe as olmoe
from transformers.models.phimoe import modeling_phimoe as phimoe
from transformers.models.qwen2_moe import modeling_qwen2_moe as qwen2_moe
from transformers.models.qwen3_moe import modeling_qwen3_moe as qwen3_moe
from transformers.models.solar_open import modeling_solar_open as solar_open
from transformers.models.switch_transformers import modeling_switch_transformers as switch

TOKENS, MARGIN = 24, 1e-3


def config_of(cls, **values):
    config = cls(**values, hidden_size=32, max_position_embeddings=4096, num_hidden_layers=2)
    config._attn_implementation = config._experts_implementation = "eager"
    return config


def olmoe_case(name, **values):
    config = config_of(transformers.OlmoeConfig, intermediate_size=16, num_attention_heads=4,
                       num_key_value_heads=4, num_experts=8, num_experts_per_tok=3,
                       rms_norm_eps=1e-5, **values)
    return name, olmoe.OlmoeDecoderLayer(config, 0), olmoe.OlmoeRotaryEmbedding(config), 0


def cases():
    """name, layer, rotary embedding, window"""
    config = config_of(transformers.MixtralConfig, intermediate_size=24, num_attention_heads=4,
                       num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
                       rms_norm_eps=1e-5, rope_parameters={"rope_type": "default",
                                                           "rope_theta": 1e6})
    yield ("mixtral", mixtral.MixtralDecoderLayer(config, 0), mixtral.MixtralRotaryEmbedding(config),
           0)
    yield olmoe_case("olmoe")
    config = config_of(transformers.Qwen3MoeConfig, moe_intermediate_size=16, head_dim=12,
                       num_attention_heads=6, num_key_value_heads=2, num_experts=8,
                       num_experts_per_tok=3, norm_topk_prob=True, rms_norm_eps=1e-6,
                       rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    yield ("qwen3_moe", qwen3_moe.Qwen3MoeDecoderLayer(config, 0),
           qwen3_moe.Qwen3MoeRotaryEmbedding(config), 0)
    config = config_of(transformers.GptOssConfig, intermediate_size=20, head_dim=16,
                       num_attention_heads=4, num_key_value_heads=1, num_local_experts=4,
                       num_experts_per_tok=2, sliding_window=7, rms_norm_eps=1e-5)
    for index, name in enumerate(("gpt_oss_window", "gpt_oss")):
        window = 7 if config.layer_types[index] == "sliding_attention" else 0
        yield (name, gpt_oss.GptOssDecoderLayer(config, index),
               gpt_oss.GptOssRotaryEmbedding(config), window)


def rope(theta, **more):
    return {"rope_type": "default", "rope_theta": theta} | more


def later_cases():
    """As cases(), of the families that came after the first recordings."""
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    routed = {"moe_intermediate_size": 12, "num_experts_per_tok": 3}
    config = config_of(transformers.Qwen2MoeConfig, **heads, **routed, num_experts=6,
                       shared_expert_intermediate_size=20, use_sliding_window=True,
                       sliding_window=7, rope_parameters=rope(1e6))
    yield ("qwen2_moe", qwen2_moe.Qwen2MoeDecoderLayer(config, 0),
           qwen2_moe.Qwen2MoeRotaryEmbedding(config), 7)
    config = config_of(transformers.Dots1Config, **heads, **routed, n_routed_experts=6,
                       n_shared_experts=2, first_k_dense_replace=1, norm_topk_prob=True,
                       routed_scaling_factor=2.5, attention_bias=True, sliding_window=7,
                       max_window_layers=1)
    yield ("dots1", dots1.Dots1DecoderLayer(config, 1), dots1.Dots1RotaryEmbedding(config), 7)
    config = config_of(transformers.SolarOpenConfig, **heads, **routed, n_routed_experts=6,
                       head_dim=12, attention_bias=True)
    yield ("solar_open", solar_open.SolarOpenDecoderLayer(config, 0),
           solar_open.SolarOpenRotaryEmbedding(config), 0)
    config = config_of(transformers.HYV3Config, **heads, **routed, num_experts=6, head_dim=12)
    yield "hy_v3", hy_v3.HYV3DecoderLayer(config, 1), hy_v3.HYV3RotaryEmbedding(config), 0
    config = config_of(transformers.ExaoneMoeConfig, **heads, **routed, num_experts=6,
                       first_k_dense_replace=0, sliding_window=7, sliding_window_pattern=2,
                       rope_parameters=rope(1e6))
    for index, name in enumerate(("exaone_moe_window", "exaone_moe")):
        yield (name, exaone_moe.ExaoneMoeDecoderLayer(config, index),
               exaone_moe.ExaoneMoeRotaryEmbedding(config), (7, 0)[index])
    config = config_of(transformers.MiniMaxM2Config, **heads, intermediate_size=12,
                       num_local_experts=6, num_experts_per_tok=3, head_dim=12, rotary_dim=6)
    yield ("minimax_m2", minimax_m2.MiniMaxM2DecoderLayer(config, 0),
           minimax_m2.MiniMaxM2RotaryEmbedding(config), 0)
    for name, has_norm in (("glm4_moe", True), ("glm4_moe_plain", False)):
        config = config_of(transformers.Glm4MoeConfig, **heads, **routed, n_routed_experts=6,
                           head_dim=12, attention_bias=True, use_qk_norm=has_norm)
        yield (name, glm4_moe.Glm4MoeDecoderLayer(config, 1),
               glm4_moe.Glm4MoeRotaryEmbedding(config), 0)
    config = config_of(transformers.Ernie4_5_MoeConfig, **heads, moe_intermediate_size=12,
                       moe_num_experts=6, moe_k=3, moe_num_shared_experts=1)
    yield ("ernie4_5_moe", ernie.Ernie4_5_MoeDecoderLayer(config, 1),
           ernie.Ernie4_5_MoeRotaryEmbedding(config), 0)
    config = config_of(transformers.PhimoeConfig, **heads, intermediate_size=12,
                       num_local_experts=6, attention_bias=True, sliding_window=7)
    yield ("phimoe", phimoe.PhimoeDecoderLayer(config, 0), phimoe.PhimoeRotaryEmbedding(config), 7)
    kinds = {"full_attention": rope(5e5, rope_type="yarn", factor=4.0,
                                    original_max_position_embeddings=1024),
             "sliding_attention": rope(1e4)}
    config = config_of(transformers.MellumConfig, **heads, **routed, num_experts=6, head_dim=12,
                       sliding_window=7, layer_types=list(kinds), rope_parameters=kinds)
    rotary = mellum.MellumRotaryEmbedding(config)
    for index, name in enumerate(("mellum", "mellum_window")):
        yield (name, mellum.MellumDecoderLayer(config, index),
               functools.partial(rotary, layer_type=config.layer_types[index]), (0, 7)[index])
    config = config_of(transformers.GraniteMoeConfig, **heads, intermediate_size=12,
                       num_local_experts=6, attention_multiplier=0.25)
    yield ("granitemoe", granitemoe.GraniteMoeDecoderLayer(config, 0),
           granitemoe.GraniteMoeRotaryEmbedding(config), 0)
    config = config_of(transformers.FlintConfig, **heads, **routed, num_experts=6, head_dim=12,
                       shared_expert_intermediate_size=20, mlp_only_layers=[], sliding_window=7,
                       layer_types=list(kinds))
    for index, name in enumerate(("flint", "flint_window")):
        yield (name, flint.FlintDecoderLayer(config, index), flint.FlintRotaryEmbedding(config),
               (0, 7)[index])


class SwitchBlock:
    """Block `index` of an encoder, whose first block alone has the table of relative biases."""

    def __init__(self, index):
        config = transformers.SwitchTransformersConfig(
            d_model=32, d_kv=12, d_ff=20, num_heads=3, num_layers=2, num_sparse_encoder_layers=2,
            num_decoder_layers=2, num_experts=4, expert_capacity=7, layer_norm_epsilon=1e-6,
            relative_attention_num_buckets=8, relative_attention_max_distance=16)
        config._attn_implementation = "eager"
        self.layer = torch.nn.ModuleList(
            switch.SwitchTransformersBlock(config, has_relative_attention_bias=i == 0,
                                           is_sparse=True, layer_idx=i)
            for i in range(index + 1))

    def tensors(self):
        first, last = self.layer[0], self.layer[-1]
        attention, mlp = last.layer[0].SelfAttention, last.layer[1].mlp
        experts = [mlp.experts[f"expert_{e}"] for e in range(len(mlp.experts))]
        return {"attention_norm": last.layer[0].layer_norm.weight,
                "feed_forward_norm": last.layer[1].layer_norm.weight,
                "qkv_proj": torch.cat([p.weight for p in (attention.q, attention.k, attention.v)]),
                "o_proj": attention.o.weight,
                "relative_bias": first.layer[0].SelfAttention.relative_attention_bias.weight,
                "router_weight": mlp.router.classifier.weight,
                "gate_up_proj": torch.stack([expert.wi.weight for expert in experts]),
                "down_proj": torch.stack([expert.wo.weight for expert in experts])}

    def run(self, hidden):
        first, last = self.layer[0], self.layer[-1]
        bias = None if first is last else first(hidden[None])[1]
        logits = []
        hook = last.layer[1].mlp.router.register_forward_hook(
            lambda module, inputs, out: logits.append(out[2]))
        out = last(hidden[None], position_bias=bias)
        hook.remove()
        best = logits[0][0].sort(descending=True).values
        return out[0][0], (best[:, 0] - best[:, 1]).min().item()


def draw(layer, random):
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            is_norm = name.endswith("norm.weight")
            scale = 0.2 if is_norm else 1.0 if weight.dim() == 1 else weight.shape[-1] ** -0.5
            weight.copy_(scale * torch.randn(weight.shape, generator=random) + float(is_norm))
        bias = correction_bias(layer)
        if bias is not None:
            bias.copy_(0.1 * torch.randn(bias.shape, generator=random))


def network(layer):
    return layer.mlp if hasattr(layer, "mlp") else layer.block_sparse_moe


def router_of(layer):
    mlp = network(layer)
    return mlp.router if hasattr(mlp, "router") else mlp.gate


def correction_bias(layer):
    """What scores have added before the choice, a buffer or a parameter; None: nothing."""
    found = [tensor for name, tensor in (*layer.named_buffers(), *layer.named_parameters())
             if name.endswith("e_score_correction_bias")]
    return found[0] if found else None


def shared(mlp):
    """The shared expert's tensors."""
    expert = getattr(mlp, "shared_experts", getattr(mlp, "shared_expert", None))
    if expert is None:
        return {}
    tensors = {"shared_gate_up_proj": torch.cat([expert.gate_proj.weight, expert.up_proj.weight]),
               "shared_down_proj": expert.down_proj.weight}
    if hasattr(mlp, "shared_expert_gate"):
        tensors["shared_gate"] = mlp.shared_expert_gate.weight[0]
    return tensors


def layout(layer, name):
    """The layer's tensors as moecl has them."""
    attention, mlp = layer.self_attn, network(layer)
    projections = [attention.q_proj, attention.k_proj, attention.v_proj]
    tensors = {"attention_norm": layer.input_layernorm.weight,
               "feed_forward_norm": layer.post_attention_layernorm.weight,
               "qkv_proj": torch.cat([p.weight for p in projections]),
               "o_proj": attention.o_proj.weight}
    if projections[0].bias is not None:
        tensors["qkv_bias"] = torch.cat([p.bias for p in projections])
    for own, module in (("o_bias", attention.o_proj),
                        ("attention_norm_bias", layer.input_layernorm),
                        ("feed_forward_norm_bias", layer.post_attention_layernorm)):
        if getattr(module, "bias", None) is not None:
            tensors[own] = module.bias
    for own, theirs in (("q_norm", "q_norm"), ("k_norm", "k_norm")):
        if hasattr(attention, theirs):
            tensors[own] = getattr(attention, theirs).weight
    if hasattr(attention, "sinks"):
        tensors["sinks"] = attention.sinks
    router = router_of(layer)
    tensors["router_weight"] = router.weight
    if correction_bias(layer) is not None:
        tensors["score_correction_bias"] = correction_bias(layer).flatten()
    tensors |= shared(mlp)
    experts = mlp.experts
    if name.startswith("gpt_oss"):  # [E,H,2I], gate and up in turn
        both = experts.gate_up_proj.transpose(1, 2)
        bias = experts.gate_up_proj_bias
        tensors["router_bias"] = router.bias
        tensors["gate_up_proj"] = torch.cat([both[:, ::2], both[:, 1::2]], 1)
        tensors["gate_up_bias"] = torch.cat([bias[:, ::2], bias[:, 1::2]], 1)
        tensors["down_proj"] = experts.down_proj.transpose(1, 2)
        tensors["down_bias"] = experts.down_proj_bias
    else:
        tensors["gate_up_proj"], tensors["down_proj"] = experts.gate_up_proj, experts.down_proj
    return tensors


def margin_of(layer, logits):
    """How far the choices are from others."""
    router, bias = router_of(layer), correction_bias(layer)
    scores = logits
    if bias is not None:
        scores = (logits.softmax(-1) if hasattr(router, "moe_statics") else logits.sigmoid()) + bias
    best = scores.sort(descending=True).values
    margin = (best[:, router.top_k - 1] - best[:, router.top_k]).min().item()
    if hasattr(router, "router_jitter_noise"):  # SparseMixer's cut below each of the best two
        for choice in best[:, :2].split(1, 1):
            below = (choice - logits) / logits.abs().clamp(min=choice)
            margin = min(margin, (below - 2 * router.router_jitter_noise).abs().min().item())
    return margin


def run(layer, rotary, window, hidden):
    """The layer's output, and how far its choices are from others."""
    positions = torch.arange(TOKENS)[None]
    query, key = torch.arange(TOKENS)[:, None], torch.arange(TOKENS)[None]
    seen = (key <= query) & ((key > query - window) if window else True)
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]
    logits = []
    hook = router_of(layer).register_forward_hook(lambda module, inputs, out: logits.append(out[0]))
    out = layer(hidden[None], position_embeddings=rotary(hidden[None], positions),
                attention_mask=mask, position_ids=positions)
    hook.remove()
    out = out[0] if isinstance(out, tuple) else out
    return out[0], margin_of(layer, logits[0])


class Decoder:
    """One of the decoder layers of cases()."""

    def __init__(self, name, layer, rotary, window):
        self.name, self.layer, self.rotary, self.window = name, layer, rotary, window

    def tensors(self):
        return layout(self.layer, self.name)

    def run(self, hidden):
        return run(self.layer, self.rotary, self.window, hidden)


def record(folder, name, block, random):
    block.layer.eval()
    margin = 0
    while margin < MARGIN:
        draw(block.layer, random)
        hidden = torch.randn(TOKENS, 32, generator=random)
        with torch.no_grad():
            output, margin = block.run(hidden)
    tensors = block.tensors() | {"hidden_states": hidden, "output": output}
    save_file({key: value.detach().contiguous().clone() for key, value in tensors.items()},
              folder / f"{name}.safetensors",
              metadata={"versions": f"torch {torch.__version__}, "
                                    f"transformers {transformers.__version__}"})
    print(name, f"margin {margin:.3g}")


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "test/golden/blocks")
    folder.mkdir(exist_ok=True)
    random = torch.Generator().manual_seed(20170612)
    for name, layer, rotary, window in cases():
        record(folder, name, Decoder(name, layer, rotary, window), random)
    for index, name in enumerate(("switch_first", "switch")):
        record(folder, name, SwitchBlock(index), random)
    name, *made = olmoe_case("olmoe_clip", clip_qkv=0.75)
    record(folder, name, Decoder(name, *made), random)
    for name, *made in later_cases():
        record(folder, name, Decoder(name, *made), random)


if __name__ == "__main__":
    main()
