/* Operations one by one: permute and combine against plain C, and the router's
 * choice on logits that are hard to choose from. */
#include "../unit/unit.h"
#include "layers.h"
#include "op/combine.h"
#include "op/grouped_gemm.h"
#include "op/permute.h"
#include <math.h>
#ifdef __GLIBC__
#include <malloc.h> /* mallopt */
#endif

static moecl_context *context;
static uint64_t random_state;

static void log_problem(void *user, moecl_log_level level, const char *message) {
  (void)user;
  if (level <= MOECL_LOG_WARNING) fprintf(stderr, "%s\n", message);
}

/* SplitMix64 (Steele, Lea, Flood 2014). */
static uint64_t random_bits(void) {
  uint64_t z = random_state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}
static int64_t random_below(int64_t bound) { return (int64_t)(random_bits() % (uint64_t)bound); }
static float random_float(void) { return (float)(random_bits() >> 40) * 0x1p-24f; }

static void *allocate(size_t bytes) {
  void *memory = calloc(bytes + 1, 1);
  assert_non_null(memory);
  return memory;
}

/* A buffer of `count` 4-byte elements; NULL: garbage. */
static moecl_buffer *words(const void *data, uint64_t count) {
  moecl_buffer *buffer = NULL;
  assert_ok(moecl_buffer_create(context, count * 4, &buffer));
  if (data) assert_ok(moecl_buffer_write_wait(buffer, 0, count * 4, data));
  else assert_ok(moecl_buffer_fill_byte(buffer, 0, count * 4, 0xcd));
  return buffer;
}

static void same_words(const char *what, const char *name, moecl_buffer *buffer,
                       const int32_t *want, uint64_t count) {
  int32_t *got = allocate(count * 4);
  assert_ok(moecl_buffer_read_wait(buffer, 0, count * 4, got));
  for (uint64_t i = 0; i < count; i++)
    if (got[i] != want[i]) {
      fprintf(stderr, "%s, MOECL_TEST_SEED=%llu: %s[%llu] is %d, expected %d\n", what,
              (unsigned long long)case_seed(), name, (unsigned long long)i, got[i], want[i]);
      fail();
    }
  free(got);
}

/* ---- permute ---- */

typedef enum id_fill { IDS_RANDOM, IDS_HOT, IDS_SPARSE, IDS_HOLES } id_fill;

typedef struct permute_case {
  const char *name;
  int64_t tokens, experts, top_k;
  id_fill fill;
  double capacity_factor;
  int64_t min_capacity;
  moecl_drop_policy policy;
  int distinct_weights; /* 0: all different */
} permute_case;

/* Different ids for each token: all of random experts, expert 3 always first, a
 * few experts only, or with tokens routed nowhere. */
static void draw_ids(const permute_case *c, int32_t *ids) {
  const int64_t few = c->top_k * 2 < c->experts ? c->top_k * 2 : c->experts;
  for (int64_t t = 0; t < c->tokens; t++) {
    const bool nowhere = c->fill == IDS_HOLES && random_below(3) == 0;
    for (int64_t k = 0; k < c->top_k; k++) {
      bool again = true;
      while (again) {
        ids[k] = (int32_t)random_below(c->fill == IDS_SPARSE ? few : c->experts);
        if (c->fill == IDS_HOT && k == 0) ids[k] = (int32_t)(c->experts > 3 ? 3 : 0);
        again = false;
        for (int64_t j = 0; j < k; j++) again |= ids[j] == ids[k];
      }
    }
    for (int64_t k = 0; nowhere && k < c->top_k; k++) ids[k] = -1;
    ids += c->top_k;
  }
}

static void draw_weights(const permute_case *c, float *weights) {
  for (int64_t i = 0; i < c->tokens * c->top_k; i++)
    weights[i] = c->distinct_weights ? (float)random_below(c->distinct_weights) / 8
                                     : random_float();
}

typedef struct permuted {
  int32_t *tokens_per_expert, *expert_offsets, *tile_offsets, *slot_token, *assignment_slot;
  int64_t slots;
} permuted;

/* The order in which an expert's assignments are listed. */
static int64_t listed(const moecl_layer_params *layer, int64_t tokens, int64_t p) {
  const bool by_choice = layer->capacity_factor > 0 && layer->drop_policy == MOECL_DROP_POSITION;
  return by_choice ? p % tokens * layer->top_k + p / tokens : p;
}

