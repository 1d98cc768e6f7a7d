#include "moe/layer.h"
#include "base/base.h"
#include "op/self_check.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CANDIDATES = 32 };

static const char *const operation_names[OPERATION_COUNT] = {"router", "permute", "grouped_gemm",
                                                             "combine"};

/* Candidates for one operation, best first, or a logged error. */
static moecl_status candidates(moecl_context *context, moe_operation operation, const char *asked,
                               moecl_dtype dtype, const kernel_variant **list, size_t *count) {
  char why[512];
  *count = kernel_candidates(operation_names[operation], asked, dtype, context->info.capabilities,
                             list, MAX_CANDIDATES, why, sizeof why);
  return *count ? MOECL_OK : log_error(&context->log, MOECL_ERROR_UNSUPPORTED, "%s", why);
}

static void chosen(moecl_layer *layer, moe_operation operation, const kernel_variant *variant,
                   const char *asked, size_t rank) {
  layer->variant[operation] = variant;
  snprintf(layer->reason[operation], sizeof layer->reason[operation], "%s",
           asked       ? "asked for by name"
           : rank == 0 ? "the best that serves this device and data type"
                       : "better ones did not build, or failed their self-check, on this device");
  log_write(&layer->context->log, MOECL_LOG_INFO, "%s: %s (%s)", operation_names[operation],
            variant->name, layer->reason[operation]);
}

/* May another variant be tried after this failure? One that was asked for by
 * name never falls back. */
static bool next_may_serve(moecl_layer *layer, moecl_status status, const char *asked,
                           const kernel_variant *variant) {
  if ((status != MOECL_ERROR_BUILD && status != MOECL_ERROR_UNSUPPORTED) || asked) return false;
  log_write(&layer->context->log, MOECL_LOG_WARNING,
            "variant '%s' did not build or failed its self-check here and is set aside; the next "
            "one serves",
            variant->name);
  return true;
}

static op_epilogue epilogue_of(moecl_activation activation) {
  switch (activation) {
  case MOECL_SWIGLU:
  case MOECL_SILU: return OP_EPILOGUE_SILU;
  case MOECL_GEGLU:
  case MOECL_GELU: return OP_EPILOGUE_GELU;
  case MOECL_RELU: return OP_EPILOGUE_RELU;
  default: return OP_EPILOGUE_NONE;
  }
}

static moecl_status create_experts_with(moecl_layer *layer, const kernel_variant *variant) {
  const moecl_layer_params *params = &layer->params;
  layer->f32_activations = variant->flags & KERNEL_F32_ACTIVATIONS;
  op_gemm_shape shape = {.num_experts = params->num_experts,
                         .n = params->intermediate_size,
                         .k = params->hidden_size,
                         .dtype = params->dtype,
                         .epilogue = epilogue_of(params->activation),
                         .gated = moecl_activation_is_gated(params->activation),
                         .bias = params->gate_up_bias,
                         .gather = true,
                         .input_f32 = layer->f32_activations,
                         .output_f32 = layer->f32_activations};
  MOECL_TRY(op_gemm_self_check(layer->context, variant, &shape));
  MOECL_TRY(op_gemm_create(layer->context, variant, &shape, &layer->gate_up));
  shape.n = params->hidden_size;
  shape.k = params->intermediate_size;
  shape.epilogue = OP_EPILOGUE_NONE;
  shape.gated = shape.gather = false;
  shape.bias = params->down_bias;
  MOECL_TRY(op_gemm_self_check(layer->context, variant, &shape));
  return op_gemm_create(layer->context, variant, &shape, &layer->down);
}

static moecl_status create_experts(moecl_layer *layer, const char *asked) {
  const kernel_variant *list[MAX_CANDIDATES];
  size_t count;
  MOECL_TRY(candidates(layer->context, OPERATION_GROUPED_GEMM, asked, layer->params.dtype, list,
                       &count));
  moecl_status status = MOECL_ERROR_BUILD;
  for (size_t i = 0; i < count; i++) {
    status = create_experts_with(layer, list[i]);
    if (status == MOECL_OK) {
      chosen(layer, OPERATION_GROUPED_GEMM, list[i], asked, i);
      return MOECL_OK;
    }
    op_gemm_destroy(&layer->gate_up);
    op_gemm_destroy(&layer->down);
    if (!next_may_serve(layer, status, asked, list[i])) break;
  }
  return status;
}

/* The logits' GEMM follows the experts' variant, but a library baseline serves
 * the experts only: its counts would have to be read on the host. */
