// SPDX-License-Identifier: MIT
#include "base/base.h"
#include "op/check.h"
#include "op/gemm/driver.h"
#include "desc/activation.h"
#include "ref/activation.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Rows of the experts: more than one tile of any variant, none, a partial one.
 * Variants with several kernels choose by rows an expert: the loads are many, some
 * and few of them, on average 83, 23 and 5. */
enum { EXPERTS = 3, LOADS = 3, ROWS = 250, MOST_COLUMNS = 160 };
static const int32_t loads[LOADS][EXPERTS + 1] = {
    {0, 247, 247, ROWS}, {0, 67, 67, 70}, {0, 13, 13, 16}};

typedef struct problem {
  check_run run;     /* the first: what check_end gives back */
  op_gemm_desc desc; /* the caller's, with the small sizes */
  int64_t n, k;      /* odd ones, where the variant takes them; else a tail in both */
  int64_t weight_rows;
  op_gemm_kernel_id late; /* that is looked at alone; OP_GEMM_BASE: all that are made at once */
  const int32_t *offsets; /* one of the loads */
  int32_t rows;           /* of it */
  /* Multiples of 1/8, which plain formats have; as others round them. */
  double *input, *weights, *bias;
  void *stored_weights, *stored_input; /* what they are the numbers of: encoding these again may
                                          choose another scale */
  double *expected, *actual;
} problem;

static double epilogue(const op_gemm_desc *desc, double gate, double up) {
  if (desc->epilogue == ACTIVATION_NONE) return gate;
  const moecl_activation activation = desc_activation_find(desc->epilogue, desc->gated);
  return desc->gated ? ref_activate_gated(activation, gate, up, (double)desc->swiglu_alpha,
                                          (double)desc->swiglu_limit)
                     : ref_activate(activation, gate);
}

static double product(const problem *p, int64_t expert, int64_t row, int64_t column) {
  const double *w = p->weights + (expert * p->weight_rows + column) * p->k;
  double sum = p->desc.bias ? p->bias[expert * p->weight_rows + column] : 0.0;
  for (int64_t k = 0; k < p->k; k++) sum += p->input[row * p->k + k] * w[k];
  return sum;
}

/* Slots read the rows in reverse where the shape gathers. */
static int32_t source_row(const problem *p, int32_t slot) {
  return p->desc.gather ? p->rows - 1 - slot : slot;
}

static void expect(problem *p) {
  for (int32_t e = 0; e < EXPERTS; e++)
    for (int32_t slot = p->offsets[e]; slot < p->offsets[e + 1]; slot++)
      for (int64_t n = 0; n < p->n; n++) {
        const int32_t row = source_row(p, slot);
        const double v = product(p, e, row, n);
        const double up = p->desc.gated ? product(p, e, row, p->n + n) : 0;
        p->expected[slot * p->n + n] = epilogue(&p->desc, v, up);
      }
}

/* Matrices' numbers as their format rounds them; how they are stored then, or NULL. */
static void *round_to(const desc_format *format, double *values, uint64_t count, uint64_t rows,
                      uint64_t columns) {
  const uint64_t bytes = desc_format_bytes(format, rows, columns);
  char *stored = malloc((size_t)(count * bytes));
  for (uint64_t i = 0; stored && i < count; i++, values += rows * columns) {
    desc_encode(format, values, rows, columns, stored + i * bytes);
    desc_decode(format, stored + i * bytes, rows, columns, values);
  }
  return stored;
}

/* So that neighbouring rows of codes, and neighbouring blocks of a row, have different scales. */
static void vary_rows(problem *p) {
  for (int64_t i = 0; i < ROWS * p->k; i++)
    p->input[i] *= 1 - (double)(i / p->k % 5 + i % p->k / 128 % 3) / 8;
}

static bool round_plain(const desc_format *format, double *values, uint64_t rows,
                        uint64_t columns) {
  void *stored = round_to(format, values, 1, rows, columns);
  free(stored);
  return stored != NULL;
}

/* Of all experts: gate and up are two. */
static uint64_t matrices_of(const problem *p) { return EXPERTS * (p->desc.gated ? 2 : 1); }

/* So that no two neighbouring blocks, of 16 columns to 128 rows of 128, nor two matrices, have
 * the same scale. */
