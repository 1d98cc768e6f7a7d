// SPDX-License-Identifier: MIT
/* attention.clh for GPUs of any kind. A work-group of LOCAL makes TILE_ROWS rows (parts.clh)
 * and takes TILE_K keys at a time. Queries, keys and values come through local memory, PART of
 * a head's elements at once, whatever the head's size. A work-item stands DOWN the rows and
 * ACROSS the keys and columns: it makes ROWS_EACH rows of every ACROSSth key's logit, then of
 * every ACROSSth column of the output, which stay in its registers.
 * Defines beside attention.clh's: LOCAL, TILE_K, ACROSS, ROWS_EACH. */
#include "attention/attention.clh"
#include "attention/parts.clh"
#define PART 32
#define DOWN (LOCAL / ACROSS)
#define TILE_ROWS (DOWN * ROWS_EACH)
#define KEYS_EACH (TILE_K / ACROSS)
#define PARTS ((HEAD_DIM + PART - 1) / PART)
#define COLUMNS_EACH (PART / ACROSS) /* of a part */

/* A tile in local memory: rows of PART elements, padded so that neighbours lie in other banks. */
#define STRIDE (PART + 1)

/* rows x PART elements of `from`, whose rows are `row_size` apart, from `element` on; what is
 * behind `rows_there` and HEAD_DIM is 0, which spoils no sum, as what nobody wrote would. */
#define FETCH(to, rows, load, from, at, rows_there, element)                                       \
  for (int i = lid; i < (rows)*PART; i += LOCAL) {                                                 \
    const int r = i / PART, e = (element) + i % PART;                                              \
    (to)[r * STRIDE + i % PART] = r < (rows_there) && e < HEAD_DIM ? load(from, (at) + e) : 0.0f;  \
  }

