#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks the kernels that hold inline PTX without a GPU.

usage: ptx_check.py CL_FOLDER [--all] [-v]

Each source is compiled by clang to PTX and assembled by ptxas as the library
does it (lib/ocl/ptx.c): once as it is, and where the source asks for a target,
once more for that without its marks. A wrong instruction, a missing mark,
spills or too much shared memory fail. Checked are a few shapes that between
them define everything either way; --all takes every shape there is.
Before that, mistakes planted in a copy of a source show that they are found.
Exit code 77 (skip) where clang or ptxas is missing.
"""
import itertools
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SKIP = 77
SPILL_BYTES = 64  # a few registers, outside the loops
# Where consumers' sums leave producers 40 registers: what those spill is read once a step.
MORE_SPILL_BYTES = {"grouped_gemm/nvidia_sm90_w8a8.cl": 512}
PLAIN = "sm_90"   # unless the source's name says another

# Built-ins that NVIDIA's compiler turns into instructions; as calls they would
# cost registers that the real program doesn't spend.
PRELUDE = """
static inline size_t special_id(uint d) { uint r; asm volatile("mov.u32 %0, %%tid.x;" : "=r"(r)); return r; }
static inline size_t special_group(uint d) { uint r; asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(r)); return r; }
static inline size_t special_groups(uint d) { uint r; asm volatile("mov.u32 %0, %%nctaid.x;" : "=r"(r)); return r; }
#define get_local_id special_id
#define get_group_id special_group
#define get_num_groups special_groups
#define clamp(x, low, high) min(max(x, low), high)
#define min(a, b) ((a) < (b) ? (a) : (b))
#define max(a, b) ((a) > (b) ? (a) : (b))
#define fma __builtin_fmaf
#define fmax __builtin_fmaxf
"""


def gemm(dtype, activation, gated, bias, gather, output_f32=0, dense=0, adds_shared=0, scatter=0):
    """Both heights of a tile take turns: with bias low, without it tall."""
    clamp = dict(SWIGLU_ALPHA="1.702f", SWIGLU_LIMIT="7.0f") if activation >= 6 else {}
    return dict(WEIGHTS=dtype, BIASES=dtype, INPUT=dtype, OUTPUT=0 if output_f32 else dtype,
                ROUNDED=0 if output_f32 else dtype, ACTIVATION=activation, GATED=gated, BIAS=bias,
                GATHER=gather, TALL=int(not bias and not output_f32),
                DENSE=int(dense or output_f32), ADDS_SHARED=adds_shared, SCATTER=scatter, **clamp)


def gemm_shapes():
    """gate_up of every kind, gathered and not, down, shared, and the router's logits."""
    for dtype, bias in itertools.product((1, 2), (0, 1)):
        for activation in (6, 7, 8):
            yield gemm(dtype, activation, 1, bias, 1)
        for activation in (1, 2, 3, 4, 5):
            yield gemm(dtype, activation, 1, bias, 1)
            yield gemm(dtype, activation, 0, bias, 1)
        yield gemm(dtype, 1, 1, bias, 0)
        yield gemm(dtype, 3, 0, bias, 0)
        yield gemm(dtype, 0, 0, bias, 0)
        yield gemm(dtype, 0, 0, bias, 0, adds_shared=1 + bias)
        yield gemm(dtype, 0, 0, bias, 0, output_f32=1)
        yield gemm(dtype, 0, 0, bias, 0, scatter=1)
        yield gemm(dtype, 0, 0, bias, 0, output_f32=1, scatter=1)
    for dtype, activation in itertools.product((1, 2), (1, 6)): # a shared expert's, without biases
        yield gemm(dtype, activation, 1, 0, 0, dense=1)
        yield gemm(dtype, 0, 0, 0, 0, dense=1)
    for bias in (0, 1): # tf32, on sm_90 alone
        yield gemm(0, 1, 1, bias, 1)
        yield gemm(0, 1, 1, bias, 0)
        yield gemm(0, 0, 0, bias, 0)
        yield gemm(0, 0, 0, bias, 0, scatter=1)


