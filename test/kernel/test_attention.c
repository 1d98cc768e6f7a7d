// SPDX-License-Identifier: MIT
/* Every variant of rotary and of attention against the reference, random and extreme: the
 * cached tokens are prepared first, then the new ones, then these look at all of them. */
#include "device_tensor.h"
#include "layers.h"
#include "op/attention/attention.h"
#include "op/rotary/rotary.h"
#include "ref/ref.h"
#include "spoil.h"
#include <math.h>
#include <unistd.h>

typedef struct attention_case {
  const char *name;
  int64_t context, tokens;
  desc_attention attention; /* scale 0: 1 / sqrt(head_dim) */
  double size, sinks;       /* of the numbers, and what is added to sinks */
  bool stored;              /* rows are of the storage type, else fp32 */
  moecl_dtype dtype;
} attention_case;

#define ROTARY(DIM)                                                                                \
  { .dim = DIM, .theta = 10000 }

static const attention_case cases[] = {
    {"one token of one head",
     0,
     1,
     {.num_heads = 1, .num_kv_heads = 1, .head_dim = 64, .causal = true, .rotary = ROTARY(64)},
     1,
     0,
     false,
     MOECL_F32},
    {"prefill, grouped, odd heads",
     0,
     77,
     {.num_heads = 9, .num_kv_heads = 3, .head_dim = 80, .causal = true, .rotary = ROTARY(80)},
     1,
     0,
     true,
     MOECL_F32},
    {"one query, long context",
     1000,
     1,
     {.num_heads = 8, .num_kv_heads = 2, .head_dim = 128, .causal = true, .rotary = ROTARY(128)},
     1,
     0,
     false,
     MOECL_BF16},
    {"window of one",
     5,
     35,
     {.num_heads = 2,
      .num_kv_heads = 1,
      .head_dim = 96,
      .causal = true,
      .window = 1,
      .rotary = ROTARY(48)},
     1,
     0,
     true,
     MOECL_F16},
    {"window, sinks",
     150,
     20,
     {.num_heads = 8,
      .num_kv_heads = 1,
      .head_dim = 64,
      .causal = true,
      .window = 70,
      .sinks = true,
      .rotary = {.dim = 64,
                 .theta = 150000,
                 .scaling = MOECL_ROPE_YARN,
                 .factor = 32,
                 .original_positions = 4096,
                 .beta_fast = 32,
                 .beta_slow = 1,
                 .not_truncated = true,
                 .attention_factor = 1.3465735902799727}},
     1,
     0,
     false,
     MOECL_BF16},
    {"nothing but sinks",
     3,
     4,
     {.num_heads = 3, .num_kv_heads = 3, .head_dim = 7, .causal = true, .sinks = true},
     1,
     1e4,
     false,
     MOECL_F32},
    {"not causal, heads' norms",
     0,
     40,
     {.num_heads = 4,
      .num_kv_heads = 2,
      .head_dim = 256,
      .qk_norm = MOECL_QK_NORM_HEAD,
      .qk_norm_epsilon = 1e-6,
      .rotary = ROTARY(256)},
     1,
     0,
     false,
     MOECL_F32},
    {"all heads' norm",
     11,
     30,
     {.num_heads = 5,
      .num_kv_heads = 5,
      .head_dim = 32,
      .causal = true,
      .qk_norm = MOECL_QK_NORM_FULL,
      .qk_norm_epsilon = 1e-5,
      .rotary = ROTARY(32)},
     1,
     0,
     false,
     MOECL_BF16},
    {"not causal, window, neighbours turned",
     9,
     90,
     {.num_heads = 2,
      .num_kv_heads = 2,
      .head_dim = 64,
      .window = 13,
      .qk_norm = MOECL_QK_NORM_HEAD,
      .qk_norm_epsilon = 1e-6,
      .qk_norm_plus_one = true,
      .rotary = {.dim = 20, .theta = 500000, .interleaved = true}},
     1,
     0,
     false,
     MOECL_F32},
    {"logits of 1e30",
     70,
     30,
     {.num_heads = 2, .num_kv_heads = 1, .head_dim = 64, .causal = true},
     1e15,
     0,
     false,
     MOECL_F32},
    {"far positions",
     3000,
     3,
     {.num_heads = 2, .num_kv_heads = 2, .head_dim = 16, .causal = true, .rotary = ROTARY(16)},
     1,
     0,
     false,
     MOECL_F32},
    {"many heads of one",
     0,
     3,
     {.num_heads = 71, .num_kv_heads = 1, .head_dim = 64, .causal = true, .rotary = ROTARY(64)},
     1,
     0,
     true,
     MOECL_BF16},
    /* Rows of the cache's type, as tensor cores take them: whole and split keys, more than a
     * tile, causal edges within one, heads of a group in one tile. */
    {"decode, Mixtral's heads",
     4096,
     1,
     {.num_heads = 32, .num_kv_heads = 8, .head_dim = 128, .causal = true, .rotary = ROTARY(128)},
     1,
     0,
     true,
     MOECL_BF16},
    {"decode, Qwen3's heads",
     1500,
     1,
     {.num_heads = 32, .num_kv_heads = 4, .head_dim = 128, .causal = true, .rotary = ROTARY(128)},
     1,
     0,
     true,
     MOECL_BF16},
    {"decode, a head of keys a head",
     777,
     1,
     {.num_heads = 3, .num_kv_heads = 3, .head_dim = 128, .causal = true, .rotary = ROTARY(128)},
     1,
     0,
     true,
     MOECL_F16},
    {"five tokens after many",
     2100,
     5,
     {.num_heads = 16, .num_kv_heads = 4, .head_dim = 128, .causal = true, .rotary = ROTARY(128)},
     1,
     0,
     true,
     MOECL_F16},
    {"empty cache",
     0,
     1,
     {.num_heads = 32, .num_kv_heads = 8, .head_dim = 128, .causal = true, .rotary = ROTARY(128)},
     1,
     0,
     true,
     MOECL_BF16},
    {"prefill, grouped",
     0,
     200,
     {.num_heads = 32, .num_kv_heads = 4, .head_dim = 128, .causal = true, .rotary = ROTARY(128)},
     1,
     0,
     true,
     MOECL_BF16},
    {"prefill, a head of keys a head",
     0,
     300,
     {.num_heads = 5, .num_kv_heads = 5, .head_dim = 128, .causal = true, .rotary = ROTARY(128)},
     1,
     0,
     true,
     MOECL_BF16},
    {"prefill after a cache",
     77,
     333,
     {.num_heads = 6, .num_kv_heads = 2, .head_dim = 64, .causal = true, .rotary = ROTARY(64)},
     1,
     0,
     true,
     MOECL_F16},
    {"windows, sinks, groups of eight",
     50,
     300,
     {.num_heads = 16,
      .num_kv_heads = 2,
      .head_dim = 64,
      .causal = true,
      .window = 128,
      .sinks = true,
      .rotary = ROTARY(64)},
     1,
     0,
     true,
     MOECL_BF16},
    {"one query, window, sinks",
     900,
     1,
     {.num_heads = 64,
      .num_kv_heads = 8,
      .head_dim = 64,
      .causal = true,
      .window = 128,
      .sinks = true,
      .rotary = ROTARY(64)},
     1,
     0,
     true,
     MOECL_BF16},
    {"one query, sinks",
     900,
     1,
     {.num_heads = 64,
      .num_kv_heads = 8,
      .head_dim = 64,
      .causal = true,
      .sinks = true,
      .rotary = ROTARY(64)},
     1,
     0,
     true,
     MOECL_BF16},
    {"window of one, stored",
     90,
     100,
     {.num_heads = 9,
      .num_kv_heads = 3,
      .head_dim = 128,
      .causal = true,
      .window = 1,
      .rotary = ROTARY(128)},
     1,
     0,
     true,
     MOECL_BF16},
    {"not causal, window",
     20,
     170,
     {.num_heads = 4, .num_kv_heads = 4, .head_dim = 96, .window = 40, .rotary = ROTARY(96)},
     1,
     0,
     true,
     MOECL_F16},
    {"not causal",
     0,
     150,
     {.num_heads = 7, .num_kv_heads = 7, .head_dim = 80, .rotary = ROTARY(80)},
     1,
     0,
     true,
     MOECL_BF16},
    {"heads of 72",
     130,
     70,
     {.num_heads = 4, .num_kv_heads = 2, .head_dim = 72, .causal = true, .rotary = ROTARY(72)},
     1,
     0,
     true,
     MOECL_F16},
    {"heads of 8",
     70,
     40,
     {.num_heads = 4, .num_kv_heads = 1, .head_dim = 8, .causal = true, .rotary = ROTARY(8)},
     1,
     0,
     true,
     MOECL_BF16},
    {"heads of 32",
     3,
     129,
     {.num_heads = 2, .num_kv_heads = 2, .head_dim = 32, .causal = true, .rotary = ROTARY(32)},
     1,
     0,
     true,
     MOECL_BF16},
    {"heads of 256",
     300,
     9,
     {.num_heads = 4, .num_kv_heads = 2, .head_dim = 256, .causal = true, .rotary = ROTARY(256)},
     1,
     0,
     true,
     MOECL_BF16},
    {"odd head",
     100,
     9,
     {.num_heads = 4, .num_kv_heads = 2, .head_dim = 67, .causal = true, .rotary = ROTARY(66)},
     1,
     0,
     true,
     MOECL_F16},
    /* T5's bias: distances beyond the largest on both sides, and most of them short. */
    {"relative bias, as Switch's encoder",
     0,
     301,
     {.num_heads = 12, .num_kv_heads = 12, .head_dim = 64, .scale = 1, .relative = {32, 128}},
     0.5,
     0,
     false,
     MOECL_BF16},
    {"relative bias, odd heads and buckets",
     0,
     43,
     {.num_heads = 9, .num_kv_heads = 3, .head_dim = 23, .relative = {7, 11}},
     1,
     0,
     true,
     MOECL_F32},
    {"relative bias, causal, after a cache",
     170,
     37,
     {.num_heads = 6, .num_kv_heads = 2, .head_dim = 64, .causal = true, .relative = {32, 128}},
     1,
     0,
     false,
     MOECL_F32},
    {"relative bias, one query, sinks",
     700,
     1,
     {.num_heads = 10,
      .num_kv_heads = 2,
      .head_dim = 40,
      .causal = true,
      .sinks = true,
      .relative = {16, 400}},
     1,
     0,
     true,
     MOECL_F16},
    {"relative bias, window, rotated",
     30,
     90,
     {.num_heads = 4,
      .num_kv_heads = 2,
      .head_dim = 32,
      .window = 21,
      .relative = {8, 30},
      .rotary = ROTARY(32)},
     1,
     0,
     true,
     MOECL_BF16},
    {"relative bias, one token",
     0,
     1,
     {.num_heads = 3, .num_kv_heads = 1, .head_dim = 16, .relative = {4, 2}},
     1,
     0,
     true,
     MOECL_F32},
    {"cut, heads' norms",
     7,
     30,
     {.num_heads = 4,
      .num_kv_heads = 2,
      .head_dim = 40,
      .causal = true,
      .qk_norm = MOECL_QK_NORM_HEAD,
      .qk_norm_epsilon = 1e-6,
      .clip = 0.75,
      .rotary = ROTARY(32)},
     1,
     0,
     false,
     MOECL_F32},
    {"cut, all heads' norm",
     0,
     33,
     {.num_heads = 3,
      .num_kv_heads = 3,
      .head_dim = 32,
      .causal = true,
      .qk_norm = MOECL_QK_NORM_FULL,
      .qk_norm_epsilon = 1e-5,
      .clip = 0.5,
      .rotary = ROTARY(32)},
     1,
     0,
     true,
     MOECL_BF16},
    {"head of one element",
     2,
     5,
     {.num_heads = 2, .num_kv_heads = 2, .head_dim = 1, .causal = true},
     1,
     0,
     false,
     MOECL_F32},
};

