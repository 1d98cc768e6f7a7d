#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""bench/peers without a GPU or PyTorch: floors, tables, and the command around
two sides that are scripts of this test."""

import json
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
import nvidia  # noqa: E402

# Milliseconds at 777 TFLOP/s and 2.95 TB/s, to three or four digits, worked out by hand.
H100 = floors.Ceilings(777, 2.95)
FLOORS = {
    "mixtral": (0.239, 0.946, 0.956, 0.961, 3.715, 14.86),
    "olmoe": (0.034, 0.241, 0.273, 0.276, 0.532, 2.128),
    "qwen3": (0.026, 0.264, 0.410, 0.412, 0.421, 1.603),
    "gpt-oss": (0.067, 0.476, 0.540, 0.544, 1.050, 4.201),
    "deepseek": (0.239, 3.045, 7.513, 7.654, 7.683, 14.94),
}


def entry(name, ms, **more):
    """A side that took `ms` in every measure."""
    return {"name": name, "error": 0.002, **dict.fromkeys(floors.MEASURES, ms), **more}


def record_of(points, **more):
    return {"device": "a GPU", "date": "2026-01-02", "versions": "none", "seconds": 0.5, "rounds": 3,
            "ceilings": H100._asdict(), "notes": [], "points": points, **more}


def point_of(shape, tokens, ours_ms, *peers, **more):
    return {"shape": shape, "tokens": tokens, "left_out": [], "active": None,
            "ours": entry("moecl", ours_ms, variant="generic") if ours_ms else {"error": "no device"},
            "peers": [entry(name, ms) for name, ms in peers], **more}


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


class Shared(unittest.TestCase):
    """What goes through the window."""

    def test_items(self):
        shape = floors.SHAPES["olmoe"]
        self.assertEqual(floors.items_of(shape, "router"), (1, 2 * 64 * 2048))
        self.assertEqual(floors.items_of(shape, "gate_up"), (64, 2 * 2 * 1024 * 2048))
        self.assertEqual(floors.items_of(shape, "down"), (64, 2 * 1024 * 2048))
        self.assertEqual(sum(count * each for count, each in
                             (floors.items_of(shape, t) for t in ("router", "gate_up", "down"))),
                         floors.weight_bytes(shape))

    def test_window(self):
        for shape in floors.SHAPES.values():
            for tokens in floors.TOKENS:
                size = floors.window_bytes(shape, tokens)
                self.assertGreaterEqual(size, floors.items_of(shape, "gate_up")[1])
                self.assertGreaterEqual(size, floors.input_sets(tokens) * tokens * shape.hidden * 2)


class Table(unittest.TestCase):
    def test_summary(self):
        half = 2 * floors.floor_ms(floors.SHAPES["olmoe"], 16, H100)
        eight = 8 * floors.floor_ms(floors.SHAPES["qwen3"], 1, H100)
        record = record_of([point_of("olmoe", 16, half, ("slow", 9.0), ("fast", half)),
                            point_of("qwen3", 1, eight, ("fast", eight / 4)),
                            point_of("qwen3", 128, None, ("x", 1))])
        for what in floors.MEASURES:
            found = floors.summary(record, what)
            self.assertAlmostEqual(found["over_floor"], 4)  # the geometric mean of 2 and 8
            self.assertAlmostEqual(found["over_peer"], 2)   # of 1 and 4
            self.assertEqual((found["counted"], found["won"], found["compared"]), (2, 1, 2))

    def test_each_measure_has_its_best_peer(self):
        point = point_of("olmoe", 16, 1.0, ("A", 2.0), ("B", 3.0))
        point["peers"][1]["idle"] = 0.5
        self.assertEqual(floors.best_peer(point, "burst")["name"], "A")
        self.assertEqual(floors.best_peer(point, "idle")["name"], "B")
        self.assertEqual(floors.ratios(point, H100, "idle")[4], 2)

    def test_floor_of_active_experts(self):
        """Bytes of the experts that were active, where that is known."""
        shape = floors.SHAPES["deepseek"]
        expected = floors.floor_ms(shape, 16, H100)
        bytes_of = 6 * 7168 * 2048 * 90 + 4 * 16 * 7168
        self.assertAlmostEqual(floors.floor_ms(shape, 16, H100, 90), bytes_of / 2.95e9)
        self.assertNotAlmostEqual(expected, bytes_of / 2.95e9, places=2)

    def test_markdown(self):
        text = floors.markdown(record_of(
            [point_of("olmoe", 16, 0.4821, ("A", 0.9), ("B", 0.25),
                      left_out=[{"name": "C", "why": "wrong answer"}]),
             point_of("olmoe", 128, 0.1, ("A", 0.2)), point_of("olmoe", 1024, None)], notes=["a note"]))
        self.assertIn("| OLMoE-1B-7B (2048, 1024, 64, 8) | 16 | 0.482 | 0.250 | B | **1.93** | 0.482 "
                      "| 0.250 | **1.93** | 0.482 | 0.250 | **1.93** | 0.482 | 0.250 | **1.93** "
                      "| 0.241 | 2.00 | 2.00 |", text)
        self.assertIn("|  | 128 | 0.100 | 0.200 | A | 0.50 |", text)
        self.assertIn("|  | 1024 | n/a | n/a | n/a | n/a |", text)
        for line in ("- olmoe:16: C left out: wrong answer", "- a note",
                     "- olmoe:1024: ours is missing: no device"):
            self.assertIn(line + "\n", text)
        self.assertIn("at or below the best peer at 1 of 2 points", text)

    def test_other_experts_are_told(self):
        point = point_of("olmoe", 16, 0.5, ("A", 0.9), active=50.0)
        point["ours"]["active"] = [50, 51]
        self.assertIsNone(floors.differing_experts(point))
        point["ours"]["active"] = [60, 60]
        self.assertIn("olmoe:16: 60 experts active in ours, 50 in the peers",
                      floors.markdown(record_of([point])))

    def test_markdown_of_nothing(self):
        text = floors.markdown(record_of([], ceilings=None))
        self.assertIn("not measured, so no floors", text)


# Answers as bench/turns does, and notes what it was asked; at 1024 tokens its process ends.
OURS = """#!/usr/bin/env python3
import json, sys
def answer(**m): print(json.dumps(m), flush=True)
window = open(sys.argv[sys.argv.index("--window") + 1], "r+b")
answer(device="a GPU", variant="generic", version="0")
for line in sys.stdin:
    with open(ASKED, "a") as asked: asked.write("ours " + line)
    words = line.split()
    if words[0] == "weights":
        answer(GB_s=1, byte=window.seek(0) or window.read(1)[0])
    elif words[0] == "tokens":
        if words[1] == "1024": sys.exit("the GPU is on fire")
        window.seek(0); window.write(bytes([int(words[1]) % 251])); window.flush()
        answer(active=[8, 10])
    else: answer(ms={"burst": 0.5, "load": 0.6, "device": 0.45, "idle": 0.7}[words[0]])
