// SPDX-License-Identifier: MIT
/* A layer on a group of devices gives the bits of one device, whatever the rule, the placement of
 * experts and the members' tokens. Members are contexts on one device, or on as many GPUs as there
 * are. They have a thread each; `test_group turns`: they take turns, as on CPUs, where the host
 * transport goes another way. MOECL_TEST_TRANSPORT: rows go by that one. */
#include "group/group.h"
#include "group_compare.h"
#include <limits.h>
#include <pthread.h>
#include <unistd.h>

/* More tokens than a block of dispatch, members without tokens, without experts, alone. */
static const arrangement arrangements[] = {
    {1, {150}, 0, {0}},           {2, {75, 75}, 1, {0}},
    {2, {0, 150}, 3, {0}},        {3, {149, 0, 1}, 2, {1, 5, 2}},
    {4, {20, 70, 1, 59}, 8, {0}}, {4, {0, 0, 150, 0}, 1, {0, 1, 0, 3}},
};
enum { ARRANGEMENTS = sizeof arrangements / sizeof *arrangements };

/* Some arrangements of one rule, each rule others. */
static void check_rule(const moecl_layer_params *params, int first, int step, const char *what) {
  problem p = make_problem(params, TOKENS);
  for (int i = first; i < ARRANGEMENTS; i += step) {
    const moecl_group_layer_params with = params_of(&arrangements[i]);
    compare(&p, &with, arrangements[i].members, arrangements[i].split, what);
  }
  free_problem(&p);
}

static void test_arrangements(void **state) {
  (void)state;
  check_rule(&plain, 0, 1, "plain");
}

static void test_drop_policies(void **state) {
  (void)state;
  for (int policy = 0; policy < MOECL_DROP_POLICY_COUNT; policy++) {
    moecl_layer_params params = plain;
    params.capacity_factor = 0.7;
    params.drop_policy = (moecl_drop_policy)policy;
    params.renormalize_after_capacity = policy != 0;
    check_rule(&params, 3 + policy % 2, 1 + 4 * (policy % 2), "a drop policy");
  }
}

static void test_shared_and_identity(void **state) {
  moecl_layer_params params = plain;
  (void)state;
  params.shared_intermediate_size = 12;
  params.shared_gate = true;
  params.num_identity_experts = 2;
  params.gate_up_bias = params.down_bias = params.router_bias = true;
  check_rule(&params, 2, 2, "a shared expert and identity experts");
}

/* Numbers are drawn by a token's number in the batch. */
static void test_draws(void **state) {
  moecl_layer_params params = plain;
  (void)state;
  params.jitter = 0.125f;
  params.router_noise = true;
  check_rule(&params, 4, 9, "jitter and noise");
  params.second_choice = MOECL_SECOND_RANDOM;
  check_rule(&params, 3, 9, "a random second choice");
  params.router_noise = false;
  params.second_choice = MOECL_SECOND_SAMPLED;
  check_rule(&params, 4, 9, "a sampled second choice");
}

static void test_weight_on_input(void **state) {
  moecl_layer_params params = plain;
  (void)state;
  params.weight_on_input = true;
  params.capacity_factor = 1;
  params.renormalize_after_capacity = true;
  params.dtype = MOECL_BF16;
  check_rule(&params, 3, 9, "weighted inputs");
}

static void test_formats(void **state) {
  moecl_layer_params params = plain;
  (void)state;
  params.hidden_size = 37;
  params.intermediate_size = 19;
  params.dtype = MOECL_F16;
  check_rule(&params, 4, 9, "odd sizes, fp16");
  params.dtype = MOECL_BF16;
  params.weight_format = MOECL_FORMAT_INT8;
  check_rule(&params, 4, 9, "odd sizes, bf16 with weights of int8");
  params.activation_format = MOECL_FORMAT_INT8;
  params.shared_intermediate_size = 11;
  check_rule(&params, 3, 9, "int8 by int8");
}

/* Experts that store their outputs where they are combined, or in the order in which they are sent:
 * every drop policy, with arrangements in turns; 16-bit rows beside fp32 outputs, odd ones. */