enum { CACHED, NEW, Q_NORM, K_NORM, SINKS, RELATIVE_BIAS, KEYS, VALUES, OUTPUT, PARTS, TENSORS };

typedef struct run {
  const attention_case *c;
  desc_attention what;
  const kernel_variant *rotary, *attention;
  op_cache_layout layout;
  int64_t capacity, keys;
  const desc_format *rows, *cache;
  device_tensor t[TENSORS];
  double *key, *value; /* [keys, num_kv_heads, head_dim], as the device has them */
} run;

static void check_close(const run *r, const char *what, const double *got, const double *want,
                        size_t count, double size, double tolerance) {
  for (size_t i = 0; i < count; i++) {
    if (fabs(got[i] - want[i]) <= tolerance * (size + fabs(want[i]))) continue;
    fprintf(stderr,
            "%s, rotary '%s', attention '%s', MOECL_TEST_SEED=%llu: %s[%zu] is %.9g, expected "
            "%.9g\n",
            r->c->name, r->rotary->name, r->attention->name, (unsigned long long)case_seed(), what,
            i, got[i], want[i]);
    fail();
  }
}

static double roundoff(const desc_format *format) {
  const moecl_dtype dtype = desc_format_dtype(format);
  return dtype == MOECL_BF16 ? 0x1p-8 : dtype == MOECL_F16 ? 0x1p-11 : 2e-6;
}

