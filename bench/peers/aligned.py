# SPDX-License-Identifier: MIT
"""Experts by the kernel that vLLM and SGLang both descend from: each expert's assignments are padded to
whole tiles, a tile's expert stands in a list, and gate_up and down are launches of one kernel.

Here is what is around that kernel and in C++ in those packages, in Triton: the lists, in two launches,
and the activation. The choice of experts is triton_moe's. Not here: the kernel, which the peer gives.
"""

import json
import math
import pathlib
import re

import torch
import triton
import triton.language as tl

import triton_moe

MOST_TILES = 5  # that a point tries: each compiles two kernels


@triton.jit(do_not_specialize=["count"])
def count_kernel(ids, counts, count, BLOCK: tl.constexpr):
    expert = tl.program_id(0)
    mine = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, count, BLOCK):
        i = start + tl.arange(0, BLOCK)
        mine += (tl.load(ids + i, mask=i < count, other=-1) == expert).to(tl.int32)
    tl.store(counts + expert, tl.sum(mine, 0))


@triton.jit(do_not_specialize=["count", "experts"])
def align_kernel(ids, counts, order, tile_expert, padded, count, experts, ROWS: tl.constexpr,
                 BE: tl.constexpr, BLOCK: tl.constexpr):
    """Program e: expert e's assignments in their order, and behind them `count` up to a whole tile."""
    expert = tl.program_id(0)
    each = tl.arange(0, BE)
    rows = tl.load(counts + each, mask=each < experts, other=0)
    tiles = (rows + ROWS - 1) // ROWS
    first = tl.sum(tl.where(each < expert, tiles, 0), 0)
    mine = tl.sum(tl.where(each == expert, tiles, 0), 0)
    end = (first + mine) * ROWS
    at = first * ROWS
    for start in range(0, count, BLOCK):
        i = start + tl.arange(0, BLOCK)
        hit = (tl.load(ids + i, mask=i < count, other=-1) == expert).to(tl.int32)
        tl.store(order + at + tl.cumsum(hit, 0) - 1, i, mask=hit == 1)
        at += tl.sum(hit, 0)
    pad = tl.arange(0, ROWS)
    tl.store(order + at + pad, tl.full((ROWS,), count, tl.int32), mask=at + pad < end)
    for start in range(0, mine, BLOCK):
        i = start + tl.arange(0, BLOCK)
        tl.store(tile_expert + first + i, tl.full((BLOCK,), expert, tl.int32), mask=i < mine)
    if expert == 0:
        tl.store(padded, tl.sum(tiles, 0) * ROWS)


