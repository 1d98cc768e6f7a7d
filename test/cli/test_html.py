#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""report.html of real runs: with capacity, with a failed point, of more than 24 points, in a folder
whose name is HTML. It is read strictly (check_html.py), its loads are those of results.json, and
with --chromium it is rendered, at the widths of a desk and a phone, light and dark.

usage: test_html.py MOECTL FAILING_CALL.so [--chromium]; exit code 77 (skipped) without an OpenCL
device, or without chromium.
"""

import html
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from check_html import check

SWEEP = """name: sweep
layer: {hidden_size: 32, intermediate_size: 48, num_experts: [4, 8, 40], top_k: [1, 2],
        capacity: {capacity_factor: [0.5, 1.25, null]}}
dtype: [fp32, bf16]
workload: {num_tokens: 64, distribution: skewed}
measure: {warmup: 1, iterations: 3, rounds: 1}
"""
FAILING = """name: failing
layer: {hidden_size: 32, intermediate_size: 24, num_experts: 8, top_k: [1, 2], grouped_gemm_variant: generic,
        capacity: {capacity_factor: 1}}
workload: {num_tokens: [16, 17]}
measure: {warmup: 1, iterations: 6, rounds: 1}
"""
SINGLE = """name: single
layer: {hidden_size: 32, intermediate_size: 24, num_experts: 8, top_k: 2}
workload: {num_tokens: 16}
measure: {warmup: 1, iterations: 2}
"""


def run(moectl, folder, name, text, environment=None):
    """Runs an experiment in a folder with a name that is HTML; the results' folder."""
    place = folder / "<script>alert(1)<script> & \"b\" 'c' `d`"
    place.mkdir(exist_ok=True)
    (place / f"{name}.yaml").write_text(text)
    out = folder / name
    subprocess.run([moectl, "run", place / f"{name}.yaml", "--quiet", "--out", out], check=False,
                   env={**os.environ, **(environment or {})}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return out


def some_failed(moectl, shim, folder):
    """A run of which some points failed and some did not."""
    for calls in range(40, 2000, 40):
        environment = {"LD_PRELOAD": shim, "MOECL_TEST_CALL": "clEnqueueNDRangeKernel", "MOECL_TEST_FROM": str(calls)}
        out = run(moectl, folder, f"failing-{calls}", FAILING, environment)
        if not (out / "results.json").exists():
            continue
        states = {point["status"] for point in json.loads((out / "results.json").read_text())["points"]}
        if states == {"ok", "error"}:
            return out
    raise AssertionError("no run failed in part")


def loads_of(page):
    """The map's rows: what the router gave, and what was kept."""
    given, kept = set(), set()
    for _, titles in page.rows:
        numbers = [re.fullmatch(r"expert (\d+): (\d+) (assignments, \S+ of even|of \d+ kept)", title)
                   for title in titles]
        if not titles:
            continue
        assert all(numbers), titles
        assert [int(number[1]) for number in numbers] == list(range(len(numbers))), titles
        (kept if titles[0].endswith("kept") else given).add(tuple(int(number[2]) for number in numbers))
    return given, kept


def test_page(out):
    text = (out / "report.html").read_text(encoding="utf-8")
    page = check(text)
    assert not page.faults, (out, page.faults)
    points = [point for point in json.loads((out / "results.json").read_text())["points"] if point["status"] == "ok"]
    routing = [point["routing"] for point in points]
    given, kept = loads_of(page)
    assert given == {tuple(one["tokens_per_expert"]) for one in routing}, (out, given)
    assert kept == {tuple(one["tokens_per_expert_after_capacity"]) for one in routing
                    if one["capacity"] is not None}, (out, kept)
    assert "alert(1)" in text
    pictures = shutil.which("gnuplot") is not None
    assert (page.drawings > 0) == pictures, (out, page.drawings)
    assert ("operations a byte, " in text) == pictures, out
    assert len(text) < 2e6, len(text)
    return text


def test_checker(text):
    """What is planted is found."""
    planted = [("&lt;script&gt;", "<script>"), ("</section>", ""), ("</td>", ""), (POLICY_FROM, POLICY_FROM + "*"),
               ("<main>", "<main onload=\"x()\">"), ("<main>", "<main><img src=\"http://example.org/x.png\">"),
               ("<main>", "<main><a href=\"https://example.org\">x</a>"), ("<main>", "<main><p id=\"time\"></p>"),
               ("id=\"memory\"", ""), ("<h1>", "<h1><b>"), ("role=\"img\"", ""), ("aria-label=", "data-label="),
               ("body{", "@import 'x';body{"), ("<main>", "<main style=\"background:url(x)\">"),
               ("<main>", "<main><!-- x -->"), ("<main>", "<main><p>x<p>y</p>")]
    for old, new in planted:
        assert old in text, old
        changed = text.replace(old, new) if "label" in old or "role" in old else text.replace(old, new, 1)
        assert changed != text and check(changed).faults, (old, new)


POLICY_FROM = "default-src 'none'"

# Measures pages in frames: what sticks out, and what can't be read.
HARNESS = """<!DOCTYPE html><meta charset="utf-8"><body>{frames}<script>
const canvas = document.createElement('canvas').getContext('2d', {{willReadFrequently: true}}), known = {{}};
function light(color) {{
  if (color in known) return known[color];
  canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
  const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return known[color] = 0.2126 * r + 0.7152 * g + 0.0722 * b;
}}
function contrast(a, b) {{ const x = light(a), y = light(b); return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05); }}
function measure(frame) {{
  const page = frame.contentDocument, view = frame.contentWindow, root = page.documentElement, faults = [];
  if (!page.querySelector('main')) faults.push('empty');
  for (const open of [false, true]) {{
    for (const details of page.querySelectorAll('details')) details.open = open;
    if (root.scrollWidth > root.clientWidth) faults.push('wider than the screen: ' + root.scrollWidth);
    for (const part of page.body.querySelectorAll('*')) {{
      const box = part.getBoundingClientRect();
      if (box.width && !part.closest('.scroll, svg') && box.right > root.clientWidth + 1)
        faults.push(part.tagName + '.' + part.className + ' sticks out: ' + box.right);
      const words = [...part.childNodes].some(node => node.nodeType == 3 && node.data.trim());
      const style = view.getComputedStyle(part);
      if (!words || parseFloat(style.fontSize) == 0 || part.tagName == 'title') continue;
      let behind = part, paper = 'rgba(0, 0, 0, 0)';
      while (behind && paper == 'rgba(0, 0, 0, 0)') {{ paper = view.getComputedStyle(behind).backgroundColor; behind = behind.parentElement; }}
      const ink = part.tagName == 'text' ? style.fill : style.color, mark = part.closest('.key b');
      if (contrast(ink, paper) < (mark ? 2 : 4.5))
        faults.push(part.tagName + '.' + part.className + ' is hard to read: ' + ink + ' on ' + paper);
    }}
  }}
  return faults;
}}
onload = () => {{
  const found = {{}};
  for (const frame of document.querySelectorAll('iframe'))
    found[frame.id] = [view_dark(frame), ...new Set(measure(frame))];
  document.body.textContent = 'FOUND' + JSON.stringify(found) + 'END';
}};
function view_dark(frame) {{ return frame.contentWindow.matchMedia('(prefers-color-scheme: dark)').matches; }}
</script>"""


def render(chromium, pages, folder, dark):
    frames = "".join(
        f'<iframe id="{name}-{width}" style="width:{width}px;height:900px;border:0" srcdoc="{html.escape(text)}">'
        "</iframe>" for name, text in pages.items() for width in (390, 1280))
    (folder / "harness.html").write_text(HARNESS.format(frames=frames), encoding="utf-8")
    command = [chromium, "--headless", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={folder}/profile",
               f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--virtual-time-budget=20000", "--dump-dom",
               f"file://{folder}/harness.html"]
    if os.geteuid() == 0:
        command.insert(1, "--no-sandbox")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    answer = re.search("FOUND(.*)END", done.stdout)
    assert answer, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(answer[1])), console


