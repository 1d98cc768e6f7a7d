// SPDX-License-Identifier: MIT
/* Few tokens' routing in one launch: of every number of tokens that it serves the logits against
 * double precision, the choice against the router's own kernel on those logits, bit for bit, the
 * lists against plain C; and the same bits whatever tokens are beside one. */
#include "base/base.h"
#include "layers.h"
#include "op/route/route.h"
#include "ops.h"
#include <math.h>

enum { MOST = 256 };

typedef struct route_case {
  const char *name;
  desc_rule rule;
  int64_t hidden;
  bool bias;
  int step; /* between numbers of tokens; the last is MOST */
} route_case;

#define PLAIN .scoring = MOECL_SCORING_SOFTMAX, .routed_scaling_factor = 1
static const route_case cases[] = {
    {"softmax", {.num_experts = 20, .top_k = 5, PLAIN}, 40, false, 15},
    {"renormalized, bias",
     {.num_experts = 131, .top_k = 8, .renormalize = true, PLAIN},
     1096,
     true,
     51},
    {"grouped",
     {.num_experts = 64,
      .top_k = 6,
      .scoring = MOECL_SCORING_SIGMOID,
      .score_correction_bias = true,
      .num_expert_group = 8,
      .topk_group = 4,
      .group_score = MOECL_GROUP_TOP2_SUM,
      .renormalize = true,
      .routed_scaling_factor = 2.5f},
     72,
     false,
     37},
    {"second by chance",
     {.num_experts = 33,
      .top_k = 2,
      .second_choice = MOECL_SECOND_RANDOM,
      .renormalize = true,
      PLAIN},
     16,
     false,
     17},
    {"one expert", {.num_experts = 1, .top_k = 1, PLAIN}, 8, false, 85},
    {"512 experts", {.num_experts = 512, .top_k = 64, PLAIN}, 104, false, 127}};

/* Numbers of a storage type, as doubles too; the caller frees both. */
typedef struct numbers {
  double *exact;
  moecl_buffer *buffer;
} numbers;

static uint64_t random_state;

static double random_value(void) {
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return (double)(int64_t)random_state * 0x1p-63;
}

static numbers upload(moecl_dtype dtype, double *values, size_t count) {
  numbers made = {values, NULL};
  const uint64_t bytes = desc_format_bytes(desc_format_of(dtype), 1, count);
  void *raw = allocate(bytes);
  moecl_from_double(dtype, values, count, raw);
  moecl_to_double(dtype, raw, count, values);
  assert_ok(moecl_buffer_create(context, bytes, &made.buffer));
  assert_ok(moecl_buffer_write_wait(made.buffer, 0, bytes, raw));
  free(raw);
  return made;
}

static numbers draw(moecl_dtype dtype, size_t count, double scale) {
  double *values = allocate(count * sizeof *values);
  for (size_t i = 0; i < count; i++) values[i] = scale * random_value();
  return upload(dtype, values, count);
}

/* Tokens of zeros, of which all logits tie, of infinities, NaN, and the largest numbers, in
 * different places of their blocks. */
static numbers draw_hidden(moecl_dtype dtype, int64_t hidden) {
  double *values = allocate((size_t)(MOST * hidden) * sizeof *values);
  for (int64_t i = 0; i < MOST * hidden; i++) {
    const int64_t t = i / hidden, k = i % hidden;
    values[i] = random_value();
    if (t % 37 == 5) values[i] = 0;
    if (t % 37 == 9 && k == hidden / 2) values[i] = t % 2 ? INFINITY : -INFINITY;
    if (t % 37 == 16 && k == 3 % hidden) values[i] = NAN;
    if (t % 37 == 31) values[i] *= 0x1p14;
  }
  return upload(dtype, values, (size_t)(MOST * hidden));
}

typedef struct made {
  moecl_dtype dtype;
  const route_case *source;
  const kernel_variant *variant;
  op_route route;
  op_router router;
  numbers hidden, weights, bias, correction;
  moecl_buffer *out[9], *again[2]; /* of op_route_io's order below; the router's ids and weights */
  float *logits; /* of MOST tokens, which come first: fewer have to be the beginning of these */
} made;

