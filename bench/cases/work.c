// SPDX-License-Identifier: MIT
#include "work.h"
#include "cases.h"
#include <math.h>

work_counts work_counts_of(const moecl_routing *routing) {
  work_counts counts = {.num_tokens = routing->num_tokens};
  for (int64_t e = 0; e < routing->num_experts - routing->num_identity_experts; e++) {
    counts.kept += routing->tokens_per_expert_after_capacity[e];
    counts.active += routing->tokens_per_expert_after_capacity[e] > 0;
  }
  return counts;
}

static double elements_of(const moecl_layer_params *layer, moecl_tensor tensor) {
  return (double)moecl_layer_tensor_size(layer, tensor);
}

static double bytes_of(const moecl_layer_params *layer, moecl_tensor tensor) {
  return (double)moecl_layer_tensor_bytes(layer, tensor);
}

static double stored(const moecl_layer_params *layer) {
  return (double)moecl_dtype_size(layer->dtype);
}

static stage_work router(const moecl_layer_params *layer, const work_counts *n) {
  const double tokens = (double)n->num_tokens, hidden = (double)layer->hidden_size,
               experts = (double)layer->num_experts, matrices = layer->router_noise ? 2 : 1;
  return (stage_work){2 * matrices * tokens * hidden * experts,
                      tokens * hidden * stored(layer) + bytes_of(layer, MOECL_ROUTER_WEIGHT) +
                          bytes_of(layer, MOECL_ROUTER_NOISE_WEIGHT) + 4 * tokens * experts +
                          8 * tokens * (double)layer->top_k};
}

/* Ids read; for each assignment its slot, for each kept one its token, and the offsets written. */
static stage_work permute(const moecl_layer_params *layer, const work_counts *n) {
  const double assignments = (double)n->num_tokens * (double)layer->top_k;
  return (stage_work){0,
                      8 * assignments + 4 * (double)n->kept + 4 * ((double)layer->num_experts + 1)};
}

static stage_work gate_up(const moecl_layer_params *layer, const work_counts *n) {
  const double matrix = elements_of(layer, MOECL_GATE_UP_PROJ), kept = (double)n->kept;
  const double rows = fmin((double)n->num_tokens, kept); /* a token's row is read once */
  return (stage_work){2 * kept * matrix, (double)n->active * bytes_of(layer, MOECL_GATE_UP_PROJ) +
                                             (rows * (double)layer->hidden_size +
                                              kept * (double)layer->intermediate_size) *
                                                 stored(layer)};
}

static stage_work down(const moecl_layer_params *layer, const work_counts *n) {
  const double matrix = elements_of(layer, MOECL_DOWN_PROJ), kept = (double)n->kept;
  return (stage_work){2 * kept * matrix,
                      (double)n->active * bytes_of(layer, MOECL_DOWN_PROJ) +
                          kept * (double)layer->intermediate_size * stored(layer) +
                          4 * kept * (double)layer->hidden_size};
}

static stage_work shared(const moecl_layer_params *layer, const work_counts *n) {
  const double tokens = (double)n->num_tokens, hidden = (double)layer->hidden_size,
               inner = (double)layer->shared_intermediate_size;
  if (inner == 0) return (stage_work){0, 0};
  const double weights = elements_of(layer, MOECL_SHARED_GATE_UP_PROJ) +
                         elements_of(layer, MOECL_SHARED_DOWN_PROJ) +
                         elements_of(layer, MOECL_SHARED_GATE);
  return (stage_work){2 * tokens * weights, bytes_of(layer, MOECL_SHARED_GATE_UP_PROJ) +
                                                bytes_of(layer, MOECL_SHARED_DOWN_PROJ) +
                                                bytes_of(layer, MOECL_SHARED_GATE) +
                                                tokens * (hidden + 2 * inner) * stored(layer) +
                                                4 * tokens * hidden};
}

static stage_work combine(const moecl_layer_params *layer, const work_counts *n) {
  const double hidden = (double)layer->hidden_size, tokens = (double)n->num_tokens;
  const double rows = (double)n->kept + (layer->shared_intermediate_size > 0 ? tokens : 0);
  return (stage_work){2 * rows * hidden, 4 * rows * hidden + tokens * hidden * stored(layer)};
}

