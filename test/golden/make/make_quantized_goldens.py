#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes the quantized folders of test/golden/families/: a family's model whose experts are stored
as a scheme has them, and what transformers' own block computes with the numbers that these are.

usage: make_quantized_goldens.py [--out DIR] [CASE...]

Needs torch, transformers, safetensors, compressed-tensors and AutoAWQ (its packing alone). Running
it again with the same versions gives the same bytes.
"""

import argparse
import pathlib
import re
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from goldens import record, store  # noqa: E402
from goldens.quantized_cases import CASES  # noqa: E402


def reload_with(case, model, numbers):
    """The model with other weights under the published names, in fp32."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        path = pathlib.Path(folder) / "model.safetensors"
        tensors = load_file(path)
        assert set(numbers) <= set(tensors), set(numbers) - set(tensors)
        save_file({name: numbers.get(name, tensor.float()).contiguous() for name, tensor in tensors.items()},
                  path, metadata={"format": "pt"})
        loaded = type(model).from_pretrained(folder, dtype=torch.float32, experts_implementation="eager")
    return loaded.eval()


def make(quantized, folder):
    case = quantized.case
    torch.manual_seed(case.seed)
    model = record.build(case)
    hidden_size = model.config.get_text_config().hidden_size
    mean = torch.randn(hidden_size)
    for path in dict.fromkeys(r.block for r in case.records):
        record.skew(case, model, path, mean)
    case.adjust(model)
    record.round_weights(case, model)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    tensors, config = record.published_tensors(case, model)
    files, numbers = {}, {}
    for name, tensor in tensors.items():
        if re.search(quantized.modules, name) and quantized.numbers(name, tensor):
            parts, numbers[name] = quantized.scheme(tensor)
            files |= {name.removesuffix(".weight") + suffix: part for suffix, part in parts.items()}
        else:
            files[name] = tensor
    assert numbers
    model = reload_with(case, model, numbers)
    store.save_model(folder, files, 1)
    store.save_json(folder / "config.json", config | {"quantization_config": quantized.config})
    candidates = (torch.randn(10 * case.tokens, hidden_size) + mean).bfloat16().float()
    for r in case.records:
        result = record.record(case, model, r.block, r.dtype,
                               record.stable_tokens(case, model, r.block, candidates))
        store.save_tensors(folder / f"{r.file}.safetensors", result, {
            "family": config["model_type"],
            "block": case.prefix + r.published,
            "layer": str(r.layer),
            "stack": r.stack,
            "dtype": str(r.dtype).removeprefix("torch."),
            "seed": str(case.seed),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        })


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("test/golden/families"))
    parser.add_argument("case", nargs="*")
    options = parser.parse_args()
    unknown = set(options.case) - {q.case.name for q in CASES}
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for quantized in CASES:
        if not options.case or quantized.case.name in options.case:
            folder = options.out / quantized.case.name
            make(quantized, folder)
            print(f"{folder}: {sum(file.stat().st_size for file in folder.iterdir())} bytes")


if __name__ == "__main__":
    main()
