// SPDX-License-Identifier: MIT
/* The two transports over the links between GPUs of one host. Buffers that rows arrive in are in
 * all members' contexts; the host waits for nothing.
 *
 * nvidia_peer: a kernel on the sender's queue stores into the receiver's memory, that of a step
 * before the exchange or one of the transport's; behind it another one writes the exchange's number
 * into the receivers' flags, and a third, on the receiver's queue, waits for that
 * (cl/dispatch/nvidia_peer.cl). All of it is on the contexts' queues: NVIDIA's OpenCL copies
 * between devices by kernels too, so that a second queue would hide nothing beside kernels that
 * fill the GPU, and waits of one queue for another cost 50 us (cl/dispatch/NOTES.md).
 *
 * nvidia_copy: rows are gathered into the sender's memory, and large blocks of it copied beside
 * kernels, by the sender's copy engine. A kernel on its queue tells it that the rows are there, it
 * copies, and writes the number. So rows have to leave from such memory, too; the rest goes by
 * kernels. */
#include "base/base.h"
#include "group/group.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Flags are in cache lines of their own. */
enum { FLAG_WORDS = 32, LOCAL = MOECL_MAX_GROUP_MEMBERS };
/* What stores to another GPU: as many work-groups as keep the links busy. */
enum { PUT_LOCAL = 256, PUT_GROUPS = 1024, PUT_UNIT = 16 };
enum { SET_AT_ONCE = 8 }; /* flags that a launch sets */
#define LOST_AFTER_NS UINT64_C(10000000000)
#define TRIED_FOR_NS UINT64_C(2000000000)
/* Of an engine, when all that it waits for has come or does not come any more. */
#define QUIET_AFTER_NS UINT64_C(1000000000)

/* Memory of a member that all members have in their contexts. Where it is too large for one import
 * it is in pieces, and its owner copies to or from them. */
typedef struct area {
  int member;
  size_t pieces;
  moecl_buffer **at;   /* [pieces][members of the group] */
  ocl_mapping *mapped; /* [pieces], as engines have them: zeros without engines */
  moecl_buffer *own;   /* the layer's: the only piece, or a buffer of as many bytes as all */
} area;

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
  area flags;
  moecl_buffer *late; /* of a trial: told of waits that gave up; NULL: they fail */
  uint32_t copied;    /* the latest exchange whose rows its engine copies */
  uint32_t followed;  /* the latest of those that its queue waits for */
  /* By the exchanges since the last settle: `copied` of then. */
  uint32_t copied_by[GROUP_MOST_EXCHANGES];
  int begun, finished;
} peer;

