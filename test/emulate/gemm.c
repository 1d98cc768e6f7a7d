// SPDX-License-Identifier: MIT
/* A grouped GEMM whose kernels, `pack`, `gemm` and where there is one `few_tokens`, run under
 * work_group.c: every element against double precision. emulate.py makes a program of this for
 * each shape, whose defines it has too: WEIGHTS (of 16 bits; input and biases have it too), OUTPUT,
 * ACTIVATION, GATED, BIAS, GATHER, TILE_M, DENSE, ADDS_SHARED; and WAVE, LOCAL, PARTS (work-groups
 * that make a tile), of packed weights TILE_N rows and PACKED_K of k.
 * usage: gemm SEED */
#include "numbers.h"
#include "work_group.h"
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

enum { EXPERTS = 4, MOST_ROWS = 512, FEW_LOCAL = 256, MATRICES = GATED ? 2 : 1 };
enum { COLUMNS = TILE_N / MATRICES }; /* of a packed tile */
#define HAS_FEW (TILE_M == 32 && (DENSE || GATHER || (!GATED && ACTIVATION == ACTIVATION_NONE)))

void pack(const uint16_t *src, uint64_t src_offset, void *dst, uint64_t dst_offset, int64_t n,
          int64_t k);
void gemm(const uint16_t *a, const int *slot_token, const int *expert_offsets,
          const int *tile_offsets, const void *w, const uint16_t *bias, void *out, int64_t k,
          int64_t n, int num_experts);
#if DENSE || GATHER
void few_tokens(const uint16_t *a, const int *topk_ids, const void *w, const uint16_t *bias,
                void *out, int64_t k, int64_t n, int top_k);
#else
void few_tokens(const uint16_t *a, const int *topk_ids, const float *topk_weights, const void *w,
                const uint16_t *bias, const uint16_t *shared, const float *shared_gate, void *out,
                int64_t k, int64_t n, int top_k);
#endif

/* ---- the problem ---- */

static int64_t n, k, rows; /* rows: of all experts */
static int offsets[EXPERTS + 1], tiles[EXPERTS + 1], slot_token[MOST_ROWS];
static uint16_t *weights, *bias, *input, *shared;
static void *packed, *output;
static uint64_t output_bytes;
enum { GUARD = 256 }; /* bytes behind what may be written */

static uint64_t packed_elements(void) {
  const int64_t tiles_of_columns = (n + COLUMNS - 1) / COLUMNS;
  return (uint64_t)(tiles_of_columns * TILE_N * ((k + PACKED_K - 1) / PACKED_K * PACKED_K));
}

static void *filled(uint64_t bytes) {
  void *memory = aligned_alloc(256, (size_t)(bytes + GUARD + 255) / 256 * 256);
  if (!memory) exit(2);
  memset(memory, 0xff, (size_t)(bytes + GUARD));
  return memory;
}

static float uniform(void) { return (float)emulate_draw() / 0x1p23f - 1; }

static uint16_t *numbers(int64_t count, float scale) {
  uint16_t *bits = filled((uint64_t)count * sizeof *bits);
  for (int64_t i = 0; i < count; i++) bits[i] = bits_of(WEIGHTS, uniform() * scale);
  return bits;
}

/* Numbers that are large, not there, or none. */
static void make_extreme(uint16_t *row) {
  static const float extremes[] = {0, -0.0f, 100, -1000, INFINITY, -INFINITY, NAN};
  const uint32_t which = emulate_draw() % 7;
  for (int64_t i = 0; i < k; i++)
    if (which < 4 || i == (int64_t)(emulate_draw() % (uint32_t)k))
      row[i] = bits_of(WEIGHTS, extremes[which]);
  if (which == 6) row[k - 1] = 0x7fff; /* NaN of either type */
}

/* Slot s reads row 2s+1 where the kernel gathers, and else row s; all others, and what lies
 * behind the last, are NaN. */
static int64_t row_of(int64_t slot) { return GATHER ? 2 * slot + 1 : slot; }

