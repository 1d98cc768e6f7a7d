# SPDX-License-Identifier: MIT
"""A peer's results.json: moectl's own with nothing measured yet, filled in.

What the points are, moectl says (`moectl check --json`); no experiment file is read here.
"""

import json
import math
import os
import pathlib
import subprocess
from fractions import Fraction



class Refused(Exception):
    """moectl did not take the experiment, and has said why."""


def points_of(moectl, experiment, settings):
    """(defaults, results): each parameter's default; results.json with unmeasured points."""
    words = [str(moectl), "check", "--json", str(experiment)]
    for setting in settings:
        words += ["--set", setting]
    try:
        ran = subprocess.run(words, capture_output=True, text=True, timeout=120)
    except OSError as error:
        raise Refused(f"{moectl} did not start: {error}") from None
    if ran.returncode != 0:
        raise Refused(ran.stderr.strip() or f"{moectl} check ended with {ran.returncode}")
    found = json.loads(ran.stdout)
    return found["defaults"], found["results"]


def not_default(params, defaults, known):
    """The first parameter, "name is value", that a peer does not know and that is not as if it
    were not there; None: there is none."""
    for name, value in params.items():
        if name not in known and (name not in defaults or value != defaults[name]):
            return f"{name} is {json.dumps(value)}"
    return None


def summarize(samples):
    """As moectl does: p90 is the nearest rank, ceil(0.9 n)."""
    ordered = sorted(samples)
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    return {"median": median, "min": ordered[0], "p90": ordered[(9 * len(ordered) + 9) // 10 - 1]}


def shares(iterations, rounds):
    """How many of the iterations each round has."""
    return [iterations // rounds + (r < iterations % rounds) for r in range(rounds)]


def rounds_planned(measure, num_points, seconds_to_repeat):
    """As moectl plans them: three where a point of a sweep is soon made again."""
    wanted = measure["rounds"] or (3 if num_points > 1 and seconds_to_repeat <= 2 else 1)
    return min(wanted, measure["iterations"])


def capacity_of(params):
    """Assignments that an expert may take; None: no limit."""
    factor = params["capacity_factor"]
    if factor is None:
        return None
    if params["capacity_of_tokens"]:
        share = Fraction(math.ceil(factor * params["num_tokens"]))
    else:  # of 1.1 as it is written, not as doubles have it
        share = Fraction(repr(factor)) * params["num_tokens"] * params["top_k"] / params["num_experts"]
    return max(math.ceil(share), 1, params["min_capacity"])


def is_gated(params):
    return "glu" in params["activation"]


def work_of(params, kept):
    """(floating-point operations, least bytes) of a forward, as bench/cases/cases.c counts them;
    kept: assignments by expert."""
    hidden, tokens = params["hidden_size"], params["num_tokens"]
    matrices = 3 if is_gated(params) else 2
    expert = matrices * hidden * params["intermediate_size"]
    shared = matrices * hidden * (params["shared_intermediate_size"] or 0)
    gate = hidden if params["shared_gate"] else 0
    router = hidden * params["num_experts"]
    flops = 2 * (tokens * router + sum(kept) * expert + tokens * (shared + gate))
    elements = sum(n > 0 for n in kept) * expert + shared + gate + router + 2 * tokens * hidden
    return flops, elements * (4 if params["dtype"] == "fp32" else 2)


def routing_of(params, given, kept):
    """The routing's counts; statistics of logits are not a peer's to tell."""
    mean = sum(given) / len(given)
    spread = math.sqrt(sum((n - mean) ** 2 for n in given) / len(given))
    rows = len(kept) * max(kept)
    return {"tokens_per_expert": given, "tokens_per_expert_after_capacity": kept,
            "capacity": capacity_of(params),
            "dropped_fraction": 1 - sum(kept) / sum(given) if sum(given) else 0.0,
            "load_balancing_loss": None, "router_z_loss": None, "entropy": None,
            "max_mean_imbalance": max(given) / mean if mean else None,
            "coefficient_of_variation": spread / mean if mean else None,
            "padding_waste": 1 - sum(kept) / rows if rows else None, "identity_fraction": 0.0,
            "nonfinite_tokens": 0, "nonfinite_score_tokens": 0, "zero_weight_tokens": 0}


def times(point, stages):
    """All of the point's stages; null where the peer has none of its own."""
    return {stage: stages.get(stage) for stage in point["time_ms"]}


def fail(point, why, status="error"):
    """No time of it remains: a fast wrong answer is no result."""
    point.update(status=status, error=why, iterations=0, rounds=[], rounds_planned=0, host_ms=None,
                 tokens_per_s=None, tflops=None, gbytes_per_s=None)
    point["time_ms"] = times(point, {})


def take_check(point, answer):
    """The peer's answer was compared with the reference."""
    params, counts = point["params"], answer.get("counts")
    point["variants"].update(answer.get("variants", {}))
    point["verify"] = answer.get("verify")
    if counts:
        point["routing"] = routing_of(params, *counts)
    if not point["verify"] or point["verify"]["ok"]:
        point.update(status="ok" if point["verify"] else "ok_unverified", error=None)
        return
    fail(point, answer.get("why") or "the answer is wrong", "verify_failed")


def take_round(point, answer):
    """One round's times: {"iterations", "load_average", "stages": {name: summary}, "host_ms"}."""
    point["rounds"].append({"iterations": answer["iterations"],
                            "load_average": answer["load_average"],
                            "time_ms": times(point, answer["stages"]),
                            "host_ms": answer.get("host_ms")})
    point["rounds_planned"] = answer["planned"]


def middle(values):
    found = [value for value in values if value is not None]
    return summarize(found)["median"] if found else None


def finish(point):
    """Sums the rounds up."""
    if point["error"] or not point["rounds"]:
        if not point["error"]:
            fail(point, "not measured")
        return
    rounds = point["rounds"]
    for stage in point["time_ms"]:
        summaries = [one["time_ms"][stage] for one in rounds if one["time_ms"][stage]]
        if summaries:
            point["time_ms"][stage] = {"median": middle(s["median"] for s in summaries),
                                       "min": min(s["min"] for s in summaries),
                                       "p90": middle(s["p90"] for s in summaries)}
    point["iterations"] = sum(one["iterations"] for one in rounds)
    point["host_ms"] = middle(one["host_ms"] for one in rounds)
    layer, routing = point["time_ms"]["layer"], point["routing"]
    if layer and routing:
        flops, moved = work_of(point["params"], routing["tokens_per_expert_after_capacity"])
        seconds = layer["median"] * 1e-3
        point.update(tokens_per_s=point["params"]["num_tokens"] / seconds,
                     tflops=flops / seconds * 1e-12, gbytes_per_s=moved / seconds * 1e-9)


def say_who(results, about, command):
    """Which system, version and device measured."""
    results["system"] = about["system"]
    results["device"].update(about["device"])
    results["runs"][0]["command"] = command


def write(results, folder):
    """Whole or not at all."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / "results.json.new"
    new.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    os.replace(new, folder / "results.json")
