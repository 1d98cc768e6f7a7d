// SPDX-License-Identifier: MIT
/* The router's choice: every variant by every rule against the reference, on
 * logits that are hard to choose from. */
#include "../unit/unit.h"
#include "cases.h"
#include "kernel/variant.h"
#include "layers.h"
#include "op/router/router.h"
#include <math.h>

static moecl_context *context;
static uint64_t random_state;
enum { SEED = 77 }; /* of what the router draws */

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

/* A buffer of `count` 4-byte elements, one at least; NULL: garbage. */
static moecl_buffer *words(const void *data, uint64_t count) {
  moecl_buffer *buffer = NULL;
  assert_ok(moecl_buffer_create(context, (count + 1) * 4, &buffer));
  assert_ok(moecl_buffer_fill_byte(buffer, 0, (count + 1) * 4, 0xcd));
  if (data && count) assert_ok(moecl_buffer_write_wait(buffer, 0, count * 4, data));
  return buffer;
}

/* ---- rules ---- */

typedef struct rule {
  const char *name;
  moecl_layer_params layer; /* experts and top_k are the case's */
  float bias_mean, bias_spread;
} rule;

#define GROUPS(all, taken) .num_expert_group = all, .topk_group = taken
#define SCORING(name) .scoring = MOECL_SCORING_##name
#define SECOND(name) .second_choice = MOECL_SECOND_##name
#define TOP2_SUM .group_score = MOECL_GROUP_TOP2_SUM
static const rule rules[] = {
    {"softmax", {.renormalize = false}, 0, 0},
    {"softmax, renormalized", {.renormalize = true}, 0, 0},
    {"softmax, scaled", {.routed_scaling_factor = 16}, 0, 0},
    {"softmax of K", {.score_after_topk = true}, 0, 0},
    {"sigmoid", {SCORING(SIGMOID)}, 0, 0},
    {"sigmoid of K", {SCORING(SIGMOID), .score_after_topk = true}, 0, 0},
    {"sigmoid, renormalized, scaled",
     {SCORING(SIGMOID), .renormalize = true, .routed_scaling_factor = 2.5f},
     0,
     0},
    {"sqrt-softplus", {SCORING(SQRT_SOFTPLUS)}, 0, 0},
    {"sqrt-softplus, corrected",
     {SCORING(SQRT_SOFTPLUS), .renormalize = true, .score_correction_bias = true},
     0,
     0.3f},
    {"sparsemixer", {SCORING(SPARSEMIXER)}, 0, 0},
    {"sparsemixer, wide", {SCORING(SPARSEMIXER), .sparsemixer_jitter = 0.3f}, 0, 0},
    {"sigmoid, corrected", {SCORING(SIGMOID), .score_correction_bias = true}, 0, 0.1f},
    {"softmax, corrected", {.score_correction_bias = true, .renormalize = true}, 0, 0.02f},
    {"softmax of K, plus 0.5",
     {.score_after_topk = true, .renormalize = true, .renormalize_epsilon = 0.5f},
     0,
     0},
    {"softmax, by 0.3 at least", {.renormalize = true, .renormalize_minimum = 0.3f}, 0, 0},
    {"lfm2",
     {SCORING(SIGMOID), .score_correction_bias = true, .renormalize = true,
      .renormalize_epsilon = 1e-6f},
     0,
     0.1f},
    {"ernie",
     {.score_correction_bias = true, .renormalize = true, .renormalize_minimum = 1e-12f},
     0,
     0.02f},
    {"sigmoid, plus and at least",
     {SCORING(SIGMOID), .renormalize = true, .renormalize_epsilon = 0.25f,
      .renormalize_minimum = 2.5f},
     0,
     0},
    {"groups by two, softmax, plus 1e-3",
     {GROUPS(4, 2), TOP2_SUM, .renormalize = true, .renormalize_epsilon = 1e-3f},
     0,
     0},
    {"random second, plus 0.5",
     {SECOND(RANDOM), .renormalize = true, .renormalize_epsilon = 0.5f},
     0,
     0},
    {"random second of K, plus 0.5",
     {SECOND(RANDOM), .score_after_topk = true, .renormalize = true, .renormalize_epsilon = 0.5f},
     0,
     0},
    {"softmax, against the bias", /* all chosen shares may be 0 */
     {.score_correction_bias = true, .renormalize = true},
     0,
     5},
    {"ernie, against the bias",
     {.score_correction_bias = true, .renormalize = true, .renormalize_minimum = 1e-12f},
     0,
     5},
    {"random second, against the bias",
     {SECOND(RANDOM), .score_correction_bias = true, .renormalize = true},
     0,
     5},
    {"groups by the best", {GROUPS(8, 3), .routed_scaling_factor = 16}, 0, 0},
    {"groups by the best, renormalized", {GROUPS(3, 2), .renormalize = true}, 0, 0},
    {"groups by two, softmax", {GROUPS(4, 1), TOP2_SUM}, 0, 0},
    {"deepseek-v3",
     {SCORING(SIGMOID), GROUPS(8, 4), TOP2_SUM, .score_correction_bias = true, .renormalize = true,
      .routed_scaling_factor = 2.5f},
     0,
     0.1f},
    {"deepseek-v3, one group", /* no limit */
     {SCORING(SIGMOID), GROUPS(1, 1), TOP2_SUM, .score_correction_bias = true},
     0,
     0.1f},
    {"deepseek-v3, negative", /* a choice score of 0 would be better than any taken */
     {SCORING(SIGMOID), GROUPS(5, 4), TOP2_SUM, .score_correction_bias = true},
     -1.2f,
     0.2f},
    {"cut to 0, negative", /* experts of the fifth group win, as zeros */
     {SCORING(SIGMOID), GROUPS(5, 4), TOP2_SUM, .score_correction_bias = true, .renormalize = true,
      .cut_groups_to_zero = true},
     -1.2f,
     0.2f},
    {"cut to 0, some negative",
     {SCORING(SIGMOID), GROUPS(4, 2), .score_correction_bias = true, .cut_groups_to_zero = true},
     -0.6f,
     0.4f},
    {"cut to 0, softmax", /* without a bias nothing is below */
     {GROUPS(4, 2), TOP2_SUM, .cut_groups_to_zero = true},
     0,
     0},
    {"32 groups", {SCORING(SIGMOID), GROUPS(32, 31), TOP2_SUM, .renormalize = true}, 0, 0},
    {"random second", {SECOND(RANDOM)}, 0, 0},
    {"random second, renormalized", {SECOND(RANDOM), .renormalize = true}, 0, 0},
    {"random second of K", {SECOND(RANDOM), .score_after_topk = true, .renormalize = true}, 0, 0},
    {"random second, sigmoid", {SECOND(RANDOM), SCORING(SIGMOID), .renormalize = true}, 0, 0},
    {"random second, everything",
     {SECOND(RANDOM), SCORING(SIGMOID), GROUPS(8, 4), TOP2_SUM, .score_correction_bias = true,
      .routed_scaling_factor = 0.5f},
     0,
     0.1f},
    {"sampled second", {SECOND(SAMPLED)}, 0, 0},
    {"sampled second, renormalized", {SECOND(SAMPLED), .renormalize = true}, 0, 0},
    {"sampled second of K", {SECOND(SAMPLED), .score_after_topk = true}, 0, 0},
};

