// SPDX-License-Identifier: MIT
#include "base/base.h"
#include "op/check.h"
#include "op/combine/combine.h"
#include <math.h>
#include <string.h>

/* More columns than a work-group makes, and an odd number of them where the
 * variant takes it. */
enum { OUT_TOKENS = 3, MOST_WIDTH = 1032, CHOICES = 3, SLOTS = OUT_TOKENS * CHOICES };
enum { FIRST_IDENTITY = 2, IDENTITY_SLOT = 2 };

/* Slots not in the order of the choices; the last token is dropped, and a choice
 * of the first one. With identity experts, of which there is one behind FIRST_IDENTITY
 * others, the slots from IDENTITY_SLOT on have no rows. Weights and values are multiples of 1/8, so
 * the sums are exact but for the last rounding. */
static const int32_t combine_slots[SLOTS] = {4, -1, 0, 2, 5, 1, -1, -1, -1};
static const float combine_weights[SLOTS] = {0.5f, 9, 0.25f, 0.125f, 0.375f, 0.5f, 9, 9, 9};

static const int32_t combine_offsets[] = {0, 1, IDENTITY_SLOT, 6};
static const float combine_gates[OUT_TOKENS] = {0.5f, 0.25f, 0.75f};

/* The shared expert's output are the first rows of `input` in reverse, hidden states the
 * last rows. */
static double expect_combined(const op_combine_desc *small, const double *input, int token,
                              int column) {
  const int width = (int)small->hidden_size;
  double sum = 0;
  for (int i = token * CHOICES; i < (token + 1) * CHOICES; i++) {
    const bool identity = small->first_identity > 0 && combine_slots[i] >= IDENTITY_SLOT;
    const int row = identity ? SLOTS - OUT_TOKENS + token : combine_slots[i];
    if (combine_slots[i] >= 0)
      sum += (small->weighted ? (double)combine_weights[i] : 1.0) * input[row * width + column];
  }
  if (small->shared)
    sum += (small->shared_gate ? (double)combine_gates[token] : 1.0) *
           input[(OUT_TOKENS - 1 - token) * width + column];
  return sum;
}

static moecl_status check(check_run *run, void *op) {
  op_combine *combine = op;
  const op_combine_desc *small = &combine->desc;
  moecl_context *context = run->context;
  moecl_buffer **b = run->buffer;
  double input[SLOTS * MOST_WIDTH], shared[OUT_TOKENS * MOST_WIDTH];
  double *output = shared; /* read when that has been given away */
  const int width = (int)small->hidden_size;
  const uint64_t columns = (uint64_t)width;
  const desc_format *from = small->input, *to = small->output;
  uint32_t state = 1;
  for (int i = 0; i < SLOTS * width; i++) input[i] = check_value(&state);
  MOECL_TRY(check_upload(context, from, input, SLOTS, columns, &b[0]));
  MOECL_TRY(check_upload_words(context, combine_slots, SLOTS, &b[1]));
  MOECL_TRY(check_upload_words(context, combine_weights, SLOTS, &b[2]));
  MOECL_TRY(moecl_buffer_create(context, desc_format_bytes(to, OUT_TOKENS, columns), &b[3]));
  for (int t = 0; t < OUT_TOKENS; t++)
    memcpy(shared + t * width, input + (OUT_TOKENS - 1 - t) * width, (size_t)width * sizeof *input);
  MOECL_TRY(check_upload(context, from, shared, OUT_TOKENS, columns, &b[4]));
  MOECL_TRY(check_upload_words(context, combine_gates, OUT_TOKENS, &b[5]));
  MOECL_TRY(
      check_upload(context, to, input + (SLOTS - OUT_TOKENS) * width, OUT_TOKENS, columns, &b[6]));
  MOECL_TRY(check_upload_words(context, combine_offsets, FIRST_IDENTITY + 2, &b[7]));
  ocl_chain chain = {.context = context};
  const op_combine_io io = {.num_tokens = OUT_TOKENS,
                            .expert_output = b[0],
                            .assignment_slot = b[1],
                            .topk_weights = b[2],
                            .shared = b[4],
                            .shared_gate = b[5],
                            .hidden_states = b[6],
                            .expert_offsets = b[7],
                            .output = b[3]};
  MOECL_TRY(op_combine_enqueue(combine, &chain, &io));
  MOECL_TRY(check_read(b[3], to, OUT_TOKENS, columns, output));
  for (int i = 0; i < OUT_TOKENS * width; i++) {
    const double want = expect_combined(small, input, i / width, i % width);
    if (!(fabs(output[i] - want) <= 1e-2 * fabs(want)))
      return check_fail(run, "output", i, output[i], want);
  }
  return MOECL_OK;
}

moecl_status op_combine_self_check(moecl_context *context, const kernel_variant *variant,
                                   const void *desc) {
  check_run run = {&op_combine_kind, context, variant, {NULL}};
  op_combine_desc small = *(const op_combine_desc *)desc;
  op_combine combine;
  small.hidden_size = 301;
  small.top_k = CHOICES;
  if (small.first_identity > 0) small.first_identity = FIRST_IDENTITY;
  if (!kernel_variant_accepts(variant, &small)) small.hidden_size = MOST_WIDTH;
  MOECL_TRY(check_begin(&run, &small, &combine));
  return check_end(&run, &combine, &combine.kernel, 1, check);
}