static void vary_blocks(problem *p) {
  for (int64_t i = 0; i < (int64_t)EXPERTS * p->weight_rows * p->k; i++) {
    const int64_t column = i % p->k, row = i / p->k % p->n, matrix = i / (p->k * p->n);
    const int64_t step = column / 16 % 8 + column / 128 % 3 + row / 128 + matrix % 2;
    p->weights[i] *= 1 - (double)step / 16;
  }
}

static bool make_problem(problem *p) {
  uint32_t state = 1;
  const size_t weights = (size_t)EXPERTS * (size_t)p->weight_rows;
  p->input = check_values(ROWS * (size_t)p->k, &state);
  p->weights = check_values(weights * (size_t)p->k, &state);
  p->bias = check_values(weights, &state);
  p->expected = malloc(ROWS * (size_t)p->n * sizeof *p->expected);
  p->actual = malloc(ROWS * (size_t)p->n * sizeof *p->actual);
  if (!p->input || !p->weights || !p->bias || !p->expected || !p->actual) return false;
  if (desc_is_quantized(p->desc.weights)) vary_blocks(p);
  const uint64_t rows = (uint64_t)p->weight_rows, k = (uint64_t)p->k;
  if (desc_is_quantized(p->desc.input)) vary_rows(p);
  p->stored_weights = round_to(p->desc.weights, p->weights, matrices_of(p), (uint64_t)p->n, k);
  p->stored_input = round_to(p->desc.input, p->input, 1, ROWS, k);
  return p->stored_weights && p->stored_input &&
         round_plain(p->desc.biases, p->bias, EXPERTS, rows);
}

static void release_problem(problem *p) {
  free(p->input);
  free(p->weights);
  free(p->stored_weights);
  free(p->stored_input);
  free(p->bias);
  free(p->expected);
  free(p->actual);
}

typedef struct device_side {
  op_gemm *gemm; /* not its own */
  moecl_buffer *input, *weights, *bias, *rows, *offsets, *tiles, *output, *scratch;
  moecl_buffer *ids, *topk_weights; /* of few tokens */
  moecl_buffer *slot_place, *other; /* of rows that are scattered */
} device_side;

static void release_device(device_side *d) {
  moecl_buffer **all[] = {&d->input,   &d->weights,      &d->bias,       &d->rows,
                          &d->offsets, &d->tiles,        &d->output,     &d->scratch,
                          &d->ids,     &d->topk_weights, &d->slot_place, &d->other};
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) moecl_buffer_destroy(all[i]);
}

static moecl_status upload_lists(moecl_context *context, const problem *p, device_side *d) {
  int32_t rows[ROWS], tiles[EXPERTS + 1] = {0};
  const int32_t *offsets = p->offsets;
  const int32_t tile_m = (int32_t)op_gemm_tile_rows(d->gemm, p->rows);
  for (int32_t slot = 0; slot < p->rows; slot++) rows[slot] = source_row(p, slot);
  for (int e = 0; e < EXPERTS; e++)
    tiles[e + 1] = tiles[e] + (offsets[e + 1] - offsets[e] + tile_m - 1) / tile_m;
  MOECL_TRY(check_upload_words(context, rows, (size_t)p->rows, &d->rows));
  MOECL_TRY(check_upload_words(context, offsets, EXPERTS + 1, &d->offsets));
  return check_upload_words(context, tiles, EXPERTS + 1, &d->tiles);
}

/* What a launch does not write is not what the one before it wrote. */
static moecl_status forget_output(const device_side *d) {
  if (d->other) MOECL_TRY(moecl_buffer_fill_byte(d->other, 0, moecl_buffer_size(d->other), 0xff));
  return moecl_buffer_fill_byte(d->output, 0, moecl_buffer_size(d->output), 0xff);
}

/* ---- rows that are scattered: over two buffers in turns, the later parts of the list first ----
 */

enum { SKIPPED = 5 }; /* of the list */

typedef struct scattered {
  int32_t number[ROWS]; /* of a slot's row, and where that is */
  int buffer[ROWS];
  int64_t row[ROWS];
  op_rows_part part[OP_GEMM_PLACES];
  op_places places;
} scattered;

