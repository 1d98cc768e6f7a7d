# SPDX-License-Identifier: MIT
"""moectl run under mpirun: the first process writes what one process would have, a failure of another
one is told, and one that is killed ends all without loss.

usage: test_mpirun.py MOECTL MPIRUN FAILING_CALL.so CONFIGS
Exit code 77 (skipped) without an OpenCL device.
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
import time
import unittest

MOECTL, MPIRUN, SHIM, CONFIGS = (pathlib.Path(argument).absolute() for argument in sys.argv[1:5])
EXPERIMENT = (CONFIGS / "expert-parallel.yaml", "--set", "parallel.replicas=0")
# One process of several does something else first.
WRAPPER = """#!/bin/sh
if [ "${OMPI_COMM_WORLD_RANK:-$PMI_RANK}" = "$ODD_RANK" ]; then
  [ -z "$ODD_PID" ] || echo $$ >"$ODD_PID"
  [ -z "$ODD_LIMIT" ] || export POCL_MEMORY_LIMIT="$ODD_LIMIT"
  [ -z "$ODD_PRELOAD" ] || export LD_PRELOAD="$ODD_PRELOAD"
fi
[ -z "$ODD_UNSET" ] || unset "$ODD_UNSET"
exec "$@"
"""


def tensors(path):
    """Of a safetensors file: name to bytes."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    return {name: data[8 + size + entry["data_offsets"][0]:8 + size + entry["data_offsets"][1]]
            for name, entry in header.items() if name != "__metadata__"}


