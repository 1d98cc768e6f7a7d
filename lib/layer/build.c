// SPDX-License-Identifier: MIT
/* A layer's plan: its tensors, and the steps that the rows of paths.c are made of. */
#include "base/base.h"
#include "layer/layer.h"
#include "plan/gemm_step.h"
#include <stdio.h>
#include <stdlib.h>

/* ---- tensors ---- */

static void add_router_tensors(layer_builder *b) {
  const moecl_layer_params *params = &b->layer->params;
  const uint64_t tokens = (uint64_t)b->plan->num_tokens, hidden = (uint64_t)params->hidden_size;
  const uint64_t experts = (uint64_t)params->num_experts, top_k = (uint64_t)params->top_k;
  const desc_format *f32 = desc_format_of(MOECL_F32), *int32 = &desc_int32;
  layer_tensors *at = b->at;
  plan *p = b->plan;
  at->hidden_f32 = plan_add(p, MOECL_LIFE_TEMPORARY, "hidden_f32", f32, tokens, hidden);
  at->router_input = plan_add(p, MOECL_LIFE_TEMPORARY, "router_input", f32, tokens, hidden);
  at->logits = plan_add(p, MOECL_LIFE_SAVED, "router_logits", f32, tokens, experts);
  at->noise_logits = plan_add(p, MOECL_LIFE_TEMPORARY, "noise_logits", f32, tokens, experts);
  at->correction_bias = at->slot_place = PLAN_NONE;
  if (params->score_correction_bias)
    at->correction_bias = plan_add(p, MOECL_LIFE_WEIGHT, "score_correction_bias", f32, 1, experts);
  at->topk_ids = plan_add(p, MOECL_LIFE_SAVED, "topk_ids", int32, tokens, top_k);
  at->topk_weights = plan_add(p, MOECL_LIFE_SAVED, "topk_weights", f32, tokens, top_k);
}

static void add_permute_tensors(layer_builder *b) {
  const moecl_layer_params *params = &b->layer->params;
  const uint64_t tokens = (uint64_t)b->plan->num_tokens, experts = (uint64_t)params->num_experts;
  const uint64_t top_k = (uint64_t)params->top_k, slots = tokens * top_k;
  const uint64_t blocks = op_permute_most_blocks((int64_t)tokens, params->top_k);
  const desc_format *f32 = desc_format_of(MOECL_F32), *int32 = &desc_int32;
  layer_tensors *at = b->at;
  plan *p = b->plan;
  at->block_counts = plan_add(p, MOECL_LIFE_TEMPORARY, "block_counts", int32, blocks, experts);
  at->tokens_per_expert = plan_add(p, MOECL_LIFE_SAVED, "tokens_per_expert", int32, 1, experts);
  at->expert_offsets = plan_add(p, MOECL_LIFE_SAVED, "expert_offsets", int32, 1, experts + 1);
  at->tile_offsets = plan_add(p, MOECL_LIFE_TEMPORARY, "tile_offsets", int32, 1, experts + 1);
  at->all_offsets = plan_add(p, MOECL_LIFE_TEMPORARY, "all_offsets", int32, 1, experts + 1);
  at->slot_token = plan_add(p, MOECL_LIFE_TEMPORARY, "sorted_token_ids", int32, 1, slots);
  at->assignment_slot = plan_add(p, MOECL_LIFE_SAVED, "assignment_slot", int32, tokens, top_k);
  at->order = plan_add(p, MOECL_LIFE_TEMPORARY, "order", int32, 1, slots);
  at->token_priority = plan_add(p, MOECL_LIFE_SAVED, "token_priority", f32, 1, tokens);
  at->kept_weights = plan_add(p, MOECL_LIFE_TEMPORARY, "kept_weights", f32, tokens, top_k);
}

