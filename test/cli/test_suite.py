#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""moectl suite: the parts of a folder, the page that sums them up, what goes on after a kill, and
parts that fail.

usage: test_suite.py MOECTL REPOSITORY
Exit code 77 (skipped) without an OpenCL device.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import unittest

from check_html import Page

MOECTL, ROOT = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
LAYER = {"hidden_size": 16, "intermediate_size": 12, "num_experts": 4, "top_k": 2}
QUICK = {"warmup": 0, "iterations": 3, "rounds": 3}
PARTS = {
    "batches": ("Is there a cliff?", {"layer": LAYER, "workload": {"num_tokens": [1, 2, 3, 4, 5]}, "measure": QUICK}),
    "noise": ("What does jitter <b>cost</b>?",
              {"layer": {**LAYER, "router": {"jitter": [0, 0.5]}}, "workload": {"num_tokens": 64}, "measure": QUICK}),
    "sizes": (None, {"layer": {**LAYER, "top_k": [1, 2]}, "workload": {"num_tokens": [4, 8]}, "measure": QUICK}),
}


def topk_ids(path):
    """[token][choice] of a dump."""
    data = path.read_bytes()
    size, = struct.unpack_from("<Q", data)
    entry = json.loads(data[8:8 + size])["topk_ids"]
    begin, end = entry["data_offsets"]
    values = struct.unpack(f"<{(end - begin) // 4}i", data[8 + size + begin:8 + size + end])
    width = entry["shape"][1]
    return [values[i:i + width] for i in range(0, len(values), width)]


