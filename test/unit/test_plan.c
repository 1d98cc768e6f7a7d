// SPDX-License-Identifier: MIT
/* Plans: lives and the workspace of made-up ones, and what a layer's says. */
#include "moecl/plan.h"
#include "plan/plan.h"
#include "unit.h"

enum { STEPS = 12, TENSORS = 30, ROUNDS = 400, ALIGN = 128 };

static uint32_t state;
static uint32_t draw(uint32_t below) {
  state = state * 1664525u + 1013904223u;
  return (state >> 8) % below;
}

/* Random tensors, each used by one step or more. */
static void make_plan(plan *p) {
  int tensors[STEPS][PLAN_STEP_TENSORS], counts[STEPS] = {0};
  plan_begin(p, 1, 0, ALIGN);
  for (int i = 0; i < TENSORS; i++) {
    const moecl_life life = draw(4) ? MOECL_LIFE_TEMPORARY : MOECL_LIFE_SAVED;
    const int tensor =
        plan_add(p, life, "t", desc_format_of(MOECL_F32), 1 + draw(9), draw(8) ? draw(1000) : 0);
    for (uint32_t uses = draw(3) + 1; uses > 0; uses--) {
      const uint32_t step = draw(STEPS);
      if (counts[step] < PLAN_STEP_TENSORS) tensors[step][counts[step]++] = tensor;
    }
  }
  for (int i = 0; i < STEPS; i++)
    plan_add_step(p, &(plan_step){.name = "s"}, tensors[i], counts[i]);
  plan_arrange(p);
}

/* Said anew, from the steps alone: is the tensor's content needed after step `at`, or
 * made or read in it? */
static bool needed(const plan *p, int tensor, int at) {
  bool before = false, after = p->tensor[tensor].life == MOECL_LIFE_SAVED;
  for (int s = 0; s < p->num_steps; s++)
    for (int t = 0; t < p->step[s].num_tensors; t++) {
      before = before || (p->step[s].tensor[t] == tensor && s <= at);
      after = after || (p->step[s].tensor[t] == tensor && s >= at);
    }
  return before && after;
}

static void test_workspace(void **unused) {
  (void)unused;
  uint64_t shared = 0, unshared = 0;
  for (int round = 0; round < ROUNDS; round++) {
    plan p;
    state = (uint32_t)round + 1;
    make_plan(&p);
    assert_false(p.overflows);
    for (int at = 0; at < STEPS; at++) {
      int owner[PLAN_MOST_TENSORS];
      for (int b = 0; b < PLAN_MOST_TENSORS; b++) owner[b] = -1;
      for (int t = 0; t < p.num_tensors; t++) {
        if (!needed(&p, t, at) || p.tensor[t].bytes == 0) continue;
        const int block = p.tensor[t].block;
        assert_in_range(block, 0, p.num_blocks - 1);
        if (owner[block] >= 0)
          fail_msg("round %d, step %d: tensors %d and %d are in block %d", round, at, owner[block],
                   t, block);
        owner[block] = t;
        assert_true(p.block_bytes[block] >= p.tensor[t].bytes);
      }
    }
    assert_int_equal(plan_workspace_bytes(&p) % ALIGN, 0);
    shared += plan_workspace_bytes(&p);
    unshared += plan_unshared_bytes(&p);
  }
  assert_true(shared < unshared * 3 / 4); /* memory is shared at all */
}

/* A chain needs two blocks, however long it is. */
static void test_chain(void **unused) {
  (void)unused;
  plan p;
  int tensor[STEPS + 1];
  plan_begin(&p, 1, 0, ALIGN);
  for (int i = 0; i <= STEPS; i++)
    tensor[i] = plan_add(&p, MOECL_LIFE_TEMPORARY, "t", desc_format_of(MOECL_BF16), 10, 100);
  for (int i = 0; i < STEPS; i++)
    plan_add_step(&p, &(plan_step){.launches = 2}, (int[]){tensor[i], PLAN_NONE, tensor[i + 1]}, 3);
  plan_arrange(&p);
  assert_int_equal(p.num_blocks, 2);
  assert_int_equal(plan_workspace_bytes(&p), 2 * 2048); /* 10 * 100 * 2, rounded up to 128 */
  assert_int_equal(plan_unshared_bytes(&p), 13 * 2048);
  assert_int_equal(plan_launches(&p), 2 * STEPS);
}

