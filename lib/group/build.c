// SPDX-License-Identifier: MIT
/* Plans of a member's part of a forward: the layer's own steps, and dispatch between them. */
#include "base/base.h"
#include "group/group.h"
#include <string.h>

static const moecl_layer *share_of(const moecl_group_layer *layer, int member) {
  return layer->member[member].share;
}

static int add_ints(plan *plan, moecl_life life, const char *name, uint64_t count) {
  return plan_add(plan, life, name, &desc_int32, 1, count);
}

int64_t group_chosen_rows(const moecl_group_layer *layer, int member) {
  const int64_t all = layer->first[layer->group->count] * layer->params.top_k;
  const int64_t own = layer->placement.owned[member], experts = layer->placement.num_experts;
  const int64_t rows = (int64_t)base_div_up((uint64_t)all * (uint64_t)own, (uint64_t)experts);
  return rows > 0 ? rows : 1;
}

/* Is the plan not yet the one for these numbers? Then the workspace is not cut for it either. */
static bool is_new(group_plan_key *key, plan_space *space, const int64_t *numbers) {
  const bool same = key->made && memcmp(key->numbers, numbers, sizeof key->numbers) == 0;
  if (same) return false;
  plan_space_forget(space);
  memcpy(key->numbers, numbers, sizeof key->numbers);
  key->made = true;
  return true;
}

static moecl_status check_plan(const moecl_group_layer *layer, int m, const plan *plan,
                               group_plan_key *key) {
  if (!plan->overflows) return MOECL_OK;
  key->made = false;
  return log_error(&layer->group->device[m].context->log, MOECL_ERROR_UNSUPPORTED,
                   "the plan has more steps or tensors than moecl has room for");
}

/* ---- home: a member's tokens ---- */

static void build_home(const moecl_group_layer *layer, int m, group_home_plan *built) {
  const moecl_layer *share = share_of(layer, m);
  const uint64_t tokens = (uint64_t)layer->tokens[m], hidden = (uint64_t)share->params.hidden_size;
  const uint64_t top_k = (uint64_t)share->params.top_k;
  plan *p = &built->plan;
  layer_builder b = {share, p, &built->at};
  plan_begin(p, layer->tokens[m], 0, share->context->address_align);
  layer_add_tensors(&b, 0);
  built->at.hidden_states =
      plan_add(p, MOECL_LIFE_INPUT, "hidden_states", share->stored, tokens, hidden);
  built->at.output = plan_add(p, MOECL_LIFE_OUTPUT, "output", share->stored, tokens, hidden);
  if (share->params.jitter > 0) layer_build_jitter(&b);
  else if (share->has_convert) layer_build_convert(&b);
  layer_build_choice(&b);
  layer_build_priorities(&b);
  built->routed = p->num_steps;
  layer_build_shared(&b);
  built->shared = p->num_steps;
  built->at.expert_output = plan_add(p, MOECL_LIFE_INPUT, "returned", share->outputs, 0, hidden);
  built->at.assignment_slot =
      plan_add(p, MOECL_LIFE_INPUT, "home_slot", &desc_int32, tokens, top_k);
  built->at.expert_offsets = add_ints(p, MOECL_LIFE_INPUT, "home_rows", 0);
  built->at.kept_weights =
      plan_add(p, MOECL_LIFE_INPUT, "kept_weights", desc_format_of(MOECL_F32), tokens, top_k);
  layer_build_combine(&b);
  plan_arrange(p);
}

moecl_status group_plan_home(moecl_group_layer *layer, int m) {
  group_member *member = &layer->member[m];
  const int64_t numbers[GROUP_PLAN_NUMBERS] = {layer->tokens[m]};
  if (is_new(&member->home.key, &member->space[GROUP_HOME], numbers))
    build_home(layer, m, &member->home);
  return check_plan(layer, m, &member->home.plan, &member->home.key);
}

/* ---- lists: the batch's ---- */

enum {
  LIST_IDS,
  LIST_SLOTS,
  LIST_OFFSETS,
  LIST_WEIGHTS,
  LIST_PLACEMENT,
  LIST_SOURCES,
  LIST_BINS,
  LIST_COUNTS,
  LIST_STARTS,
  LIST_OWN_OFFSETS,
  LIST_OWN_TILES,
  LIST_SLOT_ROW,
  LIST_RETURNS,
  LIST_SEND_TOKEN,
  LIST_HOME_SLOT,
  LIST_HOME_ROWS,
  LIST_RECEIVED_SLOT,
  LIST_RECEIVED_WEIGHT,
  LIST_COUNT
};

