#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Blocks of model folders: transformers' own, recorded in test/golden/blocks, as
published files have them, and such with one thing wrong. usage: test_block_models.py MOECTL
GOLDEN_DIR"""

import json
import pathlib
import re
import struct
import sys
import unittest

from model_files import ModelCase, moectl, no_device, numbers, put, read_file, tensor, write_file

BLOCKS = pathlib.Path(sys.argv[2]) / "blocks"
COMMON = {"hidden_size": 32, "max_position_embeddings": 4096}
GPT_OSS = {"model_type": "gpt_oss", "intermediate_size": 20, "num_attention_heads": 4,
           "num_key_value_heads": 1, "head_dim": 16, "num_local_experts": 4,
           "num_experts_per_tok": 2, "rms_norm_eps": 1e-5, "sliding_window": 7,
           "rope_parameters": {"rope_type": "yarn", "rope_theta": 150000.0, "factor": 32.0,
                               "original_max_position_embeddings": 4096, "truncate": False}}
SWITCH = {"model_type": "switch_transformers", "d_model": 32, "d_kv": 12, "d_ff": 20,
          "num_heads": 3, "num_layers": 2, "num_sparse_encoder_layers": 2, "num_decoder_layers": 2,
          "num_sparse_decoder_layers": 2, "num_experts": 4, "expert_capacity": 7,
          "layer_norm_epsilon": 1e-6, "relative_attention_num_buckets": 8,
          "relative_attention_max_distance": 16}
# What make_block_goldens.py gave to the configuration classes; and in which layer it is.
CONFIGS = {
    "mixtral": ({"model_type": "mixtral", "intermediate_size": 24, "num_attention_heads": 4,
                 "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2,
                 "rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default",
                                                           "rope_theta": 1e6}}, 0),
    "olmoe": ({"model_type": "olmoe", "intermediate_size": 16, "num_attention_heads": 4,
               "num_key_value_heads": 4, "num_experts": 8, "num_experts_per_tok": 3,
               "norm_topk_prob": False, "rms_norm_eps": 1e-5, "rope_theta": 10000.0}, 0),
    "qwen3_moe": ({"model_type": "qwen3_moe", "moe_intermediate_size": 16, "head_dim": 12,
                   "num_attention_heads": 6, "num_key_value_heads": 2, "num_experts": 8,
                   "num_experts_per_tok": 3, "norm_topk_prob": True, "rms_norm_eps": 1e-6,
                   "rope_theta": 1e6}, 0),
    "gpt_oss_window": (GPT_OSS, 0),
    "gpt_oss": (GPT_OSS, 1),
    "switch_first": (SWITCH, 0),
    "switch": (SWITCH, 1)}
CONFIGS["olmoe_clip"] = (CONFIGS["olmoe"][0] | {"clip_qkv": 0.75}, 0)


def later(model_type, **config):
    """Of make_block_goldens.py's later_cases()."""
    return {"model_type": model_type, "num_attention_heads": 4, "num_key_value_heads": 2} | config


ROUTED = {"moe_intermediate_size": 12, "num_experts_per_tok": 3}
EXAONE = later("exaone_moe", **ROUTED, num_experts=6, first_k_dense_replace=0, sliding_window=7,
               sliding_window_pattern=2, rms_norm_eps=1e-5, rope_theta=1e6)
GLM4 = later("glm4_moe", **ROUTED, n_routed_experts=6, head_dim=12, attention_bias=True,
             use_qk_norm=True, rms_norm_eps=1e-5)
