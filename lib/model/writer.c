// SPDX-License-Identifier: MIT
#include "model/writer.h"

#include "base/base.h"
#include "desc/quantized.h"
#include "model/json.h"
#include "model/safetensors.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static moecl_status no_memory(const writer *w) {
  return log_error(&w->checkpoint->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
}

static char *path_of(const char *folder, const char *name) {
  base_text text = {0};
  base_text_addf(&text, "%s/%s", folder, name);
  if (text.failed) base_text_free(&text);
  return text.data;
}

char *writer_path(const writer *w, const char *name) { return path_of(w->folder, name); }

/* ---- which tensors ---- */

static int by_name(const void *a, const void *b) {
  return strcmp(((const written *)a)->name, ((const written *)b)->name);
}

const written *writer_find(const writer *w, const char *name) {
  const written key = {.name = name};
  return bsearch(&key, w->matrices, w->count, sizeof key, by_name);
}

static moecl_status cannot(const writer *w, const moecl_safetensors_tensor *tensor,
                           const char *why) {
  return log_error(&w->checkpoint->log, MOECL_ERROR_UNSUPPORTED,
                   "%s: tensor '%.300s' %s, which files of %s weights cannot express",
                   w->checkpoint->folder, tensor->name, why, moecl_format_name(w->params->format));
}

/* Whole blocks: other programs have no smaller ones at the edges. DeepSeek's are as ours. */
static moecl_status check_columns(const writer *w, const moecl_safetensors_tensor *tensor,
                                  const model_want *want) {
  const desc_format *format = &desc_formats[w->params->format];
  char why[96];
  if (format->scale_rows > 1 || !format->block || want->columns % format->block == 0)
    return MOECL_OK;
  base_format(why, sizeof why, "has %" PRId64 " columns, no multiple of %u", want->columns,
              (unsigned)format->block);
  return cannot(w, tensor, why);
}

static moecl_status check_matrix(const writer *w, const moecl_safetensors_tensor *tensor,
                                 const model_want *want) {
  const bool in_blocks = w->quantization.groups[0].scheme->packing.in_blocks;
  if (!moecl_safetensors_dtype(tensor, NULL))
    return log_error(&w->checkpoint->log, MOECL_ERROR_UNSUPPORTED,
                     "%s: tensor '%.300s' is of type %s, expected F32, F16 or BF16",
                     w->checkpoint->folder, tensor->name, tensor->dtype);
  if (model_is_stacked(want) && !in_blocks) return cannot(w, tensor, "has all experts in it");
  if (!model_is_stacked(want) && in_blocks) return cannot(w, tensor, "has one expert in it");
  if (!model_is_stacked(want) && want->transposed) return cannot(w, tensor, "is transposed");
  return check_columns(w, tensor, want);
}

static moecl_status add_matrix(writer *w, const model_layer *layer, model_want want) {
  const moecl_safetensors_tensor *tensor;
  char *name;
  moecl_status status =
      model_find(w->checkpoint, layer, want.pattern, want.item, &name, NULL, &tensor);
  if (status == MOECL_OK && !tensor) status = model_missing(w->checkpoint, name);
  free(name);
  if (status != MOECL_OK) return status;
  MOECL_TRY(check_matrix(w, tensor, &want));
  if (w->count == w->capacity) {
    w->capacity = w->capacity ? 2 * w->capacity : 256;
    written *more = realloc(w->matrices, w->capacity * sizeof *more);
    if (!more) return no_memory(w);
    w->matrices = more;
  }
  /* Gate and up of one tensor are one matrix here. */
  want.rows = want.file_rows;
  want.first_row = 0;
  want.row_step = 1;
  written *one = &w->matrices[w->count++];
  *one =
      (written){.name = tensor->name, .coded = {.group = &w->quantization.groups[0], .want = want}};
  moecl_safetensors_dtype(tensor, &one->dtype);
  return MOECL_OK;
}