static void make_input(int64_t count, bool extreme) {
  free(input);
  input = filled((uint64_t)((row_of(count) + 1) * k) * sizeof *input);
  for (int64_t slot = 0; slot < count; slot++) {
    uint16_t *row = input + row_of(slot) * k;
    for (int64_t i = 0; i < k; i++) row[i] = bits_of(WEIGHTS, uniform());
    if (extreme && emulate_draw() % 3 == 0) make_extreme(row);
  }
  free(output);
  output_bytes = (uint64_t)(count * n) * (OUTPUT == ELEMENT_F32 ? 4 : 2);
  output = filled(output_bytes);
}

static void pack_all(void) { pack(weights, 0, packed, 0, n * MATRICES, k); }

static void make_weights(void) {
  free(weights);
  free(bias);
  free(packed);
  weights = numbers(EXPERTS * MATRICES * n * k, 0.25f);
  bias = numbers(EXPERTS * MATRICES * n, 1);
  packed = filled(EXPERTS * packed_elements() * sizeof(uint16_t));
  emulate_items(pack_all, 1000, EXPERTS);
}

/* ---- what is expected ---- */

static double dot(int expert, int64_t row, int64_t weight_row) {
  const int64_t at = expert * MATRICES * n + weight_row;
  double sum = BIAS ? (double)number_of(WEIGHTS, bias[at]) : 0;
  for (int64_t i = 0; i < k; i++)
    sum += (double)number_of(WEIGHTS, weights[at * k + i]) *
           (double)number_of(WEIGHTS, input[row * k + i]);
  return sum;
}

static double activate(double x) {
  switch (ACTIVATION) {
  case ACTIVATION_NONE: return x;
  case ACTIVATION_SILU: return x / (1 + exp(-x));
  case ACTIVATION_RELU: return x < 0 ? 0 : x;
  }
  printf("FAIL: what is this activation?\n");
  exit(1);
}

static double expected(int expert, int64_t row, int64_t column) {
  const double gate = dot(expert, row, column);
  return GATED ? activate(gate) * dot(expert, row, n + column) : activate(gate);
}

static double actual(int64_t i) {
  return OUTPUT == ELEMENT_F32 ? (double)((const float *)output)[i]
                               : (double)number_of(WEIGHTS, ((const uint16_t *)output)[i]);
}

/* As the output's element has it: what is too large is infinite. */
static double stored(double x) {
  if (OUTPUT == ELEMENT_F32 || !isfinite(x)) return x;
  return (double)number_of(WEIGHTS, bits_of(WEIGHTS, (float)x));
}

static bool is_right(const char *what, int64_t row, int64_t column, double want) {
  const double got = actual(row * n + column), tolerance = OUTPUT == ELEMENT_F32 ? 2e-5 : 8e-3;
  want = stored(want);
  const bool right = isnan(want)   ? isnan(got)
                     : isinf(want) ? got == want
                                   : fabs(got - want) <= tolerance * (1 + fabs(want));
  if (!right)
    printf("FAIL: %s, n %d, k %d: row %d, column %d is %g, expected %g\n", what, (int)n, (int)k,
           (int)row, (int)column, got, want);
  return right;
}

static bool guard_is_whole(const char *what) {
  const unsigned char *end = (const unsigned char *)output + output_bytes;
  for (int i = 0; i < GUARD; i++)
    if (end[i] != 0xff) {
      printf("FAIL: %s, n %d, k %d: writes behind the output\n", what, (int)n, (int)k);
      return false;
    }
  return true;
}

/* ---- tiles ---- */

static void run_gemm(void) {
  gemm(input, slot_token, offsets, tiles, packed, bias, output, k, n, EXPERTS);
}

