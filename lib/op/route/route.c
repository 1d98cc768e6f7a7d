// SPDX-License-Identifier: MIT
#include "op/route/route.h"
#include "base/base.h"
#include <stdio.h>
#include <string.h>

/* cl/route/route.clh: a bit for each token and expert in local memory; and all assignments, or all
 * tiles, in half of a word. */
enum { MOST_TOKENS = 256, MOST_EXPERTS = 512, MASK_BITS = 32, LANES = 32 };
enum { MOST_ASSIGNMENTS = MOST_TOKENS * MOECL_MAX_TOP_K };
_Static_assert(MOST_ASSIGNMENTS <= INT16_MAX, "half of a word has room for all assignments");

/* A launch's counters go up by a block each, and begin at a multiple of more than there can be. */
enum { COUNTS = MOST_EXPERTS + 1 };
_Static_assert((uint64_t)MOST_TOKENS < COUNTS, "of tokens, too");
_Static_assert(OP_ROUTE_LAUNCHES <= UINT32_MAX / COUNTS, "a word holds every launch's");

static const kernel_variant rows[] = {
#include "route/variants.def"
};
const kernel_table op_route_table = {"route", rows, sizeof rows / sizeof rows[0]};

bool op_route_few_experts(const kernel_variant *variant, const void *desc) {
  (void)variant;
  return ((const op_route_desc *)desc)->rule.num_experts <= MOST_EXPERTS;
}

bool op_route_multiples_of_8(const kernel_variant *variant, const void *desc) {
  return op_route_few_experts(variant, desc) && ((const op_route_desc *)desc)->hidden_size % 8 == 0;
}

static uint64_t weight_bytes(const op_route_desc *desc) {
  return desc_format_bytes(desc->stored, (uint64_t)desc->rule.num_experts,
                           (uint64_t)desc->hidden_size);
}

static uint64_t bias_bytes(const op_route_desc *desc) {
  return desc->bias ? desc_format_bytes(desc->stored, 1, (uint64_t)desc->rule.num_experts) : 0;
}

static uint64_t arrived_bytes(const kernel_variant *variant) {
  return sizeof(uint32_t) * (1 + MOST_TOKENS / variant->tile_m);
}

static moecl_status describe(moecl_context *context, const kernel_variant *variant,
                             const void *desc, void *op) {
  (void)context;
  *(op_route *)op = (op_route){.desc = *(const op_route_desc *)desc, .variant = variant};
  return MOECL_OK;
}

static moecl_status allocate(moecl_context *context, op_route *route) {
  MOECL_TRY(moecl_buffer_create(context, weight_bytes(&route->desc), &route->weights));
  if (route->desc.bias)
    MOECL_TRY(moecl_buffer_create(context, bias_bytes(&route->desc), &route->bias));
  return ocl_buffer_zeroed(context, arrived_bytes(route->variant), &route->arrived);
}

static moecl_status create(moecl_context *context, const kernel_variant *variant, const void *desc,
                           void *op) {
  op_route *route = op;
  char defines[600];
  MOECL_TRY(describe(context, variant, desc, op));
  op_router_defines(&route->desc.rule, variant->local, defines, sizeof defines);
  const size_t used = strlen(defines);
  snprintf(defines + used, sizeof defines - used, "DTYPE %d\nHAS_BIAS %d\n",
           route->desc.stored->element, route->desc.bias);
  MOECL_TRY(ocl_kernel_create(context, variant->source, defines, "route", &route->kernel));
  return allocate(context, route);
}

static void release(void *op) {
  op_route *route = op;
  ocl_kernel_destroy(&route->kernel);
  moecl_buffer_destroy(&route->weights);
  moecl_buffer_destroy(&route->bias);
  moecl_buffer_destroy(&route->arrived);
}

static uint64_t bytes(const void *op) {
  const op_route *route = op;
  return route->variant
             ? weight_bytes(&route->desc) + bias_bytes(&route->desc) + arrived_bytes(route->variant)
             : 0;
}

const op_kind op_route_kind = {.table = &op_route_table,
                               .size = sizeof(op_route),
                               .describe = describe,
                               .create = create,
                               .self_check = op_route_self_check,
                               .release = release,
                               .bytes = bytes};

/* Of many tokens of a large layer every work-group reads both operands again: a GEMM of its own
 * reads less. */
bool op_route_serves(const op_route *route, int64_t num_tokens) {
  enum { WORTH_BYTES = 64000000 };
  const op_route_desc *desc = &route->desc;
  if (!route->variant || num_tokens < 1 || num_tokens > MOST_TOKENS) return false;
  const uint64_t tokens = route->variant->tile_m, experts = route->variant->tile_n;
  const uint64_t groups = base_div_up((uint64_t)num_tokens, tokens) *
                          base_div_up((uint64_t)desc->rule.num_experts, experts);
  return groups * desc_format_bytes(desc->stored, tokens + experts, (uint64_t)desc->hidden_size) <=
         WORTH_BYTES;
}

/* What route.clh has in `memory`, one after the other: block_logits' rows or sums, route_block's
 * rows, masks. */
static size_t memory_bytes(const op_route *route, int64_t num_tokens) {
  const size_t experts = (size_t)route->desc.rule.num_experts,
               warps = route->variant->local / LANES;
  const size_t block = route->variant->tile_m * route->variant->tile_n;
  const size_t sums = (warps + 1) * block;
  const size_t choice = warps * (size_t)base_round_up(experts, 16);
  const size_t masks = experts * (size_t)base_div_up((uint64_t)num_tokens, MASK_BITS);
  const size_t most = choice > masks ? choice : masks;
  return sizeof(float) * (most > sums ? most : sums);
}

/* The number that this launch's counters begin at. A launch that ends half-way leaves counters that
 * nobody has reset, so that each has numbers of its own; when they run out, the counters go back to
 * zero. */
static moecl_status next_launch(op_route *route, uint32_t *begin) {
  if (route->launches == OP_ROUTE_LAUNCHES) {
    MOECL_TRY(moecl_buffer_fill_byte(route->arrived, 0, arrived_bytes(route->variant), 0));
    route->launches = 0;
  }
  *begin = route->launches++ * COUNTS;
  return MOECL_OK;
}

moecl_status op_route_enqueue(op_route *route, ocl_chain *chain, const op_route_io *io) {
  const op_route_desc *desc = &route->desc;
  const op_permute_io *lists = &io->permute;
  const uint64_t tokens = (uint64_t)io->router.num_tokens;
  uint32_t begin;
  MOECL_TRY(next_launch(route, &begin));
  MOECL_TRY(ocl_kernel_args(
      route->kernel, "bbbbbbbbbbbbbbuliiiiLLs", io->hidden_states, route->weights, route->bias,
      io->router.correction_bias, io->router.logits, io->router.topk_ids, io->router.topk_weights,
      lists->tokens_per_expert, lists->expert_offsets, lists->tile_offsets, lists->all_offsets,
      lists->slot_token, lists->assignment_slot, route->arrived, begin, desc->hidden_size,
      (int32_t)tokens, (int32_t)desc->rule.num_experts, (int32_t)desc->rule.top_k,
      (int32_t)lists->tile_m, io->router.seed, io->router.first_token,
      memory_bytes(route, io->router.num_tokens)));
  return ocl_launch(chain, route->kernel,
                    base_div_up(tokens, route->variant->tile_m) *
                        base_div_up((uint64_t)desc->rule.num_experts, route->variant->tile_n),
                    route->variant->local);
}
