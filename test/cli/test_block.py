#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""moectl runs, checks and explains experiments that measure a transformer block. What it dumps is
computed again here, from the definitions. usage: test_block.py MOECTL GOLDEN_DIR"""

import json
import math
import pathlib
import re
import sys
import unittest

from model_files import ModelCase, moectl, no_device, numbers, read_file, tensor, write_file

LAYER = {"hidden_size": 8, "intermediate_size": 6, "num_experts": 4, "top_k": 2}
BLOCK = {"attention": {"num_heads": 4, "num_kv_heads": 2, "head_dim": 6, "qk_norm": "head",
                       "sinks": True, "qkv_bias": True, "output_bias": True, "sliding_window": 4},
         "rope": {"rope_theta": 100, "rope_dim": 4}, "norm": {"norm_epsilon": 0.001}}
# As Switch's encoder, but for what Dumped computes of BLOCK.
RELATIVE = BLOCK | {"attention": BLOCK["attention"] | {
    "causal": False, "sliding_window": None, "scale": 1, "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 6}}
STAGES = ["attention_norm", "qkv_proj", "rotary", "attention", "o_proj", "feed_forward_norm",
          "residual"]
OPERATIONS = ["router", "permute", "grouped_gemm", "combine", "norm", "projections", "rotary",
              "attention"]


def rms_norm(x, weight, epsilon):
    scale = 1 / math.sqrt(sum(v * v for v in x) / len(x) + epsilon)
    return [v * scale * w for v, w in zip(x, weight)]


def linear(matrix, x, bias=None):
    return [sum(m * v for m, v in zip(row, x)) + (bias[i] if bias else 0)
            for i, row in enumerate(matrix)]


def turned(head, position):
    """Rotary embedding of the first 4 elements, i and i + 2 together, base 100."""
    result = list(head)
    for i in range(2):
        angle = position * 100 ** (-2 * i / 4)
        a, b = head[i], head[i + 2]
        result[i] = a * math.cos(angle) - b * math.sin(angle)
        result[i + 2] = b * math.cos(angle) + a * math.sin(angle)
    return result


class Dumped:
    """A dumped block of BLOCK, computed again."""

    def __init__(self, path):
        self.t = {name: numbers(value) for name, value in read_file(path).items()
                  if value[0] != "U8"}

    def vector(self, name):
        return self.t[name][0]

    def heads(self, flat, position, norm):
        heads = [flat[i:i + 6] for i in range(0, len(flat), 6)]
        return [turned(rms_norm(head, self.vector(norm), 1e-5), position) for head in heads]

    def logit(self, t, s, head, query, key):
        """Of RELATIVE, or of BLOCK; None: not looked at. Of a side's four buckets two are of the
        distances 0 and 1, and the third ends where half of ln(6/2) is reached, before 4."""
        product = sum(q * k for q, k in zip(query, key))
        if "attention.relative_bias" not in self.t:
            return product / math.sqrt(6) if t - 3 <= s <= t else None
        bucket = (0, 1, 2, 2, 3)[min(abs(s - t), 4)] + (4 if s > t else 0)
        return product + self.t["attention.relative_bias"][bucket][head]

    def attention(self, states):
        """Each token's sum of its state and what attention makes."""
        queries, keys, values = [], [], []
        for position, state in enumerate(states):
            x = rms_norm(state, self.vector("attention_norm.weight"), 0.001)
            qkv = linear(self.t["attention.qkv_proj"], x, self.vector("attention.qkv_bias"))
            queries.append(self.heads(qkv[:24], position, "attention.q_norm"))
            keys.append(self.heads(qkv[24:36], position, "attention.k_norm"))
            values.append([qkv[36:42], qkv[42:48]])
        sums = []
        for t, state in enumerate(states):
            attended = []
            for head in range(4):
                logits = {s: self.logit(t, s, head, queries[t][head], keys[s][head // 2])
                          for s in range(len(states))}
                seen = [s for s, logit in logits.items() if logit is not None]
                shares = [math.exp(logits[s]) for s in seen]
                total = sum(shares) + math.exp(self.vector("attention.sinks")[head])
                attended += [sum(share / total * values[s][head // 2][d]
                                 for share, s in zip(shares, seen)) for d in range(6)]
            made = linear(self.t["attention.o_proj"], attended, self.vector("attention.o_bias"))
            sums.append([a + b for a, b in zip(state, made)])
        return sums

    def expert(self, e, x):
        rows = self.t["experts.gate_up_proj"][12 * e:12 * e + 12]
        inner = [gate / (1 + math.exp(-gate)) * up
                 for gate, up in zip(linear(rows[:6], x), linear(rows[6:], x))]
        return linear(self.t["experts.down_proj"][8 * e:8 * e + 8], inner)

    def output(self):
        """Of the tokens behind the context, by softmax of the two best logits of four."""
        before = self.t.get("context_states", [])
        outputs = []
        for total in self.attention(before + self.t["hidden_states"])[len(before):]:
            x = rms_norm(total, self.vector("feed_forward_norm.weight"), 0.001)
            logits = linear(self.t["router.weight"], x)
            shares = [math.exp(v) for v in logits]
            best = sorted(range(4), key=lambda e: -logits[e])[:2]
            kept = sum(shares[e] for e in best)
            row = list(total)
            for e in best:
                row = [a + shares[e] / kept * b for a, b in zip(row, self.expert(e, x))]
            outputs.append(row)
        return outputs


@unittest.skipIf(no_device(), "no OpenCL device")
class Block(ModelCase):
    def experiment(self, **changes):
        path = self.work / "block.yaml"
        path.write_text(json.dumps({
            "name": "block", "layer": LAYER, "block": BLOCK, "workload": {"num_tokens": 5},
            "measure": {"what": "block", "warmup": 1, "iterations": 2}, **changes}))
        return path

    def run_it(self, *options, **changes):
        out = self.work / f"out{len(list(self.work.iterdir()))}"
        code, shown, said = moectl("run", self.experiment(**changes), "--out", out, *options)
        self.assertEqual(code, 0, shown + said)
        return out, json.loads((out / "results.json").read_text(encoding="utf-8"))["points"]

    def check_dump(self, out, context):
        dumped = Dumped(out / "point-000.safetensors")
        self.assertEqual(len(dumped.t.get("context_states", [])), context)
        for got, want in zip(dumped.t["output"], dumped.output(), strict=True):
            for a, b in zip(got, want, strict=True):
                self.assertAlmostEqual(a, b, delta=2e-5 * max(1, abs(b)))

    def test_output(self):
        """Prefill, and steps after a context that fills more than the window."""
        out, _ = self.run_it("--dump", "--pictures", "none")
        self.check_dump(out, 0)
        out, _ = self.run_it("--dump", "--pictures", "none",
                             workload={"num_tokens": 2, "context": 9})
        self.check_dump(out, 9)

    def test_relative_bias(self):
        out, _ = self.run_it("--dump", "--pictures", "none", block=RELATIVE,
                             workload={"num_tokens": 11})
        self.check_dump(out, 0)

    def test_file(self):
        """The recording's first tokens are the context."""
        rows = [[math.sin(8 * t + h) for h in range(8)] for t in range(11)]
        write_file(self.work / "h.safetensors", {"hidden_states": tensor("F32", rows)})
        workload = {"distribution": "file", "file": "h.safetensors", "num_tokens": 2}
        out, _ = self.run_it("--dump", "--pictures", "none", workload={**workload, "context": 9})
        self.check_dump(out, 9)
        dumped = Dumped(out / "point-000.safetensors").t
        for got, want in zip(dumped["context_states"] + dumped["hidden_states"], rows, strict=True):
            for a, b in zip(got, want, strict=True):
                self.assertAlmostEqual(a, b, delta=1e-6)
        code, _, said = moectl("run", self.experiment(workload={**workload, "context": 10}))
        self.assertEqual(code, 2)
        self.assertIn("has 11 tokens, the experiment asks for 12: lower workload.num_tokens or "
                      "workload.context", said)

    def test_same_context(self):
        """Tokens after a context are the same as at once, whatever the cache was filled by."""
        for dtype in ("fp32", "bf16"):
            _, points = self.run_it("--pictures", "none", dtype=dtype,
                                    workload={"num_tokens": [1, 3], "context": [0, 600]})
            self.assertEqual([p["status"] for p in points], ["ok"] * 4)
            self.assertGreater(points[1]["memory_bytes"], points[0]["memory_bytes"])

    def test_results(self):
        out, points = self.run_it(workload={"num_tokens": [3, 70]})
        for point in points:
            self.assertEqual(point["status"], "ok")
            self.assertEqual(point["params"]["what"], "block")
            self.assertEqual(point["params"]["num_kv_heads"], 2)
            self.assertEqual(sorted(point["variants"]), sorted(OPERATIONS))
            self.assertNotIn(None, point["variants"].values())
            for stage in STAGES:
                self.assertIn(stage, point["time_ms"])
            self.assertTrue(point["verify"]["ok"])
            self.assertGreater(point["tflops"], 0)
        for name in ("report.md", "report.html"):
            text = (out / name).read_text(encoding="utf-8")
            for words in ("A transformer block with a Mixture-of-Experts layer", "qkv_proj",
                          "feed_forward_norm", "block ms", "projections", "num_heads"):
                self.assertIn(words, text, name)
        header, row = (out / "results.csv").read_text(encoding="utf-8").split("\n")[:2]
        row = dict(zip(header.strip().split(","), row.split(",")))
        self.assertEqual((row["what"], row["num_heads"], row["context"]), ("block", "4", "0"))
        self.assertGreater(float(row["time_ms_attention_median"]), 0)
        self.assertTrue(row["variants_attention"])

    def test_layer_beside_block(self):
        _, points = self.run_it("--pictures", "none",
                                measure={"what": ["layer", "block"], "warmup": 0, "iterations": 1})
        self.assertNotIn("num_heads", points[0]["params"])
        self.assertNotIn("attention", points[0]["time_ms"])
        self.assertNotIn("attention", points[0]["variants"])
        self.assertIn("attention", points[1]["time_ms"])

    def test_resume(self):
        out, points = self.run_it("--pictures", "none", workload={"num_tokens": [3, 5]})
        before = (out / "results.json").read_text(encoding="utf-8")
        code, shown, said = moectl("run", self.work / "block.yaml", "--resume", out,
                                   "--pictures", "none")
        self.assertEqual(code, 0, shown + said)
        again = json.loads((out / "results.json").read_text(encoding="utf-8"))["points"]
        self.assertEqual(points, again, before)

    def test_check_and_explain(self):
        path = self.experiment(workload={"num_tokens": 1, "context": [0, 4096]})
        code, shown, said = moectl("check", path)
        self.assertEqual(code, 0, said)
        self.assertIn("ok, experiment 'block' with 2 points", shown)
        # The context's hidden states, and keys and values of 2 heads of 6, in MiB
        least = (4096 * 8 + 2 * 4097 * 12) * 4 / 2**20
        sizes = [float(number) * {"KiB": 1 / 1024, "MiB": 1}[unit] for number, unit in
                 re.findall(r"^ +(\S+) (KiB|MiB) .* context=", shown, re.M)]
        self.assertGreater(sizes[1] - sizes[0], least)
        code, shown, said = moectl("explain", path)
        self.assertEqual(code, 0, said)
        for step in ("attention_norm", "qkv_proj", "rotary", "attention", "o_proj",
                     "feed_forward_norm", "gate_up", "down", "residual"):
            self.assertTrue(re.search(rf"^ +\d+  {step} ", shown, re.M), step)
        self.assertRegex(shown, r"rotary  .*  4 of 6 elements turned, scaling")
        self.assertRegex(shown, r"attention  .*  causal, window \d+; \d+ (queries|rows) a work-group")
        self.assertRegex(shown, r"keys +fp32 +8194 x 6")  # 4097 tokens of 2 heads
        self.assertIn(", cache ", shown)
        code, shown, said = moectl("explain", self.experiment(block=RELATIVE))
        self.assertEqual(code, 0, said)
        self.assertRegex(shown, r"attention  .*  all keys, relative bias; \d+")
        self.assertRegex(shown, r"relative_attention_bias +fp32 +1 x 32")  # 8 buckets of 4 heads

    def test_variants(self):
        """Each by name, and one that there is not."""
        told = moectl("devices")[1]
        names = re.search(r"attention.*: *(.*)", told)
        self.assertTrue(names is None or "generic" in names.group(1), told)
        _, points = self.run_it("--pictures", "none", "--set",
                                "block.attention.attention_variant=[generic, auto]")
        self.assertEqual(points[0]["variants"]["attention"], "generic")
        code, _, said = moectl("run", self.experiment(), "--set",
                               "block.attention.attention_variant=generik")
        self.assertEqual(code, 2)
        self.assertIn("did you mean 'generic'?", said)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
