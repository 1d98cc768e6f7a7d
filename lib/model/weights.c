// SPDX-License-Identifier: MIT
/* A layer's tensors in the canonical layout, out of whatever layout the files
 * have. Every matrix is made of at most two pieces (gate and up) with strides. */
#include "base/base.h"
#include "model/checkpoint.h"
#include "model/safetensors.h"
#include "model/unread.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What is wanted: `rows` of a matrix of `file_rows` rows, from `first_row` on in
 * steps of `row_step`, which lies in the file for `items` experts. */
typedef struct want {
  const char *pattern;
  int64_t item, items;   /* items 0: not per expert */
  int64_t rows, columns; /* columns 0: a vector */
  int64_t file_rows, first_row, row_step;
  bool transposed, flat;
} want;

/* Where it lies: element (r,c) is `first` + r row_stride + c column_stride. */
typedef struct piece {
  const moecl_safetensors *file;
  const moecl_safetensors_tensor *tensor;
  moecl_dtype dtype;
  int64_t rows, columns;
  uint64_t first, row_stride, column_stride;
  const double *factors; /* [columns], which it is multiplied by; NULL: none */
} piece;

/* ---- finding ---- */

static moecl_status missing(moecl_checkpoint *checkpoint, const char *name) {
  json_t *how = json_object_get(checkpoint->config, "quantization_config");
  const char *method = json_string_value(json_object_get(how, "quant_method"));
  return log_error(&checkpoint->log, MOECL_ERROR_IO, "%s: has no tensor '%.300s'%s%.40s%s",
                   checkpoint->folder, name,
                   how ? " (config.json says that its weights are quantized: " : "",
                   how ? method ? method : "no method named" : "", how ? ")" : "");
}

static void add_shape(base_text *text, const int64_t *shape, int rank) {
  base_text_addf(text, "[");
  for (int i = 0; i < rank; i++) base_text_addf(text, "%s%" PRId64, i ? ", " : "", shape[i]);
  base_text_addf(text, "]");
}

/* Equal but for dimensions of 1: a gate of [1,H] is a vector of H. */
static bool same_shape(const int64_t *a, int rank_a, const int64_t *b, int rank_b) {
  int i = 0, j = 0;
  for (;;) {
    while (i < rank_a && a[i] == 1) i++;
    while (j < rank_b && b[j] == 1) j++;
    if (i == rank_a || j == rank_b) return i == rank_a && j == rank_b;
    if (a[i++] != b[j++]) return false;
  }
}

/* The shape that the file must have. */
static int expected_shape(const want *want, bool stacked, int64_t shape[3]) {
  int rank = 0;
  int64_t rows = want->file_rows, columns = want->columns;
  if (stacked && want->flat) {
    /* Transposed or not, experts lie below each other. */
    shape[rank++] = want->items * (want->transposed ? columns : rows);
    shape[rank++] = want->transposed ? rows : columns;
    return rank;
  }
  if (stacked) shape[rank++] = want->items;
  shape[rank++] = want->transposed && columns ? columns : rows;
  if (columns) shape[rank++] = want->transposed ? rows : columns;
  return rank;
}

static moecl_status check_shape(moecl_checkpoint *checkpoint, const want *want, bool stacked,
                                const moecl_safetensors *file,
                                const moecl_safetensors_tensor *tensor) {
  int64_t expected[3];
  const int rank = expected_shape(want, stacked, expected);
  if (same_shape(tensor->shape, tensor->rank, expected, rank)) return MOECL_OK;
  base_text text = {0};
  add_shape(&text, tensor->shape, tensor->rank);
  base_text_addf(&text, ", expected ");
  add_shape(&text, expected, rank);
  const moecl_status status =
      log_error(&checkpoint->log, MOECL_ERROR_IO, "%s: tensor '%.300s' has shape %s",
                moecl_safetensors_path(file), tensor->name, text.failed ? "?" : text.data);
  base_text_free(&text);
  return status;
}

