# SPDX-License-Identifier: MIT
"""Builds a case's model with random weights, runs its MoE block and writes the folder."""

import json
import pathlib
import re
import tempfile

import torch
import transformers
from safetensors.torch import load_file

from goldens import routers, store

STORED = re.compile(r"mlp|\.moe\.|share_expert\.|mixer|block_sparse_moe|feed_forward|\bffn\b|post_attention_layernorm|"
                    r"layers\.\d+\.(router|experts|pre_feedforward_layernorm_2)\.")
TINY = dict(vocab_size=8, pad_token_id=0, bos_token_id=1, eos_token_id=2)


def build(case):
    """The whole model, as small as its configuration allows."""
    config = getattr(transformers, case.config_class)(**TINY, **case.config)
    config._experts_implementation = "eager"
    model = getattr(transformers, case.model_class)(config).eval()
    with torch.no_grad():
        for name, weight in list(model.named_parameters()) + list(model.named_buffers()):
            if STORED.search(name) and "layernorm" not in name:
                randomize(name, weight)
    return model


def randomize(name, weight):
    """Values that keep activations near 1 and let routers decide."""
    if routers.is_correction_bias(name):
        weight.normal_(std=0.3)
    elif name.endswith("bias"):
        weight.normal_(std=0.5)
    else:
        weight.normal_(std=weight.shape[-1] ** -0.5)


def router_of(case, model, block_path):
    return model.get_submodule(block_path + "." + case.router)


def skew(case, model, block_path, mean):
    """Tilts the router towards the hot experts and away from the empty ones along the hidden
    states' mean; the other experts differ by a spread of their own. All may have another level."""
    router = router_of(case, model, block_path)
    rows = next(w for w in router.parameters() if w.dim() == 2 and w.shape[1] == mean.numel())
    with torch.no_grad():
        rows *= 2
        if case.level:
            rows += case.level * mean / mean.dot(mean)
        shift = {**dict.fromkeys(case.hot, case.tilt), **dict.fromkeys(case.empty, -15.0)}
        for expert, amount in shift.items():
            rows[expert] += amount * mean / mean.dot(mean)


def round_weights(case, model):
    """To what the checkpoint will hold, so that running in fp32 is exact about it."""
    with torch.no_grad():
        for name, weight in list(model.named_parameters()) + list(model.named_buffers()):
            weight.copy_(weight.to(stored_type(case, name)))


def stored_type(case, name):
    exact = routers.is_correction_bias(name) or (case.exact and re.search(case.exact, name))
    return torch.float32 if exact else case.dtype


def decide(case, model, block_path, hidden_states):
    """Runs the block; logits, ids, weights (in the order of choice) and output."""
    block = model.get_submodule(block_path)
    seen = []
    watched = ([block.get_submodule(case.logits)] if case.logits else []) + [router_of(case, model, block_path)]
    hooks = [module.register_forward_hook(lambda module, args, out: seen.append(out)) for module in watched]
    with torch.no_grad():
        output = case.run(model, block_path, hidden_states.clone().unsqueeze(0)).squeeze(0)
        for hook in hooks:
            hook.remove()
        logits, ids, weights = case.read(block, *seen[:len(watched)])
        if case.choice:
            order = case.choice(block, logits.float()).gather(1, ids).argsort(descending=True, stable=True)
            ids, weights = ids.gather(1, order), weights.gather(1, order)
    return logits, ids, weights, output


def stable_tokens(case, model, block_path, candidates):
    """The first candidates whose routing small changes leave as it is: what rounding decides
    isn't a golden."""
    _, ids, weights, _ = decide(case, model, block_path, candidates)
    stable = torch.ones(len(candidates), dtype=torch.bool)
    for _ in range(8):
        noise = 1 + case.margin * torch.randn_like(candidates)
        _, other_ids, other_weights, _ = decide(case, model, block_path, candidates * noise)
        stable &= (ids == other_ids).all(dim=-1)
        if not case.capacity:
            stable &= torch.isclose(weights, other_weights, rtol=0.3, atol=0.1).all(dim=-1)
    chosen = candidates[stable][:case.tokens]
    assert len(chosen) == case.tokens, f"{case.name}: {stable.sum()} stable tokens of {len(candidates)}"
    return chosen


