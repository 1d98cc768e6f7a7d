// SPDX-License-Identifier: MIT
/* A layer's operations: what each is to do, which variant does it, and making it. A
 * described layer goes the same way, up to the kernels and the memory. */
#include "base/base.h"
#include "desc/activation.h"
#include "desc/tensors.h"
#include "layer/layer.h"
#include <stdio.h>
#include <stdlib.h>

typedef bool (*accepts_fn)(void *user, const kernel_variant *variant);
typedef moecl_status (*try_fn)(void *user, const kernel_variant *variant);

/* Why an operation's variant serves, for people. */
static void keep_reason(moecl_layer *layer, layer_operation operation, const char *asked,
                        size_t set_aside) {
  snprintf(layer->reason[operation], sizeof layer->reason[operation], "%s",
           kernel_reason(asked, set_aside));
  if (!layer->described)
    log_write(&layer->context->log, MOECL_LOG_INFO, "%s: %s (%s)",
              layer_kinds[operation]->table->operation, layer->variant[operation]->name,
              layer->reason[operation]);
}

/* An operation of one description, by the best variant that serves. */
static moecl_status make(moecl_layer *layer, const op_kind *kind, const void *desc, void *op) {
  const op_choice choice = {
      .kind = kind, .desc = desc, .format = layer->stored, .described = layer->described};
  return op_choose(layer->context, &choice, op, NULL, NULL);
}

/* The same of one whose variant users see, and may have asked for. */
static moecl_status make_chosen(moecl_layer *layer, layer_operation operation, const char *asked,
                                const void *desc, void *op) {
  const op_choice choice = {.kind = layer_kinds[operation],
                            .desc = desc,
                            .asked = asked,
                            .format = layer->stored,
                            .described = layer->described};
  size_t set_aside;
  MOECL_TRY(op_choose(layer->context, &choice, op, &layer->variant[operation], &set_aside));
  keep_reason(layer, operation, asked, set_aside);
  return MOECL_OK;
}

/* ---- GEMMs: what one is to do depends on the variant, which serves several ---- */

static moecl_status make_gemm(const moecl_layer *layer, const kernel_variant *variant,
                              const op_gemm_desc *desc, op_gemm **gemm) {
  return layer->described ? op_describe(&op_gemm_kind, layer->context, variant, desc, gemm)
                          : op_create(&op_gemm_kind, layer->context, variant, desc, gemm);
}

static moecl_status make_gemms(const moecl_layer *layer, const kernel_variant *variant,
                               const op_gemm_desc *first_desc, op_gemm **first,
                               const op_gemm_desc *second_desc, op_gemm **second) {
  return op_gemm_make_pair(layer->context, layer->described, variant, first_desc, first,
                           second_desc, second);
}

/* ---- formats: a variant says how it wants activations ---- */

static const desc_format *rows_of(const moecl_layer *layer, const kernel_variant *variant) {
  return op_gemm_rows(variant, layer->stored);
}

/* The formats of activations in a variant, which the descriptions below are of. */
static void take_formats(moecl_layer *layer, const kernel_variant *variant) {
  layer->rows = rows_of(layer, variant);
  layer->inputs =
      layer->quantized ? op_gemm_quantized_rows(variant, layer->quantized) : layer->rows;
  layer->outputs =
      layer->f32_outputs ? desc_format_of(MOECL_F32) : op_gemm_outputs(variant, layer->stored);
  layer->scatters = layer->is_share && variant->traits & KERNEL_SCATTERED_OUTPUT;
}

/* ---- the experts ---- */

static int epilogue_of(moecl_activation activation) {
  const desc_activation *row = desc_activation_of(activation);
  return row ? row->kernel : ACTIVATION_NONE;
}