"""

# It dies under the peer "triton" and in the turn of "sglang", hangs under "transformers" and never has vLLM. What it finds in the
# window is ours' output, or WRONG.
WORKER = """#!/usr/bin/env python3
import json, os, sys, time
def answer(**m): print(json.dumps(m), flush=True)
window = open(sys.argv[sys.argv.index("--window") + 1], "r+b", buffering=0)
answer(ready=True, device="a GPU", versions="some versions")
tokens = 0
for line in sys.stdin:
    request = json.loads(line)
    if "turn" in request:
        with open(ASKED, "a") as asked: asked.write(request["turn"] + " " + request["what"] + "\\n")
        if request["turn"] == "s" and request["what"] == "load": os._exit(3)
        answer(ms={"burst": 0.4, "load": 0.7, "device": 0.4, "idle": 0.8}[request["what"]])
    if request.get("ceilings"): answer(ceilings={"tflops": 777, "tbytes": 2.95})
    if "tokens" in request:
        tokens = request["tokens"]
        answer(case={"sets": 3, "active": [8, 8]})
    if "check" in request:
        window.seek(0)
        answer(checked=0.002 if window.read(1)[0] == tokens % 251 else 1.5)
    for peer in request.get("contend", []):
        answer(begin=peer)
        if peer == "triton": os._exit(3)
        if peer == "transformers": time.sleep(3600)
        if peer == "vllm": answer(left_out={"name": "vllm", "why": "not installed: no vllm"})
    for peer in request.get("contend", []): # as the real one, when all were tried
        if peer == "sglang":
            answer(result={"name": "s", "of": peer, "error": 0.001, "quick": 0.3, "stays": True})
        if peer == "grouped_mm":
            answer(result={"name": "g", "of": peer, "error": 0.001, "quick": 0.4, "stays": True})
            answer(result={"name": "slow", "of": peer, "error": 0.001, "quick": 4, "stays": False})
    answer(done=True)