class Suite(unittest.TestCase):
    def setUp(self):
        self.work = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.work)
        (self.work / "parts").mkdir()
        for name in PARTS:
            self.put(name)

    def put(self, name, folder="parts", **changed):
        question, experiment = PARTS.get(name, (None, PARTS["sizes"][1]))
        text = f"# {question}\n" if question else ""
        (self.work / folder / f"{name}.yaml").write_text(text + json.dumps({**experiment, **changed}))

    def suite(self, *arguments, code=0, own=True, **environment):
        words = [MOECTL, "suite", *(["--from", "parts"] if own else []), "--pictures", "none", *arguments]
        result = subprocess.run(words, capture_output=True, encoding="utf-8", cwd=self.work, check=False,
                                env={**os.environ, **environment})
        self.assertEqual(result.returncode, code, result.stdout + result.stderr)
        return result.stdout, result.stderr

    def results(self, name, out="out"):
        return json.loads((self.work / out / name / "results.json").read_text(encoding="utf-8"))

    def index(self, *reports, out="out"):
        """index.md and index.html, looked at; `reports`: the parts that have one."""
        text = (self.work / out / "index.html").read_text(encoding="utf-8")
        self.assertTrue(text.startswith("<!DOCTYPE html>\n"))
        links = set()
        for fault in Page(text).faults:
            found = re.fullmatch(r"\d+:\d+: <a href> leads out: (\S+/report\.html)", fault)
            self.assertTrue(found, fault)
            links.add(found[1])
        self.assertEqual(links, {f"{name}/report.html" for name in reports})
        markdown = (self.work / out / "index.md").read_text(encoding="utf-8")
        for target in [*links, *re.findall(r"\]\(([^)]+)\)", markdown)]:
            self.assertTrue((self.work / out / target).exists(), target)
        return markdown, text

    def test_whole(self):
        out, err = self.suite("--out", "out")
        for name, (question, _) in PARTS.items():
            root = self.results(name)
            self.assertEqual({point["status"] for point in root["points"]}, {"ok"})
            self.assertIn(" suite --from parts ", root["runs"][0]["command"])
        self.assertRegex(out, r"^batches\n  (No cliff: none of 4 steps|No cliff was found, but of \d of 4|\d of 4 steps)")
        self.assertRegex(out, r"\nnoise\n  Jitter changes \d")
        self.assertRegex(out, r"\nsizes\n  A token takes ")
        self.assertTrue(out.endswith("\nsuite: out/index.html\n"), out)
        self.assertIn("batches (1 of 3) round 1 of 3 [1/5] num_tokens=1: ", err)
        self.assertIn("sizes (3 of 3) round 3 of 3\n", err)
        markdown, page = self.index(*PARTS)
        self.assertIn("\n## noise\n\nWhat does jitter \\<b\\>cost\\</b\\>?\n\nJitter changes ", markdown)
        self.assertIn("5 points: 5 ran and verified.", markdown)
        self.assertIn(self.results("sizes")["device"]["name"], page)
        self.assertNotIn("did not end well", page)
        self.assertIn("\nmoectl suite --from parts --pictures none\n```", markdown)
        # What every part says is its own report's.
        for part in re.findall(r"^## (\w+)\n\n(.*?)\n\n\d+ points", markdown, re.M | re.S):
            finding = part[1].split("\n\n")[-1]
            self.assertIn(f"\n- {finding}\n", (self.work / "out" / part[0] / "report.md").read_text(), part[0])
        # Each part is an experiment that run takes, and goes on with.
        run = subprocess.run([MOECTL, "run", "parts/sizes.yaml", "--resume", "out/sizes", "--pictures", "none"],
                             capture_output=True, encoding="utf-8", cwd=self.work, check=False)
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertEqual(len(self.results("sizes")["runs"]), 1)
        # What is there is not written over.
        err = self.suite("--out", "out", code=2)[1]
        self.assertIn("out/batches already holds results", err)

    def test_changed_choices(self):
        """Against the dumps of two runs, one of them without jitter."""
        run = subprocess.run([MOECTL, "run", "parts/noise.yaml", "--out", "dumped", "--dump", "--pictures", "none",
                              "--set", "layer.num_experts=13", "--set", "layer.top_k=3",
                              "--set", "layer.shared.shared_intermediate_size=8",
                              "--set", "layer.router.weight_on_input=true", "--set", "dtype=bf16"],
                             capture_output=True, encoding="utf-8", cwd=self.work, check=False)
        self.assertEqual(run.returncode, 0, run.stderr)
        plain, jittered = (topk_ids(self.work / f"dumped/point-{i:03}.safetensors") for i in (0, 1))
        others = sum(expert not in before for before, after in zip(plain, jittered) for expert in after)
        self.assertGreater(others, 0)
        shares = [point["routing"]["changed_choices"] for point in json.loads(
            (self.work / "dumped/results.json").read_text())["points"]]
        self.assertEqual(shares, [None, others / (64 * 3)])

    def test_options(self):
        """One for all parts; and some parts alone."""
        out, _ = self.suite("--out", "out", "--only", "sizes,batches", "--set", "seed=7", "--iterations=2", "--quiet")
        self.assertFalse((self.work / "out/noise").exists())
        self.index("batches", "sizes")
        for name in ("batches", "sizes"):
            self.assertEqual({(point["params"]["seed"], point["iterations"]) for point in self.results(name)["points"]},
                             {(7, 2)})
        self.assertLess(out.index("batches\n"), out.index("sizes\n"))
        err = self.suite("--only", "sizes,nose", "--out", "no", code=2)[1]
        self.assertIn("the suite has no part 'nose'; did you mean 'noise'?; expected some of batches, noise, sizes", err)
        err = self.suite("--from", "nowhere", "--out", "no", code=2)[1]
        self.assertIn("nowhere: No such file or directory", err)
        err = self.suite("--full", "--out", "no", code=2)[1]
        self.assertIn("parts/full: No such file", err)
        err = self.suite("--device", "all", "--out", "no", code=2)[1]
        self.assertIn("a suite runs on one device", err)
        err = self.suite("--resume", "no", code=2)[1]
        self.assertIn("no cannot be resumed", err)
        self.assertFalse((self.work / "no").exists())
        (self.work / "parts/full").mkdir()
        self.put("large", "parts/full")
        self.suite("--full", "--out", "full")
        self.index("large", out="full")

    def test_mistake(self):
        """In one file: found before any runs, and nothing is left behind."""
        self.put("sizes", workload={"num_tokens": 0})
        err = self.suite(code=2)[1]
        self.assertIn("parts/sizes.yaml:1:", err)
        self.assertEqual([path.name for path in self.work.iterdir()], ["parts"])

    def test_failing_part(self):
        """One that cannot run here, and one of which a point fails: the others do."""
        self.put("batches", layer={**LAYER, "grouped_gemm_variant": "no_such"})
        self.put("noise", layer={**LAYER, "top_k": [1, 2], "intermediate_size": [12, 1073741823]})
        out, err = self.suite("--out", "out", "--ignore-memory-limit", code=1)
        self.assertIn("'no_such' does not serve", err)
        self.assertRegex(err, r"moectl: batches: it cannot run on the device")
        self.assertRegex(err, r"moectl: noise: point \d \(.*intermediate_size=1073741823")
        self.assertIn("sizes\n  A token takes ", out)
        markdown, page = self.index("noise", "sizes")
        self.assertIn("**2 parts did not end well:** batches, noise.", markdown)
        self.assertIn("4 points: 2 ran and verified, 2 **failed**.", markdown)
        self.assertIn("--resume out ", markdown)
        self.assertIn("<section class=\"fail\" id=\"batches\">\n<h2>batches</h2>", page)
        # None runs: the first one's code.
        self.suite("--only", "batches", "--out", "none", code=2)
        self.suite("--device", "9:9", "--out", "none", code=3)

    def start(self, *arguments):
        return subprocess.Popen([MOECTL, "suite", "--from", "parts", "--pictures", "none", *arguments],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", cwd=self.work)

    def wait_for(self, process, beginning):
        for line in process.stderr:
            if line.startswith(beginning):
                return
        self.fail(f"it never said {beginning}")

    def test_resume(self):
        """After a kill: with the part, and the point, at which it was."""
        self.put("noise", workload={"num_tokens": [64, 65, 66, 67, 68, 69, 70, 71]},
                 measure={"warmup": 0, "iterations": 1000, "rounds": 1})
        process = self.start("--out", "out")
        self.wait_for(process, "noise (2 of 3) [3/16]")
        process.send_signal(signal.SIGKILL)
        process.communicate()
        before = (self.work / "out/batches/results.json").read_bytes()
        journal = self.work / "out/noise/results.jsonl"
        lines = journal.read_text(encoding="utf-8").split("\n")[:-1] if journal.exists() else []
        kept = {json.loads(line)["index"] for line in lines}
        kept |= {point["index"] for point in self.results("noise")["points"]}
        self.assertGreaterEqual(len(kept), 2)
        self.assertFalse((self.work / "out/sizes").exists())
        self.index("batches")
        err = self.suite("--resume", "out")[1]
        self.assertEqual((self.work / "out/batches/results.json").read_bytes(), before)
        again = {int(number) - 1 for number in re.findall(r"^noise \(2 of 3\) \[(\d+)/16\]", err, re.M)}
        self.assertEqual(again, set(range(16)) - kept)
        self.assertEqual(len(self.results("noise")["points"]), 16)
        self.assertEqual(len(self.results("noise")["runs"]), 2)
        self.assertNotIn("batches (1 of 3) [", err)
        markdown, _ = self.index(*PARTS)
        self.assertNotIn("did not end well", markdown)

    def files(self, out="out"):
        """All below a folder, with what they hold."""
        return {path.relative_to(self.work): path.read_bytes()
                for path in (self.work / out).rglob("*") if path.is_file()}

    def test_refused(self):
        """A part that is another one now, or a folder of other parts: nothing is gone on with, or written."""
        self.suite("--out", "out", "--only", "batches,sizes")
        before = self.files()
        for options in (["--set", "seed=5"], ["--only", "batches", "--set", "seed=5"]):
            err = self.suite("--resume", "out", *options, code=2)[1]
            self.assertIn("out/batches/results.json holds another experiment than parts/batches.yaml", err)
            self.assertEqual(self.files(), before)
        self.put("sizes", seed=5)  # one that --only leaves out, but that is on the page
        err = self.suite("--resume", "out", "--only", "batches", code=2)[1]
        self.assertIn("out/sizes/results.json holds another experiment than parts/sizes.yaml", err)
        self.assertEqual(self.files(), before)
        err = self.suite("--resume", "out", own=False, code=2)[1]
        self.assertRegex(err, "out holds results of '(batches|sizes)', which is no part of this suite")
        self.assertEqual(self.files(), before)
        self.suite("--resume", "out", "--device", "9:9", code=3)
        self.assertEqual(self.files(), before)

    def test_resume_some(self):
        """What --only leaves out stays on the page, with what it found."""
        self.suite("--out", "out", "--only", "noise,sizes")
        markdown, _ = self.index("noise", "sizes")
        found = re.search(r"^Jitter changes .*$", markdown, re.M)[0]
        err = self.suite("--resume", "out", "--only", "batches")[1]
        self.assertIn("batches (1 of 1) [1/5]", err.replace("round 1 of 3 ", ""))
        markdown, _ = self.index(*PARTS)
        self.assertIn(f"\n{found}\n", markdown)
        self.assertIn("A benchmark suite of 3 parts, on ", markdown)
        self.assertIn("\nmoectl suite --from parts --only batches,noise,sizes --pictures none\n```", markdown)
        # A part that lacks points is not passed off as a whole one.
        path = self.work / "out/sizes/results.json"
        root = json.loads(path.read_text(encoding="utf-8"))
        del root["points"][3]
        path.write_text(json.dumps(root), encoding="utf-8")
        self.suite("--resume", "out", "--only", "batches")
        markdown, _ = self.index(*PARTS)
        self.assertIn("**1 part did not end well:** sizes.", markdown)
        self.assertIn("4 points: 3 ran and verified, 1 not run.", markdown)
        self.assertIn("--resume out ", markdown)
        self.suite("--resume", "out")
        self.assertNotIn("did not end well", self.index(*PARTS)[0])

    def test_no_such_device(self):
        """Said once, and no folder is left behind."""
        err = self.suite("--device", "9:9", code=3)[1]
        self.assertEqual(err.count("could not be opened"), 1, err)
        self.assertEqual([path.name for path in self.work.iterdir()], ["parts"])
        self.put("sizes", device="9:9")
        self.suite("--out", "out", code=3)
        self.assertEqual([path.name for path in self.work.iterdir()], ["parts"])

    def test_interrupt(self):
        self.put("noise", measure={"warmup": 0, "iterations": 4000, "rounds": 1000})
        process = self.start("--out", "out", "--set", "seed=3")
        self.wait_for(process, "noise (2 of 3) round 2 of 1000")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
        self.assertEqual(process.returncode, 1, err)
        self.assertIn("interrupted; go on with: moectl suite --set 'seed=3' --from parts --pictures none --resume out\n",
                      err)
        self.assertEqual(err.count("go on with"), 1, err)
        self.assertNotIn("sizes\n", out)
        markdown, _ = self.index("batches", "noise")
        self.assertIn("of which 2 ran", markdown)
        self.assertIn("noise", markdown.split("did not end well:**")[1].split("\n")[0])

    def test_unwritable(self):
        """A folder that cannot be written: said, before anything runs."""
        (self.work / "out").write_text("a file")
        err = self.suite("--out", "out", code=2)[1]
        self.assertIn("out", err)

    def test_own_files(self):
        """Those of the repository: found from anywhere, and each without a mistake or a warning."""
        out, _ = self.suite("--only", "decode,jitter", "--set", "workload.num_tokens=[1,2,3,4,5]", "--out", "out",
                            "--set", "layer.hidden_size=32", "--set", "layer.intermediate_size=16", "--iterations=2",
                            own=False)
        self.assertIn("decode\n  ", out)
        self.index("decode", "jitter")
        names = {}
        for folder in ("suite", "suite/full"):
            files = sorted((ROOT / "configs" / folder).glob("*.yaml"))
            names[folder] = [path.name for path in files]
            result = subprocess.run([MOECTL, "check", *files], capture_output=True, encoding="utf-8", check=False,
                                    env={**os.environ, "OCL_ICD_VENDORS": "/nonexistent"})
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertNotIn("warning", result.stderr)
            for path in files:
                self.assertRegex(path.read_text(), r"\A# [A-Z][^\n]*\?\n", path.name)
        self.assertEqual(names["suite"], names["suite/full"])
        self.assertIn("decode.yaml", names["suite"])


if __name__ == "__main__":
    if subprocess.run([MOECTL, "devices", "--json"], capture_output=True, check=False).stdout.strip() in (b"", b"[]"):
        print("SKIP: no OpenCL device")
        sys.exit(77)
    unittest.main(argv=sys.argv[:1])
