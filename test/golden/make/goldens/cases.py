# SPDX-License-Identifier: MIT
"""The cases: one or more for each family that transformers has and moecl knows.

Sizes are small and odd on purpose. Where a family has dense layers, layer 0 is one.
"""

import dataclasses
import typing

import torch

from goldens import routers

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32


@dataclasses.dataclass(frozen=True)
class Record:
    """One file of recorded inputs and outputs."""

    block: str  # the block's path in transformers' model
    published: str  # and in the checkpoint
    layer: int = 1
    file: str = "io"
    dtype: torch.dtype = F32
    stack: str = "decoder"


def run_block(model, path, hidden_states):
    output = model.get_submodule(path)(hidden_states)
    return output[0].view_as(hidden_states) if isinstance(output, tuple) else output


@dataclasses.dataclass(frozen=True)
class Case:
    name: str  # the folder
    model: str  # transformers' prefix of the classes' names
    config: dict
    records: list
    seed: int
    router: str = "gate"  # within the block
    logits: str = ""  # what of the router gives them, where it doesn't itself: read gets them first
    read: typing.Callable = routers.plain
    choice: typing.Callable | None = routers.by_logit
    run: typing.Callable = run_block
    entry: typing.Callable = lambda model, path, hidden_states: hidden_states  # what experts read of them
    suffix: str = "ForCausalLM"
    config_suffix: str = "Config"
    dtype: torch.dtype = BF16  # of the checkpoint
    exact: str = ""  # tensors which stay F32 in it
    shards: int = 1
    prefix: str = ""  # before the checkpoint's names
    keys: dict = dataclasses.field(default_factory=dict)  # config.json: transformers' key, the published one
    publish_config: typing.Callable = lambda config: config
    publish_tensors: typing.Callable = lambda tensors: tensors
    adjust: typing.Callable = lambda model: None
    assertion: typing.Callable | None = None
    tokens: int = 24
    margin: float = 1e-3
    hot: tuple = ()
    tilt: float = 6.0
    empty: tuple = ()
    level: float = 0.0  # about which all logits lie
    groups: bool = False  # groups cut off experts which would have won
    capacity: bool = False  # tokens get dropped

    @property
    def model_class(self):
        return self.model + self.suffix

    @property
    def config_class(self):
        return self.model + self.config_suffix


def heads(**more):
    return dict(num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, head_dim=8,
                max_position_embeddings=64, **more)


def mla(**more):
    """DeepSeek's attention, as small as it goes."""
    config = heads(q_lora_rank=None, kv_lora_rank=8, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8)
    del config["head_dim"]
    return config | more


def one(block, published=None, **more):
    return [Record("model.layers.1." + block, "model.layers.1." + (published or block), **more)]


def in_language_model(block):
    return [Record("model.language_model.layers.1." + block, "model.language_model.layers.1." + block)]


def with_bf16(block, published=None):
    return one(block, published) + one(block, published, file="io-bf16", dtype=BF16)


def lower_scores(model):
    """Every biased score of DeepSeek-V3's below zero: experts cut off must not win as zeros."""
    model.model.layers[1].mlp.gate.e_score_correction_bias -= 2.5


def lower_half(model):
    """Some biased scores below zero and some above."""
    model.model.layers[1].mlp.gate.e_score_correction_bias -= 0.9


LONGCAT = mla(hidden_size=32, ffn_hidden_size=24, expert_ffn_hidden_size=20, n_routed_experts=6, zero_expert_num=7,
              moe_topk=3) | dict(q_lora_rank=8, num_layers=2, head_dim=8)
del LONGCAT["num_hidden_layers"]


def without_idle_gates(tensors):
    """Published files have no weights of identity experts."""
    first = LONGCAT["n_routed_experts"]
    idle = tuple(f".experts.{e}." for e in range(first, first + LONGCAT["zero_expert_num"]))
    return {name: tensor for name, tensor in tensors.items() if not any(part in name for part in idle)}


def some_identities(model, path, tensors):
    """Tokens of identity experts alone, or all but one, of others alone, and of both."""
    chosen = (tensors["topk_ids"] >= model.config.n_routed_experts).sum(dim=1)
    assert {0, 1, 2} <= set(chosen.tolist()), chosen.tolist()


def all_negative(model, path, tensors):
    assert (routers.by_biased_sigmoid(model.get_submodule(path), tensors["router_logits"]) < 0).all()


def zeros_win(model, path, tensors):
    """Every token takes both experts of the group that was cut off, as zeros before negative
    scores and, some, behind positive ones; which zeros are taken is never open."""
    block = model.get_submodule(path)
    values = routers.cut_to_zero(block, tensors["router_logits"])
    taken = values.gather(1, tensors["topk_ids"].long())
    assert ((taken == 0).sum(dim=1) == 2).all()
    assert (taken > 0).any() and (taken < 0).any()


def mtp_layer(tensors):
    """Published files hold the next-token-prediction layer after the last."""
    extra = {name.replace("layers.1", "layers.2"): tensor for name, tensor in tensors.items()
             if name.startswith("model.layers.1.mlp.gate")}
    return tensors | extra


