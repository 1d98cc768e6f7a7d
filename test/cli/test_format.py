# SPDX-License-Identifier: MIT
"""moectl run --format: standard output is the results in that format and nothing else.

usage: test_format.py MOECTL
Exit code 77 (skipped) without an OpenCL device.
"""

import csv
import io
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

MOECTL = pathlib.Path(sys.argv[1]).resolve()
EXPERIMENT = """
name: format
layer: {hidden_size: 16, intermediate_size: 12, num_experts: 4, top_k: [1, 2]}
workload: {num_tokens: 8}
measure: {warmup: 1, iterations: 3}
"""


class Format(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        (self.folder / "e.yaml").write_text(EXPERIMENT, encoding="utf-8")

    def run_it(self, *arguments, code=0):
        result = subprocess.run([MOECTL, "run", "e.yaml", "--pictures", "none", "--out", "out",
                                 *arguments], capture_output=True, cwd=self.folder)
        self.assertEqual(result.returncode, code, result.stderr)
        return result.stdout, result.stderr.decode()

    def file(self, name):
        return (self.folder / "out" / name).read_bytes()

    def test_csv(self):
        out, err = self.run_it("--format", "csv")
        self.assertEqual(out, self.file("results.csv"))
        rows = list(csv.DictReader(io.StringIO(out.decode(), newline="")))
        self.assertEqual([row["top_k"] for row in rows], ["1", "2"])
        self.assertIn("results: out\n", err)

    def test_json(self):
        out, err = self.run_it("--format=json", "--quiet")
        self.assertEqual(out, self.file("results.json"))
        self.assertEqual([point["params"]["top_k"] for point in json.loads(out)["points"]], [1, 2])
        self.assertEqual(err, "")

    def test_markdown(self):
        out, _ = self.run_it("--format", "markdown")
        lines = out.decode().splitlines()
        self.assertEqual(len(lines), 4)
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        self.assertEqual(cells[0][:2], ["top_k", "layer ms"])
        self.assertEqual(cells[1], ["---:"] * len(cells[0]))
        self.assertEqual([row[0] for row in cells[2:]], ["1", "2"])
        self.assertEqual({len(row) for row in cells}, {len(cells[0])})
        median = json.loads(self.file("results.json"))["points"][1]["time_ms"]["layer"]["median"]
        self.assertAlmostEqual(float(cells[3][1]), median, delta=1e-3 * median)

    def test_table(self):
        out, err = self.run_it("--format", "table")
        lines = out.decode().splitlines()
        self.assertEqual(lines[0].split()[:3], ["top_k", "layer", "ms"])
        self.assertEqual(lines[-1], "results: out")
        self.assertNotIn("results: out", err)

    def test_unknown(self):
        out, err = self.run_it("--format", "yaml", code=2)
        self.assertEqual(out, b"")
        self.assertIn("--format: expected table, csv, json or markdown, found 'yaml'", err)
        self.assertFalse((self.folder / "out").exists())


if __name__ == "__main__":
    if subprocess.run([MOECTL, "devices"], capture_output=True).returncode != 0:
        print("SKIP: no OpenCL device")
        sys.exit(77)
    unittest.main(argv=sys.argv[:1])
