# SPDX-License-Identifier: MIT
"""llama.cpp's `test-backend-ops perf`: the experts' products of a point (MUL_MAT_ID), where that
program has a case of its sizes.

It times one product at a time, of weights in the point's dtype and inputs in fp32, with evenly
drawn experts; no router, permutation, activation or sum. So gate_up is twice one product (once,
without a gate) and down another, where there are such cases, and the whole layer has no time:
`moectl compare` says so and leaves the point out.
"""

import os
import re
import shutil
import subprocess

import record

TYPES = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
KNOWN = {"seed", "hidden_size", "intermediate_size", "num_experts", "top_k", "activation", "dtype",
         "num_tokens", "distribution", "grouped_gemm_variant", "router_variant", "renormalize",
         "scoring", "score_after_topk", "swiglu_alpha", "swiglu_limit", "weight_format"}
LINE = re.compile(r"MUL_MAT_ID\(([^)]*)\):\s+(\d+) runs\s+-\s+([0-9.]+) us/run")
BACKEND = re.compile(r"^Backend \d+/\d+: (.*)$", re.M)
DESCRIPTION = re.compile(r"Device description: (.*)$", re.M)
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def read(text):
    """[(parameters, runs, milliseconds)] of what the program printed, backend by backend; its
    first backend's name and description."""
    text = COLOURS.sub("", text)
    backends = BACKEND.findall(text) or ["unknown"]
    described = DESCRIPTION.findall(text) or backends
    first = text.split("Backend 2/")[0]
    cases = [(dict(item.split("=", 1) for item in case.split(",") if "=" in item),
              int(runs), float(us) * 1e-3) for case, runs, us in LINE.findall(first)]
    return cases, backends[0].strip(), described[0].strip()


def product(cases, params, rows, columns):
    """(runs, milliseconds) of rows x columns weights times the point's tokens; None: no case."""
    wanted = {"type_a": TYPES.get(params["dtype"]), "type_b": "f32",
              "n_mats": str(params["num_experts"]), "n_used": str(params["top_k"]),
              "m": str(rows), "n": str(params["num_tokens"]), "k": str(columns)}
    for case, runs, ms in cases:
        if all(case.get(key) == value for key, value in wanted.items()):
            return runs, ms
    return None


def stages(cases, params):
    """({stage: milliseconds}, runs) of those that have a case."""
    hidden, inner = params["hidden_size"], params["intermediate_size"]
    found, runs = {}, 0
    for stage, times, rows, columns in (("gate_up", 2 if record.is_gated(params) else 1, inner, hidden),
                                        ("down", 1, hidden, inner)):
        one = product(cases, params, rows, columns)
        if one:
            found[stage], runs = times * one[1], max(runs, one[0])
    return found, runs


def perf(program, params):
    """What the program prints of the point's experts."""
    words = [program, "perf", "-o", "MUL_MAT_ID", "-p",
             f"type_a={TYPES[params['dtype']]},.*n_mats={params['num_experts']},"
             f"n_used={params['top_k']},"]
    ran = subprocess.run(words, capture_output=True, text=True, errors="replace")
    if ran.returncode != 0:
        raise OSError(f"{program} ended with {ran.returncode}: {ran.stderr.strip()[-200:]}")
    return ran.stdout


def load_average():
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def measure(program, index, params, rounds):
    """Yields a point's answers, the first time with who answers."""
    for number in range(rounds):
        load = load_average()
        cases, backend, described = read(perf(program, params))
        if number == 0:
            yield {"about": {"system": {"name": "llama.cpp, test-backend-ops", "version": backend,
                                        "commit": "not recorded"},
                             "device": {"name": described, "platform": "llama.cpp",
                                        "vendor": "", "driver": backend}}}
        found, runs = stages(cases, params)
        if not found:
            yield {"point": index, "unsuitable": "test-backend-ops has no MUL_MAT_ID of these "
                                                 "sizes, experts, tokens and dtype"}
            return
        if number == 0:
            yield {"point": index, "check": {"variants": {"grouped_gemm": "MUL_MAT_ID"}}}
        yield {"point": index, "round": {
            "planned": rounds, "iterations": runs, "load_average": load,
            "stages": {stage: {"median": ms, "min": ms, "p90": ms} for stage, ms in found.items()}}}


def answers(program, defaults, results):
    found = shutil.which(program)
    if not found:
        yield {"missing": f"{program} was not found (llama.cpp built with LLAMA_BUILD_TESTS; --llama)"}
        return
    rounds = results["experiment"]["measure"]["rounds"] or 3
    for index, point in enumerate(results["points"]):
        params = point["params"]
        why = record.not_default(params, defaults, KNOWN)
        if params["distribution"] != "normal":
            why = f"distribution is {params['distribution']}"
        if params["weight_format"] not in ("dtype", params["dtype"]):
            why = f"weight_format is {params['weight_format']}"
        if why:
            yield {"point": index, "unsuitable": why}
            continue
        try:
            yield from measure(found, index, params, rounds)
        except OSError as error:
            yield {"point": index, "error": str(error)}