/* Activated rows hold numbers of the layer's type, also where they are kept as fp32. */
static op_gemm_desc gate_up_desc(const moecl_layer *layer) {
  const moecl_layer_params *params = &layer->params;
  return (op_gemm_desc){.num_experts = layer->places,
                        .spread = layer->own_experts,
                        .invariant = params->batch_invariant,
                        .late = layer->late,
                        .told = (char *)layer->reason[LAYER_GROUPED_GEMM],
                        .told_size = OP_REASON_SIZE,
                        .n = params->intermediate_size,
                        .k = params->hidden_size,
                        .weights = layer->weights,
                        .biases = layer->biases,
                        .input = layer->inputs,
                        .output = layer->rows,
                        .rounded = layer->stored,
                        .epilogue = epilogue_of(params->activation),
                        .swiglu_alpha = desc_swiglu_alpha(params),
                        .swiglu_limit = desc_swiglu_limit(params),
                        .gated = moecl_activation_is_gated(params->activation),
                        .bias = params->gate_up_bias,
                        .gather = !params->weight_on_input};
}

static op_gemm_desc down_desc(const moecl_layer *layer) {
  const moecl_layer_params *params = &layer->params;
  return (op_gemm_desc){.num_experts = layer->places,
                        .spread = layer->own_experts,
                        .invariant = params->batch_invariant,
                        .late = layer->late,
                        .told = (char *)layer->reason[LAYER_GROUPED_GEMM],
                        .told_size = OP_REASON_SIZE,
                        .n = params->hidden_size,
                        .k = params->intermediate_size,
                        .weights = layer->weights,
                        .biases = layer->biases,
                        .input = layer->inputs,
                        .output = layer->outputs,
                        .scatter = layer->scatters,
                        .bias = params->down_bias,
                        .adds_shared = params->shared_intermediate_size > 0,
                        .shared_gate = desc_shared_is_weighted(params)};
}

/* ---- the shared expert: it reads and writes rows as the experts do ---- */

static op_gemm_desc shared_gate_up_desc(const moecl_layer *layer) {
  op_gemm_desc desc = gate_up_desc(layer);
  desc.num_experts = desc.spread = 1;
  desc.n = layer->params.shared_intermediate_size;
  desc.swiglu_limit = desc_shared_swiglu_limit(&layer->params);
  desc.bias = desc.gather = false;
  desc.ungrouped = true;
  return desc;
}

static op_gemm_desc shared_down_desc(const moecl_layer *layer) {
  op_gemm_desc desc = down_desc(layer);
  desc.num_experts = desc.spread = 1;
  desc.k = layer->params.shared_intermediate_size;
  desc.bias = desc.adds_shared = desc.shared_gate = desc.scatter = false;
  desc.ungrouped = true;
  return desc;
}

static bool accepts_shared(void *user, const kernel_variant *variant) {
  const moecl_layer *layer = user;
  const op_gemm_desc gate_up = shared_gate_up_desc(layer), down = shared_down_desc(layer);
  const bool takes_rows = desc_is_f32(layer->rows) || !(variant->traits & KERNEL_F32_ACTIVATIONS);
  return takes_rows && op_gemm_takes(variant, &gate_up) && op_gemm_takes(variant, &down);
}

static moecl_status try_shared(void *user, const kernel_variant *variant) {
  moecl_layer *layer = user;
  const op_gemm_desc gate_up = shared_gate_up_desc(layer), down = shared_down_desc(layer);
  return make_gemms(layer, variant, &gate_up, &layer->shared_gate_up, &down, &layer->shared_down);
}

static bool has_shared(const moecl_layer *layer) {
  return layer->params.shared_intermediate_size > 0;
}

/* ---- the experts and their variant ---- */

/* Codes are read by the shared expert too, or by nobody: others would want the same rows as
 * numbers. */
static bool reads_codes(const moecl_layer *layer) { return desc_is_quantized(layer->inputs); }

static bool accepts_experts(void *user, const kernel_variant *variant) {
  moecl_layer *layer = user;
  const bool for_all = !layer->params.batch_invariant && !layer_offloads(layer);
  if (!for_all && variant->traits & KERNEL_LIBRARY) return false;
  take_formats(layer, variant);
  const op_gemm_desc gate_up = gate_up_desc(layer), down = down_desc(layer);
  return op_gemm_takes(variant, &gate_up) && op_gemm_takes(variant, &down) &&
         (!reads_codes(layer) || !has_shared(layer) || accepts_shared(layer, variant));
}

