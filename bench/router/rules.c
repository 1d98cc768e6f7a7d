// SPDX-License-Identifier: MIT
/* What the router's rules cost: times the choice alone, from logits to ids and
 * weights, by each rule, side by side.
 *
 *   usage: router_rules [DEVICE [VARIANT]]    (--help tells more)
 *
 * Prints the variant, median milliseconds and their ratio to the plain softmax
 * top-k. The logits are normal, 16384 tokens by 256 experts, 8 chosen. Rules take
 * turns, a batch of launches each, so that a machine that drifts drifts for all. */
#include "kernel/variant.h"
#include "moecl/moecl.h"
#include "op/router/router.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TOKENS = 16384, EXPERTS = 256, TOP_K = 8, ROUNDS = 15, LAUNCHES = 10 };
#define SIZES .num_experts = EXPERTS, .top_k = TOP_K

static const struct {
  const char *name;
  moecl_layer_params layer;
} rules[] = {
    {"softmax", {SIZES}}, /* the first: what the others are compared with */
    {"softmax, renormalized", {SIZES, .renormalize = true}},
    {"sigmoid, corrected",
     {SIZES, .scoring = MOECL_SCORING_SIGMOID, .score_correction_bias = true}},
    {"deepseek-v2", {SIZES, .num_expert_group = 8, .topk_group = 3, .routed_scaling_factor = 16}},
    {"deepseek-v3",
     {SIZES, .scoring = MOECL_SCORING_SIGMOID, .score_correction_bias = true, .num_expert_group = 8,
      .topk_group = 4, .group_score = MOECL_GROUP_TOP2_SUM, .renormalize = true,
      .routed_scaling_factor = 2.5f}},
};
enum { RULES = sizeof rules / sizeof rules[0] };

typedef struct bench {
  moecl_context *context;
  const kernel_variant *variant;
  moecl_buffer *logits, *bias, *ids, *weights, *counts;
  op_router router[RULES];
  double ms[RULES][ROUNDS];
} bench;

static void log_problem(void *user, moecl_log_level level, const char *message) {
  (void)user;
  if (level <= MOECL_LOG_WARNING) fprintf(stderr, "%s\n", message);
}

/* The variant of that name, else the best that serves. */
static const kernel_variant *find_variant(const moecl_context *context, const char *name) {
  const kernel_variant *all = op_router_table.rows, *found = NULL;
  const size_t count = op_router_table.count;
  for (size_t i = 0; i < count; i++)
    if (kernel_variant_serves(&all[i], desc_format_of(MOECL_F32), context->info.capabilities) &&
        kernel_variant_fits(&all[i], &context->info) && (!name || strcmp(name, all[i].name) == 0))
      found = &all[i];
  return found;
}

static moecl_status fill(moecl_context *context, uint64_t count, float scale, uint64_t stream,
                         moecl_buffer **buffer) {
  const moecl_random_params params = {
      .dtype = MOECL_F32, .distribution = MOECL_NORMAL, .scale = scale, .stream = stream};
  const moecl_status status = moecl_buffer_create(context, count * 4, buffer);
  return status == MOECL_OK ? moecl_fill_random(*buffer, 0, count, &params) : status;
}

static moecl_status prepare(bench *b) {
  const uint64_t blocks = op_permute_most_blocks(TOKENS, TOP_K);
  moecl_status status = fill(b->context, (uint64_t)TOKENS * EXPERTS, 1, 1, &b->logits);
  if (status == MOECL_OK) status = fill(b->context, EXPERTS, 0.05f, 2, &b->bias);
  if (status == MOECL_OK) status = moecl_buffer_create(b->context, TOKENS * TOP_K * 4, &b->ids);
  if (status == MOECL_OK) status = moecl_buffer_create(b->context, TOKENS * TOP_K * 4, &b->weights);
  if (status == MOECL_OK)
    status = moecl_buffer_create(b->context, blocks * EXPERTS * 4, &b->counts);
  for (int r = 0; status == MOECL_OK && r < RULES; r++) {
    const desc_rule rule = desc_rule_of(&rules[r].layer);
    status = op_router_kind.create(b->context, b->variant, &rule, &b->router[r]);
  }
  return status;
}

