// SPDX-License-Identifier: MIT
#include "layer/layer.h"
#include "base/base.h"
#include "op/self_check.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const operation_names[OPERATION_COUNT] = {"router", "permute", "grouped_gemm",
                                                             "combine"};

/* Chooses an operation's variant and keeps why. */
static moecl_status choose(moecl_layer *layer, moe_operation operation, const char *asked,
                           moe_accepts_fn accepts, moe_try_fn try_variant) {
  const kernel_choice choice = {.operation = operation_names[operation],
                                .asked = asked,
                                .dtype = layer->params.dtype,
                                .accepts = accepts,
                                .try_variant = try_variant,
                                .user = layer};
  size_t set_aside;
  MOECL_TRY(kernel_choose(layer->context, &choice, &layer->variant[operation], &set_aside));
  snprintf(layer->reason[operation], sizeof layer->reason[operation], "%s",
           asked ? "asked for by name"
           : set_aside == 0
               ? "the best that serves this device and data type"
               : "better ones did not build, or failed their self-check, on this device");
  log_write(&layer->context->log, MOECL_LOG_INFO, "%s: %s (%s)", operation_names[operation],
            layer->variant[operation]->name, layer->reason[operation]);
  return MOECL_OK;
}

static op_epilogue epilogue_of(moecl_activation activation) {
  switch (activation) {
  case MOECL_SWIGLU:
  case MOECL_SILU: return OP_EPILOGUE_SILU;
  case MOECL_GEGLU:
  case MOECL_GELU: return OP_EPILOGUE_GELU;
  case MOECL_RELU: return OP_EPILOGUE_RELU;
  case MOECL_GEGLU_TANH:
  case MOECL_GELU_TANH: return OP_EPILOGUE_GELU_TANH;
  case MOECL_RELU2: return OP_EPILOGUE_RELU2;
  case MOECL_SWIGLU_CLAMPED: return OP_EPILOGUE_SWIGLU_CLAMPED;
  case MOECL_SWIGLU_LIMITED: return OP_EPILOGUE_SWIGLU_LIMITED;
  case MOECL_SWIGLU_LIMITED_SILU: return OP_EPILOGUE_SWIGLU_LIMITED_SILU;
  default: return OP_EPILOGUE_NONE;
  }
}

float moe_swiglu_alpha(const moecl_layer_params *params) {
  return params->swiglu_alpha > 0 ? params->swiglu_alpha : 1.702f;
}
float moe_swiglu_limit(const moecl_layer_params *params) {
  return params->swiglu_limit > 0 ? params->swiglu_limit : 7.0f;
}

float moe_shared_swiglu_limit(const moecl_layer_params *params) {
  return params->shared_swiglu_limit > 0 ? params->shared_swiglu_limit : moe_swiglu_limit(params);
}

bool moe_outputs_f32(const kernel_variant *variant) {
  return variant->flags & (KERNEL_F32_ACTIVATIONS | KERNEL_F32_OUTPUTS);
}

/* Activated rows hold numbers of the storage type, also where they are kept as fp32. */
static bool rounds_rows(bool f32, moecl_dtype dtype) { return f32 && dtype != MOECL_F32; }

op_gemm_shape moe_expert_shape(const moecl_layer_params *params, const kernel_variant *variant,
                               bool down) {
  const bool f32 = variant->flags & KERNEL_F32_ACTIVATIONS;
  const bool f32_output = down ? moe_outputs_f32(variant) : f32;
  return (op_gemm_shape){.num_experts = params->num_experts - params->num_identity_experts,
                         .n = down ? params->hidden_size : params->intermediate_size,
                         .k = down ? params->intermediate_size : params->hidden_size,
                         .dtype = params->dtype,
                         .epilogue = down ? OP_EPILOGUE_NONE : epilogue_of(params->activation),
                         .swiglu_alpha = moe_swiglu_alpha(params),
                         .swiglu_limit = moe_swiglu_limit(params),
                         .gated = !down && moecl_activation_is_gated(params->activation),
                         .bias = down ? params->down_bias : params->gate_up_bias,
                         .adds_shared = down && params->shared_intermediate_size > 0,
                         .shared_gate = down && op_shared_is_weighted(params),
                         .gather = !down && !params->weight_on_input,
                         .input_f32 = f32,
                         .output_f32 = f32_output,
                         .round_output = !down && rounds_rows(f32, params->dtype)};
}