/* Plain C: kept from the reference, then each expert's list, one after another. */
static void model(const moecl_layer_params *layer, int64_t tokens, int32_t tile_m,
                  const int32_t *ids, const float *weights, permuted *p) {
  const int64_t experts = layer->num_experts, all = tokens * layer->top_k;
  uint8_t *kept = allocate((size_t)all);
  int32_t *next = allocate((size_t)experts * 4);
  assert_ok(moecl_reference_capacity(layer, tokens, ids, weights, kept));
  p->tokens_per_expert = allocate((size_t)experts * 4);
  p->expert_offsets = allocate(((size_t)experts + 1) * 4);
  p->tile_offsets = allocate(((size_t)experts + 1) * 4);
  p->slot_token = allocate((size_t)all * 4);
  p->assignment_slot = allocate((size_t)all * 4);
  for (int64_t i = 0; i < all; i++) {
    if (ids[i] < 0) continue;
    p->tokens_per_expert[ids[i]]++;
    p->expert_offsets[ids[i] + 1] += kept[i];
  }
  for (int64_t e = 0; e < experts; e++) {
    p->tile_offsets[e + 1] = p->tile_offsets[e] + (p->expert_offsets[e + 1] + tile_m - 1) / tile_m;
    p->expert_offsets[e + 1] += p->expert_offsets[e];
    next[e] = p->expert_offsets[e];
  }
  p->slots = p->expert_offsets[experts];
  for (int64_t q = 0; q < all; q++) {
    const int64_t i = listed(layer, tokens, q);
    p->assignment_slot[i] = -1;
    if (!kept[i]) continue;
    p->slot_token[next[ids[i]]] = (int32_t)(i / layer->top_k);
    p->assignment_slot[i] = next[ids[i]]++;
  }
  free(kept);
  free(next);
}

static void release_model(permuted *p) {
  free(p->tokens_per_expert);
  free(p->expert_offsets);
  free(p->tile_offsets);
  free(p->slot_token);
  free(p->assignment_slot);
}

static void check_permute(const permute_case *c, const kernel_variant *variant) {
  const moecl_layer_params layer = {.num_experts = c->experts, .top_k = c->top_k,
                                    .hidden_size = 1, .intermediate_size = 1,
                                    .capacity_factor = c->capacity_factor,
                                    .min_capacity = c->min_capacity, .drop_policy = c->policy};
  const uint64_t all = (uint64_t)(c->tokens * c->top_k), experts = (uint64_t)c->experts;
  int32_t *ids = allocate(all * 4);
  float *weights = allocate(all * 4);
  draw_ids(c, ids);
  draw_weights(c, weights);
  permuted want;
  op_permute permute;
  model(&layer, c->tokens, 48, ids, weights, &want);
  assert_ok(op_permute_create(context, variant, &layer, &permute));
  moecl_buffer *b[] = {words(ids, all),
                       words(weights, all),
                       words(NULL, op_permute_blocks(c->tokens, c->top_k) * experts),
                       words(NULL, experts),
                       words(NULL, experts + 1),
                       words(NULL, experts + 1),
                       words(NULL, experts + 1),
                       words(NULL, all),
                       words(NULL, all),
                       words(NULL, all)};
  const op_permute_io io = {.num_tokens = c->tokens, .topk_ids = b[0], .topk_weights = b[1],
                            .block_counts = b[2], .tokens_per_expert = b[3],
                            .expert_offsets = b[4], .tile_offsets = b[5], .all_offsets = b[6],
                            .slot_token = b[7], .assignment_slot = b[8], .order = b[9],
                            .tile_m = 48};
  ocl_chain chain = {.context = context};
  assert_ok(op_permute_enqueue(&permute, &chain, &io));
  same_words(c->name, "tokens_per_expert", b[3], want.tokens_per_expert, experts);
  same_words(c->name, "expert_offsets", b[4], want.expert_offsets, experts + 1);
  same_words(c->name, "tile_offsets", b[5], want.tile_offsets, experts + 1);
  same_words(c->name, "assignment_slot", b[8], want.assignment_slot, all);
  same_words(c->name, "slot_token", b[7], want.slot_token, (uint64_t)want.slots);
  for (size_t i = 0; i < sizeof b / sizeof b[0]; i++) moecl_buffer_destroy(&b[i]);
  op_permute_release(&permute);
  release_model(&want);
  free(ids);
  free(weights);
}

