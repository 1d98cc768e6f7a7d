// SPDX-License-Identifier: MIT
/* A layer whose experts are in the host's memory gives the bits of one that has them on the device,
 * whatever the rule, the places and whose place is given away; and it brings those experts that a
 * simple model of such a cache says. */
#include "layer/expert_cache.h"
#include "problem.h"
#include "stand_in.h"
#include <math.h>

enum { HIDDEN = 40, INNER = 24, EXPERTS = 8, TOP_K = 3, TOKENS = 60, MOST_EXPERTS = 32 };
enum { MOST_ALIGNED = 4 * 63 }; /* bytes of an expert, of two matrices and two biases */

static moecl_context *context;

static const moecl_layer_params plain = {
    .hidden_size = HIDDEN, .intermediate_size = INNER, .num_experts = EXPERTS, .top_k = TOP_K};

/* Which of the problem's tokens a forward has: all, some again, few, one, all again. */
static const struct {
  int64_t first, count;
} windows[] = {{0, TOKENS}, {0, TOKENS}, {7, 2}, {11, 1}, {7, 2}, {30, 3}, {11, 1}, {0, TOKENS}};
enum { WINDOWS = sizeof windows / sizeof *windows };

/* ---- forwards ---- */

static moecl_layer *make_layer(moecl_context *in, const problem *p, int64_t places,
                               moecl_eviction eviction) {
  moecl_layer_params params = p->params;
  moecl_layer *layer = NULL;
  params.expert_cache = places;
  params.eviction = eviction;
  assert_ok(moecl_layer_create(in, &params, &layer));
  for (int t = 0; t < MOECL_TENSOR_COUNT; t++)
    if (p->weights[t])
      assert_ok(moecl_layer_set_weights(layer, (moecl_tensor)t, 0,
                                        moecl_layer_tensor_items(&params, (moecl_tensor)t),
                                        p->weights[t]));
  return layer;
}

static moecl_status try_forward(moecl_context *in, moecl_layer *layer, const problem *p,
                                int64_t first, int64_t count, char *result) {
  const uint64_t bytes = (uint64_t)count * p->row_bytes;
  moecl_buffer *hidden = NULL, *output = NULL;
  assert_ok(moecl_buffer_create(in, bytes, &hidden));
  assert_ok(moecl_buffer_create(in, bytes, &output));
  assert_ok(
      moecl_buffer_write_wait(hidden, 0, bytes, (char *)p->hidden + (size_t)first * p->row_bytes));
  assert_ok(moecl_buffer_fill_byte(output, 0, bytes, 0xff));
  const moecl_forward_params forward = {
      .num_tokens = count, .hidden_states = hidden, .output = output, .seed = 5, .measured = true};
  moecl_event *done = NULL;
  moecl_status status = moecl_layer_forward(layer, &forward, &done);
  if (status == MOECL_OK) status = moecl_event_wait(done);
  if (status == MOECL_OK) status = moecl_buffer_read_wait(output, 0, bytes, result);
  moecl_event_destroy(&done);
  moecl_buffer_destroy(&hidden);
  moecl_buffer_destroy(&output);
  return status;
}

static char *run(moecl_context *in, moecl_layer *layer, const problem *p, size_t window) {
  char *result = take((size_t)windows[window].count * p->row_bytes);
  assert_ok(try_forward(in, layer, p, windows[window].first, windows[window].count, result));
  return result;
}

static moecl_offload_statistics statistics_of(moecl_layer *layer) {
  moecl_offload_statistics statistics;
  assert_ok(moecl_layer_offload_statistics_wait(layer, &statistics));
  return statistics;
}

/* ---- the model: who is there, and since when and how often each was wanted ---- */

typedef struct model {
  int places, kept, there; /* how many are there */
  bool lfu, is_there[MOST_EXPERTS];
  long last[MOST_EXPERTS], now;
  double often[MOST_EXPERTS];
} model;

