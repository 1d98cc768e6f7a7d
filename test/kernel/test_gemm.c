// SPDX-License-Identifier: MIT
/* Grouped GEMMs alone, every variant against plain C in double precision, at the
 * edges of tiles: rows an expert from none to more than the tallest tile, on both
 * sides of every choice of height, and sizes that end within a tile.
 * usage: test_gemm [persistent | subgroup_matrix | units]: those alone, by their stand-in
 * (stand_in.h). $MOECL_TEST_FILTER: only the tests whose name matches. */
#include "../unit/unit.h"
#include "stand_in.h"
#include "base/base.h"
#include "op/gemm/driver.h"
#include "op/check.h"
#include <math.h>

enum { MOST_EXPERTS = 4 };

/* Rows of each expert. */
typedef struct load {
  int64_t experts;
  int32_t rows[MOST_EXPERTS];
} load;

typedef struct gemm_case {
  const char *name;
  op_gemm_desc desc; /* type and experts are set by who runs it */
  const load *loads;
  size_t load_count;
  bool units; /* of kernels that walk k in blocks, and columns in strips */
} gemm_case;

/* Of variant `gpu`: few rows, few as long as 12 each, low, low as long as less
 * than 64 each, tall. */
static const load ragged[] = {{4, {1, 8, 0, 9}},     {4, {2, 4, 17, 3}},
                              {4, {12, 12, 12, 12}}, {4, {13, 12, 12, 12}},
                              {4, {31, 33, 0, 32}},  {4, {63, 64, 64, 64}},
                              {4, {64, 64, 64, 64}}, {4, {127, 0, 129, 128}},
                              {4, {0, 300, 1, 0}},   {1, {257}}};
/* Of variants of processors' units: every height of their groups of rows, and more than one. */
static const load all_heights[] = {
    {4, {1, 2, 3, 4}},     {4, {5, 6, 7, 8}},     {4, {9, 10, 11, 12}},  {4, {13, 14, 15, 16}},
    {4, {17, 18, 19, 20}}, {4, {21, 22, 23, 24}}, {4, {25, 26, 27, 28}}, {4, {29, 30, 31, 32}},
    {4, {33, 34, 35, 36}}, {4, {37, 38, 39, 40}}, {2, {191, 193}}};
static const load few_rows[] = {{2, {1, 12}}, {2, {16, 17}}};
static const load many_rows[] = {{2, {150, 20}}};
static const load tokens[] = {{1, {1}}, {1, {5}}, {1, {300}}, {1, {2000}}};

#define CASE(name, loads, ...)                                                                     \
  { name, {__VA_ARGS__}, loads, sizeof loads / sizeof loads[0], false }
#define UNITS_CASE(name, loads, ...)                                                               \
  { name, {__VA_ARGS__}, loads, sizeof loads / sizeof loads[0], true }
static const gemm_case cases[] = {
    CASE("gate_up", ragged, .n = 136, .k = 40, .epilogue = ACTIVATION_SILU, .gated = true,
         .bias = true, .gather = true),
    CASE("gate_up, one tile", ragged, .n = 64, .k = 16, .epilogue = ACTIVATION_SILU, .gated = true,
         .bias = true, .gather = true),
    CASE("gate_up, tiny", ragged, .n = 8, .k = 8, .epilogue = ACTIVATION_SILU, .gated = true,
         .bias = true, .gather = true),
    CASE("down", ragged, .n = 200, .k = 264),
    CASE("down, one tile", ragged, .n = 128, .k = 24),
    CASE("plain", ragged, .n = 72, .k = 136, .epilogue = ACTIVATION_RELU, .bias = true),
    CASE("odd", ragged, .n = 37, .k = 19, .bias = true, .gather = true),
    CASE("logits", tokens, .n = 24, .k = 72, .bias = true, .ungrouped = true, .exact = true),
    UNITS_CASE("heights, gated", all_heights, .n = 21, .k = 75, .epilogue = ACTIVATION_SILU,
               .gated = true, .bias = true, .gather = true),
    UNITS_CASE("heights", all_heights, .n = 49, .k = 1061, .bias = true),
    UNITS_CASE("blocks", many_rows, .n = 43, .k = 7001, .bias = true, .gather = true),
    UNITS_CASE("parts", many_rows, .n = 600, .k = 2600),
    UNITS_CASE("strips", few_rows, .n = 1500, .k = 530, .epilogue = ACTIVATION_SILU, .gated = true),
    UNITS_CASE("long rows", few_rows, .n = 33, .k = 9001, .gather = true),
};

