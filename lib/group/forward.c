// SPDX-License-Identifier: MIT
/* One forward of a group's layer: all members route, their choices get to all (choices.c), all make
 * the lists of the whole batch, rows go to the experts and come back, all combine. A rank runs its
 * own members; between the steps all ranks agree that nobody has failed. */
#include "base/base.h"
#include "group/group.h"
#include "plan/profile.h"
#include <stdlib.h>
#include <string.h>

static moecl_status agree(const moecl_group_layer *layer, moecl_status status) {
  return ranks_agree(layer->group->ranks, status, "group_forward");
}

/* Behind what is on the queues of members on CPUs: their kernels want the processor that looks for
 * other ranks would take. A forward without tokens waits for nothing. */
static moecl_status agree_when_idle(const moecl_group_layer *layer, moecl_status status) {
  const moecl_group *group = layer->group;
  const bool waits = group->ranks && group_batch_of(layer) > 0;
  for (int m = group->begin; waits && status == MOECL_OK && m < group->end; m++)
    if (group_context_of(layer, m)->info.type == MOECL_DEVICE_CPU)
      status = moecl_context_finish_wait(group_context_of(layer, m));
  return agree(layer, status);
}

ocl_chain group_chain_of(moecl_group_layer *layer, int m, moecl_stage label, const char *step) {
  plan_watch *watch = &layer->member[m].watch;
  return (ocl_chain){.context = group_context_of(layer, m),
                     .observer = watch->profile || watch->keeps ? &watch->observer : NULL,
                     .label = label,
                     .step = step};
}

/* ---- what a forward begins with ---- */

static moecl_status check_member(const moecl_group_layer *layer, int m,
                                 const moecl_group_tokens *tokens) {
  moecl_context *context = group_context_of(layer, m);
  const moecl_layer *share = layer->member[m].share;
  MOECL_TRY(log_check_reserved(&context->log, "moecl_group_tokens", tokens->reserved,
                               BASE_COUNT(tokens->reserved)));
  if (share->missing > 0)
    return log_error(&context->log, MOECL_ERROR_NOT_READY,
                     "group_forward: %lld of member %d's weight items were not set",
                     (long long)share->missing, m);
  if (tokens->profile)
    MOECL_TRY(ocl_check_owner(context, tokens->profile->context, "group_forward: the profile"));
  if (tokens->num_tokens < 0 || tokens->num_tokens > MOECL_MAX_ASSIGNMENTS)
    return log_error(&context->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "group_forward: member %d has %lld tokens, expected 0 or more, and together "
                     "no more than a layer takes",
                     m, (long long)tokens->num_tokens);
  if (tokens->num_tokens == 0) return MOECL_OK;
  const uint64_t bytes = desc_format_bytes(share->stored, (uint64_t)tokens->num_tokens,
                                           (uint64_t)layer->params.hidden_size);
  MOECL_TRY(
      plan_check_buffer(context, tokens->hidden_states, "group_forward: hidden_states", bytes));
  MOECL_TRY(plan_check_buffer(context, tokens->output, "group_forward: output", bytes));
  return plan_check_apart(context, tokens->hidden_states, tokens->output, NULL);
}

static moecl_status check(const moecl_group_layer *layer,
                          const moecl_group_forward_params *params) {
  const moecl_log *log = group_log(layer->group);
  if (!params || !params->tokens)
    return log_error(log, MOECL_ERROR_INVALID_ARGUMENT, "group_forward: params or tokens is NULL");
  MOECL_TRY(log_check_reserved(log, "moecl_group_forward_params", params->reserved,
                               BASE_COUNT(params->reserved)));
  for (int m = layer->group->begin; m < layer->group->end; m++)
    MOECL_TRY(check_member(layer, m, &params->tokens[m - layer->group->begin]));
  return MOECL_OK;
}

