// SPDX-License-Identifier: MIT
/* A point's run: when an interruption drops it, the times' summary, and rates
 * from the work of all input sets. Verification and dump are this file's own. */
#include "cases.h"
#include "event_times.h"
#include "run/runner.h"
#include "unit.h"
#include <math.h>

static moecl_context *context;
static volatile sig_atomic_t interrupted;
static bool interrupt_stages, interrupt_verification, interrupt_dump, dump_is_there;

/* What the layer tells of the routing, with statistics made up where a test asks for it. */
static const moecl_routing_statistics *made_up_statistics;
moecl_status __real_moecl_layer_read_routing_wait(moecl_layer *layer, moecl_routing *routing);
moecl_status __wrap_moecl_layer_read_routing_wait(moecl_layer *layer, moecl_routing *routing);
moecl_status __wrap_moecl_layer_read_routing_wait(moecl_layer *layer, moecl_routing *routing) {
  const moecl_status status = __real_moecl_layer_read_routing_wait(layer, routing);
  if (made_up_statistics) routing->statistics = *made_up_statistics;
  return status;
}

/* As of a layer whose first forward sets kernels aside: from then on the reason says so. */
const char *__real_moecl_layer_variant(const moecl_layer *layer, const char *operation,
                                       const char **reason);
const char *__wrap_moecl_layer_variant(const moecl_layer *layer, const char *operation,
                                       const char **reason);
const char *__wrap_moecl_layer_variant(const moecl_layer *layer, const char *operation,
                                       const char **reason) {
  const char *name = __real_moecl_layer_variant(layer, operation, reason);
  moecl_routing routing;
  if (!reason) return name;
  const bool ran = __real_moecl_layer_read_routing_wait((moecl_layer *)layer, &routing) == MOECL_OK;
  *reason = ran ? "since a forward" : "as made";
  moecl_routing_destroy(&routing);
  return name;
}

/* As of members whose devices have kernels of their own. */
static bool kernels_differ;
const char *__real_moecl_group_layer_variant(const moecl_group_layer *layer, size_t member,
                                             const char *operation, const char **reason);
const char *__wrap_moecl_group_layer_variant(const moecl_group_layer *layer, size_t member,
                                             const char *operation, const char **reason);
const char *__wrap_moecl_group_layer_variant(const moecl_group_layer *layer, size_t member,
                                             const char *operation, const char **reason) {
  const char *name = __real_moecl_group_layer_variant(layer, member, operation, reason);
  const bool gemm = strcmp(operation, "grouped_gemm") == 0;
  return kernels_differ && gemm && member < 2 ? (member ? "of the second" : "of the first") : name;
}

void __real_moecl_profile_layer_only(moecl_profile *profile, bool layer_only);
void __wrap_moecl_profile_layer_only(moecl_profile *profile, bool layer_only);
void __wrap_moecl_profile_layer_only(moecl_profile *profile, bool layer_only) {
  __real_moecl_profile_layer_only(profile, layer_only);
  if (interrupt_stages && !layer_only) interrupted = 1;
}

moecl_status verify_point(const verify_input *input, verify_result *result) {
  (void)input;
  *result = (verify_result){.ran = true, .ok = true};
  if (interrupt_verification) interrupted = 1;
  return MOECL_OK;
}

bool dump_point(const dump_input *input, const char *path, char **error) {
  (void)input, (void)path, (void)error;
  if (interrupt_dump) interrupted = 1;
  return dump_is_there;
}

void point_result_destroy(point_result *result) {
  free(result->rounds);
  free(result->parallel.members);
  moecl_routing_destroy(&result->routing);
  for (int i = 0; i < 4; i++) {
    free(result->variants[i]);
    free(result->variant_reasons[i]);
  }
  free(result->error);
}

static experiment_point skewed_point(void) {
  return (experiment_point){.layer = {.hidden_size = 16,
                                      .intermediate_size = 8,
                                      .num_experts = 16,
                                      .top_k = 1,
                                      .capacity_factor = 1.0},
                            .num_tokens = 40,
                            .distribution = WORKLOAD_SKEWED,
                            .skew_exponent = 1,
                            .skew_noise = 0.1,
                            .seed = 3};
}

/* ---- interruptions ---- */

static bool run(const char *dump_path, point_status *status) {
  experiment_point point = skewed_point();
  const experiment plan = {.iterations = 2, .verify = true, .points = &point, .num_points = 1};
  runner runner = {.context = context, .experiment = &plan, .interrupted = &interrupted};
  point_result result;
  const bool finished = runner_run_point(&runner, 0, dump_path, &result);
  *status = result.status;
  point_result_destroy(&result);
  runner_release(&runner);
  return finished;
}

