// SPDX-License-Identifier: MIT
/* One way from an operation to the variant that serves it. */
#ifndef MOECL_LIB_KERNEL_CHOOSE_H
#define MOECL_LIB_KERNEL_CHOOSE_H

#include "kernel/variant.h"
#include "ocl/ocl.h"

/* Builds the variant and checks that it computes what it should. On failure it
 * logs why and releases what it made. */
typedef moecl_status (*kernel_try_fn)(void *user, const kernel_variant *variant);

typedef struct kernel_choice {
  const kernel_table *table;
  const char *asked;          /* this one alone, by name; NULL: the best that serves */
  const desc_format *format;  /* of the weights, or of what is read */
  const kernel_variant *from; /* not NULL: candidates better than this one are passed over */
  bool optional;              /* none has to serve: *chosen is NULL then, and nothing is an error */
  /* Could the variant compute this problem? Those that could not are passed over.
   * NULL: all could. */
  bool (*accepts)(void *user, const kernel_variant *variant);
  kernel_try_fn try_variant;
  void *user;
} kernel_choice;

/* Tries the candidates, best first, until one serves: *chosen, after
 * *set_aside others. One that fails, whether in its build, its self-check or on
 * the device, is set aside with a warning, and what it logs as errors becomes
 * warnings too. Before that, programs that it had from the disk cache and that never
 * passed a self-check are built anew, and it is tried once more. The last candidate's failure (so
 * that of one asked for by name) is the call's, and so is a lack of memory, which the next one
 * would meet too. */
moecl_status kernel_choose(moecl_context *context, const kernel_choice *choice,
                           const kernel_variant **chosen, size_t *set_aside);

/* Tries one, as kernel_choose does a candidate that others come behind. Where that fails the
 * variant is no good, but for kernel_lacks_memory: then it is the call's error. */
moecl_status kernel_attempt(moecl_context *context, const kernel_variant *variant,
                            kernel_try_fn try_variant, void *user);

/* Says nothing of a variant. */
static inline bool kernel_lacks_memory(moecl_status status) {
  return status == MOECL_ERROR_OUT_OF_HOST_MEMORY || status == MOECL_ERROR_OUT_OF_DEVICE_MEMORY;
}

/* Why a variant serves that was chosen like that, for people. */
const char *kernel_reason(const char *asked, size_t set_aside);

#endif