/* Every rank finds the same of all members. */
static moecl_status check_batch(const group_run *run) {
  const moecl_group *group = run->layer->group;
  const moecl_log *log = group_log(group);
  int64_t batch = 0;
  for (int m = 0; m < group->count; m++) {
    if (run->of[m].seed != run->of[0].seed)
      return log_error(log, MOECL_ERROR_INVALID_ARGUMENT,
                       "group_forward: rank %d's seed is %llu, rank 0's %llu; a forward has one",
                       group->device[m].rank, (unsigned long long)run->of[m].seed,
                       (unsigned long long)run->of[0].seed);
    batch += run->of[m].num_tokens;
  }
  return layer_check_tokens(group_context_of(run->layer, group->begin), &run->layer->params, batch);
}

static moecl_status announce(group_run *run) {
  const moecl_group *group = run->layer->group;
  for (int m = group->begin; m < group->end; m++)
    run->of[m] = (group_announcement){group_tokens_of(run, m)->num_tokens, run->params->seed};
  MOECL_TRY(group_share(group, run->of, sizeof *run->of));
  return check_batch(run);
}

/* Copies of CPUs take the processors that kernels want. */
static bool overlaps(const moecl_group_layer *layer) {
  bool all_on_cpus = true;
  for (int m = 0; m < layer->group->count; m++) all_on_cpus &= layer->member[m].trait.on_cpu != 0;
  return layer->group->transport->overlaps && !all_on_cpus;
}

/* Rows of quantized numbers are made of all activated ones at a time. Otherwise parts pay where
 * rows travel beside kernels and what comes back takes long beside a
 * launch. */
static int32_t choose_chunks(const moecl_group_layer *layer) {
  enum { AUTO_CHUNKS = 4, WORTH_BYTES = 4 << 20 };
  const int64_t members = layer->group->count;
  if (layer->member[0].trait.quantized || members == 1) return 1;
  int32_t chunks = layer->asked_chunks;
  if (chunks == 0) {
    const int64_t rows = group_batch_of(layer) * layer->params.top_k / members;
    const uint64_t bytes = layer->member[0].trait.output_row_bytes;
    const bool worth = overlaps(layer) && (uint64_t)rows * bytes >= WORTH_BYTES;
    chunks = worth ? AUTO_CHUNKS : 1;
  }
  return chunks * members > OP_DISPATCH_MOST_BINS ? 1 : chunks;
}

static bool grow(void **memory, size_t bytes) {
  void *grown = realloc(*memory, bytes);
  if (grown) *memory = grown;
  return grown;
}

/* Host memory for the batch. Nothing of an earlier forward reads it any more: its lists were
 * waited for. */