static moecl_status check_scattering(void *user, const kernel_variant *variant) {
  const moecl_layer *layer = user;
  const op_gemm_desc down = down_desc(layer);
  return op_gemm_self_check(layer->context, variant, &down);
}

/* A variant that does not scatter as it says may serve all the same. */
static moecl_status try_scattering(moecl_layer *layer, const kernel_variant *variant) {
  if (!layer->scatters || layer->described) return MOECL_OK;
  const moecl_status status = kernel_attempt(layer->context, variant, check_scattering, layer);
  if (status == MOECL_OK || kernel_lacks_memory(status)) return status;
  log_write(&layer->context->log, MOECL_LOG_WARNING,
            "grouped_gemm variant '%s' does not store rows where they go (%s), they are gathered",
            variant->name, moecl_status_string(status));
  layer->scatters = false;
  return MOECL_OK;
}

static moecl_status try_experts(void *user, const kernel_variant *variant) {
  moecl_layer *layer = user;
  take_formats(layer, variant);
  MOECL_TRY(try_scattering(layer, variant));
  const op_gemm_desc gate_up = gate_up_desc(layer), down = down_desc(layer);
  const bool with_shared = reads_codes(layer) && has_shared(layer);
  if (with_shared) MOECL_TRY(try_shared(layer, variant));
  const moecl_status status =
      make_gemms(layer, variant, &gate_up, &layer->gate_up, &down, &layer->down);
  if (status != MOECL_OK && with_shared) {
    op_gemm_destroy(&layer->shared_gate_up);
    op_gemm_destroy(&layer->shared_down);
  }
  return status;
}

static moecl_status make_experts(moecl_layer *layer, const char *asked) {
  const kernel_choice choice = {.table = &op_gemm_table,
                                .asked = asked,
                                .format = layer->weights,
                                .accepts = accepts_experts,
                                .try_variant = try_experts,
                                .user = layer};
  size_t set_aside;
  MOECL_TRY(
      kernel_choose(layer->context, &choice, &layer->variant[LAYER_GROUPED_GEMM], &set_aside));
  keep_reason(layer, LAYER_GROUPED_GEMM, asked, set_aside);
  return MOECL_OK;
}

/* The experts' variant where it takes the problem, else the best that does: a library
 * baseline would have to read its counts on the host, others don't take the sizes. */
static moecl_status follow_experts(moecl_layer *layer, const char *asked,
                                   const desc_format *weights, accepts_fn accepts,
                                   try_fn try_variant) {
  const kernel_variant *experts = layer->variant[LAYER_GROUPED_GEMM], *chosen;
  const bool follows = !(experts->traits & KERNEL_LIBRARY) &&
                       kernel_variant_takes(experts, weights) && accepts(layer, experts);
  const kernel_choice choice = {.table = &op_gemm_table,
                                .asked = follows ? asked : NULL,
                                .format = weights,
                                .from = follows ? experts : NULL,
                                .accepts = accepts,
                                .try_variant = try_variant,
                                .user = layer};
  size_t set_aside;
  return kernel_choose(layer->context, &choice, &chosen, &set_aside);
}

static moecl_status make_gate(moecl_layer *layer) {
  const op_gate_desc desc = {.hidden_size = layer->params.hidden_size,
                             .format = layer->stored,
                             .gated = layer->params.shared_gate,
                             .factor = desc_shared_scaling_factor(&layer->params)};
  layer->has_gate = desc_shared_is_weighted(&layer->params);
  return layer->has_gate ? make(layer, &op_gate_kind, &desc, &layer->gate) : MOECL_OK;
}

static moecl_status make_shared(moecl_layer *layer, const char *asked) {
  if (!has_shared(layer)) return MOECL_OK;
  if (!layer->shared_gate_up)
    MOECL_TRY(follow_experts(layer, asked, layer->weights, accepts_shared, try_shared));
  return make_gate(layer);
}

/* ---- the router ---- */

/* Does the router's GEMM in a variant read converted hidden states? One for fp32 alone
 * does, unless the jitter makes them. */
static bool reads_converted(const moecl_layer *layer, const kernel_variant *variant) {
  return layer->stored != rows_of(layer, variant) && !(layer->params.jitter > 0);
}