static void add_expert_tensors(layer_builder *b, uint64_t slots) {
  const moecl_layer *layer = b->layer;
  const moecl_layer_params *params = &layer->params;
  const uint64_t tokens = (uint64_t)b->plan->num_tokens, hidden = (uint64_t)params->hidden_size;
  const uint64_t inner = (uint64_t)params->intermediate_size;
  const uint64_t shared = (uint64_t)params->shared_intermediate_size;
  const desc_format *f32 = desc_format_of(MOECL_F32);
  layer_tensors *at = b->at;
  plan *p = b->plan;
  const desc_format *inputs = layer->inputs;
  at->hidden_quantized =
      plan_add(p, MOECL_LIFE_TEMPORARY, "hidden_quantized", inputs, tokens, hidden);
  at->scaled_quantized =
      plan_add(p, MOECL_LIFE_TEMPORARY, "scaled_quantized", inputs, slots, hidden);
  at->activated_quantized =
      plan_add(p, MOECL_LIFE_TEMPORARY, "activated_quantized", inputs, slots, inner);
  at->shared_quantized =
      plan_add(p, MOECL_LIFE_TEMPORARY, "shared_quantized", inputs, tokens, shared);
  at->scaled = plan_add(p, MOECL_LIFE_TEMPORARY, "scaled", layer->rows, slots, hidden);
  at->activated = plan_add(p, MOECL_LIFE_TEMPORARY, "activated", layer->rows, slots, inner);
  at->expert_output =
      plan_add(p, MOECL_LIFE_TEMPORARY, "expert_output", layer->outputs, slots, hidden);
  at->shared_activated =
      plan_add(p, MOECL_LIFE_TEMPORARY, "shared_activated", layer->rows, tokens, shared);
  at->shared_output =
      plan_add(p, MOECL_LIFE_TEMPORARY, "shared_output", layer->outputs, tokens, hidden);
  at->shared_gate = plan_add(p, MOECL_LIFE_TEMPORARY, "shared_gate", f32, 1, tokens);
  const uint64_t gate_up = op_gemm_scratch(layer->gate_up, (int64_t)slots);
  const uint64_t down = op_gemm_scratch(layer->down, (int64_t)slots);
  const uint64_t scratch = gate_up > down ? gate_up : down;
  at->scratch = plan_add_bytes(p, MOECL_LIFE_TEMPORARY, "scratch", f32, 1, scratch / 4, scratch);
}

static void add_round_tensors(layer_builder *b) {
  const uint64_t tokens = (uint64_t)b->plan->num_tokens, top_k = (uint64_t)b->layer->params.top_k;
  const uint64_t offsets = (uint64_t)b->layer->places + 1;
  layer_tensors *at = b->at;
  plan *p = b->plan;
  const moecl_life temporary = MOECL_LIFE_TEMPORARY;
  at->round_list = plan_add(p, MOECL_LIFE_INPUT, "round_list", &desc_int32, 1, 0);
  at->moved_slot = plan_add(p, temporary, "moved_slot", &desc_int32, tokens, top_k);
  at->moved_token = plan_add(p, temporary, "moved_token", &desc_int32, 1, tokens * top_k);
  at->round_offsets = plan_add(p, temporary, "round_offsets", &desc_int32, 1, offsets);
  at->round_tiles = plan_add(p, temporary, "round_tiles", &desc_int32, 1, offsets);
}

/* ---- steps ---- */

static moecl_status run_prepare(void *user, ocl_chain *chain, const plan_call *call) {
  const op_prepare_io io = {.num_tokens = call->num_tokens,
                            .seed = call->with.seed,
                            .first_token = call->with.first_token,
                            .input = call->buffer[0],
                            .output = call->buffer[1]};
  return op_prepare_enqueue(user, chain, &io);
}

static void build_prepare(layer_builder *b, const char *name, const op_prepare *prepare,
                          int output) {
  const plan_step step = {.name = name,
                          .operation = "prepare",
                          .label = MOECL_STAGE_ROUTER,
                          .launches = 1,
                          .enqueue = run_prepare,
                          .user = (void *)prepare};
  const int tensors[] = {b->at->hidden_states, output};
  plan_add_step(b->plan, &step, tensors, BASE_COUNT(tensors));
}

void layer_build_convert(layer_builder *b) {
  build_prepare(b, "convert", &b->layer->convert, b->at->hidden_f32);
}

void layer_build_jitter(layer_builder *b) {
  if (b->layer->has_convert) layer_build_convert(b);
  build_prepare(b, "jitter", &b->layer->jitter, b->at->router_input);
}

static void build_gemm(layer_builder *b, const char *name, moecl_stage label, const op_gemm *gemm,
                       int64_t rows, int input, int output) {
  const bool scratch = b->plan->tensor[b->at->scratch].bytes > 0;
  const plan_gemm_tensors tensors = {.input = input,
                                     .output = output,
                                     .scratch = scratch ? b->at->scratch : PLAN_NONE,
                                     .slot_token = b->at->slot_token,
                                     .expert_offsets = b->at->expert_offsets,
                                     .tile_offsets = b->at->tile_offsets,
                                     .slot_place = b->at->slot_place};
  plan_add_gemm(b->plan, name, label, gemm, rows, &tensors);
}

static moecl_status run_noise(void *user, ocl_chain *chain, const plan_call *call) {
  const op_noise_io io = {.num_tokens = call->num_tokens,
                          .seed = call->with.seed,
                          .first_token = call->with.first_token,
                          .logits = call->buffer[0],
                          .noise_logits = call->buffer[1]};
  return op_noise_enqueue(user, chain, &io);
}