static void test_scattered(void **state) {
  moecl_layer_params params = plain;
  (void)state;
  params.grouped_gemm_variant = "generic";
  check_rule(&params, 0, 1, "outputs that are scattered");
  params.capacity_factor = 0.7;
  for (int policy = 0; policy < MOECL_DROP_POLICY_COUNT; policy++) {
    params.drop_policy = (moecl_drop_policy)policy;
    params.renormalize_after_capacity = policy != 0;
    check_rule(&params, 1 + policy % 4, 4, "a drop policy, scattered");
  }
  params.hidden_size = 37;
  params.dtype = MOECL_BF16;
  params.down_bias = true;
  params.shared_intermediate_size = 12;
  check_rule(&params, 3, 9, "odd rows, scattered");
}

static void test_variants(void **state) {
  moecl_layer_params params = plain;
  (void)state;
  if (!has_variant(contexts[0], "router", "by_block")) skip();
  params.grouped_gemm_variant = "generic";
  params.router_variant = "by_block";
  check_rule(&params, 4, 9, "variants by name");
}

/* What the equality above hangs on, on one device: a batch in parts, of few rows and of many, gives
 * the bits of the whole. */
static void check_parts(const moecl_layer_params *params) {
  static const int64_t parts[] = {1, 2, 3, 7, 13, 124};
  moecl_routing routing;
  int64_t first = 0;
  problem whole = make_problem(params, TOKENS);
  char *want = run_alone(&whole, 0, &routing);
  moecl_routing_destroy(&routing);
  for (size_t i = 0; i < sizeof parts / sizeof *parts; first += parts[i++]) {
    problem part = whole;
    part.num_tokens = parts[i];
    part.hidden = (char *)whole.hidden + (size_t)first * whole.row_bytes;
    void *got = run_alone(&part, 0, &routing);
    moecl_routing_destroy(&routing);
    if (memcmp(got, want + (size_t)first * whole.row_bytes, (size_t)parts[i] * whole.row_bytes) !=
        0)
      fail_msg("%s: %d tokens of a batch give other bits alone",
               params->grouped_gemm_variant ? params->grouped_gemm_variant : "auto", (int)parts[i]);
    free(got);
  }
  assert_int_equal(first, TOKENS);
  free(want);
  free_problem(&whole);
}

static void test_in_parts(void **state) {
  moecl_layer_params params = plain;
  (void)state;
  params.shared_intermediate_size = 12;
  check_parts(&params);
  params.weight_format = MOECL_FORMAT_INT8;
  check_parts(&params);
  params.grouped_gemm_variant = "generic";
  check_parts(&params);
  params.weight_format = MOECL_FORMAT_DTYPE;
  params.grouped_gemm_variant = "clblast"; /* sums as its library does */
  moecl_layer *layer = NULL;
  assert_int_not_equal(moecl_layer_create(contexts[0], &params, &layer), MOECL_OK);
}

/* Lists that are not in order, and copies: of one expert on all, of others on two. */
static void test_given(void **state) {
  static const int32_t lists[] = {7, 0, 3, 3, 1, 5, 2, 3, 6, 4, 0};
  static const size_t sizes[] = {3, 4, 4};
  static const int64_t split[] = {10, 100, 40};
  int32_t experts[4] = {-1, -1, -1, -1};
  (void)state;
  problem p = make_problem(&plain, TOKENS);
  for (int32_t chunks = 1; chunks <= 2; chunks++) {
    const moecl_group_layer_params with = {
        .placement = MOECL_PLACE_GIVEN, .lists = lists, .list_sizes = sizes, .chunks = chunks};
    compare(&p, &with, 3, split, "given lists");
    together t = make_together(&p, &with, 3, split);
    assert_int_equal(moecl_group_layer_experts(t.layer, 1, experts, 4), 4);
    assert_true(experts[0] == 1 && experts[1] == 2 && experts[2] == 3 && experts[3] == 5);
    free_together(&t);
  }
  free_problem(&p);
}