class Mpirun(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.wrapper = self.folder / "wrapper"
        self.wrapper.write_text(WRAPPER, encoding="utf-8")
        self.wrapper.chmod(0o755)

    def words(self, ranks, *arguments):
        start = [MPIRUN, "-n", str(ranks), self.wrapper] if ranks > 1 else []
        return [*start, MOECTL, "run", *arguments, "--pictures", "none"]

    def run_it(self, ranks, *arguments, **environment):
        return subprocess.run(self.words(ranks, *arguments), capture_output=True, encoding="utf-8",
                              env={**os.environ, **environment}, check=False)

    def points(self, out):
        return json.loads((self.folder / out / "results.json").read_text(encoding="utf-8"))["points"]

    def done(self, out):
        """Points that ended well, in results.json alone."""
        try:
            return [point for point in self.points(out) if point["status"] == "ok"]
        except (OSError, ValueError):
            return []

    def test_as_one_process(self):
        """More members than processes, as many, and fewer; the same bits."""
        experiment = (*EXPERIMENT, "--set", "layer.batch_invariant=true", "--set",
                      "workload.num_tokens=64", "--set", "measure.rounds=1", "--set",
                      "measure.iterations=1", "--dump", "--out")
        alone = self.run_it(1, *experiment, self.folder / "alone")
        self.assertEqual(alone.returncode, 0, alone.stderr)
        for ranks in (2, 3):
            out = self.folder / f"ranks-{ranks}"
            run = self.run_it(ranks, *experiment, out)
            self.assertEqual(run.returncode, 0, run.stderr)
            self.assertEqual(run.stdout.count("results: "), 1, run.stdout)
            for index, (one, many) in enumerate(zip(self.points("alone"), self.points(out),
                                                    strict=True)):
                self.assertEqual(many["status"], "ok")
                first, second = one["parallel"], many["parallel"]
                self.assertEqual(len(second["members"]), 2**index)
                between = "mpi+host" if 2**index > ranks else "mpi"  # some process has two
                self.assertEqual(second["transport"], between if index else "host")
                self.assertEqual(second["sent_bytes"], first["sent_bytes"])
                # Other processes' members tell what runs there.
                self.assertEqual({member["grouped_gemm_variant"] for member in second["members"]},
                                 {one["variants"]["grouped_gemm"]})
                self.assertEqual(many["memory_bytes"],
                                 sum(member["memory_bytes"] for member in second["members"]))
                for member in second["members"]:  # matrices of fp32, of other processes too
                    layer = one["params"]
                    self.assertGreater(member["memory_bytes"], 4 * 3 * member["experts"]
                                       * layer["hidden_size"] * layer["intermediate_size"])
                for key in ("experts", "num_tokens", "rows", "bytes_sent", "bytes_received"):
                    self.assertEqual([member[key] for member in second["members"]],
                                     [member[key] for member in first["members"]])
                name = f"point-{index:03}.safetensors"
                self.assertEqual(tensors(out / name), tensors(self.folder / "alone" / name))

    def test_nothing_to_share(self):
        out = self.folder / "out"
        run = self.run_it(2, CONFIGS / "quickstart.yaml", "--out", out)
        self.assertEqual(run.returncode, 2, run.stderr)
        self.assertEqual(run.stderr.count("parallel.experts is null at point 0"), 1, run.stderr)
        self.assertFalse(out.exists())

    def test_no_file(self):
        run = self.run_it(2, self.folder / "none.yaml")
        self.assertEqual(run.returncode, 2, run.stderr)
        self.assertEqual(run.stderr.count("cannot be read"), 1, run.stderr)

    def test_launchers(self):
        """srun --mpi=pmix says its number of processes in words of Slurm's, other launchers by PMIx
        none; an allocation's shell has Slurm's words, and is one process."""
        none = (self.folder / "none.yaml",)
        allocation = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "2", "SLURM_PROCID": "0",
                      "SLURM_STEP_NUM_TASKS": "2"}
        for environment in ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}, {}):
            run = self.run_it(2, *none, ODD_UNSET="OMPI_COMM_WORLD_SIZE", **environment)
            self.assertEqual(run.stderr.count("cannot be read"), 1, run.stderr)
        for environment in (allocation, {**allocation, "PMIX_RANK": "0"},
                            {**allocation, "SLURM_STEP_NUM_TASKS": "1", "PMIX_RANK": "0",
                             "PMIX_NAMESPACE": "slurm.pmix.1.0"}):
            run = self.run_it(1, *none, **environment)
            self.assertEqual(run.stderr.count("cannot be read"), 1, run.stderr)
            self.assertNotIn("processes", run.stderr)

    def test_memory(self):
        """What is asked of a device is what its own members have."""
        def needed(*arguments):
            large = ("layer.hidden_size=4096", "layer.intermediate_size=4096",
                     "layer.num_experts=128", "workload.num_tokens=8", *arguments)
            sets = [word for one in large for word in ("--set", one)]
            run = subprocess.run([MOECTL, "check", *EXPERIMENT, "--ignore-memory-limit", *sets],
                                 capture_output=True, encoding="utf-8", check=True,
                                 env={**os.environ, "POCL_DEVICES": "pthread pthread"})
            return float(re.search(r"^ *([0-9.]+) GiB .* the point$", run.stdout, re.M)[1])

        whole = 128 * 3 * 4096 * 4096 * 4 / 2**30
        self.assertLess(abs(needed("parallel.experts=4") - whole), 1)
        self.assertLess(abs(needed("parallel.experts=4", "devices=[0:1, 0:0]") - whole / 2), 1)

    def test_memory_of_another(self):
        """A process finds that its device does not hold its member: none runs. Of 384 experts of 6 MiB
        each has half."""
        out = self.folder / "out"
        large = ("layer.hidden_size=1024", "layer.intermediate_size=512", "layer.num_experts=384",
                 "workload.num_tokens=8", "parallel.experts=2")
        sets = [word for one in large for word in ("--set", one)]
        run = self.run_it(2, *EXPERIMENT, *sets, "--out", out, ODD_RANK="1", ODD_LIMIT="1")
        self.assertEqual(run.returncode, 2, run.stderr)
        self.assertRegex(run.stderr, r"rank 1: point 0 needs 1\.1\d+ GiB of memory for 1 of 2 members")
        self.assertEqual(run.stderr.count(" needs "), 1, run.stderr)
        self.assertFalse(out.exists())

    def test_failing_call(self):
        """On the second process: the point has failed, and says where and in what."""
        for start in ("40", "120"):
            run = self.run_it(2, *EXPERIMENT, "--set", "parallel.experts=[1,2]", "--set",
                              "workload.num_tokens=64", "--out", self.folder / start, ODD_RANK="1",
                              ODD_PRELOAD=str(SHIM), MOECL_TEST_CALL="clEnqueueNDRangeKernel",
                              MOECL_TEST_FROM=start)
            self.assertEqual(run.returncode, 1, run.stderr)
            error = self.points(start)[1]["error"]
            self.assertIn("rank 1: ", error)
            self.assertIn("clEnqueueNDRangeKernel failed: CL_OUT_OF_RESOURCES", error)
            self.assertNotIn("failed on rank", error)
            self.assertNotIn("\n", error)

    def test_transport_by_name(self):
        """One that serves nobody fails a point with a member on each process as one with two."""
        out = self.folder / "out"
        run = self.run_it(2, *EXPERIMENT, "--set", "parallel.experts=[2,4]", "--set",
                          "workload.num_tokens=64", "--set", "parallel.transport=nvidia_peer",
                          "--out", out)
        self.assertEqual(run.returncode, 1, run.stderr)
        errors = [point["error"] for point in self.points(out)]
        self.assertEqual(len(errors), 2)
        for error in errors:
            self.assertIn("the transport 'nvidia_peer' cannot serve here, between ", error)
            self.assertIn("; ask for 'host'", error)

    def test_killed(self):
        """What was measured is there, and the run goes on with it."""
        experiment = (*EXPERIMENT, "--set", "parallel.experts=[1,2]", "--set",
                      "measure.iterations=500", "--set", "measure.rounds=1")
        out, pid = self.folder / "out", self.folder / "pid"
        process = subprocess.Popen(self.words(2, *experiment, "--out", out), stderr=subprocess.PIPE,
                                   stdout=subprocess.PIPE, encoding="utf-8",
                                   # Open MPI gives the others a second: rank 0 has to hear of it.
                                   env={**os.environ, "ODD_RANK": "1", "ODD_PID": str(pid),
                                        "OMPI_MCA_odls_base_sigkill_timeout": "3"})
        for line in process.stderr:
            if "[2/4]" in line:
                break
        odd = int(pid.read_text(encoding="utf-8"))
        os.kill(odd, signal.SIGSTOP)  # the third point cannot end
        while len(self.done("out")) < 2 and process.poll() is None:
            time.sleep(0.02)
        os.kill(odd, signal.SIGKILL)
        said, error = process.communicate()
        self.assertNotEqual(process.returncode, 0)
        if "BAD TERMINATION" not in said:  # MPICH's word: it leaves the others none
            self.assertIn("go on with: mpirun -n 2 moectl run", error)
        done = self.done("out")
        self.assertGreaterEqual(len(done), 2)
        run = self.run_it(2, *experiment, "--resume", out)
        self.assertEqual(run.returncode, 0, run.stderr)
        points = self.points("out")
        self.assertEqual([point["status"] for point in points], ["ok"] * 4)
        self.assertEqual(points[:2], done[:2])

    def test_number_of_processes(self):
        """It is recorded, commands say it, and another number does not go on with a group's point."""
        experiment = (*EXPERIMENT, "--set", "parallel.experts=2", "--set", "workload.num_tokens=64",
                      "--set", "measure.rounds=2", "--set", "measure.iterations=2")
        out = self.folder / "out"
        run = self.run_it(2, *experiment, "--out", out)
        self.assertEqual(run.returncode, 0, run.stderr)
        before = (out / "results.json").read_bytes()
        first, = json.loads(before)["runs"]
        self.assertEqual(first["processes"], 2)
        self.assertTrue(first["command"].startswith("mpirun -n 2 "), first["command"])
        for name in ("report.md", "report.html"):
            report = (out / name).read_text(encoding="utf-8")
            self.assertRegex(report, r"[\n>]mpirun -n 2 moectl run ")
            self.assertRegex(report, r"\n# mpirun -n 2 ")
            self.assertNotRegex(report, r"[\n>]moectl run ")
        for ranks, are in ((1, "now there is 1"), (3, "now there are 3")):
            run = self.run_it(ranks, *experiment, "--resume", out)
            self.assertEqual(run.returncode, 2, run.stderr)
            self.assertEqual(run.stderr.count("go on with: mpirun -n 2 moectl run "), 1, run.stderr)
            self.assertIn("measured by 2 processes, and " + are, run.stderr)
            self.assertIn(f"--resume {out}", run.stderr)
            self.assertEqual((out / "results.json").read_bytes(), before)


if __name__ == "__main__":
    if subprocess.run([MOECTL, "devices"], capture_output=True, check=False).returncode != 0:
        print("SKIP: no OpenCL device")
        sys.exit(77)
    unittest.main(argv=[sys.argv[0], *sys.argv[5:]])