__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
attention(const __global rows_t *qkv, const __global storage_t *keys,
          const __global storage_t *values, const __global storage_t *sinks,
          __global output_t *output, long num_tokens, long context, long capacity, int num_heads,
          long window, float scale, __global float *parts, int splits,
          long keys_each RELATIVE_BIAS) {
  __local float query[TILE_ROWS * STRIDE], cached[TILE_K * STRIDE];
  __local float share[TILE_ROWS][TILE_K + 1];
  __local float largest[TILE_ROWS], sum[TILE_ROWS], factor[TILE_ROWS];
  float out[ROWS_EACH][PARTS * COLUMNS_EACH], logit[ROWS_EACH][KEYS_EACH];
  const int lid = (int)get_local_id(0), across = lid % ACROSS;
  const int mine = lid / ACROSS * ROWS_EACH; /* the first of the work-item's rows */
  const ulong kv_heads = (ulong)(num_heads / GROUP), kv_head = get_group_id(0) % kv_heads;
  const ulong pieces = (ulong)max(splits, 1), rest = get_group_id(0) / kv_heads;
  const int split = (int)(rest % pieces);
  const long rows = num_tokens * GROUP, blocks = (rows + TILE_ROWS - 1) / TILE_ROWS;
  /* The last queries first: they look at most keys. */
  const long first_row = (blocks - 1 - (long)(rest / pieces)) * TILE_ROWS;
  const int there = (int)min((long)TILE_ROWS, rows - first_row);
  const long num_keys = context + num_tokens;
  const ulong token_heads = (ulong)num_heads + 2 * kv_heads;
  for (int r = lid; r < TILE_ROWS; r += LOCAL) {
    const int head = (int)kv_head * GROUP + (int)((first_row + r) % GROUP);
    largest[r] = split == 0 && r < there ? first_largest(sinks, head) : LEAST;
    sum[r] = SINKS && split == 0 ? 1.0f : 0.0f;
  }
  for (int r = 0; r < ROWS_EACH; r++)
    for (int c = 0; c < PARTS * COLUMNS_EACH; c++) out[r][c] = 0.0f;
  const long begin = first_key(context + first_row / GROUP, window) + split * keys_each;
  const long end =
      min(end_key(context + (first_row + there - 1) / GROUP, num_keys, window), begin + keys_each);
  for (long tile = begin; tile < end; tile += TILE_K) {
    const int count = (int)min((long)TILE_K, end - tile);
    for (int r = 0; r < ROWS_EACH; r++)
      for (int k = 0; k < KEYS_EACH; k++) logit[r][k] = 0.0f;
    for (int part = 0; part < PARTS; part++) {
      FETCH(query, TILE_ROWS, rows_load, qkv, row_at(kv_head, (ulong)(first_row + r), token_heads),
            there, part * PART);
      FETCH(cached, TILE_K, storage_load, keys,
            key_at(kv_head, (ulong)capacity, (ulong)(tile + r), HEAD_DIM, 0), count, part * PART);
      barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll 4
      for (int e = 0; e < PART; e++)
        for (int k = 0; k < KEYS_EACH; k++) {
          const float x = cached[(across + k * ACROSS) * STRIDE + e];
          for (int r = 0; r < ROWS_EACH; r++)
            logit[r][k] = fma(query[(mine + r) * STRIDE + e], x, logit[r][k]);
        }
      barrier(CLK_LOCAL_MEM_FENCE);
    }
    for (int r = 0; r < ROWS_EACH; r++) {
      const long row = first_row + min(mine + r, there - 1), position = context + row / GROUP;
      const int head = (int)kv_head * GROUP + (int)(row % GROUP);
      const int first = (int)clamp(first_key(position, window) - tile, 0L, (long)count);
      const int behind = (int)clamp(end_key(position, num_keys, window) - tile, 0L, (long)count);
      for (int k = 0; k < KEYS_EACH; k++) {
        const int key = across + k * ACROSS;
        const bool seen = key >= first && key < behind;
        share[mine + r][key] =
            seen ? BIASED(scale * logit[r][k], tile + key, position, head, num_heads) : -INFINITY;
      }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int r = lid; r < TILE_ROWS; r += LOCAL) {
      float most = largest[r], total = 0.0f;
      for (int k = 0; k < TILE_K; k++) most = fmax(most, share[r][k]);
      for (int k = 0; k < TILE_K; k++) total += share[r][k] = exp(share[r][k] - most);
      factor[r] = exp(largest[r] - most);
      sum[r] = fma(sum[r], factor[r], total);
      largest[r] = most;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll /* so that sums are registers */
    for (int part = 0; part < PARTS; part++) {
      FETCH(cached, TILE_K, storage_load, values,
            value_at(kv_head, (ulong)capacity, (ulong)(tile + r)), count, part * PART);
      barrier(CLK_LOCAL_MEM_FENCE);
      for (int r = 0; r < ROWS_EACH; r++)
        for (int c = 0; c < COLUMNS_EACH; c++) out[r][part * COLUMNS_EACH + c] *= factor[mine + r];
#pragma unroll 4
      for (int k = 0; k < TILE_K; k++)
        for (int c = 0; c < COLUMNS_EACH; c++) {
          const float x = cached[k * STRIDE + c * ACROSS + across];
          for (int r = 0; r < ROWS_EACH; r++)
            out[r][part * COLUMNS_EACH + c] =
                fma(share[mine + r][k], x, out[r][part * COLUMNS_EACH + c]);
        }
      barrier(CLK_LOCAL_MEM_FENCE);
    }
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int r = 0; r < ROWS_EACH; r++)
    if (mine + r < there) {
      const ulong row = (ulong)(first_row + mine + r);
      const ulong of_all = kv_head * (ulong)rows + row;
      const float whole = sum[mine + r];
      for (int c = 0; c < PARTS * COLUMNS_EACH; c++) {
        const int column = c / COLUMNS_EACH * PART + c % COLUMNS_EACH * ACROSS + across;
        if (column < HEAD_DIM && splits == 0)
          output_store(out[r][c] / whole, output,
                       row_at(kv_head, row, (ulong)num_heads) + (size_t)column);
        if (column < HEAD_DIM && splits > 0)
          parts[part_at(of_all, splits, split) + (size_t)column] = out[r][c];
      }
      if (across == 0 && splits > 0) {
        const size_t at = part_scale_at(kv_heads * (ulong)rows, of_all, splits, split);
        parts[at] = largest[mine + r];
        parts[at + 1] = whole;
      }
    }
}

/* The parts of a row put together, a work-group of LOCAL a row. */
__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
combine(const __global float *parts, __global output_t *output, long rows, int num_heads,
        int splits) {
  const ulong row = get_group_id(0), all_rows = (ulong)rows * (ulong)(num_heads / GROUP);
  const __global float *scales = parts + part_scale_at(all_rows, row, splits, 0);
  float most = LEAST, whole = 0.0f;
  for (int s = 0; s < splits; s++) most = fmax(most, scales[2 * s]);
  for (int s = 0; s < splits; s++) whole = fma(exp(scales[2 * s] - most), scales[2 * s + 1], whole);
  const size_t to = row_at(row / (ulong)rows, row % (ulong)rows, (ulong)num_heads);
  for (int column = (int)get_local_id(0); column < HEAD_DIM; column += LOCAL) {
    float x = 0.0f;
    for (int s = 0; s < splits; s++)
      x = fma(exp(scales[2 * s] - most), parts[part_at(row, splits, s) + (size_t)column], x);
    output_store(x / whole, output, to + (size_t)column);
  }
}