MELLUM = later("mellum", **ROUTED, num_experts=6, head_dim=12, sliding_window=7, rms_norm_eps=1e-6,
               layer_types=["full_attention", "sliding_attention"], rope_parameters={
                   "full_attention": {"rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0,
                                      "original_max_position_embeddings": 1024},
                   "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}})
FLINT = later("flint", **ROUTED, num_experts=6, head_dim=12, shared_expert_intermediate_size=20,
              mlp_only_layers=[], sliding_window=7, rms_norm_eps=1e-6,
              layer_types=["full_attention", "sliding_attention"])
CONFIGS |= {
    "qwen2_moe": (later("qwen2_moe", **ROUTED, num_experts=6, shared_expert_intermediate_size=20,
                        use_sliding_window=True, sliding_window=7, rms_norm_eps=1e-6,
                        rope_theta=1e6), 0),
    "dots1": (later("dots1", **ROUTED, n_routed_experts=6, n_shared_experts=2,
                    first_k_dense_replace=1, norm_topk_prob=True, routed_scaling_factor=2.5,
                    attention_bias=True, sliding_window=7, max_window_layers=1, rms_norm_eps=1e-6),
              1),
    "solar_open": (later("solar_open", **ROUTED, n_routed_experts=6, head_dim=12,
                         attention_bias=True, rms_norm_eps=1e-5), 0),
    "hy_v3": (later("hy_v3", **ROUTED, num_experts=6, head_dim=12, rms_norm_eps=1e-5), 1),
    "exaone_moe_window": (EXAONE, 0),
    "exaone_moe": (EXAONE, 1),
    "minimax_m2": (later("minimax_m2", intermediate_size=12, num_local_experts=6,
                         num_experts_per_tok=3, head_dim=12, rotary_dim=6, rms_norm_eps=1e-6), 0),
    "glm4_moe": (GLM4, 1),
    "glm4_moe_plain": (GLM4 | {"use_qk_norm": False}, 1),
    "ernie4_5_moe": (later("ernie4_5_moe", moe_intermediate_size=12, moe_num_experts=6, moe_k=3,
                           moe_num_shared_experts=1, rms_norm_eps=1e-5), 1),
    "phimoe": (later("phimoe", intermediate_size=12, num_local_experts=6, attention_bias=True,
                     sliding_window=7, rms_norm_eps=1e-5), 0),
    "mellum": (MELLUM, 0),
    "mellum_window": (MELLUM, 1),
    "granitemoe": (later("granitemoe", intermediate_size=12, num_local_experts=6,
                         attention_multiplier=0.25, rms_norm_eps=1e-6), 0),
    "flint": (FLINT, 0),
    "flint_window": (FLINT, 1)}
# What published files call the feed-forward network's tensors, where not as in Qwen3-MoE.
PATHS = {name: "block_sparse_moe." for name in ("mixtral", "minimax_m2", "phimoe", "granitemoe")}
ROUTERS = {"hy_v3": "router.gate", "granitemoe": "router.layer"}
CORRECTIONS = {"minimax_m2": "e_score_correction_bias", "exaone_moe": "e_score_correction_bias",
               "hy_v3": "expert_bias", "ernie4_5_moe": "moe_statics.e_score_correction_bias"}
SHARED = {"qwen2_moe": "shared_expert", "flint": "shared_expert", "hy_v3": "shared_mlp"}
SINKS = {"flint": "softmax_offset"}
# What blocks have that others have not.
HAS = {"qk_norm": {"olmoe": "full", "olmoe_clip": "full", "minimax_m2": "full"} | dict.fromkeys(
           ("qwen3_moe", "dots1", "hy_v3", "exaone_moe", "exaone_moe_window", "glm4_moe", "mellum",
            "mellum_window", "flint", "flint_window"), "head"),
       "sliding_window": dict.fromkeys(
           ("gpt_oss_window", "qwen2_moe", "dots1", "exaone_moe_window", "phimoe", "mellum_window",
            "flint_window"), 7),
       "sinks": dict.fromkeys(("gpt_oss", "gpt_oss_window", "flint", "flint_window"), True),
       "qkv_bias": dict.fromkeys(("gpt_oss", "gpt_oss_window", "qwen2_moe", "dots1", "solar_open",
                                  "glm4_moe", "glm4_moe_plain", "phimoe"), True),
       "output_bias": dict.fromkeys(("gpt_oss", "gpt_oss_window", "dots1", "phimoe"), True),
       "rope_dim": dict.fromkeys(("minimax_m2", "glm4_moe", "glm4_moe_plain"), 6),
       "rope_interleaved": {"ernie4_5_moe": True},
       "rope_scaling": dict.fromkeys(("gpt_oss", "gpt_oss_window", "mellum"), "yarn"),
       "scale": {"granitemoe": 0.25, "switch": 1, "switch_first": 1},
       "norm_kind": {"phimoe": "layer"},
       "norm_bias": {"phimoe": True}}
# Of rope_theta, where config.json does not say it.
THETAS = {"dots1": 10000, "solar_open": 1000000, "hy_v3": 11158840, "minimax_m2": 5000000,
          "glm4_moe": 10000, "ernie4_5_moe": 500000, "phimoe": 1000000, "mellum": 500000,
          "mellum_window": 10000, "granitemoe": 10000, "flint_window": 10000, "flint": None,
          "exaone_moe": None}


def cut(recorded, name, first, count):
    """Rows of a matrix, or elements of a vector."""
    kind, shape, data = recorded[name]
    row = 4 * (shape[1] if len(shape) > 1 else 1)
    return [kind, [count, *shape[1:]], data[first * row:(first + count) * row]]


def attention(config, golden):
    """The block's own tensors, by their published names."""
    dim = config.get("head_dim", 32 // config["num_attention_heads"])
    queries, keys = (dim * config[f"num_{part}_heads"] for part in ("attention", "key_value"))
    made = {"input_layernorm.weight": golden["attention_norm"],
            "post_attention_layernorm.weight": golden["feed_forward_norm"],
            "self_attn.o_proj.weight": golden["o_proj"]}
    for kind, name in (("weight", "qkv_proj"), ("bias", "qkv_bias")):
        if name in golden:
            made |= {f"self_attn.q_proj.{kind}": cut(golden, name, 0, queries),
                     f"self_attn.k_proj.{kind}": cut(golden, name, queries, keys),
                     f"self_attn.v_proj.{kind}": cut(golden, name, queries + keys, keys)}
    for name, theirs in (("o_bias", "o_proj.bias"), ("q_norm", "q_norm.weight"),
                         ("k_norm", "k_norm.weight"),
                         ("sinks", SINKS.get(config["model_type"], "sinks"))):
        if name in golden:
            made["self_attn." + theirs] = golden[name]
    for name, theirs in (("attention_norm_bias", "input_layernorm.bias"),
                         ("feed_forward_norm_bias", "post_attention_layernorm.bias")):
        if name in golden:
            made[theirs] = golden[name]
    return made


def switch_block(golden, layer):
    """All tensors of an encoder's block by their published names; the first block's has the table,
    whosever block this is."""
    prefix = f"encoder.block.{layer}."
    made = {prefix + "layer.0.layer_norm.weight": golden["attention_norm"],
            prefix + "layer.1.layer_norm.weight": golden["feed_forward_norm"],
            prefix + "layer.0.SelfAttention.o.weight": golden["o_proj"],
            prefix + "layer.1.mlp.router.classifier.weight": golden["router_weight"],
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight":
                golden["relative_bias"]}
    for part, name in enumerate("qkv"):
        made[f"{prefix}layer.0.SelfAttention.{name}.weight"] = cut(golden, "qkv_proj", 36 * part, 36)
    for name, key in (("wi", "gate_up_proj"), ("wo", "down_proj")):
        kind, shape, data = golden[key]
        size = len(data) // shape[0]
        for e in range(shape[0]):
            made[f"{prefix}layer.1.mlp.experts.expert_{e}.{name}.weight"] = \
                [kind, shape[1:], data[e * size:(e + 1) * size]]
    return made


def floats(entry):
    return list(struct.unpack(f"<{len(entry[2]) // 4}f", entry[2]))


def pack(shape, flat):
    return ["F32", shape, bytearray(struct.pack(f"<{len(flat)}f", *flat))]


def gpt_oss_experts(golden):
    """[E,H,2I] with gate and up in turn, and [E,I,H]."""
    both, down = floats(golden["gate_up_proj"]), floats(golden["down_proj"])
    bias = floats(golden["gate_up_bias"])
    return {"mlp.router.weight": golden["router_weight"], "mlp.router.bias": golden["router_bias"],
            "mlp.experts.gate_up_proj": pack([4, 32, 40], [
                both[(40 * e + j // 2 + 20 * (j % 2)) * 32 + h]
                for e in range(4) for h in range(32) for j in range(40)]),
            "mlp.experts.gate_up_proj_bias": pack([4, 40], [
                bias[40 * e + j // 2 + 20 * (j % 2)] for e in range(4) for j in range(40)]),
            "mlp.experts.down_proj": pack([4, 20, 32], [
                down[(32 * e + h) * 20 + i]
                for e in range(4) for i in range(20) for h in range(32)]),
            "mlp.experts.down_proj_bias": golden["down_bias"]}


def shared(model_type, golden):
    """The shared expert's tensors, and what scores are corrected by."""
    made, path = {}, "mlp." + SHARED.get(model_type, "shared_experts") + "."
    if "score_correction_bias" in golden:
        key = CORRECTIONS.get(model_type, "gate.e_score_correction_bias")
        kind, shape, data = golden["score_correction_bias"]
        made[PATHS.get(model_type, "mlp.") + key] = [
            kind, [1, *shape] if model_type == "ernie4_5_moe" else shape, data]
    if "shared_down_proj" in golden:
        rows = golden["shared_down_proj"][1][1]
        made |= {path + "gate_proj.weight": cut(golden, "shared_gate_up_proj", 0, rows),
                 path + "up_proj.weight": cut(golden, "shared_gate_up_proj", rows, rows),
                 path + "down_proj.weight": golden["shared_down_proj"]}
    if "shared_gate" in golden:
        kind, shape, data = golden["shared_gate"]
        made["mlp.shared_expert_gate.weight"] = [kind, [1, *shape], data]
    return made


def experts(config, golden):
    model_type = config["model_type"]
    path = PATHS.get(model_type, "mlp.")
    names = ("w1", "w3", "w2") if "sparse" in path else ("gate_proj", "up_proj", "down_proj")
    made = shared(model_type, golden)
    made[f"{path}{ROUTERS.get(model_type, 'gate')}.weight"] = golden["router_weight"]
    if model_type == "granitemoe":
        return made | {path + "input_linear.weight": golden["gate_up_proj"],
                       path + "output_linear.weight": golden["down_proj"]}
    count, rows = golden["gate_up_proj"][1][:2]
    for e in range(count):
        for part, name, height in ((0, "gate_up_proj", rows // 2), (1, "gate_up_proj", rows // 2),
                                   (0, "down_proj", 32)):
            kind, shape, data = golden[name]
            size = 4 * height * shape[2]
            at = e * 4 * shape[1] * shape[2] + part * size
            which = names[2] if name == "down_proj" else names[part]
            made[f"{path}experts.{e}.{which}.weight"] = [kind, [height, shape[2]],
                                                         data[at:at + size]]
    return made


@unittest.skipIf(no_device(), "no OpenCL device")
class BlockModels(ModelCase):
    def folder(self, name, change_config=None, change=None):
        """A model folder with one layer's tensors, and the recording."""
        golden = read_file(BLOCKS / f"{name}.safetensors")
        config, layer = CONFIGS[name]
        if name.startswith("switch"):
            prefix, made = "", switch_block(golden, layer)
        else:
            config = COMMON | config | {"num_hidden_layers": 2}
            prefix, made = f"model.layers.{layer}.", attention(CONFIGS[name][0], golden)
            made |= gpt_oss_experts(golden) if "gpt_oss" in name else experts(config, golden)
        config = config | (change_config or {})
        if change:
            change(made)
        path = self.work / name
        path.mkdir(exist_ok=True)
        (path / "config.json").write_text(json.dumps(config))
        write_file(path / "model.safetensors",
                   {prefix + key: value for key, value in made.items()})
        write_file(self.work / "io.safetensors",
                   {key: golden[key] for key in ("hidden_states", "output")})
        return path, layer

    def verify(self, code, pattern, folder, layer, *more):
        return self.expect(code, pattern, "verify", folder, "--block", "--layer", layer, "--io",
                           self.work / "io.safetensors", *more)[0]

    def test_goldens(self):
        for name in CONFIGS:
            folder, layer = self.folder(name)
            shown = self.verify(0, "all tokens agree", folder, layer)
            prefix = (f"encoder.block.{layer}.layer.1.mlp." if name.startswith("switch") else
                      f"model.layers.{layer}.")
            self.assertIn(f" block {layer} ({prefix}): MoE, fp32, 24 tokens", shown)
            error = float(re.search(r"^output +(\S+)", shown, re.M).group(1))
            self.assertLessEqual(error, 1e-5, name)

    def test_bf16(self):
        folder, layer = self.folder("mixtral")
        shown = self.verify(0, "all tokens agree", folder, layer, "--dtype", "bf16")
        self.assertLessEqual(float(re.search(r"^output +(\S+)", shown, re.M).group(1)), 1e-2)

    def test_wrong_ones(self):
        """An element of each of the block's tensors, and what config.json says of attention."""
        for name in ("input_layernorm.weight", "self_attn.q_proj.weight", "self_attn.v_proj.bias",
                     "self_attn.sinks", "self_attn.o_proj.bias", "self_attn.o_proj.weight",
                     "post_attention_layernorm.weight"):
            folder, layer = self.folder("gpt_oss_window",
                                        change=lambda made, key=name: put(made[key], 0, 3.5))
            self.verify(1, r"first mismatching token: \d+ \(output\)", folder, layer)
        for change in ({"sliding_window": 8}, {"rms_norm_eps": 1e-2},
                       {"layer_types": ["full_attention", "sliding_attention"]},
                       {"rope_parameters": GPT_OSS["rope_parameters"] | {"truncate": True}},
                       {"rope_parameters": GPT_OSS["rope_parameters"] | {"factor": 16.0}}):
            folder, layer = self.folder("gpt_oss_window", change)
            self.verify(1, "first mismatching token", folder, layer)
        folder, layer = self.folder("olmoe_clip", {"clip_qkv": 0.8})
        self.verify(1, "first mismatching token", folder, layer)
        for name in ("input_layernorm.bias", "post_attention_layernorm.bias"):
            folder, layer = self.folder("phimoe",
                                        change=lambda made, key=name: put(made[key], 0, 3.5))
            self.verify(1, "first mismatching token", folder, layer)
        for name, change in (
                ("qwen2_moe", {"use_sliding_window": False}),
                ("qwen2_moe", {"max_window_layers": 0}),
                ("dots1", {"max_window_layers": 2}), ("dots1", {"sliding_window": None}),
                ("exaone_moe", {"sliding_window_pattern": 3}),
                ("exaone_moe", {"sliding_window": None}),
                ("exaone_moe_window", {"sliding_window_pattern": 1}),
                ("minimax_m2", {"rotary_dim": 8}), ("minimax_m2", {"partial_rotary_factor": 1}),
                ("glm4_moe", {"partial_rotary_factor": 0.7}),
                ("mellum", {"layer_types": None}), ("mellum_window", {"layer_types": None}),
                ("granitemoe", {"attention_multiplier": 0.5})):
            folder, layer = self.folder(name, change)
            if name == "mellum":  # layers have no window where no list says so
                self.verify(0, "all tokens agree", folder, layer)
            else:
                self.verify(1, "first mismatching token", folder, layer)
        for name in ("0.layer.0.SelfAttention.relative_attention_bias.weight",
                     "1.layer.0.SelfAttention.k.weight", "1.layer.1.layer_norm.weight"):
            folder, layer = self.folder(
                "switch", change=lambda made, key=f"encoder.block.{name}": put(made[key], 0, 3.5))
            self.verify(1, "first mismatching token", folder, layer)
        for change in ({"relative_attention_max_distance": 24}, {"layer_norm_epsilon": 1e-2},
                       {"expert_capacity": 4}):
            folder, layer = self.folder("switch", change)
            self.verify(1, "first mismatching token", folder, layer)
        folder, layer = self.folder("mixtral", {"rope_parameters": {"rope_theta": 1e5}})
        self.verify(1, "first mismatching token", folder, layer)
        folder, layer = self.folder("mixtral")
        self.expect(1, "first mismatching token", "verify", folder, "--layer", layer, "--io",
                    self.work / "io.safetensors")  # without --block

    def test_tie(self):
        """A choice that rounding may prefer: the output is computed from the recorded one."""
        def alike(made):
            gate = "block_sparse_moe.gate.weight"
            row = numbers(made[gate])[0]
            made[gate] = tensor("F32", [row] * 4)

        folder, layer = self.folder("mixtral", change=alike)
        code, shown, said = moectl("verify", folder, "--block", "--layer", layer, "--io",
                                   self.work / "io.safetensors")
        self.assertEqual(code, 1, said)  # others' experts were recorded
        golden = read_file(BLOCKS / "mixtral.safetensors")
        ids = tensor("I32", [[2, 3]] * 24)
        write_file(self.work / "io.safetensors",
                   {"hidden_states": golden["hidden_states"], "topk_ids": ids})
        shown = self.verify(1, "no token has the recorded experts", folder, layer)
        self.assertIn("24 tokens have other experts at a tie", shown)

    def test_older_keys(self):
        """rope_theta and rope_scaling beside each other, as before transformers 5."""
        yarn = {key: value for key, value in GPT_OSS["rope_parameters"].items()
                if key != "rope_theta"}
        folder, layer = self.folder("gpt_oss", {"rope_parameters": None, "rope_theta": 150000,
                                                "rope_scaling": yarn})
        self.verify(0, "all tokens agree", folder, layer)
        folder, layer = self.folder("mixtral", {"rope_parameters": None, "rope_theta": 1e6,
                                                "rope_scaling": None})
        self.verify(0, "all tokens agree", folder, layer)

    def test_refusals(self):
        def refused(pattern, name, config=None, change=None):
            folder, layer = self.folder(name, config, change)
            self.verify(2, pattern, folder, layer)

        refused(r"attention of model_type 'minimax' is not described here.*mixtral, olmoe, "
                r"qwen3_moe, gpt_oss, .*granitemoe, flint, switch_transformers", "mixtral",
                {"model_type": "minimax"})
        refused("rope_type is 'dynamic', expected default, linear, llama3 or yarn", "mixtral",
                {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e6, "factor": 2}})
        refused("'clip_qkv' is 0, expected more than 0", "olmoe", {"clip_qkv": 0})
        refused("'rms_norm_eps' is 0, expected more than 0", "mixtral", {"rms_norm_eps": 0})
        refused("rope_theta' is 1, expected more than 1", "mixtral",
                {"rope_parameters": {"rope_theta": 1}})
        refused("num_kv_heads is 3, expected a divisor", "mixtral", {"num_key_value_heads": 3})
        refused("has no tensor 'model.layers.0.self_attn.q_norm.weight'", "qwen3_moe",
                change=lambda made: made.pop("self_attn.q_norm.weight"))
        refused("'model.layers.0.self_attn.q_proj.bias' is of attention or a norm, and a mixtral "
                "block has none", "mixtral",
                change=lambda made: made.update({"self_attn.q_proj.bias": tensor("F32", [[0] * 32])}))
        refused(r"o_proj.weight' has shape \[32, 16\], expected \[32, 32\]", "mixtral",
                change=lambda made: made.update(
                    {"self_attn.o_proj.weight": tensor("F32", [[0] * 16] * 32)}))

    def test_later_refusals(self):
        """What the families of later_cases() can ask for and no block has."""
        def refused(pattern, name, config=None, change=None):
            folder, layer = self.folder(name, config, change)
            self.verify(2, pattern, folder, layer)

        refused("'residual_multiplier' asks for what is not known of family granitemoe, expected 1",
                "granitemoe", {"residual_multiplier": 0.22})
        refused("'attention_multiplier' is 0, expected more than 0", "granitemoe",
                {"attention_multiplier": 0})
        refused("'compression_ratio' asks for", "ernie4_5_moe", {"compression_ratio": 2.0})
        refused("'rope_parameters.long_mscale' asks for", "phimoe", {"rope_parameters": {
            "rope_type": "linear", "factor": 2.0, "long_mscale": 1.2}})
        refused("rope_type is 'longrope', expected", "phimoe",
                {"rope_scaling": {"type": "longrope"}})
        refused("'qk_norm_type' asks for", "minimax_m2", {"qk_norm_type": "per_head"})
        refused("'partial_rotary_factor' asks for", "solar_open", {"partial_rotary_factor": 0.5})
        refused("'rope_scaling.mscale_all_dim' asks for", "glm4_moe",
                {"rope_scaling": {"mscale_all_dim": 1.0}})
        for factor in (0.1, 1.5):
            refused(f"partial_rotary_factor is {factor}, expected a share of a head's 12 elements",
                    "glm4_moe", {"partial_rotary_factor": factor})
        refused("rotary_dim' is 14, expected a whole number from 2 to 12", "minimax_m2",
                {"rotary_dim": 14})
        refused("'sliding_window_pattern' is not a number", "exaone_moe",
                {"sliding_window_pattern": "LLLG"})
        refused("has no list 'layer_types', and which layers of a flint model have a window",
                "flint", {"layer_types": None})
        refused("the value of 'sliding_window' is not a number", "flint", {"sliding_window": None})
        refused("'rope_parameters' has no section 'full_attention'", "mellum",
                {"rope_parameters": {"rope_theta": 1e4}})
        refused("'rope_parameters.partial_rotary_factor' asks for", "mellum_window",
                {"rope_parameters": {"sliding_attention": {"partial_rotary_factor": 0.5}}})
        refused(r"'model.layers.1.self_attn.[qk]_norm.weight' is of attention or a norm, and a "
                "glm4_moe block has none", "glm4_moe", {"use_qk_norm": False})
        refused("'model.layers.0.self_attn.o_proj.bias' is of attention or a norm, and a "
                "solar_open block has none", "solar_open",
                change=lambda made: made.update(
                    {"self_attn.o_proj.bias": tensor("F32", [[0] * 32])}))

    def test_nested_rope(self):
        """A list of layers' kinds is asked before rules, and one section serves its kind alone."""
        folder, layer = self.folder("exaone_moe", {
            "layer_types": ["sliding_attention", "full_attention"],
            "sliding_window_pattern": "LLLG"})
        self.verify(0, "all tokens agree", folder, layer)
        folder, layer = self.folder("mellum_window", {"rope_parameters": {
            "sliding_attention": {"rope_theta": 1e4}}})
        self.verify(0, "all tokens agree", folder, layer)
        folder, layer = self.folder("mellum_window", {"rope_parameters": None})
        self.verify(0, "all tokens agree", folder, layer)

    def test_switch_refusals(self):
        """What only encoders with a shared table do."""
        def refused(pattern, config=None, change=None, layer=1):
            folder, _ = self.folder("switch", config, change)
            self.verify(2, pattern, folder, layer)

        table = "layer.0.SelfAttention.relative_attention_bias.weight"
        refused("layer 3 is number 1 of switch_transformers's decoder, whose blocks also look at "
                "the encoder's output: that attention is not described here; expected a layer of "
                "the encoder, 0 to 1", layer=3,
                change=lambda made: made.update(
                    {key.replace("encoder", "decoder").replace("layer.1.mlp", "layer.2.mlp"): value
                     for key, value in made.items()}))
        refused(f"has no tensor 'encoder.block.0.{table}'",
                change=lambda made: made.pop(f"encoder.block.0.{table}"))
        refused(f"'encoder.block.1.{table}' is of attention or a norm, and a switch_transformers "
                "block has none of that name",
                change=lambda made: made.update(
                    {f"encoder.block.1.{table}": made[f"encoder.block.0.{table}"]}))
        refused(r"relative_attention_bias.weight' has shape \[8, 3\], expected \[32, 3\]",
                {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128})
        refused("relative_attention_max_distance is 2, expected more than 2",
                {"relative_attention_max_distance": 2})

    def run_it(self, code, folder, layer, *options, **block):
        path, out = self.work / "e.yaml", self.work / f"out{len(list(self.work.iterdir()))}"
        path.write_text(json.dumps({
            "name": "block", "layer": {"checkpoint": str(folder), "layer": layer},
            "workload": {"num_tokens": 5, "context": [0, 9]}, **block,
            "measure": {"what": "block", "warmup": 0, "iterations": 1}}))
        got, shown, said = moectl("run", path, "--out", out, "--pictures", "none", *options)
        self.assertEqual(got, code, shown + said)
        return json.loads((out / "results.json").read_text()) if code == 0 else said

    def test_experiments(self):
        """The parameters are config.json's, and the weights verify."""
        for name in CONFIGS:
            folder, layer = self.folder(name)
            root = self.run_it(0, folder, layer)
            self.assertEqual([p["status"] for p in root["points"]], ["ok", "ok"], name)
            params, config = root["points"][0]["params"], CONFIGS[name][0]
            self.assertEqual(params["num_heads"],
                             config.get("num_attention_heads", config.get("num_heads")))
            self.assertEqual(params["norm_epsilon"],
                             config.get("rms_norm_eps", config.get("layer_norm_epsilon")))
            self.assertEqual(params["relative_attention_num_buckets"],
                             config.get("relative_attention_num_buckets"))
            self.assertEqual(params["causal"], "switch" not in name)
            none = {"qk_norm": "none", "rope_scaling": "none", "norm_kind": "rms"} | dict.fromkeys(
                ("sliding_window", "rope_dim", "scale"))
            for key, has in HAS.items():
                if params["rope_theta"] or not key.startswith("rope"):
                    self.assertEqual(params[key], has.get(name, none.get(key, False)), (name, key))
            self.assertEqual(params["clip_qkv"], config.get("clip_qkv"))
            self.assertEqual(params["rope_truncate"], "gpt_oss" not in name)
            self.assertEqual(params["rope_theta"] is None, "switch" in name or name in ("exaone_moe", "flint"))
            if name in THETAS:
                self.assertEqual(params["rope_theta"], THETAS[name])

    def test_beside_a_checkpoint(self):
        folder, layer = self.folder("mixtral")
        root = self.run_it(0, folder, layer, block={"attention": {"sliding_window": [2, None]}})
        self.assertEqual(len(root["points"]), 4)
        said = self.run_it(2, folder, layer, block={"attention": {"num_heads": 2}})
        self.assertIn("block.attention.num_heads: the checkpoint's layer has 4, expected that or "
                      "nothing", said)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