bool moe_accepts_experts(void *user, const kernel_variant *variant) {
  const moecl_layer_params *params = &((moecl_layer *)user)->params;
  const op_gemm_shape gate_up = moe_expert_shape(params, variant, false);
  const op_gemm_shape down = moe_expert_shape(params, variant, true);
  return op_gemm_accepts(variant, &gate_up) && op_gemm_accepts(variant, &down);
}

/* Both checks come before the weights' memory is asked for. */
static moecl_status try_experts(void *user, const kernel_variant *variant) {
  moecl_layer *layer = user;
  const op_gemm_shape gate_up = moe_expert_shape(&layer->params, variant, false);
  const op_gemm_shape down = moe_expert_shape(&layer->params, variant, true);
  MOECL_TRY(op_gemm_self_check(layer->context, variant, &gate_up));
  MOECL_TRY(op_gemm_self_check(layer->context, variant, &down));
  MOECL_TRY(op_gemm_create(layer->context, variant, &gate_up, &layer->gate_up));
  const moecl_status status = op_gemm_create(layer->context, variant, &down, &layer->down);
  if (status != MOECL_OK) op_gemm_destroy(&layer->gate_up);
  layer->f32_activations = variant->flags & KERNEL_F32_ACTIVATIONS;
  layer->f32_outputs = moe_outputs_f32(variant);
  return status;
}

static bool accepts_logits(void *user, const kernel_variant *variant) {
  const op_gemm_shape shape = op_router_logits_shape(&((moecl_layer *)user)->router, variant);
  return op_gemm_accepts(variant, &shape);
}

static moecl_status try_logits(void *user, const kernel_variant *variant) {
  return op_router_create_logits(&((moecl_layer *)user)->router, variant);
}

static moecl_status try_router(void *user, const kernel_variant *variant) {
  return op_router_create_topk(&((moecl_layer *)user)->router, variant);
}

static bool accepts_permute(void *user, const kernel_variant *variant) {
  return op_permute_accepts(variant, &((moecl_layer *)user)->params);
}

static bool accepts_combine(void *user, const kernel_variant *variant) {
  const moecl_layer *layer = user;
  return op_combine_accepts(variant, &layer->params, layer->f32_outputs);
}

static moecl_status try_permute(void *user, const kernel_variant *variant) {
  moecl_layer *layer = user;
  MOECL_TRY(op_permute_self_check(layer->context, variant, &layer->params));
  const moecl_status status =
      op_permute_create(layer->context, variant, &layer->params, &layer->permute);
  if (status != MOECL_OK) op_permute_release(&layer->permute);
  return status;
}

static moecl_status try_combine(void *user, const kernel_variant *variant) {
  moecl_layer *layer = user;
  MOECL_TRY(op_combine_self_check(layer->context, variant, &layer->params, layer->f32_outputs));
  return op_combine_create(layer->context, variant, &layer->params, layer->f32_outputs,
                           &layer->combine);
}

bool moe_converts_for_experts(const moecl_layer *layer) {
  return layer->f32_activations && layer->params.dtype != MOECL_F32;
}

op_gemm_shape moe_shared_shape(const moecl_layer *layer, bool down) {
  op_gemm_shape shape = op_shared_shape(&layer->params, epilogue_of(layer->params.activation),
                                        layer->f32_activations, down);
  if (down) shape.output_f32 = layer->f32_outputs;
  shape.round_output = !down && rounds_rows(layer->f32_activations, layer->params.dtype);
  shape.swiglu_alpha = moe_swiglu_alpha(&layer->params);
  shape.swiglu_limit = moe_shared_swiglu_limit(&layer->params);
  return shape;
}

static bool accepts_shared(void *user, const kernel_variant *variant) {
  const moecl_layer *layer = user;
  const op_gemm_shape gate_up = moe_shared_shape(layer, false);
  const op_gemm_shape down = moe_shared_shape(layer, true);
  const bool wants_f32 = variant->flags & KERNEL_F32_ACTIVATIONS;
  return (layer->f32_activations || !wants_f32 || layer->params.dtype == MOECL_F32) &&
         op_gemm_accepts(variant, &gate_up) && op_gemm_accepts(variant, &down);
}