/* Caches full of NaN, so that what nobody wrote is seen where it is read. */
static run begin(const attention_case *c, const kernel_variant *rotary,
                 const kernel_variant *attention) {
  run r = {.c = c, .what = c->attention, .rotary = rotary, .attention = attention};
  const uint64_t seed = case_seed();
  desc_attention *what = &r.what;
  if (what->scale == 0) what->scale = 1 / sqrt((double)what->head_dim);
  r.layout = op_attention_layout(context, attention, what);
  r.cache = desc_format_of(c->dtype);
  r.rows = c->stored ? r.cache : desc_format_of(MOECL_F32);
  r.keys = c->context + c->tokens;
  r.capacity = (int64_t)op_cache_capacity(&r.layout, (uint64_t)r.keys + 5);
  const size_t row = (size_t)desc_qkv_size(what), queries = (size_t)desc_query_size(what);
  r.t[CACHED] = tensor_draw(r.rows, (size_t)c->context * row, seed, c->size, 0);
  r.t[NEW] = tensor_draw(r.rows, (size_t)c->tokens * row, seed + 1, c->size, 0);
  r.t[Q_NORM] = tensor_draw(r.cache, queries, seed + 2, 1, 0);
  r.t[K_NORM] = tensor_draw(r.cache, (size_t)desc_key_size(what), seed + 3, 1, 0);
  r.t[SINKS] = tensor_draw(r.cache, (size_t)what->num_heads, seed + 4, 1, c->sinks);
  const size_t biases = (size_t)(what->relative.num_buckets * what->num_heads);
  r.t[RELATIVE_BIAS] = tensor_draw(r.cache, biases, seed + 5, 2, 0);
  r.t[KEYS] = tensor_make(r.cache, (size_t)(r.capacity * desc_key_size(what)));
  r.t[VALUES] = tensor_make(
      r.cache, (size_t)(r.capacity * what->num_kv_heads * (int64_t)r.layout.value_stride));
  r.t[OUTPUT] = tensor_make(r.rows, (size_t)c->tokens * queries);
  return r;
}

