# SPDX-License-Identifier: MIT
"""bench/peers/run.py with peers that are scripts of this test: results.json is what the schema
says, moectl compares it with others, and what is missing, wrong or not the same work is named.

usage: test_peer_run.py MOECTL REPOSITORY
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
MOECTL, ROOT = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
PEERS = ROOT / "bench/peers"
sys.path.insert(0, str(PEERS))

import llama_cpp  # noqa: E402
import record  # noqa: E402

try:
    import jsonschema
except ImportError:
    jsonschema = None

EXPERIMENT = """name: made-up
seed: 18446744073709551615
layer: {hidden_size: 32, intermediate_size: 48, num_experts: 4, top_k: [1, 2],
        capacity: {capacity_factor: 1.25}}
workload: {num_tokens: 64, distribution: skewed}
measure: {warmup: 1, iterations: 7, rounds: 3, verify: true}
"""

# What a process with PyTorch would say: point p takes (p + 1) * MS, in each of three rounds.
WORKER = """#!/usr/bin/env python3
import json, sys
MS, WHAT = %r, %r
request = json.loads(sys.stdin.readline())
def answer(**message): print(json.dumps(message), flush=True)
if WHAT == "missing":
    answer(missing="PyTorch is not installed")
    sys.exit(0)
answer(about={"system": {"name": "PyTorch made-up", "version": "9.9", "commit": "abc"},
              "device": {"type": "cpu", "name": "A processor", "platform": "PyTorch 9.9",
                         "driver": "2 threads", "compute_units": 2}})
for p, params in enumerate(request["points"]):
    assert params["num_tokens"] == 64 and request["measure"]["rounds"] == 3, request
    if WHAT == "died" and p == 1: sys.exit(3)
    ok = not (WHAT == "wrong" and p == 1)
    given = [16 * params["top_k"]] * 4
    answer(point=p, check={
        "verify": {"error": 1e-7 if ok else None, "tolerance": 1e-5, "ok": ok, "tokens_checked": 8,
                   "num_tokens": 64, "experts_checked": 4, "topk_mismatches": 0, "capacity_ok": True},
        "why": None if ok else "its output is another", "counts": [given, given],
        "variants": {"grouped_gemm": "made-up"}})
for r, share in enumerate([3, 2, 2]):
    for p in range(len(request["points"])):
        if WHAT == "wrong" and p == 1: continue
        ms = (p + 1) * MS
        answer(point=p, round={"planned": 3, "iterations": share, "load_average": 0.5, "host_ms": None,
                               "stages": {"layer": {"median": ms, "min": ms, "p90": ms}}})
