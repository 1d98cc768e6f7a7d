// SPDX-License-Identifier: MIT
#include "base/base.h"
#include "moecl/random.h"
#include "op/check.h"
#include "op/random/random.h"
#include <Random123/philox.h>
#include <math.h>

/* Words with all their halves in use; the index is near the counter's carry. */
static const uint64_t seed = 0x123456789abcdef0, stream = 0xfedcba9876543210;
static const check_tolerance exact = {0, 0};

/* The number as the format has it. */
static double stored(const desc_format *format, double value) {
  double rounded;
  float bits; /* holds any format that is drawn */
  desc_encode(format, &value, 1, 1, &bits);
  desc_decode(format, &bits, 1, 1, &rounded);
  return rounded;
}

/* ---- normal and uniform ones, as moecl_random_host draws them ---- */

/* Two work-items' elements and part of a third's; around them nothing is written: NaN. */
enum { OFFSET = 3, COUNT = 37, ELEMENTS = OFFSET + COUNT + 3 };

static moecl_status check_independent(check_run *run, op_random *random) {
  const op_random_desc *desc = &random->desc;
  const uint64_t bytes = desc_format_bytes(desc->format, 1, ELEMENTS);
  const moecl_random_params params = {.dtype = desc_format_dtype(desc->format),
                                      .distribution = (moecl_distribution)desc->draws,
                                      .scale = desc->scale,
                                      .seed = seed,
                                      .stream = stream,
                                      .first_index = (UINT64_C(1) << 33) - 20};
  float raw[COUNT]; /* holds any format that is drawn */
  double want[ELEMENTS];
  for (int i = 0; i < ELEMENTS; i++) want[i] = NAN;
  MOECL_TRY(moecl_random_host(raw, COUNT, &params));
  desc_decode(desc->format, raw, 1, COUNT, want + OFFSET);
  MOECL_TRY(moecl_buffer_create(run->context, bytes, &run->buffer[0]));
  MOECL_TRY(moecl_buffer_fill_byte(run->buffer[0], 0, bytes, 0xff));
  const op_random_io io = {.output = run->buffer[0],
                           .seed = seed,
                           .stream = stream,
                           .offset = OFFSET,
                           .count = COUNT,
                           .first_index = params.first_index};
  ocl_chain chain = {.context = run->context};
  MOECL_TRY(op_random_enqueue(random, &chain, &io));
  return check_numbers(run, "drawn", io.output, desc->format, 1, ELEMENTS, want, exact);
}

/* ---- skewed ones ---- */

/* An odd row of one work-item's elements and part of another's. */
enum { TOKENS = 9, WIDTH = 19, CLUSTERS = 5 };
static const uint32_t of_centre = 0x40000000, of_cluster = 0x80000000; /* tags of a block's index */

static philox4x32_ctr_t draw(uint64_t block, uint32_t tag) {
  const philox4x32_key_t key = {{(uint32_t)seed, (uint32_t)(seed >> 32)}};
  const philox4x32_ctr_t counter = {
      {(uint32_t)block, (uint32_t)(block >> 32) | tag, (uint32_t)stream, (uint32_t)(stream >> 32)}};
  return philox4x32(counter, key);
}

/* Column h's centred sum, of a row of blocks. */
static float centred(uint64_t row, int h, uint32_t tag) {
  const philox4x32_ctr_t words = draw(row * ((WIDTH + 1) / 2) + (uint64_t)(h / 2), tag);
  const uint32_t a = words.v[h % 2 * 2], b = words.v[h % 2 * 2 + 1];
  return (float)((int32_t)((a & 0xffff) + (a >> 16) + (b & 0xffff) + (b >> 16)) - 131070);
}

static void expect_skewed(const op_random_desc *desc, int32_t *clusters, double *want) {
  uint32_t thresholds[CLUSTERS];
  float centre, own;
  op_random_thresholds(desc, thresholds);
  op_random_skewed_factors(desc->noise, &centre, &own);
  for (int t = 0; t < TOKENS; t++) {
    const uint32_t token = draw((uint64_t)t, of_cluster).v[0];
    int32_t c = 0;
    while (c < CLUSTERS - 1 && token >= thresholds[c]) c++;
    clusters[t] = c;
    for (int h = 0; h < WIDTH; h++)
      want[t * WIDTH + h] =
          stored(desc->format, (double)fmaf(centred((uint64_t)c, h, of_centre), centre,
                                            centred((uint64_t)t, h, 0) * own));
  }
}

static moecl_status check_skewed(check_run *run, op_random *random) {
  const desc_format *format = random->desc.format;
  int32_t clusters[TOKENS];
  double want[TOKENS * WIDTH];
  expect_skewed(&random->desc, clusters, want);
  MOECL_TRY(
      moecl_buffer_create(run->context, desc_format_bytes(format, TOKENS, WIDTH), &run->buffer[0]));
  MOECL_TRY(moecl_buffer_create(run->context, sizeof clusters, &run->buffer[1]));
  const op_random_io io = {.output = run->buffer[0],
                           .seed = seed,
                           .stream = stream,
                           .num_tokens = TOKENS,
                           .clusters = run->buffer[1]};
  ocl_chain chain = {.context = run->context};
  MOECL_TRY(op_random_enqueue(random, &chain, &io));
  MOECL_TRY(check_ints(run, "clusters", io.clusters, clusters, TOKENS));
  return check_numbers(run, "skewed rows", io.output, format, TOKENS, WIDTH, want, exact);
}

static moecl_status check(check_run *run, void *op) {
  op_random *random = op;
  return random->desc.draws == DRAWS_SKEWED ? check_skewed(run, random)
                                            : check_independent(run, random);
}

moecl_status op_random_self_check(moecl_context *context, const kernel_variant *variant,
                                  const void *desc) {
  check_run run = {&op_random_kind, context, variant, {NULL}};
  op_random_desc small = *(const op_random_desc *)desc;
  op_random random;
  small.scale = 1.7f;
  small.hidden_size = WIDTH;
  small.num_clusters = CLUSTERS;
  small.exponent = 1;
  small.noise = 0.3f;
  MOECL_TRY(check_begin(&run, &small, &random));
  return check_end(&run, &random, &random.fill, 1, check);
}
