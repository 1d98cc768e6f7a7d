// SPDX-License-Identifier: MIT
/* Profiles: what binds a stage, the bottleneck, what to try, sums, the timeline, the baseline, of
 * made-up numbers; what is expected was worked out by hand. */
#define _GNU_SOURCE
#include "base/files.h"
#include "report/profile_reports.h"
#include "unit.h"
#include <jansson.h>
#include <math.h>

/* A device of 1 TFLOP/s and 100 GB/s, that launches in 2 us and moves 10 GB/s to and fro. */
static const moecl_peaks peaks = {.flops_f32 = 1e12,
                                  .read_bytes = 1e11,
                                  .copy_bytes = 1e11,
                                  .to_device_bytes = 1e10,
                                  .from_device_bytes = 1e10,
                                  .launch_seconds = 2e-6};

/* 1000 us: gate_up 500 at half of the arithmetic peak, down 300 at half of memory's, the router 150
 * at neither, a permutation of 40 in 5 kernels, gaps of 10. Eight experts have 100 rows each. */
static profile_facts usual(void) {
  profile_facts facts = {.total_us = 1000,
                         .gaps_us = 10,
                         .host_us = 20,
                         .kernels = 8,
                         .peaks = peaks,
                         .experts = 8,
                         .rows = 800,
                         .active_experts = 8,
                         .hottest = 3,
                         .hottest_rows = 150,
                         .imbalance = 1.5,
                         .hidden_bytes = 1e5,
                         .weight_bytes = 1e6,
                         .workspace_bytes = 1e5,
                         .num_tokens = 400,
                         .hidden_size = 100,
                         .intermediate_size = 200,
                         .rounded_hidden = 128,
                         .rounded_intermediate = 256};
  facts.stages[MOECL_STAGE_GATE_UP] = (stage_facts){1, 500, 2.5e8, 1e6};
  facts.stages[MOECL_STAGE_DOWN] = (stage_facts){1, 300, 1e6, 1.5e7};
  facts.stages[MOECL_STAGE_ROUTER] = (stage_facts){1, 150, 1.5e6, 1.5e5};
  facts.stages[MOECL_STAGE_PERMUTE] = (stage_facts){5, 40, 0, 1e3};
  return facts;
}

static void test_shares(void **state) {
  (void)state;
  const profile_facts facts = usual();
  assert_true(fabs(profile_flops_share(&facts, MOECL_STAGE_GATE_UP) - 0.5) < 1e-9);
  assert_true(fabs(profile_bytes_share(&facts, MOECL_STAGE_GATE_UP) - 0.02) < 1e-9);
  assert_true(fabs(profile_bytes_share(&facts, MOECL_STAGE_DOWN) - 0.5) < 1e-9);
  assert_true(fabs(profile_least_us(&facts, MOECL_STAGE_GATE_UP) - 250) < 1e-6);
  assert_true(fabs(profile_least_us(&facts, MOECL_STAGE_DOWN) - 150) < 1e-6);
  assert_true(isnan(profile_flops_share(&facts, MOECL_STAGE_COMBINE))); /* there is none */
}

static void test_limits(void **state) {
  (void)state;
  profile_facts facts = usual();
  assert_int_equal(profile_limit_of(&facts, MOECL_STAGE_GATE_UP), LIMIT_ARITHMETIC);
  assert_int_equal(profile_limit_of(&facts, MOECL_STAGE_DOWN), LIMIT_MEMORY);
  assert_int_equal(profile_limit_of(&facts, MOECL_STAGE_ROUTER), LIMIT_NONE);
  assert_int_equal(profile_limit_of(&facts, MOECL_STAGE_PERMUTE), LIMIT_LAUNCHES); /* 10 of 40 us */
  assert_int_equal(profile_limit_of(&facts, MOECL_STAGE_COMBINE), LIMIT_UNKNOWN);
  facts.stages[MOECL_STAGE_PERMUTE].us = 41; /* less than a quarter */
  assert_int_equal(profile_limit_of(&facts, MOECL_STAGE_PERMUTE), LIMIT_NONE);
  facts.stages[MOECL_STAGE_GATE_UP].flops = 1.24e8; /* 24.8% of the peak */
  assert_int_equal(profile_limit_of(&facts, MOECL_STAGE_GATE_UP), LIMIT_NONE);
  facts.imbalance = 2;
  assert_int_equal(profile_limit_of(&facts, MOECL_STAGE_GATE_UP), LIMIT_IMBALANCE);
  assert_int_equal(profile_limit_of(&facts, MOECL_STAGE_ROUTER), LIMIT_NONE); /* has no experts */
  facts.peaks = (moecl_peaks){0};
  assert_int_equal(profile_limit_of(&facts, MOECL_STAGE_GATE_UP), LIMIT_UNKNOWN);
}