/* Copies of some experts on all members, beside every placement: bits stay, and rows are shared. */
static void test_replicated(void **state) {
  static const int32_t hot[] = {6, 1}, lists[] = {0, 1, 2, 3, 4, 5, 6, 7};
  static const size_t sizes[] = {2, 6, 0};
  static const double weights[] = {0, 1, 1};
  static const int64_t split[] = {10, 100, 40};
  static const size_t expected[][3] = {{3, 5, 4}, {2, 5, 5}, {3, 7, 2}};
  (void)state;
  problem p = make_problem(&plain, TOKENS);
  for (int placement = 0; placement < MOECL_PLACEMENT_COUNT; placement++) {
    const moecl_group_layer_params with = {.placement = (moecl_placement)placement,
                                           .member_weights = weights,
                                           .lists = lists,
                                           .list_sizes = sizes,
                                           .replicated = hot,
                                           .num_replicated = 2};
    compare(&p, &with, 3, split, "replicated experts");
    together t = make_together(&p, &with, 3, split);
    for (size_t m = 0; m < 3; m++) {
      int32_t own[EXPERTS];
      const size_t count = moecl_group_layer_experts(t.layer, m, own, EXPERTS);
      bool found[EXPERTS] = {false};
      assert_int_equal(count, expected[placement][m]);
      for (size_t i = 0; i < count; i++) found[own[i]] = true;
      assert_true(found[1] && found[6]);
    }
    free_together(&t);
  }
  free_problem(&p);
}

/* Rows sent as fp8: the bits of one device that gets them as the reference rounds them, wherever
 * experts are. The router reads them as they are, so that here it hangs on a bias alone. */
static void test_rounded_rows(void **state) {
  moecl_layer_params params = plain;
  moecl_routing routing;
  moecl_status status;
  (void)state;
  params.hidden_size = 301;
  params.dtype = MOECL_BF16;
  params.router_bias = true;
  problem p = make_problem(&params, TOKENS), rounded = p;
  const size_t count = (size_t)(TOKENS * params.hidden_size);
  memset(p.weights[MOECL_ROUTER_WEIGHT], 0,
         (size_t)moecl_layer_tensor_bytes(&params, MOECL_ROUTER_WEIGHT));
  double *values = take(count * sizeof *values);
  moecl_to_double(params.dtype, p.hidden, count, values);
  assert_ok(moecl_reference_round_rows(params.dtype, MOECL_FORMAT_FP8_G128, TOKENS,
                                       params.hidden_size, values));
  rounded.hidden = take(count * sizeof(uint16_t));
  moecl_from_double(params.dtype, values, count, rounded.hidden);
  void *want = run_alone(&rounded, 11, &routing);
  moecl_routing_destroy(&routing);
  void *plain_rows = run_alone(&p, 11, &routing);
  moecl_routing_destroy(&routing);
  assert_memory_not_equal(plain_rows, want, count * sizeof(uint16_t));
  for (int i = 0; i < ARRANGEMENTS; i += 2) {
    moecl_group_layer_params with = params_of(&arrangements[i]);
    with.dispatch_format = MOECL_FORMAT_FP8_G128;
    together t = make_together(&p, &with, arrangements[i].members, arrangements[i].split);
    void *got = run_together(&t, 11, &status);
    moecl_group_statistics s;
    assert_ok(status);
    assert_memory_equal(got, want, count * sizeof(uint16_t));
    assert_ok(moecl_group_layer_statistics_wait(t.layer, 0, &s));
    assert_int_equal(s.row_bytes, 304 + 3 * 4);
    free(got);
    free_together(&t);
  }
  free(values), free(want), free(plain_rows), free(rounded.hidden);
  free_problem(&p);
}

/* A member whose variant keeps experts' outputs as bf16, which the linker (test/meson.build) makes
 * of the second here, beside one that has fp32: all have that, and the bits are one device's. */
static int asked_outputs, narrow_from = INT_MAX;
const desc_format *__real_op_gemm_outputs(const kernel_variant *variant, const desc_format *stored);
const desc_format *__wrap_op_gemm_outputs(const kernel_variant *variant, const desc_format *stored);
const desc_format *__wrap_op_gemm_outputs(const kernel_variant *variant,
                                          const desc_format *stored) {
  return asked_outputs++ >= narrow_from ? stored : __real_op_gemm_outputs(variant, stored);
}