static void build_logits(layer_builder *b) {
  const moecl_layer *layer = b->layer;
  const int64_t tokens = b->plan->num_tokens;
  const int input = layer->params.jitter > 0 ? b->at->router_input
                    : layer->has_convert     ? b->at->hidden_f32
                                             : b->at->hidden_states;
  build_gemm(b, "logits", MOECL_STAGE_ROUTER, layer->logits, tokens, input, b->at->logits);
  if (!layer->noise) return;
  build_gemm(b, "noise_logits", MOECL_STAGE_ROUTER, layer->noise, tokens, input,
             b->at->noise_logits);
  const plan_step step = {.name = "noise",
                          .operation = "noise",
                          .label = MOECL_STAGE_ROUTER,
                          .launches = 1,
                          .enqueue = run_noise,
                          .user = (void *)&layer->add_noise};
  const int tensors[] = {b->at->logits, b->at->noise_logits};
  plan_add_step(b->plan, &step, tensors, BASE_COUNT(tensors));
}

/* What router and permutation read and write, in the same places in all their steps. */
enum {
  ROUTE_LOGITS,
  ROUTE_CORRECTION,
  ROUTE_IDS,
  ROUTE_WEIGHTS,
  ROUTE_BLOCK_COUNTS,
  ROUTE_TOKENS_PER_EXPERT,
  ROUTE_EXPERT_OFFSETS,
  ROUTE_TILE_OFFSETS,
  ROUTE_ALL_OFFSETS,
  ROUTE_SLOT_TOKEN,
  ROUTE_ASSIGNMENT_SLOT,
  ROUTE_ORDER,
  ROUTE_PRIORITY,
  ROUTE_KEPT_WEIGHTS,
  ROUTE_HIDDEN,
  ROUTE_COUNT
};

static op_router_io router_io(const plan_call *call) {
  return (op_router_io){.num_tokens = call->num_tokens,
                        .seed = call->with.seed,
                        .first_token = call->with.first_token,
                        .logits = call->buffer[ROUTE_LOGITS],
                        .correction_bias = call->buffer[ROUTE_CORRECTION],
                        .topk_ids = call->buffer[ROUTE_IDS],
                        .topk_weights = call->buffer[ROUTE_WEIGHTS],
                        .block_counts = call->buffer[ROUTE_BLOCK_COUNTS]};
}

static op_permute_io permute_io(const plan_call *call) {
  return (op_permute_io){.num_tokens = call->num_tokens,
                         .logits = call->buffer[ROUTE_LOGITS],
                         .topk_ids = call->buffer[ROUTE_IDS],
                         .topk_weights = call->buffer[ROUTE_WEIGHTS],
                         .block_counts = call->buffer[ROUTE_BLOCK_COUNTS],
                         .tokens_per_expert = call->buffer[ROUTE_TOKENS_PER_EXPERT],
                         .expert_offsets = call->buffer[ROUTE_EXPERT_OFFSETS],
                         .tile_offsets = call->buffer[ROUTE_TILE_OFFSETS],
                         .all_offsets = call->buffer[ROUTE_ALL_OFFSETS],
                         .slot_token = call->buffer[ROUTE_SLOT_TOKEN],
                         .assignment_slot = call->buffer[ROUTE_ASSIGNMENT_SLOT],
                         .order = call->buffer[ROUTE_ORDER],
                         .token_priority = call->buffer[ROUTE_PRIORITY],
                         .kept_weights = call->buffer[ROUTE_KEPT_WEIGHTS],
                         .tile_m = (uint32_t)call->number};
}

static moecl_status run_router(void *user, ocl_chain *chain, const plan_call *call) {
  const op_router_io io = router_io(call);
  return op_router_enqueue(user, chain, &io);
}
static moecl_status run_router_permuted(void *user, ocl_chain *chain, const plan_call *call) {
  const op_router_io io = router_io(call);
  const op_permute_io permute = permute_io(call);
  return op_router_enqueue_permuted(user, chain, &io, &permute);
}
static moecl_status run_route(void *user, ocl_chain *chain, const plan_call *call) {
  const op_route_io io = {.hidden_states = call->buffer[ROUTE_HIDDEN],
                          .router = router_io(call),
                          .permute = permute_io(call)};
  return op_route_enqueue(user, chain, &io);
}
static moecl_status run_permute(void *user, ocl_chain *chain, const plan_call *call) {
  const op_permute_io io = permute_io(call);
  return op_permute_enqueue(user, chain, &io);
}
static moecl_status run_counted(void *user, ocl_chain *chain, const plan_call *call) {
  const op_permute_io io = permute_io(call);
  return op_permute_enqueue_counted(user, chain, &io);
}
static moecl_status run_kept_weights(void *user, ocl_chain *chain, const plan_call *call) {
  const op_permute_io io = permute_io(call);
  return op_permute_enqueue_weights(user, chain, &io);
}