/* Should a leave before b? */
static bool leaves(const model *m, const bool *wanted, int a, int b) {
  if (wanted[a] != wanted[b]) return wanted[b];
  if (m->lfu && m->often[a] != m->often[b]) return m->often[a] < m->often[b];
  return m->last[a] < m->last[b];
}

static void make_room(model *m, const bool *wanted) {
  int leaver = -1;
  for (int e = 0; e < MOST_EXPERTS; e++) {
    if (!m->is_there[e] || (wanted[e] && m->last[e] > m->now - m->kept)) continue;
    if (leaver < 0 || leaves(m, wanted, e, leaver)) leaver = e;
  }
  m->is_there[leaver] = false;
  m->there--;
}

/* Returns how many had to be brought. */
static int model_forward(model *m, const bool *wanted) {
  bool missing[MOST_EXPERTS];
  int brought = 0;
  for (int e = 0; e < MOST_EXPERTS; e++) {
    m->often[e] = m->often[e] - m->often[e] / 64 + wanted[e];
    missing[e] = wanted[e] && !m->is_there[e];
    if (wanted[e] && !missing[e]) m->last[e] = ++m->now;
  }
  for (int e = 0; e < MOST_EXPERTS; e++) {
    if (!missing[e]) continue;
    if (m->there == m->places) make_room(m, wanted);
    m->is_there[e] = true;
    m->last[e] = ++m->now;
    m->there++;
    brought++;
  }
  return brought;
}

/* Experts of these tests are small: a round brings as many as half of the places. */
static model make_model(int places, moecl_eviction eviction) {
  const int half = places > 1 ? places / 2 : 1;
  return (model){.places = places,
                 .kept = 2 * half - 1 < places ? 2 * half - 1 : 0,
                 .lfu = eviction == MOECL_EVICT_LFU};
}

static void check_counts(moecl_layer *layer, const problem *p, model *m) {
  moecl_routing routing;
  bool wanted[MOST_EXPERTS] = {false};
  int count = 0;
  assert_ok(moecl_layer_read_routing_wait(layer, &routing));
  for (int64_t e = 0; e < routing.num_experts - routing.num_identity_experts; e++)
    count += wanted[e] = routing.tokens_per_expert_after_capacity[e] > 0;
  moecl_routing_destroy(&routing);
  const int brought = model_forward(m, wanted);
  const moecl_offload_statistics s = statistics_of(layer);
  const uint64_t one = moecl_layer_host_bytes(layer) /
                       (uint64_t)(p->params.num_experts - p->params.num_identity_experts);
  assert_int_equal(s.latest.misses, brought);
  assert_int_equal(s.latest.hits, count - brought);
  assert_int_equal(s.filled, m->there);
  /* All of each, without what aligns its parts in the host's memory. */
  assert_true(s.latest.bytes <= (uint64_t)brought * one);
  assert_true(s.latest.bytes + (uint64_t)brought * MOST_ALIGNED >= (uint64_t)brought * one);
  assert_true((s.latest.bytes == 0) == (brought == 0));
  assert_true(brought == 0 ? !(s.transfer_ms > 0) : s.transfer_ms > 0);
  assert_true(s.hidden_ms <= s.transfer_ms);
}

/* ---- the same bits ---- */

static void check_same_routing(moecl_layer *layer, moecl_layer *other) {
  moecl_routing a, b;
  assert_ok(moecl_layer_read_routing_wait(layer, &a));
  assert_ok(moecl_layer_read_routing_wait(other, &b));
  const size_t slots = (size_t)(a.num_tokens * a.top_k), experts = (size_t)a.num_experts;
  assert_memory_equal(a.topk_ids, b.topk_ids, slots * sizeof *a.topk_ids);
  assert_memory_equal(a.kept, b.kept, slots);
  assert_memory_equal(a.tokens_per_expert_after_capacity, b.tokens_per_expert_after_capacity,
                      experts * sizeof *a.tokens_per_expert_after_capacity);
  moecl_routing_destroy(&a);
  moecl_routing_destroy(&b);
}

