# SPDX-License-Identifier: MIT
"""Shapes, floors and tables of the peers comparison: pure functions, no torch."""

import json
import math
from typing import NamedTuple


class Shape(NamedTuple):
    name: str
    title: str
    config: str  # in configs/
    settings: tuple  # what --set changes, so that every system computes the same layer
    hidden: int
    intermediate: int
    experts: int
    top_k: int


class Ceilings(NamedTuple):
    tflops: float  # torch.matmul, bf16, 8192 cubed
    tbytes: float  # a device copy, bytes read and written, TB/s


# Every peer computes such a layer; the model's own is another.
PLAIN_EXPERTS = ("layer.gate_up_bias=false", "layer.down_bias=false", "layer.router.router_bias=false",
                 "layer.activation=swiglu", "layer.router.score_after_topk=false",
                 "layer.router.renormalize=true")
PLAIN = ("layer.shared.shared_intermediate_size=null",) + tuple(
    f"layer.router.{rule}" for rule in
    ("scoring=softmax", "correction_bias=false", "groups=null", "topk_groups=null",
     "group_score=max", "scaling_factor=1"))
SHAPES = {
    s.name: s
    for s in (
        Shape("mixtral", "Mixtral-8x7B", "mixtral-8x7b.yaml", (), 4096, 14336, 8, 2),
        Shape("olmoe", "OLMoE-1B-7B", "olmoe-1b-7b.yaml", ("layer.router.renormalize=true",),
              2048, 1024, 64, 8),
        Shape("qwen3", "Qwen3-30B-A3B", "qwen3-30b-a3b.yaml", (), 2048, 768, 128, 8),
        Shape("gpt-oss", "gpt-oss-20b shape, no bias", "gpt-oss-20b.yaml", PLAIN_EXPERTS,
              2880, 2880, 32, 4),
        Shape("deepseek", "DeepSeek-V3 shape", "deepseek-v3.yaml", PLAIN, 7168, 2048, 256, 8),
    )
}
TOKENS = (1, 16, 128, 1024, 4096, 16384)
ELEMENT = 2  # bytes of a bf16


def parse_points(words):
    """[(shape, tokens)] from words like "mixtral:1,16" "olmoe" "qwen3:1,gpt-oss:16".

    A shape alone means its six token counts; a number alone goes on with the
    shape before it. No words: everything. ValueError says what is wrong.
    """
    points = []
    shape = None
    for item in ",".join(words or SHAPES).replace(" ", ",").split(","):
        if not item:
            continue
        name, colon, tokens = item.partition(":")
        if not colon and name.isdigit() and shape:
            name, tokens = shape.name, name
        if name not in SHAPES:
            raise ValueError(f"{item}: no such shape; there are {', '.join(SHAPES)}")
        shape = SHAPES[name]
        if (colon or tokens) and (not tokens.isdigit() or int(tokens) < 1):
            raise ValueError(f"{item}: a number of tokens follows the colon")
        counts = (int(tokens),) if tokens else TOKENS
        points += [(shape, count) for count in counts]
    return list(dict.fromkeys(points))


def expected_active(shape, tokens):
    """How many experts get a token when each token picks top_k of them evenly."""
    return shape.experts * (1 - (1 - shape.top_k / shape.experts) ** tokens)


def layer_flops(shape, tokens):
    """Three matrices an assignment and the router's; a multiply and an add are two."""
    experts = 3 * shape.top_k * shape.hidden * shape.intermediate
    return 2 * tokens * (experts + shape.hidden * shape.experts)


def least_bytes(shape, tokens):
    """Weights of the experts expected to be active, input and output, each once."""
    weights = expected_active(shape, tokens) * 3 * shape.hidden * shape.intermediate
    return ELEMENT * (weights + 2 * tokens * shape.hidden)


def weight_bytes(shape):
    return ELEMENT * shape.experts * (3 * shape.intermediate + 1) * shape.hidden


def floor_ms(shape, tokens, ceilings):
    """What no system can beat at these ceilings; None when they aren't known."""
    if not ceilings:
        return None
    return max(layer_flops(shape, tokens) / ceilings.tflops * 1e-9,
               least_bytes(shape, tokens) / ceilings.tbytes * 1e-9)


def parse_ceilings(text):
    """"777:2.95" is 777 TFLOP/s and 2.95 TB/s."""
    tflops, colon, tbytes = text.partition(":")
    try:
        ceilings = Ceilings(float(tflops), float(tbytes))
    except ValueError:
        ceilings = None
    # "not >" refuses NaN as well.
    if not ceilings or not all(math.isfinite(c) and c > 0 for c in ceilings):
        raise ValueError(f"{text}: ceilings are TFLOP/s:TB/s, for instance 777:2.95")
    return ceilings


def median(samples):
    ordered = sorted(samples)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def summarize(samples):
    """As moectl does: p90 is the nearest rank, ceil(0.9 n)."""
    rank = (9 * len(samples) + 9) // 10
    return {"ms": median(samples), "min": min(samples), "p90": sorted(samples)[rank - 1]}


