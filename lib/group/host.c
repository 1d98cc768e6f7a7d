// SPDX-License-Identifier: MIT
/* The transport through the host: a block goes in pieces from its device into pinned memory of the
 * sender, and from there to the other device; while one piece goes up the next ones come down.
 * One thread does it all: it waits for pieces in the order in which they were begun. */
#include "base/base.h"
#include "group/group.h"
#include <stdlib.h>

enum { SLOTS = 8, PIECE_BYTES = 4 << 20 };

typedef struct piece {
  group_block block; /* a part of one */
  int exchange;
  cl_event ready; /* its source is there */
  cl_event read;  /* NULL: not begun */
} piece;

/* A sender's pieces, oldest first. */
typedef struct sender {
  ocl_pinned pinned;
  cl_event written[SLOTS]; /* who used the slot last: NULL, or has to be done with it */
  piece *pieces;
  size_t count, room;
  size_t begun, done; /* of the pieces */
} sender;

typedef struct host_state {
  moecl_group *group; /* which has this, and lives longer */
  group_observer *observer;
  int exchanges;
  sender sender[MOECL_MAX_GROUP_MEMBERS];
  cl_event arrived[MOECL_MAX_GROUP_MEMBERS]; /* the last copy to it that nothing follows yet */
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
  for (int m = 0; m < group->count && group->count > 1; m++)
    MOECL_TRY(ocl_pinned_create(&group->device[m].out, (uint64_t)SLOTS * PIECE_BYTES,
                                &state->sender[m].pinned));
  return MOECL_OK;
}

static void forget_pieces(sender *sender) {
  for (size_t i = 0; i < sender->count; i++) {
    ocl_event_let_go(&sender->pieces[i].ready);
    ocl_event_let_go(&sender->pieces[i].read);
  }
  sender->count = sender->begun = sender->done = 0;
}

static void settle(void *user) {
  host_state *state = user;
  for (int m = 0; m < state->group->count; m++) {
    ocl_lane_finish(&state->group->device[m].out);
    ocl_lane_finish(&state->group->device[m].in);
  }
  for (int m = 0; m < state->group->count; m++) {
    forget_pieces(&state->sender[m]);
    for (int s = 0; s < SLOTS; s++) ocl_event_let_go(&state->sender[m].written[s]);
    ocl_event_let_go(&state->arrived[m]);
  }
  state->exchanges = 0;
}

static void release(void *user) {
  host_state *state = user;
  settle(state);
  for (int m = 0; m < state->group->count; m++) {
    ocl_pinned_release(&state->sender[m].pinned);
    free(state->sender[m].pieces);
  }
  free(state);
}

/* ---- down ---- */

static char *slot_of(const sender *sender, size_t piece) {
  return (char *)sender->pinned.host + piece % SLOTS * PIECE_BYTES;
}

/* Begins as many pieces as there are slots for. A slot whose piece still goes up is waited for. */
static moecl_status begin_pieces(host_state *state, int from) {
  sender *sender = &state->sender[from];
  group_device *device = &state->group->device[from];
  while (sender->begun < sender->count && sender->begun - sender->done < SLOTS) {
    piece *piece = &sender->pieces[sender->begun];
    cl_event *written = &sender->written[sender->begun % SLOTS];
    if (*written)
      MOECL_TRY(ocl_event_await(
          state->group->device[sender->pieces[sender->begun - SLOTS].block.to].context, *written));
    ocl_event_let_go(written);
    MOECL_TRY(ocl_lane_read(&device->out, piece->block.source, piece->block.source_offset,
                            piece->block.bytes, slot_of(sender, sender->begun), piece->ready,
                            &piece->read));
    state->observer->copied(state->observer, from, piece->read);
    sender->begun++;
  }
  return MOECL_OK;
}

