// SPDX-License-Identifier: MIT
/* Inside of the transports between NVIDIA's GPUs: nvidia_peer.c, nvidia_memory.c, nvidia_trial.c.
 */
#ifndef MOECL_LIB_GROUP_NVIDIA_PEER_H
#define MOECL_LIB_GROUP_NVIDIA_PEER_H

#include "base/base.h"
#include "group/descriptors.h"
#include "group/group.h"
#include <pthread.h>

/* Memory of a member that all members have in their contexts: here, those of this process. Where it
 * is too large for one import it is in pieces, and its owner copies to or from them. */
typedef struct area {
  int member;
  uint64_t bytes; /* that were asked for */
  size_t pieces;
  moecl_buffer **at;   /* [pieces][members of the group]; NULL: of other processes */
  ocl_mapping *mapped; /* [pieces], as engines have them: zeros without engines */
  /* The layer's: the only piece, or a buffer of as many bytes as all. Of a member of another
   * process what stands for it, which is the first piece as an own member has it. */
  moecl_buffer *own;
} area;

/* A part of a block that lies in one piece. */
typedef struct part {
  int to, exchange;
  moecl_buffer *piece, *own; /* in the receiver's context */
  uint64_t piece_offset, offset, bytes;
} part;

enum { PEER_PUT, PEER_PUT_BYTES, PEER_SET, PEER_AWAIT, PEER_KERNELS };

typedef struct peer { /* of another process: zeros, but for the flags */
  ocl_sharer *sharer;
  ocl_kernel *kernels[PEER_KERNELS];
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
  bool opened;        /* numbers from there on may have been taken */
  peer peer[MOECL_MAX_GROUP_MEMBERS];
  ocl_engine *engine[MOECL_MAX_GROUP_MEMBERS]; /* NULL: kernels alone send */
  group_descriptors *descriptors;              /* of groups of several processes */
  area *areas;                                 /* that layers have */
  size_t count, room;
  /* Parts that are to be copied from pieces, oldest first: the sender's thread adds them, or the
   * receiver's of what other processes send; the receiver's takes them out. */
  pthread_mutex_t parts_lock;
  part *parts;
  size_t num_parts, parts_room;
} peer_state;

static inline moecl_context *peer_context(const peer_state *state, int m) {
  return state->group->device[m].context;
}

moecl_status peer_no_memory(const moecl_log *log);

/* ---- nvidia_memory.c ---- */

/* All ranks: makes all of so many areas, whose member and bytes are set, by members; or none, and
 * where `status` is a failure so far on any rank none. */
moecl_status peer_make_areas(const peer_state *state, moecl_status status, area *areas,
                             size_t count);
/* Engines have nothing to do with it any more. */
void peer_release_area(const peer_state *state, area *area);
area *peer_find_area(const peer_state *state, const moecl_buffer *buffer);
static inline moecl_buffer **peer_piece(const peer_state *state, const area *area, size_t piece) {
  return &area->at[piece * (size_t)state->group->count];
}
/* The transport's. */
moecl_status peer_provide(void *state, const group_arrival *arrivals, size_t count);
moecl_status peer_provide_source(void *state, int member, uint64_t bytes, moecl_buffer **buffer);
void peer_discard(void *state, moecl_buffer **buffer);

/* ---- nvidia_peer.c ---- */

peer_state *peer_make_state(moecl_group *group); /* NULL: no memory */
void peer_release(void *state);
/* All ranks: sharers, and with `engines` those. Why there are none; NULL: they are there. */
const char *peer_make_sharers(peer_state *state, bool engines);
/* All ranks: kernels and flags, which are there when it returns. */
moecl_status peer_make_peers(peer_state *state);
/* All ranks: does nobody know why not? Else why, or that it is another one. */
const char *peer_agree(const peer_state *state, const char *why);
/* Engines have done all that they were asked for, or are made to: what they wait for has come by
 * now, or was lost with its queue. */
void peer_quiet(peer_state *state);
/* A member's part of the next exchange, all by its engine or all by kernels. */
moecl_status peer_begin_by(peer_state *state, bool engine, int m, const group_block *blocks,
                           size_t count, group_observer *observer);
moecl_status peer_finish_part(void *state, int m, int exchange);

/* ---- nvidia_trial.c ---- */

/* Does it work here? Why not; NULL: it does. All ranks get the same. */
const char *peer_tried(const moecl_group *group, bool engines);

#endif
