// SPDX-License-Identifier: MIT
#include "desc/block.h"
#include "moecl/reference.h"
#include "ref/ref.h"
#include <stdlib.h>
#include <string.h>

/* y = matrix [rows,columns] times x, and its bias. */
static void multiply(const double *matrix, const double *bias, int64_t rows, int64_t columns,
                     const double *x, double *y) {
  for (int64_t i = 0; i < rows; i++) {
    y[i] = bias ? bias[i] : 0;
    for (int64_t j = 0; j < columns; j++) y[i] += matrix[i * columns + j] * x[j];
  }
}

typedef struct work {
  double *row, *qkv; /* of one token */
  double *queries, *keys, *values, *attended;
} work;

static bool allocate(work *w, const moecl_block_params *params, int64_t num_tokens) {
  const desc_attention attention = desc_attention_of(params);
  const size_t tokens = (size_t)num_tokens, one = sizeof(double);
  const size_t queries = (size_t)desc_query_size(&attention);
  const size_t keys = (size_t)desc_key_size(&attention);
  w->row = malloc((size_t)params->layer.hidden_size * one);
  w->qkv = malloc((queries + 2 * keys) * one);
  w->queries = malloc(tokens * queries * one);
  w->keys = malloc(tokens * keys * one);
  w->values = malloc(tokens * keys * one);
  w->attended = malloc(tokens * queries * one);
  return w->row && w->qkv && w->queries && w->keys && w->values && w->attended;
}

static void release(work *w) {
  free(w->row), free(w->qkv), free(w->queries), free(w->keys), free(w->values), free(w->attended);
}

static moecl_status run(const moecl_block_params *params, int64_t num_tokens, const double *hidden,
                        const double *const *tensors, work *w, double *sum, double *normalized) {
  const desc_attention attention = desc_attention_of(params);
  const desc_norm first = desc_norm_of(params, &params->attention_norm);
  const desc_norm second = desc_norm_of(params, &params->feed_forward_norm);
  const int64_t width = params->layer.hidden_size, size = desc_query_size(&attention);
  const int64_t key_size = desc_key_size(&attention);
  for (int64_t t = 0; t < num_tokens; t++) {
    double *query = w->qkv, *key = query + size, *value = key + key_size;
    ref_norm(&first, hidden + t * width, tensors[MOECL_ATTENTION_NORM],
             tensors[MOECL_ATTENTION_NORM_BIAS], w->row);
    multiply(tensors[MOECL_QKV_PROJ], tensors[MOECL_QKV_BIAS], size + 2 * key_size, width, w->row,
             w->qkv);
    ref_prepare_heads(&attention, attention.num_heads, t, tensors[MOECL_Q_NORM], query);
    ref_prepare_heads(&attention, attention.num_kv_heads, t, tensors[MOECL_K_NORM], key);
    memcpy(w->queries + t * size, query, (size_t)size * sizeof *query);
    memcpy(w->keys + t * key_size, key, (size_t)key_size * sizeof *key);
    memcpy(w->values + t * key_size, value, (size_t)key_size * sizeof *value);
  }
  const moecl_status status = ref_attention(&attention, num_tokens, num_tokens, w->queries, w->keys,
                                            w->values, tensors[MOECL_SINKS], w->attended);
  for (int64_t t = 0; status == MOECL_OK && t < num_tokens; t++) {
    double *total = sum + t * width;
    multiply(tensors[MOECL_O_PROJ], tensors[MOECL_O_BIAS], width, size, w->attended + t * size,
             total);
    for (int64_t h = 0; h < width; h++) total[h] += hidden[t * width + h];
    ref_norm(&second, total, tensors[MOECL_FEED_FORWARD_NORM],
             tensors[MOECL_FEED_FORWARD_NORM_BIAS], normalized + t * width);
  }
  return status;
}

moecl_status moecl_reference_attention(const moecl_block_params *params, int64_t num_tokens,
                                       const double *hidden, const double *const *tensors,
                                       double *sum, double *normalized) {
  work w = {0};
  if (!params || num_tokens < 0 || !hidden || !tensors || !sum || !normalized)
    return MOECL_ERROR_INVALID_ARGUMENT;
  for (int i = 0; i < MOECL_BLOCK_TENSOR_COUNT; i++)
    if (!tensors[i] && moecl_block_tensor_size(params, (moecl_block_tensor)i) > 0)
      return MOECL_ERROR_INVALID_ARGUMENT;
  if (num_tokens == 0) return MOECL_OK;
  const moecl_status status = allocate(&w, params, num_tokens)
                                  ? run(params, num_tokens, hidden, tensors, &w, sum, normalized)
                                  : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  release(&w);
  return status;
}
