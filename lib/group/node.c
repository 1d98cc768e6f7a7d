// SPDX-License-Identifier: MIT
/* Who is on this process's node, and whether rows go right between them: the group's `near`.
 *
 * Ranks are on one node where descriptors can be passed between them (descriptors.c). A node of one
 * rank, or where no transport between processes serves, leaves near this process's own members.
 * All ranks of a node go through the same transports in the same order, ask each other before each
 * whether all want it, and have one together or not at all: nobody waits for one that has fallen
 * back.
 *
 * How rows then go between processes, and who waits for whom:
 *
 * 1. All ranks tell each other how their lists went, and how much memory their members' rows
 *    arrive in (rows.c). That is a barrier: each has waited for its lists, which its queues made
 *    behind all of the forward before. Nobody reads any more what others now store into.
 * 2. Buffers that are to grow, which all know, are made by their owners, exported, passed
 *    (descriptors.c) and imported; all agree, and have the new ones or fail together.
 * 3. Each rank enqueues what stores its members' tokens and, behind that, sets the others' flags.
 *    All agree that everybody has. Only then does anybody enqueue a kernel that waits for flags.
 *    What sets those is by then in queues that nothing can stop: before it there are only waits
 *    of which the same is true. So kernels that wait end, were all members on one queue; and a
 *    rank that fails before the agreement leaves nobody waiting.
 * 4. The same of outputs: stored and flagged, agreed, then waited for.
 *
 * The host waits for devices in step 1 alone, and for other ranks in agreements alone. Flags are
 * numbers that only grow: each forward takes as many, whatever became of it, so that ranks which
 * got further than others before a failure go on with the same. A process that ends in between is
 * mpirun's to notice; kernels that wait for it give up by themselves. */
#include "base/base.h"
#include "group/descriptors.h"
#include "group/group.h"
#include <stdlib.h>
#include <string.h>

/* ---- who is there ---- */

typedef struct seat {
  char name[DESCRIPTORS_REACH];
} seat;

/* All: the first rank of this one's node. */
static moecl_status find_colour(const moecl_group *group, int *colour) {
  seat seats[MOECL_MAX_GROUP_MEMBERS] = {{{0}}};
  int64_t first[MOECL_MAX_GROUP_MEMBERS + 1];
  const int own = ranks_own(group->ranks), count = ranks_count(group->ranks);
  for (int r = 0; r <= count; r++) first[r] = r;
  descriptors_reach(own, seats[own].name);
  MOECL_TRY(ranks_gather(group->ranks, seats, first, sizeof *seats));
  for (*colour = 0; strncmp(seats[*colour].name, seats[own].name, DESCRIPTORS_REACH) != 0;
       ++*colour)
    ;
  return MOECL_OK;
}

/* ---- the members ---- */

/* All of one rank are there, or none. */
static void add_near(moecl_group *group, const bool *there) {
  moecl_group *near = group->near;
  int rank = -1, last = -1;
  near->count = near->begin = near->end = 0;
  for (int m = 0; m < group->count; m++) {
    group_device *device = &group->device[m];
    device->near = there[device->rank] ? near->count : -1;
    if (!there[device->rank]) continue;
    if (device->rank != last) rank++;
    last = device->rank;
    if (m == group->begin) near->begin = near->count;
    near->device[near->count] = *device;
    near->device[near->count++].rank = rank;
    if (m == group->end - 1) near->end = near->count;
  }
}

static void add_own(moecl_group *group) {
  bool there[MOECL_MAX_GROUP_MEMBERS] = {false};
  there[ranks_own(group->ranks)] = true;
  add_near(group, there);
}

/* All: those of the node. */
static moecl_status add_node(moecl_group *group) {
  bool there[MOECL_MAX_GROUP_MEMBERS] = {false};
  int64_t first[MOECL_MAX_GROUP_MEMBERS + 1], ranks[MOECL_MAX_GROUP_MEMBERS];
  const int count = ranks_count(group->near->ranks);
  for (int r = 0; r <= count; r++) first[r] = r;
  ranks[ranks_own(group->near->ranks)] = ranks_own(group->ranks);
  MOECL_TRY(ranks_gather(group->near->ranks, ranks, first, sizeof *ranks));
  for (int r = 0; r < count; r++) there[ranks[r]] = true;
  add_near(group, there);
  return MOECL_OK;
}

/* ---- a transport between them ---- */

/* All ranks of the node: the same transport on all, or none, and then why the last one that was
 * tried does not serve; NULL: none was. */
static const char *try_node(moecl_group *near, const char *asked) {
  const char *why = NULL;
  for (const group_transport *const *t = group_transports; *t && !near->transport; t++) {
    if (!(*t)->across || !ranks_all(near->ranks, group_transport_is_asked(*t, asked))) continue;
    why = (*t)->refuses(near);
    if (!why && group_try_transport(*t, near, &near->state) == MOECL_OK) {
      near->transport = *t;
      return NULL;
    }
    if (!why) why = GROUP_NOT_MADE;
    log_write(group_log(near), MOECL_LOG_INFO,
              "group: the transport '%s' does not serve between processes of this machine: %s",
              (*t)->name, why);
  }
  return why;
}

moecl_status group_make_near(moecl_group *group, const char *asked, const char **why) {
  int colour = 0;
  moecl_status status = find_colour(group, &colour);
  moecl_group *near = group->near = calloc(1, sizeof *near);
  if (!near) status = log_error(group_log(group), MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  group_ranks *node = NULL;
  MOECL_TRY(ranks_split(group->ranks, status, colour, &node));
  near->ranks = node;
  near->team = group->team;
  status = add_node(group);
  if (ranks_all(group->ranks, status == MOECL_OK) && ranks_count(node) > 1)
    *why = try_node(near, asked);
  if (near->transport) return MOECL_OK;
  ranks_leave(&near->ranks);
  add_own(group);
  MOECL_TRY(status);
  return group_choose_transport(near, asked, &near->transport, &near->state, why);
}

void group_release_near(moecl_group **handle) {
  moecl_group *near = *handle;
  *handle = NULL;
  if (near && near->state) near->transport->release(near->state);
  if (near) ranks_leave(&near->ranks);
  free(near);
}
