#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Times moecl beside other systems on an NVIDIA GPU, point by point, in turns, in one run.

Five published MoE layers at six token counts, bf16, even routing, SwiGLU, softmax over the top k, no
bias. All sides have the same weights, the router's among them, and the same inputs, so that the same
experts are active; PyTorch draws them, and moecl's side (bench/turns) gets them through memory that
both processes map. Every answer, moecl's too, is compared with double precision before it is timed.

A point's turns: in each round every side rests for --rest seconds, then answers, by the wall clock,
single forwards from idle, a burst of forwards back to back, the same by the device's clock, and a
sustained load of --seconds whose second half counts. The order changes, so that everyone comes after
everyone else's load about as often. Peers run eagerly and in CUDA graphs; the --keep fastest take part in the turns.
The two ceilings of the machine, torch.matmul and a large copy, are measured in the same run.
DIR/comparison.md and .json are written after every point; DIR/ours.log and DIR/peers.log hold what
the programs said.

    bench/peers/nvidia.py --ours build/bench/layer_turns --out DIR
    bench/peers/nvidia.py --points mixtral:1,16 olmoe:1024 --peers triton --out DIR
    bench/peers/nvidia.py --packages wheels --peers sglang,vllm,lmdeploy --keep 3 --out DIR

Exit codes: 0 every point of ours ran, 1 some did not, 2 bad usage, or no GPU.
"""

import argparse
import collections
import datetime
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True

import floors  # noqa: E402
from ours import Failed, NoDevice, Ours  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
PEERS = ("grouped_mm", "transformers", "triton", "vllm", "sglang", "lmdeploy", "sonicmoe")
START_LIMIT = 180  # seconds; importing PyTorch on a cold disk
DEATHS = 2  # a peer that ended its process so often is not tried again
TENSORS = ("router", "gate_up", "down")


class Died(Exception):
    """The worker ended, or was late: in the turn of the peer with that entry, where there is one."""

    def __init__(self, entry=None):
        super().__init__()
        self.entry = entry


class Worker:
    """The process that holds PyTorch."""

    def __init__(self, options, window, log):
        words = [options.python, str(HERE / "worker.py"), "--device", options.torch_device,
                 "--window", str(window)]
        if options.packages:
            words += ["--packages", options.packages]
        self.process = subprocess.Popen(words, text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=log)

    def read(self, limit):
        """The next answer, None when there is none within `limit` seconds."""
        timer = threading.Timer(limit, self.process.kill)
        timer.start()
        try:
            line = self.process.stdout.readline()
        finally:
            timer.cancel()
        return json.loads(line) if line.endswith("\n") else None

    def ask(self, request, limit):
        """Yields the answers to a request until it is done."""
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except OSError:
            pass  # it has ended, as reading tells
        while True:
            message = self.read(limit)
            if message is None:
                raise Died
            if message.get("done"):
                return
            yield message

    def close(self):
        self.process.kill()
        self.process.wait()


class Peers:
    """The worker, and the peers still in the race. What it held before it died is drawn again."""

    def __init__(self, options, window, log):
        self.options, self.window, self.log = options, window, log
        self.names = list(options.peers)
        self.deaths = dict.fromkeys(self.names, 0)
        self.dead = {}  # of the point: what is told of them
        self.worker, self.about, self.notes = None, {}, []
        self.held = []  # requests: its shape, its tokens

    def start(self):
        """None, or why there is no worker."""
        self.close()
        try:
            self.worker = Worker(self.options, self.window, self.log)
        except OSError as error:
            return f"{self.options.python} did not start: {error}"
        ready = self.worker.read(START_LIMIT)
        if ready and ready["ready"]:
            self.about = ready
            return None
        self.close()
        return ready["why"] if ready else "PyTorch could not be imported (peers.log)"

    def close(self):
        if self.worker:
            self.worker.close()
        self.worker = None

    def ask(self, request, key=None):
        """The answer's `key`, if there is any answer."""
        found = None
        for message in self.worker.ask(request, self.options.limit):
            found = message.get(key, found)
        return found

    def hold(self, *requests):
        """What the worker is to have: answers the last one's case."""
        self.held, case = list(requests), None
        if not self.worker and self.start():
            raise Died
        for request in requests:
            case = self.ask(request, "case")
        return case

    def contend(self, point):
        """Those that stay for the turns, without the point's dead; goes on after a peer's death."""
        while left := [name for name in self.names if name not in self.dead]:
            running, point["left_out"] = None, list(self.dead.values())
            try:
                if not self.worker:
                    self.hold(*self.held)
                found, stay = [], []
                request = {"contend": left, "keep": self.options.keep}
                for message in self.worker.ask(request, self.options.limit):
                    running = message.get("begin", running)
                    if "result" in message:
                        found.append(message["result"])
                    if "left_out" in message:
                        self.leave_out(message["left_out"], point)
                point["tried"] = found
                return [one for one in found if one["stays"]]
            except Died:
                self.close()
                why = f"its process died or took over {self.options.limit:g} s (peers.log)"
                if running is None:  # drawing weights or the reference: no peer can run
                    point["left_out"] += [{"name": name, "why": why} for name in left]
                    return []
                self.bury(running, {"name": running, "why": why}, point)
        return []

    def leave_out(self, out, point):
        """At this point; for good, and said once, when it isn't installed."""
        if out["name"] in self.names and out["why"].startswith("not installed"):
            self.names.remove(out["name"])
            self.notes.append(f"{out['name']} left out: {out['why']}")
        else:
            point["left_out"].append(out)

    def bury(self, name, out, point):
        """It is not tried again at this point, nor at any after the DEATHS-th."""
        self.dead[name] = out
        point["left_out"] = list(self.dead.values())
        self.deaths[name] += 1
        if self.deaths[name] == DEATHS:
            self.names.remove(name)
            self.notes.append(f"{name} given up: its process died {DEATHS} times")

    def turn(self, entry, what, count, pause):
        try:
            return self.ask({"turn": entry["name"], "what": what, "count": count, "pause": pause}, "ms")
        except Died as death:
            raise Died(entry) from death


