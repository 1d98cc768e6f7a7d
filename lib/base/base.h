/* Small helpers that know no OpenCL: checked sizes, rounding, text, files, hash. */
#ifndef MOECL_LIB_BASE_BASE_H
#define MOECL_LIB_BASE_BASE_H

#include "moecl/types.h"
#include <stdarg.h>

/* Returns early with a failed status. */
#define MOECL_TRY(expression)                       \
  do {                                              \
    moecl_status try_status_ = (expression);        \
    if (try_status_ != MOECL_OK) return try_status_; \
  } while (0)

static inline uint64_t base_div_up(uint64_t a, uint64_t b) { return a / b + (a % b != 0); }
static inline uint64_t base_round_up(uint64_t a, uint64_t b) { return base_div_up(a, b) * b; }

/* *product = a * b; false if it does not fit. */
bool base_mul(uint64_t a, uint64_t b, uint64_t *product);

/* A growing string; all zeros is empty. `failed` is set when memory ran out,
 * and then stays set, so one check at the end suffices. */
typedef struct base_text {
  char *data; /* NUL-terminated once anything was added */
  size_t size, capacity;
  bool failed;
} base_text;
void base_text_add(base_text *text, const char *data, size_t size);
__attribute__((format(printf, 2, 3))) void base_text_addf(base_text *text, const char *format, ...);
void base_text_free(base_text *text);

/* Files. `data` is malloc'ed with a NUL after its `size` bytes. */
moecl_status base_file_read(const char *path, char **data, size_t *size);
/* Writes to a temporary file beside `path` and renames it: readers see the old
 * contents or the new, never a part. */
moecl_status base_file_write_atomic(const char *path, const void *data, size_t size);
/* mkdir -p */
moecl_status base_make_directories(const char *path);

/* 128-bit hash as 32 hexadecimal digits and a NUL (XXH3). */
void base_hash_hex(const void *data, size_t size, char hex[33]);

#endif