static op_gemm_desc logits_desc(const moecl_layer *layer, const kernel_variant *variant,
                                bool bias) {
  const bool f32 =
      layer->params.jitter > 0 || layer->rows != layer->stored || reads_converted(layer, variant);
  return (op_gemm_desc){.num_experts = 1,
                        .invariant = layer->params.batch_invariant,
                        .late = layer->late,
                        .told = (char *)layer->reason[LAYER_GROUPED_GEMM],
                        .told_size = OP_REASON_SIZE,
                        .n = layer->params.num_experts,
                        .k = layer->params.hidden_size,
                        .weights = layer->stored,
                        .biases = layer->stored,
                        .input = f32 ? desc_format_of(MOECL_F32) : layer->stored,
                        .output = desc_format_of(MOECL_F32),
                        .bias = bias,
                        .ungrouped = true,
                        .exact = true};
}

static bool accepts_logits(void *user, const kernel_variant *variant) {
  const moecl_layer *layer = user;
  const op_gemm_desc desc = logits_desc(layer, variant, layer->params.router_bias);
  return op_gemm_takes(variant, &desc);
}

static moecl_status try_logits(void *user, const kernel_variant *variant) {
  moecl_layer *layer = user;
  const op_gemm_desc logits = logits_desc(layer, variant, layer->params.router_bias);
  const op_gemm_desc noise = logits_desc(layer, variant, false);
  layer->has_convert = layer->rows != layer->stored || reads_converted(layer, variant);
  if (layer->params.router_noise)
    return make_gemms(layer, variant, &logits, &layer->logits, &noise, &layer->noise);
  return make_gemm(layer, variant, &logits, &layer->logits);
}

static moecl_status make_prepare(moecl_layer *layer, float jitter, op_prepare *prepare) {
  const op_prepare_desc desc = {layer->params.hidden_size, layer->stored, jitter};
  return make(layer, &op_prepare_kind, &desc, prepare);
}

/* Few tokens' routing in one launch, beside a router's variant that has it, for a permutation that
 * drops nothing. It would sum logits in its own order, whatever the batch: not where that has to
 * be one for all. */
static moecl_status make_route(moecl_layer *layer) {
  const moecl_layer_params *params = &layer->params;
  const op_route_desc desc = {.rule = desc_rule_of(params),
                              .hidden_size = params->hidden_size,
                              .stored = layer->stored,
                              .bias = params->router_bias};
  const op_choice choice = {.kind = &op_route_kind,
                            .desc = &desc,
                            .asked = layer->variant[LAYER_ROUTER]->name,
                            .format = layer->stored,
                            .described = layer->described,
                            .optional = true};
  if (params->batch_invariant || params->router_noise || params->jitter > 0 ||
      params->capacity_factor > 0)
    return MOECL_OK;
  return op_choose(layer->context, &choice, &layer->route, NULL, NULL);
}

static moecl_status make_router(moecl_layer *layer, const moecl_layer_params *params) {
  const desc_rule rule = desc_rule_of(params);
  const op_noise_desc noise = {params->num_experts};
  MOECL_TRY(follow_experts(layer, params->grouped_gemm_variant, layer->stored, accepts_logits,
                           try_logits));
  if (layer->has_convert) MOECL_TRY(make_prepare(layer, 0, &layer->convert));
  if (params->jitter > 0) MOECL_TRY(make_prepare(layer, params->jitter, &layer->jitter));
  if (params->router_noise) MOECL_TRY(make(layer, &op_noise_kind, &noise, &layer->add_noise));
  if (params->score_correction_bias && !layer->described)
    MOECL_TRY(moecl_buffer_create(layer->context, (uint64_t)params->num_experts * sizeof(float),
                                  &layer->correction_bias));
  MOECL_TRY(make_chosen(layer, LAYER_ROUTER, params->router_variant, &rule, &layer->router));
  return make_route(layer);
}

/* ---- permutation and combination ---- */

