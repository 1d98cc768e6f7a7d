#include "op/permute.h"
#include "base/base.h"
#include "moecl/routing.h"
#include <stdio.h>

enum { BLOCK = 256, SCAN_LOCAL = 64 }; /* as in cl/permute/generic.cl */

uint64_t op_permute_blocks(int64_t num_tokens, int64_t top_k) {
  return base_div_up((uint64_t)num_tokens * (uint64_t)top_k, BLOCK);
}

bool op_permute_selects(const moecl_layer_params *params) {
  return params->capacity_factor > 0 && params->drop_policy == MOECL_DROP_PROBABILITY;
}

moecl_status op_permute_create(moecl_context *context, const kernel_variant *variant,
                               const moecl_layer_params *params, op_permute *permute) {
  const bool capped = params->capacity_factor > 0;
  *permute = (op_permute){
      .context = context, .params = *params, .select = op_permute_selects(params)};
  char defines[64];
  snprintf(defines, sizeof defines, "ORDER_BY_CHOICE %d\nSELECT %d\n",
           capped && params->drop_policy == MOECL_DROP_POSITION, permute->select);
  const struct {
    const char *entry;
    ocl_kernel **kernel;
  } kernels[] = {{"histogram", &permute->histogram},       {"scan_blocks", &permute->scan_blocks},
                 {"scan_experts", &permute->scan_experts}, {"scatter", &permute->scatter},
                 {"select_largest", &permute->select_largest},
                 {"dense_offsets", &permute->dense_offsets}};
  for (size_t i = 0; i < sizeof kernels / sizeof kernels[0]; i++)
    MOECL_TRY(ocl_kernel_create(context, variant->source, defines, kernels[i].entry,
                                kernels[i].kernel));
  return MOECL_OK;
}

void op_permute_release(op_permute *permute) {
  ocl_kernel_destroy(&permute->histogram);
  ocl_kernel_destroy(&permute->scan_blocks);
  ocl_kernel_destroy(&permute->scan_experts);
  ocl_kernel_destroy(&permute->scatter);
  ocl_kernel_destroy(&permute->select_largest);
  ocl_kernel_destroy(&permute->dense_offsets);
}

/* -1 for dropless. An expert never gets more than T, so clamping loses nothing. */
static int32_t device_capacity(const op_permute *permute, int64_t num_tokens) {
  const int64_t capacity = moecl_expert_capacity(&permute->params, num_tokens);
  return (int32_t)(capacity > num_tokens ? num_tokens : capacity);
}

moecl_status op_permute_enqueue(op_permute *permute, ocl_chain *chain, const op_permute_io *io) {
  const int32_t tokens = (int32_t)io->num_tokens;
  const int32_t top_k = (int32_t)permute->params.top_k;
  const int32_t experts = (int32_t)permute->params.num_experts;
  const int32_t capacity = device_capacity(permute, io->num_tokens);
  const uint64_t blocks = op_permute_blocks(tokens, top_k);

  MOECL_TRY(ocl_kernel_args(permute->histogram, "bbiii", io->topk_ids, io->block_counts, tokens,
                            top_k, experts));
  MOECL_TRY(ocl_launch(chain, permute->histogram, blocks, BLOCK));
  MOECL_TRY(ocl_kernel_args(permute->scan_blocks, "bbii", io->block_counts, io->tokens_per_expert,
                            (int32_t)blocks, experts));
  MOECL_TRY(ocl_launch(chain, permute->scan_blocks, (uint64_t)experts, SCAN_LOCAL));
  MOECL_TRY(ocl_kernel_args(permute->scan_experts, "bbbbiii", io->tokens_per_expert,
                            io->expert_offsets, io->tile_offsets, io->all_offsets, experts,
                            capacity, (int32_t)io->tile_m));
  MOECL_TRY(ocl_launch(chain, permute->scan_experts, 1, SCAN_LOCAL));
  MOECL_TRY(ocl_kernel_args(permute->scatter, "bbbbbbbiiii", io->topk_ids, io->block_counts,
                            io->expert_offsets, io->all_offsets, io->slot_token,
                            io->assignment_slot, io->order, tokens, top_k, experts, capacity));
  MOECL_TRY(ocl_launch(chain, permute->scatter, blocks, BLOCK));
  if (!permute->select) return MOECL_OK;
  MOECL_TRY(ocl_kernel_args(permute->select_largest, "bbbbbbii", io->order, io->all_offsets,
                            io->expert_offsets, io->topk_weights, io->slot_token,
                            io->assignment_slot, top_k, capacity));
  return ocl_launch(chain, permute->select_largest, (uint64_t)experts, SCAN_LOCAL);
}

moecl_status op_permute_dense(op_permute *permute, ocl_chain *chain,
                              const moecl_buffer *expert_offsets,
                              const moecl_buffer *tile_offsets, int64_t rows, uint32_t tile_m) {
  MOECL_TRY(ocl_kernel_args(permute->dense_offsets, "bbii", expert_offsets, tile_offsets,
                            (int32_t)rows, (int32_t)tile_m));
  return ocl_launch(chain, permute->dense_offsets, 1, 1);
}
