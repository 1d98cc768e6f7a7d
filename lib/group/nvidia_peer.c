// SPDX-License-Identifier: MIT
/* The transport over the links between GPUs of one host: buffers that rows arrive in are in all
 * members' contexts, and a sender copies into the receiver's, on its lane beside the kernels.
 * Behind the rows goes the exchange's number, into flags of the receiver, whose queue has a small
 * kernel that waits for it (cl/dispatch/nvidia_flags.cl). The host waits for nothing. */
#include "base/base.h"
#include "group/group.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Numbers of exchanges go round; flags are in cache lines of their own. */
enum { NUMBERS = 4096, FLAG_WORDS = 32, LOCAL = MOECL_MAX_GROUP_MEMBERS };
#define LOST_AFTER_NS UINT64_C(10000000000)
#define TRIED_FOR_NS UINT64_C(2000000000)

/* Memory of a member that all members have in their contexts. */
typedef struct arrival {
  int member;
  moecl_buffer *at[MOECL_MAX_GROUP_MEMBERS]; /* the member's own is the layer's */
} arrival;

typedef struct peer {
  ocl_sharer *sharer;
  ocl_kernel *await;
  moecl_buffer *numbers; /* 0 to NUMBERS - 1: what is copied into flags */
  moecl_buffer *late;    /* of a trial: told of waits that gave up; NULL: they fail */
  arrival flags;
  cl_event copied; /* its latest copy; NULL: none in this forward */
} peer;

typedef struct peer_state {
  moecl_group *group; /* which has this, and lives longer */
  uint64_t limit;     /* of a wait */
  uint32_t before;    /* exchanges of earlier forwards */
  int begun, finished;
  bool open; /* an exchange was begun and is not finished */
  peer peer[MOECL_MAX_GROUP_MEMBERS];
  arrival *arrivals; /* that layers have */
  size_t count, room;
} peer_state;

static moecl_context *context_of(const peer_state *state, int m) {
  return state->group->device[m].context;
}

