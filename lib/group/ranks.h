// SPDX-License-Identifier: MIT
/* The processes that a group's members are spread over: ranks of an MPI communicator. ranks.c is
 * the one file that calls MPI. A NULL is a process on its own: all that is said to it is kept.
 *
 * What all have to call, in the same order, is marked so. Waits give the processor to others on it
 * after a moment: the devices of CPUs want the cores. */
#ifndef MOECL_LIB_GROUP_RANKS_H
#define MOECL_LIB_GROUP_RANKS_H

#include "base/log.h"

typedef struct group_ranks group_ranks;

/* All: where everybody's `status` so far is MOECL_OK, and all can. `comm` is the address of an
 * MPI_Comm, which is copied; `log` has to live as long. */
moecl_status ranks_join(const moecl_log *log, const void *comm, moecl_status status,
                        group_ranks **ranks);
void ranks_leave(group_ranks **ranks); /* NULL is allowed */
int ranks_own(const group_ranks *ranks);
int ranks_count(const group_ranks *ranks); /* NULL: 1 */

/* All: MOECL_OK where everybody's status is; otherwise one that is not, and the log says whose,
 * unless it is this rank's own. */
moecl_status ranks_agree(group_ranks *ranks, moecl_status status, const char *what);
/* All: is everybody `fine`? Nothing is logged. */
bool ranks_all(group_ranks *ranks, bool fine);
/* All: the ranks that give the same colour, 0 or more, in their order; where everybody's `status`
 * so far is MOECL_OK, and all can. */
moecl_status ranks_split(group_ranks *ranks, moecl_status status, int colour, group_ranks **part);
/* All: rank r's rows, from first[r] on and before first[r+1], get to everybody. There are no more
 * ranks than a group may have members. */
moecl_status ranks_gather(group_ranks *ranks, void *rows, const int64_t *first, size_t row_bytes);
/* All: from one rank to all others. */
moecl_status ranks_broadcast(group_ranks *ranks, int from, void *data, size_t bytes);

/* A message on its way; zeros: there is none. Its memory stays as it is until it is not under way
 * any more. */
typedef struct ranks_message {
  uint64_t request; /* an MPI_Request */
  size_t expected;  /* bytes of one that comes; 0: it goes */
  bool under_way, given_up;
} ranks_message;

/* In the order of calls for one `tag` between two ranks. One that comes is over also where it is
 * shorter, which is an error: so ends what another rank could not send. A failure leaves a message
 * under way all the same, unless MPI takes none at all. `bytes`: one that comes has some. */
moecl_status ranks_send(group_ranks *ranks, int to, int tag, const void *data, size_t bytes,
                        ranks_message *message);
moecl_status ranks_receive(group_ranks *ranks, int from, int tag, void *data, size_t bytes,
                           ranks_message *message);
/* Moves messages on; is this one done? */
moecl_status ranks_test(group_ranks *ranks, ranks_message *message, bool *done);
/* A message that nobody answers any more; false: MPI may read or write its memory still. It may be
 * asked again. Others of the same tag may from now on be taken for it. */
bool ranks_give_up(group_ranks *ranks, ranks_message *message);

/* Between two looks at something that was not done: nothing at first, then others on this processor
 * have their turn, and then it is a sleep. Begin with *looks = 0. */
void ranks_pause(int *looks);

#endif