/* More than there is room for is noticed, and nothing is written beyond it. */
static void test_overflow(void **unused) {
  (void)unused;
  struct {
    plan p;
    uint32_t behind;
  } guarded = {.behind = 0xabcd};
  plan_begin(&guarded.p, 1, 0, ALIGN);
  for (int i = 0; i < PLAN_MOST_TENSORS; i++)
    plan_add(&guarded.p, MOECL_LIFE_TEMPORARY, "t", desc_format_of(MOECL_F32), 1, 1);
  assert_false(guarded.p.overflows);
  assert_int_equal(plan_add(&guarded.p, MOECL_LIFE_TEMPORARY, "t", desc_format_of(MOECL_F32), 1, 1),
                   PLAN_NONE);
  assert_true(guarded.p.overflows);
  plan_begin(&guarded.p, 1, 0, ALIGN);
  for (int i = 0; i <= PLAN_MOST_STEPS; i++)
    plan_add_step(&guarded.p, &(plan_step){.name = "s"}, NULL, 0);
  assert_true(guarded.p.overflows);
  for (int i = 0; i < PLAN_MOST_CHOICES + 2; i++) plan_add_choice(&guarded.p, "a", "b", "c");
  assert_int_equal(guarded.behind, 0xabcd);
}

/* ---- formats ---- */

static void test_format_bytes(void **unused) {
  (void)unused;
  /* Four bits each, a byte of scale for 32 neighbours; three bits without. */
  const desc_format four = {"four", ELEMENT_E2M1, 4, ELEMENT_E8M0, 32, 1, false, false};
  const desc_format odd = {"odd", ELEMENT_NONE, 3, ELEMENT_NONE, 0, 1, false, false};
  assert_int_equal(desc_format_bytes(desc_format_of(MOECL_F32), 3, 5), 60);
  assert_int_equal(desc_format_bytes(desc_format_of(MOECL_BF16), 3, 5), 30);
  assert_int_equal(desc_format_bytes(&four, 1, 32), 16 + 16);   /* parts of whole 16 bytes */
  assert_int_equal(desc_format_bytes(&four, 10, 33), 176 + 32); /* 10 * 17 and 10 * 2 */
  assert_int_equal(desc_format_bytes(&odd, 2, 3), 2 * 2);       /* 9 bits: 2 bytes */
  assert_int_equal(desc_format_bytes(&four, 0, 33), 0);
  assert_true(desc_format_bytes(desc_format_of(MOECL_F32), UINT64_MAX / 2, 4) == UINT64_MAX);
  assert_true(desc_format_bytes(desc_format_of(MOECL_F32), 2, UINT64_MAX / 4) == UINT64_MAX);
}

/* ---- a layer's ---- */

static const moecl_layer_params layer = {.hidden_size = 64,
                                         .intermediate_size = 48,
                                         .num_experts = 8,
                                         .top_k = 2,
                                         .dtype = MOECL_BF16,
                                         .shared_intermediate_size = 32,
                                         .shared_gate = true,
                                         .jitter = 0.1f};

static moecl_context *open_context(void) {
  moecl_context *context = NULL;
  assert_ok(moecl_context_create(NULL, &context));
  return context;
}

static int find_step(const moecl_plan_step *steps, size_t count, const char *name) {
  for (size_t i = 0; i < count; i++)
    if (strcmp(steps[i].name, name) == 0) return (int)i;
  return -1;
}

/* The order of what depends on each other, and names that occur once. */
static void test_steps(void **unused) {
  (void)unused;
  static const char *const order[] = {"jitter",  "logits", "router", "permute",
                                      "gate_up", "down",   "combine"};
  moecl_context *context = open_context();
  moecl_plan *plan = NULL;
  moecl_plan_step steps[32];
  assert_ok(moecl_plan_create(context, &layer, 1000, &plan));
  const size_t count = moecl_plan_steps(plan, steps, 32);
  assert_in_range(count, 7, 32);
  assert_int_equal(moecl_plan_steps(plan, NULL, 0), count);
  int last = -1;
  for (size_t i = 0; i < sizeof order / sizeof order[0]; i++) {
    const int at = find_step(steps, count, order[i]);
    if (at <= last) fail_msg("step %s is at %d, after %d", order[i], at, last);
    last = at;
  }
  assert_true(find_step(steps, count, "shared_down") > find_step(steps, count, "shared_gate_up"));
  assert_true(find_step(steps, count, "combine") > find_step(steps, count, "shared_gate"));
  for (size_t i = 0; i < count; i++) {
    assert_int_equal(find_step(steps, count, steps[i].name), i);
    assert_true(steps[i].launches >= 1);
    assert_non_null(steps[i].detail);
  }
  moecl_plan_destroy(&plan);
  assert_null(plan);
  moecl_context_destroy(&context);
}