static moecl_context *context;
/* Those alone; NULL: all that serve. */
static bool (*replaced_rows)(const kernel_variant *variant);

/* One case with one load: slot s reads row `2s + 1` of the input, or s; all other
 * rows, and what lies behind the last, are NaN. */
typedef struct problem {
  op_gemm_desc desc;
  const load *load;
  int32_t offsets[MOST_EXPERTS + 1];
  int64_t rows, input_rows, weight_rows;
  double *input, *weights, *bias, *want;
  void *input_codes, *weight_codes; /* of formats with scales: what the numbers are stored as */
} problem;

static int64_t source_row(const problem *p, int64_t slot) {
  return p->desc.gather ? 2 * slot + 1 : slot;
}

static double product(const problem *p, int64_t e, int64_t slot, int64_t row) {
  const int64_t k = p->desc.k;
  const double *a = p->input + source_row(p, slot) * k;
  const double *w = p->weights + (e * p->weight_rows + row) * k;
  double sum = p->desc.bias ? p->bias[e * p->weight_rows + row] : 0;
  for (int64_t i = 0; i < k; i++) sum += a[i] * w[i];
  return sum;
}

static void expect(problem *p) {
  const int64_t n = p->desc.n;
  for (int64_t e = 0; e < p->load->experts; e++)
    for (int64_t slot = p->offsets[e]; slot < p->offsets[e + 1]; slot++)
      for (int64_t c = 0; c < n; c++) {
        double v = product(p, e, slot, c);
        if (p->desc.epilogue == ACTIVATION_SILU) v /= 1 + exp(-v);
        if (p->desc.epilogue == ACTIVATION_RELU) v = fmax(v, 0);
        if (p->desc.gated) v *= product(p, e, slot, n + c);
        p->want[slot * n + c] = v;
      }
}

/* `count` matrices become what their format can hold; returns that, NULL of plain ones. */
static void *encode(const desc_format *format, int64_t count, int64_t rows, int64_t columns,
                    double *values) {
  if (!desc_is_quantized(format)) return NULL;
  const uint64_t one = desc_format_bytes(format, (uint64_t)rows, (uint64_t)columns);
  char *stored = malloc((size_t)count * one);
  assert_non_null(stored);
  for (int64_t i = 0; i < count; i++, values += rows * columns) {
    desc_encode(format, values, (uint64_t)rows, (uint64_t)columns, stored + (size_t)i * one);
    desc_decode(format, stored + (size_t)i * one, (uint64_t)rows, (uint64_t)columns, values);
  }
  return stored;
}

/* Its formats are set. */
static problem make_problem(const op_gemm_desc *desc, const load *l) {
  problem p = {.desc = *desc, .load = l};
  uint32_t state = 1;
  p.desc.num_experts = l->experts;
  for (int64_t e = 0; e < l->experts; e++) p.offsets[e + 1] = p.offsets[e] + l->rows[e];
  p.rows = p.offsets[l->experts];
  p.input_rows = p.desc.gather ? 2 * p.rows + 1 : p.rows + 1;
  p.weight_rows = p.desc.gated ? 2 * p.desc.n : p.desc.n;
  const size_t weights = (size_t)(l->experts * p.weight_rows);
  p.input = check_values((size_t)(p.input_rows * p.desc.k), &state);
  p.weights = check_values(weights * (size_t)p.desc.k, &state);
  p.bias = check_values(weights, &state);
  p.want = malloc((size_t)(p.rows * p.desc.n) * sizeof *p.want);
  assert_true(p.input && p.weights && p.bias && p.want);
  for (int64_t r = 0; r < p.input_rows; r++)
    if (r == p.input_rows - 1 || (p.desc.gather && r % 2 == 0))
      for (int64_t i = 0; i < p.desc.k; i++) p.input[r * p.desc.k + i] = NAN;
  p.input_codes = encode(p.desc.input, 1, p.input_rows, p.desc.k, p.input);
  p.weight_codes =
      encode(p.desc.weights, l->experts * (p.desc.gated ? 2 : 1), p.desc.n, p.desc.k, p.weights);
  expect(&p);
  return p;
}

