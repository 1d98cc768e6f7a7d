#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Compiles the kernels that hold Intel's matrix instruction for GPUs that are not here.

usage: intel_check.py ROOT [--all] [-v]

Each source is compiled by ocloc, Intel's compiler as a program, for the GPU with its sub-groups.
What does not compile, has no dpas in its loop, or keeps anything in memory that should be in
registers, fails. Checked are some shapes (those of test/emulate), with local memory read in blocks
and without; --all takes every one. The table has the worst of every source and height of tiles:
the loop's dpas, all its instructions, and its messages to memory; -v prints every program. Before
that, mistakes planted in a copy of a source show that they are found. It can't tell whether an
answer is right: test/emulate looks at that.

ocloc is the one that OCLOC names, that on the PATH, or what scripts/check has put below
ROOT/build-drivers. Exit code 77 (skip) where there is none, or none that knows the GPUs.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.dont_write_bytecode = True  # sources stay as they are
sys.path.insert(0, str(HERE.parent / "emulate"))
from emulate import BF16, F16, SILU, expand, shape, shapes  # noqa: E402

SKIP = 77
LOCAL_BYTES = 65536
GPUS = {8: "acm-g10", 16: "pvc"}  # Arc A, Max: Debian 12's ocloc knows no Xe2
# Of reading local memory: options, for the compiler's own headers have to know.
FORMS = {"blocks": "-Dcl_intel_subgroup_local_block_io=1", "lanes": ""}
HEIGHTS = (128, 32, 8)
OTHER_ACTIVATIONS = (2, 4, 5, 6, 7, 8)
MESSAGE = re.compile(r"\b(load|store|send|sends|sendc)\b")


def find_ocloc(root):
    """The program and its environment, or None."""
    here = root / "build-drivers/ocloc/root/usr/bin/ocloc"
    found = os.environ.get("OCLOC") or shutil.which("ocloc") or (str(here) if here.exists() else "")
    if not found:
        return None
    libraries = [str(path.parent) for path in Path(found).parents[1].glob("lib/*/libocloc.so*")]
    path = ":".join(libraries[:1] + [os.environ.get("LD_LIBRARY_PATH", "")])
    return found, {**os.environ, "LD_LIBRARY_PATH": path, "IGC_ShaderDumpEnable": "1"}


