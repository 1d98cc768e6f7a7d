# SPDX-License-Identifier: MIT
"""The recorded families are whole: every file well-formed, every record fits its checkpoint."""

import json
import math
import pathlib
import struct
import sys
import unittest

FAMILIES = pathlib.Path(sys.argv.pop(1) if len(sys.argv) > 1 else
                        pathlib.Path(__file__).parents[1] / "golden" / "families")
SIZES = {"F32": 4, "F16": 2, "BF16": 2, "I32": 4, "I64": 8, "I8": 1, "U8": 1, "F8_E4M3": 1}


def read(path):
    """A safetensors file's metadata, headers and data; raises where they don't agree."""
    blob = path.read_bytes()
    (length,) = struct.unpack_from("<Q", blob)
    header = json.loads(blob[8:8 + length])
    metadata = header.pop("__metadata__")
    data = blob[8 + length:]
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, stop = entry["data_offsets"]
        if begin != end or stop - begin != math.prod(entry["shape"]) * SIZES[entry["dtype"]]:
            raise ValueError(f"{path}: {name} lies at {begin} to {stop}")
        end = stop
    if end != len(data):
        raise ValueError(f"{path}: {len(data)} bytes of data, {end} described")
    return metadata, header, data


def values(header, data, name):
    begin, end = header[name]["data_offsets"]
    return struct.unpack(f"<{(end - begin) // 4}" + {"F32": "f", "I32": "i"}[header[name]["dtype"]],
                         data[begin:end])


def model_tensors(folder):
    """The names of a checkpoint's tensors, by the index where there is one."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return set(read(folder / "model.safetensors")[1])
    weight_map = json.loads(index.read_text())["weight_map"]
    held = {(name, path.name) for path in folder.glob("model-*.safetensors") for name in read(path)[1]}
    if held != set(weight_map.items()):
        raise ValueError(f"{index} and its shards differ")
    return set(weight_map)


class Goldens(unittest.TestCase):
    def test_there_are_families(self):
        self.assertGreater(len(list(FAMILIES.iterdir())), 15)

    def test_folders(self):
        for folder in sorted(path for path in FAMILIES.iterdir() if path.is_dir()):
            with self.subTest(folder=folder.name):
                config = json.loads((folder / "config.json").read_text())
                tensors = model_tensors(folder)
                records = sorted(folder.glob("io*.safetensors"))
                self.assertTrue(records)
                for path in records:
                    self.check_record(path, config, tensors)

    def check_record(self, path, config, tensors):
        metadata, header, data = read(path)
        text = config.get("thinker_config", config).get("text_config", config)
        self.assertIn(metadata["family"], (config["model_type"], text["model_type"]))
        self.assertTrue(any(name.startswith(metadata["block"] + ".") for name in tensors), metadata["block"])
        tokens, hidden = header["hidden_states"]["shape"]
        experts, k = header["router_logits"]["shape"][1], header["topk_ids"]["shape"][1]
        self.assertEqual(hidden, text.get("hidden_size", text.get("d_model")))
        self.assertEqual(header["output"]["shape"], [tokens, hidden])
        self.assertEqual(header["router_logits"]["shape"], [tokens, experts])
        self.assertEqual(header["topk_ids"]["shape"], [tokens, k])
        self.assertEqual(header["topk_weights"]["shape"], [tokens, k])
        stored = {"float32": "F32", "bfloat16": "BF16"}[metadata["dtype"]]
        self.assertEqual({name: entry["dtype"] for name, entry in header.items()},
                         {"hidden_states": stored, "router_logits": "F32", "topk_ids": "I32",
                          "topk_weights": "F32", "output": stored})
        ids = values(header, data, "topk_ids")
        for row in range(0, tokens * k, k):
            chosen = ids[row:row + k]
            self.assertEqual(len(set(chosen)), k)
            self.assertTrue(all(0 <= expert < experts for expert in chosen))
        self.assertTrue(all(math.isfinite(w) for w in values(header, data, "topk_weights")))


if __name__ == "__main__":
    unittest.main()
