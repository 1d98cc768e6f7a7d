// SPDX-License-Identifier: MIT
/* The transport between members of different processes: a block goes in pieces from its device into
 * pinned memory, from there as a message into pinned memory of the other process, and to the other
 * device. Blocks between members that are near, of one process or where it serves of one node, go
 * by the transport around which this one is: that one knows a group of those alone (node.c).
 *
 * One thread moves all on, whenever it waits: pieces have states, and a look at each says whether
 * the next one has come. Everybody begins with the member after its own, so that no two send to the
 * same one at first. A member's pieces come in the order in which others send them to it: nobody
 * can wait for somebody in a circle. */
#include "base/base.h"
#include "base/grow.h"
#include "group/group.h"
#include <stdlib.h>

enum { SLOTS = 8, PIECE_BYTES = 4 << 20 };

typedef enum stage {
  WAITING, /* for a slot */
  COPIED,  /* is being: from the device, or to it */
  SENT,    /* is being: as a message, by us or to us */
  DONE
} stage;

typedef struct piece {
  group_block block; /* a part of one */
  int exchange;
  stage stage;
  cl_event ready; /* of a sender: its source is there */
  cl_event copy;
  ranks_message message;
  bool follows; /* it is an empty one behind one that failed */
} piece;

/* What one member sends to other processes, or gets from them, oldest first. */
typedef struct line {
  ocl_pinned pinned; /* a slot is a piece's until it is done */
  piece *pieces;
  size_t count, room;
  size_t begun, done; /* of the pieces; some after those may be done as well */
} line;

typedef struct told {      /* of a member's copies by `near` */
  group_observer observer; /* first: a pointer to one is a pointer to the other */
  group_observer *to;
  int shift; /* from numbers of members there to those of the group */
} told;

typedef struct messages_state {
  moecl_group *group; /* which has this, and lives longer */
  told told[MOECL_MAX_GROUP_MEMBERS];
  group_observer *observer;
  moecl_group *near; /* the group's */
  int exchanges;
  bool failed; /* pieces go without what is in them */
  bool lost;   /* MPI has failed in a message, which may come when another one is waited for */
  bool broken; /* for good: messages were given up, or lost */
  line out[MOECL_MAX_GROUP_MEMBERS], in[MOECL_MAX_GROUP_MEMBERS];
  cl_event arrived[MOECL_MAX_GROUP_MEMBERS]; /* the last copy to it that nothing follows yet */
} messages_state;

/* ---- making ---- */

/* `near` tells of its members, in whichever thread. */
static void copied(group_observer *observer, int member, cl_event event) {
  const told *told = (struct told *)observer;
  told->to->copied(told->to, member + told->shift, event);
}

