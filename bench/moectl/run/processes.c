// SPDX-License-Identifier: MIT
#include "run/processes.h"
#include "base/complain.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int own, count = 1;

int processes_own(void) { return own; }
int processes_count(void) { return count; }

enum { ALONE = 1, MPI_KNOWS = 0 };

/* What Open MPI's and MPICH's launchers say, and Slurm's: by PMI-2 likewise, by PMIx in words of
 * its own, as PMIx has the number from a server. The environment of an allocation (salloc, sbatch)
 * has Slurm's numbers, too: there MPI finds no server, and nor do we. ALONE: it was none of them;
 * MPI_KNOWS: one that says no number. */
static int launched(void) {
  static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"};
  bool said = false; /* that it is one */
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    const char *size = getenv(names[i]);
    if (size && atoi(size) > 1) return atoi(size);
    said = said || size;
  }
  if (said || !getenv("PMIX_NAMESPACE") || !getenv("PMIX_RANK")) return ALONE;
  const char *tasks = getenv("SLURM_STEP_NUM_TASKS");
  return tasks && atoi(tasks) > 0 ? atoi(tasks) : MPI_KNOWS;
}

int processes_members(int members, int rank, int *first) {
  const int ranks = members < count ? members : count;
  *first = rank < ranks ? members * rank / ranks : members;
  return rank < ranks ? members * (rank + 1) / ranks - *first : 0;
}

#if MOECTL_HAVE_MPI
#include <mpi.h>

static MPI_Comm group = MPI_COMM_NULL; /* of the processes that have members; or all */

bool processes_begin(void) {
  const int expected = launched();
  int level = MPI_THREAD_SINGLE;
  if (expected == ALONE) return true;
  MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level);
  MPI_Comm_rank(MPI_COMM_WORLD, &own);
  MPI_Comm_size(MPI_COMM_WORLD, &count);
  if (count > 1) return true;
  MPI_Finalize();
  if (expected == MPI_KNOWS) return true;
  complain("mpirun or srun started %d processes that cannot find each other: it is of another MPI "
           "than the one that moectl was built with (srun: --mpi=pmix or pmi2, as that MPI has)",
           expected);
  return false;
}

static void leave_group(void) {
  if (group != MPI_COMM_NULL && group != MPI_COMM_WORLD) MPI_Comm_free(&group);
  group = MPI_COMM_NULL;
}

void processes_end(void) {
  const process_order end = {.kind = ORDER_END};
  if (count == 1) return;
  processes_lead(&end);
  leave_group();
  MPI_Finalize();
  count = 1;
}

/* Not busily: devices of CPUs want the cores. Short at first, as for a forward's next step. */
static void await(MPI_Request *request) {
  int done = 0;
  for (int looks = 0; MPI_Test(request, &done, MPI_STATUS_IGNORE) == MPI_SUCCESS && !done;
       looks++) {
    const struct timespec sleep = {0, looks < 1000 ? 10000 : 500000}; /* nanoseconds */
    if (looks > 200) nanosleep(&sleep, NULL);
  }
}

static void broadcast(void *data, size_t bytes) {
  MPI_Request request;
  MPI_Ibcast(data, (int)bytes, MPI_BYTE, 0, MPI_COMM_WORLD, &request);
  await(&request);
}

void processes_lead(const process_order *order) {
  process_order sent = *order;
  if (count > 1 && own == 0) broadcast(&sent, sizeof sent);
}

bool processes_follow(process_order *order) {
  broadcast(order, sizeof *order);
  return order->kind != ORDER_END;
}

/* ---- what failed where ---- */

typedef struct outcome {
  int32_t status;
  char said[2000];
} outcome;

/* The first that failed by itself: others of a group only heard of it, and say so in words of the
 * library's. */
static int at_fault(const outcome *all) {
  int first = -1;
  for (int r = count - 1; r >= 0; r--)
    if (all[r].status != MOECL_OK) first = r;
  for (int r = 0; r < count; r++)
    if (all[r].status != MOECL_OK && !strstr(all[r].said, ": failed on rank ")) return r;
  return first;
}

