// SPDX-License-Identifier: MIT
/* "did you mean ...?" */
#ifndef MOECTL_SUGGEST_H
#define MOECTL_SUGGEST_H

#include <stdbool.h>
#include <stddef.h>

/* Collects the candidate nearest to what was written. */
typedef struct suggestion {
  const char *written;
  size_t written_length;
  const char *best; /* NULL: nothing near enough */
  size_t best_distance;
} suggestion;

suggestion suggest_begin(const char *written, size_t length);
void suggest_try(suggestion *suggestion, const char *candidate);

/* The name here of a data type that others call "float32", "half", ...; NULL: not known. */
const char *suggest_dtype(const char *written);

#endif
