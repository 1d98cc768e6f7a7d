# SPDX-License-Identifier: MIT
"""A point's layer in PyTorch: weights and inputs of moectl's distributions, the router's rule, the
experts as a loop or as a grouped product, transformers' blocks, and the reference in float64.

A peer is called with the hidden states [T, H] and gives the output. choose() is the routing it
does on the way, (ids, weights, kept) of [T, K], which the check reads.
"""

import math

import torch
import torch.nn.functional as F

import layers
import record

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# The worst sampled token's error, relative to its norm. Narrow logits and activations cost a part
# in 256 or 2048 each; a wrong expert costs all.
TOLERANCES = {"fp32": 2e-5, "fp16": 0.01, "bf16": layers.TOLERANCE}
# Parameters that the layer below honours; all others have to be at their defaults.
KNOWN = {"seed", "hidden_size", "intermediate_size", "num_experts", "top_k", "activation",
         "swiglu_alpha", "swiglu_limit", "gate_up_bias", "down_bias", "shared_intermediate_size",
         "shared_gate", "shared_scaling_factor", "weight_format", "grouped_gemm_variant",
         "router_variant", "scoring", "score_after_topk", "renormalize", "renormalize_epsilon",
         "renormalize_minimum", "routed_scaling_factor", "score_correction_bias",
         "num_expert_group", "topk_group", "group_score", "jitter", "router_bias",
         "capacity_factor", "capacity_of_tokens", "min_capacity", "drop_policy", "dtype",
         "num_tokens", "distribution", "skew_exponent", "skew_clusters", "skew_noise"}
VALUES = {"scoring": ("softmax", "sigmoid", "sqrt_softplus"), "distribution": ("normal", "skewed"),
          "drop_policy": ("position", "probability")}


def unsuitable(params, defaults):
    """What of a point's work is not done here; None: all is."""
    why = record.not_default(params, defaults, KNOWN)
    for name, values in VALUES.items():
        if params[name] not in values:
            why = f"{name} is {params[name]}"
    if params["weight_format"] not in ("dtype", params["dtype"]):
        why = f"weight_format is {params['weight_format']}"
    if params["activation"] not in PLAIN and params["activation"] not in GATED:
        why = f"activation is {params['activation']}"
    return why


# --- weights and inputs ------------------------------------------------------------------

def shapes_of(p):
    """{name: (shape, scale)} of the tensors that the layer has: activations keep unit variance."""
    wide, narrow = 1 / math.sqrt(p["hidden_size"]), 1 / math.sqrt(p["intermediate_size"])
    experts, hidden, inner = p["num_experts"], p["hidden_size"], p["intermediate_size"]
    parts = 2 if record.is_gated(p) else 1
    shared = p["shared_intermediate_size"] or 0
    shapes = {"router": ((experts, hidden), wide),
              "gate_up": ((experts, parts * inner, hidden), wide),
              "down": ((experts, hidden, inner), narrow)}
    if p["router_bias"]:
        shapes["router_bias"] = ((experts,), 0.1)
    if p["score_correction_bias"]:
        shapes["correction"] = ((experts,), 0.1)
    if p["gate_up_bias"]:
        shapes["gate_up_bias"] = ((experts, parts * inner), 0.1)
    if p["down_bias"]:
        shapes["down_bias"] = ((experts, hidden), 0.1)
    if shared:
        shapes["shared_gate_up"] = ((parts * shared, hidden), wide)
        shapes["shared_down"] = ((hidden, shared), 1 / math.sqrt(shared))
    if shared and p["shared_gate"]:
        shapes["shared_gate"] = ((1, hidden), wide)
    return shapes


def generator_of(p, device, which):
    """Seeds of 64 bits are written as texts where JSON's integers end."""
    return torch.Generator(device).manual_seed((int(p["seed"]) + which) % (1 << 63))