static moecl_status try_shared(void *user, const kernel_variant *variant) {
  moecl_layer *layer = user;
  const op_gemm_shape gate_up = moe_shared_shape(layer, false);
  const op_gemm_shape down = moe_shared_shape(layer, true);
  MOECL_TRY(op_gemm_self_check(layer->context, variant, &gate_up));
  MOECL_TRY(op_gemm_self_check(layer->context, variant, &down));
  MOECL_TRY(op_gemm_create(layer->context, variant, &gate_up, &layer->shared.gate_up));
  const moecl_status status = op_gemm_create(layer->context, variant, &down, &layer->shared.down);
  if (status != MOECL_OK) op_gemm_destroy(&layer->shared.gate_up);
  return status;
}

/* The experts' variant where it takes the shape, else the best that does. */
static moecl_status follow_experts(moecl_layer *layer, const char *asked, moe_accepts_fn accepts,
                                   moe_try_fn try_variant) {
  const kernel_variant *experts = layer->variant[OPERATION_GROUPED_GEMM], *chosen;
  const bool follows = !(experts->flags & KERNEL_LIBRARY) && accepts(layer, experts);
  const kernel_choice choice = {.operation = "grouped_gemm",
                                .asked = follows ? asked : NULL,
                                .dtype = layer->params.dtype,
                                .from = follows ? experts : NULL,
                                .accepts = accepts,
                                .try_variant = try_variant,
                                .user = layer};
  size_t set_aside;
  return kernel_choose(layer->context, &choice, &chosen, &set_aside);
}

moecl_status moe_choose_logits(moecl_layer *layer, const char *asked, moe_try_fn try_variant) {
  return follow_experts(layer, asked, accepts_logits, try_variant);
}

moecl_status moe_choose_shared(moecl_layer *layer, const char *asked, moe_try_fn try_variant) {
  if (layer->params.shared_intermediate_size == 0) return MOECL_OK;
  return follow_experts(layer, asked, accepts_shared, try_variant);
}

static moecl_status create_shared(moecl_layer *layer, const char *asked) {
  if (layer->params.shared_intermediate_size == 0) return MOECL_OK;
  MOECL_TRY(moe_choose_shared(layer, asked, try_shared));
  return op_shared_create_rest(layer->context, &layer->params, &layer->shared);
}

static moecl_status create_operations(moecl_layer *layer, const moecl_layer_params *params) {
  MOECL_TRY(choose(layer, OPERATION_GROUPED_GEMM, params->grouped_gemm_variant, moe_accepts_experts,
                   try_experts));
  MOECL_TRY(create_shared(layer, params->grouped_gemm_variant));
  MOECL_TRY(op_scale_create(layer->context, &layer->params, layer->f32_activations, &layer->scale));
  op_router_init(layer->context, &layer->params, moe_converts_for_experts(layer), &layer->router);
  MOECL_TRY(moe_choose_logits(layer, params->grouped_gemm_variant, try_logits));
  MOECL_TRY(op_router_create_prepare(&layer->router));
  MOECL_TRY(choose(layer, OPERATION_ROUTER, params->router_variant, NULL, try_router));
  MOECL_TRY(choose(layer, OPERATION_PERMUTE, NULL, accepts_permute, try_permute));
  return choose(layer, OPERATION_COMBINE, NULL, accepts_combine, try_combine);
}