static moecl_status create_router(moecl_layer *layer, const char *asked) {
  const kernel_variant *list[MAX_CANDIDATES], *gemm_list[MAX_CANDIDATES];
  size_t count, gemm_count;
  const kernel_variant *gemm = layer->variant[OPERATION_GROUPED_GEMM];
  MOECL_TRY(candidates(layer->context, OPERATION_GROUPED_GEMM, NULL, layer->params.dtype,
                       gemm_list, &gemm_count));
  if (gemm->flags & KERNEL_LIBRARY) gemm = gemm_list[0];
  if ((gemm->flags & KERNEL_PERSISTENT) && (layer->params.jitter > 0 || layer->params.num_experts % 8 || layer->params.hidden_size % 8)) gemm = gemm_list[1];
  MOECL_TRY(candidates(layer->context, OPERATION_ROUTER, asked, layer->params.dtype, list, &count));
  const bool convert = layer->f32_activations && layer->params.dtype != MOECL_F32;
  moecl_status status = MOECL_ERROR_BUILD;
  for (size_t i = 0; i < count; i++) {
    status = op_router_create(layer->context, list[i], gemm, &layer->params, convert,
                              &layer->router);
    if (status == MOECL_OK) {
      chosen(layer, OPERATION_ROUTER, list[i], asked, i);
      return MOECL_OK;
    }
    op_router_release(&layer->router);
    if (!next_may_serve(layer, status, asked, list[i])) break;
  }
  return status;
}

static moecl_status create_permute_and_combine(moecl_layer *layer) {
  const kernel_variant *list[MAX_CANDIDATES];
  size_t count;
  MOECL_TRY(
      candidates(layer->context, OPERATION_PERMUTE, NULL, layer->params.dtype, list, &count));
  MOECL_TRY(op_permute_create(layer->context, list[0], &layer->params, &layer->permute));
  chosen(layer, OPERATION_PERMUTE, list[0], NULL, 0);
  MOECL_TRY(
      candidates(layer->context, OPERATION_COMBINE, NULL, layer->params.dtype, list, &count));
  MOECL_TRY(op_combine_create(layer->context, list[0], &layer->params, layer->f32_activations,
                              &layer->combine));
  chosen(layer, OPERATION_COMBINE, list[0], NULL, 0);
  return MOECL_OK;
}

static bool is_router_tensor(moecl_tensor tensor) {
  return tensor == MOECL_ROUTER_WEIGHT || tensor == MOECL_ROUTER_BIAS;
}

static moecl_status allocate_flags(moecl_layer *layer) {
  for (int tensor = 0; tensor < MOECL_TENSOR_COUNT; tensor++) {
    if (moecl_layer_tensor_size(&layer->params, (moecl_tensor)tensor) == 0) continue;
    const int64_t items = is_router_tensor((moecl_tensor)tensor) ? 1 : layer->params.num_experts;
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
  if (status == MOECL_OK) status = create_experts(layer, params->grouped_gemm_variant);
  if (status == MOECL_OK) status = create_router(layer, params->router_variant);
  if (status == MOECL_OK) status = create_permute_and_combine(layer);
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
    return log_error(log, MOECL_ERROR_INVALID_ARGUMENT,
                     "set_weights: this layer has no tensor %d", (int)tensor);
  const int64_t items = is_router_tensor(tensor) ? 1 : layer->params.num_experts;
  if (first < 0 || count < 0 || count > items || first > items - count)
    return log_error(log, MOECL_ERROR_INVALID_ARGUMENT,
                     "set_weights: %lld items from item %lld on of tensor %d, which has %lld",
                     (long long)count, (long long)first, (int)tensor, (long long)items);
  *bytes = (uint64_t)count * (uint64_t)moecl_layer_tensor_size(&layer->params, tensor) *
           moecl_dtype_size(layer->params.dtype);
  return MOECL_OK;
}

static moecl_status pack(moecl_layer *layer, moecl_tensor tensor, int64_t first, int64_t count,
                         const moecl_buffer *src, uint64_t offset) {
  switch (tensor) {
  case MOECL_ROUTER_WEIGHT: return op_gemm_set_weights(layer->router.logits, 0, count, src, offset);
  case MOECL_ROUTER_BIAS: return op_gemm_set_bias(layer->router.logits, 0, count, src, offset);
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
  if (offset_bytes % moecl_dtype_size(layer->params.dtype) != 0 ||
      offset_bytes > moecl_buffer_size(src) || bytes > moecl_buffer_size(src) - offset_bytes)
    return log_error(&layer->context->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "set_weights: %llu bytes from offset %llu of a buffer of %llu",
                     (unsigned long long)bytes, (unsigned long long)offset_bytes,
                     (unsigned long long)moecl_buffer_size(src));
  MOECL_TRY(pack(layer, tensor, first_expert, count, src, offset_bytes));
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

uint64_t moecl_layer_weight_bytes(const moecl_layer *layer) {
  return op_gemm_weight_bytes(layer->router.logits) + op_gemm_weight_bytes(layer->gate_up) +
         op_gemm_weight_bytes(layer->down);
}

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

size_t moecl_variants_available(moecl_context *context, const char *operation, moecl_dtype dtype,
                                const char **names, size_t capacity) {
  if (!context || !operation) return 0;
  const kernel_variant *all;
  const size_t count = kernel_variants(operation, &all);
  size_t found = 0;
  for (size_t i = 0; i < count; i++) {
    if (!kernel_variant_serves(&all[i], dtype, context->info.capabilities)) continue;
    if (names && found < capacity) names[found] = all[i].name;
    found++;
  }
  return found;
}
