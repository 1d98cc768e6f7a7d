#include "golden.h"
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A safetensors file: the header's length as 8 bytes, little-endian, the
 * header in JSON, then the data. */
struct golden {
  unsigned char *bytes;
  uint64_t size;
  uint64_t data; /* where the data begins */
  json_t *header;
};

static bool read_whole(FILE *file, golden *g) {
  if (fseek(file, 0, SEEK_END) != 0) return false;
  long size = ftell(file);
  if (size < 8 || fseek(file, 0, SEEK_SET) != 0) return false;
  g->size = (uint64_t)size;
  g->bytes = malloc((size_t)size);
  return g->bytes && fread(g->bytes, 1, (size_t)size, file) == (size_t)size;
}

static bool parse_header(golden *g) {
  uint64_t length = 0;
  for (int i = 7; i >= 0; i--)
    length = length << 8 | g->bytes[i];
  if (length > g->size - 8) return false;
  g->data = 8 + length;
  g->header = json_loadb((const char *)g->bytes + 8, (size_t)length, 0, NULL);
  return json_is_object(g->header);
}

golden *golden_open(const char *name) {
  const char *folder = getenv("MOECL_GOLDEN_DIR");
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", folder ? folder : "test/golden", name);
  golden *g = calloc(1, sizeof *g);
  FILE *file = fopen(path, "rb");
  bool good = g && file && read_whole(file, g) && parse_header(g);
  if (file) fclose(file);
  if (good) return g;
  fprintf(stderr, "cannot read %s\n", path);
  golden_close(&g);
  return NULL;
}

void golden_close(golden **file) {
  if (!*file) return;
  json_decref((*file)->header);
  free((*file)->bytes);
  free(*file);
  *file = NULL;
}

const char *golden_metadata(const golden *file, const char *key) {
  return json_string_value(json_object_get(json_object_get(file->header, "__metadata__"), key));
}

static json_t *shape_of(const golden *file, const char *tensor) {
  return json_object_get(json_object_get(file->header, tensor), "shape");
}

int64_t golden_length(const golden *file, const char *tensor, int axis) {
  json_t *length = json_array_get(shape_of(file, tensor), (size_t)axis);
  return json_is_integer(length) ? json_integer_value(length) : -1;
}

int64_t golden_count(const golden *file, const char *tensor) {
  json_t *shape = shape_of(file, tensor);
  if (!json_is_array(shape)) return -1;
  int64_t count = 1;
  for (size_t axis = 0; axis < json_array_size(shape); axis++)
    count *= golden_length(file, tensor, (int)axis);
  return count;
}

static size_t size_of(const char *dtype) {
  if (!strcmp(dtype, "F32") || !strcmp(dtype, "I32")) return 4;
  return !strcmp(dtype, "F64") || !strcmp(dtype, "I64") ? 8 : 0;
}

/* Copied out, as tensors need not be aligned. */
static double element(const unsigned char *at, const char *dtype) {
  union {
    float f32;
    double f64;
    int32_t i32;
    int64_t i64;
  } u;
  memcpy(&u, at, size_of(dtype));
  if (dtype[0] == 'F') return dtype[1] == '3' ? (double)u.f32 : u.f64;
  return dtype[1] == '3' ? (double)u.i32 : (double)u.i64;
}

/* Where the tensor's elements begin; NULL unless they are all there. */
static const unsigned char *elements_of(const golden *file, const json_t *tensor, const char *dtype,
                                        int64_t count) {
  json_t *begin = json_array_get(json_object_get(tensor, "data_offsets"), 0);
  int64_t room = (int64_t)(file->size - file->data);
  int64_t offset = json_integer_value(begin), size = (int64_t)size_of(dtype);
  if (!json_is_integer(begin) || size == 0 || count < 0 || offset < 0 || offset > room ||
      count > (room - offset) / size)
    return NULL;
  return file->bytes + file->data + offset;
}

double *golden_doubles(const golden *file, const char *tensor) {
  json_t *entry = json_object_get(file->header, tensor);
  const char *dtype = json_string_value(json_object_get(entry, "dtype"));
  int64_t count = golden_count(file, tensor);
  const unsigned char *from = dtype ? elements_of(file, entry, dtype, count) : NULL;
  double *values = from ? malloc(((size_t)count + 1) * sizeof *values) : NULL;
  if (!values) fprintf(stderr, "no readable tensor %s\n", tensor);
  for (int64_t i = 0; values && i < count; i++)
    values[i] = element(from + (size_t)i * size_of(dtype), dtype);
  return values;
}