static void place(const want *want, bool stacked, piece *piece) {
  const uint64_t columns = want->columns ? (uint64_t)want->columns : 1;
  const uint64_t file_rows = (uint64_t)want->file_rows;
  const uint64_t one_row = want->transposed ? 1 : columns;
  piece->rows = want->rows;
  piece->columns = (int64_t)columns;
  piece->first = (stacked ? (uint64_t)want->item * file_rows * columns : 0) +
                 (uint64_t)want->first_row * one_row;
  piece->row_stride = (uint64_t)want->row_step * one_row;
  piece->column_stride = want->transposed ? file_rows : 1;
  piece->factors = NULL;
}

static moecl_status find_piece(moecl_checkpoint *checkpoint, const model_layer *layer,
                               const want *want, piece *piece) {
  char *name;
  moecl_status status =
      model_find(checkpoint, layer, want->pattern, want->item, &name, &piece->file, &piece->tensor);
  if (status == MOECL_OK && !piece->tensor) status = missing(checkpoint, name);
  free(name);
  if (status != MOECL_OK) return status;
  const bool stacked = want->items > 0 && !strstr(want->pattern, "{expert}");
  /* First the type: of what is packed the shape is another one too. */
  if (!moecl_safetensors_dtype(piece->tensor, &piece->dtype))
    return log_error(&checkpoint->log, MOECL_ERROR_UNSUPPORTED,
                     "%s: tensor '%.300s' is of type %s, expected F32, F16 or BF16",
                     moecl_safetensors_path(piece->file), piece->tensor->name,
                     piece->tensor->dtype);
  MOECL_TRY(check_shape(checkpoint, want, stacked, piece->file, piece->tensor));
  place(want, stacked, piece);
  return MOECL_OK;
}

/* ---- what a layer's tensors are made of ---- */

/* gate_up of a network of `size` intermediate elements: `columns` H, or 0 for
 * its bias. Fills one or two wants and returns how many. */
static int want_gate_up(const family_ffn *ffn, bool gated, int64_t size, int64_t columns,
                        want wants[2]) {
  const char *both = columns ? ffn->gate_up : ffn->gate_up_bias;
  const want one = {.rows = size,
                    .columns = columns,
                    .file_rows = size,
                    .row_step = 1,
                    .transposed = columns && ffn->layout & FFN_TRANSPOSED,
                    .flat = ffn->layout & FFN_FLAT};
  const int count = gated ? 2 : 1;
  for (int i = 0; i < count; i++) {
    const bool gate = gated && i == 0;
    wants[i] = one;
    if (!both) {
      wants[i].pattern = gate      ? columns ? ffn->gate : ffn->gate_bias
                         : columns ? ffn->up
                                   : ffn->up_bias;
      continue;
    }
    wants[i].pattern = both;
    wants[i].file_rows = count * size;
    if (ffn->layout & FFN_INTERLEAVED) {
      wants[i].first_row = i;
      wants[i].row_step = count;
    } else {
      wants[i].first_row = (ffn->layout & FFN_UP_FIRST) && gated ? (1 - i) * size : i * size;
    }
  }
  return count;
}

static want want_down(const family_ffn *ffn, int64_t hidden, int64_t size) {
  return (want){.pattern = ffn->down,
                .rows = hidden,
                .columns = size,
                .file_rows = hidden,
                .row_step = 1,
                .transposed = ffn->layout & (FFN_TRANSPOSED | FFN_DOWN_TRANSPOSED),
                .flat = ffn->layout & FFN_FLAT};
}

static want want_whole(const char *pattern, int64_t rows, int64_t columns) {
  return (want){
      .pattern = pattern, .rows = rows, .columns = columns, .file_rows = rows, .row_step = 1};
}

/* Fills one or two wants and returns how many; 0: zeros, from no file. `ffn` has the
 * experts, or the dense network. */
