// SPDX-License-Identifier: MIT
/* How rows get from one member to another: a table of functions, and the rows of what there is. */
#ifndef MOECL_LIB_GROUP_TRANSPORT_H
#define MOECL_LIB_GROUP_TRANSPORT_H

#include "moecl/group.h"
#include "ocl/ocl.h"

/* Bytes that go from one member's buffer to another's. */
typedef struct group_block {
  int from, to;               /* different ones */
  const moecl_buffer *source; /* NULL: kernels have stored them there, where `reach` said */
  moecl_buffer *destination;
  uint64_t source_offset, destination_offset, bytes;
} group_block;

/* Where a byte of a buffer is in another member's context, and how many lie there together:
 * UINT64_MAX: all of them. */
typedef struct group_reached {
  const moecl_buffer *memory; /* NULL: it cannot be reached */
  uint64_t at, bytes;
} group_reached;

/* A member's buffer that rows arrive in, and how many bytes it is to have at least. */
typedef struct group_arrival {
  int member;
  uint64_t bytes;
  moecl_buffer **buffer;
} group_arrival;

/* Told of each copy; the event is the transport's; NULL: it has none. Several threads may tell at
 * once, also of the transport's own, until an exchange is finished. */
typedef struct group_observer {
  void (*copied)(struct group_observer *observer, int member, cl_event event);
} group_observer;

/* A forward's: choices, then tokens and outputs of each chunk. */
enum { GROUP_MOST_EXCHANGES = 1 + 2 * MOECL_MAX_GROUP_CHUNKS };

/* An exchange is the blocks of one round of begin_part, of one call of begin, or of both, numbered
 * from 0 on since the last settle, and no more than those; they are finished in that order. What a
 * transport does in between, it may do asynchronously: with events, peer memory, or messages to
 * members of other processes. */
typedef struct group_transport group_transport;
struct group_transport {
  const char *name;
  bool overlaps;   /* rows travel while kernels run, so that parts of a forward pay */
  bool one_sided;  /* the sender's copies are all there are; else each side has its own */
  bool asked_only; /* by name, and never as the best that serves */
  bool everywhere; /* between processes too: messages go through host memory as its rows do */
  /* Of a group of several processes on one machine, too: then all of them make the calls that say
   * so, and a group of theirs has `ranks`. */
  bool across;
  /* Why it cannot serve the group; NULL: it can. Asked by trying, where that takes a try. All ranks
   * get a reason, or none does; GROUP_ELSEWHERE: another one's says more. */
  const char *(*refuses)(const moecl_group *group);
  /* All ranks: here it serves on all, or on none. */
  moecl_status (*create)(moecl_group *group, void **state);
  /* Buffers that rows arrive in, by members: those that are there, or larger ones in their place;
   * and their end. NULL both: plain ones. All ranks, with the same bytes for all members: of
   * another process's the buffer is what stands for it in calls of the transport. On failure those
   * that were to be larger are gone, on all ranks. */
  moecl_status (*provide)(void *state, const group_arrival *arrivals, size_t count);
  /* The same of one that rows leave from, which is of one rank alone. */
  moecl_status (*provide_source)(void *state, int member, uint64_t bytes, moecl_buffer **buffer);
  void (*discard)(void *state, moecl_buffer **buffer); /* either; may wait */
  /* Byte `offset` of a buffer that rows arrive in, in `from`'s context, for kernels before a begin
   * of its to store into: they go with that exchange, of memory that is not all of the buffer's as
   * blocks without a source. Pieces are equally large. NULL: none can be reached. */
  group_reached (*reach)(void *state, const moecl_buffer *buffer, int from, uint64_t offset);
  void (*release)(void *state); /* of what create left, on failure too */
  /* All ranks: the exchanges of a forward are to come. NULL: nothing hangs on it. */
  void (*open)(void *state);
  /* Room for the exchanges until the next settle, by which a member sends and gets at most so many
   * bytes: begin then fails for lack of none. NULL: nobody else waits for what fails here. */
  moecl_status (*reserve)(void *state, int member, uint64_t sent, uint64_t received);
  /* In the program's thread, of all members' blocks. NULL both: members' parts are all there is, as
   * of all in group_transports; what is around one of those has these (messages.c).
   * The sources are there when what is on their contexts' queues now is done; the destinations
   * may be written from now on. Returns without waiting for the sources. */
  moecl_status (*begin)(void *state, const group_block *blocks, size_t count,
                        group_observer *observer);
  /* What is enqueued next on the destinations' contexts follows the blocks of the exchange. May
   * wait. */
  moecl_status (*finish)(void *state, int exchange);
  /* A member's part of an exchange, before `begin` of the same one. NULL both: there are none.
   * Members' parts may run at the same time, each in a thread of its own, and use and log to their
   * own contexts alone. One of finish follows all members' of the same begin, of all ranks: it may
   * enqueue what waits for them. `blocks` are those from the member and, from other processes,
   * those to it; others may be among them. */
  moecl_status (*begin_part)(void *state, int member, const group_block *blocks, size_t count,
                             group_observer *observer);
  moecl_status (*finish_part)(void *state, int member, int exchange);
  /* Nothing is under way any more; waits. After a failure, and when all exchanges are finished. */
  void (*settle)(void *state);
  /* What is and will be begun until the next settle only goes so that other processes do not wait
   * for it; devices are not asked for anything. NULL: there are no others. */
  void (*fail)(void *state);
};

/* The best one first; behind all that are tried by themselves those that serve by name alone. */
extern const group_transport *const group_transports[];   /* ended by NULL */
extern const group_transport group_nvidia_peer_transport; /* nvidia_peer.c, both */
extern const group_transport group_nvidia_copy_transport;
extern const group_transport group_host_transport;
/* The one that was asked for or, for NULL, one that is tried by itself. */
bool group_transport_is_asked(const group_transport *transport, const char *asked);
/* All ranks: makes one that something else serves in place of: what fails is information, and
 * leaves nothing, *state being NULL. */
moecl_status group_try_transport(const group_transport *transport, moecl_group *group,
                                 void **state);
#define GROUP_NOT_MADE "it was tried, and could then not be made"
#define GROUP_ELSEWHERE "another process of this machine cannot: its log says why"
/* Makes the one that was asked for, which is one that there is, or for NULL the best that serves;
 * where none does, *transport is NULL, and why. */
moecl_status group_choose_transport(moecl_group *group, const char *asked,
                                    const group_transport **transport, void **state,
                                    const char **why);

/* Between members of different processes, around one of the above between those that are near
 * (node.c). */
extern const group_transport group_messages_transport; /* messages.c */
moecl_status group_messages_create(moecl_group *group, void **state);

#endif
