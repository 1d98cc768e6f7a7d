// SPDX-License-Identifier: MIT
/* The transport through the host: a block goes in pieces from its device into pinned memory of the
 * sender, and from there to the other device. Each sender has a pump (pump.h) that moves its pieces
 * on beside whatever members enqueue; what comes next on a member's queue is enqueued when its rows
 * are there, as queues take longer to hear of each other than the host takes to hear of both. */
#include "base/base.h"
#include "group/group.h"
#include "group/pump.h"
#include <stdlib.h>

typedef struct host_state {
  moecl_group *group; /* which has this, and lives longer */
  pump_end ends[MOECL_MAX_GROUP_MEMBERS];
  pump pump[MOECL_MAX_GROUP_MEMBERS]; /* of what each sends */
} host_state;

static const char *refuses(const moecl_group *group) {
  (void)group;
  return NULL;
}

static moecl_status create(moecl_group *group, void **out) {
  host_state *state = calloc(1, sizeof *state);
  *out = state;
  if (!state) return log_error(group_log(group), MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  state->group = group;
  for (int m = 0; m < group->count; m++) {
    state->ends[m] = (pump_end){&group->device[m].out, &group->device[m].in};
    pump_open(&state->pump[m], state->ends);
  }
  for (int m = 0; m < group->count && group->count > 1; m++)
    MOECL_TRY(pump_provide(&state->pump[m], &group->device[m].out));
  return MOECL_OK;
}

static void settle(void *user) {
  host_state *state = user;
  for (int m = 0; m < state->group->count; m++) pump_stop(&state->pump[m]);
  for (int m = 0; m < state->group->count; m++) {
    ocl_lane_finish(&state->group->device[m].out);
    ocl_lane_finish(&state->group->device[m].in);
  }
  for (int m = 0; m < state->group->count; m++) pump_clear(&state->pump[m]);
}

static void release(void *user) {
  host_state *state = user;
  settle(state);
  for (int m = 0; m < state->group->count; m++) pump_close(&state->pump[m]);
  free(state);
}

/* ---- an exchange ---- */

/* To the member after the sender first, so that no two send to the same one at first. */
static moecl_status add_blocks(host_state *state, int m, const group_block *blocks, size_t count,
                               const pump_piece *like) {
  const int members = state->group->count;
  pump_piece piece = *like;
  for (int distance = 1; distance < members; distance++)
    for (size_t i = 0; i < count; i++) {
      if (blocks[i].from != m || blocks[i].to != (m + distance) % members) continue;
      piece.block = blocks[i];
      MOECL_TRY(pump_add(&state->pump[m], &piece, &state->group->device[m].context->log));
    }
  return MOECL_OK;
}

static bool sends(int m, const group_block *blocks, size_t count) {
  for (size_t i = 0; i < count; i++)
    if (blocks[i].from == m && blocks[i].bytes > 0) return true;
  return false;
}

/* Of `blocks` those of the member. */
static moecl_status begin_part(void *user, int m, const group_block *blocks, size_t count,
                               group_observer *observer) {
  host_state *state = user;
  pump *pump = &state->pump[m];
  pump_piece like = {.observer = observer};
  moecl_status status = MOECL_OK;
  if (state->group->team) pump_hire(pump); /* there are processors for threads */
  if (sends(m, blocks, count)) {
    MOECL_TRY(ocl_queue_mark(state->group->device[m].context, &like.ready));
    status = add_blocks(state, m, blocks, count, &like);
    ocl_event_let_go(&like.ready);
    pump_begin(pump);
  }
  pump->exchanges++;
  return status;
}

/* Those that have no thread are moved on in turns by those that wait, up to that exchange. */
static bool advance_all(host_state *state, int exchange) {
  bool moved = false;
  for (int s = 0; s < state->group->count; s++) {
    pump *pump = &state->pump[s];
    if (!pump->has_thread && !pump_is_up(pump, pump_end_of(pump, -1, exchange)))
      moved |= pump_advance(pump);
  }
  return moved;
}

static moecl_status finish_part(void *user, int m, int exchange) {
  host_state *state = user;
  for (int s = 0; s < state->group->count; s++) {
    pump *pump = &state->pump[s];
    const size_t end = pump_end_of(pump, m, exchange);
    int looks = 0;
    for (bool there = false; !there;) {
      if (advance_all(state, exchange)) {
        looks = 0;
        continue;
      }
      MOECL_TRY(pump_look(pump, state->group->device[m].context, end, &there));
      if (!there) pump_pause(&looks);
    }
  }
  return MOECL_OK;
}

const group_transport group_host_transport = {.name = "host",
                                              .overlaps = true,
                                              .everywhere = true,
                                              .refuses = refuses,
                                              .create = create,
                                              .release = release,
                                              .begin_part = begin_part,
                                              .finish_part = finish_part,
                                              .settle = settle};
