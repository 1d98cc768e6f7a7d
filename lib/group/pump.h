// SPDX-License-Identifier: MIT
/* What one member sends through the host: pieces of blocks, each of which goes down from its device
 * into pinned memory and from there up to another device. Pieces go in the order in which they were
 * added; as many as there are slots of pinned memory are under way at a time, in both directions.
 *
 * Whoever moves a pump on looks what has ended and enqueues what follows it. That is a thread of
 * the pump's, or, where it has none, those that wait for its pieces. */
#ifndef MOECL_LIB_GROUP_PUMP_H
#define MOECL_LIB_GROUP_PUMP_H

#include "base/log.h"
#include "group/transport.h"
#include "ocl/ocl.h"
#include <pthread.h>

enum { PUMP_SLOTS = 8, PUMP_MOST_BYTES = 4 << 20, PUMP_LEAST_BYTES = 1 << 20 };

typedef struct pump_piece {
  group_block block; /* a part of one */
  group_observer *observer;
  int exchange;
  cl_event ready;         /* its source is there */
  cl_event read, written; /* NULL: not begun */
} pump_piece;

typedef struct pump_end { /* a member's lanes; borrowed */
  const ocl_lane *out, *in;
} pump_end;

typedef struct pump {
  pthread_mutex_t lock;       /* of what follows, held for moments */
  pthread_cond_t work, still; /* there is some; nobody moves it on */
  pump_piece *pieces;
  size_t count, room;
  size_t down, up;     /* how many of them are begun to go */
  bool moves;          /* somebody moves it on */
  bool closed, leaves; /* nobody shall; its thread is to end */
  moecl_status status; /* of who moved it on: after a failure nobody does */
  log_kept said;       /* and its messages */

  int exchanges; /* that were begun; the sender's */
  bool asked;    /* for a thread, in vain or not */
  bool has_thread;
  pthread_t thread;
  ocl_pinned pinned;
  const pump_end *ends; /* of all members; borrowed */
  moecl_context notes;  /* stands for all contexts: its log keeps what is said to it */
} pump;

/* Both: `pump` stays where it is. */
void pump_open(pump *pump, const pump_end *ends);
void pump_close(pump *pump); /* cleared; frees what it has */
/* Slots, once. */
moecl_status pump_provide(pump *pump, ocl_lane *out);
/* A thread that moves it on; without one others have to. */
void pump_hire(pump *pump);

/* Part of the exchange that is begun, in pieces like `first`, whose block is a whole one and whose
 * `ready` is kept. */
moecl_status pump_add(pump *pump, const pump_piece *first, const moecl_log *log);
/* Without a thread: what there is room for goes down. */
void pump_begin(pump *pump);
/* How many pieces have to be up for all that `to` (-1: everybody) gets by that exchange to be
 * there; 0: none. */
size_t pump_end_of(pump *pump, int to, int exchange);
/* Enqueues what can be by now; without a thread waits until one more piece can go up. Did it
 * anything? */
bool pump_advance(pump *pump);
bool pump_is_up(pump *pump, size_t end);
/* Are the first `end` pieces there? Without a thread waits if they are up. A failure of who moves
 * it on is told to `context`, by which the last one comes. */
moecl_status pump_look(pump *pump, moecl_context *context, size_t end, bool *there);
/* Between two looks: as long as a forward may take, others may run; after that it sleeps. */
void pump_pause(int *looks);
/* Nobody moves it on any more; and, once nothing is on the lanes, without pieces: as it was. */
void pump_stop(pump *pump);
void pump_clear(pump *pump);

#endif
