// SPDX-License-Identifier: MIT
/* Do the transports between GPUs work here? Words from all to all, on queues of the trial's own.
 * All ranks go through the same steps and agree behind each: what one cannot do, none counts on. */
#include "group/nvidia_peer.h"
#include <stdlib.h>

#define TRIED_FOR_NS UINT64_C(2000000000)
enum { TRIED_WORDS = 1024 };

typedef struct trial {
  peer_state *state;
  moecl_buffer *sources[MOECL_MAX_GROUP_MEMBERS], *arrivals[MOECL_MAX_GROUP_MEMBERS];
  group_block *blocks;
  size_t count;
  group_observer *observer;
} trial;

static uint32_t tried_word(int turn, int member, uint32_t i) {
  return (((uint32_t)turn * MOECL_MAX_GROUP_MEMBERS + (uint32_t)member) * TRIED_WORDS + i) *
         2654435761u;
}

static void see_nothing(group_observer *observer, int member, cl_event event) {
  (void)observer, (void)member, (void)event;
}

static moecl_status make_late(const trial *trial, int m) {
  moecl_buffer **late = &trial->state->peer[m].late;
  const uint32_t in_time = 0;
  MOECL_TRY(moecl_buffer_create(peer_context(trial->state, m), sizeof in_time, late));
  return moecl_buffer_write_wait(*late, 0, sizeof in_time, &in_time);
}

/* All ranks. */
static moecl_status make_buffers(trial *trial) {
  const moecl_group *group = trial->state->group;
  const uint64_t bytes = TRIED_WORDS * sizeof(uint32_t);
  group_arrival arrivals[GROUP_MOST_ARRIVALS];
  moecl_status status = MOECL_OK;
  size_t count = 0;
  for (int m = group->begin; m < group->end && status == MOECL_OK; m++)
    status = make_late(trial, m);
  MOECL_TRY(ranks_agree(group->ranks, status, "group"));
  for (int m = 0; m < group->count; m++) {
    arrivals[count++] = (group_arrival){m, bytes, &trial->sources[m]};
    arrivals[count++] = (group_arrival){m, (uint64_t)group->count * bytes, &trial->arrivals[m]};
  }
  return peer_provide(trial->state, arrivals, count);
}

/* Those from and to own members. */
static void list_blocks(trial *trial) {
  const moecl_group *group = trial->state->group;
  const uint64_t bytes = TRIED_WORDS * sizeof(uint32_t);
  for (int from = 0; from < group->count; from++)
    for (int to = 0; to < group->count; to++)
      if (from != to && (group_has(group, from) || group_has(group, to)))
        trial->blocks[trial->count++] = (group_block){.from = from,
                                                      .to = to,
                                                      .source = trial->sources[from],
                                                      .destination = trial->arrivals[to],
                                                      .destination_offset = (uint64_t)from * bytes,
                                                      .bytes = bytes};
}

static moecl_status write_words(const trial *trial, int turn, int m) {
  uint32_t words[TRIED_WORDS];
  for (uint32_t i = 0; i < TRIED_WORDS; i++) words[i] = tried_word(turn, m, i);
  return moecl_buffer_write_wait(trial->sources[m], 0, sizeof words, words);
}

static moecl_status have_come(const trial *trial, int turn, int m, bool *came) {
  uint32_t words[TRIED_WORDS], late;
  MOECL_TRY(moecl_buffer_read_wait(trial->state->peer[m].late, 0, sizeof late, &late));
  *came = !late;
  for (int from = 0; from < trial->state->group->count && *came; from++) {
    if (from == m) continue;
    MOECL_TRY(moecl_buffer_read_wait(trial->arrivals[m], (uint64_t)from * sizeof words,
                                     sizeof words, words));
    for (uint32_t i = 0; i < TRIED_WORDS; i++) *came &= words[i] == tried_word(turn, from, i);
  }
  return MOECL_OK;
}

