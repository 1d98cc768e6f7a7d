# SPDX-License-Identifier: MIT
"""moectl profile: files, numbers that are consistent and as counted by hand, the timeline, the
baseline.

usage: test_profile.py MOECTL CL EVENT_TIMES.so [TEST...]
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

MOECTL, CL, SHIM = (pathlib.Path(argument).resolve() for argument in sys.argv[1:4])
H, I, E, T = 64, 48, 4, 40
EXPERIMENT = f"""name: tiny
layer:
  hidden_size: {H}
  intermediate_size: {I}
  num_experts: {E}
  top_k: [1, 2]
workload: {{num_tokens: {T}, distribution: skewed}}
measure: {{warmup: 1, iterations: 3, rounds: 3}}
"""
REPORTS = ("router_profiling_report", "moe_layer_profiling_report",
           "transformer_block_profiling_report", "consolidated_profiling_report",
           "baseline_profiling")


def moectl(*arguments, folder=None, environment=None):
    return subprocess.run([MOECTL, *map(str, arguments)], capture_output=True, encoding="utf-8",
                          cwd=folder, check=False, env={**os.environ, **(environment or {})})


def rows(text):
    """Cells of the rows of Markdown's tables."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()
            if line.startswith("|")]


def profile(folder, *arguments, code=0, environment=None):
    done = moectl("profile", "tiny.yaml", "--quiet", *arguments, folder=folder,
                  environment=environment)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done


