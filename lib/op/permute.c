// SPDX-License-Identifier: MIT
#include "op/permute.h"
#include "base/base.h"
#include "moecl/routing.h"
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

bool op_permute_accepts(const kernel_variant *variant, const moecl_layer_params *params) {
  return !(variant->flags & KERNEL_BY_BLOCKS) || !(params->capacity_factor > 0);
}

bool op_permute_selects(const moecl_layer_params *params) {
  return params->capacity_factor > 0 && params->drop_policy != MOECL_DROP_POSITION;
}

bool op_permute_prioritizes(const moecl_layer_params *params) {
  return params->capacity_factor > 0 && params->drop_policy == MOECL_DROP_PRIORITIZED;
}

/* Kernels that are the same whatever the variant. */
static moecl_status create_common(op_permute *permute) {
  const moecl_layer_params *params = &permute->params;
  char defines[96];
  snprintf(defines, sizeof defines, "LOCAL %u\n", ocl_local_size(permute->context, 64));
  if (op_permute_prioritizes(params))
    MOECL_TRY(ocl_kernel_create(permute->context, "permute/priority.cl", defines, "prioritize",
                                &permute->prioritize));
  if (!params->renormalize_after_capacity) return MOECL_OK;
  const double scale = params->routed_scaling_factor == 0 ? 1 : params->routed_scaling_factor;
  base_format(defines, sizeof defines, "SCALE %af\nEPSILON %af\n", scale, 0x1p-23 * scale);
  return ocl_kernel_create(permute->context, "permute/kept_weights.cl", defines, "kept_weights",
                           &permute->kept_weights);
}

moecl_status op_permute_create(moecl_context *context, const kernel_variant *variant,
                               const moecl_layer_params *params, op_permute *permute) {
  const bool capped = params->capacity_factor > 0;
  *permute = (op_permute){.context = context,
                          .variant = variant,
                          .params = *params,
                          .select = op_permute_selects(params)};
  char defines[64];
  snprintf(defines, sizeof defines, "ORDER_BY_CHOICE %d\nSELECT %d\nPRIORITIZED %d\n",
           capped && params->drop_policy != MOECL_DROP_PROBABILITY, permute->select,
           op_permute_prioritizes(params));
  const struct {
    const char *entry;
    ocl_kernel **kernel;
    bool by_blocks; /* these variants have it too */
  } kernels[] = {{"histogram", &permute->histogram, true},
                 {"scatter", &permute->scatter, true},
                 {"scan_blocks", &permute->scan_blocks, false},
                 {"scan_experts", &permute->scan_experts, false},
                 {"select_largest", &permute->select_largest, false}};
  for (size_t i = 0; i < sizeof kernels / sizeof kernels[0]; i++)
    if (kernels[i].by_blocks || !(variant->flags & KERNEL_BY_BLOCKS))
      MOECL_TRY(ocl_kernel_create(context, variant->source, defines, kernels[i].entry,
                                  kernels[i].kernel));
  return create_common(permute);
}

void op_permute_release(op_permute *permute) {
  ocl_kernel_destroy(&permute->histogram);
  ocl_kernel_destroy(&permute->scan_blocks);
  ocl_kernel_destroy(&permute->scan_experts);
  ocl_kernel_destroy(&permute->scatter);
  ocl_kernel_destroy(&permute->select_largest);
  ocl_kernel_destroy(&permute->prioritize);
  ocl_kernel_destroy(&permute->kept_weights);
}

/* -1 for dropless. An expert never gets more than T, so clamping loses nothing. */
static int32_t device_capacity(const op_permute *permute, int64_t num_tokens) {
  const int64_t capacity = moecl_expert_capacity(&permute->params, num_tokens);
  return (int32_t)(capacity > num_tokens ? num_tokens : capacity);
}

static moecl_status count_blocks(op_permute *permute, ocl_chain *chain, const op_permute_io *io) {
  MOECL_TRY(ocl_kernel_args(permute->histogram, "bbiiii", io->topk_ids, io->block_counts,
                            (int32_t)io->num_tokens, op_permute_tokens_per_block(io->num_tokens),
                            (int32_t)permute->params.top_k, (int32_t)permute->params.num_experts));
  return ocl_launch(chain, permute->histogram, blocks_of_tokens(io->num_tokens),
                    permute->histogram->local);
}