#define POSITION MOECL_DROP_POSITION
#define PROBABILITY MOECL_DROP_PROBABILITY
static const permute_case permute_cases[] = {
    {"one assignment", 1, 1, 1, IDS_RANDOM, 0, 0, POSITION, 0},
    {"one block exactly", 128, 8, 2, IDS_RANDOM, 0, 0, POSITION, 0},
    {"one more than a block", 257, 8, 1, IDS_RANDOM, 0, 0, POSITION, 0},
    {"many blocks", 30011, 60, 4, IDS_RANDOM, 0, 0, POSITION, 0},
    {"1024 experts", 700, 1024, 64, IDS_RANDOM, 0, 0, POSITION, 0},
    {"one expert has all", 5000, 1, 1, IDS_HOT, 0, 0, POSITION, 0},
    {"hot", 5000, 16, 2, IDS_HOT, 0, 0, POSITION, 0},
    {"empty experts", 999, 200, 3, IDS_SPARSE, 0, 0, POSITION, 0},
    {"nowhere", 999, 7, 3, IDS_HOLES, 0, 0, POSITION, 0},
    {"position", 3001, 13, 5, IDS_RANDOM, 0.9, 0, POSITION, 0},
    {"position, hot", 3001, 16, 2, IDS_HOT, 1.0, 0, POSITION, 0},
    {"position, many blocks", 30011, 60, 4, IDS_SPARSE, 1.0, 0, POSITION, 0},
    {"position, nowhere", 999, 7, 3, IDS_HOLES, 0.5, 0, POSITION, 0},
    {"position, min_capacity", 50, 1024, 4, IDS_HOT, 0.001, 2, POSITION, 0},
    {"probability", 3001, 13, 5, IDS_RANDOM, 0.9, 0, PROBABILITY, 0},
    {"probability, hot", 3001, 16, 2, IDS_HOT, 1.0, 0, PROBABILITY, 0},
    {"probability, many blocks", 30011, 60, 4, IDS_SPARSE, 1.0, 0, PROBABILITY, 0},
    {"probability, nowhere", 999, 7, 3, IDS_HOLES, 0.5, 0, PROBABILITY, 0},
    {"probability, 1024 experts", 300, 1024, 64, IDS_RANDOM, 0.8, 0, PROBABILITY, 0},
    {"probability, min_capacity", 50, 1024, 4, IDS_HOT, 0.001, 2, PROBABILITY, 0},
    {"probability, ties", 3001, 13, 5, IDS_RANDOM, 0.7, 0, PROBABILITY, 5},
    {"probability, all tied", 3001, 13, 5, IDS_HOT, 0.7, 0, PROBABILITY, 1}, /* weights of 0 */
    {"probability, enough for all", 300, 13, 5, IDS_HOT, 13.0, 0, PROBABILITY, 3},
};

static void test_permute(void **state) {
  (void)state;
  const kernel_variant *variants;
  const size_t count = kernel_variants("permute", &variants);
  for (size_t v = 0; v < count; v++)
    for (size_t i = 0; i < sizeof permute_cases / sizeof permute_cases[0]; i++)
      if (kernel_variant_serves(&variants[v], MOECL_F32, context->info.capabilities))
        check_permute(&permute_cases[i], &variants[v]);
}

/* ---- the router's choice ---- */

typedef enum logit_fill {
  LOGITS_RANDOM,
  LOGITS_EQUAL,    /* all the same: ids 0 to K-1 */
  LOGITS_TIED,     /* few different values */
  LOGITS_FAR,      /* up to +-1e30: the softmax underflows */
  LOGITS_ZEROS,    /* +0 and -0, which are equal */
  LOGITS_NONFINITE /* every other token has a NaN or infinity */
} logit_fill;

static void draw_logits(logit_fill fill, int64_t tokens, int64_t experts, float *logits) {
  static const float bad[] = {NAN, INFINITY, -INFINITY};
  for (int64_t i = 0; i < tokens * experts; i++) {
    const float x = random_float() * 8 - 4;
    switch (fill) {
    case LOGITS_EQUAL: logits[i] = 1.5f; break;
    case LOGITS_TIED: logits[i] = floorf(x); break;
    case LOGITS_FAR: logits[i] = (x > 0 ? 1.0f : -1.0f) * powf(10, x * 7.5f); break;
    case LOGITS_ZEROS: logits[i] = x > 0 ? 0.0f : -0.0f; break;
    default: logits[i] = x;
    }
  }
  for (int64_t t = 0; fill == LOGITS_NONFINITE && t < tokens; t += 2)
    logits[t * experts + random_below(experts)] = bad[t / 2 % 3];
}