static int wants_of(const family *family, const family_ffn *ffn, const family_ffn *shared,
                    const model_layer *layer, moecl_tensor tensor, want wants[2]) {
  const moecl_layer_params *p = &layer->params;
  const bool gated = moecl_activation_is_gated(p->activation);
  const int64_t h = p->hidden_size, e = p->num_experts, s = p->shared_intermediate_size;
  switch (tensor) {
  case MOECL_ROUTER_WEIGHT:
    wants[0] = want_whole(family->router, e, h);
    return layer->is_moe ? 1 : 0; /* a dense network: any router chooses its one expert */
  case MOECL_ROUTER_BIAS: wants[0] = want_whole(family->router_bias, e, 0); return 1;
  case MOECL_SCORE_CORRECTION_BIAS: wants[0] = want_whole(family->correction_bias, e, 0); return 1;
  case MOECL_ROUTER_NOISE_WEIGHT: wants[0] = want_whole(family->noise, e, h); return 1;
  case MOECL_GATE_UP_PROJ: return want_gate_up(ffn, gated, p->intermediate_size, h, wants);
  case MOECL_GATE_UP_BIAS: return want_gate_up(ffn, gated, p->intermediate_size, 0, wants);
  case MOECL_DOWN_PROJ: wants[0] = want_down(ffn, h, p->intermediate_size); return 1;
  case MOECL_DOWN_BIAS: wants[0] = want_whole(ffn->down_bias, h, 0); return 1;
  case MOECL_SHARED_GATE_UP_PROJ: return want_gate_up(shared, gated, s, h, wants);
  case MOECL_SHARED_DOWN_PROJ: wants[0] = want_down(shared, h, s); return 1;
  case MOECL_SHARED_GATE: wants[0] = want_whole(family->shared_gate, h, 0); return 1;
  case MOECL_TENSOR_COUNT: break;
  }
  return 0;
}

/* ---- converting ---- */

enum { RUN = 256 }; /* elements converted at once */

static bool is_finite(moecl_dtype dtype, const void *values, uint64_t index) {
  const char *at = (const char *)values + index * moecl_dtype_size(dtype);
  uint32_t wide;
  uint16_t narrow;
  if (dtype == MOECL_F32) {
    memcpy(&wide, at, sizeof wide);
    return (wide & 0x7f800000u) != 0x7f800000u;
  }
  memcpy(&narrow, at, sizeof narrow);
  const uint16_t exponent = dtype == MOECL_F16 ? 0x7c00u : 0x7f80u;
  return (narrow & exponent) != exponent;
}

/* `count` elements next to each other, times their factors where there are any; false
 * with *at at the first that is not finite, be it in the file or after conversion. */
static bool convert(moecl_dtype from, const void *src, const double *factors, moecl_dtype to,
                    void *dst, uint64_t count, uint64_t *at) {
  const size_t size = moecl_dtype_size(from);
  const bool copies = from == to && !factors;
  double wide[RUN];
  float aligned[RUN]; /* a tensor need not be aligned in its file */
  if (copies) memcpy(dst, src, count * size);
  for (uint64_t done = 0; !copies && done < count; done += RUN) {
    const uint64_t some = count - done < RUN ? count - done : RUN;
    memcpy(aligned, (const char *)src + done * size, some * size);
    moecl_to_double(from, aligned, some, wide);
    for (uint64_t i = 0; factors && i < some; i++) wide[i] *= factors[done + i];
    moecl_from_double(to, wide, some, (char *)dst + done * moecl_dtype_size(to));
  }
  for (*at = 0; *at < count; ++*at)
    if (!is_finite(to, dst, *at)) return false;
  return true;
}

static moecl_status not_finite(moecl_checkpoint *checkpoint, const piece *piece, uint64_t element,
                               moecl_dtype to) {
  const char *data = piece->tensor->data;
  const bool stored = is_finite(piece->dtype, data, element);
  return log_error(
      &checkpoint->log, MOECL_ERROR_IO, "%s: tensor '%.300s': element %" PRIu64 "%s is %s%s",
      moecl_safetensors_path(piece->file), piece->tensor->name, element,
      stored && piece->factors ? ", times what the family multiplies by," : "",
      stored ? "too large for " : "not a finite number", stored ? moecl_dtype_name(to) : "");
}

