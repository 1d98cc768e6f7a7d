// SPDX-License-Identifier: MIT
/* Numbers that do not fit the data type they would be stored in. An engine that stores
 * them has infinities there, and what these make of it; that is not its mistake. */
#include "run/verify_parts.h"
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct largest {
  double value; /* its size */
  int64_t expert;
} largest;

struct overflow {
  moecl_dtype dtype, output_dtype;
  int64_t count;
  largest *largest; /* [count][OVERFLOW_TENSORS] */
};

overflow *overflow_create(moecl_dtype dtype, moecl_dtype output_dtype, int64_t count) {
  overflow *overflow = malloc(sizeof *overflow);
  largest *all = calloc((size_t)count * OVERFLOW_TENSORS + 1, sizeof *all);
  if (!overflow || !all) {
    free(overflow);
    free(all);
    return NULL;
  }
  *overflow = (struct overflow){dtype, output_dtype, count, all};
  return overflow;
}

void overflow_destroy(overflow *overflow) {
  if (overflow) free(overflow->largest);
  free(overflow);
}

void overflow_note(overflow *overflow, int64_t i, overflow_tensor tensor, int64_t expert,
                   const double *values, int64_t count) {
  largest *largest = &overflow->largest[i * OVERFLOW_TENSORS + tensor];
  for (int64_t k = 0; k < count; k++)
    if (fabs(values[k]) > largest->value) *largest = (struct largest){fabs(values[k]), expert};
}

double overflow_limit(moecl_dtype dtype) {
  return dtype == MOECL_F16 ? 65504 : dtype == MOECL_BF16 ? 0x1.fep127 : FLT_MAX;
}

/* Would an engine that is off by `tolerance` round the number to infinity? */
static bool is_beyond(const overflow *overflow, overflow_tensor tensor, double value,
                      double tolerance) {
  const bool output = tensor == OVERFLOW_EXPERT_OUTPUT || tensor == OVERFLOW_SHARED_OUTPUT;
  const moecl_dtype dtype = output ? overflow->output_dtype : overflow->dtype;
  const double stored = value * (1 + tolerance);
  uint32_t room;
  double back;
  moecl_from_double(dtype, &stored, 1, &room);
  moecl_to_double(dtype, &room, 1, &back);
  return !isfinite(back);
}

/* Appends; returns the new length. */
__attribute__((format(printf, 4, 5))) static size_t append(char *text, size_t size, size_t used,
                                                           const char *format, ...) {
  va_list args;
  if (used >= size) return used;
  va_start(args, format);
  const int length = vsnprintf(text + used, size - used, format, args);
  va_end(args);
  return used + (size_t)length;
}

/* "expert 3's intermediate 130000, the token's output 71000": what of token i is beyond the
 * limit, in the order it is computed in; returns how many tensors. */
static int list_beyond(const overflow *overflow, int64_t i, double tolerance, char *text,
                       size_t size, size_t *used) {
  static const char *const names[OVERFLOW_TENSORS] = {"input",
                                                      "intermediate",
                                                      "output",
                                                      "the shared expert's intermediate",
                                                      "the shared expert's output",
                                                      "the token's output"};
  int found = 0;
  for (int t = 0; t < OVERFLOW_TENSORS; t++) {
    const largest *largest = &overflow->largest[i * OVERFLOW_TENSORS + t];
    if (!is_beyond(overflow, (overflow_tensor)t, largest->value, tolerance)) continue;
    *used = append(text, size, *used, found++ ? ", " : "");
    if (largest->expert >= 0)
      *used = append(text, size, *used, "expert %" PRId64 "'s ", largest->expert);
    *used = append(text, size, *used, "%s %.6g", names[t], largest->value);
  }
  return found;
}

bool overflow_describe(const overflow *overflow, const int64_t *tokens, int64_t nonfinite,
                       int64_t num_tokens, double tolerance, char *text, size_t size) {
  const char *dtype = moecl_dtype_name(overflow->dtype);
  size_t used = append(text, size, 0,
                       "%" PRId64 " of %" PRId64 " tokens have outputs that are not "
                       "finite",
                       nonfinite, num_tokens);
  const size_t begun = used;
  for (int64_t i = overflow->count - 1; i >= 0; i--) {
    used = append(text, size, begun,
                  ": exact values are beyond %.6g, the largest of %s (token %" PRId64 ": ",
                  overflow_limit(overflow->dtype), dtype, tokens[i]);
    if (list_beyond(overflow, i, tolerance, text, size, &used) > 0) continue;
    append(text, size, begun,
           ", though all exact numbers of token %" PRId64 " fit what they are stored as",
           tokens[i]);
    return false;
  }
  append(text, size, used,
         "). No mistake of the engine's, and yet not verified: take %ssmaller inputs or weights",
         overflow->dtype == MOECL_F16 ? "bf16 or fp32, or " : "");
  return true;
}
