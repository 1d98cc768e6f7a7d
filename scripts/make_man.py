#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""moectl's manual page, made of what `moectl help` prints.

usage: make_man.py MOECTL >moectl.1
"""

import re
import subprocess
import sys

COLUMN = 29  # where help's lists have their second column
# Topics of `moectl help` that are sections, and what they are called. Others follow by name.
HEADINGS = {"experiment": "EXPERIMENT FILES", "environment": "ENVIRONMENT",
            "exit-codes": "EXIT STATUS", "models": "MODEL FOLDERS"}


def printed(moectl, *arguments):
    return subprocess.run([moectl, *arguments], check=True, capture_output=True,
                          encoding="utf-8").stdout


def escape(text):
    for plain, roff in (("\\", r"\e"), ("-", r"\-"), ("`", r"\(ga"), ("^", r"\(ha"), ("~", r"\(ti"),
                        ("'", r"\(aq")):
        text = text.replace(plain, roff)
    return r"\&" + text if text.startswith(".") else text


def pairs(lines):
    """A list of two columns: (left, right), what is right joined to one line."""
    found = []
    for line in filter(None, lines):
        fits = len(line) < COLUMN or line[COLUMN - 1] == " "
        left, right = (line[:COLUMN], line[COLUMN:]) if fits else (line, "")
        if left.strip():
            found.append([left.strip(), right])
        else:
            found[-1][1] = f"{found[-1][1]} {right}".strip()
    return found


def definitions(items):
    for left, right in items:
        yield from (".TP", ".B " + escape(left), escape(right))


def verbatim(text):
    yield ".nf"
    for line in text.rstrip("\n").split("\n"):
        yield escape(line)
    yield ".fi"


def paragraphs(text):
    """The first one follows a heading. An example is one of its own."""
    for i, part in enumerate(re.split(r"\n\n+|\n(?=For example: )", text.strip("\n"))):
        if i:
            yield ".PP"
        yield escape(" ".join(part.split()))


def command_section(moectl, name):
    """What `moectl help NAME` says, without the topic of the same name."""
    text = printed(moectl, "help", name)
    head, _, rest = text.partition("\n")
    about, _, options = rest.partition("\nOptions:\n")
    yield ".SS " + escape(head)
    yield from paragraphs(about)
    yield from definitions(pairs(options.split("\n\n")[0].split("\n")))


def topic_section(moectl, name, commands):
    text = printed(moectl, "help", name)
    if name in commands:  # a command's text and options come first
        text = text.partition("\nOptions:\n")[2].partition("\n\n")[2]
    yield ".SH " + escape(HEADINGS.get(name, name.upper()))
    yield from verbatim(text)


def page(moectl):
    usage, version = printed(moectl, "help"), printed(moectl, "--version").strip()
    title, _, rest = usage.partition("\n\n")
    name, _, what = title.partition(": ")
    commands, about, topics = (part.split("\n") for part in rest.split("\n\n"))
    commands, topics = pairs(commands), pairs(topics)
    names = [left.split()[1] for left, _ in commands]
    yield r".\" Made by scripts/make_man.py of what `moectl help` prints."
    yield f'.TH MOECTL 1 "" "{escape(version)}" "User Commands"'
    yield from (".nh", ".ad l")  # words are typed as they stand
    yield ".SH NAME"
    yield " ".join((name, r"\-", escape(what)))
    yield ".SH SYNOPSIS"
    yield "\n.br\n".join(".B " + escape(left) for left, _ in commands)
    yield ".SH COMMANDS"
    yield from definitions(commands)
    yield ".PP"
    yield from paragraphs(" ".join(about).replace(" Topics of 'moectl help TOPIC':", ""))
    for command in names:
        if command not in ("help", "--version"):
            yield from command_section(moectl, command)
    for topic, _ in topics:
        yield from topic_section(moectl, topic, names)


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    sys.stdout.reconfigure(encoding="utf-8")
    print("\n".join(page(sys.argv[1])))


if __name__ == "__main__":
    main()