static void release_problem(problem *p) {
  free(p->input), free(p->weights), free(p->bias), free(p->want);
  free(p->input_codes), free(p->weight_codes);
}

static moecl_buffer *upload(moecl_dtype dtype, const double *values, int64_t count) {
  moecl_buffer *buffer = NULL;
  assert_ok(check_upload(context, desc_format_of(dtype), values, 1, (uint64_t)count, &buffer));
  return buffer;
}

/* `count` matrices, as they are stored. */
static moecl_buffer *upload_codes(const desc_format *format, const void *stored, int64_t count,
                                  int64_t rows, int64_t columns) {
  moecl_buffer *buffer = NULL;
  const uint64_t bytes =
      (uint64_t)count * desc_format_bytes(format, (uint64_t)rows, (uint64_t)columns);
  assert_ok(moecl_buffer_create(context, bytes, &buffer));
  assert_ok(moecl_buffer_write_wait(buffer, 0, bytes, stored));
  return buffer;
}

static moecl_buffer *upload_input(const problem *p) {
  const op_gemm_desc *d = &p->desc;
  if (p->input_codes) return upload_codes(d->input, p->input_codes, 1, p->input_rows, d->k);
  return upload(desc_format_dtype(d->input), p->input, p->input_rows * d->k);
}

static moecl_buffer *upload_weights(const problem *p) {
  const op_gemm_desc *d = &p->desc;
  const int64_t matrices = d->num_experts * (d->gated ? 2 : 1);
  if (p->weight_codes) return upload_codes(d->weights, p->weight_codes, matrices, d->n, d->k);
  return upload(desc_format_dtype(d->weights), p->weights, matrices * d->n * d->k);
}

static moecl_buffer *words(const int32_t *values, int64_t count) {
  moecl_buffer *buffer = NULL;
  assert_ok(check_upload_words(context, values, (size_t)count, &buffer));
  return buffer;
}

static moecl_buffer *poisoned(uint64_t bytes) {
  moecl_buffer *buffer = NULL;
  assert_ok(moecl_buffer_create(context, bytes, &buffer));
  assert_ok(moecl_buffer_fill_byte(buffer, 0, bytes, 0xff));
  return buffer;
}

/* Every element, and that the row behind the last is as it was. */
static void check_output(const problem *p, const char *what, const kernel_variant *variant,
                         const moecl_buffer *output, moecl_dtype type) {
  static const double by_type[MOECL_DTYPE_COUNT] = {
      [MOECL_F32] = 1e-5, [MOECL_F16] = 1e-3, [MOECL_BF16] = 8e-3};
  const double tolerance = variant->traits & KERNEL_TF32 ? by_type[MOECL_F16] : by_type[type];
  const size_t count = (size_t)(p->rows * p->desc.n), row = (size_t)p->desc.n;
  const size_t one = moecl_dtype_size(type);
  unsigned char *raw = malloc((count + row) * one);
  double *got = malloc(count * sizeof *got);
  assert_true(raw && got);
  assert_ok(moecl_buffer_read_wait(output, 0, (count + row) * one, raw));
  moecl_to_double(type, raw, count, got);
  for (size_t i = 0; i < count; i++) {
    const double want = p->want[i];
    if (fabs(got[i] - want) <= tolerance * (1 + fabs(want))) continue;
    fprintf(stderr, "%s, %s, %s, rows %d %d %d %d: slot %zu, column %zu is %g, expected %g\n",
            variant->name, what, p->desc.weights->name, p->load->rows[0], p->load->rows[1],
            p->load->rows[2], p->load->rows[3], i / row, i % row, got[i], want);
    fail();
  }
  for (size_t i = count * one; i < (count + row) * one; i++) assert_int_equal(raw[i], 0xff);
  free(raw), free(got);
}

/* ---- rows that are scattered ---- */

