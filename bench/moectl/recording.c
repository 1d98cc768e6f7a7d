/* Recorded hidden states: a safetensors file or a NumPy .npy file. Small files
 * (one layer's input for some thousand tokens), so they are read whole. */
#include "files.h"
#include "workload.h"
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct view { /* where the matrix lies in the file */
  moecl_dtype dtype;
  int64_t rows, columns;
  uint64_t offset, bytes;
} view;

/* rows * columns elements of dtype must be exactly `bytes` long. */
static bool shape_fits(const view *view) {
  const uint64_t size = moecl_dtype_size(view->dtype);
  if (view->rows < 1 || view->columns < 1) return false;
  return (uint64_t)view->columns <= UINT64_MAX / size / (uint64_t)view->rows &&
         (uint64_t)view->rows * (uint64_t)view->columns * size == view->bytes;
}

/* The tensor asked for; else "hidden_states"; else the only one. */
static json_t *pick(json_t *header, const char *tensor) {
  if (tensor) return json_object_get(header, tensor);
  json_t *found = json_object_get(header, "hidden_states"), *value;
  const char *key;
  size_t count = 0;
  if (found) return found;
  json_object_foreach(header, key, value) {
    if (strcmp(key, "__metadata__") == 0) continue;
    found = value;
    count++;
  }
  return count == 1 ? found : NULL;
}

static bool dtype_named(const char *name, moecl_dtype *dtype) {
  static const struct {
    const char *name;
    moecl_dtype dtype;
  } names[] = {{"F32", MOECL_F32}, {"F16", MOECL_F16}, {"BF16", MOECL_BF16}};
  for (size_t i = 0; name && i < sizeof names / sizeof names[0]; i++)
    if (strcmp(names[i].name, name) == 0) {
      *dtype = names[i].dtype;
      return true;
    }
  return false;
}

/* A header's entry to a view, every number checked against the file. */
static bool entry_view(const char *path, json_t *entry, uint64_t data_bytes, view *view,
                       char **error) {
  const char *dtype = json_string_value(json_object_get(entry, "dtype"));
  json_t *shape = json_object_get(entry, "shape"), *offsets = json_object_get(entry, "data_offsets");
  if (!dtype_named(dtype, &view->dtype))
    return fail_text(error, "%s: data type %s, expected F32, F16 or BF16", path,
                  dtype ? dtype : "is missing");
  if (json_array_size(shape) != 2)
    return fail_text(error, "%s: hidden states have %zu dimensions, expected 2: [num_tokens, hidden_size]",
                  path, json_array_size(shape));
  view->rows = json_integer_value(json_array_get(shape, 0));
  view->columns = json_integer_value(json_array_get(shape, 1));
  const json_int_t begin = json_integer_value(json_array_get(offsets, 0));
  const json_int_t end = json_integer_value(json_array_get(offsets, 1));
  if (json_array_size(offsets) != 2 || begin < 0 || end < begin || (uint64_t)end > data_bytes)
    return fail_text(error, "%s: the tensor's data_offsets lie outside the file", path);
  view->offset = (uint64_t)begin;
  view->bytes = (uint64_t)(end - begin);
  if (!shape_fits(view))
    return fail_text(error, "%s: shape [%" PRId64 ", %" PRId64 "] does not match %" PRIu64 " bytes",
                  path, view->rows, view->columns, view->bytes);
  return true;
}

static bool find_in_safetensors(const char *path, const char *data, uint64_t size,
                                const char *tensor, view *view, char **error) {
  uint64_t header_size = 0;
  for (int i = 7; size >= 8 && i >= 0; i--) header_size = header_size << 8 | (unsigned char)data[i];
  if (size < 8 || header_size > size - 8)
    return fail_text(error, "%s: not a safetensors file, or cut short", path);
  json_error_t why;
  json_t *header = json_loadb(data + 8, (size_t)header_size, JSON_REJECT_DUPLICATES, &why);
  if (!json_is_object(header)) {
    json_decref(header);
    return fail_text(error, "%s: its safetensors header is not a JSON object", path);
  }
  json_t *entry = pick(header, tensor);
  bool ok = entry != NULL;
  if (!ok)
    fail_text(error, "%s: has no tensor '%s'", path, tensor ? tensor : "hidden_states");
  ok = ok && entry_view(path, entry, size - 8 - header_size, view, error);
  if (ok) view->offset += 8 + header_size;
  json_decref(header);
  return ok;
}