def published_deepseek(config):
    return config | {"scoring_func": "sigmoid", "topk_method": "noaux_tc", "moe_layer_freq": 1}


def under_text_config(config):
    """Llama 4 as it is on the hub: the text model's keys within another."""
    dtype = config["torch_dtype"]
    del config["moe_layers"]  # published files leave it to interleave_moe_layer_step
    return {"architectures": ["Llama4ForConditionalGeneration"], "model_type": "llama4",
            "torch_dtype": dtype, "text_config": config}


def in_aria(config):
    """The text model within Aria's configuration."""
    return {"architectures": ["AriaForConditionalGeneration"], "model_type": "aria",
            "torch_dtype": config["torch_dtype"], "text_config": config}


def published_nemotron_h(config):
    """The pattern of layers in letters, as published."""
    del config["layers_block_type"]
    return config | {"hybrid_override_pattern": "-E"}


def without_vision(tensors):
    return {name: tensor for name, tensor in tensors.items() if "visual" not in name}


def published_qwen3_vl(config):
    text = config["text_config"]
    text["num_experts"] = text.pop("num_local_experts")
    return config


def transposed_experts(tensors):
    """Stacked experts as published, [E, H, 2I] and [E, I, H]."""
    return {name: tensor.transpose(1, 2).contiguous() if tensor.dim() == 3 else tensor
            for name, tensor in without_vision(tensors).items()}


def published_mimo(config):
    """Which layers have experts as a list of flags, and null for keys that don't apply."""
    del config["mlp_layer_types"]
    return config | {"moe_layer_freq": [0, 1], "routed_scaling_factor": None, "n_shared_experts": None,
                     "scoring_func": "sigmoid", "topk_method": "noaux_tc"}


def published_qwen3_5(tensors):
    """The language model within the model that also sees, its experts stacked."""
    return stack_experts(below_language_model(tensors))


def stack_experts(tensors):
    """Experts as one tensor [E,...] of gate and up and one of down."""
    stacked = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    layers = {name.partition("experts.")[0] + "experts." for name in tensors if ".experts." in name}
    for prefix in layers:
        count = sum(name.startswith(prefix) and name.endswith("down_proj.weight") for name in tensors)
        def of(part):
            return [tensors[f"{prefix}{e}.{part}_proj.weight"] for e in range(count)]
        stacked[prefix + "gate_up_proj"] = torch.stack(
            [torch.cat(pair) for pair in zip(of("gate"), of("up"), strict=True)])
        stacked[prefix + "down_proj"] = torch.stack(of("down"))
    return stacked


def in_qwen3_5(config):
    return {"architectures": ["Qwen3_5MoeForConditionalGeneration"], "model_type": "qwen3_5_moe",
            "torch_dtype": config["torch_dtype"], "text_config": config}


def in_mistral3(config):
    """Mistral 4 as the text model of Mistral 3's."""
    return {"architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3",
            "torch_dtype": config["torch_dtype"], "text_config": config}


def in_thinker(config):
    """The thinker's configuration within Qwen3-Omni's."""
    dtype = config.pop("torch_dtype")
    return {"architectures": ["Qwen3OmniMoeForConditionalGeneration"], "model_type": "qwen3_omni_moe",
            "torch_dtype": dtype, "thinker_config": config}


def thinker_alone(tensors):
    return {"thinker." + name: tensor for name, tensor in tensors.items() if name.startswith("model.")}


def dense_as_published(tensors):
    """transformers saves Kimi-Linear's dense layers as it calls the experts' blocks."""
    return {name.replace("layers.0.block_sparse_moe", "layers.0.mlp"): tensor
            for name, tensor in tensors.items()}


def published_kimi_linear(config):
    del config["mlp_layer_types"]
    return config | {"first_k_dense_replace": 1, "moe_layer_freq": 1, "moe_router_activation_func": "sigmoid"}


def published_minimax_m3(config):
    """The text model within the whole, which layers have experts as flags."""
    del config["mlp_layer_types"]
    text = config | {"moe_layer_freq": [0, 1], "scoring_func": "sigmoid"}
    return {"architectures": ["MiniMaxM3SparseForConditionalGeneration"], "model_type": "minimax_m3_vl",
            "torch_dtype": config["torch_dtype"], "text_config": text}


def minimax_m3_as_published(tensors):
    """Gate, up and each expert apart, below the published names."""
    apart = {}
    for name, tensor in tensors.items():
        if "layers.1.mlp.experts." in name:
            name = name.replace("mlp", "block_sparse_moe")
            for expert, matrix in enumerate(tensor):
                at = name.replace("experts.", f"experts.{expert}.")
                if name.endswith("down_proj"):
                    apart[at.replace("down_proj", "w2.weight")] = matrix
                else:
                    apart[at.replace("gate_up_proj", "w1.weight")], \
                        apart[at.replace("gate_up_proj", "w3.weight")] = matrix.chunk(2)
            continue
        name = name.replace("layers.1.mlp.gate.e_score", "layers.1.mlp.e_score")
        name = name.replace("layers.1.mlp.", "layers.1.block_sparse_moe.")
        if "gate_up_proj" in name:
            apart[name.replace("gate_up", "gate")], apart[name.replace("gate_up", "up")] = tensor.chunk(2)
        else:
            apart[name] = tensor
    return apart