enum { MOST_BUFFERS = 3 };

/* Up to eight parts of a list, of random lengths and some of them empty, in three buffers; each
 * begins with a row that nobody has, and so do all parts of one. */
typedef struct scattering {
  op_rows_part part[OP_GEMM_PLACES];
  op_places places;
  moecl_buffer *buffer[MOST_BUFFERS], *list;
  int64_t rows[MOST_BUFFERS]; /* those of nobody among them */
  int *at;                    /* of each slot: buffer, */
  int64_t *row;               /* and row there */
} scattering;

static uint32_t drawn;

static int64_t draw_below(int64_t count) {
  drawn = drawn * 1664525u + 1013904223u;
  return (int64_t)((uint64_t)(drawn >> 8) * (uint64_t)count >> 24);
}

static int32_t *draw_order(int64_t count) {
  int32_t *order = malloc((size_t)(count + 1) * sizeof *order);
  assert_non_null(order);
  for (int64_t i = 0; i < count; i++) order[i] = (int32_t)i;
  for (int64_t i = count - 1; i > 0; i--) {
    const int64_t j = draw_below(i + 1);
    const int32_t kept = order[i];
    order[i] = order[j], order[j] = kept;
  }
  return order;
}

static void draw_parts(scattering *s, int64_t rows) {
  int64_t left = rows;
  s->places = (op_places){(uint64_t)draw_below(100), s->part, 1 + (size_t)draw_below(8)};
  for (int b = 0; b < MOST_BUFFERS; b++) s->rows[b] = 1;
  for (size_t i = 0; i < s->places.count; i++) {
    const int64_t count = i + 1 == s->places.count ? left : draw_below(left + 1);
    const int b = (int)draw_below(MOST_BUFFERS);
    s->at[i] = b; /* for now */
    s->part[i] = (op_rows_part){NULL, (uint64_t)s->rows[b], (uint64_t)count};
    s->rows[b] += count + 1;
    left -= count;
  }
}

static void make_scattering(const problem *p, scattering *s) {
  const uint64_t row = (uint64_t)p->desc.n * desc_format_bytes(p->desc.output, 1, 1);
  s->at = malloc((size_t)(p->rows + OP_GEMM_PLACES) * sizeof *s->at);
  s->row = malloc((size_t)(p->rows + 1) * sizeof *s->row);
  int32_t *order = draw_order(p->rows);
  assert_true(s->at && s->row);
  draw_parts(s, p->rows);
  for (int b = 0; b < MOST_BUFFERS; b++) s->buffer[b] = poisoned((uint64_t)s->rows[b] * row);
  int part_buffer[OP_GEMM_PLACES];
  for (size_t i = 0; i < s->places.count; i++) {
    part_buffer[i] = s->at[i];
    s->part[i].to = s->buffer[part_buffer[i]];
  }
  for (int64_t slot = 0; slot < p->rows; slot++) {
    size_t i = 0;
    int64_t in_part = order[slot];
    while (in_part >= (int64_t)s->part[i].count) in_part -= (int64_t)s->part[i++].count;
    s->at[slot] = part_buffer[i];
    s->row[slot] = (int64_t)s->part[i].first_to + in_part;
  }
  for (int64_t slot = 0; slot < p->rows; slot++) order[slot] += (int32_t)s->places.first;
  s->list = words(order, p->rows);
  free(order);
}

/* Back in the order of slots, with a row behind them; the rows of nobody are as they were. */
static moecl_buffer *collect(const problem *p, const scattering *s) {
  const size_t row = (size_t)p->desc.n * (size_t)desc_format_bytes(p->desc.output, 1, 1);
  unsigned char *raw[MOST_BUFFERS], *all = malloc((size_t)(p->rows + 1) * row);
  moecl_buffer *collected = NULL;
  assert_non_null(all);
  memset(all, 0xff, (size_t)(p->rows + 1) * row);
  for (int b = 0; b < MOST_BUFFERS; b++) {
    raw[b] = malloc((size_t)s->rows[b] * row);
    assert_non_null(raw[b]);
    assert_ok(moecl_buffer_read_wait(s->buffer[b], 0, (uint64_t)s->rows[b] * row, raw[b]));
  }
  for (int64_t slot = 0; slot < p->rows; slot++) {
    unsigned char *from = raw[s->at[slot]] + (size_t)s->row[slot] * row;
    memcpy(all + (size_t)slot * row, from, row);
    memset(from, 0xff, row);
  }
  for (int b = 0; b < MOST_BUFFERS; b++) {
    for (size_t i = 0; i < (size_t)s->rows[b] * row; i++) assert_int_equal(raw[b][i], 0xff);
    free(raw[b]);
  }
  assert_ok(moecl_buffer_create(context, (uint64_t)(p->rows + 1) * row, &collected));
  assert_ok(moecl_buffer_write_wait(collected, 0, (uint64_t)(p->rows + 1) * row, all));
  free(all);
  return collected;
}

