// SPDX-License-Identifier: MIT
/* A block's operations: what each is to do, which variant does it, and making it. */
#include "block/block.h"
#include <stddef.h>
#include <stdio.h>

#define PART(kind, member)                                                                         \
  { &op_##kind##_kind, offsetof(moecl_block, member) }
const block_part block_parts[BLOCK_PARTS] = {PART(norm, attention_norm),
                                             PART(norm, feed_forward_norm),
                                             PART(norm, residual),
                                             PART(gemm, qkv),
                                             PART(gemm, o),
                                             PART(rotary, rotary),
                                             PART(attention, attend)};

const char *const block_operation_names[BLOCK_OPERATION_COUNT] = {[BLOCK_NORM] = "norm",
                                                                  [BLOCK_PROJECTIONS] =
                                                                      "projections",
                                                                  [BLOCK_ROTARY] = "rotary",
                                                                  [BLOCK_ATTENTION] = "attention"};

static void keep_reason(moecl_block *block, block_operation operation, const char *asked,
                        size_t set_aside) {
  snprintf(block->reason[operation], sizeof block->reason[operation], "%s",
           kernel_reason(asked, set_aside));
  log_write(&block->context->log, MOECL_LOG_INFO, "%s: %s (%s)", block_operation_names[operation],
            block->variant[operation]->name, block->reason[operation]);
}

static moecl_status make(moecl_block *block, block_operation operation, const op_kind *kind,
                         const char *asked, const void *desc, void *op) {
  const op_choice choice = {.kind = kind,
                            .desc = desc,
                            .asked = asked,
                            .format = block->stored,
                            .described = block->described};
  size_t set_aside;
  MOECL_TRY(op_choose(block->context, &choice, op, &block->variant[operation], &set_aside));
  keep_reason(block, operation, asked, set_aside);
  return MOECL_OK;
}

/* ---- projections: their variant says how the block has its rows ---- */

static op_gemm_desc qkv_desc(const moecl_block *block, const kernel_variant *variant) {
  const desc_format *rows = op_gemm_rows(variant, block->stored);
  return (op_gemm_desc){.num_experts = 1,
                        .late = OP_GEMM_ALL_LATE,
                        .told = (char *)block->reason[BLOCK_PROJECTIONS],
                        .told_size = OP_REASON_SIZE,
                        .n = desc_qkv_size(&block->attention),
                        .k = block->params.layer.hidden_size,
                        .weights = block->stored,
                        .biases = block->stored,
                        .input = rows,
                        .output = rows,
                        .bias = block->params.attention.qkv_bias,
                        .ungrouped = true};
}

static op_gemm_desc o_desc(const moecl_block *block, const kernel_variant *variant) {
  return (op_gemm_desc){.num_experts = 1,
                        .late = OP_GEMM_ALL_LATE,
                        .told = (char *)block->reason[BLOCK_PROJECTIONS],
                        .told_size = OP_REASON_SIZE,
                        .n = block->params.layer.hidden_size,
                        .k = desc_query_size(&block->attention),
                        .weights = block->stored,
                        .biases = block->stored,
                        .input = op_gemm_rows(variant, block->stored),
                        .output = op_gemm_outputs(variant, block->stored),
                        .bias = block->params.attention.output_bias,
                        .ungrouped = true};
}

/* A library would read lists on the host. */
static bool accepts_projections(void *user, const kernel_variant *variant) {
  const op_gemm_desc qkv = qkv_desc(user, variant), o = o_desc(user, variant);
  return !(variant->traits & KERNEL_LIBRARY) && kernel_variant_accepts(variant, &qkv) &&
         kernel_variant_accepts(variant, &o);
}

static moecl_status try_projections(void *user, const kernel_variant *variant) {
  moecl_block *block = user;
  const op_gemm_desc qkv = qkv_desc(block, variant), o = o_desc(block, variant);
  block->rows = op_gemm_rows(variant, block->stored);
  block->outputs = op_gemm_outputs(variant, block->stored);
  return op_gemm_make_pair(block->context, block->described, variant, &qkv, &block->qkv, &o,
                           &block->o);
}

/* The layer's variant where it takes the problem, else the best that does. */
static moecl_status make_projections(moecl_block *block, const char *asked) {
  const kernel_variant *experts = block->layer->variant[LAYER_GROUPED_GEMM];
  const bool follows =
      kernel_variant_serves(experts, block->stored, block->context->info.capabilities) &&
      accepts_projections(block, experts);
  const kernel_choice choice = {.table = &op_gemm_table,
                                .asked = follows ? asked : NULL,
                                .format = block->stored,
                                .from = follows ? experts : NULL,
                                .accepts = accepts_projections,
                                .try_variant = try_projections,
                                .user = block};
  size_t set_aside;
  MOECL_TRY(kernel_choose(block->context, &choice, &block->variant[BLOCK_PROJECTIONS], &set_aside));
  keep_reason(block, BLOCK_PROJECTIONS, choice.asked, set_aside);
  return MOECL_OK;
}

/* ---- norms and attention ---- */

static moecl_status make_norms(moecl_block *block) {
  const moecl_block_params *params = &block->params;
  const op_norm_desc first = {.norm = desc_norm_of(params, &params->attention_norm),
                              .stored = block->stored,
                              .output = block->rows};
  const op_norm_desc second = {.norm = desc_norm_of(params, &params->feed_forward_norm),
                               .stored = block->stored,
                               .residual = block->outputs,
                               .output = block->stored};
  const op_norm_desc last = {.norm = {.size = params->layer.hidden_size},
                             .stored = block->stored,
                             .residual = block->stored};
  MOECL_TRY(make(block, BLOCK_NORM, &op_norm_kind, NULL, &last, &block->residual));
  MOECL_TRY(make(block, BLOCK_NORM, &op_norm_kind, NULL, &second, &block->feed_forward_norm));
  return make(block, BLOCK_NORM, &op_norm_kind, NULL, &first, &block->attention_norm);
}

/* Rotary writes the cache as attention's variant wants it. */
static moecl_status make_attention(moecl_block *block, const char *asked) {
  const op_attention_desc attention = {.attention = block->attention,
                                       .cache = block->stored,
                                       .rows = block->rows,
                                       .output = block->rows};
  MOECL_TRY(make(block, BLOCK_ATTENTION, &op_attention_kind, asked, &attention, &block->attend));
  const op_rotary_desc rotary = {.attention = block->attention,
                                 .layout = block->attend.layout,
                                 .cache = block->stored,
                                 .rows = block->rows};
  return make(block, BLOCK_ROTARY, &op_rotary_kind, NULL, &rotary, &block->rotary);
}

moecl_status block_make_operations(moecl_block *block, const moecl_block_params *params) {
  MOECL_TRY(make_projections(block, params->layer.grouped_gemm_variant));
  MOECL_TRY(make_norms(block));
  return make_attention(block, params->attention_variant);
}