static moecl_status add_piece(host_state *state, const group_block *block, cl_event ready) {
  sender *sender = &state->sender[block->from];
  if (sender->count == sender->room) {
    const size_t room = sender->room ? 2 * sender->room : 64;
    piece *pieces = realloc(sender->pieces, room * sizeof *pieces);
    if (!pieces)
      return log_error(group_log(state->group), MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
    sender->pieces = pieces;
    sender->room = room;
  }
  piece *piece = &sender->pieces[sender->count];
  *piece = (struct piece){.block = *block, .exchange = state->exchanges};
  if (!ocl_event_keep(&piece->ready, ready))
    return log_error(group_log(state->group), MOECL_ERROR_DEVICE, "clRetainEvent failed");
  sender->count++;
  return MOECL_OK;
}

static moecl_status add_pieces(host_state *state, const group_block *block, cl_event ready) {
  group_block part = *block;
  for (uint64_t left = block->bytes; left > 0; left -= part.bytes) {
    part.bytes = left < PIECE_BYTES ? left : PIECE_BYTES;
    MOECL_TRY(add_piece(state, &part, ready));
    part.source_offset += part.bytes;
    part.destination_offset += part.bytes;
  }
  return MOECL_OK;
}

static moecl_status begin(void *user, const group_block *blocks, size_t count,
                          group_observer *observer) {
  host_state *state = user;
  state->observer = observer;
  for (int m = 0; m < state->group->count; m++) {
    cl_event ready = NULL;
    moecl_status status = MOECL_OK;
    for (size_t i = 0; status == MOECL_OK && i < count; i++) {
      if (blocks[i].from != m || blocks[i].bytes == 0) continue;
      if (!ready) status = ocl_queue_mark(state->group->device[m].context, &ready);
      if (status == MOECL_OK) status = add_pieces(state, &blocks[i], ready);
    }
    ocl_event_let_go(&ready);
    MOECL_TRY(status);
    MOECL_TRY(begin_pieces(state, m));
  }
  state->exchanges++;
  return MOECL_OK;
}

/* ---- up ---- */

static bool has_piece(const sender *sender, int exchange) {
  return sender->done < sender->count && sender->pieces[sender->done].exchange <= exchange;
}

static moecl_status finish_piece(host_state *state, int from) {
  sender *sender = &state->sender[from];
  piece *piece = &sender->pieces[sender->done];
  const int to = piece->block.to;
  cl_event *written = &sender->written[sender->done % SLOTS];
  MOECL_TRY(ocl_event_await(state->group->device[from].context, piece->read));
  MOECL_TRY(ocl_lane_write(&state->group->device[to].in, slot_of(sender, sender->done),
                           piece->block.destination, piece->block.destination_offset,
                           piece->block.bytes, NULL, written));
  state->observer->copied(state->observer, to, *written);
  if (!ocl_event_keep(&state->arrived[to], *written))
    return log_error(group_log(state->group), MOECL_ERROR_DEVICE, "clRetainEvent failed");
  sender->done++;
  return begin_pieces(state, from);
}

static moecl_status finish(void *user, int exchange) {
  host_state *state = user;
  for (bool more = true; more;) {
    more = false;
    for (int m = 0; m < state->group->count; m++) { /* in turns: all links are kept busy */
      if (!has_piece(&state->sender[m], exchange)) continue;
      MOECL_TRY(finish_piece(state, m));
      more = true;
    }
  }
  for (int m = 0; m < state->group->count; m++) { /* lanes keep order: the last copy is enough */
    if (!state->arrived[m]) continue;
    MOECL_TRY(ocl_queue_after(state->group->device[m].context, &state->arrived[m], 1));
    ocl_event_let_go(&state->arrived[m]);
  }
  return MOECL_OK;
}

const group_transport group_host_transport = {.name = "host",
                                              .overlaps = true,
                                              .refuses = refuses,
                                              .create = create,
                                              .release = release,
                                              .begin = begin,
                                              .finish = finish,
                                              .settle = settle};