static void compare(moecl_context *in, const problem *p, int64_t places, moecl_eviction eviction,
                    const char *what) {
  moecl_layer *resident = make_layer(in, p, 0, MOECL_EVICT_LRU);
  moecl_layer *layer = make_layer(in, p, places, eviction);
  model m = make_model((int)places, eviction);
  int64_t misses = 0;
  for (size_t w = 0; w < WINDOWS; w++) {
    char *want = run(in, resident, p, w), *got = run(in, layer, p, w);
    if (memcmp(got, want, (size_t)windows[w].count * p->row_bytes) != 0)
      fail_msg("%s: %d places give other bits in forward %d", what, (int)places, (int)w);
    check_same_routing(layer, resident);
    check_counts(layer, p, &m);
    misses += statistics_of(layer).latest.misses;
    free(want), free(got);
  }
  const moecl_offload_statistics s = statistics_of(layer);
  assert_int_equal(s.places, places);
  assert_int_equal(s.all.forwards, WINDOWS);
  assert_int_equal(s.all.misses, misses);
  moecl_layer_destroy(&layer);
  moecl_layer_destroy(&resident);
}

static void check_rule(const moecl_layer_params *params, const char *what) {
  problem p = make_problem(params, TOKENS);
  compare(context, &p, 1, MOECL_EVICT_LRU, what);
  compare(context, &p, 3, MOECL_EVICT_LFU, what);
  compare(context, &p, params->num_experts - params->num_identity_experts, MOECL_EVICT_LRU, what);
  free_problem(&p);
}

static void test_places(void **state) {
  (void)state;
  problem p = make_problem(&plain, TOKENS);
  for (int64_t places = 1; places <= EXPERTS; places++)
    for (int e = 0; e < MOECL_EVICTION_COUNT; e++)
      compare(context, &p, places, (moecl_eviction)e, "plain");
  free_problem(&p);
}

static void test_drop_policies(void **state) {
  (void)state;
  for (int policy = 0; policy < MOECL_DROP_POLICY_COUNT; policy++) {
    moecl_layer_params params = plain;
    params.capacity_factor = 0.7;
    params.drop_policy = (moecl_drop_policy)policy;
    params.renormalize_after_capacity = policy != 0;
    check_rule(&params, "a drop policy");
  }
}

static void test_shared_and_identity(void **state) {
  moecl_layer_params params = plain;
  (void)state;
  params.shared_intermediate_size = 12;
  params.shared_gate = true;
  params.num_identity_experts = 2;
  params.gate_up_bias = params.down_bias = params.router_bias = true;
  check_rule(&params, "a shared expert, identity experts and biases");
}

static void test_weight_on_input(void **state) {
  moecl_layer_params params = plain;
  (void)state;
  params.weight_on_input = true;
  params.capacity_factor = 1;
  params.renormalize_after_capacity = true;
  params.dtype = MOECL_BF16;
  check_rule(&params, "weighted inputs");
}

static void test_formats(void **state) {
  moecl_layer_params params = plain;
  (void)state;
  params.hidden_size = 37;
  params.intermediate_size = 19;
  params.dtype = MOECL_F16;
  params.jitter = 0.125f;
  check_rule(&params, "odd sizes, fp16");
  params.dtype = MOECL_BF16;
  params.weight_format = MOECL_FORMAT_INT4_G32;
  check_rule(&params, "odd sizes, bf16 with weights of int4");
  params.weight_format = params.activation_format = MOECL_FORMAT_INT8;
  params.shared_intermediate_size = 11;
  check_rule(&params, "int8 by int8");
}

static void test_variants(void **state) {
  moecl_layer_params params = plain;
  (void)state;
  if (!has_variant(context, "router", "by_block")) skip();
  params.grouped_gemm_variant = "generic";
  params.router_variant = "by_block";
  check_rule(&params, "variants by name");
}

