# SPDX-License-Identifier: MIT
"""Kernels that have barriers have one exit: their end.

PoCL 3.1 miscompiles a `return` before or between barriers, even where all
work-items take it. So a kernel that reaches a barrier, itself or through functions
and macros, holds no `return` at all, and a function that does holds none before its
last barrier.

usage: test_barriers.py CL_FOLDER

Sources are read as text, all branches of #if at once.
"""

import pathlib
import re
import sys
import tempfile
import unittest

CL = pathlib.Path(sys.argv.pop(1) if len(sys.argv) > 1 else
                  pathlib.Path(__file__).parents[2] / "cl")

BARRIER = re.compile(r"\b(?:barrier|work_group_\w+|sub_group_\w+)\s*\(")
ASM_BARRIER = re.compile(r"\b(?:bar|barrier)(?:\.cta|\.warp)?\.(?:sync|red|arrive)")
TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/', re.S)
EXIT = re.compile(r"\b(?:return|goto)\b")
STATEMENTS = {"if", "for", "while", "switch", "return", "sizeof"}


def plain(text):
    """Without comments and strings; a string that holds a barrier becomes a call of one.
    Lines stay where they are."""
    def replace(match):
        token = match.group()
        lines = "\n" * token.count("\n")
        if token[0] == '"':
            return (" barrier() " if ASM_BARRIER.search(token) else '""') + lines
        return " " + lines
    return TOKEN.sub(replace, text)


def expand(folder, name, seen):
    """(file, line number, text) of a source and what it includes, in order."""
    if name in seen:
        return
    seen.add(name)
    path = folder / name
    for number, line in enumerate(plain_but_includes(path.read_text()).split("\n"), 1):
        include = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
        if include:
            yield from expand(folder, include.group(1), seen)
        else:
            yield name, number, line


def plain_but_includes(text):
    """Names of includes are strings, too, and have to stay."""
    kept = re.sub(r'(?m)^(\s*#\s*include\s+)"([^"]+)"', r"\1<\2>", text)
    return re.sub(r"(?m)^(\s*#\s*include\s+)<([^>]+)>", r'\1"\2"', plain(kept))


class Source:
    """A source with its includes: macros, functions, and which of them reach a barrier."""

    def __init__(self, folder, name):
        self.macros = {}     # name: bodies
        self.functions = []  # (name, is_kernel, body, index of its first character)
        self.text = ""
        self.places = []     # (index, file, line) of each line of text
        self.read(expand(folder, name, set()))
        self.find_functions(name)
        self.reaching = self.find_reaching()

    def read(self, lines):
        lines = iter(lines)
        for file, number, line in lines:
            if re.match(r"\s*#", line):
                while line.endswith("\\"):
                    line = line[:-1] + next(lines)[2]
                define = re.match(r"\s*#\s*define\s+(\w+)(?:\([^)]*\))?(.*)", line, re.S)
                if define:
                    self.macros.setdefault(define.group(1), []).append(define.group(2))
                line = ""
            self.places.append((len(self.text), file, number))
            self.text += line + "\n"

    def find_functions(self, name):
        depth, head = 0, 0
        for match in re.finditer(r"[{};]", self.text):
            at, what = match.start(), match.group()
            if what == "{":
                if depth == 0:
                    start, declaration = at + 1, self.text[head:at]
                depth += 1
            elif what == "}":
                depth -= 1
                if depth == 0:
                    self.add_function(declaration, start, at)
            if depth == 0:
                head = at + 1
        if depth != 0:
            raise ValueError(f"{name}: braces that do not match: it can't be read as text")

    def add_function(self, declaration, start, end):
        """What stands before the last parenthesis is the name; a struct has none."""
        declaration = declaration.rstrip()
        if not declaration.endswith(")"):
            return
        depth = 0
        for at in range(len(declaration) - 1, -1, -1):
            depth += {")": 1, "(": -1}.get(declaration[at], 0)
            if depth == 0:
                break
        called = re.search(r"(\w+)\s*$", declaration[:at])
        is_kernel = re.search(r"\b(?:__)?kernel\b", declaration) is not None
        self.functions.append((called.group(1), is_kernel, self.text[start:end], start))

    def find_reaching(self):
        bodies = [(name, body) for name, _, body, _ in self.functions]
        bodies += [(name, body) for name, all_of_it in self.macros.items() for body in all_of_it]
        reaching = {name for name, body in bodies if BARRIER.search(body)}
        while True:
            more = {name for name, body in bodies
                    if name not in reaching and reaching & set(re.findall(r"\w+", body))}
            if not more:
                return reaching
            reaching |= more

    def ends(self, body, pattern, names):
        """Ends of what matches the pattern or is one of the names."""
        words = [m for m in re.finditer(r"\w+", body) if m.group() in names]
        return [m.end() for m in pattern.finditer(body)] + [m.end() for m in words]

    def place(self, at):
        file, line = [(file, line) for start, file, line in self.places if start <= at][-1]
        return f"{file}:{line}"

    def exits(self):
        """Macros through which a function is left."""
        return {name for name, bodies in self.macros.items()
                if any(EXIT.search(body) and not is_function(body) for body in bodies)}

    def problems(self):
        exits = self.exits()
        for name, is_kernel, body, start in self.functions:
            barriers = self.ends(body, BARRIER, self.reaching)
            if not barriers:
                continue
            for at in self.ends(body, EXIT, exits):
                if is_kernel:
                    yield f"{self.place(start + at)}: kernel {name} has barriers and returns here"
                elif at < max(barriers):
                    yield f"{self.place(start + at)}: {name} returns here, before a barrier"
        for name, bodies in self.macros.items():
            for body in bodies:
                if name in self.reaching and (is_function(body) or EXIT.search(body)):
                    yield (f"macro {name}: it has barriers, and a function or a return; "
                           f"make it a function")