/* Adds a step of router, permutation or both; `used` has a bit for each place that it
 * reads or writes. */
static void build_route(layer_builder *b, plan_step step, uint32_t used) {
  const layer_tensors *at = b->at;
  int tensors[ROUTE_COUNT] = {[ROUTE_LOGITS] = at->logits,
                              [ROUTE_CORRECTION] = at->correction_bias,
                              [ROUTE_IDS] = at->topk_ids,
                              [ROUTE_WEIGHTS] = at->topk_weights,
                              [ROUTE_BLOCK_COUNTS] = at->block_counts,
                              [ROUTE_TOKENS_PER_EXPERT] = at->tokens_per_expert,
                              [ROUTE_EXPERT_OFFSETS] = at->expert_offsets,
                              [ROUTE_TILE_OFFSETS] = at->tile_offsets,
                              [ROUTE_ALL_OFFSETS] = at->all_offsets,
                              [ROUTE_SLOT_TOKEN] = at->slot_token,
                              [ROUTE_ASSIGNMENT_SLOT] = at->assignment_slot,
                              [ROUTE_ORDER] = at->order,
                              [ROUTE_PRIORITY] = at->token_priority,
                              [ROUTE_KEPT_WEIGHTS] = at->kept_weights,
                              [ROUTE_HIDDEN] = at->hidden_states};
  for (int i = 0; i < ROUTE_COUNT; i++)
    if (!(used & 1u << i)) tensors[i] = PLAN_NONE;
  step.number = op_gemm_tile_rows(b->layer->gate_up, b->plan->num_tokens * b->layer->params.top_k);
  plan_add_step(b->plan, &step, tensors, ROUTE_COUNT);
}

enum {
  USES_CHOICE = 1 << ROUTE_LOGITS | 1 << ROUTE_CORRECTION | 1 << ROUTE_IDS | 1 << ROUTE_WEIGHTS,
  USES_LISTS = 1 << ROUTE_IDS | 1 << ROUTE_TOKENS_PER_EXPERT | 1 << ROUTE_EXPERT_OFFSETS |
               1 << ROUTE_TILE_OFFSETS | 1 << ROUTE_ALL_OFFSETS | 1 << ROUTE_SLOT_TOKEN |
               1 << ROUTE_ASSIGNMENT_SLOT,
  USES_COUNTS = 1 << ROUTE_BLOCK_COUNTS
};

static plan_step router_step(const layer_builder *b) {
  return (plan_step){.name = "router",
                     .operation = "router",
                     .variant = b->layer->variant[LAYER_ROUTER]->name,
                     .label = MOECL_STAGE_ROUTER,
                     .launches = 1,
                     .enqueue = run_router,
                     .user = (void *)&b->layer->router};
}

static plan_step permute_step(const layer_builder *b) {
  return (plan_step){.name = "permute",
                     .operation = "permute",
                     .variant = b->layer->variant[LAYER_PERMUTE]->name,
                     .label = MOECL_STAGE_PERMUTE,
                     .launches = b->layer->permute.driver->launches,
                     .enqueue = run_permute,
                     .user = (void *)&b->layer->permute};
}

void layer_build_routing_at_once(layer_builder *b) {
  const plan_step step = {.name = "route",
                          .operation = "route",
                          .variant = b->layer->route.variant->name,
                          .label = MOECL_STAGE_ROUTER,
                          .launches = 1,
                          .enqueue = run_route,
                          .user = (void *)&b->layer->route};
  build_route(b, step, USES_CHOICE | USES_LISTS | 1 << ROUTE_HIDDEN);
}

void layer_build_fused_routing(layer_builder *b) {
  build_logits(b);
  plan_step step = router_step(b);
  step.name = "router_permute";
  step.enqueue = run_router_permuted;
  build_route(b, step, USES_CHOICE | USES_LISTS);
}

void layer_build_counted_routing(layer_builder *b) {
  build_logits(b);
  build_route(b, router_step(b), USES_CHOICE | USES_COUNTS);
  plan_step step = permute_step(b);
  step.enqueue = run_counted;
  step.launches = 1;
  build_route(b, step, USES_LISTS | USES_COUNTS);
}

void layer_build_choice(layer_builder *b) {
  build_logits(b);
  build_route(b, router_step(b),
              USES_CHOICE | (b->layer->router.driver->by_block ? USES_COUNTS : 0));
}

static moecl_status run_priorities(void *user, ocl_chain *chain, const plan_call *call) {
  const op_permute_io io = permute_io(call);
  return op_permute_enqueue_priorities(user, chain, &io);
}

void layer_build_priorities(layer_builder *b) {
  plan_step step = permute_step(b);
  if (!desc_prioritizes(&b->layer->dispatch)) return;
  step.name = "priorities";
  step.enqueue = run_priorities;
  step.launches = 1;
  build_route(b, step, 1 << ROUTE_LOGITS | 1 << ROUTE_PRIORITY);
}