/* What a call writes; freed by the next one. */
static char *said;
static size_t said_lines;
#define SAY(call)                                                                                  \
  do {                                                                                             \
    size_t said_size;                                                                              \
    free(said);                                                                                    \
    FILE *file = open_memstream(&said, &said_size);                                                \
    call;                                                                                          \
    fclose(file);                                                                                  \
  } while (0)

static void bottleneck_is(const profile_facts *facts, const char *sentence) {
  SAY(profile_bottleneck(facts, file));
  assert_string_equal(said, sentence);
}

static void test_bottleneck(void **state) {
  (void)state;
  profile_facts facts = usual();
  bottleneck_is(&facts, "gate_up takes 50% of 1.00 ms (500 us), bound by arithmetic: 50% of the "
                        "measured peak of fp32.");
  facts.stages[MOECL_STAGE_GATE_UP].flops = 1e9;
  bottleneck_is(&facts, "gate_up takes 50% of 1.00 ms (500 us), bound by arithmetic: 200% of the "
                        "measured peak of fp32: that was measured on a busy device.");
  facts.peaks.flops_matrix = 8e12; /* which the stage does not use */
  facts.stages[MOECL_STAGE_GATE_UP].flops = 2.5e8;
  bottleneck_is(&facts, "gate_up takes 50% of 1.00 ms (500 us), bound by arithmetic: 50% of the "
                        "measured peak of fp32.");
  facts.stages[MOECL_STAGE_GATE_UP].matrix = true, facts.stages[MOECL_STAGE_GATE_UP].flops = 1e9;
  bottleneck_is(&facts, "gate_up takes 50% of 1.00 ms (500 us), bound by arithmetic: 25% of the "
                        "measured peak of matrix units.");
  facts.stages[MOECL_STAGE_DOWN].us = 600, facts.stages[MOECL_STAGE_DOWN].bytes = 3e7;
  bottleneck_is(&facts, "down takes 60% of 1.00 ms (600 us), bound by memory: 50% of the measured "
                        "rate.");
  facts.gaps_us = 610;
  bottleneck_is(&facts,
                "Gaps between 8 kernels take 61% of 1.00 ms (610 us), more than any stage.");
  facts.total_us = NAN;
  bottleneck_is(&facts, "The driver gives no credible event times, so nothing can be said of the "
                        "time.");
}

/* The advice has so many lines, in which the first begins with `first` (NULL: none). */
static void advice_is(const profile_facts *facts, size_t lines, const char *first) {
  SAY(said_lines = profile_advice(facts, file));
  if (said_lines != lines || (first && strncmp(said, first, strlen(first)) != 0))
    fail_msg("%zu lines, expected %zu and first '%s':\n%s", said_lines, lines, first ? first : "",
             said);
}

static void test_no_advice(void **state) {
  (void)state;
  profile_facts facts = usual();
  advice_is(&facts, 0, NULL);
  facts.total_us = NAN, facts.gaps_us = NAN;
  facts.imbalance = 4, facts.rows = 8;
  advice_is(&facts, 0, NULL); /* where the time goes is not known */
}

