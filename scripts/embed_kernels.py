#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes every file below a folder into one C file: embed_kernels.py CL_DIR OUTPUT DEPFILE."""
import os
import sys

SUFFIXES = (".cl", ".clh", ".h")


def find(folder):
    """Kernel files (relative, sorted) and all folders, whose times change when files come or go."""
    files, folders = [], []
    for base, subfolders, names in os.walk(folder):
        subfolders.sort()
        folders.append(base)
        files += [os.path.join(base, n) for n in names if n.endswith(SUFFIXES)]
    return sorted(files), folders


def array(data):
    """Bytes as initialisers: a string literal of this length isn't portable C."""
    lines = [",".join(map(str, data[i:i + 24])) for i in range(0, len(data), 24)]
    return "".join(line + ",\n" for line in lines) + "0"


def main():
    folder, output, depfile = sys.argv[1:]
    files, folders = find(folder)
    rows = []
    with open(output, "w", encoding="utf-8") as out:
        out.write('/* Written by scripts/embed_kernels.py. */\n#include "ocl/program.h"\n\n')
        for i, path in enumerate(files):
            with open(path, "rb") as source:
                data = source.read()
            name = os.path.relpath(path, folder).replace(os.sep, "/")
            out.write(f"static const unsigned char text_{i}[] = {{\n{array(data)}}};\n")
            rows.append(f'  {{"{name}", (const char *)text_{i}, {len(data)}}},\n')
        out.write("\nconst struct ocl_embedded ocl_embedded_sources[] = {\n")
        out.write("".join(rows) + "  {0, 0, 0}};\n")
    with open(depfile, "w", encoding="utf-8") as out:
        escaped = [p.replace(" ", "\\ ") for p in files + folders]
        out.write(f"{os.path.basename(output)}: {' '.join(escaped)}\n")


main()
