#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""bench/peers/formats.py: its points and ratios, the command around sides that are scripts of this
test, and, where it is built, layer_times itself on a tiny layer."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "bench/peers/formats.py"
sys.path.insert(0, str(ROOT / "bench/peers"))

import formats  # noqa: E402

LAYER_TIMES = pathlib.Path(sys.argv.pop(1)) if len(sys.argv) > 1 and os.sep in sys.argv[1] else None

# Ours: 4 ms in bf16, 1 ms in int8; the variant "slow" takes twice that, "none" is not there.
OURS = """#!/usr/bin/env python3
import json, sys
def answer(**m): print(json.dumps(m), flush=True)
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
variant = words.get("--variant", "best")
if variant == "none": sys.exit("layer_times: no such variant")
ms = {"bf16": 4.0, "int8": 1.0}.get(words["--format"], 2.0) * (2 if variant == "slow" else 1)
answer(device="a CPU", variant=variant)
for line in sys.stdin:
    if line.startswith("tokens"):
        tokens = int(line.split()[1])
        answer(tokens=tokens, error=0.001, weight_bytes=8000000, ids=[[1, 3] * tokens, [5, 4] * tokens])
    elif line == "read\\n": answer(read=10.0)
    else: answer(experts=ms, layer=ms + 0.5, wall=ms + 1, samples=3)
"""

# ggml: repacks nothing, q8_0 takes 3 ms and says which experts it was told; f16 is wrong and bf16
# ends in its second round.
GGML = """#!/usr/bin/env python3
import json, sys
def answer(**m): print(json.dumps(m), flush=True)
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if words["--layout"] == "repacked":
    answer(unsuitable="repacks nothing"); sys.exit()
answer(device="ggml")
rounds = 0
for line in sys.stdin:
    if line.startswith("tokens"):
        print(line, file=sys.stderr, flush=True)
        answer(tokens=1, error=0.5 if words["--type"] == "f16" else 0.01)
    else:
        rounds += 1
        if words["--type"] == "bf16" and rounds == 2: sys.exit(3)
        answer(experts=3.0, samples=2)
"""


# What runs torch_formats.py, so to say: an fp8 kernel whose activations cost what they may, 2 ms.
TORCH = """#!/usr/bin/env python3
import json, sys
def answer(**m): print(json.dumps(m), flush=True)
if "triton_fp8" not in sys.argv:
    answer(unsuitable="not installed"); sys.exit()
answer(device="a GPU, some versions")
for line in sys.stdin:
    if line.startswith("tokens"): answer(tokens=1, error=0.05, tolerance=0.08, mode="graph")
    else: answer(layer=2.0, wall=2.5, samples=2)
"""


class Points(unittest.TestCase):
    def test_tokens(self):
        self.assertEqual(formats.tokens_of("4", "8:8:64:8"), 4)
        self.assertEqual(formats.tokens_of("4r", "8:8:64:8"), 32)
        self.assertEqual(formats.tokens_of("1r", "8:8:7:2"), 4)  # rounded up

    def test_ratio_is_of_the_rounds(self):
        """The machine became twice as slow for the second round: no side's loss."""
        self.assertEqual(formats.ratio({"rounds": [2, 4, 6]}, {"rounds": [1, 2, 2]}), 2)


    def test_activations(self):
        self.assertTrue(formats.goes_with("bf16", "dtype") and formats.goes_with("int4-g32", "int8"))
        self.assertTrue(formats.goes_with("fp8-block", "fp8-g128"))
        self.assertFalse(formats.goes_with("int8", "fp8-g128") or formats.goes_with("bf16", "int8"))


