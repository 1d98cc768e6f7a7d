# SPDX-License-Identifier: MIT
"""Files of a model folder, written so that the same tensors always give the same bytes."""

import json
import struct

import torch

NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.float8_e4m3fn: "F8_E4M3",
}


def save_tensors(path, tensors, metadata):
    """A safetensors file, its header sorted: the safetensors package's own order of metadata
    changes from run to run."""
    header = {"__metadata__": dict(sorted(metadata.items()))}
    blobs = []
    offset = 0
    for name, tensor in sorted(tensors.items()):
        blob = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + len(blob)],
        }
        offset += len(blob)
        blobs.append(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def save_model(folder, tensors, shards):
    """model.safetensors, or shards with their index, consecutive names in different files."""
    metadata = {"format": "pt"}
    if shards == 1:
        save_tensors(folder / "model.safetensors", tensors, metadata)
        return
    files = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    names = sorted(tensors)
    for i, file in enumerate(files):
        save_tensors(folder / file, {name: tensors[name] for name in names[i::shards]}, metadata)
    index = {
        "metadata": {"total_size": sum(t.numel() * t.element_size() for t in tensors.values())},
        "weight_map": {name: files[i % shards] for i, name in enumerate(names)},
    }
    save_json(folder / "model.safetensors.index.json", index)


def save_json(path, value):
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
