// SPDX-License-Identifier: MIT
/* One forward pass: its plan, run in a workspace. */
#include "base/base.h"
#include "block/block.h"
#include "plan/profile.h"

moecl_status block_check_tokens(const moecl_block *block, int64_t num_tokens) {
  MOECL_TRY(layer_check_tokens(block->context, &block->params.layer, num_tokens));
  if (num_tokens <= MOECL_MAX_POSITIONS) return MOECL_OK;
  return log_error(&block->context->log, MOECL_ERROR_INVALID_ARGUMENT,
                   "forward: num_tokens is %lld, expected at most %d", (long long)num_tokens,
                   MOECL_MAX_POSITIONS);
}

static moecl_status check_forward(const moecl_block *block,
                                  const moecl_block_forward_params *params) {
  moecl_context *context = block->context;
  const int64_t tokens = params->num_tokens;
  MOECL_TRY(log_check_reserved(&context->log, "moecl_block_forward_params", params->reserved,
                               BASE_COUNT(params->reserved)));
  MOECL_TRY(block_check_tokens(block, tokens));
  if (block->missing > 0 || block->layer->missing > 0)
    return log_error(&context->log, MOECL_ERROR_NOT_READY,
                     "forward: %d of the block's tensors and %lld of its layer's weight items were "
                     "not set",
                     block->missing, (long long)block->layer->missing);
  if (params->profile)
    MOECL_TRY(ocl_check_owner(context, params->profile->context, "forward: the profile"));
  if (params->workspace)
    MOECL_TRY(ocl_check_owner(context, params->workspace->context, "forward: workspace"));
  if (params->cache) MOECL_TRY(block_check_cache(block, params->cache, tokens));
  if (tokens == 0) return MOECL_OK;
  const uint64_t bytes =
      desc_format_bytes(block->stored, (uint64_t)tokens, (uint64_t)block->params.layer.hidden_size);
  MOECL_TRY(plan_check_buffer(context, params->hidden_states, "forward: hidden_states", bytes));
  MOECL_TRY(plan_check_buffer(context, params->output, "forward: output", bytes));
  return plan_check_apart(context, params->hidden_states, params->output, params->workspace);
}

static moecl_status run(moecl_block *block, ocl_chain *chain,
                        const moecl_block_forward_params *params, const block_plan *built) {
  const moecl_buffer *bound[PLAN_MOST_TENSORS] = {0};
  const block_tensors *at = &built->at;
  const moecl_cache *cache = params->cache;
  plan_numbers with = {.seed = params->seed};
  bound[at->hidden_states] = params->hidden_states;
  bound[at->output] = params->output;
  for (int i = 0; i < MOECL_BLOCK_TENSOR_COUNT; i++)
    if (at->weight[i] != PLAN_NONE) bound[at->weight[i]] = block->weight[i];
  layer_bind(block->layer, &built->layer, bound);
  if (cache) {
    bound[at->keys] = cache->keys;
    bound[at->values] = cache->values;
    with.context = cache->tokens;
    with.capacity = cache->capacity;
  } else {
    with.capacity = (int64_t)op_cache_capacity(&block->attend.layout, (uint64_t)params->num_tokens);
  }
  return plan_run(&built->plan, chain, block->space.blocks, bound, &with);
}

/* Its tokens are the cache's from now on. */
static void keep_tokens(moecl_cache *cache, int64_t num_tokens) {
  if (!cache) return;
  cache->tokens += num_tokens;
  if (cache->tokens > cache->written) cache->written = cache->tokens;
}

moecl_status moecl_block_forward(moecl_block *block, const moecl_block_forward_params *params,
                                 moecl_event **event) {
  if (event) *event = NULL;
  if (!block) return MOECL_ERROR_INVALID_ARGUMENT;
  if (!params)
    return log_error(&block->context->log, MOECL_ERROR_INVALID_ARGUMENT, "forward: params is NULL");
  block_plan *built;
  MOECL_TRY(check_forward(block, params));
  MOECL_TRY(block_plan_for(block, params->num_tokens, params->cache ? BLOCK_CACHED : BLOCK_UNCACHED,
                           &built));
  MOECL_TRY(plan_space_provide(&block->space, block->context, &built->plan, params->workspace));
  block->layer->ran.plan = &built->plan;
  block->layer->ran.at = &built->layer;
  block->layer->ran.space = &block->space;
  if (params->profile) plan_profile_reset(params->profile);
  ocl_chain chain = {.context = block->context,
                     .waits = params->wait_list,
                     .num_waits = params->wait_count,
                     .observer = params->profile ? &params->profile->observer : NULL};
  moecl_status status = params->num_tokens > 0 ? run(block, &chain, params, built) : MOECL_OK;
  if (status == MOECL_OK) status = event ? ocl_chain_end(&chain, event) : ocl_chain_order(&chain);
  if (status == MOECL_OK) keep_tokens(params->cache, params->num_tokens);
  else plan_space_forget(&block->space); /* what the workspace holds is no routing to be read */
  return status;
}
