# SPDX-License-Identifier: MIT
"""moectl compare on made-up results of known ratios: what it prints, writes and ends with.

usage: test_compare.py MOECTL
"""

import csv
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

MOECTL = pathlib.Path(sys.argv[1]).resolve()
STAGES = "router permute gate_up down shared combine layer".split()


def times(ms):
    summary = {"median": ms, "min": ms * 0.9, "p90": ms * 1.1}
    return {stage: summary if stage == "layer" else None for stage in STAGES}


def point(index, ms, rounds=3, status="ok", iterations=15, variant="cpu", **params):
    """Rounds that all took the same: the interval has no width."""
    params = {"hidden_size": 8, "intermediate_size": 4, "num_experts": 4, "num_tokens": 16, **params}
    return {
        "index": index, "status": status, "error": None if status == "ok" else "it broke",
        "params": params, "variants": {"router": "cpu", "permute": "generic",
                                       "grouped_gemm": variant, "combine": "generic"},
        "iterations": iterations, "time_ms": times(ms), "rounds_planned": rounds,
        "rounds": [{"iterations": iterations // rounds, "load_average": 0.5, "host_ms": 0.1,
                    "time_ms": times(ms)} for _ in range(rounds)]}


class Compare(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)

    def write(self, name, *points, device="A device", **more):
        """A results folder."""
        folder = self.folder / name
        folder.mkdir()
        root = {"schema": "moecl-results/1", "versions": {"moecl": "0.1.0", "commit": "c" + name},
                "device": {"name": device, "platform": "Made up", "driver": "1"},
                "kernels": {"hash": "00"}, "experiment": {}, "points": list(points), **more}
        (folder / "results.json").write_text(json.dumps(root), encoding="utf-8")
        return name

    def compare(self, *arguments, code=0):
        result = subprocess.run([MOECTL, "compare", *map(str, arguments)], capture_output=True,
                                encoding="utf-8", cwd=self.folder)
        self.assertEqual(result.returncode, code, result.stdout + result.stderr)
        return result.stdout, result.stderr

    def standard(self):
        """Speeds 2, 0.5 and 1.01: their geometric mean is the cube root of 1.01, 1.0033."""
        self.write("one", point(0, 4, top_k=1), point(1, 6, top_k=2), point(2, 1.01, top_k=3))
        self.write("two", point(0, 2, top_k=1), point(1, 12, top_k=2, variant="generic"),
                   point(2, 1, top_k=3), point(3, 1, top_k=4), device="Another device")

    def test_prints(self):
        self.standard()
        out, err = self.compare("one", "two/results.json")
        lines = out.splitlines()
        self.assertEqual(err, "")
        self.assertEqual(lines[0], "A  one: A device (Made up), moecl 0.1.0, commit cone")
        self.assertIn("Compared: device (A device, Another device); commit (cone, ctwo)", lines)
        rows = [line.split() for line in lines]
        for row in (["0", "1", "4", "2", "2.00x", "2.00", "to", "2.00", "faster"],
                    ["1", "2", "6", "12", "0.500x", "0.500", "to", "0.500", "slower",
                     "grouped_gemm", "cpu,", "generic"],
                    ["2", "3", "1.01", "1", "1.01x", "1.01", "to", "1.01", "within", "noise"],
                    ["mean", "1.00x", "1.00", "to", "1.00", "within", "noise"]):
            self.assertIn(row, rows, out)
        self.assertIn("B is faster in 1 of 3 points, slower in 1, within noise in 1.", lines)
        self.assertIn("  point 3 (top_k=4) is only in B: top_k is 4, not 1, 2, 3", lines)
        self.assertFalse([line for line in lines if line != line.rstrip()], "blanks at an end")
        self.assertEqual(self.compare("one", "two"), (out.replace("two/results.json", "two"), ""))

    def test_another_system(self):
        """A peer's file says which; one that timed parts alone is no ratio."""
        self.standard()
        self.write("peer", point(0, 1, top_k=1), system={"name": "PyTorch", "version": "9", "commit": "d"})
        part = point(0, 1, top_k=1)
        for where in (part, *part["rounds"]):
            where["time_ms"] = {**where["time_ms"], "layer": None, "down": times(1)["layer"]}
        self.write("part", part, point(1, 6, top_k=2))
        out, _ = self.compare("one", "peer", "part")
        self.assertIn("B  peer: A device (Made up), PyTorch 9, commit d\n", out)
        self.assertIn("system (moecl, PyTorch); version (0.1.0, 9); commit (cone, d)", out)
        self.assertIn("Times: moecl's are of the device's events", out)
        self.assertIn("point 0 (top_k=1) of C has no time of the whole layer, only of down", out)

    def test_transports(self):
        """One process beside several: all that was asked for is the same, and what served is not."""
        for name, transport in (("one", "host"), ("two", "mpi"), ("again", "mpi")):
            self.write(name, {**point(0, 4, experts=2, top_k=1), "parallel": {"transport": transport}},
                       versions={"moecl": "0.1.0", "commit": "c"})
        self.assertIn("\nCompared: transport that served (host beside mpi)\n",
                      self.compare("one", "two")[0])
        self.assertIn("\nCompared: nothing that is recorded differs", self.compare("two", "again")[0])

    def test_several(self):
        self.standard()
        self.write("three", point(0, 1, top_k=1))
        out, _ = self.compare("one", "two", "three")
        self.assertIn("B beside A: 3 points of the same work", out)
        self.assertIn("C beside A: 1 point of the same work", out)
        self.assertIn(["mean", "4.00x", "4.00", "to", "4.00", "faster"],
                      [line.split() for line in out.splitlines()])

    def test_writes(self):
        self.standard()
        out, err = self.compare("one", "two", "--out", "there/it is")
        self.assertIn("\ncomparison: there/it is\n", out)
        there = self.folder / "there/it is"
        with open(there / "compare.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        self.assertEqual([row["verdict"] for row in rows], ["faster", "slower", "within noise"])
        self.assertEqual([float(row["speed"]) for row in rows], [2, 0.5, 1.01])
        self.assertEqual(rows[1]["run"], "two")
        self.assertEqual((rows[1]["point_a"], rows[1]["point"], rows[1]["top_k"]), ("1", "1", "2"))
        self.assertEqual((rows[1]["ms_a"], rows[1]["ms"]), ("6", "12"))
        self.assertEqual(rows[1]["variants_grouped_gemm_a"], "cpu")
        self.assertEqual(rows[1]["variants_grouped_gemm"], "generic")
        self.assertEqual(rows[0]["capacity_factor"], "")
        page = (there / "compare.md").read_text(encoding="utf-8")
        self.assertIn("| 1 | 2 | 6 | 12 | 0.500x | 0.500 to 0.500 | slower | grouped_gemm", page)
        self.assertIn("- point 3 (top_k=4) is only in B", page)
        if shutil.which("gnuplot"):
            self.assertEqual(err, "")
            self.assertIn("](compare.png)", page)
            self.assertEqual((there / "compare.png").read_bytes()[:4], b"\x89PNG")
        else:
            self.assertIn("gnuplot was not found", err)
            self.assertNotIn("compare.png", page)

    def test_odd_texts(self):
        """Names of others: no control characters, no markup, nothing that gnuplot runs."""
        self.write("one", point(0, 1, top_k=1))
        name = "it's \"a\" `b` $(touch x) | <b> \x1b[31m"
        self.write("two", point(0, 1, top_k=1), device=name)
        out, err = self.compare("one", "two", "--out", "out")
        self.assertNotIn("\x1b", out + err)
        self.write("three", point(0, 1, top_k=1), device="C1 \x9b31m \x80\x9f, and \xa0\xe9")
        self.assertIn("B  three: C1   31m     , and \xa0\xe9 (Made up)",
                      self.compare("one", "three")[0])
        self.write("four", point(0, 1, top_k=1), schema="\x9b31m")
        self.assertIn("its schema is \\xc2\\x9b31m,", self.compare("one", "four", code=2)[1])
        page = (self.folder / "out/compare.md").read_text(encoding="utf-8")
        self.assertIn("\\`b\\` $(touch x) \\| \\<b\\>", page)

    def test_long_texts(self):
        """Cut between characters, wherever the cut falls: the script is UTF-8."""
        for shift in range(3):
            # Labels of points, and paths.
            names = ["x" * shift + letter * 50 for letter in "\u20ac\u20ad"]
            one, two = (self.write("d" * shift + "\u20ac" * 80 + end,
                                   *(point(i, 1, top_k=1, grouped_gemm_variant=name)
                                     for i, name in enumerate(names))) for end in "12")
            self.compare(one, two, "--out", f"out{shift}")
            script = (self.folder / f"out{shift}/compare.gp").read_bytes().decode("utf-8")
            self.assertIn("(grouped_gemm_variant=" + "x" * shift + "\u20ac", script)
            self.assertNotIn("\u20ac" * 67, script)
            # A label in a sentence.
            self.write(f"alone{shift}", point(0, 1, top_k=1, grouped_gemm_variant=names[0]), point(
                1, 1, top_k=2, grouped_gemm_variant="x" * shift + "\u20ac" * 200))
            self.assertIn("is only in B", self.compare(one, f"alone{shift}")[0])

    def test_gate(self):
        self.write("one", point(0, 100, top_k=1), point(1, 100, top_k=2))
        self.write("good", point(0, 104, top_k=1), point(1, 90, top_k=2))
        self.write("bad", point(0, 110, top_k=1), point(1, 90, top_k=2))
        self.write("broken", point(0, 100, top_k=1), point(1, 0, top_k=2, status="error"))
        self.write("less", point(0, 100, top_k=1))
        self.compare("one", "good", "--fail-below", "0.95")
        _, err = self.compare("one", "bad", "--fail-below", "0.95", code=4)
        self.assertIn("point 0 (top_k=1) of B: speed 0.909 (0.909 to 0.909) is below 0.95", err)
        self.assertNotIn("mean", err)  # 1.005
        self.compare("one", "bad")
        self.compare("one", "good", "bad", "--fail-below=0.95", code=4)
        _, err = self.compare("one", "broken", "--fail-below", "0.95", code=4)
        self.assertIn("B: 1 of the points that ran in A failed", err)
        self.compare("one", "less", "--fail-below", "0.95")
        # Asked to be faster.
        _, err = self.compare("one", "good", "--fail-below", "1.2", code=4)
        self.assertIn("the mean of B: speed 1.03", err)

    def test_gate_needs_forwards(self):
        """Of one round there is the range of its forwards: 0.9 / 1.1 to 1.1 / 0.9 of the ratio."""
        self.write("one", point(0, 100, rounds=1, top_k=1))
        self.write("two", point(0, 110, rounds=1, top_k=1))
        self.write("far", point(0, 200, rounds=1, top_k=1))
        self.write("few", point(0, 200, rounds=1, iterations=4, top_k=1))
        out, _ = self.compare("one", "two", "--fail-below", "0.95")
        self.assertIn("0.744 to 1.11", out)
        self.compare("one", "far", "--fail-below", "0.95", code=4)
        out, err = self.compare("one", "few", "--fail-below", "0.95", code=4)
        self.assertIn("unknown", out)
        self.compare("one", "few")
        self.assertIn("B: 1 of the points could not be judged: time at least 5 forwards", err)

        # One that could be judged beside it.
        self.write("both", point(0, 100, rounds=1, top_k=1), point(1, 100, top_k=2))
        self.write("half", point(0, 200, rounds=1, iterations=4, top_k=1), point(1, 99, top_k=2))
        _, err = self.compare("both", "half", "--fail-below", "0.95")
        self.assertIn("B: 1 of the points could not be judged", err)

    def test_gate_needs_the_end(self):
        """What lacks because the other run did not end fails; what its sweep never had does not."""
        self.write("one", point(0, 100, top_k=1), point(1, 100, top_k=2))
        sweep = {"experiment": {"layer": {"top_k": [1, 2]}, "sweep": ["layer.top_k"]}}
        self.write("cut", point(0, 100, top_k=1), **sweep)
        out, err = self.compare("one", "cut", "--fail-below", "0.95", code=4)
        self.assertIn("not finished: it has 1 of 2 points", out)
        self.assertIn("B: 1 of A's points are missing, and the run did not end", err)
        self.assertEqual(self.compare("one", "cut")[1], "")
        self.compare("cut", "one", "--fail-below", "0.95")
        self.write("whole", point(0, 100, top_k=1),
                   experiment={"layer": {"top_k": [1]}, "sweep": ["layer.top_k"]})
        self.assertNotIn("not finished", self.compare("one", "whole", "--fail-below", "0.95")[0])
        (self.folder / "whole/results.jsonl").write_text("{}\n", encoding="utf-8")
        self.compare("one", "whole", "--fail-below", "0.95", code=4)
        # All of A's points are there.
        self.write("more", point(0, 100, top_k=1), point(1, 100, top_k=2),
                   experiment={"layer": {"top_k": [1, 2, 3]}, "sweep": ["layer.top_k"]})
        self.compare("one", "more", "--fail-below", "0.95")

    def test_many(self):
        """Of what would fill the screen there are the first 20."""
        self.write("one", *(point(i, 100, top_k=1, seed=i) for i in range(50)))
        self.write("two", *(point(i, 200, top_k=1, seed=i) for i in range(25)),
                   *(point(25 + i, 1, top_k=1, seed=100 + i) for i in range(22)))
        self.write("three", *(point(i, 1, top_k=1, seed=i) for i in range(1)),
                   *(point(i, 0, top_k=1, seed=i, status="error") for i in range(1, 50)))
        out, err = self.compare("one", "two", "--fail-below", "0.95", code=4)
        self.assertIn("and so are 5 more points of B", err)
        self.assertEqual(len(err.splitlines()), 22)  # and the mean
        self.assertIn("  5 more points are only in A\n", out)
        self.assertIn("  2 more points are only in B\n", out)
        self.assertIn("  29 more points did not run in both\n", self.compare("one", "three")[0])

    def test_refuses(self):
        self.standard()
        self.write("seed", point(0, 1, top_k=1, seed=8))
        self.write("new", point(0, 1, top_k=1, novelty=8))
        self.write("empty")
        out, err = self.compare("one", "seed", "--fail-below", "0.95", "--out", "no", code=2)
        self.assertEqual(out, "")
        self.assertIn("seed cannot be compared with one: not the same work: what differs is seed "
                      "(0 beside 8)", err)
        self.assertFalse((self.folder / "no").exists())
        out, err = self.compare("one", "seed", "two", code=2)  # the others are compared
        self.assertIn("C beside A: 3 points", out)
        self.assertIn("novelty is unknown to this version", self.compare("one", "new", code=2)[1])
        self.assertIn("empty has no points", self.compare("one", "empty", code=2)[1])
        self.assertIn("nowhere cannot be read: No such file", self.compare("one", "nowhere", code=2)[1])
        for name, word in (("suite/index.html", "compare its parts, as suite/layer"),
                           ("profile/docs/consolidated_profiling_report.md", "moectl profile --baseline profile")):
            path = self.folder / name
            path.parent.mkdir(parents=True)
            path.write_text("")
            self.assertIn(word, self.compare("one", name.split("/")[0], code=2)[1])
        self.assertIn("takes 2 to 26 results folders, found 1", self.compare("one", code=2)[1])
        self.assertIn("needs results folders, e.g.", self.compare(code=2)[1])
        for wrong in ("fast", "0", "-1", "nan", "inf", "0.9x"):
            self.assertIn("expected a ratio greater than 0",
                          self.compare("one", "two", "--fail-below", wrong, code=2)[1])

    def test_unfinished(self):
        self.standard()
        (self.folder / "two/results.jsonl").write_text("{}\n", encoding="utf-8")
        self.assertIn("not finished: it has a results.jsonl", self.compare("one", "two")[0])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