static void test_hot_expert(void **state) {
  (void)state;
  profile_facts facts = usual();
  facts.imbalance = 1.99;
  advice_is(&facts, 0, NULL);
  facts.imbalance = 2;
  advice_is(&facts, 1, "- **Hot expert:** expert 3 has 150 rows, 2 times the mean of 8 experts.");
  assert_non_null(strstr(said, "A `capacity_factor` bounds its rows, and drops the rest"));
  facts.has_capacity = true;
  advice_is(&facts, 1, "- **Hot expert:** expert 3 has 150 rows");
  assert_non_null(strstr(said, "A smaller `capacity_factor` bounds its rows, and drops more"));
  facts.total_us = 3201; /* the experts' stages take less than a quarter of it */
  advice_is(&facts, 0, NULL);
  facts = usual();
  facts.imbalance = 2, facts.experts = 1;
  advice_is(&facts, 0, NULL);
  facts = usual();
  facts.imbalance = 4, facts.hottest_rows = 15; /* so few tokens that it means nothing */
  advice_is(&facts, 0, NULL);
}

static void test_tiny_groups(void **state) {
  (void)state;
  profile_facts facts = usual();
  facts.rows = 128;
  advice_is(&facts, 0, NULL); /* 16 each */
  facts.rows = 120;
  advice_is(&facts, 1, "- **Tiny groups:** 15 rows for each of the 8 experts that have any");
  assert_null(strstr(said, "weight_format")); /* there is no smaller one */
  facts.fp32_weights = true;
  advice_is(&facts, 1, NULL);
  assert_non_null(strstr(said, "or keep the weights in `layer.weight_format: bf16`."));
}

static void test_padding_waste(void **state) {
  (void)state;
  profile_facts facts = usual();
  facts.padding_waste = 0.3;
  advice_is(&facts, 0, NULL); /* of no tiles */
  facts.tile_rows = 64;
  advice_is(&facts, 1,
            "- **Padding waste:** 30% of the rows that the experts' tiles of 64 compute are none");
  facts.padding_waste = 0.24;
  advice_is(&facts, 0, NULL);
}

static void test_launch_bound(void **state) {
  (void)state;
  profile_facts facts = usual();
  facts.gaps_us = 249;
  advice_is(&facts, 0, NULL);
  facts.gaps_us = 250;
  advice_is(&facts, 1,
            "- **Launch-bound:** 8 kernels in 1.00 ms, with gaps of 250 us, a launch of 2 us each "
            "at best, and 20.0 us of the host's");
  facts.gaps_us = 10, facts.kernels = 125; /* times 2 us */
  advice_is(&facts, 1, "- **Launch-bound:** 125 kernels");
  facts.kernels = 8, facts.host_us = 1250; /* the host does not keep up */
  advice_is(&facts, 1, "- **Launch-bound:**");
}

/* An offloading layer's gaps are no launches'. */
static void test_waits(void **state) {
  (void)state;
  profile_facts facts = usual();
  facts.offloads = true, facts.gaps_us = 249;
  advice_is(&facts, 0, NULL);
  facts.kernels = 125, facts.host_us = 1250;
  advice_is(&facts, 0, NULL);
  facts.gaps_us = 250;
  advice_is(&facts, 1, "- **Waits:** gaps between kernels are 250 us of 1.00 ms: the host waits");
  assert_non_null(strstr(said, "A larger `parallel.cache`"));
  facts.total_us = NAN;
  advice_is(&facts, 0, NULL);
}

static void test_transfer_bound(void **state) {
  (void)state;
  profile_facts facts = usual();
  facts.hidden_bytes = 4.9e6; /* 490 us each way */
  advice_is(&facts, 0, NULL);
  facts.hidden_bytes = 5e6;
  advice_is(&facts, 1,
            "- **Transfer-bound:** if hidden states come from the host and go back to it, that "
            "takes 1.00 ms at the measured rates, and the forward 1.00 ms.");
  facts.peaks.to_device_bytes = 0;
  advice_is(&facts, 0, NULL);
}

