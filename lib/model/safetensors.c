// SPDX-License-Identifier: MIT
#include "model/safetensors.h"

#include "base/base.h"
#include "model/json.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct moecl_safetensors {
  char *path;
  moecl_log log;
  int fd;                            /* -1: bytes of the caller's */
  const uint8_t *bytes;              /* the mapping, or the caller's */
  uint64_t size, data;               /* of it all; where the tensors begin */
  json_t *header;                    /* owns the names */
  moecl_safetensors_tensor *tensors; /* by name */
  size_t count;
};

/* Every type the format has, with its bits. */
static const struct {
  const char *name;
  unsigned bits;
} types[] = {{"F64", 64},    {"F32", 32},    {"F16", 16},        {"BF16", 16},       {"I64", 64},
             {"I32", 32},    {"I16", 16},    {"I8", 8},          {"U64", 64},        {"U32", 32},
             {"U16", 16},    {"U8", 8},      {"BOOL", 8},        {"C64", 64},        {"F8_E4M3", 8},
             {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"F6_E2M3", 6},
             {"F6_E3M2", 6}, {"F4", 4}};

static unsigned bits_of(const char *name) {
  for (size_t i = 0; name && i < sizeof types / sizeof types[0]; i++)
    if (strcmp(types[i].name, name) == 0) return types[i].bits;
  return 0;
}

bool safetensors_is_real(const moecl_safetensors_tensor *tensor) {
  const char *name = tensor->dtype;
  const bool is_scale = strcmp(name, "F8_E8M0") == 0; /* an exponent for a block of others */
  return (name[0] == 'F' || strcmp(name, "BF16") == 0) && bits_of(name) >= 8 && !is_scale;
}

/* ---- the header ---- */

static moecl_status bad(const moecl_safetensors *file, const char *tensor, const char *what) {
  return log_error(&file->log, MOECL_ERROR_IO, "%s: tensor '%.200s': %s", file->path, tensor, what);
}

/* *number = a JSON integer of 0 or more. */
static bool natural(json_t *value, uint64_t *number) {
  if (!json_is_integer(value) || json_integer_value(value) < 0) return false;
  *number = (uint64_t)json_integer_value(value);
  return true;
}

static moecl_status read_shape(const moecl_safetensors *file, json_t *shape,
                               moecl_safetensors_tensor *tensor) {
  const size_t rank = json_array_size(shape);
  if (!json_is_array(shape)) return bad(file, tensor->name, "its shape is not a list");
  if (rank > MOECL_SAFETENSORS_MAX_RANK)
    return bad(file, tensor->name, "its shape has more than 8 dimensions");
  tensor->rank = (int)rank;
  tensor->count = 1;
  bool fits = true, empty = false;
  for (size_t i = 0; i < rank; i++) {
    uint64_t length;
    if (!natural(json_array_get(shape, i), &length))
      return bad(file, tensor->name, "its shape is not a list of integers of 0 or more");
    tensor->shape[i] = (int64_t)length;
    empty = empty || length == 0;
    fits = fits && base_mul(tensor->count, length ? length : 1, &tensor->count);
  }
  if (empty) tensor->count = 0;
  if (!fits) return bad(file, tensor->name, "its shape multiplies to more than 64 bits can count");
  return MOECL_OK;
}

/* An entry, every number checked against the file. */
static moecl_status read_entry(const moecl_safetensors *file, const char *name, json_t *entry,
                               moecl_safetensors_tensor *tensor) {
  tensor->name = name;
  tensor->dtype = json_string_value(json_object_get(entry, "dtype"));
  const unsigned bits = bits_of(tensor->dtype);
  if (bits == 0)
    return log_error(&file->log, MOECL_ERROR_IO, "%s: tensor '%.200s': unknown data type '%.40s'",
                     file->path, name, tensor->dtype ? tensor->dtype : "(none)");
  MOECL_TRY(read_shape(file, json_object_get(entry, "shape"), tensor));
  json_t *offsets = json_object_get(entry, "data_offsets");
  uint64_t begin, end, size;
  if (json_array_size(offsets) != 2 || !natural(json_array_get(offsets, 0), &begin) ||
      !natural(json_array_get(offsets, 1), &end) || end < begin)
    return bad(file, name, "its data_offsets are not two growing integers of 0 or more");
  if (end > file->size - file->data)
    return log_error(&file->log, MOECL_ERROR_IO,
                     "%s: tensor '%.200s': its data_offsets [%" PRIu64 ", %" PRIu64
                     "] lie outside the file, which has %" PRIu64
                     " bytes of data: cut short, or not whole yet",
                     file->path, name, begin, end, file->size - file->data);
  if (!base_mul(tensor->count, bits, &size) || size % 8 != 0 || size / 8 != end - begin)
    return bad(file, name, "its shape and data type do not match the size of its data_offsets");
  tensor->bytes = end - begin;
  tensor->data = file->bytes + file->data + begin;
  return MOECL_OK;
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const moecl_safetensors_tensor *)a)->name,
                ((const moecl_safetensors_tensor *)b)->name);
}

