// SPDX-License-Identifier: MIT
#include "base/suggest.h"

#include <ctype.h>
#include <string.h>

/* Longer words than the longest dotted key need no suggestion. */
enum { LONGEST = 48 };

/* Case and the kind of separator are the commonest slips; they count nothing. */
static int folded(char c) { return c == '-' || c == ' ' ? '_' : tolower((unsigned char)c); }

static size_t min3(size_t a, size_t b, size_t c) {
  size_t least = a < b ? a : b;
  return least < c ? least : c;
}

/* Insertions, deletions, replacements and swaps of neighbours (optimal string
 * alignment) that turn a into b. */
static size_t distance(const char *a, size_t a_length, const char *b, size_t b_length) {
  size_t rows[3][LONGEST + 1];
  size_t *before = rows[0], *above = rows[1], *row = rows[2];
  for (size_t j = 0; j <= b_length; j++) above[j] = before[j] = j;
  for (size_t i = 1; i <= a_length; i++) {
    row[0] = i;
    for (size_t j = 1; j <= b_length; j++) {
      size_t cost = folded(a[i - 1]) != folded(b[j - 1]);
      row[j] = min3(above[j] + 1, row[j - 1] + 1, above[j - 1] + cost);
      bool swapped = i > 1 && j > 1 && folded(a[i - 1]) == folded(b[j - 2]) &&
                     folded(a[i - 2]) == folded(b[j - 1]);
      if (swapped && before[j - 2] + 1 < row[j]) row[j] = before[j - 2] + 1;
    }
    size_t *oldest = before;
    before = above;
    above = row;
    row = oldest;
  }
  return above[b_length];
}

suggestion suggest_begin(const char *written, size_t length) {
  return (suggestion){.written = written, .written_length = length};
}

/* "prob" for "probability". */
static bool is_beginning(const suggestion *s, const char *candidate) {
  size_t i = 0;
  while (i < s->written_length && candidate[i] != '\0' &&
         folded(s->written[i]) == folded(candidate[i]))
    i++;
  return i == s->written_length && i >= 3;
}

void suggest_try(suggestion *s, const char *candidate) {
  size_t length = strlen(candidate);
  if (s->written_length == 0 || s->written_length > LONGEST || length > LONGEST) return;
  size_t d = distance(s->written, s->written_length, candidate, length);
  /* A third of the letters wrong is no longer the same word. */
  size_t longer = length > s->written_length ? length : s->written_length;
  bool near = d <= (longer + 2) / 3 && d < longer;
  if (!near && !is_beginning(s, candidate)) return;
  if (s->best == NULL || d < s->best_distance) {
    s->best = candidate;
    s->best_distance = d;
  }
}

const char *suggest_dtype(const char *written) {
  static const char *const names[][2] = {
      {"float32", "fp32"}, {"f32", "fp32"},      {"float", "fp32"},
      {"single", "fp32"},  {"float16", "fp16"},  {"f16", "fp16"},
      {"half", "fp16"},    {"bfloat16", "bf16"}, {"bfloat", "bf16"}};
  if (strncmp(written, "torch.", 6) == 0) written += 6;
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    size_t at = 0;
    while (written[at] != '\0' && tolower((unsigned char)written[at]) == names[i][0][at]) at++;
    if (written[at] == '\0' && names[i][0][at] == '\0') return names[i][1];
  }
  return NULL;
}
