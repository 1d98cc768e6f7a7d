// SPDX-License-Identifier: MIT
#include "model/coded.h"

#include "base/base.h"
#include "desc/quantized.h"
#include "model/safetensors.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static moecl_status no_memory(const moecl_checkpoint *checkpoint) {
  return log_error(&checkpoint->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
}

static const desc_format *format_of(const model_coded *coded) {
  return &desc_formats[coded->group->format];
}

/* ---- names ---- */

/* Adds each alternative of `pattern` without ".weight" and with each of `suffixes`. */
static void add_suffixed(base_text *text, const char *pattern, const char *suffixes) {
  for (const char *at = pattern; *at;) {
    const size_t size = strcspn(at, "|");
    const bool weight = size >= 7 && memcmp(at + size - 7, ".weight", 7) == 0;
    for (const char *suffix = suffixes; *suffix;) {
      const size_t length = strcspn(suffix, "|");
      if (text->size > 0) base_text_add(text, "|", 1);
      base_text_add(text, at, size - (weight ? 7 : 0));
      base_text_add(text, suffix, length);
      suffix += length + (suffix[length] == '|');
    }
    at += size + (at[size] == '|');
  }
}

/* *name is malloc'ed. */
static moecl_status find_suffixed(moecl_checkpoint *checkpoint, const model_layer *layer,
                                  const model_want *want, const char *suffixes, char **name,
                                  const moecl_safetensors **file,
                                  const moecl_safetensors_tensor **tensor) {
  base_text pattern = {0};
  *name = NULL;
  *tensor = NULL;
  add_suffixed(&pattern, want->pattern, suffixes);
  const moecl_status status =
      pattern.failed ? no_memory(checkpoint)
                     : model_find(checkpoint, layer, pattern.data, want->item, name, file, tensor);
  base_text_free(&pattern);
  return status;
}

/* Is it among "F8_E4M3|I8"? */
static bool is_type(const moecl_safetensors_tensor *tensor, const char *types) {
  const size_t size = strlen(tensor->dtype);
  for (const char *at = types; at; at = strchr(at, '|')) {
    at += *at == '|';
    if (strncmp(at, tensor->dtype, size) == 0 && strchr("|", at[size])) return true;
  }
  return false;
}

/* Has the group the module whose codes are called so? */
static bool is_target(const model_quantized_group *group, const char *codes, bool *known) {
  char module[512];
  const size_t size = strlen(codes), behind = strlen(group->scheme->codes);
  if (size - behind >= sizeof module) return false;
  memcpy(module, codes, size - behind);
  module[size - behind] = '\0';
  return model_group_has(group, module, known);
}

/* The first group that has the module, and the codes, where they are there. A group alone has all
 * modules that are stored as it says: who isn't is not quantized. */
static moecl_status find_group(moecl_checkpoint *checkpoint, const model_layer *layer,
                               const model_want *want, const model_quantized_group **group,
                               char **name, const moecl_safetensors **file,
                               const moecl_safetensors_tensor **tensor, bool *known) {
  const model_quantization *q = &checkpoint->description.quantization;
  *name = NULL;
  *known = true;
  for (size_t i = 0; i < q->num_groups; i++) {
    bool understood = true;
    free(*name);
    *group = &q->groups[i];
    MOECL_TRY(find_suffixed(checkpoint, layer, want, (*group)->scheme->codes, name, file, tensor));
    if (*tensor && (q->num_groups == 1 || is_target(*group, (*tensor)->name, &understood)))
      return MOECL_OK;
    *known = *known && understood;
    *tensor = NULL;
  }
  *group = NULL;
  return MOECL_OK;
}

/* ---- shapes ---- */

static int64_t per_unit(const model_packing *packing, uint32_t bits) {
  return packing->unit / (int64_t)bits;
}

/* [rows, columns] of numbers of `bits` as they are packed. */
static int packed_shape(const model_packing *packing, uint32_t bits, int64_t rows, int64_t columns,
                        int64_t shape[3]) {
  const uint64_t per = (uint64_t)per_unit(packing, bits);
  if (packing->in_blocks) {
    shape[0] = rows;
    shape[1] = (int64_t)base_div_up((uint64_t)columns, 32);
    shape[2] = 16;
    return 3;
  }
  int64_t *along = packing->along_rows ? &rows : &columns;
  *along = (int64_t)base_div_up((uint64_t)*along, per);
  shape[0] = packing->transposed ? columns : rows;
  shape[1] = packing->transposed ? rows : columns;
  return 2;
}

