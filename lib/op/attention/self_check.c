// SPDX-License-Identifier: MIT
#include "op/attention/attention.h"
#include "op/check.h"
#include "ref/ref.h"
#include <stdlib.h>

/* More keys than a tile, more queries than a block of few heads, and cached tokens: two
 * groups of heads, of the sizes that the program is for. */
enum { KV_HEADS = 2, CONTEXT = 150, TOKENS = 37, FEW_TOKENS = 9, MANY_HEADS = 8, WINDOW = 11 };
enum { QKV, KEYS, VALUES, SINKS, RELATIVE_BIAS, OUTPUT, PARTS, TENSORS };

typedef struct problem {
  const desc_attention *attention;
  int64_t tokens, keys, capacity;
  double *qkv, *queries, *key, *value, *sinks; /* [tokens or keys, ...] */
  double *relative_bias;
  double *stored_keys, *stored_values; /* as the variant has them */
  double *want;
} problem;

static void release(problem *p) {
  double *const all[] = {p->qkv,           p->queries,     p->key,           p->value, p->sinks,
                         p->relative_bias, p->stored_keys, p->stored_values, p->want};
  for (size_t i = 0; i < BASE_COUNT(all); i++) free(all[i]);
}

/* Of the relative bias; one where there is none. */
static size_t num_biases(const desc_attention *what) {
  return what->relative.num_buckets > 0 ? (size_t)(what->relative.num_buckets * what->num_heads)
                                        : 1;
}

static double *zeros(int64_t count) { return calloc((size_t)count, sizeof(double)); }

static bool make(problem *p, const op_cache_layout *layout) {
  const desc_attention *what = p->attention;
  const int64_t outputs = p->tokens * desc_query_size(what);
  const int64_t row = desc_qkv_size(what);
  uint32_t state = 1;
  p->capacity = (int64_t)op_cache_capacity(layout, (uint64_t)p->keys);
  p->qkv = check_values((size_t)(p->tokens * row), &state);
  p->key = check_values((size_t)(p->keys * desc_key_size(what)), &state);
  p->value = check_values((size_t)(p->keys * desc_key_size(what)), &state);
  p->sinks = check_values((size_t)what->num_heads, &state);
  p->relative_bias = check_values(num_biases(what), &state);
  p->queries = zeros(outputs);
  p->want = zeros(outputs);
  p->stored_keys = zeros(p->capacity * desc_key_size(what));
  p->stored_values = zeros(p->capacity * what->num_kv_heads * layout->value_stride);
  if (!p->qkv || !p->key || !p->value || !p->sinks || !p->relative_bias || !p->queries ||
      !p->want || !p->stored_keys || !p->stored_values)
    return false;
  const int64_t dim = what->head_dim, size = desc_query_size(what);
  for (int64_t i = 0; i < outputs; i++) p->queries[i] = p->qkv[i / size * row + i % size];
  for (int64_t i = 0; i < p->keys * desc_key_size(what); i++) {
    const int64_t token = i / desc_key_size(what), head = i / dim % what->num_kv_heads, d = i % dim;
    const uint64_t capacity = (uint64_t)p->capacity;
    p->stored_keys[op_cache_key_at(layout, dim, capacity, head, token, d)] = p->key[i];
    p->stored_values[op_cache_value_at(layout, capacity, head, token, d)] = p->value[i];
  }
  return true;
}