enum { LOGITS, IDS, WEIGHTS, COUNTS, OFFSETS, TILES, ALL, TOKENS, SLOTS };
enum { TILE_ROWS = 48 };

static void wrong(const made *m, int64_t tokens, const char *what, int64_t at, double got,
                  double want) {
  fail_msg("%s, %s, %s, %lld tokens, MOECL_TEST_SEED=%llu: %s[%lld] is %g, expected %g",
           m->source->name, m->variant->name, moecl_dtype_name(m->dtype), (long long)tokens,
           (unsigned long long)case_seed(), what, (long long)at, got, want);
}

static int32_t *read_words(const moecl_buffer *buffer, int64_t count) {
  int32_t *words = allocate((size_t)count * 4);
  assert_ok(moecl_buffer_read_wait(buffer, 0, (uint64_t)count * 4, words));
  return words;
}

static void check_same(const made *m, int64_t tokens, const char *what, const moecl_buffer *buffer,
                       const int32_t *want, int64_t count) {
  int32_t *got = read_words(buffer, count);
  for (int64_t i = 0; i < count; i++)
    if (got[i] != want[i]) wrong(m, tokens, what, i, got[i], want[i]);
  free(got);
}

/* A logit's error is a part of what its terms come to. */
static void check_logits(const made *m, int64_t tokens, const float *logits) {
  const int64_t experts = m->source->rule.num_experts, hidden = m->source->hidden;
  for (int64_t i = 0; i < tokens * experts; i++) {
    const double *x = m->hidden.exact + i / experts * hidden;
    const double *w = m->weights.exact + i % experts * hidden;
    double sum = m->source->bias ? m->bias.exact[i % experts] : 0, size = fabs(sum);
    for (int64_t k = 0; k < hidden; k++) sum += x[k] * w[k], size += fabs(x[k] * w[k]);
    const double got = (double)logits[i];
    if (isfinite(sum) ? !(fabs(got - sum) <= 1e-6 * size) : isfinite(got))
      wrong(m, tokens, "logits", i, got, sum);
  }
}

static void check_lists(const made *m, int64_t tokens, const int32_t *ids) {
  const int64_t experts = m->source->rule.num_experts, all = tokens * m->source->rule.top_k;
  int32_t *counts = allocate((size_t)experts * 4), *offsets = allocate((size_t)experts * 4 + 4);
  int32_t *tiles = allocate((size_t)experts * 4 + 4);
  int32_t *list = allocate((size_t)all * 4), *slots = allocate((size_t)all * 4), slot = 0;
  for (int64_t p = 0; p < all; p++) slots[p] = -1;
  for (int32_t e = 0; e < experts; e++) {
    for (int64_t p = 0; p < all; p++)
      if (ids[p] == e) list[slot] = (int32_t)(p / m->source->rule.top_k), slots[p] = slot++;
    counts[e] = slot - offsets[e];
    offsets[e + 1] = slot;
    tiles[e + 1] = tiles[e] + (counts[e] + TILE_ROWS - 1) / TILE_ROWS;
  }
  check_same(m, tokens, "tokens_per_expert", m->out[COUNTS], counts, experts);
  check_same(m, tokens, "expert_offsets", m->out[OFFSETS], offsets, experts + 1);
  check_same(m, tokens, "all_offsets", m->out[ALL], offsets, experts + 1);
  check_same(m, tokens, "tile_offsets", m->out[TILES], tiles, experts + 1);
  check_same(m, tokens, "slot_token", m->out[TOKENS], list, slot);
  check_same(m, tokens, "assignment_slot", m->out[SLOTS], slots, all);
  free(counts), free(offsets), free(tiles), free(list), free(slots);
}

static void run(made *m, int64_t tokens) {
  const op_route_io io = {.hidden_states = m->hidden.buffer,
                          .router = {.num_tokens = tokens,
                                     .seed = 77,
                                     .first_token = 3,
                                     .logits = m->out[LOGITS],
                                     .correction_bias = m->correction.buffer,
                                     .topk_ids = m->out[IDS],
                                     .topk_weights = m->out[WEIGHTS]},
                          .permute = {.num_tokens = tokens,
                                      .tokens_per_expert = m->out[COUNTS],
                                      .expert_offsets = m->out[OFFSETS],
                                      .tile_offsets = m->out[TILES],
                                      .all_offsets = m->out[ALL],
                                      .slot_token = m->out[TOKENS],
                                      .assignment_slot = m->out[SLOTS],
                                      .tile_m = TILE_ROWS}};
  ocl_chain chain = {.context = context};
  for (int i = 0; i < 9; i++)
    assert_ok(moecl_buffer_fill_byte(m->out[i], 0, moecl_buffer_size(m->out[i]), 0xcd));
  assert_ok(op_route_enqueue(&m->route, &chain, &io));
}