typedef struct topk_case {
  int64_t tokens, experts, top_k;
  logit_fill fill;
} topk_case;

static void check_topk_token(const moecl_layer_params *layer, const char *variant,
                             const float *logits, const int32_t *ids, const float *weights) {
  double exact[MOECL_MAX_EXPERTS], want[MOECL_MAX_TOP_K];
  int32_t want_ids[MOECL_MAX_TOP_K];
  moecl_to_double(MOECL_F32, logits, (size_t)layer->num_experts, exact);
  moecl_reference_topk(layer, exact, want_ids, want, NULL);
  for (int64_t k = 0; k < layer->top_k; k++) {
    /* The rounding of logit - maximum makes far ones inexact, but not large. */
    if (ids[k] == want_ids[k] && fabs(weights[k] - want[k]) <= 1e-5 * want[k] + 1e-37) continue;
    fprintf(stderr, "%s router, E=%lld K=%lld, MOECL_TEST_SEED=%llu: choice %lld is expert %d of "
                    "%.9g, expected %d of %.9g\n",
            variant, (long long)layer->num_experts, (long long)layer->top_k,
            (unsigned long long)case_seed(), (long long)k, ids[k], weights[k], want_ids[k],
            want[k]);
    fail();
  }
}

static void check_topk(const kernel_variant *variant, const topk_case *c, bool renormalize) {
  const moecl_layer_params layer = {
      .num_experts = c->experts, .top_k = c->top_k, .renormalize = renormalize};
  const uint64_t all = (uint64_t)(c->tokens * c->top_k);
  float *logits = allocate((size_t)(c->tokens * c->experts) * 4), *weights = allocate(all * 4);
  int32_t *ids = allocate(all * 4);
  draw_logits(c->fill, c->tokens, c->experts, logits);
  ocl_kernel *kernel = NULL;
  assert_ok(ocl_kernel_create(context, variant->source,
                              renormalize ? "RENORMALIZE 1\n" : "RENORMALIZE 0\n", "topk", &kernel));
  moecl_buffer *input = words(logits, (uint64_t)(c->tokens * c->experts));
  moecl_buffer *chosen = words(NULL, all), *weight = words(NULL, all);
  ocl_chain chain = {.context = context};
  assert_ok(ocl_kernel_args(kernel, "bbbii", input, chosen, weight, (int32_t)c->experts,
                            (int32_t)c->top_k));
  assert_ok(ocl_launch(&chain, kernel, (uint64_t)c->tokens, variant->local));
  assert_ok(moecl_buffer_read_wait(chosen, 0, all * 4, ids));
  assert_ok(moecl_buffer_read_wait(weight, 0, all * 4, weights));
  for (int64_t t = 0; t < c->tokens; t++)
    check_topk_token(&layer, variant->name, logits + t * c->experts, ids + t * c->top_k,
                     weights + t * c->top_k);
  moecl_buffer_destroy(&input);
  moecl_buffer_destroy(&chosen);
  moecl_buffer_destroy(&weight);
  ocl_kernel_destroy(&kernel);
  free(logits);
  free(weights);
  free(ids);
}

static void test_topk(void **state) {
  static const topk_case cases[] = {
      {100, 8, 2, LOGITS_RANDOM},    {9, 1024, 64, LOGITS_RANDOM},  {30, 63, 63, LOGITS_RANDOM},
      {30, 64, 64, LOGITS_TIED},     {30, 65, 7, LOGITS_TIED},      {5, 1024, 64, LOGITS_EQUAL},
      {5, 1, 1, LOGITS_RANDOM},      {50, 130, 1, LOGITS_TIED},     {20, 33, 32, LOGITS_FAR},
      {20, 8, 8, LOGITS_FAR},        {20, 40, 20, LOGITS_ZEROS},    {40, 60, 4, LOGITS_NONFINITE},
      {7, 1, 1, LOGITS_NONFINITE},   {9, 1024, 64, LOGITS_NONFINITE}};
  const kernel_variant *variants;
  const size_t count = kernel_variants("router", &variants);
  (void)state;
  for (size_t v = 0; v < count; v++)
    for (size_t i = 0; i < 2 * sizeof cases / sizeof cases[0]; i++)
      if (kernel_variant_serves(&variants[v], MOECL_F32, context->info.capabilities))
        check_topk(&variants[v], &cases[i / 2], i % 2);
}

