// SPDX-License-Identifier: MIT
#include "base/base.h"
#include "op/check.h"
#include "op/permute/scale.h"
#include <math.h>
#include <stdlib.h>

/* More columns than a work-group has, odd or a multiple of 8, as the kernel is for. */
enum { TOKENS = 3, TOP_K = 3, ALL = TOKENS * TOP_K, ROWS = 7, ODD_WIDTH = 301, WIDTH = 1032 };

/* Not in the order of the choices; a token's choice is dropped, and all of the last one's.
 * Nobody has row 5. The weights round. */
static const int32_t slots[ALL] = {4, -1, 0, 2, 6, 1, 3, -1, -1};
static const float weights[ALL] = {0.3f, 9, 1, 0.7f, 0.1f, 0.01f, 1, 9, 9};

/* Awkward ones are in the first token, whose weights are 0.3 and 1. */
static void draw_hidden(const desc_format *format, int width, double *hidden) {
  static const double awkward[] = {NAN, INFINITY, -INFINITY, -0.0};
  uint32_t state = 1;
  for (int i = 0; i < TOKENS * width; i++)
    hidden[i] = check_value(&state) + check_value(&state) / 16;
  for (size_t i = 0; i < BASE_COUNT(awkward); i++)
    hidden[i] = hidden[width - 1 - (int)i] = awkward[i];
  hidden[BASE_COUNT(awkward)] = format == desc_format_of(MOECL_F16) ? 65504 : 0x1.fep127;
}

/* Rounded to fp32, then to the format. */
static double scaled(const desc_format *format, float weight, double hidden) {
  const double product = (double)(weight * (float)hidden);
  double rounded;
  float bits; /* holds any format of rows */
  desc_encode(format, &product, 1, 1, &bits);
  desc_decode(format, &bits, 1, 1, &rounded);
  return rounded;
}

/* NaN where nothing is to be written, as the buffer is filled. */
static void expect(const desc_format *format, int width, const double *hidden, double *want) {
  for (int i = 0; i < ROWS * width; i++) want[i] = NAN;
  for (int i = 0; i < ALL; i++)
    for (int h = 0; slots[i] >= 0 && h < width; h++)
      want[slots[i] * width + h] = scaled(format, weights[i], hidden[i / TOP_K * width + h]);
}

static moecl_status compare(check_run *run, op_scale *scale, double *hidden, double *want) {
  const int width = (int)scale->desc.hidden_size;
  const desc_format *stored = scale->desc.rows, *rounded = scale->desc.rounded;
  const uint64_t bytes = desc_format_bytes(stored, ROWS, (uint64_t)width);
  const check_tolerance exact = {0, 0};
  moecl_buffer **b = run->buffer;
  draw_hidden(rounded, width, hidden);
  expect(rounded, width, hidden, want);
  MOECL_TRY(check_upload(run->context, stored, hidden, TOKENS, (uint64_t)width, &b[0]));
  MOECL_TRY(check_upload_words(run->context, slots, ALL, &b[1]));
  MOECL_TRY(check_upload_words(run->context, weights, ALL, &b[2]));
  MOECL_TRY(moecl_buffer_create(run->context, bytes, &b[3]));
  MOECL_TRY(moecl_buffer_fill_byte(b[3], 0, bytes, 0xff));
  const op_scale_io io = {.num_tokens = TOKENS,
                          .hidden = b[0],
                          .assignment_slot = b[1],
                          .topk_weights = b[2],
                          .scaled = b[3]};
  ocl_chain chain = {.context = run->context};
  MOECL_TRY(op_scale_enqueue(scale, &chain, &io));
  return check_numbers(run, "scaled", b[3], stored, ROWS, (uint64_t)width, want, exact);
}

static moecl_status check(check_run *run, void *op) {
  double *hidden = malloc(TOKENS * WIDTH * sizeof *hidden);
  double *want = malloc(ROWS * WIDTH * sizeof *want);
  const moecl_status status =
      hidden && want ? compare(run, op, hidden, want) : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  free(hidden);
  free(want);
  return status;
}

moecl_status op_scale_self_check(moecl_context *context, const kernel_variant *variant,
                                 const void *desc) {
  check_run run = {&op_scale_kind, context, variant, {NULL}};
  op_scale_desc small = *(const op_scale_desc *)desc;
  op_scale scale;
  small.hidden_size = small.hidden_size % 8 == 0 ? WIDTH : ODD_WIDTH;
  small.top_k = TOP_K;
  MOECL_TRY(check_begin(&run, &small, &scale));
  return check_end(&run, &scale, &scale.kernel, 1, check);
}