/* ---- logits ---- */

typedef enum logit_fill {
  LOGITS_RANDOM,
  LOGITS_EQUAL,    /* all the same: ids 0 to K-1 */
  LOGITS_TIED,     /* few different values */
  LOGITS_FAR,      /* up to +-1e30: the softmax underflows */
  LOGITS_ZEROS,    /* +0 and -0, which are equal */
  LOGITS_LOW,      /* sigmoids of some 1e-26: a sum's 1e-20 counts */
  LOGITS_HOT,      /* the last expert is far ahead */
  LOGITS_COLD,     /* and so far that the others' shares underflow */
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
    case LOGITS_LOW: logits[i] = x * 2 - 60; break;
    case LOGITS_HOT: logits[i] = i % experts == experts - 1 ? x + 20 : x; break;
    case LOGITS_COLD: logits[i] = i % experts == experts - 1 ? x + 200 : x; break;
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
static const topk_case cases[] = {
    {100, 8, 2, LOGITS_RANDOM},    {9, 1024, 64, LOGITS_RANDOM}, {30, 63, 63, LOGITS_RANDOM},
    {300, 256, 8, LOGITS_RANDOM},  {30, 64, 64, LOGITS_TIED},    {30, 65, 7, LOGITS_TIED},
    {5, 1024, 64, LOGITS_EQUAL},   {5, 1, 1, LOGITS_RANDOM},     {50, 130, 1, LOGITS_TIED},
    {20, 33, 32, LOGITS_FAR},      {20, 8, 8, LOGITS_FAR},       {20, 40, 20, LOGITS_ZEROS},
    {40, 60, 4, LOGITS_NONFINITE}, {7, 1, 1, LOGITS_NONFINITE},  {9, 1024, 64, LOGITS_NONFINITE},
    {20, 24, 4, LOGITS_LOW},       {60, 31, 2, LOGITS_HOT},      {60, 31, 4, LOGITS_COLD},
    {1, 17, 3, LOGITS_RANDOM},     {0, 16, 2, LOGITS_RANDOM}};
enum { CASES = sizeof cases / sizeof cases[0] };

/* The rule at a case's sizes, or the nearest that it takes. */
static moecl_layer_params sized(const rule *rule, const topk_case *c) {
  moecl_layer_params layer = rule->layer;
  layer.hidden_size = layer.intermediate_size = 1;
  layer.num_experts = c->experts;
  layer.top_k = c->top_k;
  if (layer.num_expert_group > 0) {
    const int64_t groups = layer.num_expert_group;
    const int64_t members = c->experts / groups > 2 ? c->experts / groups : 2;
    const int64_t most = members * layer.topk_group;
    layer.num_experts = members * groups;
    if (layer.top_k > most) layer.top_k = most;
  }
  assert_ok(moecl_layer_params_check(&layer, NULL, 0));
  return layer;
}

/* ---- comparing ---- */

typedef struct routed {
  moecl_layer_params layer;
  int64_t tokens;
  float *logits, *bias, *weights;
  int32_t *ids;
} routed;

static void check_token(const routed *r, const char *variant, const char *rule, int64_t t,
                        const double *bias) {
  double exact[MOECL_MAX_EXPERTS], want[MOECL_MAX_TOP_K];
  int32_t want_ids[MOECL_MAX_TOP_K];
  const moecl_layer_params *layer = &r->layer;
  const int64_t first = t * layer->top_k;
  moecl_to_double(MOECL_F32, r->logits + t * layer->num_experts, (size_t)layer->num_experts, exact);
  const int64_t k =
      case_choice_differs(layer, exact, bias, SEED, t, r->ids + first, r->weights + first, 1e-5);
  if (k < 0) return;
  const double gap = moecl_reference_topk(layer, exact, bias, SEED, t, want_ids, want, NULL);
  fprintf(stderr,
          "%s router, %s, E=%lld K=%lld, MOECL_TEST_SEED=%llu: token %lld's choice %lld is expert "
          "%d of %.9g, expected %d of %.9g (gap %g)\n",
          variant, rule, (long long)layer->num_experts, (long long)layer->top_k,
          (unsigned long long)case_seed(), (long long)t, (long long)k, r->ids[first + k],
          (double)r->weights[first + k], want_ids[k], want[k], gap);
  fail();
}

/* Runs the choice, from r's logits and bias to its ids and weights. */
static void run(const kernel_variant *variant, routed *r) {
  const moecl_layer_params *layer = &r->layer;
  const uint64_t experts = (uint64_t)layer->num_experts;
  const uint64_t all = (uint64_t)(r->tokens * layer->top_k);
  const desc_rule rule = desc_rule_of(layer);
  op_router router;
  assert_ok(op_router_kind.create(context, variant, &rule, &router));
  moecl_buffer *b[] = {words(r->logits, (uint64_t)r->tokens * experts), words(r->bias, experts),
                       words(NULL, all), words(NULL, all),
                       words(NULL, op_permute_most_blocks(r->tokens, layer->top_k) * experts)};
  const op_router_io io = {.num_tokens = r->tokens,
                           .seed = SEED,
                           .logits = b[0],
                           .correction_bias = b[1],
                           .topk_ids = b[2],
                           .topk_weights = b[3],
                           .block_counts = b[4]};
  ocl_chain chain = {.context = context};
  assert_ok(op_router_enqueue(&router, &chain, &io));
  if (all > 0) {
    assert_ok(moecl_buffer_read_wait(b[2], 0, all * 4, r->ids));
    assert_ok(moecl_buffer_read_wait(b[3], 0, all * 4, r->weights));
  }
  for (size_t i = 0; i < sizeof b / sizeof b[0]; i++) moecl_buffer_destroy(&b[i]);
  op_router_kind.release(&router);
}

static routed make_routed(const rule *rule, const topk_case *c) {
  routed r = {.layer = sized(rule, c), .tokens = c->tokens};
  const size_t experts = (size_t)r.layer.num_experts, all = (size_t)(c->tokens * r.layer.top_k);
  r.logits = allocate((size_t)c->tokens * experts * 4);
  r.bias = allocate(experts * 4);
  r.weights = allocate(all * 4);
  r.ids = allocate(all * 4);
  draw_logits(c->fill, c->tokens, r.layer.num_experts, r.logits);
  for (size_t e = 0; e < experts; e++)
    r.bias[e] = rule->bias_mean + rule->bias_spread * (2 * random_float() - 1);
  return r;
}

static void release_routed(routed *r) {
  free(r->logits);
  free(r->bias);
  free(r->weights);
  free(r->ids);
}

/* Does the driver leave the choice's loops early? */
static bool is_too_long(const topk_case *c) {
  static bool told;
  if (context->info.capabilities & MOECL_CAP_LONG_LOOPS || c->experts * c->top_k <= 32768)
    return false;
  if (!told)
    printf("SKIP: E=%lld K=%lld: this driver leaves long loops early\n", (long long)c->experts,
           (long long)c->top_k);
  return told = true;
}

static void check_rule(const kernel_variant *variant, const rule *rule, const topk_case *c) {
  double bias[MOECL_MAX_EXPERTS];
  if (is_too_long(c)) return;
  routed r = make_routed(rule, c);
  moecl_to_double(MOECL_F32, r.bias, (size_t)r.layer.num_experts, bias);
  run(variant, &r);
  for (int64_t t = 0; t < r.tokens; t++)
    check_token(&r, variant->name, rule->name, t, r.layer.score_correction_bias ? bias : NULL);
  release_routed(&r);
}

static const char *only; /* a variant's name, from the command line */

static bool serves(const kernel_variant *variant) {
  return kernel_variant_serves(variant, desc_format_of(MOECL_F32), context->info.capabilities) &&
         kernel_variant_fits(variant, &context->info);
}

/* Every variant that can run here; one source under two names once. */
static void for_each_variant(void (*check)(const kernel_variant *, const rule *)) {
  const kernel_variant *variants = op_router_table.rows;
  const size_t count = op_router_table.count;
  for (size_t v = 0; v < count; v++) {
    bool again = false;
    for (size_t w = v + 1; w < count; w++)
      again |= serves(&variants[w]) && strcmp(variants[v].source, variants[w].source) == 0;
    if (!serves(&variants[v]) || again || (only && strcmp(only, variants[v].name) != 0)) continue;
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) check(&variants[v], &rules[i]);
  }
}

