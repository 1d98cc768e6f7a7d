// SPDX-License-Identifier: MIT
#include "op/permute/permute.h"
#include "base/base.h"
#include <stdio.h>

enum { BLOCK = 256 }; /* assignments, as in cl/permute/order.clh */

static uint64_t blocks_of_assignments(int64_t num_tokens, int64_t top_k) {
  return base_div_up((uint64_t)num_tokens * (uint64_t)top_k, BLOCK);
}

/* At most 128 blocks: each adds up the counts of all. Multiples of 8 because the
 * router takes 8 tokens of a block at a time. */
int32_t op_permute_tokens_per_block(int64_t num_tokens) {
  return (int32_t)(8 * base_div_up((uint64_t)num_tokens, 1024));
}

static uint64_t blocks_of_tokens(int64_t num_tokens) {
  if (num_tokens == 0) return 0;
  return base_div_up((uint64_t)num_tokens, (uint64_t)op_permute_tokens_per_block(num_tokens));
}

uint64_t op_permute_most_blocks(int64_t num_tokens, int64_t top_k) {
  const uint64_t a = blocks_of_assignments(num_tokens, top_k), b = blocks_of_tokens(num_tokens);
  return a > b ? a : b;
}

static const kernel_variant rows[] = {
#include "permute/variants.def"
};
const kernel_table op_permute_table = {"permute", rows, sizeof rows / sizeof rows[0]};

bool op_permute_drops_nothing(const kernel_variant *variant, const void *desc) {
  (void)variant;
  return !(((const desc_dispatch *)desc)->capacity_factor > 0);
}

bool op_permute_follows_counts(const kernel_variant *variant, const void *desc) {
  return op_permute_drops_nothing(variant, desc) && ((const desc_dispatch *)desc)->counted;
}

/* Kernels that are the same whatever the variant. */
static moecl_status create_common(op_permute *permute) {
  const desc_dispatch *desc = &permute->desc;
  char defines[96];
  snprintf(defines, sizeof defines, "LOCAL %u\n", ocl_local_size(permute->context, 64));
  if (desc_prioritizes(desc))
    MOECL_TRY(ocl_kernel_create(permute->context, "permute/priority.cl", defines, "prioritize",
                                &permute->prioritize));
  if (!desc->renormalize_after_capacity) return MOECL_OK;
  const double scale = desc->routed_scaling_factor;
  base_format(defines, sizeof defines, "SCALE %af\nEPSILON %af\n", scale, 0x1p-23 * scale);
  return ocl_kernel_create(permute->context, "permute/kept_weights.cl", defines, "kept_weights",
                           &permute->kept_weights);
}

static moecl_status describe(moecl_context *context, const kernel_variant *variant,
                             const void *desc, void *op) {
  *(op_permute *)op = (op_permute){.context = context,
                                   .variant = variant,
                                   .driver = variant->driver,
                                   .desc = *(const desc_dispatch *)desc};
  return MOECL_OK;
}

static moecl_status create(moecl_context *context, const kernel_variant *variant,
                           const void *problem, void *op) {
  const desc_dispatch *desc = problem;
  op_permute *permute = op;
  const bool by_choice = desc->capacity_factor > 0 && desc->drop_policy != MOECL_DROP_PROBABILITY;
  MOECL_TRY(describe(context, variant, desc, op));
  char defines[64];
  snprintf(defines, sizeof defines, "ORDER_BY_CHOICE %d\nSELECT %d\nPRIORITIZED %d\n", by_choice,
           desc_selects(desc), desc_prioritizes(desc));
  for (int i = 0; permute->driver->entries[i]; i++)
    MOECL_TRY(ocl_kernel_create(context, variant->source, defines, permute->driver->entries[i],
                                &permute->kernels[i]));
  return create_common(permute);
}

static void release(void *op) {
  op_permute *permute = op;
  for (int i = 0; i < OP_PERMUTE_MOST_KERNELS; i++) ocl_kernel_destroy(&permute->kernels[i]);
  ocl_kernel_destroy(&permute->prioritize);
  ocl_kernel_destroy(&permute->kept_weights);
}

const op_kind op_permute_kind = {.table = &op_permute_table,
                                 .size = sizeof(op_permute),
                                 .describe = describe,
                                 .create = create,
                                 .self_check = op_permute_self_check,
                                 .release = release};

moecl_status op_permute_enqueue(op_permute *permute, ocl_chain *chain, const op_permute_io *io) {
  return permute->driver->enqueue(permute, chain, io);
}

moecl_status op_permute_enqueue_weights(op_permute *permute, ocl_chain *chain,
                                        const op_permute_io *io) {
  if (!permute->kept_weights) return MOECL_OK;
  MOECL_TRY(ocl_kernel_args(permute->kept_weights, "bbbii", io->topk_weights, io->assignment_slot,
                            io->kept_weights, (int32_t)io->num_tokens,
                            (int32_t)permute->desc.top_k));
  return ocl_launch_items(chain, permute->kept_weights, (uint64_t)io->num_tokens);
}

/* ---- variants that count blocks of tokens, and drop nothing ---- */

enum { COUNT_SCATTER, COUNT_HISTOGRAM };
static const char *const counted_entries[] = {
    [COUNT_SCATTER] = "scatter", [COUNT_HISTOGRAM] = "histogram", NULL};

moecl_status op_permute_enqueue_counted(op_permute *permute, ocl_chain *chain,
                                        const op_permute_io *io) {
  ocl_kernel *scatter = permute->kernels[COUNT_SCATTER];
  MOECL_TRY(ocl_kernel_args(
      scatter, "bbbbbbbbiiiii", io->topk_ids, io->block_counts, io->tokens_per_expert,
      io->expert_offsets, io->tile_offsets, io->all_offsets, io->slot_token, io->assignment_slot,
      (int32_t)io->num_tokens, op_permute_tokens_per_block(io->num_tokens),
      (int32_t)permute->desc.top_k, (int32_t)permute->desc.num_experts, (int32_t)io->tile_m));
  return ocl_launch(chain, scatter, blocks_of_tokens(io->num_tokens), scatter->local);
}

