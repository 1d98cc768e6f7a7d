# SPDX-License-Identifier: MIT
"""A fused MoE layer in Triton, written for this comparison: five kernels and a GEMM.

Routing is sorted by expert once; each tile of the grouped GEMMs finds its expert
in the counts, so no tile is padding and the host never waits. Rows are gathered
in the kernel, SwiGLU is its epilogue, and the combine sums in fixed order.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

MAX_EXPERTS = 256  # tl.arange needs a constant; one for all shapes saves compilations


class Tile(NamedTuple):
    m: int
    n: int
    k: int
    group: int  # tiles of rows that share a tile of weights before the next one
    warps: int
    stages: int
    tma: bool  # weights through a tensor descriptor (Hopper and later)


@triton.jit(do_not_specialize=["experts"])
def route_kernel(logits, ids, weights, experts, K: tl.constexpr, KP: tl.constexpr,
                 BE: tl.constexpr):
    """Top-k of one token; ties go to the lower expert. Renormalised, softmax
    over all experts and over the chosen ones are the same."""
    token = tl.program_id(0).to(tl.int64)
    expert = tl.arange(0, BE)
    slot = tl.arange(0, KP)
    x = tl.load(logits + token * experts + expert, mask=expert < experts,
                other=-float("inf")).to(tl.float32)
    top = tl.max(x, 0)
    chosen = tl.zeros((KP,), tl.int32)
    share = tl.zeros((KP,), tl.float32)
    for k in tl.static_range(K):
        best = tl.max(x, 0)
        which = tl.min(tl.where(x == best, expert, BE), 0)
        chosen = tl.where(slot == k, which, chosen)
        share = tl.where(slot == k, tl.exp(best - top), share)
        x = tl.where(expert == which, -float("inf"), x)
    tl.store(ids + token * K + slot, chosen, mask=slot < K)
    tl.store(weights + token * K + slot, share / tl.sum(share, 0), mask=slot < K)


@triton.jit(do_not_specialize=["count"])
def sort_kernel(ids, counts, order, count, BLOCK: tl.constexpr):
    """Program e: how many assignments expert e has, and which, in their order."""
    expert = tl.program_id(0)
    before = tl.zeros((BLOCK,), tl.int32)
    mine = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, count, BLOCK):
        i = start + tl.arange(0, BLOCK)
        found = tl.load(ids + i, mask=i < count, other=1 << 30)
        before += (found < expert).to(tl.int32)
        mine += (found == expert).to(tl.int32)
    tl.store(counts + expert, tl.sum(mine, 0))
    at = tl.sum(before, 0)
    for start in range(0, count, BLOCK):
        i = start + tl.arange(0, BLOCK)
        hit = (tl.load(ids + i, mask=i < count, other=1 << 30) == expert).to(tl.int32)
        tl.store(order + at + tl.cumsum(hit, 0) - 1, i, mask=hit == 1)
        at += tl.sum(hit, 0)


@triton.jit(do_not_specialize=["experts", "tiles_m", "top_k"])
def expert_kernel(a, b, out, order, counts, experts, tiles_m, top_k, columns, depth,
                  GATED: tl.constexpr, TMA: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
                  BK: tl.constexpr, GROUP: tl.constexpr, BE: tl.constexpr):
    """One tile of expert rows. GATED: rows a[token], out[slot] = silu(gate) * up;
    else rows a[slot], out[assignment]. b is [E, rows, depth], as a pointer or a
    descriptor of its rows; depth is a multiple of BK."""
    pid = tl.program_id(0)
    tiles_n = tl.cdiv(columns, BN)
    group = pid // (GROUP * tiles_n)
    group_rows = tl.minimum(tiles_m - group * GROUP, GROUP)
    tile_m = group * GROUP + pid % (GROUP * tiles_n) % group_rows
    tile_n = pid % (GROUP * tiles_n) // group_rows

    each = tl.arange(0, BE)
    rows_of = tl.load(counts + each, mask=each < experts, other=0)
    tiles_of = (rows_of + BM - 1) // BM
    ends = tl.cumsum(tiles_of, 0)
    expert = tl.sum((ends <= tile_m).to(tl.int32), 0)
    if expert >= experts:
        return
    here = each == expert
    row = (tile_m - tl.sum(tl.where(here, ends - tiles_of, 0), 0)) * BM + tl.arange(0, BM)
    valid = row < tl.sum(tl.where(here, rows_of, 0), 0)
    slot = tl.sum(tl.where(each < expert, rows_of, 0), 0) + row
    assignment = tl.load(order + slot, mask=valid, other=0)
    a_row = assignment // top_k if GATED else tl.where(valid, slot, 0)
    out_row = slot if GATED else assignment

    k = tl.arange(0, BK)
    column = tile_n * BN + tl.arange(0, BN)
    a_tile = a + a_row.to(tl.int64)[:, None] * depth + k[None, :]
    first = expert * (columns * 2 if GATED else columns)  # row of b
    acc = tl.zeros((BM, BN), tl.float32)
    up = tl.zeros((BM, BN), tl.float32)
    if TMA:
        for at in range(0, depth, BK):
            rows = tl.load(a_tile, mask=valid[:, None], other=0.0)
            acc = tl.dot(rows, b.load([first + tile_n * BN, at]).T, acc)
            if GATED:
                up = tl.dot(rows, b.load([first + columns + tile_n * BN, at]).T, up)
            a_tile += BK
    else:
        # Surplus columns read the first ones again: in bounds, and not stored.
        b_row = first.to(tl.int64) + column % columns
        b_tile = b + b_row[None, :] * depth + k[:, None]
        for at in range(0, depth, BK):
            rows = tl.load(a_tile, mask=valid[:, None], other=0.0)
            acc = tl.dot(rows, tl.load(b_tile), acc)
            if GATED:
                up = tl.dot(rows, tl.load(b_tile + columns * depth), up)
            a_tile += BK
            b_tile += BK
    if GATED:
        acc = acc / (1.0 + tl.exp(-acc)) * up
    target = out + out_row.to(tl.int64)[:, None] * columns + column[None, :]
    tl.store(target, acc.to(out.dtype.element_ty),
             mask=valid[:, None] & (column < columns)[None, :])


@triton.jit(do_not_specialize=["top_k"])
def combine_kernel(y, weights, out, top_k, columns, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for k in range(top_k):
        row = token * top_k + k
        value = tl.load(y + row * columns + column, mask=column < columns, other=0.0)
        total += tl.load(weights + row) * value.to(tl.float32)
    tl.store(out + token * columns + column, total.to(out.dtype.element_ty),
             mask=column < columns)


def route(x, router, top_k):
    """ids and weights [T, K] of the renormalised top-k."""
    logits = torch.mm(x, router.t())
    tokens, experts = logits.shape
    ids = torch.empty(tokens, top_k, device=x.device, dtype=torch.int32)
    weights = torch.empty(tokens, top_k, device=x.device, dtype=torch.float32)
    route_kernel[(tokens,)](logits, ids, weights, experts, top_k,
                            triton.next_power_of_2(top_k), triton.next_power_of_2(experts),
                            num_warps=1)
    return ids, weights


def sort(ids, experts):
    """counts [E] and the assignments in the order of their experts [T * K]."""
    count = ids.numel()
    counts = torch.empty(experts, device=ids.device, dtype=torch.int32)
    order = torch.empty(count, device=ids.device, dtype=torch.int32)
    block = min(4096, max(128, triton.next_power_of_2(count)))
    sort_kernel[(experts,)](ids, counts, order, count, block, num_warps=4)
    return counts, order


def expert_gemm(a, b, order, counts, top_k, gated, tile):
    """gated: silu(gate) * up for every slot; else one row an assignment."""
    experts, columns, depth = b.shape
    columns = columns // 2 if gated else columns
    count = order.numel()
    # No more tiles than these, whatever the counts, which the host doesn't know.
    tiles_m = min(count, triton.cdiv(count, tile.m) + experts)
    out = torch.empty(count, columns, device=a.device, dtype=a.dtype)
    weights = b
    if tile.tma:
        from triton.tools.tensor_descriptor import TensorDescriptor
        weights = TensorDescriptor.from_tensor(b.view(-1, depth), [tile.n, tile.k])
    expert_kernel[(tiles_m * triton.cdiv(columns, tile.n),)](
        a, weights, out, order, counts, experts, tiles_m, top_k, columns, depth, gated, tile.tma,
        tile.m, tile.n, tile.k, tile.group, MAX_EXPERTS, num_warps=tile.warps,
        num_stages=tile.stages)
    return out


def combine(y, weights):
    tokens, top_k = weights.shape
    out = torch.empty(tokens, y.shape[1], device=y.device, dtype=y.dtype)
    block = 1024 if tokens > 16 else 256
    combine_kernel[(tokens, triton.cdiv(y.shape[1], block))](y, weights, out, top_k, y.shape[1],
                                                             block, num_warps=4)
    return out


def layer(x, weights, top_k, tiles):
    """The whole layer; `tiles` are those of gate_up and of down, from tune()."""
    router, gate_up, down = weights
    ids, share = route(x, router, top_k)
    counts, order = sort(ids, gate_up.shape[0])
    hidden = expert_gemm(x, gate_up, order, counts, top_k, True, tiles[0])
    return combine(expert_gemm(hidden, down, order, counts, top_k, False, tiles[1]), share)


def candidates(rows, depth, gated, tma):
    """Tiles worth trying for about so many rows an expert, the safest first."""
    small = [Tile(16, 64, 128, 1, 4, 4, False), Tile(16, 64, 64, 1, 4, 5, False),
             Tile(16, 32, 128, 1, 4, 5, False), Tile(16, 128, 64, 1, 4, 4, False)]
    mid = [Tile(32, 64, 128, 4, 4, 3, False), Tile(32, 128, 64, 4, 4, 4, False)]
    upper = [Tile(64, 128, 64, 8, 4, 4, False), Tile(64, 128, 64, 8, 8, 4, False)]
    large = [Tile(128, 128, 64, 8, 8, 3, False), Tile(128, 128, 64, 8, 8, 4, False)]
    if not gated:  # one accumulator: room for a wider tile
        large.append(Tile(128, 256, 64, 8, 8, 3, False))
    chosen = small if rows <= 20 else []
    if 6 < rows <= 48:
        chosen = chosen + mid
    if 16 < rows <= 200:
        chosen = chosen + upper
    if rows > 48:
        chosen = chosen + large
    if tma:
        chosen = chosen + [t._replace(tma=True) for t in chosen if t.m >= 64]
    return [t for t in chosen if depth % t.k == 0]


def tune(x, weights, top_k, timer, tma, log):
    """The fastest tiles of both GEMMs by timer(call) in ms; says in log what fails."""
    router, gate_up, down = weights
    ids, _ = route(x, router, top_k)
    counts, order = sort(ids, gate_up.shape[0])
    rows = order.numel() / max(1, int((counts > 0).sum()))
    source, tiles = x, []
    for gated, b in ((True, gate_up), (False, down)):
        best = (float("inf"), None)
        for tile in candidates(rows, b.shape[2], gated, tma):
            call = lambda: expert_gemm(source, b, order, counts, top_k, gated, tile)
            try:
                ms = timer(call)
            except Exception as error:  # too much local memory, no descriptors, ...
                log(f"triton {tile}: {type(error).__name__}: {str(error).splitlines()[:1]}")
                continue
            log(f"triton {'gate_up' if gated else 'down'} {tile}: {ms:.4f} ms")
            best = min(best, (ms, tile))
        if not best[1]:
            raise RuntimeError(f"no tile works for a depth of {b.shape[2]}")
        tiles.append(best[1])
        source = expert_gemm(source, b, order, counts, top_k, gated, best[1])
    return tiles
