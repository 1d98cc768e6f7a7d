// SPDX-License-Identifier: MIT
/* The transport over the links between GPUs of one host. Buffers that rows arrive in are in all
 * members' contexts, and a kernel on the sender's queue stores into the receiver's memory, that of
 * a step before the exchange or one of the transport's; behind it another one writes the exchange's
 * number into the receivers' flags, and a third, on the receiver's queue, waits for that
 * (cl/dispatch/nvidia_peer.cl). The host waits for nothing.
 *
 * All of it is on the contexts' queues: NVIDIA's OpenCL copies between devices by kernels too, so
 * that a second queue would hide nothing beside kernels that fill the GPU, and waits of one queue
 * for another cost 50 us (cl/dispatch/NOTES.md). */
#include "base/base.h"
#include "group/group.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Numbers of exchanges go round; flags are in cache lines of their own. */
enum { NUMBERS = 4096, FLAG_WORDS = 32, LOCAL = MOECL_MAX_GROUP_MEMBERS };
/* What stores to another GPU: as many work-groups as keep the links busy. */
enum { PUT_LOCAL = 256, PUT_GROUPS = 1024, PUT_UNIT = 16 };
enum { SET_AT_ONCE = 8 }; /* flags that a launch sets */
#define LOST_AFTER_NS UINT64_C(10000000000)
#define TRIED_FOR_NS UINT64_C(2000000000)

/* Memory of a member that all members have in their contexts. Where it is too large for one import
 * it is in pieces, and the receiver copies from them into one buffer. */
typedef struct arrival {
  int member;
  size_t pieces;
  moecl_buffer **at; /* [pieces][members of the group] */
  moecl_buffer *own; /* the layer's: the only piece, or a buffer of as many bytes as all */
} arrival;

/* A part of a block that lies in one piece. */
typedef struct part {
  int to, exchange;
  moecl_buffer *piece, *own; /* in the receiver's context */
  uint64_t piece_offset, offset, bytes;
} part;

enum { PUT, PUT_BYTES, SET, AWAIT, KERNELS };
static const char *const entries[KERNELS] = {
    [PUT] = "put", [PUT_BYTES] = "put_bytes", [SET] = "set_flags", [AWAIT] = "await_flags"};

typedef struct peer {
  ocl_sharer *sharer;
  ocl_kernel *kernels[KERNELS];
  arrival flags;
  moecl_buffer *late; /* of a trial: told of waits that gave up; NULL: they fail */
  int begun, finished;
} peer;

typedef struct peer_state {
  moecl_group *group; /* which has this, and lives longer */
  uint64_t limit;     /* of a wait */
  uint64_t most;      /* bytes of an import */
  uint32_t before;    /* exchanges of earlier forwards */
  peer peer[MOECL_MAX_GROUP_MEMBERS];
  arrival *arrivals; /* that layers have */
  size_t count, room;
  /* Parts that are to be copied from pieces, oldest first: the sender's thread adds them, the
   * receiver's takes them out. */
  pthread_mutex_t parts_lock;
  part *parts;
  size_t num_parts, parts_room;
} peer_state;

static moecl_context *context_of(const peer_state *state, int m) {
  return state->group->device[m].context;
}