/* With priorities that are made first, or are there already. */
static void build_permute(layer_builder *b, bool makes_priorities) {
  const desc_dispatch *dispatch = &b->layer->dispatch;
  plan_step step = permute_step(b);
  uint32_t used = USES_LISTS | USES_COUNTS;
  if (desc_selects(dispatch)) {
    used |= 1 << ROUTE_ORDER | 1 << ROUTE_WEIGHTS;
    step.launches++;
  }
  if (desc_prioritizes(dispatch)) used |= 1 << ROUTE_PRIORITY;
  if (desc_prioritizes(dispatch) && makes_priorities) {
    used |= 1 << ROUTE_LOGITS;
    step.launches++;
  }
  build_route(b, step, used);
}

void layer_build_lists(layer_builder *b) {
  build_permute(b, false);
  if (b->layer->params.renormalize_after_capacity) layer_build_kept_weights(b);
}

void layer_build_routing(layer_builder *b) {
  layer_build_choice(b);
  build_permute(b, true);
}

void layer_build_kept_weights(layer_builder *b) {
  plan_step step = permute_step(b);
  step.name = "kept_weights";
  step.enqueue = run_kept_weights;
  step.launches = 1;
  build_route(b, step, 1 << ROUTE_WEIGHTS | 1 << ROUTE_ASSIGNMENT_SLOT | 1 << ROUTE_KEPT_WEIGHTS);
}

/* What the experts' inputs or outputs are multiplied by. */
static int route_weights(const layer_builder *b) {
  return b->layer->params.renormalize_after_capacity ? b->at->kept_weights : b->at->topk_weights;
}

/* Hidden states as the experts read them. */
static int expert_input(const layer_builder *b) {
  return b->layer->rows != b->layer->stored ? b->at->hidden_f32 : b->at->hidden_states;
}

static moecl_status run_scale(void *user, ocl_chain *chain, const plan_call *call) {
  const op_scale_io io = {.num_tokens = call->num_tokens,
                          .hidden = call->buffer[0],
                          .assignment_slot = call->buffer[1],
                          .topk_weights = call->buffer[2],
                          .scaled = call->buffer[3]};
  return op_scale_enqueue(user, chain, &io);
}

void layer_build_scaled_rows(layer_builder *b) {
  const plan_step step = {.name = "scale_rows",
                          .operation = "scale_rows",
                          .label = MOECL_STAGE_PERMUTE,
                          .launches = 1,
                          .enqueue = run_scale,
                          .user = (void *)&b->layer->scale};
  const int tensors[] = {expert_input(b), b->at->assignment_slot, route_weights(b), b->at->scaled};
  plan_add_step(b->plan, &step, tensors, BASE_COUNT(tensors));
}

static moecl_status run_quantize(void *user, ocl_chain *chain, const plan_call *call) {
  const op_quantize_io io = {
      .rows = call->number, .input = call->buffer[0], .output = call->buffer[1]};
  return op_quantize_enqueue(user, chain, &io);
}

static void explain_quantize(const void *user, int64_t number, char *text, size_t size) {
  const op_quantize_desc *desc = &((const op_quantize *)user)->desc;
  (void)number;
  if (desc->output == desc->codes) snprintf(text, size, "%s codes, then scales", desc->codes->name);
  else
    snprintf(text, size, "what %s codes mean, as %s: these GEMMs multiply no codes",
             desc->codes->name, desc->output->name);
}

/* Rows as the experts' GEMMs read them: quantized in a step, where the layer has that. Returns
 * which tensor they are in. */
static int build_quantized(layer_builder *b, const char *name, moecl_stage label,
                           const op_quantize *quantize, int rows, int quantized) {
  const plan_step step = {.name = name,
                          .operation = "quantize",
                          .variant = quantize->variant ? quantize->variant->name : NULL,
                          .label = label,
                          .launches = 1,
                          .enqueue = run_quantize,
                          .explain = explain_quantize,
                          .user = (void *)quantize,
                          .number = (int64_t)b->plan->tensor[rows].rows};
  const int tensors[] = {rows, quantized};
  if (!b->layer->quantized) return rows;
  plan_add_step(b->plan, &step, tensors, BASE_COUNT(tensors));
  return quantized;
}

/* The hidden states of all tokens, which every expert reads. */
static int build_quantized_hidden(layer_builder *b) {
  return build_quantized(b, "quantize_hidden", MOECL_STAGE_GATE_UP, &b->layer->quantize_hidden,
                         expert_input(b), b->at->hidden_quantized);
}

static int build_quantized_activated(layer_builder *b) {
  return build_quantized(b, "quantize_inner", MOECL_STAGE_DOWN, &b->layer->quantize_inner,
                         b->at->activated, b->at->activated_quantized);
}