static moecl_status no_memory(const peer_state *state) {
  return log_error(group_log(state->group), MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
}

/* ---- memory that rows arrive in ---- */

static void release_arrival(const peer_state *state, arrival *arrival) {
  for (int m = 0; m < state->group->count; m++) moecl_buffer_destroy(&arrival->at[m]);
}

static moecl_status make_arrival(const peer_state *state, int owner, uint64_t bytes,
                                 arrival *made) {
  ocl_shared shared;
  *made = (arrival){.member = owner};
  moecl_status status = ocl_shared_create(state->peer[owner].sharer, bytes, &shared);
  for (int m = 0; m < state->group->count && status == MOECL_OK; m++)
    status = ocl_shared_import(&shared, context_of(state, m), &made->at[m]);
  ocl_shared_close(&shared);
  if (status != MOECL_OK) release_arrival(state, made);
  return status;
}

static arrival *find_arrival(const peer_state *state, const moecl_buffer *buffer) {
  for (size_t i = 0; i < state->count; i++)
    if (state->arrivals[i].at[state->arrivals[i].member] == buffer) return &state->arrivals[i];
  return NULL;
}

static void finish_lanes(const peer_state *state) {
  for (int m = 0; m < state->group->count; m++) {
    ocl_lane_finish(&state->group->device[m].out);
    ocl_lane_finish(&state->group->device[m].in);
  }
}

static void discard(void *user, moecl_buffer **buffer) {
  peer_state *state = user;
  arrival *arrival = *buffer ? find_arrival(state, *buffer) : NULL;
  *buffer = NULL;
  if (!arrival) return;
  finish_lanes(state);
  release_arrival(state, arrival);
  *arrival = state->arrivals[--state->count];
}

static moecl_status make_room(peer_state *state) {
  if (state->count < state->room) return MOECL_OK;
  const size_t room = state->room ? 2 * state->room : 16;
  arrival *arrivals = realloc(state->arrivals, room * sizeof *arrivals);
  if (!arrivals) return no_memory(state);
  state->arrivals = arrivals;
  state->room = room;
  return MOECL_OK;
}

static moecl_status provide(void *user, int member, uint64_t bytes, moecl_buffer **buffer) {
  peer_state *state = user;
  if (*buffer && moecl_buffer_size(*buffer) >= bytes) return MOECL_OK;
  const uint64_t wanted = group_provided_bytes(*buffer, bytes);
  discard(state, buffer);
  MOECL_TRY(make_room(state));
  arrival *made = &state->arrivals[state->count];
  MOECL_TRY(make_arrival(state, member, wanted, made));
  state->count++;
  *buffer = made->at[member];
  return MOECL_OK;
}

/* ---- a transport's making ---- */

static moecl_status make_peer(peer_state *state, int m) {
  moecl_context *context = context_of(state, m);
  peer *peer = &state->peer[m];
  uint32_t numbers[NUMBERS];
  char defines[96];
  for (uint32_t i = 0; i < NUMBERS; i++) numbers[i] = i;
  snprintf(defines, sizeof defines, "LOCAL %d\nNUMBERS %d\nFLAG_WORDS %d\n", LOCAL, NUMBERS,
           FLAG_WORDS);
  MOECL_TRY(
      ocl_kernel_create(context, "dispatch/nvidia_flags.cl", defines, "await_flags", &peer->await));
  MOECL_TRY(ocl_buffer_filled(context, sizeof numbers, numbers, &peer->numbers));
  const uint64_t bytes = (uint64_t)state->group->count * FLAG_WORDS * sizeof(uint32_t);
  MOECL_TRY(make_arrival(state, m, bytes, &peer->flags));
  moecl_buffer *flags = peer->flags.at[m];
  MOECL_TRY(moecl_buffer_fill_byte(flags, 0, moecl_buffer_size(flags), 0));
  return moecl_context_finish_wait(context);
}

static const char *make_sharers(peer_state *state) {
  const char *why = NULL;
  for (int m = 0; m < state->group->count && !why; m++) {
    why = ocl_sharer_create(context_of(state, m), &state->peer[m].sharer);
    for (int other = 0; other < m && !why; other++) {
      const ocl_sharer *sharer = state->peer[m].sharer;
      why = ocl_sharer_refuses(sharer, state->peer[other].sharer);
      if (!why) why = ocl_sharer_refuses(state->peer[other].sharer, sharer);
    }
  }
  return why;
}

static void release_peer(peer_state *state, int m) {
  peer *peer = &state->peer[m];
  ocl_event_let_go(&peer->copied);
  release_arrival(state, &peer->flags);
  moecl_buffer_destroy(&peer->numbers);
  moecl_buffer_destroy(&peer->late);
  ocl_kernel_destroy(&peer->await);
  ocl_sharer_destroy(&peer->sharer);
}

static void settle(void *user) {
  peer_state *state = user;
  if (state->open) finish_lanes(state);
  for (int m = 0; m < state->group->count; m++) ocl_event_let_go(&state->peer[m].copied);
  state->before += (uint32_t)state->begun;
  state->begun = state->finished = 0;
  state->open = false;
}

static void release(void *user) {
  peer_state *state = user;
  finish_lanes(state);
  for (size_t i = 0; i < state->count; i++) release_arrival(state, &state->arrivals[i]);
  for (int m = 0; m < state->group->count; m++) release_peer(state, m);
  free(state->arrivals);
  free(state);
}

/* Beside the contexts' queues: flags are there when it returns. */
static moecl_status make_peers(peer_state *state) {
  ocl_aside aside[MOECL_MAX_GROUP_MEMBERS];
  moecl_status status = MOECL_OK;
  int entered = 0;
  while (entered < state->group->count && status == MOECL_OK) {
    status = ocl_aside_enter(context_of(state, entered), &aside[entered]);
    entered += status == MOECL_OK;
  }
  for (int m = 0; m < state->group->count && status == MOECL_OK; m++) status = make_peer(state, m);
  while (entered-- > 0) ocl_aside_leave(context_of(state, entered), &aside[entered]);
  return status;
}

static peer_state *make_state(moecl_group *group) {
  peer_state *state = calloc(1, sizeof *state);
  if (state) *state = (peer_state){.group = group, .limit = LOST_AFTER_NS};
  return state;
}

static moecl_status create(moecl_group *group, void **out) {
  peer_state *state = make_state(group);
  *out = state;
  if (!state) return log_error(group_log(group), MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  const char *why = make_sharers(state);
  if (why) return log_error(group_log(group), MOECL_ERROR_UNSUPPORTED, "group: %s", why);
  return make_peers(state);
}

/* ---- rows on their way ---- */

static moecl_status copy_rows(peer_state *state, const group_block *block, cl_event ready,
                              group_observer *observer) {
  const int from = block->from;
  const arrival *arrival = find_arrival(state, block->destination);
  cl_event copied;
  if (!arrival)
    return log_error(group_log(state->group), MOECL_ERROR_INVALID_ARGUMENT,
                     "group: rows are to go to memory that the transport has not made");
  MOECL_TRY(ocl_lane_copy(&state->group->device[from].out, block->source, block->source_offset,
                          arrival->at[from], block->destination_offset, block->bytes, ready,
                          &copied));
  observer->copied(observer, from, copied);
  const bool kept = ocl_event_keep(&state->peer[from].copied, copied);
  ocl_event_let_go(&copied);
  return kept ? MOECL_OK
              : log_error(group_log(state->group), MOECL_ERROR_DEVICE, "clRetainEvent failed");
}

static moecl_status send_rows(peer_state *state, int m, const group_block *blocks, size_t count,
                              group_observer *observer) {
  cl_event ready = NULL;
  moecl_status status = MOECL_OK;
  for (size_t i = 0; status == MOECL_OK && i < count; i++) {
    if (blocks[i].from != m || blocks[i].bytes == 0) continue;
    if (!ready) status = ocl_queue_mark(context_of(state, m), &ready);
    if (status == MOECL_OK) status = copy_rows(state, &blocks[i], ready, observer);
  }
  ocl_event_let_go(&ready);
  return status;
}

static uint32_t number_of(const peer_state *state, int exchange) {
  return (state->before + (uint32_t)exchange + 1) % NUMBERS;
}

/* To all others, had they rows or not. On a lane of its own, behind the event of the last copy: a
 * command that follows another in one queue may be seen by another device before it. */
static moecl_status send_number(peer_state *state, int m, uint32_t number) {
  for (int to = 0; to < state->group->count; to++) {
    cl_event sent;
    if (to == m) continue;
    MOECL_TRY(ocl_lane_copy(&state->group->device[m].in, state->peer[m].numbers,
                            number * sizeof number, state->peer[to].flags.at[m],
                            (uint64_t)m * FLAG_WORDS * sizeof number, sizeof number,
                            state->peer[m].copied, &sent));
    ocl_event_let_go(&sent);
  }
  return MOECL_OK;
}

static moecl_status begin(void *user, const group_block *blocks, size_t count,
                          group_observer *observer) {
  peer_state *state = user;
  const int members = state->group->count;
  const uint32_t number = number_of(state, state->begun++);
  state->open = true;
  for (int m = 0; m < members; m++) MOECL_TRY(send_rows(state, m, blocks, count, observer));
  for (int m = 0; m < members; m++) MOECL_TRY(send_number(state, m, number));
  return MOECL_OK;
}

static moecl_status await(peer_state *state, int m, uint32_t number) {
  ocl_chain chain = {.context = context_of(state, m)};
  ocl_kernel *kernel = state->peer[m].await;
  MOECL_TRY(ocl_kernel_args(kernel, "bbuuuL", state->peer[m].flags.at[m], state->peer[m].late,
                            (uint32_t)m, (uint32_t)state->group->count, number, state->limit));
  return ocl_launch(&chain, kernel, 1, LOCAL);
}

static moecl_status finish(void *user, int exchange) {
  peer_state *state = user;
  if (exchange < state->finished) return MOECL_OK;
  for (int m = 0; m < state->group->count; m++)
    MOECL_TRY(await(state, m, number_of(state, exchange)));
  state->finished = exchange + 1;
  state->open = state->finished < state->begun;
  return MOECL_OK;
}

/* ---- does it work here? Words from all to all ---- */

enum { TRIED_WORDS = 1024 };

typedef struct trial {
  peer_state *state;
  moecl_buffer *sources[MOECL_MAX_GROUP_MEMBERS], *arrivals[MOECL_MAX_GROUP_MEMBERS];
  group_block *blocks;
  size_t count;
  group_observer observer;
} trial;

static uint32_t tried_word(int member, uint32_t i) {
  return ((uint32_t)member * TRIED_WORDS + i) * 2654435761u;
}

static void see_nothing(group_observer *observer, int member, cl_event event) {
  (void)observer, (void)member, (void)event;
}

static moecl_status make_words(trial *trial, int m) {
  moecl_context *context = context_of(trial->state, m);
  const int members = trial->state->group->count;
  const uint64_t bytes = TRIED_WORDS * sizeof(uint32_t);
  const uint32_t in_time = 0;
  uint32_t words[TRIED_WORDS];
  for (uint32_t i = 0; i < TRIED_WORDS; i++) words[i] = tried_word(m, i);
  MOECL_TRY(ocl_buffer_filled(context, bytes, words, &trial->sources[m]));
  MOECL_TRY(moecl_buffer_create(context, sizeof in_time, &trial->state->peer[m].late));
  MOECL_TRY(moecl_buffer_write_wait(trial->state->peer[m].late, 0, sizeof in_time, &in_time));
  MOECL_TRY(provide(trial->state, m, (uint64_t)members * bytes, &trial->arrivals[m]));
  for (int to = 0; to < members; to++)
    if (to != m)
      trial->blocks[trial->count++] = (group_block){.from = m,
                                                    .to = to,
                                                    .source = trial->sources[m],
                                                    .destination_offset = (uint64_t)m * bytes,
                                                    .bytes = bytes};
  return MOECL_OK;
}

static moecl_status have_come(const trial *trial, int m, bool *came) {
  uint32_t words[TRIED_WORDS], late;
  MOECL_TRY(moecl_buffer_read_wait(trial->state->peer[m].late, 0, sizeof late, &late));
  *came = !late;
  for (int from = 0; from < trial->state->group->count && *came; from++) {
    if (from == m) continue;
    MOECL_TRY(moecl_buffer_read_wait(trial->arrivals[m], (uint64_t)from * sizeof words,
                                     sizeof words, words));
    for (uint32_t i = 0; i < TRIED_WORDS; i++) *came &= words[i] == tried_word(from, i);
  }
  return MOECL_OK;
}

static const char *send_words(trial *trial) {
  peer_state *state = trial->state;
  const int members = state->group->count;
  bool came = true;
  moecl_status status = MOECL_OK;
  for (int m = 0; m < members && status == MOECL_OK; m++) status = make_words(trial, m);
  for (size_t i = 0; i < trial->count; i++)
    trial->blocks[i].destination = trial->arrivals[trial->blocks[i].to];
  if (status == MOECL_OK) status = begin(state, trial->blocks, trial->count, &trial->observer);
  if (status == MOECL_OK) status = finish(state, 0);
  for (int m = 0; m < members && status == MOECL_OK && came; m++)
    status = have_come(trial, m, &came);
  if (status != MOECL_OK) return "a copy into another member's memory failed";
  return came ? NULL : "words that were copied into another member's memory did not arrive";
}

static const char *try_all(peer_state *state) {
  const size_t members = (size_t)state->group->count;
  trial trial = {.state = state,
                 .observer = {see_nothing},
                 .blocks = calloc(members * members, sizeof *trial.blocks)};
  const char *why = trial.blocks ? make_sharers(state) : "no host memory";
  state->limit = TRIED_FOR_NS;
  if (!why && make_peers(state) != MOECL_OK)
    why = "memory of a member could not be had in another one's context";
  if (!why) why = send_words(&trial);
  for (size_t m = 0; m < members; m++) moecl_buffer_destroy(&trial.sources[m]);
  free(trial.blocks);
  return why;
}

/* On queues of its own, and what fails is not yet an error. */
static const char *refuses(const moecl_group *group) {
  moecl_group tried = *group;
  ocl_trial trials[MOECL_MAX_GROUP_MEMBERS];
  const char *why = NULL;
  int entered = 0;
  if (group->count < 2) return "there is one member, which has nobody to send to";
  for (int m = 0; m < group->count; m++)
    if (!(group->device[m].context->info.capabilities & MOECL_CAP_PTX_SM80))
      return "a member is no GPU of NVIDIA's (MOECL_CAP_PTX_SM80)";
  peer_state *state = make_state(&tried);
  if (!state) return "no host memory";
  while (entered < group->count && !why) {
    if (ocl_trial_enter(context_of(state, entered), &trials[entered]) == MOECL_OK) entered++;
    else why = "a member has no queue for it";
  }
  if (!why) why = try_all(state);
  release(state);
  while (entered-- > 0) ocl_trial_leave(tried.device[entered].context, &trials[entered]);
  return why;
}

const group_transport group_nvidia_peer_transport = {.name = "nvidia_peer",
                                                     .asked_only = true,
                                                     .refuses = refuses,
                                                     .create = create,
                                                     .release = release,
                                                     .provide = provide,
                                                     .discard = discard,
                                                     .begin = begin,
                                                     .finish = finish,
                                                     .settle = settle};
