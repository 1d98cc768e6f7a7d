#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""moectl run on a terminal: what the line that is redrawn shows in few columns, and
what Ctrl-C does. usage: test_terminal.py path/to/moectl
Exit code 77 (skipped) where there is no OpenCL device."""

import array
import fcntl
import json
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import unittest

MOECTL = os.path.realpath(sys.argv.pop(1))
SWEEP = """\
name: on-a-terminal
layer: {hidden_size: 24, intermediate_size: 20, num_experts: [4, 5, 6, 7], top_k: [1, 2],
        capacity: {capacity_factor: [null, 1.0, 1.5, 2.0]}}
workload: {num_tokens: [16, 17, 18, 19]}
measure: {warmup: 1, iterations: 20}
"""


class Terminal:
    """A program on a pseudo-terminal of so many columns, in a session of its own."""

    def __init__(self, columns, *words):
        self.primary, secondary = pty.openpty()
        fcntl.ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.text = b""
        self.process = subprocess.Popen(
            words, stdin=secondary, stdout=secondary, stderr=secondary, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(secondary, termios.TIOCSCTTY, 0))
        os.close(secondary)

    def read(self, seconds):
        """More of what it says; False at its end."""
        if not select.select([self.primary], [], [], seconds)[0]:
            return True
        try:
            more = os.read(self.primary, 65536)
        except OSError:  # the other side is closed
            return False
        self.text += more
        return bool(more)

    def wait_for(self, pattern):
        while not re.search(pattern, self.text):
            assert self.read(60), (pattern, self.text[-2000:])

    def type(self, text):
        os.write(self.primary, text)

    def finish(self):
        while self.read(60):
            pass
        os.close(self.primary)
        return self.process.wait()


class OnATerminal(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        (self.folder / "a sweep.yaml").write_text(SWEEP)
        self.out = self.folder / "the results"

    def run_on(self, columns, *more):
        return Terminal(columns, MOECTL, "run", str(self.folder / "a sweep.yaml"), "--out",
                        str(self.out), *more)

    def lines(self, terminal):
        """What was drawn, line by line, redrawn ones too."""
        return [part for part in re.split(rb"[\r\n]|\x1b\[K", terminal.text) if part]

    def points(self):
        """Of results.json and the journal."""
        found = {p["index"] for p in json.loads((self.out / "results.json").read_text())["points"]}
        journal = self.out / "results.jsonl"
        for line in journal.read_text().splitlines() if journal.exists() else []:
            try:
                found.add(json.loads(line)["index"])
            except ValueError:  # the last one may have been cut off
                pass
        return len(found)

    def test_columns(self):
        for columns in (60, 25):
            with self.subTest(columns=columns):
                self.out = self.folder / f"columns {columns}"
                terminal = self.run_on(columns, "--set", "layer.num_experts=4")
                code = terminal.finish()
                self.assertEqual(code, 0, terminal.text[-2000:])
                drawn = [line for line in self.lines(terminal)
                         if re.match(rb"\[\d+/32\]|round \d+ of|drawing picture", line)]
                self.assertGreater(len(drawn), 32)
                self.assertLess(max(map(len, drawn)), columns, drawn)
                if columns == 60:
                    # The time left is what is looked for: it is there, whole, at every point
                    # but the first, and at every picture.
                    for line in drawn[1:]:
                        self.assertRegex(line, rb"about \d+ (s|min \d\d s|h \d\d min) left$")
                    self.assertTrue(any(line.startswith(b"drawing picture 2 of") for line in drawn))

    def test_one_interrupt(self):
        terminal = self.run_on(80)
        terminal.wait_for(rb"\[4/128\]")
        terminal.type(b"\x03")
        self.assertEqual(terminal.finish(), 1)
        # It says that it heard before it says how to go on.
        self.assertRegex(terminal.text, rb"(?s)moectl: interrupted: [^\n]* ends, then the results are "
                         rb"written.*moectl: interrupted; go on with: moectl run '[^']*/a sweep"
                         rb"\.yaml' --resume '[^']*/the results'")
        self.assertTrue((self.out / "report.md").exists())
        self.assertGreaterEqual(self.points(), 3)

    def test_two_interrupts(self):
        terminal = self.run_on(80, "--quiet")
        while not (self.out / "results.json").exists() or self.points() < 2:
            terminal.read(0.02)
        terminal.process.send_signal(signal.SIGSTOP)  # both come while it can't answer
        terminal.type(b"\x03")
        terminal.process.send_signal(signal.SIGTERM)
        terminal.process.send_signal(signal.SIGCONT)
        code = terminal.finish()
        self.assertIn(code, (-signal.SIGINT, -signal.SIGTERM), terminal.text)
        self.assertRegex(terminal.text, rb"moectl: ended at once; go on with: moectl run '[^']*/a "
                         rb"sweep\.yaml' --resume '[^']*/the results'")
        self.assertGreaterEqual(self.points(), 2)
        resumed = subprocess.run([MOECTL, "run", str(self.folder / "a sweep.yaml"), "--resume",
                                  str(self.out), "--quiet"], capture_output=True, check=False)
        self.assertEqual(resumed.returncode, 0, resumed.stderr)
        self.assertEqual(self.points(), 128)

    def test_interrupt_while_drawing(self):
        if not shutil.which("gnuplot"):
            self.skipTest("gnuplot is not installed")
        terminal = self.run_on(80, "--set", "layer.num_experts=4", "--set",
                               "workload.num_tokens=16", "--pictures", "all")
        terminal.wait_for(rb"drawing picture 2 of")
        terminal.type(b"\x03")
        self.assertEqual(terminal.finish(), 1)
        self.assertRegex(terminal.text, rb"\d+ of \d+ pictures were drawn before the interrupt")
        self.assertNotIn(b"gnuplot failed", terminal.text)
        self.assertIn(b"go on with: moectl run", terminal.text)
        self.assertTrue((self.out / "report.md").exists())

    def test_interrupt_within_the_table(self):
        """Both streams into one pipe: who reads it sees things in their order."""
        out, end = os.pipe()
        fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, 4096)
        process = subprocess.Popen([MOECTL, "run", str(self.folder / "a sweep.yaml"), "--out",
                                    str(self.out), "--quiet", "--pictures", "none"],
                                   stdout=end, stderr=end)
        os.close(end)
        while array.array("i", fcntl.ioctl(out, termios.FIONREAD, b"\0" * 4))[0] < 4000:
            self.assertIsNone(process.poll())
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)  # the table is more than the pipe takes
        time.sleep(0.3)
        with open(out, "rb") as file:
            lines = file.read().decode().splitlines()
        self.assertEqual(process.wait(), 1)
        self.assertEqual(len(lines), 1 + 128 + 2, lines)
        for line in lines[1:129]:
            self.assertRegex(line, r"^ *\d+ .*e-\d\d$")
        self.assertRegex(lines[129], "^results: ")
        self.assertRegex(lines[130], "^moectl: interrupted; go on with: ")


if __name__ == "__main__":
    if json.loads(subprocess.run([MOECTL, "devices", "--json"], capture_output=True,
                                 check=False).stdout or "[]") == []:
        print("skipped: there is no OpenCL device")
        sys.exit(77)
    unittest.main()
