# SPDX-License-Identifier: MIT
"""The quantized cases: a family, a scheme, and what config.json says of it."""

import dataclasses
import typing

from goldens import quantize, routers
from goldens.cases import BF16, F16, Case, heads, mla, one, published_deepseek

EXPERTS = r"\.experts\.|\.shared_experts\.|layers\.0\.mlp\.(gate|up|down)_proj"


@dataclasses.dataclass(frozen=True)
class Quantized:
    case: Case
    scheme: typing.Callable  # a matrix to its tensors and their numbers
    config: dict  # quantization_config
    modules: str = EXPERTS  # of the names, those that are quantized
    numbers: typing.Callable = lambda name, tensor: tensor.dim() == 2


def qwen3(name, seed, dtype=BF16, hidden=64, inner=96, **more):
    return Case(name, "Qwen3Moe",
                heads(num_experts=4, num_experts_per_tok=2, mlp_only_layers=[0], norm_topk_prob=True,
                      hidden_size=hidden, intermediate_size=inner, moe_intermediate_size=inner),
                one("mlp"), seed=seed, dtype=dtype, keys={"num_local_experts": "num_experts"}, **more)


def deepseek(name, seed, hidden, inner):
    return Case(name, "DeepseekV3",
                mla(n_routed_experts=4, num_experts_per_tok=2, n_group=2, topk_group=1, hidden_size=hidden,
                    intermediate_size=inner, moe_intermediate_size=inner, n_shared_experts=1,
                    first_k_dense_replace=1),
                one("mlp"), seed=seed, choice=routers.by_biased_sigmoid, publish_config=published_deepseek)


def weights(**args):
    common = dict(num_bits=8, type="int", strategy="channel", group_size=None, symmetric=True, dynamic=False,
                  observer="minmax")
    return common | args


def compressed(layout, args, ignore=("lm_head", "re:.*mlp.gate$"), activations=None):
    return {
        "quant_method": "compressed-tensors", "format": layout, "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": args, "input_activations": activations,
                                      "output_activations": None}},
        "ignore": list(ignore), "kv_cache_scheme": None, "sparsity_config": {}, "transform_config": {},
    }


def both(layout, **args):
    """The library's scheme and the configuration."""
    return quantize.compressed(args, layout), compressed(layout, weights(**args))


def gptq(bits, group_size, sym, desc_act=False, checkpoint_format="gptq"):
    version = 2 if checkpoint_format == "gptq_v2" else 1
    return (quantize.gptq(bits, group_size, sym, desc_act, version),
            {"quant_method": "gptq", "bits": bits, "group_size": group_size, "sym": sym, "desc_act": desc_act,
             "checkpoint_format": checkpoint_format, "damp_percent": 0.1, "static_groups": False,
             "true_sequential": True})


def cases():
    ct = "compressed-tensors"
    int4 = dict(num_bits=4, type="int", strategy="group", symmetric=True)
    yield Quantized(
        Case("gpt_oss-mxfp4", "GptOss", heads(hidden_size=64, intermediate_size=96, num_local_experts=4,
                                              num_experts_per_tok=2),
             one("mlp"), seed=101, router="router"),
        quantize.mxfp4,
        {"quant_method": "mxfp4",
         "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router",
                                    "model.embed_tokens", "lm_head"]},
        modules=r"experts\.(gate_up|down)_proj$", numbers=lambda name, tensor: tensor.dim() == 3)
    yield Quantized(deepseek("deepseek_v3-fp8", 102, 160, 136), quantize.fp8_block,
                    {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                     "weight_block_size": [128, 128]})
    yield Quantized(Case("mixtral-fp8", "Mixtral", heads(hidden_size=48, intermediate_size=40, num_local_experts=4),
                         one("mlp", "block_sparse_moe"), seed=103),
                    quantize.fp8_tensor,
                    {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]})
    yield Quantized(qwen3(f"qwen3_moe-{ct}-int8", 104), *both("int-quantized", num_bits=8, type="int", strategy="channel", symmetric=True))
    yield Quantized(qwen3(f"qwen3_moe-{ct}-int4", 105), *both("pack-quantized", **int4 | {"group_size": 32}))
    yield Quantized(qwen3(f"qwen3_moe-{ct}-int4-zp", 106, inner=128),
                    *both("pack-quantized", **int4 | {"group_size": 64, "symmetric": False}))
    yield Quantized(qwen3(f"qwen3_moe-{ct}-fp8", 107),
                    *both("float-quantized", num_bits=8, type="float", strategy="channel", symmetric=True))
    yield Quantized(qwen3(f"qwen3_moe-{ct}-nvfp4", 108),
                    *both("nvfp4-pack-quantized", num_bits=4, type="float", strategy="tensor_group", group_size=16,
                          symmetric=True))
    yield Quantized(qwen3("qwen3_moe-awq", 109, F16), quantize.awq(32),
                    {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm",
                     "modules_to_not_convert": ["gate"]})
    yield Quantized(qwen3("qwen3_moe-gptq", 110, F16), *gptq(4, 32, True))
    yield Quantized(qwen3("qwen3_moe-gptq-zp", 111, F16, inner=64), *gptq(4, 64, False, checkpoint_format="gptq_v2"))
    yield Quantized(qwen3("qwen3_moe-gptq-act_order", 112, F16), *gptq(4, 32, True, desc_act=True))
    yield Quantized(qwen3("qwen3_moe-gptq-int8", 113, F16, hidden=128, inner=128), *gptq(8, 128, True))
    scheme, config = both("pack-quantized", **int4 | {"group_size": 32})
    yield Quantized(deepseek("deepseek_v3-shared-bf16", 114, 64, 96), scheme,
                    config | {"ignore": ["lm_head", "re:.*mlp.gate$", "re:.*shared_experts.*", "re:.*layers.0.*"]},
                    modules=r"\.experts\.")


CASES = list(cases())
