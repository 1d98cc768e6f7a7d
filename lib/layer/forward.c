// SPDX-License-Identifier: MIT
/* One forward pass: its plan, run in a workspace. */
#include "base/base.h"
#include "layer/layer.h"
#include "plan/profile.h"

static moecl_status check_buffer(const moecl_layer *layer, const moecl_buffer *buffer,
                                 const char *name, uint64_t bytes) {
  if (!buffer || moecl_buffer_size(buffer) < bytes)
    return log_error(&layer->context->log, MOECL_ERROR_INVALID_ARGUMENT, "%s must hold %llu bytes",
                     name, (unsigned long long)bytes);
  return ocl_check_owner(layer->context, buffer->context, name);
}

/* Whatever a forward writes is apart from all else. */
static moecl_status check_apart(const moecl_layer *layer, const moecl_forward_params *params) {
  const struct {
    const moecl_buffer *a, *b;
    const char *names;
  } pairs[] = {{params->output, params->hidden_states, "output and hidden_states"},
               {params->workspace, params->hidden_states, "workspace and hidden_states"},
               {params->workspace, params->output, "workspace and output"}};
  for (size_t i = 0; i < BASE_COUNT(pairs); i++)
    if (ocl_buffers_overlap(pairs[i].a, pairs[i].b))
      return log_error(&layer->context->log, MOECL_ERROR_INVALID_ARGUMENT,
                       "forward: %s overlap, expected buffers that share no memory",
                       pairs[i].names);
  return MOECL_OK;
}

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
  MOECL_TRY(check_buffer(layer, params->hidden_states, "forward: hidden_states", bytes));
  MOECL_TRY(check_buffer(layer, params->output, "forward: output", bytes));
  return check_apart(layer, params);
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
  const moecl_status status = params->num_tokens > 0 ? run(layer, &chain, params, built) : MOECL_OK;
  if (status != MOECL_OK) { /* what the workspace holds is no routing to be read */
    ocl_views_release(&layer->views);
    return status;
  }
  /* Without an event, too, what the caller enqueues next follows the forward. */
  return event ? ocl_chain_end(&chain, event) : ocl_chain_order(&chain);
}
