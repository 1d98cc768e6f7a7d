// SPDX-License-Identifier: MIT
#include "op/permute/rounds.h"
#include "base/base.h"

static const kernel_variant rows[] = {
    {.name = "generic", .source = "permute/rounds.cl", .formats = KERNEL_ALL}};
static const kernel_table table = {"rounds", rows, BASE_COUNT(rows)};

enum { SLOTS, OFFSETS };
static const char *const entries[OP_ROUNDS_KERNELS] = {
    [SLOTS] = "move_slots", [OFFSETS] = "round_offsets"};

static moecl_status describe(moecl_context *context, const kernel_variant *variant,
                             const void *desc, void *op) {
  (void)context, (void)variant;
  *(op_rounds *)op = (op_rounds){.desc = *(const op_rounds_desc *)desc};
  return MOECL_OK;
}

static moecl_status create(moecl_context *context, const kernel_variant *variant, const void *desc,
                           void *op) {
  op_rounds *rounds = op;
  MOECL_TRY(describe(context, variant, desc, op));
  for (int i = 0; i < OP_ROUNDS_KERNELS; i++)
    MOECL_TRY(ocl_kernel_create(context, variant->source, NULL, entries[i], &rounds->kernels[i]));
  return MOECL_OK;
}

static void release(void *op) {
  for (int i = 0; i < OP_ROUNDS_KERNELS; i++) ocl_kernel_destroy(&((op_rounds *)op)->kernels[i]);
}

const op_kind op_rounds_kind = {.table = &table,
                                .size = sizeof(op_rounds),
                                .describe = describe,
                                .create = create,
                                .self_check = op_rounds_self_check,
                                .release = release};

moecl_status op_rounds_enqueue_slots(op_rounds *rounds, ocl_chain *chain, const op_rounds_io *io) {
  const op_rounds_desc *desc = &rounds->desc;
  const int64_t count = io->num_tokens * desc->top_k;
  MOECL_TRY(ocl_kernel_args(rounds->kernels[SLOTS], "bbbbbiii", io->topk_ids, io->assignment_slot,
                            io->list, io->moved_slot, io->moved_token, (int32_t)count,
                            (int32_t)desc->top_k, (int32_t)desc->num_experts));
  return ocl_launch_items(chain, rounds->kernels[SLOTS], (uint64_t)count);
}

moecl_status op_rounds_enqueue_offsets(op_rounds *rounds, ocl_chain *chain, size_t round,
                                       const moecl_buffer *list, const moecl_buffer *offsets,
                                       const moecl_buffer *tiles) {
  const op_rounds_desc *desc = &rounds->desc;
  const int64_t count = desc->places + 1;
  MOECL_TRY(ocl_kernel_args(rounds->kernels[OFFSETS], "bbbii", list, offsets, tiles,
                            (int32_t)op_rounds_list_size(desc, round), (int32_t)count));
  return ocl_launch_items(chain, rounds->kernels[OFFSETS], (uint64_t)count);
}
