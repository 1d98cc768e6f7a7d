// SPDX-License-Identifier: MIT
/* One forward pass: its plan, run in a workspace. */
#include "base/base.h"
#include "layer/layer.h"
#include "plan/profile.h"

static moecl_status check_forward(moecl_layer *layer, const moecl_forward_params *params) {
  const moecl_log *log = &layer->context->log;
  const int64_t tokens = params->num_tokens;
  MOECL_TRY(log_check_reserved(log, "moecl_forward_params", params->reserved,
                               BASE_COUNT(params->reserved)));
  MOECL_TRY(layer_check_tokens(layer->context, &layer->params, tokens));
  if (layer->missing > 0)
    return log_error(log, MOECL_ERROR_NOT_READY,
                     "forward: %lld of the layer's weight items were not set",
                     (long long)layer->missing);
  if (params->profile)
    MOECL_TRY(ocl_check_owner(layer->context, params->profile->context, "forward: the profile"));
  if (params->workspace)
    MOECL_TRY(ocl_check_owner(layer->context, params->workspace->context, "forward: workspace"));
  if (tokens == 0) return MOECL_OK;
  const uint64_t bytes =
      desc_format_bytes(layer->stored, (uint64_t)tokens, (uint64_t)layer->params.hidden_size);
  MOECL_TRY(
      plan_check_buffer(layer->context, params->hidden_states, "forward: hidden_states", bytes));
  MOECL_TRY(plan_check_buffer(layer->context, params->output, "forward: output", bytes));
  return plan_check_apart(layer->context, params->hidden_states, params->output, params->workspace);
}

static moecl_status run(moecl_layer *layer, const moecl_forward_params *params,
                        const layer_plan *built, moecl_event **event) {
  const moecl_buffer *bound[PLAN_MOST_TENSORS] = {0};
  const plan_numbers with = {.seed = params->seed};
  ocl_chain chain = {
      .context = layer->context, .waits = params->wait_list, .num_waits = params->wait_count};
  bound[built->at.hidden_states] = params->hidden_states;
  bound[built->at.output] = params->output;
  layer_bind(layer, &built->at, bound);
  if (params->num_tokens > 0 && layer->offload)
    return layer_offload_run(layer, params, built, bound, event);
  if (params->profile) {
    plan_profile_reset(params->profile);
    chain.observer = &params->profile->observer;
  }
  if (params->num_tokens > 0)
    MOECL_TRY(plan_run(&built->plan, &chain, layer->space.blocks, bound, &with));
  /* Without an event, too, what the caller enqueues next follows the forward. */
  return event ? ocl_chain_end(&chain, event) : ocl_chain_order(&chain);
}

moecl_status moecl_layer_forward(moecl_layer *layer, const moecl_forward_params *params,
                                 moecl_event **event) {
  if (event) *event = NULL;
  if (!layer) return MOECL_ERROR_INVALID_ARGUMENT;
  if (!params)
    return log_error(&layer->context->log, MOECL_ERROR_INVALID_ARGUMENT, "forward: params is NULL");
  layer_plan *built;
  MOECL_TRY(check_forward(layer, params));
  MOECL_TRY(layer_plan_for(layer, params->num_tokens, &built));
  MOECL_TRY(plan_space_provide(&layer->space, layer->context, &built->plan, params->workspace));
  layer->ran.plan = &built->plan;
  layer->ran.at = &built->at;
  layer->ran.space = &layer->space;
  const moecl_status status = run(layer, params, built, event);
  /* What the workspace holds is no routing to be read. */
  if (status != MOECL_OK) plan_space_forget(&layer->space);
  return status;
}
