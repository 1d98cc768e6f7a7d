// SPDX-License-Identifier: MIT
/* File descriptors from process to process of one machine: descriptors.c. */
#ifndef MOECL_LIB_GROUP_DESCRIPTORS_H
#define MOECL_LIB_GROUP_DESCRIPTORS_H

#include "group/ranks.h"

/* What ranks have in common that can pass each other descriptors, and others not. */
enum { DESCRIPTORS_REACH = 192 };
void descriptors_reach(int rank, char name[DESCRIPTORS_REACH]);

typedef struct group_descriptors group_descriptors;

/* All ranks, which have to be in reach of each other; fails on all, or on none. `log` and `ranks`
 * have to live longer. */
moecl_status descriptors_open(const moecl_log *log, group_ranks *ranks, group_descriptors **out);
void descriptors_close(group_descriptors **descriptors); /* NULL is allowed */

typedef struct descriptor {
  int file;
  uint64_t bytes; /* whatever goes with it */
} descriptor;

/* All ranks, after an agreement of theirs: rank r's, from first[r] on and before first[r+1], get to
 * everybody. The own ones stay the caller's; others' become the caller's on success, and are -1 on
 * failure, of which the others do not hear from here. Waits some seconds for others at most. */
moecl_status descriptors_pass(group_descriptors *descriptors, descriptor *list,
                              const int64_t *first);

#endif