static moecl_status no_memory(const moecl_log *log) {
  return log_error(log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
}

/* Room for one more. */
static moecl_status grow(const moecl_log *log, void **list, size_t count, size_t *room,
                         size_t size) {
  if (count < *room) return MOECL_OK;
  const size_t more = *room ? 2 * *room : 16;
  void *grown = realloc(*list, more * size);
  if (!grown) return no_memory(log);
  *list = grown;
  *room = more;
  return MOECL_OK;
}

/* ---- memory that rows arrive in ---- */

static moecl_buffer **piece_of(const peer_state *state, const arrival *arrival, size_t piece) {
  return &arrival->at[piece * (size_t)state->group->count];
}

static void release_arrival(const peer_state *state, arrival *arrival) {
  const size_t members = (size_t)state->group->count;
  if (arrival->pieces > 1) moecl_buffer_destroy(&arrival->own);
  for (size_t i = 0; arrival->at && i < arrival->pieces * members; i++)
    moecl_buffer_destroy(&arrival->at[i]);
  free(arrival->at);
  *arrival = (struct arrival){0};
}

static moecl_status make_piece(const peer_state *state, int owner, uint64_t bytes,
                               moecl_buffer **at) {
  ocl_shared shared;
  moecl_status status = ocl_shared_create(state->peer[owner].sharer, bytes, &shared);
  for (int m = 0; m < state->group->count && status == MOECL_OK; m++)
    status = ocl_shared_import(&shared, context_of(state, m), &at[m]);
  ocl_shared_close(&shared);
  return status;
}

static moecl_status make_arrival(const peer_state *state, int owner, uint64_t bytes,
                                 arrival *made) {
  const bool one = bytes <= state->most;
  *made = (arrival){.member = owner, .pieces = one ? 1 : base_div_up(bytes, state->most)};
  made->at = calloc(made->pieces * (size_t)state->group->count, sizeof *made->at);
  moecl_status status = made->at ? MOECL_OK : no_memory(group_log(state->group));
  for (size_t i = 0; i < made->pieces && status == MOECL_OK; i++)
    status = make_piece(state, owner, one ? bytes : state->most, piece_of(state, made, i));
  if (status == MOECL_OK && one) made->own = made->at[owner];
  else if (status == MOECL_OK)
    status = moecl_buffer_create(context_of(state, owner), bytes, &made->own);
  if (status != MOECL_OK) release_arrival(state, made);
  return status;
}

static arrival *find_arrival(const peer_state *state, const moecl_buffer *buffer) {
  for (size_t i = 0; i < state->count; i++)
    if (state->arrivals[i].own == buffer) return &state->arrivals[i];
  return NULL;
}

static void discard(void *user, moecl_buffer **buffer) {
  peer_state *state = user;
  arrival *arrival = *buffer ? find_arrival(state, *buffer) : NULL;
  *buffer = NULL;
  if (!arrival) return;
  release_arrival(state, arrival);
  *arrival = state->arrivals[--state->count];
}

static moecl_status provide(void *user, int member, uint64_t bytes, moecl_buffer **buffer) {
  peer_state *state = user;
  if (*buffer && moecl_buffer_size(*buffer) >= bytes) return MOECL_OK;
  const uint64_t wanted = group_provided_bytes(*buffer, bytes);
  discard(state, buffer);
  MOECL_TRY(grow(group_log(state->group), (void **)&state->arrivals, state->count, &state->room,
                 sizeof *state->arrivals));
  arrival *made = &state->arrivals[state->count];
  MOECL_TRY(make_arrival(state, member, wanted, made));
  state->count++;
  *buffer = made->own;
  return MOECL_OK;
}

static const moecl_buffer *reach(void *user, const moecl_buffer *buffer, int from) {
  const peer_state *state = user;
  const arrival *arrival = find_arrival(state, buffer);
  return arrival && arrival->pieces == 1 ? piece_of(state, arrival, 0)[from] : NULL;
}

/* ---- a transport's making ---- */

static moecl_status make_peer(peer_state *state, int m) {
  moecl_context *context = context_of(state, m);
  peer *peer = &state->peer[m];
  char defines[128];
  snprintf(defines, sizeof defines, "LOCAL %d\nPUT_LOCAL %d\nNUMBERS %d\nFLAG_WORDS %d\n", LOCAL,
           PUT_LOCAL, NUMBERS, FLAG_WORDS);
  for (int i = 0; i < KERNELS; i++)
    MOECL_TRY(ocl_kernel_create(context, "dispatch/nvidia_peer.cl", defines, entries[i],
                                &peer->kernels[i]));
  const uint64_t bytes = (uint64_t)state->group->count * FLAG_WORDS * sizeof(uint32_t);
  MOECL_TRY(make_arrival(state, m, bytes, &peer->flags));
  MOECL_TRY(moecl_buffer_fill_byte(peer->flags.own, 0, moecl_buffer_size(peer->flags.own), 0));
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
  release_arrival(state, &peer->flags);
  moecl_buffer_destroy(&peer->late);
  for (int i = 0; i < KERNELS; i++) ocl_kernel_destroy(&peer->kernels[i]);
  ocl_sharer_destroy(&peer->sharer);
}

/* What was begun is followed by what its receivers' queues have, and by nobody after a failure. */
static void settle(void *user) {
  peer_state *state = user;
  int most_begun = 0;
  for (int m = 0; m < state->group->count; m++) {
    peer *peer = &state->peer[m];
    if (peer->begun > most_begun) most_begun = peer->begun;
    peer->begun = peer->finished = 0;
  }
  state->before += (uint32_t)most_begun;
  state->num_parts = 0;
}

static void release(void *user) {
  peer_state *state = user;
  for (size_t i = 0; i < state->count; i++) release_arrival(state, &state->arrivals[i]);
  for (int m = 0; m < state->group->count; m++) release_peer(state, m);
  free(state->arrivals);
  free(state->parts);
  pthread_mutex_destroy(&state->parts_lock);
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
  if (!state) return NULL;
  *state = (peer_state){.group = group, .limit = LOST_AFTER_NS, .most = ocl_shared_most()};
  pthread_mutex_init(&state->parts_lock, NULL);
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

/* The transport's launches, told of as copies. */
typedef struct told {
  ocl_observer observer; /* first: a pointer to one is a pointer to the other */
  group_observer *to;
  int member;
} told;

static bool wants(ocl_observer *observer, bool last) {
  (void)observer, (void)last;
  return true;
}

static void record(ocl_observer *observer, const ocl_launched *launched) {
  const told *told = (struct told *)observer;
  told->to->copied(told->to, told->member, launched->event);
}

/* Bytes of the sender's into memory that its context has from another member. */
static moecl_status put(peer_state *state, int m, const moecl_buffer *from, uint64_t from_offset,
                        const moecl_buffer *to, uint64_t to_offset, uint64_t bytes,
                        group_observer *observer) {
  told told = {{wants, record}, observer, m};
  ocl_chain chain = {.context = context_of(state, m), .observer = &told.observer};
  const bool whole = (from_offset | to_offset | bytes) % PUT_UNIT == 0;
  const uint64_t unit = whole ? PUT_UNIT : 1, units = bytes / unit;
  const uint64_t groups = base_div_up(units, PUT_LOCAL);
  ocl_kernel *kernel = state->peer[m].kernels[whole ? PUT : PUT_BYTES];
  MOECL_TRY(
      ocl_kernel_args(kernel, "bbLLL", from, to, from_offset / unit, to_offset / unit, units));
  return ocl_launch(&chain, kernel, groups < PUT_GROUPS ? groups : PUT_GROUPS, PUT_LOCAL);
}

static moecl_status keep_part(peer_state *state, const moecl_log *log, const part *part) {
  pthread_mutex_lock(&state->parts_lock);
  const moecl_status status =
      grow(log, (void **)&state->parts, state->num_parts, &state->parts_room, sizeof *state->parts);
  if (status == MOECL_OK) state->parts[state->num_parts++] = *part;
  pthread_mutex_unlock(&state->parts_lock);
  return status;
}

static moecl_status put_block(peer_state *state, int exchange, const group_block *block,
                              group_observer *observer) {
  const arrival *arrival = find_arrival(state, block->destination);
  const moecl_log *log = &context_of(state, block->from)->log;
  if (!arrival)
    return log_error(log, MOECL_ERROR_INVALID_ARGUMENT,
                     "group: rows are to go to memory that the transport has not made");
  const bool one = arrival->pieces == 1;
  const uint64_t end = block->destination_offset + block->bytes;
  for (uint64_t at = block->destination_offset, bytes; at < end; at += bytes) {
    const uint64_t begin = one ? 0 : at / state->most * state->most; /* of the piece */
    bytes = (one || end < begin + state->most ? end : begin + state->most) - at;
    moecl_buffer **piece = piece_of(state, arrival, (size_t)(begin / state->most));
    const uint64_t source = block->source_offset + at - block->destination_offset;
    MOECL_TRY(put(state, block->from, block->source, source, piece[block->from], at - begin, bytes,
                  observer));
    const part part = {block->to, exchange, piece[block->to], arrival->own, at - begin, at, bytes};
    if (!one) MOECL_TRY(keep_part(state, log, &part));
  }
  return MOECL_OK;
}

static uint32_t number_of(const peer_state *state, int exchange) {
  return (state->before + (uint32_t)exchange + 1) % NUMBERS;
}

static moecl_status set_flags(peer_state *state, ocl_chain *chain, int m,
                              moecl_buffer *const *flags, int count, uint32_t number) {
  ocl_kernel *kernel = state->peer[m].kernels[SET];
  const moecl_buffer *at[SET_AT_ONCE];
  for (int i = 0; i < SET_AT_ONCE; i++) at[i] = flags[i < count ? i : 0];
  MOECL_TRY(ocl_kernel_args(kernel, "bbbbbbbbuuu", at[0], at[1], at[2], at[3], at[4], at[5], at[6],
                            at[7], (uint32_t)count, (uint32_t)m, number));
  return ocl_launch(chain, kernel, 1, LOCAL);
}

/* To all others, had they rows or not; and off they go. */
static moecl_status send_number(peer_state *state, int m, uint32_t number) {
  ocl_chain chain = {.context = context_of(state, m)};
  moecl_buffer *flags[MOECL_MAX_GROUP_MEMBERS];
  int others = 0;
  for (int to = 0; to < state->group->count; to++)
    if (to != m) flags[others++] = state->peer[to].flags.at[m];
  for (int i = 0; i < others; i += SET_AT_ONCE) {
    const int count = others - i < SET_AT_ONCE ? others - i : SET_AT_ONCE;
    MOECL_TRY(set_flags(state, &chain, m, &flags[i], count, number));
  }
  return ocl_chain_end(&chain, NULL);
}

static moecl_status begin_part(void *user, int m, const group_block *blocks, size_t count,
                               group_observer *observer) {
  peer_state *state = user;
  const int exchange = state->peer[m].begun++; /* one that fails has had its number, too */
  for (size_t i = 0; i < count; i++)
    if (blocks[i].from == m) MOECL_TRY(put_block(state, exchange, &blocks[i], observer));
  return send_number(state, m, number_of(state, exchange));
}

static moecl_status begin(void *user, const group_block *blocks, size_t count,
                          group_observer *observer) {
  peer_state *state = user;
  for (int m = 0; m < state->group->count; m++)
    MOECL_TRY(begin_part(state, m, blocks, count, observer));
  return MOECL_OK;
}

static moecl_status await(peer_state *state, int m, uint32_t number) {
  ocl_chain chain = {.context = context_of(state, m)};
  ocl_kernel *kernel = state->peer[m].kernels[AWAIT];
  MOECL_TRY(ocl_kernel_args(kernel, "bbuuuL", state->peer[m].flags.own, state->peer[m].late,
                            (uint32_t)m, (uint32_t)state->group->count, number, state->limit));
  return ocl_launch(&chain, kernel, 1, LOCAL);
}

/* What came in pieces, to where it belongs. */
static moecl_status copy_parts(peer_state *state, int m, int exchange) {
  moecl_status status = MOECL_OK;
  size_t left = 0;
  pthread_mutex_lock(&state->parts_lock);
  for (size_t i = 0; i < state->num_parts; i++) {
    const part *part = &state->parts[i];
    if (part->to != m || part->exchange > exchange) state->parts[left++] = *part;
    else if (status == MOECL_OK)
      status =
          ocl_buffer_copy(part->piece, part->piece_offset, part->own, part->offset, part->bytes);
  }
  state->num_parts = left;
  pthread_mutex_unlock(&state->parts_lock);
  return status;
}

static moecl_status finish_part(void *user, int m, int exchange) {
  peer_state *state = user;
  peer *peer = &state->peer[m];
  if (exchange < peer->finished) return MOECL_OK;
  MOECL_TRY(await(state, m, number_of(state, exchange)));
  peer->finished = exchange + 1;
  return copy_parts(state, m, exchange);
}

static moecl_status finish(void *user, int exchange) {
  peer_state *state = user;
  for (int m = 0; m < state->group->count; m++) MOECL_TRY(finish_part(state, m, exchange));
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
                                                     .one_sided = true,
                                                     .refuses = refuses,
                                                     .create = create,
                                                     .release = release,
                                                     .provide = provide,
                                                     .discard = discard,
                                                     .reach = reach,
                                                     .begin = begin,
                                                     .finish = finish,
                                                     .begin_part = begin_part,
                                                     .finish_part = finish_part,
                                                     .settle = settle};