static void test_set_aside(void **state) {
  (void)state;
  profile_facts facts = usual();
  facts.operation = "grouped_gemm", facts.variant = "generic", facts.set_aside = "gpu";
  facts.why_set_aside = "gpu.cl: the answer is wrong";
  facts.imbalance = 3; /* what is a fault comes first */
  advice_is(
      &facts, 2,
      "- **Set aside:** the grouped_gemm variant `gpu` is the best for this device and failed "
      "on it, so `generic` serves: gpu.cl: the answer is wrong.");
  assert_non_null(strstr(said, "\n- **Hot expert:**"));
}

static void test_sizes(void **state) {
  (void)state;
  profile_facts facts = usual();
  facts.operation = "grouped_gemm", facts.variant = "generic", facts.kept_out = "gpu";
  advice_is(
      &facts, 1,
      "- **Sizes:** the grouped_gemm variant `gpu` is tuned for this device and does not take "
      "hidden_size 100 and intermediate_size 200, so `generic` serves. It takes 128 and 256");
}

static void test_far(void **state) {
  (void)state;
  profile_facts facts = usual();
  facts.stages[MOECL_STAGE_GATE_UP].flops = 2e8; /* 40% of the peak */
  advice_is(&facts, 0, NULL);
  facts.stages[MOECL_STAGE_GATE_UP].flops = 1e8;
  advice_is(&facts, 1, "- **Far from the peaks:** gate_up takes 500 us, where they allow 100 us.");
  facts.total_us = 1001; /* less than half of it */
  advice_is(&facts, 0, NULL);
}

/* What takes more of the time comes first. */
static void test_order(void **state) {
  (void)state;
  profile_facts facts = usual();
  facts.imbalance = 2;      /* 0.8 */
  facts.gaps_us = 300;      /* 0.3 */
  facts.hidden_bytes = 5e7; /* 10 ms of 11 */
  advice_is(&facts, 3, "- **Transfer-bound:**");
  assert_true(strstr(said, "**Hot expert:**") < strstr(said, "**Launch-bound:**"));
}

static void test_memory(void **state) {
  (void)state;
  profile_facts facts = usual(); /* 1e6 of 1.3e6 are weights, of them 8e5 the experts' */
  SAY(said_lines = profile_memory_advice(&facts, file));
  assert_int_equal(said_lines, 0);
  facts.fp32_weights = true, facts.bf16_saves = 4e5;
  SAY(said_lines = profile_memory_advice(&facts, file));
  assert_int_equal(said_lines, 1);
  assert_string_equal(said, "- **Memory:** the experts' weights are 62% of it and fp32: "
                            "`layer.weight_format: bf16` saves about 390.6 KiB.\n");
  facts.bf16_saves = 1.6e5; /* they are less than a quarter of it */
  SAY(said_lines = profile_memory_advice(&facts, file));
  assert_int_equal(said_lines, 0);
  facts.bf16_saves = 4e5, facts.workspace_bytes = 1e6, facts.cache_bytes = 1e6;
  SAY(said_lines = profile_memory_advice(&facts, file));
  assert_int_equal(said_lines, 3);
  assert_non_null(strstr(said, "`workload.context` or fewer `block.attention.num_kv_heads`"));
}

/* ---- sums ---- */

/* Three kernels, of 10, 20 and 5 us, with gaps of 2 and 3. */
static void fill_part(profile_part *part) {
  static const profile_kernel kernels[3] = {
      {"logits", "logits", MOECL_STAGE_ROUTER, 1, -4, 0, 10, 10, 0},
      {"choose", "router", MOECL_STAGE_ROUTER, 2, -3, 12, 32, 20, 2},
      {"gemm", "gate_up", MOECL_STAGE_GATE_UP, 3, -2, 35, 40, 5, 3}};
  part->ran = part->timed = true;
  part->forwards = 3;
  part->num_kernels = 3;
  part->kernels = malloc(sizeof kernels);
  memcpy(part->kernels, kernels, sizeof kernels);
  part->span_us = part->alone_us = (sample_summary){40, 39, 44};
  part->num_rounds = 3, part->round_us[0] = 40, part->round_us[1] = 41, part->round_us[2] = 39;
  part->host_us = 3;
  part->host_began_us = 100;
  part->stages[MOECL_STAGE_ROUTER].over = (sample_summary){30, 29, 33};
  part->stages[MOECL_STAGE_GATE_UP].over = (sample_summary){5, 4, 6};
  profile_sum(part);
}

