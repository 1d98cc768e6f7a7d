# SPDX-License-Identifier: MIT
"""moectl run on several devices: a folder each, and the comparison; a broken one is left out.

usage: test_run_devices.py MOECTL FAILING_CALL.so
Exit code 77 (skipped) where PoCL does not make several devices of the CPU.
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

MOECTL, SHIM = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
EXPERIMENT = {"name": "several", "layer": {"hidden_size": 16, "intermediate_size": 12,
                                           "num_experts": 4, "top_k": [1, 2]},
              "workload": {"num_tokens": 8}, "measure": {"warmup": 0, "iterations": 6}}
TWO, THREE = "basic pthread", "basic pthread pthread"


def moectl(*arguments, devices=TWO, folder=None, environment=None):
    return subprocess.run([MOECTL, *arguments], capture_output=True, encoding="utf-8", cwd=folder,
                          env={**os.environ, "POCL_DEVICES": devices, **(environment or {})})


def names(devices):
    listed = json.loads(moectl("devices", "--json", devices=devices).stdout or "[]")
    return [device["name"].split("-")[0] for device in listed if device["platform_index"] == 0]


class Devices(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        (self.folder / "e.yaml").write_text(json.dumps(EXPERIMENT), encoding="utf-8")

    def run_it(self, *arguments, code=0, devices=TWO, environment=None):
        result = moectl("run", "e.yaml", "--pictures", "none", "--quiet", *arguments,
                        devices=devices, folder=self.folder, environment=environment)
        self.assertEqual(result.returncode, code, result.stdout + result.stderr)
        return result.stdout, result.stderr

    def results(self, *parts):
        return json.loads(self.folder.joinpath(*parts, "results.json").read_text(encoding="utf-8"))

    def test_all(self):
        out, _ = self.run_it("--device", "all", "--out", "out")
        self.assertEqual(sorted(path.name for path in (self.folder / "out").glob("device-*")),
                         ["device-0-0", "device-0-1"])
        for number, name in enumerate(names(TWO)):
            root = self.results("out", f"device-0-{number}")
            self.assertTrue(root["device"]["name"].startswith(name))
            self.assertEqual([point["status"] for point in root["points"]], ["ok", "ok"])
            self.assertIn(f"device 0:{number}: {root['device']['name']} (", out)
        self.assertIn("B beside A: 2 points of the same work", out)
        self.assertIn("Compared: device (basic", out)
        self.assertTrue(out.endswith("\ncomparison: out\n"), out)
        # What compare says itself, of the same folders.
        again = moectl("compare", "out/device-0-0", "out/device-0-1", folder=self.folder).stdout
        self.assertIn(again, out)
        self.assertTrue((self.folder / "out/compare.csv").exists())
        report = (self.folder / "out/device-0-1/report.md").read_text(encoding="utf-8")
        self.assertIn("--device '0:1'", report)

    def test_list(self):
        """In its order; without --out the folder has the experiment's name."""
        out, _ = self.run_it("--device", "0:1,0:0")
        made, = (self.folder / "results").iterdir()
        self.assertTrue(made.name.startswith("several-"))
        self.assertIn(f"A  results/{made.name}/device-0-1: pthread", out)
        self.assertIn(f"B  results/{made.name}/device-0-0: basic", out)

    def test_broken(self):
        """One that opens no context beside two that do, and beside one."""
        broken = {"LD_PRELOAD": str(SHIM), "MOECL_TEST_CALL": "clCreateContext",
                  "MOECL_TEST_DEVICE": "basic"}
        out, err = self.run_it("--device", "all", "--out", "out", devices=THREE, environment=broken)
        self.assertIn("left out: device 0:0, basic", err)
        self.assertIn("B beside A: 2 points of the same work", out)
        self.assertIn("A  out/device-0-1: pthread", out)
        self.assertIn("B  out/device-0-2: pthread", out)
        self.assertFalse((self.folder / "out/device-0-0").exists())
        out, err = self.run_it("--device=0:1,0:0", "--out", "two", environment=broken)
        self.assertIn("left out: device 0:0, basic", err)
        self.assertIn("one device ran: there is nothing to compare", out)
        broken["MOECL_TEST_DEVICE"] = "-"  # all
        self.run_it("--device", "all", "--out", "none", code=1, environment=broken)

    def test_broken_driver(self):
        vendors = self.folder / "vendors"
        shutil.copytree("/etc/OpenCL/vendors", vendors)
        (vendors / "broken.icd").write_text("/nowhere/libvendor.so.1\n", encoding="utf-8")
        out, err = self.run_it("--device", "all", "--out", "out",
                               environment={"OCL_ICD_VENDORS": str(vendors)})
        self.assertIn("broken.icd names /nowhere/libvendor.so.1, which cannot be loaded", err)
        self.assertIn("B beside A: 2 points", out)

    def test_members(self):
        """Devices of a group, by names with blanks in them and by numbers, in turns."""
        name = json.loads(moectl("devices", "--json").stdout)[1]["name"].split("-")[-1]
        for devices, found in ((f"['{name}', 0:1]", f"{name}, 0:1, {name}"),
                               ("[0:1, 0:0]", "0:1, 0:0, 0:1"), ("' 0:1 ,, 0:0,'", "0:1, 0:0, 0:1")):
            result = moectl("explain", "e.yaml", "--set", "parallel.experts=3", "--set",
                            f"devices={devices}", folder=self.folder)
            self.assertIn(f"\n  members on: {found}\n", result.stdout, result.stderr)
        result = moectl("check", "e.yaml", "--set", "parallel.experts=3", "--set", "devices=0:1 0:0",
                        folder=self.folder)
        self.assertIn("there is no device '0:1 0:0' here", result.stderr)

    def test_not_there(self):
        err = self.run_it("--device", "0:0,7:0", "--out", "out", code=3)[1]
        self.assertIn("there is no device 7:0", err)
        err = self.run_it("--device", "0:1,0:1", "--out", "out", code=2)[1]
        self.assertIn("0:1 is named twice", err)
        err = self.run_it("--device", "all", "--format", "csv", "--out", "out", code=2)[1]
        self.assertIn("--format csv is of one device", err)
        self.assertFalse((self.folder / "out").exists())
        # No list of places: part of a name.
        self.assertIn("no", self.run_it("--device", "0:0,pthread", code=3)[1])

    def test_resume(self):
        """Only what lacks runs; results are not written over."""
        self.run_it("--device", "0:0,0:1", "--out", "out")
        kept = (self.folder / "out/device-0-0/results.json").read_bytes()
        shutil.rmtree(self.folder / "out/device-0-1")
        err = self.run_it("--device", "all", "--out", "out", code=2)[1]
        self.assertIn("out/device-0-0 already holds results", err)
        self.assertFalse((self.folder / "out/device-0-1").exists())
        out, _ = self.run_it("--device", "all", "--resume", "out")
        self.assertEqual((self.folder / "out/device-0-0/results.json").read_bytes(), kept)
        self.assertIn("B beside A: 2 points of the same work", out)

    def test_unreadable(self):
        """Results that are gone when they are to be compared: not a success."""
        long = {**EXPERIMENT, "measure": {"warmup": 0, "iterations": 10000, "rounds": 1}}
        (self.folder / "e.yaml").write_text(json.dumps(long), encoding="utf-8")
        run = subprocess.Popen([MOECTL, "run", "e.yaml", "--device", "0:0,0:1", "--out", "out",
                                "--pictures", "none"], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, encoding="utf-8", cwd=self.folder,
                               env={**os.environ, "POCL_DEVICES": TWO})
        while not run.stdout.readline().startswith("device 0:1"):
            self.assertIsNone(run.poll())
        (self.folder / "out/device-0-0/results.json").unlink()
        _, err = run.communicate()
        self.assertEqual(run.returncode, 1, err)
        self.assertIn("out/device-0-0/results.json cannot be read", err)

    def test_interrupt(self):
        """It ends with the device at work, and says how to go on with all of them."""
        long = {**EXPERIMENT, "measure": {"warmup": 0, "iterations": 1000, "rounds": 1000}}
        (self.folder / "e.yaml").write_text(json.dumps(long), encoding="utf-8")
        run = subprocess.Popen([MOECTL, "run", "e.yaml", "--device", "all", "--out", "out",
                                "--pictures", "none"], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, encoding="utf-8", cwd=self.folder,
                               env={**os.environ, "POCL_DEVICES": TWO})
        self.assertIn("round 1 of 1000 [1/2]", run.stderr.readline())
        run.send_signal(signal.SIGINT)
        out, err = run.communicate()
        self.assertEqual(run.returncode, 1, err)
        self.assertIn("go on with: moectl run e.yaml --device 'all' --resume out\n", err)
        self.assertFalse((self.folder / "out/device-0-1").exists())
        self.assertNotIn("beside", out)

    # ---- one experiment on several: what its members take of each ----

    def check(self, num_experts, *sets, code=0, command=("check",)):
        """On devices of 1 GiB, which give buffers of 256 MiB; an expert's three matrices are 6 MiB,
        gate_up 4 of them. Bytes that it says for 0:0 and 0:1, and what it complains about."""
        layer = {"hidden_size": 1024, "intermediate_size": 512, "num_experts": num_experts, "top_k": 2}
        (self.folder / "e.yaml").write_text(json.dumps({**EXPERIMENT, "layer": layer}))
        sets = [word for one in sets for word in ("--set", one)]
        result = moectl(*command, "e.yaml", *sets, devices="pthread pthread", folder=self.folder,
                        environment={"POCL_MEMORY_LIMIT": "1"})
        self.assertEqual(result.returncode, code, result.stdout + result.stderr)
        told = re.findall(r"^ *([0-9.]+) ([KMG])iB .*?(the point|on 0:1, .*)$", result.stdout, re.M)
        self.needed = {where.split(",")[0]: float(number) * 1024**("KMG".index(unit) + 1)
                       for number, unit, where in told}
        return result.stdout, result.stderr

    def test_memory_of_members(self):
        """Each device is asked for what its own members have."""
        expert, gate_up = 3 * 4 * 1024 * 512, 2 * 4 * 1024 * 512
        self.assertEqual((expert, gate_up), (6 * 2**20, 4 * 2**20))
        on_one, on_both = "devices=[0:1]", "devices=[0:0, 0:1]"
        _, err = self.check(256, "parallel.experts=8", on_one, code=2)
        self.assertRegex(err, r"needs 1\.5\d+ GiB of memory for 8 of 8 members on 0:1, but")
        err = self.check(256, "parallel.experts=8", on_one, code=2,
                         command=("run", "--out", "out"))[1]
        self.assertIn("for 8 of 8 members on 0:1, but", err)
        self.assertFalse((self.folder / "out").exists())
        out, _ = self.check(256, "parallel.experts=8", on_both)
        self.assertRegex(out, r"and on 0:1, pthread.*, with 1 GiB: 4 of 8 members\n")
        for where in ("the point", "on 0:1"):
            self.assertLess(abs(self.needed[where] - 128 * expert), 0.05 * 128 * expert)
        # Nothing but inputs on the device that has no member.
        self.check(128, "parallel.experts=8", on_one)
        self.assertLess(self.needed["the point"], 16 * gate_up)
        # By the driver's names, too.
        self.check(128, "parallel.experts=8", "devices=[pthread]")
        self.assertEqual(list(self.needed), ["the point"])

    def test_memory_in_one_buffer(self):
        """A buffer is one member's: four with 32 experts each on one device have 128 MiB at most."""
        self.check(128, "parallel.experts=4")
        _, err = self.check(128, "parallel.experts=1", code=2)
        self.assertRegex(err, r"needs 512 MiB of memory in one buffer for 1 of 1 member on 0:0, but")

    def test_memory_by_placement(self):
        """A list that is longer takes more: 80 of 96 experts beside 16."""
        (self.folder / "p.json").write_text(json.dumps([list(range(16)), list(range(16, 96))]))
        self.check(96, "parallel.experts=2", "devices=[0:0, 0:1]", "parallel.placement=file",
                   "parallel.placement_file=p.json", "layer.intermediate_size=256")
        for where, experts in (("the point", 16), ("on 0:1", 80)):
            self.assertLess(abs(self.needed[where] - experts * 3 * 2**20), 8 * 2**20)


if __name__ == "__main__":
    if names(TWO) != TWO.split() or names(THREE) != THREE.split():
        print("SKIP: POCL_DEVICES does not make several devices here")
        sys.exit(77)
    unittest.main(argv=sys.argv[:1])
