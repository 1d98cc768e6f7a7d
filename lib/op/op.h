// SPDX-License-Identifier: MIT
/* What all operations have in common, one row each: whoever makes, checks, measures or
 * lists operations goes through the rows, and a new operation is a new row. What an operation
 * computes is in its own header: a description (sizes, formats, options: op_gate_desc), what is
 * made of it (op_gate), the buffers of a launch (op_gate_io) and op_gate_enqueue. */
#ifndef MOECL_LIB_OP_OP_H
#define MOECL_LIB_OP_OP_H

#include "kernel/choose.h"

typedef struct op_kind {
  const kernel_table *table; /* name and variants; what a variant accepts is in its row */
  size_t size;               /* of what describe and create write: sizeof(op_gate) */
  /* All that can be said without kernels and device memory. */
  moecl_status (*describe)(moecl_context *context, const kernel_variant *variant, const void *desc,
                           void *op);
  /* The same, and makes the kernels and the memory that it holds, unchecked. What there is
   * after a failure is to be released. */
  moecl_status (*create)(moecl_context *context, const kernel_variant *variant, const void *desc,
                         void *op);
  /* Compares the program that would be created with plain C (op/check.h). A wrong answer
   * is MOECL_ERROR_BUILD, logged. Waits. */
  moecl_status (*self_check)(moecl_context *context, const kernel_variant *variant,
                             const void *desc);
  void (*release)(void *op);         /* also of zeros */
  uint64_t (*bytes)(const void *op); /* of the device memory that it holds, once made; also of
                                        zeros. NULL: it holds none */
} op_kind;

extern const op_kind *const op_kinds[]; /* all, ended by NULL */

/* By the name that users give ("router", "grouped_gemm"); NULL: there is none. */
const op_kind *op_find(const char *name);

/* Self-checks the variant for the description, unless it passed before, then creates. On
 * failure *op is zeros. */
moecl_status op_create(const op_kind *kind, moecl_context *context, const kernel_variant *variant,
                       const void *desc, void *op);

/* What can be said of it without creating it. While programs are noted to be built ahead
 * (ocl_ahead_begin), the self-check notes them. On failure *op is to be released. */
moecl_status op_describe(const op_kind *kind, moecl_context *context, const kernel_variant *variant,
                         const void *desc, void *op);

/* Room for why an operation's variant serves (kernel_reason), and what of it does not. */
enum { OP_REASON_SIZE = 512 };

/* An operation that any of its variants makes of one description. */
typedef struct op_choice {
  const op_kind *kind;
  const void *desc;
  const char *asked;         /* a variant's name; NULL: the best that serves */
  const desc_format *format; /* of the weights, or of what is read */
  bool described;            /* not created */
  bool optional;             /* kernel_choice's */
} op_choice;

/* Creates it by the best variant that serves: kernel_choose, which says what *chosen and
 * *set_aside are. Both may be NULL. */
moecl_status op_choose(moecl_context *context, const op_choice *choice, void *op,
                       const kernel_variant **chosen, size_t *set_aside);

#endif