/* Runs the tokens of `rows` behind `before` others; their queries, keys and values, which
 * have to be near the reference's, are then the device's. */
static void prepare(run *r, op_rotary *rotary, device_tensor *rows, int64_t before) {
  const desc_attention *what = &r->what;
  const int64_t row = desc_qkv_size(what), size = desc_query_size(what);
  const int64_t tokens = (int64_t)rows->count / row;
  const op_rotary_io io = {.num_tokens = tokens,
                           .context = before,
                           .capacity = r->capacity,
                           .qkv = rows->buffer,
                           .q_norm = r->t[Q_NORM].buffer,
                           .k_norm = r->t[K_NORM].buffer,
                           .keys = r->t[KEYS].buffer,
                           .values = r->t[VALUES].buffer};
  ocl_chain chain = {.context = context};
  assert_ok(op_rotary_enqueue(rotary, &chain, &io));
  double *got = tensor_read(rows), *keys = tensor_read(&r->t[KEYS]);
  double *values = tensor_read(&r->t[VALUES]);
  const double size_of_all = what->qk_norm ? 1 : r->c->size;
  for (int64_t t = 0; t < tokens; t++) {
    double *query = rows->values + t * row, *key = query + size, *value = key + desc_key_size(what);
    ref_prepare_heads(what, what->num_heads, before + t, r->t[Q_NORM].values, query);
    ref_prepare_heads(what, what->num_kv_heads, before + t, r->t[K_NORM].values, key);
    ref_clip(what, desc_key_size(what), value);
    check_close(r, "query", got + t * row, query, (size_t)size, size_of_all, roundoff(r->rows));
    memcpy(query, got + t * row, (size_t)size * sizeof *query);
    for (int64_t i = 0; i < desc_key_size(what); i++) {
      const int64_t head = i / what->head_dim, d = i % what->head_dim;
      const int64_t at = (before + t) * desc_key_size(what) + i;
      const uint64_t capacity = (uint64_t)r->capacity;
      r->key[at] = keys[op_cache_key_at(&r->layout, what->head_dim, capacity, head, before + t, d)];
      r->value[at] = values[op_cache_value_at(&r->layout, capacity, head, before + t, d)];
      check_close(r, "key", &r->key[at], &key[i], 1, size_of_all, roundoff(r->cache));
      check_close(r, "value", &r->value[at], &value[i], 1, 0, roundoff(r->cache));
    }
  }
  free(got), free(keys), free(values);
}