/* How many scales the matrix has in the file, as rows and columns of them. */
static void scale_counts(const model_coded *coded, int64_t *rows, int64_t *columns) {
  const desc_format *format = format_of(coded);
  *rows = *columns = 1;
  if (format->scale == ELEMENT_NONE) return;
  *rows = (int64_t)base_div_up((uint64_t)coded->want.file_rows, format->scale_rows);
  if (format->block) *columns = (int64_t)base_div_up((uint64_t)coded->want.columns, format->block);
}

int model_part_shape(const model_coded *coded, coded_part part, int64_t shape[3]) {
  const model_scheme *scheme = coded->group->scheme;
  const uint32_t bits = format_of(coded)->bits;
  int64_t rows, columns;
  scale_counts(coded, &rows, &columns);
  switch (part) {
  case CODED_CODES:
    return packed_shape(&scheme->packing, bits, coded->want.file_rows, coded->want.columns, shape);
  case CODED_ZERO_POINTS: return packed_shape(&scheme->zero_packing, bits, rows, columns, shape);
  case CODED_SCALES:
    shape[0] = scheme->packing.transposed ? columns : rows;
    shape[1] = scheme->packing.transposed ? rows : columns;
    return 2;
  case CODED_GROUP_INDEX: shape[0] = coded->want.columns; return 1;
  case CODED_SHAPE: shape[0] = 2; return 1;
  default: shape[0] = 1; return 1;
  }
}

static const char *part_types(const model_coded *coded, coded_part part) {
  const bool e8m0 = format_of(coded)->scale == ELEMENT_E8M0;
  switch (part) {
  case CODED_CODES: return model_code_types(coded->group->scheme, format_of(coded));
  case CODED_SCALES:
    if (e8m0) return "U8|F8_E8M0";
    return format_of(coded)->scale == ELEMENT_E4M3 ? "F8_E4M3" : "F32|F16|BF16|F8_E8M0";
  case CODED_MATRIX_SCALE: return "F32|F16|BF16";
  case CODED_SHAPE: return "I64|I32";
  default: return "I32";
  }
}

static moecl_status check_part(moecl_checkpoint *checkpoint, const model_coded *coded,
                               coded_part part) {
  int64_t shape[MODEL_MAX_RANK], *at = shape;
  const moecl_safetensors_tensor *tensor = coded->tensor[part];
  if (!is_type(tensor, part_types(coded, part)))
    return log_error(&checkpoint->log, MOECL_ERROR_UNSUPPORTED,
                     "%s: tensor '%.300s' is of type %s, expected %s as %s of %s weights",
                     moecl_safetensors_path(coded->file[part]), tensor->name, tensor->dtype,
                     part_types(coded, part),
                     part == CODED_CODES    ? "codes"
                     : part == CODED_SCALES ? "scales"
                                            : "a part",
                     format_of(coded)->name);
  if (model_is_stacked(&coded->want) && part != CODED_SHAPE) *at++ = coded->want.items;
  const int rank = (int)(at - shape) + model_part_shape(coded, part, at);
  return model_check_shape(checkpoint, coded->file[part], tensor, shape, rank);
}

/* ---- finding ---- */

static void add_name(model_coded *coded, const moecl_safetensors_tensor *tensor) {
  if (tensor && coded->num_names < CODED_MAX_NAMES) coded->names[coded->num_names++] = tensor->name;
}

static moecl_status find_part(moecl_checkpoint *checkpoint, const model_layer *layer,
                              model_coded *coded, coded_part part, const char *suffix,
                              bool required) {
  char *name;
  if (!suffix) return MOECL_OK;
  moecl_status status = find_suffixed(checkpoint, layer, &coded->want, suffix, &name,
                                      &coded->file[part], &coded->tensor[part]);
  if (status == MOECL_OK && required && !coded->tensor[part])
    status = model_missing(checkpoint, name);
  free(name);
  if (status != MOECL_OK || !coded->tensor[part]) return status;
  add_name(coded, coded->tensor[part]);
  return check_part(checkpoint, coded, part);
}

