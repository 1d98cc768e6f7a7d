// SPDX-License-Identifier: MIT
#include "op/router/router.h"
#include "base/base.h"
#include <stdio.h>

static const kernel_variant rows[] = {
#include "router/variants.def"
};
const kernel_table op_router_table = {"router", rows, sizeof rows / sizeof rows[0]};

/* Work-items of a block's choice: as many as the variant takes, and there is local memory
 * for a row of logits for every 32. */
static uint32_t topk_local(const kernel_variant *variant, const desc_rule *rule) {
  enum { FOR_ALL = 256 };
  return rule->num_experts > 256 && variant->local > FOR_ALL ? FOR_ALL : variant->local;
}

/* Rules that come to the same have the same defines, so that they are one program. */
void op_router_defines(const desc_rule *rule, uint32_t local, char *text, size_t size) {
  const bool groups = rule->topk_group < rule->num_expert_group;
  const bool after = rule->score_after_topk && rule->scoring == MOECL_SCORING_SOFTMAX;
  const bool random = rule->second_choice == MOECL_SECOND_RANDOM;
  const bool guarded = rule->renormalize_epsilon > 0 || rule->renormalize_minimum > 0;
  int used =
      snprintf(text, size,
               "SCORING %d\nAFTER_TOPK %d\nRENORMALIZE %d\nCORRECTION %d\nNUM_GROUPS %d\n"
               "TOPK_GROUP %d\nGROUP_SCORE %d\nSECOND_CHOICE %d\nTOPK_LOCAL %u\n",
               (int)rule->scoring, after && (random || guarded),
               rule->renormalize || (after && !random), rule->score_correction_bias,
               groups ? (int)rule->num_expert_group : 0, groups ? (int)rule->topk_group : 0,
               groups ? (int)rule->group_score : 0, (int)rule->second_choice, (unsigned)local);
  if (groups)
    used +=
        snprintf(text + used, size - (size_t)used, "CUT_VALUE %s\n",
                 rule->cut_groups_to_zero && rule->score_correction_bias ? "0.0f" : "-INFINITY");
  const struct {
    const char *name;
    float value;
    bool defined;
  } numbers[] = {
      {"EPSILON", rule->renormalize_epsilon, rule->renormalize_epsilon > 0},
      {"MINIMUM", rule->renormalize_minimum, rule->renormalize_minimum > 0},
      {"SCALE", rule->routed_scaling_factor, rule->routed_scaling_factor != 1},
      {"MIXER_LIMIT", 2 * rule->sparsemixer_jitter, rule->scoring == MOECL_SCORING_SPARSEMIXER}};
  for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
    if (numbers[i].defined)
      used += base_format(text + used, size - (size_t)used, "%s %af\n", numbers[i].name,
                          (double)numbers[i].value);
}

static moecl_status describe(moecl_context *context, const kernel_variant *variant,
                             const void *desc, void *op) {
  *(op_router *)op = (op_router){.context = context,
                                 .variant = variant,
                                 .driver = variant->driver,
                                 .desc = *(const desc_rule *)desc};
  return MOECL_OK;
}

static moecl_status create(moecl_context *context, const kernel_variant *variant, const void *desc,
                           void *op) {
  op_router *router = op;
  char defines[512];
  MOECL_TRY(describe(context, variant, desc, op));
  op_router_defines(desc, topk_local(variant, desc), defines, sizeof defines);
  MOECL_TRY(ocl_kernel_create(context, variant->source, defines, "topk", &router->topk));
  if (!router->driver->by_block) return MOECL_OK;
  return ocl_kernel_create(context, variant->source, defines, "topk_scatter",
                           &router->topk_scatter);
}

static void release(void *op) {
  op_router *router = op;
  ocl_kernel_destroy(&router->topk);
  ocl_kernel_destroy(&router->topk_scatter);
}

const op_kind op_router_kind = {.table = &op_router_table,
                                .size = sizeof(op_router),
                                .describe = describe,
                                .create = create,
                                .self_check = op_router_self_check,
                                .release = release};

moecl_status op_router_enqueue(op_router *router, ocl_chain *chain, const op_router_io *io) {
  return router->driver->enqueue(router, chain, io);
}

/* ---- by token ---- */

static moecl_status enqueue_by_token(op_router *router, ocl_chain *chain, const op_router_io *io) {
  MOECL_TRY(ocl_kernel_args(router->topk, "bbbbiiLL", io->logits, io->correction_bias, io->topk_ids,
                            io->topk_weights, (int32_t)router->desc.num_experts,
                            (int32_t)router->desc.top_k, io->seed, io->first_token));
  return ocl_launch(chain, router->topk, (uint64_t)io->num_tokens, router->variant->local);
}

const op_router_driver op_router_by_token_driver = {.enqueue = enqueue_by_token};

/* ---- by block ---- */

/* Local memory, as cl/router/by_block.clh has it. */
static size_t rows_bytes(uint32_t local, const desc_rule *rule) {
  return local / 32 * (size_t)(16 * base_div_up((uint64_t)rule->num_experts, 16)) * sizeof(float);
}

static moecl_status enqueue_by_block(op_router *router, ocl_chain *chain, const op_router_io *io) {
  ocl_kernel *topk = router->topk;
  const int32_t each = op_permute_tokens_per_block(io->num_tokens);
  if (io->num_tokens == 0) return MOECL_OK;
  MOECL_TRY(ocl_kernel_args(topk, "bbbbbiiiiLLs", io->logits, io->correction_bias, io->topk_ids,
                            io->topk_weights, io->block_counts, (int32_t)io->num_tokens, each,
                            (int32_t)router->desc.num_experts, (int32_t)router->desc.top_k,
                            io->seed, io->first_token, rows_bytes(topk->local, &router->desc)));
  return ocl_launch(chain, topk, base_div_up((uint64_t)io->num_tokens, (uint64_t)each),
                    topk->local);
}

const op_router_driver op_router_by_block_driver = {.enqueue = enqueue_by_block, .by_block = true};

/* One work-group takes 8 tokens at a time: beyond a few such rounds a launch
 * more is cheaper. */
bool op_router_can_permute(const op_router_driver *router, const op_permute_driver *permute,
                           int64_t num_tokens) {
  enum { MOST_TOKENS = 32 };
  return router->by_block && permute->counts && num_tokens <= MOST_TOKENS;
}

moecl_status op_router_enqueue_permuted(op_router *router, ocl_chain *chain, const op_router_io *io,
                                        const op_permute_io *permuted) {
  ocl_kernel *kernel = router->topk_scatter;
  MOECL_TRY(ocl_kernel_args(kernel, "bbbbbbbbbbiiiiLLs", io->logits, io->correction_bias,
                            io->topk_ids, io->topk_weights, permuted->tokens_per_expert,
                            permuted->expert_offsets, permuted->tile_offsets, permuted->all_offsets,
                            permuted->slot_token, permuted->assignment_slot,
                            (int32_t)io->num_tokens, (int32_t)router->desc.num_experts,
                            (int32_t)router->desc.top_k, (int32_t)permuted->tile_m, io->seed,
                            io->first_token, rows_bytes(kernel->local, &router->desc)));
  return ocl_launch(chain, kernel, 1, kernel->local);
}
