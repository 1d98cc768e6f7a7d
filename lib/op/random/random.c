// SPDX-License-Identifier: MIT
#include "op/random/random.h"
#include "base/base.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define PER_ITEM 16 /* elements a work-item draws, as in random.cl */

static const kernel_variant rows[] = {
    {.name = "generic", .source = "random/random.cl", .formats = KERNEL_ALL}};
static const kernel_table table = {"random", rows, BASE_COUNT(rows)};

/* The standard deviation of the sum of four numbers uniform in 0..65535. */
static double sum_deviation(void) { return sqrt(4294967295.0 / 3.0); }

float op_random_factor(int draws, float scale) {
  return draws == DRAWS_NORMAL ? (float)(scale / sum_deviation()) : (float)ldexp(scale, -23);
}

void op_random_skewed_factors(float noise, float *centre, float *own) {
  const double n = noise;
  *centre = (float)(sqrt(1.0 - n * n) / sum_deviation());
  *own = (float)(n / sum_deviation());
}

void op_random_thresholds(const op_random_desc *desc, uint32_t *thresholds) {
  double total = 0, sum = 0;
  for (int64_t c = 0; c < desc->num_clusters; c++)
    total += pow((double)(c + 1), -(double)desc->exponent);
  for (int64_t c = 0; c < desc->num_clusters; c++) {
    sum += pow((double)(c + 1), -(double)desc->exponent);
    const double threshold = floor(sum / total * 4294967296.0);
    thresholds[c] = threshold >= 4294967295.0 ? UINT32_MAX : (uint32_t)threshold;
  }
}

/* ---- life ---- */

static uint64_t bytes(const void *op) {
  return (uint64_t)((const op_random *)op)->desc.num_clusters * sizeof(uint32_t);
}

static moecl_status describe(moecl_context *context, const kernel_variant *variant,
                             const void *desc, void *op) {
  (void)context, (void)variant;
  *(op_random *)op = (op_random){.desc = *(const op_random_desc *)desc};
  return MOECL_OK;
}

static moecl_status make_thresholds(moecl_context *context, op_random *random) {
  uint32_t *host = malloc(bytes(random));
  if (!host) return log_error(&context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  op_random_thresholds(&random->desc, host);
  const moecl_status status = ocl_buffer_filled(context, bytes(random), host, &random->thresholds);
  free(host);
  return status;
}

static moecl_status create(moecl_context *context, const kernel_variant *variant, const void *desc,
                           void *op) {
  static const char *const entries[] = {[DRAWS_NORMAL] = "fill_normal",
                                        [DRAWS_UNIFORM] = "fill_uniform",
                                        [DRAWS_SKEWED] = "fill_skewed"};
  op_random *random = op;
  char defines[48];
  MOECL_TRY(describe(context, variant, desc, op));
  const int draws = random->desc.draws;
  snprintf(defines, sizeof defines, "DTYPE %d\nDRAWS %d\n", random->desc.format->element, draws);
  MOECL_TRY(ocl_kernel_create(context, variant->source, defines, entries[draws], &random->fill));
  if (draws != DRAWS_SKEWED) return MOECL_OK;
  MOECL_TRY(
      ocl_kernel_create(context, variant->source, defines, "skewed_clusters", &random->clusters));
  return make_thresholds(context, random);
}

static void release(void *op) {
  op_random *random = op;
  ocl_kernel_destroy(&random->fill);
  ocl_kernel_destroy(&random->clusters);
  moecl_buffer_destroy(&random->thresholds);
}

const op_kind op_random_kind = {.table = &table,
                                .size = sizeof(op_random),
                                .describe = describe,
                                .create = create,
                                .self_check = op_random_self_check,
                                .release = release,
                                .bytes = bytes};

/* ---- launches ---- */

static moecl_status draw_clusters(op_random *random, ocl_chain *chain, const op_random_io *io) {
  MOECL_TRY(ocl_kernel_args(random->clusters, "bbuLLL", io->clusters, random->thresholds,
                            (uint32_t)random->desc.num_clusters, (uint64_t)io->num_tokens,
                            io->stream, io->seed));
  return ocl_launch_items(chain, random->clusters, (uint64_t)io->num_tokens);
}

/* Some drivers take no more than 65535 groups in the second dimension. */
#define MAX_ROWS 65535

static moecl_status draw_rows(op_random *random, ocl_chain *chain, const op_random_io *io) {
  const uint64_t rows = (uint64_t)io->num_tokens, width = (uint64_t)random->desc.hidden_size;
  const uint64_t row_blocks = base_div_up(width, 2);
  float centre_factor, own_factor;
  op_random_skewed_factors(random->desc.noise, &centre_factor, &own_factor);
  for (uint64_t first = 0; first < rows; first += MAX_ROWS) {
    const uint64_t some = rows - first < MAX_ROWS ? rows - first : MAX_ROWS;
    MOECL_TRY(ocl_kernel_args(random->fill, "bbLLLLLff", io->output, io->clusters, first, width,
                              row_blocks, io->stream, io->seed, (double)centre_factor,
                              (double)own_factor));
    MOECL_TRY(ocl_launch_items_2d(chain, random->fill, base_div_up(width, PER_ITEM), some));
  }
  return MOECL_OK;
}

moecl_status op_random_enqueue(op_random *random, ocl_chain *chain, const op_random_io *io) {
  const op_random_desc *desc = &random->desc;
  if (desc->draws == DRAWS_SKEWED) {
    MOECL_TRY(draw_clusters(random, chain, io));
    return draw_rows(random, chain, io);
  }
  MOECL_TRY(ocl_kernel_args(random->fill, "bLLLLLf", io->output, io->offset, io->count,
                            io->first_index / 2, io->stream, io->seed,
                            (double)op_random_factor(desc->draws, desc->scale)));
  return ocl_launch_items(chain, random->fill, base_div_up(io->count, PER_ITEM));
}