# Weights of codes with scales: element, scales, columns and rows of a block, zero points, a scale
# of the matrix (cl/common/quantized.clh).
FORMATS = [(3, 0, 0, 1, 0, 0), (3, 0, 128, 1, 0, 0), (4, 1, 32, 1, 0, 0), (4, 1, 64, 1, 0, 0),
           (4, 1, 128, 1, 0, 0), (4, 1, 32, 1, 1, 0), (4, 1, 64, 1, 1, 0), (4, 1, 128, 1, 1, 0),
           (5, 7, 32, 1, 0, 0), (5, 6, 16, 1, 0, 1), (6, -1, 0, 1, 0, 1), (6, 0, 0, 1, 0, 0),
           (6, 0, 128, 128, 0, 0), (6, 0, 128, 1, 0, 0)]


def quantized(scaled, plain, tile_m):
    names = ("WEIGHTS", "SCALES", "BLOCK", "SCALE_ROWS", "ZERO_POINTS", "MATRIX_SCALE")
    return {**plain, **dict(zip(names, scaled)), "TILE_M": tile_m}


def quantized_shapes(wgmma=False):
    """Every format by tiles of each height, for gate_up, down and the shared expert."""
    for scaled, dtype in itertools.product(FORMATS, (1, 2)):
        if wgmma: # sums of groups have no tall tiles in fp16
            tall = 32 if dtype == 1 and scaled[2] > 16 else 128
            yield quantized(scaled, gemm(dtype, 1, 1, 0, 1), 32)
            yield quantized(scaled, gemm(dtype, 6, 1, 1, 1), tall)
            yield quantized(scaled, gemm(dtype, 0, 0, 1, 0, adds_shared=2), 32)
            yield quantized(scaled, gemm(dtype, 3, 0, 0, 0, dense=1), tall)
            continue
        yield quantized(scaled, gemm(dtype, 1, 1, 0, 1), 32)
        yield quantized(scaled, gemm(dtype, 6, 1, 1, 1), 48 if scaled[0] in (3, 6) else 64)
        yield quantized(scaled, gemm(dtype, 0, 0, 1, 0, adds_shared=2), 32)
        yield quantized(scaled, gemm(dtype, 3, 0, 0, 0, dense=1), 48 if scaled[0] in (3, 6) else 64)


# Of those the ones that are multiplied by rows of the same codes; of such rows their blocks.
CODES = [format for format in FORMATS if format[0] in (3, 6)]


def coded(scaled, input_block, plain):
    return {**plain, **dict(zip(("WEIGHTS", "SCALES", "BLOCK", "SCALE_ROWS", "ZERO_POINTS", "MATRIX_SCALE"),
                                scaled)), "INPUT": scaled[0], "INPUT_BLOCK": input_block}


def coded_shapes():
    """Every pair of codes by tiles of each height, for gate_up, down and the shared expert."""
    for scaled, block, tall in itertools.product(CODES, (0, 128), (0, 1)):
        yield coded(scaled, block, gemm(2, 1, 1, 0, 1) | {"TALL": tall})
        yield coded(scaled, block, gemm(1, 6, 1, 1, 1) | {"TALL": tall})
        yield coded(scaled, block, gemm(1, 0, 0, 1, 0) | {"TALL": tall})
        yield coded(scaled, block, gemm(2, 3, 0, 0, 0, dense=1) | {"TALL": tall})


def rule(**kwargs):
    """A router's rule; the plain one where nothing else is said."""
    groups = dict(CUT_VALUE="-INFINITY") if kwargs.get("NUM_GROUPS") else {}
    return {**dict(SCORING=0, AFTER_TOPK=0, RENORMALIZE=0, CORRECTION=0, NUM_GROUPS=0, TOPK_GROUP=0,
                   GROUP_SCORE=0, SECOND_CHOICE=0, TOPK_LOCAL=256), **groups, **kwargs}