typedef struct peer_state {
  moecl_group *group; /* which has this, and lives longer */
  uint64_t limit;     /* of a wait */
  uint64_t most;      /* bytes of an import */
  uint32_t before;    /* the number of the latest exchange before those that were begun */
  peer peer[MOECL_MAX_GROUP_MEMBERS];
  ocl_engine *engine[MOECL_MAX_GROUP_MEMBERS]; /* NULL: kernels alone send */
  area *areas;                                 /* that layers have */
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

/* ---- flags: a line for each member's numbers, the own one for those of what the own engine has
 * copied; and one that the queue writes for the engine ---- */

static uint32_t ready_line(const peer_state *state) { return (uint32_t)state->group->count; }

/* A line of a member's flags, as engines have it. */
static uint64_t word_of(const peer_state *state, int member, uint32_t line) {
  return state->peer[member].flags.mapped[0].address + line * FLAG_WORDS * sizeof(uint32_t);
}

/* ---- memory that rows arrive in, or leave from ---- */

static moecl_buffer **piece_of(const peer_state *state, const area *area, size_t piece) {
  return &area->at[piece * (size_t)state->group->count];
}

/* Engines have nothing to do with it any more. */
static void release_area(const peer_state *state, area *area) {
  const size_t members = (size_t)state->group->count;
  if (area->pieces > 1) moecl_buffer_destroy(&area->own);
  for (size_t i = 0; area->at && i < area->pieces * members; i++)
    moecl_buffer_destroy(&area->at[i]);
  for (size_t i = 0; area->mapped && i < area->pieces; i++) ocl_mapping_release(&area->mapped[i]);
  free(area->at);
  free(area->mapped);
  *area = (struct area){0};
}

static moecl_status make_piece(const peer_state *state, uint64_t bytes, area *area, size_t i) {
  ocl_shared shared;
  moecl_buffer **at = piece_of(state, area, i);
  const int members = state->group->count;
  moecl_status status = ocl_shared_create(state->peer[area->member].sharer, bytes, &shared);
  for (int m = 0; m < members && status == MOECL_OK; m++)
    status = ocl_shared_import(&shared, context_of(state, m), &at[m]);
  if (status == MOECL_OK && state->engine[0])
    status = ocl_mapping_create(state->engine, members, &shared, &area->mapped[i]);
  ocl_shared_close(&shared);
  return status;
}

static moecl_status make_area(const peer_state *state, int owner, uint64_t bytes, area *made) {
  const bool one = bytes <= state->most;
  *made = (area){.member = owner, .pieces = one ? 1 : base_div_up(bytes, state->most)};
  made->at = calloc(made->pieces * (size_t)state->group->count, sizeof *made->at);
  made->mapped = calloc(made->pieces, sizeof *made->mapped);
  moecl_status status = made->at && made->mapped ? MOECL_OK : no_memory(group_log(state->group));
  for (size_t i = 0; i < made->pieces && status == MOECL_OK; i++)
    status = make_piece(state, one ? bytes : state->most, made, i);
  if (status == MOECL_OK && one) made->own = made->at[owner];
  else if (status == MOECL_OK)
    status = moecl_buffer_create(context_of(state, owner), bytes, &made->own);
  if (status != MOECL_OK) release_area(state, made);
  return status;
}

/* Engines have done all that they were asked for, or are made to: what they wait for has come by
 * now, or was lost with its queue. */
static void quiet(peer_state *state) {
  for (int m = 0; m < state->group->count && state->engine[m]; m++)
    (void)moecl_context_finish_wait(context_of(state, m));
  for (int m = 0; m < state->group->count && state->engine[m]; m++) {
    peer *peer = &state->peer[m];
    bool done;
    (void)ocl_engine_finish_wait(state->engine[m], QUIET_AFTER_NS, &done);
    if (!done) {
      (void)ocl_engine_interrupt(state->engine[m], word_of(state, m, ready_line(state)),
                                 peer->copied);
      (void)ocl_engine_finish_wait(state->engine[m], QUIET_AFTER_NS, &done);
    }
    peer->followed = peer->copied; /* had it come so far or not */
  }
}

static area *find_area(const peer_state *state, const moecl_buffer *buffer) {
  for (size_t i = 0; i < state->count; i++)
    if (state->areas[i].own == buffer) return &state->areas[i];
  return NULL;
}

static void discard(void *user, moecl_buffer **buffer) {
  peer_state *state = user;
  area *area = *buffer ? find_area(state, *buffer) : NULL;
  if (!area) { /* one that no engine has to read */
    moecl_buffer_destroy(buffer);
    return;
  }
  *buffer = NULL;
  quiet(state);
  release_area(state, area);
  *area = state->areas[--state->count];
}

static moecl_status provide(void *user, int member, uint64_t bytes, moecl_buffer **buffer) {
  peer_state *state = user;
  if (*buffer && moecl_buffer_size(*buffer) >= bytes) return MOECL_OK;
  const uint64_t wanted = group_provided_bytes(*buffer, bytes);
  discard(state, buffer);
  MOECL_TRY(grow(group_log(state->group), (void **)&state->areas, state->count, &state->room,
                 sizeof *state->areas));
  area *made = &state->areas[state->count];
  MOECL_TRY(make_area(state, member, wanted, made));
  state->count++;
  *buffer = made->own;
  return MOECL_OK;
}

static const moecl_buffer *reach(void *user, const moecl_buffer *buffer, int from) {
  const peer_state *state = user;
  const area *area = find_area(state, buffer);
  return area && area->pieces == 1 ? piece_of(state, area, 0)[from] : NULL;
}

/* ---- a transport's making ---- */

static moecl_status make_peer(peer_state *state, int m) {
  moecl_context *context = context_of(state, m);
  peer *peer = &state->peer[m];
  char defines[128];
  snprintf(defines, sizeof defines, "LOCAL %d\nPUT_LOCAL %d\nFLAG_WORDS %d\n", LOCAL, PUT_LOCAL,
           FLAG_WORDS);
  for (int i = 0; i < KERNELS; i++)
    MOECL_TRY(ocl_kernel_create(context, "dispatch/nvidia_peer.cl", defines, entries[i],
                                &peer->kernels[i]));
  const uint64_t bytes = (uint64_t)(ready_line(state) + 1) * FLAG_WORDS * sizeof(uint32_t);
  peer->copied = peer->followed = state->before;
  MOECL_TRY(make_area(state, m, bytes, &peer->flags));
  MOECL_TRY(moecl_buffer_fill_byte(peer->flags.own, 0, bytes, UINT8_MAX)); /* likewise */
  return moecl_context_finish_wait(context);
}

/* Why there are none; NULL: they are there. */
static const char *make_sharers(peer_state *state, bool engines) {
  const char *why = NULL;
  for (int m = 0; m < state->group->count && !why; m++) {
    why = ocl_sharer_create(context_of(state, m), &state->peer[m].sharer);
    for (int other = 0; other < m && !why; other++) {
      const ocl_sharer *sharer = state->peer[m].sharer;
      why = ocl_sharer_refuses(sharer, state->peer[other].sharer);
      if (!why) why = ocl_sharer_refuses(state->peer[other].sharer, sharer);
    }
  }
  for (int m = 0; m < state->group->count && engines && !why; m++)
    why = ocl_engine_create(state->peer[m].sharer, &state->engine[m]);
  return why;
}

static void release_peer(peer_state *state, int m) {
  peer *peer = &state->peer[m];
  moecl_buffer_destroy(&peer->late);
  for (int i = 0; i < KERNELS; i++) ocl_kernel_destroy(&peer->kernels[i]);
  ocl_sharer_destroy(&peer->sharer);
}

/* What was begun is followed by what its receivers' queues have, and by nobody after a failure. */
static void settle(void *user) {
  peer_state *state = user;
  int most_begun = 0;
  bool failed = false;
  for (int m = 0; m < state->group->count; m++) {
    peer *peer = &state->peer[m];
    failed |= peer->finished < peer->begun;
    if (peer->begun > most_begun) most_begun = peer->begun;
    peer->begun = peer->finished = 0;
  }
  if (failed) quiet(state);
  state->before += (uint32_t)most_begun;
  state->num_parts = 0;
}

static void release(void *user) {
  peer_state *state = user;
  quiet(state);
  for (size_t i = 0; i < state->count; i++) release_area(state, &state->areas[i]);
  for (int m = 0; m < state->group->count; m++) release_area(state, &state->peer[m].flags);
  for (int m = 0; m < state->group->count; m++) ocl_engine_destroy(&state->engine[m]);
  for (int m = 0; m < state->group->count; m++) release_peer(state, m);
  free(state->areas);
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
  *state = (peer_state){
      .group = group, .limit = LOST_AFTER_NS, .most = ocl_shared_most(), .before = UINT32_MAX};
  pthread_mutex_init(&state->parts_lock, NULL);
  return state;
}

static moecl_status make(moecl_group *group, bool engines, void **out) {
  peer_state *state = make_state(group);
  *out = state;
  if (!state) return log_error(group_log(group), MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  const char *why = make_sharers(state, engines);
  if (why) return log_error(group_log(group), MOECL_ERROR_UNSUPPORTED, "group: %s", why);
  return make_peers(state);
}

static moecl_status create(moecl_group *group, void **out) { return make(group, false, out); }

static moecl_status create_copy(moecl_group *group, void **out) { return make(group, true, out); }

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

/* Where a byte of an area is, and how many are left there. */
typedef struct place {
  size_t piece;
  uint64_t at, left;
} place;

static place place_of(const peer_state *state, const area *area, uint64_t at) {
  if (area->pieces == 1) return (place){0, at, UINT64_MAX};
  return (place){(size_t)(at / state->most), at % state->most, state->most - at % state->most};
}

static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }

static moecl_status find_destination(const peer_state *state, const group_block *block,
                                     const area **found) {
  *found = find_area(state, block->destination);
  if (*found) return MOECL_OK;
  return log_error(&context_of(state, block->from)->log, MOECL_ERROR_INVALID_ARGUMENT,
                   "group: rows are to go to memory that the transport has not made");
}

/* The receiver copies from the piece what is there behind the exchange. */
static moecl_status keep_part(peer_state *state, int exchange, int from, const area *to,
                              const place *place, uint64_t offset, uint64_t bytes) {
  const part part = {to->member, exchange,  piece_of(state, to, place->piece)[to->member],
                     to->own,    place->at, offset,
                     bytes};
  if (to->pieces == 1) return MOECL_OK;
  pthread_mutex_lock(&state->parts_lock);
  const moecl_status status = grow(&context_of(state, from)->log, (void **)&state->parts,
                                   state->num_parts, &state->parts_room, sizeof part);
  if (status == MOECL_OK) state->parts[state->num_parts++] = part;
  pthread_mutex_unlock(&state->parts_lock);
  return status;
}

static moecl_status put_block(peer_state *state, int exchange, const group_block *block,
                              group_observer *observer) {
  const area *to;
  MOECL_TRY(find_destination(state, block, &to));
  for (uint64_t done = 0, bytes; done < block->bytes; done += bytes) {
    const uint64_t offset = block->destination_offset + done;
    const place place = place_of(state, to, offset);
    bytes = least(block->bytes - done, place.left);
    MOECL_TRY(put(state, block->from, block->source, block->source_offset + done,
                  piece_of(state, to, place.piece)[block->from], place.at, bytes, observer));
    MOECL_TRY(keep_part(state, exchange, block->from, to, &place, offset, bytes));
  }
  return MOECL_OK;
}

static moecl_status set_flags(peer_state *state, ocl_chain *chain, int m,
                              moecl_buffer *const *flags, int count, uint32_t line,
                              uint32_t number) {
  ocl_kernel *kernel = state->peer[m].kernels[SET];
  const moecl_buffer *at[SET_AT_ONCE];
  for (int i = 0; i < SET_AT_ONCE; i++) at[i] = flags[i < count ? i : 0];
  MOECL_TRY(ocl_kernel_args(kernel, "bbbbbbbbuuu", at[0], at[1], at[2], at[3], at[4], at[5], at[6],
                            at[7], (uint32_t)count, line, number));
  return ocl_launch(chain, kernel, 1, LOCAL);
}

/* Its number to all others, had they rows or not; and off they go. */
static moecl_status send_number(peer_state *state, int m, uint32_t number) {
  ocl_chain chain = {.context = context_of(state, m)};
  moecl_buffer *flags[MOECL_MAX_GROUP_MEMBERS];
  int others = 0;
  for (int to = 0; to < state->group->count; to++)
    if (to != m) flags[others++] = state->peer[to].flags.at[m];
  for (int i = 0; i < others; i += SET_AT_ONCE) {
    const int count = others - i < SET_AT_ONCE ? others - i : SET_AT_ONCE;
    MOECL_TRY(set_flags(state, &chain, m, &flags[i], count, (uint32_t)m, number));
  }
  return ocl_chain_end(&chain, NULL);
}

static uint32_t number_of(const peer_state *state, int exchange) {
  return state->before + (uint32_t)exchange + 1;
}

/* The member's queue waits for others' numbers, of so many members, and for its own engine's. */
static moecl_status await(peer_state *state, int m, int members, uint32_t number, uint32_t own) {
  peer *peer = &state->peer[m];
  ocl_chain chain = {.context = context_of(state, m)};
  ocl_kernel *kernel = peer->kernels[AWAIT];
  const uint32_t follows = (int32_t)(own - peer->followed) > 0;
  if (follows) peer->followed = own;
  MOECL_TRY(ocl_kernel_args(kernel, "bbuuuuuL", peer->flags.own, peer->late, (uint32_t)m,
                            (uint32_t)members, number, follows, own, state->limit));
  return ocl_launch(&chain, kernel, 1, LOCAL);
}

/* The number must not overtake those of the engine. */
static moecl_status put_blocks(peer_state *state, int exchange, int m, const group_block *blocks,
                               size_t count, group_observer *observer) {
  const peer *peer = &state->peer[m];
  if (peer->followed != peer->copied) MOECL_TRY(await(state, m, 0, 0, peer->copied));
  for (size_t i = 0; i < count; i++)
    if (blocks[i].from == m) MOECL_TRY(put_block(state, exchange, &blocks[i], observer));
  return send_number(state, m, number_of(state, exchange));
}

/* ---- by engines ---- */

/* What leaves from pieces, to them. */
static moecl_status stage(const peer_state *state, const group_block *block) {
  const area *from = find_area(state, block->source);
  if (from->pieces == 1) return MOECL_OK;
  for (uint64_t done = 0, bytes; done < block->bytes; done += bytes) {
    const uint64_t offset = block->source_offset + done;
    const place place = place_of(state, from, offset);
    bytes = least(block->bytes - done, place.left);
    MOECL_TRY(ocl_buffer_copy(from->own, offset, piece_of(state, from, place.piece)[block->from],
                              place.at, bytes));
  }
  return MOECL_OK;
}

static moecl_status copy_block(peer_state *state, int exchange, const group_block *block) {
  const area *from = find_area(state, block->source), *to;
  MOECL_TRY(find_destination(state, block, &to));
  for (uint64_t done = 0, bytes; done < block->bytes; done += bytes) {
    const uint64_t offset = block->destination_offset + done;
    const place here = place_of(state, from, block->source_offset + done),
                there = place_of(state, to, offset);
    bytes = least(block->bytes - done, least(here.left, there.left));
    MOECL_TRY(ocl_engine_copy(state->engine[block->from],
                              from->mapped[here.piece].address + here.at,
                              to->mapped[there.piece].address + there.at, bytes));
    MOECL_TRY(keep_part(state, exchange, block->from, to, &there, offset, bytes));
  }
  return MOECL_OK;
}

/* The queue has come so far. */
static moecl_status tell_engine(peer_state *state, int m, uint32_t number) {
  ocl_chain chain = {.context = context_of(state, m)};
  MOECL_TRY(set_flags(state, &chain, m, &state->peer[m].flags.own, 1, ready_line(state), number));
  return ocl_chain_end(&chain, NULL);
}

/* The engine begins when the queue has come so far. All learn the number, and at last the member
 * itself: its memory may then be written again, and its kernels may tell the next number. */
static moecl_status copy_blocks(peer_state *state, int exchange, int m, const group_block *blocks,
                                size_t count, group_observer *observer) {
  ocl_engine *engine = state->engine[m];
  const uint32_t number = number_of(state, exchange), ready = ready_line(state);
  for (size_t i = 0; i < count; i++)
    if (blocks[i].from == m) MOECL_TRY(stage(state, &blocks[i]));
  MOECL_TRY(tell_engine(state, m, number));
  state->peer[m].copied = number;
  MOECL_TRY(ocl_engine_await(engine, word_of(state, m, ready), number));
  for (size_t i = 0; i < count; i++) {
    if (blocks[i].from != m) continue;
    MOECL_TRY(copy_block(state, exchange, &blocks[i]));
    observer->copied(observer, m, NULL);
  }
  for (int to = 0; to < state->group->count; to++)
    if (to != m) MOECL_TRY(ocl_engine_tell(engine, word_of(state, to, (uint32_t)m), number));
  return ocl_engine_tell(engine, word_of(state, m, (uint32_t)m), number);
}

/* Where a block is worth it, and all leave from memory that engines have. */
static bool is_for_engine(const peer_state *state, int m, const group_block *blocks, size_t count) {
  uint64_t most = 0;
  for (size_t i = 0; i < count && state->engine[m]; i++) {
    if (blocks[i].from != m) continue;
    if (!find_area(state, blocks[i].source)) return false;
    most = most > blocks[i].bytes ? most : blocks[i].bytes;
  }
  return state->engine[m] && most >= ocl_engine_worth();
}

/* ---- an exchange ---- */

static moecl_status begin_by(peer_state *state, bool engine, int m, const group_block *blocks,
                             size_t count, group_observer *observer) {
  peer *peer = &state->peer[m];
  const int exchange = peer->begun++; /* one that fails has had its number, too */
  const moecl_status status = engine ? copy_blocks(state, exchange, m, blocks, count, observer)
                                     : put_blocks(state, exchange, m, blocks, count, observer);
  peer->copied_by[exchange] = peer->copied;
  return status;
}

static moecl_status begin_part(void *user, int m, const group_block *blocks, size_t count,
                               group_observer *observer) {
  const bool engine = is_for_engine(user, m, blocks, count);
  return begin_by(user, engine, m, blocks, count, observer);
}

static moecl_status begin(void *user, const group_block *blocks, size_t count,
                          group_observer *observer) {
  peer_state *state = user;
  for (int m = 0; m < state->group->count; m++)
    MOECL_TRY(begin_part(state, m, blocks, count, observer));
  return MOECL_OK;
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
  MOECL_TRY(
      await(state, m, state->group->count, number_of(state, exchange), peer->copied_by[exchange]));
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
  group_observer *observer;
} trial;

static uint32_t tried_word(int turn, int member, uint32_t i) {
  return (((uint32_t)turn * MOECL_MAX_GROUP_MEMBERS + (uint32_t)member) * TRIED_WORDS + i) *
         2654435761u;
}

static void see_nothing(group_observer *observer, int member, cl_event event) {
  (void)observer, (void)member, (void)event;
}

static moecl_status make_buffers(trial *trial, int m) {
  moecl_context *context = context_of(trial->state, m);
  const int members = trial->state->group->count;
  const uint64_t bytes = TRIED_WORDS * sizeof(uint32_t);
  const uint32_t in_time = 0;
  MOECL_TRY(moecl_buffer_create(context, sizeof in_time, &trial->state->peer[m].late));
  MOECL_TRY(moecl_buffer_write_wait(trial->state->peer[m].late, 0, sizeof in_time, &in_time));
  MOECL_TRY(provide(trial->state, m, bytes, &trial->sources[m]));
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
static moecl_status exchange_words(const trial *trial, bool engines) {
  peer_state *state = trial->state;
  const int exchange = state->peer[0].begun;
  for (int m = 0; m < state->group->count; m++)
    MOECL_TRY(begin_by(state, engines, m, trial->blocks, trial->count, trial->observer));
  return finish(state, exchange);
}

static const char *send_words(const trial *trial, int turn, bool engines) {
  const int members = trial->state->group->count;
  bool came = true;
  moecl_status status = MOECL_OK;
  for (int m = 0; m < members && status == MOECL_OK; m++) status = write_words(trial, turn, m);
  if (status == MOECL_OK) status = exchange_words(trial, engines);
  for (int m = 0; m < members && status == MOECL_OK && came; m++)
    status = have_come(trial, turn, m, &came);
  if (status != MOECL_OK) return "a copy into another member's memory failed";
  return came ? NULL : "words that were copied into another member's memory did not arrive";
}

static const char *try_all(peer_state *state, bool engines) {
  const size_t members = (size_t)state->group->count;
  group_observer observer = {see_nothing};
  trial trial = {.state = state,
                 .observer = &observer,
                 .blocks = calloc(members * members, sizeof *trial.blocks)};
  const char *why = trial.blocks ? make_sharers(state, engines) : "no host memory";
  moecl_status status = MOECL_OK;
  state->limit = TRIED_FOR_NS;
  if (!why) status = make_peers(state);
  for (int m = 0; m < state->group->count && !why && status == MOECL_OK; m++)
    status = make_buffers(&trial, m);
  if (status != MOECL_OK) why = "memory of a member could not be had in another one's context";
  for (size_t i = 0; i < trial.count; i++)
    trial.blocks[i].destination = trial.arrivals[trial.blocks[i].to];
  if (!why) why = send_words(&trial, 0, false);
  if (!why && engines) why = send_words(&trial, 1, true);
  if (!why && engines) why = send_words(&trial, 2, false);
  free(trial.blocks);
  return why;
}

/* On queues of its own, and what fails is not yet an error. */
static const char *tried(const moecl_group *group, bool engines) {
  moecl_group copy = *group;
  ocl_trial trials[MOECL_MAX_GROUP_MEMBERS];
  const char *why = NULL;
  int entered = 0;
  for (int m = 0; m < group->count; m++)
    if (!(group->device[m].context->info.capabilities & MOECL_CAP_PTX_SM80))
      return "a member is no GPU of NVIDIA's (MOECL_CAP_PTX_SM80)";
  peer_state *state = make_state(&copy);
  if (!state) return "no host memory";
  while (entered < group->count && !why) {
    if (ocl_trial_enter(context_of(state, entered), &trials[entered]) == MOECL_OK) entered++;
    else why = "a member has no queue for it";
  }
  if (!why) why = try_all(state, engines);
  release(state);
  while (entered-- > 0) ocl_trial_leave(copy.device[entered].context, &trials[entered]);
  return why;
}

static const char *refuses(const moecl_group *group) { return tried(group, false); }

static const char *refuses_copy(const moecl_group *group) { return tried(group, true); }

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

/* By name alone until it has ended well on two GPUs. */
const group_transport group_nvidia_copy_transport = {.name = "nvidia_copy",
                                                     .overlaps = true,
                                                     .one_sided = true,
                                                     .asked_only = true,
                                                     .refuses = refuses_copy,
                                                     .create = create_copy,
                                                     .release = release,
                                                     .provide = provide,
                                                     .provide_source = provide,
                                                     .discard = discard,
                                                     .begin = begin,
                                                     .finish = finish,
                                                     .begin_part = begin_part,
                                                     .finish_part = finish_part,
                                                     .settle = settle};