/* What is of the module and not used: so that nobody takes it for a part of the function. */
static moecl_status find_unread(moecl_checkpoint *checkpoint, const model_layer *layer,
                                model_coded *coded) {
  for (const char *at = coded->group->scheme->unread; at && *at;) {
    const size_t size = strcspn(at, "|");
    const moecl_safetensors *file;
    const moecl_safetensors_tensor *tensor;
    char suffix[64], *name;
    if (size >= sizeof suffix) return MOECL_OK;
    memcpy(suffix, at, size);
    suffix[size] = '\0';
    const moecl_status status =
        find_suffixed(checkpoint, layer, &coded->want, suffix, &name, &file, &tensor);
    free(name);
    if (status != MOECL_OK) return status;
    add_name(coded, tensor);
    at += size + (at[size] == '|');
  }
  return MOECL_OK;
}

/* Rows of a block lie together in the file and in the matrix. */
static moecl_status check_blocks(moecl_checkpoint *checkpoint, const model_coded *coded) {
  const model_want *want = &coded->want;
  const int64_t height = format_of(coded)->scale_rows;
  const bool whole = want->rows == want->file_rows;
  if (height == 1 || whole || (want->row_step == 1 && want->first_row % height == 0))
    return MOECL_OK;
  return log_error(&checkpoint->log, MOECL_ERROR_UNSUPPORTED,
                   "%s: tensor '%.300s' has gate and up in the same blocks of %" PRId64
                   " rows, expected each to begin a block",
                   moecl_safetensors_path(coded->file[CODED_CODES]),
                   coded->tensor[CODED_CODES]->name, height);
}

static moecl_status check_stored_shape(moecl_checkpoint *checkpoint, const model_coded *coded) {
  double shape[2];
  const moecl_safetensors_tensor *tensor = coded->tensor[CODED_SHAPE];
  if (!tensor) return MOECL_OK;
  MOECL_TRY(moecl_safetensors_to_double(coded->file[CODED_SHAPE], tensor, 0, 2, shape));
  if (shape[0] == (double)coded->want.file_rows && shape[1] == (double)coded->want.columns)
    return MOECL_OK;
  return log_error(&checkpoint->log, MOECL_ERROR_IO,
                   "%s: tensor '%.300s' says [%.0f, %.0f], expected [%" PRId64 ", %" PRId64 "]",
                   moecl_safetensors_path(coded->file[CODED_SHAPE]), tensor->name, shape[0],
                   shape[1], coded->want.file_rows, coded->want.columns);
}

static moecl_status find_parts(moecl_checkpoint *checkpoint, const model_layer *layer,
                               model_coded *coded) {
  const model_scheme *scheme = coded->group->scheme;
  const desc_format *format = format_of(coded);
  MOECL_TRY(check_part(checkpoint, coded, CODED_CODES));
  MOECL_TRY(find_part(checkpoint, layer, coded, CODED_SCALES, scheme->scales, true));
  MOECL_TRY(find_part(checkpoint, layer, coded, CODED_ZERO_POINTS, scheme->zero_points,
                      format->zero_points));
  MOECL_TRY(find_part(checkpoint, layer, coded, CODED_MATRIX_SCALE, scheme->matrix_scale, true));
  MOECL_TRY(find_part(checkpoint, layer, coded, CODED_GROUP_INDEX, scheme->group_index, false));
  MOECL_TRY(find_part(checkpoint, layer, coded, CODED_SHAPE, scheme->shape, false));
  MOECL_TRY(find_unread(checkpoint, layer, coded));
  MOECL_TRY(check_blocks(checkpoint, coded));
  return check_stored_shape(checkpoint, coded);
}

/* Are there plain elements under the usual name? */
static moecl_status find_plain(moecl_checkpoint *checkpoint, const model_layer *layer,
                               const model_want *want, char **name,
                               const moecl_safetensors_tensor **tensor) {
  MOECL_TRY(model_find(checkpoint, layer, want->pattern, want->item, name, NULL, tensor));
  if (*tensor && !moecl_safetensors_dtype(*tensor, NULL)) *tensor = NULL;
  return MOECL_OK;
}

static moecl_status no_group(moecl_checkpoint *checkpoint, const char *name, bool known) {
  if (known) return model_missing(checkpoint, name);
  return log_error(&checkpoint->log, MOECL_ERROR_UNSUPPORTED,
                   "%s: quantization_config: a regular expression among the targets of "
                   "config_groups cannot be read, so it is not known which of them '%.300s' is of",
                   checkpoint->config_path, name);
}