def record(case, model, block_path, dtype, hidden_states):
    """One file of io: the block in dtype."""
    logits, ids, weights, output = decide(case, model, block_path, hidden_states.to(dtype))
    assert torch.isfinite(output).all()
    with torch.no_grad():
        entry = case.entry(model, block_path, hidden_states.to(dtype))
    return {
        "hidden_states": entry,
        "router_logits": logits.float(),
        "topk_ids": ids.int(),
        "topk_weights": weights.float(),
        "output": output.to(dtype),
    }


def check(case, model, block_path, tensors):
    """That the case shows what it is for."""
    block = model.get_submodule(block_path)
    logits, ids, weights = (tensors[k] for k in ("router_logits", "topk_ids", "topk_weights"))
    tokens, experts = logits.shape
    counts = torch.bincount(ids.flatten(), minlength=experts)
    for expert in case.hot:
        assert counts[expert] >= 2 * ids.numel() / experts, f"{case.name}: {counts.tolist()}"
    assert all(counts[e] == 0 for e in case.empty), f"{case.name}: {counts.tolist()}"
    if case.capacity:
        assert 0 < (weights == 0).sum() < weights.numel(), f"{case.name}: none dropped, or all"
    if case.choice and case.choice is not routers.by_logit:
        free = logits.topk(ids.shape[1]).indices.sort().values
        assert (free != ids.sort().values).any(), f"{case.name}: the bias moves no choice"
    if case.groups:
        ungrouped = case.choice(block, logits).topk(ids.shape[1]).indices.sort().values
        assert (ungrouped != ids.sort().values).any(), f"{case.name}: groups cut nothing off"
    if case.assertion:
        case.assertion(model, block_path, tensors)


def published_tensors(case, model):
    """What save_pretrained writes of the feed-forward parts, under the published names."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tensors = load_file(pathlib.Path(folder) / "model.safetensors")
        config = json.loads((pathlib.Path(folder) / "config.json").read_text())
    tensors = {case.prefix + name: tensor.to(stored_type(case, name))
               for name, tensor in tensors.items() if STORED.search(name)}
    return case.publish_tensors(tensors), case.publish_config(publish(case, config))


def publish(case, config):
    """Keys as the family's published config.json has them."""
    config["torch_dtype"] = str(config.pop("dtype") and case.dtype).removeprefix("torch.")
    for ours, theirs in case.keys.items():
        config[theirs] = config.pop(ours)
    return config


def make(case, folder):
    """The folder of one case."""
    torch.manual_seed(case.seed)
    model = build(case)
    hidden_size = model.config.get_text_config().hidden_size
    mean = torch.randn(hidden_size)
    for path in dict.fromkeys(r.block for r in case.records):
        skew(case, model, path, mean)
    case.adjust(model)
    round_weights(case, model)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    tensors, config = published_tensors(case, model)
    store.save_model(folder, tensors, case.shards)
    store.save_json(folder / "config.json", config)
    candidates = (torch.randn(10 * case.tokens, hidden_size) + mean).bfloat16().float()
    for r in case.records:
        if r.dtype == torch.float32:
            hidden_states = stable_tokens(case, model, r.block, candidates)
            result = record(case, model, r.block, r.dtype, hidden_states)
            check(case, model, r.block, result)
            fp32_ids = result["topk_ids"]
        else:
            result = record(case, cast(case, model, r.dtype), r.block, r.dtype, hidden_states)
            assert (result["topk_ids"] == fp32_ids).all(), f"{case.name}: {r.file} chooses otherwise"
        store.save_tensors(folder / f"{r.file}.safetensors", result, {
            "family": config["model_type"],
            "block": case.prefix + r.published,
            "layer": str(r.layer),
            "stack": r.stack,
            "dtype": str(r.dtype).removeprefix("torch."),
            "seed": str(case.seed),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        })


def cast(case, model, dtype):
    """In place; correction biases stay fp32, as models load them."""
    exact = {name: b.clone() for name, b in model.named_buffers() if routers.is_correction_bias(name)}
    model.to(dtype)
    for name, buffer in exact.items():
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, buffer)
    return model