/* Multiples of 3 go through all rows, which 3 divides for none of the loads. */
static void scatter(const problem *p, const device_side *d, scattered *to) {
  const moecl_buffer *const buffers[] = {d->output, d->other};
  int64_t used[2] = {0, 0};
  to->places = (op_places){SKIPPED, to->part, OP_GEMM_PLACES};
  for (int i = OP_GEMM_PLACES - 1; i >= 0; i--) {
    const int64_t first = (int64_t)p->rows * i / OP_GEMM_PLACES,
                  end = (int64_t)p->rows * (i + 1) / OP_GEMM_PLACES;
    to->part[i] = (op_rows_part){buffers[i % 2], (uint64_t)used[i % 2], (uint64_t)(end - first)};
    for (int32_t slot = 0; slot < p->rows; slot++) {
      const int64_t number = (3 * slot + 1) % p->rows;
      if (number < first || number >= end) continue;
      to->number[slot] = (int32_t)(SKIPPED + number);
      to->buffer[slot] = i % 2;
      to->row[slot] = used[i % 2] + number - first;
    }
    used[i % 2] += end - first;
  }
}

/* Back in the order of slots. */
static moecl_status read_scattered(const problem *p, const device_side *d, const scattered *at) {
  const moecl_buffer *const buffers[] = {d->output, d->other};
  const size_t n = (size_t)p->n, count = (size_t)p->rows * n;
  double *rows = malloc(2 * count * sizeof *rows);
  moecl_status status = rows ? MOECL_OK : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  for (int b = 0; b < 2 && status == MOECL_OK; b++)
    status = check_read(buffers[b], p->desc.output, (uint64_t)p->rows, (uint64_t)n,
                        rows + (size_t)b * count);
  for (int32_t slot = 0; slot < p->rows && status == MOECL_OK; slot++)
    memcpy(p->actual + (size_t)slot * n,
           rows + (size_t)at->buffer[slot] * count + (size_t)at->row[slot] * n, n * sizeof *rows);
  free(rows);
  return status;
}

static moecl_status upload_places(moecl_context *context, const problem *p, device_side *d,
                                  scattered *to) {
  if (!p->desc.scatter) return MOECL_OK;
  moecl_buffer_destroy(&d->slot_place);
  if (!d->other) MOECL_TRY(moecl_buffer_create(context, moecl_buffer_size(d->output), &d->other));
  scatter(p, d, to);
  return check_upload_words(context, to->number, (size_t)p->rows, &d->slot_place);
}

static moecl_status multiply(moecl_context *context, const problem *p, device_side *d) {
  ocl_chain chain = {.context = context};
  scattered to;
  MOECL_TRY(upload_places(context, p, d, &to));
  const op_gemm_io io = {.input = d->input,
                         .slot_token = d->rows,
                         .expert_offsets = d->offsets,
                         .tile_offsets = d->tiles,
                         .output = d->output,
                         .slot_place = d->slot_place,
                         .places = &to.places,
                         .scratch = d->scratch,
                         .rows = p->rows,
                         .input_rows = ROWS};
  MOECL_TRY(forget_output(d));
  MOECL_TRY(d->gemm->driver->enqueue(d->gemm, &chain, &io)); /* with these lists */
  if (p->desc.scatter) return read_scattered(p, d, &to);
  return check_read(d->output, p->desc.output, (uint64_t)p->rows, (uint64_t)p->n, p->actual);
}

/* `count` matrices as they are stored. */
static moecl_status upload_stored(moecl_context *context, const desc_format *format,
                                  const void *stored, uint64_t count, uint64_t rows,
                                  uint64_t columns, moecl_buffer **buffer) {
  const uint64_t bytes = count * desc_format_bytes(format, rows, columns);
  MOECL_TRY(moecl_buffer_create(context, bytes, buffer));
  return moecl_buffer_write_wait(*buffer, 0, bytes, stored);
}