def test_rendered(chromium, pages, folder):
    for dark in (False, True):
        found, console = render(chromium, pages, folder, dark)
        assert len(found) == 2 * len(pages), found
        assert not console, console
        for name, (is_dark, *faults) in found.items():
            assert is_dark == dark, name
            assert not faults, (name, dark, faults[:10])
    # What is planted is found.
    page = pages["single"]
    for old, new in (("<main>", "<main><p style=\"width:2000px\">x</p>"), ("<main>", "<main><script>x()</script>"),
                     ("--muted:#57606a", "--muted:#d0d0d0")):
        assert old in page
        found, console = render(chromium, {"planted": page.replace(old, new, 1)}, folder, False)
        assert console or any(len(faults) > 1 for faults in found.values()), new


def main():
    moectl, shim = (str(pathlib.Path(path).resolve()) for path in sys.argv[1:3])
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if "--chromium" in sys.argv and not chromium:
        print("SKIP: chromium is not there (Debian: apt install chromium); report.html was not rendered")
        return 77
    if subprocess.run([moectl, "devices"], capture_output=True, check=False).returncode:
        print("SKIP: no OpenCL device")
        return 77
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        # The device's peaks, and a place of its own for them.
        os.environ["MOECL_CACHE_DIR"] = str(folder / "cache")
        subprocess.run([moectl, "peak"], check=True, stdout=subprocess.DEVNULL)
        outs = [run(moectl, folder, "sweep", SWEEP), run(moectl, folder, "single", SINGLE),
                some_failed(moectl, shim, folder)]
        pages = {out.name: test_page(out) for out in outs}
        assert "id=\"failed-points\"" in pages[outs[2].name]
        if "--chromium" in sys.argv:
            test_rendered(chromium, pages, folder)
        else:
            test_checker(pages["sweep"])
    print("ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