/* ---- combine ---- */

/* Is `got` the exact number rounded to nearest, but for an fp32 sum's rounding? */
static bool is_nearest(moecl_dtype dtype, double got, double exact) {
  static const int bits[] = {24, 11, 8}; /* of the significands */
  int exponent;
  frexp(exact, &exponent);
  const double half = dtype == MOECL_F32 ? 0 : ldexp(1, exponent - bits[dtype] - 1);
  return fabs(got - exact) <= half + 1e-5 * fmax(fabs(exact), 1);
}

static void check_combine(const kernel_variant *variant, int64_t tokens, int64_t hidden,
                          int64_t top_k, moecl_dtype dtype, bool input_f32) {
  const moecl_layer_params layer = {.hidden_size = hidden, .top_k = top_k, .dtype = dtype};
  const moecl_dtype from = input_f32 ? MOECL_F32 : dtype;
  const size_t all = (size_t)(tokens * top_k), rows = all + 1, out = (size_t)(tokens * hidden);
  double *values = allocate(rows * (size_t)hidden * 8), *want = allocate(out * 8);
  double *got = allocate(out * 8);
  void *raw = allocate(rows * (size_t)hidden * 4);
  int32_t *slots = allocate(all * 4);
  float *weights = allocate(all * 4);
  for (size_t i = 0; i < rows * (size_t)hidden; i++) values[i] = random_float() - 0.5;
  moecl_from_double(from, values, rows * (size_t)hidden, raw);
  moecl_to_double(from, raw, rows * (size_t)hidden, values);
  for (size_t i = 0; i < all; i++) {
    slots[i] = random_below(4) ? (int32_t)random_below((int64_t)rows) : -1;
    if (i < (size_t)top_k) slots[i] = -1; /* the first token is dropped fully */
    weights[i] = random_float();
    for (int64_t h = 0; slots[i] >= 0 && h < hidden; h++)
      want[(int64_t)i / top_k * hidden + h] += (double)weights[i] * values[slots[i] * hidden + h];
  }
  moecl_buffer *input = NULL, *output = NULL, *slot = words(slots, all), *weight = words(weights, all);
  assert_ok(moecl_buffer_create(context, rows * (size_t)hidden * moecl_dtype_size(from), &input));
  assert_ok(moecl_buffer_write_wait(input, 0, moecl_buffer_size(input), raw));
  assert_ok(moecl_buffer_create(context, out * moecl_dtype_size(dtype), &output));
  assert_ok(moecl_buffer_fill_byte(output, 0, moecl_buffer_size(output), 0xff));
  op_combine combine;
  assert_ok(op_combine_create(context, variant, &layer, input_f32, &combine));
  ocl_chain chain = {.context = context};
  const op_combine_io io = {.num_tokens = tokens, .expert_output = input, .assignment_slot = slot,
                            .topk_weights = weight, .output = output};
  assert_ok(op_combine_enqueue(&combine, &chain, &io));
  assert_ok(moecl_buffer_read_wait(output, 0, moecl_buffer_size(output), raw));
  moecl_to_double(dtype, raw, out, got);
  for (int64_t h = 0; h < hidden; h++) assert_true(got[h] == 0.0 && !signbit(got[h]));
  for (size_t i = 0; i < out; i++) assert_true(is_nearest(dtype, got[i], want[i]));
  op_combine_release(&combine);
  moecl_buffer *buffers[] = {input, output, slot, weight};
  for (int i = 0; i < 4; i++) moecl_buffer_destroy(&buffers[i]);
  free(values), free(want), free(got), free(raw), free(slots), free(weights);
}

static void test_combine(void **state) {
  static const int64_t sizes[][3] = {{20, 64, 2}, {33, 67, 5}, {3, 1, 1}, {7, 257, 64}, {2, 3000, 3}};
  const kernel_variant *variants;
  const size_t count = kernel_variants("combine", &variants);
  (void)state;
  for (size_t v = 0; v < count; v++)
    for (int dtype = 0; dtype < MOECL_DTYPE_COUNT; dtype++) {
      if (!kernel_variant_serves(&variants[v], (moecl_dtype)dtype, context->info.capabilities))
        continue;
      for (size_t i = 0; i < 2 * sizeof sizes / sizeof sizes[0]; i++)
        check_combine(&variants[v], sizes[i / 2][0], sizes[i / 2][1], sizes[i / 2][2],
                      (moecl_dtype)dtype, i % 2);
    }
}