moecl_status model_find_coded(moecl_checkpoint *checkpoint, const model_layer *layer,
                              const model_want *want, model_coded *coded) {
  const model_quantization *q = &checkpoint->description.quantization;
  const moecl_safetensors_tensor *plain = NULL;
  char *name = NULL;
  bool known;
  *coded = (model_coded){.want = *want};
  if (!q->method || want->columns == 0) return MOECL_OK;
  moecl_status status = find_plain(checkpoint, layer, want, &name, &plain);
  free(name);
  if (status != MOECL_OK || plain) return status;
  if (q->refused) return log_error(&checkpoint->log, MOECL_ERROR_UNSUPPORTED, "%s", q->refused);
  status = find_group(checkpoint, layer, want, &coded->group, &name, &coded->file[CODED_CODES],
                      &coded->tensor[CODED_CODES], &known);
  if (status == MOECL_OK && !coded->group) status = no_group(checkpoint, name, known);
  free(name);
  if (status != MOECL_OK) return status;
  add_name(coded, coded->tensor[CODED_CODES]);
  return find_parts(checkpoint, layer, coded);
}

/* ---- numbers of the files ---- */

static uint64_t load(const uint8_t *at, unsigned bytes) {
  uint64_t value = 0;
  for (unsigned i = bytes; i-- > 0;) value = value << 8 | at[i];
  return value;
}

/* Packed numbers of one item. */
typedef struct packed {
  const model_packing *packing;
  const uint8_t *first;
  uint64_t unit_rows, unit_columns;
  uint32_t bits, per;
} packed;

static uint32_t get(const packed *p, uint64_t row, uint64_t column) {
  const bool along_rows = p->packing->along_rows;
  const uint32_t place = (uint32_t)((along_rows ? row : column) % p->per);
  const uint64_t r = along_rows ? row / p->per : row, c = along_rows ? column : column / p->per;
  const uint64_t unit = p->packing->transposed ? c * p->unit_rows + r : r * p->unit_columns + c;
  const unsigned bytes = (unsigned)p->packing->unit / 8;
  const uint32_t lane = p->packing->lanes ? p->packing->lanes[place] : place;
  return (uint32_t)(load(p->first + unit * bytes, bytes) >> lane * p->bits) & ((1u << p->bits) - 1);
}

static packed packed_part(const model_coded *coded, coded_part part, uint64_t rows,
                          uint64_t columns) {
  const model_scheme *scheme = coded->group->scheme;
  const uint32_t bits = format_of(coded)->bits;
  packed p = {.packing = part == CODED_CODES ? &scheme->packing : &scheme->zero_packing,
              .bits = bits,
              .unit_rows = rows,
              .unit_columns = columns};
  p.per = (uint32_t)per_unit(p.packing, bits);
  uint64_t *along = p.packing->along_rows ? &p.unit_rows : &p.unit_columns;
  *along = base_div_up(p.packing->in_blocks ? base_round_up(*along, 32) : *along, p.per);
  const uint64_t size = p.unit_rows * p.unit_columns * (uint64_t)p.packing->unit / 8;
  const uint64_t item = model_is_stacked(&coded->want) ? (uint64_t)coded->want.item : 0;
  p.first = (const uint8_t *)coded->tensor[part]->data + item * size;
  return p;
}

/* One number of a tensor of scales. */
static double number(const moecl_safetensors_tensor *tensor, uint64_t i) {
  double value = NAN;
  moecl_dtype dtype;
  uint32_t aligned = 0;
  const uint8_t *at = tensor->data;
  if (moecl_safetensors_dtype(tensor, &dtype)) {
    memcpy(&aligned, at + i * moecl_dtype_size(dtype), moecl_dtype_size(dtype));
    moecl_to_double(dtype, &aligned, 1, &value);
    return value;
  }
  return desc_element_decode(strcmp(tensor->dtype, "F8_E4M3") == 0 ? ELEMENT_E4M3 : ELEMENT_E8M0,
                             at[i]);
}

static int32_t index_at(const model_coded *coded, uint64_t column) {
  const uint64_t item = model_is_stacked(&coded->want) ? (uint64_t)coded->want.item : 0;
  const uint64_t first = item * (uint64_t)coded->want.columns;
  return (int32_t)load(
      (const uint8_t *)coded->tensor[CODED_GROUP_INDEX]->data + 4 * (first + column), 4);
}

/* ---- reading ---- */

/* A matrix out of the files: codes and zero points in the canonical layout, scales as numbers. */
typedef struct reader {
  const model_coded *coded;
  const desc_format *format;
  moecl_format_layout at;
  uint8_t *matrix;
  double *scales; /* [scale_rows][scale_columns] */
  double all;
} reader;