static void test_mixed_outputs(void **state) {
  static const int64_t split[] = {60, 90}, whole[] = {150};
  moecl_layer_params params = plain;
  moecl_routing routing;
  moecl_status status;
  (void)state;
  params.dtype = MOECL_BF16;
  params.shared_intermediate_size = 12;
  params.grouped_gemm_variant = "generic";
  problem p = make_problem(&params, TOKENS);
  const moecl_group_layer_params with = {0};
  void *want = run_alone(&p, 11, &routing);
  moecl_routing_destroy(&routing);
  asked_outputs = 0;
  together t = make_together(&p, &with, 1, whole);
  free_together(&t);
  narrow_from = asked_outputs; /* that is how often a member asks */
  asked_outputs = 0;
  t = make_together(&p, &with, 2, split);
  assert_true(asked_outputs > narrow_from);
  narrow_from = INT_MAX;
  void *got = run_together(&t, 11, &status);
  assert_ok(status);
  assert_memory_equal(got, want, (size_t)TOKENS * p.row_bytes);
  moecl_group_statistics s;
  assert_ok(moecl_group_layer_statistics_wait(t.layer, 1, &s));
  assert_int_equal(s.output_row_bytes, HIDDEN * sizeof(float));
  free(got), free(want);
  free_together(&t);
  free_problem(&p);
}

/* By hand: 9, 8, 7 to a member each; 5 joins 7, 4 joins 8, 1 joins 9; of the last two, which make
 * members 0 and 1 have one expert more, the first goes where least is. */
static void test_balance(void **state) {
  static const int64_t loads[] = {5, 0, 9, 1, 8, 4, 7, 0};
  static const int32_t want[] = {1, 2, 3, 4, 5, 7, 0, 6};
  static const int64_t equal[] = {3, 3, 3, 3, 3}, one[] = {9, 0, 0, 0, 0}, wrong[] = {1, -1};
  int32_t lists[EXPERTS];
  size_t sizes[MOST_MEMBERS];
  (void)state;
  assert_ok(moecl_group_balance(loads, EXPERTS, 3, lists, sizes));
  assert_true(sizes[0] == 3 && sizes[1] == 3 && sizes[2] == 2);
  assert_memory_equal(lists, want, sizeof want);
  assert_ok(moecl_group_balance(equal, 5, 4, lists, sizes)); /* in turns */
  assert_true(sizes[0] == 2 && sizes[1] == 1 && sizes[2] == 1 && sizes[3] == 1);
  assert_true(lists[0] == 0 && lists[1] == 4 && lists[2] == 1 && lists[3] == 2 && lists[4] == 3);
  assert_ok(moecl_group_balance(one, 5, 4, lists, sizes)); /* one alone may have two */
  assert_true(sizes[0] == 1 && sizes[1] == 2 && sizes[2] == 1 && sizes[3] == 1);
  assert_ok(moecl_group_balance(equal, 2, 3, lists, sizes)); /* and one that has none */
  assert_true(sizes[0] == 1 && sizes[1] == 1 && sizes[2] == 0);
  assert_int_equal(moecl_group_balance(wrong, 2, 2, lists, sizes), MOECL_ERROR_INVALID_ARGUMENT);
  assert_int_equal(moecl_group_balance(loads, 8, 0, lists, sizes), MOECL_ERROR_INVALID_ARGUMENT);
}

/* A member whose experts nobody wants: a correction bias keeps all from the last two. */
static void test_unwanted(void **state) {
  moecl_layer_params params = plain;
  (void)state;
  params.scoring = MOECL_SCORING_SIGMOID;
  params.score_correction_bias = true;
  problem p = make_problem(&params, TOKENS);
  float *bias = p.weights[MOECL_SCORE_CORRECTION_BIAS];
  for (int e = 0; e < EXPERTS; e++) bias[e] = e >= 4 ? -100 : 0;
  for (int i = 1; i < ARRANGEMENTS; i += 3) {
    const moecl_group_layer_params with = params_of(&arrangements[i]);
    compare(&p, &with, arrangements[i].members, arrangements[i].split, "unwanted experts");
  }
  free_problem(&p);
}