static moecl_status run_gate(void *user, ocl_chain *chain, const plan_call *call) {
  const op_gate_io io = {
      .num_tokens = call->num_tokens, .hidden_states = call->buffer[0], .output = call->buffer[1]};
  return op_gate_enqueue(user, chain, &io);
}

static void build_shared(layer_builder *b, int input) {
  const moecl_layer *layer = b->layer;
  const int64_t tokens = b->plan->num_tokens;
  if (!layer->shared_gate_up) return;
  build_gemm(b, "shared_gate_up", MOECL_STAGE_SHARED, layer->shared_gate_up, tokens, input,
             b->at->shared_activated);
  const int activated =
      build_quantized(b, "quantize_shared", MOECL_STAGE_SHARED, &layer->quantize_shared,
                      b->at->shared_activated, b->at->shared_quantized);
  build_gemm(b, "shared_down", MOECL_STAGE_SHARED, layer->shared_down, tokens, activated,
             b->at->shared_output);
  if (!layer->has_gate) return;
  const plan_step step = {.name = "shared_gate",
                          .operation = "gate",
                          .label = MOECL_STAGE_SHARED,
                          .launches = 1,
                          .enqueue = run_gate,
                          .user = (void *)&layer->gate};
  const int tensors[] = {b->at->hidden_states, b->at->shared_gate};
  plan_add_step(b->plan, &step, tensors, BASE_COUNT(tensors));
}

enum { FEW_INPUT, FEW_OUTPUT, FEW_IDS, FEW_WEIGHTS, FEW_SHARED, FEW_SHARED_GATE };

static void explain_few_tokens(const void *user, int64_t number, char *text, size_t size) {
  (void)user, (void)number;
  snprintf(text, size, "few tokens: weights streamed once a choice");
}

static moecl_status run_few_tokens(void *user, ocl_chain *chain, const plan_call *call) {
  const op_gemm_few_tokens_io io = {.input = call->buffer[FEW_INPUT],
                                    .output = call->buffer[FEW_OUTPUT],
                                    .topk_ids = call->buffer[FEW_IDS],
                                    .topk_weights = call->buffer[FEW_WEIGHTS],
                                    .shared = call->buffer[FEW_SHARED],
                                    .shared_gate = call->buffer[FEW_SHARED_GATE],
                                    .num_tokens = call->num_tokens,
                                    .top_k = call->number};
  return op_gemm_enqueue_few_tokens(user, chain, &io);
}

static moecl_status prepare_few_tokens(void *user, int64_t number, bool *anew) {
  (void)number;
  return op_gemm_prepare_few_tokens(user, anew);
}

static void build_few_tokens(layer_builder *b, const char *name, moecl_stage label,
                             const op_gemm *gemm, int input, int output) {
  const bool combines = label == MOECL_STAGE_DOWN;
  const bool shared = combines && b->layer->shared_gate_up;
  const plan_step step = {.name = name,
                          .operation = "grouped_gemm",
                          .variant = op_gemm_variant(gemm)->name,
                          .label = label,
                          .launches = 1,
                          .enqueue = run_few_tokens,
                          .explain = explain_few_tokens,
                          .prepare = prepare_few_tokens,
                          .user = (void *)gemm,
                          .number = b->layer->params.top_k,
                          .kernel = OP_GEMM_FEW_TOKENS};
  const int tensors[] = {[FEW_INPUT] = input,
                         [FEW_OUTPUT] = output,
                         [FEW_IDS] = b->at->topk_ids,
                         [FEW_WEIGHTS] = combines ? b->at->topk_weights : PLAN_NONE,
                         [FEW_SHARED] = shared ? b->at->shared_output : PLAN_NONE,
                         [FEW_SHARED_GATE] =
                             shared && b->layer->has_gate ? b->at->shared_gate : PLAN_NONE};
  plan_add_step(b->plan, &step, tensors, BASE_COUNT(tensors));
}

/* The experts and the combination in two launches; with a shared expert two or three more. */
void layer_build_few_tokens_experts(layer_builder *b) {
  const int input = build_quantized_hidden(b);
  build_few_tokens(b, "gate_up", MOECL_STAGE_GATE_UP, b->layer->gate_up, input, b->at->activated);
  build_shared(b, input);
  const int activated = build_quantized_activated(b);
  build_few_tokens(b, "down", MOECL_STAGE_DOWN, b->layer->down, activated, b->at->output);
}

