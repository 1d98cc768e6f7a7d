#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""moectl peak: what it prints, what it keeps, and what runs make of that.

usage: test_peak.py MOECTL
"""

import json
import os
import re
import subprocess
import sys
import tempfile

MOECTL = os.path.abspath(sys.argv[1])
TINY = """name: tiny
layer: {hidden_size: 24, intermediate_size: 20, num_experts: 4, top_k: [1, 2]}
workload: {num_tokens: 16}
measure: {warmup: 1, iterations: 3}
"""
RATES = (
    "flops_f32 flops_f16 flops_matrix read_bytes_per_s copy_bytes_per_s to_device_bytes_per_s "
    "from_device_bytes_per_s launch_seconds wait_seconds"
).split()


def call(cache, *words):
    env = dict(os.environ, MOECL_CACHE_DIR=cache)
    done = subprocess.run([MOECTL, *words], env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def run(folder, cache, name):
    """A run's results.json and report.md."""
    code, _, err = call(cache, "run", f"{folder}/tiny.yaml", "--quiet", "--pictures", "none", "--out", f"{folder}/{name}")
    assert code == 0, err
    with open(f"{folder}/{name}/results.json", encoding="utf-8") as file:
        results = json.load(file)
    with open(f"{folder}/{name}/report.md", encoding="utf-8") as file:
        return results, file.read()


def kept_file(cache):
    names = [n for n in os.listdir(cache) if n.startswith("peaks-")]
    assert len(names) == 1, names
    return os.path.join(cache, names[0])


def check_report(results, report):
    """Shares as anybody would count them."""
    peaks = results["peaks"]
    section = report.split("## Share of the device's peaks")[1].split("\n## ")[0]
    rows = [re.split(r" *\| *", line.strip("| ")) for line in section.splitlines() if re.match(r"\| \d", line)]
    assert len(rows) == len(results["points"]) == 2, rows
    for row, point in zip(rows, results["points"]):
        flops = 100 * point["tflops"] * 1e12 / peaks["flops_f32"]
        moved = 100 * point["gbytes_per_s"] * 1e9 / peaks["read_bytes_per_s"]
        assert row[2:4] == [f"{flops:.1f}%", f"{moved:.1f}%"], (row, flops, moved)
        near = "neither" if max(flops, moved) < 25 else "arithmetic" if flops >= moved else "memory"
        assert row[4].startswith(near) or flops > 100, row


def main():
    code, _, _ = call("", "devices")
    if code != 0:
        print("skipped: there is no OpenCL device")
        return 77
    with tempfile.TemporaryDirectory() as folder:
        cache = f"{folder}/cache"
        with open(f"{folder}/tiny.yaml", "w", encoding="utf-8") as file:
            file.write(TINY)
        results, report = run(folder, cache, "before")
        assert results["peaks"] is None and "the device's peaks" not in report
        print("ok      a run without peaks has none")

        code, out, err = call(cache, "peak", "--json")
        assert code == 0, err
        printed = json.loads(out)
        assert sorted(printed["peaks"]) == sorted(RATES + ["measured", "array_bytes"])
        assert all(printed["peaks"][name] > 0 for name in RATES if name not in ("flops_f16", "flops_matrix")), printed
        with open(kept_file(cache), encoding="utf-8") as file:
            assert json.load(file) == printed
        print("ok      what is printed is kept")

        results, report = run(folder, cache, "after")
        assert results["peaks"] == printed["peaks"]
        check_report(results, report)
        print("ok      a run holds its times against it")

        rates = {**printed["peaks"], "flops_f32": 1e18, "read_bytes_per_s": 1, "launch_seconds": 1e-12}
        with open(kept_file(cache), "w", encoding="utf-8") as file:
            json.dump({**printed, "peaks": rates}, file)
        code, out, err = call(cache, "peak", "--json")
        with open(kept_file(cache), encoding="utf-8") as file:
            kept = json.load(file)["peaks"]
        now = json.loads(out)["peaks"]
        assert code == 0 and "stays kept" in err and now["flops_f32"] < 1e18, (code, err)
        assert kept["flops_f32"] == 1e18 and kept["launch_seconds"] == 1e-12, kept
        assert kept["read_bytes_per_s"] == now["read_bytes_per_s"] > 1, (kept, now)
        print("ok      the better of what is kept and what is measured is kept")

        for name, change in {
            "of another driver": lambda kept: {**kept, "driver": "another"},
            "of another version": lambda kept: {**kept, "moecl": "0.0.9"},
            "of no version": lambda kept: {key: kept[key] for key in kept if key != "moecl"},
            "with a rate of 0": lambda kept: {**kept, "peaks": {**kept["peaks"], "read_bytes_per_s": 0}},
            "without a rate": lambda kept: {**kept, "peaks": {"measured": "2026", "array_bytes": 1}},
            "of no peaks": lambda kept: [],
        }.items():
            with open(kept_file(cache), "w", encoding="utf-8") as file:
                json.dump(change(printed), file)
            results, report = run(folder, cache, name.replace(" ", "-"))
            assert results["peaks"] is None, name
            print(f"ok      a file {name} counts as none")

        with open(kept_file(cache), "w", encoding="utf-8") as file:
            json.dump({**printed, "peaks": {**printed["peaks"], "flops_f16": 0}}, file)
        results, report = run(folder, cache, "no-half")
        assert results["peaks"] and results["peaks"]["flops_f16"] == 0
        print("ok      a file without fp16 arithmetic counts")

        with open(f"{folder}/file", "w", encoding="utf-8") as file:
            file.write("no folder")
        code, out, err = call(f"{folder}/file", "peak")
        assert code == 0 and "GFLOP/s" in out and "the peaks are not kept" in err, (code, out, err)
        print("ok      a cache that is no folder is a warning")
    return 0


if __name__ == "__main__":
    sys.exit(main())