/* Buffers of an earlier problem go. */
static moecl_status upload(moecl_context *context, const op_attention *attention, const problem *p,
                           moecl_buffer **b) {
  const desc_attention *what = p->attention;
  const desc_format *cache = attention->desc.cache;
  const uint64_t tokens = (uint64_t)p->tokens, capacity = (uint64_t)p->capacity;
  const uint64_t value_size = (uint64_t)what->num_kv_heads * attention->layout.value_stride;
  for (int i = 0; i < TENSORS; i++) moecl_buffer_destroy(&b[i]);
  MOECL_TRY(check_upload(context, attention->desc.rows, p->qkv, tokens,
                         (uint64_t)desc_qkv_size(what), &b[QKV]));
  MOECL_TRY(check_upload(context, cache, p->stored_keys, capacity, (uint64_t)desc_key_size(what),
                         &b[KEYS]));
  MOECL_TRY(check_upload(context, cache, p->stored_values, capacity, value_size, &b[VALUES]));
  MOECL_TRY(check_upload(context, cache, p->sinks, 1, (uint64_t)what->num_heads, &b[SINKS]));
  MOECL_TRY(check_upload(context, cache, p->relative_bias, 1, num_biases(what), &b[RELATIVE_BIAS]));
  return moecl_buffer_create(
      context, desc_format_bytes(attention->desc.output, tokens, (uint64_t)desc_query_size(what)),
      &b[OUTPUT]);
}

static moecl_status compare(check_run *run, op_attention *attention, problem *p, bool split) {
  moecl_buffer **b = run->buffer;
  const uint64_t parts = split ? op_attention_parts_bytes(attention, p->tokens) : 0;
  if (!make(p, &attention->layout)) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  MOECL_TRY(upload(run->context, attention, p, b));
  if (parts > 0) MOECL_TRY(moecl_buffer_create(run->context, parts, &b[PARTS]));
  const op_attention_io io = {.num_tokens = p->tokens,
                              .context = p->keys - p->tokens,
                              .capacity = p->capacity,
                              .qkv = b[QKV],
                              .keys = b[KEYS],
                              .values = b[VALUES],
                              .sinks = b[SINKS],
                              .relative_bias = b[RELATIVE_BIAS],
                              .output = b[OUTPUT],
                              .parts = b[PARTS]};
  ocl_chain chain = {.context = run->context};
  MOECL_TRY(op_attention_enqueue(attention, &chain, &io));
  MOECL_TRY(ref_attention(p->attention, p->tokens, p->keys, p->queries, p->key, p->value, p->sinks,
                          p->relative_bias, p->want));
  return check_numbers(run, "output", b[OUTPUT], attention->desc.output, (uint64_t)p->tokens,
                       (uint64_t)desc_query_size(p->attention), p->want,
                       (check_tolerance){1e-2, 1e-2});
}

static moecl_status check_tokens(check_run *run, op_attention *attention, int64_t tokens,
                                 bool split) {
  problem p = {.attention = &attention->desc.attention, .tokens = tokens, .keys = CONTEXT + tokens};
  const moecl_status status = compare(run, attention, &p, split);
  release(&p);
  return status;
}

/* With a driver every kernel that it has, and keys whole and split. */
static moecl_status check(check_run *run, void *op) {
  op_attention *attention = op;
  const desc_attention *what = &attention->desc.attention;
  const int64_t group = what->num_heads / what->num_kv_heads;
  int64_t tokens = group < MANY_HEADS ? TOKENS : FEW_TOKENS;
  if (attention->driver) tokens += attention->driver->few_rows / group;
  MOECL_TRY(check_tokens(run, attention, tokens, false));
  if (!attention->driver) return MOECL_OK;
  MOECL_TRY(check_tokens(run, attention, tokens, true));
  MOECL_TRY(check_tokens(run, attention, 1, false));
  MOECL_TRY(check_tokens(run, attention, 1, true));
  attention->groups = 1; /* any number of blocks fills such a device */
  return check_tokens(run, attention, tokens, false);
}

moecl_status op_attention_self_check(moecl_context *context, const kernel_variant *variant,
                                     const void *desc) {
  check_run run = {&op_attention_kind, context, variant, {NULL}};
  op_attention_desc small = *(const op_attention_desc *)desc;
  desc_attention *what = &small.attention;
  op_attention attention;
  what->num_heads = KV_HEADS * (what->num_heads / what->num_kv_heads);
  what->num_kv_heads = KV_HEADS;
  if (what->window > 0) what->window = WINDOW;
  MOECL_TRY(check_begin(&run, &small, &attention));
  ocl_kernel *const kernels[] = {attention.kernel, attention.few, attention.combine};
  return check_end(&run, &attention, kernels, BASE_COUNT(kernels), check);
}
