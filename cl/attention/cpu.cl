// SPDX-License-Identifier: MIT
/* attention.clh for CPUs: a work-item has QUERIES queries of all heads that share keys and
 * values, its rows, and reads those once for all of them. Keys lie in blocks of two vectors,
 * so that a row's logits are an element of the query times vectors of keys; values' columns
 * are taken two vectors at a time. VECTOR_WIDTH: 4, 8 or 16; KEY_BLOCK is twice that, and
 * VALUE_STRIDE a multiple of it. */
#include "attention/attention.clh"
#include "common/cpu.clh"
#define MOST_ROWS (QUERIES * GROUP)
#define TILE 64 /* keys between two looks at the largest logit, a multiple of KEY_BLOCK */

/* logits_M: share[M][TILE] from a block on = M queries times a block of keys. */
#define DEFINE_LOGITS(M)                                                                           \
  static inline void logits_##M(const float *query, const __global storage_t *key, float *share) { \
    floatv low[M], high[M];                                                                        \
    _Pragma("unroll") for (int i = 0; i < M; i++) low[i] = high[i] = 0.0f;                         \
    for (int d = 0; d < HEAD_DIM; d++) {                                                           \
      const floatv l = storage_loadv(key + (size_t)d * KEY_BLOCK);                                 \
      const floatv h = storage_loadv(key + (size_t)d * KEY_BLOCK + VECTOR_WIDTH);                  \
      _Pragma("unroll") for (int i = 0; i < M; i++) {                                              \
        const floatv x = query[i * HEAD_DIM + d];                                                  \
        low[i] = MULTIPLY_ADD(x, l, low[i]);                                                       \
        high[i] = MULTIPLY_ADD(x, h, high[i]);                                                     \
      }                                                                                            \
    }                                                                                              \
    _Pragma("unroll") for (int i = 0; i < M; i++) {                                                \
      vstorev(low[i], 0, share + i * TILE);                                                        \
      vstorev(high[i], 1, share + i * TILE);                                                       \
    }                                                                                              \
  }

/* values_M: out[M][VALUE_STRIDE] += shares[M][TILE] times `count` values. */
#define DEFINE_VALUES(M)                                                                           \
  static inline void values_##M(const float *share, const __global storage_t *value, int count,    \
                                float *out) {                                                      \
    for (int column = 0; column < VALUE_STRIDE; column += 2 * VECTOR_WIDTH) {                      \
      floatv low[M], high[M];                                                                      \
      _Pragma("unroll") for (int i = 0; i < M; i++) {                                              \
        low[i] = vloadv(0, out + i * VALUE_STRIDE + column);                                       \
        high[i] = vloadv(1, out + i * VALUE_STRIDE + column);                                      \
      }                                                                                            \
      const __global storage_t *v = value + column;                                                \
      for (int k = 0; k < count; k++, v += VALUE_STRIDE) {                                         \
        const floatv l = storage_loadv(v);                                                         \
        const floatv h = storage_loadv(v + VECTOR_WIDTH);                                          \
        _Pragma("unroll") for (int i = 0; i < M; i++) {                                            \
          const floatv x = share[i * TILE + k];                                                    \
          low[i] = MULTIPLY_ADD(x, l, low[i]);                                                     \
          high[i] = MULTIPLY_ADD(x, h, high[i]);                                                   \
        }                                                                                          \
      }                                                                                            \
      _Pragma("unroll") for (int i = 0; i < M; i++) {                                              \
        vstorev(low[i], 0, out + i * VALUE_STRIDE + column);                                       \
        vstorev(high[i], 1, out + i * VALUE_STRIDE + column);                                      \
      }                                                                                            \
    }                                                                                              \
  }

DEFINE_LOGITS(1)
DEFINE_LOGITS(2)
DEFINE_LOGITS(4)
DEFINE_VALUES(1)
DEFINE_VALUES(2)
DEFINE_VALUES(4)

