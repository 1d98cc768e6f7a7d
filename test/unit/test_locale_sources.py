#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""No source of the library calls what depends on the process's locale, except the
one file whose task that is; moectl never sets a locale.

usage: test_locale_sources.py REPOSITORY
"""
import pathlib
import re
import sys

# In lib/: what C's library and Jansson do by the locale.
FORBIDDEN = re.compile(
    r"\b(strto(?:d|f|ld)|atof|v?f?s?scanf|v?s?printf|vsnprintf|v?fprintf|v?asprintf|strfrom[dfl]"
    r"|is(?:alpha|alnum|blank|cntrl|graph|lower|print|punct|space|upper)|to(?:lower|upper)"
    r"|strn?casecmp|strcasestr|strcoll|strxfrm|strerror(?:_r)?|perror|strftime|localeconv"
    r"|setlocale|uselocale|newlocale|mbs?r?towcs?|wcs?r?tombs?"
    r"|json_(?:load|dump|sprintf)\w*)\s*\(")
# %d and %s are the same everywhere; a point is not. A format must be there to be read.
CALL = re.compile(r"\bsnprintf\s*\(")
FLOAT = re.compile(r"%[-+ #0']*(?:\d+|\*)?(?:\.(?:\d+|\*))?[hlLjzt]*[aAeEfFgG]|%'")
OWNERS = {"lib/base/locale.c": None, "lib/model/json.c": {"json_loadb", "json_dumps"}}


def without_comments(text):
    """The same lines and columns, comments blank; strings stay."""
    def blank(match):
        found = match.group(0)
        return found if found[0] == '"' or found[0] == "'" else re.sub(r"[^\n]", " ", found)
    return re.sub(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'|//[^\n]*|/\*.*?\*/', blank, text,
                  flags=re.S)


def without_strings(text):
    return re.sub(r'"(?:\\.|[^"\\\n])*"', lambda m: '"' + " " * (len(m.group(0)) - 2) + '"', text)


def arguments(text, start):
    """The text of a call's arguments, from behind its opening parenthesis."""
    depth = 1
    plain = without_strings(text)
    for at in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(plain[at], 0)
        if depth == 0:
            return text[start:at]
    return text[start:]


def faults(name, text):
    code = without_comments(text)
    for match in FORBIDDEN.finditer(without_strings(code)):
        if match.group(1) not in (OWNERS.get(name) or ()):
            yield match.start(), match.group(1)
    for match in CALL.finditer(without_strings(code)):
        format_ = "".join(re.findall(r'"((?:\\.|[^"\\\n])*)"', arguments(code, match.end())))
        if not format_ or FLOAT.search(format_):
            yield match.start(), f'snprintf with "{format_}"'


def self_test():
    bad = ['snprintf(t, n, "SCALE %af\\n", x);', 'snprintf(t, n, "%d"\n "%.3g", i, x);',
           'snprintf(t, n, format, x);', "y = strtod(t, NULL);", "if (isspace(c)) ;"]
    good = ['snprintf(t, n, "%d 100%%", 1);',
            "/* strtod(x) */", '"strtod("', 'base_format(t, n, "%a", x);', "isdigit(c)"]
    for line in bad:
        assert list(faults("lib/x.c", line)), f"not found: {line}"
    for line in good:
        assert not list(faults("lib/x.c", line)), f"found in vain: {line}"


def main():
    self_test()
    root = pathlib.Path(sys.argv[1])
    found = 0
    sources = sorted(p for p in (root / "lib").rglob("*.[ch]"))
    assert len(sources) > 30, "no sources below " + sys.argv[1]
    for path in sources:
        name = path.relative_to(root).as_posix()
        if name in OWNERS and OWNERS[name] is None:
            continue
        text = path.read_text()
        for at, what in faults(name, text):
            print(f"{name}:{text.count(chr(10), 0, at) + 1}: {what} depends on the locale; "
                  "lib/base/locale.c has what doesn't")
            found += 1
    for path in sorted((root / "bench/moectl").rglob("*.[ch]")):
        if re.search(r"\bsetlocale\s*\(", without_comments(path.read_text())):
            print(f"{path.relative_to(root)}: moectl keeps the \"C\" locale")
            found += 1
    print(f"{len(sources)} sources of the library, {found} faults")
    return 1 if found else 0


sys.exit(main())
