# SPDX-License-Identifier: MIT
"""How each family's router tells its decisions: from what its forward returned to logits [T,E],
ids [T,K] and weights [T,K], as the experts use them."""

import torch


def plain(block, out):
    """Most families: logits, weights, ids."""
    logits, weights, ids = out
    return logits, ids, weights


def scaled(block, out):
    """The block scales what its experts give, not the router its weights."""
    logits, weights, ids = out
    return logits, ids, weights * block.routed_scaling_factor


def averaged(block, out):
    """The block halves the sum of routed and shared experts."""
    logits, weights, ids = out
    return logits, ids, weights / 2


def llama4(block, out):
    scores, logits = out
    ids = logits.topk(block.top_k, dim=-1).indices
    return logits, ids, scores.gather(1, ids)


def jetmoe(block, out):
    """Assignments come sorted by expert."""
    order, _, gates, _, logits = out
    ids = logits.topk(block.router.top_k, dim=-1).indices
    weights = torch.empty_like(gates)
    weights[order] = gates
    return logits, ids, weights.view(ids.shape)


def dbrx(block, out):
    weights, ids = block.route_tokens_to_experts(out)
    return out, ids, weights


def gemma4(block, logits, out):
    """The router tells the scores of all experts, not the logits."""
    _, weights, ids = out
    return logits, ids, weights


def switch(block, out):
    """A token beyond its expert's capacity keeps its choice and weighs nothing."""
    kept, probs, logits = (x.flatten(0, 1) for x in out)
    ids = logits.argmax(dim=-1, keepdim=True)
    return logits, ids, probs * kept.gather(1, ids)


def nllb(block, out):
    """At inference the experts' outputs are scaled too, by what token dropout keeps."""
    _, combine, logits = out
    ids = logits.topk(2, dim=-1).indices
    return logits, ids, combine.gather(1, ids) * (1 - block.experts.moe_token_dropout)


def by_logit(block, logits):
    """What the choice goes by, where the scores rise with the logits."""
    return logits


def by_biased_sigmoid(block, logits):
    return logits.sigmoid() + correction_bias(block)


def cut_to_zero(block, logits):
    """Groups that are not among the best are zeros, and the first of equal ones wins."""
    scores = by_biased_sigmoid(block, logits)
    gate = block.gate
    groups = scores.view(len(scores), gate.num_group, -1)
    taken = groups.topk(2).values.sum(-1).topk(gate.topk_group).indices
    mask = torch.zeros(groups.shape[:2]).scatter(1, taken, 1).bool()
    return torch.where(mask[..., None], groups, 0.0).flatten(1)


def by_biased_softmax(block, logits):
    return logits.softmax(dim=-1) + correction_bias(block)


def correction_bias(block):
    tensors = dict(block.named_buffers()) | dict(block.named_parameters())
    return next(t for name, t in tensors.items() if is_correction_bias(name)).flatten()


def is_correction_bias(name):
    return name.endswith(("e_score_correction_bias", "expert_bias"))