static int by_place(const void *a, const void *b) {
  const moecl_safetensors_tensor *x = a, *y = b;
  if (x->data != y->data) return x->data < y->data ? -1 : 1;
  return x->bytes < y->bytes ? -1 : x->bytes > y->bytes; /* empty ones first */
}

/* The tensors must cover the data without a gap or an overlap. */
static moecl_status check_places(moecl_safetensors *file) {
  const uint8_t *at = file->bytes + file->data;
  qsort(file->tensors, file->count, sizeof *file->tensors, by_place);
  for (size_t i = 0; i < file->count; i++) {
    const moecl_safetensors_tensor *tensor = &file->tensors[i];
    const uint8_t *data = tensor->data;
    if (data < at && tensor->bytes > 0)
      return bad(file, tensor->name, "it overlaps another tensor");
    if (data > at) return bad(file, tensor->name, "there is a gap before its data");
    if (tensor->bytes > 0) at = data + tensor->bytes;
  }
  if (at != file->bytes + file->size)
    return log_error(&file->log, MOECL_ERROR_IO,
                     "%s: %" PRIu64 " bytes at its end belong to no tensor", file->path,
                     (uint64_t)(file->bytes + file->size - at));
  return MOECL_OK;
}

static moecl_status read_entries(moecl_safetensors *file) {
  const char *name;
  json_t *entry;
  file->tensors = calloc(json_object_size(file->header) + 1, sizeof *file->tensors);
  if (!file->tensors)
    return log_error(&file->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  json_object_foreach(file->header, name, entry) {
    if (strcmp(name, "__metadata__") == 0) continue;
    if (!json_is_object(entry)) return bad(file, name, "its entry is not a JSON object");
    MOECL_TRY(read_entry(file, name, entry, &file->tensors[file->count]));
    file->count++;
  }
  MOECL_TRY(check_places(file));
  qsort(file->tensors, file->count, sizeof *file->tensors, by_name);
  return MOECL_OK;
}

/* `prefix` is the first 8 bytes. */
static moecl_status header_size(const moecl_safetensors *file, const uint8_t prefix[8],
                                uint64_t *size) {
  *size = 0;
  for (int i = 7; i >= 0; i--) *size = *size << 8 | prefix[i];
  if (*size > file->size - 8)
    return log_error(&file->log, MOECL_ERROR_IO,
                     "%s: its header should be %" PRIu64 " bytes long, but the file has %" PRIu64
                     ": not a safetensors file, or cut short",
                     file->path, *size, file->size);
  if (*size > SAFETENSORS_MAX_HEADER)
    return log_error(&file->log, MOECL_ERROR_IO, "%s: its header is longer than %d bytes",
                     file->path, SAFETENSORS_MAX_HEADER);
  return MOECL_OK;
}

static moecl_status read_header(moecl_safetensors *file, const char *text, uint64_t size) {
  /* Name, entry, dtype, shape and offsets are three levels. */
  const json_limits limits = {.depth = 16, .values = 4000000};
  file->data = 8 + size;
  MOECL_TRY(json_parse(&file->log, file->path, "its safetensors header", text, size, limits,
                       &file->header));
  return read_entries(file);
}

/* ---- files ---- */

static moecl_status cannot_read(const moecl_safetensors *file, int code) {
  return log_error(&file->log, MOECL_ERROR_IO, "%s: cannot be read: %s", file->path,
                   base_error_text(code));
}

/* The header is read and not taken from the mapping, so that a file which
 * shrinks meanwhile is an error and no signal. */
static moecl_status read_exactly(const moecl_safetensors *file, void *to, uint64_t size,
                                 uint64_t from) {
  for (uint64_t got = 0; got < size;) {
    const ssize_t more = pread(file->fd, (char *)to + got, size - got, (off_t)(from + got));
    if (more < 0 && errno == EINTR) continue;
    if (more < 0) return cannot_read(file, errno);
    if (more == 0)
      return log_error(&file->log, MOECL_ERROR_IO, "%s: became shorter while it was read",
                       file->path);
    got += (uint64_t)more;
  }
  return MOECL_OK;
}

static moecl_status map(moecl_safetensors *file) {
  struct stat info;
  /* Do not wait where the path is a pipe without a writer. */
  file->fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file->fd < 0 || fstat(file->fd, &info) != 0) return cannot_read(file, errno);
  if (!S_ISREG(info.st_mode))
    return log_error(&file->log, MOECL_ERROR_IO, "%s: is not a regular file", file->path);
  file->size = (uint64_t)info.st_size;
  if (file->size < 8)
    return log_error(&file->log, MOECL_ERROR_IO,
                     "%s: has %" PRIu64 " bytes: not a safetensors file, or cut short", file->path,
                     file->size);
  void *bytes = mmap(NULL, (size_t)file->size, PROT_READ, MAP_PRIVATE, file->fd, 0);
  if (bytes == MAP_FAILED) return cannot_read(file, errno);
  /* No read-ahead, which would read tensors that were not asked for:
   * safetensors_will_need says what is to come. */
  madvise(bytes, (size_t)file->size, MADV_RANDOM);
  file->bytes = bytes;
  return MOECL_OK;
}

