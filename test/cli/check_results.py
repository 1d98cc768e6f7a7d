#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks a results folder of moectl run, with nothing but Python itself.

usage: check_results.py DIR [--points N] [--dump] [--no-verify]

Checks that results.json has every key, that its numbers make sense and agree
with results.csv, report.md and report.html. With --dump it reads every point's
safetensors file back, computes routing, capacity, statistics and the layer's
output from the dumped inputs and weights (so use tiny shapes), and compares.
Prints one line a problem; exit code 1 if there are any.
"""

import argparse
import csv
import json
import math
import pathlib
import re
import statistics
import struct
import sys

import check_html

PARAMS = (
    "num_tokens hidden_size intermediate_size num_experts num_identity_experts top_k renormalize jitter "
    "capacity_factor min_capacity drop_policy activation dtype distribution seed"
).split()
STAGES = "router permute gate_up down shared combine layer".split()
RATES = "tokens_per_s tflops gbytes_per_s memory_bytes".split()
STATISTICS = (
    "load_balancing_loss router_z_loss entropy max_mean_imbalance coefficient_of_variation "
    "dropped_fraction padding_waste identity_fraction"
).split()
SAFETENSORS_DTYPE = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
TOLERANCE = {"fp32": 1e-5, "fp16": 1e-2, "bf16": 1e-2}
# What moectl calls the biases, each shown with the tensor it belongs to.
BIASES = {
    "router.bias": "router_bias",
    "experts.gate_up_proj_bias": "gate_up_bias",
    "experts.up_proj_bias": "gate_up_bias",
    "experts.down_proj_bias": "down_bias",
}

problems = []


def expect(condition, *message):
    if not condition:
        problems.append(" ".join(str(part) for part in message))
    return bool(condition)


def close(where, found, wanted, tolerance):
    if not isinstance(found, (int, float)):
        return expect(False, f"{where}: expected {wanted:.6g}, found {found}")
    bound = tolerance * max(1.0, abs(wanted))
    return expect(abs(found - wanted) <= bound, f"{where}: expected {wanted:.9g}, found {found:.9g}")


# --- results.json, results.csv, report.md -------------------------------------


def check_times(where, times):
    for stage in STAGES:
        if not expect(stage in times, where, "time_ms has no", stage):
            continue
        summary = times[stage]
        if summary is None:
            expect(stage != "layer", where, "time_ms.layer is null")
            continue
        values = [summary.get(key) for key in ("min", "median", "p90")]
        if expect(all(isinstance(v, (int, float)) for v in values), where, stage, summary):
            expect(0 < values[0] <= values[1] <= values[2], where, stage, "not 0 < min <= median <= p90")


def check_rounds(where, point, iterations):
    """The rounds add up to the point."""
    rounds = point["rounds"]
    expect(len(rounds) == point["rounds_planned"], where, len(rounds), "rounds of", point["rounds_planned"])
    timed = [r["iterations"] for r in rounds]
    expect(sum(timed) == point["iterations"] == iterations, where, "forwards in rounds:", timed)
    expect(max(timed) - min(timed) <= 1, where, "uneven rounds:", timed)
    for stage in STAGES:
        summaries = [r["time_ms"][stage] for r in rounds]
        if None in summaries:
            expect(summaries == [None] * len(rounds) and point["time_ms"][stage] is None, where, stage)
            continue
        wanted = {
            "median": statistics.median(s["median"] for s in summaries),
            "min": min(s["min"] for s in summaries),
            "p90": statistics.median(s["p90"] for s in summaries),
        }
        expect(point["time_ms"][stage] == wanted, where, stage, point["time_ms"][stage], "of rounds", summaries)


def check_routing(where, point):
    params, routing = point["params"], point["routing"]
    for key in STATISTICS:
        expect(isinstance(routing.get(key), (int, float)), where, "routing has no", key)
    before = routing.get("tokens_per_expert", [])
    after = routing.get("tokens_per_expert_after_capacity", [])
    experts, assignments = params["num_experts"], params["num_tokens"] * params["top_k"]
    expect(len(before) == len(after) == experts, where, "not one count an expert")
    expect(sum(before) == assignments, where, f"counts add up to {sum(before)}, not T*K = {assignments}")
    expect(all(b >= a >= 0 for b, a in zip(before, after)), where, "more tokens after capacity than before")
    dropped = 1 - sum(after) / assignments if assignments else 0
    close(f"{where} dropped_fraction", routing.get("dropped_fraction"), dropped, 1e-9)
    if params["capacity_factor"] is None:
        expect(before == after, where, "dropless, but tokens were dropped")


def check_point(where, point, verified, iterations):
    for key in ("rounds", "rounds_planned", "params", "variants", "time_ms", "routing", "verify", *RATES):
        if not expect(key in point, where, "has no", key):
            return
    if not expect(not point.get("error"), where, "failed:", point.get("error")):
        return
    for key in PARAMS:
        expect(key in point["params"], where, "params has no", key)
    expect(point["variants"], where, "names no variants")
    check_times(where, point["time_ms"])
    check_rounds(where, point, iterations)
    for key in RATES:
        expect(isinstance(point[key], (int, float)) and point[key] > 0, where, key, "is", point[key])
    check_routing(where, point)
    if verified:
        verify = point["verify"] or {}
        expect(verify.get("ok") is True, where, "did not verify:", verify)
        if expect("error" in verify and "tolerance" in verify, where, "verify lacks error or tolerance"):
            expect(verify["error"] <= verify["tolerance"], where, "verify:", verify)


def check_csv(folder, points):
    with open(folder / "results.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    if not expect(len(rows) == len(points) + 1, "results.csv has", len(rows), "lines for", len(points), "points"):
        return
    header = rows[0]
    expect(len(set(header)) == len(header), "results.csv: a column twice")
    for key in PARAMS:
        expect(key in header, "results.csv has no column", key)
    for number, (row, point) in enumerate(zip(rows[1:], points)):
        expect(len(row) == len(header), "results.csv row", number, "has", len(row), "cells")
        cells = dict(zip(header, row))
        for key in ("num_tokens", "num_experts", "top_k"):
            expect(cells.get(key) == str(point["params"][key]), "results.csv row", number, key, cells.get(key))


def check_report(folder):
    text = (folder / "report.md").read_text(encoding="utf-8")
    expect(len(text) > 200 and text.startswith("#"), "report.md is not a report")
    for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
        picture = folder / name
        if expect(picture.is_file(), "report.md shows", name, "which is not there"):
            expect(picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n", name, "is not a PNG")
    page = check_html.check((folder / "report.html").read_text(encoding="utf-8"))
    expect(not page.faults, "report.html:", *page.faults)


def check_folder(folder, options):
    expect(not (folder / "results.jsonl").exists(), "results.jsonl is still there")
    for name in ("results.json", "results.csv", "report.md", "report.html"):
        if not expect((folder / name).is_file(), "there is no", name):
            return []
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    for key in ("schema", "kernels", "experiment", "device", "points"):
        expect(key in results, "results.json has no", key)
    expect(any("version" in key for key in results), "results.json names no versions")
    points = results.get("points", [])
    if options.points is not None:
        expect(len(points) == options.points, "expected", options.points, "points, found", len(points))
    iterations = results.get("experiment", {}).get("measure", {}).get("iterations")
    for index, point in enumerate(points):
        check_point(f"points[{index}]:", point, options.verify, iterations)
    if not problems:
        check_csv(folder, points)
        check_report(folder)
    return points


# --- safetensors ----------------------------------------------------------------


def unpack(dtype, data):
    if dtype == "BF16":
        halves = struct.unpack(f"<{len(data) // 2}H", data)
        return struct.unpack(f"<{len(halves)}f", struct.pack(f"<{len(halves)}I", *(h << 16 for h in halves)))
    code, size = {"F32": ("f", 4), "F16": ("e", 2), "I32": ("i", 4), "I64": ("q", 8), "U8": ("B", 1)}[dtype]
    return struct.unpack(f"<{len(data) // size}{code}", data)


def read_safetensors(path):
    """Name -> (dtype, shape, flat values); checks that nothing is left over."""
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + size])
    header.pop("__metadata__", None)
    data, tensors, end = raw[8 + size :], {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, stop = entry["data_offsets"]
        expect(begin == end, path.name, name, "does not follow the tensor before it")
        end = stop
        values = unpack(entry["dtype"], data[begin:stop])
        expect(len(values) == math.prod(entry["shape"]), path.name, name, "has another size than its shape")
        tensors[name] = (entry["dtype"], entry["shape"], values)
    expect(end == len(data), path.name, "has bytes after its last tensor")
    return tensors


def expected_tensors(params):
    """Name -> (dtypes, shape)."""
    tokens, hidden, inner = (params[k] for k in ("num_tokens", "hidden_size", "intermediate_size"))
    experts, top_k = params["num_experts"], params["top_k"]
    computed = experts - params["num_identity_experts"]
    stored = (SAFETENSORS_DTYPE[params["dtype"]],)
    integers, floats = ("I32", "I64"), ("F32",)
    tensors = {
        "hidden_states": (stored, [tokens, hidden]),
        "router.weight": (stored, [experts, hidden]),
        "experts.down_proj": (stored, [computed, hidden, inner]),
        "router_logits": (floats, [tokens, experts]),
        "topk_ids": (integers, [tokens, top_k]),
        "topk_weights": (floats, [tokens, top_k]),
        "kept": (("U8",), [tokens, top_k]),
        "output": (stored, [tokens, hidden]),
    }
    if "glu" in params["activation"]:
        tensors["experts.gate_up_proj"] = (stored, [computed, 2 * inner, hidden])
    else:
        tensors["experts.up_proj"] = (stored, [computed, inner, hidden])
    size = params["shared_intermediate_size"]
    if size:
        gated = "glu" in params["activation"]
        name = "shared.gate_up_proj" if gated else "shared.up_proj"
        tensors[name] = (stored, [2 * size if gated else size, hidden])
        tensors["shared.down_proj"] = (stored, [hidden, size])
    if params["shared_gate"]:
        tensors["shared.gate"] = (stored, [hidden])
    if params["capacity_factor"] is not None and params["drop_policy"] == "prioritized":
        tensors["token_priority"] = (floats, [tokens])
    return tensors


# --- the layer, in plain Python ---------------------------------------------------


def rows_of(tensors, name):
    """A tensor's rows: its last dimension, as lists."""
    _, shape, values = tensors[name]
    width = shape[-1]
    return [values[i : i + width] for i in range(0, len(values), width)]