static moecl_status run_combine(void *user, ocl_chain *chain, const plan_call *call) {
  const op_combine_io io = {.num_tokens = call->num_tokens,
                            .expert_output = call->buffer[0],
                            .assignment_slot = call->buffer[1],
                            .topk_weights = call->buffer[2],
                            .shared = call->buffer[3],
                            .shared_gate = call->buffer[4],
                            .hidden_states = call->buffer[5],
                            .expert_offsets = call->buffer[6],
                            .output = call->buffer[7]};
  return op_combine_enqueue(user, chain, &io);
}

void layer_build_combine(layer_builder *b) {
  const moecl_layer *layer = b->layer;
  const layer_tensors *at = b->at;
  const bool identity = layer->params.num_identity_experts > 0;
  const plan_step step = {.name = "combine",
                          .operation = "combine",
                          .variant = layer->variant[LAYER_COMBINE]->name,
                          .label = MOECL_STAGE_COMBINE,
                          .launches = 1,
                          .enqueue = run_combine,
                          .user = (void *)&layer->combine};
  const int tensors[] = {at->expert_output,
                         at->assignment_slot,
                         route_weights(b),
                         layer->shared_gate_up ? at->shared_output : PLAN_NONE,
                         layer->has_gate ? at->shared_gate : PLAN_NONE,
                         identity ? at->hidden_states : PLAN_NONE,
                         identity ? at->expert_offsets : PLAN_NONE,
                         at->output};
  plan_add_step(b->plan, &step, tensors, BASE_COUNT(tensors));
}

/* The shared expert comes first: what it needs in between is then free for the rest. Returns what
 * the experts read, unless their rows are weighted. */
static int build_apart(layer_builder *b) {
  const bool scales = b->layer->params.weight_on_input;
  const int input = scales && !b->layer->shared_gate_up ? PLAN_NONE : build_quantized_hidden(b);
  build_shared(b, input);
  return input;
}

/* The rows that the experts read: `input`, or weighted ones. */
static int build_weighted(layer_builder *b, int input) {
  if (!b->layer->params.weight_on_input) return input;
  layer_build_scaled_rows(b);
  return build_quantized(b, "quantize_scaled", MOECL_STAGE_GATE_UP, &b->layer->quantize_hidden,
                         b->at->scaled, b->at->scaled_quantized);
}

void layer_build_experts(layer_builder *b) {
  const int64_t slots = b->plan->num_tokens * b->layer->params.top_k;
  const int input = build_weighted(b, build_apart(b));
  layer_build_expert_gemms(b, "gate_up", "down", input, slots);
  layer_build_combine(b);
}

/* ---- experts that are brought from the host's memory ---- */

/* The same in two launches, by places instead of experts. */
void layer_build_few_tokens_brought(layer_builder *b) {
  layer_tensors at = *b->at;
  layer_builder placed = {b->layer, b->plan, &at};
  b->at->cuts.at_once = true;
  b->at->cuts.routed = b->plan->num_steps;
  const int input = build_apart(b);
  b->at->cuts.apart = b->at->cuts.first = b->at->cuts.end = b->plan->num_steps;
  at.topk_ids = at.round_list;
  build_few_tokens(&placed, "gate_up", MOECL_STAGE_GATE_UP, b->layer->gate_up, input, at.activated);
  const int activated = build_quantized_activated(&placed);
  build_few_tokens(&placed, "down", MOECL_STAGE_DOWN, b->layer->down, activated, at.output);
}

static moecl_status run_moved_slots(void *user, ocl_chain *chain, const plan_call *call) {
  const op_rounds_io io = {.num_tokens = call->num_tokens,
                           .topk_ids = call->buffer[0],
                           .assignment_slot = call->buffer[1],
                           .list = call->buffer[2],
                           .moved_slot = call->buffer[3],
                           .moved_token = call->buffer[4]};
  return op_rounds_enqueue_slots(user, chain, &io);
}

static moecl_status run_round_offsets(void *user, ocl_chain *chain, const plan_call *call) {
  return op_rounds_enqueue_offsets(user, chain, (size_t)call->with.round, call->buffer[0],
                                   call->buffer[1], call->buffer[2]);
}

static void build_rounds_step(layer_builder *b, const char *name, plan_enqueue_fn enqueue,
                              const int *tensors, size_t count) {
  const plan_step step = {.name = name,
                          .operation = "rounds",
                          .label = MOECL_STAGE_PERMUTE,
                          .launches = 1,
                          .enqueue = enqueue,
                          .user = (void *)&b->layer->rounds};
  plan_add_step(b->plan, &step, tensors, count);
}

/* Slots are moved so that a round's experts lie by their places: to the GEMMs each place is an
 * expert, one without rows where its expert is not of the round. */