static moecl_status make_room(moecl_group_layer *layer) {
  const int64_t tokens = group_batch_of(layer) + 1, members = layer->group->count;
  const int64_t starts = (members + 1) * members * layer->chunks * 2 * members;
  const size_t all = (size_t)tokens * (size_t)layer->params.top_k;
  bool ok = true;
  if (tokens > layer->tokens_room) {
    const size_t sources = 2 * (size_t)(tokens + members + 1);
    ok = grow((void **)&layer->topk_ids, all * sizeof *layer->topk_ids) &&
         grow((void **)&layer->topk_weights, all * sizeof *layer->topk_weights) &&
         grow((void **)&layer->token_priority, (size_t)tokens * sizeof(float)) &&
         grow((void **)&layer->sources, sources * sizeof *layer->sources);
    layer->tokens_room = ok ? tokens : 0;
  }
  if (ok && starts > layer->starts_room) {
    ok = grow((void **)&layer->starts, (size_t)starts * sizeof *layer->starts);
    layer->starts_room = ok ? starts : 0;
  }
  return ok ? MOECL_OK
            : log_error(group_log(layer->group), MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
}

static moecl_status start(group_run *run) {
  moecl_group_layer *layer = run->layer;
  const int members = layer->group->count;
  for (int m = 0; m < members; m++) {
    layer->tokens[m] = run->of[m].num_tokens;
    layer->first[m + 1] = layer->first[m] + layer->tokens[m];
    layer->member[m].statistics = (moecl_group_statistics){0};
  }
  for (int m = layer->group->begin; m < layer->group->end; m++)
    plan_watch_begin(&layer->member[m].watch, group_tokens_of(run, m)->profile,
                     run->params->measured);
  layer->chunks = choose_chunks(layer);
  const op_dispatch *dispatch = &group_own(layer)->dispatch;
  layer->blocks = op_dispatch_blocks(dispatch, layer->tokens);
  MOECL_TRY(make_room(layer));
  run->blocks = calloc((size_t)(GROUP_CHOICES * members * members), sizeof *run->blocks);
  return run->blocks
             ? MOECL_OK
             : log_error(group_log(layer->group), MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
}

moecl_status group_provide_plan(moecl_group_layer *layer, int m, int which, const plan *plan) {
  group_member *member = &layer->member[m];
  moecl_context *context = group_context_of(layer, m);
  MOECL_TRY(group_provide(context, plan_workspace_bytes(plan), &member->workspace[which]));
  return plan_space_provide(&member->space[which], context, plan, member->workspace[which]);
}

/* ---- waiting ---- */

cl_event *group_await_later(group_run *run, int m) {
  group_awaited *awaited = &run->awaited[m];
  cl_event *event = &awaited->event[awaited->count++];
  *event = NULL;
  return event;
}

static moecl_status await(group_run *run, int m) {
  group_awaited *awaited = &run->awaited[m];
  moecl_status status = MOECL_OK;
  for (int i = 0; i < awaited->count; i++) {
    if (status == MOECL_OK && awaited->event[i])
      status = ocl_event_await(group_context_of(run->layer, m), awaited->event[i]);
    ocl_event_let_go(&awaited->event[i]);
  }
  awaited->count = 0;
  return status;
}

/* ---- each member's part, in a thread of its own ---- */

typedef moecl_status member_step(group_run *run, int member);

typedef struct member_call {
  group_run *run;
  member_step *step;
  moecl_status status[MOECL_MAX_GROUP_MEMBERS];
  log_kept said[MOECL_MAX_GROUP_MEMBERS];
} member_call;

/* Callbacks are for the caller's thread: until all are back, what they are to be told is kept. */
static void do_part(void *user, int part) {
  member_call *call = user;
  const int m = call->run->layer->group->begin + part;
  moecl_context *context = group_context_of(call->run->layer, m);
  const moecl_log log = context->log;
  context->log = log_keeping(&call->said[part]);
  call->status[part] = call->step(call->run, m);
  context->log = log;
}

/* All members of this process take the step, whatever becomes of others'; of several that fail the
 * first one's status counts. */
static moecl_status on_members(group_run *run, member_step *step) {
  const moecl_group *group = run->layer->group;
  const int count = group->end - group->begin;
  moecl_status status = MOECL_OK;
  member_call call = {.run = run, .step = step};
  base_team_run(group->team, count, do_part, &call);
  for (int i = 0; i < count; i++) {
    log_hand_on(&call.said[i], &group->device[group->begin + i].context->log);
    if (status == MOECL_OK) status = call.status[i];
  }
  return status;
}

/* ---- exchanges, by members' parts or as a whole ---- */

static bool has_parts(const group_run *run) { return run->layer->group->transport->begin_part; }
static bool has_whole(const group_run *run) { return run->layer->group->transport->begin; }

/* What one member sends to another in an exchange; returns how many blocks that is. */
typedef size_t block_lister(const group_run *run, int from, int to, int chunk, group_block *blocks);

/* In the member's thread: what it sends, and what comes to it from other processes. */
static moecl_status begin_own(group_run *run, int m, block_lister *list, int chunk) {
  const moecl_group *group = run->layer->group;
  group_block *blocks = &run->blocks[m * GROUP_CHOICES * group->count];
  size_t count = 0;
  if (!has_parts(run)) return MOECL_OK;
  for (int other = 0; other < group->count; other++) {
    if (other != m) count += list(run, m, other, chunk, &blocks[count]);
    if (!group_has(group, other)) count += list(run, other, m, chunk, &blocks[count]);
  }
  return group->transport->begin_part(group->state, m, blocks, count, &run->observer);
}

/* In the caller's thread, behind all members'. */
static moecl_status begin_whole(group_run *run, block_lister *list, int chunk) {
  const moecl_group *group = run->layer->group;
  size_t count = 0;
  if (!has_whole(run)) return MOECL_OK;
  for (int from = 0; from < group->count; from++)
    for (int to = 0; to < group->count; to++)
      if (from != to) count += list(run, from, to, chunk, &run->blocks[count]);
  return group->transport->begin(group->state, run->blocks, count, &run->observer);
}

/* What comes next follows the rows of exchanges up to that one; -1: the choices. */
static moecl_status finish_own(group_run *run, int m, int exchange) {
  const moecl_group *group = run->layer->group;
  return has_parts(run) ? group->transport->finish_part(group->state, m, run->before + exchange)
                        : MOECL_OK;
}

static moecl_status finish_whole(group_run *run, int exchange) {
  const moecl_group *group = run->layer->group;
  return has_whole(run) ? group->transport->finish(group->state, run->before + exchange) : MOECL_OK;
}

/* ---- routing, at home ---- */

static void bind_home(const group_run *run, int m, const moecl_buffer **bound) {
  const group_member *member = &run->layer->member[m];
  const layer_tensors *at = &member->home.at;
  bound[at->hidden_states] = group_tokens_of(run, m)->hidden_states;
  bound[at->output] = group_tokens_of(run, m)->output;
  layer_bind(member->share, at, bound);
}

static plan_numbers home_numbers(const group_run *run, int m) {
  return (plan_numbers){.seed = run->params->seed,
                        .first_token = (uint64_t)run->layer->first[m],
                        .chosen_rows = group_batch_of(run->layer)};
}

static moecl_status choose(group_run *run, int m) {
  moecl_group_layer *layer = run->layer;
  group_member *member = &layer->member[m];
  const moecl_group_tokens *tokens = group_tokens_of(run, m);
  const moecl_buffer *bound[PLAN_MOST_TENSORS] = {0};
  const plan_numbers with = home_numbers(run, m);
  ocl_chain chain = group_chain_of(layer, m, MOECL_STAGE_ROUTER, NULL);
  chain.waits = tokens->wait_list;
  chain.num_waits = tokens->wait_count;
  if (tokens->num_tokens == 0) return ocl_chain_order(&chain);
  MOECL_TRY(group_plan_home(layer, m));
  const group_home_plan *home = &member->home;
  MOECL_TRY(group_provide_plan(layer, m, GROUP_HOME, &home->plan));
  bind_home(run, m, bound);
  moecl_buffer *const *blocks = member->space[GROUP_HOME].blocks;
  return plan_run_steps(&home->plan, 0, home->routed, &chain, blocks, bound, &with);
}

/* With the choices on their way. */
static moecl_status route_member(group_run *run, int m) {
  const moecl_group_layer *layer = run->layer;
  MOECL_TRY(choose(run, m));
  if (layer->group->ranks) return layer->tokens[m] ? group_read_choices(run, m) : MOECL_OK;
  if (group_batch_of(layer) == 0) return MOECL_OK;
  MOECL_TRY(group_copy_choices(run, m));
  return begin_own(run, m, group_list_choices, 0);
}

/* The shared expert comes behind the choice, and is done while choices and rows are on their way.
 */
static moecl_status run_shared(group_run *run, int m) {
  moecl_group_layer *layer = run->layer;
  const group_home_plan *home = &layer->member[m].home;
  const moecl_buffer *bound[PLAN_MOST_TENSORS] = {0};
  const plan_numbers with = home_numbers(run, m);
  ocl_chain chain = group_chain_of(layer, m, MOECL_STAGE_ROUTER, NULL);
  if (layer->tokens[m] == 0 || home->routed == home->shared) return MOECL_OK;
  bind_home(run, m, bound);
  MOECL_TRY(plan_run_steps(&home->plan, home->routed, home->shared, &chain,
                           layer->member[m].space[GROUP_HOME].blocks, bound, &with));
  return ocl_chain_end(&chain, NULL);
}

static moecl_status share_member(group_run *run, int m) {
  MOECL_TRY(run_shared(run, m));
  return await(run, m);
}

/* Without any tokens members wait for what they were to wait for all the same. */
static moecl_status route_all(group_run *run) {
  const moecl_group *group = run->layer->group;
  MOECL_TRY(announce(run));
  MOECL_TRY(start(run));
  if (group_batch_of(run->layer) > 0) MOECL_TRY(group_provide_choices(run->layer));
  run->before = !group->ranks && group_batch_of(run->layer) > 0;
  MOECL_TRY(on_members(run, route_member));
  if (run->before) MOECL_TRY(begin_whole(run, group_list_choices, 0));
  const bool shares = run->layer->params.shared_intermediate_size > 0;
  return shares || group->ranks ? on_members(run, share_member) : MOECL_OK;
}

/* ---- lists, on every member those of the whole batch ---- */

static moecl_status run_lists(group_run *run, int m) {
  moecl_group_layer *layer = run->layer;
  group_member *member = &layer->member[m];
  const group_lists_plan *lists = &member->lists;
  const moecl_buffer *bound[PLAN_MOST_TENSORS] = {0};
  const plan_numbers with = {0};
  ocl_chain chain = group_chain_of(layer, m, MOECL_STAGE_PERMUTE, NULL);
  bound[lists->at.topk_ids] = member->topk_ids;
  bound[lists->at.topk_weights] = member->topk_weights;
  bound[lists->at.token_priority] = member->token_priority;
  bound[lists->placement] = member->placement;
  bound[lists->sources] = member->sources;
  return plan_run(&lists->plan, &chain, member->space[GROUP_LISTS].blocks, bound, &with);
}

/* The weights of this member's tokens, as combine reads them: from the start of a buffer. */
static moecl_status keep_weights(moecl_group_layer *layer, int m) {
  group_member *member = &layer->member[m];
  const uint64_t row = (uint64_t)layer->params.top_k * sizeof(float);
  const uint64_t bytes = (uint64_t)layer->tokens[m] * row;
  if (!layer->params.renormalize_after_capacity || bytes == 0) return MOECL_OK;
  MOECL_TRY(group_provide(group_context_of(layer, m), bytes, &member->kept_weights));
  return ocl_buffer_copy(group_list_of(member, member->lists.at.kept_weights),
                         (uint64_t)layer->first[m] * row, member->kept_weights, 0, bytes);
}

static int64_t numbers_of_starts(const moecl_group_layer *layer) {
  const int64_t members = layer->group->count;
  return (members + 1) * members * layer->chunks * 2;
}

/* The host waits for the lists, to know how many rows go where; on the member's own queue, as a
 * lane would begin to read some 50 us later. */
static moecl_status list_member(group_run *run, int m) {
  moecl_group_layer *layer = run->layer;
  group_member *member = &layer->member[m];
  const int64_t count = numbers_of_starts(layer);
  if (run->before) MOECL_TRY(finish_own(run, m, -1));
  MOECL_TRY(group_plan_lists(layer, m));
  MOECL_TRY(group_provide_plan(layer, m, GROUP_LISTS, &member->lists.plan));
  MOECL_TRY(group_send_choices(run, m));
  MOECL_TRY(run_lists(run, m));
  MOECL_TRY(keep_weights(layer, m));
  MOECL_TRY(ocl_queue_read(group_list_of(member, member->lists.starts), (uint64_t)count * 4,
                           layer->starts + (m - layer->group->begin) * count,
                           group_await_later(run, m)));
  return await(run, m);
}

/* ---- there ---- */

/* Others wait for whatever is begun: what that takes is there before they count on it. */
static moecl_status reserve(moecl_group_layer *layer, int m) {
  const group_transport *transport = layer->group->transport;
  const int bins = layer->group->count * layer->chunks;
  const uint64_t in = layer->member[m].trait.hidden_row_bytes;
  const uint64_t out = layer->member[m].trait.output_row_bytes;
  const uint64_t sent = (uint64_t)group_before_bin(layer, m, bins, GROUP_ROWS);
  const uint64_t returned = (uint64_t)group_before_bin(layer, m, bins, GROUP_SLOTS);
  if (!transport->reserve) return MOECL_OK;
  return transport->reserve(layer->group->state, m, sent * in + (uint64_t)layer->slots[m] * out,
                            (uint64_t)layer->rows[m] * in + returned * out);
}

/* A member's tokens, off to their experts. */
static moecl_status send_member(group_run *run, int m) {
  MOECL_TRY(group_provide_rows(run->layer, m));
  MOECL_TRY(group_gather_tokens(run, m));
  for (int c = 0; c < run->layer->chunks; c++) MOECL_TRY(begin_own(run, m, group_list_tokens, c));
  return MOECL_OK;
}

static moecl_status send_chunk(group_run *run, int chunk) {
  run->begun++;
  return begin_whole(run, group_list_tokens, chunk);
}

/* ---- the experts ---- */

/* Rows that came as codes, of chunks from `first` on and before `end`, are numbers again. */
static moecl_status unpack(group_run *run, int m, int first, int end) {
  moecl_group_layer *layer = run->layer;
  group_member *member = &layer->member[m];
  ocl_chain chain = group_chain_of(layer, m, MOECL_STAGE_GATE_UP, "unpack");
  const int64_t row = group_before_chunk(layer, m, first, GROUP_ROWS),
                behind = group_before_chunk(layer, m, end, GROUP_ROWS);
  if (!layer->sent_codes) return MOECL_OK;
  return op_pack_enqueue_back(&member->hidden_pack, &chain, member->received, member->unpacked,
                              (uint64_t)row, (uint64_t)(behind - row));
}

/* Steps of a member's experts from `first` on and before `end`; `places`: where outputs go to that
 * down scatters. */
static moecl_status run_experts(group_run *run, int m, int first, int end,
                                const op_places *places) {
  moecl_group_layer *layer = run->layer;
  group_member *member = &layer->member[m];
  const group_experts_plan *experts = &member->experts;
  const group_lists_plan *lists = &member->lists;
  const moecl_buffer *bound[PLAN_MOST_TENSORS] = {0};
  const plan_numbers with = {.chosen_rows = group_chosen_rows(layer, m), .places = places};
  ocl_chain chain = group_chain_of(layer, m, MOECL_STAGE_GATE_UP, NULL);
  bound[experts->at.hidden_states] = layer->sent_codes ? member->unpacked : member->received;
  bound[experts->at.slot_token] = group_list_of(member, lists->slot_row);
  if (member->share->scatters)
    bound[experts->at.slot_place] = group_list_of(member, lists->returns);
  if (layer->params.weight_on_input) {
    bound[experts->at.assignment_slot] = group_list_of(member, lists->received_slot);
    bound[experts->at.topk_weights] = group_list_of(member, lists->received_weight);
  }
  for (int c = 0; c < layer->chunks; c++) {
    bound[experts->chunk_offsets[c]] = group_list_of(member, lists->chunk_offsets[c]);
    bound[experts->chunk_tiles[c]] = group_list_of(member, lists->chunk_tiles[c]);
  }
  return plan_run_steps(&experts->plan, first, end, &chain, member->space[GROUP_EXPERTS].blocks,
                        bound, &with);
}

static moecl_status return_chunk(group_run *run, int chunk) {
  run->begun++;
  return begin_whole(run, group_list_outputs, chunk);
}

/* Rows are converted, or get their weights, all at once: then all of them have to be there. */
static bool prepares(const group_run *run, int m) {
  return run->layer->slots[m] > 0 && run->layer->member[m].experts.prepared > 0;
}

static moecl_status prepare_member(group_run *run, int m) {
  const int chunks = run->layer->chunks;
  if (!prepares(run, m)) return MOECL_OK;
  MOECL_TRY(finish_own(run, m, chunks - 1));
  MOECL_TRY(unpack(run, m, 0, chunks));
  return run_experts(run, m, 0, run->layer->member[m].experts.prepared, NULL);
}

/* The chunk's experts, and their outputs to where they go. */
static moecl_status make_outputs(group_run *run, int m, int chunk) {
  const group_member *member = &run->layer->member[m];
  const group_experts_plan *experts = &member->experts;
  const int first = chunk ? experts->chunk_end[chunk - 1] : experts->prepared;
  group_parts parts = {.reach = false};
  if (member->share->scatters) group_place_outputs(run, m, chunk, &parts);
  MOECL_TRY(run_experts(run, m, first, experts->chunk_end[chunk], &parts.places));
  return member->share->scatters ? MOECL_OK : group_gather_outputs(run, m, chunk);
}

static moecl_status compute_chunk(group_run *run, int m, int chunk) {
  const group_experts_plan *experts = &run->layer->member[m].experts;
  MOECL_TRY(finish_own(run, m, chunk));
  if (run->layer->slots[m] > 0) {
    if (experts->prepared == 0) MOECL_TRY(unpack(run, m, chunk, chunk + 1));
    MOECL_TRY(make_outputs(run, m, chunk));
  }
  return begin_own(run, m, group_list_outputs, chunk);
}

static moecl_status compute_one(group_run *run, int m) { return compute_chunk(run, m, run->chunk); }

/* One after the other: nobody has to wait for the others' threads. */
static moecl_status compute_member(group_run *run, int m) {
  MOECL_TRY(prepare_member(run, m));
  for (int c = 0; c < run->layer->chunks; c++) MOECL_TRY(compute_chunk(run, m, c));
  return MOECL_OK;
}

static moecl_status compute_in_turns(group_run *run) {
  const moecl_group *group = run->layer->group;
  const int chunks = run->layer->chunks;
  bool prepare = false;
  for (int m = group->begin; m < group->end; m++) prepare |= prepares(run, m);
  if (prepare) MOECL_TRY(finish_whole(run, chunks - 1));
  if (prepare) MOECL_TRY(on_members(run, prepare_member));
  for (int c = 0; c < chunks; c++) {
    MOECL_TRY(finish_whole(run, c));
    run->chunk = c;
    MOECL_TRY(on_members(run, compute_one));
    MOECL_TRY(return_chunk(run, c));
  }
  return MOECL_OK;
}

/* ---- back home ---- */

static moecl_status combine(group_run *run, int m, moecl_event **event) {
  moecl_group_layer *layer = run->layer;
  group_member *member = &layer->member[m];
  const group_home_plan *home = &member->home;
  const moecl_buffer *bound[PLAN_MOST_TENSORS] = {0};
  const plan_numbers with = home_numbers(run, m);
  ocl_chain chain = group_chain_of(layer, m, MOECL_STAGE_COMBINE, NULL);
  chain.waited = group_tokens_of(run, m)->wait_list; /* a failure of those is the event's, too */
  chain.num_waited = group_tokens_of(run, m)->wait_count;
  if (layer->tokens[m] > 0) {
    bind_home(run, m, bound);
    bound[home->at.expert_output] = member->returned;
    bound[home->at.assignment_slot] = group_list_of(member, member->lists.home_slot);
    bound[home->at.expert_offsets] = group_list_of(member, member->lists.home_rows);
    bound[home->at.kept_weights] = member->kept_weights;
    MOECL_TRY(plan_run_steps(&home->plan, home->shared, home->plan.num_steps, &chain,
                             member->space[GROUP_HOME].blocks, bound, &with));
  }
  return ocl_chain_end(&chain, event);
}

static moecl_status combine_member(group_run *run, int m) {
  const int chunks = run->layer->chunks;
  for (int c = 0; group_batch_of(run->layer) > 0 && c < chunks; c++)
    MOECL_TRY(finish_own(run, m, chunks + c));
  return combine(run, m, run->events ? &run->events[m - run->layer->group->begin] : NULL);
}

/* ---- all of it ---- */

/* How many rows go where. */
static moecl_status count_all(group_run *run) {
  moecl_group_layer *layer = run->layer;
  const moecl_group *group = layer->group;
  op_dispatch_write_sources(&group_own(layer)->dispatch, layer->tokens, layer->sources);
  if (run->before) MOECL_TRY(finish_whole(run, -1));
  MOECL_TRY(on_members(run, list_member));
  for (int m = group->begin; m < group->end; m++) layer->member[m].sources_written = true;
  MOECL_TRY(group_add_up(layer));
  group_count_rows(layer);
  return MOECL_OK;
}

/* All ranks: up to the rows that are to be sent, and with the memory for those that come. */
static moecl_status list_all(group_run *run, moecl_status status) {
  moecl_group_layer *layer = run->layer;
  const moecl_group *group = layer->group;
  if (status == MOECL_OK) status = count_all(run);
  MOECL_TRY(group_provide_row_arrivals(layer, status));
  group_count_work(layer);
  for (int m = group->begin; m < group->end; m++) MOECL_TRY(group_provide_row_sources(layer, m));
  for (int m = group->begin; m < group->end; m++) MOECL_TRY(reserve(layer, m));
  return on_members(run, send_member);
}

static moecl_status exchange_all(group_run *run) {
  const int chunks = run->layer->chunks;
  for (int c = 0; c < chunks; c++) MOECL_TRY(send_chunk(run, c));
  MOECL_TRY(has_whole(run) ? compute_in_turns(run) : on_members(run, compute_member));
  for (int c = 0; c < chunks; c++) MOECL_TRY(finish_whole(run, chunks + c));
  return MOECL_OK;
}

/* Others wait for rows of this rank, which has failed: they get some, and then hear of it. */
static void let_others_end(group_run *run) {
  const moecl_group *group = run->layer->group;
  const int chunks = run->layer->chunks;
  if (!group->transport->fail) return;
  group->transport->fail(group->state);
  while (run->begun < chunks) (void)send_chunk(run, run->begun);
  while (run->begun < 2 * chunks) (void)return_chunk(run, run->begun - chunks);
  group->transport->settle(group->state);
}

static moecl_status run_all(group_run *run) {
  moecl_group_layer *layer = run->layer;
  moecl_status status = MOECL_OK;
  MOECL_TRY(agree_when_idle(layer, route_all(run)));
  if (group_batch_of(layer) > 0) {
    status = group_gather_choices(layer);
    MOECL_TRY(agree_when_idle(layer, list_all(run, status)));
    status = exchange_all(run);
    if (status != MOECL_OK) let_others_end(run);
    if (layer->group->shares) MOECL_TRY(agree(layer, status)); /* outputs: node.c, 4 */
  }
  if (status == MOECL_OK) status = on_members(run, combine_member);
  return agree_when_idle(layer, status);
}

static void copied(group_observer *observer, int member, cl_event event) {
  group_run *run = (group_run *)((char *)observer - offsetof(group_run, observer));
  pthread_mutex_lock(&run->observes);
  plan_watch_copy(&run->layer->member[member].watch, event);
  pthread_mutex_unlock(&run->observes);
}

/* After a failure nothing may use the host's memory any more, and no plan be read. */
static void stop(group_run *run) {
  moecl_group_layer *layer = run->layer;
  const int begin = layer->group->begin;
  for (int m = begin; m < layer->group->end; m++) {
    (void)moecl_context_finish_wait(
        group_context_of(layer, m)); /* others write what its lists read */
    ocl_lane_finish(&layer->group->device[m].out);
    ocl_lane_finish(&layer->group->device[m].in);
  }
  layer->group->transport->settle(layer->group->state); /* threads of its read what plans have */
  for (int m = begin; m < layer->group->end; m++) {
    for (int i = 0; i < GROUP_PLANS; i++) plan_space_forget(&layer->member[m].space[i]);
    if (run->events) moecl_event_destroy(&run->events[m - begin]);
  }
  layer->ran = false;
}

moecl_status moecl_group_layer_forward(moecl_group_layer *layer,
                                       const moecl_group_forward_params *params,
                                       moecl_event **events) {
  if (!layer) return MOECL_ERROR_INVALID_ARGUMENT;
  const moecl_group *group = layer->group;
  for (int m = group->begin; events && m < group->end; m++) events[m - group->begin] = NULL;
  MOECL_TRY(agree(layer, check(layer, params)));
  group_run run = {.layer = layer, .params = params, .events = events, .observer = {copied}};
  pthread_mutex_init(&run.observes, NULL);
  group->transport->settle(group->state);
  if (group->transport->open) group->transport->open(group->state);
  const moecl_status status = run_all(&run);
  layer->ran = status == MOECL_OK;
  if (status != MOECL_OK) stop(&run);
  for (int m = group->begin; m < group->end; m++) {
    for (int i = 0; i < run.awaited[m].count; i++) ocl_event_let_go(&run.awaited[m].event[i]);
    ocl_event_let_go(&run.routed[m]);
    layer->member[m].watch.profile = NULL; /* the caller's again */
  }
  free(run.blocks);
  pthread_mutex_destroy(&run.observes);
  return status;
}