static moecl_status read_mapped(moecl_safetensors *file) {
  uint8_t prefix[8];
  uint64_t size;
  MOECL_TRY(map(file));
  MOECL_TRY(read_exactly(file, prefix, 8, 0));
  MOECL_TRY(header_size(file, prefix, &size));
  char *text = malloc((size_t)size + 1);
  if (!text) return log_error(&file->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  moecl_status status = read_exactly(file, text, size, 8);
  if (status == MOECL_OK) status = read_header(file, text, size);
  free(text);
  return status;
}

static moecl_status create(const char *path, const moecl_log *log, moecl_safetensors **out) {
  moecl_safetensors *file = calloc(1, sizeof *file);
  *out = file;
  if (file) {
    file->fd = -1;
    file->log = *log;
    file->path = strdup(path);
  }
  if (file && file->path) return MOECL_OK;
  moecl_safetensors_destroy(out);
  return log_error(log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
}

moecl_status moecl_safetensors_open(const char *path, moecl_log_fn log, void *log_user,
                                    moecl_safetensors **out) {
  if (!out) return MOECL_ERROR_INVALID_ARGUMENT;
  *out = NULL;
  const moecl_log caller_log = {log, log_user};
  if (!path)
    return log_error(&caller_log, MOECL_ERROR_INVALID_ARGUMENT, "safetensors: no file is named");
  MOECL_TRY(create(path, &caller_log, out));
  const moecl_status status = read_mapped(*out);
  if (status != MOECL_OK) moecl_safetensors_destroy(out);
  return status;
}

moecl_status safetensors_open_memory(const char *name, const void *bytes, uint64_t size,
                                     const moecl_log *log, moecl_safetensors **out) {
  uint64_t header = 0;
  MOECL_TRY(create(name, log, out));
  moecl_safetensors *file = *out;
  file->bytes = bytes;
  file->size = size;
  moecl_status status = size < 8 ? log_error(log, MOECL_ERROR_IO, "%s: is cut short", name)
                                 : header_size(file, bytes, &header);
  if (status == MOECL_OK) status = read_header(file, (const char *)bytes + 8, header);
  if (status != MOECL_OK) moecl_safetensors_destroy(out);
  return status;
}

void moecl_safetensors_destroy(moecl_safetensors **handle) {
  if (!handle || !*handle) return;
  moecl_safetensors *file = *handle;
  *handle = NULL;
  if (file->fd >= 0) {
    if (file->bytes) munmap((void *)(uintptr_t)file->bytes, (size_t)file->size);
    close(file->fd);
  }
  json_decref(file->header);
  free(file->tensors);
  free(file->path);
  free(file);
}

moecl_status safetensors_still_whole(const moecl_safetensors *file) {
  struct stat info;
  if (file->fd < 0) return MOECL_OK;
  if (fstat(file->fd, &info) != 0) return cannot_read(file, errno);
  if ((uint64_t)info.st_size >= file->size) return MOECL_OK;
  return log_error(&file->log, MOECL_ERROR_IO, "%s: has become shorter since it was opened",
                   file->path);
}

/* Both are hints only. */
void safetensors_will_need(const moecl_safetensors *file, const moecl_safetensors_tensor *tensor,
                           uint64_t offset, uint64_t bytes) {
  if (file->fd < 0 || bytes == 0) return;
  const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
  const uintptr_t from = (uintptr_t)tensor->data + offset, first = from / page * page;
  madvise((void *)first, from + bytes - first, MADV_WILLNEED);
}

void safetensors_done_with(const moecl_safetensors *file, const moecl_safetensors_tensor *tensor,
                           uint64_t offset, uint64_t bytes) {
  if (file->fd < 0) return;
  const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
  const uintptr_t from = (uintptr_t)tensor->data + offset, to = from + bytes;
  const uintptr_t first = (from + page - 1) / page * page, last = to / page * page;
  if (last > first) madvise((void *)first, last - first, MADV_DONTNEED);
}

/* ---- asking ---- */

size_t moecl_safetensors_count(const moecl_safetensors *file) { return file ? file->count : 0; }

const moecl_safetensors_tensor *moecl_safetensors_at(const moecl_safetensors *file, size_t index) {
  return file && index < file->count ? &file->tensors[index] : NULL;
}

const moecl_safetensors_tensor *moecl_safetensors_find(const moecl_safetensors *file,
                                                       const char *name) {
  if (!file || !name) return NULL;
  const moecl_safetensors_tensor key = {.name = name};
  return bsearch(&key, file->tensors, file->count, sizeof key, by_name);
}

const char *moecl_safetensors_metadata(const moecl_safetensors *file, const char *key) {
  if (!file || !key) return NULL;
  return json_string_value(json_object_get(json_object_get(file->header, "__metadata__"), key));
}

json_t *safetensors_metadata(const moecl_safetensors *file) {
  return json_object_get(file->header, "__metadata__");
}

const char *moecl_safetensors_path(const moecl_safetensors *file) {
  return file ? file->path : NULL;
}

bool moecl_safetensors_dtype(const moecl_safetensors_tensor *tensor, moecl_dtype *dtype) {
  static const char *const names[] = {"F32", "F16", "BF16"};
  for (int i = 0; tensor && i < MOECL_DTYPE_COUNT; i++)
    if (strcmp(names[i], tensor->dtype) == 0) {
      if (dtype) *dtype = (moecl_dtype)i;
      return true;
    }
  return false;
}

/* One element of a type that moecl_to_double does not know. */
static bool element(const char *dtype, const uint8_t *at, double *value) {
  const size_t size = bits_of(dtype) / 8;
  union {
    double f64;
    uint64_t u;
  } bits = {.u = 0};
  for (size_t i = size; i-- > 0;) bits.u = bits.u << 8 | at[i];
  if (strcmp(dtype, "F64") == 0) *value = bits.f64;
  else if (dtype[0] == 'U' || strcmp(dtype, "BOOL") == 0) *value = (double)bits.u;
  else if (dtype[0] == 'I')
    *value = (double)((int64_t)(bits.u << (64 - 8 * size)) / (INT64_C(1) << (64 - 8 * size) % 64));
  else return false;
  return true;
}

moecl_status moecl_safetensors_to_double(const moecl_safetensors *file,
                                         const moecl_safetensors_tensor *tensor, uint64_t first,
                                         uint64_t count, double *values) {
  if (!file || !tensor || !values) return MOECL_ERROR_INVALID_ARGUMENT;
  if (first > tensor->count || count > tensor->count - first)
    return log_error(&file->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "%s: tensor '%.200s' has %" PRIu64 " elements, not %" PRIu64 " from %" PRIu64
                     " on",
                     file->path, tensor->name, tensor->count, count, first);
  MOECL_TRY(safetensors_still_whole(file));
  const size_t size = bits_of(tensor->dtype) / 8;
  const uint8_t *from = (const uint8_t *)tensor->data + first * size;
  safetensors_will_need(file, tensor, first * size, count * size);
  moecl_dtype dtype;
  const bool direct = moecl_safetensors_dtype(tensor, &dtype);
  for (uint64_t i = 0; i < count; i++) {
    uint32_t aligned = 0; /* a tensor need not be aligned in its file */
    if (direct) {
      memcpy(&aligned, from + i * size, size);
      moecl_to_double(dtype, &aligned, 1, values + i);
    } else if (!element(tensor->dtype, from + i * size, values + i)) {
      return log_error(&file->log, MOECL_ERROR_UNSUPPORTED,
                       "%s: tensor '%.200s' is of type %s, which cannot be converted", file->path,
                       tensor->name, tensor->dtype);
    }
  }
  return MOECL_OK;
}
