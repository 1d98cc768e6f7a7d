// SPDX-License-Identifier: MIT
#include "base/base.h"
#include "op/dispatch/dispatch.h"
#include <stdio.h>

static const kernel_variant variants[] = {
    {.name = "generic", .source = "dispatch/rows.cl", .formats = KERNEL_ALL}};
static const kernel_table table = {"gather_rows", variants, BASE_COUNT(variants)};

static moecl_status describe(moecl_context *context, const kernel_variant *variant,
                             const void *desc, void *op) {
  (void)context, (void)variant;
  op_rows *made = op;
  *made = (op_rows){.desc = *(const op_rows_desc *)desc, .unit = 16};
  while (made->desc.row_bytes % made->unit) made->unit /= 2;
  return MOECL_OK;
}

static moecl_status create(moecl_context *context, const kernel_variant *variant, const void *desc,
                           void *op) {
  op_rows *made = op;
  char defines[32];
  MOECL_TRY(describe(context, variant, desc, op));
  snprintf(defines, sizeof defines, "UNIT %u\n", made->unit);
  return ocl_kernel_create(context, variant->source, defines, "gather_rows", &made->kernel);
}

static void release(void *op) { ocl_kernel_destroy(&((op_rows *)op)->kernel); }

const op_kind op_rows_kind = {.table = &table,
                              .size = sizeof(op_rows),
                              .describe = describe,
                              .create = create,
                              .self_check = op_rows_self_check,
                              .release = release};

enum { PLACES = 4, MOST_GROUPS = 32768 };

/* The parts of one launch, PLACES at most; those that are not there are empty. */
static moecl_status gather(op_rows *rows, ocl_chain *chain, const op_rows_io *io, uint64_t first,
                           const op_rows_part *parts, size_t count) {
  const uint64_t units = rows->desc.row_bytes / rows->unit;
  const moecl_buffer *to[PLACES];
  uint64_t end[PLACES], at[PLACES], all = 0;
  for (size_t i = 0; i < PLACES; i++) {
    const op_rows_part *part = &parts[i < count ? i : 0];
    to[i] = part->to;
    at[i] = part->first_to - all; /* whatever that is modulo 2^64, all + at is first_to */
    all += i < count ? part->count : 0;
    end[i] = all;
  }
  if (all == 0) return MOECL_OK;
  MOECL_TRY(ocl_kernel_args(rows->kernel, "bbbbbbLLLLLLLLLL", io->from, io->list, to[0], to[1],
                            to[2], to[3], units, first, all, end[0], end[1], end[2], at[0], at[1],
                            at[2], at[3]));
  return ocl_launch_items_2d(chain, rows->kernel, units, all < MOST_GROUPS ? all : MOST_GROUPS);
}

moecl_status op_rows_enqueue(op_rows *rows, ocl_chain *chain, const op_rows_io *io) {
  const op_places *to = &io->to;
  uint64_t first = to->first;
  for (size_t i = 0; i < to->count; i += PLACES) {
    const size_t left = to->count - i, count = left < PLACES ? left : PLACES;
    MOECL_TRY(gather(rows, chain, io, first, &to->parts[i], count));
    for (size_t j = 0; j < count; j++) first += to->parts[i + j].count;
  }
  return MOECL_OK;
}