static int nothing_happened(void **state) {
  (void)state;
  interrupted = 0;
  interrupt_stages = interrupt_verification = interrupt_dump = false;
  dump_is_there = true;
  return 0;
}

static void test_not_interrupted(void **state) {
  point_status status;
  (void)state;
  assert_true(run("dump", &status));
  assert_int_equal(status, POINT_OK);
  dump_is_there = false; /* a full disk: the point failed, and is kept as such */
  assert_true(run("dump", &status));
  assert_int_equal(status, POINT_ERROR);
}

static void test_interrupted_before_the_times(void **state) {
  point_status status;
  (void)state;
  interrupted = 1;
  assert_false(run(NULL, &status));
}

/* A round that has the layer's times and not those of its stages is no round. */
static void test_interrupted_stages(void **state) {
  experiment_point point = skewed_point();
  const experiment plan = {.iterations = 6, .points = &point, .num_points = 1};
  runner runner = {.context = context, .experiment = &plan, .interrupted = &interrupted};
  point_status status;
  point_round round;
  char *failure;
  (void)state;
  interrupt_stages = true;
  assert_false(run(NULL, &status));
  interrupted = 0;
  assert_false(runner_repeat_point(&runner, 0, 1, 3, &round, &failure));
  assert_null(failure);
  runner_release(&runner);
}

static void test_interrupted_verification(void **state) {
  point_status status;
  (void)state;
  interrupt_verification = true;
  assert_true(run(NULL, &status));
  assert_int_equal(status, POINT_OK);
}

static void test_interrupted_dump(void **state) {
  point_status status;
  (void)state;
  interrupt_dump = true;
  assert_true(run("dump", &status)); /* it came when all was written */
  assert_int_equal(status, POINT_OK);
  dump_is_there = false;
  assert_false(run("dump", &status));
}

/* ---- variants ---- */

/* Results have what served when the forwards were over. */
static void test_variants(void **state) {
  experiment_point point = skewed_point();
  const experiment plan = {.iterations = 1, .verify = true, .points = &point, .num_points = 1};
  runner runner = {.context = context, .experiment = &plan, .interrupted = &interrupted};
  point_result result;
  (void)state;
  assert_true(runner_run_point(&runner, 0, NULL, &result));
  for (int i = 0; i < NUM_LAYER_OPERATIONS; i++) {
    assert_string_not_equal(result.variants[i], "?");
    assert_string_equal(result.variant_reasons[i], "since a forward");
  }
  point_result_destroy(&result);
  runner_release(&runner);
}

/* ---- a group ---- */

/* Points of one layer share it, until one fails. */
static void test_group_after_failure(void **state) {
  experiment_point point = skewed_point();
  point.parallel.experts = 2;
  const experiment plan = {.iterations = 1, .verify = true, .points = &point, .num_points = 1};
  runner runner = {.context = context, .experiment = &plan, .interrupted = &interrupted};
  const struct together *shared = NULL;
  (void)state;
  for (int turn = 0; turn < 3; turn++) {
    point_result result;
    dump_is_there = turn < 2;
    assert_true(runner_run_point(&runner, 0, "dump", &result));
    assert_int_equal(result.status, turn < 2 ? POINT_OK : POINT_ERROR);
    point_result_destroy(&result);
    if (turn == 0) shared = runner.together;
    assert_ptr_equal(runner.together, turn < 2 ? shared : NULL);
  }
  assert_non_null(shared);
  runner_release(&runner);
}

/* Each member's kernels are told, not those of the first alone. */
static void test_group_variants(void **state) {
  experiment_point point = skewed_point();
  point.parallel.experts = 2;
  const experiment plan = {.iterations = 1, .verify = true, .points = &point, .num_points = 1};
  runner runner = {.context = context, .experiment = &plan, .interrupted = &interrupted};
  point_result result;
  (void)state;
  kernels_differ = true;
  assert_true(runner_run_point(&runner, 0, NULL, &result));
  kernels_differ = false;
  assert_int_equal(result.parallel.num_members, 2);
  assert_string_equal(result.parallel.members[0].grouped_gemm_variant, "of the first");
  assert_string_equal(result.parallel.members[1].grouped_gemm_variant, "of the second");
  point_result_destroy(&result);
  runner_release(&runner);
}

/* Each has its half of the experts' weights (3 matrices of 16 x 8 for each of 8), the router's (16
 * x 16), and 20 tokens in and out; rows and the workspace grow with the tokens. */
