#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Compiles the kernels that hold AMD's matrix instructions for GPUs that are not here.

usage: amd_check.py ROOT [--all] [-v]

Each source is compiled by clang for each GPU, as AMD's run-time compiler, which is clang too, does
it. What does not compile, has no matrix instruction in its loop, keeps registers in memory, or
takes more local memory than there is, fails. Checked are some shapes (those of test/emulate);
--all takes every one. The table printed has the largest number of every source, GPU and height of
tiles; -v prints every program. Before that, mistakes planted in a copy of a source show that they
are found. It can't tell whether an answer is right: test/emulate looks at that.
Exit code 77 (skip) where clang-19 is missing.
"""
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.dont_write_bytecode = True  # sources stay as they are
sys.path.insert(0, str(HERE.parent / "emulate"))
from emulate import BF16, CLANG, F16, SILU, expand, shape, shapes  # noqa: E402

SKIP = 77
LOCAL_BYTES = 65536
MATRIX = re.compile(r"^\s+v_(?:mfma|wmma)_\w+", re.M)
GPUS = {"mfma": ("gfx90a", "gfx942"), "wmma": ("gfx1100", "gfx1151", "gfx1201")}
OTHER_ACTIVATIONS = (2, 4, 5, 6, 7, 8)


def sources(root):
    """(name, GPUs) of all that hold the builtins, or include what does."""
    for path in sorted((root / "cl").glob("*/amd_*.cl")):
        unit = path.stem.split("_")[1]
        yield str(path.relative_to(root / "cl")), GPUS[unit]


def all_shapes(name, every):
    if not name.startswith("grouped_gemm/"):
        return [{}]
    chosen = list(shapes((128, 64, 32)))
    if not every:
        return chosen[::7]
    limits = dict(SWIGLU_ALPHA="1.702f", SWIGLU_LIMIT="7.0f")
    return chosen + [{**shape(BF16, 128, activation, 1, 1, 1), **limits}
                     for activation in OTHER_ACTIVATIONS]


def compile_for(gpu, source, defines, folder):
    """The assembler's text."""
    (folder / "kernel.cl").write_text(
        "".join(f"#define {key} {value}\n" for key, value in defines.items()) +
        (HERE / "amdgcn.clh").read_text() + source)
    done = subprocess.run(
        [CLANG, "-x", "cl", "-cl-std=CL1.2", "-Xclang", "-finclude-default-header",
         "-Xclang", "-fdeclare-opencl-builtins", "-target", "amdgcn-amd-amdhsa", "-mcpu=" + gpu,
         "-nogpulib", "-w", "-O3", "-S", "-o", str(folder / "kernel.s"), str(folder / "kernel.cl")],
        capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError("clang:\n" + done.stderr[:3000])
    return (folder / "kernel.s").read_text()


def in_loops(code):
    """The lines of a kernel's code that LLVM's comments say to be in a loop."""
    lines, inside = [], False
    for line in code.splitlines():
        if re.match(r"(\.LBB\w+:|; %bb)", line):
            inside = "Loop Header" in line or "in Loop" in line
        elif inside or "Loop Header" in line: # a header's comment may have a line of its own
            inside = True
        if inside:
            lines.append(line)
    return "\n".join(lines)


def kernels(text):
    """name: what the assembler's text says of a kernel."""
    code = {found[1]: found[2] for found in
            re.finditer(r"^(\w+):\s*; @\1\n(.*?)^\.Lfunc_end", text, re.M | re.S)}
    occupancy = dict(zip(code, map(int, re.findall(r"^; Occupancy: (\d+)", text, re.M))))
    metadata = text[text.index("amdhsa.kernels:"):text.index("amdhsa.target:")]
    for entry in re.split(r"^  - ", metadata, flags=re.M)[1:]:
        values = dict(re.findall(r"^\s*\.(\w+):\s+(\S+)$", entry, re.M))
        name = values["name"]
        yield name, dict(
            matrix=len(MATRIX.findall(in_loops(code[name]))), all=len(MATRIX.findall(code[name])),
            vgpr=int(values["vgpr_count"]), agpr=int(values.get("agpr_count", 0)),
            sgpr=int(values["sgpr_count"]), local=int(values["group_segment_fixed_size"]),
            scratch=int(values["private_segment_fixed_size"]), waves=occupancy[name],
            spills=int(values["vgpr_spill_count"]) + int(values["sgpr_spill_count"]),
            calls=len(re.findall(r"s_swappc_b64", code[name])))


def complaint(name, seen):
    """What is wrong with a kernel, or None."""
    if seen["scratch"] or seen["spills"]:
        return f"{seen['scratch']} bytes of scratch, {seen['spills']} spills"
    if seen["local"] > LOCAL_BYTES:
        return f"{seen['local']} bytes of local memory"
    if seen["calls"]:
        return "a function is called, that amdgcn.clh may have to say"
    if name in ("gemm", "multiply_tiles") and not seen["matrix"]:
        return "there is no matrix instruction in its loop"
    if name == "matrices" and not seen["all"]:
        return "there is no matrix instruction"
    return None


def check(gpu, source, defines, folder):
    """(name, numbers) of the kernels; what is wrong is an error."""
    found = list(kernels(compile_for(gpu, source, defines, folder)))
    for name, seen in found:
        wrong = complaint(name, seen)
        if wrong:
            raise RuntimeError(f"{name}: {wrong}")
    return found


TILES = "#define STEP_K"
# What is planted, and a word of what is to be said of it.
MISTAKES = [
    ("a mistyped builtin", "error:", "gfx942", "mfma_f32_16x16x16bf16_1k", "mfma_f32_16x16x16bf16_2k"),
    ("another GPU's instruction", "needs target feature", "gfx1100", "mfma_f32_16x16x16bf16_1k",
     "mfma_f32_16x16x16bf16_1k"),
    ("sums in memory", "bytes of scratch", "gfx942", "QUAD_SUMS(sums[j][0], t)",
     "sums[(j + k) % TOKEN_BLOCKS][0]"),
    ("too much local memory", "local memory (", "gfx942", "uint4 tokens[2]", "uint4 tokens[9]"),
    ("no instruction", "no matrix instruction", "gfx942", "#define MATRIX MATRIX_BF16",
     "#define MATRIX(a, b, c) (c + (float)((a).x) * (float)((b).y))"),
]


def check_mistakes(root, folder):
    """The mistakes that are not found, or that cannot be planted any more."""
    source = expand(root / "cl", "grouped_gemm/amd_mfma.cl")
    for mistake, said, gpu, text, wrong in MISTAKES:
        if text not in source:
            yield f"{mistake} cannot be planted: amd_mfma.cl has no {text}"
            continue
        try:
            check(gpu, source.replace(text, wrong), shape(BF16, 128, SILU, 1, 1, 1), folder)
            yield f"{mistake} was not found"
        except RuntimeError as error:
            if said not in str(error):
                yield f"{mistake} was found as something else: {error}"


COLUMNS = ("matrix", "vgpr", "agpr", "sgpr", "local", "waves")


def row(what, seen):
    return f"{what:<44}" + "".join(f"{seen[column]:>8}" for column in COLUMNS)


def worst(a, b):
    """Of two programs' numbers: the fewest instructions and waves, and the most of all else."""
    fewest = {"matrix", "waves"}
    return {key: (min if key in fewest else max)(a[key], b[key]) for key in a}


def check_all(root, every, verbose, folder):
    """How many programs were checked; what failed; rows of the table."""
    checked, failures, table = 0, list(check_mistakes(root, folder)), {}
    for name, gpus in sources(root):
        source = expand(root / "cl", name)
        for gpu in gpus:
            for defines in all_shapes(name, every):
                checked += 1
                try:
                    found = check(gpu, source, defines, folder)
                except RuntimeError as error:
                    failures.append(f"{name} for {gpu} {defines}: {error}")
                    continue
                for kernel, seen in found:
                    what = f"{name} {kernel} {defines.get('TILE_M', '')} {gpu}"
                    table[what] = worst(table.get(what, seen), seen)
                    if verbose:
                        print(row(f"{kernel} {gpu}", seen), defines)
    return checked, failures, table


def main(arguments):
    options = {"--all", "-v"} & set(arguments)
    folders = [argument for argument in arguments if argument not in options]
    if len(folders) != 1 or not (Path(folders[0]) / "cl").is_dir():
        print(__doc__)
        return 2
    if not shutil.which(CLANG):
        print(f"SKIP: no {CLANG} (Debian: {CLANG})")
        return SKIP
    with tempfile.TemporaryDirectory() as folder:
        checked, failures, table = check_all(Path(folders[0]), "--all" in options, "-v" in options,
                                             Path(folder))
    print(f"{'kernel, rows of a tile, GPU':<44}" + "".join(f"{name:>8}" for name in COLUMNS))
    for what, seen in table.items():
        if " pack " not in what:
            print(row(what, seen))
    for failure in failures:
        print("FAIL", failure)
    print(f"{checked} programs checked, {len(failures)} failures")
    return 1 if failures or checked == 0 else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