moecl_status op_permute_enqueue_counted(op_permute *permute, ocl_chain *chain,
                                        const op_permute_io *io) {
  MOECL_TRY(ocl_kernel_args(
      permute->scatter, "bbbbbbbbiiiii", io->topk_ids, io->block_counts, io->tokens_per_expert,
      io->expert_offsets, io->tile_offsets, io->all_offsets, io->slot_token, io->assignment_slot,
      (int32_t)io->num_tokens, op_permute_tokens_per_block(io->num_tokens),
      (int32_t)permute->params.top_k, (int32_t)permute->params.num_experts, (int32_t)io->tile_m));
  return ocl_launch(chain, permute->scatter, blocks_of_tokens(io->num_tokens),
                    permute->scatter->local);
}

static moecl_status select_largest(op_permute *permute, ocl_chain *chain, const op_permute_io *io) {
  const uint64_t experts = (uint64_t)permute->params.num_experts;
  const moecl_buffer *keys = permute->prioritize ? io->token_priority : io->topk_weights;
  if (permute->prioritize) {
    MOECL_TRY(ocl_kernel_args(permute->prioritize, "bbi", io->logits, io->token_priority,
                              (int32_t)experts));
    MOECL_TRY(ocl_launch(chain, permute->prioritize, (uint64_t)io->num_tokens,
                         permute->prioritize->local));
  }
  MOECL_TRY(ocl_kernel_args(permute->select_largest, "bbbbbbi", io->order, io->all_offsets,
                            io->expert_offsets, keys, io->slot_token, io->assignment_slot,
                            (int32_t)permute->params.top_k));
  return ocl_launch(chain, permute->select_largest, experts, permute->select_largest->local);
}

static moecl_status enqueue_sorted(op_permute *permute, ocl_chain *chain, const op_permute_io *io) {
  const int32_t tokens = (int32_t)io->num_tokens;
  const int32_t top_k = (int32_t)permute->params.top_k;
  const int32_t experts = (int32_t)permute->params.num_experts;
  const int32_t limited = experts - (int32_t)permute->params.num_identity_experts;
  const uint64_t blocks = blocks_of_assignments(tokens, top_k);

  MOECL_TRY(ocl_kernel_args(permute->histogram, "bbiii", io->topk_ids, io->block_counts, tokens,
                            top_k, experts));
  MOECL_TRY(ocl_launch(chain, permute->histogram, blocks, permute->histogram->local));
  MOECL_TRY(ocl_kernel_args(permute->scan_blocks, "bbii", io->block_counts, io->tokens_per_expert,
                            (int32_t)blocks, experts));
  MOECL_TRY(
      ocl_launch(chain, permute->scan_blocks, (uint64_t)experts, permute->scan_blocks->local));
  MOECL_TRY(ocl_kernel_args(permute->scan_experts, "bbbbiiii", io->tokens_per_expert,
                            io->expert_offsets, io->tile_offsets, io->all_offsets, experts, limited,
                            device_capacity(permute, io->num_tokens), (int32_t)io->tile_m));
  MOECL_TRY(ocl_launch(chain, permute->scan_experts, 1, permute->scan_experts->local));
  MOECL_TRY(ocl_kernel_args(permute->scatter, "bbbbbbbiii", io->topk_ids, io->block_counts,
                            io->expert_offsets, io->all_offsets, io->slot_token,
                            io->assignment_slot, io->order, tokens, top_k, experts));
  MOECL_TRY(ocl_launch(chain, permute->scatter, blocks, permute->scatter->local));
  return permute->select ? select_largest(permute, chain, io) : MOECL_OK;
}

moecl_status op_permute_enqueue(op_permute *permute, ocl_chain *chain, const op_permute_io *io) {
  if (!(permute->variant->flags & KERNEL_BY_BLOCKS)) return enqueue_sorted(permute, chain, io);
  MOECL_TRY(count_blocks(permute, chain, io));
  return op_permute_enqueue_counted(permute, chain, io);
}

moecl_status op_permute_enqueue_weights(op_permute *permute, ocl_chain *chain,
                                        const op_permute_io *io) {
  if (!permute->kept_weights) return MOECL_OK;
  MOECL_TRY(ocl_kernel_args(permute->kept_weights, "bbbii", io->topk_weights, io->assignment_slot,
                            io->kept_weights, (int32_t)io->num_tokens,
                            (int32_t)permute->params.top_k));
  return ocl_launch_items(chain, permute->kept_weights, (uint64_t)io->num_tokens);
}