/* A batch of launches of rule `r`. */
static moecl_status time_rule(bench *b, int r, double *ms) {
  const op_router_io io = {.num_tokens = TOKENS,
                           .logits = b->logits,
                           .correction_bias = b->bias,
                           .topk_ids = b->ids,
                           .topk_weights = b->weights,
                           .block_counts = b->counts};
  ocl_chain chain = {.context = b->context};
  struct timespec begin, end;
  moecl_status status = moecl_context_finish_wait(b->context);
  clock_gettime(CLOCK_MONOTONIC, &begin);
  for (int i = 0; status == MOECL_OK && i < LAUNCHES; i++)
    status = op_router_enqueue(&b->router[r], &chain, &io);
  if (status == MOECL_OK) status = moecl_context_finish_wait(b->context);
  clock_gettime(CLOCK_MONOTONIC, &end);
  *ms = ((double)(end.tv_sec - begin.tv_sec) * 1e3 + (double)(end.tv_nsec - begin.tv_nsec) / 1e6) /
        LAUNCHES;
  return status;
}

static int ascending(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* The first round warms up. */
static moecl_status measure(bench *b) {
  moecl_status status = MOECL_OK;
  for (int round = -1; status == MOECL_OK && round < ROUNDS; round++)
    for (int r = 0; status == MOECL_OK && r < RULES; r++)
      status = time_rule(b, r, &b->ms[r][round < 0 ? 0 : round]);
  return status;
}

static void print(bench *b) {
  printf("%s, router variant %s, T=%d E=%d K=%d\n", b->context->info.name, b->variant->name, TOKENS,
         EXPERTS, TOP_K);
  printf("%-24s %8s %8s %8s %6s\n", "rule", "ms", "min", "max", "ratio");
  for (int r = 0; r < RULES; r++) {
    qsort(b->ms[r], ROUNDS, sizeof b->ms[r][0], ascending);
    printf("%-24s %8.3f %8.3f %8.3f %6.2f\n", rules[r].name, b->ms[r][ROUNDS / 2], b->ms[r][0],
           b->ms[r][ROUNDS - 1], b->ms[r][ROUNDS / 2] / b->ms[0][ROUNDS / 2]);
  }
}

static void release(bench *b) {
  moecl_buffer **buffers[] = {&b->logits, &b->bias, &b->ids, &b->weights, &b->counts};
  for (int r = 0; r < RULES; r++) op_router_kind.release(&b->router[r]);
  for (size_t i = 0; i < sizeof buffers / sizeof buffers[0]; i++) moecl_buffer_destroy(buffers[i]);
  moecl_context_destroy(&b->context);
}

static const char usage[] =
    "usage: router_rules [DEVICE [VARIANT]]\n"
    "Times the router's rules side by side, the choice alone: 16384 tokens of 256 experts,\n"
    "8 chosen. Prints the variant, and for each rule median milliseconds and their ratio to\n"
    "the plain softmax top-k.\n"
    "  DEVICE   as moectl's --device: auto, gpu, cpu, 1:0 or part of a name (default: auto)\n"
    "  VARIANT  of the router, by name (default: the best that serves)\n"
    "Exit codes: 0 all ran, 1 something failed, 2 bad usage.\n";

int main(int argc, char **argv) {
  static bench b;
  for (int i = 1; i < argc; i++)
    if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
      fputs(usage, stdout);
      return 0;
    }
  for (int i = 1; i < argc; i++)
    if (argv[i][0] == '-' || i > 2) {
      fprintf(stderr, "router_rules: unexpected '%s'\n%s", argv[i], usage);
      return 2;
    }
  const moecl_context_params params = {.log = log_problem, .device = argc > 1 ? argv[1] : NULL};
  moecl_status status = moecl_context_create(&params, &b.context);
  if (status != MOECL_OK) return 1;
  b.variant = find_variant(b.context, argc > 2 ? argv[2] : NULL);
  if (!b.variant) {
    fprintf(stderr, "no such router variant serves here\n");
    status = MOECL_ERROR_UNSUPPORTED;
  }
  if (status == MOECL_OK) status = prepare(&b);
  if (status == MOECL_OK) status = measure(&b);
  if (status == MOECL_OK) print(&b);
  release(&b);
  return status != MOECL_OK;
}