moecl_status group_messages_create(moecl_group *group, void **out) {
  messages_state *state = calloc(1, sizeof *state);
  *out = state;
  if (!state) return log_error(group_log(group), MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  *state = (messages_state){.group = group, .near = group->near};
  for (int m = group->begin; m < group->end; m++) {
    group_device *device = &group->device[m];
    const uint64_t bytes = (uint64_t)SLOTS * PIECE_BYTES;
    MOECL_TRY(ocl_pinned_create(&device->out, bytes, &state->out[m].pinned));
    MOECL_TRY(ocl_pinned_create(&device->in, bytes, &state->in[m].pinned));
  }
  return MOECL_OK;
}

/* False, and pieces are left: MPI still has some of the slots. */
static bool forget_pieces(messages_state *state, line *line) {
  bool all = true;
  for (size_t i = 0; i < line->count; i++) {
    piece *piece = &line->pieces[i];
    ocl_event_let_go(&piece->ready);
    ocl_event_let_go(&piece->copy);
    state->broken = state->broken || piece->message.under_way;
    all = ranks_give_up(state->group->ranks, &piece->message) && all;
  }
  if (all) line->count = line->begun = line->done = 0;
  return all;
}

/* ---- members that are near ---- */

static int near_of(const messages_state *state, int member) {
  return state->group->device[member].near;
}

static moecl_status provide(void *user, const group_arrival *arrivals, size_t count) {
  messages_state *state = user;
  group_arrival near[GROUP_MOST_ARRIVALS];
  size_t found = 0;
  for (size_t i = 0; i < count; i++) {
    const int member = near_of(state, arrivals[i].member);
    if (member >= 0) near[found++] = (group_arrival){member, arrivals[i].bytes, arrivals[i].buffer};
  }
  return group_provide_arrivals(state->near, near, found);
}

static moecl_status provide_source(void *user, int member, uint64_t bytes, moecl_buffer **buffer) {
  messages_state *state = user;
  return group_provide_source(state->near, near_of(state, member), bytes, buffer);
}

static void discard(void *user, moecl_buffer **buffer) {
  group_discard_arrivals(((messages_state *)user)->near, buffer);
}

static group_reached reach(void *user, const moecl_buffer *buffer, int from, uint64_t offset) {
  const messages_state *state = user;
  const int near = near_of(state, from);
  return near >= 0 ? group_reach_at(state->near, buffer, near, offset)
                   : (group_reached){NULL, 0, 0};
}

static void open_near(void *user) {
  const moecl_group *near = ((messages_state *)user)->near;
  if (near->transport->open) near->transport->open(near->state);
}

/* Are both ends of a block near? Then both are, or neither, in the eyes of either's process. */
static bool is_near(const messages_state *state, const group_block *block) {
  return near_of(state, block->from) >= 0 && near_of(state, block->to) >= 0;
}

/* Blocks that are near, as `near` has them, from or to a member; returns how many. */
static size_t pick_near(const messages_state *state, int member, const group_block *blocks,
                        size_t count, group_block *near) {
  size_t found = 0;
  for (size_t i = 0; i < count; i++) {
    const group_block *block = &blocks[i];
    if (!is_near(state, block)) continue;
    if (block->from != member && block->to != member) continue;
    near[found] = *block;
    near[found].from = near_of(state, block->from);
    near[found++].to = near_of(state, block->to);
  }
  return found;
}

/* ---- pieces ---- */

static moecl_status make_room(messages_state *state, line *line, size_t count) {
  piece *pieces = base_grow(line->pieces, count, &line->room, sizeof *pieces);
  if (!pieces)
    return log_error(group_log(state->group), MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  line->pieces = pieces;
  return MOECL_OK;
}

/* Of each block at most one piece is not full. */
static moecl_status reserve(void *user, int member, uint64_t sent, uint64_t received) {
  messages_state *state = user;
  const size_t blocks = (size_t)state->group->count * GROUP_MOST_EXCHANGES;
  if (state->broken)
    return log_error(group_log(state->group), MOECL_ERROR_DEVICE,
                     "group: MPI failed in an earlier forward, whose messages may still come; "
                     "destroy the group and make another one");
  MOECL_TRY(make_room(state, &state->out[member], (size_t)(sent / PIECE_BYTES) + blocks));
  return make_room(state, &state->in[member], (size_t)(received / PIECE_BYTES) + blocks);
}

static moecl_status add_piece(messages_state *state, line *line, const group_block *block,
                              cl_event ready) {
  MOECL_TRY(make_room(state, line, line->count + 1));
  piece *piece = &line->pieces[line->count++];
  *piece = (struct piece){.block = *block, .exchange = state->exchanges};
  if (!ready || ocl_event_keep(&piece->ready, ready)) return MOECL_OK;
  return log_error(group_log(state->group), MOECL_ERROR_DEVICE, "clRetainEvent failed");
}

/* All of them, also after a failure. */
static moecl_status add_pieces(messages_state *state, line *line, const group_block *block,
                               cl_event ready) {
  group_block part = *block;
  moecl_status status = MOECL_OK;
  for (uint64_t left = block->bytes; left > 0; left -= part.bytes) {
    part.bytes = left < PIECE_BYTES ? left : PIECE_BYTES;
    const moecl_status added = add_piece(state, line, &part, ready);
    if (status == MOECL_OK) status = added;
    part.source_offset += part.bytes;
    part.destination_offset += part.bytes;
  }
  return status;
}

static char *slot_of(const line *line, size_t piece) {
  return (char *)line->pinned.host + piece % SLOTS * PIECE_BYTES;
}

static int tag_of(const group_block *block) {
  return block->from * MOECL_MAX_GROUP_MEMBERS + block->to;
}

/* A copy that failed leaves a piece as good as any to go on with. */
static moecl_status look_at_copy(messages_state *state, int member, piece *piece, bool *done) {
  *done = true;
  if (!piece->copy) return MOECL_OK;
  const moecl_status status =
      ocl_event_look(state->group->device[member].context, piece->copy, done);
  if (status != MOECL_OK) *done = true;
  return state->failed ? MOECL_OK : status;
}

/* How MPI's call for a message ended. What is left of an exchange goes on: others want it. */
static moecl_status note_loss(messages_state *state, moecl_status status) {
  state->lost = state->lost || status != MOECL_OK;
  return status;
}

/* Where MPI has failed before an empty one, which goes with little and tells the other process. */
static moecl_status send_piece(messages_state *state, line *line, size_t i) {
  piece *piece = &line->pieces[i];
  piece->stage = SENT;
  return note_loss(state,
                   ranks_send(state->group->ranks, state->group->device[piece->block.to].rank,
                              tag_of(&piece->block), slot_of(line, i),
                              state->lost ? 0 : piece->block.bytes, &piece->message));
}

/* A message that failed may have gone or not: an empty one follows it, so that nobody waits in
 * vain, or, where that is what failed, nothing. */
static moecl_status look_at_sent(messages_state *state, line *line, size_t i, bool *done) {
  piece *piece = &line->pieces[i];
  const moecl_status status =
      note_loss(state, ranks_test(state->group->ranks, &piece->message, done));
  if (status == MOECL_OK) return MOECL_OK;
  *done = piece->follows;
  piece->follows = true;
  if (!*done) (void)send_piece(state, line, i);
  return status;
}

/* From the device into the slot, and from there to the other process. */
static moecl_status move_out(messages_state *state, line *line, size_t i, bool *moved) {
  piece *piece = &line->pieces[i];
  const group_block *block = &piece->block;
  group_device *device = &state->group->device[block->from];
  bool done = false;
  switch (piece->stage) {
  case WAITING:
    *moved = true;
    piece->stage = COPIED;
    if (state->failed) return MOECL_OK;
    MOECL_TRY(ocl_lane_read(&device->out, block->source, block->source_offset, block->bytes,
                            slot_of(line, i), piece->ready, &piece->copy));
    state->observer->copied(state->observer, block->from, piece->copy);
    return MOECL_OK;
  case COPIED: /* two copies may end between two looks: the other process counts on the order */
    if (i > line->done && line->pieces[i - 1].stage < SENT) return MOECL_OK;
    MOECL_TRY(look_at_copy(state, block->from, piece, &done));
    *moved = *moved || done;
    return done ? send_piece(state, line, i) : MOECL_OK;
  case SENT: {
    const moecl_status status = look_at_sent(state, line, i, &done);
    *moved = *moved || done;
    if (done) piece->stage = DONE;
    return status;
  }
  default: return MOECL_OK;
  }
}

static moecl_status write_piece(messages_state *state, line *line, size_t i) {
  piece *piece = &line->pieces[i];
  const group_block *block = &piece->block;
  piece->stage = COPIED;
  if (state->failed) return MOECL_OK;
  MOECL_TRY(ocl_lane_write(&state->group->device[block->to].in, slot_of(line, i),
                           block->destination, block->destination_offset, block->bytes, NULL,
                           &piece->copy));
  state->observer->copied(state->observer, block->to, piece->copy);
  if (ocl_event_keep(&state->arrived[block->to], piece->copy)) return MOECL_OK;
  return log_error(group_log(state->group), MOECL_ERROR_DEVICE, "clRetainEvent failed");
}

/* From the other process into the slot, and from there to the device. */
static moecl_status move_in(messages_state *state, line *line, size_t i, bool *moved) {
  piece *piece = &line->pieces[i];
  const group_block *block = &piece->block;
  bool done = false;
  switch (piece->stage) {
  case WAITING:
    *moved = true;
    piece->stage = SENT;
    return note_loss(state,
                     ranks_receive(state->group->ranks, state->group->device[block->from].rank,
                                   tag_of(block), slot_of(line, i), block->bytes, &piece->message));
  case SENT: {
    const moecl_status status =
        note_loss(state, ranks_test(state->group->ranks, &piece->message, &done));
    *moved = *moved || done;
    if (status != MOECL_OK) piece->stage = DONE;
    return status == MOECL_OK && done ? write_piece(state, line, i) : status;
  }
  case COPIED:
    MOECL_TRY(look_at_copy(state, block->to, piece, &done));
    *moved = *moved || done;
    if (done) piece->stage = DONE;
    return MOECL_OK;
  default: return MOECL_OK;
  }
}

typedef moecl_status mover(messages_state *state, line *line, size_t i, bool *moved);

static moecl_status move_line(messages_state *state, line *line, mover *move, bool *moved) {
  for (size_t i = line->done; i < line->begun; i++) MOECL_TRY(move(state, line, i, moved));
  while (line->done < line->begun && line->pieces[line->done].stage == DONE) line->done++;
  while (line->begun < line->count && line->begun - line->done < SLOTS)
    MOECL_TRY(move(state, line, line->begun++, moved));
  return MOECL_OK;
}

static moecl_status move_all(messages_state *state, bool *moved) {
  for (int m = state->group->begin; m < state->group->end; m++) {
    MOECL_TRY(move_line(state, &state->in[m], move_in, moved));
    MOECL_TRY(move_line(state, &state->out[m], move_out, moved));
  }
  return MOECL_OK;
}

/* ---- an exchange ---- */

/* Blocks of an own member with others `distance` members further on, or before it. */
static moecl_status add_distance(messages_state *state, const group_block *blocks, size_t count,
                                 int distance, const cl_event *ready) {
  const moecl_group *group = state->group;
  moecl_status status = MOECL_OK, added;
  for (size_t i = 0; i < count; i++) {
    const group_block *block = &blocks[i];
    const bool from = group_has(group, block->from), to = group_has(group, block->to);
    if (from == to || is_near(state, block) ||
        (block->to - block->from + group->count) % group->count != distance)
      continue;
    added = from ? add_pieces(state, &state->out[block->from], block, ready[block->from])
                 : add_pieces(state, &state->in[block->to], block, NULL);
    if (status == MOECL_OK) status = added;
  }
  return status;
}

static moecl_status mark_sources(messages_state *state, const group_block *blocks, size_t count,
                                 cl_event *ready) {
  const moecl_group *group = state->group;
  for (size_t i = 0; !state->failed && i < count; i++) {
    const int from = blocks[i].from;
    if (!group_has(group, from) || is_near(state, &blocks[i]) || ready[from]) continue;
    MOECL_TRY(ocl_queue_mark(group->device[from].context, &ready[from]));
  }
  return MOECL_OK;
}

static moecl_status begin_part(void *user, int member, const group_block *blocks, size_t count,
                               group_observer *observer) {
  messages_state *state = user;
  const moecl_group *near = state->near;
  told *told = &state->told[member];
  if (told->to != observer) /* once a forward, whose copies others may tell of by now */
    *told = (struct told){{copied}, observer, state->group->begin - near->begin};
  group_block *picked = malloc((count ? count : 1) * sizeof *picked);
  if (!picked)
    return log_error(&state->group->device[member].context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY,
                     "no host memory");
  const size_t found = pick_near(state, member, blocks, count, picked);
  const moecl_status status = near->transport->begin_part(near->state, near_of(state, member),
                                                          picked, found, &told->observer);
  free(picked);
  return status;
}

static moecl_status finish_part(void *user, int member, int exchange) {
  const messages_state *state = user;
  const moecl_group *near = state->near;
  return near->transport->finish_part(near->state, near_of(state, member), exchange);
}

/* Whatever fails, all pieces are there: others count on them. */
static moecl_status begin(void *user, const group_block *blocks, size_t count,
                          group_observer *observer) {
  messages_state *state = user;
  cl_event ready[MOECL_MAX_GROUP_MEMBERS] = {NULL};
  bool moved = false;
  if (state->exchanges == 0) state->observer = observer; /* the inner one's threads look at it */
  moecl_status status = mark_sources(state, blocks, count, ready);
  for (int distance = 1; distance < state->group->count; distance++) {
    const moecl_status added = add_distance(state, blocks, count, distance, ready);
    if (status == MOECL_OK) status = added;
  }
  state->exchanges++;
  if (status == MOECL_OK) status = move_all(state, &moved);
  for (int m = 0; m < state->group->count; m++) ocl_event_let_go(&ready[m]);
  return status;
}

/* Has what comes been handed on, and has what goes left? */
static bool is_over(const line *line, bool comes, int exchange) {
  for (size_t i = line->done; i < line->count && line->pieces[i].exchange <= exchange; i++)
    if (line->pieces[i].stage != DONE && !(comes && line->pieces[i].stage == COPIED)) return false;
  return true;
}

static bool all_over(const messages_state *state, int exchange) {
  for (int m = state->group->begin; m < state->group->end; m++)
    if (!is_over(&state->in[m], true, exchange) || !is_over(&state->out[m], false, exchange))
      return false;
  return true;
}

/* Kernels of a CPU want the processor that looks for messages would take from them: theirs are done
 * before anybody looks. Nobody waits in a circle: they follow nothing that is still to come. */
static moecl_status await_sources(messages_state *state, int exchange) {
  for (int m = state->group->begin; !state->failed && m < state->group->end; m++) {
    moecl_context *context = state->group->device[m].context;
    const line *line = &state->out[m];
    if (context->info.type != MOECL_DEVICE_CPU) continue;
    for (size_t i = line->done; i < line->count && line->pieces[i].exchange <= exchange; i++)
      if (line->pieces[i].ready) MOECL_TRY(ocl_event_await(context, line->pieces[i].ready));
  }
  return MOECL_OK;
}

static moecl_status await(messages_state *state, int exchange) {
  int looks = 0;
  MOECL_TRY(await_sources(state, exchange));
  while (!all_over(state, exchange)) {
    bool moved = false;
    MOECL_TRY(move_all(state, &moved));
    if (moved) looks = 0;
    else ranks_pause(&looks);
  }
  return MOECL_OK;
}

static moecl_status finish(void *user, int exchange) {
  messages_state *state = user;
  MOECL_TRY(await(state, exchange));
  for (int m = state->group->begin; m < state->group->end; m++) {
    if (!state->arrived[m]) continue; /* lanes keep order: the last copy is enough */
    MOECL_TRY(ocl_queue_after(state->group->device[m].context, &state->arrived[m], 1));
    ocl_event_let_go(&state->arrived[m]);
  }
  return MOECL_OK;
}

static void fail(void *user) { ((messages_state *)user)->failed = true; }

/* What is left of messages goes, whatever is in them and whatever fails: a piece is the further on
 * for it. Where MPI failed in one the group is of no more use: of what was sent, some may come when
 * others wait for rows. */
static void settle(void *user) {
  messages_state *state = user;
  if (!state->broken && !all_over(state, GROUP_MOST_EXCHANGES)) {
    state->failed = true;
    while (await(state, GROUP_MOST_EXCHANGES) != MOECL_OK) {
    }
  }
  if (state->near->state) state->near->transport->settle(state->near->state);
  for (int m = state->group->begin; m < state->group->end; m++) {
    ocl_lane_finish(&state->group->device[m].out);
    ocl_lane_finish(&state->group->device[m].in);
    forget_pieces(state, &state->out[m]);
    forget_pieces(state, &state->in[m]);
    ocl_event_let_go(&state->arrived[m]);
  }
  state->broken = state->broken || state->lost;
  state->exchanges = 0;
  state->failed = false;
}

/* What MPI has to the end of the process stays for as long. */
static void release_line(messages_state *state, line *line) {
  if (forget_pieces(state, line)) ocl_pinned_release(&line->pinned);
  free(line->pieces);
}

static void release(void *user) {
  messages_state *state = user;
  settle(state);
  for (int m = state->group->begin; m < state->group->end; m++) {
    release_line(state, &state->out[m]);
    release_line(state, &state->in[m]);
  }
  free(state);
}

const group_transport group_messages_transport = {.name = "mpi",
                                                  .overlaps = true,
                                                  .release = release,
                                                  .provide = provide,
                                                  .provide_source = provide_source,
                                                  .discard = discard,
                                                  .reach = reach,
                                                  .open = open_near,
                                                  .reserve = reserve,
                                                  .begin = begin,
                                                  .finish = finish,
                                                  .begin_part = begin_part,
                                                  .finish_part = finish_part,
                                                  .settle = settle,
                                                  .fail = fail};
