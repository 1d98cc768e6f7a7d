// SPDX-License-Identifier: MIT
#include "base/base.h"
#include "op/check.h"
#include "op/gate/gate.h"
#include <math.h>
#include <string.h>

/* More columns than a work-group has work-items, and not a multiple. */
enum { TOKENS = 6, WIDTH = 301 };
/* Tokens of their own: a sigmoid of 1/2, of 0, of 1, and no number. */
enum { ZERO = 1, LOW, HIGH, NOTHING };

static void draw_hidden(const double *weight, double *hidden) {
  uint32_t state = 7;
  for (int i = 0; i < TOKENS * WIDTH; i++) hidden[i] = check_value(&state);
  memset(hidden + ZERO * WIDTH, 0, WIDTH * sizeof *hidden);
  for (int h = 0; h < WIDTH; h++) {
    hidden[HIGH * WIDTH + h] = 1024 * weight[h];
    hidden[LOW * WIDTH + h] = -1024 * weight[h];
  }
  hidden[NOTHING * WIDTH + WIDTH - 1] = NAN;
}

static void expect(const op_gate_desc *desc, const double *hidden, const double *weight,
                   double *want) {
  for (int t = 0; t < TOKENS; t++) {
    double sum = 0;
    for (int h = 0; h < WIDTH; h++) sum += hidden[t * WIDTH + h] * weight[h];
    want[t] = (double)desc->factor / (desc->gated ? 1 + exp(-sum) : 1);
  }
}

/* Numbers are multiples of 1/8, so the sums are exact. The smallest results may be 0. */
static moecl_status check(check_run *run, void *op) {
  op_gate *gate = op;
  const op_gate_desc *desc = &gate->desc;
  const check_tolerance near = {1e-4, 0x1p-126};
  double hidden[TOKENS * WIDTH], weight[WIDTH], want[TOKENS];
  uint32_t state = 1;
  for (int h = 0; h < WIDTH; h++) weight[h] = check_value(&state);
  draw_hidden(weight, hidden);
  expect(desc, hidden, weight, want);
  MOECL_TRY(check_upload(run->context, desc->format, hidden, TOKENS, WIDTH, &run->buffer[0]));
  MOECL_TRY(moecl_buffer_create(run->context, sizeof(float) * TOKENS, &run->buffer[1]));
  if (desc->gated) {
    MOECL_TRY(check_upload(run->context, desc->format, weight, 1, WIDTH, &run->buffer[2]));
    MOECL_TRY(ocl_buffer_copy(run->buffer[2], 0, gate->weight, 0, moecl_buffer_size(gate->weight)));
  }
  const op_gate_io io = {
      .num_tokens = TOKENS, .hidden_states = run->buffer[0], .output = run->buffer[1]};
  ocl_chain chain = {.context = run->context};
  MOECL_TRY(op_gate_enqueue(gate, &chain, &io));
  return check_numbers(run, "gate", io.output, desc_format_of(MOECL_F32), 1, TOKENS, want, near);
}

moecl_status op_gate_self_check(moecl_context *context, const kernel_variant *variant,
                                const void *desc) {
  check_run run = {&op_gate_kind, context, variant, {NULL}};
  op_gate_desc small = *(const op_gate_desc *)desc;
  op_gate gate;
  small.hidden_size = WIDTH;
  MOECL_TRY(check_begin(&run, &small, &gate));
  return check_end(&run, &gate, &gate.kernel, 1, check);
}