stage_work work_of_layer(const moecl_layer_params *layer, const work_counts *counts,
                         moecl_stage stage) {
  switch (stage) {
  case MOECL_STAGE_ROUTER: return router(layer, counts);
  case MOECL_STAGE_PERMUTE: return permute(layer, counts);
  case MOECL_STAGE_GATE_UP: return gate_up(layer, counts);
  case MOECL_STAGE_DOWN: return down(layer, counts);
  case MOECL_STAGE_SHARED: return shared(layer, counts);
  case MOECL_STAGE_COMBINE: return combine(layer, counts);
  default: return (stage_work){0, 0};
  }
}

/* ---- the block ---- */

static stage_work attention(const moecl_block_params *block, const work_counts *n) {
  const double queries = block_query_size(block), keys = block_key_size(block);
  const double tokens = (double)n->num_tokens;
  return (stage_work){
      4 * queries * block_attention_pairs(block, n->num_tokens, n->context),
      (2 * queries * tokens + 2 * keys * (block_context_seen(block, n->context) + tokens)) *
          stored(&block->layer)};
}

static stage_work projection(const moecl_block_params *block, const work_counts *n, double inputs,
                             double outputs) {
  const double tokens = (double)n->num_tokens;
  return (stage_work){2 * tokens * inputs * outputs,
                      (inputs * outputs + tokens * (inputs + outputs)) * stored(&block->layer)};
}

/* `flops` and `moved` elements for each of the hidden states. */
static stage_work of_rows(const moecl_block_params *block, const work_counts *n, double flops,
                          double moved) {
  const double elements = (double)n->num_tokens * (double)block->layer.hidden_size;
  return (stage_work){flops * elements, moved * elements * stored(&block->layer)};
}

static stage_work rotary(const moecl_block_params *block, const work_counts *n) {
  const double tokens = (double)n->num_tokens;
  const double queries = block_query_size(block), keys = block_key_size(block);
  const moecl_attention_params *a = &block->attention;
  const double dim = queries / (double)a->num_heads;
  const double turned = a->rope.theta > 0 ? (a->rope.dim ? (double)a->rope.dim / dim : 1) : 0;
  /* A pair takes four multiplications and two additions. */
  return (stage_work){3 * tokens * (queries + keys) * turned,
                      2 * tokens * (queries + 2 * keys) * stored(&block->layer)};
}

stage_work work_of_block(const moecl_block_params *block, const work_counts *counts,
                         moecl_stage stage) {
  const double hidden = (double)block->layer.hidden_size;
  const double queries = block_query_size(block), keys = block_key_size(block);
  switch (stage) {
  case MOECL_STAGE_ATTENTION_NORM: return of_rows(block, counts, 4, 2);
  case MOECL_STAGE_QKV_PROJ: return projection(block, counts, hidden, queries + 2 * keys);
  case MOECL_STAGE_ROTARY: return rotary(block, counts);
  case MOECL_STAGE_ATTENTION: return attention(block, counts);
  case MOECL_STAGE_O_PROJ: return projection(block, counts, queries, hidden);
  case MOECL_STAGE_FEED_FORWARD_NORM: return of_rows(block, counts, 5, 4);
  case MOECL_STAGE_RESIDUAL: return of_rows(block, counts, 1, 3);
  default: return work_of_layer(&block->layer, counts, stage);
  }
}

/* ---- tiles ---- */

double work_tile_waste(const int64_t *rows_of_experts, int64_t num_experts, int64_t tile_rows) {
  double rows = 0, computed = 0;
  for (int64_t e = 0; tile_rows > 0 && e < num_experts; e++) {
    const int64_t tiles = (rows_of_experts[e] + tile_rows - 1) / tile_rows;
    rows += (double)rows_of_experts[e];
    computed += (double)(tiles * tile_rows);
  }
  return computed > 0 ? 1 - rows / computed : 0;
}