static moecl_status find_fault(moecl_status status, char *said, size_t size) {
  MPI_Request request;
  outcome one = {.status = status}, *all = calloc((size_t)count, sizeof *all);
  if (!all) MPI_Abort(MPI_COMM_WORLD, 1);
  snprintf(one.said, sizeof one.said, "%s", status == MOECL_OK ? "" : said);
  MPI_Iallgather(&one, sizeof one, MPI_BYTE, all, sizeof one, MPI_BYTE, MPI_COMM_WORLD, &request);
  await(&request);
  const int rank = at_fault(all);
  const outcome *fault = &all[rank];
  status = (moecl_status)fault->status;
  snprintf(said, size, "rank %d: %s", rank,
           *fault->said ? fault->said : moecl_status_string(status));
  free(all);
  return status;
}

moecl_status processes_conclude(moecl_status status, char *said, size_t size) {
  int failed = status != MOECL_OK, any = 0;
  MPI_Request request;
  if (count == 1) return status;
  MPI_Iallreduce(&failed, &any, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD, &request);
  await(&request);
  return any ? find_fault(status, said, size) : MOECL_OK;
}

/* ---- data ---- */

const void *processes_comm_of(int members) {
  if (count == 1) return NULL;
  leave_group();
  if (members >= count) group = MPI_COMM_WORLD;
  else MPI_Comm_split(MPI_COMM_WORLD, own < members ? 0 : MPI_UNDEFINED, own, &group);
  return &group;
}

void processes_share(void *records, size_t bytes, int members) {
  MPI_Request request;
  if (count == 1) return;
  int *sizes = calloc(2 * (size_t)count, sizeof *sizes), *from = sizes + count;
  if (!sizes) MPI_Abort(MPI_COMM_WORLD, 1);
  for (int r = 0; r < count; r++) {
    sizes[r] = processes_members(members, r, &from[r]) * (int)bytes;
    from[r] *= (int)bytes;
  }
  MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, records, sizes, from, MPI_BYTE,
                  MPI_COMM_WORLD, &request);
  await(&request);
  free(sizes);
}

void processes_share_led(void *data, size_t bytes) {
  if (count > 1) broadcast(data, bytes);
}

void processes_share_most(double *values, int size) {
  MPI_Request request;
  if (count == 1) return;
  for (int i = 0; i < size; i++)
    if (isnan(values[i])) values[i] = -INFINITY;
  MPI_Iallreduce(MPI_IN_PLACE, values, size, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD, &request);
  await(&request);
  for (int i = 0; i < size; i++)
    if (values[i] == -INFINITY) values[i] = NAN;
}

enum { MOST_BYTES = 1 << 28 }; /* of one message */

void processes_give(const void *data, size_t bytes) {
  MPI_Request request;
  for (size_t at = 0, part; at < bytes; at += part) {
    part = bytes - at < MOST_BYTES ? bytes - at : MOST_BYTES;
    MPI_Isend((const char *)data + at, (int)part, MPI_BYTE, 0, 0, MPI_COMM_WORLD, &request);
    await(&request);
  }
}

void processes_take(int rank, void *data, size_t bytes) {
  MPI_Request request;
  for (size_t at = 0, part; at < bytes; at += part) {
    part = bytes - at < MOST_BYTES ? bytes - at : MOST_BYTES;
    MPI_Irecv((char *)data + at, (int)part, MPI_BYTE, rank, 0, MPI_COMM_WORLD, &request);
    await(&request);
  }
}

#else

bool processes_begin(void) {
  const int expected = launched();
  if (expected > 1)
    complain("mpirun or srun started %d processes, and this moectl was built without MPI: all of "
             "them would "
             "do the same; install Open MPI or MPICH for development and build again "
             "(-Dmpi=enabled)",
             expected);
  return expected == ALONE || expected == MPI_KNOWS;
}
void processes_end(void) {}
void processes_lead(const process_order *order) { (void)order; }
bool processes_follow(process_order *order) {
  (void)order;
  return false;
}
moecl_status processes_conclude(moecl_status status, char *said, size_t size) {
  (void)said, (void)size;
  return status;
}
const void *processes_comm_of(int members) {
  (void)members;
  return NULL;
}
void processes_share(void *records, size_t bytes, int members) {
  (void)records, (void)bytes, (void)members;
}
void processes_share_led(void *data, size_t bytes) { (void)data, (void)bytes; }
void processes_share_most(double *values, int size) { (void)values, (void)size; }
void processes_give(const void *data, size_t bytes) { (void)data, (void)bytes; }
void processes_take(int rank, void *data, size_t bytes) { (void)rank, (void)data, (void)bytes; }

#endif