def is_function(body):
    """Does a macro define a function?"""
    return any(word not in STATEMENTS for word in re.findall(r"(\w+)\s*\([^()]*\)\s*\{", body))


def check(folder):
    """(problems, kernels with barriers) of all sources below a folder."""
    problems, kernels = set(), 0
    for path in sorted([*folder.rglob("*.cl"), *folder.rglob("*.clh")]):
        source = Source(folder, str(path.relative_to(folder)))
        problems |= set(source.problems())
        if path.suffix == ".cl":
            kernels += sum(is_kernel and bool(source.ends(body, BARRIER, source.reaching))
                           for _, is_kernel, body, _ in source.functions)
    return sorted(problems), kernels


KERNEL = "__kernel __attribute__((reqd_work_group_size(64, 1, 1))) void\nk(__global int *p) {\n"
FENCE = "barrier(CLK_LOCAL_MEM_FENCE);\n"


class Sources(unittest.TestCase):
    def test_one_exit(self):
        problems, kernels = check(CL)
        self.assertGreater(kernels, 10)
        self.assertEqual(problems, [], "\n" + "\n".join(problems))


class Mistakes(unittest.TestCase):
    """What is found, and what is none."""

    def problems(self, **files):
        with tempfile.TemporaryDirectory() as name:
            for file, text in files.items():
                pathlib.Path(name, file.replace("_cl", ".cl")).write_text(text)
            return check(pathlib.Path(name))[0]

    def finds(self, place, **files):
        problems = self.problems(**files)
        self.assertTrue(problems and problems[0].startswith(place), problems)

    def test_return_before(self):
        self.finds("a.cl:4:", a_cl=KERNEL + "if (*p)\nreturn;\n" + FENCE + "}\n")

    def test_return_behind(self):
        self.finds("a.cl:4:", a_cl=KERNEL + FENCE + "if (*p) return;\n*p = 1;\n}\n")

    def test_every_branch(self):
        self.finds("a.cl:4:", a_cl=KERNEL + "#if X\nreturn;\n#else\n" + FENCE + "#endif\n}\n")

    def test_through_a_function(self):
        scan = "static void g(void) {\n" + FENCE + "}\nstatic void f(void) { g(); }\n"
        self.finds("a.cl:7:", a_cl=scan + KERNEL + "if (*p) return;\nf();\n}\n")

    def test_in_a_function(self):
        scan = "static int f(int x) {\nif (x) return 1;\n" + FENCE + "return 2;\n}\n"
        self.finds("a.cl:2:", a_cl=scan + KERNEL + "*p = f(*p);\n}\n")

    def test_through_a_macro(self):
        self.finds("a.cl:5:", a_cl="#define WAIT \\\n  " + FENCE + KERNEL + "return;\nWAIT\n}\n")
        self.finds("a.cl:4:", a_cl="#define LEAVE(x) if (x) return\n" + KERNEL + "LEAVE(*p);\n" +
                   FENCE + "}\n")

    def test_in_a_macro(self):
        self.finds("macro F:", a_cl="#define F(NAME) static void NAME(int x) { if (x) barrier(1); }\n")

    def test_in_an_include(self):
        self.finds("b.clh:1:", a_cl='#include "b.clh"\n' + KERNEL + "f(*p);\n}\n",
                   b_clh="static void f(int x) { if (x) return;\n" + FENCE + "}\n")

    def test_in_assembler(self):
        self.finds("a.cl:3:", a_cl=KERNEL + 'if (*p) return;\nasm volatile("bar.sync 1, 128;");\n}\n')

    def test_none(self):
        self.assertEqual(self.problems(
            a_cl="/* return barrier() */\nstatic int f(int x) {\n" + FENCE + "return x;\n}\n" +
            "static int g(int x) { if (x) return 1; return 2; } // barrier()\n" +
            "#define MAX(x) ((x) > 1 ? (x) : 1)\n" +
            KERNEL + "*p = MAX(g(f(*p))); // return\n}\n" +
            "__kernel void free(__global int *p) { if (*p) return; *p = 1; }\n" +
            'static void h(int x) { if (x) return; asm("mbarrier.init.shared.b64 [%0], 1;"); }\n'),
            [])

    def test_braces(self):
        with self.assertRaises(ValueError):
            self.problems(a_cl=KERNEL + "#if X\nif (*p) {\n#else\n{\n#endif\n}\n}\n")


if __name__ == "__main__":
    unittest.main()
