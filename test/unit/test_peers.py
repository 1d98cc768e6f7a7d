#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""bench/peers without a GPU or PyTorch: floors, tables, and the command around
a moectl and a worker that are scripts of this test."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
ROOT = pathlib.Path(__file__).resolve().parents[2]
PEERS = ROOT / "bench/peers"
sys.path.insert(0, str(PEERS))

import floors  # noqa: E402
import ours  # noqa: E402

# Milliseconds at 777 TFLOP/s and 2.95 TB/s, to three or four digits, worked out by hand.
H100 = floors.Ceilings(777, 2.95)
FLOORS = {
    "mixtral": (0.239, 0.946, 0.956, 0.961, 3.715, 14.86),
    "olmoe": (0.034, 0.241, 0.273, 0.276, 0.532, 2.128),
    "qwen3": (0.026, 0.264, 0.410, 0.412, 0.421, 1.603),
    "gpt-oss": (0.067, 0.476, 0.540, 0.544, 1.050, 4.201),
    "deepseek": (0.239, 3.045, 7.513, 7.654, 7.683, 14.94),
}


def results_json(shape, tokens, ms=1.0, status="ok", **params):
    """What moectl writes, as far as the comparison reads it."""
    plain = {"hidden_size": shape.hidden, "intermediate_size": shape.intermediate,
             "num_experts": shape.experts, "top_k": shape.top_k, "num_tokens": tokens,
             "dtype": "bf16", "activation": "swiglu", "renormalize": True,
             "gate_up_bias": False, "down_bias": False, "router_bias": False, "scoring": "softmax",
              "num_expert_group": None, "shared_intermediate_size": None}
    return json.dumps({"device": {"name": "a GPU"}, "points": [{
        "status": status, "error": None if status.startswith("ok") else "it broke",
        "params": {**plain, **params}, "variants": {"grouped_gemm": "generic"},
        "time_ms": {"layer": {"median": ms, "min": ms / 2, "p90": ms * 2}},
        "verify": {"ok": True} if status == "ok" else None}]})


def record_of(points, **more):
    return {"device": "a GPU", "date": "2026-01-02", "versions": "none", "seconds": 0.5,
            "ceilings": H100._asdict(), "notes": [], "points": points, **more}


def point_of(shape, tokens, ours_ms, *peers, **more):
    return {"shape": shape, "tokens": tokens, "left_out": [],
            "ours": {"ms": ours_ms} if ours_ms else {"error": "no device"},
            "peers": [{"name": name, "ms": ms} for name, ms in peers], **more}