static void test_sum(void **state) {
  (void)state;
  profile_part part = {0};
  fill_part(&part);
  assert_true(part.total_us == 40 && part.gaps_us == 5);
  assert_true(part.stages[MOECL_STAGE_ROUTER].us == 30);
  assert_int_equal(part.stages[MOECL_STAGE_ROUTER].kernels, 2);
  assert_true(part.stages[MOECL_STAGE_GATE_UP].us == 5);
  part.num_kernels = 2;
  profile_sum(&part);
  assert_true(part.total_us == 32 && part.gaps_us == 2);
  assert_int_equal(part.stages[MOECL_STAGE_GATE_UP].kernels, 0);
  free(part.kernels);
}

/* ---- a whole profile ---- */

static const char yaml[] = "name: made-up\n"
                           "layer: {hidden_size: 64, intermediate_size: 32, num_experts: 2,\n"
                           "        top_k: [1, 2]}\n"
                           "workload: {num_tokens: 6}\n";

typedef struct fixture {
  experiment experiment;
  moecl_device_info device;
  profile profile;
} fixture;

static int set_up(void **state) {
  fixture *f = calloc(1, sizeof *f);
  char *error = NULL;
  const device_peaks known = {peaks, "2026-01-02T03:04:05+0000"};
  assert_true(experiment_parse(yaml, strlen(yaml), "p.yaml", NULL, 0, &f->experiment, &error));
  strcpy(f->device.name, "A device");
  assert_true(profile_open(&f->experiment, &f->device, &known, &f->profile));
  for (size_t i = 0; i < 2; i++) {
    profile_point *point = &f->profile.points[i];
    point->ran = true;
    fill_part(&point->parts[PROFILE_LAYER]);
    moecl_routing *routing = &point->parts[PROFILE_LAYER].routing;
    routing->num_experts = 2;
    routing->tokens_per_expert = calloc(2, sizeof(int64_t));
    routing->tokens_per_expert_after_capacity = calloc(2, sizeof(int64_t));
    routing->tokens_per_expert[0] = 5, routing->tokens_per_expert[1] = 1;
    routing->tokens_per_expert_after_capacity[0] = 4;
    routing->tokens_per_expert_after_capacity[1] = 1;
  }
  profile_add_span(&f->profile, "before", 10, 90);
  *state = f;
  return 0;
}

static int tear_down(void **state) {
  fixture *f = *state;
  profile_release(&f->profile);
  experiment_destroy(&f->experiment);
  free(f);
  return 0;
}

static double time_of(const json_t *event) {
  return json_number_value(json_object_get(event, "ts"));
}

/* The begin of this name and process; its end is the next of its track. */
static double find_span(const json_t *events, const char *name, int process, double *length) {
  for (size_t i = 0; i < json_array_size(events); i++) {
    const json_t *event = json_array_get(events, i), *end = json_array_get(events, i + 1);
    if (strcmp(json_string_value(json_object_get(event, "ph")), "B") != 0 ||
        strcmp(json_string_value(json_object_get(event, "name")), name) != 0 ||
        json_integer_value(json_object_get(event, "pid")) != process)
      continue;
    *length = time_of(end) - time_of(event);
    return time_of(event);
  }
  return NAN;
}

