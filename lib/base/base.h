// SPDX-License-Identifier: MIT
/* Small helpers that know no OpenCL: checked sizes, rounding, text, files, hash. */
#ifndef MOECL_LIB_BASE_BASE_H
#define MOECL_LIB_BASE_BASE_H

#include "moecl/types.h"
#include <locale.h>
#include <stdarg.h>

/* Returns early with a failed status. */
#define MOECL_TRY(expression)                                                                      \
  do {                                                                                             \
    moecl_status try_status_ = (expression);                                                       \
    if (try_status_ != MOECL_OK) return try_status_;                                               \
  } while (0)

static inline uint64_t base_div_up(uint64_t a, uint64_t b) { return a / b + (a % b != 0); }
static inline uint64_t base_round_up(uint64_t a, uint64_t b) { return base_div_up(a, b) * b; }

/* *product = a * b; false if it does not fit. */
bool base_mul(uint64_t a, uint64_t b, uint64_t *product);

/* The first of `count` values that is not 0; `count` where all are. What a newer caller
 * set in a struct's `reserved` (moecl.h) that this library has no member for. A new member
 * comes out of the beginning of `reserved`, 8 bytes or a multiple, and never out of
 * padding, which old callers need not have set. */
size_t base_first_set(const uint64_t *values, size_t count);
#define BASE_COUNT(array) (sizeof(array) / sizeof(array)[0])

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
/* The rest of an open file, likewise. */
moecl_status base_fd_read(int fd, char **data, size_t *size);
/* Writes to a temporary file beside `path` and renames it: readers see the old
 * contents or the new, never a part. */
moecl_status base_file_write_atomic(const char *path, const void *data, size_t size);
/* mkdir -p; what it makes is the user's alone (0700). */
moecl_status base_make_directories(const char *path);

/* As in the "C" locale, whatever the process's or the thread's (lib/base/locale.c). */
/* snprintf and vsnprintf. */
__attribute__((format(printf, 3, 4))) int base_format(char *text, size_t size, const char *format,
                                                      ...);
__attribute__((format(printf, 3, 0))) int base_vformat(char *text, size_t size, const char *format,
                                                       va_list args);
/* strtod; NaN, and *end is `text`, where there is no memory for a locale. */
double base_parse_double(const char *text, char **end);
/* strerror; the text is the C library's. */
const char *base_error_text(int code);
/* isspace; strncasecmp == 0 for ASCII's letters. */
bool base_is_space(char c);
bool base_same_letters(const char *a, const char *b, size_t size);

/* Gives the calling thread the "C" locale until base_locale_leave, around calls of
 * other libraries that read or write numbers. False where there is no memory for
 * one; leaving is allowed all the same. */
typedef struct base_locale {
  locale_t c, before;
} base_locale;
bool base_locale_enter(base_locale *locale);
void base_locale_leave(base_locale *locale);

/* 128-bit hash as 32 hexadecimal digits and a NUL (XXH3). */
void base_hash_hex(const void *data, size_t size, char hex[33]);

#endif