class Floors(unittest.TestCase):
    def test_known_floors(self):
        for name, expected in FLOORS.items():
            for tokens, ms in zip(floors.TOKENS, expected):
                found = floors.floor_ms(floors.SHAPES[name], tokens, H100)
                delta = 0.0006 if ms < 10 else 0.006  # the digits above
                self.assertAlmostEqual(found, ms, delta=delta, msg=(name, tokens))

    def test_active_experts(self):
        shape = floors.SHAPES["mixtral"]
        self.assertAlmostEqual(floors.expected_active(shape, 1), 2)
        self.assertAlmostEqual(floors.expected_active(shape, 2), 3.5)
        self.assertAlmostEqual(floors.expected_active(shape, 10**6), 8)

    def test_configs_have_these_shapes(self):
        for shape in floors.SHAPES.values():
            text = (ROOT / "configs" / shape.config).read_text()
            for key, value in (("hidden_size", shape.hidden), ("num_experts", shape.experts),
                               ("intermediate_size", shape.intermediate),
                               ("top_k", shape.top_k)):
                self.assertIn(f"\n  {key}: {value}\n", text, shape.config)
            renormalizes = "layer.router.renormalize=true" in shape.settings
            self.assertTrue(renormalizes or "renormalize: true" in text, shape.config)
            biased = "router_bias: true" in text
            self.assertEqual(biased, set(shape.settings) >= set(floors.PLAIN_EXPERTS))

    def test_points(self):
        def names(*words):
            return [f"{shape.name}:{tokens}" for shape, tokens in floors.parse_points(words)]
        self.assertEqual(len(names()), 30)
        self.assertEqual(len(names("olmoe")), 6)
        self.assertEqual(names("mixtral:1,olmoe:16"), ["mixtral:1", "olmoe:16"])
        self.assertEqual(names("mixtral:1,16", "gpt-oss:4096"),
                         ["mixtral:1", "mixtral:16", "gpt-oss:4096"])
        self.assertEqual(names("qwen3:1", "qwen3:1"), ["qwen3:1"])
        for wrong in ("mixtrl:1", "16", "olmoe:", "olmoe:x", "olmoe:0", "olmoe:-1"):
            with self.assertRaises(ValueError, msg=wrong):
                floors.parse_points([wrong])

    def test_ceilings(self):
        self.assertEqual(floors.parse_ceilings("777:2.95"), H100)
        for wrong in ("777", "777:", "a:b", "0:1", "-1:1", "nan:1", "inf:1"):
            with self.assertRaises(ValueError, msg=wrong):
                floors.parse_ceilings(wrong)
        self.assertIsNone(floors.floor_ms(floors.SHAPES["olmoe"], 1, None))

    def test_summarize(self):
        self.assertEqual(floors.summarize([3, 1, 2, 10]), {"ms": 2.5, "min": 1, "p90": 10})
        # p90 of ten is the ninth, as moectl counts it.
        self.assertEqual(floors.summarize(range(1, 11))["p90"], 9)
        self.assertEqual(floors.summarize([7]), {"ms": 7, "min": 7, "p90": 7})


class Ours(unittest.TestCase):
    shape = floors.SHAPES["olmoe"]

    def read(self, *arguments, **more):
        return floors.read_ours(results_json(self.shape, 16, *arguments, **more), self.shape, 16)

    def test_read(self):
        found = self.read(0.25)
        self.assertEqual((found["ms"], found["min"], found["p90"]), (0.25, 0.125, 0.5))
        self.assertTrue(found["verified"])
        self.assertFalse(self.read(status="ok_unverified")["verified"])

    def test_failures_are_no_times(self):
        for status in ("verify_failed", "error"):
            self.assertEqual(self.read(status=status), {"error": "it broke"})

    def test_another_layer_is_no_time(self):
        for name, value in (("top_k", 4), ("renormalize", False), ("dtype", "fp16"),
                            ("down_bias", True), ("num_tokens", 17)):
            self.assertIn(name, self.read(**{name: value})["error"])


class Table(unittest.TestCase):
    def test_summary(self):
        half = 2 * floors.floor_ms(floors.SHAPES["olmoe"], 16, H100)
        eight = 8 * floors.floor_ms(floors.SHAPES["qwen3"], 1, H100)
        record = record_of([point_of("olmoe", 16, half, ("slow", 9.0), ("fast", half)),
                            point_of("qwen3", 1, eight, ("fast", eight * 0.99)),
                            point_of("qwen3", 16, 5.0), point_of("qwen3", 128, None, ("x", 1))])
        record["points"].pop(2)
        found = floors.summary(record)
        self.assertAlmostEqual(found["over_floor"], 4)  # the geometric mean of 2 and 8
        self.assertEqual((found["counted"], found["won"], found["compared"]), (2, 1, 2))

    def test_sustained_falls_back(self):
        self.assertEqual(floors.sustained({"ms": 1, "sustained_ms": 2}), 2)
        self.assertEqual(floors.sustained({"ms": 1}), 1)

    def test_markdown(self):
        text = floors.markdown(record_of(
            [point_of("olmoe", 16, 0.4821, ("A", 0.9), ("B", 0.25),
                      left_out=[{"name": "C", "why": "wrong answer"}]),
             point_of("olmoe", 128, None)], notes=["a note"]))
        self.assertIn("| OLMoE-1B-7B (2048, 1024, 64, 8) | 16 | 0.482 | 0.250 | B | 0.241 "
                      "| 2.00 | 1.93 | 0.482 | 0.250 |", text)
        self.assertIn("|  | 128 | n/a | n/a | n/a | 0.273 |", text)
        for line in ("- olmoe:16: C left out: wrong answer", "- a note",
                     "- olmoe:128: ours is missing: no device"):
            self.assertIn(line + "\n", text)

    def test_markdown_of_nothing(self):
        text = floors.markdown(record_of([], ceilings=None))
        self.assertIn("not measured, so no floors", text)
        self.assertIn("n/a over 0 points", text)


