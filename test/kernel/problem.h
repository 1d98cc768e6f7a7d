// SPDX-License-Identifier: MIT
/* A layer's weights and tokens, for tests that compare two ways to its output. */
#ifndef MOECL_TEST_PROBLEM_H
#define MOECL_TEST_PROBLEM_H

#include "../unit/unit.h"

static inline void log_problem(void *user, moecl_log_level level, const char *message) {
  if (level <= MOECL_LOG_WARNING) fprintf(stderr, "member %s: %s\n", (const char *)user, message);
}

static inline void *take(size_t bytes) {
  void *memory = calloc(bytes + 1, 1);
  assert_non_null(memory);
  return memory;
}

/* Numbers in [-1, 1), the same for the same `which`. */
static inline void draw(double *values, size_t count, unsigned which) {
  uint64_t state = which * UINT64_C(0x9e3779b97f4a7c15) + 1;
  for (size_t i = 0; i < count; i++) {
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    values[i] = (double)(state >> 40) * 0x1p-23 - 1;
  }
}

typedef struct problem {
  moecl_layer_params params;
  int64_t num_tokens;
  void *weights[MOECL_TENSOR_COUNT];
  void *hidden;
  size_t row_bytes;
} problem;

static inline void draw_tensor(problem *p, moecl_tensor tensor) {
  const int64_t items = moecl_layer_tensor_items(&p->params, tensor);
  const size_t size = (size_t)moecl_layer_tensor_size(&p->params, tensor);
  const size_t bytes = (size_t)moecl_layer_tensor_bytes(&p->params, tensor);
  if (items == 0) return;
  double *values = take(size * sizeof *values);
  p->weights[tensor] = take((size_t)items * bytes);
  for (int64_t i = 0; i < items; i++) {
    draw(values, size, (unsigned)tensor * 2000 + (unsigned)i);
    moecl_layer_tensor_from_double(&p->params, tensor, values,
                                   (char *)p->weights[tensor] + (size_t)i * bytes);
  }
  free(values);
}

static inline problem make_problem(const moecl_layer_params *params, int64_t num_tokens) {
  problem p = {.params = *params, .num_tokens = num_tokens};
  const size_t count = (size_t)(num_tokens * params->hidden_size);
  double *values = take(count * sizeof *values);
  p.row_bytes = (size_t)params->hidden_size * moecl_dtype_size(params->dtype);
  p.hidden = take((size_t)num_tokens * p.row_bytes);
  draw(values, count, 77);
  moecl_from_double(params->dtype, values, count, p.hidden);
  free(values);
  for (int t = 0; t < MOECL_TENSOR_COUNT; t++) draw_tensor(&p, (moecl_tensor)t);
  return p;
}

static inline void free_problem(problem *p) {
  for (int t = 0; t < MOECL_TENSOR_COUNT; t++) free(p->weights[t]);
  free(p->hidden);
}

/* Does the device have the variant? Else the test is skipped, and says so. */
static inline bool has_variant(moecl_context *on, const char *operation, const char *name) {
  enum { MOST = 64 };
  const char *names[MOST];
  const size_t count = moecl_variants_available(on, operation, MOECL_F32, names, MOST);
  for (size_t i = 0; i < count && i < MOST; i++)
    if (strcmp(names[i], name) == 0) return true;
  printf("SKIP: %s '%s' does not serve here\n", operation, name);
  return false;
}

#endif