static void check_cases(const kernel_variant *variant, const rule *rule) {
  for (size_t i = 0; i < CASES; i++) check_rule(variant, rule, &cases[i]);
}

static void test_rules(void **state) {
  (void)state;
  for_each_variant(check_cases);
}

/* The tests above excuse near ties; so few must be left out that they prove
 * something, of a rule that rounds. */
static void test_few_are_excused(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
    double bias[MOECL_MAX_EXPERTS], logits[MOECL_MAX_EXPERTS], weights[MOECL_MAX_TOP_K];
    int32_t ids[MOECL_MAX_TOP_K];
    int64_t near = 0;
    routed r = make_routed(&rules[i], &(topk_case){300, 256, 8, LOGITS_RANDOM});
    moecl_to_double(MOECL_F32, r.bias, (size_t)r.layer.num_experts, bias);
    for (int64_t t = 0; t < r.tokens; t++) {
      moecl_to_double(MOECL_F32, r.logits + t * r.layer.num_experts, (size_t)r.layer.num_experts,
                      logits);
      near += moecl_reference_topk(&r.layer, logits, r.layer.score_correction_bias ? bias : NULL,
                                   SEED, t, ids, weights, NULL) <= 1e-5;
    }
    if (near > r.tokens / 20) {
      fprintf(stderr, "%s: %lld of %lld\n", rules[i].name, (long long)near, (long long)r.tokens);
      fail();
    }
    release_routed(&r);
  }
}