/* The header is a Python dict literal; only what NumPy itself writes is read:
 * {'descr': '<f4', 'fortran_order': False, 'shape': (12, 34), } */
static bool find_in_npy(const char *path, const char *data, uint64_t size, view *view,
                        char **error) {
  const bool wide = size > 6 && data[6] >= 2; /* versions 2 and 3: 32-bit header length */
  const uint64_t prefix = wide ? 12 : 10;
  if (size < prefix) return fail_text(error, "%s: not a .npy file, or cut short", path);
  uint64_t header_size = (unsigned char)data[8] | (uint64_t)(unsigned char)data[9] << 8;
  if (wide)
    header_size |= (uint64_t)(unsigned char)data[10] << 16 | (uint64_t)(unsigned char)data[11] << 24;
  if (header_size > size - prefix || header_size > 65536)
    return fail_text(error, "%s: its .npy header is cut short", path);
  char header[65537];
  memcpy(header, data + prefix, (size_t)header_size);
  header[header_size] = 0;
  if (strstr(header, "'<f4'")) view->dtype = MOECL_F32;
  else if (strstr(header, "'<f2'")) view->dtype = MOECL_F16;
  else return fail_text(error, "%s: data type must be little-endian float32 or float16", path);
  if (!strstr(header, "'fortran_order': False"))
    return fail_text(error, "%s: must be in C order (row-major)", path);
  const char *shape = strstr(header, "'shape': (");
  if (!shape || sscanf(shape, "'shape': (%" SCNd64 ", %" SCNd64 ")", &view->rows,
                       &view->columns) != 2)
    return fail_text(error, "%s: expected 2 dimensions: [num_tokens, hidden_size]", path);
  view->offset = prefix + header_size;
  view->bytes = size - view->offset;
  if (!shape_fits(view))
    return fail_text(error, "%s: shape [%" PRId64 ", %" PRId64 "] does not match %" PRIu64 " bytes",
                  path, view->rows, view->columns, view->bytes);
  return true;
}

bool recording_load(const char *path, const char *tensor, recording *recording, char **error) {
  size_t size;
  view view = {0};
  *recording = (struct recording){0};
  char *data = read_whole_file(path, &size);
  if (!data) return fail_text(error, "%s: cannot be read: %s", path, strerror(errno));
  const bool npy = size >= 6 && memcmp(data, "\x93NUMPY", 6) == 0;
  bool ok = npy ? find_in_npy(path, data, size, &view, error)
                : find_in_safetensors(path, data, size, tensor, &view, error);
  if (ok) {
    const size_t count = (size_t)(view.rows * view.columns);
    recording->values = malloc(count * sizeof(double));
    ok = recording->values || fail_text(error, "%s: no memory for %zu values", path, count);
    /* memcpy'd apart: a tensor need not be aligned in the file. */
    char *aligned = ok ? malloc((size_t)view.bytes) : NULL;
    if (ok && !aligned) ok = fail_text(error, "%s: no memory", path);
    if (ok) {
      memcpy(aligned, data + view.offset, (size_t)view.bytes);
      moecl_to_double(view.dtype, aligned, count, recording->values);
      recording->num_tokens = view.rows;
      recording->hidden_size = view.columns;
    }
    free(aligned);
  }
  free(data);
  if (!ok) recording_destroy(recording);
  return ok;
}

bool recording_serves(const experiment *experiment, const recording *recording, char **error) {
  for (size_t i = 0; i < experiment->num_points; i++) {
    const experiment_point *point = &experiment->points[i];
    if (point->distribution != WORKLOAD_FILE) continue;
    if (point->layer.hidden_size != recording->hidden_size)
      return fail_text(error,
                    "%s has hidden size %" PRId64 ", the experiment %" PRId64
                    ": set layer.hidden_size to the file's",
                    experiment->input_file, recording->hidden_size, point->layer.hidden_size);
    if (point->num_tokens > recording->num_tokens)
      return fail_text(error,
                    "%s has %" PRId64 " tokens, the experiment asks for %" PRId64
                    ": lower workload.num_tokens",
                    experiment->input_file, recording->num_tokens, point->num_tokens);
  }
  return true;
}

void recording_destroy(recording *recording) {
  free(recording->values);
  *recording = (struct recording){0};
}