"""

# As test-backend-ops prints, colours and a second backend too.
LLAMA = """#!/bin/sh
cat <<END
Testing 2 devices
Backend 1/2: CPU
  Device description: A processor
  MUL_MAT_ID(type_a=f32,type_b=f32,n_mats=4,n_used=2,b=0,m=48,n=64,k=32):  100 runs -   250.00 us/run - 1.0 MFLOP/run - \033[1;34m1.0 GFLOPS\033[0m
  MUL_MAT_ID(type_a=f32,type_b=f32,n_mats=4,n_used=2,b=0,m=32,n=64,k=48):   90 runs -   300.00 us/run - 1.0 MFLOP/run - \033[1;34m1.0 GFLOPS\033[0m
  MUL_MAT_ID(type_a=f32,type_b=f32,n_mats=4,n_used=1,b=0,m=48,n=63,k=32):   90 runs -   300.00 us/run - 1.0 MFLOP/run - \033[1;34m1.0 GFLOPS\033[0m
Backend 2/2: GPU
  MUL_MAT_ID(type_a=f32,type_b=f32,n_mats=4,n_used=1,b=0,m=48,n=64,k=32):  100 runs -     1.00 us/run - 1.0 MFLOP/run - \033[1;34m1.0 GFLOPS\033[0m
END
"""


class PeerRun(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        (self.folder / "e.yaml").write_text(EXPERIMENT)

    def script(self, name, text):
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def run_peers(self, out, *arguments, code=0):
        ran = subprocess.run([sys.executable, PEERS / "run.py", "e.yaml", "--out", out, "--moectl",
                              MOECTL, *map(str, arguments)], cwd=self.folder, capture_output=True,
                             text=True, env={**os.environ, "OCL_ICD_VENDORS": "/nonexistent"})
        self.assertEqual(ran.returncode, code, ran.stdout + ran.stderr)
        return ran

    def fake(self, out, ms=2.0, what="", code=0, settings=()):
        worker = self.script(f"worker-{out}", WORKER % (ms, what))
        settings = [word for setting in settings for word in ("--set", setting)]
        ran = self.run_peers(out, "--peers", "loop", "--python", worker, *settings, code=code)
        path = self.folder / out / "loop/results.json"
        return ran, json.loads(path.read_text()) if path.exists() else None

    def validate(self, root):
        if jsonschema:
            schema = json.loads((ROOT / "docs/results.schema.json").read_text())
            jsonschema.Draft202012Validator(schema).validate(root)

    def compare(self, *arguments, code=0):
        ran = subprocess.run([MOECTL, "compare", *arguments], cwd=self.folder, capture_output=True,
                             text=True)
        self.assertEqual(ran.returncode, code, ran.stdout + ran.stderr)
        return ran.stdout + ran.stderr

    def test_filled_in(self):
        _, root = self.fake("one")
        self.validate(root)
        self.assertEqual(root["experiment"]["seed"], "18446744073709551615")
        self.assertEqual([point["params"]["top_k"] for point in root["points"]], [1, 2])
        point = root["points"][1]
        self.assertEqual((point["status"], point["error"], point["iterations"]), ("ok", None, 7))
        self.assertEqual(point["time_ms"]["layer"], {"median": 4, "min": 4, "p90": 4})
        self.assertIsNone(point["time_ms"]["router"])
        self.assertEqual([one["iterations"] for one in point["rounds"]], [3, 2, 2])
        self.assertEqual((point["routing"]["capacity"], point["routing"]["dropped_fraction"]), (40, 0))
        # 2 * (64 * 32 * 4 + 128 * 3 * 32 * 48) operations in 4 ms.
        self.assertAlmostEqual(point["tflops"], 1196032 / 4e-3 * 1e-12)
        self.assertEqual(root["device"]["name"], "A processor")
        self.assertIn("run.py e.yaml --out one", root["runs"][0]["command"])

    def test_compared(self):
        self.fake("one")
        self.fake("two", ms=1.0)
        out = self.compare("one/loop", "two/loop")
        self.assertIn("A  one/loop: A processor (PyTorch 9.9), PyTorch made-up 9.9, commit abc", out)
        self.assertIn("mean", out)
        self.assertIn("2.00x", out)
        self.assertIn("nothing that is recorded differs", out)

    def test_other_work(self):
        self.fake("one")
        for setting, name in (("dtype=bf16", "dtype (fp32 beside bf16)"),
                              ("layer.activation=geglu", "activation (swiglu beside geglu)"),
                              ("layer.hidden_size=64", "hidden_size (32 beside 64)")):
            other = setting.replace("=", "-")
            self.fake(other, settings=[setting])
            self.assertIn(name, self.compare("one/loop", f"{other}/loop", code=2))

    def test_wrong_answer(self):
        """No time of it is kept."""
        _, root = self.fake("wrong", what="wrong", code=1)
        self.validate(root)
        self.assertEqual([point["status"] for point in root["points"]], ["ok", "verify_failed"])
        self.assertEqual((root["points"][1]["rounds"], root["points"][1]["tflops"]), ([], None))
        self.fake("one")
        self.assertIn("of B did not verify: its output is another", self.compare("one/loop", "wrong/loop"))

    def test_died(self):
        ran, root = self.fake("died", what="died", code=1)
        self.validate(root)
        self.assertEqual([point["status"] for point in root["points"]], ["error", "error"])
        self.assertIn("its process ended with 3", root["points"][1]["error"])

    def test_missing(self):
        ran, root = self.fake("none", what="missing", code=3)
        self.assertIsNone(root)
        self.assertIn("loop left out: PyTorch is not installed", ran.stderr)
        ran = self.run_peers("none", "--python", "/nonexistent", "--llama", "/nonexistent", code=3)
        self.assertIn("llama.cpp left out: /nonexistent was not found", ran.stderr)

    def test_refused(self):
        for arguments, message in ((["--set", "layer.top_k=9"], "top_k"), (["--peers", "x"], "no such peer"),
                                   (["--set", "workload.distribution=file", "--set",
                                     "workload.file=there.npy"], "there.npy")):
            self.assertIn(message, self.run_peers("none", *arguments, code=2).stderr)
        self.fake("one")
        worker = self.folder / "worker-one"
        self.assertIn("already holds results", self.run_peers(
            "one", "--peers", "loop", "--python", worker, code=2).stderr)

    def test_llama(self):
        """Parts alone are timed, and only of a case with the same sizes."""
        program = self.script("ops", LLAMA)
        plain = ["workload.distribution=normal", "layer.capacity.capacity_factor=null",
                 "layer.top_k=[2,1]"]
        settings = [word for setting in plain for word in ("--set", setting)]
        self.run_peers("l", "--peers", "llama.cpp", "--llama", program, *settings, code=1)
        root = json.loads((self.folder / "l/llama.cpp/results.json").read_text())
        self.validate(root)
        point = root["points"][0]
        self.assertEqual((root["device"]["name"], point["status"]), ("A processor", "ok_unverified"))
        self.assertEqual((point["time_ms"]["gate_up"]["median"], point["time_ms"]["down"]["median"]),
                         (0.5, 0.3))
        self.assertIn("no MUL_MAT_ID of these sizes", root["points"][1]["error"])
        self.fake("one", settings=plain)
        self.assertIn("no time of the whole layer, only of gate_up, down",
                      self.compare("one/loop", "l/llama.cpp", code=2))
        # A capacity is not its work.
        self.run_peers("m", "--peers", "llama.cpp", "--llama", program, "--set",
                       "workload.distribution=normal", code=1)
        root = json.loads((self.folder / "m/llama.cpp/results.json").read_text())
        self.assertIn("capacity_factor is 1.25", root["points"][1]["error"])

    def test_parameters(self):
        """One that a peer does not know has to be as if it were not there."""
        defaults = {"jitter": 0, "shared": None}
        self.assertIsNone(record.not_default({"top_k": 3, "jitter": 0.0, "shared": None}, defaults, {"top_k"}))
        self.assertEqual(record.not_default({"jitter": 0.1}, defaults, set()), "jitter is 0.1")
        self.assertEqual(record.not_default({"novelty": True}, defaults, set()), "novelty is true")

    def test_capacity(self):
        params = {"capacity_of_tokens": False, "min_capacity": 0, "num_tokens": 100, "top_k": 1,
                  "num_experts": 10}
        for factor, capacity in ((1.1, 11), (1.0, 10), (1.01, 11), (0.001, 1), (None, None)):
            self.assertEqual(record.capacity_of({**params, "capacity_factor": factor}), capacity)
        self.assertEqual(record.capacity_of({**params, "capacity_factor": 1, "min_capacity": 30}), 30)
        self.assertEqual(record.capacity_of({**params, "capacity_factor": 0.255,
                                             "capacity_of_tokens": True}), 26)

    def test_like_moectl(self):
        """Work is counted as moectl counts it, and its own run is the same work."""
        listed = subprocess.run([MOECTL, "devices"], capture_output=True, text=True)
        if listed.returncode != 0:
            self.skipTest("no OpenCL device")
        subprocess.run([MOECTL, "run", "e.yaml", "--out", "ours", "--quiet", "--pictures", "none"],
                       cwd=self.folder, check=True, capture_output=True)
        ours = json.loads((self.folder / "ours/results.json").read_text())
        _, root = self.fake("one")
        self.assertEqual(ours["experiment"], root["experiment"])
        for mine, point in zip(ours["points"], root["points"]):
            self.assertEqual(mine["params"], point["params"])
            self.assertEqual(mine["routing"]["capacity"], point["routing"]["capacity"])
        # Where nothing is dropped and every input reaches every expert, the counts are exact.
        settings = ["--set", "layer.capacity.capacity_factor=null", "--set", "workload.distribution=normal"]
        subprocess.run([MOECTL, "run", "e.yaml", "--out", "all", "--quiet", "--pictures", "none", *settings],
                       cwd=self.folder, check=True, capture_output=True)
        for point in json.loads((self.folder / "all/results.json").read_text())["points"]:
            kept = point["routing"]["tokens_per_expert_after_capacity"]
            flops, moved = record.work_of(point["params"], kept)
            seconds = point["time_ms"]["layer"]["median"] * 1e-3
            self.assertAlmostEqual(point["tflops"], flops / seconds * 1e-12, delta=1e-6 * point["tflops"])
            self.assertAlmostEqual(point["gbytes_per_s"], moved / seconds * 1e-9,
                                   delta=1e-6 * point["gbytes_per_s"])
        self.assertIn("2 points of the same work", self.compare("ours", "one/loop"))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