class Command(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        for name, text in (("layer_times", OURS), ("peer_ggml", GGML), ("torch", TORCH)):
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o755)

    def run_command(self, *arguments):
        words = [sys.executable, str(PROGRAM), "--out", str(self.folder / "out"), "--shape",
                 "64:32:8:2", "--ours", str(self.folder / "layer_times"), "--rounds", "3",
                 "--python", "", "--ggml", str(self.folder / "peer_ggml"), *arguments]
        ran = subprocess.run(words, capture_output=True, text=True)
        path = self.folder / "out/formats.json"
        return ran, json.loads(path.read_text()) if path.exists() else None

    def test_whole_group(self):
        ran, record = self.run_command("--groups", "8", "--points", "1", "1r", "--variants", "auto,slow")
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        self.assertEqual([point["tokens"] for point in record["points"]], [1, 4])
        sides = {one["name"]: one for one in record["points"][0]["sides"]}
        self.assertEqual(set(sides), {"bf16", "bf16@slow", "int8", "int8@slow", "int8-g128",
                                      "int8-g128@slow", "llama.cpp q8_0"})
        self.assertEqual(sides["int8@slow"]["rounds"], [2.0, 2.0, 2.0])
        # bf16 takes 4 times as long, the peer 3 times; 8 MB in 1 ms are 8 of 10 GB/s.
        self.assertIn("| 8 | 1 | int8 | 1.000 | 4.00 | 3.00 | 8.0 | 80% | 2.000 | 1.0e-03 |", ran.stdout)
        self.assertIn("repacks nothing", " ".join(record["notes"]))
        # The experts are those that our router chose.
        self.assertIn("tokens 4 2 1 3 1 3 1 3 1 3 5 4 5 4 5 4 5 4\n", (self.folder / "out/formats.log").read_text())

    def test_gpu(self):
        ran, record = self.run_command("--on", "gpu", "--groups", "8", "--points", "16", "--python",
                                       str(self.folder / "torch"), "--activations", "dtype,fp8-g128")
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        names = [one["name"] for one in record["points"][0]["sides"]]
        self.assertEqual(names, ["bf16", "int8", "fp8-block", "fp8-block+fp8-g128", "triton_fp8"])
        # Of the device's time of the whole layer, 1.5 ms.
        self.assertIn("| 8 | 16 | int8 | 1.500 | 3.00 | 1.33 | 5.3 |  | 2.000 |", ran.stdout)
        self.assertIn("| 8 | 16 | triton_fp8, graph | 2.000 | 2.25 |", ran.stdout)
        self.assertIn("scaled_grouped_mm left out: not installed", ran.stdout)

    def test_wrong_and_dead_peers(self):
        ran, record = self.run_command("--groups", "16", "--points", "1")
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        point = record["points"][0]
        self.assertEqual([one["name"] for one in point["sides"]], ["bf16", "fp16"])
        why = {out["name"]: out["why"] for out in point["left_out"]}
        self.assertIn("relative error 0.5", why["llama.cpp f16"])
        self.assertIn("its process ended", why["llama.cpp bf16"])
        self.assertIn("llama.cpp f16 left out", (self.folder / "out/formats.md").read_text())

    def test_a_missing_variant_and_our_own_death(self):
        ran, record = self.run_command("--groups", "mxfp4", "--points", "1", "--variants", "auto,none")
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        self.assertIn("mxfp4@none left out", ran.stdout)
        (self.folder / "layer_times").unlink()
        ran, record = self.run_command("--groups", "mxfp4", "--points", "1")
        self.assertEqual((ran.returncode, record["points"]), (1, []), ran.stdout + ran.stderr)
        self.assertIn("bf16 left out", ran.stdout)

    def test_usage(self):
        for wrong in (["--groups", "3"], ["--shape", "1:2"], ["--points", "x"], ["--points", "0"],
                      ["--rounds", "0"]):
            ran, record = self.run_command(*wrong)
            self.assertEqual((ran.returncode, record), (2, None), wrong)


@unittest.skipUnless(LAYER_TIMES, "no layer_times was named")
class LayerTimes(unittest.TestCase):
    def ask(self, lines, *words):
        ran = subprocess.run([str(LAYER_TIMES), "--shape", "64:32:6:2", *words], text=True, input=lines,
                             capture_output=True)
        return ran, [json.loads(line) for line in ran.stdout.splitlines()]

    def test_answers(self):
        ran, found = self.ask("tokens 5\nrun 0.3\nread\n", "--format", "mxfp4", "--variant", "generic")
        self.assertEqual(ran.returncode, 0, ran.stderr)
        about, point, times, read = found
        self.assertEqual(about["variant"], "generic")
        self.assertLess(point["error"], 0.01)  # bf16's own
        # Twice as many choices as experts, or one input: 12 / 10.
        ids, = point["ids"]
        self.assertEqual(len(ids), 10)
        self.assertTrue(all(0 <= one < 6 for one in ids) and
                        all(ids[i] != ids[i + 1] for i in range(0, 10, 2)), ids)
        # gate, up and down: 4 bits a weight and 8 for each 32.
        self.assertEqual(point["weight_bytes"], len(set(ids)) * (3 * 64 * 32 * 17 // 32))
        # Medians of forwards of their own: on a busy machine "layer" may be the shorter.
        for name in ("experts", "layer", "wall", "processors", "samples"):
            self.assertGreater(times[name], 0, name)
        self.assertGreater(read["read"], 0)

    def test_few_tokens_have_several_inputs(self):
        ran, found = self.ask("tokens 1\nrun 0.01\ntokens 2\n", "--variant", "generic")
        self.assertEqual([len(found[1]["ids"]), len(found[3]["ids"])], [6, 3], ran.stderr)
        self.assertGreater(len(set(map(tuple, found[1]["ids"]))), 1)
        self.assertEqual(found[1]["weight_bytes"], 2 * 2 * 3 * 64 * 32)

    def test_usage(self):
        for words in (["--format", "int3"], ["--shape", "0:1:1:1"], ["--threads", "0"]):
            ran, _ = self.ask("", *words)
            self.assertEqual(ran.returncode, 2, words)
        self.assertEqual(self.ask("tokens 0\n")[0].returncode, 2)


if __name__ == "__main__":
    unittest.main()
