// SPDX-License-Identifier: MIT
#include "group/pump.h"
#include "base/base.h"
#include "base/grow.h"
#include "base/team.h"
#include <sched.h>
#include <stdlib.h>
#include <time.h>

/* ---- pieces ---- */

static moecl_status make_room(pump *pump, const moecl_log *log) {
  pump_piece *pieces = base_grow(pump->pieces, pump->count + 1, &pump->room, sizeof *pieces);
  if (!pieces) return log_error(log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  pump->pieces = pieces;
  return MOECL_OK;
}

static moecl_status add_piece(pump *pump, const pump_piece *like, const moecl_log *log) {
  MOECL_TRY(make_room(pump, log));
  pump_piece *piece = &pump->pieces[pump->count];
  *piece = *like;
  piece->exchange = pump->exchanges;
  piece->ready = NULL;
  if (!ocl_event_keep(&piece->ready, like->ready))
    return log_error(log, MOECL_ERROR_DEVICE, "clRetainEvent failed");
  pump->count++;
  return MOECL_OK;
}

/* A block's first piece is down before anything goes up, and its last one goes up alone: short ones
 * for short blocks, but each takes some microseconds of the host's. */
static uint64_t piece_bytes(uint64_t block) {
  enum { ALIGNED = 64 << 10 };
  const uint64_t bytes = block / 8 / ALIGNED * ALIGNED;
  if (bytes < PUMP_LEAST_BYTES) return PUMP_LEAST_BYTES;
  return bytes < PUMP_MOST_BYTES ? bytes : PUMP_MOST_BYTES;
}

moecl_status pump_add(pump *pump, const pump_piece *first, const moecl_log *log) {
  const uint64_t most = piece_bytes(first->block.bytes);
  pump_piece piece = *first;
  moecl_status status = MOECL_OK;
  pthread_mutex_lock(&pump->lock);
  for (uint64_t left = first->block.bytes; left > 0 && status == MOECL_OK;) {
    piece.block.bytes = left < most ? left : most;
    status = add_piece(pump, &piece, log);
    left -= piece.block.bytes;
    piece.block.source_offset += piece.block.bytes;
    piece.block.destination_offset += piece.block.bytes;
  }
  pthread_cond_signal(&pump->work);
  pthread_mutex_unlock(&pump->lock);
  return status;
}

size_t pump_end_of(pump *pump, int to, int exchange) {
  pthread_mutex_lock(&pump->lock);
  size_t end = pump->count;
  for (; end > 0; end--) {
    const pump_piece *last = &pump->pieces[end - 1];
    if ((to < 0 || last->block.to == to) && last->exchange <= exchange) break;
  }
  pthread_mutex_unlock(&pump->lock);
  return end;
}

/* ---- who moves it on; the lock is not held while OpenCL is called ---- */

static char *slot_of(const pump *pump, size_t piece) {
  return (char *)pump->pinned.host + piece % PUMP_SLOTS * PUMP_MOST_BYTES;
}

/* The piece that is to go next; false: none. */
static bool next_up(pump *pump, pump_piece *piece) {
  pthread_mutex_lock(&pump->lock);
  const bool is = pump->up < pump->down;
  if (is) *piece = pump->pieces[pump->up];
  pthread_mutex_unlock(&pump->lock);
  return is;
}

/* `before`: who had its slot. Who has to wait for that one's copy takes slots that are long given
 * away. */
static bool next_down(pump *pump, pump_piece *piece, cl_event *before) {
  const size_t ahead = pump->has_thread ? PUMP_SLOTS : PUMP_SLOTS / 2;
  pthread_mutex_lock(&pump->lock);
  const bool is = pump->down < pump->count && pump->down - pump->up < ahead;
  if (is) *piece = pump->pieces[pump->down];
  *before = is && pump->down >= PUMP_SLOTS ? pump->pieces[pump->down - PUMP_SLOTS].written : NULL;
  pthread_mutex_unlock(&pump->lock);
  return is;
}

/* A thread looks, as there may be something else to do; others wait, and make the same calls each
 * time. */
static moecl_status ask(pump *pump, cl_event event, bool *done) {
  if (pump->has_thread) return ocl_event_look(&pump->notes, event, done);
  *done = true;
  return ocl_event_await(&pump->notes, event);
}

static moecl_status send_up(pump *pump, bool *moved) {
  pump_piece piece;
  bool done;
  *moved = false;
  if (!next_up(pump, &piece)) return MOECL_OK;
  MOECL_TRY(ask(pump, piece.read, &done));
  if (!done) return MOECL_OK;
  ocl_lane lane = {&pump->notes, pump->ends[piece.block.to].in->queue};
  MOECL_TRY(ocl_lane_write(&lane, slot_of(pump, pump->up), piece.block.destination,
                           piece.block.destination_offset, piece.block.bytes, NULL,
                           &piece.written));
  piece.observer->copied(piece.observer, piece.block.to, piece.written);
  pthread_mutex_lock(&pump->lock);
  pump->pieces[pump->up++].written = piece.written;
  pthread_mutex_unlock(&pump->lock);
  *moved = true;
  return MOECL_OK;
}

static moecl_status bring_down(pump *pump, bool *moved) {
  pump_piece piece;
  cl_event before;
  bool ready = true, is_free = true;
  *moved = false;
  if (!next_down(pump, &piece, &before)) return MOECL_OK;
  if (pump->has_thread) MOECL_TRY(ask(pump, piece.ready, &ready));
  if (ready && before) MOECL_TRY(ask(pump, before, &is_free));
  if (!ready || !is_free) return MOECL_OK;
  ocl_lane lane = {&pump->notes, pump->ends[piece.block.from].out->queue};
  MOECL_TRY(ocl_lane_read(&lane, piece.block.source, piece.block.source_offset, piece.block.bytes,
                          slot_of(pump, pump->down), pump->has_thread ? NULL : piece.ready,
                          &piece.read));
  piece.observer->copied(piece.observer, piece.block.from, piece.read);
  pthread_mutex_lock(&pump->lock);
  pump->pieces[pump->down++].read = piece.read;
  pthread_mutex_unlock(&pump->lock);
  *moved = true;
  return MOECL_OK;
}

/* All that can be; what has come down goes first: the other direction is to begin early. */
static moecl_status move_all(pump *pump, bool *moved) {
  bool up = true, down = true;
  *moved = false;
  while (up || down) {
    MOECL_TRY(send_up(pump, &up));
    if (!up) MOECL_TRY(bring_down(pump, &down));
    *moved |= up || down;
  }
  return MOECL_OK;
}

/* One piece goes up, others are on their way down meanwhile. */
static moecl_status move_one(pump *pump, bool *moved) {
  for (bool down = true; down;) MOECL_TRY(bring_down(pump, &down));
  return send_up(pump, moved);
}

static bool enter(pump *pump) {
  pthread_mutex_lock(&pump->lock);
  const bool can = !pump->moves && !pump->closed && pump->status == MOECL_OK;
  if (can) pump->moves = true;
  pthread_mutex_unlock(&pump->lock);
  return can;
}

typedef moecl_status mover(pump *pump, bool *moved);

static bool move(pump *pump, mover *by) {
  bool moved = false;
  if (!enter(pump)) return false;
  const moecl_status status = by(pump, &moved);
  pthread_mutex_lock(&pump->lock);
  pump->status = status;
  pump->moves = false;
  pthread_cond_broadcast(&pump->still);
  pthread_mutex_unlock(&pump->lock);
  return moved;
}

bool pump_advance(pump *pump) { return move(pump, pump->has_thread ? move_all : move_one); }

void pump_begin(pump *pump) {
  while (!pump->has_thread && move(pump, bring_down)) {
  }
}

/* ---- who waits ---- */

bool pump_is_up(pump *pump, size_t end) {
  pthread_mutex_lock(&pump->lock);
  const bool is = pump->up >= end;
  pthread_mutex_unlock(&pump->lock);
  return is;
}

moecl_status pump_look(pump *pump, moecl_context *context, size_t end, bool *there) {
  cl_event last = NULL;
  *there = end == 0;
  if (*there) return MOECL_OK;
  pthread_mutex_lock(&pump->lock);
  const moecl_status status = pump->status;
  if (status != MOECL_OK) log_hand_on(&pump->said, &context->log);
  else if (pump->up >= end) last = pump->pieces[end - 1].written;
  pthread_mutex_unlock(&pump->lock);
  if (status != MOECL_OK)
    return log_error(&context->log, status, "group: rows of another member do not come");
  if (last && pump->has_thread) return ocl_event_look(context, last, there);
  *there = last != NULL;
  return last ? ocl_event_await(context, last) : MOECL_OK;
}

void pump_pause(int *looks) {
  enum { LOOKS = 4000 }; /* some milliseconds */
  const struct timespec sleep = {0, 20000};
  if (*looks < LOOKS) sched_yield(), ++*looks;
  else nanosleep(&sleep, NULL);
}

/* ---- its thread ---- */

static bool has_work(const pump *pump) {
  return !pump->closed && pump->status == MOECL_OK && pump->up < pump->count;
}

static bool await_work(pump *pump) {
  pthread_mutex_lock(&pump->lock);
  while (!pump->leaves && !has_work(pump)) pthread_cond_wait(&pump->work, &pump->lock);
  const bool stays = !pump->leaves;
  pthread_mutex_unlock(&pump->lock);
  return stays;
}

static bool works(pump *pump) {
  pthread_mutex_lock(&pump->lock);
  const bool has = has_work(pump);
  pthread_mutex_unlock(&pump->lock);
  return has;
}

static void *run(void *user) {
  pump *pump = user;
  while (await_work(pump))
    for (int looks = 0; works(pump);) {
      if (pump_advance(pump)) looks = 0;
      else pump_pause(&looks);
    }
  return NULL;
}

void pump_hire(pump *pump) {
  if (!pump->asked) pump->has_thread = base_thread_begin(&pump->thread, run, pump);
  pump->asked = true;
}

/* ---- made, cleared, and done with ---- */

void pump_open(pump *pump, const pump_end *ends) {
  pthread_mutex_init(&pump->lock, NULL);
  pthread_cond_init(&pump->work, NULL);
  pthread_cond_init(&pump->still, NULL);
  pump->notes.log = log_keeping(&pump->said);
  pump->ends = ends;
}

moecl_status pump_provide(pump *pump, ocl_lane *out) {
  return ocl_pinned_create(out, (uint64_t)PUMP_SLOTS * PUMP_MOST_BYTES, &pump->pinned);
}

void pump_stop(pump *pump) {
  pthread_mutex_lock(&pump->lock);
  pump->closed = true;
  while (pump->moves) pthread_cond_wait(&pump->still, &pump->lock);
  pthread_mutex_unlock(&pump->lock);
}

void pump_clear(pump *pump) {
  const moecl_log nobody = {0};
  pthread_mutex_lock(&pump->lock);
  for (size_t i = 0; i < pump->count; i++) {
    ocl_event_let_go(&pump->pieces[i].ready);
    ocl_event_let_go(&pump->pieces[i].read);
    ocl_event_let_go(&pump->pieces[i].written);
  }
  pump->count = pump->down = pump->up = 0;
  pump->exchanges = 0;
  pump->status = MOECL_OK;
  log_hand_on(&pump->said, &nobody);
  pump->closed = false;
  pthread_mutex_unlock(&pump->lock);
}

void pump_close(pump *pump) {
  pthread_mutex_lock(&pump->lock);
  pump->leaves = true;
  pthread_cond_signal(&pump->work);
  pthread_mutex_unlock(&pump->lock);
  if (pump->has_thread) pthread_join(pump->thread, NULL);
  ocl_pinned_release(&pump->pinned);
  free(pump->pieces);
  pthread_cond_destroy(&pump->work);
  pthread_cond_destroy(&pump->still);
  pthread_mutex_destroy(&pump->lock);
}