RULES = [rule(), rule(RENORMALIZE=1, TOPK_LOCAL=1024),
         rule(SCORING=1, CORRECTION=1, RENORMALIZE=1, NUM_GROUPS=8, TOPK_GROUP=4, GROUP_SCORE=1,
              SCALE="2.5f", TOPK_LOCAL=1024),
         rule(NUM_GROUPS=3, TOPK_GROUP=1, SECOND_CHOICE=1),
         rule(SCORING=1, CORRECTION=1, NUM_GROUPS=8, TOPK_GROUP=4, GROUP_SCORE=1, CUT_VALUE="0.0f",
              EPSILON="0x1p-66f", MINIMUM="0x1p-40f"),
         rule(SCORING=2, RENORMALIZE=1), rule(SCORING=3, MIXER_LIMIT="0.02f"),
         rule(CORRECTION=1), rule(AFTER_TOPK=1, SECOND_CHOICE=1, RENORMALIZE=1),
         rule(SECOND_CHOICE=2, RENORMALIZE=1)]

# The same behind logits, of both types.
ROUTES = [{**rules, "TOPK_LOCAL": 512, "DTYPE": 1 + i % 2, "HAS_BIAS": i // 2 % 2}
          for i, rules in enumerate(RULES)]


def attention(dtype, head_dim, group, causal, sinks, row_tiles=2):
    return dict(DTYPE=dtype, ROWS=dtype, OUTPUT=dtype, HEAD_DIM=head_dim, GROUP=group, CAUSAL=causal,
                SINKS=sinks, MAX_DISTANCE=0, KEY_BLOCK=1, VALUE_STRIDE=head_dim, TILE_Q=128, TILE_K=32, LOCAL=128,
                ROW_TILES=row_tiles)


def attention_shapes():
    """Every size of heads that has another layout, in each type and with each option."""
    for head_dim, dtype in itertools.product((8, 32, 40, 64, 72, 80, 96, 112, 128), (1, 2)):
        for causal, sinks in itertools.product((0, 1), (0, 1)):
            yield attention(dtype, head_dim, 1 if dtype == 1 else 8, causal, sinks)
            yield attention(dtype, head_dim, 4, causal, sinks, row_tiles=1)


# The shapes of an operation's sources, or of one that has its own: some, and all.
SHAPES = {
    "grouped_gemm/nvidia_quantized.cl": (list(quantized_shapes())[::7], list(quantized_shapes())),
    "grouped_gemm/nvidia_sm90_quantized.cl": (list(quantized_shapes(True))[::7],
                                              list(quantized_shapes(True))),
    "grouped_gemm/nvidia_sm90_w8a8.cl": (list(coded_shapes())[::9], list(coded_shapes())),
    "probe": ([{}], [{}]),
    "peak": ([{}], [{}]),
    "dispatch": ([dict(LOCAL=64, PUT_LOCAL=256, NUMBERS=4096, FLAG_WORDS=32)],) * 2,
    "router": (RULES,) * 2,
    "route": (ROUTES[:4], ROUTES),
    "attention": ([attention(2, 128, 4, 1, 0), attention(2, 128, 1, 1, 0), attention(2, 64, 8, 1, 1),
                   attention(1, 64, 1, 0, 0), attention(1, 80, 3, 1, 0), attention(2, 96, 1, 0, 0),
                   attention(2, 128, 8, 1, 0, row_tiles=1), attention(1, 128, 1, 1, 0, row_tiles=1),
                   attention(2, 64, 8, 1, 1, row_tiles=1)], list(attention_shapes())),
    "grouped_gemm": ([gemm(2, 1, 1, 0, 1), gemm(1, 3, 0, 1, 1), gemm(1, 0, 0, 1, 0),
                      gemm(2, 0, 0, 0, 0, output_f32=1), gemm(0, 1, 1, 0, 1),
                      gemm(2, 1, 1, 0, 0), gemm(2, 6, 1, 1, 1), gemm(2, 1, 1, 0, 0, dense=1),
                      gemm(1, 0, 0, 1, 0, adds_shared=2), gemm(2, 3, 0, 0, 0, dense=1),
                      gemm(2, 0, 0, 0, 0, scatter=1), gemm(1, 0, 0, 1, 0, scatter=1),
                      gemm(0, 0, 0, 1, 0, scatter=1)], list(gemm_shapes())),
}


def expand(root, name, seen=None):
    """The source with its includes put in, each once, as the library does."""
    seen = set() if seen is None else seen
    if name in seen:
        return ""
    seen.add(name)
    lines = []
    for line in (root / name).read_text().splitlines():
        found = re.match(r'\s*#include "(.+)"', line)
        lines.append(expand(root, found[1], seen) if found else line)
    return "\n".join(lines)


def sources(root):
    """Names and texts of all that hold inline PTX."""
    for path in sorted(root.glob("*/*.cl")):
        name = str(path.relative_to(root))
        text = expand(root, name)
        if re.search(r"\basm\b", text):
            yield name, text


def to_ptx(source, folder):
    (folder / "kernel.cl").write_text(source)
    command = ["clang", "-cl-std=CL1.2", "-Xclang", "-finclude-default-header",
               "--target=nvptx64-nvidia-nvcl", "-Xclang", "-target-feature", "-Xclang", "+ptx72",
               "-Xclang", "-target-cpu", "-Xclang", "sm_80", "-Dasm=__asm__", "-w", "-O3",
               "-Xclang", "-cl-ext=+cl_khr_fp16,+cl_khr_fp64", "-S",
               "-o", str(folder / "kernel.ptx"), "-x", "cl", str(folder / "kernel.cl")]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError("clang:\n" + done.stderr[:3000])
    return (folder / "kernel.ptx").read_text()


DECLARED = re.compile(r"^\.func\s*(\([^)]*\))?\s*(\w+)\s*\(([^)]*)\)\s*;", re.M)
SIZED = re.compile(r"reqd_work_group_size\((\w+), *1, *1\)\)\) void\s+(\w+)")


def give_bodies(ptx):
    """clang declares the OpenCL built-ins it calls; ptxas wants them defined.
    The bodies compute nothing, from values that the assembler cannot know."""

    def body(found):
        result, name, params = found[1] or "", found[2], found[3]
        if "barrier" in name:
            return f".func {name}({params}) {{ bar.sync 0; ret; }}"
        code = ""
        width = re.search(r"\.param \.b(\d+) (\w+)", result)
        if width:
            source = "%clock64" if width[1] == "64" else "%clock"
            code = (f".reg .b{width[1]} x; mov.b{width[1]} x, {source}; "
                    f"st.param.b{width[1]} [{width[2]}], x; ")
        return f".func {result} {name}({params}) {{ {code}ret; }}"

    return DECLARED.sub(body, ptx)


def value_of(macro, source):
    """What a macro is at the end of a source, which may define it more than once."""
    values = set(re.findall(rf"#define {macro} (\d+)", source))
    if len(values) < 2:
        return values.pop() if values else macro
    done = subprocess.run(["clang", "-E", "-P", "-x", "cl", "-"], input=f"{source}\n{macro}\n",
                          capture_output=True, text=True, check=True)
    return done.stdout.split()[-1]


def give_sizes(ptx, source):
    """clang 14 writes work-group sizes only from metadata of its own."""
    if ".reqntid" in ptx:
        return ptx
    for size, entry in SIZED.findall(source):
        line = f".reqntid {value_of(size, source)}, 1, 1\n"
        ptx = re.sub(rf"(\.entry {entry}\([^)]*\)\n)", rf"\g<1>{line}", ptx)
    return ptx


def retarget(ptx):
    """As lib/ocl/ptx.c: marks off, the first build's lines out, one group a multiprocessor."""
    ptx = "".join(line for line in ptx.splitlines(True) if "//~" not in line)
    return re.sub(r"(\.reqntid [^\n]*)", r"\1\n.minnctapersm 1", ptx.replace("//@", ""))


def assemble(ptx, target, folder):
    """ptxas' report; what it refuses is an error."""
    text = re.sub(r"\.version .*", ".version 8.0", give_bodies(ptx))
    (folder / "kernel.s").write_text(re.sub(r"\.target .*", f".target {target}", text))
    done = subprocess.run(["ptxas", "-v", "-arch=" + target, str(folder / "kernel.s"), "-o",
                           str(folder / "kernel.cubin")], capture_output=True, text=True)
    report = done.stdout + done.stderr
    if done.returncode:
        raise RuntimeError(f"ptxas for {target}:\n{report[:3000]}")
    return report


def check(name, source, shape, folder):
    """What ptxas says of the program that runs; what is wrong is an error."""
    defines = "".join(f"#define {key} {value}\n" for key, value in shape.items())
    ptx = give_sizes(to_ptx(PRELUDE + defines + source, folder), defines + source)
    plain, asked = re.search(r"sm\d+", name), re.search(r"moecl-ptx-target: (\w+)", source)
    report = assemble(ptx, plain[0].replace("sm", "sm_") if plain else PLAIN, folder)
    if asked:
        report = assemble(retarget(ptx), asked[1], folder)
    spilled = [int(count) for count in re.findall(r"(\d+) bytes spill", report)]
    if max(spilled, default=0) > MORE_SPILL_BYTES.get(name, SPILL_BYTES) or "serialized" in report:
        raise RuntimeError("ptxas spills or serializes:\n" + report[:3000])
    return report


# In probe/nvidia_sm90.cl, which has the least of everything: what is wrong,
# what to replace, and with what.
MISTAKES = [
    ("a missing mark", '"//@wgmma.fence', '"wgmma.fence'),
    ("a missing mark of a name", '"//@mov.u32 %0, moecl_probe', '"mov.u32 %0, moecl_probe'),
    ("a mistyped instruction", '"//@fence.proxy.async;', '"//@fence.proxy.asink;'),
    ("too much shared memory", "moecl_probe[10304]", "moecl_probe[262144]"),
    ("a missing target", "moecl-ptx-target: sm_90a", "moecl-ptx-target: sm_90"),
]


def check_mistakes(root, folder):
    """The mistakes that are not found, or that cannot be planted any more."""
    name = "probe/nvidia_sm90.cl"
    source = expand(root, name)
    for mistake, text, wrong in MISTAKES:
        if text not in source:
            yield f"{mistake} cannot be planted: {name} has no {text}"
            continue
        try:
            check(name, source.replace(text, wrong, 1), {}, folder)
            yield f"{mistake} in {name} was not found"
        except RuntimeError:
            pass


def check_all(root, every, verbose, folder):
    """How many programs were checked; what failed."""
    checked, failures = 0, list(check_mistakes(root, folder))
    for name, source in sources(root):
        operation = name.split("/")[0]
        if operation not in SHAPES:
            failures.append(f"{name} holds PTX, but there are no shapes for {operation}")
            continue
        for shape in SHAPES.get(name, SHAPES[operation])[every]:
            if shape.get("WEIGHTS") == 0 and "sm90" not in name:
                continue
            checked += 1
            try:
                report = check(name, source, shape, folder)
            except RuntimeError as error:
                failures.append(f"{name} {shape}: {error}")
                continue
            if verbose:
                print(name, shape)
                print("\n".join(line for line in report.splitlines()
                                if re.search("registers|Compiling|warn", line)))
    return checked, failures


def main(arguments):
    options = {"--all", "-v"} & set(arguments)
    folders = [argument for argument in arguments if argument not in options]
    if len(folders) != 1 or not Path(folders[0]).is_dir():
        print(__doc__)
        return 2
    missing = [tool for tool in ("clang", "ptxas") if not shutil.which(tool)]
    if missing:
        print("SKIP: no " + " and no ".join(missing))
        return SKIP
    with tempfile.TemporaryDirectory() as folder:
        checked, failures = check_all(Path(folders[0]), "--all" in options, "-v" in options,
                                      Path(folder))
    for failure in failures:
        print("FAIL", failure)
    print(f"{checked} programs checked, {len(failures)} failures")
    return 1 if failures or checked == 0 else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