static void test_group_memory(void **state) {
  uint64_t all[2];
  (void)state;
  for (int turn = 0; turn < 2; turn++) {
    experiment_point point = skewed_point();
    point.parallel.experts = 2;
    point.num_tokens = turn ? 400 : 40;
    const experiment plan = {.iterations = 1, .verify = true, .points = &point, .num_points = 1};
    runner runner = {.context = context, .experiment = &plan, .interrupted = &interrupted};
    point_result result;
    uint64_t sum = 0;
    assert_true(runner_run_point(&runner, 0, NULL, &result));
    for (size_t m = 0; m < 2; m++) {
      const uint64_t own = (uint64_t)result.parallel.members[m].memory_bytes;
      assert_true(own >= 4 * (8 * 3 * 16 * 8 + 16 * 16 + (uint64_t)point.num_tokens * 16));
      sum += own;
    }
    assert_int_equal(result.memory_bytes, sum);
    all[turn] = sum;
    point_result_destroy(&result);
    runner_release(&runner);
  }
  /* Beside inputs and outputs each kept row goes to its expert, and its output comes back. */
  assert_true(all[1] - all[0] > UINT64_C(4) * 2 * 360 * 16);
}

/* ---- tokens that are routed nowhere ---- */

/* The point failed, with the message, and was not verified: its output is of no use. */
static void fails(const moecl_routing_statistics *statistics, const char *message) {
  experiment_point point = skewed_point();
  const experiment plan = {.iterations = 2, .verify = true, .points = &point, .num_points = 1};
  runner runner = {.context = context, .experiment = &plan, .interrupted = &interrupted};
  point_result result;
  made_up_statistics = statistics;
  assert_true(runner_run_point(&runner, 0, NULL, &result));
  made_up_statistics = NULL;
  assert_int_equal(result.status, POINT_ERROR);
  assert_string_equal(result.error, message);
  assert_false(result.verify.ran);
  point_result_destroy(&result);
  runner_release(&runner);
}

static void test_routed_nowhere(void **state) {
  moecl_routing_statistics statistics = {
      .nonfinite_score_tokens = 3, .first_nonfinite_score_token = 17, .first_nonfinite_token = -1};
  (void)state;
  fails(&statistics,
        "3 tokens have choice scores that are not finite, the first is token 17: they were routed "
        "nowhere; a correction bias is not finite, or takes scores beyond fp32");
  statistics.nonfinite_tokens = 2; /* the reason for what follows from them */
  statistics.first_nonfinite_token = 5;
  fails(&statistics, "2 tokens have router logits that are not finite, the first is token 5: they "
                     "were routed nowhere");
}

/* ---- numbers ---- */

static void test_summary(void **state) {
  double odd[3] = {3, 1, 2}, even[4] = {4, 1, 3, 2}, bad[3] = {1, NAN, 2};
  (void)state;
  sample_summary summary = runner_summarize(odd, 3);
  assert_true(summary.median == 2 && summary.min == 1 && summary.p90 == 3);
  assert_true(runner_summarize(even, 4).median == 2.5);
  summary = runner_summarize(bad, 3);
  assert_true(isnan(summary.median) && isnan(summary.min) && isnan(summary.p90));
  assert_true(isnan(runner_summarize(odd, 0).median));
}

/* Nearest rank: the least sample that 90 of 100 are not above. */
static void test_p90(void **state) {
  static const struct {
    size_t count;
    double p90; /* of 1, 2, ... count */
  } wants[] = {{1, 1}, {2, 2}, {4, 4}, {9, 9}, {10, 9}, {11, 10}, {20, 18}, {21, 19}, {100, 90}};
  double samples[100];
  (void)state;
  for (size_t i = 0; i < sizeof wants / sizeof wants[0]; i++) {
    const size_t count = wants[i].count;
    for (size_t n = 0; n < count; n++) samples[n] = (double)((n * 7 + 3) % count);
    if (count % 7 == 0)
      for (size_t n = 0; n < count; n++) samples[n] = (double)(count - 1 - n);
    for (size_t n = 0; n < count; n++) samples[n] += 1;
    const sample_summary summary = runner_summarize(samples, count);
    assert_true(summary.p90 == wants[i].p90);
    assert_true(summary.min == 1 && summary.median == (double)(count + 1) / 2);
  }
}