/* Exact ties of rounded scores: the first experts of the first groups, and all in
 * the order of their ids. */
static void check_equal(const kernel_variant *variant, const rule *rule) {
  if (rule->layer.second_choice != MOECL_SECOND_ALL) return;
  routed r = make_routed(rule, &(topk_case){3, 96, 6, LOGITS_EQUAL});
  for (int64_t e = 0; e < r.layer.num_experts; e++) r.bias[e] = 0.25f;
  run(variant, &r);
  for (int64_t i = 0; i < r.tokens * r.layer.top_k; i++)
    assert_int_equal(r.ids[i], i % r.layer.top_k);
  release_routed(&r);
}

static void test_equal(void **state) {
  (void)state;
  for_each_variant(check_equal);
}

/* A correction bias that is not finite, or one that takes the choice score beyond
 * fp32, leaves nothing to choose by. */
static void check_bad_bias(const kernel_variant *variant, const rule *rule) {
  static const float bad[] = {NAN, INFINITY, -INFINITY};
  if (!rule->layer.score_correction_bias) return;
  for (int i = 0; i < 3; i++) {
    routed r = make_routed(rule, &(topk_case){2, 96, 6, LOGITS_RANDOM});
    r.bias[random_below(r.layer.num_experts)] = bad[i];
    run(variant, &r);
    for (int64_t k = 0; k < r.tokens * r.layer.top_k; k++) {
      assert_int_equal(r.ids[k], -1);
      assert_true(r.weights[k] == 0);
    }
    release_routed(&r);
  }
}

