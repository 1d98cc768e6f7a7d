// SPDX-License-Identifier: MIT
#include "base/base.h"
#include "desc/block.h"
#include "moecl/reference.h"
#include "base/parallel.h"
#include "ref/ref.h"
#include <stdlib.h>
#include <string.h>

/* Tokens that a matrix's row is multiplied with while it is at hand. */
enum { TOGETHER = 8 };

/* Some tokens of a sequence: those asked for, and of it those that they look at. */
typedef struct work {
  const moecl_block_params *params;
  desc_attention attention;
  desc_norm first, second;
  const double *hidden, *const *tensors;
  const int64_t *tokens; /* [count] */
  int64_t count;
  int64_t first_key, num_keys;
  double *rows;            /* [num_keys or count,H]: normalized */
  double *queries, *pairs; /* [count,ND], [num_keys,2MD]: keys, then values, of a token */
  double *keys, *values;   /* [num_keys,MD] each */
  double *attended;        /* [count,ND] */
  double *scratch;         /* `scratch_size` for each thread */
  int64_t scratch_size;
  double *sum, *normalized; /* the caller's, [count,H] */
} work;

/* ---- output [tokens,rows] = input [tokens,columns] times the matrix [rows,columns] ---- */

typedef struct product {
  const double *matrix, *bias, *input;
  int64_t rows, columns;
  double *output, *scratch; /* TOGETHER * columns for each thread */
} product;

/* The sums of `together` tokens side by side, each in the order of its columns. */
static void multiply_together(const product *p, int64_t first, int64_t together, double *turned) {
  for (int64_t j = 0; j < p->columns; j++)
    for (int64_t b = 0; b < TOGETHER; b++)
      turned[j * TOGETHER + b] = b < together ? p->input[(first + b) * p->columns + j] : 0;
  for (int64_t i = 0; i < p->rows; i++) {
    const double *row = p->matrix + i * p->columns;
    double sum[TOGETHER];
    for (int b = 0; b < TOGETHER; b++) sum[b] = p->bias ? p->bias[i] : 0;
    for (int64_t j = 0; j < p->columns; j++)
      for (int b = 0; b < TOGETHER; b++) sum[b] += row[j] * turned[j * TOGETHER + b];
    for (int64_t b = 0; b < together; b++) p->output[(first + b) * p->rows + i] = sum[b];
  }
}

static void multiply_part(void *user, int part, int64_t first, int64_t end) {
  const product *p = user;
  double *turned = p->scratch + part * TOGETHER * p->columns;
  for (int64_t t = first; t < end; t += TOGETHER)
    multiply_together(p, t, end - t < TOGETHER ? end - t : TOGETHER, turned);
}

/* ---- the steps, each for a range of tokens ---- */

static const double *hidden_of(const work *w, int64_t token) {
  return w->hidden + token * w->params->layer.hidden_size;
}

static void normalize(const work *w, int64_t token, double *row) {
  ref_norm(&w->first, hidden_of(w, token), w->tensors[MOECL_ATTENTION_NORM],
           w->tensors[MOECL_ATTENTION_NORM_BIAS], row);
}

static void make_queries(work *w, int threads) {
  const int64_t width = w->params->layer.hidden_size, size = desc_query_size(&w->attention);
  for (int64_t i = 0; i < w->count; i++) normalize(w, w->tokens[i], w->rows + i * width);
  product p = {.matrix = w->tensors[MOECL_QKV_PROJ],
               .bias = w->tensors[MOECL_QKV_BIAS],
               .input = w->rows,
               .rows = size,
               .columns = width,
               .output = w->queries,
               .scratch = w->scratch};
  base_parallel(threads, w->count, multiply_part, &p);
  for (int64_t i = 0; i < w->count; i++)
    ref_prepare_heads(&w->attention, w->attention.num_heads, w->tokens[i], w->tensors[MOECL_Q_NORM],
                      w->queries + i * size);
}

static void make_keys(work *w, int threads) {
  const int64_t width = w->params->layer.hidden_size, size = desc_key_size(&w->attention);
  const int64_t before = desc_query_size(&w->attention);
  const double *bias = w->tensors[MOECL_QKV_BIAS];
  for (int64_t i = 0; i < w->num_keys; i++) normalize(w, w->first_key + i, w->rows + i * width);
  product p = {.matrix = w->tensors[MOECL_QKV_PROJ] + before * width,
               .bias = bias ? bias + before : NULL,
               .input = w->rows,
               .rows = 2 * size,
               .columns = width,
               .output = w->pairs,
               .scratch = w->scratch};
  base_parallel(threads, w->num_keys, multiply_part, &p);
  for (int64_t i = 0; i < w->num_keys; i++) {
    double *key = w->keys + i * size;
    memcpy(key, w->pairs + 2 * i * size, (size_t)size * sizeof *key);
    memcpy(w->values + i * size, w->pairs + (2 * i + 1) * size, (size_t)size * sizeof *key);
    ref_clip(&w->attention, size, w->values + i * size);
    ref_prepare_heads(&w->attention, w->attention.num_kv_heads, w->first_key + i,
                      w->tensors[MOECL_K_NORM], key);
  }
}