/* One launch, keys split or not; returns what was written, for the caller to free. */
static double *launch(run *r, op_attention *attention, bool split) {
  device_tensor *t = r->t;
  const op_attention_io io = {.num_tokens = r->c->tokens,
                              .context = r->c->context,
                              .capacity = r->capacity,
                              .qkv = t[NEW].buffer,
                              .keys = t[KEYS].buffer,
                              .values = t[VALUES].buffer,
                              .sinks = t[SINKS].buffer,
                              .relative_bias = t[RELATIVE_BIAS].buffer,
                              .output = t[OUTPUT].buffer,
                              .parts = split ? t[PARTS].buffer : NULL};
  ocl_chain chain = {.context = context};
  assert_ok(op_attention_enqueue(attention, &chain, &io));
  return tensor_read(&t[OUTPUT]);
}

/* Whole, then split, then split again: what an earlier launch left in the parts and counters
 * changes no bit. */
static void check_launches(run *r, op_attention *attention, double tolerance) {
  const size_t count = r->t[OUTPUT].count;
  const double *want = r->t[OUTPUT].values, size = r->c->size;
  double *whole = launch(r, attention, false);
  check_close(r, "output", whole, want, count, size, tolerance);
  const uint64_t bytes = op_attention_parts_bytes(attention, r->c->tokens);
  if (bytes > 0) {
    r->t[PARTS] = tensor_make(desc_format_of(MOECL_F32), (size_t)(bytes / sizeof(float)));
    double *split = launch(r, attention, true), *again = launch(r, attention, true);
    check_close(r, "output of split keys", split, want, count, size, tolerance);
    check_close(r, "output, once more", again, split, count, 0, 0);
    free(split), free(again);
  }
  if (attention->driver) { /* as where any number of blocks fills the device */
    attention->groups = 1;
    double *tall = launch(r, attention, false);
    check_close(r, "output of tall tiles", tall, want, count, size, tolerance);
    free(tall);
  }
  free(whole);
}

static void attend(run *r, op_attention *attention) {
  const desc_attention *what = &r->what;
  const int64_t tokens = r->c->tokens, size = desc_query_size(what), row = desc_qkv_size(what);
  double *queries = allocate((size_t)(tokens * size) * sizeof *queries);
  for (int64_t i = 0; i < tokens * size; i++)
    queries[i] = r->t[NEW].values[i / size * row + i % size];
  assert_ok(ref_attention(what, tokens, r->keys, queries, r->key, r->value, r->t[SINKS].values,
                          r->t[RELATIVE_BIAS].values, r->t[OUTPUT].values));
  /* Sums of values, of which each is exact. */
  check_launches(r, attention, r->rows == desc_format_of(MOECL_F32) ? 1e-5 : 2 * roundoff(r->rows));
  free(queries);
}

