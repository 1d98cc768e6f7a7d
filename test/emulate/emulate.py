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
    locals: dict = field(default_factory=dict)  # work-items of a group, by height: 256 if not here
    problem: str = "gemm"  # NAME.c here
    heights: tuple = (128, 64, 32)
    packed_k: int = 64  # of packed weights, a multiple
    few_parts: int = 0  # work-groups of a tile of 8 rows
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
XMX, XMX_FEW = "grouped_gemm/intel_xmx.clh", "grouped_gemm/intel_few.clh"
XMX_TOKENS, XMX_OPERANDS = "grouped_gemm/intel_few_tokens.clh", "common/intel_matrix.clh"
XMX_PLANTS = [
    (XMX_OPERANDS, "left >= MATRIX_K", "left > 0"),
    (XMX_OPERANDS, "column.lo = ", "column.hi = "),
    (XMX, "(r) / 16 * 8 + (r) % 8", "(r) / 16 * 8 + 7 - (r) % 8"),
    (XMX, "(r) / 8 % 2", "1 - (r) / 8 % 2"),
    (XMX, "#define PLACE(r) (r)", "#define PLACE(r) ((r) ^ 8)"),
    (XMX, "slot = slot_token[slot];", ""),
    (XMX, "sums[1].s##i = multiply_rows(a, b1", "sums[1].s##i = multiply_rows(a, b0"),
    (XMX, "read_rows(w + i * ROWS_ELEMENTS)", "read_rows(w + (3 - i) * ROWS_ELEMENTS)"),
    (XMX, "tokens + COLUMNS_PAIRS, lane", "tokens, lane"),
    (XMX, "half_no = sub_group / GROUPS", "half_no = 1 - sub_group / GROUPS"),
    (XMX, "half_no = sub_group / GROUPS, group = sub_group % GROUPS",
     "half_no = sub_group % 2, group = sub_group / 2"),
    (XMX, "w += 2 * STEP_ELEMENTS;", "w += STEP_ELEMENTS;"),
    (XMX, "now + HALF_STAGE", "now"),
    (XMX, "if (2 * stage + 1 < steps) multiply", "multiply"),
    (XMX, "tokens[stage % 2] + first_group", "tokens[1 - stage % 2] + first_group"),
    (XMX, "tokens[1 - stage % 2] + place", "tokens[stage % 2] + place"),
    (XMX, "lane);\n    barrier(CLK_LOCAL_MEM_FENCE);\n  }", "lane);\n  }"),
    (XMX, "more = stage + 1 < whole", "more = stage + 1 < stages"),
    (XMX, "(int)(first_group * LANES) < rows", "(int)(first_group * LANES) + 1 < rows"),
    (XMX, "(k % STAGE_K) - (int)half_no * MATRIX_K", "(k % STAGE_K)"),
    (XMX, "out + LANES * n", "out + n"),
    (XMX, "token < rows) store", "token <= rows) store"),
    (XMX, "token + LANES < rows", "token < rows"),
    (XMX, "if (column >= n) return;", ""),
    (XMX, "bias + n + column", "bias + column"),
    (XMX, "sums.s2, sums.s3, bias, column + 8", "sums.s2, sums.s3, bias, column + 16"),
    (XMX, "sums.s1, sums.s1, bias, column + 8", "sums.s1, sums.s1, bias, column"),
    (XMX, "c < (ulong)k ?", "true ?"),
    (XMX_FEW, "share = sub_group % SHARES, first_block = sub_group / SHARES",
     "share = sub_group / SHARES, first_block = sub_group % 2"),
    (XMX_FEW, "(part + first_block)", "(first_block)"),
    (XMX_FEW, "step += SHARES", "step += SHARES - 1"),
    (XMX_FEW, "k - (long)step * MATRIX_K", "k"),
    (XMX_FEW, "s < SHARES", "s < SHARES - 1"),
    (XMX_FEW, "lane);\n  barrier(CLK_LOCAL_MEM_FENCE);", "lane);"),
    (XMX_FEW, "block + 1, token", "block, token"),
    (XMX_FEW, "(int)token < tile.rows", "true"),
    (XMX_TOKENS, "group / 8;", "group / 4;"),
    (XMX_TOKENS, "group % 8 * (2 * ROWS_ELEMENTS)", "group % 8 * ROWS_ELEMENTS"),
    (XMX_TOKENS, "k - (long)step * MATRIX_K", "k"),
    (XMX_TOKENS, "topk_weights[choice] * sums.high", "topk_weights[0] * sums.high"),
    (XMX_TOKENS, "choice++, x += k", "choice++"),
    (XMX_TOKENS, "sums.high, 1, partial", "sums.low, 1, partial"),
]
KERNELS = [
    Kernel("cdna", "probe/amd_mfma.cl", "amd", 64, {}, problem="probe"),
    Kernel("rdna3", "probe/amd_wmma.cl", "amd", 32, {"__GFX11__": 1}, problem="probe"),
    Kernel("rdna4", "probe/amd_wmma.cl", "amd", 32, {"__GFX12__": 1}, problem="probe"),
    Kernel("cdna", "peak/amd_mfma.cl", "amd", 64, {}, problem="peak"),
    Kernel("rdna3", "peak/amd_wmma.cl", "amd", 32, {"__GFX11__": 1}, problem="peak"),
    Kernel("rdna4", "peak/amd_wmma.cl", "amd", 32, {"__GFX12__": 1}, problem="peak"),
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
] + [
    Kernel(f"sub-groups of {lanes}", f"probe/subgroup_matrix.cl", "intel", lanes, {"LOCAL": lanes},
           problem="subgroup_probe") for lanes in (8, 16)
] + [
    Kernel(f"sub-groups of {lanes}", f"peak/intel_xmx{lanes}.cl", "intel", lanes, {},
           problem="subgroup_peak") for lanes in (8, 16)
] + [
    Kernel(f"sub-groups of {lanes}, {blocks}", f"grouped_gemm/intel_xmx{lanes}.cl", "intel", lanes,
           {"cl_intel_subgroup_local_block_io": 1} if blocks == "blocks" else {}, locals={32: 64},
           heights=(128, 32, 8), packed_k=16, few_parts=2, plants=plants)
    for lanes, blocks, plants in (
        # The source is the same, and each was noticed in both: every other one in each.
        (8, "blocks", XMX_PLANTS[::2]), (8, "lanes", []), (16, "blocks", []),
        (16, "lanes", XMX_PLANTS[1::2] + [(XMX_FEW, "if (lane < TILE_M) values", "values")]))
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
        height = defines.get("TILE_M", 0)
        sizes = dict(WAVE=kernel.wave, LOCAL=kernel.locals.get(height, 256), TILE_N=128,
                     PACKED_K=kernel.packed_k, PARTS=kernel.few_parts if height == 8 else 1)
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
    tallest, middle, lowest = kernel.heights
    for defines in (shape(BF16, 32, SILU, 1, 1, 1), shape(F16, middle, bias=1),
                    shape(BF16, 32, bias=1, adds_shared=2), shape(BF16, tallest, SILU, 1, 0, 1),
                    shape(BF16, lowest, SILU, 1, 1, 1)):
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
    print(f"{checked} programs checked, {planted} mistakes planted, {len(failures)} failures")
    return 1 if failures or checked + planted == 0 else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
