#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes test/golden/families/: for each MoE family a model folder as published (config.json and
safetensors), small and with random weights, and what transformers' own block computes in it.

usage: make_goldens.py [--out DIR] [CASE...]

Needs torch, transformers and safetensors. Running it again with the same versions gives the same
bytes. test/golden/families/README.md says what the files hold.
"""

import argparse
import pathlib
import sys

import torch
import transformers

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from goldens import record  # noqa: E402
from goldens.cases import CASES  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("test/golden/families"))
    parser.add_argument("case", nargs="*")
    options = parser.parse_args()
    unknown = set(options.case) - {case.name for case in CASES}
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for case in CASES:
        if not options.case or case.name in options.case:
            folder = options.out / case.name
            record.make(case, folder)
            size = sum(file.stat().st_size for file in folder.iterdir())
            print(f"{folder}: {size} bytes")


if __name__ == "__main__":
    main()
