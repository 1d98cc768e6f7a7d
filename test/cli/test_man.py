# SPDX-License-Identifier: MIT
"""moectl.1 has every command, option and topic of `moectl help`, and formatters find no
fault with it.

usage: test_man.py MOECTL MOECTL.1
"""

import os
import re
import shutil
import subprocess
import sys


def run(*command):
    return subprocess.run(command, capture_output=True, encoding="utf-8",
                          env=dict(os.environ, LC_ALL="C.UTF-8"))


def words(text):
    return re.sub(r"\s+", " ", text)


def section(page, heading):
    """From a heading of .SH or .SS to the next one."""
    match = re.search(rf"^\.S[HS] {re.escape(heading)}.*?(?=^\.S[HS] |\Z)", page, re.M | re.S)
    assert match, f"no section {heading}"
    return match[0]


def plain(page):
    """Roff's escapes taken back."""
    for roff, text in ((r"\&", ""), (r"\-", "-"), (r"\(ga", "`"), (r"\(ha", "^"), (r"\(ti", "~"),
                       (r"\(aq", "'"), (r"\e", "\\")):
        page = page.replace(roff, text)
    return page


def check_commands(moectl, page):
    usage = run(moectl, "help").stdout
    names = re.findall(r"^  moectl ([a-z]+)", usage, re.M)
    assert len(names) >= 8, names
    for name in names:
        assert f"\n.B moectl {name}" in section(page, "SYNOPSIS"), name
        if name == "help":
            continue
        text = section(page, f"moectl {name}")
        told = run(moectl, "help", name).stdout
        options = re.findall(r"^  (--[a-z-]+)", told, re.M)
        assert "--help" in options, (name, options)
        assert re.findall(r"^\.B (--[a-z-]+)", text, re.M) == options, (name, options)
        about = words(told.split("\n\n")[1].split("\nFor example")[0])
        assert about in words(text), (name, about)
    return names, usage


def check_topics(moectl, page, names, usage):
    topics = re.findall(r"^  ([a-z-]+) ", usage.split("\n\n")[-1], re.M)
    assert "environment" in topics and "exit-codes" in topics, topics
    for topic in topics:
        text = run(moectl, "help", topic).stdout
        for line in text.split("\n")[-8:]:
            assert line in page, (topic, line)


def check_formatters(path):
    """Those that are here; returns their names."""
    found = []
    if shutil.which("groff"):
        found.append("groff")
        result = run("groff", "-man", "-Tutf8", "-ww", "-z", path)
        assert result.returncode == 0 and not result.stderr, result.stderr
    if shutil.which("mandoc"):
        found.append("mandoc")
        result = run("mandoc", "-T", "lint", "-W", "error", path)
        assert result.returncode == 0, result.stdout + result.stderr
    return found


def main():
    moectl, path = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        page = plain(file.read())
    assert page.startswith('.\\"') and "\n.SH NAME\nmoectl - " in page, page[:400]
    names, usage = check_commands(moectl, page)
    check_topics(moectl, page, names, usage)
    print(f"{len(names)} commands; formatted by: {', '.join(check_formatters(path)) or 'nothing'}")


if __name__ == "__main__":
    main()
