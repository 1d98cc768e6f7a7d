// SPDX-License-Identifier: MIT
/* Several copies in one launch, each of which costs the host more than few bytes cost the device.
 */
#include "base/base.h"
#include "op/dispatch/dispatch.h"

static const kernel_variant variants[] = {
    {.name = "generic", .source = "dispatch/copies.cl", .formats = KERNEL_ALL}};
static const kernel_table table = {"copy_words", variants, BASE_COUNT(variants)};

static moecl_status describe(moecl_context *context, const kernel_variant *variant,
                             const void *desc, void *op) {
  (void)context, (void)variant, (void)desc;
  *(op_copies *)op = (op_copies){NULL};
  return MOECL_OK;
}

static moecl_status create(moecl_context *context, const kernel_variant *variant, const void *desc,
                           void *op) {
  (void)desc;
  return ocl_kernel_create(context, variant->source, NULL, "copy_words",
                           &((op_copies *)op)->kernel);
}

static void release(void *op) { ocl_kernel_destroy(&((op_copies *)op)->kernel); }

const op_kind op_copies_kind = {.table = &table,
                                .size = sizeof(op_copies),
                                .describe = describe,
                                .create = create,
                                .self_check = op_copies_self_check,
                                .release = release};

enum { COPIES = 4 };

/* Those that are not there are empty. */
static moecl_status copy(op_copies *op, ocl_chain *chain, const op_copy *copies, size_t count) {
  const moecl_buffer *from[COPIES], *to[COPIES];
  uint64_t end[COPIES], at[COPIES], all = 0;
  for (size_t i = 0; i < COPIES; i++) {
    const op_copy *one = &copies[i < count ? i : 0];
    from[i] = one->from;
    to[i] = one->to;
    at[i] = one->first_to - all; /* modulo 2^64 */
    all += i < count ? one->count : 0;
    end[i] = all;
  }
  if (all == 0) return MOECL_OK;
  MOECL_TRY(ocl_kernel_args(op->kernel, "bbbbbbbbLLLLLLLL", from[0], from[1], from[2], from[3],
                            to[0], to[1], to[2], to[3], all, end[0], end[1], end[2], at[0], at[1],
                            at[2], at[3]));
  return ocl_launch_items(chain, op->kernel, all);
}

moecl_status op_copies_enqueue(op_copies *op, ocl_chain *chain, const op_copy *copies,
                               size_t count) {
  for (size_t i = 0; i < count; i += COPIES)
    MOECL_TRY(copy(op, chain, &copies[i], count - i < COPIES ? count - i : COPIES));
  return MOECL_OK;
}