static void check(const attention_case *c, const kernel_variant *rotary_row,
                  const kernel_variant *attention_row) {
  run r = begin(c, rotary_row, attention_row);
  const size_t keys = (size_t)(r.keys * desc_key_size(&r.what));
  r.key = allocate(keys * sizeof(double));
  r.value = allocate(keys * sizeof(double));
  const op_rotary_desc rotary_desc = {r.what, r.layout, r.cache, r.rows};
  const op_attention_desc attention_desc = {r.what, r.cache, r.rows, r.rows};
  op_rotary rotary;
  op_attention attention;
  assert_ok(op_create(&op_rotary_kind, context, rotary_row, &rotary_desc, &rotary));
  assert_ok(op_create(&op_attention_kind, context, attention_row, &attention_desc, &attention));
  if (c->context > 0) prepare(&r, &rotary, &r.t[CACHED], 0);
  prepare(&r, &rotary, &r.t[NEW], c->context);
  attend(&r, &attention);
  op_rotary_kind.release(&rotary);
  op_attention_kind.release(&attention);
  tensor_release(r.t, TENSORS);
  free(r.key), free(r.value);
}

/* Rotary's of the same name, else that of any device. */
static const kernel_variant *rotary_for(const kernel_variant *attention) {
  const kernel_variant *found = NULL;
  for (size_t i = 0; i < op_rotary_table.count; i++) {
    const kernel_variant *row = &op_rotary_table.rows[i];
    if (strcmp(row->name, attention->name) == 0) return row;
    if (strcmp(row->name, "generic") == 0) found = row;
  }
  assert_non_null(found);
  return found;
}

static const char *only; /* the variant that is asked for; NULL: all */

static bool is_asked_for(const kernel_variant *variant) {
  return !only || strcmp(variant->name, only) == 0;
}

static bool accepts(const kernel_variant *variant, const attention_case *c) {
  const desc_format *cache = desc_format_of(c->dtype);
  const desc_format *rows = c->stored ? cache : desc_format_of(MOECL_F32);
  return kernel_variant_accepts(variant, &(op_attention_desc){c->attention, cache, rows, rows});
}

/* A work-item of the rows without work-groups goes over all keys with all of a head's elements,
 * for several queries: some drivers cut such loops short (MOECL_CAP_LONG_LOOPS). */
static bool cuts_short(const kernel_variant *variant, const attention_case *c) {
  enum { ROUNDS = 65535 };
  return !(context->info.capabilities & MOECL_CAP_LONG_LOOPS) &&
         (variant->local == 1 || (c->context + c->tokens) * c->attention.head_dim > ROUNDS);
}

/* GPUs' rows take a CPU's compiler long: there every second case. */
static bool is_left_out(const kernel_variant *variant, size_t number) {
  return (variant->required & ~context->info.capabilities) != 0 && number % 2 != 0;
}

static void test_attention(void **state) {
  (void)state;
  for (size_t v = 0; v < op_attention_table.count; v++) {
    const kernel_variant *attention = &op_attention_table.rows[v];
    size_t checked = 0;
    for (size_t i = 0; i < BASE_COUNT(cases); i++) {
      if (!is_asked_for(attention) || !serves_here(attention, cases[i].dtype) ||
          !accepts(attention, &cases[i]) || cuts_short(attention, &cases[i]) ||
          is_left_out(attention, i))
        continue;
      check(&cases[i], rotary_for(attention), attention);
      checked++;
    }
    if (checked > 0) print_message("attention '%s': %zu cases\n", attention->name, checked);
  }
}

/* ---- mistakes planted in kernels, that their self-checks find ---- */