/* The best variant for 16 bits: on a GPU one with kernels for few tokens, which do for all places
 * only where a row's sums hang on no other. */
static void test_best(void **state) {
  moecl_layer_params params = plain;
  (void)state;
  params.hidden_size = 64;
  params.intermediate_size = 128;
  params.dtype = MOECL_BF16;
  params.num_experts = MOST_EXPERTS;
  problem p = make_problem(&params, TOKENS);
  compare(context, &p, 9, MOECL_EVICT_LRU, "the best variant");
  free_problem(&p);
  params.batch_invariant = true;
  check_rule(&params, "the best variant, batch-invariant");
}

static bool takes_path(moecl_context *in, const moecl_layer_params *params, int64_t places,
                       int64_t tokens, const char *name) {
  moecl_plan_choice choices[8];
  moecl_layer_params with = *params;
  moecl_plan *plan = NULL;
  bool taken = false;
  with.expert_cache = places;
  assert_ok(moecl_plan_create(in, &with, tokens, &plan));
  const size_t count = moecl_plan_choices(plan, choices, 8);
  for (size_t i = 0; i < count && i < 8; i++) taken = taken || strcmp(choices[i].name, name) == 0;
  moecl_plan_destroy(&plan);
  return taken;
}

static uint32_t tile_rows(moecl_context *in, const moecl_layer_params *params, int64_t places,
                          int64_t tokens) {
  moecl_plan_step steps[32];
  moecl_layer_params with = *params;
  moecl_plan *plan = NULL;
  uint32_t rows = 0;
  with.expert_cache = places;
  assert_ok(moecl_plan_create(in, &with, tokens, &plan));
  const size_t count = moecl_plan_steps(plan, steps, 32);
  for (size_t i = 0; i < count && i < 32; i++)
    if (strcmp(steps[i].name, "gate_up") == 0) rows = steps[i].tile_rows;
  moecl_plan_destroy(&plan);
  return rows;
}

/* Kernels that tiles of several heights are chosen for, and those for few tokens: how the choice
 * falls is not to hang on the places. */
static void test_stand_in(void **state) {
  static const char *const names[] = {"nvidia_sm80", "nvidia_sm90", "amd_mfma"};
  moecl_layer_params params = plain;
  moecl_context *in = NULL;
  stand_in replaced;
  (void)state;
  assert_true(stand_in_make(&replaced));
  assert_ok(stand_in_open(&replaced, &in));
  params.dtype = MOECL_BF16;
  params.shared_intermediate_size = 16;
  params.num_experts = MOST_EXPERTS;
  for (size_t i = 0; stand_in_runs(in) && i < sizeof names / sizeof *names; i++) {
    params.grouped_gemm_variant = names[i];
    problem p = make_problem(&params, TOKENS);
    assert_true(takes_path(in, &params, 9, 3, "few tokens, brought"));
    assert_true(takes_path(in, &params, 8, 3, "in rounds"));
    for (int64_t tokens = 20; tokens < 20000; tokens *= 3)
      assert_int_equal(tile_rows(in, &params, 9, tokens), tile_rows(in, &params, 0, tokens));
    compare(in, &p, 9, i ? MOECL_EVICT_LFU : MOECL_EVICT_LRU, names[i]);
    free_problem(&p);
  }
  moecl_context_destroy(&in);
  stand_in_remove(&replaced);
}

/* ---- weights that change ---- */