static void test_trace(void **state) {
  fixture *f = *state;
  double length, most = -1;
  f->profile.points[1].ran = false;
  char *text = profile_trace_json(&f->profile);
  json_t *root = json_loads(text, 0, NULL);
  const json_t *events = json_object_get(root, "traceEvents");
  assert_true(json_array_size(events) > 10);
  assert_true(find_span(events, "before", 1, &length) == 10 && length == 80);
  /* Enqueued at 101, queued by the device's clock 4 us before it began: so that was at 105. */
  assert_true(find_span(events, "logits", 2, &length) == 105 && length == 10);
  assert_true(find_span(events, "choose", 2, &length) == 117 && length == 20);
  assert_true(find_span(events, "router", 2, &length) == 105 && length == 32);
  assert_true(find_span(events, "choose", 1, &length) == 101 && length == 1);
  for (size_t i = 0; i < json_array_size(events); i++) {
    const json_t *event = json_array_get(events, i), *values = json_object_get(event, "args");
    if (strcmp(json_string_value(json_object_get(event, "name")), "tokens per expert") == 0)
      most = fmax(most, json_number_value(json_object_get(values, "expert 0")));
  }
  assert_true(most == 5);
  json_decref(root);
  free(text);
}

static void time_rounds(profile_part *part, double a, double b, double c) {
  part->alone_us = (sample_summary){a, a, a};
  part->round_us[0] = a, part->round_us[1] = b, part->round_us[2] = c;
}

/* A profile, of rounds of 40, 41 and 39 us, read back beside others. By hand: the logarithms of
 * those have a deviation of 2.5%. */
static void test_baseline(void **state) {
  fixture *f = *state;
  profile_baseline baseline;
  profile_part *first = &f->profile.points[0].parts[PROFILE_LAYER],
               *second = &f->profile.points[1].parts[PROFILE_LAYER];
  f->profile.least_load = 0.5, f->profile.most_load = 1.25;
  char *error = NULL, *text = profile_json(&f->profile);
  assert_true(profile_baseline_read(text, strlen(text), "profile.json", &baseline, &error));
  assert_int_equal(baseline.num_records, 2);
  assert_true(baseline.least_load == 0.5 && baseline.most_load == 1.25);
  const profile_record *record = profile_baseline_find(&baseline, &f->experiment, 1);
  assert_ptr_equal(record, &baseline.records[1]);
  assert_string_equal(record->label, "top_k=2");
  assert_true(record->parts[PROFILE_LAYER].whole_us.median == 40);
  assert_int_equal(record->parts[PROFILE_LAYER].num_rounds, 3);
  assert_true(record->parts[PROFILE_LAYER].round_us[1] == 41);
  assert_false(record->parts[PROFILE_BLOCK].ran);
  time_rounds(first, 80, 82, 78);
  time_rounds(second, 20, 20.5, 19.5);
  /* Stages are no verdict's: each is one of many, of one round. */
  first->stages[MOECL_STAGE_ROUTER].over = (sample_summary){50, 45, 55};
  SAY(profile_baseline_report(&f->profile, &baseline, file));
  assert_non_null(
      strstr(said, "| 0     | layer | all     |  40.0 us | 80.0 us |         2.00 | slower |"));
  assert_non_null(
      strstr(said, "| 0     | layer | router  |  30.0 us | 50.0 us |         1.67 |        |"));
  assert_non_null(
      strstr(said, "| 1     | layer | all     |  40.0 us | 20.0 us |         0.50 | faster |"));
  assert_non_null(strstr(said, "load average 0.50 to 1.25"));
  /* 10% apart: 4 standard errors of 2%, where 2.8 are 95% of one comparison and more is asked of
   * six; and a round that lies far out hides more. */
  time_rounds(first, 44, 45.1, 42.9);
  time_rounds(second, 60, 62, 41);
  SAY(profile_baseline_report(&f->profile, &baseline, file));
  assert_non_null(
      strstr(said, "| 0     | layer | all     |  40.0 us | 44.0 us |         1.10 | noise |"));
  assert_non_null(
      strstr(said, "| 1     | layer | all     |  40.0 us | 60.0 us |         1.50 | noise |"));
  second->num_rounds = 1; /* how its rounds differ is not known */
  SAY(profile_baseline_report(&f->profile, &baseline, file));
  assert_non_null(
      strstr(said, "| 1     | layer | all     |  40.0 us | 60.0 us |         1.50 |     - |"));
  /* Other work has no counterpart. */
  f->experiment.points[1].num_tokens = 7;
  assert_null(profile_baseline_find(&baseline, &f->experiment, 1));
  SAY(profile_baseline_report(&f->profile, &baseline, file));
  assert_non_null(strstr(said, "1 of 2 points have no counterpart"));
  SAY(profile_baseline_report(&f->profile, NULL, file));
  assert_non_null(strstr(said, "it is no baseline"));
  f->profile.whole = true;
  SAY(profile_baseline_report(&f->profile, NULL, file));
  assert_non_null(strstr(said, "is the baseline"));
  assert_null(strstr(said, "slower"));
  profile_baseline_release(&baseline);
  free(text);
}

