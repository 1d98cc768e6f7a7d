#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""bench/peers' layers of an experiment's parameters, in PyTorch, against their reference in float64:
every rule that they honour; and that the check finds what is wrong. Skipped without PyTorch."""

import pathlib
import sys
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "bench/peers"))

try:
    import torch
except ImportError:
    print("SKIP: no PyTorch")
    sys.exit(77)

import layers  # noqa: E402
import torch_layer  # noqa: E402

DEFAULTS = {"seed": 0, "activation": "swiglu", "swiglu_alpha": 1.702, "swiglu_limit": 7.0,
            "gate_up_bias": False, "down_bias": False, "shared_intermediate_size": None,
            "shared_gate": False, "shared_swiglu_limit": None, "shared_scaling_factor": 1.0,
            "weight_format": "dtype", "activation_format": "dtype", "scoring": "softmax",
            "score_after_topk": False,
            "renormalize": True, "renormalize_epsilon": None, "renormalize_minimum": 0.0,
            "routed_scaling_factor": 1.0, "score_correction_bias": False, "num_expert_group": None,
            "topk_group": None, "group_score": "max", "jitter": 0.0, "router_bias": False,
            "capacity_factor": None, "capacity_of_tokens": False, "min_capacity": 0,
            "drop_policy": "position", "dtype": "fp32", "distribution": "normal",
            "skew_exponent": 1.0, "skew_clusters": None, "skew_noise": 0.5}
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_experts": 8, "top_k": 2, "num_tokens": 100}
CASES = (
    {}, {"renormalize": False}, {"jitter": 0.3}, {"distribution": "skewed"},
    {"score_after_topk": True, "router_bias": True, "gate_up_bias": True, "down_bias": True,
     "activation": "swiglu_clamped"},
    {"scoring": "sigmoid", "score_correction_bias": True, "num_expert_group": 4, "topk_group": 2,
     "group_score": "top2_sum", "routed_scaling_factor": 2.5, "shared_intermediate_size": 48},
    {"scoring": "sqrt_softplus", "num_expert_group": 4, "topk_group": 2},
    {"shared_intermediate_size": 32, "shared_gate": True, "shared_scaling_factor": 0.5},
    {"capacity_factor": 1.0, "distribution": "skewed"},
    {"capacity_factor": 0.5, "drop_policy": "probability", "jitter": 0.1},
    {"activation": "gelu_tanh"}, {"activation": "relu2"}, {"activation": "geglu"},
    {"activation": "swiglu_limited", "swiglu_limit": 0.5},
    {"renormalize_epsilon": 1e-2, "renormalize_minimum": 0.5, "top_k": 1}, {"top_k": 8})


def made(name, **changes):
    """(the peer, an input, weights, parameters)."""
    p = {**DEFAULTS, **SIZES, **changes}
    assert torch_layer.unsuitable(p, DEFAULTS) is None, torch_layer.unsuitable(p, DEFAULTS)
    weights = torch_layer.draw_weights(p, torch.device("cpu"))
    peer, _ = torch_layer.build(name, p, DEFAULTS, weights)
    return peer, torch_layer.draw_inputs(p, torch.device("cpu"), 1)[0], weights, p


class Torch(unittest.TestCase):
    def test_rules(self):
        for name in ("loop", "grouped_mm"):
            for case in CASES:
                verify, why, counts = torch_layer.check(*made(name, **case))
                self.assertTrue(verify["ok"], (name, case, why))
                self.assertEqual(sum(counts[0]), SIZES["num_tokens"] * case.get("top_k", 2))

    def test_narrow(self):
        for name in ("loop", "grouped_mm"):
            for dtype in ("fp16", "bf16"):
                verify, why, _ = torch_layer.check(*made(name, dtype=dtype, capacity_factor=1.0))
                self.assertTrue(verify["ok"], (name, dtype, why))
                self.assertGreater(verify["error"], 1e-5)

    def test_transformers(self):
        try:
            import transformers  # noqa: F401
        except ImportError:
            self.skipTest("no transformers")
        for case in ({}, {"renormalize": False}, {"activation": "geglu"}, torch_layer.GPT_OSS):
            verify, why, _ = torch_layer.check(*made("transformers", **case))
            self.assertTrue(verify["ok"], (case, why))
        for case in ({"jitter": 0.1}, {"capacity_factor": 1.0}, {"scoring": "sigmoid"}, {"activation": "relu"}):
            with self.assertRaises(layers.Unsuitable):
                made("transformers", **case)

    def test_finds_wrong_answers(self):
        peer, x, weights, p = made("loop", capacity_factor=1.0)
        for what, spoil in (
                ("gate and up", lambda: weights.update(gate_up=weights["gate_up"].roll(48, 1))),
                ("an expert", lambda: weights.update(down=weights["down"].flip(0)))):
            peer.weights = dict(weights)
            kept = dict(weights)
            spoil()
            self.assertFalse(torch_layer.check(peer, x, weights, p)[0]["ok"], what)
            weights.update(kept)
        peer.weights = weights
        peer.capacity += 1
        verify, why, _ = torch_layer.check(peer, x, weights, p)
        self.assertEqual((verify["ok"], verify["capacity_ok"]), (False, False), why)
        peer.capacity -= 1
        for out in (torch.zeros_like(x), torch.full_like(x, float("nan"))):
            self.assertFalse(torch_layer.check(peer, x, weights, p, lambda *_: out)[0]["ok"])
        choose = peer.choose
        peer.choose = lambda *a: ((choose(*a)[0] + 1) % 8, *choose(*a)[1:])
        self.assertGreater(torch_layer.check(peer, x, weights, p)[0]["topk_mismatches"], 0)

    def test_skewed(self):
        """Zipf's law: of two clusters the first has two thirds; tokens without noise are equal."""
        p = {**DEFAULTS, **SIZES, "num_tokens": 6000, "distribution": "skewed", "skew_clusters": 2,
             "skew_noise": 0.0}
        rows, sizes = torch_layer.draw_inputs(p, torch.device("cpu"), 1)[0].unique(dim=0, return_counts=True)
        self.assertEqual(len(rows), 2)
        self.assertAlmostEqual(sizes.max().item() / 6000, 2 / 3, delta=0.03)

    def test_unsuitable(self):
        for change in ({"second_choice": "random"}, {"weight_format": "fp16"}, {"scoring": "sparsemixer"},
                       {"drop_policy": "prioritized"}, {"shared_swiglu_limit": 3.0}):
            p, defaults = {**DEFAULTS, **SIZES, **change}, {**DEFAULTS, "second_choice": "all"}
            self.assertIsNotNone(torch_layer.unsuitable(p, defaults), change)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    torch.set_num_threads(2)
    torch.manual_seed(0)
    unittest.main()