void layer_build_rounds(layer_builder *b) {
  layer_tensors at = *b->at;
  layer_builder moved = {b->layer, b->plan, &at};
  layer_cuts *cuts = &b->at->cuts;
  const int64_t slots = b->plan->num_tokens * b->layer->params.top_k;
  const int lists[] = {at.topk_ids, at.assignment_slot, at.round_list, at.moved_slot,
                       at.moved_token};
  const int offsets[] = {at.round_list, at.round_offsets, at.round_tiles};
  cuts->at_once = false;
  cuts->routed = b->plan->num_steps;
  int input = build_apart(b);
  cuts->apart = b->plan->num_steps;
  build_rounds_step(b, "move_slots", run_moved_slots, lists, BASE_COUNT(lists));
  at.assignment_slot = at.moved_slot;
  at.slot_token = at.moved_token;
  input = build_weighted(&moved, input);
  cuts->first = b->plan->num_steps;
  build_rounds_step(b, "round_offsets", run_round_offsets, offsets, BASE_COUNT(offsets));
  at.expert_offsets = at.round_offsets;
  at.tile_offsets = at.round_tiles;
  layer_build_expert_gemms(&moved, "gate_up", "down", input, slots);
  cuts->end = b->plan->num_steps;
  plan_repeat(b->plan, cuts->first, cuts->end);
  at.expert_offsets = b->at->expert_offsets;
  layer_build_combine(&moved);
}

/* ---- parts of a layer, for plans of others ---- */

void layer_add_tensors(layer_builder *b, uint64_t slots) {
  add_router_tensors(b);
  add_permute_tensors(b);
  add_expert_tensors(b, slots);
}

void layer_build_shared(layer_builder *b) {
  if (b->layer->shared_gate_up) build_shared(b, build_quantized_hidden(b));
}

int layer_build_expert_rows(layer_builder *b) {
  const moecl_layer *layer = b->layer;
  if (layer->rows != layer->stored) layer_build_convert(b);
  if (!layer->params.weight_on_input) return build_quantized_hidden(b);
  layer_build_scaled_rows(b);
  return build_quantized(b, "quantize_scaled", MOECL_STAGE_GATE_UP, &layer->quantize_hidden,
                         b->at->scaled, b->at->scaled_quantized);
}

void layer_build_expert_gemms(layer_builder *b, const char *gate_up, const char *down, int input,
                              int64_t slots) {
  const moecl_layer *layer = b->layer;
  build_gemm(b, gate_up, MOECL_STAGE_GATE_UP, layer->gate_up, slots, input, b->at->activated);
  const int activated = build_quantized_activated(b);
  build_gemm(b, down, MOECL_STAGE_DOWN, layer->down, slots, activated, b->at->expert_output);
}

/* ---- the plan ---- */

static void take_paths(layer_builder *b) {
  const char *taken = NULL; /* the part that has its row */
  for (const layer_path *path = layer_paths; path->part; path++) {
    if (path->part == taken) continue;
    if (path->applies && !path->applies(b->layer, b->plan->num_tokens)) continue;
    taken = path->part;
    plan_add_choice(b->plan, path->part, path->name, path->why);
    if (path->build) path->build(b);
  }
}

void layer_append(const moecl_layer *layer, plan *plan, int hidden_states, int output,
                  layer_tensors *at) {
  layer_builder b = {layer, plan, at};
  at->hidden_states = hidden_states;
  at->output = output;
  layer_add_tensors(&b, (uint64_t)plan->num_tokens * (uint64_t)layer->params.top_k);
  if (layer_offloads(layer)) add_round_tensors(&b);
  take_paths(&b);
}

void layer_plan_build(const moecl_layer *layer, int64_t num_tokens, layer_plan *built) {
  const uint64_t tokens = (uint64_t)num_tokens, hidden = (uint64_t)layer->params.hidden_size;
  plan *p = &built->plan;
  plan_begin(p, num_tokens, 0, layer->context->address_align);
  const int input = plan_add(p, MOECL_LIFE_INPUT, "hidden_states", layer->stored, tokens, hidden);
  const int output = plan_add(p, MOECL_LIFE_OUTPUT, "output", layer->stored, tokens, hidden);
  layer_append(layer, p, input, output, &built->at);
  plan_arrange(p);
}

static void build(const void *owner, int64_t num_tokens, int key, plan *plan) {
  (void)key;
  layer_plan_build(owner, num_tokens, (layer_plan *)plan);
}

plan_builder layer_plans(const moecl_layer *layer) {
  return (plan_builder){sizeof(layer_plan), build, layer};
}

moecl_status layer_plan_for(moecl_layer *layer, int64_t num_tokens, layer_plan **found) {
  const plan_builder plans = layer_plans(layer);
  return plan_space_plan(&layer->space, layer->context, &plans, num_tokens, 0, (plan **)found);
}

void layer_bind(const moecl_layer *layer, const layer_tensors *at, const moecl_buffer **bound) {
  if (at->correction_bias != PLAN_NONE) bound[at->correction_bias] = layer->correction_bias;
}
