// SPDX-License-Identifier: MIT
/* Creating, destroying and asking a layer. */
#include "layer/layer.h"
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

moecl_status moecl_layer_create(moecl_context *context, const moecl_layer_params *params,
                                moecl_layer **out) {
  if (!out) return MOECL_ERROR_INVALID_ARGUMENT;
  *out = NULL;
  if (!context) return MOECL_ERROR_INVALID_ARGUMENT;
  layer_build_ahead(context, params, 0);
  return layer_make(context, params, false, out);
}

const op_kind *const layer_kinds[LAYER_OPERATION_COUNT] = {[LAYER_ROUTER] = &op_router_kind,
                                                           [LAYER_PERMUTE] = &op_permute_kind,
                                                           [LAYER_GROUPED_GEMM] = &op_gemm_kind,
                                                           [LAYER_COMBINE] = &op_combine_kind};

#define PART(kind, member)                                                                         \
  { &op_##kind##_kind, offsetof(moecl_layer, member) }
const layer_part layer_parts[LAYER_PARTS] = {PART(gemm, gate_up),
                                             PART(gemm, down),
                                             PART(gemm, logits),
                                             PART(gemm, noise),
                                             PART(gemm, shared_gate_up),
                                             PART(gemm, shared_down),
                                             PART(prepare, convert),
                                             PART(prepare, jitter),
                                             PART(noise, add_noise),
                                             PART(router, router),
                                             PART(route, route),
                                             PART(permute, permute),
                                             PART(scale, scale),
                                             PART(rounds, rounds),
                                             PART(gate, gate),
                                             PART(combine, combine),
                                             PART(quantize, quantize_hidden),
                                             PART(quantize, quantize_inner),
                                             PART(quantize, quantize_shared)};

void moecl_layer_destroy(moecl_layer **handle) {
  if (!handle || !*handle) return;
  moecl_layer *layer = *handle;
  *handle = NULL;
  layer_offload_release(&layer->offload);
  plan_space_release(&layer->space);
  layer_release_staging(layer);
  for (int i = 0; i < LAYER_PARTS; i++)
    layer_parts[i].kind->release((char *)layer + layer_parts[i].at);
  moecl_buffer_destroy(&layer->correction_bias);
  for (int tensor = 0; tensor < MOECL_TENSOR_COUNT; tensor++) free(layer->is_set[tensor]);
  moecl_context_destroy(&layer->context);
  free(layer);
}

const char *moecl_layer_variant(const moecl_layer *layer, const char *operation,
                                const char **reason) {
  for (int i = 0; layer && operation && i < LAYER_OPERATION_COUNT; i++)
    if (strcmp(operation, layer_kinds[i]->table->operation) == 0) {
      if (reason) *reason = layer->reason[i];
      return layer->variant[i]->name;
    }
  if (reason) *reason = NULL;
  return NULL;
}

static double factors_roundoff(const moecl_layer *layer) {
  switch (layer->params.dtype) {
  case MOECL_F16: return 0x1p-11;
  case MOECL_BF16: return 0x1p-8;
  default: return layer->variant[LAYER_GROUPED_GEMM]->traits & KERNEL_TF32 ? 0x1p-11 : 0x1p-24;
  }
}

/* An activated number next to the middle between two codes gets the other one where it is off by
 * little: few do, but by far more than fp32 rounds. */
double moecl_layer_roundoff(const moecl_layer *layer) {
  if (!layer) return 0.0;
  return layer->quantized ? fmax(factors_roundoff(layer), 0x1p-11) : factors_roundoff(layer);
}

double moecl_layer_output_roundoff(const moecl_layer *layer) {
  if (!layer) return 0.0;
  return desc_is_f32(layer->outputs) ? 0x1p-24 : factors_roundoff(layer);
}

size_t moecl_variants_for_format(moecl_context *context, const char *operation, moecl_format format,
                                 const char **names, size_t capacity) {
  if (!context || !operation || format <= MOECL_FORMAT_DTYPE || format >= MOECL_FORMAT_COUNT)
    return 0;
  const op_kind *kind = op_find(operation);
  const kernel_table *table = kind ? kind->table : NULL;
  size_t found = 0;
  for (size_t i = 0; table && i < table->count; i++) {
    const kernel_variant *row = &table->rows[i];
    if (!kernel_variant_serves(row, &desc_formats[format], context->info.capabilities) ||
        !kernel_variant_fits(row, &context->info))
      continue;
    if (names && found < capacity) names[found] = row->name;
    found++;
  }
  return found;
}

bool moecl_variant_uses_matrix_units(const char *operation, const char *variant) {
  const op_kind *kind = operation ? op_find(operation) : NULL;
  const kernel_table *table = kind ? kind->table : NULL;
  for (size_t i = 0; table && variant && i < table->count; i++)
    if (strcmp(table->rows[i].name, variant) == 0)
      return table->rows[i].traits & KERNEL_MATRIX_UNITS;
  return false;
}

size_t moecl_variants_available(moecl_context *context, const char *operation, moecl_dtype dtype,
                                const char **names, size_t capacity) {
  if ((unsigned)dtype >= MOECL_DTYPE_COUNT) return 0;
  const moecl_format format = (moecl_format)(desc_format_of(dtype) - desc_formats);
  return moecl_variants_for_format(context, operation, format, names, capacity);
}