/* What a device leaves that fails, or is reset, in the middle of a launch: some work-groups have
 * run and the last ones have not. The arguments are those of the launch before. */
static void run_half_way(made *m, int64_t tokens) {
  const uint64_t experts = (uint64_t)m->source->rule.num_experts;
  const uint64_t groups =
      base_div_up((uint64_t)tokens, m->variant->tile_m) * base_div_up(experts, m->variant->tile_n);
  ocl_chain chain = {.context = context};
  assert_ok(ocl_launch(&chain, m->route.kernel, groups - 1, m->variant->local));
}

/* The router's kernel of the same variant on the logits that were made. */
static void choose_again(made *m, int64_t tokens) {
  moecl_buffer *counts = NULL;
  const uint64_t blocks = op_permute_most_blocks(tokens, m->source->rule.top_k);
  assert_ok(moecl_buffer_create(context, (blocks + 1) * (uint64_t)m->source->rule.num_experts * 4,
                                &counts));
  const op_router_io io = {.num_tokens = tokens,
                           .seed = 77,
                           .first_token = 3,
                           .logits = m->out[LOGITS],
                           .correction_bias = m->correction.buffer,
                           .topk_ids = m->again[0],
                           .topk_weights = m->again[1],
                           .block_counts = counts};
  ocl_chain chain = {.context = context};
  assert_ok(op_router_enqueue(&m->router, &chain, &io));
  assert_ok(moecl_context_finish_wait(context));
  moecl_buffer_destroy(&counts);
}

static void check_tokens(made *m, int64_t tokens) {
  const int64_t experts = m->source->rule.num_experts, all = tokens * m->source->rule.top_k;
  run(m, tokens);
  int32_t *ids = read_words(m->out[IDS], all), *weights = read_words(m->out[WEIGHTS], all);
  check_same(m, tokens, "logits", m->out[LOGITS], (const int32_t *)m->logits, tokens * experts);
  choose_again(m, tokens);
  check_same(m, tokens, "topk_ids", m->again[0], ids, all);
  check_same(m, tokens, "topk_weights", m->again[1], weights, all);
  check_lists(m, tokens, ids);
  free(ids), free(weights);
}

static void make(made *m) {
  const op_route_desc desc = {.rule = m->source->rule,
                              .hidden_size = m->source->hidden,
                              .stored = desc_format_of(m->dtype),
                              .bias = m->source->bias};
  const size_t experts = (size_t)desc.rule.num_experts, hidden = (size_t)desc.hidden_size;
  const uint64_t choices = MOST * (uint64_t)desc.rule.top_k;
  const uint64_t sizes[] = {MOST * experts, choices,     choices,     experts, experts + 1,
                            experts + 1,    experts + 1, choices + 1, choices};
  const kernel_variant *router = NULL;
  for (size_t v = 0; v < op_router_table.count; v++)
    if (strcmp(op_router_table.rows[v].name, m->variant->name) == 0)
      router = &op_router_table.rows[v];
  assert_non_null(router);
  assert_ok(op_create(&op_route_kind, context, m->variant, &desc, &m->route));
  assert_ok(op_create(&op_router_kind, context, router, &desc.rule, &m->router));
  m->hidden = draw_hidden(m->dtype, desc.hidden_size);
  m->weights = draw(m->dtype, experts * hidden, 1 / sqrt((double)hidden));
  m->bias = draw(m->dtype, experts, 1);
  m->correction = draw(MOECL_F32, experts, 0.25);
  assert_ok(ocl_buffer_copy(m->weights.buffer, 0, m->route.weights, 0,
                            moecl_buffer_size(m->route.weights)));
  if (desc.bias)
    assert_ok(
        ocl_buffer_copy(m->bias.buffer, 0, m->route.bias, 0, moecl_buffer_size(m->route.bias)));
  for (int i = 0; i < 9; i++) m->out[i] = words(NULL, sizes[i]);
  for (int i = 0; i < 2; i++) m->again[i] = words(NULL, choices);
}

