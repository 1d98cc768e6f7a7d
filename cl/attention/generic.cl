// SPDX-License-Identifier: MIT
/* attention.clh, a work-group of LOCAL for TILE_Q queries of one head, which takes TILE_K
 * keys at a time through local memory. A work-item makes every LOCALth column of the output,
 * of all queries. */
#include "attention/attention.clh"
#define COLUMNS ((HEAD_DIM + LOCAL - 1) / LOCAL)

__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
attention(const __global rows_t *qkv, const __global storage_t *keys,
          const __global storage_t *values, const __global storage_t *sinks,
          __global output_t *output, long num_tokens, long context, long capacity, int num_heads,
          long window, float scale RELATIVE_BIAS) {
  __local float query[TILE_Q][HEAD_DIM];
  __local float key[TILE_K][HEAD_DIM + 1]; /* padded: neighbours' rows in other banks */
  __local float share[TILE_Q][TILE_K];
  __local float largest[TILE_Q], sum[TILE_Q], factor[TILE_Q];
  float out[TILE_Q][COLUMNS];
  const int lid = (int)get_local_id(0);
  const int head = (int)(get_group_id(0) % (ulong)num_heads);
  const ulong kv_head = (ulong)(head / GROUP);
  const long blocks = (num_tokens + TILE_Q - 1) / TILE_Q;
  /* The last queries first: they look at most keys. */
  const long token = (blocks - 1 - (long)(get_group_id(0) / (ulong)num_heads)) * TILE_Q;
  const int queries = (int)min((long)TILE_Q, num_tokens - token);
  const long num_keys = context + num_tokens;
  const size_t row = (size_t)(num_heads + 2 * (num_heads / GROUP)) * HEAD_DIM;
  for (int i = lid; i < TILE_Q * HEAD_DIM; i += LOCAL) {
    const int q = min(i / HEAD_DIM, queries - 1);
    query[i / HEAD_DIM][i % HEAD_DIM] =
        scale * rows_load(qkv, (size_t)(token + q) * row + (size_t)head * HEAD_DIM + i % HEAD_DIM);
  }
  for (int q = lid; q < TILE_Q; q += LOCAL) {
    largest[q] = first_largest(sinks, head);
    sum[q] = SINKS ? 1.0f : 0.0f;
  }
  for (int q = 0; q < TILE_Q; q++)
    for (int c = 0; c < COLUMNS; c++) out[q][c] = 0.0f;
  const long end = end_key(context + token + queries - 1, num_keys, window);
  for (long tile = first_key(context + token, window); tile < end; tile += TILE_K) {
    const int count = (int)min((long)TILE_K, end - tile);
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int i = lid; i < count * HEAD_DIM; i += LOCAL)
      key[i / HEAD_DIM][i % HEAD_DIM] =
          storage_load(keys, key_at(kv_head, (ulong)capacity, (ulong)(tile + i / HEAD_DIM),
                                    HEAD_DIM, i % HEAD_DIM));
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int i = lid; i < TILE_Q * TILE_K; i += LOCAL) {
      const int q = i / TILE_K, k = i % TILE_K;
      const long position = context + token + q;
      float logit = 0.0f;
      for (int d = 0; k < count && d < HEAD_DIM; d++) logit = fma(query[q][d], key[k][d], logit);
      const bool seen = k < count && tile + k >= first_key(position, window) &&
                        tile + k < end_key(position, num_keys, window);
      share[q][k] = seen ? BIASED(logit, tile + k, position, head, num_heads) : -INFINITY;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int q = lid; q < TILE_Q; q += LOCAL) {
      float most = largest[q], total = 0.0f;
      for (int k = 0; k < TILE_K; k++) most = fmax(most, share[q][k]);
      for (int k = 0; k < TILE_K; k++) total += share[q][k] = exp(share[q][k] - most);
      factor[q] = exp(largest[q] - most);
      sum[q] = fma(sum[q], factor[q], total);
      largest[q] = most;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int c = 0; c < COLUMNS; c++) {
      const int column = c * LOCAL + lid;
      for (int q = 0; q < TILE_Q; q++) out[q][c] *= factor[q];
      for (int k = 0; column < HEAD_DIM && k < count; k++) {
        const float value = storage_load(
            values, value_at(kv_head, (ulong)capacity, (ulong)(tile + k)) + (size_t)column);
        for (int q = 0; q < TILE_Q; q++) out[q][c] = fma(share[q][k], value, out[q][c]);
      }
    }
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int q = 0; q < queries; q++)
    for (int column = lid; column < HEAD_DIM; column += LOCAL)
      output_store(out[q][column / LOCAL] / sum[q], output,
                   ((size_t)(token + q) * (size_t)num_heads + (size_t)head) * HEAD_DIM + column);
}