static moecl_status add_item(writer *w, const model_layer *layer, moecl_tensor tensor, int64_t item,
                             bool *stacked) {
  model_want wants[2];
  int count;
  MOECL_TRY(model_find_wants(w->checkpoint, layer, tensor, item, wants, &count));
  for (int i = 0; i < count; i++) {
    *stacked = model_is_stacked(&wants[i]);
    if (i == 0 || strcmp(wants[i].pattern, wants[0].pattern) != 0)
      MOECL_TRY(add_matrix(w, layer, wants[i]));
  }
  return MOECL_OK;
}

static moecl_status add_layer(writer *w, int64_t index) {
  const model_layer *layer = &w->checkpoint->description.layers[index];
  if (!layer->is_moe) return MOECL_OK;
  MOECL_TRY(moecl_checkpoint_check(w->checkpoint, index)); /* types and shapes */
  for (int t = 0; t < MOECL_TENSOR_COUNT; t++) {
    const int64_t items = moecl_layer_tensor_items(&layer->params, (moecl_tensor)t);
    bool stacked = false;
    for (int64_t i = 0; model_is_projection((moecl_tensor)t) && i < items && !stacked; i++)
      MOECL_TRY(add_item(w, layer, (moecl_tensor)t, i, &stacked));
  }
  return MOECL_OK;
}

static moecl_status find_matrices(writer *w) {
  moecl_checkpoint_size size;
  MOECL_TRY(moecl_checkpoint_measure(w->checkpoint, &size)); /* opens all shards */
  for (int64_t i = 0; i < w->checkpoint->description.num_layers; i++) MOECL_TRY(add_layer(w, i));
  if (w->count == 0)
    return log_error(&w->checkpoint->log, MOECL_ERROR_UNSUPPORTED,
                     "%s: has no experts to be quantized", w->checkpoint->folder);
  qsort(w->matrices, w->count, sizeof *w->matrices, by_name);
  return MOECL_OK;
}

/* ---- a file that is written ---- */

typedef struct shard {
  writer *writer;
  const moecl_safetensors *source;
  const moecl_safetensors_tensor **tensors; /* [count], as they lie in the source */
  size_t count;
  char *path;
  int fd;
} shard;

static moecl_status put(const shard *s, const void *data, uint64_t size) {
  const char *at = data;
  while (size > 0) {
    const ssize_t wrote = write(s->fd, at, (size_t)(size < 1 << 30 ? size : 1 << 30));
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0)
      return log_error(&s->writer->checkpoint->log, MOECL_ERROR_IO, "%s: could not be written: %s",
                       s->path, base_error_text(errno));
    at += wrote;
    size -= (uint64_t)wrote;
  }
  return MOECL_OK;
}