/* ---- more than 2^31 elements ---- */

/* A row so far into a matrix of `width` columns that its elements' numbers need
 * more than 32 bits, or as far as the device's largest allocation lets it be.
 * The memory before it is never touched. */
static int32_t far_row(int64_t width, size_t element_size) {
  const int64_t wanted = (INT64_C(1) << 31) / width + 5;
  const int64_t rows =
      (int64_t)(context->info.max_allocation_bytes / (uint64_t)width / element_size);
  const int64_t row = rows - 8 < wanted ? rows - 8 : wanted;
  if (row < wanted)
    printf("SKIP: no element beyond 2^31, the device's allocations are too small; beyond %lld\n",
           (long long)(row * width));
  assert_true(row > 0);
  return (int32_t)row;
}

/* Three rows of ones through a GEMM whose row r, column c weighs 1 + c % 7. */
static void check_far_gemm(const kernel_variant *variant, int64_t n, int64_t k) {
  enum { ROWS = 3 };
  const bool f32 = variant->flags & KERNEL_F32_ACTIVATIONS;
  const moecl_dtype rows_type = f32 ? MOECL_F32 : MOECL_BF16;
  const size_t size = moecl_dtype_size(rows_type);
  const op_gemm_shape shape = {.num_experts = 1, .n = n, .k = k, .dtype = MOECL_BF16,
                               .input_f32 = f32, .output_f32 = f32};
  const int32_t row = far_row(n > k ? n : k, size), offsets[2] = {row, row + ROWS}, tiles[2] = {0, 1};
  const uint64_t in_at = (uint64_t)row * (uint64_t)k * size, in_bytes = ROWS * (uint64_t)k * size;
  const uint64_t out_at = (uint64_t)row * (uint64_t)n * size, out_bytes = ROWS * (uint64_t)n * size;
  const size_t most = (size_t)(n > k ? n : k) * ROWS, count = (size_t)(n * k);
  double *values = allocate((most > count ? most : count) * 8);
  void *raw = allocate((most > count ? most : count) * 4);
  moecl_buffer *input = NULL, *output = NULL, *weights = NULL;
  op_gemm *gemm = NULL;
  assert_ok(moecl_buffer_create(context, in_at + in_bytes, &input));
  assert_ok(moecl_buffer_create(context, out_at + out_bytes, &output));
  assert_ok(moecl_buffer_create(context, count * 2, &weights));
  for (size_t i = 0; i < count; i++) values[i] = (double)(1 + (int64_t)i / k % 7);
  moecl_from_double(MOECL_BF16, values, count, raw);
  assert_ok(moecl_buffer_write_wait(weights, 0, count * 2, raw));
  /* Row r has r + 1 ones in its first columns, then zeros, so that sums are small. */
  for (int64_t i = 0; i < ROWS * k; i++) values[i] = i % k <= i / k;
  moecl_from_double(rows_type, values, (size_t)(ROWS * k), raw);
  assert_ok(moecl_buffer_write_wait(input, in_at, in_bytes, raw));
  assert_ok(op_gemm_create(context, variant, &shape, &gemm));
  assert_ok(op_gemm_set_weights(gemm, 0, 1, weights, 0));
  moecl_buffer *offset = words(offsets, 2), *tile = words(tiles, 2);
  ocl_chain chain = {.context = context};
  const op_gemm_io io = {.input = input, .expert_offsets = offset, .tile_offsets = tile,
                         .output = output, .rows = ROWS};
  const bool beyond = (int64_t)(row + ROWS) * (n > k ? n : k) > INT32_MAX;
  if (variant->flags & KERNEL_LIBRARY && beyond) { /* 32-bit by nature: refused, not wrong */
    assert_int_equal(op_gemm_enqueue(gemm, &chain, &io), MOECL_ERROR_UNSUPPORTED);
  } else {
    assert_ok(op_gemm_enqueue(gemm, &chain, &io));
    assert_ok(moecl_buffer_read_wait(output, out_at, out_bytes, raw));
    moecl_to_double(rows_type, raw, (size_t)(ROWS * n), values);
    for (int64_t i = 0; i < ROWS * n; i++)
      assert_true(values[i] == (double)((i / n + 1) * (1 + i % n % 7)));
  }
  op_gemm_destroy(&gemm);
  moecl_buffer *buffers[] = {input, output, weights, offset, tile};
  for (int i = 0; i < 5; i++) moecl_buffer_destroy(&buffers[i]);
  free(values), free(raw);
}

