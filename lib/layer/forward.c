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
  if (tokens == 0) return MOECL_OK;
  const uint64_t bytes =
      desc_format_bytes(layer->stored, (uint64_t)tokens, (uint64_t)layer->params.hidden_size);
  if (!params->hidden_states || moecl_buffer_size(params->hidden_states) < bytes)
    return log_error(log, MOECL_ERROR_INVALID_ARGUMENT,
                     "forward: hidden_states must hold %llu bytes", (unsigned long long)bytes);
  if (!params->output || moecl_buffer_size(params->output) < bytes)
    return log_error(log, MOECL_ERROR_INVALID_ARGUMENT, "forward: output must hold %llu bytes",
                     (unsigned long long)bytes);
  return MOECL_OK;
}

/* Cuts `buffer` into the plan's blocks, unless it already is so. */
static moecl_status cut_workspace(moecl_layer *layer, moecl_buffer *buffer,
                                  const layer_plan *built) {
  if (layer->views.parent == buffer && layer->cut == built) return MOECL_OK;
  ocl_views_release(&layer->views); /* those of the plan that it was cut for */
  layer->cut = built;
  layer->views.view = layer->blocks;
  layer->views.count = (size_t)built->plan.num_blocks;
  return ocl_views_cut(buffer, built->plan.block_bytes, &layer->views);
}

/* The caller's workspace, or the layer's own, grown when needed. */
static moecl_status provide_workspace(moecl_layer *layer, const moecl_forward_params *params,
                                      const layer_plan *built) {
  const uint64_t bytes = plan_workspace_bytes(&built->plan);
  moecl_buffer *buffer = params->workspace;
  if (buffer && moecl_buffer_size(buffer) < bytes)
    return log_error(&layer->context->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "forward: the workspace holds %llu bytes, %llu are needed",
                     (unsigned long long)moecl_buffer_size(buffer), (unsigned long long)bytes);
  if (!buffer) {
    if (!layer->own_workspace || moecl_buffer_size(layer->own_workspace) < bytes) {
      moecl_buffer_destroy(&layer->own_workspace);
      MOECL_TRY(moecl_buffer_create(layer->context, bytes, &layer->own_workspace));
    }
    buffer = layer->own_workspace;
  }
  return cut_workspace(layer, buffer, built);
}

static moecl_status run(moecl_layer *layer, ocl_chain *chain, const moecl_forward_params *params,
                        const layer_plan *built) {
  const moecl_buffer *bound[PLAN_MOST_TENSORS] = {0};
  bound[built->at.hidden_states] = params->hidden_states;
  bound[built->at.output] = params->output;
  if (built->at.correction_bias != PLAN_NONE)
    bound[built->at.correction_bias] = layer->correction_bias;
  return plan_run(&built->plan, chain, layer->blocks, bound, params->seed);
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
  MOECL_TRY(provide_workspace(layer, params, built));
  if (params->profile) plan_profile_reset(params->profile);
  ocl_chain chain = {.context = layer->context,
                     .waits = params->wait_list,
                     .num_waits = params->wait_count,
                     .observer = params->profile ? &params->profile->observer : NULL};
  if (params->num_tokens > 0) MOECL_TRY(run(layer, &chain, params, built));
  /* Without an event, too, what the caller enqueues next follows the forward. */
  return event ? ocl_chain_end(&chain, event) : ocl_chain_order(&chain);
}