static moecl_status set_up(moecl_context *context, const problem *p, device_side *d) {
  const op_gemm_desc *desc = &p->desc;
  const uint64_t rows = (uint64_t)p->weight_rows, k = (uint64_t)p->k;
  MOECL_TRY(upload_stored(context, desc->input, p->stored_input, 1, ROWS, k, &d->input));
  MOECL_TRY(upload_stored(context, desc->weights, p->stored_weights, matrices_of(p), (uint64_t)p->n,
                          k, &d->weights));
  MOECL_TRY(check_upload(context, desc->biases, p->bias, EXPERTS, rows, &d->bias));
  MOECL_TRY(moecl_buffer_create(context, ROWS * MOST_COLUMNS * sizeof(float), &d->output));
  MOECL_TRY(moecl_buffer_create(context, op_gemm_scratch(d->gemm, ROWS), &d->scratch));
  MOECL_TRY(op_gemm_set_weights(d->gemm, 0, EXPERTS, d->weights, 0));
  if (desc->bias) MOECL_TRY(op_gemm_set_bias(d->gemm, 0, EXPERTS, d->bias, 0));
  return MOECL_OK;
}

/* What an output counts as at least. Where weights are rounded each product of a sum errs, and so
 * does the sum, although it may be small: by a part of what outputs are on average. */
static double least_size(const kernel_variant *variant, const problem *p) {
  double squares = 0;
  if (!(variant->traits & KERNEL_ROUNDED_WEIGHTS) || p->desc.weights->block <= 16) return 1.0;
  for (int i = 0; i < p->rows * (int)p->n; i++) squares += p->expected[i] * p->expected[i];
  return fmax(1.0, 3 * sqrt(squares / (p->rows * (double)p->n)));
}

/* Every element, against rounding of weights and rows. */
static moecl_status compare(moecl_context *context, const kernel_variant *variant,
                            const problem *p) {
  const double *actual = p->actual;
  const desc_format *stored = p->desc.rounded ? p->desc.rounded : p->desc.output;
  const bool scaled = desc_is_quantized(p->desc.weights), coded = desc_is_quantized(p->desc.input);
  const bool rounds_weights = scaled ? !desc_is_f32(p->desc.input) : !desc_is_f32(p->desc.weights);
  const bool exact = !rounds_weights && desc_is_f32(stored) && !(variant->traits & KERNEL_TF32);
  /* Weights with scales are no multiples of 1/8, of which sums are exact. Codes are multiplied as
   * they are, but matrix units add up products of E4M3 with few bits. */
  const double tolerance = coded && desc_is_f32(stored) ? 1e-3
                           : !exact                     ? 1e-2
                           : scaled                     ? 1e-4
                                                        : 1e-5;
  const double least = least_size(variant, p);
  for (int i = 0; i < p->rows * (int)p->n; i++)
    if (!(fabs(actual[i] - p->expected[i]) <= tolerance * (least + fabs(p->expected[i]))))
      return check_wrong(context, "grouped_gemm", variant, "output", i, actual[i], p->expected[i]);
  return MOECL_OK;
}

/* ---- few tokens ---- */

/* What `few_tokens` should make of the same rows: of a GEMM that gathers, one token a
 * row and one choice; else tokens of two choices, rows 2t and 2t+1, weighted. The
 * shared expert's output is the input's numbers, its gates the weights. */
enum { FEW_CHOICES = 2 };
static const float few_weights[FEW_CHOICES] = {0.5f, 0.25f};

static int32_t expert_of(const int32_t *offsets, int32_t slot) {
  int32_t e = 0;
  while (slot >= offsets[e + 1]) e++;
  return e;
}

static double expect_few_tokens(const problem *p, int64_t row, int64_t column) {
  if (p->desc.ungrouped) return p->expected[row * p->n + column];
  if (p->desc.gather) return p->expected[source_row(p, (int32_t)row) * p->n + column];
  double sum = 0;
  for (int64_t j = 0; j < FEW_CHOICES; j++)
    sum += (double)few_weights[j] * p->expected[(row * FEW_CHOICES + j) * p->n + column];
  if (p->desc.adds_shared)
    sum += (p->desc.shared_gate ? (double)few_weights[row % FEW_CHOICES] : 1.0) *
           p->input[row * p->n + column];
  return sum;
}