/* A row whose elements are apart, gathered into `packed`. */
static void gather(const piece *piece, const char *src, char *packed) {
  const size_t size = moecl_dtype_size(piece->dtype);
  const uint64_t step = piece->column_stride * size;
  for (int64_t c = 0; c < piece->columns; c++, src += step)
    memcpy(packed + (size_t)c * size, src, size);
}

static moecl_status copy_rows(moecl_checkpoint *checkpoint, const piece *piece, moecl_dtype to,
                              char *packed, char *dst) {
  const size_t size = moecl_dtype_size(piece->dtype);
  const size_t row_bytes = (size_t)piece->columns * moecl_dtype_size(to);
  for (int64_t r = 0; r < piece->rows; r++, dst += row_bytes) {
    const uint64_t first = piece->first + (uint64_t)r * piece->row_stride;
    const char *src = (const char *)piece->tensor->data + first * size;
    uint64_t at;
    if (piece->column_stride != 1) gather(piece, src, packed);
    if (!convert(piece->dtype, piece->column_stride == 1 ? src : packed, piece->factors, to, dst,
                 (uint64_t)piece->columns, &at))
      return not_finite(checkpoint, piece, first + at * piece->column_stride, to);
  }
  return MOECL_OK;
}

static moecl_status copy_piece(moecl_checkpoint *checkpoint, const piece *piece, moecl_dtype to,
                               char *dst) {
  const size_t size = moecl_dtype_size(piece->dtype);
  MOECL_TRY(safetensors_still_whole(piece->file));
  char *packed = malloc((size_t)piece->columns * size);
  if (!packed) return log_error(&checkpoint->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  const uint64_t last = (uint64_t)(piece->rows - 1) * piece->row_stride +
                        (uint64_t)(piece->columns - 1) * piece->column_stride;
  safetensors_will_need(piece->file, piece->tensor, piece->first * size, (last + 1) * size);
  const moecl_status status = copy_rows(checkpoint, piece, to, packed, dst);
  free(packed);
  safetensors_done_with(piece->file, piece->tensor, piece->first * size, (last + 1) * size);
  return status;
}

/* ---- reading ---- */

static bool has_shape(const moecl_safetensors_tensor *tensor, int64_t items, int64_t rows,
                      int64_t columns) {
  const int64_t shape[3] = {items, rows, columns};
  return tensor && same_shape(tensor->shape, tensor->rank, shape, 3);
}

/* FFN_EITHER: is a stacked tensor as it should be if it weren't transposed, and not
 * if it were? gate_up is square at H = 2I and down at H = I, so one of them decides. */
static moecl_status looks_plain(moecl_checkpoint *checkpoint, const model_layer *layer,
                                const char *pattern, int64_t rows, int64_t columns, bool *plain) {
  const moecl_safetensors_tensor *tensor;
  const int64_t items = moecl_layer_tensor_items(&layer->params, MOECL_DOWN_PROJ);
  char *name;
  const moecl_status status = model_find(checkpoint, layer, pattern, 0, &name, NULL, &tensor);
  free(name);
  *plain = *plain ||
           (has_shape(tensor, items, rows, columns) && !has_shape(tensor, items, columns, rows));
  return status;
}

/* The family's networks of the layer, with a layout that is settled. */
static moecl_status ffn_of(moecl_checkpoint *checkpoint, const model_layer *layer,
                           family_ffn *ffn) {
  const moecl_layer_params *p = &layer->params;
  const int64_t rows = p->intermediate_size * (moecl_activation_is_gated(p->activation) ? 2 : 1);
  bool plain = false;
  const family_ffn *found;
  MOECL_TRY(model_find_experts(checkpoint, layer, &found));
  *ffn = *found;
  if (!(ffn->layout & FFN_EITHER)) return MOECL_OK;
  MOECL_TRY(looks_plain(checkpoint, layer, ffn->gate_up, rows, p->hidden_size, &plain));
  MOECL_TRY(
      looks_plain(checkpoint, layer, ffn->down, p->hidden_size, p->intermediate_size, &plain));
  if (!plain) ffn->layout |= FFN_TRANSPOSED;
  return MOECL_OK;
}

/* An item's pieces in the files, one or two; 0: zeros, from no file. */
static moecl_status find_pieces(moecl_checkpoint *checkpoint, const model_layer *layer,
                                moecl_tensor tensor, int64_t item, piece pieces[2], int *count) {
  const family *family = checkpoint->description.family;
  const bool per_expert = tensor == MOECL_GATE_UP_PROJ || tensor == MOECL_GATE_UP_BIAS ||
                          tensor == MOECL_DOWN_PROJ || tensor == MOECL_DOWN_BIAS;
  const bool one_for_all =
      tensor == MOECL_DOWN_BIAS && layer->is_moe && family->experts.layout & FFN_ONE_DOWN_BIAS;
  const family_ffn *shared;
  want wants[2];
  family_ffn ffn;
  MOECL_TRY(ffn_of(checkpoint, layer, &ffn));
  MOECL_TRY(model_find_ffn(checkpoint, layer, &family->shared, &family->other_shared, &shared));
  *count = wants_of(family, &ffn, shared, layer, tensor, wants);
  for (int i = 0; i < *count; i++) {
    wants[i].item = item;
    wants[i].items = layer->is_moe && per_expert && !one_for_all
                         ? moecl_layer_tensor_items(&layer->params, tensor)
                         : 0;
    MOECL_TRY(find_piece(checkpoint, layer, &wants[i], &pieces[i]));
  }
  return MOECL_OK;
}

/* ---- folding ----
 *
 * What a family multiplies by and layers don't is multiplied onto the weights, in double
 * and rounded once with them:
 * - The router reads x s / sqrt(H), s its scale, where experts read y = x w, w the weight
 *   of their norm: its logits are (W s / (w sqrt(H))) y.
 * - A route weight is multiplied by a number of its expert: what the expert gives is.
 * In 16 bits that is one more rounding of the weights, which matters no more than that
 * of activations: with random weights (H 2816, I 704, top 8), each alone makes an error of
 * 1.7e-3 in bf16 outputs, 2e-4 in fp16. The router rounds less often than Gemma 4's own
 * code does: 2.4e-3 of the logits in bf16, where that has 2.9e-3. */

/* Where the numbers are that a tensor is multiplied by; returns in how many pieces. */
static int factors_of(const family *family, const model_layer *layer, moecl_tensor tensor,
                      int64_t item, want wants[2]) {
  const moecl_layer_params *p = &layer->params;
  const bool of_router = tensor == MOECL_ROUTER_WEIGHT || tensor == MOECL_ROUTER_NOISE_WEIGHT;
  const bool given = tensor == MOECL_DOWN_PROJ || tensor == MOECL_DOWN_BIAS;
  if (layer->is_moe && of_router && family->router_norm) {
    wants[0] = want_whole(family->router_norm, p->hidden_size, 0);
    wants[1] = want_whole(family->router_scale, p->hidden_size, 0);
    return 2;
  }
  if (!layer->is_moe || !given || !family->expert_scale) return 0;
  wants[0] = (want){.pattern = family->expert_scale,
                    .rows = 1,
                    .file_rows = p->num_experts,
                    .first_row = item,
                    .row_step = 1};
  return 1;
}

static moecl_status find_factors(moecl_checkpoint *checkpoint, const model_layer *layer,
                                 moecl_tensor tensor, int64_t item, piece pieces[2], int *count) {
  want wants[2];
  *count = factors_of(checkpoint->description.family, layer, tensor, item, wants);
  for (int i = 0; i < *count; i++) MOECL_TRY(find_piece(checkpoint, layer, &wants[i], &pieces[i]));
  return MOECL_OK;
}

/* s / (w sqrt(H)), from the numbers of both pieces. */
static moecl_status router_factors(moecl_checkpoint *checkpoint, const piece *norm,
                                   const float *weight, const float *scale, double *factors) {
  for (int64_t i = 0; i < norm->rows; i++) {
    if (weight[i] == 0)
      return log_error(&checkpoint->log, MOECL_ERROR_UNSUPPORTED,
                       "%s: tensor '%.300s': element %" PRId64
                       " is 0, expected another number: what the router reads is the experts' "
                       "input divided by it",
                       moecl_safetensors_path(norm->file), norm->tensor->name, i);
    factors[i] = (double)scale[i] / ((double)weight[i] * sqrt((double)norm->rows));
  }
  return MOECL_OK;
}

/* The factors of a tensor's `columns` columns, which the caller frees; NULL: none. */
static moecl_status read_factors(moecl_checkpoint *checkpoint, const model_layer *layer,
                                 moecl_tensor tensor, int64_t item, int64_t columns,
                                 double **factors) {
  piece pieces[2];
  int count;
  *factors = NULL;
  MOECL_TRY(find_factors(checkpoint, layer, tensor, item, pieces, &count));
  if (count == 0) return MOECL_OK;
  float *numbers = malloc(2 * (size_t)columns * sizeof *numbers);
  *factors = malloc((size_t)columns * sizeof **factors);
  moecl_status status =
      numbers && *factors
          ? MOECL_OK
          : log_error(&checkpoint->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  for (int i = 0; i < count && status == MOECL_OK; i++)
    status = copy_piece(checkpoint, &pieces[i], MOECL_F32, (char *)(numbers + i * columns));
  if (status == MOECL_OK && count == 2)
    status = router_factors(checkpoint, &pieces[0], numbers, numbers + columns, *factors);
  for (int64_t c = 0; status == MOECL_OK && count == 1 && c < columns; c++)
    (*factors)[c] = (double)numbers[0];
  free(numbers);
  if (status == MOECL_OK) return MOECL_OK;
  free(*factors);
  *factors = NULL;
  return status;
}

/* ---- a layer's tensors ---- */

static moecl_status check_arguments(moecl_checkpoint *checkpoint, int64_t index,
                                    moecl_tensor tensor, int64_t item) {
  if (index < 0 || index >= checkpoint->description.num_layers || (int)tensor < 0 ||
      tensor >= MOECL_TENSOR_COUNT)
    return log_error(&checkpoint->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "%s: has no tensor %d in layer %lld", checkpoint->folder, (int)tensor,
                     (long long)index);
  const moecl_layer_params *params = &checkpoint->description.layers[index].params;
  if (item >= 0 && item < moecl_layer_tensor_items(params, tensor)) return MOECL_OK;
  return log_error(&checkpoint->log, MOECL_ERROR_INVALID_ARGUMENT,
                   "%s: layer %lld has no item %lld of tensor %d", checkpoint->folder,
                   (long long)index, (long long)item, (int)tensor);
}

moecl_status moecl_checkpoint_read(moecl_checkpoint *checkpoint, int64_t index, moecl_tensor tensor,
                                   int64_t item, moecl_dtype dtype, void *values) {
  if (!checkpoint) return MOECL_ERROR_INVALID_ARGUMENT;
  if (!values || (unsigned)dtype >= MOECL_DTYPE_COUNT)
    return log_error(&checkpoint->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "%s: values is NULL, or dtype %d is none", checkpoint->folder, (int)dtype);
  MOECL_TRY(check_arguments(checkpoint, index, tensor, item));
  const model_layer *layer = &checkpoint->description.layers[index];
  const moecl_dtype to = tensor == MOECL_SCORE_CORRECTION_BIAS ? MOECL_F32 : dtype;
  const int64_t size = moecl_layer_tensor_size(&layer->params, tensor);
  piece pieces[2];
  char *dst = values;
  double *factors = NULL;
  int count;
  MOECL_TRY(find_pieces(checkpoint, layer, tensor, item, pieces, &count));
  if (count == 0) memset(values, 0, (size_t)size * moecl_dtype_size(to));
  moecl_status status =
      count == 0 ? MOECL_OK
                 : read_factors(checkpoint, layer, tensor, item, pieces[0].columns, &factors);
  for (int i = 0; i < count && status == MOECL_OK; i++) {
    pieces[i].factors = factors;
    status = copy_piece(checkpoint, &pieces[i], to, dst);
    dst += (size_t)(pieces[i].rows * pieces[i].columns) * moecl_dtype_size(to);
  }
  free(factors);
  return status;
}

moecl_status moecl_checkpoint_read_expert_scale(moecl_checkpoint *checkpoint, int64_t index,
                                                float *scale) {
  if (!checkpoint || !scale) return MOECL_ERROR_INVALID_ARGUMENT;
  MOECL_TRY(check_arguments(checkpoint, index, MOECL_DOWN_PROJ, 0));
  const model_layer *layer = &checkpoint->description.layers[index];
  const char *pattern = checkpoint->description.family->expert_scale;
  const int64_t experts = layer->params.num_experts;
  for (int64_t e = 0; e < experts; e++) scale[e] = 1;
  if (!layer->is_moe || !pattern) return MOECL_OK;
  const want want = want_whole(pattern, experts, 0);
  piece piece;
  MOECL_TRY(find_piece(checkpoint, layer, &want, &piece));
  return copy_piece(checkpoint, &piece, MOECL_F32, (char *)scale);
}

moecl_status model_check_whole(moecl_checkpoint *checkpoint, const model_layer *layer,
                               const char *pattern, int64_t rows, int64_t columns) {
  const want want = want_whole(pattern, rows, columns);
  piece piece;
  return find_piece(checkpoint, layer, &want, &piece);
}

moecl_status model_read_whole(moecl_checkpoint *checkpoint, const model_layer *layer,
                              const char *pattern, int64_t rows, int64_t columns, moecl_dtype dtype,
                              void *values) {
  const want want = want_whole(pattern, rows, columns);
  piece piece;
  MOECL_TRY(find_piece(checkpoint, layer, &want, &piece));
  return copy_piece(checkpoint, &piece, dtype, values);
}

/* Finds all of a layer's tensors; their names, at most four an item, go to `names`. */
static moecl_status find_all(moecl_checkpoint *checkpoint, const model_layer *layer,
                             const char **names, size_t *count) {
  *count = 0;
  for (int t = 0; t < MOECL_TENSOR_COUNT; t++) {
    const int64_t items = moecl_layer_tensor_items(&layer->params, (moecl_tensor)t);
    for (int64_t item = 0; item < items; item++) {
      piece pieces[2];
      int found;
      MOECL_TRY(find_pieces(checkpoint, layer, (moecl_tensor)t, item, pieces, &found));
      for (int i = 0; i < found; i++) names[(*count)++] = pieces[i].tensor->name;
      MOECL_TRY(find_factors(checkpoint, layer, (moecl_tensor)t, item, pieces, &found));
      for (int i = 0; i < found; i++) names[(*count)++] = pieces[i].tensor->name;
    }
  }
  return MOECL_OK;
}

moecl_status moecl_checkpoint_check(moecl_checkpoint *checkpoint, int64_t index) {
  moecl_checkpoint_layer described;
  MOECL_TRY(moecl_checkpoint_get_layer(checkpoint, index, &described));
  const model_layer *layer = &checkpoint->description.layers[index];
  size_t most = 0, count;
  for (int t = 0; t < MOECL_TENSOR_COUNT; t++)
    most += 4 * (size_t)moecl_layer_tensor_items(&layer->params, (moecl_tensor)t);
  const char **names = malloc((most + 1) * sizeof *names);
  if (!names) return log_error(&checkpoint->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  moecl_status status = find_all(checkpoint, layer, names, &count);
  if (status == MOECL_OK)
    status = model_check_unread(checkpoint, layer, described.prefix, names, count);
  free(names);
  return status;
}