static void release_scattering(scattering *s) {
  for (int b = 0; b < MOST_BUFFERS; b++) moecl_buffer_destroy(&s->buffer[b]);
  moecl_buffer_destroy(&s->list);
  free(s->at), free(s->row);
}

/* Returns the rows of the tiles that it was made with. */
static int32_t check_gemm(const kernel_variant *variant, const problem *p, const char *what) {
  const op_gemm_desc *s = &p->desc;
  const moecl_dtype out = s->output->element;
  const int64_t experts = s->num_experts;
  op_gemm *gemm = NULL;
  assert_ok(op_gemm_create_unchecked(context, variant, s, &gemm));
  const int32_t each = (int32_t)op_gemm_tile_rows(gemm, p->rows);
  int32_t tiles[MOST_EXPERTS + 1] = {0}, *slot_token = malloc((size_t)p->rows * 4);
  assert_non_null(slot_token);
  for (int64_t e = 0; e < experts; e++)
    tiles[e + 1] = tiles[e] + (p->load->rows[e] + each - 1) / each;
  for (int64_t i = 0; i < p->rows; i++) slot_token[i] = (int32_t)source_row(p, i);
  moecl_buffer *b[] = {upload_input(p),
                       upload_weights(p),
                       upload(desc_format_dtype(s->biases), p->bias, experts * p->weight_rows),
                       words(slot_token, p->rows),
                       words(p->offsets, experts + 1),
                       words(tiles, experts + 1),
                       poisoned((uint64_t)((p->rows + 1) * s->n) * moecl_dtype_size(out)),
                       poisoned(op_gemm_scratch(gemm, p->rows))};
  assert_ok(moecl_buffer_fill_byte(gemm->weights, 0, op_gemm_packed_bytes(gemm), 0xff));
  assert_ok(op_gemm_set_weights(gemm, 0, experts, b[1], 0));
  if (s->bias) assert_ok(op_gemm_set_bias(gemm, 0, experts, b[2], 0));
  scattering to = {.list = NULL};
  if (s->scatter) make_scattering(p, &to);
  const op_gemm_io io = {.input = b[0],
                         .slot_token = b[3],
                         .expert_offsets = b[4],
                         .tile_offsets = b[5],
                         .output = b[6],
                         .slot_place = to.list,
                         .places = &to.places,
                         .scratch = b[7],
                         .rows = p->rows,
                         .input_rows = p->input_rows};
  ocl_chain chain = {.context = context};
  assert_ok(gemm->driver->enqueue(gemm, &chain, &io)); /* with these lists */
  moecl_buffer *collected = s->scatter ? collect(p, &to) : NULL;
  check_output(p, what, variant, s->scatter ? collected : b[6], out);
  moecl_buffer_destroy(&collected);
  release_scattering(&to);
  for (size_t i = 0; i < sizeof b / sizeof b[0]; i++) moecl_buffer_destroy(&b[i]);
  op_gemm_destroy(&gemm);
  free(slot_token);
  return each;
}

/* Which heights of tiles a variant that has three was asked for. */
typedef struct heights {
  bool few, low, tall;
} heights;

static bool has_heights(const kernel_variant *variant) {
  return variant->driver == &op_gemm_tile_heights_driver ||
         variant->driver == &op_gemm_tile_heights_few_driver ||
         variant->driver == &op_gemm_matrix_tiles_driver;
}