/* All by engines, or none. */
static moecl_status begin_words(const trial *trial, int turn, bool engines) {
  peer_state *state = trial->state;
  const moecl_group *group = state->group;
  for (int m = group->begin; m < group->end; m++) MOECL_TRY(write_words(trial, turn, m));
  for (int m = group->begin; m < group->end; m++)
    MOECL_TRY(peer_begin_by(state, engines, m, trial->blocks, trial->count, trial->observer));
  return MOECL_OK;
}

static moecl_status finish_words(const trial *trial, int turn, bool *came) {
  peer_state *state = trial->state;
  const moecl_group *group = state->group;
  const int exchange = state->peer[group->begin].begun - 1;
  for (int m = group->begin; m < group->end; m++) MOECL_TRY(peer_finish_part(state, m, exchange));
  *came = true;
  for (int m = group->begin; m < group->end && *came; m++)
    MOECL_TRY(have_come(trial, turn, m, came));
  return MOECL_OK;
}

/* All ranks: nobody enqueues what waits before all have enqueued what is waited for. */
static const char *send_words(const trial *trial, int turn, bool engines) {
  const peer_state *state = trial->state;
  bool came = false;
  moecl_status status =
      ranks_agree(state->group->ranks, begin_words(trial, turn, engines), "group");
  if (status == MOECL_OK) status = finish_words(trial, turn, &came);
  if (status != MOECL_OK) return peer_agree(state, "a copy into another member's memory failed");
  return peer_agree(
      state, came ? NULL : "words that were copied into another member's memory did not arrive");
}

static const char *try_all(peer_state *state, bool engines) {
  const size_t members = (size_t)state->group->count;
  group_observer observer = {see_nothing};
  trial trial = {.state = state,
                 .observer = &observer,
                 .blocks = calloc(members * members, sizeof *trial.blocks)};
  const char *why = peer_agree(state, trial.blocks ? NULL : "no host memory");
  moecl_status status = MOECL_OK;
  state->limit = TRIED_FOR_NS;
  if (!why) why = peer_make_sharers(state, engines);
  if (!why) status = peer_make_peers(state);
  if (!why && status == MOECL_OK) status = make_buffers(&trial);
  if (status != MOECL_OK) why = "memory of a member could not be had in another one's context";
  if (!why) list_blocks(&trial);
  if (!why) why = send_words(&trial, 0, false);
  if (!why && engines) why = send_words(&trial, 1, true);
  if (!why && engines) why = send_words(&trial, 2, false);
  free(trial.blocks);
  return why;
}

/* What fails is not yet an error. */
static const char *try_aside(peer_state *state, bool engines) {
  ocl_trial trials[MOECL_MAX_GROUP_MEMBERS];
  const moecl_group *group = state->group;
  const char *why = NULL;
  int entered = group->begin;
  while (entered < group->end && !why) {
    if (ocl_trial_enter(peer_context(state, entered), &trials[entered]) == MOECL_OK) entered++;
    else why = "a member has no queue for it";
  }
  why = peer_agree(state, why);
  if (!why) why = try_all(state, engines);
  peer_release(state); /* before its queues; the group is the caller's */
  while (entered-- > group->begin)
    ocl_trial_leave(group->device[entered].context, &trials[entered]);
  return why;
}

const char *peer_tried(const moecl_group *group, bool engines) {
  moecl_group copy = *group;
  const char *why = NULL;
  for (int m = group->begin; m < group->end; m++)
    if (!(group->device[m].context->info.capabilities & MOECL_CAP_PTX_SM80))
      why = "a member is no GPU of NVIDIA's (MOECL_CAP_PTX_SM80)";
  peer_state *state = why ? NULL : peer_make_state(&copy);
  if (!why && !state) why = "no host memory";
  if (ranks_all(group->ranks, !why)) return try_aside(state, engines);
  if (state) peer_release(state);
  return why ? why : GROUP_ELSEWHERE;
}
