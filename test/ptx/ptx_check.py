#!/usr/bin/env python3
"""Checks the kernels that hold inline PTX without a GPU.

usage: ptx_check.py CL_FOLDER [-v]

Each source is compiled by clang to PTX for every shape below, taken through
the marks as the library does it (lib/ocl/ptx.c), and assembled by ptxas: a
wrong instruction, a missing mark, spills or too much shared memory fail.
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


def expand(root, name, seen=()):
    """The source with its includes put in, as the library does."""
    lines = []
    for line in (root / name).read_text().splitlines():
        found = re.match(r'\s*#include "(.+)"', line)
        lines.append(expand(root, found[1]) if found else line)
    return "\n".join(lines)


# Built-ins that NVIDIA's compiler turns into instructions; as calls they would
# cost registers that the real program doesn't spend.
PRELUDE = """
static inline size_t special_id(uint d) { uint r; asm volatile("mov.u32 %0, %%tid.x;" : "=r"(r)); return r; }
static inline size_t special_group(uint d) { uint r; asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(r)); return r; }
static inline size_t special_groups(uint d) { uint r; asm volatile("mov.u32 %0, %%nctaid.x;" : "=r"(r)); return r; }
#define get_local_id special_id
#define get_group_id special_group
#define get_num_groups special_groups
#define min(a, b) ((a) < (b) ? (a) : (b))
#define max(a, b) ((a) > (b) ? (a) : (b))
#define clamp(x, low, high) min(max(x, low), high)
#define fma __builtin_fmaf
#define fmax __builtin_fmaxf
"""


def defines(**values):
    return "".join(f"#define {name} {value}\n" for name, value in values.items())


def gemm_cases():
    for dtype, gated, gather, bias, activation in itertools.product((1, 2), (0, 1), (0, 1), (0, 1), (0, 1, 2)):
        if gated and activation == 0:
            continue
        tall = int(dtype == 2 and bias == 0)
        output_f32 = int(not gated and not gather and activation == 0)
        yield dict(DTYPE=dtype, ACTIVATION=activation, GATED=gated, BIAS=bias, GATHER=gather,
                   INPUT_F32=0, OUTPUT_F32=output_f32, TALL=tall)


CASES = {
    "probe/nvidia_sm80.cl": lambda: [{}],
    "probe/nvidia_sm90.cl": lambda: [{}],
    "router/nvidia_sm80.cl": lambda: [dict(RENORMALIZE=0, TOPK_LOCAL=256), dict(RENORMALIZE=1, TOPK_LOCAL=1024)],
    "grouped_gemm/nvidia_sm80.cl": gemm_cases,
    "grouped_gemm/nvidia_sm90.cl": gemm_cases,
}


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


def retarget(ptx, target):
    """As lib/ocl/ptx.c: marks off, target changed, one group a multiprocessor."""
    text = give_bodies(ptx.replace("//@", "") if target else ptx)
    text = re.sub(r"\.version .*", ".version 8.0", text)
    text = re.sub(r"\.target .*", f".target {target or 'sm_90'}", text)
    if target:
        text = re.sub(r"(\.reqntid [^\n]*)", r"\1\n.minnctapersm 1", text)
    return text


def assemble(text, target, folder):
    (folder / "kernel.s").write_text(text)
    command = ["ptxas", "-v", "-arch=" + (target or "sm_90"), str(folder / "kernel.s"), "-o",
               str(folder / "kernel.cubin")]
    done = subprocess.run(command, capture_output=True, text=True)
    report = done.stdout + done.stderr
    if done.returncode:
        raise RuntimeError("ptxas:\n" + report[:3000])
    spilled = [int(bytes) for bytes in re.findall(r"(\d+) bytes spill", report)]
    if max(spilled, default=0) > SPILL_BYTES or "serialized" in report:
        raise RuntimeError("ptxas spills or serializes:\n" + report[:3000])
    return report


def check(root, name, case, folder, verbose):
    source = expand(root, name)
    asked = re.search(r"moecl-ptx-target: (\w+)", source)
    target = asked[1] if asked else None
    ptx = to_ptx(PRELUDE + defines(**case) + source, folder)
    # clang 14 writes the work-group size as .reqntid only from metadata of its own.
    sizes = dict(re.findall(r"reqd_work_group_size\((\w+), *1, *1\)\)\) void\s+(\w+)", source))
    for size, entry in re.findall(r"reqd_work_group_size\((\w+), *1, *1\)\)\) void\s+(\w+)", source):
        value = re.search(r"#define " + size + r" (\d+)", defines(**case) + source)
        ptx = re.sub(r"(\.entry " + entry + r"\([^)]*\)\n)", r"\1.reqntid " + (value[1] if value else size) + ", 1, 1\n", ptx)
    report = assemble(retarget(ptx, target), target, folder)
    if verbose:
        print(name, case)
        print("\n".join(line for line in report.splitlines() if "registers" in line or "Compiling" in line or "warn" in line))


def main(arguments):
    root, verbose = Path(arguments[0]), "-v" in arguments
    missing = [tool for tool in ("clang", "ptxas") if not shutil.which(tool)]
    if missing:
        print("SKIP: no " + " and no ".join(missing))
        return SKIP
    failed = checked = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, cases in CASES.items():
            if not (root / name).exists():
                continue
            for case in cases():
                checked += 1
                try:
                    check(root, name, case, Path(folder), verbose)
                except RuntimeError as error:
                    failed += 1
                    print(f"FAIL {name} {case}: {error}")
                    if verbose:
                        return 1
    print(f"{checked} programs checked, {failed} failed")
    return 1 if failed else 0


sys.exit(main(sys.argv[1:]))
