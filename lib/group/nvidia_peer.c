// SPDX-License-Identifier: MIT
/* The two transports over the links between GPUs of one host. Buffers that rows arrive in are in
 * all members' contexts (nvidia_memory.c); the host waits for nothing.
 *
 * nvidia_peer: a kernel on the sender's queue stores into the receiver's memory, that of a step
 * before the exchange or one of the transport's; behind it another one writes the exchange's number
 * into the receivers' flags, and a third, on the receiver's queue, waits for that
 * (cl/dispatch/nvidia_peer.cl). All of it is on the contexts' queues: NVIDIA's OpenCL copies
 * between devices by kernels too, so that a second queue would hide nothing beside kernels that
 * fill the GPU, and waits of one queue for another cost 50 us (cl/dispatch/NOTES.md). Members may
 * be of several processes of the host: node.c says who waits for whom.
 *
 * nvidia_copy: rows are gathered into the sender's memory, and large blocks of it copied beside
 * kernels, by the sender's copy engine. A kernel on its queue tells it that the rows are there, it
 * copies, and writes the number. So rows have to leave from such memory, too; the rest goes by
 * kernels. */
#include "base/grow.h"
#include "group/nvidia_peer.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Flags are in cache lines of their own. */
enum { FLAG_WORDS = 32, LOCAL = MOECL_MAX_GROUP_MEMBERS };
/* What stores to another GPU: as many work-groups as keep the links busy. */
enum { PUT_LOCAL = 256, PUT_GROUPS = 1024, PUT_UNIT = 16 };
enum { SET_AT_ONCE = 8 }; /* flags that a launch sets */
#define LOST_AFTER_NS UINT64_C(10000000000)
/* Of an engine, when all that it waits for has come or does not come any more. */
#define QUIET_AFTER_NS UINT64_C(1000000000)

static const char *const entries[PEER_KERNELS] = {[PEER_PUT] = "put",
                                                  [PEER_PUT_BYTES] = "put_bytes",
                                                  [PEER_SET] = "set_flags",
                                                  [PEER_AWAIT] = "await_flags"};

/* ---- flags: a line for each member's numbers, the own one for those of what the own engine has
 * copied; and one that the queue writes for the engine ---- */

static uint32_t ready_line(const peer_state *state) { return (uint32_t)state->group->count; }

/* A line of a member's flags, as engines have it. */
static uint64_t word_of(const peer_state *state, int member, uint32_t line) {
  return state->peer[member].flags.mapped[0].address + line * FLAG_WORDS * sizeof(uint32_t);
}

