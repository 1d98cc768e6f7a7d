// SPDX-License-Identifier: MIT
#include "op/check.h"
#include "op/rotary/rotary.h"
#include "ref/ref.h"
#include <stdlib.h>
#include <string.h>

/* Tokens on both sides of a block of keys, however long it is. Before the new tokens' the
 * caches hold numbers that have to stay as they are. */
enum { HEADS = 6, KV_HEADS = 2, TOKENS = 9, CONTEXT = 28, ALL_TOKENS = TOKENS + CONTEXT };
enum { QKV, Q_NORM, K_NORM, KEYS, VALUES, TENSORS };

typedef struct problem {
  const op_rotary_desc *desc;
  int64_t capacity;
  size_t count[TENSORS];
  double *value[TENSORS]; /* before, then as they should be */
} problem;

static bool make(problem *p) {
  const desc_attention *what = &p->desc->attention;
  uint32_t state = 1;
  bool made = true;
  p->capacity = (int64_t)op_cache_capacity(&p->desc->layout, ALL_TOKENS);
  p->count[QKV] = (size_t)(TOKENS * desc_qkv_size(what));
  p->count[Q_NORM] = (size_t)desc_query_size(what);
  p->count[K_NORM] = (size_t)desc_key_size(what);
  p->count[KEYS] = (size_t)(p->capacity * desc_key_size(what));
  p->count[VALUES] = (size_t)(p->capacity * KV_HEADS * p->desc->layout.value_stride);
  for (int i = 0; i < TENSORS; i++) {
    p->value[i] = check_values(p->count[i], &state);
    made = made && p->value[i];
  }
  return made;
}

static void release(problem *p) {
  for (int i = 0; i < TENSORS; i++) free(p->value[i]);
}

/* One token: queries in place, keys and values in the cache. */
static void expect(problem *p, int64_t token) {
  const desc_attention *what = &p->desc->attention;
  const op_cache_layout *layout = &p->desc->layout;
  const int64_t key_size = desc_key_size(what), dim = what->head_dim, at = CONTEXT + token;
  const uint64_t capacity = (uint64_t)p->capacity;
  double *query = p->value[QKV] + token * desc_qkv_size(what);
  double *key = query + desc_query_size(what);
  ref_prepare_heads(what, HEADS, at, p->value[Q_NORM], query);
  double turned[KV_HEADS * OP_ATTENTION_MOST_HEAD_DIM], value[BASE_COUNT(turned)];
  memcpy(turned, key, (size_t)key_size * sizeof *turned);
  ref_prepare_heads(what, KV_HEADS, at, p->value[K_NORM], turned);
  memcpy(value, key + key_size, (size_t)key_size * sizeof *value);
  ref_clip(what, key_size, value);
  for (int64_t i = 0; i < key_size; i++) {
    p->value[KEYS][op_cache_key_at(layout, dim, capacity, i / dim, at, i % dim)] = turned[i];
    p->value[VALUES][op_cache_value_at(layout, capacity, i / dim, at, i % dim)] = value[i];
  }
}

static moecl_status compare(check_run *run, op_rotary *rotary, problem *p) {
  const desc_format *rows = p->desc->rows, *cache = p->desc->cache;
  moecl_buffer **b = run->buffer;
  const check_tolerance tolerance = {1e-2, 1e-2};
  if (!make(p)) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  for (int i = 0; i < TENSORS; i++)
    MOECL_TRY(
        check_upload(run->context, i == QKV ? rows : cache, p->value[i], 1, p->count[i], &b[i]));
  const op_rotary_io io = {TOKENS,    CONTEXT,   p->capacity, b[QKV],
                           b[Q_NORM], b[K_NORM], b[KEYS],     b[VALUES]};
  ocl_chain chain = {.context = run->context};
  MOECL_TRY(op_rotary_enqueue(rotary, &chain, &io));
  for (int64_t token = 0; token < TOKENS; token++) expect(p, token);
  MOECL_TRY(
      check_numbers(run, "queries", b[QKV], rows, 1, p->count[QKV], p->value[QKV], tolerance));
  MOECL_TRY(
      check_numbers(run, "keys", b[KEYS], cache, 1, p->count[KEYS], p->value[KEYS], tolerance));
  return check_numbers(run, "values", b[VALUES], cache, 1, p->count[VALUES], p->value[VALUES],
                       tolerance);
}

static moecl_status check(check_run *run, void *op) {
  op_rotary *rotary = op;
  problem p = {.desc = &rotary->desc};
  const moecl_status status = compare(run, rotary, &p);
  release(&p);
  return status;
}

moecl_status op_rotary_self_check(moecl_context *context, const kernel_variant *variant,
                                  const void *desc) {
  check_run run = {&op_rotary_kind, context, variant, {NULL}};
  op_rotary_desc small = *(const op_rotary_desc *)desc;
  op_rotary rotary;
  small.attention.num_heads = HEADS;
  small.attention.num_kv_heads = KV_HEADS;
  if (small.attention.clip > 0) small.attention.clip = 0.5; /* some numbers are beyond it */
  MOECL_TRY(check_begin(&run, &small, &rotary));
  return check_end(&run, &rotary, &rotary.kernel, 1, check);
}