static void test_tensors(void **unused) {
  (void)unused;
  moecl_context *context = open_context();
  moecl_plan *plan = NULL;
  moecl_plan_tensor tensors[64];
  moecl_memory memory;
  uint64_t weights = 0;
  assert_ok(moecl_plan_create(context, &layer, 1000, &plan));
  const size_t count = moecl_plan_tensors(plan, tensors, 64);
  assert_in_range(count, 10, 64);
  for (size_t i = 0; i < count; i++) {
    if (tensors[i].life == MOECL_LIFE_WEIGHT) weights += tensors[i].bytes;
    if (strcmp(tensors[i].name, "router_logits") == 0) {
      assert_int_equal(tensors[i].rows, 1000);
      assert_int_equal(tensors[i].columns, 8);
      assert_int_equal(tensors[i].bytes, 32000);
      assert_string_equal(tensors[i].format, "fp32");
      assert_string_equal(moecl_life_name(tensors[i].life), "saved");
    }
    if (tensors[i].life == MOECL_LIFE_TEMPORARY) assert_true(tensors[i].block >= 0);
  }
  assert_ok(moecl_layer_memory(context, &layer, 1000, &memory));
  const moecl_memory same = moecl_plan_memory(plan);
  assert_memory_equal(&memory, &same, sizeof memory);
  assert_true(weights <= memory.weight_bytes && weights > memory.weight_bytes * 9 / 10);
  assert_true(memory.workspace_bytes < moecl_plan_unshared_workspace_bytes(plan));
  moecl_plan_destroy(&plan);
  moecl_context_destroy(&context);
}

static const char *chosen_for(moecl_context *context, const moecl_layer_params *params,
                              int64_t num_tokens, const char *part) {
  static char name[64];
  moecl_plan *plan = NULL;
  moecl_plan_choice choices[16];
  assert_ok(moecl_plan_create(context, params, num_tokens, &plan));
  const size_t count = moecl_plan_choices(plan, choices, 16);
  name[0] = '\0';
  for (size_t i = 0; i < count; i++) {
    assert_true(strlen(choices[i].why) > 10);
    if (strcmp(choices[i].part, part) != 0) continue;
    assert_string_equal(name, ""); /* one row of each part */
    snprintf(name, sizeof name, "%s", choices[i].name);
  }
  moecl_plan_destroy(&plan);
  return name;
}

static const char *chosen(moecl_context *context, const moecl_layer_params *params,
                          const char *part) {
  return chosen_for(context, params, 100, part);
}

static void test_choices(void **unused) {
  (void)unused;
  moecl_context *context = open_context();
  moecl_layer_params params = layer;
  assert_string_equal(chosen(context, &params, "router input"), "jitter");
  assert_string_equal(chosen(context, &params, "weights"), "the router's");
  params.capacity_factor = 1;
  assert_string_equal(chosen(context, &params, "routing"), "with capacity");
  params.renormalize_after_capacity = true;
  assert_string_equal(chosen(context, &params, "weights"), "renormalized");
  params = layer;
  params.weight_on_input = true;
  assert_string_equal(chosen(context, &params, "experts"), "grouped, weighted inputs");
  moecl_context_destroy(&context);
}

/* Names and launches of the plan's steps of router and permutation: "router 1, permute 2". */
static const char *routing_steps(moecl_context *context, const moecl_layer_params *params,
                                 int64_t num_tokens) {
  static char text[128];
  size_t used = 0;
  moecl_plan *plan = NULL;
  moecl_plan_step steps[32];
  assert_ok(moecl_plan_create(context, params, num_tokens, &plan));
  const size_t count = moecl_plan_steps(plan, steps, 32);
  text[0] = '\0';
  for (size_t i = 0; i < count; i++) {
    if (strncmp(steps[i].name, "router", 6) != 0 && strcmp(steps[i].name, "permute") != 0) continue;
    used += (size_t)snprintf(text + used, sizeof text - used, "%s%s %u", used ? ", " : "",
                             steps[i].name, (unsigned)steps[i].launches);
    assert_true(used < sizeof text);
  }
  moecl_plan_destroy(&plan);
  return text;
}

/* A router by blocks spares launches: up to 32 tokens all of the permutation's. What drops
 * knows no counts of blocks. */
