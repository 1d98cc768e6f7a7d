// SPDX-License-Identifier: MIT
#include "base/base.h"
#include "op/route/route.h"
#include "op/router/check.h"
#include <math.h>
#include <stdlib.h>

/* More than one block of tokens, the last with tokens missing in both halves of the matrix
 * instruction; hidden sizes that go through all of the loops along it, with a tail. */
enum { TOKENS = ROUTER_MOST_TOKENS, NOWHERE = 18, ODD_SIZE = 2121, EVEN_SIZE = 2120 };
enum { REPEATS = 2 }; /* counters have to begin again */

typedef struct problem {
  double hidden[TOKENS * ODD_SIZE], weights[ROUTER_MOST_EXPERTS * ODD_SIZE];
  double bias[ROUTER_MOST_EXPERTS];
  double logits[TOKENS * ROUTER_MOST_EXPERTS];
  float rounded[TOKENS * ROUTER_MOST_EXPERTS], correction[ROUTER_MOST_EXPERTS];
  int32_t ids[ROUTER_MOST_CHOICES];
} problem;

/* Multiples of 1/8, whose sums are exact and have ties. Every column is some token's, so that a
 * logit is small and none is left out. One token is not finite. */
static void draw(const op_route_desc *small, problem *p) {
  const int64_t experts = small->rule.num_experts, size = small->hidden_size;
  uint32_t state = 1;
  for (int64_t i = 0; i < TOKENS * size; i++) {
    const double value = check_value(&state);
    p->hidden[i] = i % size % TOKENS == i / size ? value : 0;
  }
  for (int64_t i = 0; i < experts * size; i++) p->weights[i] = check_value(&state);
  for (int64_t e = 0; e < experts; e++) {
    p->bias[e] = small->bias ? 2 * check_value(&state) : 0;
    p->correction[e] = (float)check_value(&state);
  }
  p->hidden[NOWHERE * size + 5] = NAN;
  for (int64_t i = 0; i < TOKENS * experts; i++) {
    const int64_t t = i / experts, e = i % experts;
    p->logits[i] = p->bias[e];
    for (int64_t k = 0; k < size; k++)
      p->logits[i] += p->hidden[t * size + k] * p->weights[e * size + k];
    p->rounded[i] = (float)p->logits[i];
  }
}

static moecl_status set_weights(check_run *run, op_route *route, const problem *p) {
  const op_route_desc *small = &route->desc;
  const uint64_t experts = (uint64_t)small->rule.num_experts, size = (uint64_t)small->hidden_size;
  moecl_buffer **b = run->buffer;
  MOECL_TRY(check_upload(run->context, small->stored, p->weights, experts, size, &b[0]));
  MOECL_TRY(ocl_buffer_copy(b[0], 0, route->weights, 0, moecl_buffer_size(route->weights)));
  if (!small->bias) return MOECL_OK;
  MOECL_TRY(check_upload(run->context, small->stored, p->bias, 1, experts, &b[1]));
  return ocl_buffer_copy(b[1], 0, route->bias, 0, moecl_buffer_size(route->bias));
}

static moecl_status compare(check_run *run, op_route *route, const op_route_io *io, problem *p) {
  const desc_rule *rule = &route->desc.rule;
  const check_tolerance exact = {0, 0};
  MOECL_TRY(check_numbers(run, "logits", io->router.logits, desc_format_of(MOECL_F32), TOKENS,
                          (uint64_t)rule->num_experts, p->logits, exact));
  MOECL_TRY(router_compare_choices(run, rule, p->rounded, p->correction, &io->router, p->ids));
  return router_compare_lists(run, rule, p->ids, &io->permute);
}

static moecl_status check_problem(check_run *run, op_route *route, problem *p) {
  const op_route_desc *small = &route->desc;
  const uint64_t experts = (uint64_t)small->rule.num_experts;
  const uint64_t choices = 4 * TOKENS * (uint64_t)small->rule.top_k;
  moecl_context *context = run->context;
  moecl_buffer **b = run->buffer + 2;
  ocl_chain chain = {.context = context};
  draw(small, p);
  MOECL_TRY(set_weights(run, route, p));
  MOECL_TRY(
      check_upload(context, small->stored, p->hidden, TOKENS, (uint64_t)small->hidden_size, &b[0]));
  MOECL_TRY(check_upload_words(context, p->correction, experts, &b[1]));
  MOECL_TRY(moecl_buffer_create(context, TOKENS * experts * 4, &b[2]));
  MOECL_TRY(moecl_buffer_create(context, choices, &b[3]));
  MOECL_TRY(moecl_buffer_create(context, choices, &b[4]));
  op_route_io io = {.hidden_states = b[0],
                    .router = {.num_tokens = TOKENS,
                               .seed = ROUTER_SEED,
                               .logits = b[2],
                               .topk_ids = b[3],
                               .topk_weights = b[4],
                               .correction_bias = b[1]}};
  MOECL_TRY(router_make_lists(run, 7, &small->rule, TOKENS, &io.permute));
  for (int i = 0; i < REPEATS; i++) {
    for (int output = 2; output < 5 + ROUTER_LISTS; output++)
      MOECL_TRY(moecl_buffer_fill_byte(b[output], 0, moecl_buffer_size(b[output]), 0xcd));
    MOECL_TRY(op_route_enqueue(route, &chain, &io));
    MOECL_TRY(compare(run, route, &io, p));
  }
  return MOECL_OK;
}

static moecl_status check(check_run *run, void *op) {
  problem *p = malloc(sizeof *p);
  if (!p) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  const moecl_status status = check_problem(run, op, p);
  free(p);
  return status;
}

moecl_status op_route_self_check(moecl_context *context, const kernel_variant *variant,
                                 const void *desc) {
  check_run run = {&op_route_kind, context, variant, {NULL}};
  op_route_desc small = *(const op_route_desc *)desc;
  op_route route;
  small.rule = router_small(&small.rule);
  small.hidden_size = ODD_SIZE;
  if (!kernel_variant_accepts(variant, &small)) small.hidden_size = EVEN_SIZE;
  MOECL_TRY(check_begin(&run, &small, &route));
  return check_end(&run, &route, &route.kernel, 1, check);
}
