# SPDX-License-Identifier: MIT
"""Rooms know those below them and no others: what files include, and what their objects link to.

usage: test_rooms.py REPOSITORY LIBMOECL.A LIBMOECL.SO LIBMOECTL_PARTS.A

Of lib/ and bench/moectl/. moectl, and the shapes it shares with tests, know of the library
what include/ and the shared library give to everybody.
"""

import collections
import pathlib
import re
import shutil
import subprocess
import sys

# A room, and the rooms that it may know. What stands below:
#   base < desc < ocl < kernel < op < plan < layer < block < group;
#   ref and model hang off desc.
CHAIN = ["base", "desc", "ocl", "kernel", "op", "plan", "layer", "block", "group"]
LIB = {room: set(CHAIN[:place]) for place, room in enumerate(CHAIN)}
LIB["ref"] = {"base", "desc"}
LIB["model"] = {"base", "desc"}
LIB["op"] |= {"ref"}  # self-checks
for above in ("layer", "block", "group"):
    LIB[above] |= {"model", "ref"}  # loading
for room in LIB:
    LIB[room] |= {"embedded"}  # the kernels' sources as constants, made by the build

MOECTL = {
    "base": set(),
    "experiment": {"base"},
    "results": {"base", "experiment"},
    "report": {"base", "experiment", "results", "cases"},
    "run": {"base", "experiment", "results", "cases"},
    "model": {"base", "experiment", "results", "run", "cases"},
    "cli": {"base", "experiment", "results", "report", "run", "model"},
    "main": {"cli", "base"},
    "cases": set(),
}

# (FILE, WHAT) of arrows that are known to run the wrong way, each with the reason.
KNOWN = set()

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', re.M)


class Arrows:
    """Those between the rooms of one program."""

    def __init__(self, name, allowed):
        self.name, self.allowed = name, allowed
        self.faults, self.seen = [], collections.Counter()

    def add(self, room, other, where, what):
        """`where`, of `room`, knows `what` of `other`."""
        if room == other or (where, what) in KNOWN:
            return
        self.seen[room, other] += 1
        if room not in self.allowed:
            self.faults.append(f"{where}: {self.name} has no room '{room}'")
        elif other not in self.allowed[room]:
            self.faults.append(f"{where}: '{room}' must not know '{other}', but for {what}")


def includes(files, roots):
    """(file, name, the file that it means or None) of every #include "name"."""
    for path in files:
        for match in INCLUDE.finditer(path.read_text()):
            places = [folder / match[1] for folder in (path.parent, *roots)]
            yield path, match[1], next((p for p in places if p.is_file()), None)


def sources(folder):
    return sorted(path for path in folder.rglob("*.[ch]"))


def below(path, folder):
    """The room of a file below `folder`; 'main' of one that is in none."""
    parts = path.resolve().relative_to(folder.resolve()).parts
    return parts[0] if len(parts) > 1 else pathlib.Path(parts[0]).stem


def is_in(path, folder):
    return folder.resolve() in path.resolve().parents


def check_lib_includes(root, arrows):
    lib, cl, public = root / "lib", root / "cl", root / "include"
    for path, name, meant in includes(sources(lib), (public, lib, cl)):
        where = str(path.relative_to(root))
        if meant is None:
            arrows.faults.append(f'{where}: there is no "{name}"')
        elif is_in(meant, lib):
            arrows.add(below(path, lib), below(meant, lib), where, f'"{name}"')
        elif not is_in(meant, cl) and not is_in(meant, public):
            arrows.faults.append(f'{where}: "{name}" is neither in lib/, cl/ nor include/')
    for path, name, meant in includes(sources(public), (public,)):
        if meant is None or not is_in(meant, public):
            arrows.faults.append(f'{path.relative_to(root)}: "{name}" is not in include/')


def check_moectl_includes(root, arrows):
    moectl, cases, public = root / "bench/moectl", root / "bench/cases", root / "include"
    for path, name, meant in includes(sources(moectl), (moectl, cases, public)):
        where = str(path.relative_to(root))
        if name == "commit.h":  # made by the build
            continue
        if meant is not None and is_in(meant, moectl):
            arrows.add(below(path, moectl), below(meant, moectl), where, f'"{name}"')
        elif meant is not None and is_in(meant, cases):
            arrows.add(below(path, moectl), "cases", where, f'"{name}"')
        elif meant is None or not is_in(meant, public):
            arrows.faults.append(f'{where}: "{name}" is not in include/: moectl is built as '
                                 "anybody's program, so extend the API")
    for path, name, meant in includes([cases / "cases.c", cases / "cases.h"], (cases, public)):
        if meant is None or not (is_in(meant, public) or is_in(meant, cases)):
            arrows.faults.append(f'{path.relative_to(root)}: "{name}" is not in include/')


def symbols(*files):
    """{object: (defined, undefined)} of archives and objects: names that others see."""
    found = collections.defaultdict(lambda: (set(), set()))
    told = subprocess.run(["nm", "-A", "-g", *map(str, files)], capture_output=True, text=True,
                          check=True).stdout
    for line in told.splitlines():
        match = re.match(r"(.+):([0-9a-fA-F]*) +([A-Za-z]) (\S+)$", line)
        if match:
            at = re.split(r"[/:]", match[1])[-1]
            found[at][match[3] in "Uwv"].add(match[4])
    return found


def room_of(name):
    """Of an object's name as meson makes it: op_gemm_gemm.c.o, .._cases_cases.c.o."""
    generated = re.match(r"meson-generated_(?:\.\._)*(\w+)\.c", name)
    return generated[1] if generated else re.sub(r"^(\.\._)+", "", name).split("_")[0].split(".")[0]


def check_links(objects, arrows):
    owner = {}
    for name, (defined, _) in objects.items():
        for symbol in defined:
            owner[symbol] = name
    for name, (_, undefined) in sorted(objects.items()):
        for symbol in sorted(undefined & owner.keys()):
            arrows.add(room_of(name), room_of(owner[symbol]), name, f"{symbol}()")


def check_public(objects, library, shared, arrows):
    told = subprocess.run(["nm", "-D", "--defined-only", str(shared)], capture_output=True,
                          text=True, check=True).stdout
    public = {line.split()[-1].split("@")[0] for line in told.splitlines()}
    hidden = set().union(*(defined for defined, _ in library.values())) - public
    own = set().union(*(defined for defined, _ in objects.values()))
    for name, (_, undefined) in sorted(objects.items()):
        for symbol in sorted(undefined & hidden - own):
            arrows.faults.append(f"{name}: {symbol}() is not in the public API")


def main():
    root = pathlib.Path(sys.argv[1])
    library, shared, parts = map(pathlib.Path, sys.argv[2:5])
    lib, moectl = Arrows("lib", LIB), Arrows("moectl", MOECTL)
    check_lib_includes(root, lib)
    check_moectl_includes(root, moectl)
    if shutil.which("nm"):
        objects = symbols(library)
        check_links(objects, lib)
        door = parts.parent / "moectl.p/main.c.o"
        programs = symbols(parts, *([door] if door.is_file() else []))
        check_links(programs, moectl)
        check_public(programs, objects, shared, moectl)
    faults = lib.faults + moectl.faults
    for fault in faults:
        print(fault)
    print(f"{sum(lib.seen.values())} arrows between rooms of lib, {sum(moectl.seen.values())} of "
          f"moectl, {len(faults)} faults")
    if not lib.seen or not moectl.seen:
        print("nothing was read")
        return 1
    if not faults and not shutil.which("nm"):
        print("nm is missing: what objects link to was not looked at")
        return 77
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
