// SPDX-License-Identifier: MIT
#include "base/base.h"
#include "moecl/reference.h"
#include "op/check.h"
#include "op/router/prepare.h"
#include <math.h>

enum { TOKENS = 3 };
static const uint64_t seed = 0xfedcba9876543210u;
static const uint64_t first_token = 0xfffffffeu; /* beyond 32 bits after two */

/* ---- hidden states in fp32, jittered ---- */

/* Two vectors of the widest kernel, part of a third and of a Philox block. */
enum { WIDTH = 79 };

/* Awkward ones at both ends: of vectors, and of the elements that are made singly. */
static void draw_hidden(const desc_format *format, double *hidden) {
  const double awkward[] = {INFINITY,  NAN,
                            -INFINITY, -0.0,
                            0x1p-14,   format == desc_format_of(MOECL_F16) ? 65504 : 0x1.fep127};
  const int last = TOKENS * WIDTH - 1;
  uint32_t state = 1;
  for (int i = 0; i <= last; i++) hidden[i] = check_value(&state);
  for (int i = 0; i < (int)BASE_COUNT(awkward); i++) hidden[i] = hidden[last - i] = awkward[i];
}

/* The same bits everywhere: a product of two fp32 numbers, rounded once. */
static moecl_status check_prepare(check_run *run, void *op) {
  op_prepare *prepare = op;
  const op_prepare_desc *desc = &prepare->desc;
  const check_tolerance exact = {0, 0};
  double hidden[TOKENS * WIDTH], want[TOKENS * WIDTH];
  draw_hidden(desc->input, hidden);
  for (int i = 0; i < TOKENS * WIDTH; i++) {
    const float factor = desc->jitter > 0
                             ? moecl_reference_jitter(seed, first_token + (uint64_t)(i / WIDTH),
                                                      (uint32_t)(i % WIDTH), desc->jitter)
                             : 1;
    want[i] = (double)((float)hidden[i] * factor);
  }
  MOECL_TRY(check_upload(run->context, desc->input, hidden, TOKENS, WIDTH, &run->buffer[0]));
  MOECL_TRY(moecl_buffer_create(run->context, sizeof(float) * TOKENS * WIDTH, &run->buffer[1]));
  const op_prepare_io io = {.num_tokens = TOKENS,
                            .seed = seed,
                            .first_token = first_token,
                            .input = run->buffer[0],
                            .output = run->buffer[1]};
  ocl_chain chain = {.context = run->context};
  MOECL_TRY(op_prepare_enqueue(prepare, &chain, &io));
  return check_numbers(run, "router input", io.output, desc_format_of(MOECL_F32), TOKENS, WIDTH,
                       want, exact);
}

moecl_status op_prepare_self_check(moecl_context *context, const kernel_variant *variant,
                                   const void *desc) {
  check_run run = {&op_prepare_kind, context, variant, {NULL}};
  op_prepare_desc small = *(const op_prepare_desc *)desc;
  op_prepare prepare;
  small.hidden_size = WIDTH;
  MOECL_TRY(check_begin(&run, &small, &prepare));
  return check_end(&run, &prepare, &prepare.kernel, 1, check_prepare);
}

/* ---- noise on logits ---- */

enum { EXPERTS = 37, LOGITS = TOKENS * EXPERTS };

static double softplus(double x) { return fmax(x, 0) + log1p(exp(-fabs(x))); }

/* Standard deviations of every size, one of them no number. */
static void draw_logits(float *logits, float *noise) {
  static const float awkward[] = {20, -20, 0, NAN, 8, -1000};
  uint32_t state = 1;
  for (int i = 0; i < LOGITS; i++) {
    logits[i] = (float)(4 * check_value(&state));
    noise[i] = (float)(4 * check_value(&state));
  }
  for (int i = 0; i < (int)BASE_COUNT(awkward); i++) noise[LOGITS - 1 - i] = awkward[i];
}

static moecl_status check_noise(check_run *run, void *op) {
  op_noise *noise = op;
  const check_tolerance near = {1e-5, 1e-4};
  float logits[LOGITS], deviation[LOGITS];
  double want[LOGITS];
  draw_logits(logits, deviation);
  for (int i = 0; i < LOGITS; i++) {
    const double draw =
        moecl_reference_noise(seed, first_token + (uint64_t)(i / EXPERTS), (uint32_t)(i % EXPERTS));
    want[i] = (double)logits[i] + draw * softplus((double)deviation[i]);
  }
  MOECL_TRY(check_upload_words(run->context, logits, LOGITS, &run->buffer[0]));
  MOECL_TRY(check_upload_words(run->context, deviation, LOGITS, &run->buffer[1]));
  const op_noise_io io = {.num_tokens = TOKENS,
                          .seed = seed,
                          .first_token = first_token,
                          .logits = run->buffer[0],
                          .noise_logits = run->buffer[1]};
  ocl_chain chain = {.context = run->context};
  MOECL_TRY(op_noise_enqueue(noise, &chain, &io));
  return check_numbers(run, "logits", io.logits, desc_format_of(MOECL_F32), TOKENS, EXPERTS, want,
                       near);
}

moecl_status op_noise_self_check(moecl_context *context, const kernel_variant *variant,
                                 const void *desc) {
  check_run run = {&op_noise_kind, context, variant, {NULL}};
  const op_noise_desc small = {.num_experts = EXPERTS};
  op_noise noise;
  (void)desc;
  MOECL_TRY(check_begin(&run, &small, &noise));
  return check_end(&run, &noise, &noise.kernel, 1, check_noise);
}