static op_combine_desc combine_desc(const moecl_layer *layer) {
  const moecl_layer_params *params = &layer->params;
  const bool identity = params->num_identity_experts > 0;
  return (op_combine_desc){.hidden_size = params->hidden_size,
                           .top_k = params->top_k,
                           .input = layer->outputs,
                           .output = layer->stored,
                           .weighted = !params->weight_on_input,
                           .shared = params->shared_intermediate_size > 0,
                           .shared_gate = layer->has_gate,
                           .first_identity =
                               identity ? params->num_experts - params->num_identity_experts : 0};
}

static moecl_status make_scale(moecl_layer *layer) {
  const op_scale_desc desc = {.hidden_size = layer->params.hidden_size,
                              .top_k = layer->params.top_k,
                              .rows = layer->rows,
                              .rounded = layer->stored};
  return layer->params.weight_on_input ? make(layer, &op_scale_kind, &desc, &layer->scale)
                                       : MOECL_OK;
}

static moecl_status make_rounds(moecl_layer *layer) {
  const op_rounds_desc desc = {layer->own_experts, layer->places, layer->params.top_k};
  return layer_offloads(layer) ? make(layer, &op_rounds_kind, &desc, &layer->rounds) : MOECL_OK;
}

/* ---- quantization of what the experts read ---- */

static moecl_status make_quantize(moecl_layer *layer, int64_t columns, op_quantize *quantize) {
  const op_quantize_desc desc = {columns, layer->rows, layer->quantized, layer->inputs};
  return make(layer, &op_quantize_kind, &desc, quantize);
}

static moecl_status make_quantized(moecl_layer *layer) {
  const moecl_layer_params *params = &layer->params;
  if (!layer->quantized) return MOECL_OK;
  MOECL_TRY(make_quantize(layer, params->hidden_size, &layer->quantize_hidden));
  MOECL_TRY(make_quantize(layer, params->intermediate_size, &layer->quantize_inner));
  return params->shared_intermediate_size > 0
             ? make_quantize(layer, params->shared_intermediate_size, &layer->quantize_shared)
             : MOECL_OK;
}

/* ---- the layer ---- */

static moecl_status make_operations(moecl_layer *layer, const moecl_layer_params *params) {
  MOECL_TRY(make_experts(layer, params->grouped_gemm_variant));
  MOECL_TRY(make_shared(layer, params->grouped_gemm_variant));
  MOECL_TRY(make_scale(layer));
  MOECL_TRY(make_rounds(layer));
  MOECL_TRY(make_quantized(layer));
  MOECL_TRY(make_router(layer, params));
  layer->dispatch.counted = layer->router.driver->by_block;
  MOECL_TRY(make_chosen(layer, LAYER_PERMUTE, NULL, &layer->dispatch, &layer->permute));
  const op_combine_desc combine = combine_desc(layer);
  return make_chosen(layer, LAYER_COMBINE, NULL, &combine, &layer->combine);
}