"""


class Command(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.asked = self.folder / "asked"
        self.script("ours", OURS)
        self.script("worker", WORKER)

    def script(self, name, text):
        (self.folder / name).write_text(text.replace("ASKED", repr(str(self.asked))))
        (self.folder / name).chmod(0o755)

    def run_command(self, *arguments):
        out = self.folder / "out"
        ran = subprocess.run([sys.executable, str(PEERS / "nvidia.py"), "--out", str(out), "--ours",
                              str(self.folder / "ours"), "--python", str(self.folder / "worker"),
                              "--rest", "0", "--seconds", "0.01", *arguments],
                             capture_output=True, text=True)
        path = out / "comparison.json"
        return ran, json.loads(path.read_text()) if path.exists() else None

    def test_whole_run(self):
        ran, record = self.run_command("--limit", "10", "--points", "olmoe:1,16,128,1024", "--peers",
                                       "triton,transformers,vllm,grouped_mm")
        self.assertEqual(ran.returncode, 1, ran.stderr)  # 1024 failed
        points = record["points"]
        self.assertEqual([p["tokens"] for p in points], [1, 16, 128, 1024])
        # A peer that dies or hangs takes no other peer along, and is given up at last.
        for point in points[:3]:
            self.assertEqual([peer["name"] for peer in point["peers"]], ["g"])
            self.assertEqual([peer["name"] for peer in point["tried"]], ["g", "slow"])
        self.assertEqual([[o["name"] for o in p["left_out"]] for p in points],
                         [["triton", "transformers"]] * 2 + [[]] * 2)
        self.assertEqual(sum("vllm left out: not installed" in n for n in record["notes"]), 1)
        self.assertEqual(record["ceilings"], H100._asdict())
        ours = points[0]["ours"]
        self.assertEqual([ours[what] for what in floors.MEASURES], [0.5, 0.6, 0.45, 0.7])
        self.assertEqual((len(ours["rounds"]), points[0]["active"]), (3, 8))
        self.assertIn("layer_turns ended", points[3]["ours"]["error"])
        for line in ("on the device: geometric mean of ours / floor", "at 0 of 3 points",
                     "at 3 of 3 points", "olmoe:1024", "grouped GEMM of: generic",
                     "ours was right at 3 points"):
            self.assertIn(line, ran.stdout)
        self.assertIn("9 experts active in ours, 8 in the peers",
                      (self.folder / "out/comparison.md").read_text())

    def test_a_death_in_the_turns(self):
        """The others' turns begin anew, without that peer and one that died when it was tried."""
        ran, record = self.run_command("--points", "olmoe:1,16,128", "--peers",
                                       "triton,sglang,grouped_mm")
        self.assertEqual(ran.returncode, 0, ran.stderr)
        for point in record["points"]:
            self.assertEqual([peer["name"] for peer in point["peers"]], ["g"])
            self.assertEqual(len(point["peers"][0]["rounds"]), 3)
            self.assertEqual(point["ours"]["burst"], 0.5)
        # Each once a point, and given up at the second.
        self.assertEqual([[out["name"] for out in point["left_out"]] for point in record["points"]],
                         [["triton", "s"], ["triton", "s"], []])
        self.assertIn("in the turns", record["points"][0]["left_out"][1]["why"])
        for name in ("triton", "sglang"):
            self.assertEqual(sum(f"{name} given up" in note for note in record["notes"]), 1)

    def test_orders(self):
        """In every round all, and all after one another equally often, but for one time."""
        for sides in (1, 2, 3, 4):
            rounds = list(nvidia.orders(sides, 12))
            for order in rounds:
                self.assertEqual(sorted(order), list(range(sides)))
            flat = sum(rounds, [])
            pairs = list(zip(flat, flat[1:]))
            for a in range(sides):
                others = [pairs.count((b, a)) for b in range(sides) if b != a] or [0]
                self.assertLessEqual(max(others) - min(others), 1, (sides, rounds))
                self.assertTrue(sides == 1 or (a, a) not in pairs, (sides, rounds))

    def test_turns_change(self):
        """Nobody takes two turns one behind the other, and all have the same number."""
        self.run_command("--points", "olmoe:1", "--peers", "grouped_mm", "--rounds", "2")
        words = [line.split()[:2] for line in self.asked.read_text().splitlines()]
        loads = [side for side, what in words if what == "load"]
        self.assertEqual(loads, ["ours", "g"] * 2)
        turn = [what for side, what in words if side == "g"][-4:]
        self.assertEqual(turn, ["idle", "burst", "device", "load"])

    def test_all_weights_are_handed_over(self):
        self.run_command("--points", "mixtral:1", "--peers", "none")
        given = {}
        for line in self.asked.read_text().splitlines():
            words = line.split()
            if words[1] == "weights":
                given.setdefault(words[2], []).extend(range(int(words[3]), int(words[3]) + int(words[4])))
        self.assertEqual(given, {"router": [0], "gate_up": list(range(8)), "down": list(range(8))})

    def test_a_wrong_answer_of_ours(self):
        self.script("ours", OURS.replace("% 251])", "% 251 + 1])"))
        ran, record = self.run_command("--points", "olmoe:1,16", "--peers", "grouped_mm")
        self.assertEqual(ran.returncode, 1)
        for point in record["points"]:
            self.assertIn("wrong answer: relative error 1.5", point["ours"]["error"])
            self.assertNotIn("burst", point["ours"])

    def test_without_peers(self):
        ran, record = self.run_command("--peers", "none", "--ceilings", "777:2.95",
                                       "--points", "olmoe:1", "--seconds", "0")
        self.assertEqual(ran.returncode, 0, ran.stderr)
        self.assertEqual((record["points"][0]["peers"], record["device"]), ([], "a GPU"))
        self.assertNotIn("load", record["points"][0]["ours"])
        self.assertIn("burst 0.500 (n/a of no peer", ran.stdout)

    def test_packages(self):
        """The worker hears of the folder, and only where one is named."""
        self.script("worker", WORKER.replace('"some versions"', '" ".join(sys.argv[1:])'))
        for words, want in ((["--packages", "wheels"], True), ([], False)):
            ran, record = self.run_command("--peers", "sglang", "--points", "olmoe:1", *words)
            self.assertEqual(ran.returncode, 0, ran.stderr)
            self.assertEqual("--packages wheels" in record["versions"], want)

    def test_missing_python_or_ours(self):
        ran, record = self.run_command("--python", "/nonexistent/python", "--points", "olmoe:1")
        self.assertIn("/nonexistent/python did not start", ran.stderr)
        self.assertEqual((ran.returncode, record), (2, None))
        (self.folder / "ours").unlink()
        ran, record = self.run_command("--peers", "none", "--points", "olmoe:16")
        self.assertEqual(ran.returncode, 1)
        self.assertIn("did not start", ran.stdout)

    def test_no_gpu(self):
        """Told once, at once: not thirty points that failed."""
        self.script("ours", "#!/bin/sh\necho '{\"no_device\": true}'\nexit 3\n")
        ran, record = self.run_command("--peers", "none")
        self.assertEqual((ran.returncode, record), (2, None), ran.stdout + ran.stderr)
        self.assertEqual(ran.stderr.count("no device matches"), 1)

    def test_usage(self):
        for wrong in (["--points", "nonesuch"], ["--peers", "nonesuch"], ["--ceilings", "1"]):
            ran, record = self.run_command(*wrong)
            self.assertEqual((ran.returncode, record), (2, None), wrong)
            self.assertIn(wrong[1], ran.stderr)


if __name__ == "__main__":
    unittest.main()