static moecl_status check_few_tokens(moecl_context *context, const kernel_variant *variant,
                                     const problem *p, device_side *d) {
  const bool gather = p->desc.gather;
  const bool ungrouped = p->desc.ungrouped; /* of one expert: the first one's rows */
  const int64_t top_k = gather || ungrouped ? 1 : FEW_CHOICES;
  const int64_t tokens = ungrouped ? p->offsets[1] : ROWS / top_k;
  const int64_t elements = tokens * p->n;
  int32_t ids[ROWS];
  float weights[ROWS];
  for (int32_t i = 0; i < ROWS; i++) {
    ids[i] = expert_of(p->offsets, source_row(p, i)); /* gathered: in reverse */
    weights[i] = few_weights[i % FEW_CHOICES];
  }
  MOECL_TRY(check_upload_words(context, ids, ROWS, &d->ids));
  MOECL_TRY(check_upload_words(context, weights, ROWS, &d->topk_weights));
  const op_gemm_few_tokens_io io = {.input = d->input,
                                    .topk_ids = d->ids,
                                    .topk_weights = d->topk_weights,
                                    .shared = d->input,
                                    .shared_gate = d->topk_weights,
                                    .output = d->output,
                                    .num_tokens = tokens,
                                    .top_k = top_k};
  ocl_chain chain = {.context = context};
  MOECL_TRY(forget_output(d));
  MOECL_TRY(op_gemm_enqueue_few_tokens(d->gemm, &chain, &io));
  MOECL_TRY(check_read(d->output, p->desc.output, (uint64_t)tokens, (uint64_t)p->n, p->actual));
  for (int64_t i = 0; i < elements; i++) {
    const double want = expect_few_tokens(p, i / p->n, i % p->n);
    if (!(fabs(p->actual[i] - want) <= 1e-2 * (1.0 + fabs(want))))
      return check_wrong(context, "grouped_gemm", variant, "few tokens' output", (int)i,
                         p->actual[i], want);
  }
  return MOECL_OK;
}

static void take_load(problem *p, const int32_t *offsets) {
  p->offsets = offsets;
  p->rows = offsets[EXPERTS];
  expect(p);
}

/* The problem with one of the loads. */
static moecl_status check_load(moecl_context *context, const kernel_variant *variant, problem *p,
                               device_side *d, const int32_t *offsets) {
  take_load(p, offsets);
  moecl_buffer_destroy(&d->rows);
  moecl_buffer_destroy(&d->offsets);
  moecl_buffer_destroy(&d->tiles);
  MOECL_TRY(upload_lists(context, p, d));
  MOECL_TRY(multiply(context, p, d));
  return compare(context, variant, p);
}

/* Some rows once more, in several blocks of k. */
static moecl_status check_long_k(moecl_context *context, const kernel_variant *variant, problem *p,
                                 device_side *d) {
  d->gemm->short_blocks = true;
  const moecl_status status = check_load(context, variant, p, d, loads[1]);
  d->gemm->short_blocks = false;
  return status;
}

/* The first expert's rows as those of a GEMM that has no other: with lists of its own. */
static moecl_status check_ungrouped(moecl_context *context, const kernel_variant *variant,
                                    problem *p, device_side *d) {
  op_gemm_desc one = p->desc;
  op_gemm *gemm = NULL;
  ocl_chain chain = {.context = context};
  one.num_experts = 1;
  one.spread = 0;
  p->rows = p->offsets[1];
  const op_gemm_io io = {.input = d->input,
                         .output = d->output,
                         .scratch = d->scratch,
                         .rows = p->rows,
                         .input_rows = ROWS};
  MOECL_TRY(forget_output(d));
  MOECL_TRY(op_gemm_create_unchecked(context, variant, &one, &gemm));
  gemm->lost = op_gemm_late(gemm);
  moecl_status status = op_gemm_set_weights(gemm, 0, 1, d->weights, 0);
  if (status == MOECL_OK && one.bias) status = op_gemm_set_bias(gemm, 0, 1, d->bias, 0);
  if (status == MOECL_OK) status = op_gemm_enqueue(gemm, &chain, &io);
  if (status == MOECL_OK)
    status = check_read(d->output, one.output, (uint64_t)p->rows, (uint64_t)p->n, p->actual);
  if (status == MOECL_OK) status = compare(context, variant, p);
  op_gemm_destroy(&gemm);
  return status;
}