class Compiler:
    def __init__(self, ocloc, folder):
        self.program, self.environment = ocloc
        self.folder = folder

    def knows(self, gpu):
        (self.folder / "empty.cl").write_text("__kernel void nothing(void) {}\n")
        return self.call(gpu, "empty.cl", "", self.folder / "empty")[0] == 0

    def call(self, gpu, source, options, dumps):
        """Binaries are zebin: sections that this file can read."""
        done = subprocess.run(
            [self.program, "compile", "-file", source, "-device", gpu, "--format", "zebin",
             "-options", "-cl-std=CL1.2 -w " + options, "-output", "program", "-output_no_suffix"],
            cwd=self.folder, env={**self.environment, "IGC_DumpToCustomDir": str(dumps)},
            capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def compile(self, gpu, source, defines, options):
        """(kernel, assembler's text) of what is run, and the binary's description of the kernels."""
        dumps = self.folder / "dumps"
        shutil.rmtree(dumps, ignore_errors=True)
        dumps.mkdir()
        (self.folder / "program").unlink(missing_ok=True)
        (self.folder / "kernel.cl").write_text(
            "".join(f"#define {key} {value}\n" for key, value in defines.items()) + source)
        code, text = self.call(gpu, "kernel.cl", options, dumps)
        if code or not (self.folder / "program").exists():
            raise RuntimeError(f"ocloc for {gpu}:\n{text[:3000]}")
        binary = (self.folder / "program").read_bytes()
        info = binary[binary.index(b"---\nversion:"):]
        return sorted(dumps.glob("*.asm")), info[:info.index(b"\n...")].decode()


def of_kernel(info, name):
    """What the binary says of a kernel."""
    kernels = info[:info.find("\nkernels_misc_info:")] if "\nkernels_misc_info:" in info else info
    for entry in re.split(r"^  - name: +", kernels, flags=re.M)[1:]:
        if entry.split("\n")[0].strip() == name:
            return entry
    raise RuntimeError(f"there is no kernel {name} in the binary")


def innermost_loop(lines):
    """The shortest part of the code that ends in a jump back and holds a dpas; [] where none is."""
    labels, loops = {}, []
    for at, line in enumerate(lines):
        label = re.match(r"(\w+):", line)
        if label:
            labels[label[1]] = at
        elif re.search(r"\b(jmpi|while|goto)\b", line):
            starts = [labels[word] for word in re.findall(r"\b_?[A-Z0-9]\w*", line) if word in labels]
            loops += [lines[start:at + 1] for start in starts]
    return min((loop for loop in loops if count(loop, r"\bdpas")), key=len, default=[])


def count(lines, pattern):
    return sum(bool(re.search(pattern, line)) for line in lines)


def instructions(text):
    code = text[text.index("\n\n", text.rindex("\n//.declare")):] if "//.declare" in text else text
    lines = [line.split("//")[0].rstrip() for line in code.splitlines()]
    return [line for line in lines if line.strip()]


def measure(path, info):
    """The kernel's name, and what there is of it."""
    text = path.read_text()
    name = re.search(r"^//\.kernel (\w+)", text, re.M)[1]
    entry = of_kernel(info, name)
    lines = instructions(text)
    loop = innermost_loop(lines)
    memory = re.search(r"per_thread_memory_buffers:(.*?)(?=^    \w|\Z)", entry, re.M | re.S)
    local = re.search(r"slm_size: +(\d+)", entry)
    spilled = re.search(r"^//\.spill size (\d+)", text, re.M)
    return name, dict(
        dpas=count(loop, r"\bdpas"), all=count(lines, r"\bdpas"),
        loop=sum(not line.endswith(":") for line in loop), messages=count(loop, MESSAGE.pattern),
        memory=memory[1] if memory else "", spilled=int(spilled[1]) if spilled else 0,
        local=int(local[1]) if local else 0,
        registers=int(re.search(r"grf_count: +(\d+)", entry)[1]))


def complaint(name, seen, grouped):
    """What is wrong with a kernel, or None. The probe has arrays, which may be in memory."""
    if grouped and (seen["memory"] or seen["spilled"]):
        sizes = re.findall(r"size: +(\d+)", seen["memory"])
        return f"{seen['spilled']} bytes spilled, memory of a work-item: {sizes}"
    if seen["local"] > LOCAL_BYTES:
        return f"{seen['local']} bytes of local memory"
    if name in ("gemm", "few_tokens", "multiply_tiles") and not seen["dpas"]:
        return "there is no dpas in its loop"
    if name == "subgroup_matrix" and seen["all"] < 2:
        return "there is not a dpas of each type"
    return None


def check(compiler, gpu, source, defines, options, grouped=True):
    """(name, numbers) of the kernels; what is wrong is an error. Where what was made first spills,
    the compiler makes another, and both are there: the binary's is asked, and both must not."""
    files, info = compiler.compile(gpu, source, defines, options)
    found = [measure(path, info) for path in files]
    for name, seen in found:
        wrong = complaint(name, seen, grouped)
        if wrong:
            raise RuntimeError(f"{name}: {wrong}")
    return found


# What is planted, and a word of what is to be said of it.
MISTAKES = [
    ("a mistyped built-in", "error:",
     "intel_sub_group_bf16_bf16_matrix_mad_k16(a, b, sum);\n#elif",
     "intel_sub_group_bf16_bf16_matrix_mad_k8(a, b, sum);\n#elif"),
    ("another sub-group's operand", "error:", "typedef short8 rows_t;", "typedef short16 rows_t;"),
    ("sums in memory", "memory of a work-item: ['4096", "store_sums(sums[0]", "store_sums(sums[(k + rows) % 2]"),
    ("too many sums", "memory of a work-item: ['8192", "  if (token < rows) store_sums",
     "  sums_t more[2] = {sums[1], sums[0]};\n  for (long i = 0; i < k; i++) multiply(i % 2 ? more : "
     "sums, w, tokens[0], lane);\n  sums[0].s0 += more[0].s0;\n  if (token < rows) store_sums"),
    ("too much local memory", "bytes of local memory", "uint tokens[2][", "uint tokens[10]["),
    ("no instruction", "no dpas", "  return intel_sub_group_bf16_bf16_matrix_mad_k16(a, b, sum);",
     "  return sum + a.s0 * b.s0;"),
]


def check_mistakes(compiler, root):
    """The mistakes that are not found, or that cannot be planted any more."""
    source = expand(root / "cl", "grouped_gemm/intel_xmx16.cl")
    for mistake, said, text, wrong in MISTAKES:
        if text not in source:
            yield f"{mistake} cannot be planted: intel_xmx16.cl has no {text}"
            continue
        try:
            check(compiler, GPUS[16], source.replace(text, wrong), shape(BF16, 128, SILU, 1, 1, 1),
                  FORMS["blocks"])
            yield f"{mistake} was not found"
        except RuntimeError as error:
            if said not in str(error):
                yield f"{mistake} was found as something else: {error}"


def programs(root, every):
    """(name, sub-group size, defines, form) of all that are checked."""
    for lanes in GPUS:
        yield "probe/subgroup_matrix.cl", lanes, {"LOCAL": lanes}, "blocks"
    limits = dict(SWIGLU_ALPHA="1.702f", SWIGLU_LIMIT="7.0f")
    chosen = list(shapes(HEIGHTS))
    some = chosen if every else chosen[::7]
    some += [{**shape(F16, height, activation, 1, 1, 1), **limits} for height in HEIGHTS
             for activation in OTHER_ACTIVATIONS if every]
    for path in sorted((root / "cl").glob("*/intel_*.cl")):
        name = str(path.relative_to(root / "cl"))
        grouped = name.startswith("grouped_gemm/")
        for form in FORMS if grouped else ["blocks"]:
            for defines in some if grouped else [{}]:
                yield name, int(re.search(r"\d+", path.stem)[0]), defines, form


COLUMNS = ("dpas", "loop", "messages", "local", "registers")


def row(what, seen):
    return f"{what:<66}" + "".join(f"{seen[column]:>10}" for column in COLUMNS)


def worst(a, b):
    """Of two programs' numbers: the fewest dpas, and the most of all else."""
    return {key: (min if key == "dpas" else max)(a[key], b[key]) for key in a}


def check_all(compiler, root, every, verbose):
    """How many programs were checked; what failed; rows of the table."""
    checked, failures, table = 0, list(check_mistakes(compiler, root)), {}
    for name, lanes, defines, form in programs(root, every):
        checked += 1
        grouped = name.startswith("grouped_gemm/")
        try:
            found = check(compiler, GPUS[lanes], expand(root / "cl", name), defines, FORMS[form],
                          grouped)
        except RuntimeError as error:
            failures.append(f"{name}, {form}, for {GPUS[lanes]} {defines}: {error}")
            continue
        for kernel, seen in found:
            what = f"{name} {kernel} {defines.get('TILE_M', '')} {form} {GPUS[lanes]}"
            table[what] = worst(table.get(what, seen), seen)
            if verbose:
                print(row(f"{kernel} {form} {GPUS[lanes]}", seen), defines, flush=True)
    return checked, failures, table


def main(arguments):
    options = {"--all", "-v"} & set(arguments)
    folders = [argument for argument in arguments if argument not in options]
    if len(folders) != 1 or not (Path(folders[0]) / "cl").is_dir():
        print(__doc__)
        return 2
    root = Path(folders[0]).resolve()
    ocloc = find_ocloc(root)
    if not ocloc:
        print("SKIP: no ocloc (Debian: intel-opencl-icd; scripts/check fetches it)")
        return SKIP
    with tempfile.TemporaryDirectory() as folder:
        compiler = Compiler(ocloc, Path(folder))
        unknown = [gpu for gpu in GPUS.values() if not compiler.knows(gpu)]
        if unknown:
            print(f"SKIP: {ocloc[0]} does not compile for {', '.join(unknown)}")
            return SKIP
        checked, failures, table = check_all(compiler, root, "--all" in options, "-v" in options)
    print(f"{'kernel, rows of a tile, local memory by, GPU':<66}" +
          "".join(f"{name:>10}" for name in COLUMNS))
    for what, seen in table.items():
        if " pack " not in what and "Symbol_Table" not in what:
            print(row(what, seen))
    for failure in failures:
        print("FAIL", failure)
    print(f"{checked} programs checked, {len(failures)} failures")
    return 1 if failures or checked == 0 else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