def stretch_experts(model):
    """Gate and up of routed and shared experts beyond the clamp's limit."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".layers.1.mlp." in name and ("gate_up_proj" in name or "shared_experts.gate_proj" in name
                                             or "shared_experts.up_proj" in name):
                weight *= 4


def limit_of(network):
    return getattr(network, "swiglu_limit", None) or getattr(network, "limit", None)


def clamps_separately(model, path, tensors):
    """Also of a shared expert without a limit: to cut it off would be seen."""
    block, x = model.get_submodule(path), tensors["hidden_states"]
    gate_up = torch.einsum("th,eih->tei", x, block.experts.gate_up_proj)
    gate_up = gate_up.gather(1, tensors["topk_ids"].long()[..., None].expand(-1, -1, gate_up.shape[-1]))
    reaches(gate_up, limit_of(block.experts))
    shared = block.shared_experts
    if hasattr(shared, "gate_proj"):
        limit = limit_of(shared) or limit_of(block.experts)
        reaches(torch.cat([shared.gate_proj(x), shared.up_proj(x)], dim=-1), limit)


def reaches(gate_up, limit):
    gate, up = gate_up.chunk(2, dim=-1)
    assert gate.max() > limit and up.max() > limit and up.min() < -limit


def published_step3p7(config):
    """Which layers have experts as a text, the text model within the whole."""
    text = config["text_config"]
    del text["mlp_layer_types"]
    text["moe_num_experts"] = text.pop("n_routed_experts")
    text["moe_top_k"] = text.pop("num_experts_per_tok")
    return config | {"text_config": text | {"moe_layers_enum": "1"}}


def gates_as_published(tensors):
    """transformers renames them on the way back, as it should attention's alone."""
    return {name.replace("linear_gate", "gate_proj"): tensor for name, tensor in tensors.items() if "hc_" not in name}


def without_towers(tensors):
    return {name: tensor for name, tensor in tensors.items() if "vision" not in name and "visual" not in name}


def stretch_gpt_oss(model):
    """Gate and up beyond the clamp's limit."""
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.experts.gate_up_proj *= 4


def clamps(model, path, tensors):
    experts = model.get_submodule(path).experts
    x = tensors["hidden_states"]
    gate_up = torch.einsum("th,ehi->tei", x, experts.gate_up_proj) + experts.gate_up_proj_bias
    gate_up = gate_up.gather(1, tensors["topk_ids"].long()[..., None].expand(-1, -1, gate_up.shape[-1]))
    assert gate_up[..., ::2].max() > experts.limit and gate_up[..., 1::2].abs().max() > experts.limit


def masks(model, path, tensors):
    """Sparsemixer's threshold leaves one expert alone for some tokens and not for others."""
    first = tensors["topk_weights"][:, 0]
    assert (first == 1).any() and (first < 1).any()


def run_nllb(model, path, hidden_states):
    """The sum over experts as transformers 4 made it. 5.23's own takes the router's mask for
    expert ids, and runs experts 0 and 1 alone."""
    block = model.get_submodule(path)
    x = hidden_states[0]
    _, combine, _ = block.router(x)
    output = torch.zeros_like(x)
    for expert in range(block.num_experts):
        tokens = combine[:, expert].nonzero().flatten()
        output[tokens] += block.experts[f"expert_{expert}"](x[tokens]) * combine[tokens, expert, None]
    return (output * (1 - block.experts.moe_token_dropout)).unsqueeze(0)


def run_shared_mlp(model, path, hidden_states):
    """Granite's shared experts stand beside the block."""
    layer = model.get_submodule(path.rpartition(".")[0])
    return layer.block_sparse_moe(hidden_states) + layer.shared_mlp(hidden_states)


def far_from_one(model, path, tensors):
    """What is added to the sum of the scores shows in the weights."""
    assert ((1 - tensors["topk_weights"].sum(dim=1)) > 1e-4).sum() > 12


def some_below_one(model, path, tensors):
    """For some tokens the least divisor is more than the sum of their scores, for others not."""
    sums = tensors["topk_weights"].sum(dim=1)
    assert (sums < 0.9).any() and ((sums - 1).abs() < 1e-6).any()


def run_gemma4(model, path, hidden_states):
    """What stands between the decoder layer's norms of its own, of the residual."""
    layer, x = model.get_submodule(path), hidden_states[0]
    _, weights, ids = layer.router(x)
    return layer.experts(norm_gemma4(model, path, x), ids, weights).unsqueeze(0)


def norm_gemma4(model, path, x):
    return model.get_submodule(path).pre_feedforward_layernorm_2(x)


def scale_gemma4(model):
    """What is 1 in a model that has learned nothing, some of the norm's weights negative."""
    with torch.no_grad():
        for layer in model.model.layers:
            norm = layer.pre_feedforward_layernorm_2.weight
            norm.normal_(std=0.7).exp_()
            norm[::5] *= -1
            layer.router.scale.uniform_(0.25, 0.75).mul_(norm.numel() ** 0.5)
            layer.router.per_expert_scale.uniform_(0.4, 1.8)