MOECTL = """#!/usr/bin/env python3
import json, pathlib, sys
arguments = sys.argv[1:]
out = pathlib.Path(arguments[arguments.index("--out") + 1])
settings = dict(a.split("=") for a in arguments if "=" in a)
tokens = int(settings["workload.num_tokens"])
if tokens == 1024: sys.exit("moectl: the GPU is on fire")
out.mkdir(parents=True)
text = json.loads(RESULTS.replace("TOKENS", str(tokens)))
layer = text["points"][0]["time_ms"]["layer"]
layer["median"] = 0.5 if "short" in str(out) else 0.6
(out / "results.json").write_text(json.dumps(text))
"""

# It dies under the peer "triton", hangs under "transformers" and never has vLLM.
WORKER = """#!/usr/bin/env python3
import json, os, sys, time
def answer(**m): print(json.dumps(m), flush=True)
answer(ready=True, device="a GPU", versions="some versions")
for line in sys.stdin:
    request = json.loads(line)
    if request.get("ceilings"): answer(ceilings={"tflops": 777, "tbytes": 2.95})
    for peer in request.get("peers", []):
        answer(begin=peer)
        if peer == "triton": os._exit(3)
        if peer == "transformers": time.sleep(60)
        if peer == "vllm": answer(left_out={"name": "vllm", "why": "not installed: no vllm"})
        if peer == "grouped_mm": answer(result={"name": "g", "ms": 0.4, "sustained_ms": 0.7})
    answer(done=True)
"""


