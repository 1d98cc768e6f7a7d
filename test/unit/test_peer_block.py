#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""bench/peers/block.py without PyTorch: the command around a block_times that is a script of
this test, its points and its table."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench/peers"))

import block  # noqa: E402

# Answers a point with 2, 4, ... ms, and ends at 99 tokens.
SCRIPT = """#!/usr/bin/env python3
import json, sys
print(json.dumps({"device": "a device"}), flush=True)
wall = 0.0
for line in sys.stdin:
    tokens, context = map(int, line.split())
    if tokens == 99: sys.exit("no memory")
    wall += 2
    print(json.dumps({"tokens": tokens, "context": context, "wall": wall, "device": 1.5,
                      "stages": {"attention": wall / 4}, "variants": {"attention": "generic"}}),
          flush=True)
"""


class Points(unittest.TestCase):
    def test_words(self):
        self.assertEqual(block.parse_points(["mixtral:1,128", "qwen3:1@4096"]),
                         [("mixtral", [(1, 0), (128, 0)]), ("qwen3", [(1, 4096)])])

    def test_wrong_words(self):
        for word in ("mixtral", "mixtral:", "mixtral:0", "mixtral:x", "mixtral:1@2@3", "m:2@4"):
            with self.assertRaises(ValueError, msg=word):
                block.parse_points([word])


class Rows(unittest.TestCase):
    def test_ratio_is_to_the_best(self):
        row = block.row("m", {"tokens": 1, "context": 4096, "attention": "flash",
                              "attention_ms": {"flash": 0.05}, "ours": {"wall": 3.0, "device": 2.0},
                              "peer": {"eager": 12.0, "graph": 6.0}})
        self.assertIn("| 1 after 4096 |", row)
        self.assertTrue(row.endswith("| 0.50 |"), row)

    def test_missing(self):
        row = block.row("m", {"tokens": 4, "context": 0, "ours": None, "peer": None})
        self.assertEqual(row.count("n/a"), 7)  # attention's name and time are two

    def test_median_of_rounds(self):
        rounds = [{"wall": w, "stages": {"a": w / 2}, "name": "x"} for w in (3.0, 1.0, 2.0)]
        self.assertEqual(block.median_of(rounds),
                         {"wall": 2.0, "stages": {"a": 1.0}, "name": "x"})


class Command(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.out = pathlib.Path(self.folder.name)
        self.program = self.out / "block_times"
        self.program.write_text(SCRIPT)
        self.program.chmod(0o755)

    def run_command(self, *words):
        ran = subprocess.run([sys.executable, str(ROOT / "bench/peers/block.py"), "--no-peer",
                              "--ours", str(self.program), "--out", str(self.out), *words],
                             capture_output=True, text=True, env=dict(os.environ))
        path = self.out / "block.json"
        return ran, json.loads(path.read_text()) if path.exists() else None

    def test_two_rounds_a_point(self):
        ran, record = self.run_command("--points", "tiny:1,16")
        self.assertEqual(ran.returncode, 0, ran.stderr)
        first, second = record["models"]["tiny"]
        self.assertEqual((first["ours"]["wall"], second["ours"]["wall"]), (3.0, 7.0))
        self.assertEqual(record["device"], "a device")
        self.assertIn("tiny 16@0: attention 1.75", ran.stdout)

    def test_a_program_that_ends(self):
        ran, record = self.run_command("--points", "tiny:1,99")
        self.assertEqual(ran.returncode, 1)
        self.assertIsNone(record["models"]["tiny"][1]["ours"])
        self.assertIn("ours is missing", ran.stdout)
        self.assertIn("no memory", (self.out / "ours.log").read_text())

    def test_usage(self):
        ran, record = self.run_command("--points", "tiny")
        self.assertEqual((ran.returncode, record), (2, None))


if __name__ == "__main__":
    unittest.main()