/* Positions count from the first key on: only distances matter here. */
static void attend_part(void *user, int part, int64_t first, int64_t end) {
  const work *w = user;
  const int64_t size = desc_query_size(&w->attention);
  /* Arrays of callers from before there was this tensor end before it. */
  const double *bias =
      w->attention.relative.num_buckets > 0 ? w->tensors[MOECL_RELATIVE_BIAS] : NULL;
  for (int64_t i = first; i < end; i++)
    ref_attention_token(&w->attention, w->tokens[i] - w->first_key, w->num_keys,
                        w->queries + i * size, w->keys, w->values, w->tensors[MOECL_SINKS], bias,
                        w->scratch + part * w->scratch_size, w->attended + i * size);
}

static void make_sums(work *w, int threads) {
  const int64_t width = w->params->layer.hidden_size;
  product p = {.matrix = w->tensors[MOECL_O_PROJ],
               .bias = w->tensors[MOECL_O_BIAS],
               .input = w->attended,
               .rows = width,
               .columns = desc_query_size(&w->attention),
               .output = w->sum,
               .scratch = w->scratch};
  base_parallel(threads, w->count, multiply_part, &p);
  for (int64_t i = 0; i < w->count; i++) {
    double *sum = w->sum + i * width;
    for (int64_t h = 0; h < width; h++) sum[h] += hidden_of(w, w->tokens[i])[h];
    ref_norm(&w->second, sum, w->tensors[MOECL_FEED_FORWARD_NORM],
             w->tensors[MOECL_FEED_FORWARD_NORM_BIAS], w->normalized + i * width);
  }
}

/* ---- memory ---- */

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static bool allocate(work *w, int threads) {
  const int64_t width = w->params->layer.hidden_size;
  const int64_t queries = desc_query_size(&w->attention), keys = desc_key_size(&w->attention);
  w->scratch_size = larger(TOGETHER * larger(width, queries), w->num_keys);
  w->rows = ref_doubles(larger(w->num_keys, w->count), width);
  w->queries = ref_doubles(w->count, queries);
  w->pairs = ref_doubles(w->num_keys, 2 * keys);
  w->keys = ref_doubles(w->num_keys, keys);
  w->values = ref_doubles(w->num_keys, keys);
  w->attended = ref_doubles(w->count, queries);
  w->scratch = ref_doubles(w->scratch_size, threads);
  return w->rows && w->queries && w->pairs && w->keys && w->values && w->attended && w->scratch;
}

static void release(work *w) {
  free(w->rows), free(w->queries), free(w->pairs), free(w->keys), free(w->values);
  free(w->attended), free(w->scratch);
}

/* ---- all of it ---- */

/* The keys that any of the tokens looks at. */
static void find_keys(work *w, int64_t num_tokens) {
  int64_t first, end, unused;
  desc_attended(&w->attention, w->tokens[0], num_tokens, &first, &unused);
  desc_attended(&w->attention, w->tokens[w->count - 1], num_tokens, &unused, &end);
  w->first_key = first;
  w->num_keys = end - first;
}

static moecl_status run(work *w, int64_t num_tokens, int threads) {
  find_keys(w, num_tokens);
  const bool ready = allocate(w, threads);
  if (ready) make_queries(w, threads);
  if (ready) make_keys(w, threads);
  if (ready) base_parallel(threads, w->count, attend_part, w);
  if (ready) make_sums(w, threads);
  release(w);
  return ready ? MOECL_OK : MOECL_ERROR_OUT_OF_HOST_MEMORY;
}

static bool are_tokens(const int64_t *tokens, int64_t count, int64_t num_tokens) {
  for (int64_t i = 0; i < count; i++)
    if (tokens[i] < 0 || tokens[i] >= num_tokens || (i > 0 && tokens[i] <= tokens[i - 1]))
      return false;
  return true;
}

moecl_status moecl_reference_attention_tokens(const moecl_block_params *params, int64_t num_tokens,
                                              const double *hidden, const double *const *tensors,
                                              int64_t count, const int64_t *tokens, int threads,
                                              double *sum, double *normalized) {
  if (!params || num_tokens < 0 || !hidden || !tensors || count < 0 || !tokens || threads < 0 ||
      !sum || !normalized || !are_tokens(tokens, count, num_tokens))
    return MOECL_ERROR_INVALID_ARGUMENT;
  for (int i = 0; i < MOECL_BLOCK_TENSOR_COUNT; i++)
    if (moecl_block_tensor_size(params, (moecl_block_tensor)i) > 0 && !tensors[i])
      return MOECL_ERROR_INVALID_ARGUMENT;
  if (count == 0) return MOECL_OK;
  work w = {.params = params,
            .attention = desc_attention_of(params),
            .first = desc_norm_of(params, &params->attention_norm),
            .second = desc_norm_of(params, &params->feed_forward_norm),
            .hidden = hidden,
            .tensors = tensors,
            .tokens = tokens,
            .count = count,
            .sum = sum,
            .normalized = normalized};
  return run(&w, num_tokens, base_threads(threads));
}

moecl_status moecl_reference_attention(const moecl_block_params *params, int64_t num_tokens,
                                       const double *hidden, const double *const *tensors,
                                       double *sum, double *normalized) {
  if (num_tokens < 0) return MOECL_ERROR_INVALID_ARGUMENT;
  int64_t *tokens = malloc(((size_t)num_tokens + 1) * sizeof *tokens);
  if (!tokens) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  for (int64_t t = 0; t < num_tokens; t++) tokens[t] = t;
  const moecl_status status = moecl_reference_attention_tokens(
      params, num_tokens, hidden, tensors, num_tokens, tokens, 1, sum, normalized);
  free(tokens);
  return status;
}
