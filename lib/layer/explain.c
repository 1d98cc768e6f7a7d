// SPDX-License-Identifier: MIT
/* Plans for people and programs: include/moecl/plan.h. */
#include "moecl/plan.h"
#include "base/base.h"
#include "desc/tensors.h"
#include "layer/layer.h"
#include <stdlib.h>

struct moecl_plan {
  moecl_layer *layer; /* described */
  moecl_memory memory;
  layer_plan built;
  char detail[PLAN_MOST_STEPS][64]; /* of each step; may be empty */
};

static moecl_status fill(moecl_plan *made, int64_t num_tokens) {
  MOECL_TRY(layer_memory(made->layer, num_tokens, &made->memory));
  layer_plan_build(made->layer, num_tokens, &made->built);
  for (int i = 0; i < made->built.plan.num_steps; i++) {
    const plan_step *step = &made->built.plan.step[i];
    if (step->explain)
      step->explain(step->user, step->number, made->detail[i], sizeof made->detail[i]);
  }
  return MOECL_OK;
}

moecl_status moecl_plan_create(moecl_context *context, const moecl_layer_params *params,
                               int64_t num_tokens, moecl_plan **out) {
  if (!out) return MOECL_ERROR_INVALID_ARGUMENT;
  *out = NULL;
  if (!context) return MOECL_ERROR_INVALID_ARGUMENT;
  moecl_plan *made = calloc(1, sizeof *made);
  if (!made) return log_error(&context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  moecl_status status = layer_make(context, params, true, &made->layer);
  if (status == MOECL_OK) status = fill(made, num_tokens);
  if (status != MOECL_OK) moecl_plan_destroy(&made);
  *out = made;
  return status;
}

void moecl_plan_destroy(moecl_plan **handle) {
  if (!handle || !*handle) return;
  moecl_layer_destroy(&(*handle)->layer);
  free(*handle);
  *handle = NULL;
}

size_t moecl_plan_choices(const moecl_plan *made, moecl_plan_choice *choices, size_t capacity) {
  const size_t count = made ? (size_t)made->built.plan.num_choices : 0;
  for (size_t i = 0; choices && i < count && i < capacity; i++)
    choices[i] = made->built.plan.choice[i];
  return count;
}

size_t moecl_plan_steps(const moecl_plan *made, moecl_plan_step *steps, size_t capacity) {
  const size_t count = made ? (size_t)made->built.plan.num_steps : 0;
  for (size_t i = 0; steps && i < count && i < capacity; i++) {
    const plan_step *step = &made->built.plan.step[i];
    steps[i] = (moecl_plan_step){.name = step->name,
                                 .operation = step->operation,
                                 .variant = step->variant,
                                 .detail = made->detail[i],
                                 .stage = step->label,
                                 .launches = step->launches};
  }
  return count;
}

/* Names of what is no tensor of a step; NULL: it is one. */
static const char *const weight_names[MOECL_TENSOR_COUNT] = {
    [MOECL_ROUTER_WEIGHT] = "router_weight",
    [MOECL_ROUTER_BIAS] = "router_bias",
    [MOECL_GATE_UP_PROJ] = "gate_up_proj",
    [MOECL_GATE_UP_BIAS] = "gate_up_bias",
    [MOECL_DOWN_PROJ] = "down_proj",
    [MOECL_DOWN_BIAS] = "down_bias",
    [MOECL_ROUTER_NOISE_WEIGHT] = "router_noise_weight",
    [MOECL_SHARED_GATE_UP_PROJ] = "shared_gate_up_proj",
    [MOECL_SHARED_DOWN_PROJ] = "shared_down_proj",
    [MOECL_SHARED_GATE] = "shared_gate_weight"};

/* What packs the tensor; NULL: it is kept as it is given. */
static const op_gemm *gemm_of(const moecl_layer *layer, moecl_tensor tensor) {
  switch (tensor) {
  case MOECL_ROUTER_WEIGHT: return layer->logits;
  case MOECL_GATE_UP_PROJ: return layer->gate_up;
  case MOECL_DOWN_PROJ: return layer->down;
  case MOECL_ROUTER_NOISE_WEIGHT: return layer->noise;
  case MOECL_SHARED_GATE_UP_PROJ: return layer->shared_gate_up;
  case MOECL_SHARED_DOWN_PROJ: return layer->shared_down;
  default: return NULL;
  }
}

static moecl_plan_tensor weight_of(const moecl_layer *layer, moecl_tensor tensor) {
  const moecl_layer_params *params = &layer->params;
  const desc_shape shape = desc_tensor_shape(params, tensor);
  const uint64_t items = (uint64_t)moecl_layer_tensor_items(params, tensor);
  const op_gemm *gemm = gemm_of(layer, tensor);
  return (moecl_plan_tensor){.name = weight_names[tensor],
                             .format = desc_tensor_format(params, tensor)->name,
                             .rows = items * (uint64_t)shape.rows,
                             .columns = (uint64_t)shape.columns,
                             .bytes = gemm ? op_gemm_packed_bytes(gemm)
                                           : items * moecl_layer_tensor_bytes(params, tensor),
                             .life = MOECL_LIFE_WEIGHT,
                             .first_step = -1,
                             .last_step = -1,
                             .block = -1};
}

/* The layer's weights, which are no tensors of its steps. */
static size_t list_weights(const moecl_layer *layer, moecl_plan_tensor *tensors, size_t capacity) {
  size_t count = 0;
  for (int i = 0; i < MOECL_TENSOR_COUNT; i++) {
    const moecl_tensor tensor = (moecl_tensor)i;
    if (!weight_names[i] || moecl_layer_tensor_items(&layer->params, tensor) == 0) continue;
    if (tensors && count < capacity) tensors[count] = weight_of(layer, tensor);
    count++;
  }
  return count;
}

size_t moecl_plan_tensors(const moecl_plan *made, moecl_plan_tensor *tensors, size_t capacity) {
  if (!made) return 0;
  size_t count = list_weights(made->layer, tensors, capacity);
  for (int i = 0; i < made->built.plan.num_tensors; i++) {
    const plan_tensor *tensor = &made->built.plan.tensor[i];
    if (tensor->first == PLAN_NONE) continue;
    if (tensors && count < capacity)
      tensors[count] = (moecl_plan_tensor){.name = tensor->name,
                                           .format = tensor->format->name,
                                           .rows = tensor->rows,
                                           .columns = tensor->columns,
                                           .bytes = tensor->bytes,
                                           .life = tensor->life,
                                           .first_step = tensor->first,
                                           .last_step = tensor->last,
                                           .block = tensor->block};
    count++;
  }
  return count;
}

moecl_memory moecl_plan_memory(const moecl_plan *made) {
  return made ? made->memory : (moecl_memory){0};
}

uint64_t moecl_plan_unshared_workspace_bytes(const moecl_plan *made) {
  return made ? plan_unshared_bytes(&made->built.plan) : 0;
}

const char *moecl_life_name(moecl_life life) {
  static const char *const names[] = {"weight", "input", "output", "temporary", "saved"};
  return (unsigned)life < MOECL_LIFE_COUNT ? names[life] : "?";
}