/* Blocks of many pieces: rows are large enough for more than the staging holds. */
static void test_large_rows(void **state) {
  moecl_layer_params params = plain;
  static const int64_t split[] = {3, 397};
  (void)state;
  if (!(moecl_context_device(contexts[0])->capabilities & MOECL_CAP_LONG_LOOPS)) {
    printf("SKIP: this driver leaves long loops early\n");
    skip();
  }
  params.hidden_size = 40000;
  params.intermediate_size = 2;
  problem p = make_problem(&params, 400);
  const moecl_group_layer_params with = {.chunks = 0};
  compare(&p, &with, 2, split, "large rows");
  free_problem(&p);
}

static void test_no_tokens(void **state) {
  static const int64_t none[MOST_MEMBERS] = {0};
  moecl_status status;
  moecl_routing routing;
  (void)state;
  problem p = make_problem(&plain, 0);
  const moecl_group_layer_params with = {0};
  together t = make_together(&p, &with, 2, none);
  void *got = run_together(&t, 1, &status);
  assert_ok(status);
  assert_ok(moecl_group_layer_read_routing_wait(t.layer, &routing));
  assert_int_equal(routing.num_tokens, 0);
  moecl_routing_destroy(&routing);
  free(got);
  free_together(&t);
  free_problem(&p);
}

/* Forwards with other seeds, so with other routing: memory comes to rest. */
static void test_many(void **state) {
  const char *asked = getenv("MOECL_TEST_FORWARDS");
  const int forwards = asked ? atoi(asked) : 200;
  moecl_layer_params params = plain;
  uint64_t early[2];
  (void)state;
  params.jitter = 0.5f;
  problem p = make_problem(&params, TOKENS);
  const moecl_group_layer_params with = params_of(&arrangements[1]);
  together t = make_together(&p, &with, 2, arrangements[1].split);
  for (int i = 0; i < forwards; i++) {
    moecl_status status;
    void *got = run_together(&t, (uint64_t)i, &status);
    assert_ok(status);
    free(got);
    for (int m = 0; m < 2 && i == forwards / 2; m++)
      early[m] = moecl_context_memory(contexts[m], NULL);
  }
  for (int m = 0; m < 2; m++)
    assert_true(moecl_context_memory(contexts[m], NULL) <= early[m] + early[m] / 8);
  free_together(&t);
  free_problem(&p);
}

/* ---- what is refused ---- */

static void expect(moecl_status got, moecl_status want, const char *part) {
  char text[2000];
  assert_int_equal(got, want);
  moecl_context_take_errors(contexts[0], text, sizeof text);
  if (!strstr(text, part)) fail_msg("'%s' says nothing of '%s'", text, part);
}

