// SPDX-License-Identifier: MIT
/* The processes that mpirun started. The first leads: it decides, measures and writes as a process
 * on its own does, and orders the others what to take part in. They follow until it ends. Alone, as
 * without mpirun, nothing here does anything.
 *
 * Orders are obeyed by calling what the leader calls. What fails of MPI itself ends all processes,
 * with a message of MPI's. */
#ifndef MOECTL_RUN_PROCESSES_H
#define MOECTL_RUN_PROCESSES_H

#include "moecl/moecl.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum process_order_kind {
  ORDER_END = 0,
  ORDER_OPEN, /* the experiment, and a device */
  ORDER_CREATE,
  ORDER_WEIGHTS,
  ORDER_BUFFERS,
  ORDER_FORWARD,
  ORDER_PROFILES,
  ORDER_COLLECT,
  ORDER_DESCRIBE,
  ORDER_ROUTING,
  ORDER_RELEASE
} process_order_kind;

typedef struct process_order {
  process_order_kind kind;
  int32_t set;                            /* of a forward */
  int32_t measured, profiled, layer_only; /* likewise */
  int64_t point;
} process_order;

/* Joins the others, where mpirun started more than one; false, complained about: it cannot be. */
bool processes_begin(void);
/* The leader's is the order to end. */
void processes_end(void);
int processes_own(void);
int processes_count(void);

/* From the leader to all others; nothing on those. */
void processes_lead(const process_order *order);
/* Waits for the next one; false: it is to end. */
bool processes_follow(process_order *order);

/* All: MOECL_OK where all have it; else the status of the one at fault, and in `said` its number
 * and what it said. */
moecl_status processes_conclude(moecl_status status, char *said, size_t size);
/* All: in a group of so many members the first min(members, ranks) processes have some each. The
 * number of the first, and how many: 0 for a process that is left out. */
int processes_members(int members, int rank, int *first);
/* All: what moecl_group_create takes of a group of so many members; NULL: nothing. It is there
 * until the next call. */
const void *processes_comm_of(int members);
/* All: each own member's record gets to everybody. */
void processes_share(void *records, size_t bytes, int members);
/* All: the leader's. */
void processes_share_led(void *data, size_t bytes);
/* All: the largest; NaN where all are. */
void processes_share_most(double *values, int count);
/* To the leader, which takes from one after the other. */
void processes_give(const void *data, size_t bytes);
void processes_take(int rank, void *data, size_t bytes);

#endif
