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
TOLERANCE = 0.03  # of an answer, relative to its norm; layers.TOLERANCE says why
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


def least_bytes(shape, tokens, active=None):
    """Weights of the experts that are active (None: that are expected to be), input and output, each
    once."""
    weights = (active or expected_active(shape, tokens)) * 3 * shape.hidden * shape.intermediate
    return ELEMENT * (weights + 2 * tokens * shape.hidden)


def weight_bytes(shape):
    return ELEMENT * shape.experts * (3 * shape.intermediate + 1) * shape.hidden


def floor_ms(shape, tokens, ceilings, active=None):
    """What no system can beat at these ceilings; None when they aren't known."""
    if not ceilings:
        return None
    return max(layer_flops(shape, tokens) / ceilings.tflops * 1e-9,
               least_bytes(shape, tokens, active) / ceilings.tbytes * 1e-9)


def input_sets(tokens):
    """Inputs taken in turn: of few tokens so many that no cache has the experts' weights."""
    return 8 if tokens <= 16 else 3


def items_of(shape, tensor):
    """(items, bytes of one) as moecl's side takes them."""
    if tensor == "router":
        return 1, ELEMENT * shape.experts * shape.hidden
    rows = 2 * shape.intermediate if tensor == "gate_up" else shape.intermediate
    return shape.experts, ELEMENT * rows * shape.hidden


WINDOW_BYTES = 256 << 20


def window_bytes(shape, tokens):
    """What is handed over at once: an item, the inputs; some items where they are small."""
    item = max(items_of(shape, tensor)[1] for tensor in ("router", "gate_up", "down"))
    inputs = input_sets(tokens) * ELEMENT * tokens * shape.hidden
    return max(item, inputs, min(WINDOW_BYTES, weight_bytes(shape)))


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


# What is compared, in the order of the tables: back to back and a sustained load by the wall clock,
# the device's own time, one forward from idle by the wall clock.
MEASURES = {"burst": "back to back", "load": "sustained", "device": "on the device",
            "idle": "from idle"}


def best_peer(point, what):
    """The fastest peer of a point in a measure, None if none ran."""
    return min((peer for peer in point["peers"] if peer.get(what)), key=lambda peer: peer[what],
               default=None)


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def digits(value, places=2):
    """Milliseconds and ratios as people compare them; "n/a" for None."""
    if value is None:
        return "n/a"
    if places is None:
        return f"{value:.2f}" if value >= 10 else f"{value:.3f}" if value >= 0.1 else f"{value:.4f}"
    return f"{value:.{places}f}"


def ratios(point, ceilings, what):
    """(ours, best peer, floor, ours/floor, ours/peer); None for what is missing."""
    ours, peer = point["ours"].get(what), best_peer(point, what)
    floor = floor_ms(SHAPES[point["shape"]], point["tokens"], ceilings, point.get("active"))
    return (ours, peer, floor, ours / floor if ours and floor else None,
            ours / peer[what] if ours and peer else None)


def summary(record, what):
    """{"over_floor", "over_peer", "counted", "won", "compared"} over the record's points."""
    rows = [ratios(point, record_ceilings(record), what) for point in record["points"]]
    over_floor = [row[3] for row in rows if row[3]]
    against = [row[4] for row in rows if row[4]]
    return {"over_floor": geometric_mean(over_floor), "over_peer": geometric_mean(against),
            "counted": len(over_floor), "won": sum(ratio <= 1 for ratio in against),
            "compared": len(against)}


def record_ceilings(record):
    return Ceilings(**record["ceilings"]) if record.get("ceilings") else None


HEADER = ("| layer (H, I, E, K) | tokens | back to back | best peer | whose | ours / peer "
          "| sustained | peer | ours / peer | on the device | peer | ours / peer | from idle | peer "
          "| ours / peer | floor | back to back / floor | device / floor |\n|" + "---|" * 18)


def ratio_cell(ratio):
    """Where a peer is faster, in bold."""
    text = digits(ratio)
    return f"**{text}**" if ratio and ratio > 1 else text


def table_row(point, ceilings, title):
    cells = [title, point["tokens"]]
    for what in MEASURES:
        ours, peer, floor, over_floor, over_peer = ratios(point, ceilings, what)
        cells += [digits(ours, None), digits(peer and peer[what], None)]
        if what == "burst":
            cells.append(peer["name"] if peer else "n/a")
        cells.append(ratio_cell(over_peer))
    cells += [digits(floor, None)]
    cells += [digits(ratios(point, ceilings, what)[3]) for what in ("burst", "device")]
    return "| " + " | ".join(map(str, cells)) + " |"


def summary_lines(record):
    lines = []
    for what, name in MEASURES.items():
        s = summary(record, what)
        if s["counted"] or s["compared"]:
            lines.append(f"- {name}: geometric mean of ours / floor {digits(s['over_floor'])} over "
                         f"{s['counted']} points, of ours / best peer {digits(s['over_peer'])}; ours "
                         f"at or below the best peer at {s['won']} of {s['compared']} points")
    variants = {point["ours"]["variant"] for point in record["points"] if "variant" in point["ours"]}
    if variants:
        lines.append(f"- ours ran the grouped GEMM of: {', '.join(sorted(variants))}")
    errors = [point["ours"]["error"] for point in record["points"] if "burst" in point["ours"]]
    if errors:
        lines.append(f"- ours was right at {len(errors)} points, by the peers' own check: relative "
                     f"error {max(errors):.2g} at most")
    return lines


def differing_experts(point):
    """What is said where sides did not make as many experts active: logits nearly tie."""
    ours, theirs = point["ours"].get("active"), point.get("active")
    mean = sum(ours) / len(ours) if ours else theirs
    if not theirs or abs(mean - theirs) <= 0.01 * theirs:
        return None
    return f"{mean:.4g} experts active in ours, {theirs:.4g} in the peers"


def markdown(record):
    """The whole table, with everything that is missing said below it."""
    ceilings = record_ceilings(record)
    known = (f"torch.matmul {ceilings.tflops:.4g} TFLOP/s, device copy "
             f"{ceilings.tbytes:.3g} TB/s" if ceilings else "not measured, so no floors")
    lines = [f"# moecl beside its peers: {record['device']}", "",
             f"{record['date']}, {record['versions']}. Ceilings: {known}.",
             "One whole layer, bf16, random normal data, even routing, the same weights and inputs "
             f"for all; milliseconds, medians of {record['rounds']} rounds in turns. Where a peer is "
             "faster the ratio is bold.", "", HEADER]
    last = None
    for point in record["points"]:
        s = SHAPES[point["shape"]]
        title = f"{s.title} ({s.hidden}, {s.intermediate}, {s.experts}, {s.top_k})"
        lines.append(table_row(point, ceilings, title if point["shape"] != last else ""))
        last = point["shape"]
    lines += [""] + summary_lines(record) + [f"- {note}" for note in record["notes"]]
    for point in record["points"]:
        where = f"{point['shape']}:{point['tokens']}"
        if "burst" not in point["ours"]:
            lines.append(f"- {where}: ours is missing: {point['ours']['error']}")
        if differing_experts(point):
            lines.append(f"- {where}: {differing_experts(point)}")
        lines += [f"- {where}: {out['name']} left out: {out['why']}" for out in point["left_out"]]
    return "\n".join(lines) + "\n"