static moecl_status allocate_flags(moecl_layer *layer) {
  for (int tensor = 0; tensor < MOECL_TENSOR_COUNT; tensor++) {
    const int64_t items = moecl_layer_tensor_items(&layer->params, (moecl_tensor)tensor);
    if (items == 0) continue;
    layer->is_set[tensor] = calloc((size_t)items, 1);
    if (!layer->is_set[tensor])
      return log_error(&layer->context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
    layer->missing += items;
  }
  return MOECL_OK;
}

moecl_status moecl_layer_create(moecl_context *context, const moecl_layer_params *params,
                                moecl_layer **out) {
  if (!out) return MOECL_ERROR_INVALID_ARGUMENT;
  *out = NULL;
  if (!context || !params) return MOECL_ERROR_INVALID_ARGUMENT;
  char message[256];
  moecl_status status = moecl_layer_params_check(params, message, sizeof message);
  if (status != MOECL_OK) return log_error(&context->log, status, "layer: %s", message);
  moecl_layer *layer = calloc(1, sizeof *layer);
  if (!layer) return log_error(&context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  layer->context = ocl_context_retain(context);
  layer->params = *params;
  layer->params.grouped_gemm_variant = layer->params.router_variant = NULL;
  status = allocate_flags(layer);
  if (status == MOECL_OK) status = create_operations(layer, params);
  if (status != MOECL_OK) moecl_layer_destroy(&layer);
  *out = layer;
  return status;
}

void moecl_layer_destroy(moecl_layer **handle) {
  if (!handle || !*handle) return;
  moecl_layer *layer = *handle;
  *handle = NULL;
  ocl_views_release(&layer->workspace.views);
  moecl_buffer_destroy(&layer->own_workspace);
  op_router_release(&layer->router);
  op_permute_release(&layer->permute);
  op_scale_release(&layer->scale);
  op_shared_release(&layer->shared);
  op_combine_release(&layer->combine);
  op_gemm_destroy(&layer->gate_up);
  op_gemm_destroy(&layer->down);
  for (int tensor = 0; tensor < MOECL_TENSOR_COUNT; tensor++) free(layer->is_set[tensor]);
  moecl_context_destroy(&layer->context);
  free(layer);
}

/* ---- weights ---- */

static moecl_status check_items(moecl_layer *layer, moecl_tensor tensor, int64_t first,
                                int64_t count, uint64_t *bytes) {
  const moecl_log *log = &layer->context->log;
  if ((int)tensor < 0 || tensor >= MOECL_TENSOR_COUNT || !layer->is_set[tensor])
    return log_error(log, MOECL_ERROR_INVALID_ARGUMENT, "set_weights: this layer has no tensor %d",
                     (int)tensor);
  const int64_t items = moecl_layer_tensor_items(&layer->params, tensor);
  if (first < 0 || count < 0 || count > items || first > items - count)
    return log_error(log, MOECL_ERROR_INVALID_ARGUMENT,
                     "set_weights: %lld items from item %lld on of tensor %d, which has %lld",
                     (long long)count, (long long)first, (int)tensor, (long long)items);
  *bytes = (uint64_t)count * (uint64_t)moecl_layer_tensor_size(&layer->params, tensor) *
           moecl_dtype_size(moecl_layer_tensor_dtype(&layer->params, tensor));
  return MOECL_OK;
}

static moecl_status pack(moecl_layer *layer, moecl_tensor tensor, int64_t first, int64_t count,
                         const moecl_buffer *src, uint64_t offset) {
  switch (tensor) {
  case MOECL_ROUTER_WEIGHT: return op_gemm_set_weights(layer->router.logits, 0, count, src, offset);
  case MOECL_ROUTER_BIAS: return op_gemm_set_bias(layer->router.logits, 0, count, src, offset);
  case MOECL_SCORE_CORRECTION_BIAS:
    return op_router_set_correction(&layer->router, count, src, offset);
  case MOECL_ROUTER_NOISE_WEIGHT:
    return op_gemm_set_weights(layer->router.noise, 0, count, src, offset);
  case MOECL_SHARED_GATE_UP_PROJ:
    return op_gemm_set_weights(layer->shared.gate_up, 0, count, src, offset);
  case MOECL_SHARED_DOWN_PROJ:
    return op_gemm_set_weights(layer->shared.down, 0, count, src, offset);
  case MOECL_SHARED_GATE:
    return ocl_buffer_copy(src, offset, layer->shared.gate_weight, 0,
                           (uint64_t)count * op_shared_gate_bytes(&layer->params));
  case MOECL_GATE_UP_PROJ: return op_gemm_set_weights(layer->gate_up, first, count, src, offset);
  case MOECL_GATE_UP_BIAS: return op_gemm_set_bias(layer->gate_up, first, count, src, offset);
  case MOECL_DOWN_PROJ: return op_gemm_set_weights(layer->down, first, count, src, offset);
  case MOECL_DOWN_BIAS: return op_gemm_set_bias(layer->down, first, count, src, offset);
  default: return MOECL_ERROR_INVALID_ARGUMENT;
  }
}

moecl_status moecl_layer_set_weights_buffer(moecl_layer *layer, moecl_tensor tensor,
                                            int64_t first_expert, int64_t count,
                                            const moecl_buffer *src, uint64_t offset_bytes) {
  if (!layer || !src) return MOECL_ERROR_INVALID_ARGUMENT;
  uint64_t bytes = 0;
  MOECL_TRY(check_items(layer, tensor, first_expert, count, &bytes));
  if (offset_bytes % moecl_dtype_size(moecl_layer_tensor_dtype(&layer->params, tensor)) != 0 ||
      offset_bytes > moecl_buffer_size(src) || bytes > moecl_buffer_size(src) - offset_bytes)
    return log_error(&layer->context->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "set_weights: %llu bytes from offset %llu of a buffer of %llu",
                     (unsigned long long)bytes, (unsigned long long)offset_bytes,
                     (unsigned long long)moecl_buffer_size(src));
  MOECL_TRY(pack(layer, tensor, first_expert, count, src, offset_bytes));
  MOECL_TRY(ocl_keep_order(layer->context));
  for (int64_t i = first_expert; i < first_expert + count; i++) {
    layer->missing -= !layer->is_set[tensor][i];
    layer->is_set[tensor][i] = 1;
  }
  return MOECL_OK;
}

/* One item at a time through a staging buffer: the device never holds more than
 * one expert twice. */
moecl_status moecl_layer_set_weights(moecl_layer *layer, moecl_tensor tensor, int64_t first_expert,
                                     int64_t count, const void *src) {
  if (!layer || !src) return MOECL_ERROR_INVALID_ARGUMENT;
  uint64_t bytes = 0;
  MOECL_TRY(check_items(layer, tensor, first_expert, count, &bytes));
  if (count == 0) return MOECL_OK;
  const uint64_t one = bytes / (uint64_t)count;
  moecl_buffer *staging;
  MOECL_TRY(moecl_buffer_create(layer->context, one, &staging));
  moecl_status status = MOECL_OK;
  for (int64_t i = 0; i < count && status == MOECL_OK; i++) {
    status = moecl_buffer_write_wait(staging, 0, one, (const char *)src + (uint64_t)i * one);
    if (status == MOECL_OK)
      status = moecl_layer_set_weights_buffer(layer, tensor, first_expert + i, 1, staging, 0);
    if (status == MOECL_OK) status = moecl_context_finish_wait(layer->context);
  }
  moecl_buffer_destroy(&staging);
  return status;
}

/* ---- asking ---- */

const char *moecl_layer_variant(const moecl_layer *layer, const char *operation,
                                const char **reason) {
  for (int i = 0; layer && operation && i < OPERATION_COUNT; i++)
    if (strcmp(operation_names[i], operation) == 0) {
      if (reason) *reason = layer->reason[i];
      return layer->variant[i]->name;
    }
  if (reason) *reason = NULL;
  return NULL;
}

double moecl_layer_roundoff(const moecl_layer *layer) {
  if (!layer) return 0.0;
  switch (layer->params.dtype) {
  case MOECL_F16: return 0x1p-11;
  case MOECL_BF16: return 0x1p-8;
  default: return layer->variant[OPERATION_GROUPED_GEMM]->flags & KERNEL_TF32 ? 0x1p-11 : 0x1p-24;
  }
}

double moecl_layer_output_roundoff(const moecl_layer *layer) {
  if (!layer) return 0.0;
  return layer->f32_outputs || layer->params.dtype == MOECL_F32 ? 0x1p-24
                                                                : moecl_layer_roundoff(layer);
}

size_t moecl_variants_available(moecl_context *context, const char *operation, moecl_dtype dtype,
                                const char **names, size_t capacity) {
  if (!context || !operation) return 0;
  const kernel_variant *all;
  const size_t count = kernel_variants(operation, &all);
  size_t found = 0;
  for (size_t i = 0; i < count; i++) {
    if (!kernel_variant_serves(&all[i], dtype, context->info.capabilities) ||
        !kernel_variant_fits(&all[i], &context->info))
      continue;
    if (names && found < capacity) names[found] = all[i].name;
    found++;
  }
  return found;
}