def draw_weights(p, device):
    generator = generator_of(p, device, 0)
    weights = {}
    for name, (shape, scale) in shapes_of(p).items():
        weights[name] = torch.empty(shape, device=device, dtype=DTYPES[p["dtype"]])
        for item in weights[name]:  # an expert at a time: a draw needs no second copy
            item.normal_(0, scale, generator=generator)
    return weights


def draw_skewed(p, device, generator):
    """Clusters by Zipf's law, as moecl_fill_skewed has them."""
    count, noise = p["skew_clusters"] or p["num_experts"], p["skew_noise"]
    ranks = torch.arange(1, count + 1, device=device, dtype=torch.float64)
    clusters = torch.multinomial(ranks ** -p["skew_exponent"], p["num_tokens"], True,
                                 generator=generator)
    centres = torch.randn(count, p["hidden_size"], device=device, generator=generator)
    own = torch.randn(p["num_tokens"], p["hidden_size"], device=device, generator=generator)
    return math.sqrt(1 - noise * noise) * centres[clusters] + noise * own


def draw_inputs(p, device, sets):
    generator = generator_of(p, device, 1)
    inputs = []
    for _ in range(sets):
        if p["distribution"] == "skewed":
            x = draw_skewed(p, device, generator)
        else:
            x = torch.randn(p["num_tokens"], p["hidden_size"], device=device, generator=generator)
        inputs.append(x.to(DTYPES[p["dtype"]]))
    return inputs


# --- the rule ------------------------------------------------------------------------------

PLAIN = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu, "relu2": lambda x: F.relu(x).square(),
         "gelu_tanh": lambda x: F.gelu(x, approximate="tanh")}
GATED = {"swiglu": lambda gate, up, p: F.silu(gate) * up,
         "geglu": lambda gate, up, p: F.gelu(gate) * up,
         "geglu_tanh": lambda gate, up, p: F.gelu(gate, approximate="tanh") * up,
         "swiglu_clamped": lambda gate, up, p: clamped(gate, up, p["swiglu_alpha"], p["swiglu_limit"]),
         "swiglu_limited": lambda gate, up, p: F.silu(gate.clamp(max=p["swiglu_limit"])) *
         up.clamp(-p["swiglu_limit"], p["swiglu_limit"]),
         "swiglu_limited_silu": lambda gate, up, p: F.silu(gate).clamp(max=p["swiglu_limit"]) *
         up.clamp(-p["swiglu_limit"], p["swiglu_limit"])}


def clamped(gate, up, alpha, limit):
    gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return gate * torch.sigmoid(alpha * gate) * (up + 1)


def activate(x, p):
    name = p["activation"]
    return PLAIN[name](x) if name in PLAIN else GATED[name](*x.chunk(2, -1), p)


def scores_of(logits, p):
    if p["scoring"] == "softmax":
        return logits.softmax(-1)
    return logits.sigmoid() if p["scoring"] == "sigmoid" else F.softplus(logits).sqrt()


def best_groups(values, p):
    """-inf in place of experts in groups that are not among the best."""
    groups, wanted = p["num_expert_group"], p["topk_group"]
    if not groups or wanted == groups:
        return values
    grouped = values.view(len(values), groups, -1)
    of_groups = (grouped.amax(-1) if p["group_score"] == "max" else grouped.topk(2, -1).values.sum(-1))
    taken = torch.zeros_like(of_groups, dtype=torch.bool)
    taken.scatter_(1, of_groups.topk(wanted, -1).indices, True)
    return grouped.masked_fill(~taken[..., None], -math.inf).view_as(values)


def weigh(logits, scores, ids, p):
    """The weights of the chosen experts."""
    chosen = scores_of(logits.gather(1, ids), p) if p["score_after_topk"] else scores.gather(1, ids)
    if p["renormalize"]:
        epsilon = p["renormalize_epsilon"] or (0 if p["scoring"] == "softmax" else 1e-20)
        total = chosen.sum(-1, keepdim=True) + epsilon
        chosen = chosen / (total.clamp(min=p["renormalize_minimum"]) if p["renormalize_minimum"]
                           else total)
    return chosen * p["routed_scaling_factor"] if p["routed_scaling_factor"] != 1 else chosen