static int by_place(const void *a, const void *b) {
  const moecl_safetensors_tensor *x = *(void *const *)a, *y = *(void *const *)b;
  if (x->data != y->data) return x->data < y->data ? -1 : 1;
  return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

static moecl_status list_tensors(shard *s) {
  s->count = moecl_safetensors_count(s->source);
  s->tensors = malloc((s->count + 1) * sizeof *s->tensors);
  if (!s->tensors) return no_memory(s->writer);
  for (size_t i = 0; i < s->count; i++) s->tensors[i] = moecl_safetensors_at(s->source, i);
  qsort(s->tensors, s->count, sizeof *s->tensors, by_place);
  return MOECL_OK;
}

/* ---- headers ---- */

static moecl_status add_entry(const shard *s, json_t *header, const char *name, const char *dtype,
                              const int64_t *shape, int rank, uint64_t bytes, uint64_t *at) {
  writer *w = s->writer;
  const char *slash = strrchr(s->path, '/');
  json_t *lengths = json_array();
  for (int i = 0; i < rank; i++) json_array_append_new(lengths, json_integer(shape[i]));
  json_t *entry = json_pack("{s:s, s:o, s:[I,I]}", "dtype", dtype, "shape", lengths, "data_offsets",
                            (json_int_t)*at, (json_int_t)(*at + bytes));
  *at += bytes;
  w->total += bytes;
  const bool failed = json_object_set_new(header, name, entry) != 0 ||
                      json_object_set_new(w->weight_map, name, json_string(slash + 1)) != 0;
  return failed ? no_memory(w) : MOECL_OK;
}

static int64_t experts_in(const written *one) {
  return model_is_stacked(&one->coded.want) ? one->coded.want.items : 1;
}

/* Of a matrix' parts. Their names are the module's and the suffix. */
static moecl_status add_parts(const shard *s, json_t *header, const written *one, uint64_t *at) {
  const size_t length = strlen(one->name);
  const bool weight = length > 7 && strcmp(one->name + length - 7, ".weight") == 0;
  for (int p = 0; p < CODED_PARTS; p++) {
    size_t size;
    int64_t shape[4], *behind = shape;
    base_text name = {0};
    const char *suffix = model_part_suffix(&one->coded, (coded_part)p, &size);
    if (!suffix) continue;
    base_text_add(&name, one->name, length - (weight ? 7 : 0));
    base_text_add(&name, suffix, size);
    if (model_is_stacked(&one->coded.want)) *behind++ = one->coded.want.items;
    const int rank =
        (int)(behind - shape) + model_written_shape(&one->coded, (coded_part)p, behind);
    const uint64_t bytes = (uint64_t)experts_in(one) * model_part_bytes(&one->coded, (coded_part)p);
    const moecl_status status =
        name.failed ? no_memory(s->writer)
                    : add_entry(s, header, name.data, model_part_type(&one->coded, (coded_part)p),
                                shape, rank, bytes, at);
    base_text_free(&name);
    if (status != MOECL_OK) return status;
  }
  return MOECL_OK;
}

static moecl_status fill_header(const shard *s, json_t *header) {
  uint64_t at = 0;
  json_t *metadata = safetensors_metadata(s->source);
  if (metadata && json_object_set(header, "__metadata__", metadata) != 0)
    return no_memory(s->writer);
  for (size_t i = 0; i < s->count; i++) {
    const moecl_safetensors_tensor *tensor = s->tensors[i];
    const written *one = writer_find(s->writer, tensor->name);
    MOECL_TRY(one ? add_parts(s, header, one, &at)
                  : add_entry(s, header, tensor->name, tensor->dtype, tensor->shape, tensor->rank,
                              tensor->bytes, &at));
  }
  return MOECL_OK;
}

/* Its length, and spaces up to a multiple of 8, as the format asks for. */
static moecl_status put_header(const shard *s) {
  json_t *header = json_object();
  moecl_status status = header ? fill_header(s, header) : no_memory(s->writer);
  char *text = status == MOECL_OK ? json_to_text(header, false) : NULL;
  json_decref(header);
  if (status != MOECL_OK) return status;
  if (!text) return no_memory(s->writer);
  const uint64_t size = strlen(text), padded = base_round_up(size, 8);
  uint8_t length[8];
  for (int i = 0; i < 8; i++) length[i] = (uint8_t)(padded >> 8 * i);
  status = put(s, length, sizeof length);
  if (status == MOECL_OK) status = put(s, text, size);
  if (status == MOECL_OK) status = put(s, "        ", padded - size);
  free(text);
  return status;
}

/* ---- tensors ---- */

static moecl_status copy_tensor(const shard *s, const moecl_safetensors_tensor *tensor) {
  enum { PIECE = 1 << 24 };
  for (uint64_t at = 0; at < tensor->bytes; at += PIECE) {
    const uint64_t some = tensor->bytes - at < PIECE ? tensor->bytes - at : PIECE;
    safetensors_will_need(s->source, tensor, at, some);
    MOECL_TRY(put(s, (const char *)tensor->data + at, some));
    safetensors_done_with(s->source, tensor, at, some);
  }
  return MOECL_OK;
}

/* One expert's numbers as they are in the file, or transposed; false: one is not finite. */
static bool read_numbers(const written *one, const moecl_safetensors_tensor *tensor, int64_t item,
                         float *numbers) {
  const model_want *want = &one->coded.want;
  const uint64_t rows = (uint64_t)want->file_rows, columns = (uint64_t)want->columns;
  const size_t size = moecl_dtype_size(one->dtype);
  const char *from = (const char *)tensor->data + (uint64_t)item * rows * columns * size;
  bool finite = true;
  for (uint64_t i = 0; i < rows * columns; i++) {
    uint32_t aligned;
    double value;
    memcpy(&aligned, from + i * size, size);
    moecl_to_double(one->dtype, &aligned, 1, &value);
    finite = finite && isfinite(value);
    numbers[want->transposed ? i % rows * columns + i / rows : i] = (float)value;
  }
  return finite;
}

static moecl_status quantize_on_host(const writer *w, const moecl_quantize_params *params,
                                     const float *numbers, void *codes) {
  const uint64_t count = params->rows * params->columns;
  double *wide = malloc((size_t)count * sizeof *wide);
  if (!wide) return no_memory(w);
  moecl_to_double(MOECL_F32, numbers, (size_t)count, wide);
  desc_quantize(&desc_formats[params->format], params->scale_search, wide, params->rows,
                params->columns, codes);
  free(wide);
  return MOECL_OK;
}

static moecl_status quantize(const shard *s, const written *one,
                             const moecl_safetensors_tensor *tensor, int64_t item, float *numbers,
                             void *matrix) {
  const writer *w = s->writer;
  const moecl_quantize_params params = {.dtype = MOECL_F32,
                                        .format = w->params->format,
                                        .scale_search = w->params->scale_search,
                                        .matrices = 1,
                                        .rows = (uint64_t)one->coded.want.file_rows,
                                        .columns = (uint64_t)one->coded.want.columns};
  if (!read_numbers(one, tensor, item, numbers))
    return log_error(&w->checkpoint->log, MOECL_ERROR_IO,
                     "%s: tensor '%.300s' has an element that is not a finite number",
                     moecl_safetensors_path(s->source), tensor->name);
  return w->params->quantize ? w->params->quantize(w->params->user, &params, numbers, matrix)
                             : quantize_on_host(w, &params, numbers, matrix);
}

/* Room for one expert, and for what lies behind all experts' codes. */
typedef struct room {
  float *numbers;
  void *matrix;
  uint8_t *parts[CODED_PARTS]; /* of codes one expert's, else all experts'; NULL: there is none */
} room;

static moecl_status make_room(const shard *s, const written *one, room *room) {
  const model_want *want = &one->coded.want;
  const uint64_t rows = (uint64_t)want->file_rows, columns = (uint64_t)want->columns;
  room->numbers = malloc((size_t)(rows * columns) * sizeof *room->numbers);
  room->matrix = malloc((size_t)moecl_format_bytes(s->writer->params->format, rows, columns));
  bool ok = room->numbers && room->matrix;
  for (int p = 0; ok && p < CODED_PARTS; p++) {
    size_t size;
    const uint64_t experts = p == CODED_CODES ? 1 : (uint64_t)experts_in(one);
    if (!model_part_suffix(&one->coded, (coded_part)p, &size)) continue;
    room->parts[p] = malloc((size_t)(experts * model_part_bytes(&one->coded, (coded_part)p)));
    ok = room->parts[p] != NULL;
  }
  return ok ? MOECL_OK : no_memory(s->writer);
}

static moecl_status put_expert(const shard *s, const written *one,
                               const moecl_safetensors_tensor *tensor, int64_t item,
                               const room *room) {
  MOECL_TRY(quantize(s, one, tensor, item, room->numbers, room->matrix));
  for (int p = 0; p < CODED_PARTS; p++) {
    if (!room->parts[p]) continue;
    const uint64_t bytes = model_part_bytes(&one->coded, (coded_part)p);
    const uint64_t at = p == CODED_CODES ? 0 : (uint64_t)item * bytes;
    model_encode_part(&one->coded, (coded_part)p, room->matrix, room->parts[p] + at);
  }
  return put(s, room->parts[CODED_CODES], model_part_bytes(&one->coded, CODED_CODES));
}

static moecl_status put_matrix(const shard *s, const written *one,
                               const moecl_safetensors_tensor *tensor) {
  room room = {0};
  moecl_status status = make_room(s, one, &room);
  for (int64_t item = 0; status == MOECL_OK && item < experts_in(one); item++)
    status = put_expert(s, one, tensor, item, &room);
  for (int p = CODED_CODES + 1; status == MOECL_OK && p < CODED_PARTS; p++)
    if (room.parts[p])
      status = put(s, room.parts[p],
                   (uint64_t)experts_in(one) * model_part_bytes(&one->coded, (coded_part)p));
  for (int p = 0; p < CODED_PARTS; p++) free(room.parts[p]);
  free(room.numbers);
  free(room.matrix);
  safetensors_done_with(s->source, tensor, 0, tensor->bytes);
  return status;
}

static moecl_status put_shard(shard *s) {
  MOECL_TRY(safetensors_still_whole(s->source));
  MOECL_TRY(list_tensors(s));
  MOECL_TRY(put_header(s));
  for (size_t i = 0; i < s->count; i++) {
    const written *one = writer_find(s->writer, s->tensors[i]->name);
    MOECL_TRY(one ? put_matrix(s, one, s->tensors[i]) : copy_tensor(s, s->tensors[i]));
  }
  return MOECL_OK;
}

static moecl_status cannot_write(const writer *w, const char *path) {
  return log_error(&w->checkpoint->log, MOECL_ERROR_IO, "%s: could not be written: %s",
                   path ? path : w->folder, base_error_text(errno));
}

static const char *name_in(const char *path) { return strrchr(path, '/') + 1; }

static moecl_status write_shard(writer *w, const model_shard *source) {
  shard s = {.writer = w, .source = source->file, .fd = -1};
  s.path = writer_path(w, name_in(source->path));
  if (!s.path) return no_memory(w);
  s.fd = open(s.path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  moecl_status status = s.fd < 0 ? cannot_write(w, s.path) : put_shard(&s);
  if (s.fd >= 0 && close(s.fd) != 0 && status == MOECL_OK) status = cannot_write(w, s.path);
  if (status == MOECL_OK) log_write(&w->checkpoint->log, MOECL_LOG_INFO, "%s: written", s.path);
  free(s.path);
  free(s.tensors);
  return status;
}

/* ---- other files ---- */

/* Weights in other files than the shards would be those of before. */
static bool is_weights(const char *name) {
  static const char *const ends[] = {".safetensors", ".bin",  ".pt", ".pth", ".gguf",
                                     ".msgpack",     ".onnx", ".h5", ".ot",  ".index.json"};
  for (size_t i = 0; i < BASE_COUNT(ends); i++) {
    const size_t size = strlen(name), end = strlen(ends[i]);
    if (size >= end && strcmp(name + size - end, ends[i]) == 0) return true;
  }
  return false;
}

static moecl_status copy_file(writer *w, const char *name) {
  char *from = path_of(w->checkpoint->folder, name), *to = writer_path(w, name), *data = NULL;
  struct stat info;
  size_t size;
  moecl_status status = from && to ? MOECL_OK : no_memory(w);
  const bool copies = status == MOECL_OK && stat(from, &info) == 0 && S_ISREG(info.st_mode);
  if (copies && base_file_read(from, &data, &size) != MOECL_OK)
    status = log_error(&w->checkpoint->log, MOECL_ERROR_IO, "%s: could not be read", from);
  if (data && base_file_write_atomic(to, data, size) != MOECL_OK) status = cannot_write(w, to);
  free(data);
  free(from);
  free(to);
  return status;
}

static moecl_status copy_files(writer *w) {
  DIR *folder = opendir(w->checkpoint->folder);
  moecl_status status = MOECL_OK;
  if (!folder)
    return log_error(&w->checkpoint->log, MOECL_ERROR_IO, "%s: could not be read: %s",
                     w->checkpoint->folder, base_error_text(errno));
  for (const struct dirent *entry; status == MOECL_OK && (entry = readdir(folder));)
    if (!is_weights(entry->d_name) && strcmp(entry->d_name, "config.json") != 0)
      status = copy_file(w, entry->d_name);
  closedir(folder);
  return status;
}

/* ---- the call ---- */

/* A folder that is new or has nothing in it. */
static moecl_status make_folder(const writer *w) {
  int entries = 0;
  DIR *folder = opendir(w->folder);
  while (folder && entries <= 2 && readdir(folder)) entries++;
  if (folder) closedir(folder);
  if (entries > 2)
    return log_error(&w->checkpoint->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "%s: has files in it, expected a new folder or an empty one", w->folder);
  return base_make_directories(w->folder) == MOECL_OK ? MOECL_OK : cannot_write(w, NULL);
}

/* config.json last: without it the folder is no model. */
static moecl_status write_all(writer *w) {
  w->weight_map = json_object();
  if (!w->weight_map) return no_memory(w);
  MOECL_TRY(make_folder(w));
  for (size_t i = 0; i < w->checkpoint->num_shards; i++)
    MOECL_TRY(write_shard(w, &w->checkpoint->shards[i]));
  MOECL_TRY(copy_files(w));
  return writer_config_write(w);
}

static moecl_status check_params(const moecl_checkpoint *checkpoint,
                                 const moecl_checkpoint_quantize_params *params,
                                 const char *folder) {
  const model_quantization *q = &checkpoint->description.quantization;
  if (!params || !folder || !*folder || (int)params->format <= MOECL_FORMAT_DTYPE ||
      params->format >= MOECL_FORMAT_COUNT || !desc_is_quantized(&desc_formats[params->format]) ||
      (unsigned)params->scale_search >= MOECL_SCALE_SEARCH_COUNT)
    return log_error(&checkpoint->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "%s: a format with scales, a scale_search and a folder are required",
                     checkpoint->folder);
  MOECL_TRY(log_check_reserved(&checkpoint->log, "moecl_checkpoint_quantize_params",
                               params->reserved, BASE_COUNT(params->reserved)));
  if (!q->method) return MOECL_OK;
  return log_error(&checkpoint->log, MOECL_ERROR_UNSUPPORTED,
                   "%s: config.json says that its weights are quantized already (%.40s), expected "
                   "a model in 16 or 32 bits",
                   checkpoint->folder, q->method);
}

moecl_status moecl_checkpoint_quantize(moecl_checkpoint *checkpoint,
                                       const moecl_checkpoint_quantize_params *params,
                                       const char *folder) {
  if (!checkpoint) return MOECL_ERROR_INVALID_ARGUMENT;
  writer w = {.checkpoint = checkpoint, .params = params, .folder = folder};
  MOECL_TRY(check_params(checkpoint, params, folder));
  moecl_status status = writer_config_make(&w);
  if (status == MOECL_OK) status = find_matrices(&w);
  if (status == MOECL_OK) status = writer_config_ignore(&w);
  if (status == MOECL_OK) status = write_all(&w);
  json_decref(w.weight_map);
  json_decref(w.config);
  model_quantization_free(&w.quantization);
  free(w.matrices);
  return status;
}