def multiplies_apart(model, path, tensors):
    """A router that read what experts read would choose otherwise; the experts' scale shows."""
    layer, ids = model.get_submodule(path), tensors["topk_ids"]
    other = layer.router.proj(tensors["hidden_states"]).topk(ids.shape[1]).indices
    assert (other.sort().values != ids.sort().values).any(dim=1).sum() > 12
    assert ((tensors["topk_weights"].sum(dim=1) - 1).abs() > 0.05).sum() > 12


def in_gemma4(config):
    return {"architectures": ["Gemma4ForConditionalGeneration"], "model_type": "gemma4",
            "torch_dtype": config["torch_dtype"], "text_config": config}


def below_language_model(tensors):
    return {name.replace("model.", "model.language_model.", 1): tensor for name, tensor in tensors.items()}


QWEN = dict(hidden_size=32, intermediate_size=28, moe_intermediate_size=20, num_experts_per_tok=3)
KIMI = dict(hidden_size=32, intermediate_size=40, moe_intermediate_size=20, num_local_experts=8,
            num_experts_per_tok=3, layer_types=["full_attention", "full_attention"])
DEEPSEEK = dict(hidden_size=32, intermediate_size=40, moe_intermediate_size=20, first_k_dense_replace=1)
SWITCH = dict(d_model=32, d_kv=8, d_ff=36, num_heads=2, num_layers=2, num_decoder_layers=2, num_experts=6,
              num_sparse_encoder_layers=1, num_sparse_decoder_layers=1)
NLLB = dict(d_model=24, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=36, decoder_ffn_dim=28, encoder_sparse_step=2,
            decoder_sparse_step=2, num_experts=6, max_position_embeddings=64)
VISION = dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=32)

