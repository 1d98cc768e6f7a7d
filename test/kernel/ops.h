// SPDX-License-Identifier: MIT
/* What tests of single operations share. */
#ifndef MOECL_TEST_OPS_H
#define MOECL_TEST_OPS_H

#include "../unit/unit.h"
#include "kernel/variant.h"
#include "ocl/ocl.h"

static moecl_context *context; /* the program's */

static inline void log_problem(void *user, moecl_log_level level, const char *message) {
  (void)user;
  if (level <= MOECL_LOG_WARNING) fprintf(stderr, "%s\n", message);
}

static inline void *allocate(size_t bytes) {
  void *memory = calloc(bytes + 1, 1);
  assert_non_null(memory);
  return memory;
}

/* A buffer of `count` 4-byte elements; NULL: garbage. */
static inline moecl_buffer *words(const void *data, uint64_t count) {
  moecl_buffer *buffer = NULL;
  assert_ok(moecl_buffer_create(context, count * 4, &buffer));
  if (data) assert_ok(moecl_buffer_write_wait(buffer, 0, count * 4, data));
  else assert_ok(moecl_buffer_fill_byte(buffer, 0, count * 4, 0xcd));
  return buffer;
}

/* Variants that want dedicated local memory want it for speed: any device can
 * check what they compute. */
static inline bool serves_here(const kernel_variant *variant, moecl_dtype dtype) {
  return kernel_variant_serves(variant, desc_format_of(dtype),
                               context->info.capabilities | MOECL_CAP_LOCAL_MEMORY);
}

#endif
