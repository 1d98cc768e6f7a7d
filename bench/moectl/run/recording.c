// SPDX-License-Identifier: MIT
/* Recorded hidden states: a safetensors file or a NumPy .npy file. */
#include "base/files.h"
#include "run/workload.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- safetensors ---- */

const char *recording_shape(const moecl_safetensors_tensor *tensor,
                            char text[RECORDING_SHAPE_TEXT]) {
  size_t used = (size_t)snprintf(text, RECORDING_SHAPE_TEXT, "[");
  for (int i = 0; i < tensor->rank; i++)
    used += (size_t)snprintf(text + used, RECORDING_SHAPE_TEXT - used, "%s%" PRId64,
                             i > 0 ? ", " : "", tensor->shape[i]);
  snprintf(text + used, RECORDING_SHAPE_TEXT - used, "]");
  return text;
}

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
  char shape[RECORDING_SHAPE_TEXT];
  if (moecl_safetensors_open(path, keep_error, error, &file) != MOECL_OK) return false;
  const moecl_safetensors_tensor *tensor = pick(file, name);
  bool ok =
      tensor || fail_text(error, "%s: has no tensor '%s'", path, name ? name : "hidden_states");
  if (ok && !moecl_safetensors_dtype(tensor, &dtype))
    ok = fail_text(error, "%s: data type %s, expected F32, F16 or BF16", path, tensor->dtype);
  if (ok && (tensor->rank != 2 || tensor->count == 0))
    ok = fail_text(error,
                   "%s: tensor '%s' has the shape %s, expected 2 dimensions, [num_tokens, "
                   "hidden_size], neither of them 0",
                   path, tensor->name, recording_shape(tensor, shape));
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

/* What Python says of a shape, between its brackets: "12, 34", "5,", "". Appends an
 * ellipsis where it is long. The sizes into sizes[2]; returns how many there are, -1:
 * it is no list of sizes. */
static int read_shape(const char *header, int64_t sizes[2], char text[RECORDING_SHAPE_TEXT]) {
  const char *at = strstr(header, "'shape': (");
  const char *end = at ? strchr(at, ')') : NULL;
  if (!end) return -1;
  at += strlen("'shape': (");
  snprintf(text, RECORDING_SHAPE_TEXT, "%.*s%s", (int)(end - at > 100 ? 100 : end - at), at,
           end - at > 100 ? "..." : "");
  int rank = 0;
  while (at += strspn(at, " "), at < end) {
    char *behind;
    errno = 0;
    const long long size = strtoll(at, &behind, 10);
    if (behind == at || errno || size < 0) return -1;
    if (rank < 2) sizes[rank] = size;
    rank++;
    at = behind + strspn(behind, " ");
    if (at < end && *at++ != ',') return -1;
  }
  return rank;
}

/* Is rows * columns elements of dtype what the file holds? */
static bool check_shape(const char *path, const char *header, view *view, char **error) {
  char text[RECORDING_SHAPE_TEXT];
  int64_t sizes[2];
  const uint64_t size = moecl_dtype_size(view->dtype);
  const int rank = read_shape(header, sizes, text);
  if (rank < 0) return fail_text(error, "%s: its .npy header has no shape", path);
  if (rank != 2 || sizes[0] == 0 || sizes[1] == 0)
    return fail_text(error,
                     "%s: shape (%s): expected 2 dimensions, (num_tokens, hidden_size), neither of "
                     "them 0",
                     path, text);
  view->rows = sizes[0];
  view->columns = sizes[1];
  const bool counts = (uint64_t)view->columns <= UINT64_MAX / size / (uint64_t)view->rows;
  if (counts && (uint64_t)view->rows * (uint64_t)view->columns * size == view->bytes) return true;
  return fail_text(error,
                   "%s: shape (%s) of %" PRIu64 "-byte numbers does not match the %" PRIu64
                   " bytes after its header: is the file cut short?",
                   path, text, size, view->bytes);
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
  if (strstr(header, "'<f4'")) view->dtype = MOECL_F32;
  else if (strstr(header, "'<f2'")) view->dtype = MOECL_F16;
  else return fail_text(error, "%s: data type must be little-endian float32 or float16", path);
  if (!strstr(header, "'fortran_order': False"))
    return fail_text(error, "%s: must be in C order (row-major)", path);
  view->offset = prefix + header_size;
  view->bytes = size - view->offset;
  return check_shape(path, header, view, error);
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
    const int64_t asked = point->context + point->num_tokens;
    if (asked > recording->num_tokens)
      return fail_text(error,
                       "%s has %" PRId64 " tokens, the experiment asks for %" PRId64
                       ": lower workload.num_tokens%s",
                       experiment->input_file, recording->num_tokens, asked,
                       point->context > 0 ? " or workload.context" : "");
  }
  return true;
}

void recording_destroy(recording *recording) {
  free(recording->values);
  *recording = (struct recording){0};
}
