# SPDX-License-Identifier: MIT
"""Quantized experts in Triton, written for this comparison, on triton_moe's routing, sorting and sum.

int4: codes less 8 with an fp16 scale for 128 of a row (W4A16). They become bf16, which is exact,
in the kernel; a group's sum is scaled. A byte has code j of its group in its low half and code
64 + j in the high one, so that a group is two products of contiguous halves.
fp8: E4M3 with an fp32 scale for 128 rows of 128 columns, activations E4M3 with a scale for 128 of
a row, quantized before each GEMM (W8A8, DeepSeek-V3's). Sums of 128 are scaled.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from triton_moe import MAX_EXPERTS, combine, route, sort

GROUP = 128  # of K that share a scale: a step of the kernel
LARGEST_FP8 = 448.0


class Tile(NamedTuple):
    m: int
    n: int
    group: int  # tiles of rows that share a tile of weights before the next one
    warps: int
    stages: int


@dataclass
class Matrices:
    """Of all experts: [E, rows, columns]. gate_up has gate's rows first; each of both has row
    blocks of its own."""
    codes: torch.Tensor  # int4: [E, rows, groups * 64] bytes; fp8: [E, rows, groups * 128]
    scales: torch.Tensor  # int4: [E, groups, rows] fp16; fp8: [E, row blocks, groups] fp32
    rows: int
    columns: int
    parts: int  # matrices side by side: 2 for gate_up

    def __getitem__(self, e):
        """One expert's numbers, as they are stored, in double."""
        groups = self.scales.shape[1] if self.codes.dtype == torch.uint8 else self.scales.shape[2]
        if self.codes.dtype == torch.uint8:
            low_high = [(self.codes[e] & 15), (self.codes[e] >> 4)]
            codes = torch.stack([half.view(self.rows, groups, 64) for half in low_high], 2).double() - 8
            numbers = codes.view(self.rows, groups, GROUP) * self.scales[e].t().double()[:, :, None]
        else:
            each = self.rows // self.parts
            by_row = [part.repeat_interleave(GROUP, 0)[:each] for part in self.scales[e].chunk(self.parts)]
            numbers = (self.codes[e].double().view(self.rows, groups, GROUP)
                       * torch.cat(by_row).double()[:, :, None])
        return numbers.view(self.rows, -1)[:, :self.columns]

    @property
    def shape(self):
        return (self.codes.shape[0], self.rows, self.columns)


def padded(values):
    """With zeros up to whole groups of columns."""
    return torch.nn.functional.pad(values, (0, -values.shape[-1] % GROUP))