static void test_bad_bias(void **state) {
  (void)state;
  for_each_variant(check_bad_bias);
}

/* Sigmoids of 20 and of 30 are both 1 in fp32. Which of them is chosen, the logits say,
 * whatever groups are compared by; the sums of two groups alike, the first wins. */
static void check_saturated(const kernel_variant *variant) {
  static const float logits[] = {20, 30, -5, -5, 25, 40, 35, -5};
  for (int by_sum = 0; by_sum < 2; by_sum++)
    for (int64_t groups = 2; groups <= 4; groups += 2) {
      int32_t ids[2];
      float weights[2];
      routed r = {.layer = {.hidden_size = 1,
                            .intermediate_size = 1,
                            .num_experts = 8,
                            .top_k = 2,
                            SCORING(SIGMOID),
                            GROUPS(groups, 1),
                            .group_score = by_sum ? MOECL_GROUP_TOP2_SUM : MOECL_GROUP_MAX},
                  .tokens = 1,
                  .logits = (float *)logits,
                  .bias = (float *)logits,
                  .ids = ids,
                  .weights = weights};
      run(variant, &r);
      /* By logit 40 decides; by sums 2 groups of 4 have 2 and 2, 4 of 2 have 2, 0, 2, 1. */
      const int first = by_sum ? 1 : 5, second = by_sum ? 0 : groups == 2 ? 6 : 4;
      assert_int_equal(ids[0], first);
      assert_int_equal(ids[1], second);
      assert_true(weights[0] == 1 && weights[1] == 1);
    }
}