static void test_routing(void **unused) {
  (void)unused;
  moecl_context *context = open_context();
  moecl_layer_params params = layer;
  params.router_variant = "by_block";
  for (int64_t tokens = 0; tokens <= 1000; tokens += tokens < 2 || tokens == 32 ? 1 : 31) {
    const bool few = tokens <= 32;
    assert_string_equal(chosen_for(context, &params, tokens, "routing"), few ? "fused" : "counted");
    assert_string_equal(routing_steps(context, &params, tokens),
                        few ? "router_permute 1" : "router 1, permute 1");
  }
  /* Without jitter logits are made in the same launch, of up to 256, on a CPU. */
  const bool is_cpu = moecl_context_device(context)->capabilities & MOECL_CAP_CPU;
  params.jitter = 0;
  for (int64_t tokens = 0; is_cpu && tokens <= 257;
       tokens += tokens == 256 || tokens < 2 ? 1 : 127) {
    const bool at_once = tokens > 0 && tokens <= 256;
    assert_string_equal(chosen_for(context, &params, tokens, "routing"), at_once      ? "at once"
                                                                         : tokens > 0 ? "counted"
                                                                                      : "fused");
    if (at_once) assert_string_equal(routing_steps(context, &params, tokens), "");
  }
  params.batch_invariant = true; /* one order of sums for all */
  assert_string_equal(chosen_for(context, &params, 1, "routing"), "fused");
  params.batch_invariant = false, params.router_noise = true;
  assert_string_equal(chosen_for(context, &params, 1, "routing"), "fused");
  params.router_noise = false, params.jitter = layer.jitter;
  params.capacity_factor = 1;
  assert_string_equal(chosen_for(context, &params, 1, "routing"), "with capacity");
  assert_string_equal(routing_steps(context, &params, 1), "router 1, permute 4");
  assert_string_equal(chosen_for(context, &params, 100, "routing"), "with capacity");
  params = layer;
  params.router_variant = "generic";
  assert_string_equal(chosen_for(context, &params, 1, "routing"), "separate");
  assert_string_equal(chosen_for(context, &params, 100, "routing"), "separate");
  moecl_context_destroy(&context);
}

static void test_refusals(void **unused) {
  (void)unused;
  moecl_context *context = open_context();
  moecl_layer_params params = layer;
  moecl_plan *plan = (moecl_plan *)&params;
  assert_int_equal(moecl_plan_create(NULL, &layer, 1, &plan), MOECL_ERROR_INVALID_ARGUMENT);
  assert_null(plan);
  assert_int_equal(moecl_plan_create(context, NULL, 1, &plan), MOECL_ERROR_INVALID_ARGUMENT);
  assert_int_equal(moecl_plan_create(context, &layer, -1, &plan), MOECL_ERROR_INVALID_ARGUMENT);
  assert_int_equal(moecl_plan_create(context, &layer, 1, NULL), MOECL_ERROR_INVALID_ARGUMENT);
  params.top_k = 9;
  assert_int_equal(moecl_plan_create(context, &params, 1, &plan), MOECL_ERROR_INVALID_ARGUMENT);
  params.top_k = 2;
  params.grouped_gemm_variant = "nonsense";
  assert_int_equal(moecl_plan_create(context, &params, 1, &plan), MOECL_ERROR_UNSUPPORTED);
  assert_null(plan);
  assert_int_equal(moecl_plan_steps(NULL, NULL, 0), 0);
  assert_int_equal(moecl_plan_tensors(NULL, NULL, 0), 0);
  assert_int_equal(moecl_plan_choices(NULL, NULL, 0), 0);
  assert_string_equal(moecl_life_name(MOECL_LIFE_COUNT), "?");
  moecl_plan_destroy(NULL);
  moecl_plan_destroy(&plan);
  moecl_context_destroy(&context);
}

int main(void) {
  const struct CMUnitTest without_device[] = {
      cmocka_unit_test(test_workspace), cmocka_unit_test(test_chain),
      cmocka_unit_test(test_overflow), cmocka_unit_test(test_format_bytes)};
  const struct CMUnitTest of_layers[] = {
      cmocka_unit_test(test_steps), cmocka_unit_test(test_tensors), cmocka_unit_test(test_choices),
      cmocka_unit_test(test_routing), cmocka_unit_test(test_refusals)};
  const int failed = cmocka_run_group_tests_name("plans", without_device, NULL, NULL);
  skip_without_device();
  return failed + cmocka_run_group_tests_name("plans of layers", of_layers, NULL, NULL) ? 1 : 0;
}
