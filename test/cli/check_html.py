#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Reads report.html strictly: every element is known and closed where it was opened, nothing is
loaded or run, every drawing has its text, every link its end. usage: check_html.py REPORT.html..."""

import html.parser
import pathlib
import re
import sys

VOID = {"meta", "wbr"}
ELEMENTS = VOID | set(
    "html head title style body header main footer nav section h1 h2 h3 p a ul li strong em b i code pre details "
    "summary div span table colgroup thead tbody tr th td figure figcaption svg g path text use defs circle rect "
    "filter feflood fecomposite".split())
VOID |= {"col"}
ELEMENTS |= {"col"}
# Of a run in which at least one point ran.
SECTIONS = ["what-was-run", "findings", "expert-utilization", "time", "where-the-time-goes", "routing-balance",
            "memory", "kernel-variants", "verification", "device", "how-to-repeat"]
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.faults, self.open, self.ids, self.links, self.sections = [], [], [], [], []
        self.policy, self.style, self.titles = None, "", []
        self.rows, self.row = [], None  # of the loads: (before or after, numbers, titles)
        self.drawings = 0
        self.feed(text)
        self.close()
        self.finish()

    def fault(self, *words):
        line, column = self.getpos()
        self.faults.append(f"{line}:{column}: " + " ".join(map(str, words)))

    def handle_starttag(self, tag, attributes):
        self.element(tag, attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        if "svg" not in self.open:
            self.fault(f"<{tag}/> outside of a drawing")
        self.element(tag, attributes)

    def handle_endtag(self, tag):
        if not self.open or self.open[-1] != tag:
            self.fault(f"</{tag}> closes", self.open[-1:])
        else:
            self.open.pop()
        if tag == "tr" and self.row:
            self.rows.append(self.row)
            self.row = None

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            self.style += data
        elif self.open and self.open[-1] == "title":
            self.titles.append(data)
        elif self.row and self.open and self.open[-1] == "td":
            self.row[0].append(data)
        elif not self.open and data.strip():
            self.fault("text outside of everything:", data[:40])

    def handle_comment(self, data):
        self.fault("a comment:", data[:40])

    def handle_pi(self, data):
        self.fault("an instruction:", data[:40])

    def element(self, tag, attributes):
        names = [name for name, _ in attributes]
        values = dict(attributes)
        if tag not in ELEMENTS:
            self.fault(f"<{tag}> is no element of a report")
        if len(set(names)) != len(names):
            self.fault(f"<{tag}>: an attribute twice")
        for name, value in attributes:
            self.attribute(tag, name, value or "")
        if (tag in ("svg", "img") or values.get("role") == "img") and not (values.get("aria-label") or "").strip():
            self.fault(f"<{tag}> has no text")
        if tag == "svg":
            self.drawings += 1
            if values.get("role") != "img":
                self.fault("a drawing's role is", values.get("role"))
        if tag == "meta" and values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values.get("content")
        if tag == "section":
            self.sections.append(values.get("id"))
        if tag == "tr":
            self.row = ([], [])
        if tag == "td" and re.fullmatch("h[0-6]", values.get("class") or "") and self.row:
            self.row[1].append(values.get("title") or "")

    def attribute(self, tag, name, value):
        if name.startswith("on"):
            self.fault(f"<{tag} {name}> runs something")
        if name == "id":
            self.ids.append(value)
        if name in ("href", "xlink:href", "src", "action", "data"):
            if value.startswith("#"):
                self.links.append(value[1:])
            else:
                self.fault(f"<{tag} {name}> leads out:", value)
        if re.search(r"url\(|javascript:", value, re.I):
            self.fault(f"<{tag} {name}>:", value)

    def finish(self):
        if self.open:
            self.fault("not closed:", self.open)
        for name in set(self.ids):
            if self.ids.count(name) > 1:
                self.fault("an id twice:", name)
        for name in set(self.links) - set(self.ids):
            self.fault("a link to nothing:", name)
        if self.policy != POLICY:
            self.fault("the policy is", self.policy)
        if re.search(r"url\(|@import|https?:", self.style):
            self.fault("the style loads something")
        if "prefers-color-scheme:dark" not in self.style or "@media print" not in self.style:
            self.fault("no style for the dark, or for paper")
        if self.style.count("{") != self.style.count("}"):
            self.fault("the style's braces do not match")


def check(text, ran=True):
    """The page, with its .faults."""
    page = Page(text)
    if not text.startswith("<!DOCTYPE html>\n<html lang=\"en\">"):
        page.faults.append("it does not begin as an HTML page does")
    for section in SECTIONS if ran else ["what-was-run", "how-to-repeat"]:
        if section not in page.sections:
            page.faults.append(f"there is no section {section}")
    return page


if __name__ == "__main__":
    bad = 0
    for path in sys.argv[1:]:
        for fault in check(pathlib.Path(path).read_text(encoding="utf-8")).faults:
            print(f"{path}:{fault}")
            bad = 1
    sys.exit(bad)
