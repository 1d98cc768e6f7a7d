// SPDX-License-Identifier: MIT
/* A safetensors file, written as its tensors come: eight bytes with the
 * header's size (little-endian), the header in JSON, the tensors. */
#include "base/files.h"
#include "results/results.h"
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

struct dump {
  pending_file pending;
  uint64_t declared, written; /* bytes of tensors */
  bool failed;                /* a write did: nothing is left to rename */
};

static uint64_t dtype_size(const char *dtype) {
  static const struct {
    const char *name;
    uint64_t size;
  } known[] = {{"F32", 4}, {"F16", 2}, {"BF16", 2}, {"I32", 4}, {"I64", 8}, {"U8", 1}};
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (strcmp(known[i].name, dtype) == 0) return known[i].size;
  return 0;
}

/* false where the size does not fit: JSON's integers are signed here. */
static bool tensor_bytes(const dump_tensor *tensor, uint64_t *bytes) {
  uint64_t product = dtype_size(tensor->dtype);
  if (product == 0 || tensor->num_dims < 0 || tensor->num_dims > 3) return false;
  for (int i = 0; i < tensor->num_dims; i++) {
    const int64_t size = tensor->shape[i];
    if (size < 0 || __builtin_mul_overflow(product, (uint64_t)size, &product)) return false;
  }
  *bytes = product;
  return product <= INT64_MAX;
}

static json_t *tensor_json(const dump_tensor *tensor, uint64_t begin, uint64_t end) {
  json_t *shape = json_array();
  for (int i = 0; shape && i < tensor->num_dims; i++)
    if (json_array_append_new(shape, json_integer(tensor->shape[i])) != 0) {
      json_decref(shape);
      shape = NULL;
    }
  return json_pack("{s:s, s:o, s:[I, I]}", "dtype", tensor->dtype, "shape", shape, "data_offsets",
                   (json_int_t)begin, (json_int_t)end);
}

/* The header, padded with blanks so that the data begin on eight bytes. */
static char *header_text(const dump_tensor *tensors, size_t count, uint64_t *total, char **error) {
  json_t *root = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
  bool ok = root != NULL;
  uint64_t at = 0;
  for (size_t i = 0; ok && i < count; i++) {
    uint64_t bytes;
    if (!tensor_bytes(&tensors[i], &bytes) || bytes > INT64_MAX - at) {
      fail_text(error, "the tensor %s cannot be dumped: its type or shape is not possible",
                tensors[i].name);
      json_decref(root);
      return NULL;
    }
    ok = json_object_set_new(root, tensors[i].name, tensor_json(&tensors[i], at, at + bytes)) == 0;
    at += bytes;
  }
  char *compact = ok ? json_dumps(root, JSON_COMPACT) : NULL;
  json_decref(root);
  const size_t used = compact ? strlen(compact) : 0;
  char *padded = compact ? format_text("%s%*s", compact, (int)((8 - used % 8) % 8), "") : NULL;
  free(compact);
  *total = at;
  if (!padded) fail_text(error, "no memory for the dump");
  return padded;
}

dump *dump_open(const char *path, const dump_tensor *tensors, size_t count, char **error) {
  dump *out = calloc(1, sizeof *out);
  uint64_t total = 0;
  char *header = out ? header_text(tensors, count, &total, error) : NULL;
  if (!out) fail_text(error, "no memory for the dump");
  bool ok = header && pending_open(&out->pending, path, error);
  if (ok) {
    const uint64_t size = strlen(header);
    unsigned char prefix[8];
    for (int i = 0; i < 8; i++) prefix[i] = (unsigned char)(size >> (8 * i));
    out->declared = total;
    ok = pending_write(&out->pending, prefix, sizeof prefix, error) &&
         pending_write(&out->pending, header, size, error);
  }
  free(header);
  if (ok) return out;
  if (out) pending_discard(&out->pending);
  free(out);
  return NULL;
}

bool dump_write(dump *out, const void *data, size_t bytes, char **error) {
  if (bytes > out->declared - out->written) {
    out->failed = true;
    return fail_text(error, "%s: more bytes than the tensors declared have", out->pending.path);
  }
  out->written += bytes;
  out->failed = !pending_write(&out->pending, data, bytes, error) || out->failed;
  return !out->failed;
}

bool dump_close(dump **out, char **error) {
  if (!out || !*out) return true;
  struct dump *d = *out;
  bool ok = !d->failed && d->written == d->declared;
  if (ok) {
    ok = pending_commit(&d->pending, error);
  } else {
    if (!*error) /* else why a write failed, which says more */
      fail_text(error, "%s: %" PRIu64 " of %" PRIu64 " bytes of tensors were written",
                d->pending.path, d->written, d->declared);
    pending_discard(&d->pending);
  }
  free(d);
  *out = NULL;
  return ok;
}