class Profile(unittest.TestCase):
    """Of one profile that is made once."""

    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        (cls.folder / "tiny.yaml").write_text(EXPERIMENT, encoding="utf-8")
        cls.done = profile(cls.folder, "--out", "out", "--trace", "trace.json")
        cls.out = cls.folder / "out"
        cls.root = json.loads((cls.out / "profile.json").read_text(encoding="utf-8"))
        cls.trace = json.loads((cls.folder / "trace.json").read_text(encoding="utf-8"))

    def report(self, name):
        return (self.out / "docs" / f"{name}.md").read_text(encoding="utf-8")

    def parts(self, root=None):
        for point in (root or self.root)["points"]:
            for name, part in point["parts"].items():
                if part["ran"]:
                    yield point, name, part

    def test_files(self):
        for name in REPORTS:
            text = self.report(name)
            self.assertTrue(text.startswith("# "), name)
            self.assertNotIn("nan", text.lower().replace("nano", ""), name)
        self.assertTrue((self.out / "opencl_router_benchmark_results.txt").is_file())
        self.assertIn("consolidated_profiling_report.md", self.done.stdout)
        self.assertIn("trace.json", self.done.stdout)
        self.assertEqual([p["label"] for p in self.root["points"]], ["top_k=1", "top_k=2"])
        for name in ("router", "layer", "block"):
            self.assertTrue(all(p["parts"][name]["ran"] for p in self.root["points"]))

    def test_sums(self):
        """Stages and gaps are the whole, and kernels their stage."""
        for _, name, part in self.parts():
            stages = part["stages"]
            self.assertTrue(part["timed"])
            self.assertAlmostEqual(sum(s["us"] for s in stages.values()) + part["gaps_us"],
                                   part["total_us"], delta=0.01, msg=name)
            self.assertEqual(sum(s["kernels"] for s in stages.values()), len(part["kernels"]))
            for stage, told in stages.items():
                own = [k["us"] for k in part["kernels"] if k["stage"] == stage]
                self.assertAlmostEqual(sum(own), told["us"], delta=0.01)
                self.assertLessEqual(told["us_over"]["min"], told["us_over"]["median"])
                # The timeline's forward is one of the three.
                shown = sum(k["end_us"] - k["start_us"] for k in part["kernels"]
                            if k["stage"] == stage)
                self.assertLess(told["us_over"]["min"] - 0.01, shown)
                self.assertLess(shown, told["us_over"]["p90"] + 0.01)
            # Medians, of no forward in particular: between the least and the most of all.
            if name != "router":
                self.assertGreater(part["total_us"], 0)
                self.assertLess(part["total_us"], 3 * part["span_us"]["p90"])
            for before, kernel in zip(part["kernels"], part["kernels"][1:]):
                self.assertGreaterEqual(kernel["gap_us"], 0)
                self.assertGreaterEqual(kernel["start_us"], before["end_us"])
            self.assertEqual(part["forwards"], 3)
            # Three rounds, of which the first is that of the whole time.
            whole = part["span_us" if name == "router" else "alone_us"]["median"]
            self.assertEqual(len(part["rounds_us"]), 3)
            self.assertEqual(part["rounds_us"][0], whole)
            self.assertGreater(min(part["rounds_us"]), 0)

    def test_work(self):
        """Operations and bytes as the shapes have them: all assignments are kept."""
        for point, name, part in self.parts():
            k = 1 if "top_k=1" in point["work"].split(", ") else 2
            stages = part["stages"]
            self.assertEqual(stages["router"]["flops"], 2 * T * H * E)
            self.assertEqual(stages["router"]["bytes"],
                             4 * T * H + 4 * E * H + 4 * T * E + 8 * T * k)
            if name == "router":
                self.assertEqual(set(stages) - {"permute"}, {"router"})
                continue
            self.assertEqual(stages["gate_up"]["flops"], 2 * T * k * H * 2 * I)
            self.assertEqual(stages["down"]["flops"], 2 * T * k * I * H)
            active = (stages["down"]["bytes"] - 4 * T * k * (I + H)) / (4 * I * H)
            self.assertIn(active, range(1, E + 1))
            self.assertEqual(stages["gate_up"]["bytes"],
                             4 * (active * 2 * I * H + T * H + T * k * I))
            self.assertEqual("attention" in stages, name == "block")
            if name == "block":  # 4 heads of 16, one of keys and values
                self.assertEqual(stages["qkv_proj"]["flops"], 2 * T * H * (64 + 2 * 16))
                self.assertEqual(stages["attention"]["flops"], 4 * 64 * T * (T + 1) // 2)
                self.assertEqual(stages["attention"]["bytes"], 4 * (2 * T * 64 + 2 * T * 16))
                self.assertEqual(stages["o_proj"]["flops"], 2 * T * 64 * H)

    def test_shares(self):
        """The report's shares are of the peaks, above 0."""
        peaks = self.root["peaks"]
        point = self.root["points"][0]["parts"]["layer"]
        section = self.report("moe_layer_profiling_report").split("## Point 1")[0]
        found = {row[0]: row for row in rows(section) if row[0] in point["stages"]
                 and len(row) == 10}
        self.assertEqual(set(found), set(point["stages"]))
        for stage, row in found.items():
            told = point["stages"][stage]
            for cell, amount, peak in ((row[6], told["flops"], peaks["flops_f32"]),
                                       (row[7], told["bytes"], peaks["read_bytes_per_s"])):
                share = 100 * amount / (told["us"] * 1e-6) / peak
                self.assertTrue(cell.endswith("%"), row)
                self.assertAlmostEqual(float(cell[:-1]), share, delta=max(0.06, 0.01 * share, 0.51 if share > 9 else 0))
                self.assertGreaterEqual(share, 0)
        for what in ("flops", "bytes"):
            self.assertGreater(point["stages"]["gate_up"][what], 0)

    def test_headline(self):
        """The table's times are those without an event for each kernel; the router has no such."""
        table = [row for row in rows(self.report("consolidated_profiling_report")) if len(row) == 6]
        self.assertEqual(table[0][1:5], ["router", "layer", "block", "layer tokens/s"])

        def told(cell):
            number, _, unit = cell.partition(" ")
            return float(number) * {"": 1, "us": 1, "ms": 1e3, "k": 1e3, "M": 1e6}[unit]

        for row, point in zip(table[2:], self.root["points"], strict=True):
            parts = point["parts"]
            times = [parts["router"]["span_us"], parts["layer"]["alone_us"],
                     parts["block"]["alone_us"]]
            for cell, times in zip(row[1:4], times):
                self.assertAlmostEqual(told(cell), times["median"], delta=0.006 * times["median"])
            rate = T / (parts["layer"]["alone_us"]["median"] * 1e-6)
            self.assertAlmostEqual(told(row[4]), rate, delta=0.006 * rate)

    def test_kernels(self):
        """The report's kernels are those of profile.json."""
        part = self.root["points"][0]["parts"]["layer"]
        section = self.report("moe_layer_profiling_report").split("## Point 1")[0]
        table = [row for row in rows(section) if len(row) == 6]
        self.assertEqual(table[0], ["step", "kernel", "enqueued", "gap before", "time", "of all"])
        self.assertEqual(len(table), 2 + len(part["kernels"]))
        for row, kernel in zip(table[2:], part["kernels"]):
            self.assertEqual(row[:2], [kernel["step"], kernel["kernel"]])
            for cell, us in ((row[2], kernel["enqueued_us"]), (row[3], kernel["gap_us"]),
                             (row[4], kernel["us"])):
                number, unit = cell.split()
                told = float(number) * {"us": 1, "ms": 1e3}[unit]
                self.assertAlmostEqual(told, us, delta=0.006 * us + 0.001)
            share = 100 * kernel["us"] / part["total_us"]
            self.assertAlmostEqual(float(row[5][:-1]), share, delta=0.06 if share < 9.9 else 0.51)

    def test_reports_read_well(self):
        """Tables' cells are padded: columns of a table begin at the same places."""
        for name in REPORTS:
            table = []
            for line in [*self.report(name).splitlines(), ""]:
                if line.startswith("|"):
                    table.append([i for i, c in enumerate(line) if c == "|"])
                elif table:
                    self.assertTrue(all(places == table[0] for places in table), name)
                    table = []
        for name in REPORTS[:3]:
            said = re.findall(r"^\*\*.* takes? \d+% of .*\*\*$", self.report(name), re.M)
            self.assertEqual(len(said), 2, name)
        self.assertIn("around it, causal, with rotary embedding and drawn weights: 4 heads, 1 of keys and values", self.report(REPORTS[2]))

    def test_memory(self):
        for _, name, part in self.parts():
            memory = part["memory_bytes"]
            self.assertGreater(memory["weights"], 0)
            # Three inputs; the rows of the table add up to what is predicted.
            self.assertEqual(memory["inputs"], 3 * 4 * T * H)
            self.assertEqual(memory["predicted"], memory["weights"] + memory["workspace"] +
                             memory["inputs"] + memory["hidden_states"] + memory["cache"])
            if name != "layer":
                continue
            self.assertEqual(memory["hidden_states"], 4 * T * H)
            self.assertGreaterEqual(memory["weights"], 4 * E * (H + 3 * H * I))
            # Three inputs and an output, beside what is predicted once.
            least = memory["weights"] + memory["workspace"] + 4 * memory["hidden_states"]
            self.assertEqual(memory["predicted"], least)
            self.assertGreaterEqual(memory["seen"], least)
            self.assertLess(memory["seen"], 2 * least)
        # The plan alone says what activations would take, of a block its layer's among them.
        for point in self.root["points"]:
            parts = {name: point["parts"][name]["memory_bytes"] for name in ("layer", "block")}
            for memory in parts.values():
                self.assertGreaterEqual(memory["activations"], memory["workspace"])
            self.assertGreater(parts["block"]["activations"], parts["layer"]["activations"])

    def test_bf16_saves(self):
        """The experts' weights alone may be bf16, two bytes instead of four: as they are given, in a
        variant that packs nothing; packed there may be more of them."""
        profile(self.folder, "--out", "given", "--set", "layer.grouped_gemm_variant=generic")
        given = json.loads((self.folder / "given" / "profile.json").read_text(encoding="utf-8"))
        for root in (given, self.root):
            for _, name, part in self.parts(root):
                saves = part["memory_bytes"]["bf16_saves"]
                experts = E * 3 * H * (8 if name == "router" else I)
                self.assertGreaterEqual(saves, 2 * experts)
                if root is given:
                    self.assertEqual(saves, 2 * experts)

    def test_variants(self):
        text = (self.out / "opencl_router_benchmark_results.txt").read_text(encoding="utf-8")
        for point in self.root["points"]:
            variants = point["router_variants"]
            self.assertIn("generic", [v["name"] for v in variants])
            self.assertEqual([v["name"] for v in variants if v["chosen"]],
                             [point["variants"]["router"]])
            for variant in variants:
                self.assertTrue(variant["ran"] and variant["ok"], variant)
                self.assertEqual(variant["topk_mismatches"], 0)
                self.assertGreater(variant["us"]["median"], 0)
                self.assertIn(variant["name"], text)
        self.assertEqual(text.count("the reference"), 2 + text.count("with the reference"))
        self.assertIn("(chosen)", text)

    def test_trace(self):
        """The trace-event format: each begin has its end, in order, and counters are the loads."""
        events = self.trace["traceEvents"]
        begun, latest, names, counters = {}, {}, set(), {}
        for event in events:
            self.assertIn(event["ph"], "MBEC")
            track = event["pid"], event["tid"]
            if event["ph"] == "M":
                self.assertIn(event["name"], ("process_name", "thread_name"))
                names.add(event["args"]["name"])
                continue
            self.assertGreaterEqual(event["ts"], 0)
            if event["ph"] == "C":
                counters.setdefault(event["name"], []).append(event["args"])
                continue
            self.assertGreaterEqual(event["ts"], latest.get(track, 0), event)
            latest[track] = event["ts"]
            if event["ph"] == "B":
                self.assertNotIn(track, begun)
                begun[track] = event["name"]
            else:
                self.assertEqual(begun.pop(track), event["name"])
        self.assertEqual(begun, {})
        self.assertLessEqual({"host", "moectl", "queue", "gate_up", "enqueues"}, names)
        kernels = [e for e in events if e["ph"] == "B" and e["cat"] == "kernel"]
        self.assertEqual(len(kernels), sum(len(part["kernels"]) for _, _, part in self.parts()))
        loads = counters["tokens per expert"]
        self.assertEqual([sum(one.values()) for one in loads], 2 * [T, 0] + 2 * [2 * T, 0])
        self.assertEqual([one["mean"] for one in counters["expert load"]],
                         2 * [T / E, 0] + 2 * [2 * T / E, 0])

    def test_hot_expert(self):
        """Skewed tokens load one expert: the layer's report names it, as its loads do."""
        loads = next(e["args"] for e in self.trace["traceEvents"]
                     if e["ph"] == "C" and e["name"] == "tokens per expert")
        hottest = max(loads, key=loads.get)
        text = self.report("moe_layer_profiling_report").split("## Point 1")[0]
        hot = loads[hottest] >= 2 * T / E
        told = re.search(r"Hot expert:\*\* expert (\d+) has (\d+) rows", text)
        share = sum(self.root["points"][0]["parts"]["layer"]["stages"][s]["us"]
                    for s in ("gate_up", "down"))
        share /= self.root["points"][0]["parts"]["layer"]["total_us"]
        if hot and share >= 0.25:
            self.assertEqual((f"expert {told[1]}", int(told[2])), (hottest, loads[hottest]))
        else:
            self.assertIsNone(told)


class Alone(unittest.TestCase):
    def folder(self):
        folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        (folder / "tiny.yaml").write_text(EXPERIMENT, encoding="utf-8")
        return folder

    def test_no_times(self):
        """A driver whose event times are none: everything but times is there."""
        folder = self.folder()
        profile(folder, "--out", "out", "--trace", "trace.json", "--set", "layer.top_k=1",
                environment={"LD_PRELOAD": str(SHIM), "MOECL_TEST_SWAP": "1"})
        root = json.loads((folder / "out/profile.json").read_text(encoding="utf-8"))
        for part in root["points"][0]["parts"].values():
            self.assertTrue(part["ran"] and not part["timed"])
            self.assertIsNone(part["span_us"]["median"])
            self.assertGreater(part["stages"]["router"]["flops"], 0)
        text = (folder / "out/docs/consolidated_profiling_report.md").read_text(encoding="utf-8")
        self.assertEqual(text.count("gives no credible event times"), 3)
        self.assertNotIn("nan", text)
        trace = json.loads((folder / "trace.json").read_text(encoding="utf-8"))
        self.assertEqual({e["pid"] for e in trace["traceEvents"] if e["ph"] == "B"}, {1})

    def test_interrupted(self):
        """What was interrupted ends soon, becomes no baseline, and spoils no earlier profile."""
        folder = self.folder()
        profile(folder, "--out", "other", "--set", "layer.top_k=1")
        (folder / "earlier").mkdir()
        (folder / "earlier/profile.json").write_text("kept", encoding="utf-8")
        self.interrupt(folder, "out")
        self.interrupt(folder, "earlier", "--baseline", "other")
        self.assertFalse((folder / "out/baseline.json").exists())
        self.assertEqual([*(folder / "out").iterdir()], [])
        self.assertEqual([(f.name, f.read_text(encoding="utf-8"))
                          for f in (folder / "earlier").iterdir()], [("profile.json", "kept")])

    def interrupt(self, folder, out, *arguments):
        process = subprocess.Popen([MOECTL, "profile", "tiny.yaml", "--iterations", "1000",
                                    "--set", "layer.top_k=1", "--set", "workload.num_tokens=50000",
                                    "--out", out, *arguments], cwd=folder,
                                   stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        while "profiling 1/1" not in process.stderr.readline():
            self.assertIsNone(process.poll())
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
        self.assertEqual(process.returncode, 1, said)
        self.assertIn("interrupted", said)
        self.assertIn("no point ended, so nothing is written", said)

    def test_many_kernels(self):
        """A library's GEMMs are a kernel for each expert and more: none is left out."""
        folder = self.folder()
        if "clblast" not in moectl("devices").stdout:
            self.skipTest("built without CLBlast")
        profile(folder, "--out", "out", "--set", "layer.top_k=2", "--set", "layer.num_experts=200",
                "--set", "workload.num_tokens=200", "--set", "workload.distribution=normal",
                "--set", "layer.grouped_gemm_variant=clblast")
        root = json.loads((folder / "out/profile.json").read_text(encoding="utf-8"))
        part = root["points"][0]["parts"]["layer"]
        self.assertGreater(len(part["kernels"]), 256)
        self.assertLessEqual({"router", "permute", "gate_up", "down", "combine"},
                             set(part["stages"]))
        self.assertGreater(part["stages"]["down"]["kernels"], 100)
        text = (folder / "out/docs/moe_layer_profiling_report.md").read_text(encoding="utf-8")
        told = int(re.search(r"And (\d+) more, which profile.json has", text)[1])
        listed = [row for row in rows(text) if len(row) == 6]
        self.assertEqual(len(listed) - 2 + told, len(part["kernels"]))

    def test_router(self):
        """Its times are its kernels' and the gaps between them, its host's until the last."""
        folder = self.folder()
        profile(folder, "--out", "out", "--set", "layer.top_k=2", "--iterations", "1")
        root = json.loads((folder / "out/profile.json").read_text(encoding="utf-8"))
        part = root["points"][0]["parts"]["router"]
        kernels = part["kernels"]
        took = kernels[-1]["end_us"] - kernels[0]["start_us"]
        for said in (*part["span_us"].values(), part["total_us"]):
            self.assertAlmostEqual(said, took, delta=0.001)
        self.assertAlmostEqual(part["host_us"], kernels[-1]["enqueued_us"], delta=0.001)
        self.assertIsNone(part["alone_us"]["median"])
        # What verification takes beside it is not its own.
        memory = part["memory_bytes"]
        self.assertLessEqual(memory["seen"], memory["predicted"] + 4096)

    def test_checkpoint(self):
        """The router's weights are drawn where the layer's are a checkpoint's: it says so."""
        folder = self.folder()
        golden = pathlib.Path(__file__).resolve().parents[1] / "golden/families/olmoe"
        (folder / "tiny.yaml").write_text(json.dumps({
            "name": "checkpoint", "layer": {"checkpoint": str(golden), "layer": 0},
            "workload": {"num_tokens": 8}, "measure": {"warmup": 0, "iterations": 1}}),
            encoding="utf-8")
        profile(folder, "--out", "out")
        said = "The experiment's weights are a checkpoint's, but the router's here are drawn"
        for name, times in (("router", 1), ("moe_layer", 0), ("consolidated", 0)):
            text = (folder / f"out/docs/{name}_profiling_report.md").read_text(encoding="utf-8")
            self.assertEqual(text.count(said), times, name)

    def test_active(self):
        """Of weights those of the experts that were reached are counted."""
        folder = self.folder()
        profile(folder, "--out", "out", "--set", "layer.top_k=1", "--set", "workload.num_tokens=1")
        root = json.loads((folder / "out/profile.json").read_text(encoding="utf-8"))
        stages = root["points"][0]["parts"]["layer"]["stages"]
        self.assertEqual(stages["gate_up"]["bytes"], 4 * (2 * I * H + H + I))
        self.assertEqual(stages["down"]["bytes"], 4 * (I * H + I + H))


    def test_offload(self):
        """A layer whose experts are in the host's memory: there is no block of it, which is no
        failure, and its gaps are no launches'."""
        folder = self.folder()
        done = profile(folder, "--out", "out", "--set", "layer.top_k=2",
                       "--set", "parallel.placement=offload", "--set", "parallel.cache=2")
        self.assertNotIn("expert_cache", done.stderr)
        root = json.loads((folder / "out/profile.json").read_text(encoding="utf-8"))
        parts = root["points"][0]["parts"]
        self.assertEqual([parts[name]["ran"] for name in ("router", "layer", "block")],
                         [True, True, False])
        self.assertIn("parallel.placement: offload", parts["block"]["why"])
        for name in ("transformer_block", "consolidated"):
            text = (folder / f"out/docs/{name}_profiling_report.md").read_text(encoding="utf-8")
            self.assertIn("Not profiled: a block has all experts on the device", text, name)
            self.assertNotIn("Launch-bound", text, name)
        self.assertTrue((folder / "out/baseline.json").is_file())
        # Compared with that, the block has nothing to compare and is no failure either.
        profile(folder, "--out", "out", "--set", "layer.top_k=2",
                "--set", "parallel.placement=offload", "--set", "parallel.cache=2")


class Block(unittest.TestCase):
    def test_own(self):
        """An experiment of a block is profiled as that, after its cached tokens."""
        folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        (folder / "tiny.yaml").write_text(EXPERIMENT, encoding="utf-8")
        heads, kv_heads, dim, context = 6, 3, 8, 12
        profile(folder, "--out", "out", *(f"--set={key}={value}" for key, value in {
            "layer.top_k": 2, "measure.what": "block", "block.attention.num_heads": heads,
            "block.attention.num_kv_heads": kv_heads, "block.attention.head_dim": dim,
            "workload.context": context}.items()))
        root = json.loads((folder / "out/profile.json").read_text(encoding="utf-8"))
        part = root["points"][0]["parts"]["block"]
        stages, pairs = part["stages"], T * context + T * (T + 1) // 2
        self.assertEqual(stages["attention"]["flops"], 4 * heads * dim * pairs)
        self.assertEqual(stages["qkv_proj"]["flops"], 2 * T * H * dim * (heads + 2 * kv_heads))
        self.assertEqual(stages["gate_up"]["flops"], 2 * 2 * T * H * 2 * I)
        memory = part["memory_bytes"]
        self.assertGreaterEqual(memory["cache"], 2 * 4 * (context + T) * kv_heads * dim)
        self.assertLessEqual(memory["weights"] + memory["workspace"] + memory["cache"],
                             memory["seen"])
        # The context's hidden states, and as much again out of the one step that fills the cache.
        self.assertEqual(memory["inputs"], 4 * H * (3 * T + 2 * context))
        self.assertEqual(memory["predicted"], memory["weights"] + memory["workspace"] +
                         memory["inputs"] + memory["hidden_states"] + memory["cache"])
        # What the layer takes alone is profiled beside it.
        self.assertNotIn("attention", root["points"][0]["parts"]["layer"]["stages"])
        text = (folder / "out/docs/transformer_block_profiling_report.md").read_text(encoding="utf-8")
        self.assertIn("The experiment's block: 6 heads, 3 of keys and values, 12 cached tokens", text)


    def test_context(self):
        """A context of several steps, each of more tokens than the forward: predicted as it is."""
        folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        (folder / "tiny.yaml").write_text(EXPERIMENT, encoding="utf-8")
        profile(folder, "--out", "out", "--set", "layer.top_k=1", "--set", "measure.what=block",
                "--set", "block.attention.num_heads=4", "--set", "workload.context=1500")
        root = json.loads((folder / "out/profile.json").read_text(encoding="utf-8"))
        memory = root["points"][0]["parts"]["block"]["memory_bytes"]
        self.assertGreater(memory["inputs"], 4 * H * (3 * T + 1500 + 512))
        self.assertEqual(memory["predicted"], memory["weights"] + memory["workspace"] +
                         memory["inputs"] + memory["hidden_states"] + memory["cache"])
        self.assertLessEqual(memory["seen"], memory["predicted"])
        text = (folder / "out/docs/transformer_block_profiling_report.md").read_text(encoding="utf-8")
        told = [row[0] for row in rows(text) if len(row) == 2]
        self.assertEqual(told[2:], ["weights", "workspace", "activations, were no memory shared",
                                    "inputs and context", "output", "key/value cache",
                                    "peak, predicted", "peak, seen"])


class SetAside(unittest.TestCase):
    def test_spoilt(self):
        """A variant whose source is spoilt is named, with the reason."""
        folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        (folder / "tiny.yaml").write_text(EXPERIMENT, encoding="utf-8")
        shutil.copytree(CL, folder / "cl")
        best = moectl("profile", "tiny.yaml", "--quiet", "--set", "layer.top_k=1", "--out", "fine",
                      folder=folder)
        self.assertEqual(best.returncode, 0, best.stderr)
        point = json.loads((folder / "fine/profile.json").read_text(encoding="utf-8"))["points"][0]
        chosen = point["variants"]["router"]
        if chosen != "cpu":
            self.skipTest(f"the router is {chosen} here")
        source = folder / "cl/router/cpu.cl"
        source.write_text(source.read_text(encoding="utf-8") + "\n#error spoilt\n",
                          encoding="utf-8")
        profile(folder, "--set", "layer.top_k=1", "--out", "out",
                environment={"MOECL_KERNEL_DIR": str(folder / "cl")})
        text = (folder / "out/docs/consolidated_profiling_report.md").read_text(encoding="utf-8")
        self.assertRegex(text, r"- \*\*Set aside:\*\* the router variant `cpu` is the best for this "
                               r"device and failed on it, so `\w+` serves: router/cpu.cl did not compile.*spoilt")
        text = (folder / "out/opencl_router_benchmark_results.txt").read_text(encoding="utf-8")
        self.assertRegex(text, r"cpu +did not run")


    def test_block_fails(self):
        """A block that does not run is a failure, and no baseline, though its layer runs."""
        folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        (folder / "tiny.yaml").write_text(EXPERIMENT, encoding="utf-8")
        shutil.copytree(CL, folder / "cl")
        for source in (folder / "cl/attention").glob("*.cl"):
            source.write_text("#error spoilt\n", encoding="utf-8")
        done = profile(folder, "--set", "layer.top_k=1", "--set", "measure.what=block",
                       "--set", "block.attention.num_heads=4", "--out", "out", code=1,
                       environment={"MOECL_KERNEL_DIR": str(folder / "cl")})
        self.assertIn("the block did not run", done.stderr)
        self.assertFalse((folder / "out/baseline.json").exists())
        root = json.loads((folder / "out/profile.json").read_text(encoding="utf-8"))
        self.assertEqual({name: part["ran"] for name, part in root["points"][0]["parts"].items()},
                         {"router": True, "layer": True, "block": False})


class Baseline(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        (self.folder / "tiny.yaml").write_text(EXPERIMENT, encoding="utf-8")

    def run_it(self, out, *arguments, code=0):
        return profile(self.folder, "--out", out, "--set", "layer.top_k=2", *arguments, code=code)

    def page(self, out):
        return (self.folder / out / "docs/baseline_profiling.md").read_text(encoding="utf-8")

    def change(self, path, change):
        path = self.folder / path
        root = json.loads(path.read_text(encoding="utf-8"))
        change(root)
        path.write_text(json.dumps(root), encoding="utf-8")

    def test_kept_and_updated(self):
        self.run_it("a")
        self.assertIn("is the baseline", self.page("a"))
        first = (self.folder / "a/baseline.json").read_text(encoding="utf-8")

        def slow(root):
            root["measured"] = "the slow one"
            for part in root["points"][0]["parts"].values():
                part["alone_us"] = part["span_us"] = {"median": 1e9, "min": 1e9, "p90": 1e9}
                part["rounds_us"] = [1e9, 1.01e9, 0.99e9]

        # A second profile is compared with the first, which stays the baseline.
        self.run_it("a")
        self.assertIn("The baseline was measured", self.page("a"))
        self.assertEqual((self.folder / "a/baseline.json").read_text(encoding="utf-8"), first)
        # --baseline puts another in its place, for those that follow too.
        shutil.copytree(self.folder / "a", self.folder / "b")
        self.change("b/profile.json", slow)
        for arguments in (("--baseline", "b"), ()):
            self.run_it("a", *arguments)
            self.assertIn("measured the slow one", self.page("a"))
            told = {row[2]: row for row in rows(self.page("a")) if row[1] == "layer"}
            self.assertEqual(told["all"][3], "1000000 ms")
            self.assertEqual(told["all"][5], "0.00")
            # Rounds that another program held up differ by more than they do from these.
            self.assertIn(told["all"][6], ("faster", "noise"))
            self.assertEqual({row[6] for stage, row in told.items() if stage != "all"}, {""})
            self.assertIn("load average", self.page("a"))
        # Of other work there is nothing to compare with.
        self.run_it("c", "--baseline", "b", "--set", "workload.num_tokens=12")
        self.assertIn("1 of 1 points have no counterpart", self.page("c"))

    def test_mistakes(self):
        for arguments, message in ((("--baseline", "none"), "none"),
                                   (("--baseline", "tiny.yaml"), "is not JSON"),
                                   (("--set", "workload.num_tokens=" + str(list(range(1, 18)))),
                                    "17 points, and a profile is of 16 at most")):
            done = self.run_it("out", *arguments, code=2)
            self.assertIn(message, done.stderr)
        done = self.run_it("trace", "--trace", "no/where.json", code=2)
        self.assertIn("no/where.json", done.stderr)
        self.assertFalse((self.folder / "trace").exists())

    def test_unwritten(self):
        """What was measured is said although a report cannot be written."""
        (self.folder / "out/docs/router_profiling_report.md/x").mkdir(parents=True)
        done = self.run_it("out", code=1)
        self.assertRegex(done.stdout, r"layer .* takes? \d+% of")
        self.assertIn("router_profiling_report.md", done.stderr)


if __name__ == "__main__":
    if moectl("devices").returncode != 0:
        print("skipped: there is no OpenCL device")
        sys.exit(77)
    unittest.main(argv=[sys.argv[0], *sys.argv[4:]])