CASES = [
    Case("mixtral", "Mixtral", heads(hidden_size=48, intermediate_size=40, num_local_experts=6),
         with_bf16("mlp", "block_sparse_moe"), seed=1, shards=2, margin=2e-2),
    Case("mixtral-hot", "Mixtral", heads(hidden_size=24, intermediate_size=17, num_local_experts=8),
         one("mlp", "block_sparse_moe"), seed=2, dtype=F32, hot=(5,), empty=(0, 3)),
    Case("olmoe", "Olmoe", heads(hidden_size=32, intermediate_size=12, num_experts=16, num_experts_per_tok=4),
         one("mlp"), seed=3, dtype=F32),
    Case("qwen2_moe", "Qwen2Moe",
         heads(num_experts=8, shared_expert_intermediate_size=24, decoder_sparse_step=2, **QWEN),
         with_bf16("mlp"), seed=4, margin=2e-2),
    Case("qwen3_moe", "Qwen3Moe", heads(num_experts=10, mlp_only_layers=[0], norm_topk_prob=True, **QWEN),
         one("mlp"), seed=5, dtype=F16, hot=(2,), keys={"num_local_experts": "num_experts"}),
    Case("deepseek_v2", "DeepseekV2",
         mla(n_routed_experts=12, num_experts_per_tok=3, n_shared_experts=2, n_group=4, topk_group=2,
             topk_method="group_limited_greedy", routed_scaling_factor=16.0, **DEEPSEEK),
         one("mlp"), seed=6, groups=True,
         publish_config=lambda c: c | {"scoring_func": "softmax", "moe_layer_freq": 1}),
    Case("deepseek_v2-lite", "DeepseekV2",
         mla(n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=2, n_group=1, topk_group=1, **DEEPSEEK),
         one("mlp"), seed=7, empty=(7,)),
    Case("deepseek_v3", "DeepseekV3",
         mla(n_routed_experts=16, num_experts_per_tok=4, n_group=4, topk_group=2, **DEEPSEEK),
         with_bf16("mlp"), seed=8, shards=3, margin=2e-2, groups=True, choice=routers.by_biased_sigmoid,
         publish_config=published_deepseek, publish_tensors=mtp_layer),
    Case("deepseek_v3-negative", "DeepseekV3",
         mla(n_routed_experts=8, num_experts_per_tok=3, n_group=4, topk_group=2, norm_topk_prob=False,
             **DEEPSEEK),
         one("mlp"), seed=9, groups=True, choice=routers.by_biased_sigmoid,
         publish_config=published_deepseek,
         adjust=lower_scores, assertion=all_negative),
    Case("gpt_oss", "GptOss", heads(hidden_size=32, intermediate_size=20, num_local_experts=8),
         with_bf16("mlp"), seed=10, router="router", margin=2e-2, adjust=stretch_gpt_oss, assertion=clamps),
    Case("llama4", "Llama4",
         heads(hidden_size=32, intermediate_size=24, intermediate_size_mlp=40, num_local_experts=6,
               interleave_moe_layer_step=2),
         with_bf16("feed_forward"), seed=11, config_suffix="TextConfig", router="router", read=routers.llama4,
         margin=2e-2, prefix="language_model.", publish_config=under_text_config),
    Case("llama4_text-top2", "Llama4",
         heads(hidden_size=32, intermediate_size=20, intermediate_size_mlp=40, num_local_experts=8,
               num_experts_per_tok=2, interleave_moe_layer_step=2),
         one("feed_forward"), seed=12, config_suffix="TextConfig", router="router", read=routers.llama4,
         dtype=F32, hot=(1,), empty=(6,)),
    Case("phimoe", "Phimoe",
         heads(hidden_size=32, intermediate_size=24, num_local_experts=8, input_jitter_noise=0.01,
               router_jitter_noise=0.2),
         one("mlp", "block_sparse_moe"), seed=13, router="router", choice=None, assertion=masks,
         publish_config=lambda c: c | {"architectures": ["PhiMoEForCausalLM"]}),
    Case("granitemoe", "GraniteMoe",
         heads(hidden_size=32, intermediate_size=20, num_local_experts=8, num_experts_per_tok=3),
         one("block_sparse_moe"), seed=14, router="router", hot=(4,), empty=(1,)),
    Case("granitemoeshared", "GraniteMoeShared",
         heads(hidden_size=32, intermediate_size=20, num_local_experts=6, num_experts_per_tok=2,
               shared_intermediate_size=28),
         one("block_sparse_moe"), seed=15, router="router", run=run_shared_mlp),
    Case("jetmoe", "JetMoe",
         dict(hidden_size=32, intermediate_size=20, num_hidden_layers=2, num_key_value_heads=1, kv_channels=8,
              num_local_experts=6),
         one("mlp"), seed=16, router="router", read=routers.jetmoe),
    Case("minimax_m2", "MiniMaxM2",
         heads(hidden_size=32, intermediate_size=20, num_local_experts=8, num_experts_per_tok=3),
         one("mlp", "block_sparse_moe"), seed=17, choice=routers.by_biased_sigmoid,
         exact=r"gate\.weight",
         publish_config=lambda c: c | {"scoring_func": "sigmoid", "use_routing_bias": True}),
    Case("glm4_moe", "Glm4Moe",
         heads(n_routed_experts=8, num_experts_per_tok=3, routed_scaling_factor=2.5, **DEEPSEEK),
         one("mlp"), seed=18, choice=routers.by_biased_sigmoid),
    Case("switch_transformers", "SwitchTransformers", SWITCH | {"expert_capacity": 5},
         [Record("encoder.block.1.layer.1.mlp", "encoder.block.1.layer.1.mlp", stack="encoder"),
          Record("decoder.block.1.layer.2.mlp", "decoder.block.1.layer.2.mlp", file="io-decoder")],
         seed=19, suffix="ForConditionalGeneration", router="router", read=routers.switch, choice=None,
         dtype=F32, hot=(2,), capacity=True),
    Case("nllb_moe", "NllbMoe", NLLB | {"moe_eval_capacity_token_fraction": 0.25},
         [Record("model.encoder.layers.1.ffn", "model.encoder.layers.1.ffn", stack="encoder"),
          Record("model.decoder.layers.1.ffn", "model.decoder.layers.1.ffn", file="io-decoder")],
         seed=20, suffix="ForConditionalGeneration", router="router", read=routers.nllb, choice=None,
         run=run_nllb, dtype=F32, hot=(2,), capacity=True),
    Case("nllb_moe-prioritized", "NllbMoe",
         NLLB | {"moe_eval_capacity_token_fraction": 0.0, "expert_capacity": 7, "moe_token_dropout": 0.0,
                 "normalize_router_prob_before_dropping": True, "batch_prioritized_routing": True,
                 "router_bias": True},
         [Record("model.encoder.layers.1.ffn", "model.encoder.layers.1.ffn", stack="encoder")],
         seed=21, suffix="ForConditionalGeneration", router="router", read=routers.nllb, choice=None,
         run=run_nllb, hot=(0,), capacity=True),
    Case("flex_olmo", "FlexOlmo",
         heads(hidden_size=32, intermediate_size=20, num_experts=7, num_experts_per_tok=3, norm_topk_prob=True),
         one("mlp"), seed=22),
    Case("qwen3_next", "Qwen3Next",
         heads(num_experts=8, shared_expert_intermediate_size=12, mlp_only_layers=[0],
               layer_types=["full_attention", "full_attention"], **QWEN),
         one("mlp"), seed=23),
    Case("minimax", "MiniMax",
         heads(hidden_size=32, intermediate_size=20, num_local_experts=6,
               layer_types=["full_attention", "full_attention"]),
         one("mlp", "block_sparse_moe"), seed=24),
    Case("dots1", "Dots1",
         heads(n_routed_experts=6, num_experts_per_tok=2, n_shared_experts=2, norm_topk_prob=True,
               routed_scaling_factor=2.5, **DEEPSEEK),
         one("mlp"), seed=25, choice=routers.by_biased_sigmoid),
    Case("ernie4_5_moe", "Ernie4_5_Moe",
         heads(hidden_size=32, intermediate_size=40, moe_intermediate_size=20, moe_num_experts=8, moe_k=3,
               moe_layer_start_index=1, moe_layer_end_index=1),
         one("mlp"), seed=26, choice=routers.by_biased_softmax, exact=r"mlp\.gate\.weight"),
    Case("hunyuan_v1_moe", "HunYuanMoEV1",
         heads(hidden_size=32, intermediate_size=20, num_experts=8, moe_topk=[2, 3]),
         one("mlp"), seed=27),
    Case("lfm2_moe", "Lfm2Moe",
         dict(hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
              num_key_value_heads=2, moe_intermediate_size=20, num_experts=8, num_experts_per_tok=3,
              num_dense_layers=1, layer_types=["full_attention", "full_attention"]),
         one("feed_forward"), seed=28, choice=routers.by_biased_sigmoid),
    Case("lfm2_moe-low", "Lfm2Moe",
         dict(hidden_size=32, intermediate_size=16, num_hidden_layers=2, num_attention_heads=4,
              num_key_value_heads=2, moe_intermediate_size=8, num_experts=8, num_experts_per_tok=3,
              num_dense_layers=1, layer_types=["full_attention", "full_attention"]),
         one("feed_forward"), seed=44, choice=routers.by_biased_sigmoid, level=-9.0, assertion=far_from_one),
    Case("ernie4_5_moe-norm_min", "Ernie4_5_Moe",
         heads(hidden_size=32, intermediate_size=16, moe_intermediate_size=8, moe_num_experts=8, moe_k=3,
               moe_layer_start_index=1, moe_layer_end_index=1, moe_norm_min=0.8),
         one("mlp"), seed=45, choice=routers.by_biased_softmax, exact=r"mlp\.gate\.weight",
         assertion=some_below_one),
    Case("jamba", "Jamba",
         heads(hidden_size=32, intermediate_size=20, num_experts=8, attn_layer_period=1, attn_layer_offset=0,
               use_mamba_kernels=False),
         one("feed_forward"), seed=29, router="router"),
    Case("afmoe", "Afmoe",
         heads(hidden_size=32, intermediate_size=40, moe_intermediate_size=20, num_experts=8,
               num_experts_per_tok=3, route_scale=1.5),
         one("mlp"), seed=30, router="router", choice=routers.by_biased_sigmoid),
    Case("dbrx", "Dbrx",
         dict(d_model=32, n_heads=2, n_layers=2, max_seq_len=64,
              attn_config=dict(kv_n_heads=2, rope_theta=1e4),
              ffn_config=dict(hidden_size=32, ffn_hidden_size=20, moe_num_experts=6, moe_top_k=3)),
         [Record("transformer.blocks.1.ffn", "transformer.blocks.1.ffn")], seed=31, router="router",
         read=routers.dbrx),
    Case("aria", "AriaText",
         heads(hidden_size=32, intermediate_size=20, moe_num_experts=6),
         one("mlp"), seed=32, router="router", prefix="language_model.", publish_config=in_aria),
    Case("nemotron_h", "NemotronH",
         heads(hidden_size=32, intermediate_size=40, moe_intermediate_size=20, n_routed_experts=8,
               num_experts_per_tok=3, moe_shared_expert_intermediate_size=28, routed_scaling_factor=2.5,
               layers_block_type=["mlp", "moe"]),
         [Record("model.layers.1.mixer", "backbone.layers.1.mixer")], seed=33,
         choice=routers.by_biased_sigmoid, publish_config=published_nemotron_h),
    Case("glm4_moe_lite", "Glm4MoeLite",
         mla(hidden_size=32, intermediate_size=40, moe_intermediate_size=20, n_routed_experts=8,
             num_experts_per_tok=3, n_group=2, topk_group=1),
         one("mlp"), seed=34, groups=True, choice=routers.by_biased_sigmoid),
    Case("exaone_moe", "ExaoneMoe",
         heads(num_experts=8, layer_types=["full_attention", "full_attention"], **QWEN),
         one("mlp"), seed=35, choice=routers.by_biased_sigmoid),
    Case("granitemoehybrid", "GraniteMoeHybrid",
         dict(hidden_size=32, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2,
              num_local_experts=6, num_experts_per_tok=3, shared_intermediate_size=12,
              layer_types=["full_attention", "full_attention"], mamba_n_heads=2),
         one("block_sparse_moe"), seed=36, router="router", run=run_shared_mlp),
    Case("solar_open", "SolarOpen",
         heads(hidden_size=32, moe_intermediate_size=20, n_routed_experts=6, num_experts_per_tok=2),
         one("mlp"), seed=37, choice=routers.by_biased_sigmoid),
    Case("mimo_v2_flash", "MiMoV2Flash",
         heads(hidden_size=32, intermediate_size=40, moe_intermediate_size=20, n_routed_experts=8,
               num_experts_per_tok=3, v_head_dim=8),
         one("mlp"), seed=38, choice=routers.by_biased_sigmoid, publish_config=published_mimo),
    Case("hy_v3", "HYV3",
         heads(hidden_size=32, intermediate_size=40, moe_intermediate_size=20, num_experts=8,
               num_experts_per_tok=3),
         one("mlp"), seed=39, choice=routers.by_biased_sigmoid),
    Case("glm_moe_dsa", "GlmMoeDsa",
         mla(hidden_size=32, intermediate_size=40, moe_intermediate_size=20, n_routed_experts=8,
             num_experts_per_tok=3, first_k_dense_replace=1) |
         dict(q_lora_rank=8, index_topk=4, index_head_dim=16, index_n_heads=2),
         one("mlp"), seed=40, choice=routers.by_biased_sigmoid),
    Case("glm4v_moe", "Glm4vMoe",
         dict(text_config=heads(hidden_size=32, intermediate_size=40, moe_intermediate_size=20,
                                n_routed_experts=8, num_experts_per_tok=3, n_group=2, topk_group=1,
                                vocab_size=8),
              vision_config=VISION),
         in_language_model("mlp"), seed=41, suffix="ForConditionalGeneration", groups=True,
         choice=routers.by_biased_sigmoid, publish_tensors=without_vision),
    Case("qwen3_vl_moe", "Qwen3VLMoe",
         dict(text_config=heads(num_experts=8, vocab_size=8, **QWEN),
              vision_config=VISION | dict(num_position_embeddings=16, deepstack_visual_indexes=[0])),
         in_language_model("mlp"), seed=42, suffix="ForConditionalGeneration",
         publish_config=published_qwen3_vl, publish_tensors=transposed_experts),
    Case("mellum", "Mellum",
         heads(num_experts=8, mlp_layer_types=["dense", "sparse"], layer_types=["full_attention"] * 2, **QWEN),
         one("mlp"), seed=43),
    Case("qwen3_5_moe", "Qwen3_5Moe",
         heads(hidden_size=32, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=20,
               shared_expert_intermediate_size=12, layer_types=["full_attention", "full_attention"]),
         [Record("model.layers.1.mlp", "model.language_model.layers.1.mlp")], seed=44, config_suffix="TextConfig", publish_config=in_qwen3_5,
         publish_tensors=published_qwen3_5),
    Case("kimi_linear", "KimiLinear", mla(**KIMI) | dict(mlp_layer_types=["dense", "sparse"]),
         with_bf16("mlp", "block_sparse_moe"), seed=45, margin=2e-2, exact=r"gate\.weight",
         choice=routers.by_biased_sigmoid, publish_config=published_kimi_linear,
         publish_tensors=dense_as_published),
    Case("mistral4", "Mistral4",
         mla(n_routed_experts=8, num_experts_per_tok=3, n_group=4, topk_group=2,
             routed_scaling_factor=1.5, **DEEPSEEK) |
         dict(q_lora_rank=8),
         one("mlp"), seed=46, groups=True, prefix="language_model.", publish_config=in_mistral3),
    Case("bailing_hybrid", "BailingHybrid",
         mla(n_group=4, topk_group=2, **KIMI) | dict(first_k_dense_replace=1, q_lora_rank=8),
         one("mlp"), seed=47, groups=True, exact=r"gate\.weight", choice=routers.by_biased_sigmoid),
    Case("flint", "Flint",
         heads(num_experts=8, shared_expert_intermediate_size=12, mlp_only_layers=[0],
               layer_types=["full_attention", "full_attention"], **QWEN),
         one("mlp"), seed=48, exact=r"gate\.weight"),
    Case("lara_mini", "LaraMini",
         heads(hidden_size=32, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=20,
               shared_expert_intermediate_size=12, layer_types=["full_attention", "full_attention"]),
         one("mlp"), seed=49),
    Case("granitemoe_swa", "GraniteMoeSWA",
         heads(hidden_size=32, intermediate_size=20, num_local_experts=6, num_experts_per_tok=3,
               shared_intermediate_size=12, layer_types=["full_attention", "full_attention"]),
         one("block_sparse_moe"), seed=50, router="router", run=run_shared_mlp),
    Case("beam", "Beam",
         heads(num_experts=8, n_group=4, topk_group=2, mlp_layer_types=["dense", "sparse"],
               layer_types=["full_attention", "full_attention"], **QWEN),
         one("mlp"), seed=51, groups=True, read=routers.scaled, exact=r"gate\.weight",
         choice=routers.by_biased_sigmoid),
    Case("laguna", "Laguna",
         heads(num_experts=8, shared_expert_intermediate_size=12, moe_routed_scaling_factor=2.5, **QWEN),
         one("mlp"), seed=52, read=routers.scaled, choice=routers.by_biased_sigmoid),
    Case("minimax_m3_vl", "MiniMaxM3VL",
         heads(hidden_size=32, intermediate_size=20, dense_intermediate_size=40, shared_intermediate_size=12,
               num_local_experts=8, num_experts_per_tok=3, mlp_layer_types=["dense", "sparse"]),
         one("mlp", "block_sparse_moe"), seed=53, config_suffix="TextConfig", read=routers.scaled,
         prefix="language_model.", choice=routers.by_biased_sigmoid, publish_config=published_minimax_m3,
         publish_tensors=minimax_m3_as_published,
         adjust=stretch_experts, assertion=clamps_separately),
    Case("qwen3_omni_moe", "Qwen3OmniMoe",
         dict(text_config=heads(num_experts=8, mlp_only_layers=[0], vocab_size=8, **QWEN),
              vision_config=VISION | dict(deepstack_visual_indexes=[]), audio_config=dict(d_model=8, encoder_layers=1, encoder_attention_heads=1,
                                                      encoder_ffn_dim=8, output_dim=32)),
         [Record("model.language_model.layers.1.mlp", "thinker.model.layers.1.mlp")], seed=54,
         suffix="ThinkerForConditionalGeneration", config_suffix="ThinkerConfig", publish_config=in_thinker,
         publish_tensors=thinker_alone),
    Case("hy_v4", "HYV4",
         mla(hidden_size=32, intermediate_size=40, moe_intermediate_size=20, n_routed_experts=8,
             num_experts_per_tok=3, n_group=4, topk_group=2, swiglu_limit=2.0) |
         dict(q_lora_rank=8, index_topk=4, index_head_dim=16, index_n_heads=2),
         one("mlp"), seed=55, groups=True, exact=r"mlp\.gate\.weight", choice=routers.by_biased_sigmoid,
         publish_tensors=gates_as_published, adjust=stretch_experts,
         assertion=clamps_separately),
    Case("glm5_next", "Glm5Next",
         dict(text_config=mla(hidden_size=32, intermediate_size=40, moe_intermediate_size=20, n_routed_experts=8,
                              num_experts_per_tok=3, swiglu_limit=2.0, vocab_size=8, pad_token_id=0,
                              mlp_layer_types=["dense", "sparse"], layer_types=["full_attention"] * 2) |
              dict(q_lora_rank=8, qk_rope_head_dim=0, index_topk=16, index_head_dim=16, index_n_heads=2),
              vision_config=VISION),
         in_language_model("mlp"), seed=56, suffix="ForConditionalGeneration", exact=r"gate\.weight",
         choice=routers.by_biased_sigmoid, publish_tensors=without_towers, adjust=stretch_experts,
         assertion=clamps_separately),
    Case("step3p7", "Step3p7",
         dict(text_config=heads(hidden_size=32, intermediate_size=40, moe_intermediate_size=20, n_routed_experts=8,
                                num_experts_per_tok=3, share_expert_dim=12, moe_router_scaling_factor=1.5,
                                mlp_layer_types=["dense", "sparse"], swiglu_limits=[None, 1.5],
                                swiglu_limits_shared=[0, 2.5], vocab_size=8),
              vision_config=dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                                 num_attention_heads=2, image_size=28)),
         [Record("model.language_model.layers.1.mlp", "model.layers.1.moe")], seed=57, exact="router_bias",
         suffix="ForConditionalGeneration", read=routers.scaled, choice=routers.by_biased_sigmoid,
         publish_config=published_step3p7, publish_tensors=without_towers, adjust=stretch_experts,
         assertion=clamps_separately),
    Case("axk2", "AXK2",
         mla(n_routed_experts=8, num_experts_per_tok=4, n_group=4, topk_group=3, **DEEPSEEK) |
         dict(q_lora_rank=8, index_topk=4, index_head_dim=16, index_n_heads=2, gated_norm_rank=4,
              mlp_layer_types=["dense", "sparse"]),
         one("mlp"), seed=60, exact=r"mlp\.gate\.weight", choice=routers.cut_to_zero, adjust=lower_half,
         assertion=zeros_win),
    Case("longcat_flash", "LongcatFlash", LONGCAT, one("mlp"), seed=65, router="router", exact=r"mlp\.router\.",
         choice=routers.by_biased_softmax, publish_tensors=without_idle_gates,
         publish_config=lambda config: config | dict(zero_expert_type="identity", router_bias=False),
         assertion=some_identities),
    Case("longcat_flash-saved", "LongcatFlash", LONGCAT | dict(zero_expert_num=9), one("mlp"), seed=71, router="router",
         choice=routers.by_biased_softmax, assertion=some_identities),
    Case("cohere2_moe", "Cohere2Moe",
         heads(hidden_size=32, intermediate_size=20, prefix_dense_intermediate_size=40, num_experts=8,
               num_experts_per_tok=3, num_shared_experts=2, mlp_layer_types=["dense", "sparse"],
               layer_types=["full_attention"] * 2, expert_selection_fn="sigmoid"),
         with_bf16("mlp"), seed=58, margin=2e-2, read=routers.averaged),
    Case("cohere2_moe-softmax", "Cohere2Moe",
         heads(hidden_size=32, intermediate_size=20, num_experts=6, num_shared_experts=1,
               layer_types=["full_attention"] * 2, shared_expert_combination_strategy="sum"),
         one("mlp"), seed=59),
    Case("gemma4", "Gemma4",
         heads(hidden_size=32, intermediate_size=12, moe_intermediate_size=20, enable_moe_block=True, num_experts=8,
               top_k_experts=3, hidden_size_per_layer_input=0, vocab_size_per_layer_input=8, global_head_dim=8,
               layer_types=["full_attention"]) | dict(num_hidden_layers=1),
         [Record("model.layers.0", "model.language_model.layers.0", layer=0),
          Record("model.layers.0", "model.language_model.layers.0", layer=0, file="io-bf16", dtype=BF16)],
         seed=72, config_suffix="TextConfig", router="router", logits="router.proj", read=routers.gemma4,
         run=run_gemma4, entry=norm_gemma4, margin=2e-2, publish_config=in_gemma4,
         publish_tensors=below_language_model, adjust=scale_gemma4, assertion=multiplies_apart),
]
