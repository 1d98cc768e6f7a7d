#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs kernels for hardware that is not here on the processor.

usage: emulate.py ROOT [--all] [-v] [FILTER]

A kernel is compiled for the processor by clang, with the matrix instruction that it calls as a
function in C over the operands of a wave (amd.c), and runs under work_group.c: work-items as
fibers, in random order between barriers. Its answers are compared with double precision (gemm.c).
So layout, packing, borders and barriers are looked at; that the function in C is what the
hardware does, and that the compiler for it compiles right, is not: NOTES.md of the kernels' folder
says how that was looked at.

Then mistakes are planted in copies of the sources, each of which has to be noticed. Checked are
some shapes; --all takes every one. FILTER: those whose name has it.
Exit code 77 (skip) where clang-19 is missing.
"""
import itertools
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

SKIP = 77
HERE = Path(__file__).parent
CLANG = "clang-19"  # half and vectors as OpenCL C has them, on any processor
F32, F16, BF16 = 0, 1, 2
NONE, SILU, RELU = 0, 1, 3


def shape(weights, tile_m, activation=NONE, gated=0, bias=0, gather=0, output_f32=0, dense=0,
          adds_shared=0):
    output = F32 if output_f32 else weights
    return dict(WEIGHTS=weights, BIASES=weights, INPUT=weights, OUTPUT=output, ROUNDED=output,
                ACTIVATION=activation, GATED=gated, BIAS=bias, GATHER=gather, TILE_M=tile_m,
                DENSE=dense, ADDS_SHARED=adds_shared)


def shapes(heights):
    """gate_up gathered and not, down, the shared expert's and the router's logits."""
    for weights, tile_m in itertools.product((BF16, F16), heights):
        for bias in (0, 1):
            yield shape(weights, tile_m, SILU, 1, bias, 1)
            yield shape(weights, tile_m, RELU, 0, bias, 1)
            yield shape(weights, tile_m, bias=bias)
            yield shape(weights, tile_m, SILU, 1, bias, dense=1)
            yield shape(weights, tile_m, bias=bias, output_f32=1, dense=1)
            yield shape(weights, tile_m, bias=bias, adds_shared=1 + bias)


@dataclass
class Kernel:
    name: str         # of the hardware
    source: str       # below cl/
    instructions: str # NAME.c here, and NAME.clh, which is put before the source
    wave: int
    defines: dict     # what the compiler for the hardware defines
    local: int = 256
    problem: str = "gemm"  # NAME.c here
    heights: tuple = (128, 64, 32)
    plants: list = field(default_factory=list)  # (file below cl/, text, what to put there)


TILES, FEW = "grouped_gemm/amd_tiles.clh", "grouped_gemm/amd_few.clh"
AMD_PLANTS = [
    (TILES, "+ b * BLOCK_CHUNKS +", "+ (1 - b) * BLOCK_CHUNKS +"),
    (TILES, "CHUNKS_APART (TILE_M + 8", "CHUNKS_APART (TILE_M - 8"),
    (TILES, "step < steps_there", "true"),
    (TILES, "tokens[1 - step % 2] + first_token", "tokens[step % 2] + first_token"),
    (TILES, "put(next, tokens[step % 2], id)", "put(next, tokens[1 - step % 2], id)"),
    (TILES, "now = next;\n    barrier(CLK_LOCAL_MEM_FENCE);", "now = next;"),
    (TILES, "rows > HALF_BLOCKS * TOKEN_WAVES", "rows > TOKEN_BLOCKS * TOKEN_WAVES"),
    (TILES, "block % 2 * columns", "0"),
    (TILES, "row < rows && column < n", "row <= rows && column < n"),
    (TILES, "row < rows && column < n", "row < rows"),
    (TILES, "(GATED ? n : 4)", "n"),
    (FEW, "(r) / 8 * 4", "0"),
    (FEW, "(group) % 2 * 8", "0"),
    (FEW, "weights[u] = topk_weights[choice]", "weights[u] = topk_weights[0]"),
    (FEW, "if (at < chunks)", "if (at + 1 < chunks)"),
    ("grouped_gemm/few_tokens.clh", "IS_UP(r) ? 8 : 0", "0"),
]
KERNELS = [
    Kernel("cdna", "probe/amd_mfma.cl", "amd", 64, {}, problem="probe"),
    Kernel("rdna3", "probe/amd_wmma.cl", "amd", 32, {"__GFX11__": 1}, problem="probe"),
    Kernel("rdna4", "probe/amd_wmma.cl", "amd", 32, {"__GFX12__": 1}, problem="probe"),
    Kernel("cdna", "grouped_gemm/amd_mfma.cl", "amd", 64, {}, plants=AMD_PLANTS + [
        ("grouped_gemm/amd_mfma.cl", "LANE_QUAD(part, t) (part)", "LANE_QUAD(part, t) (3 - part)"),
        ("grouped_gemm/amd_mfma.cl", "b.chunk[0].hi", "b.chunk[0].lo"),
    ]),
    Kernel("rdna3", "grouped_gemm/amd_wmma.cl", "amd", 32, {"__GFX11__": 1}, plants=[
        (TILES, "part, c) * BLOCK]", "part, 0) * BLOCK]"),
        ("grouped_gemm/amd_wmma.cl", "((row) / 2 % 4)", "((row) % 4)"),
        ("grouped_gemm/amd_wmma.cl", "LANE_QUAD(part, t) ((t)*2 + (part))",
         "LANE_QUAD(part, t) ((part)*2 + (t))"),
        ("grouped_gemm/amd_wmma.cl", "b.chunk[2], b.chunk[3]", "b.chunk[3], b.chunk[2]"),
    ]),
    Kernel("rdna4", "grouped_gemm/amd_wmma.cl", "amd", 32, {"__GFX12__": 1}, plants=[
        ("grouped_gemm/amd_wmma.cl", "LANE_QUAD(part, t) ((part)*2 + (t))",
         "LANE_QUAD(part, t) ((t)*2 + (part))"),
        ("grouped_gemm/amd_wmma.cl", "b.chunk[1]", "b.chunk[0]"),
    ]),
]


def expand(root, name, plant=None, seen=None):
    """The source with its includes put in, each once, as the library does."""
    seen = set() if seen is None else seen
    if name in seen:
        return ""
    seen.add(name)
    text = (root / name).read_text()
    if plant and plant[0] == name:
        text = text.replace(plant[1], plant[2])
    lines = []
    for line in text.splitlines():
        found = re.match(r'\s*#include "(.+)"', line)
        lines.append(expand(root, found[1], plant, seen) if found else line)
    return "\n".join(lines)


def call(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    return done.returncode, (done.stdout + done.stderr).strip()


class Builder:
    """Makes and runs programs in a folder of its own."""

    def __init__(self, root, folder):
        self.root, self.folder, self.objects = root, folder, {}

    def compile(self, source, options, output):
        code, text = call(CLANG, *options, "-O1", "-w", "-c", "-o", output, source)
        if code:
            raise RuntimeError(f"{source} does not compile:\n{text[:3000]}")
        return output

    def host(self, name, defines=None):
        """C of this folder. What is the same for several shapes is compiled once."""
        options = [f"-D{key}={value}" for key, value in (defines or {}).items()]
        made = (name, *options)
        if made not in self.objects:
            self.objects[made] = self.compile(
                HERE / f"{name}.c", [*options, "-I", HERE, "-I", self.root / "cl"],
                self.folder / f"{len(self.objects)}.o")
        return self.objects[made]

    def kernel(self, kernel, defines, plant):
        source = self.folder / "kernel.cl"
        macros = {**defines, **kernel.defines}
        source.write_text("".join(f"#define {key} {value}\n" for key, value in macros.items()) +
                          (HERE / "opencl.clh").read_text() +
                          (HERE / f"{kernel.instructions}.clh").read_text() +
                          expand(self.root / "cl", kernel.source, plant))
        return self.compile(source, ["-x", "cl", "-cl-std=CL1.2", "-Xclang", "-cl-ext=+cl_khr_fp16",
                                     "-Xclang", "-finclude-default-header",
                                     "-Xclang", "-fdeclare-opencl-builtins"],
                            self.folder / "kernel.o")

    def run(self, kernel, defines, plant=None):
        """What the program says that is wrong; "" where nothing is."""
        sizes = dict(WAVE=kernel.wave, LOCAL=kernel.local, TILE_N=128, PACKED_K=64)
        objects = [self.host(kernel.problem, {**defines, **sizes}), self.host("work_group"),
                   self.host(kernel.instructions)]
        program = self.folder / "program"
        code, text = call(CLANG, "-o", program, *objects, self.kernel(kernel, defines, plant), "-lm")
        if code:
            raise RuntimeError(f"{kernel.source} does not link:\n{text[:3000]}")
        code, text = call(program, 1)
        return text.splitlines()[0] if text else f"ends with {code}" if code else ""


def describe(kernel, defines):
    if not defines:
        return f"{kernel.name} {kernel.source}"
    element = {BF16: "bf16", F16: "fp16"}[defines["WEIGHTS"]]
    rest = " ".join(f"{key.lower()}={defines[key]}" for key in
                    ("ACTIVATION", "GATED", "BIAS", "GATHER", "DENSE", "ADDS_SHARED") if defines[key])
    output = " fp32 output" if defines["OUTPUT"] == F32 else ""
    return f"{kernel.name} {kernel.source} {element} tiles of {defines['TILE_M']} {rest}{output}"


def selected(kernel, every):
    """Some shapes: each height, kind and type in one of them."""
    if kernel.problem != "gemm":
        return [{}]
    chosen = list(shapes(kernel.heights))
    return chosen if every else chosen[::5]


def check_plant(builder, kernel, plant):
    """None where a shape notices the mistake."""
    file, text, wrong = plant
    if text not in (builder.root / "cl" / file).read_text():
        return f"{kernel.name}: a mistake cannot be planted, {file} has no {text}"
    for defines in (shape(BF16, 32, SILU, 1, 1, 1), shape(F16, 64, bias=1),
                    shape(BF16, 32, bias=1, adds_shared=2), shape(BF16, 128, SILU, 1, 0, 1)):
        if builder.run(kernel, defines, plant):
            return None
    return f"{kernel.name}: {file} with {wrong} for {text} was not noticed"


def main(arguments):
    options = {"--all", "-v"} & set(arguments)
    words = [word for word in arguments if word not in options]
    if not 1 <= len(words) <= 2 or not (Path(words[0]) / "cl").is_dir():
        print(__doc__)
        return 2
    if not shutil.which(CLANG):
        print(f"SKIP: no {CLANG} (Debian: {CLANG})")
        return SKIP
    checked, planted, failures = 0, 0, []
    with tempfile.TemporaryDirectory() as folder:
        builder = Builder(Path(words[0]), Path(folder))
        for kernel in KERNELS:
            for defines in selected(kernel, "--all" in options):
                what = describe(kernel, defines)
                if words[1:] and words[1] not in what:
                    continue
                checked += 1
                wrong = builder.run(kernel, defines)
                if "-v" in options or wrong:
                    print(what, wrong or "is right", flush=True)
                failures += [f"{what}: {wrong}"] if wrong else []
            for plant in kernel.plants if not words[1:] or words[1] == "plants" else []:
                planted += 1
                missed = check_plant(builder, kernel, plant)
                failures += [missed] if missed else []
    for failure in failures:
        print("FAIL", failure)
    print(f"{checked} programs right or wrong, {planted} mistakes planted, {len(failures)} failures")
    return 1 if failures or checked + planted == 0 else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