def choose(logits, correction, p):
    """(ids, weights) of [T, K]."""
    scores = None if p["score_after_topk"] else scores_of(logits, p)
    values = logits if scores is None else scores
    if correction is not None:
        values = values + correction
    ids = best_groups(values, p).topk(p["top_k"], -1).indices
    return ids, weigh(logits, scores, ids, p)


def keep(ids, weights, capacity, p):
    """Which assignments an expert has room for, [T, K]."""
    if p["drop_policy"] == "probability":
        order = weights.flatten().argsort(descending=True, stable=True)
    else:  # first choices before second choices, then token order
        order = torch.arange(ids.numel(), device=ids.device).view_as(ids).t().flatten()
    by_expert, place = ids.flatten()[order].sort(stable=True)
    experts = torch.arange(p["num_experts"], device=ids.device)
    rank = torch.arange(ids.numel(), device=ids.device) - torch.searchsorted(by_expert, experts)[by_expert]
    kept = torch.empty(ids.numel(), dtype=torch.bool, device=ids.device)
    kept[order[place]] = rank < capacity
    return kept.view_as(ids)


# --- the peers -----------------------------------------------------------------------------

class Layer:
    """PyTorch's functions alone; `experts` is one of the two ways below."""

    def __init__(self, p, weights, experts):
        self.p, self.weights, self.experts = p, weights, experts
        self.capacity = record.capacity_of(p)

    def choose(self, x, noise=None):
        p, weights = self.p, self.weights
        if p["jitter"] and noise is None:
            noise = draw_noise(x, p)
        logits = F.linear(x if noise is None else x * noise, weights["router"], weights.get("router_bias"))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        ids, share = choose(logits, weights.get("correction"), p)
        return ids, share, None if self.capacity is None else keep(ids, share, self.capacity, p)

    def shared(self, x):
        y = F.linear(activate(F.linear(x, self.weights["shared_gate_up"]), self.p),
                     self.weights["shared_down"])
        if "shared_gate" in self.weights:
            y = y * F.linear(x, self.weights["shared_gate"]).sigmoid()
        return y * self.p["shared_scaling_factor"]

    def __call__(self, x, noise=None):
        out = self.experts(x, self.weights, *self.choose(x, noise), self.p)
        return out + self.shared(x) if "shared_gate_up" in self.weights else out


def draw_noise(x, p):
    return torch.empty_like(x).uniform_(1 - p["jitter"], 1 + p["jitter"])


def expert_loop(x, weights, ids, share, kept, p):
    """One expert after the other, on the tokens that chose it."""
    out = torch.zeros_like(x)
    gate_up_bias, down_bias = weights.get("gate_up_bias"), weights.get("down_bias")
    if kept is not None:
        ids = ids.masked_fill(~kept, p["num_experts"])
    for expert in range(p["num_experts"]):
        token, slot = torch.where(ids == expert)
        if len(token) == 0:
            continue
        inner = F.linear(x[token], weights["gate_up"][expert],
                         None if gate_up_bias is None else gate_up_bias[expert])
        y = F.linear(activate(inner, p), weights["down"][expert],
                     None if down_bias is None else down_bias[expert])
        out.index_add_(0, token, y * share[token, slot, None].to(y.dtype))
    return out