@triton.jit
def silu_and_mul_kernel(x, out, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    gate = tl.load(x + row * 2 * columns + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x + (row * 2 + 1) * columns + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * columns + column, (gate / (1.0 + tl.exp(-gate)) * up).to(out.dtype.element_ty),
             mask=inside)


def align(ids, rows, experts):
    """order, each tile's expert, and how many rows there are with padding, on the device."""
    count = ids.numel()
    most = min(count * rows, count + experts * (rows - 1))
    most = triton.cdiv(most, rows) * rows
    counts, padded = (torch.empty(n, device=ids.device, dtype=torch.int32) for n in (experts, 1))
    order = torch.empty(most, device=ids.device, dtype=torch.int32)
    tile_expert = torch.empty(most // rows, device=ids.device, dtype=torch.int32)
    block = min(4096, max(128, triton.next_power_of_2(count)))
    count_kernel[(experts,)](ids, counts, count, block, num_warps=4)
    align_kernel[(experts,)](ids, counts, order, tile_expert, padded, count, experts, rows,
                             triton.next_power_of_2(experts), block, num_warps=4)
    return order, tile_expert, padded


def silu_and_mul(x, out):
    block = 1024
    rows, columns = out.shape
    silu_and_mul_kernel[(rows, triton.cdiv(columns, block))](x, out, columns, block, num_warps=4)


def combine(y, share, out):
    """`y` [T, K, H] has been weighted."""
    torch.sum(y, dim=1, out=out)


def layer(x, weights, top_k, tile, peer):
    """The whole layer, of weights as `peer` has arranged them."""
    router, gate_up, down = weights
    ids, share = triton_moe.route(x, router, top_k)
    lists = peer.lists(ids, tile["BLOCK_SIZE_M"], gate_up.shape[0])
    middle = torch.empty(len(x) * top_k, gate_up.shape[1] // 2, device=x.device, dtype=x.dtype)
    last = torch.empty(len(x), top_k, x.shape[1], device=x.device, dtype=x.dtype)
    out = torch.empty_like(x)
    peer.gate_up(x, gate_up, middle, share, ids, lists, top_k, tile)
    peer.invoke(middle, down, last, share, ids, lists, peer.weighted, 1, tile)
    peer.combine(last, share, out)
    return out


class Peer:
    """A peer has invoke(a, b, c, share, ids, lists, weighted, top_k, tile), the kernel, and of the rest
    what its package has in Triton. `weighted`: does down multiply by the choices' weights?"""
    weighted = True
    lists = staticmethod(align)
    combine = staticmethod(combine)

    def arrange(self, weights):
        """Once, before any forward: as the kernel wants them."""
        return weights

    def gate_up(self, x, weights, out, share, ids, lists, top_k, tile):
        """The activation's output, a row an assignment."""
        first = torch.empty(len(x), top_k, weights.shape[1], device=x.device, dtype=x.dtype)
        self.invoke(x, weights, first, share, ids, lists, False, top_k, tile)
        self.act(first.view(len(out), -1), out, ids, tile)

    def act(self, x, out, ids, tile):
        silu_and_mul(x, out)


def default_tile(tokens, experts, top_k):
    rows = tokens * top_k / experts
    m = 16 if rows <= 12 else 32 if rows <= 40 else 64 if rows <= 200 else 128
    return {"BLOCK_SIZE_M": m, "BLOCK_SIZE_N": 64 if m < 64 else 128, "BLOCK_SIZE_K": 128 if m < 64 else 64,
            "GROUP_SIZE_M": 1 if rows < 128 else 16, "num_warps": 4 if m < 128 else 8, "num_stages": 4}


def distance(name, shape):
    """How far a table's shape is from this one, in factors of two; the larger GPU's table breaks ties."""
    experts, inner = (int(number) for number in re.match(r"E=(\d+),N=(\d+),", name).groups())
    far = abs(math.log2(experts / shape.experts)) + abs(math.log2(inner / shape.intermediate))
    return far, "H200" not in name


def tabled_tiles(folder, shape, tokens):
    """What the package's tables of tuned tiles say of so many tokens, on Hopper, in 16 bits: those of the
    most similar shape first."""
    found = []
    for path in sorted(pathlib.Path(folder).rglob("E=*,device_name=NVIDIA_H[12]00*.json")):
        if "dtype" in path.name or "block_shape" in path.name or "_down" in path.name:
            continue
        table = {int(key): tile for key, tile in json.loads(path.read_text()).items() if key.isdigit()}
        if not table:
            continue
        found.append((distance(path.name, shape), table[min(table, key=lambda key: abs(key - tokens))]))
    return [tile for _, tile in sorted(found, key=lambda one: one[0])]


def candidates(case, folder):
    """A few tiles: what suits the rows, and what the package's tables say."""
    shape, found = case.shape, []
    tiles = tabled_tiles(folder, shape, case.tokens)
    tiles.insert(1, default_tile(case.tokens, shape.experts, shape.top_k))
    for tile in tiles:
        tile = {key: value for key, value in tile.items() if key not in ("SPLIT_K", "USE_TMA")}
        if tile not in found:
            found.append(tile)
    return found[:MOST_TILES]


def tune(case, ways, folder):
    """The fastest of the peer's ways, and its tile: the first way is tried with all candidates, the
    others with its best. So: (way, tile, arranged weights)."""
    tiles, best = candidates(case, folder), (float("inf"), None)
    for way in ways:
        arranged = [way.arrange(weights) for weights in case.weights]
        for tile in tiles:
            name = f"{way} {tile}"
            try:
                ms = case.timer(lambda: layer(case.inputs[0], arranged[0], case.shape.top_k, tile, way))
            except Exception as error:  # too much local memory, ...
                case.log(f"{name}: {type(error).__name__}: {str(error)[:200]}")
                continue
            case.log(f"{name}: {ms:.4f} ms")
            if ms < best[0]:
                best = ms, (way, tile, arranged)
        tiles = [best[1][1]] if best[1] else tiles
    if not best[1]:
        raise RuntimeError("no tile works")
    return best[1]


def build(case, name, ways, folder):
    way, tile, arranged = tune(case, ways, folder)
    ready = {id(weights): its for weights, its in zip(case.weights, arranged)}
    top_k = case.shape.top_k
    yield name, lambda x, weights: layer(x, ready[id(weights)], top_k, tile, way), True