static uint64_t file_row(const model_coded *coded, uint64_t row) {
  return (uint64_t)coded->want.first_row + row * (uint64_t)coded->want.row_step;
}

static moecl_status bad_number(moecl_checkpoint *checkpoint, const model_coded *coded,
                               coded_part part, uint64_t row, uint64_t column, const char *what) {
  char expert[40] = "";
  if (model_is_stacked(&coded->want))
    base_format(expert, sizeof expert, "expert %" PRId64 ", ", coded->want.item);
  return log_error(&checkpoint->log, MOECL_ERROR_IO,
                   "%s: tensor '%.300s': %srow %" PRIu64 ", column %" PRIu64 " %s",
                   moecl_safetensors_path(coded->file[part]), coded->tensor[part]->name, expert,
                   row, column, what);
}

/* The first NaN of a row; `columns`: none. */
static uint64_t find_nan(const reader *r, const uint8_t *row) {
  const uint64_t columns = (uint64_t)r->coded->want.columns;
  uint64_t c = 0;
  if (r->format->element != ELEMENT_E4M3) return columns;
  while (c < columns && (row[c] & 0x7f) != 0x7f) c++;
  return c;
}

static moecl_status read_codes(moecl_checkpoint *checkpoint, reader *r) {
  const model_coded *coded = r->coded;
  const uint64_t columns = (uint64_t)coded->want.columns;
  const packed p = packed_part(coded, CODED_CODES, (uint64_t)coded->want.file_rows, columns);
  const bool in_order = !p.packing->transposed && !p.packing->along_rows && !p.packing->lanes;
  const uint64_t row_bytes = p.unit_columns * (uint64_t)p.packing->unit / 8;
  const uint8_t change = coded->group->scheme->offset_binary && p.bits == 8 ? 0x80 : 0;
  for (uint64_t i = 0; i < (uint64_t)coded->want.rows; i++) {
    const uint64_t from = file_row(coded, i);
    uint8_t *row = r->matrix + i * r->at.row_bytes;
    if (in_order) memcpy(row, p.first + from * row_bytes, (size_t)r->at.row_bytes);
    else memset(row, 0, (size_t)r->at.row_bytes);
    for (uint64_t c = 0; !in_order && c < columns; c++)
      row[c * p.bits / 8] |= (uint8_t)(get(&p, from, c) << c * p.bits % 8);
    for (uint64_t c = 0; change && c < columns; c++) row[c] ^= change;
    const uint64_t nan = find_nan(r, row);
    if (nan < columns) return bad_number(checkpoint, coded, CODED_CODES, from, nan, "is NaN");
  }
  return MOECL_OK;
}

/* Where the file has the scale of a block of the matrix. */
static uint64_t scale_index(const model_coded *coded, uint64_t row, uint64_t column) {
  int64_t rows, columns;
  scale_counts(coded, &rows, &columns);
  const bool transposed = coded->group->scheme->packing.transposed;
  const uint64_t item = model_is_stacked(&coded->want) ? (uint64_t)coded->want.item : 0;
  return item * (uint64_t)(rows * columns) +
         (transposed ? column * (uint64_t)rows + row : row * (uint64_t)columns + column);
}

static uint64_t scale_row(const reader *r, uint64_t block_row) {
  return file_row(r->coded, block_row * r->format->scale_rows) / r->format->scale_rows;
}

static moecl_status read_scales(moecl_checkpoint *checkpoint, reader *r) {
  const moecl_safetensors_tensor *tensor = r->coded->tensor[CODED_SCALES];
  for (uint64_t i = 0; i < r->at.scale_rows; i++)
    for (uint64_t c = 0; c < r->at.scale_columns; c++) {
      const uint64_t row = scale_row(r, i);
      const double scale = number(tensor, scale_index(r->coded, row, c));
      r->scales[i * r->at.scale_columns + c] = scale;
      if (!isfinite(scale))
        return bad_number(checkpoint, r->coded, CODED_SCALES, row, c, "is not a finite number");
    }
  return MOECL_OK;
}

/* The matrix' own scale, fp32; where nothing else has scales it is the file's only one. */
static moecl_status read_matrix_scale(moecl_checkpoint *checkpoint, reader *r) {
  const coded_part part = r->format->scale == ELEMENT_NONE ? CODED_SCALES : CODED_MATRIX_SCALE;
  const uint64_t item = model_is_stacked(&r->coded->want) ? (uint64_t)r->coded->want.item : 0;
  r->all = 1;
  if (!r->format->matrix_scale) return MOECL_OK;
  const double stored = number(r->coded->tensor[part], item);
  r->all = (double)(float)(r->coded->group->scheme->reciprocal ? 1 / stored : stored);
  return isfinite(r->all)
             ? MOECL_OK
             : bad_number(checkpoint, r->coded, part, item, 0, "gives no finite scale");
}