static void note(heights *h, const kernel_variant *variant, int32_t each) {
  const bool matrix_tiles = variant->driver == &op_gemm_matrix_tiles_driver;
  if (!has_heights(variant)) return;
  if (each == (int32_t)variant->tile_m) h->tall = true;
  else if (each == (matrix_tiles ? (int32_t)variant->tile_m / 4 : 8)) h->few = true;
  else h->low = true;
}

/* A case with weights, biases and, where the variant takes them so, rows of these formats. */
static void check_case(const kernel_variant *variant, const gemm_case *c,
                       const desc_format *weights, const desc_format *rows, moecl_dtype dtype) {
  heights seen = {0};
  op_gemm_desc desc = c->desc;
  const desc_format *type = desc_format_of(dtype), *f32 = desc_format_of(MOECL_F32);
  const bool is_f32 = variant->traits & KERNEL_F32_ACTIVATIONS;
  desc.weights = weights;
  desc.biases = type;
  desc.input = is_f32 ? f32 : rows;
  desc.output = is_f32 || desc.exact ? f32 : type;
  for (size_t i = 0; i < c->load_count; i++) {
    desc.num_experts = c->loads[i].experts;
    if (!op_gemm_takes(variant, &desc)) continue;
    problem p = make_problem(&desc, &c->loads[i]);
    note(&seen, variant, check_gemm(variant, &p, c->name));
    p.desc.scatter = !desc.gated && !desc.ungrouped;
    if (p.desc.scatter && op_gemm_takes(variant, &p.desc)) check_gemm(variant, &p, c->name);
    release_problem(&p);
  }
  const op_gemm_desc *s = &c->desc;
  /* No kernel was left out; a dense one's hang on the device's compute units. */
  if (has_heights(variant) && s->n % 8 == 0 && !s->ungrouped)
    assert_true(seen.few && seen.low && seen.tall);
}

/* Of the two for sub-groups each beside one type, which is not the other's: their programs take
 * long to build, and test/emulate has every one. */
static bool is_theirs(const kernel_variant *variant, moecl_dtype dtype) {
  return dtype == (variant->required & MOECL_CAP_SUBGROUP_MATRIX_8 ? MOECL_F16 : MOECL_BF16);
}

/* In fp32 every case; in the narrow types those that reach code of their own. A
 * library's GEMM is the library's to test. */
static bool wanted(const kernel_variant *variant, const gemm_case *c, moecl_dtype dtype) {
  if (variant->traits & KERNEL_LIBRARY) return false;
  if (replaced_rows && !replaced_rows(variant)) return false;
  if (c->units && !op_is_of_unit(variant)) return false;
  /* Local memory that is not dedicated is slow, and right all the same. */
  const uint32_t capabilities = context->info.capabilities | MOECL_CAP_LOCAL_MEMORY;
  if (!kernel_variant_serves(variant, desc_format_of(dtype), capabilities)) return false;
  if (op_is_subgroup_matrix(variant)) return is_theirs(variant, dtype) && c->desc.n == 136;
  return dtype == MOECL_F32 || op_is_of_unit(variant) || c->desc.ungrouped || c->desc.n == 136 ||
         c->desc.n == 200;
}

static void check_dtype(moecl_dtype dtype) {
  const kernel_variant *variants = op_gemm_table.rows;
  const size_t count = op_gemm_table.count;
  for (size_t v = 0; v < count; v++)
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
      if (wanted(&variants[v], &cases[i], dtype))
        check_case(&variants[v], &cases[i], desc_format_of(dtype), desc_format_of(dtype), dtype);
}

/* Scales of rows, of blocks, and one of each, with outputs of each type: all of them in the first
 * case, then in turns. */
static void check_codes(const kernel_variant *variant) {
  static const moecl_format formats[] = {MOECL_FORMAT_INT8, MOECL_FORMAT_INT8_G128};
  for (size_t i = 0, seen = 0; i < BASE_COUNT(cases); i++) {
    if (!cases[i].units) continue;
    for (size_t f = 0; f < (seen == 0 ? 4 : 1); f++) {
      const size_t at = seen + f;
      check_case(variant, &cases[i], &desc_formats[formats[at % 2]],
                 &desc_formats[formats[at / 2 % 2]], (moecl_dtype)(at % MOECL_DTYPE_COUNT));
    }
    /* Codes of weights alone. */
    check_case(variant, &cases[i], &desc_formats[formats[seen % 2]], desc_format_of(MOECL_BF16),
               MOECL_BF16);
    seen++;
  }
}