static void test_set_again(void **state) {
  (void)state;
  moecl_layer_params params = plain;
  params.gate_up_bias = true;
  problem p = make_problem(&params, TOKENS);
  moecl_layer *layer = make_layer(context, &p, 3, MOECL_EVICT_LRU);
  free(run(context, layer, &p, 0));
  for (int64_t e = 0; e < EXPERTS; e += 5)
    for (int t = MOECL_GATE_UP_PROJ; t <= MOECL_GATE_UP_BIAS; t++) {
      const size_t one = (size_t)moecl_layer_tensor_bytes(&params, (moecl_tensor)t);
      float *item = (float *)((char *)p.weights[t] + (size_t)e * one);
      for (size_t i = 0; i < one / sizeof *item; i++) item[i] += 0.25f;
      assert_ok(moecl_layer_set_weights(layer, (moecl_tensor)t, e, 1, item));
    }
  moecl_layer *resident = make_layer(context, &p, 0, MOECL_EVICT_LRU);
  for (size_t w = 0; w < WINDOWS; w++) {
    char *want = run(context, resident, &p, w), *got = run(context, layer, &p, w);
    assert_memory_equal(got, want, (size_t)windows[w].count * p.row_bytes);
    free(want), free(got);
  }
  moecl_layer_destroy(&layer);
  moecl_layer_destroy(&resident);
  free_problem(&p);
}

/* Enqueued one behind the other without waiting in between. */
static void test_in_flight(void **state) {
  enum { FORWARDS = 6 };
  moecl_buffer *hidden = NULL, *output[FORWARDS];
  (void)state;
  problem p = make_problem(&plain, TOKENS);
  moecl_layer *resident = make_layer(context, &p, 0, MOECL_EVICT_LRU);
  moecl_layer *layer = make_layer(context, &p, 2, MOECL_EVICT_LFU);
  char *want = run(context, resident, &p, 0), *got = take(TOKENS * p.row_bytes);
  assert_ok(moecl_buffer_create(context, TOKENS * p.row_bytes, &hidden));
  assert_ok(moecl_buffer_write_wait(hidden, 0, TOKENS * p.row_bytes, p.hidden));
  for (int i = 0; i < FORWARDS; i++) {
    assert_ok(moecl_buffer_create(context, TOKENS * p.row_bytes, &output[i]));
    const moecl_forward_params forward = {
        .num_tokens = TOKENS, .hidden_states = hidden, .output = output[i], .seed = 5};
    assert_ok(moecl_layer_forward(layer, &forward, NULL));
  }
  moecl_layer_destroy(&layer);
  for (int i = 0; i < FORWARDS; i++) {
    assert_ok(moecl_buffer_read_wait(output[i], 0, TOKENS * p.row_bytes, got));
    assert_memory_equal(got, want, TOKENS * p.row_bytes);
    moecl_buffer_destroy(&output[i]);
  }
  moecl_buffer_destroy(&hidden);
  moecl_layer_destroy(&resident);
  free(want), free(got);
  free_problem(&p);
}

/* ---- numbers ---- */

static void test_memory(void **state) {
  (void)state;
  moecl_layer_params params = plain;
  moecl_memory all, some, more;
  params.down_bias = true;
  assert_ok(moecl_layer_memory(context, &params, TOKENS, &all));
  assert_int_equal(all.host_bytes, 0);
  params.expert_cache = 2;
  assert_ok(moecl_layer_memory(context, &params, TOKENS, &some));
  params.expert_cache = 3;
  assert_ok(moecl_layer_memory(context, &params, TOKENS, &more));
  const uint64_t one = more.weight_bytes - some.weight_bytes;
  assert_true(all.weight_bytes - some.weight_bytes == (EXPERTS - 2) * one);
  /* Parts are aligned in the host's memory. */
  assert_true(some.host_bytes >= EXPERTS * one && some.host_bytes < EXPERTS * (one + 4 * 64));
  problem p = make_problem(&params, TOKENS);
  const uint64_t before = moecl_context_memory(context, NULL);
  moecl_layer *layer = make_layer(context, &p, 2, MOECL_EVICT_LRU);
  assert_true(moecl_layer_weight_bytes(layer) == some.weight_bytes);
  assert_true(moecl_layer_host_bytes(layer) == some.host_bytes);
  assert_true(moecl_context_memory(context, NULL) - before == some.weight_bytes);
  moecl_layer_destroy(&layer);
  free_problem(&p);
}