/* Zero points, or that they are the middle of the codes where the format has none. */
static moecl_status read_zero_points(moecl_checkpoint *checkpoint, reader *r) {
  const model_coded *coded = r->coded;
  int64_t rows, columns;
  if (!coded->tensor[CODED_ZERO_POINTS]) return MOECL_OK;
  scale_counts(coded, &rows, &columns);
  const packed p = packed_part(coded, CODED_ZERO_POINTS, (uint64_t)rows, (uint64_t)columns);
  const uint32_t mask = (1u << p.bits) - 1, middle = 1u << (p.bits - 1);
  for (uint64_t i = 0; i < (uint64_t)coded->want.rows; i++)
    for (uint64_t c = 0; c < (uint64_t)columns; c++) {
      const uint64_t row = file_row(coded, i);
      const uint32_t zero = (get(&p, row, c) + (uint32_t)coded->group->scheme->zero_offset) & mask;
      if (r->format->zero_points)
        r->matrix[r->at.zero_points + i * r->at.scale_columns + c] = (uint8_t)zero;
      else if (zero != middle)
        return bad_number(checkpoint, coded, CODED_ZERO_POINTS, row, c,
                          "is not the zero point of symmetric weights, which config.json says "
                          "they are");
    }
  return MOECL_OK;
}

/* `matrix` NULL: one of its own, for codes and zero points. */
static moecl_status open_reader(moecl_checkpoint *checkpoint, const model_coded *coded,
                                void *matrix, reader *r) {
  const uint64_t rows = (uint64_t)coded->want.rows, columns = (uint64_t)coded->want.columns;
  *r = (reader){.coded = coded, .format = format_of(coded)};
  if (!desc_format_layout(r->format, rows, columns, &r->at)) return no_memory(checkpoint);
  for (int part = 0; part < CODED_PARTS; part++)
    if (coded->tensor[part]) MOECL_TRY(safetensors_still_whole(coded->file[part]));
  r->matrix = matrix ? matrix : malloc((size_t)r->at.bytes);
  r->scales = malloc((size_t)(r->at.scale_rows * r->at.scale_columns + 1) * sizeof *r->scales);
  if (!r->matrix || !r->scales) return no_memory(checkpoint);
  if (matrix) memset(matrix, 0, (size_t)r->at.bytes);
  const packed p = packed_part(coded, CODED_CODES, (uint64_t)coded->want.file_rows, columns);
  const uint64_t size = p.unit_rows * p.unit_columns * (uint64_t)p.packing->unit / 8;
  const uint64_t first = (uint64_t)(p.first - (const uint8_t *)coded->tensor[CODED_CODES]->data);
  safetensors_will_need(coded->file[CODED_CODES], coded->tensor[CODED_CODES], first, size);
  MOECL_TRY(read_codes(checkpoint, r));
  safetensors_done_with(coded->file[CODED_CODES], coded->tensor[CODED_CODES], first, size);
  MOECL_TRY(read_scales(checkpoint, r));
  MOECL_TRY(read_matrix_scale(checkpoint, r));
  return read_zero_points(checkpoint, r);
}

static void close_reader(reader *r, const void *matrix) {
  if (r->matrix != matrix) free(r->matrix);
  free(r->scales);
}

/* ---- as the format has it ---- */

/* fp16's subnormal numbers are rounded to: by less than the least of them. */
static moecl_status put_scale(moecl_checkpoint *checkpoint, const reader *r, uint64_t i,
                              double scale) {
  static const double least_normal = 0x1p-14;
  uint8_t *scales = r->matrix + r->at.scales;
  const int element = r->format->scale;
  if (element != ELEMENT_F32 && element != ELEMENT_F16) {
    scales[i] = (uint8_t)desc_element_encode(element, scale);
    return MOECL_OK;
  }
  const moecl_dtype dtype = element == ELEMENT_F32 ? MOECL_F32 : MOECL_F16;
  uint8_t *at = scales + i * moecl_dtype_size(dtype);
  double held;
  moecl_from_double(dtype, &scale, 1, at);
  moecl_to_double(dtype, at, 1, &held);
  if (held == scale || (element == ELEMENT_F16 && fabs(scale) < least_normal)) return MOECL_OK;
  const uint64_t row = scale_row(r, i / r->at.scale_columns);
  return log_error(
      &checkpoint->log, MOECL_ERROR_UNSUPPORTED,
      "%s: tensor '%.300s': row %" PRIu64 ", column %" PRIu64
      " is a scale of %.9g, which %s's %s cannot hold; layer.weight_format bf16 or fp32 "
      "takes the weights as numbers",
      moecl_safetensors_path(r->coded->file[CODED_SCALES]), r->coded->tensor[CODED_SCALES]->name,
      row, i % r->at.scale_columns, scale, r->format->name, moecl_dtype_name(dtype));
}