def dot(a, b):
    return math.fsum(x * y for x, y in zip(a, b))


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def gelu(x):
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


def gelu_tanh(x):
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS = {
    "swiglu": lambda x: x * sigmoid(x),
    "silu": lambda x: x * sigmoid(x),
    "geglu": gelu,
    "gelu": gelu,
    "relu": lambda x: max(x, 0.0),
    "relu2": lambda x: max(x, 0.0) ** 2,
    "gelu_tanh": gelu_tanh,
    "geglu_tanh": gelu_tanh,
}


def softmax(logits):
    top = max(logits)
    powers = [math.exp(x - top) for x in logits]
    total = math.fsum(powers)
    return [p / total for p in powers]


def philox(counter, key):
    """Philox4x32-10 (Salmon et al. 2011)."""
    (a, b, c, d), (k0, k1) = counter, key
    for _ in range(10):
        left, right = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (
            (right >> 32) ^ b ^ k0, right & 0xFFFFFFFF,
            (left >> 32) ^ d ^ k1, left & 0xFFFFFFFF,
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return a, b, c, d


def jittered(x, token, params):
    """A token as the router sees it: four elements take one Philox block."""
    seed = int(params["seed"])  # in quotes above 2^63 - 1
    key = seed & 0xFFFFFFFF, seed >> 32
    words = []
    for block in range((len(x) + 3) // 4):
        words += philox((token & 0xFFFFFFFF, token >> 32, block, 0x4A495454), key)
    return [v * (1 + params["jitter"] * (2 * (w >> 8) / 2**24 - 1)) for v, w in zip(x, words)]


def route(logits, params):
    """Ids and weights of one token; ties go to the lower id."""
    scores = softmax(logits)
    ids = sorted(range(len(scores)), key=lambda e: (-scores[e], e))[: params["top_k"]]
    weights = [scores[e] for e in ids]
    if params["renormalize"]:
        total = max(math.fsum(weights) + (params["renormalize_epsilon"] or 0.0),
                    params["renormalize_minimum"])
        weights = [w / total for w in weights]
    return ids, [w * params["routed_scaling_factor"] for w in weights], scores


def capacity(params):
    if params["capacity_factor"] is None:
        return None
    if params.get("capacity_of_tokens"):
        return max(math.ceil(params["capacity_factor"] * params["num_tokens"]), params["min_capacity"])
    exact = params["capacity_factor"] * params["num_tokens"] * params["top_k"] / params["num_experts"]
    near = round(exact)
    limit = near if abs(exact - near) <= 1e-12 * max(1, exact) else math.ceil(exact)
    return max(limit, params["min_capacity"])


def keep(ids, weights, priority, params):
    """Which assignments survive capacity, [T][K]."""
    limit, count = capacity(params), [0] * params["num_experts"]
    tokens, top_k = range(params["num_tokens"]), range(params["top_k"])
    order = [(t, k) for k in top_k for t in tokens]
    if params["drop_policy"] == "probability":
        order.sort(key=lambda tk: (-weights[tk[0]][tk[1]], tk[0]))
    elif priority is not None:
        order.sort(key=lambda tk: (tk[1], -priority[tk[0]], tk[0]))
    kept = [[0] * params["top_k"] for _ in tokens]
    for t, k in order:
        expert = ids[t][k]
        identity = expert >= params["num_experts"] - params["num_identity_experts"]
        if limit is None or identity or count[expert] < limit:
            count[expert] += 1
            kept[t][k] = 1
    return kept


def bias_rows(tensors, *names):
    for name in names:
        if name in tensors:
            return rows_of(tensors, name)
    return None


def feed_forward(x, expert, tensors, params):
    """One expert's network on one token."""
    inner, hidden = params["intermediate_size"], params["hidden_size"]
    gated = "glu" in params["activation"]
    height = 2 * inner if gated else inner
    first = tensors["first"][expert * height : (expert + 1) * height]
    up = [dot(row, x) for row in first]
    if tensors["first_bias"]:
        up = [a + b for a, b in zip(up, tensors["first_bias"][expert])]
    if params["activation"] == "swiglu_clamped":
        alpha, limit = params["swiglu_alpha"], params["swiglu_limit"]
        cut = [(min(g, limit), max(-limit, min(u, limit))) for g, u in zip(up[:inner], up[inner:])]
        middle = [g * sigmoid(alpha * g) * (u + 1) for g, u in cut]
    elif params["activation"] in ("swiglu_limited", "swiglu_limited_silu"):
        limit = params["swiglu_limit"]
        cut = [min(g, limit) if params["activation"] == "swiglu_limited" else g for g in up[:inner]]
        middle = [min(g * sigmoid(g), limit) * max(-limit, min(u, limit)) for g, u in zip(cut, up[inner:])]
    else:
        act = ACTIVATIONS[params["activation"]]
        middle = [act(g) * u for g, u in zip(up[:inner], up[inner:])] if gated else [act(u) for u in up]
    down = tensors["down"][expert * hidden : (expert + 1) * hidden]
    out = [dot(row, middle) for row in down]
    if tensors["down_bias"]:
        out = [a + b for a, b in zip(out, tensors["down_bias"][expert])]
    return out


def relative_error(found, wanted):
    difference = math.fsum((a - b) ** 2 for a, b in zip(found, wanted))
    size = math.fsum(b * b for b in wanted)
    return math.sqrt(difference / size) if size else math.sqrt(difference)


# --- a dump against all that -------------------------------------------------------


def check_tensors(where, tensors, params):
    wanted, good = expected_tensors(params), True
    for name, (dtypes, shape) in wanted.items():
        if not expect(name in tensors, where, "has no tensor", name):
            good = False
            continue
        dtype, found, _ = tensors[name]
        good &= expect(dtype in dtypes and found == shape,
                       where, name, f"is {dtype} {found}, expected {dtypes[0]} {shape}")
    if good:
        ids = tensors["topk_ids"][2]
        good &= expect(all(0 <= i < params["num_experts"] for i in ids), where, "topk_ids beyond the experts")
    for name in tensors.keys() - wanted.keys():
        expect(name in BIASES, where, "has an unknown tensor", name)
    for name, key in BIASES.items():
        if name in tensors:
            expect(params.get(key, True), where, name, "for a layer without it")
    return good


def check_logits(where, tensors, params):
    """The router's product, its input jittered if asked."""
    bias = bias_rows(tensors, "router.bias")
    weights = rows_of(tensors, "router.weight")
    wanted = []
    for token, x in enumerate(rows_of(tensors, "hidden_states")):
        if params["jitter"]:
            x = jittered(x, token, params)
        row = [dot(x, w) for w in weights]
        wanted += [a + b for a, b in zip(row, bias[0])] if bias else row
    error = relative_error(tensors["router_logits"][2], wanted)
    expect(error <= 1e-5, where, f"router_logits: relative error {error:.2e}")


def check_routes(where, tensors, params):
    """Ids and weights from the dumped logits; kept from the dumped weights."""
    ids, weights = rows_of(tensors, "topk_ids"), rows_of(tensors, "topk_weights")
    for t, logits in enumerate(rows_of(tensors, "router_logits")):
        wanted_ids, wanted_weights, scores = route(logits, params)
        for k, (found, wanted) in enumerate(zip(ids[t], wanted_ids)):
            tie = 0 <= found < len(scores) and abs(scores[found] - scores[wanted]) <= 1e-6 * scores[wanted]
            expect(found == wanted or tie, where, f"token {t}: topk_ids[{k}] is {found}, expected {wanted}")
            close(f"{where} token {t}: topk_weights[{k}]", weights[t][k], wanted_weights[k], 1e-5)
        expect(len(set(ids[t])) == len(ids[t]), where, f"token {t} chose an expert twice")
    kept = [list(row) for row in rows_of(tensors, "kept")]
    priority = tensors["token_priority"][2] if "token_priority" in tensors else None
    for t, logits in enumerate(rows_of(tensors, "router_logits") if priority else ()):
        close(f"{where} token {t}: token_priority", priority[t], max(softmax(logits)), 1e-5)
    expect(kept == keep(ids, weights, priority, params), where, "kept is not what the drop policy says")


def check_output(where, tensors, params):
    ids, weights, kept = (rows_of(tensors, name) for name in ("topk_ids", "topk_weights", "kept"))
    gated = "glu" in params["activation"]
    layer = {
        "first": rows_of(tensors, "experts.gate_up_proj" if gated else "experts.up_proj"),
        "down": rows_of(tensors, "experts.down_proj"),
        "first_bias": bias_rows(tensors, "experts.gate_up_proj_bias", "experts.up_proj_bias"),
        "down_bias": bias_rows(tensors, "experts.down_proj_bias"),
    }
    shared_params = dict(params, intermediate_size=params["shared_intermediate_size"],
                         swiglu_limit=params["shared_swiglu_limit"] or params["swiglu_limit"])
    if params["shared_intermediate_size"]:
        shared = {
            "first": rows_of(tensors, "shared.gate_up_proj" if gated else "shared.up_proj"),
            "down": rows_of(tensors, "shared.down_proj"),
            "first_bias": None,
            "down_bias": None,
        }
    wanted = []
    for t, x in enumerate(rows_of(tensors, "hidden_states")):
        if params["renormalize_after_capacity"]:
            scale = params["routed_scaling_factor"]
            total = math.fsum(w for w, alive in zip(weights[t], kept[t]) if alive)
            weights[t] = [w * scale / max(total, 2**-23 * scale) for w in weights[t]]
        row = [0.0] * params["hidden_size"]
        for expert, weight, alive in zip(ids[t], weights[t], kept[t]):
            if alive and params["weight_on_input"]:
                out = feed_forward([weight * a for a in x], expert, layer, params)
                row = [a + b for a, b in zip(row, out)]
            elif alive and expert >= params["num_experts"] - params["num_identity_experts"]:
                row = [a + weight * b for a, b in zip(row, x)]
            elif alive:
                row = [a + weight * b for a, b in zip(row, feed_forward(x, expert, layer, params))]
        if params["shared_intermediate_size"]:
            gate = sigmoid(dot(tensors["shared.gate"][2], x)) if params["shared_gate"] else 1.0
            out = feed_forward(x, 0, shared, shared_params)
            gate *= params["shared_scaling_factor"]
            row = [a + gate * b for a, b in zip(row, out)]
        wanted += row
    error = relative_error(tensors["output"][2], wanted)
    expect(error <= TOLERANCE[params["dtype"]], where, f"output: relative error {error:.2e}")


def check_statistics(where, tensors, point):
    """The routing statistics by their definitions (moecl/routing.h)."""
    params, routing = point["params"], point["routing"]
    tokens, experts = params["num_tokens"], params["num_experts"]
    before, after = [0] * experts, [0] * experts
    for expert, alive in zip(tensors["topk_ids"][2], tensors["kept"][2]):
        before[expert] += 1
        after[expert] += alive
    expect(routing["tokens_per_expert"] == before, where, "tokens_per_expert disagrees with topk_ids")
    expect(routing["tokens_per_expert_after_capacity"] == after, where,
           "tokens_per_expert_after_capacity disagrees with kept")
    logits = rows_of(tensors, "router_logits")
    scores = [softmax(row) for row in logits]
    mean_scores = [math.fsum(row[e] for row in scores) / tokens for e in range(experts)]
    balance = experts * math.fsum(b / tokens * s for b, s in zip(before, mean_scores))
    computed = experts - params["num_identity_experts"]
    before, after, identities = before[:computed], after[:computed], sum(before[computed:])
    mean = sum(before) / computed
    busiest = max(after)
    wanted = {
        "load_balancing_loss": balance,
        "router_z_loss": math.fsum(
            (max(row) + math.log(math.fsum(math.exp(x - max(row)) for x in row))) ** 2 for row in logits
        ) / tokens,
        "entropy": -math.fsum(s * math.log(s) for row in scores for s in row if s) / tokens,
        "max_mean_imbalance": max(before) / mean if mean else 0,
        "coefficient_of_variation": math.sqrt(math.fsum((b - mean) ** 2 for b in before) / computed) / mean if mean else 0,
        "padding_waste": 1 - sum(after) / (computed * busiest) if busiest else 0,
        "identity_fraction": identities / (tokens * params["top_k"]),
    }
    for key, value in wanted.items():
        close(f"{where} routing.{key}", routing[key], value, 1e-5)


def check_dump(path, point):
    tensors, params = read_safetensors(path), point["params"]
    if not check_tensors(path.name, tensors, params):
        return
    check_logits(path.name, tensors, params)
    check_routes(path.name, tensors, params)
    check_output(path.name, tensors, params)
    check_statistics(path.name, tensors, point)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--points", type=int, help="how many points there must be")
    parser.add_argument("--dump", action="store_true", help="check the dumped tensors too")
    parser.add_argument("--no-verify", dest="verify", action="store_false",
                        help="the run was made with measure.verify: false")
    options = parser.parse_args()
    points = check_folder(options.folder, options)
    if options.dump and not problems:
        dumps = sorted(options.folder.glob("point-*.safetensors"))
        if expect(len(dumps) == len(points), len(dumps), "dumps for", len(points), "points"):
            for path, point in zip(dumps, points):
                check_dump(path, point)
    for problem in problems:
        print(f"{options.folder}: {problem}")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
