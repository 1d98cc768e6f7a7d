// SPDX-License-Identifier: MIT
/* Memory that all members have in their contexts, those of other processes on the machine too: made
 * by its owner, exported, passed to other processes, and imported once for each own member. All
 * ranks have all of it, or none: they agree when what is theirs is made, before anybody waits for
 * descriptors, and again when all is imported. */
#include "base/grow.h"
#include "group/nvidia_peer.h"
#include <stdlib.h>

moecl_status peer_no_memory(const moecl_log *log) {
  return log_error(log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
}

/* ---- making ---- */

void peer_release_area(const peer_state *state, area *area) {
  const size_t members = (size_t)state->group->count;
  if (area->pieces > 1 && group_has(state->group, area->member)) moecl_buffer_destroy(&area->own);
  for (size_t i = 0; area->at && i < area->pieces * members; i++)
    moecl_buffer_destroy(&area->at[i]);
  for (size_t i = 0; area->mapped && i < area->pieces; i++) ocl_mapping_release(&area->mapped[i]);
  free(area->at);
  free(area->mapped);
  *area = (struct area){0};
}

/* All pieces of some areas, in order, as they are made and passed. */
typedef struct making {
  const peer_state *state;
  area *areas;
  size_t count;
  ocl_shared *shared;
  descriptor *passed;
  size_t pieces;
  int64_t first[MOECL_MAX_GROUP_MEMBERS + 1]; /* each rank's */
} making;

static moecl_status make_room(making *making) {
  const peer_state *state = making->state;
  const moecl_log *log = group_log(state->group);
  for (size_t i = 0; i < making->count; i++) {
    area *area = &making->areas[i];
    area->at = calloc(area->pieces * (size_t)state->group->count, sizeof *area->at);
    area->mapped = calloc(area->pieces, sizeof *area->mapped);
    if (!area->at || !area->mapped) return peer_no_memory(log);
  }
  making->shared = calloc(making->pieces, sizeof *making->shared);
  making->passed = calloc(making->pieces, sizeof *making->passed);
  if (!making->shared || !making->passed) return peer_no_memory(log);
  for (size_t i = 0; i < making->pieces; i++) making->shared[i].file = -1;
  return MOECL_OK;
}

static void count_pieces(making *making) {
  const peer_state *state = making->state;
  for (size_t i = 0; i < making->count; i++) {
    area *area = &making->areas[i];
    *area = (struct area){.member = area->member, .bytes = area->bytes, .pieces = 1};
    if (area->bytes > state->most) area->pieces = (size_t)base_div_up(area->bytes, state->most);
    making->pieces += area->pieces;
    making->first[state->group->device[area->member].rank + 1] = (int64_t)making->pieces;
  }
  for (int r = 0; r < ranks_count(state->group->ranks); r++) /* who makes none */
    if (making->first[r + 1] < making->first[r]) making->first[r + 1] = making->first[r];
}

static moecl_status create_own(making *making) {
  const peer_state *state = making->state;
  size_t at = 0;
  for (size_t i = 0; i < making->count; at += making->areas[i++].pieces) {
    const area *area = &making->areas[i];
    const uint64_t bytes = area->pieces == 1 ? area->bytes : state->most;
    if (!group_has(state->group, area->member)) continue;
    for (size_t p = 0; p < area->pieces; p++)
      MOECL_TRY(
          ocl_shared_create(state->peer[area->member].sharer, bytes, &making->shared[at + p]));
  }
  return MOECL_OK;
}

/* The other processes' get a file and a size here; what is the own ones' stays. */
static moecl_status pass(making *making) {
  const peer_state *state = making->state;
  const int own = ranks_own(state->group->ranks);
  const int64_t first = making->first[own], end = making->first[own + 1];
  for (int64_t i = first; i < end; i++)
    making->passed[i] = (descriptor){making->shared[i].file, making->shared[i].bytes};
  MOECL_TRY(descriptors_pass(state->descriptors, making->passed, making->first));
  for (int64_t i = 0; i < (int64_t)making->pieces; i++)
    if (i < first || i >= end)
      making->shared[i] =
          (ocl_shared){.bytes = making->passed[i].bytes, .file = making->passed[i].file};
  return MOECL_OK;
}

static moecl_status import_piece(const peer_state *state, const ocl_shared *shared, area *area,
                                 size_t piece) {
  const moecl_group *group = state->group;
  moecl_buffer **at = peer_piece(state, area, piece);
  for (int m = group->begin; m < group->end; m++)
    MOECL_TRY(ocl_shared_import(shared, peer_context(state, m), &at[m]));
  return state->engine[group->begin]
             ? ocl_mapping_create(state->engine, group->count, shared, &area->mapped[piece])
             : MOECL_OK;
}

static moecl_status import_all(making *making) {
  const peer_state *state = making->state;
  const moecl_group *group = state->group;
  size_t at = 0;
  for (size_t i = 0; i < making->count; i++) {
    area *area = &making->areas[i];
    const bool own = group_has(group, area->member);
    for (size_t p = 0; p < area->pieces; p++)
      MOECL_TRY(import_piece(state, &making->shared[at++], area, p));
    if (own && area->pieces > 1)
      MOECL_TRY(moecl_buffer_create(peer_context(state, area->member), area->bytes, &area->own));
    else area->own = peer_piece(state, area, 0)[own ? area->member : group->begin];
  }
  return MOECL_OK;
}

/* Whoever has imported a piece keeps it. */
static void end_making(making *making) {
  for (size_t i = 0; making->shared && making->passed && i < making->pieces; i++)
    ocl_shared_close(&making->shared[i]);
  free(making->shared);
  free(making->passed);
}

moecl_status peer_make_areas(const peer_state *state, moecl_status status, area *areas,
                             size_t count) {
  making making = {.state = state, .areas = areas, .count = count};
  group_ranks *ranks = state->group->ranks;
  count_pieces(&making);
  if (status == MOECL_OK) status = make_room(&making);
  if (status == MOECL_OK) status = create_own(&making);
  status = ranks_agree(ranks, status, "group");
  if (status == MOECL_OK) {
    if (ranks) status = pass(&making);
    if (status == MOECL_OK) status = import_all(&making);
    status = ranks_agree(ranks, status, "group");
  }
  end_making(&making);
  for (size_t i = 0; i < count && status != MOECL_OK; i++) peer_release_area(state, &areas[i]);
  return status;
}

/* ---- buffers that rows arrive in, or leave from ---- */

area *peer_find_area(const peer_state *state, const moecl_buffer *buffer) {
  for (size_t i = 0; i < state->count; i++)
    if (state->areas[i].own == buffer) return &state->areas[i];
  return NULL;
}

void peer_discard(void *user, moecl_buffer **buffer) {
  peer_state *state = user;
  area *area = *buffer ? peer_find_area(state, *buffer) : NULL;
  if (!area) { /* one that no engine has to read */
    moecl_buffer_destroy(buffer);
    return;
  }
  *buffer = NULL;
  peer_quiet(state);
  peer_release_area(state, area);
  *area = state->areas[--state->count];
}

/* Which are to be made, all ranks find alike: they know all that there is. */
moecl_status peer_provide(void *user, const group_arrival *arrivals, size_t count) {
  peer_state *state = user;
  area areas[GROUP_MOST_ARRIVALS];
  moecl_buffer **buffers[GROUP_MOST_ARRIVALS];
  size_t made = 0;
  for (size_t i = 0; i < count; i++) {
    const group_arrival *one = &arrivals[i];
    const area *there = *one->buffer ? peer_find_area(state, *one->buffer) : NULL;
    if (there && there->bytes >= one->bytes) continue;
    areas[made] =
        (area){.member = one->member, .bytes = group_provided_bytes(*one->buffer, one->bytes)};
    peer_discard(state, one->buffer);
    buffers[made++] = one->buffer;
  }
  if (made == 0) return MOECL_OK;
  area *grown = base_grow(state->areas, state->count + made, &state->room, sizeof *grown);
  if (grown) state->areas = grown;
  const moecl_status room = grown ? MOECL_OK : peer_no_memory(group_log(state->group));
  MOECL_TRY(peer_make_areas(state, room, areas, made));
  for (size_t i = 0; i < made; i++) {
    state->areas[state->count++] = areas[i];
    *buffers[i] = areas[i].own;
  }
  return MOECL_OK;
}

moecl_status peer_provide_source(void *user, int member, uint64_t bytes, moecl_buffer **buffer) {
  return peer_provide(user, &(group_arrival){member, bytes, buffer}, 1);
}