def quantize_int4(matrices, parts):
    experts, rows, columns = matrices.shape
    groups = -(-columns // GROUP)
    codes = torch.empty(experts, rows, groups * 64, device=matrices.device, dtype=torch.uint8)
    scales = torch.empty(experts, groups, rows, device=matrices.device, dtype=torch.float16)
    for e in range(experts):  # one at a time: the rest is not copied
        grouped = padded(matrices[e].float()).view(rows, groups, GROUP)
        scale = (grouped.abs().amax(-1) / 7).clamp(min=1e-7).half()
        code = (grouped / scale.float()[:, :, None]).round_().clamp_(-8, 7).add_(8).to(torch.uint8)
        codes[e] = (code[:, :, :64] | code[:, :, 64:] << 4).view(rows, -1)
        scales[e] = scale.t()
    return Matrices(codes, scales, rows, columns, parts)


def quantize_fp8(matrices, parts):
    experts, rows, columns = matrices.shape
    each, groups = rows // parts, -(-columns // GROUP)
    blocks = -(-each // GROUP)
    codes = torch.empty(experts, rows, groups * GROUP, device=matrices.device, dtype=torch.float8_e4m3fn)
    scales = torch.empty(experts, parts * blocks, groups, device=matrices.device)
    for e in range(experts):
        for part in range(parts):
            values = padded(matrices[e, part * each:(part + 1) * each].float())
            rows_too = torch.nn.functional.pad(values, (0, 0, 0, -each % GROUP))
            scale = rows_too.abs().view(blocks, GROUP, groups, GROUP).amax((1, 3)) / LARGEST_FP8
            scale.clamp_(min=1e-12)
            spread = scale.repeat_interleave(GROUP, 0)[:each].repeat_interleave(GROUP, 1)
            codes[e, part * each:(part + 1) * each] = (values / spread).to(torch.float8_e4m3fn)
            scales[e, part * blocks:(part + 1) * blocks] = scale
    return Matrices(codes, scales, rows, columns, parts)


# ---- kernels ----


@triton.jit
def place(order, counts, experts, tiles_m, top_k, columns, GATED: tl.constexpr, BM: tl.constexpr,
          BN: tl.constexpr, GROUP_M: tl.constexpr, BE: tl.constexpr):
    """(expert, which columns, a's rows, out's rows, which are valid) of a tile: as triton_moe's
    expert_kernel finds them. The expert is `experts` where there is no tile."""
    pid = tl.program_id(0)
    tiles_n = tl.cdiv(columns, BN)
    group = pid // (GROUP_M * tiles_n)
    group_rows = tl.minimum(tiles_m - group * GROUP_M, GROUP_M)
    tile_m = group * GROUP_M + pid % (GROUP_M * tiles_n) % group_rows
    tile_n = pid % (GROUP_M * tiles_n) // group_rows
    each = tl.arange(0, BE)
    rows_of = tl.load(counts + each, mask=each < experts, other=0)
    tiles_of = (rows_of + BM - 1) // BM
    ends = tl.cumsum(tiles_of, 0)
    expert = tl.minimum(tl.sum((ends <= tile_m).to(tl.int32), 0), experts)
    here = each == expert
    row = (tile_m - tl.sum(tl.where(here, ends - tiles_of, 0), 0)) * BM + tl.arange(0, BM)
    valid = row < tl.sum(tl.where(here, rows_of, 0), 0)
    slot = tl.sum(tl.where(each < expert, rows_of, 0), 0) + row
    assignment = tl.load(order + slot, mask=valid, other=0)
    a_row = assignment // top_k if GATED else tl.where(valid, slot, 0)
    out_row = slot if GATED else assignment
    return expert, tile_n * BN + tl.arange(0, BN), a_row.to(tl.int64), out_row.to(tl.int64), valid


@triton.jit
def finish(acc, up, out, out_row, column, columns, valid, GATED: tl.constexpr):
    if GATED:
        acc = acc / (1.0 + tl.exp(-acc)) * up
    mask = valid[:, None] & (column < columns)[None, :]
    tl.store(out + out_row[:, None] * columns + column[None, :], acc.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["experts", "tiles_m", "top_k"])
def int4_kernel(a, b, scales, out, order, counts, experts, tiles_m, top_k, columns, depth,
                GATED: tl.constexpr, EVEN: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
                GROUP_M: tl.constexpr, BE: tl.constexpr):
    """a [rows, depth] in bf16; EVEN: depth is a multiple of a group."""
    expert, column, a_row, out_row, valid = place(order, counts, experts, tiles_m, top_k, columns,
                                                  GATED, BM, BN, GROUP_M, BE)
    if expert >= experts:
        return
    groups = tl.cdiv(depth, 128)
    half = tl.arange(0, 64)
    all_rows = columns * 2 if GATED else columns
    # Surplus columns read the first ones again: in bounds, and not stored.
    b_row = expert.to(tl.int64) * all_rows + column % columns
    b_tile = b + b_row[None, :] * (groups * 64) + half[:, None]
    s_tile = scales + expert.to(tl.int64) * groups * all_rows + column % columns
    a_tile = a + a_row[:, None] * depth + half[None, :]
    acc = tl.zeros((BM, BN), tl.float32)
    up = tl.zeros((BM, BN), tl.float32)
    for g in range(0, groups):
        keep = valid[:, None]
        keep_high = valid[:, None]
        if not EVEN:
            keep = keep & (g * 128 + half < depth)[None, :]
            keep_high = keep_high & (g * 128 + 64 + half < depth)[None, :]
        low = tl.load(a_tile, mask=keep, other=0.0)
        high = tl.load(a_tile + 64, mask=keep_high, other=0.0)
        codes = tl.load(b_tile)
        part = tl.dot(low, ((codes & 15).to(tl.int8) - 8).to(a.dtype.element_ty))
        part = tl.dot(high, ((codes >> 4).to(tl.int8) - 8).to(a.dtype.element_ty), part)
        acc += part * tl.load(s_tile).to(tl.float32)[None, :]
        if GATED:
            codes = tl.load(b_tile + columns.to(tl.int64) * groups * 64)
            part = tl.dot(low, ((codes & 15).to(tl.int8) - 8).to(a.dtype.element_ty))
            part = tl.dot(high, ((codes >> 4).to(tl.int8) - 8).to(a.dtype.element_ty), part)
            up += part * tl.load(s_tile + columns).to(tl.float32)[None, :]
        a_tile += 128
        b_tile += 64
        s_tile += all_rows
    finish(acc, up, out, out_row, column, columns, valid, GATED)


@triton.jit(do_not_specialize=["experts", "tiles_m", "top_k"])
def fp8_kernel(a, a_scales, b, scales, out, order, counts, experts, tiles_m, top_k, columns, groups,
               GATED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, GROUP_M: tl.constexpr,
               BE: tl.constexpr):
    """a [rows, groups * 128] and a_scales [rows, groups], from quantize()."""
    expert, column, a_row, out_row, valid = place(order, counts, experts, tiles_m, top_k, columns,
                                                  GATED, BM, BN, GROUP_M, BE)
    if expert >= experts:
        return
    k = tl.arange(0, 128)
    all_rows = columns * 2 if GATED else columns
    blocks = tl.cdiv(columns, 128)
    all_blocks = blocks * 2 if GATED else blocks
    b_row = expert.to(tl.int64) * all_rows + column % columns
    b_tile = b + b_row[None, :] * (groups * 128) + k[:, None]
    s_tile = scales + (expert.to(tl.int64) * all_blocks + column % columns // 128) * groups
    a_tile = a + a_row[:, None] * (groups * 128) + k[None, :]
    as_tile = a_scales + a_row * groups
    acc = tl.zeros((BM, BN), tl.float32)
    up = tl.zeros((BM, BN), tl.float32)
    for g in range(0, groups):
        rows = tl.load(a_tile, mask=valid[:, None], other=0.0)
        row_scale = tl.load(as_tile + g, mask=valid, other=0.0)[:, None]
        acc += tl.dot(rows, tl.load(b_tile)) * row_scale * tl.load(s_tile + g)[None, :]
        if GATED:
            part = tl.dot(rows, tl.load(b_tile + columns.to(tl.int64) * groups * 128))
            up += part * row_scale * tl.load(s_tile + blocks * groups + g)[None, :]
        a_tile += 128
        b_tile += 128
    finish(acc, up, out, out_row, column, columns, valid, GATED)


@triton.jit
def quantize_kernel(x, codes, scales, columns, groups, padded_columns, WIDTH: tl.constexpr):
    """One group of WIDTH, or fewer, of a row to E4M3; groups: of a row."""
    row, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = group * WIDTH + tl.arange(0, WIDTH)
    values = tl.load(x + row * columns + at, mask=at < columns, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(values), 0) / 448.0, 1e-12)
    tl.store(codes + row * padded_columns + at, (values / scale).to(codes.dtype.element_ty),
             mask=at < padded_columns)
    tl.store(scales + row * groups + group, scale)


# ---- layers ----


def quantize(x, width=GROUP):
    """(E4M3 [rows, whole groups], scales [rows, groups]); width 0: a row is one group."""
    rows, columns = x.shape
    groups = -(-columns // width) if width else 1
    wide = groups * width if width else columns
    codes = torch.empty(rows, wide, device=x.device, dtype=torch.float8_e4m3fn)
    scales = torch.empty(rows, groups, device=x.device)
    quantize_kernel[(rows, groups)](x, codes, scales, columns, groups, wide,
                                    width or triton.next_power_of_2(columns), num_warps=4)
    return codes, scales


def expert_gemm(a, b, order, counts, top_k, gated, tile):
    """gated: silu(gate) * up for every slot; else one row an assignment. a is bf16."""
    experts, columns, depth = b.shape
    columns = columns // 2 if gated else columns
    count = order.numel()
    tiles_m = min(count, triton.cdiv(count, tile.m) + experts)
    out = torch.empty(count, columns, device=a.device, dtype=a.dtype)
    grid = (tiles_m * triton.cdiv(columns, tile.n),)
    if b.codes.dtype == torch.uint8:
        int4_kernel[grid](a, b.codes, b.scales, out, order, counts, experts, tiles_m, top_k, columns,
                          depth, gated, depth % GROUP == 0, tile.m, tile.n, tile.group, MAX_EXPERTS,
                          num_warps=tile.warps, num_stages=tile.stages)
    else:
        codes, scales = quantize(a)
        fp8_kernel[grid](codes, scales, b.codes, b.scales, out, order, counts, experts, tiles_m, top_k,
                         columns, scales.shape[1], gated, tile.m, tile.n, tile.group, MAX_EXPERTS,
                         num_warps=tile.warps, num_stages=tile.stages)
    return out


def layer(x, weights, top_k, tiles):
    """The whole layer; `tiles` are those of gate_up and of down, from tune()."""
    router, gate_up, down = weights
    ids, share = route(x, router, top_k)
    counts, order = sort(ids, gate_up.shape[0])
    hidden = expert_gemm(x, gate_up, order, counts, top_k, True, tiles[0])
    return combine(expert_gemm(hidden, down, order, counts, top_k, False, tiles[1]), share)


def candidates(rows):
    """Tiles worth trying for about so many rows an expert, the safest first."""
    small = [Tile(16, 64, 1, 4, 4), Tile(16, 32, 1, 4, 5), Tile(16, 128, 1, 4, 3)]
    mid = [Tile(32, 64, 4, 4, 4), Tile(32, 128, 4, 4, 3)]
    upper = [Tile(64, 64, 8, 4, 4), Tile(64, 128, 8, 8, 3), Tile(64, 128, 8, 4, 3)]
    large = [Tile(128, 64, 8, 8, 3), Tile(128, 128, 8, 8, 3), Tile(128, 128, 8, 8, 4)]
    chosen = small if rows <= 20 else []
    if 6 < rows <= 48:
        chosen = chosen + mid
    if 16 < rows <= 200:
        chosen = chosen + upper
    if rows > 48:
        chosen = chosen + large
    return chosen


def tune(x, weights, top_k, timer, log):
    """The fastest tiles of both GEMMs by timer(call) in ms; says in log what fails."""
    router, gate_up, down = weights
    ids, _ = route(x, router, top_k)
    counts, order = sort(ids, gate_up.shape[0])
    rows = order.numel() / max(1, int((counts > 0).sum()))
    source, tiles = x, []
    for gated, b in ((True, gate_up), (False, down)):
        best = (float("inf"), None)
        for tile in candidates(rows):
            try:
                ms = timer(lambda: expert_gemm(source, b, order, counts, top_k, gated, tile))
            except Exception as error:  # too much local memory, ...
                log(f"triton {tile}: {type(error).__name__}: {str(error).splitlines()[:1]}")
                continue
            log(f"triton {'gate_up' if gated else 'down'} {tile}: {ms:.4f} ms")
            best = min(best, (ms, tile))
        if not best[1]:
            raise RuntimeError("no tile works")
        tiles.append(best[1])
        source = expert_gemm(source, b, order, counts, top_k, gated, best[1])
    return tiles
