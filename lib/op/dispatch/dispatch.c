// SPDX-License-Identifier: MIT
#include "op/dispatch/dispatch.h"
#include "base/base.h"
#include <stdio.h>

static const kernel_variant rows[] = {
#include "dispatch/variants.def"
};
const kernel_table op_dispatch_table = {"dispatch", rows, BASE_COUNT(rows)};

enum { FIND_OWNERS, OWN_OFFSETS, COUNT, SCAN, WRITE, CHUNK };
static const char *const entries[OP_DISPATCH_KERNELS] = {
    [FIND_OWNERS] = "find_owners", [OWN_OFFSETS] = "own_offsets", [COUNT] = "count_bins",
    [SCAN] = "scan_blocks",        [WRITE] = "write_lists",       [CHUNK] = "chunk_offsets"};

static moecl_status describe(moecl_context *context, const kernel_variant *variant,
                             const void *desc, void *op) {
  *(op_dispatch *)op = (op_dispatch){.desc = *(const op_dispatch_desc *)desc,
                                     .local = ocl_local_size(context, variant->local)};
  return MOECL_OK;
}

static moecl_status create(moecl_context *context, const kernel_variant *variant, const void *desc,
                           void *op) {
  op_dispatch *dispatch = op;
  char defines[64];
  MOECL_TRY(describe(context, variant, desc, op));
  snprintf(defines, sizeof defines, "LOCAL %u\nWEIGHTED %d\nPLACED %d\n", dispatch->local,
           dispatch->desc.weighted, dispatch->desc.placed);
  for (int i = 0; i < OP_DISPATCH_KERNELS; i++)
    MOECL_TRY(
        ocl_kernel_create(context, variant->source, defines, entries[i], &dispatch->kernels[i]));
  return MOECL_OK;
}

static void release(void *op) {
  op_dispatch *dispatch = op;
  for (int i = 0; i < OP_DISPATCH_KERNELS; i++) ocl_kernel_destroy(&dispatch->kernels[i]);
}

const op_kind op_dispatch_kind = {.table = &op_dispatch_table,
                                  .size = sizeof(op_dispatch),
                                  .describe = describe,
                                  .create = create,
                                  .self_check = op_dispatch_self_check,
                                  .release = release};

/* ---- what the host writes ---- */

size_t op_dispatch_sources_size(const op_dispatch_desc *desc, int32_t num_blocks) {
  return (size_t)desc->members + 1 + (size_t)num_blocks + 1;
}

static int32_t blocks_of(const op_dispatch *dispatch, int64_t tokens) {
  return (int32_t)base_div_up((uint64_t)tokens, dispatch->local);
}

int32_t op_dispatch_blocks(const op_dispatch *dispatch, const int64_t *tokens) {
  int32_t blocks = 0;
  for (int32_t m = 0; m < dispatch->desc.members; m++) blocks += blocks_of(dispatch, tokens[m]);
  return blocks;
}

void op_dispatch_write_sources(const op_dispatch *dispatch, const int64_t *tokens,
                               int32_t *sources) {
  const int32_t members = dispatch->desc.members;
  int32_t *first_token = sources + members + 1, block = 0;
  int64_t before = 0;
  for (int32_t m = 0; m < members; m++) {
    sources[m] = block;
    for (int64_t t = 0; t < tokens[m]; t += dispatch->local)
      first_token[block++] = (int32_t)(before + t);
    before += tokens[m];
  }
  sources[members] = block;
  first_token[block] = (int32_t)before;
}

/* ---- launches ---- */

static moecl_status count_bins(op_dispatch *dispatch, ocl_chain *chain, const op_dispatch_io *io) {
  const op_dispatch_desc *desc = &dispatch->desc;
  ocl_kernel *find = dispatch->kernels[FIND_OWNERS], *count = dispatch->kernels[COUNT];
  ocl_kernel *scan = dispatch->kernels[SCAN];
  const int64_t assignments = io->num_tokens * desc->top_k;
  MOECL_TRY(ocl_kernel_args(find, "bbbbbiiii", io->topk_ids, io->assignment_slot,
                            io->expert_offsets, io->placement, io->bins, (int32_t)assignments,
                            (int32_t)desc->num_experts, desc->members, io->chunks));
  MOECL_TRY(ocl_launch_items(chain, find, (uint64_t)assignments));
  MOECL_TRY(ocl_kernel_args(count, "bbbiii", io->bins, io->sources, io->counts,
                            (int32_t)desc->top_k, desc->members, io->chunks));
  MOECL_TRY(ocl_launch(chain, count, (uint64_t)io->num_blocks, dispatch->local));
  MOECL_TRY(ocl_kernel_args(scan, "bbbii", io->counts, io->sources, io->starts, io->num_blocks,
                            desc->members));
  return ocl_launch(chain, scan, 2 * (uint64_t)desc->members * (uint64_t)io->chunks,
                    dispatch->local);
}

moecl_status op_dispatch_enqueue(op_dispatch *dispatch, ocl_chain *chain,
                                 const op_dispatch_io *io) {
  const op_dispatch_desc *desc = &dispatch->desc;
  ocl_kernel *offsets = dispatch->kernels[OWN_OFFSETS], *write = dispatch->kernels[WRITE];
  MOECL_TRY(count_bins(dispatch, chain, io));
  MOECL_TRY(ocl_kernel_args(offsets, "bbbbiiii", io->expert_offsets, io->placement, io->own_offsets,
                            io->own_tiles, (int32_t)desc->num_experts, desc->members, desc->own,
                            io->tile_rows));
  MOECL_TRY(ocl_launch(chain, offsets, 1, dispatch->local));
  MOECL_TRY(ocl_kernel_args(write, "bbbbbbbbbbbbbbbbbiiiii", io->bins, io->topk_ids,
                            io->assignment_slot, io->expert_offsets, io->topk_weights,
                            io->placement, io->sources, io->counts, io->starts, io->own_offsets,
                            io->slot_row, io->returns, io->send_token, io->home_slot, io->home_rows,
                            io->received_slot, io->received_weight, (int32_t)desc->top_k,
                            (int32_t)desc->num_experts, desc->members, io->chunks, desc->me));
  return ocl_launch(chain, write, (uint64_t)io->num_blocks, dispatch->local);
}

/* The first l with l * chunks / own == c: as find_owners has it. */
int32_t op_dispatch_chunk_begin(int32_t own, int32_t chunks, int32_t c) {
  return (int32_t)(((int64_t)c * own + chunks - 1) / chunks);
}

moecl_status op_dispatch_enqueue_chunk(op_dispatch *dispatch, ocl_chain *chain, int32_t chunks,
                                       int32_t c, const moecl_buffer *own_offsets,
                                       const moecl_buffer *offsets, const moecl_buffer *tiles,
                                       uint32_t tile_rows) {
  ocl_kernel *kernel = dispatch->kernels[CHUNK];
  const int32_t own = dispatch->desc.own;
  MOECL_TRY(ocl_kernel_args(kernel, "bbbiiii", own_offsets, offsets, tiles, own,
                            op_dispatch_chunk_begin(own, chunks, c),
                            op_dispatch_chunk_begin(own, chunks, c + 1), (int32_t)tile_rows));
  return ocl_launch(chain, kernel, 1, dispatch->local);
}