def expert_groups(x, weights, ids, share, kept, p):
    """All experts in two grouped products, on rows sorted by expert; dropped ones come last."""
    experts = p["num_experts"]
    flat = ids.flatten() if kept is None else ids.masked_fill(~kept, experts).flatten()
    by_expert, order = flat.sort(stable=True)
    ends = torch.searchsorted(by_expert, torch.arange(experts, device=x.device), right=True,
                              out_int32=True)
    token = torch.div(order, p["top_k"], rounding_mode="floor")
    row_of = by_expert.clamp(max=experts - 1)
    y = layers.grouped_mm(x.index_select(0, token), weights["gate_up"].transpose(1, 2), ends)
    if "gate_up_bias" in weights:
        y = y + weights["gate_up_bias"].index_select(0, row_of)
    y = layers.grouped_mm(activate(y, p), weights["down"].transpose(1, 2), ends)
    if "down_bias" in weights:
        y = y + weights["down_bias"].index_select(0, row_of)
    y = y * share.flatten()[order].to(y.dtype)[:, None]
    if kept is not None:  # no product wrote the dropped rows
        y = torch.where((by_expert < experts)[:, None], y, 0)
    return torch.zeros_like(x).index_add_(0, token, y)


class Block:
    """A block of transformers around the same weights."""

    def __init__(self, block, gate):
        self.block, self.gate = block, gate

    def choose(self, x, noise=None):
        ids, share = self.gate(x)
        return ids, share, None

    def __call__(self, x, noise=None):
        out = self.block(x[None])
        return (out[0] if isinstance(out, tuple) else out)[0]


def put(module, **tensors):
    """In place of the module's own parameters, which have no memory yet."""
    for name, tensor in tensors.items():
        if tuple(getattr(module, name).shape) != tuple(tensor.shape):
            raise layers.Unsuitable(f"this transformers' {name} is {tuple(getattr(module, name).shape)}")
        setattr(module, name, torch.nn.Parameter(tensor, requires_grad=False))


def qwen3_block(p, weights, implementation):
    """Qwen3-MoE's, whose rule is Mixtral's too and, without renormalizing, OLMoE's."""
    from transformers import Qwen3MoeConfig
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock
    names = {"swiglu": "silu", "geglu": "gelu", "geglu_tanh": "gelu_pytorch_tanh"}
    config = Qwen3MoeConfig(hidden_size=p["hidden_size"], moe_intermediate_size=p["intermediate_size"],
                            num_experts=p["num_experts"], num_experts_per_tok=p["top_k"],
                            norm_topk_prob=p["renormalize"], hidden_act=names[p["activation"]])
    config._experts_implementation = implementation
    with torch.device("meta"):
        block = Qwen3MoeSparseMoeBlock(config).eval()
    put(block.gate, weight=weights["router"])
    put(block.experts, gate_up_proj=weights["gate_up"], down_proj=weights["down"])
    return Block(block, lambda x: block.gate(x)[:0:-1])


def gpt_oss_block(p, weights, implementation):
    """gpt-oss's, with gate and up in turn and matrices the other way round: copies."""
    from transformers import GptOssConfig
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssMLP
    config = GptOssConfig(hidden_size=p["hidden_size"], intermediate_size=p["intermediate_size"],
                          num_local_experts=p["num_experts"], num_experts_per_tok=p["top_k"],
                          swiglu_limit=p["swiglu_limit"], swiglu_alpha=p["swiglu_alpha"])
    config._experts_implementation = implementation
    with torch.device("meta"):
        block = GptOssMLP(config).eval()
    in_turn = [torch.stack(weights[name].chunk(2, 1), 2).flatten(1, 2)
               for name in ("gate_up", "gate_up_bias")]
    put(block.router, weight=weights["router"], bias=weights["router_bias"])
    put(block.experts, gate_up_proj=in_turn[0].transpose(1, 2).contiguous(),
        gate_up_proj_bias=in_turn[1].contiguous(),
        down_proj=weights["down"].transpose(1, 2).contiguous(), down_proj_bias=weights["down_bias"])
    return Block(block, lambda x: block.router(x)[:0:-1])


