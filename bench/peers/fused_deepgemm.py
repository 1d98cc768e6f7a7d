# SPDX-License-Identifier: MIT
"""DeepGEMM's grouped GEMM in bf16, installed with what it needs: it compiles its kernels where it runs.
In Triton is what is around it: the choice, the padded lists, the permutation, the activation, the sum."""

import torch
import triton
import triton.language as tl

import aligned
import layers
import triton_moe

LEAST_TOKENS = 1024  # it pads each expert's rows to 128


@triton.jit(do_not_specialize=["count"])
def gather_kernel(x, order, tile_expert, padded, rows_out, layout, places, count, top_k, hidden,
                  ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Program r: row r of the padded lists, its expert (none: -1), and where its assignment lies."""
    row = tl.program_id(0).to(tl.int64)
    inside = row < tl.load(padded)
    which = tl.load(order + row, mask=inside, other=count)
    valid = which < count
    if tl.program_id(1) == 0:
        tl.store(layout + row, tl.load(tile_expert + row // ROWS, mask=inside, other=-1))
        tl.store(places + which, row.to(tl.int32), mask=valid)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    here = valid & (column < hidden)
    token = (which // top_k).to(tl.int64)
    tl.store(rows_out + row * hidden + column, tl.load(x + token * hidden + column, mask=here, other=0.0), mask=here)


@triton.jit
def act_kernel(x, out, places, columns, BLOCK: tl.constexpr):
    """Program a: assignment a's row; the padding between is left as it is."""
    row = tl.load(places + tl.program_id(0)).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    gate = tl.load(x + row * 2 * columns + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x + (row * 2 + 1) * columns + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * columns + column, (gate / (1.0 + tl.exp(-gate)) * up).to(out.dtype.element_ty),
             mask=inside)


@triton.jit
def sum_kernel(y, places, share, out, hidden, K: tl.constexpr, BLOCK: tl.constexpr):
    """Program t: token t's rows, weighted, in the order of its choices."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < hidden
    total = tl.zeros((BLOCK,), tl.float32)
    for k in tl.static_range(K):
        row = tl.load(places + token * K + k).to(tl.int64)
        value = tl.load(y + row * hidden + column, mask=inside, other=0.0).to(tl.float32)
        total += value * tl.load(share + token * K + k)
    tl.store(out + token * hidden + column, total.to(out.dtype.element_ty), mask=inside)


def layer(x, weights, top_k, gemm, rows):
    """`gemm(a, b, out, layout)`: a's row r times b[layout[r]], experts in tiles of `rows`."""
    router, gate_up, down = weights
    ids, share = triton_moe.route(x, router, top_k)
    order, tile_expert, padded = aligned.align(ids, rows, len(gate_up))
    hidden, inner, block = x.shape[1], down.shape[2], 1024
    most = triton.cdiv(len(order), 2 * rows) * 2 * rows  # tiles are taken in pairs

    def matrix(columns):
        return torch.empty(most, columns, device=x.device, dtype=x.dtype)
    layout = torch.empty(most, device=x.device, dtype=torch.int32)
    places = torch.empty(ids.numel(), device=x.device, dtype=torch.int32)
    gathered, first, middle, last = matrix(hidden), matrix(2 * inner), matrix(inner), matrix(hidden)
    gather_kernel[(most, triton.cdiv(hidden, block))](x, order, tile_expert, padded, gathered, layout, places,
                                                      ids.numel(), top_k, hidden, rows, block, num_warps=4)
    gemm(gathered, gate_up, first, layout)
    act_kernel[(ids.numel(), triton.cdiv(inner, block))](first, middle, places, inner, block, num_warps=4)
    gemm(middle, down, last, layout)
    out = torch.empty_like(x)
    sum_kernel[(len(x), triton.cdiv(hidden, block))](last, places, share, out, hidden, top_k, block, num_warps=4)
    return out


def build(case):
    import deep_gemm
    if case.tokens < LEAST_TOKENS:
        raise layers.Unsuitable(f"pads each expert's rows to 128: from {LEAST_TOKENS} tokens on")
    gemm, rows = deep_gemm.m_grouped_bf16_gemm_nt_contiguous, deep_gemm.get_mk_alignment_for_contiguous_layout()
    top_k = case.shape.top_k
    yield "DeepGEMM", lambda x, weights: layer(x, weights, top_k, gemm, rows), True