static void test_refusals(void **state) {
  static const int32_t twice[] = {0, 1, 2, 3, 3, 4, 5, 6, 7}, few[] = {0, 1, 2, 3, 4, 5, 6};
  static const size_t all_sizes[] = {9, 0}, few_sizes[] = {4, 3};
  static const double nothing[] = {0, 0}, negative[] = {2, -1};
  moecl_context *same[] = {contexts[0], contexts[0]};
  const moecl_group_params unknown = {.transport = "pigeons"}, by_host = {.transport = "host"};
  moecl_group *group = NULL;
  moecl_group_layer *layer = NULL;
  const moecl_status invalid = MOECL_ERROR_INVALID_ARGUMENT;
  (void)state;
  moecl_context_take_errors(contexts[0], NULL, 0);
  expect(moecl_group_create(same, 2, NULL, &group), invalid, "the same context");
  expect(moecl_group_create(contexts, 65, NULL, &group), invalid, "1 to 64");
  expect(moecl_group_create(contexts, 2, &unknown, &group), MOECL_ERROR_UNSUPPORTED, "pigeons");
  assert_ok(moecl_group_create(contexts, 2, &by_host, &group));
  assert_string_equal(moecl_group_transport(group), "host");
  assert_ptr_equal(moecl_group_context(group, 1), contexts[1]);
  assert_null(moecl_group_context(group, 2));
  const struct {
    moecl_group_layer_params params;
    const char *part;
  } wrong[] = {
      {{.layer = plain, .chunks = 9}, "1 to 8"},
      {{.layer = plain, .placement = MOECL_PLACE_WEIGHTED}, "needs member_weights"},
      {{.layer = plain, .placement = MOECL_PLACE_WEIGHTED, .member_weights = nothing}, "at least"},
      {{.layer = plain, .placement = MOECL_PLACE_WEIGHTED, .member_weights = negative},
       "0 or more"},
      {{.layer = plain, .placement = MOECL_PLACE_GIVEN}, "needs lists"},
      {{.layer = plain, .placement = MOECL_PLACE_GIVEN, .lists = twice, .list_sizes = all_sizes},
       "expert 3 twice"},
      {{.layer = plain, .placement = MOECL_PLACE_GIVEN, .lists = few, .list_sizes = few_sizes},
       "expert 7 is in no"},
      {{.layer = plain, .placement = MOECL_PLACEMENT_COUNT}, "placement"},
      {{.layer = plain, .num_replicated = 1}, "replicated is NULL"},
      {{.layer = plain, .dispatch_format = MOECL_FORMAT_INT8}, "dispatch_format"},
      {{.layer = plain, .replicated = twice, .num_replicated = 5}, "expert 3 twice"},
      {{.layer = plain, .replicated = &(int32_t){EXPERTS}, .num_replicated = 1}, "expert 8,"},
      {{.layer = {.hidden_size = -1}}, "hidden_size"}};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    expect(moecl_group_layer_create(group, &wrong[i].params, &layer), invalid, wrong[i].part);
    assert_null(layer);
  }
  moecl_group_destroy(&group);
}

/* Links between GPUs: not between contexts on one device, nor on devices of another kind; then the
 * host serves. */
static void test_peers(void **state) {
  const moecl_group_params by_peer = {.transport = "nvidia_peer"};
  moecl_context *one[] = {contexts[0], NULL};
  const moecl_context_params same = {.device = NULL};
  moecl_group *group = NULL;
  (void)state;
  assert_ok(moecl_context_create(&same, &one[1]));
  const bool ptx = moecl_context_device(one[0])->capabilities & MOECL_CAP_PTX_SM80;
  moecl_context_take_errors(contexts[0], NULL, 0);
  expect(moecl_group_create(one, 2, &by_peer, &group), MOECL_ERROR_UNSUPPORTED,
         ptx ? "on one device" : "no GPU of NVIDIA's");
  assert_null(group);
  assert_ok(moecl_group_create(one, 2, NULL, &group));
  assert_string_equal(moecl_group_transport(group), "host");
  moecl_group_destroy(&group);
  moecl_context_take_errors(contexts[0], NULL, 0);
  assert_ok(moecl_group_create(one, 1, &by_peer, &group)); /* sends nothing */
  assert_string_equal(moecl_group_transport(group), "host");
  moecl_group_destroy(&group);
  const moecl_group_params by_none = {.transport = "carrier pigeon"};
  expect(moecl_group_create(one, 1, &by_none, &group), MOECL_ERROR_UNSUPPORTED, "no transport");
  moecl_context_destroy(&one[1]);
}

/* Those that are tried by themselves, in that order, and then those that serve by name alone. */
static void test_names(void **state) {
  static const char *const want[] = {"nvidia_peer", "host", "nvidia_copy"};
  const char *names[9];
  (void)state;
  const size_t count = moecl_group_transports(names, 9);
  assert_int_equal(count, sizeof want / sizeof *want);
  for (size_t i = 0; i < count; i++) {
    assert_string_equal(names[i], want[i]);
    assert_string_equal(group_transports[i]->name, want[i]);
    assert_int_equal(group_transports[i]->asked_only, i > 1);
  }
}