static bool check_tiles(const int *load, bool extreme) {
  for (int e = 0; e < EXPERTS; e++) {
    offsets[e + 1] = offsets[e] + load[e];
    tiles[e + 1] = tiles[e] + (load[e] + TILE_M - 1) / TILE_M;
  }
  rows = offsets[EXPERTS];
  for (int s = 0; s < rows; s++) slot_token[s] = (int)row_of(s);
  make_input(rows, extreme);
  /* More work-groups than tiles: the host knows an upper bound only. */
  const uint32_t columns = (uint32_t)((n + COLUMNS - 1) / COLUMNS);
  const emulated_launch launch = {run_gemm, ((uint32_t)tiles[EXPERTS] + 1) * columns * PARTS, LOCAL,
                                  WAVE};
  emulate_launch(&launch);
  for (int e = 0; e < EXPERTS; e++)
    for (int s = offsets[e]; s < offsets[e + 1]; s++)
      for (int64_t c = 0; c < n; c++)
        if (!is_right("tiles", s, c, expected(e, row_of(s), c))) return false;
  return guard_is_whole("tiles");
}

/* ---- few tokens ---- */

#if HAS_FEW
enum { FEW_TOKENS = 2, FEW_GROUP = 16 / MATRICES };
static int topk_ids[MOST_ROWS], top_k;
static float topk_weights[MOST_ROWS], shared_gate[MOST_ROWS];

static void run_few(void) {
#if DENSE || GATHER
  few_tokens(input, topk_ids, packed, bias, output, k, n, top_k);
#else
  few_tokens(input, topk_ids, topk_weights, packed, bias, shared, shared_gate, output, k, n, top_k);
#endif
}

#if DENSE || GATHER
/* Token t's rows are t top_k + j; of the input it has one. */
static bool check_few_row(int64_t row) {
  if (topk_ids[row] < 0) return true;
  for (int64_t c = 0; c < n; c++)
    if (!is_right("few tokens", row, c, expected(topk_ids[row], row / top_k, c))) return false;
  return true;
}
#else
static double combined(int64_t token, int64_t column) {
  double sum = 0;
  for (int64_t i = token * top_k; i < (token + 1) * top_k; i++)
    sum += (double)topk_weights[i] * expected(topk_ids[i], i, column);
  if (ADDS_SHARED)
    sum += (ADDS_SHARED == 2 ? (double)shared_gate[token] : 1) *
           (double)number_of(WEIGHTS, shared[token * n + column]);
  return sum;
}

static bool check_few_row(int64_t row) {
  for (int64_t c = 0; c < n; c++)
    if (!is_right("few tokens", row, c, combined(row, c))) return false;
  return true;
}
#endif

static bool check_few(void) {
  top_k = DENSE ? 1 : 3;
  const int64_t assignments = FEW_TOKENS * top_k, out_rows = DENSE || GATHER ? assignments : 2;
  make_input(assignments, false);
  free(input);
  input = numbers(assignments * k, 1); /* not gathered: they lie together */
  free(shared);
  shared = numbers(FEW_TOKENS * n, 1);
  for (int i = 0; i < assignments; i++) {
    topk_ids[i] = DENSE ? 0 : (int)(emulate_draw() % EXPERTS);
    topk_weights[i] = uniform();
    shared_gate[i] = uniform();
  }
  if (GATHER && !DENSE) topk_ids[1] = -1; /* is not routed: nothing is written */
  const int64_t groups = (n + FEW_GROUP - 1) / FEW_GROUP * out_rows;
  const emulated_launch launch = {run_few, (uint32_t)groups, FEW_LOCAL, WAVE};
  emulate_launch(&launch);
  for (int64_t row = 0; row < out_rows; row++)
    if (!check_few_row(row)) return false;
  return guard_is_whole("few tokens");
}
#endif

int main(int argc, char **argv) {
  static const int loads[][EXPERTS] = {
      {70, 0, 33, 1}, {5, 17, 0, 0}, {0, 0, 150, 2}, {128, 64, 32, 16}};
  static const int64_t sizes[][2] = {{136, 264}, {8, 8}, {72, 88}, {200, 32}};
  bool right = true;
  emulate_seed(argc > 1 ? (uint32_t)atoi(argv[1]) : 1);
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    n = sizes[i][0];
    k = sizes[i][1];
    make_weights();
    right &= check_tiles(loads[i], i % 2 == 1);
#if HAS_FEW
    right &= check_few();
#endif
  }
  return right ? 0 : 1;
}