static int64_t places_of(const moecl_layer_params *params, uint64_t stated) {
  const uint64_t was = context->info.global_memory_bytes;
  moecl_plan *plan = NULL;
  moecl_plan_tensor tensors[64];
  int64_t places = 0;
  context->info.global_memory_bytes = stated;
  const moecl_status status = moecl_plan_create(context, params, 1, &plan);
  context->info.global_memory_bytes = was;
  assert_ok(status);
  const size_t count = moecl_plan_tensors(plan, tensors, 64);
  for (size_t i = 0; i < count && i < 64; i++)
    if (strcmp(tensors[i].name, "down_proj") == 0)
      places = (int64_t)tensors[i].rows / params->hidden_size;
  moecl_plan_destroy(&plan);
  return places;
}

/* As many as four fifths of the memory hold, when the driver is made to state so much. */
static void test_fits(void **state) {
  (void)state;
  moecl_layer_params params = plain;
  const uint64_t one = moecl_layer_tensor_bytes(&params, MOECL_GATE_UP_PROJ) +
                       moecl_layer_tensor_bytes(&params, MOECL_DOWN_PROJ);
  const uint64_t apart = moecl_layer_tensor_bytes(&params, MOECL_ROUTER_WEIGHT);
  const uint64_t taken = moecl_context_memory(context, NULL) + apart;
  params.expert_cache = MOECL_EXPERT_CACHE_FITS;
  for (int64_t places = 2; places <= EXPERTS + 1; places++) {
    /* Half an expert more than so many; packed ones may be counted as a little larger. */
    const uint64_t room = (uint64_t)places * one + one / 2;
    const int64_t got = places_of(&params, (taken + room) / 4 * 5);
    assert_true(got <= places && got <= EXPERTS &&
                got >= (places > EXPERTS ? EXPERTS : places - 1));
  }
  assert_int_equal(places_of(&params, 1000), 1);
}

/* The linker sends the library's question here. */
static bool gives_more;
bool __wrap_ocl_gives_buffer(const moecl_context *of, uint64_t bytes);
bool __wrap_ocl_gives_buffer(const moecl_context *of, uint64_t bytes) {
  assert_true(bytes > of->info.max_allocation_bytes);
  return gives_more;
}

static int64_t places_in_buffers_of(const moecl_layer_params *params, uint64_t stated) {
  const uint64_t was = context->info.max_allocation_bytes;
  context->info.max_allocation_bytes = stated;
  const int64_t places = places_of(params, UINT64_C(1) << 40);
  context->info.max_allocation_bytes = was;
  return places;
}

/* A matrix of all places is one buffer. gate_up of an expert: 2 * 24 * 40 * 4 bytes are 7680, with
 * a sixteenth and 1 more 8161. */
static void test_fits_one_buffer(void **state) {
  (void)state;
  moecl_layer_params params = plain;
  params.expert_cache = MOECL_EXPERT_CACHE_FITS;
  assert_int_equal(places_in_buffers_of(&params, 5 * 8161), 5);
  assert_int_equal(places_in_buffers_of(&params, 5 * 8161 - 1), 4);
  assert_int_equal(places_in_buffers_of(&params, 8161), 1);
  assert_int_equal(places_in_buffers_of(&params, 1000), 1);
  assert_int_equal(places_in_buffers_of(&params, 100 * 8161), EXPERTS);
  assert_int_equal(places_in_buffers_of(&params, 0), EXPERTS); /* not known */
  gives_more = true;
  assert_int_equal(places_in_buffers_of(&params, 8161), EXPERTS);
  gives_more = false;
  params.gate_up_bias = params.down_bias = true; /* 192 and 160 bytes: smaller */
  assert_int_equal(places_in_buffers_of(&params, 5 * 8161), 5);
  params.dtype = MOECL_BF16; /* 3840, so 4081 */
  assert_int_equal(places_in_buffers_of(&params, 5 * 4081), 5);
  assert_int_equal(places_in_buffers_of(&params, 5 * 4081 - 1), 4);
  /* The layer itself has as many, and asking for more is nobody's business but the driver's. */
  const uint64_t was = context->info.max_allocation_bytes;
  problem p = make_problem(&plain, TOKENS);
  context->info.max_allocation_bytes = 5 * 8161;
  moecl_layer *fits = make_layer(context, &p, MOECL_EXPERT_CACHE_FITS, MOECL_EVICT_LRU);
  moecl_layer *asked = make_layer(context, &p, 6, MOECL_EVICT_LRU);
  context->info.max_allocation_bytes = was;
  assert_int_equal(statistics_of(fits).places, 5);
  assert_int_equal(statistics_of(asked).places, 6);
  moecl_layer_destroy(&fits);
  moecl_layer_destroy(&asked);
  free_problem(&p);
}