# What a family's block is made for: values that are not the defaults.
QWEN3 = {"renormalize", "activation"}
GPT_OSS = {"score_after_topk": True, "router_bias": True, "gate_up_bias": True, "down_bias": True,
           "activation": "swiglu_clamped", "renormalize": True}
RULE = ("gate_up_bias", "down_bias", "shared_intermediate_size", "scoring", "score_after_topk",
        "renormalize", "renormalize_epsilon", "renormalize_minimum", "routed_scaling_factor",
        "score_correction_bias", "num_expert_group", "jitter", "router_bias", "capacity_factor",
        "activation")


def transformers_block(p, defaults, weights, implementation):
    """The block whose rule the point's is."""
    if all(p[name] == GPT_OSS.get(name, defaults[name]) for name in RULE):
        return gpt_oss_block(p, weights, implementation)
    odd = [name for name in RULE if name not in QWEN3 and p[name] != defaults[name]]
    if odd:
        raise layers.Unsuitable(f"no block of transformers is tried with {odd[0]} {p[odd[0]]}")
    if p["activation"] not in ("swiglu", "geglu", "geglu_tanh"):
        raise layers.Unsuitable(f"no block of transformers is tried with {p['activation']}")
    return qwen3_block(p, weights, implementation)


def build(name, p, defaults, weights):
    """(peer, variants) by the peer's name; Unsuitable says why there is none."""
    if name == "loop":
        return Layer(p, weights, expert_loop), {"router": "topk", "permute": "where",
                                                "grouped_gemm": "linear", "combine": "add"}
    if name == "grouped_mm":
        if not (hasattr(F, "grouped_mm") or hasattr(torch, "_grouped_mm")):
            raise layers.Unsuitable("this PyTorch has no grouped_mm")
        return Layer(p, weights, expert_groups), {"router": "topk", "permute": "sort",
                                                  "grouped_gemm": "grouped_mm", "combine": "add"}
    implementation = "grouped_mm"
    block = transformers_block(p, defaults, weights, implementation)
    return block, {"grouped_gemm": type(block.block).__name__}


# --- the reference, in float64 and plain loops ------------------------------------------------

MOST_TOKENS = 32