static void release(made *m) {
  numbers *all[] = {&m->hidden, &m->weights, &m->bias, &m->correction};
  for (size_t i = 0; i < BASE_COUNT(all); i++) {
    free(all[i]->exact);
    moecl_buffer_destroy(&all[i]->buffer);
  }
  for (int i = 0; i < 9; i++) moecl_buffer_destroy(&m->out[i]);
  for (int i = 0; i < 2; i++) moecl_buffer_destroy(&m->again[i]);
  free(m->logits);
  op_route_kind.release(&m->route);
  op_router_kind.release(&m->router);
}

static void check_case(const route_case *source, const kernel_variant *variant, moecl_dtype dtype) {
  made m = {.dtype = dtype, .source = source, .variant = variant};
  make(&m);
  run(&m, MOST);
  m.logits = (float *)read_words(m.out[LOGITS], MOST * source->rule.num_experts);
  check_logits(&m, MOST, m.logits);
  for (int64_t tokens = 1; tokens < MOST; tokens += source->step) check_tokens(&m, tokens);
  check_tokens(&m, MOST);
  run_half_way(&m, MOST);
  check_tokens(&m, MOST);
  m.route.launches = OP_ROUTE_LAUNCHES - 1; /* the last before counters are set to zero */
  check_tokens(&m, MOST);
  run_half_way(&m, MOST);
  check_tokens(&m, MOST);
  release(&m);
}

/* In fp32, and where it has none in bf16, every case; in the other types the first. */
static void test_route(void **state) {
  size_t run_count = 0;
  (void)state;
  for (size_t v = 0; v < op_route_table.count; v++)
    for (int dtype = 0; dtype < MOECL_DTYPE_COUNT; dtype++) {
      const kernel_variant *variant = &op_route_table.rows[v];
      const bool first =
          dtype == MOECL_F32 || (dtype == MOECL_BF16 && !(variant->formats & KERNEL_F32));
      if (!serves_here(variant, (moecl_dtype)dtype) ||
          !kernel_variant_fits(variant, &context->info))
        continue;
      for (size_t i = 0; i < (first ? BASE_COUNT(cases) : 1); i++, run_count++)
        check_case(&cases[i], variant, (moecl_dtype)dtype);
    }
  if (run_count == 0) skip();
}

/* More tokens or experts than there is room for, or work for a GEMM of its own. */
static void test_serves(void **state) {
  (void)state;
  const kernel_variant *variant = &op_route_table.rows[0];
  op_route_desc desc = {.rule = {.num_experts = 64, .top_k = 8},
                        .hidden_size = 2048,
                        .stored = desc_format_of(MOECL_BF16)};
  op_route route = {.desc = desc}; /* there is none */
  assert_false(op_route_serves(&route, 16));
  assert_ok(op_route_kind.describe(context, variant, &desc, &route));
  assert_false(op_route_serves(&route, 0));
  assert_true(op_route_serves(&route, 1));
  assert_true(op_route_serves(&route, MOST));
  assert_false(op_route_serves(&route, MOST + 1));
  desc.hidden_size = 1 << 16;
  assert_ok(op_route_kind.describe(context, variant, &desc, &route));
  assert_true(op_route_serves(&route, 1));
  assert_false(op_route_serves(&route, MOST));
  desc.rule.num_experts = 513;
  assert_false(kernel_variant_accepts(variant, &desc));
}

static int seed_again(void **state) {
  (void)state;
  random_state = case_seed();
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test_setup(test_route, seed_again),
                                     cmocka_unit_test_setup(test_serves, seed_again)};
  skip_without_device();
  const moecl_context_params params = {.log = log_problem};
  if (moecl_context_create(&params, &context) != MOECL_OK) return 1;
  const int failed = cmocka_run_group_tests_name("route", tests, NULL, NULL);
  moecl_context_destroy(&context);
  return failed ? 1 : 0;
}