static void test_codes(void **state) {
  (void)state;
  for (size_t v = 0; v < op_gemm_table.count; v++)
    if (op_is_of_unit(&op_gemm_table.rows[v]) &&
        kernel_variant_serves(&op_gemm_table.rows[v], &desc_formats[MOECL_FORMAT_INT8],
                              context->info.capabilities))
      check_codes(&op_gemm_table.rows[v]);
}

static void test_f32(void **state) { (void)state, check_dtype(MOECL_F32); }
static void test_f16(void **state) { (void)state, check_dtype(MOECL_F16); }
static void test_bf16(void **state) { (void)state, check_dtype(MOECL_BF16); }

/* Few tokens too: by what a context does before it uses a variant. Of persistent ones test_layer
 * does. */
static void test_self_checks(void **state) {
  static const op_gemm_desc descriptions[] = {
      {.epilogue = ACTIVATION_SILU, .gated = true, .gather = true},
      {.bias = true, .adds_shared = true, .shared_gate = true}};
  (void)state;
  for (size_t v = 0; v < op_gemm_table.count; v++)
    for (size_t i = 0; i < BASE_COUNT(descriptions); i++)
      for (moecl_dtype dtype = MOECL_F16; dtype <= MOECL_BF16; dtype++) {
        const kernel_variant *variant = &op_gemm_table.rows[v];
        op_gemm_desc d = descriptions[i];
        d.weights = d.biases = d.input = d.output = desc_format_of(dtype);
        if (op_is_subgroup_matrix(variant) && is_theirs(variant, dtype))
          assert_ok(op_gemm_self_check(context, variant, &d));
      }
}

static void log_problem(void *user, moecl_log_level level, const char *message) {
  (void)user;
  if (level <= MOECL_LOG_WARNING) fprintf(stderr, "%s\n", message);
}

/* Is what the stand-in replaces run here? */
static bool runs_here(void) {
  if (replaced_rows == op_is_persistent) return stand_in_runs(context);
  if (replaced_rows == op_is_of_unit) context->info.capabilities |= STAND_IN_UNITS;
  return replaced_rows != op_is_subgroup_matrix || stand_in_allow_matrix(context);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_f32), cmocka_unit_test(test_f16),
                                     cmocka_unit_test(test_bf16), cmocka_unit_test(test_codes)};
  const struct CMUnitTest matrix_tests[] = {
      cmocka_unit_test(test_self_checks), cmocka_unit_test(test_f16), cmocka_unit_test(test_bf16)};
  stand_in replaced = {0};
  if (getenv("MOECL_TEST_FILTER")) cmocka_set_test_filter(getenv("MOECL_TEST_FILTER"));
  skip_without_device();
  if (argc > 1 && strcmp(argv[1], "persistent") == 0) replaced_rows = op_is_persistent;
  if (argc > 1 && strcmp(argv[1], "subgroup_matrix") == 0) replaced_rows = op_is_subgroup_matrix;
  if (argc > 1 && strcmp(argv[1], "units") == 0) replaced_rows = op_is_of_unit;
  if (replaced_rows && !stand_in_make(&replaced)) return 1;
  replaced.params.log = log_problem;
  if ((replaced_rows ? stand_in_open(&replaced, &context)
                     : moecl_context_create(&replaced.params, &context)) != MOECL_OK)
    return 1;
  const bool runs = runs_here();
  int failed = 0;
  if (runs && replaced_rows == op_is_subgroup_matrix)
    failed = cmocka_run_group_tests_name("gemm", matrix_tests, NULL, NULL);
  else if (runs) failed = cmocka_run_group_tests_name("gemm", tests, NULL, NULL);
  moecl_context_destroy(&context);
  if (replaced_rows) stand_in_remove(&replaced);
  if (!runs) return TEST_SKIP;
  return failed ? 1 : 0;
}