/* Memory comes to rest. */
static void test_many(void **state) {
  const char *asked = getenv("MOECL_TEST_FORWARDS");
  const int forwards = asked ? atoi(asked) : 300;
  uint64_t early = 0;
  (void)state;
  problem p = make_problem(&plain, TOKENS);
  moecl_layer *layer = make_layer(context, &p, 3, MOECL_EVICT_LFU);
  for (int i = 0; i < forwards; i++) {
    free(run(context, layer, &p, (size_t)i % WINDOWS));
    if (i == forwards / 2) early = moecl_context_memory(context, NULL);
  }
  assert_true(moecl_context_memory(context, NULL) <= early);
  assert_int_equal(statistics_of(layer).all.forwards, forwards);
  moecl_layer_destroy(&layer);
  free_problem(&p);
}

/* ---- who goes: by hand ---- */

typedef struct cache_step {
  int32_t wanted[4]; /* ended by -1 */
  int hits;
  int32_t there[3]; /* afterwards, in any order */
} cache_step;

static void check_steps(moecl_eviction eviction, int64_t kept, const cache_step *steps,
                        size_t count) {
  expert_cache cache;
  assert_true(expert_cache_make(&cache, 6, 3, eviction, kept));
  for (size_t s = 0; s < count; s++) {
    size_t wanted = 0;
    int hits = 0;
    bool hit[4];
    while (wanted < 4 && steps[s].wanted[wanted] >= 0) wanted++;
    expert_cache_begin(&cache, steps[s].wanted, wanted);
    for (size_t i = 0; i < wanted; i++)
      hits += hit[i] = expert_cache_find(&cache, steps[s].wanted[i]) != EXPERT_CACHE_NONE;
    for (size_t i = 0; i < wanted; i++)
      if (!hit[i]) expert_cache_bring(&cache, steps[s].wanted[i]);
    assert_int_equal(hits, steps[s].hits);
    for (int i = 0; i < 3; i++)
      if (steps[s].there[i] >= 0) {
        const int32_t place = cache.place_of[steps[s].there[i]];
        if (place < 0) fail_msg("step %d: expert %d is gone", (int)s, (int)steps[s].there[i]);
        assert_int_equal(cache.expert_at[place], steps[s].there[i]);
      }
  }
  expert_cache_release(&cache);
}

static void test_evictions(void **state) {
  /* Three places, six experts. */
  static const cache_step lru[] = {{{0, 1, -1}, 0, {0, 1, -1}}, {{2, -1}, 0, {0, 1, 2}},
                                   {{0, -1}, 1, {0, 1, 2}},     {{3, -1}, 0, {0, 2, 3}},
                                   {{2, 4, -1}, 1, {2, 3, 4}},  {{0, 1, 2, 5}, 1, {0, 1, 5}}};
  static const cache_step lfu[] = {{{0, 1, -1}, 0, {0, 1, -1}}, {{0, 1, -1}, 2, {0, 1, -1}},
                                   {{2, -1}, 0, {0, 1, 2}},     {{3, -1}, 0, {0, 1, 3}},
                                   {{4, -1}, 0, {0, 1, 4}},     {{0, 1, -1}, 2, {0, 1, 4}},
                                   {{2, 5, -1}, 0, {2, 5, -1}}};
  (void)state;
  check_steps(MOECL_EVICT_LRU, 1, lru, sizeof lru / sizeof *lru);
  check_steps(MOECL_EVICT_LFU, 1, lfu, sizeof lfu / sizeof *lfu);
}

