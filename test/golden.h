// SPDX-License-Identifier: MIT
/* Reads golden files: safetensors made by scripts/make_*_golden.py. */
#ifndef MOECL_TEST_GOLDEN_H
#define MOECL_TEST_GOLDEN_H

#include <stdint.h>

typedef struct golden golden;

/* Opens $MOECL_GOLDEN_DIR/name (test/golden/name without the variable). NULL,
 * with a line on stderr, if it is missing or malformed. */
golden *golden_open(const char *name);
void golden_close(golden **file);

/* A value of the file's metadata; NULL if there is none. Owned by the file. */
const char *golden_metadata(const golden *file, const char *key);

/* The tensor's length along `axis`, and its elements; -1 without such an axis
 * or tensor. */
int64_t golden_length(const golden *file, const char *tensor, int axis);
int64_t golden_count(const golden *file, const char *tensor);

/* The elements converted, in an array that the caller
 * frees; NULL, with a line on stderr, if there is no such tensor. */
double *golden_doubles(const golden *file, const char *tensor);

#endif
