# SPDX-License-Identifier: MIT
"""moecl's side of the comparison: bench/turns/turns.c, a process that is asked line by line."""

import json
import subprocess
import threading



class NoDevice(Exception):
    """moecl has nothing to run on: no point can be measured."""


class Failed(Exception):
    """It ended, or was late; says why."""


class Ours:
    """The layer of one shape."""

    def __init__(self, options, shape, window, log):
        sizes = f"{shape.hidden}:{shape.intermediate}:{shape.experts}:{shape.top_k}"
        words = [str(options.ours), "--shape", sizes, "--window", str(window),
                 "--device", options.device]
        log.write(f"\n$ {' '.join(words)}\n")
        log.flush()
        self.limit, self.process = options.limit, None
        try:
            self.process = subprocess.Popen(words, text=True, stdin=subprocess.PIPE, stderr=log,
                                            stdout=subprocess.PIPE)
        except OSError as error:
            raise Failed(f"{words[0]} did not start: {error}") from error
        self.about = self.read()
        if "no_device" in self.about:
            raise NoDevice(f"no device matches \"{options.device}\"")

    def read(self):
        timer = threading.Timer(self.limit, self.process.kill)
        timer.start()
        try:
            line = self.process.stdout.readline()
        finally:
            timer.cancel()
        if not line.endswith("\n"):
            raise Failed(f"layer_turns ended, or took over {self.limit:g} s (ours.log)")
        return json.loads(line)

    def ask(self, line):
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except OSError:
            pass  # it has ended, as reading tells
        return self.read()

    def turn(self, what, count, pause):
        return self.ask(f"{what} {count}" + (f" {pause}" if what == "idle" else ""))["ms"]

    def close(self):
        if self.process:
            self.process.kill()
            self.process.wait()