static moecl_status allocate_flags(moecl_layer *layer) {
  for (int tensor = 0; tensor < MOECL_TENSOR_COUNT; tensor++) {
    const int64_t items = layer_items(layer, (moecl_tensor)tensor);
    if (items == 0) continue;
    layer->is_set[tensor] = calloc((size_t)items, 1);
    if (!layer->is_set[tensor])
      return log_error(&layer->context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
    layer->missing += items;
  }
  return MOECL_OK;
}

static uint64_t given_bytes(const moecl_layer *layer, moecl_tensor first, moecl_tensor last) {
  uint64_t bytes = 0;
  for (int t = first; t <= (int)last; t++)
    bytes += moecl_layer_tensor_bytes(&layer->params, (moecl_tensor)t);
  return bytes;
}

/* Before variants are known: packed, an expert may take some more than it is given with. */
static uint64_t packed_at_most(uint64_t given) { return given + given / 16 + 1; }

/* A tensor's places are in one buffer: so many, or as many as those of an expert's largest fit into
 * the largest that the driver states, 0: it does not say. Some give more than that. */
static uint64_t places_in_buffers(const moecl_layer *layer, uint64_t places) {
  const uint64_t stated = layer->context->info.max_allocation_bytes;
  uint64_t largest = 0;
  for (int t = MOECL_GATE_UP_PROJ; t <= MOECL_DOWN_BIAS; t++) {
    const uint64_t bytes = given_bytes(layer, (moecl_tensor)t, (moecl_tensor)t);
    if (bytes > largest) largest = bytes;
  }
  const uint64_t each = packed_at_most(largest);
  const bool fit = stated == 0 || places <= stated / each;
  return fit || ocl_gives_buffer(layer->context, places * each) ? places : stated / each;
}

static int64_t places_that_fit(const moecl_layer *layer) {
  const uint64_t one = given_bytes(layer, MOECL_GATE_UP_PROJ, MOECL_DOWN_BIAS);
  const uint64_t apart = given_bytes(layer, MOECL_ROUTER_WEIGHT, MOECL_ROUTER_BIAS) +
                         given_bytes(layer, MOECL_SCORE_CORRECTION_BIAS, MOECL_SHARED_GATE);
  const uint64_t all = layer->context->info.global_memory_bytes;
  const uint64_t taken = all / 5 + layer->context->allocated + apart;
  uint64_t fit = taken < all ? (all - taken) / packed_at_most(one) : 0;
  if (fit > (uint64_t)layer->own_experts) fit = (uint64_t)layer->own_experts;
  fit = places_in_buffers(layer, fit);
  return fit < 1 ? 1 : (int64_t)fit;
}

static int64_t places_of(const moecl_layer *layer) {
  const int64_t asked = layer->params.expert_cache;
  return asked > 0 ? asked : asked < 0 ? places_that_fit(layer) : layer->own_experts;
}

/* own_experts 0: all. */
static moecl_status make_layer(moecl_context *context, const moecl_layer_params *params,
                               bool described, int64_t own_experts, bool f32_outputs,
                               moecl_layer **out) {
  char message[256];
  moecl_status status = moecl_layer_params_check(params, message, sizeof message);
  if (status != MOECL_OK) return log_error(&context->log, status, "layer: %s", message);
  moecl_layer *layer = calloc(1, sizeof *layer);
  if (!layer) return log_error(&context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  layer->context = ocl_context_retain(context);
  layer->params = *params;
  layer->params.grouped_gemm_variant = layer->params.router_variant = NULL;
  layer->described = described;
  layer->f32_outputs = f32_outputs;
  layer->is_share = own_experts > 0;
  layer->own_experts =
      own_experts ? own_experts : params->num_experts - params->num_identity_experts;
  layer->places = places_of(layer);
  layer->late = layer->is_share ? 0 : OP_GEMM_ALL_LATE; /* a group's plans prepare nothing */
  layer->stored = desc_format_of(params->dtype);
  layer->weights = desc_tensor_format(params, MOECL_DOWN_PROJ);
  layer->biases = desc_tensor_format(params, MOECL_DOWN_BIAS);
  if (params->activation_format != MOECL_FORMAT_DTYPE)
    layer->quantized = &desc_formats[params->activation_format];
  layer->dispatch = desc_dispatch_of(params);
  status = described ? MOECL_OK : allocate_flags(layer);
  if (status == MOECL_OK) status = make_operations(layer, params);
  if (status == MOECL_OK && layer_offloads(layer) && !described) status = layer_offload_make(layer);
  if (status != MOECL_OK) moecl_layer_destroy(&layer);
  *out = layer;
  return status;
}

moecl_status layer_make(moecl_context *context, const moecl_layer_params *params, bool described,
                        moecl_layer **out) {
  return make_layer(context, params, described, 0, false, out);
}

void layer_build_ahead(moecl_context *context, const moecl_layer_params *params,
                       int64_t own_experts) {
  moecl_layer *described;
  if (!ocl_ahead_begin(context)) return;
  if (make_layer(context, params, true, own_experts, false, &described) == MOECL_OK)
    moecl_layer_destroy(&described);
  ocl_ahead_end(context);
}

moecl_status layer_make_share(moecl_context *context, const moecl_layer_params *params,
                              int64_t own_experts, bool f32_outputs, moecl_layer **out) {
  layer_build_ahead(context, params, own_experts);
  return make_layer(context, params, false, own_experts, f32_outputs, out);
}