/* A kernel that is made later: of rows, with each load. */
static moecl_status check_late(moecl_context *context, const kernel_variant *variant, problem *p,
                               device_side *d) {
  if (p->late == OP_GEMM_FEW_TOKENS) {
    take_load(p, loads[0]);
    return check_few_tokens(context, variant, p, d);
  }
  d->gemm->forced = p->late;
  for (int i = 0; i < LOADS; i++) MOECL_TRY(check_load(context, variant, p, d, loads[i]));
  return MOECL_OK;
}

static moecl_status check_all(moecl_context *context, const kernel_variant *variant, problem *p,
                              device_side *d) {
  if (!make_problem(p)) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  MOECL_TRY(set_up(context, p, d));
  if (p->late) return check_late(context, variant, p, d);
  if (d->gemm->driver->long_k) MOECL_TRY(check_long_k(context, variant, p, d));
  /* The first load last: few tokens are as many. */
  for (int i = d->gemm->driver->by_rows ? LOADS : 1; i-- > 0;)
    MOECL_TRY(check_load(context, variant, p, d, loads[i]));
  if (op_gemm_serves_few_tokens(d->gemm, 1)) MOECL_TRY(check_few_tokens(context, variant, p, d));
  return p->desc.ungrouped ? check_ungrouped(context, variant, p, d) : MOECL_OK;
}

static moecl_status check(check_run *run, void *op) {
  problem *p = (problem *)run;
  device_side d = {.gemm = *(op_gemm **)op};
  const moecl_status status = check_all(run->context, run->variant, p, &d);
  release_device(&d);
  release_problem(p);
  return status;
}

/* Odd sizes; else multiples of 8, with a tail in both; else of 256, of which any block is a
 * part. With scales, more than one block of 128 rows or columns. */
static bool choose_sizes(const kernel_variant *variant, problem *p) {
  enum { CHOICES = 3 };
  static const int64_t plain[CHOICES][2] = {{37, 19}, {40, 200}, {40, 256}};
  static const int64_t scaled[CHOICES][2] = {
      {147, 275}, {MOST_COLUMNS - 8, 280}, {MOST_COLUMNS, 512}};
  const bool has_scales = desc_is_quantized(p->desc.weights) || desc_is_quantized(p->desc.input);
  const int64_t(*sizes)[2] = has_scales ? scaled : plain;
  const op_gemm_driver *driver = variant->driver;
  for (size_t i = 0; i < CHOICES; i++) {
    p->desc.n = p->n = sizes[i][0];
    p->desc.k = p->k = driver->check_k ? driver->check_k : sizes[i][1];
    if (op_gemm_takes(variant, &p->desc)) return true;
  }
  return false;
}

/* Those that are not made are lost to this GEMM: the first one does their work. */
static moecl_status self_check(moecl_context *context, const kernel_variant *variant,
                               const op_gemm_desc *desc, op_gemm_kernel_id late) {
  problem p = {.run = {.kind = &op_gemm_kind, .context = context, .variant = variant},
               .desc = *desc,
               .late = late};
  p.desc.num_experts = EXPERTS;
  p.desc.spread = 0;
  p.desc.told = NULL;
  if (!choose_sizes(variant, &p))
    return log_error(&context->log, MOECL_ERROR_BUILD,
                     "grouped_gemm variant '%s' takes none of its self-check's problems",
                     variant->name);
  p.weight_rows = op_gemm_weight_rows(&p.desc);
  op_gemm *gemm = NULL;
  MOECL_TRY(check_begin(&p.run, &p.desc, &gemm));
  gemm->lost = op_gemm_late(gemm);
  ocl_kernel *kernels[OP_GEMM_KERNELS + 2] = {gemm->pack, gemm->lists.kernel};
  for (int id = 0; id < OP_GEMM_KERNELS; id++) kernels[id + 2] = gemm->kernel[id];
  return check_end(&p.run, &gemm, kernels, BASE_COUNT(kernels), check);
}

moecl_status op_gemm_self_check(moecl_context *context, const kernel_variant *variant,
                                const op_gemm_desc *desc) {
  return self_check(context, variant, desc, OP_GEMM_BASE);
}

moecl_status op_gemm_self_check_late(moecl_context *context, const kernel_variant *variant,
                                     const op_gemm_desc *desc, op_gemm_kernel_id kernel) {
  op_gemm_desc with = *desc;
  with.late = OP_GEMM_ALL_LATE & ~(1u << kernel);
  return self_check(context, variant, &with, kernel);
}