def read_ours(text, shape, tokens):
    """moectl's results.json of one point as {"ms", "min", "p90", "device", ...} or
    {"error"}.

    A result of another layer than the peers' is an error, whatever its time.
    """
    results = json.loads(text)
    points = results["points"]
    if len(points) != 1:
        return {"error": f"{len(points)} points in results.json, expected one"}
    point, params = points[0], points[0]["params"]
    wanted = {"hidden_size": shape.hidden, "intermediate_size": shape.intermediate,
              "num_experts": shape.experts, "top_k": shape.top_k, "num_tokens": tokens,
              "dtype": "bf16", "activation": "swiglu", "renormalize": True,
              "gate_up_bias": False, "down_bias": False, "router_bias": False,
              "scoring": "softmax", "num_expert_group": None, "shared_intermediate_size": None}
    for name, value in wanted.items():
        if params.get(name) != value:
            return {"error": f"moectl ran {name}={params.get(name)}, the peers {value}"}
    layer = (point.get("time_ms") or {}).get("layer")
    if point["status"] not in ("ok", "ok_unverified") or not layer:
        return {"error": point.get("error") or point["status"]}
    verify = point.get("verify")
    return {"ms": layer["median"], "min": layer["min"], "p90": layer["p90"],
            "device": results["device"]["name"], "variants": point["variants"],
            "verified": bool(verify and verify["ok"])}


def sustained(entry):
    """The sustained median where there is one, else the short one."""
    return entry.get("sustained_ms") or entry["ms"]


def best_peer(point, time=lambda entry: entry["ms"]):
    """The fastest peer of a point, None if none ran."""
    return min(point["peers"], key=time, default=None)


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def digits(value, places=2):
    """Milliseconds and ratios as people compare them; "n/a" for None."""
    if value is None:
        return "n/a"
    if places is None:
        return f"{value:.2f}" if value >= 10 else f"{value:.3f}" if value >= 0.1 else f"{value:.4f}"
    return f"{value:.{places}f}"


def ratios(point, ceilings, time):
    """(ours, best peer, floor, ours/floor, ours/peer); None for what is missing."""
    ours = time(point["ours"]) if "ms" in point["ours"] else None
    peer = best_peer(point, time)
    floor = floor_ms(SHAPES[point["shape"]], point["tokens"], ceilings)
    return (ours, peer, floor, ours / floor if ours and floor else None,
            ours / time(peer) if ours and peer else None)


def summary(record, time=lambda entry: entry["ms"]):
    """{"over_floor", "counted", "won", "compared"} over the record's points."""
    rows = [ratios(point, record_ceilings(record), time) for point in record["points"]]
    over_floor = [row[3] for row in rows if row[3]]
    against = [row[4] for row in rows if row[4]]
    return {"over_floor": geometric_mean(over_floor), "counted": len(over_floor),
            "won": sum(ratio <= 1 for ratio in against), "compared": len(against)}


def record_ceilings(record):
    return Ceilings(**record["ceilings"]) if record.get("ceilings") else None


HEADER = ("| layer (H, I, E, K) | tokens | ours ms | best peer ms | whose | floor ms "
          "| ours / floor | ours / peer | ours, sustained | peer, sustained |\n"
          "|---|---|---|---|---|---|---|---|---|---|")


def table_row(point, ceilings, title):
    ours, peer, floor, over_floor, over_peer = ratios(point, ceilings, lambda e: e["ms"])
    long_ours, long_peer = ratios(point, ceilings, sustained)[:2]
    cells = (title, point["tokens"], digits(ours, None), digits(peer and peer["ms"], None),
             peer["name"] if peer else "n/a", digits(floor, None), digits(over_floor),
             digits(over_peer), digits(long_ours, None),
             digits(long_peer and sustained(long_peer), None))
    return "| " + " | ".join(map(str, cells)) + " |"


def summary_lines(record):
    lines = []
    times = (("short", lambda entry: entry["ms"]), ("sustained", sustained))
    for name, time in times if record["seconds"] > 0 else times[:1]:
        s = summary(record, time)
        lines.append(f"- {name}: geometric mean of ours / floor {digits(s['over_floor'])} "
                     f"over {s['counted']} points; ours at or below the best peer at "
                     f"{s['won']} of {s['compared']} points")
    variants = {point["ours"]["variants"]["grouped_gemm"] for point in record["points"]
                if "variants" in point["ours"]}
    if variants:
        lines.append(f"- ours ran the grouped GEMM of: {', '.join(sorted(variants))}")
    checked = sum(bool(point["ours"].get("verified")) for point in record["points"])
    lines.append(f"- ours verified by moectl at {checked} of {len(record['points'])} points; "
                 "a peer is checked at every point, or left out")
    return lines


def markdown(record):
    """The whole table, with everything that is missing said below it."""
    ceilings = record_ceilings(record)
    known = (f"torch.matmul {ceilings.tflops:.4g} TFLOP/s, device copy "
             f"{ceilings.tbytes:.3g} TB/s" if ceilings else "not measured, so no floors")
    lines = [f"# moecl beside its peers: {record['device']}", "",
             f"{record['date']}, {record['versions']}. Ceilings: {known}.",
             "One whole layer, bf16, random normal data, even routing; median milliseconds.",
             "", HEADER]
    last = None
    for point in record["points"]:
        s = SHAPES[point["shape"]]
        title = f"{s.title} ({s.hidden}, {s.intermediate}, {s.experts}, {s.top_k})"
        lines.append(table_row(point, ceilings, title if point["shape"] != last else ""))
        last = point["shape"]
    lines += [""] + summary_lines(record) + [f"- {note}" for note in record["notes"]]
    for point in record["points"]:
        where = f"{point['shape']}:{point['tokens']}"
        if "error" in point["ours"]:
            lines.append(f"- {where}: ours is missing: {point['ours']['error']}")
        lines += [f"- {where}: {out['name']} left out: {out['why']}" for out in point["left_out"]]
    return "\n".join(lines) + "\n"