/* ---- a transport that makes the buffers of rows ---- */

static int provided, discarded;

static moecl_status provide_one(void *state, int member, uint64_t bytes, moecl_buffer **buffer) {
  (void)state;
  if (*buffer && moecl_buffer_size(*buffer) >= bytes) return MOECL_OK;
  discarded += *buffer != NULL;
  provided++;
  return group_provide(contexts[member], bytes, buffer);
}

static moecl_status provide_counted(void *state, const group_arrival *arrivals, size_t count) {
  for (size_t i = 0; i < count; i++)
    MOECL_TRY(provide_one(state, arrivals[i].member, arrivals[i].bytes, arrivals[i].buffer));
  return MOECL_OK;
}

static void discard_counted(void *state, moecl_buffer **buffer) {
  (void)state;
  discarded += *buffer != NULL;
  moecl_buffer_destroy(buffer);
}

static void test_arrivals(void **state) {
  static const int64_t split[] = {30, 20};
  const moecl_group_layer_params with = {.chunks = 2};
  moecl_layer_params params = plain;
  group_transport counted = group_host_transport;
  (void)state;
  params.jitter = 0.5f;
  counted.provide = provide_counted;
  counted.provide_source = provide_one;
  counted.discard = discard_counted;
  problem p = make_problem(&params, 50);
  together t = make_together(&p, &with, 2, split);
  t.group->transport->release(t.group->state);
  t.group->transport = &counted;
  assert_ok(counted.create(t.group, &t.group->state));
  for (uint64_t seed = 0; seed < 8; seed++) {
    moecl_status status;
    free(run_together(&t, seed, &status));
    assert_ok(status);
    assert_int_equal(provided - discarded, 12); /* six of each member, grown at times */
  }
  free_together(&t);
  assert_int_equal(provided, discarded);
  free_problem(&p);
}

/* ---- a thread for each member ---- */

typedef struct said {
  char text[200];
  pthread_t by[4];
  int count;
} said;

static void note_said(void *user, moecl_log_level level, const char *message) {
  said *to = user;
  if (level != MOECL_LOG_ERROR) return;
  to->by[to->count++] = pthread_self();
  strcat(strcat(to->text, message), ";");
}

static pthread_t began[MOST_MEMBERS];

/* Member 2 fails first, and then member 1. */
static moecl_status fail_part(void *state, int member, const group_block *blocks, size_t count,
                              group_observer *observer) {
  (void)state, (void)blocks, (void)count, (void)observer;
  began[member] = pthread_self();
  if (member == 0) return MOECL_OK;
  if (member == 1) usleep(50000);
  return log_error(&contexts[member]->log, member == 1 ? MOECL_ERROR_IO : MOECL_ERROR_BUILD,
                   "member %d fails", member);
}

static moecl_status finish_nothing(void *state, int member, int exchange) {
  (void)state, (void)member, (void)exchange;
  return MOECL_OK;
}

/* The first one's error counts, messages come in the order of members and in the caller's thread;
 * and the next forward is right, whether members have threads or take turns. */
static void check_errors(together *t, bool threads) {
  group_transport failing = group_host_transport;
  const group_transport *sound = t->group->transport;
  said all = {.count = 0};
  moecl_log logs[3];
  moecl_status status;
  failing.begin_part = fail_part;
  failing.finish_part = finish_nothing;
  t->group->transport = &failing;
  for (int m = 0; m < 3; m++) {
    logs[m] = contexts[m]->log;
    contexts[m]->log.fn = note_said;
    contexts[m]->log.user = &all;
  }
  assert_null(run_together(t, 11, &status));
  for (int m = 0; m < 3; m++) contexts[m]->log = logs[m];
  t->group->transport = sound;
  assert_int_equal(status, MOECL_ERROR_IO);
  assert_string_equal(all.text, "member 1 fails;member 2 fails;");
  assert_true(pthread_equal(all.by[0], pthread_self()) && pthread_equal(all.by[1], pthread_self()));
  for (int m = 0; m < 3; m++)
    assert_int_equal(pthread_equal(began[m], pthread_self()) != 0, m == 0 || !threads);
}