static bool in_order_of_groups(const model_coded *coded, uint64_t *column) {
  const uint32_t block = format_of(coded)->block;
  const uint64_t columns = (uint64_t)coded->want.columns;
  if (!coded->tensor[CODED_GROUP_INDEX]) return true;
  for (*column = 0; *column < columns; ++*column)
    if (index_at(coded, *column) != (int32_t)(block ? *column / block : 0)) return false;
  return true;
}

moecl_status model_read_codes(moecl_checkpoint *checkpoint, const model_coded *coded,
                              void *matrix) {
  uint64_t column;
  reader r = {0};
  if (!in_order_of_groups(coded, &column))
    return log_error(&checkpoint->log, MOECL_ERROR_UNSUPPORTED,
                     "%s: tensor '%.300s': element %" PRIu64
                     " is another group than its place (act-order), and the layer's first expert "
                     "has none such; layer.weight_format bf16 or fp32 takes the weights as numbers",
                     moecl_safetensors_path(coded->file[CODED_GROUP_INDEX]),
                     coded->tensor[CODED_GROUP_INDEX]->name, column);
  moecl_status status = open_reader(checkpoint, coded, matrix, &r);
  for (uint64_t i = 0; status == MOECL_OK && i < r.at.scale_rows * r.at.scale_columns; i++)
    status = put_scale(checkpoint, &r, i, r.scales[i]);
  if (status == MOECL_OK && r.format->matrix_scale)
    moecl_from_double(MOECL_F32, &r.all, 1, (uint8_t *)matrix + r.at.matrix_scale);
  close_reader(&r, matrix);
  return status;
}

/* ---- as numbers ---- */

/* The group of each column; false, logged: a number of none. NULL *groups: in order. */
static moecl_status read_groups(moecl_checkpoint *checkpoint, const reader *r, uint64_t *groups) {
  const uint64_t columns = (uint64_t)r->coded->want.columns;
  for (uint64_t c = 0; c < columns; c++) {
    const bool indexed = r->coded->tensor[CODED_GROUP_INDEX] != NULL;
    const int64_t group = indexed            ? index_at(r->coded, c)
                          : r->format->block ? (int64_t)(c / r->format->block)
                                             : 0;
    groups[c] = (uint64_t)group;
    if (group < 0 || (r->at.scale_columns && groups[c] >= r->at.scale_columns))
      return bad_number(checkpoint, r->coded, CODED_GROUP_INDEX, 0, c, "is no group's number");
  }
  return MOECL_OK;
}

static void decode_row(const reader *r, const uint64_t *groups, const double table[256],
                       uint64_t row, double *numbers) {
  const uint64_t columns = (uint64_t)r->coded->want.columns, width = r->at.scale_columns;
  const double *scales = r->scales + row / r->format->scale_rows * width;
  const uint8_t *zeros = r->matrix + r->at.zero_points + row * width;
  const uint8_t *codes = r->matrix + row * r->at.row_bytes;
  const double middle = r->format->element == ELEMENT_INT4 ? 8 : 0;
  for (uint64_t c = 0; c < columns; c++) {
    const uint32_t code =
        r->format->bits == 8 ? codes[c] : (uint32_t)codes[c / 2] >> c % 2 * 4 & 0xf;
    const double zero = r->format->zero_points ? zeros[groups[c]] : middle;
    const double scale = r->format->scale != ELEMENT_NONE ? scales[groups[c]] * r->all : r->all;
    numbers[c] = (table[code] - zero) * scale;
  }
}

