# SPDX-License-Identifier: MIT
"""results.json is what docs/results.schema.json says, whatever ran and however it ended; and the
schema lets nothing else pass. A new key of experiments or of results joins the schema.

usage: test_schema.py MOECTL GOLDEN_DIR REPOSITORY FAILING_CALL.so
Exit code 77 (skipped) without jsonschema (Debian: python3-jsonschema) or an OpenCL device.
"""

import copy
import json
import os
import pathlib
import re
import struct
import subprocess
import sys
import unittest

try:
    import jsonschema
except ImportError:
    print("SKIP: jsonschema was not found (Debian: python3-jsonschema)")
    sys.exit(77)

from model_files import GOLDEN, ModelCase, moectl, no_device, write_file

if no_device():
    print("SKIP: no OpenCL device")
    sys.exit(77)

ROOT, SHIM = (pathlib.Path(argument).resolve() for argument in sys.argv[3:5])
SCHEMA = json.loads((ROOT / "docs/results.schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
LAYER = {"hidden_size": 16, "intermediate_size": 12, "num_experts": 4, "top_k": 2}
QUICK = {"warmup": 0, "iterations": 2}


def objects(value, path="$"):
    """Every object of a document with its path."""
    if isinstance(value, dict):
        yield path, value
    for key, inner in (value.items() if isinstance(value, dict) else
                       enumerate(value) if isinstance(value, list) else ()):
        yield from objects(inner, f"{path}.{key}")


class Schema(ModelCase):
    def validate(self, root, *statuses):
        for error in VALIDATOR.iter_errors(root):
            self.fail(f"{error.json_path}: {error.message}\n"
                      "A key that is new joins docs/results.schema.json.")
        self.assertEqual(tuple(point["status"] for point in root["points"]), statuses)

    def run_it(self, *statuses, code=0, environment=None, **experiment):
        """Runs an experiment; its results.json."""
        path, out = self.work / "e.yaml", self.work / f"out{len(list(self.work.iterdir()))}"
        path.write_text(json.dumps({"name": "schema", "layer": LAYER,
                                    "workload": {"num_tokens": 8}, "measure": QUICK, **experiment}))
        run = subprocess.run([sys.argv[1], "run", path, "--out", out, "--pictures", "none"],
                             capture_output=True, text=True, env={**os.environ,
                                                                  **(environment or {})})
        self.assertEqual(run.returncode, code, run.stderr)
        root = json.loads((out / "results.json").read_text(encoding="utf-8"))
        self.validate(root, *statuses)
        return root

    def sweep(self):
        return self.run_it(*["ok"] * 8, seed=18446744073709551615,
                           layer={**LAYER, "capacity": {"capacity_factor": [1, None]},
                                  "shared": {"shared_intermediate_size": [8, None]}},
                           workload={"num_tokens": 8, "distribution": ["normal", "skewed"]})

    def test_sweep(self):
        root = self.sweep()
        self.assertIn("skew_noise", root["points"][1]["params"])
        self.assertNotIn("skew_noise", root["points"][0]["params"])

    def test_unverified(self):
        self.run_it("ok_unverified", measure={**QUICK, "verify": False})

    def test_block(self):
        root = self.run_it("ok", "ok", block={"attention": {"num_heads": [2, 4]}},
                           workload={"num_tokens": 3, "context": 5},
                           measure={**QUICK, "what": "block"})
        self.assertEqual(root["points"][1]["params"]["num_heads"], 4)
        root = self.run_it("ok", "ok", block={"attention": {"num_heads": 2}},
                           measure={**QUICK, "what": ["layer", "block"]})
        self.assertNotIn("num_heads", root["points"][0]["params"])

    def test_group(self):
        """Earlier versions told less of members."""
        root = self.run_it("ok", parallel={"experts": 2})
        for member in root["points"][0]["parallel"]["members"]:
            for key in ("grouped_gemm_variant", "choice_bytes_sent", "choice_bytes_received",
                        "copied_bytes", "memory_bytes"):
                del member[key]
        self.validate(root, "ok")
        del root["points"][0]["parallel"]["members"][1]["bytes_sent"]
        self.assertFalse(VALIDATOR.is_valid(root))

    def test_checkpoint(self):
        self.run_it("ok", layer={"checkpoint": str(GOLDEN / "olmoe"), "layer": 0})

    def test_file_and_failures(self):
        """A recording whose products overflow fp16; a device that fails."""
        write_file(self.work / "large.safetensors", {"hidden_states": [
            "F32", [8, 16], struct.pack("<128f", *(30000.0 - i for i in range(128)))]})
        self.run_it("verify_failed", "ok", code=1, dtype=["fp16", "fp32"],
                    workload={"num_tokens": 8, "distribution": "file", "file": "large.safetensors"})
        root = self.run_it("error", code=1, environment={
            "LD_PRELOAD": str(SHIM), "MOECL_TEST_CALL": "clEnqueueNDRangeKernel",
            "MOECL_TEST_FROM": "100"}, measure={"warmup": 50, "iterations": 50})
        self.assertIsNone(root["points"][0]["time_ms"]["layer"])

    def test_strict(self):
        """A key more, or one less, is found, in every object."""
        root = self.sweep()
        root["points"] = root["points"][1:2]
        self.assertGreater(len(list(objects(root))), 40)
        for path, original in objects(root):
            for key in [None, *original]:
                changed = copy.deepcopy(root)
                inner = dict(objects(changed))[path]
                if key is None:
                    inner["novelty"] = 1
                elif (key.startswith("skew_") and path.endswith(".params")) or (
                        path, key) == ("$", "peaks") or key in ("what", "processes", "changed_choices", "flops_matrix",
                                                           "weight_error", "weight_cosine", "weight_bits"):
                    continue  # what a file may lack
                else:
                    del inner[key]
                self.assertFalse(VALIDATOR.is_valid(changed), f"{path}: {key or 'novelty'}")

    def test_schema(self):
        jsonschema.Draft202012Validator.check_schema(SCHEMA)
        for path, one in objects(SCHEMA):
            if isinstance(one.get("properties"), dict) and "type" in one:
                self.assertIs(one.get("additionalProperties"), False, path)
                self.assertLessEqual(set(one["required"]), set(one["properties"]), path)

    def test_described(self):
        """Numbers of several devices, of which a name does not say whose time or bytes they are."""
        point = SCHEMA["$defs"]["point"]["properties"]
        members = SCHEMA["$defs"]["parallel"]["properties"]["members"]["items"]["properties"]
        self.assertGreater(len(members), 12)
        for key, one in [*members.items(), *((key, point[key]) for key in ("memory_bytes", "host_ms"))]:
            self.assertIn("description", one, key)

    def test_keys(self):
        """Its keys of experiments are those of help."""
        told = moectl("help", "experiment")[1].partition("\nKeys:\n")[2]
        keys = re.findall(r"^  ([a-z_.]+)\n((?:      .*\n)+)", told, re.M)
        swept = {key.split(".")[-1] for key, text in keys if "can be swept" in " ".join(text.split())}
        self.assertEqual(set(SCHEMA["$defs"]["params"]["properties"]), swept)
        found = set()
        for path, one in objects(SCHEMA["$defs"]["experiment"]["properties"]):
            names = [name for name in path.split(".")[1:] if name != "properties"]
            if names and "properties" not in one and path.split(".")[-1] != "properties":
                found.add(".".join(names))
        self.assertEqual(found - {"sweep", "sweep.items"}, {key for key, _ in keys})


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