def sample(gaps):
    """Tokens to check: of a spread over all, those whose experts are least in doubt."""
    spread = torch.linspace(0, len(gaps) - 1, min(len(gaps), 512)).long().unique()
    best = gaps[spread].topk(min(MOST_TOKENS, max(1, len(spread) // 2))).indices
    return spread[best]


def expected_choice(x, noise, weights, p):
    """In float64: logits, and by token how far the choice is from another one."""
    rows = x.double() if noise is None else (x * noise).double()
    logits = rows @ weights["router"].double().t()
    if "router_bias" in weights:
        logits = logits + weights["router_bias"].double()
    values = logits if p["score_after_topk"] else scores_of(logits, p)
    values = best_groups(values + weights["correction"].double() if "correction" in weights else values, p)
    ordered = values.sort(-1, descending=True).values
    k = p["top_k"]
    gaps = (torch.full((len(x),), math.inf, dtype=torch.float64) if k == values.shape[1] else
            ((ordered[:, k - 1] - ordered[:, k]) / ordered[:, 0].abs()).cpu())
    return logits, values, gaps


def expected_kept(ids, share, capacity, p):
    """Who stays, one after the other."""
    room, kept = [capacity] * p["num_experts"], set()
    tokens, top_k = ids.shape
    places = [(t, k) for k in range(top_k) for t in range(tokens)]
    if p["drop_policy"] == "probability":
        flat = share.tolist()
        places = sorted(((t, k) for t in range(tokens) for k in range(top_k)),
                        key=lambda place: -flat[place[0]][place[1]])
    chosen = ids.tolist()
    for t, k in places:
        if room[chosen[t][k]] > 0:
            room[chosen[t][k]] -= 1
            kept.add((t, k))
    return kept


def expected_expert(rows, weights, expert, p):
    inner = rows @ weights["gate_up"][expert].double().t()
    if "gate_up_bias" in weights:
        inner = inner + weights["gate_up_bias"][expert].double()
    out = activate(inner, p) @ weights["down"][expert].double().t()
    return out + weights["down_bias"][expert].double() if "down_bias" in weights else out


def expected_shared(rows, weights, p):
    inner = activate(rows @ weights["shared_gate_up"].double().t(), p)
    out = inner @ weights["shared_down"].double().t()
    if "shared_gate" in weights:
        out = out * (rows @ weights["shared_gate"].double().t()).sigmoid()
    return out * p["shared_scaling_factor"]


def expected_output(x, tokens, ids, share, kept, weights, p):
    """The sampled tokens' outputs, of the experts that were chosen; share: of the tokens alone."""
    rows = x[tokens].double()
    out = expected_shared(rows, weights, p) if "shared_gate_up" in weights else torch.zeros_like(rows)
    chosen = ids[tokens].tolist()
    for expert in sorted({e for row in chosen for e in row}):
        places = [(i, row.index(expert)) for i, row in enumerate(chosen) if expert in row]
        y = expected_expert(rows[[i for i, _ in places]], weights, expert, p)
        for (i, k), one in zip(places, y):
            if kept is None or (tokens[i], k) in kept:
                out[i] += share[i, k] * one
    return out


def wrong_choices(ids, values, gaps, tokens, p, doubt):
    """Of the sampled tokens, those whose experts are others although nothing is near."""
    best = values.topk(p["top_k"], -1).indices
    return sum(gaps[t].item() > doubt and set(ids[t].tolist()) != set(best[t].tolist()) for t in tokens)


def check(peer, x, weights, p, call=None):
    """The peer's answer beside the reference: (verify of results.json, why it is wrong, counts)."""
    noise = draw_noise(x, p) if p["jitter"] else None
    ids, share, kept = peer.choose(x, noise)
    out = (call or peer)(x, noise)
    logits, values, gaps = expected_choice(x, noise, weights, p)
    tokens = sample(gaps).tolist()
    tolerance = TOLERANCES[p["dtype"]]
    mismatches = wrong_choices(ids, values, gaps, tokens, p, 1e-5 if p["dtype"] == "fp32" else 0.03)
    capacity = record.capacity_of(p)
    expected = None if capacity is None else expected_kept(ids, share, capacity, p)
    capacity_ok = expected is None or expected == set(map(tuple, kept.nonzero().tolist()))
    scores = None if p["score_after_topk"] else scores_of(logits[tokens], p)
    right = weigh(logits[tokens], scores, ids[tokens], p)
    want = expected_output(x, tokens, ids, right, expected, weights, p)
    # A token that nothing was kept of is 0 on both sides.
    errors = (out[tokens].double() - want).norm(dim=-1) / want.norm(dim=-1).clamp(min=1e-30)
    worst = errors.max().item()
    worst = worst if math.isfinite(worst) else math.inf
    ok = worst <= tolerance and mismatches == 0 and capacity_ok
    verify = {"error": worst if math.isfinite(worst) else None, "tolerance": tolerance, "ok": ok,
              "tokens_checked": len(tokens), "num_tokens": len(x),
              "experts_checked": len(ids[tokens].unique()),
              "topk_mismatches": int(mismatches), "capacity_ok": capacity_ok}
    why = None if ok else (f"{mismatches} sampled tokens chose other experts" if mismatches else
                           "others were dropped than the capacity says" if not capacity_ok else
                           f"the output's relative error is {worst:.3g}, above {tolerance:g}")
    return verify, why, counts(ids, kept, p)


def counts(ids, kept, p):
    """(before, after capacity) by expert."""
    given = torch.bincount(ids.flatten(), minlength=p["num_experts"]).tolist()
    if kept is None:
        return given, given
    return given, torch.bincount(ids[kept], minlength=p["num_experts"]).tolist()
