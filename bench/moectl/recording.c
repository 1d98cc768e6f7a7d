/* Recorded hidden states: a safetensors file or a NumPy .npy file. */
#include "files.h"
#include "workload.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- safetensors ---- */

/* The tensor asked for; else "hidden_states"; else the only one. */
static const moecl_safetensors_tensor *pick(const moecl_safetensors *file, const char *tensor) {
  if (tensor) return moecl_safetensors_find(file, tensor);
  const moecl_safetensors_tensor *found = moecl_safetensors_find(file, "hidden_states");
  return found || moecl_safetensors_count(file) != 1 ? found : moecl_safetensors_at(file, 0);
}

static bool load_safetensors(const char *path, const char *name, recording *recording,
                             char **error) {
  moecl_safetensors *file;
  moecl_dtype dtype;
  if (moecl_safetensors_open(path, keep_error, error, &file) != MOECL_OK) return false;
  const moecl_safetensors_tensor *tensor = pick(file, name);
  bool ok =
      tensor || fail_text(error, "%s: has no tensor '%s'", path, name ? name : "hidden_states");
  if (ok && !moecl_safetensors_dtype(tensor, &dtype))
    ok = fail_text(error, "%s: data type %s, expected F32, F16 or BF16", path, tensor->dtype);
  if (ok && (tensor->rank != 2 || tensor->count == 0))
    ok = fail_text(error,
                   "%s: hidden states have %d dimensions and %" PRIu64
                   " elements, expected 2 dimensions: [num_tokens, hidden_size]",
                   path, tensor->rank, tensor->count);
  if (ok && !(recording->values = malloc((size_t)tensor->count * sizeof(double))))
    ok = fail_text(error, "%s: no memory for %" PRIu64 " values", path, tensor->count);
  if (ok) {
    recording->num_tokens = tensor->shape[0];
    recording->hidden_size = tensor->shape[1];
    ok = moecl_safetensors_to_double(file, tensor, 0, tensor->count, recording->values) == MOECL_OK;
  }
  moecl_safetensors_destroy(&file);
  return ok;
}

/* ---- NumPy ---- */

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

/* The header is a Python dict literal; only what NumPy itself writes is read:
 * {'descr': '<f4', 'fortran_order': False, 'shape': (12, 34), } */
static bool find_in_npy(const char *path, const char *data, uint64_t size, view *view,
                        char **error) {
  const bool wide = size > 6 && data[6] >= 2; /* versions 2 and 3: 32-bit header length */
  const uint64_t prefix = wide ? 12 : 10;
  if (size < prefix) return fail_text(error, "%s: not a .npy file, or cut short", path);
  uint64_t header_size = (unsigned char)data[8] | (uint64_t)(unsigned char)data[9] << 8;
  if (wide)
    header_size |= (uint64_t)(unsigned char)data[10] << 16 | (uint64_t)(unsigned char)data[11]
                                                                 << 24;
  if (header_size > size - prefix || header_size > 65536)
    return fail_text(error, "%s: its .npy header is cut short", path);
  char header[65537];
  memcpy(header, data + prefix, (size_t)header_size);
  header[header_size] = 0;
  if (strstr(header, "'<f4'"))
    view->dtype = MOECL_F32;
  else if (strstr(header, "'<f2'"))
    view->dtype = MOECL_F16;
  else
    return fail_text(error, "%s: data type must be little-endian float32 or float16", path);
  if (!strstr(header, "'fortran_order': False"))
    return fail_text(error, "%s: must be in C order (row-major)", path);
  const char *shape = strstr(header, "'shape': (");
  if (!shape ||
      sscanf(shape, "'shape': (%" SCNd64 ", %" SCNd64 ")", &view->rows, &view->columns) != 2)
    return fail_text(error, "%s: expected 2 dimensions: [num_tokens, hidden_size]", path);
  view->offset = prefix + header_size;
  view->bytes = size - view->offset;
  if (!shape_fits(view))
    return fail_text(error, "%s: shape [%" PRId64 ", %" PRId64 "] does not match %" PRIu64 " bytes",
                     path, view->rows, view->columns, view->bytes);
  return true;
}

static bool load_npy(const char *path, recording *recording, char **error) {
  size_t size;
  view view = {0};
  char *data = read_whole_file(path, &size);
  if (!data) return fail_text(error, "%s: cannot be read: %s", path, strerror(errno));
  bool ok = find_in_npy(path, data, size, &view, error);
  const size_t count = ok ? (size_t)(view.rows * view.columns) : 0;
  /* memcpy'd apart: an array need not be aligned in the file. */
  char *aligned = ok ? malloc((size_t)view.bytes) : NULL;
  if (ok && (!aligned || !(recording->values = malloc(count * sizeof(double)))))
    ok = fail_text(error, "%s: no memory for %zu values", path, count);
  if (ok) {
    memcpy(aligned, data + view.offset, (size_t)view.bytes);
    moecl_to_double(view.dtype, aligned, count, recording->values);
    recording->num_tokens = view.rows;
    recording->hidden_size = view.columns;
  }
  free(aligned);
  free(data);
  return ok;
}

/* NumPy's files say so in their first bytes. A pipe that nobody writes is not
 * waited for, and refused as what it is by the other reader. */
static bool is_npy(const char *path) {
  char start[6];
  const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  const bool is = fd >= 0 && read(fd, start, sizeof start) == (ssize_t)sizeof start &&
                  memcmp(start, "\x93NUMPY", sizeof start) == 0;
  if (fd >= 0) close(fd);
  return is;
}

bool recording_load(const char *path, const char *tensor, recording *recording, char **error) {
  *recording = (struct recording){0};
  const bool ok = is_npy(path) ? load_npy(path, recording, error)
                               : load_safetensors(path, tensor, recording, error);
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