static void test_no_baseline(void **state) {
  (void)state;
  static const struct {
    const char *text, *message;
  } wrong[] = {{"[", "x.json is not JSON"},
               {"{}", "x.json is no profile: its schema is not given"},
               {"{\"schema\": \"moecl-results/1\"}", "its schema is moecl-results/1"},
               {"{\"schema\": \"moecl-profile/1\"}", "x.json cannot be read"},
               {"{\"schema\": \"moecl-profile/1\", \"points\": [{}]}", "x.json cannot be read"}};
  for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
    profile_baseline baseline;
    char *error = NULL;
    assert_false(
        profile_baseline_read(wrong[i].text, strlen(wrong[i].text), "x.json", &baseline, &error));
    assert_non_null(strstr(error, wrong[i].message));
    free(error);
  }
}

/* Why a variant was set aside is what the library said before. */
static void test_facts(void **state) {
  fixture *f = *state;
  char why[PROFILE_WHY_SIZE];
  profile_point *point = &f->profile.points[0];
  profile_operation *gemm = &point->operations[2];
  gemm->name = strdup("generic");
  strcpy(gemm->planned, "generic");
  strcpy(gemm->rounded, "gpu");
  profile_facts facts = profile_facts_of(&f->profile, point, PROFILE_LAYER, why);
  assert_string_equal(facts.kept_out, "gpu");
  assert_string_equal(facts.operation, "grouped_gemm");
  assert_null(facts.set_aside);
  assert_int_equal(facts.hottest, 0);
  assert_int_equal(facts.hottest_rows, 4);
  assert_true(facts.imbalance == 1.6); /* 4 of 5 rows, two experts */
  assert_int_equal(facts.rows, 5);
  assert_int_equal(facts.active_experts, 2);
  assert_true(facts.total_us == 40 && facts.gaps_us == 5);
  strcpy(gemm->planned, "gpu");
  point->warnings = strdup("another thing\ngpu.cl: it is wrong\n"
                           "grouped_gemm variant 'gpu' is set aside (x), the next one serves\n");
  facts = profile_facts_of(&f->profile, point, PROFILE_LAYER, why);
  assert_string_equal(facts.set_aside, "gpu");
  assert_string_equal(facts.variant, "generic");
  assert_string_equal(facts.why_set_aside, "gpu.cl: it is wrong");
  assert_null(facts.kept_out);
  facts = profile_facts_of(&f->profile, point, PROFILE_ROUTER, why);
  assert_null(facts.set_aside);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_shares),
      cmocka_unit_test(test_limits),
      cmocka_unit_test(test_bottleneck),
      cmocka_unit_test(test_no_advice),
      cmocka_unit_test(test_hot_expert),
      cmocka_unit_test(test_tiny_groups),
      cmocka_unit_test(test_padding_waste),
      cmocka_unit_test(test_launch_bound),
      cmocka_unit_test(test_waits),
      cmocka_unit_test(test_transfer_bound),
      cmocka_unit_test(test_set_aside),
      cmocka_unit_test(test_sizes),
      cmocka_unit_test(test_far),
      cmocka_unit_test(test_order),
      cmocka_unit_test(test_memory),
      cmocka_unit_test(test_sum),
      cmocka_unit_test_setup_teardown(test_trace, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_baseline, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_facts, set_up, tear_down),
      cmocka_unit_test(test_no_baseline)};
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  free(said);
  return failed;
}
