// SPDX-License-Identifier: MIT
/* A layer's tensors in the canonical layout, out of whatever layout the files
 * have. Every matrix is made of at most two pieces (gate and up) with strides. */
#include "base/base.h"
#include "desc/tensors.h"
#include "model/coded.h"
#include "model/safetensors.h"
#include "model/unread.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Where it lies: element (r,c) is `first` + r row_stride + c column_stride. */
typedef struct piece {
  const moecl_safetensors *file;
  const moecl_safetensors_tensor *tensor;
  moecl_dtype dtype;
  int64_t rows, columns;
  uint64_t first, row_stride, column_stride;
  const double *factors; /* [columns], which it is multiplied by; NULL: none */
  model_coded coded;     /* instead of all but the sizes, where it is codes with scales */
} piece;

/* ---- finding ---- */

moecl_status model_missing(moecl_checkpoint *checkpoint, const char *name) {
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

bool model_same_shape(const int64_t *a, int rank_a, const int64_t *b, int rank_b) {
  int i = 0, j = 0;
  for (;;) {
    while (i < rank_a && a[i] == 1) i++;
    while (j < rank_b && b[j] == 1) j++;
    if (i == rank_a || j == rank_b) return i == rank_a && j == rank_b;
    if (a[i++] != b[j++]) return false;
  }
}

/* The shape that the file must have. */
static int expected_shape(const model_want *want, bool stacked, int64_t shape[MODEL_MAX_RANK]) {
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

moecl_status model_check_shape(moecl_checkpoint *checkpoint, const moecl_safetensors *file,
                               const moecl_safetensors_tensor *tensor, const int64_t *expected,
                               int rank) {
  if (model_same_shape(tensor->shape, tensor->rank, expected, rank)) return MOECL_OK;
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

bool model_is_stacked(const model_want *want) {
  return want->items > 0 && !strstr(want->pattern, "{expert}");
}

static void place(const model_want *want, bool stacked, piece *piece) {
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
  piece->coded.group = NULL;
}

static moecl_status find_piece(moecl_checkpoint *checkpoint, const model_layer *layer,
                               const model_want *want, piece *piece) {
  char *name;
  moecl_status status =
      model_find(checkpoint, layer, want->pattern, want->item, &name, &piece->file, &piece->tensor);
  if (status == MOECL_OK && !piece->tensor) status = model_missing(checkpoint, name);
  free(name);
  if (status != MOECL_OK) return status;
  const bool stacked = model_is_stacked(want);
  int64_t expected[MODEL_MAX_RANK];
  /* First the type: of what is packed the shape is another one too. */
  if (!moecl_safetensors_dtype(piece->tensor, &piece->dtype))
    return log_error(&checkpoint->log, MOECL_ERROR_UNSUPPORTED,
                     "%s: tensor '%.300s' is of type %s, expected F32, F16 or BF16",
                     moecl_safetensors_path(piece->file), piece->tensor->name,
                     piece->tensor->dtype);
  const int rank = expected_shape(want, stacked, expected);
  MOECL_TRY(model_check_shape(checkpoint, piece->file, piece->tensor, expected, rank));
  place(want, stacked, piece);
  return MOECL_OK;
}

/* The same of a matrix of experts, which may be codes with scales. */
static moecl_status find_matrix(moecl_checkpoint *checkpoint, const model_layer *layer,
                                const model_want *want, piece *piece) {
  MOECL_TRY(model_find_coded(checkpoint, layer, want, &piece->coded));
  if (!piece->coded.group) return find_piece(checkpoint, layer, want, piece);
  piece->file = piece->coded.file[CODED_CODES];
  piece->tensor = piece->coded.tensor[CODED_CODES];
  piece->rows = want->rows;
  piece->columns = want->columns;
  return MOECL_OK;
}

/* ---- what a layer's tensors are made of ---- */

/* gate_up of a network of `size` intermediate elements: `columns` H, or 0 for
 * its bias. Fills one or two wants and returns how many. */
static int want_gate_up(const family_ffn *ffn, bool gated, int64_t size, int64_t columns,
                        model_want wants[2]) {
  const char *both = columns ? ffn->gate_up : ffn->gate_up_bias;
  const model_want one = {.rows = size,
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

static model_want want_down(const family_ffn *ffn, int64_t hidden, int64_t size) {
  return (model_want){.pattern = ffn->down,
                      .rows = hidden,
                      .columns = size,
                      .file_rows = hidden,
                      .row_step = 1,
                      .transposed = ffn->layout & (FFN_TRANSPOSED | FFN_DOWN_TRANSPOSED),
                      .flat = ffn->layout & FFN_FLAT};
}

static model_want want_whole(const char *pattern, int64_t rows, int64_t columns) {
  return (model_want){
      .pattern = pattern, .rows = rows, .columns = columns, .file_rows = rows, .row_step = 1};
}

/* Fills one or two wants and returns how many; 0: zeros, from no file. `ffn` has the
 * experts, or the dense network. */
static int wants_of(const family *family, const family_ffn *ffn, const family_ffn *shared,
                    const model_layer *layer, moecl_tensor tensor, model_want wants[2]) {
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
  return tensor && model_same_shape(tensor->shape, tensor->rank, shape, 3);
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

moecl_status model_find_wants(moecl_checkpoint *checkpoint, const model_layer *layer,
                              moecl_tensor tensor, int64_t item, model_want wants[2], int *count) {
  const family *family = checkpoint->description.family;
  const bool per_expert = tensor == MOECL_GATE_UP_PROJ || tensor == MOECL_GATE_UP_BIAS ||
                          tensor == MOECL_DOWN_PROJ || tensor == MOECL_DOWN_BIAS;
  const bool one_for_all =
      tensor == MOECL_DOWN_BIAS && layer->is_moe && family->experts.layout & FFN_ONE_DOWN_BIAS;
  const family_ffn *shared;
  family_ffn ffn;
  MOECL_TRY(ffn_of(checkpoint, layer, &ffn));
  MOECL_TRY(model_find_ffn(checkpoint, layer, &family->shared, &family->other_shared, &shared));
  *count = wants_of(family, &ffn, shared, layer, tensor, wants);
  for (int i = 0; i < *count; i++) {
    wants[i].item = item;
    wants[i].items = layer->is_moe && per_expert && !one_for_all
                         ? moecl_layer_tensor_items(&layer->params, tensor)
                         : 0;
  }
  return MOECL_OK;
}

bool model_is_projection(moecl_tensor tensor) {
  return tensor == MOECL_GATE_UP_PROJ || tensor == MOECL_DOWN_PROJ ||
         tensor == MOECL_SHARED_GATE_UP_PROJ || tensor == MOECL_SHARED_DOWN_PROJ;
}

/* An item's pieces in the files, likewise. */
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
                      int64_t item, model_want wants[2]) {
  const moecl_layer_params *p = &layer->params;
  const bool of_router = tensor == MOECL_ROUTER_WEIGHT || tensor == MOECL_ROUTER_NOISE_WEIGHT;
  const bool given = tensor == MOECL_DOWN_PROJ || tensor == MOECL_DOWN_BIAS;
  if (layer->is_moe && of_router && family->router_norm) {
    wants[0] = want_whole(family->router_norm, p->hidden_size, 0);
    wants[1] = want_whole(family->router_scale, p->hidden_size, 0);
    return 2;
  }
  if (!layer->is_moe || !given || !family->expert_scale) return 0;
  wants[0] = (model_want){.pattern = family->expert_scale,
                          .rows = 1,
                          .file_rows = p->num_experts,
                          .first_row = item,
                          .row_step = 1};
  return 1;
}

/* Codes and their scales are taken as they are: nothing can be multiplied onto them. */
static moecl_status check_factors(moecl_checkpoint *checkpoint, const model_layer *layer,
                                  moecl_tensor tensor, int64_t item, const piece *piece) {
  const family *family = checkpoint->description.family;
  model_want factors[2];
  if (!piece->coded.group || factors_of(family, layer, tensor, item, factors) == 0) return MOECL_OK;
  return log_error(&checkpoint->log, MOECL_ERROR_UNSUPPORTED,
                   "%s: tensor '%.300s' is of type %s, expected F32, F16 or BF16: family %s "
                   "multiplies it by other numbers",
                   moecl_safetensors_path(piece->file), piece->tensor->name, piece->tensor->dtype,
                   family->name);
}

static moecl_status find_pieces(moecl_checkpoint *checkpoint, const model_layer *layer,
                                moecl_tensor tensor, int64_t item, piece pieces[2], int *count) {
  model_want wants[2];
  MOECL_TRY(model_find_wants(checkpoint, layer, tensor, item, wants, count));
  for (int i = 0; i < *count; i++) {
    MOECL_TRY(model_is_projection(tensor) ? find_matrix(checkpoint, layer, &wants[i], &pieces[i])
                                          : find_piece(checkpoint, layer, &wants[i], &pieces[i]));
    MOECL_TRY(check_factors(checkpoint, layer, tensor, item, &pieces[i]));
  }
  return MOECL_OK;
}

static moecl_status find_factors(moecl_checkpoint *checkpoint, const model_layer *layer,
                                 moecl_tensor tensor, int64_t item, piece pieces[2], int *count) {
  model_want wants[2];
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

/* ---- the format of a layer's weights ---- */

/* Why the weights of a layer are taken as numbers. */
static moecl_status take_as_numbers(moecl_checkpoint *checkpoint, model_layer *layer,
                                    const char *why) {
  layer->stored_format = MOECL_FORMAT_DTYPE;
  layer->remark = strdup(why);
  if (!layer->remark)
    return log_error(&checkpoint->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  log_write(&checkpoint->log, MOECL_LOG_WARNING, "%s: layer %lld: %s", checkpoint->folder,
            (long long)layer->number, why);
  return MOECL_OK;
}

static const char *stored_name(const model_stored *stored) {
  return stored->format == MOECL_FORMAT_DTYPE ? stored->tensor->dtype
                                              : moecl_format_name(stored->format);
}

/* What one matrix says of the layer's format, beside the first one's; *done: all is said. */
static moecl_status look_at_matrix(moecl_checkpoint *checkpoint, model_layer *layer,
                                   const model_stored *one, const model_stored *first, bool *done) {
  char why[900];
  *done = false;
  if (one->format != first->format)
    base_format(why, sizeof why,
                "'%.200s' is stored as %s and '%.200s' as %s: weights are dequantized, as a "
                "layer's have one format",
                first->name, stored_name(first), one->name, stored_name(one));
  else if (one->mixed_groups)
    base_format(why, sizeof why,
                "the columns of '%.200s' are in another order than its groups of scales "
                "(act-order): weights are dequantized",
                one->name);
  else return MOECL_OK;
  *done = true;
  return take_as_numbers(checkpoint, layer, why);
}

static moecl_status look_at_matrices(moecl_checkpoint *checkpoint, model_layer *layer,
                                     model_stored *first) {
  bool done = false;
  for (int t = 0; t < MOECL_TENSOR_COUNT && !done; t++) {
    model_want wants[2];
    int count = 0;
    if (!model_is_projection((moecl_tensor)t) ||
        moecl_layer_tensor_items(&layer->params, (moecl_tensor)t) == 0)
      continue;
    MOECL_TRY(model_find_wants(checkpoint, layer, (moecl_tensor)t, 0, wants, &count));
    for (int i = 0; i < count && !done; i++) {
      model_stored one;
      moecl_status status = model_look_at_stored(checkpoint, layer, &wants[i], &one);
      const bool is_first = status == MOECL_OK && one.tensor && !first->tensor;
      if (is_first) {
        *first = one;
        layer->stored_format = one.format;
      }
      if (status == MOECL_OK && one.tensor)
        status = look_at_matrix(checkpoint, layer, &one, first, &done);
      if (!is_first) free(one.name);
      if (status != MOECL_OK) return status;
    }
  }
  return MOECL_OK;
}

moecl_status model_find_format(moecl_checkpoint *checkpoint, int64_t index) {
  model_layer *layer = &checkpoint->description.layers[index];
  model_stored first = {0};
  if (layer->looked || checkpoint->description.quantization.num_groups == 0) return MOECL_OK;
  const moecl_status status = look_at_matrices(checkpoint, layer, &first);
  free(first.name);
  layer->looked = status == MOECL_OK;
  return status;
}

/* All experts are stored as the first is, unless their weights are taken as numbers. */
static moecl_status check_format(moecl_checkpoint *checkpoint, const model_layer *layer,
                                 const piece *piece) {
  const model_quantized_group *group = piece->coded.group;
  const moecl_format format = group ? group->format : MOECL_FORMAT_DTYPE;
  if (layer->stored_format == MOECL_FORMAT_DTYPE || format == layer->stored_format) return MOECL_OK;
  return log_error(&checkpoint->log, MOECL_ERROR_UNSUPPORTED,
                   "%s: tensor '%.300s' is stored as %s, expected %s as the layer's first expert",
                   moecl_safetensors_path(piece->file), piece->tensor->name,
                   group ? moecl_format_name(format) : piece->tensor->dtype,
                   moecl_format_name(layer->stored_format));
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

static moecl_status read_piece(moecl_checkpoint *checkpoint, const piece *piece, moecl_dtype to,
                               char *dst) {
  if (!piece->coded.group) return copy_piece(checkpoint, piece, to, dst);
  return model_read_coded(checkpoint, &piece->coded, &to, dst);
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
    status = read_piece(checkpoint, &pieces[i], to, dst);
    dst += (size_t)(pieces[i].rows * pieces[i].columns) * moecl_dtype_size(to);
  }
  free(factors);
  return status;
}

/* Of pieces that are all stored as the layer has its weights: as they are. */
static moecl_status read_codes(moecl_checkpoint *checkpoint, const model_layer *layer,
                               const piece *pieces, int count, char *dst) {
  for (int i = 0; i < count; i++) {
    MOECL_TRY(check_format(checkpoint, layer, &pieces[i]));
    MOECL_TRY(model_read_codes(checkpoint, &pieces[i].coded, dst));
    dst += moecl_format_bytes(layer->stored_format, (uint64_t)pieces[i].rows,
                              (uint64_t)pieces[i].columns);
  }
  return MOECL_OK;
}

/* Codes as doubles; other pieces by way of fp32, which holds what they are. */
static moecl_status read_numbers(moecl_checkpoint *checkpoint, int64_t index, moecl_tensor tensor,
                                 int64_t item, const piece *pieces, int count, double *numbers) {
  bool coded = count > 0;
  for (int i = 0; i < count; i++) coded = coded && pieces[i].coded.group;
  for (int i = 0; coded && i < count; i++) {
    MOECL_TRY(model_read_coded(checkpoint, &pieces[i].coded, NULL, numbers));
    numbers += pieces[i].rows * pieces[i].columns;
  }
  if (coded) return MOECL_OK;
  const model_layer *layer = &checkpoint->description.layers[index];
  const size_t size = (size_t)moecl_layer_tensor_size(&layer->params, tensor);
  float *values = malloc(size * sizeof *values);
  moecl_status status =
      values ? moecl_checkpoint_read(checkpoint, index, tensor, item, MOECL_F32, values)
             : log_error(&checkpoint->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  if (status == MOECL_OK) moecl_to_double(MOECL_F32, values, size, numbers);
  free(values);
  return status;
}

/* In a format with scales. */
static moecl_status read_in_format(moecl_checkpoint *checkpoint, int64_t index, moecl_tensor tensor,
                                   int64_t item, const moecl_layer_params *params, void *values) {
  const model_layer *layer = &checkpoint->description.layers[index];
  const size_t size = (size_t)moecl_layer_tensor_size(params, tensor);
  piece pieces[2];
  int count;
  MOECL_TRY(model_find_format(checkpoint, index));
  MOECL_TRY(find_pieces(checkpoint, layer, tensor, item, pieces, &count));
  if (layer->stored_format == params->weight_format)
    return read_codes(checkpoint, layer, pieces, count, values);
  double *numbers = malloc(size * sizeof *numbers);
  if (!numbers)
    return log_error(&checkpoint->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  const moecl_status status = read_numbers(checkpoint, index, tensor, item, pieces, count, numbers);
  if (status == MOECL_OK) moecl_layer_tensor_from_double(params, tensor, numbers, values);
  free(numbers);
  return status;
}

moecl_status moecl_checkpoint_read_as(moecl_checkpoint *checkpoint, int64_t index,
                                      moecl_tensor tensor, int64_t item,
                                      const moecl_layer_params *params, void *values) {
  if (!checkpoint) return MOECL_ERROR_INVALID_ARGUMENT;
  if (!values || !params)
    return log_error(&checkpoint->log, MOECL_ERROR_INVALID_ARGUMENT, "%s: values or params is NULL",
                     checkpoint->folder);
  if ((int)params->weight_format < 0 || params->weight_format >= MOECL_FORMAT_COUNT)
    return log_error(&checkpoint->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "%s: params' weight_format is %d, expected a moecl_format", checkpoint->folder,
                     (int)params->weight_format);
  MOECL_TRY(check_arguments(checkpoint, index, tensor, item));
  const moecl_layer_params *stored = &checkpoint->description.layers[index].params;
  const moecl_dtype dtype = moecl_layer_tensor_dtype(params, tensor);
  int64_t rows[2], columns[2];
  moecl_layer_tensor_shape(stored, tensor, &rows[0], &columns[0]);
  moecl_layer_tensor_shape(params, tensor, &rows[1], &columns[1]);
  if (rows[0] != rows[1] || columns[0] != columns[1] ||
      desc_tensor_matrices(stored, tensor) != desc_tensor_matrices(params, tensor))
    return log_error(&checkpoint->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "%s: layer %lld has tensor %d of other sizes than params", checkpoint->folder,
                     (long long)index, (int)tensor);
  if (dtype == MOECL_DTYPE_COUNT)
    return read_in_format(checkpoint, index, tensor, item, params, values);
  return moecl_checkpoint_read(checkpoint, index, tensor, item, dtype, values);
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
  const model_want want = want_whole(pattern, experts, 0);
  piece piece;
  MOECL_TRY(find_piece(checkpoint, layer, &want, &piece));
  return copy_piece(checkpoint, &piece, MOECL_F32, (char *)scale);
}

moecl_status model_check_whole(moecl_checkpoint *checkpoint, const model_layer *layer,
                               const char *pattern, int64_t rows, int64_t columns) {
  const model_want want = want_whole(pattern, rows, columns);
  piece piece;
  return find_piece(checkpoint, layer, &want, &piece);
}

moecl_status model_read_whole(moecl_checkpoint *checkpoint, const model_layer *layer,
                              const char *pattern, int64_t rows, int64_t columns, moecl_dtype dtype,
                              void *values) {
  const model_want want = want_whole(pattern, rows, columns);
  piece piece;
  MOECL_TRY(find_piece(checkpoint, layer, &want, &piece));
  return copy_piece(checkpoint, &piece, dtype, values);
}

enum { MAX_NAMES = 2 * (CODED_MAX_NAMES + 1) }; /* an item */

static void add_names(const piece *piece, const char **names, size_t *count) {
  if (!piece->coded.group) names[(*count)++] = piece->tensor->name;
  for (size_t i = 0; piece->coded.group && i < piece->coded.num_names; i++)
    names[(*count)++] = piece->coded.names[i];
}

/* Finds all of a layer's tensors; their names, at most MAX_NAMES an item, go to `names`. */
static moecl_status find_all(moecl_checkpoint *checkpoint, const model_layer *layer,
                             const char **names, size_t *count) {
  *count = 0;
  for (int t = 0; t < MOECL_TENSOR_COUNT; t++) {
    const int64_t items = moecl_layer_tensor_items(&layer->params, (moecl_tensor)t);
    for (int64_t item = 0; item < items; item++) {
      piece pieces[2];
      int found;
      MOECL_TRY(find_pieces(checkpoint, layer, (moecl_tensor)t, item, pieces, &found));
      for (int i = 0; i < found; i++) {
        if (model_is_projection((moecl_tensor)t))
          MOECL_TRY(check_format(checkpoint, layer, &pieces[i]));
        add_names(&pieces[i], names, count);
      }
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
    most += MAX_NAMES * (size_t)moecl_layer_tensor_items(&layer->params, (moecl_tensor)t);
  const char **names = malloc((most + 1) * sizeof *names);
  if (!names) return log_error(&checkpoint->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  moecl_status status = find_all(checkpoint, layer, names, &count);
  if (status == MOECL_OK)
    status = model_check_unread(checkpoint, layer, described.prefix, names, count);
  free(names);
  return status;
}