static void test_saturated(void **state) {
  const kernel_variant *variants = op_router_table.rows;
  const size_t count = op_router_table.count;
  (void)state;
  for (size_t v = 0; v < count; v++)
    if (kernel_variant_serves(&variants[v], desc_format_of(MOECL_F32), context->info.capabilities))
      check_saturated(&variants[v]);
}

/* All chosen shares underflow: the softmax over the chosen, or with a least sum 0. */
static void test_underflow(void **state) {
  static const float logits[] = {-200, -199.5f, 0, -300}, bias[] = {5, 5, 0, 0};
  const kernel_variant *variants = op_router_table.rows;
  const size_t count = op_router_table.count;
  (void)state;
  for (size_t v = 0; v < count; v++)
    for (int guarded = 0; guarded < 3; guarded++) {
      int32_t ids[2];
      float weights[2];
      if (!kernel_variant_serves(&variants[v], desc_format_of(MOECL_F32),
                                 context->info.capabilities))
        continue;
      routed r = {.layer = {.hidden_size = 1,
                            .intermediate_size = 1,
                            .num_experts = 4,
                            .top_k = 2,
                            .renormalize = true,
                            .score_correction_bias = true,
                            .renormalize_epsilon = guarded == 1 ? 1e-20f : 0,
                            .renormalize_minimum = guarded == 2 ? 1e-12f : 0},
                  .tokens = 1,
                  .logits = (float *)logits,
                  .bias = (float *)bias,
                  .ids = ids,
                  .weights = weights};
      run(&variants[v], &r);
      const int low = ids[0] == 0 ? 0 : 1; /* choice scores are equal in fp32 */
      assert_int_equal(ids[low], 0);
      assert_int_equal(ids[1 - low], 1);
      if (guarded) assert_true(weights[0] == 0 && weights[1] == 0);
      else {
        assert_true(fabsf(weights[low] - 0.37754067f) < 1e-6f);
        assert_true(fabsf(weights[1 - low] - 0.62245933f) < 1e-6f);
      }
    }
}

static int seed_again(void **state) {
  (void)state;
  random_state = case_seed();
  return 0;
}

/* usage: test_router [variant] */
int main(int argc, char **argv) {
  only = argc > 1 ? argv[1] : NULL;
  const struct CMUnitTest tests[] = {cmocka_unit_test_setup(test_rules, seed_again),
                                     cmocka_unit_test_setup(test_few_are_excused, seed_again),
                                     cmocka_unit_test_setup(test_equal, seed_again),
                                     cmocka_unit_test_setup(test_bad_bias, seed_again),
                                     cmocka_unit_test_setup(test_saturated, seed_again),
                                     cmocka_unit_test_setup(test_underflow, seed_again)};
  skip_without_device();
  const moecl_context_params params = {.log = log_problem};
  if (moecl_context_create(&params, &context) != MOECL_OK) return 1;
  const int failed = cmocka_run_group_tests_name("router", tests, NULL, NULL);
  moecl_context_destroy(&context);
  return failed ? 1 : 0;
}