/* One that has another layer or other weights needs them anew. */
static void test_same_layer(void **state) {
  const experiment_point point = skewed_point();
  experiment_point other = point;
  (void)state;
  other.num_tokens = 41, other.skew_noise = 0.2, other.distribution = WORKLOAD_NORMAL;
  assert_true(runner_same_layer(&point, &other)); /* weights are packed once for these */
#define DIFFERS(change)                                                                            \
  do {                                                                                             \
    other = point;                                                                                 \
    other.change;                                                                                  \
    if (runner_same_layer(&point, &other)) fail_msg("the same layer with " #change);               \
    if (runner_same_layer(&other, &point)) fail_msg("the same layer without " #change);            \
  } while (0)
  DIFFERS(seed = 4);
  DIFFERS(seed = point.seed + (UINT64_C(1) << 32));
  DIFFERS(layer.dtype = MOECL_F16);
  DIFFERS(layer.dtype = MOECL_BF16);
  DIFFERS(layer.weight_format = MOECL_FORMAT_BF16);
  DIFFERS(layer.activation_format = MOECL_FORMAT_INT8);
  DIFFERS(layer.hidden_size = 17);
  DIFFERS(layer.intermediate_size = 9);
  DIFFERS(layer.num_experts = 17);
  DIFFERS(layer.top_k = 2);
  DIFFERS(layer.activation = MOECL_GELU);
  DIFFERS(layer.capacity_factor = 2);
  DIFFERS(layer.drop_policy = MOECL_DROP_PROBABILITY);
  DIFFERS(layer.min_capacity = 3);
  DIFFERS(layer.renormalize = true);
  DIFFERS(layer.jitter = 0.5f);
  DIFFERS(layer.scoring = MOECL_SCORING_SIGMOID);
  DIFFERS(layer.routed_scaling_factor = 3);
  DIFFERS(layer.score_correction_bias = true);
  DIFFERS(layer.router_bias = true);
  DIFFERS(layer.gate_up_bias = true);
  DIFFERS(layer.down_bias = true);
  DIFFERS(layer.weight_on_input = true);
  DIFFERS(layer.shared_intermediate_size = 8);
  DIFFERS(layer.shared_gate = true);
  DIFFERS(layer.router_variant = "generic");
  DIFFERS(layer.grouped_gemm_variant = "generic");
#undef DIFFERS
}

/* The layer that a sweep over types or seeds goes on with is the point's own: its output
 * is what the point alone has, told by the routing of a run with nothing before it. */
static void check_sweep(experiment_point second, experiment_point first) {
  experiment_point points[2] = {first, second};
  const experiment plan = {.iterations = 1, .verify = false, .points = points, .num_points = 2};
  point_result alone, behind;
  runner one = {.context = context, .experiment = &plan, .interrupted = &interrupted};
  assert_true(runner_run_point(&one, 1, NULL, &alone));
  runner_release(&one);
  runner both = {.context = context, .experiment = &plan, .interrupted = &interrupted};
  assert_true(runner_run_point(&both, 0, NULL, &behind));
  point_result_destroy(&behind);
  assert_true(runner_run_point(&both, 1, NULL, &behind));
  const size_t logits = (size_t)(second.num_tokens * second.layer.num_experts);
  assert_non_null(alone.routing.router_logits);
  assert_memory_equal(alone.routing.router_logits, behind.routing.router_logits,
                      logits * sizeof(float));
  assert_int_equal(alone.memory_bytes, behind.memory_bytes);
  point_result_destroy(&alone);
  point_result_destroy(&behind);
  runner_release(&both);
}

static void test_sweeps(void **state) {
  experiment_point first = skewed_point(), second = skewed_point();
  (void)state;
  second.seed = first.seed + 1;
  check_sweep(second, first);
  second = first;
  second.layer.dtype = MOECL_BF16;
  check_sweep(second, first);
}

/* The work of input set `set`, by a layer of the test's own. */
static double flops_of(const experiment_point *point, int set) {
  moecl_layer *layer = NULL;
  moecl_buffer *hidden = NULL, *output = NULL;
  moecl_routing routing;
  const uint64_t bytes = (uint64_t)(point->num_tokens * point->layer.hidden_size) * 4;
  assert_ok(moecl_layer_create(context, &point->layer, &layer));
  assert_ok(workload_set_weights(context, point, layer, NULL));
  assert_ok(moecl_buffer_create(context, bytes, &hidden));
  assert_ok(moecl_buffer_create(context, bytes, &output));
  assert_ok(workload_draw_hidden(point, NULL, set, hidden));
  const moecl_forward_params forward = {.num_tokens = point->num_tokens,
                                        .hidden_states = hidden,
                                        .output = output,
                                        .seed = point->seed};
  assert_ok(moecl_layer_forward(layer, &forward, NULL));
  assert_ok(moecl_layer_read_routing_wait(layer, &routing));
  int64_t kept = 0;
  for (int64_t e = 0; e < routing.num_experts; e++)
    kept += routing.tokens_per_expert_after_capacity[e];
  moecl_routing_destroy(&routing);
  moecl_buffer_destroy(&hidden);
  moecl_buffer_destroy(&output);
  moecl_layer_destroy(&layer);
  /* 40 tokens' logits of 16 x 16, and an expert's three matrices of 16 x 8 for each. */
  assert_int_equal(point->num_tokens, 40);
  return 2.0 * (40 * 16 * 16 + (double)kept * 3 * 16 * 8);
}

/* After one warm-up, four forwards read the sets 1, 2, 0, 1. */
static void test_rates(void **state) {
  experiment_point point = skewed_point();
  const experiment plan = {
      .warmup = 1, .iterations = 4, .verify = true, .points = &point, .num_points = 1};
  runner runner = {.context = context, .experiment = &plan, .interrupted = &interrupted};
  point_result result;
  (void)state;
  const double sets[3] = {flops_of(&point, 0), flops_of(&point, 1), flops_of(&point, 2)};
  const double mean = (sets[0] + 2 * sets[1] + sets[2]) / 4;
  assert_true(mean != sets[0] && mean != (sets[0] + sets[1] + sets[2]) / 3);
  assert_true(runner_run_point(&runner, 0, NULL, &result));
  assert_int_equal(result.iterations, 4);
  const double flops = result.tflops * 1e12 * result.time_ms[MOECL_STAGE_LAYER].median * 1e-3;
  if (events_tell_time(context)) assert_true(fabs(flops - mean) <= 1e-9 * mean);
  else assert_true(isnan(result.tflops));
  point_result_destroy(&result);
  runner_release(&runner);
}

/* The first of three rounds times a third of the forwards; another round times its own
 * share, and one that was interrupted is not kept. */
static void test_rounds(void **state) {
  experiment_point point = skewed_point();
  const experiment plan = {
      .warmup = 1, .iterations = 8, .rounds = 3, .verify = true, .points = &point, .num_points = 1};
  runner runner = {.context = context, .experiment = &plan, .interrupted = &interrupted};
  point_result result;
  point_round round;
  char *failure;
  (void)state;
  assert_true(runner_run_point(&runner, 0, NULL, &result));
  assert_int_equal(result.rounds_planned, 3);
  assert_int_equal(result.num_rounds, 1);
  assert_int_equal(result.iterations, 3);
  assert_int_equal(result.rounds[0].iterations, 3);
  for (int64_t r = 1; r < 3; r++) {
    assert_true(runner_repeat_point(&runner, 0, r, 3, &round, &failure));
    assert_null(failure);
    assert_int_equal(round.iterations, r == 1 ? 3 : 2);
    const sample_summary *layer = &round.time_ms[MOECL_STAGE_LAYER];
    assert_true(layer->min > 0 && layer->min <= layer->median && layer->median <= layer->p90);
    assert_true(round.time_ms[MOECL_STAGE_GATE_UP].median > 0);
  }
  interrupted = 1;
  assert_false(runner_repeat_point(&runner, 0, 1, 3, &round, &failure));
  assert_null(failure);
  point_result_destroy(&result);
  runner_release(&runner);
}

int main(void) {
  skip_without_device();
  if (moecl_context_create(NULL, &context) != MOECL_OK) return 1;
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(test_not_interrupted, nothing_happened),
      cmocka_unit_test_setup(test_interrupted_before_the_times, nothing_happened),
      cmocka_unit_test_setup(test_interrupted_stages, nothing_happened),
      cmocka_unit_test_setup(test_interrupted_verification, nothing_happened),
      cmocka_unit_test_setup(test_interrupted_dump, nothing_happened),
      cmocka_unit_test_setup(test_variants, nothing_happened),
      cmocka_unit_test_setup(test_group_after_failure, nothing_happened),
      cmocka_unit_test_setup(test_group_variants, nothing_happened),
      cmocka_unit_test_setup(test_group_memory, nothing_happened),
      cmocka_unit_test_setup(test_routed_nowhere, nothing_happened),
      cmocka_unit_test(test_summary),
      cmocka_unit_test(test_p90),
      cmocka_unit_test(test_same_layer),
      cmocka_unit_test_setup(test_sweeps, nothing_happened),
      cmocka_unit_test_setup(test_rates, nothing_happened),
      cmocka_unit_test_setup(test_rounds, nothing_happened),
  };
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  moecl_context_destroy(&context);
  return failed;
}