# ---- one point ----


def hand_over(peers, ours, shape, window_bytes):
    """All weights, as many items at a time as the window holds."""
    for tensor in TENSORS:
        items, each = floors.items_of(shape, tensor)
        most = max(1, window_bytes // each)
        for first in range(0, items, most):
            count = min(most, items - first)
            peers.ask({"give": tensor, "first": first, "count": count})
            ours.ask(f"weights {tensor} {first} {count}")


def begin_ours(peers, ours, tokens, case):
    """moecl's entry: its answer is right, and the same experts are active."""
    found = ours.ask(f"tokens {tokens} {case['sets']}")
    error = peers.ask({"check": True}, "checked")
    if not error <= floors.TOLERANCE:
        raise Failed(f"wrong answer: relative error {error:.3g} on sampled tokens")
    return {"name": "moecl", "error": error, "active": found["active"],
            "variant": ours.about["variant"]}


def count_of(milliseconds, each, most):
    return int(min(max(milliseconds / max(each, 1e-3), 4), most))


def take_turn(options, turn, each):
    """One side's times in one round; `each` is what a forward takes about."""
    time.sleep(options.rest)
    alone = count_of(50, each + options.pause, 16)
    many = count_of(40, each, 200)
    times = {"idle": turn("idle", alone, options.pause), "burst": turn("burst", many, 0),
             "device": turn("device", many, 0)}
    if options.seconds > 0:
        times["load"] = turn("load", count_of(1e3 * options.seconds, each, 20000), 0)
    return times


def orders(sides, rounds):
    """Each round's order. Next is whoever came least often after the side before: were the order only
    rotated, each side would come after the same one nearly always."""
    after, last = collections.Counter(), None
    for _ in range(rounds):
        order = []
        while len(order) < sides:
            left = [side for side in range(sides) if side not in order]
            side = min(left, key=lambda side: (side == last, after[last, side], side))
            after[last, side] += 1
            order.append(side)
            last = side
        yield order


def take_turns(options, sides):
    """Rounds in changing order; every side's entry gets its times, and their medians."""
    for entry, turn in sides:
        entry["rounds"] = []
        turn("burst", 4, 0)  # what others left in caches, and clocks, is no sample
        entry["about"] = turn("burst", 8, 0)
    for order in orders(len(sides), options.rounds):
        for entry, turn in (sides[side] for side in order):
            entry["rounds"].append(take_turn(options, turn, entry["about"]))
    for entry, _ in sides:
        for what in entry["rounds"][0]:
            entry[what] = floors.median([one[what] for one in entry["rounds"]])


def measure_once(options, peers, ours, shape, tokens, point):
    case = peers.hold({"shape": shape.name}, {"tokens": tokens})
    point["active"] = sum(case["active"]) / len(case["active"])
    mine = begin_ours(peers, ours, tokens, case)
    others = peers.contend(point)
    if not peers.worker:
        peers.hold(*peers.held)
    sides = [(mine, ours.turn)]
    for entry in others:
        sides.append((entry, lambda *a, entry=entry: peers.turn(entry, *a)))
    take_turns(options, sides)
    point["ours"], point["peers"] = mine, others


def measure_point(options, peers, ours, shape, tokens, point):
    """Without a peer that dies in its turn, the others' turns begin anew."""
    peers.dead = {}
    while "burst" not in point["ours"]:
        try:
            measure_once(options, peers, ours, shape, tokens, point)
        except Died as death:
            if not death.entry:
                raise
            peers.close()
            peers.bury(death.entry["of"], {"name": death.entry["name"],
                                           "why": "its process died in the turns (peers.log)"}, point)


# ---- the run ----


def write_files(out, record):
    """Whole files or none: a time limit may end the run at any moment."""
    for name, text in (("comparison.json", json.dumps(record, indent=1) + "\n"),
                       ("comparison.md", floors.markdown(record))):
        path = out / (name + ".new")
        path.write_text(text)
        os.replace(path, out / name)


def say(text):
    print(text, flush=True)


def point_line(point, ceilings):
    where = f"{point['shape']}:{point['tokens']}"
    if "error" in point["ours"] and "burst" not in point["ours"]:
        return f"{where:15} ours: {point['ours']['error']}"
    cells = []
    for what in floors.MEASURES:
        time_of, peer, _, over_floor, over_peer = floors.ratios(point, ceilings, what)
        if time_of:
            cells.append(f"{what} {floors.digits(time_of, None)} ({floors.digits(over_peer)} of "
                         f"{peer['name'] if peer else 'no peer'}, {floors.digits(over_floor)} of the floor)")
    return f"{where:15} " + ", ".join(cells)


def run_shape(options, shape, counts, record, peers, window, log):
    """Its points, with one layer of ours."""
    ours, why = None, None
    try:
        ours = Ours(options, shape, window, log)
        peers.hold({"shape": shape.name})
        hand_over(peers, ours, shape, options.window_bytes)
    except Failed as error:
        why = str(error)
    except Died:
        why = "no weights: PyTorch's process ended (peers.log)"
    for tokens in counts:
        point = {"shape": shape.name, "tokens": tokens, "active": None, "tried": [], "peers": [],
                 "left_out": [], "ours": {"error": why}}
        said = len(peers.notes)
        try:
            if not why:
                measure_point(options, peers, ours, shape, tokens, point)
        except Failed as error:
            point["ours"] = {"error": str(error)}
            why = None if ours.process.poll() is None else str(error)
        except Died:
            peers.close()
            point["ours"] = {"error": "PyTorch's process ended while it drew or checked (peers.log)"}
        record["points"].append(point)
        write_files(options.out, record)
        say(point_line(point, floors.record_ceilings(record)))
        for out in point["left_out"]:
            say(f"{'':15} {out['name']} left out: {out['why']}")
        for note in peers.notes[said:]:
            say(note)
    if ours:
        ours.close()


def begin(options, peers):
    """The record's head: who measures what, and what is missing; None: no PyTorch."""
    why = peers.start()
    if why:
        print(f"nvidia.py: no PyTorch, which draws the weights (--python): {why}", file=sys.stderr)
        return None
    record = {"schema": "moecl-peers-2", "date": datetime.date.today().isoformat(),
              "command": sys.argv, "device": peers.about["device"],
              "versions": peers.about["versions"], "seconds": options.seconds,
              "rounds": options.rounds, "ceilings": None, "notes": peers.notes, "points": []}
    if options.ceilings:
        record["ceilings"] = options.ceilings._asdict()
        record["notes"].append("the ceilings were given by hand, not measured in this run")
        return record
    try:
        record["ceilings"] = peers.ask({"ceilings": True}, "ceilings")
    except Died:
        record["notes"].append("the ceilings could not be measured (peers.log)")
        peers.close()
    return record


def parse(arguments):
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter,
                                     description=__doc__)
    parser.add_argument("--ours", type=pathlib.Path,
                        default=HERE.parents[1] / "build/bench/layer_turns")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the results")
    parser.add_argument("--points", nargs="+", metavar="SHAPE[:TOKENS]", default=[],
                        help=f"of {', '.join(floors.SHAPES)}; default: all thirty")
    parser.add_argument("--peers", default="all",
                        help=f"all, none, or some of {','.join(PEERS)} (default: all)")
    parser.add_argument("--packages", metavar="DIR",
                        help="a folder with unpacked wheels of vllm, sglang or lmdeploy; what of them "
                        "is installed needs none")
    parser.add_argument("--keep", type=int, default=2,
                        help="peers that take part in the turns (default: 2)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.3,
                        help="of each sustained load; 0: none (default: 0.3)")
    parser.add_argument("--rest", type=float, default=0.05,
                        help="seconds before each turn (default: 0.05)")
    parser.add_argument("--pause", type=float, default=2,
                        help="milliseconds before each single forward (default: 2)")
    parser.add_argument("--ceilings", help="TFLOP/s:TB/s, in place of measuring them")
    parser.add_argument("--device", default="gpu", help="moecl's (default: gpu)")
    parser.add_argument("--torch-device", default="cuda",
                        help="PyTorch's; cpu tries the command without a GPU (default: cuda)")
    parser.add_argument("--limit", type=float, default=120,
                        help="seconds that one answer may take (default: 120)")
    parser.add_argument("--python", default=sys.executable, help="the Python that has PyTorch")
    options = parser.parse_args(arguments)
    names = {"all": PEERS, "none": ()}.get(options.peers, options.peers.split(","))
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        parser.error(f"{unknown[0]}: no such peer; there are {', '.join(PEERS)}")
    options.peers = names
    if options.rounds < 1 or options.keep < 1:
        parser.error("--rounds and --keep are 1 or more")
    try:
        points = floors.parse_points(options.points)
        options.ceilings = floors.parse_ceilings(options.ceilings) if options.ceilings else None
    except ValueError as error:
        parser.error(str(error))
    return options, points