static void test_threads(void **state) {
  static const int64_t split[] = {70, 0, 80};
  const moecl_group_layer_params with = {.chunks = 2};
  moecl_routing routing;
  moecl_status status;
  (void)state;
  problem p = make_problem(&plain, TOKENS);
  void *want = run_alone(&p, 11, &routing);
  moecl_routing_destroy(&routing);
  together t = make_together(&p, &with, 3, split);
  for (int threads = !takes_turns; threads >= 0; threads--) {
    if (!threads) base_team_destroy(&t.group->team);
    check_errors(&t, threads);
    void *got = run_together(&t, 11, &status);
    assert_ok(status);
    assert_true(same_output(&t, got, want));
    free(got);
  }
  free_together(&t);
  free(want);
  free_problem(&p);
}

static void test_not_ready(void **state) {
  const moecl_group_layer_params params = {.layer = plain};
  const moecl_group_tokens none[2] = {{.num_tokens = 0}, {.num_tokens = 0}};
  const moecl_group_tokens no_buffer[2] = {{.num_tokens = 3}, {.num_tokens = 0}};
  const moecl_group_forward_params forward = {.tokens = none};
  moecl_group *group = NULL;
  moecl_group_layer *layer = NULL;
  moecl_routing routing;
  (void)state;
  assert_ok(moecl_group_create(contexts, 2, NULL, &group));
  assert_ok(moecl_group_layer_create(group, &params, &layer));
  moecl_group_destroy(&group); /* the layer keeps it */
  moecl_context_take_errors(contexts[0], NULL, 0);
  expect(moecl_group_layer_forward(layer, &forward, NULL), MOECL_ERROR_NOT_READY, "were not set");
  expect(moecl_group_layer_read_routing_wait(layer, &routing), MOECL_ERROR_NOT_READY, "no routing");
  problem p = make_problem(&plain, 3);
  for (int t = 0; t < MOECL_TENSOR_COUNT; t++)
    if (p.weights[t])
      assert_ok(moecl_group_layer_set_weights(layer, (moecl_tensor)t, 0,
                                              moecl_layer_tensor_items(&plain, (moecl_tensor)t),
                                              p.weights[t]));
  const moecl_group_forward_params empty = {.tokens = no_buffer};
  expect(moecl_group_layer_forward(layer, &empty, NULL), MOECL_ERROR_INVALID_ARGUMENT,
         "hidden_states");
  free_problem(&p);
  moecl_group_layer_destroy(&layer);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_arrangements),
                                     cmocka_unit_test(test_drop_policies),
                                     cmocka_unit_test(test_shared_and_identity),
                                     cmocka_unit_test(test_draws),
                                     cmocka_unit_test(test_weight_on_input),
                                     cmocka_unit_test(test_formats),
                                     cmocka_unit_test(test_variants),
                                     cmocka_unit_test(test_scattered),
                                     cmocka_unit_test(test_given),
                                     cmocka_unit_test(test_replicated),
                                     cmocka_unit_test(test_balance),
                                     cmocka_unit_test(test_rounded_rows),
                                     cmocka_unit_test(test_mixed_outputs),
                                     cmocka_unit_test(test_in_parts),
                                     cmocka_unit_test(test_unwanted),
                                     cmocka_unit_test(test_large_rows),
                                     cmocka_unit_test(test_no_tokens),
                                     cmocka_unit_test(test_many),
                                     cmocka_unit_test(test_refusals),
                                     cmocka_unit_test(test_peers),
                                     cmocka_unit_test(test_names),
                                     cmocka_unit_test(test_arrivals),
                                     cmocka_unit_test(test_threads),
                                     cmocka_unit_test(test_not_ready)};
  takes_turns = argc > 1 && strcmp(argv[1], "turns") == 0;
  if (argc > 1 + takes_turns) cmocka_set_test_filter(argv[1 + takes_turns]);
  skip_without_device();
  make_contexts();
  const int failed = cmocka_run_group_tests_name("group", tests, NULL, NULL);
  destroy_contexts();
  return failed ? 1 : 0;
}