static const struct {
  const char *variant, *from, *to;
  bool window, relative;
} plants[] = {
    {"gpu", "key >= first && key < behind", "key < behind", true},
    {"gpu", "key >= first && key < behind", "key >= first && key <= behind", true},
    {"gpu", "sum[r] = fma(sum[r], factor[r], total)", "sum[r] += total", false},
    {"gpu", "factor[r] = exp(largest[r] - most)", "factor[r] = 1.0f", false},
    {"gpu", "fma(exp(scales[2 * s] - most), scales[2 * s + 1], whole)", "whole + scales[2 * s + 1]",
     false},
    {"gpu", "tile + key, position, head", "tile + key, position + 1, head", .relative = true},
    {"gpu", "(int)(row % GROUP)", "0", .relative = true},
    {"generic", "tile + k, position, head", "k, position, head", .relative = true},
    {"cpu", "r % GROUP, num_heads", "r / GROUP, num_heads", .relative = true},
    {"serial", "BIASED(share[r * TILE + k], tile + k", "BIASED(share[r * TILE + k], tile",
     .relative = true},
    {"nvidia_sm80", "j / 2 * 8 + j % 2 < from ||", "", true},
    {"nvidia_sm80", "*sum *= factor;", "", false},
    {"nvidia_sm80", "x4.trans.shared", "x4.shared", false},
    {"nvidia_sm80", "a[4 * t + 3], v.z, v.w);", "a[4 * t + 3], v.x, v.y);", false},
    {"nvidia_sm80", "whole = share * scale.y;", "whole = scale.y;", false},
};

static const kernel_variant *find_row(const char *name) {
  for (size_t i = 0; i < op_attention_table.count; i++)
    if (strcmp(op_attention_table.rows[i].name, name) == 0) return &op_attention_table.rows[i];
  fail_msg("there is no variant %s", name);
  return NULL;
}

/* What the variant's self-check says of the kernels below `root`. */
static moecl_status check_below(const char *root, const kernel_variant *variant, bool window,
                                bool relative) {
  char kernels[96], cache[96];
  snprintf(kernels, sizeof kernels, "%s/cl", root);
  snprintf(cache, sizeof cache, "%s/cache", root);
  const desc_format *bf16 = desc_format_of(MOECL_BF16);
  const op_attention_desc desc = {
      .attention = {.num_heads = 8,
                    .num_kv_heads = 2,
                    .head_dim = 64,
                    .causal = true,
                    .window = window ? 100 : 0,
                    .scale = 0.125,
                    .sinks = true,
                    .relative = {relative ? 32 : 0, relative ? 128 : 0}},
      .cache = bf16,
      .rows = bf16,
      .output = bf16};
  const moecl_context_params params = {
      .kernel_dir = kernels, .cache_dir = cache, .disable_cache = !keeps_programs()};
  moecl_context *spoilt = NULL;
  assert_ok(moecl_context_create(&params, &spoilt));
  const moecl_status status = op_attention_self_check(spoilt, variant, &desc);
  moecl_context_destroy(&spoilt);
  return status;
}

static void test_plants(void **state) {
  char root[] = "/tmp/moecl-attention-XXXXXX", command[96];
  (void)state;
  assert_non_null(mkdtemp(root));
  for (size_t i = 0; i < BASE_COUNT(plants); i++) {
    const kernel_variant *variant = find_row(plants[i].variant);
    const bool window = plants[i].window, relative = plants[i].relative;
    if (!is_asked_for(variant) || !serves_here(variant, MOECL_BF16)) continue;
    spoil_kernels(root, variant->source, plants[i].from, plants[i].from);
    assert_ok(check_below(root, variant, window, relative)); /* as it is */
    spoil_kernels(root, variant->source, plants[i].from, plants[i].to);
    const moecl_status status = check_below(root, variant, window, relative);
    if (status != MOECL_ERROR_BUILD)
      fail_msg("attention '%s' with \"%s\" for \"%s\": its self-check says %s", variant->name,
               plants[i].to, plants[i].from, moecl_status_string(status));
  }
  snprintf(command, sizeof command, "rm -rf '%s'", root);
  assert_int_equal(system(command), 0);
}

/* usage: test_attention [VARIANT] */
int main(int argc, char **argv) {
  only = argc > 1 ? argv[1] : NULL;
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_attention),
                                     cmocka_unit_test(test_plants)};
  skip_without_device();
  const moecl_context_params params = {.log = log_problem};
  if (moecl_context_create(&params, &context) != MOECL_OK) return 1;
  const int failed = cmocka_run_group_tests_name("attention", tests, NULL, NULL);
  moecl_context_destroy(&context);
  return failed ? 1 : 0;
}