/* A row to elements of a type, which have to be finite. */
static moecl_status put_row(moecl_checkpoint *checkpoint, const reader *r, uint64_t row,
                            const double *numbers, moecl_dtype dtype, char *dst) {
  const uint64_t columns = (uint64_t)r->coded->want.columns;
  moecl_from_double(dtype, numbers, (size_t)columns, dst);
  for (uint64_t c = 0; c < columns; c++) {
    double held;
    char what[48];
    moecl_to_double(dtype, dst + c * moecl_dtype_size(dtype), 1, &held);
    if (isfinite(held)) continue;
    base_format(what, sizeof what, "times its scale is too large for %s", moecl_dtype_name(dtype));
    return bad_number(checkpoint, r->coded, CODED_CODES, file_row(r->coded, row), c, what);
  }
  return MOECL_OK;
}

static moecl_status decode(moecl_checkpoint *checkpoint, const reader *r, const moecl_dtype *dtype,
                           uint64_t *groups, double *numbers, char *dst) {
  const uint64_t columns = (uint64_t)r->coded->want.columns;
  double table[256];
  for (uint32_t code = 0; code < 256; code++)
    table[code] = desc_element_decode(r->format->element, code % (1u << r->format->bits));
  MOECL_TRY(read_groups(checkpoint, r, groups));
  for (uint64_t i = 0; i < (uint64_t)r->coded->want.rows; i++) {
    if (dtype) {
      decode_row(r, groups, table, i, numbers);
      MOECL_TRY(
          put_row(checkpoint, r, i, numbers, *dtype, dst + i * columns * moecl_dtype_size(*dtype)));
    } else decode_row(r, groups, table, i, (double *)(void *)dst + i * columns);
  }
  return MOECL_OK;
}

moecl_status model_read_coded(moecl_checkpoint *checkpoint, const model_coded *coded,
                              const moecl_dtype *dtype, void *values) {
  const size_t columns = (size_t)coded->want.columns;
  reader r = {0};
  moecl_status status = open_reader(checkpoint, coded, NULL, &r);
  uint64_t *groups = malloc(columns * sizeof *groups);
  double *numbers = malloc(columns * sizeof *numbers);
  if (status == MOECL_OK && !(groups && numbers)) status = no_memory(checkpoint);
  if (status == MOECL_OK) status = decode(checkpoint, &r, dtype, groups, numbers, values);
  free(groups);
  free(numbers);
  close_reader(&r, NULL);
  return status;
}

/* ---- looking ---- */

static moecl_status look_at_groups(moecl_checkpoint *checkpoint, const model_layer *layer,
                                   const model_want *want, const model_quantized_group *group,
                                   bool *mixed) {
  model_coded coded = {.group = group, .want = *want};
  const moecl_safetensors_tensor **tensor = &coded.tensor[CODED_GROUP_INDEX];
  int64_t shape[2] = {want->items, want->columns};
  uint64_t column;
  char *name;
  if (!group->scheme->group_index) return MOECL_OK;
  const moecl_status status = find_suffixed(checkpoint, layer, want, group->scheme->group_index,
                                            &name, &coded.file[CODED_GROUP_INDEX], tensor);
  free(name);
  const int stacked = model_is_stacked(want);
  if (status != MOECL_OK || !*tensor || strcmp((*tensor)->dtype, "I32") != 0 ||
      !model_same_shape((*tensor)->shape, (*tensor)->rank, shape + !stacked, 1 + stacked))
    return status;
  MOECL_TRY(safetensors_still_whole(coded.file[CODED_GROUP_INDEX]));
  *mixed = !in_order_of_groups(&coded, &column);
  return MOECL_OK;
}

moecl_status model_look_at_stored(moecl_checkpoint *checkpoint, const model_layer *layer,
                                  const model_want *want, model_stored *stored) {
  const model_quantized_group *group = NULL;
  const moecl_safetensors *file;
  const moecl_safetensors_tensor *usual;
  char *coded = NULL;
  bool known;
  *stored = (model_stored){.format = MOECL_FORMAT_DTYPE};
  MOECL_TRY(model_find(checkpoint, layer, want->pattern, want->item, &stored->name, NULL, &usual));
  stored->tensor = usual;
  if (usual && moecl_safetensors_dtype(usual, NULL)) return MOECL_OK;
  const moecl_status status =
      find_group(checkpoint, layer, want, &group, &coded, &file, &stored->tensor, &known);
  if (status != MOECL_OK || !group) {
    free(coded);
    stored->tensor = usual;
    return status;
  }
  free(stored->name);
  stored->name = coded;
  stored->suffix = group->scheme->codes;
  stored->format = group->format;
  return look_at_groups(checkpoint, layer, want, group, &stored->mixed_groups);
}