/* The step's number has all three: the kernels' arguments are 31 bits, of which tiles take few. */
static int64_t pack_numbers(int32_t blocks, int32_t chunks, int64_t tile_rows) {
  return tile_rows << 40 | (int64_t)blocks << 8 | chunks;
}

static moecl_status run_dispatch(void *user, ocl_chain *chain, const plan_call *call) {
  const op_dispatch_io io = {.num_tokens = call->num_tokens,
                             .num_blocks = (int32_t)(call->number >> 8 & INT32_MAX),
                             .chunks = (int32_t)(call->number & 255),
                             .tile_rows = (int32_t)(call->number >> 40),
                             .topk_ids = call->buffer[LIST_IDS],
                             .assignment_slot = call->buffer[LIST_SLOTS],
                             .expert_offsets = call->buffer[LIST_OFFSETS],
                             .topk_weights = call->buffer[LIST_WEIGHTS],
                             .placement = call->buffer[LIST_PLACEMENT],
                             .sources = call->buffer[LIST_SOURCES],
                             .bins = call->buffer[LIST_BINS],
                             .counts = call->buffer[LIST_COUNTS],
                             .starts = call->buffer[LIST_STARTS],
                             .own_offsets = call->buffer[LIST_OWN_OFFSETS],
                             .own_tiles = call->buffer[LIST_OWN_TILES],
                             .slot_row = call->buffer[LIST_SLOT_ROW],
                             .returns = call->buffer[LIST_RETURNS],
                             .send_token = call->buffer[LIST_SEND_TOKEN],
                             .home_slot = call->buffer[LIST_HOME_SLOT],
                             .home_rows = call->buffer[LIST_HOME_ROWS],
                             .received_slot = call->buffer[LIST_RECEIVED_SLOT],
                             .received_weight = call->buffer[LIST_RECEIVED_WEIGHT]};
  return op_dispatch_enqueue(user, chain, &io);
}

static void add_list_tensors(const moecl_group_layer *layer, int m, group_lists_plan *built) {
  const op_dispatch_desc *desc = &layer->member[m].dispatch.desc;
  plan *p = &built->plan;
  const uint64_t members = (uint64_t)layer->group->count, chunks = (uint64_t)layer->chunks;
  const uint64_t pairs = 2 * members * chunks, top_k = (uint64_t)desc->top_k;
  const uint64_t all = (uint64_t)p->num_tokens * top_k, own = (uint64_t)desc->own;
  const uint64_t tokens = (uint64_t)layer->tokens[m];
  const moecl_life saved = MOECL_LIFE_SAVED, temporary = MOECL_LIFE_TEMPORARY;
  const uint64_t weighted = desc->weighted ? all : 1;
  built->placement = add_ints(p, MOECL_LIFE_INPUT, "placement", 0);
  built->sources = add_ints(p, MOECL_LIFE_INPUT, "sources", 0);
  built->bins = add_ints(p, temporary, "bins", all);
  built->counts = add_ints(p, temporary, "bin_counts", (uint64_t)layer->blocks * pairs);
  built->starts = add_ints(p, saved, "bin_starts", (members + 1) * pairs);
  built->own_offsets = add_ints(p, saved, "own_offsets", own + 1);
  built->own_tiles = add_ints(p, saved, "own_tiles", own + 1);
  built->slot_row = add_ints(p, saved, "slot_row", all);
  built->returns = add_ints(p, saved, "returns", all);
  built->send_token = add_ints(p, saved, "send_token", tokens * members + 1);
  built->home_slot = add_ints(p, saved, "home_slot", tokens * top_k + 1);
  built->home_rows = add_ints(p, saved, "home_rows", (uint64_t)desc->num_experts + 1);
  built->received_slot = add_ints(p, saved, "received_slot", weighted);
  built->received_weight = add_ints(p, saved, "received_weight", weighted);
}

static int64_t list_tile_rows(const moecl_group_layer *layer, int m) {
  return op_gemm_tile_rows(share_of(layer, m)->gate_up, group_chosen_rows(layer, m));
}