def make_window(points):
    """Memory that processes share: a file without a disk, where the system has such."""
    size = max(floors.window_bytes(shape, tokens) for shape, tokens in points)
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    if place and os.statvfs(place).f_bavail * os.statvfs(place).f_frsize < size:
        place = None
    file = tempfile.NamedTemporaryFile(prefix="moecl-window-", dir=place)
    os.truncate(file.name, size)
    return file, size


def measure(options, points, peers, window):
    record = begin(options, peers)
    if not record:
        return 2
    for note in record["notes"]:
        say(note)
    shapes = {}
    for shape, tokens in points:
        shapes.setdefault(shape, []).append(tokens)
    with open(options.out / "ours.log", "w") as log:
        try:
            for shape, counts in shapes.items():
                run_shape(options, shape, counts, record, peers, window, log)
        except NoDevice as error:
            print(f"nvidia.py: {error}\nnvidia.py: nothing was measured; this needs an NVIDIA GPU "
                  "with its OpenCL driver, or another --device", file=sys.stderr)
            return 2
    for line in floors.summary_lines(record):
        say(line[2:])
    say(f"results: {options.out}/comparison.md")
    return int(any("burst" not in point["ours"] for point in record["points"]))


def main(arguments):
    options, points = parse(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    window, options.window_bytes = make_window(points)
    with window, open(options.out / "peers.log", "w") as log:
        peers = Peers(options, window.name, log)
        try:
            return measure(options, points, peers, window.name)
        finally:
            peers.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