void peer_quiet(peer_state *state) {
  const int begin = state->group->begin, end = state->group->end;
  for (int m = begin; m < end && state->engine[m]; m++)
    (void)moecl_context_finish_wait(peer_context(state, m));
  for (int m = begin; m < end && state->engine[m]; m++) {
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

/* ---- a transport's making ---- */

const char *peer_agree(const peer_state *state, const char *why) {
  if (ranks_all(state->group->ranks, !why) || why) return why;
  return GROUP_ELSEWHERE;
}

static moecl_status make_kernels(peer_state *state, int m) {
  char defines[128];
  snprintf(defines, sizeof defines, "LOCAL %d\nPUT_LOCAL %d\nFLAG_WORDS %d\n", LOCAL, PUT_LOCAL,
           FLAG_WORDS);
  for (int i = 0; i < PEER_KERNELS; i++)
    MOECL_TRY(ocl_kernel_create(peer_context(state, m), "dispatch/nvidia_peer.cl", defines,
                                entries[i], &state->peer[m].kernels[i]));
  return MOECL_OK;
}

/* No number but the first one's is behind what they say. */
static moecl_status fill_flags(peer_state *state, int m) {
  const area *flags = &state->peer[m].flags;
  state->peer[m].copied = state->peer[m].followed = state->before;
  MOECL_TRY(moecl_buffer_fill_byte(flags->own, 0, flags->bytes, UINT8_MAX));
  return moecl_context_finish_wait(peer_context(state, m));
}

static moecl_status make_flags(peer_state *state, moecl_status status) {
  area areas[MOECL_MAX_GROUP_MEMBERS];
  const uint64_t bytes = (uint64_t)(ready_line(state) + 1) * FLAG_WORDS * sizeof(uint32_t);
  const moecl_group *group = state->group;
  for (int m = 0; m < group->count; m++) areas[m] = (area){.member = m, .bytes = bytes};
  MOECL_TRY(peer_make_areas(state, status, areas, (size_t)group->count));
  for (int m = 0; m < group->count; m++) state->peer[m].flags = areas[m];
  for (int m = group->begin; m < group->end && status == MOECL_OK; m++)
    status = fill_flags(state, m);
  return ranks_agree(group->ranks, status, "group"); /* nobody sets any before */
}

/* Of every own member to every other one; those of other processes look at theirs. */
static const char *look_at_devices(peer_state *state) {
  ocl_device_mark marks[MOECL_MAX_GROUP_MEMBERS] = {{{0}}};
  const moecl_group *group = state->group;
  const char *why = NULL;
  for (int m = group->begin; m < group->end; m++) marks[m] = ocl_sharer_mark(state->peer[m].sharer);
  if (group_share(group, marks, sizeof *marks) != MOECL_OK) return "MPI fails";
  for (int m = group->begin; m < group->end; m++)
    for (int other = 0; other < group->count && !why; other++)
      if (other != m) why = ocl_sharer_refuses(state->peer[m].sharer, &marks[other]);
  return why;
}

const char *peer_make_sharers(peer_state *state, bool engines) {
  const moecl_group *group = state->group;
  const char *why = NULL;
  for (int m = group->begin; m < group->end && !why; m++)
    why = ocl_sharer_create(peer_context(state, m), &state->peer[m].sharer);
  why = peer_agree(state, why);
  if (!why) why = peer_agree(state, look_at_devices(state));
  for (int m = group->begin; m < group->end && engines && !why; m++)
    why = ocl_engine_create(state->peer[m].sharer, &state->engine[m]);
  why = peer_agree(state, why);
  if (!why && group->ranks &&
      descriptors_open(group_log(group), group->ranks, &state->descriptors) != MOECL_OK)
    why = "processes of this machine cannot pass each other descriptors";
  return why;
}

static void release_peer(peer_state *state, int m) {
  peer *peer = &state->peer[m];
  moecl_buffer_destroy(&peer->late);
  for (int i = 0; i < PEER_KERNELS; i++) ocl_kernel_destroy(&peer->kernels[i]);
  ocl_sharer_destroy(&peer->sharer);
}

/* As many numbers for each forward, had it begun as many exchanges or not: ranks that failed in it
 * may have begun fewer than others. */
static void open_numbers(void *user) {
  peer_state *state = user;
  if (state->opened) state->before += GROUP_MOST_EXCHANGES;
  state->opened = true;
}

/* What was begun is followed by what its receivers' queues have, and by nobody after a failure. */
static void settle(void *user) {
  peer_state *state = user;
  bool failed = false;
  for (int m = state->group->begin; m < state->group->end; m++) {
    peer *peer = &state->peer[m];
    failed |= peer->finished < peer->begun;
    peer->begun = peer->finished = 0;
  }
  if (failed) peer_quiet(state);
  state->num_parts = 0;
}

void peer_release(void *user) {
  peer_state *state = user;
  const moecl_group *group = state->group;
  peer_quiet(state);
  for (size_t i = 0; i < state->count; i++) peer_release_area(state, &state->areas[i]);
  for (int m = 0; m < group->count; m++) peer_release_area(state, &state->peer[m].flags);
  for (int m = group->begin; m < group->end; m++) ocl_engine_destroy(&state->engine[m]);
  for (int m = group->begin; m < group->end; m++) release_peer(state, m);
  descriptors_close(&state->descriptors);
  free(state->areas);
  free(state->parts);
  pthread_mutex_destroy(&state->parts_lock);
  free(state);
}

/* Beside the contexts' queues. */
moecl_status peer_make_peers(peer_state *state) {
  ocl_aside aside[MOECL_MAX_GROUP_MEMBERS];
  const moecl_group *group = state->group;
  moecl_status status = MOECL_OK;
  int entered = group->begin;
  while (entered < group->end && status == MOECL_OK) {
    status = ocl_aside_enter(peer_context(state, entered), &aside[entered]);
    entered += status == MOECL_OK;
  }
  for (int m = group->begin; m < group->end && status == MOECL_OK; m++)
    status = make_kernels(state, m);
  status = make_flags(state, status);
  while (entered-- > group->begin) ocl_aside_leave(peer_context(state, entered), &aside[entered]);
  return status;
}

peer_state *peer_make_state(moecl_group *group) {
  peer_state *state = calloc(1, sizeof *state);
  if (!state) return NULL;
  *state = (peer_state){
      .group = group, .limit = LOST_AFTER_NS, .most = ocl_shared_most(), .before = UINT32_MAX};
  pthread_mutex_init(&state->parts_lock, NULL);
  return state;
}

static moecl_status make(moecl_group *group, bool engines, void **out) {
  peer_state *state = peer_make_state(group);
  const moecl_log *log = group_log(group);
  *out = state;
  MOECL_TRY(ranks_agree(group->ranks, state ? MOECL_OK : peer_no_memory(log), "group"));
  const char *why = peer_make_sharers(state, engines);
  if (why) return log_error(log, MOECL_ERROR_UNSUPPORTED, "group: %s", why);
  return peer_make_peers(state);
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
  ocl_chain chain = {.context = peer_context(state, m), .observer = &told.observer};
  const bool whole = (from_offset | to_offset | bytes) % PUT_UNIT == 0;
  const uint64_t unit = whole ? PUT_UNIT : 1, units = bytes / unit;
  const uint64_t groups = base_div_up(units, PUT_LOCAL);
  ocl_kernel *kernel = state->peer[m].kernels[whole ? PEER_PUT : PEER_PUT_BYTES];
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

/* For a member of another process: whether it does, and how. */
static group_reached reach(void *user, const moecl_buffer *buffer, int from, uint64_t offset) {
  const peer_state *state = user;
  const area *area = peer_find_area(state, buffer);
  if (!area) return (group_reached){NULL, 0, 0};
  const place place = place_of(state, area, offset);
  const bool own = group_has(state->group, from);
  return (group_reached){own ? peer_piece(state, area, place.piece)[from] : area->own, place.at,
                         place.left};
}

static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }

static moecl_status find_destination(const peer_state *state, int who, const group_block *block,
                                     const area **found) {
  *found = peer_find_area(state, block->destination);
  if (*found) return MOECL_OK;
  return log_error(&peer_context(state, who)->log, MOECL_ERROR_INVALID_ARGUMENT,
                   "group: rows are to go to memory that the transport has not made");
}

/* The receiver copies from the piece what is there behind the exchange; `who` tells of it. */
static moecl_status keep_part(peer_state *state, int exchange, int who, const area *to,
                              const place *place, uint64_t offset, uint64_t bytes) {
  const part part = {to->member, exchange,  peer_piece(state, to, place->piece)[to->member],
                     to->own,    place->at, offset,
                     bytes};
  if (to->pieces == 1 || !group_has(state->group, to->member)) return MOECL_OK;
  pthread_mutex_lock(&state->parts_lock);
  struct part *grown =
      base_grow(state->parts, state->num_parts + 1, &state->parts_room, sizeof *grown);
  if (grown) state->parts = grown;
  if (grown) grown[state->num_parts++] = part;
  pthread_mutex_unlock(&state->parts_lock);
  return grown ? MOECL_OK : peer_no_memory(&peer_context(state, who)->log);
}

/* A block that the member sends, which it stores, or one that another process stores here. The
 * parts of both are kept. */
static moecl_status put_block(peer_state *state, int exchange, int m, const group_block *block,
                              group_observer *observer) {
  const bool stores = block->from == m && block->source;
  const area *to;
  MOECL_TRY(find_destination(state, m, block, &to));
  for (uint64_t done = 0, bytes; done < block->bytes; done += bytes) {
    const uint64_t offset = block->destination_offset + done;
    const place place = place_of(state, to, offset);
    bytes = least(block->bytes - done, place.left);
    if (stores)
      MOECL_TRY(put(state, m, block->source, block->source_offset + done,
                    peer_piece(state, to, place.piece)[m], place.at, bytes, observer));
    MOECL_TRY(keep_part(state, exchange, m, to, &place, offset, bytes));
  }
  return MOECL_OK;
}

static moecl_status set_flags(peer_state *state, ocl_chain *chain, int m,
                              moecl_buffer *const *flags, int count, uint32_t line,
                              uint32_t number) {
  ocl_kernel *kernel = state->peer[m].kernels[PEER_SET];
  const moecl_buffer *at[SET_AT_ONCE];
  for (int i = 0; i < SET_AT_ONCE; i++) at[i] = flags[i < count ? i : 0];
  MOECL_TRY(ocl_kernel_args(kernel, "bbbbbbbbuuu", at[0], at[1], at[2], at[3], at[4], at[5], at[6],
                            at[7], (uint32_t)count, line, number));
  return ocl_launch(chain, kernel, 1, LOCAL);
}

/* Its number to all others, had they rows or not; and off they go. */
static moecl_status send_number(peer_state *state, int m, uint32_t number) {
  ocl_chain chain = {.context = peer_context(state, m)};
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
  ocl_chain chain = {.context = peer_context(state, m)};
  ocl_kernel *kernel = peer->kernels[PEER_AWAIT];
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
  for (size_t i = 0; i < count; i++) {
    const bool is_told = blocks[i].to == m && !group_has(state->group, blocks[i].from);
    if (blocks[i].from == m || is_told)
      MOECL_TRY(put_block(state, exchange, m, &blocks[i], observer));
  }
  return send_number(state, m, number_of(state, exchange));
}

/* ---- by engines ---- */

/* What leaves from pieces, to them. */
static moecl_status stage(const peer_state *state, const group_block *block) {
  const area *from = peer_find_area(state, block->source);
  if (from->pieces == 1) return MOECL_OK;
  for (uint64_t done = 0, bytes; done < block->bytes; done += bytes) {
    const uint64_t offset = block->source_offset + done;
    const place place = place_of(state, from, offset);
    bytes = least(block->bytes - done, place.left);
    MOECL_TRY(ocl_buffer_copy(from->own, offset, peer_piece(state, from, place.piece)[block->from],
                              place.at, bytes));
  }
  return MOECL_OK;
}

static moecl_status copy_block(peer_state *state, int exchange, const group_block *block) {
  const area *from = peer_find_area(state, block->source), *to;
  MOECL_TRY(find_destination(state, block->from, block, &to));
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
  ocl_chain chain = {.context = peer_context(state, m)};
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
    if (!peer_find_area(state, blocks[i].source)) return false;
    most = most > blocks[i].bytes ? most : blocks[i].bytes;
  }
  return state->engine[m] && most >= ocl_engine_worth();
}

/* ---- an exchange ---- */

moecl_status peer_begin_by(peer_state *state, bool engine, int m, const group_block *blocks,
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
  return peer_begin_by(user, engine, m, blocks, count, observer);
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

moecl_status peer_finish_part(void *user, int m, int exchange) {
  peer_state *state = user;
  peer *peer = &state->peer[m];
  if (exchange < peer->finished) return MOECL_OK;
  MOECL_TRY(
      await(state, m, state->group->count, number_of(state, exchange), peer->copied_by[exchange]));
  peer->finished = exchange + 1;
  return copy_parts(state, m, exchange);
}

static const char *refuses(const moecl_group *group) { return peer_tried(group, false); }

static const char *refuses_copy(const moecl_group *group) { return peer_tried(group, true); }

const group_transport group_nvidia_peer_transport = {.name = "nvidia_peer",
                                                     .one_sided = true,
                                                     .across = true,
                                                     .refuses = refuses,
                                                     .create = create,
                                                     .release = peer_release,
                                                     .provide = peer_provide,
                                                     .discard = peer_discard,
                                                     .reach = reach,
                                                     .open = open_numbers,
                                                     .begin_part = begin_part,
                                                     .finish_part = peer_finish_part,
                                                     .settle = settle};

/* By name alone: kernels' stores are faster (cl/dispatch/NOTES.md). Engines write into memory of
 * this process's mappings. */
const group_transport group_nvidia_copy_transport = {.name = "nvidia_copy",
                                                     .overlaps = true,
                                                     .one_sided = true,
                                                     .asked_only = true,
                                                     .refuses = refuses_copy,
                                                     .create = create_copy,
                                                     .release = peer_release,
                                                     .provide = peer_provide,
                                                     .provide_source = peer_provide_source,
                                                     .discard = peer_discard,
                                                     .open = open_numbers,
                                                     .begin_part = begin_part,
                                                     .finish_part = peer_finish_part,
                                                     .settle = settle};