static void build_dispatch(const moecl_group_layer *layer, int m, group_lists_plan *built,
                           int weights) {
  const layer_tensors *at = &built->at;
  const op_dispatch *dispatch = &layer->member[m].dispatch;
  const plan_step step = {.name = "dispatch",
                          .operation = "dispatch",
                          .label = MOECL_STAGE_PERMUTE,
                          .launches = OP_DISPATCH_LAUNCHES,
                          .enqueue = run_dispatch,
                          .user = (void *)dispatch,
                          .number =
                              pack_numbers(layer->blocks, layer->chunks, list_tile_rows(layer, m))};
  const int tensors[LIST_COUNT] = {[LIST_IDS] = at->topk_ids,
                                   [LIST_SLOTS] = at->assignment_slot,
                                   [LIST_OFFSETS] = at->expert_offsets,
                                   [LIST_WEIGHTS] = weights,
                                   [LIST_PLACEMENT] = built->placement,
                                   [LIST_SOURCES] = built->sources,
                                   [LIST_BINS] = built->bins,
                                   [LIST_COUNTS] = built->counts,
                                   [LIST_STARTS] = built->starts,
                                   [LIST_OWN_OFFSETS] = built->own_offsets,
                                   [LIST_OWN_TILES] = built->own_tiles,
                                   [LIST_SLOT_ROW] = built->slot_row,
                                   [LIST_RETURNS] = built->returns,
                                   [LIST_SEND_TOKEN] = built->send_token,
                                   [LIST_HOME_SLOT] = built->home_slot,
                                   [LIST_HOME_ROWS] = built->home_rows,
                                   [LIST_RECEIVED_SLOT] = built->received_slot,
                                   [LIST_RECEIVED_WEIGHT] = built->received_weight};
  plan_add_step(&built->plan, &step, tensors, LIST_COUNT);
}

static moecl_status run_chunk(void *user, ocl_chain *chain, const plan_call *call) {
  const int32_t chunk = (int32_t)(call->number & 15), chunks = (int32_t)(call->number >> 4 & 15);
  return op_dispatch_enqueue_chunk(user, chain, chunks, chunk, call->buffer[0], call->buffer[1],
                                   call->buffer[2], (uint32_t)(call->number >> 8));
}

static void build_chunks(const moecl_group_layer *layer, int m, group_lists_plan *built) {
  static const char *const names[MOECL_MAX_GROUP_CHUNKS] = {
      "chunk_0", "chunk_1", "chunk_2", "chunk_3", "chunk_4", "chunk_5", "chunk_6", "chunk_7"};
  const op_dispatch *dispatch = &layer->member[m].dispatch;
  const int64_t tile_rows = list_tile_rows(layer, m);
  const uint64_t own = (uint64_t)dispatch->desc.own;
  plan *p = &built->plan;
  if (layer->chunks == 1) { /* all of them */
    built->chunk_offsets[0] = built->own_offsets;
    built->chunk_tiles[0] = built->own_tiles;
    return;
  }
  for (int c = 0; c < layer->chunks; c++) {
    const plan_step step = {.name = names[c],
                            .operation = "dispatch",
                            .label = MOECL_STAGE_PERMUTE,
                            .launches = 1,
                            .enqueue = run_chunk,
                            .user = (void *)dispatch,
                            .number = tile_rows << 8 | (int64_t)layer->chunks << 4 | c};
    built->chunk_offsets[c] = add_ints(p, MOECL_LIFE_SAVED, "chunk_offsets", own + 1);
    built->chunk_tiles[c] = add_ints(p, MOECL_LIFE_SAVED, "chunk_tiles", own + 1);
    const int tensors[] = {built->own_offsets, built->chunk_offsets[c], built->chunk_tiles[c]};
    plan_add_step(p, &step, tensors, BASE_COUNT(tensors));
  }
}

static void build_lists(const moecl_group_layer *layer, int m, group_lists_plan *built) {
  const moecl_layer *share = share_of(layer, m);
  const int64_t batch = layer->first[layer->group->count];
  const uint64_t tokens = (uint64_t)batch, top_k = (uint64_t)share->params.top_k;
  plan *p = &built->plan;
  const desc_format *f32 = desc_format_of(MOECL_F32);
  layer_tensors *at = &built->at;
  layer_builder b = {share, p, at};
  plan_begin(p, batch, 0, share->context->address_align);
  layer_add_tensors(&b, 0);
  at->topk_ids = plan_add(p, MOECL_LIFE_INPUT, "topk_ids", &desc_int32, tokens, top_k);
  at->topk_weights = plan_add(p, MOECL_LIFE_INPUT, "topk_weights", f32, tokens, top_k);
  at->token_priority = plan_add(p, MOECL_LIFE_INPUT, "token_priority", f32, 1, tokens);
  at->kept_weights = plan_add(p, MOECL_LIFE_SAVED, "kept_weights", f32, tokens, top_k);
  layer_build_lists(&b);
  add_list_tensors(layer, m, built);
  build_dispatch(layer, m, built,
                 share->params.renormalize_after_capacity ? at->kept_weights : at->topk_weights);
  build_chunks(layer, m, built);
  plan_arrange(p);
}