/* meson has glibc write over all memory that is allocated or freed
 * (MALLOC_PERTURB_); gigabytes of it are better left alone. */
static int leave_memory_alone(void **state) {
  (void)state;
#ifdef M_PERTURB
  mallopt(M_PERTURB, 0);
#endif
  return 0;
}

static void test_far_gemm(void **state) {
  const kernel_variant *variants;
  const size_t count = kernel_variants("grouped_gemm", &variants);
  (void)state;
  for (size_t v = 0; v < count; v++) {
    if (!kernel_variant_serves(&variants[v], MOECL_BF16, context->info.capabilities)) continue;
    check_far_gemm(&variants[v], 70001, 4);
    check_far_gemm(&variants[v], 4, 70001);
  }
}

/* A token's rows lie at the beginning of expert_output and beyond 2^31. */
static void check_far_combine(const kernel_variant *variant) {
  enum { WIDTH = 70001 };
  const moecl_layer_params layer = {.hidden_size = WIDTH, .top_k = 2, .dtype = MOECL_BF16};
  const int32_t slots[2] = {0, far_row(WIDTH, 2)};
  const float weights[2] = {0.5f, 2.0f};
  const uint64_t row = WIDTH * 2, at = (uint64_t)slots[1] * row;
  uint16_t *raw = allocate(row);
  double *values = allocate(WIDTH * 8);
  moecl_buffer *input = NULL, *output = NULL;
  moecl_buffer *slot = words(slots, 2), *weight = words(weights, 2);
  op_combine combine;
  assert_ok(moecl_buffer_create(context, at + row, &input));
  assert_ok(moecl_buffer_create(context, row, &output));
  for (int64_t i = 0; i < WIDTH; i++) values[i] = (double)(i % 32);
  moecl_from_double(MOECL_BF16, values, WIDTH, raw);
  assert_ok(moecl_buffer_write_wait(input, 0, row, raw));
  assert_ok(moecl_buffer_write_wait(input, at, row, raw));
  assert_ok(op_combine_create(context, variant, &layer, false, &combine));
  ocl_chain chain = {.context = context};
  const op_combine_io io = {.num_tokens = 1, .expert_output = input, .assignment_slot = slot,
                            .topk_weights = weight, .output = output};
  assert_ok(op_combine_enqueue(&combine, &chain, &io));
  assert_ok(moecl_buffer_read_wait(output, 0, row, raw));
  moecl_to_double(MOECL_BF16, raw, WIDTH, values);
  for (int64_t i = 0; i < WIDTH; i++) assert_true(values[i] == 2.5 * (double)(i % 32));
  op_combine_release(&combine);
  moecl_buffer *buffers[] = {input, output, slot, weight};
  for (int i = 0; i < 4; i++) moecl_buffer_destroy(&buffers[i]);
  free(raw), free(values);
}

static void test_far_combine(void **state) {
  const kernel_variant *variants;
  const size_t count = kernel_variants("combine", &variants);
  (void)state;
  for (size_t v = 0; v < count; v++)
    if (kernel_variant_serves(&variants[v], MOECL_BF16, context->info.capabilities))
      check_far_combine(&variants[v]);
}

static int seed_again(void **state) {
  (void)state;
  random_state = case_seed();
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test_setup(test_permute, seed_again),
                                     cmocka_unit_test_setup(test_topk, seed_again),
                                     cmocka_unit_test_setup(test_combine, seed_again),
                                     cmocka_unit_test_setup(test_far_gemm, leave_memory_alone),
                                     cmocka_unit_test_setup(test_far_combine, leave_memory_alone)};
  skip_without_device();
  const moecl_context_params params = {.log = log_problem};
  if (moecl_context_create(&params, &context) != MOECL_OK) return 1;
  const int failed = cmocka_run_group_tests_name("ops", tests, NULL, NULL);
  moecl_context_destroy(&context);
  return failed ? 1 : 0;
}