class Command(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        results = results_json(floors.SHAPES["olmoe"], "TOKENS").replace('"TOKENS"', "TOKENS")
        self.script("moectl", MOECTL.replace("RESULTS", repr(results)))
        self.script("worker", WORKER)

    def script(self, name, text):
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def run_command(self, *arguments):
        out = self.folder / "out"
        ran = subprocess.run([sys.executable, str(PEERS / "nvidia.py"), "--out", str(out),
                              "--moectl", str(self.folder / "moectl"), *arguments],
                             capture_output=True, text=True, timeout=100)
        path = out / "comparison.json"
        return ran, json.loads(path.read_text()) if path.exists() else None

    def test_whole_run(self):
        ran, record = self.run_command("--python", str(self.folder / "worker"), "--limit", "3",
                                       "--points", "olmoe:1,16,128,1024", "--peers",
                                       "triton,transformers,vllm,grouped_mm")
        self.assertEqual(ran.returncode, 1, ran.stderr)  # 1024 failed
        points = record["points"]
        self.assertEqual([p["tokens"] for p in points], [1, 16, 128, 1024])
        # A peer that dies or hangs takes no other peer along, and is given up at last.
        for point in points:
            self.assertEqual([peer["name"] for peer in point["peers"]], ["g"])
        self.assertEqual([[o["name"] for o in p["left_out"]] for p in points],
                         [["triton", "transformers"]] * 2 + [[]] * 2)
        self.assertEqual(sum("vllm left out: not installed" in n for n in record["notes"]), 1)
        self.assertEqual(record["ceilings"], H100._asdict())
        self.assertEqual((points[0]["ours"]["ms"], points[0]["ours"]["sustained_ms"]), (0.5, 0.6))
        self.assertIn("the GPU is on fire", points[3]["ours"]["error"])
        for line in ("geometric mean of ours / floor", "at 0 of 3 points", "at 3 of 3 points",
                     "olmoe:1024", "grouped GEMM of: generic", "the GPU is on fire"):
            self.assertIn(line, ran.stdout)
        self.assertIn("on fire", (self.folder / "out/comparison.md").read_text())

    def test_without_peers(self):
        ran, record = self.run_command("--peers", "none", "--ceilings", "777:2.95",
                                       "--points", "olmoe:1", "--seconds", "0")
        self.assertEqual(ran.returncode, 0, ran.stderr)
        self.assertEqual((record["points"][0]["peers"], record["device"]), ([], "a GPU"))
        self.assertNotIn("sustained_ms", record["points"][0]["ours"])
        self.assertIn("ours 0.500 ms, no peer, floor 0.0341", ran.stdout)

    def test_missing_python_or_moectl(self):
        ran, record = self.run_command("--python", "/nonexistent/python", "--points", "olmoe:1")
        self.assertIn("no peers: /nonexistent/python did not start", ran.stdout)
        self.assertEqual((ran.returncode, record["ceilings"]), (0, None))
        (self.folder / "moectl").unlink()
        ran, record = self.run_command("--peers", "none", "--points", "olmoe:16")
        self.assertEqual(ran.returncode, 1)
        self.assertIn("moectl did not start", ran.stdout)

    def test_no_gpu(self):
        """Told once, at once: not thirty points that failed."""
        self.script("moectl", "#!/bin/sh\necho 'moectl: no OpenCL device matches' >&2\nexit 3\n")
        ran, record = self.run_command("--peers", "none")
        self.assertEqual((ran.returncode, record), (2, None), ran.stdout + ran.stderr)
        self.assertEqual(ran.stderr.count("no OpenCL device matches"), 1)
        self.assertIn("there is no device for --device gpu", ran.stderr)
        ran, record = self.run_command("--no-ours", "--python", "/nonexistent/python")
        self.assertEqual((ran.returncode, record), (2, None), ran.stdout + ran.stderr)
        self.assertIn("nothing to measure", ran.stderr)

    def test_an_older_result_does_not_count(self):
        self.run_command("--peers", "none", "--points", "olmoe:1", "--seconds", "0")
        self.script("moectl", "#!/bin/sh\nexit 1\n")
        ran, record = self.run_command("--peers", "none", "--points", "olmoe:1")
        self.assertIn("moectl exited with 1", record["points"][0]["ours"]["error"])

    def test_usage(self):
        for wrong in (["--points", "nonesuch"], ["--peers", "nonesuch"], ["--ceilings", "1"]):
            ran, record = self.run_command(*wrong)
            self.assertEqual((ran.returncode, record), (2, None), wrong)
            self.assertIn(wrong[1], ran.stderr)

    def test_large_batches_run_less_often(self):
        for tokens, warmup, iterations in ((1, 10, 30), (16384, 3, 10)):
            self.assertEqual(ours.short_run(tokens), (warmup, iterations))
            words = ours.command("m", floors.SHAPES["olmoe"], tokens, "o", iterations, True, "")
            self.assertIn(f"measure.warmup={warmup}", words)
            self.assertIn(f"measure.iterations={iterations}", words)

    def test_settings_of_moectl(self):
        words = ours.command("m", floors.SHAPES["gpt-oss"], 16, "o", 30, False, "gpu")
        for setting in floors.PLAIN_EXPERTS + ("workload.num_tokens=16", "measure.verify=false"):
            self.assertIn(setting, words)
        self.assertTrue(os.path.exists(words[2]))


if __name__ == "__main__":
    unittest.main()