static moecl_status count_and_scatter(op_permute *permute, ocl_chain *chain,
                                      const op_permute_io *io) {
  ocl_kernel *histogram = permute->kernels[COUNT_HISTOGRAM];
  MOECL_TRY(ocl_kernel_args(histogram, "bbiiii", io->topk_ids, io->block_counts,
                            (int32_t)io->num_tokens, op_permute_tokens_per_block(io->num_tokens),
                            (int32_t)permute->desc.top_k, (int32_t)permute->desc.num_experts));
  MOECL_TRY(ocl_launch(chain, histogram, blocks_of_tokens(io->num_tokens), histogram->local));
  return op_permute_enqueue_counted(permute, chain, io);
}

const op_permute_driver op_permute_counted_driver = {
    .entries = counted_entries, .enqueue = count_and_scatter, .counts = true, .launches = 2};

/* ---- variants that sort blocks of assignments, with capacity ---- */

enum { SORT_SCATTER, SORT_HISTOGRAM, SORT_SCAN_BLOCKS, SORT_SCAN_EXPERTS, SORT_SELECT };
static const char *const sorted_entries[] = {
    [SORT_SCATTER] = "scatter",         [SORT_HISTOGRAM] = "histogram",
    [SORT_SCAN_BLOCKS] = "scan_blocks", [SORT_SCAN_EXPERTS] = "scan_experts",
    [SORT_SELECT] = "select_largest",   NULL};

/* -1 for dropless. An expert never gets more than T, so clamping loses nothing. */
static int32_t device_capacity(const op_permute *permute, int64_t num_tokens) {
  const int64_t capacity = desc_expert_capacity(&permute->desc, num_tokens);
  return (int32_t)(capacity > num_tokens ? num_tokens : capacity);
}

moecl_status op_permute_enqueue_priorities(op_permute *permute, ocl_chain *chain,
                                           const op_permute_io *io) {
  if (!permute->prioritize) return MOECL_OK;
  MOECL_TRY(ocl_kernel_args(permute->prioritize, "bbi", io->logits, io->token_priority,
                            (int32_t)permute->desc.num_experts));
  return ocl_launch(chain, permute->prioritize, (uint64_t)io->num_tokens,
                    permute->prioritize->local);
}

static moecl_status select_largest(op_permute *permute, ocl_chain *chain, const op_permute_io *io) {
  const uint64_t experts = (uint64_t)permute->desc.num_experts;
  const moecl_buffer *keys = permute->prioritize ? io->token_priority : io->topk_weights;
  ocl_kernel *select = permute->kernels[SORT_SELECT];
  if (io->logits) MOECL_TRY(op_permute_enqueue_priorities(permute, chain, io));
  MOECL_TRY(ocl_kernel_args(select, "bbbbbbi", io->order, io->all_offsets, io->expert_offsets, keys,
                            io->slot_token, io->assignment_slot, (int32_t)permute->desc.top_k));
  return ocl_launch(chain, select, experts, select->local);
}

static moecl_status sort(op_permute *permute, ocl_chain *chain, const op_permute_io *io) {
  const desc_dispatch *desc = &permute->desc;
  const int32_t tokens = (int32_t)io->num_tokens, top_k = (int32_t)desc->top_k;
  const int32_t experts = (int32_t)desc->num_experts;
  const int32_t limited = experts - (int32_t)desc->num_identity_experts;
  const uint64_t blocks = blocks_of_assignments(tokens, top_k);
  ocl_kernel *const *kernels = permute->kernels;
  MOECL_TRY(ocl_kernel_args(kernels[SORT_HISTOGRAM], "bbiii", io->topk_ids, io->block_counts,
                            tokens, top_k, experts));
  MOECL_TRY(ocl_launch(chain, kernels[SORT_HISTOGRAM], blocks, kernels[SORT_HISTOGRAM]->local));
  MOECL_TRY(ocl_kernel_args(kernels[SORT_SCAN_BLOCKS], "bbii", io->block_counts,
                            io->tokens_per_expert, (int32_t)blocks, experts));
  MOECL_TRY(ocl_launch(chain, kernels[SORT_SCAN_BLOCKS], (uint64_t)experts,
                       kernels[SORT_SCAN_BLOCKS]->local));
  MOECL_TRY(ocl_kernel_args(kernels[SORT_SCAN_EXPERTS], "bbbbiiii", io->tokens_per_expert,
                            io->expert_offsets, io->tile_offsets, io->all_offsets, experts, limited,
                            device_capacity(permute, io->num_tokens), (int32_t)io->tile_m));
  MOECL_TRY(ocl_launch(chain, kernels[SORT_SCAN_EXPERTS], 1, kernels[SORT_SCAN_EXPERTS]->local));
  MOECL_TRY(ocl_kernel_args(kernels[SORT_SCATTER], "bbbbbbbiii", io->topk_ids, io->block_counts,
                            io->expert_offsets, io->all_offsets, io->slot_token,
                            io->assignment_slot, io->order, tokens, top_k, experts));
  MOECL_TRY(ocl_launch(chain, kernels[SORT_SCATTER], blocks, kernels[SORT_SCATTER]->local));
  return desc_selects(desc) ? select_largest(permute, chain, io) : MOECL_OK;
}

const op_permute_driver op_permute_sorted_driver = {
    .entries = sorted_entries, .enqueue = sort, .launches = 4};