/* A row's logits to its shares, relative to the largest one so far. */
static inline void weigh(float *share, float *largest, float *sum, float *out) {
  floatv most = vloadv(0, share);
  for (int i = 1; i < TILE / VECTOR_WIDTH; i++) most = fmax(most, vloadv(i, share));
  const float now = largest_of(most);
  if (now > *largest) {
    const float factor = exp(*largest - now);
    for (int i = 0; i < VALUE_STRIDE / VECTOR_WIDTH; i++) vstorev(vloadv(i, out) * factor, i, out);
    *sum *= factor;
    *largest = now;
  }
  floatv total = 0.0f;
  for (int i = 0; i < TILE / VECTOR_WIDTH; i++) {
    const floatv x = exp(vloadv(i, share) - *largest);
    vstorev(x, i, share);
    total += x;
  }
  *sum += sum_of(total);
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void
attention(const __global rows_t *qkv, const __global storage_t *keys,
          const __global storage_t *values, const __global storage_t *sinks,
          __global output_t *output, long num_tokens, long context, long capacity, int num_heads,
          long window, float scale RELATIVE_BIAS) {
  float query[MOST_ROWS * HEAD_DIM], out[MOST_ROWS * VALUE_STRIDE], share[MOST_ROWS * TILE];
  float largest[MOST_ROWS], sum[MOST_ROWS];
  const int kv_heads = num_heads / GROUP;
  const ulong kv_head = get_group_id(0) % (ulong)kv_heads;
  const long blocks = (num_tokens + QUERIES - 1) / QUERIES;
  /* The last queries first: they look at most keys. */
  const long token = (blocks - 1 - (long)(get_group_id(0) / (ulong)kv_heads)) * QUERIES;
  const int queries = (int)min((long)QUERIES, num_tokens - token), rows = queries * GROUP;
  const long num_keys = context + num_tokens;
  const size_t token_size = (size_t)(num_heads + 2 * kv_heads) * HEAD_DIM;
  for (int r = 0; r < rows; r++) {
    const int head = (int)kv_head * GROUP + r % GROUP;
    const size_t at = (size_t)(token + r / GROUP) * token_size + (size_t)head * HEAD_DIM;
    for (int d = 0; d < HEAD_DIM; d++) query[r * HEAD_DIM + d] = scale * rows_load(qkv, at + d);
    for (int d = 0; d < VALUE_STRIDE; d++) out[r * VALUE_STRIDE + d] = 0.0f;
    largest[r] = first_largest(sinks, head);
    sum[r] = SINKS ? 1.0f : 0.0f;
  }
  const long end = end_key(context + token + queries - 1, num_keys, window);
  long tile = first_key(context + token, window) / KEY_BLOCK * KEY_BLOCK;
  for (; tile < end; tile += TILE) {
    const int count = (int)min((long)TILE, end - tile);
    for (int k = 0; k < count; k += KEY_BLOCK) {
      const __global storage_t *key =
          keys + key_at(kv_head, (ulong)capacity, (ulong)(tile + k), HEAD_DIM, 0);
      int r = 0;
      for (; r + 4 <= rows; r += 4) logits_4(query + r * HEAD_DIM, key, share + r * TILE + k);
      for (; r + 2 <= rows; r += 2) logits_2(query + r * HEAD_DIM, key, share + r * TILE + k);
      for (; r < rows; r++) logits_1(query + r * HEAD_DIM, key, share + r * TILE + k);
    }
    for (int r = 0; r < rows; r++) {
      const long position = context + token + r / GROUP;
      const int first = (int)clamp(first_key(position, window) - tile, 0L, (long)TILE);
      const int behind = (int)clamp(end_key(position, num_keys, window) - tile, 0L, (long)TILE);
#if MAX_DISTANCE > 0
      for (int k = first; k < behind; k++)
        share[r * TILE + k] = BIASED(share[r * TILE + k], tile + k, position,
                                     (int)kv_head * GROUP + r % GROUP, num_heads);
#endif
      for (int k = 0; k < first; k++) share[r * TILE + k] = -INFINITY;
      for (int k = behind; k < TILE; k++) share[r * TILE + k] = -INFINITY;
      weigh(share + r * TILE, &largest[r], &sum[r], out + r * VALUE_STRIDE);
    }
    const __global storage_t *value = values + value_at(kv_head, (ulong)capacity, (ulong)tile);
    int r = 0;
    for (; r + 4 <= rows; r += 4) values_4(share + r * TILE, value, count, out + r * VALUE_STRIDE);
    for (; r + 2 <= rows; r += 2) values_2(share + r * TILE, value, count, out + r * VALUE_STRIDE);
    for (; r < rows; r++) values_1(share + r * TILE, value, count, out + r * VALUE_STRIDE);
  }
  for (int r = 0; r < rows; r++) {
    const size_t head = (size_t)kv_head * GROUP + (size_t)(r % GROUP);
    const size_t at = ((size_t)(token + r / GROUP) * (size_t)num_heads + head) * HEAD_DIM;
    const float share_of_all = 1.0f / sum[r];
    for (int d = 0; d < HEAD_DIM; d++)
      output_store(out[r * VALUE_STRIDE + d] * share_of_all, output, at + d);
  }
}