/* ---- what is refused ---- */

static void expect(moecl_status got, moecl_status want, const char *part) {
  char text[2000];
  assert_int_equal(got, want);
  moecl_context_take_errors(context, text, sizeof text);
  if (!strstr(text, part)) fail_msg("'%s' says nothing of '%s'", text, part);
}

static void test_refusals(void **state) {
  moecl_layer_params params = plain;
  moecl_layer *layer = NULL;
  moecl_block *block = NULL;
  moecl_group *group = NULL;
  moecl_group_layer *shared = NULL;
  moecl_offload_statistics statistics;
  const moecl_status invalid = MOECL_ERROR_INVALID_ARGUMENT;
  (void)state;
  moecl_context_take_errors(context, NULL, 0);
  params.num_identity_experts = 1;
  params.expert_cache = EXPERTS;
  expect(moecl_layer_create(context, &params, &layer), invalid, "1 to the 7 experts");
  params.expert_cache = -2;
  expect(moecl_layer_create(context, &params, &layer), invalid, "expert_cache is -2");
  params.expert_cache = 2;
  params.eviction = MOECL_EVICTION_COUNT;
  expect(moecl_layer_create(context, &params, &layer), invalid, "eviction is 2");
  params.eviction = MOECL_EVICT_LFU;
  params.grouped_gemm_variant = "clblast";
  assert_int_not_equal(moecl_layer_create(context, &params, &layer), MOECL_OK);
  assert_null(layer);
  params.grouped_gemm_variant = NULL;
  moecl_context_take_errors(context, NULL, 0);
  const moecl_block_params block_params = {.attention = {.num_heads = 2}, .layer = params};
  expect(moecl_block_create(context, &block_params, &block), invalid, "layer.expert_cache is 2");
  const moecl_group_layer_params group_params = {.layer = params};
  assert_ok(moecl_group_create(&context, 1, NULL, &group));
  expect(moecl_group_layer_create(group, &group_params, &shared), invalid,
         "layer.expert_cache is 2");
  moecl_group_destroy(&group);
  params.expert_cache = 0;
  assert_ok(moecl_layer_create(context, &params, &layer));
  expect(moecl_layer_offload_statistics_wait(layer, &statistics), invalid, "no expert_cache");
  assert_int_equal(moecl_layer_host_bytes(layer), 0);
  moecl_layer_destroy(&layer);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_places),
                                     cmocka_unit_test(test_drop_policies),
                                     cmocka_unit_test(test_shared_and_identity),
                                     cmocka_unit_test(test_weight_on_input),
                                     cmocka_unit_test(test_formats),
                                     cmocka_unit_test(test_variants),
                                     cmocka_unit_test(test_best),
                                     cmocka_unit_test(test_stand_in),
                                     cmocka_unit_test(test_set_again),
                                     cmocka_unit_test(test_in_flight),
                                     cmocka_unit_test(test_memory),
                                     cmocka_unit_test(test_fits),
                                     cmocka_unit_test(test_fits_one_buffer),
                                     cmocka_unit_test(test_many),
                                     cmocka_unit_test(test_evictions),
                                     cmocka_unit_test(test_refusals)};
  const moecl_context_params params = {.log = log_problem, .log_user = (void *)"0"};
  if (argc > 1) cmocka_set_test_filter(argv[1]);
  skip_without_device();
  if (moecl_context_create(&params, &context) != MOECL_OK) return 1;
  const int failed = cmocka_run_group_tests_name("offload", tests, NULL, NULL);
  moecl_context_destroy(&context);
  return failed ? 1 : 0;
}