moecl_status group_plan_lists(moecl_group_layer *layer, int m) {
  group_member *member = &layer->member[m];
  const int64_t numbers[GROUP_PLAN_NUMBERS] = {layer->first[layer->group->count], layer->tokens[m],
                                               layer->blocks, layer->chunks};
  if (is_new(&member->lists.key, &member->space[GROUP_LISTS], numbers))
    build_lists(layer, m, &member->lists);
  return check_plan(layer, m, &member->lists.plan, &member->lists.key);
}

/* ---- experts: rows that were received ---- */

/* Names of a chunk's steps; one chunk's are those of a layer. */
static const char *const gate_up_names[MOECL_MAX_GROUP_CHUNKS] = {
    "gate_up",   "gate_up_1", "gate_up_2", "gate_up_3",
    "gate_up_4", "gate_up_5", "gate_up_6", "gate_up_7"};
static const char *const down_names[MOECL_MAX_GROUP_CHUNKS] = {
    "down", "down_1", "down_2", "down_3", "down_4", "down_5", "down_6", "down_7"};

/* Routing differs from forward to forward, and to plan and to cut the workspace anew takes longer
 * than small forwards: the plan that is there serves as long as it is for enough rows and not for
 * many more. Kernels find the rows that there are by their offsets, but for what weighs rows: that
 * takes all. */
static int64_t planned_rows(const moecl_group_layer *layer, int64_t rows, int64_t made) {
  if (layer->params.weight_on_input) return rows;
  if (made >= rows && made <= rows + rows / 4 + 64) return made;
  const int64_t some_more = rows + rows / 16 + 16;
  return some_more <= MOECL_MAX_ASSIGNMENTS ? some_more : MOECL_MAX_ASSIGNMENTS;
}

static void build_experts(const moecl_group_layer *layer, int m, group_experts_plan *built) {
  const moecl_layer *share = share_of(layer, m);
  const int64_t rows = built->key.numbers[GROUP_ROWS], slots = built->key.numbers[GROUP_SLOTS];
  const uint64_t hidden = (uint64_t)share->params.hidden_size;
  const uint64_t own = (uint64_t)layer->placement.owned[m];
  layer_tensors *at = &built->at;
  plan *p = &built->plan;
  layer_builder b = {share, p, at};
  plan_begin(p, rows, 0, share->context->address_align);
  layer_add_tensors(&b, (uint64_t)slots);
  at->hidden_states =
      plan_add(p, MOECL_LIFE_INPUT, "received", share->stored, (uint64_t)rows, hidden);
  at->slot_token = add_ints(p, MOECL_LIFE_INPUT, "slot_row", (uint64_t)slots);
  at->assignment_slot = add_ints(p, MOECL_LIFE_INPUT, "received_slot", 0);
  at->topk_weights = at->kept_weights = add_ints(p, MOECL_LIFE_INPUT, "received_weight", 0);
  if (share->scatters) at->slot_place = add_ints(p, MOECL_LIFE_INPUT, "returns", (uint64_t)slots);
  else
    at->expert_output =
        plan_add(p, MOECL_LIFE_SAVED, "expert_output", share->outputs, (uint64_t)slots, hidden);
  const int input = layer_build_expert_rows(&b);
  built->prepared = p->num_steps;
  for (int c = 0; c < layer->chunks; c++) {
    at->expert_offsets = built->chunk_offsets[c] =
        add_ints(p, MOECL_LIFE_INPUT, "chunk_offsets", own + 1);
    at->tile_offsets = built->chunk_tiles[c] =
        add_ints(p, MOECL_LIFE_INPUT, "chunk_tiles", own + 1);
    layer_build_expert_gemms(&b, gate_up_names[c], down_names[c], input, slots);
    built->chunk_end[c] = p->num_steps;
  }
  plan_arrange(p);
}

int64_t group_planned_rows(const moecl_group_layer *layer, int m) {
  return planned_rows(layer, layer->rows[m], layer->member[m].experts.key.numbers[GROUP_ROWS]);
}

moecl_status group_plan_experts(moecl_group_layer *layer, int m) {
  group_member *member = &layer->member[m];
  const int64_t *made = member->experts.key.numbers;
  const int64_t numbers[GROUP_PLAN_NUMBERS] = {
      [GROUP_ROWS] = group_planned_rows(layer, m),
      [GROUP_SLOTS] = planned_rows(layer, layer->slots[m], made[GROUP_SLOTS]),
      layer->chunks};
  if (is_new(&member->experts.key, &member->space[GROUP_EXPERTS], numbers))
    build_experts(layer, m, &member->experts);
  return check_plan(layer, m, &member->experts.plan, &member->experts.key);
}
