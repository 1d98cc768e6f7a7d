// SPDX-License-Identifier: MIT
#include "group/ranks.h"
#include "base/base.h"
#include "moecl/group.h"
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Looks: as long as a message takes that comes at once; then as ranks are apart that do as much, in
 * which others on this processor go first; and then some in short sleeps, which cost a scheduler
 * more than they last. */
enum { BUSY = 200, YIELDING = 5000, SHORT = YIELDING + 200 };

void ranks_pause(int *looks) {
  const struct timespec sleep = {0, *looks < SHORT ? 10000 : 100000}; /* nanoseconds */
  if (*looks >= YIELDING) nanosleep(&sleep, NULL);
  else if (*looks >= BUSY) sched_yield();
  if (*looks < SHORT) ++*looks;
}

#if MOECL_HAVE_MPI
#include <mpi.h>

_Static_assert(sizeof(MPI_Request) <= sizeof(uint64_t), "a ranks_message has room for a request");

struct group_ranks {
  const moecl_log *log;
  MPI_Comm comm; /* the group's own: nobody else's messages are on it, and errors are returned */
  int own, count;
};

static moecl_status check(const moecl_log *log, int code, const char *call) {
  char text[MPI_MAX_ERROR_STRING] = "?";
  int size;
  if (code == MPI_SUCCESS) return MOECL_OK;
  MPI_Error_string(code, text, &size);
  return log_error(log, MOECL_ERROR_DEVICE, "%s failed: %s", call, text);
}

/* Others count on this rank's part in a call. Where MPI has not taken it that is an error, and the
 * call is made again all the same, for a fifth of a second; false: it is made, or no more. */
static bool again(const moecl_log *log, int code, const char *call, moecl_status *status,
                  int *tries) {
  enum { TRIES = 200 };
  const struct timespec pause = {0, 1000000}; /* nanoseconds */
  if (code == MPI_SUCCESS) return false;
  if (*status == MOECL_OK) *status = check(log, code, call);
  if (++*tries == TRIES) return false;
  nanosleep(&pause, NULL);
  return true;
}

static moecl_status check_begun(const moecl_log *log) {
  int begun = 0, ended = 0;
  MPI_Initialized(&begun);
  MPI_Finalized(&ended);
  if (!begun || ended)
    return log_error(log, MOECL_ERROR_NOT_READY,
                     "group: MPI has %s; moecl_group_create comes between MPI_Init_thread and "
                     "MPI_Finalize",
                     begun ? "ended" : "not begun");
  return MOECL_OK;
}

static moecl_status check_threads(const moecl_log *log) {
  int level = MPI_THREAD_SINGLE;
  MPI_Query_thread(&level);
  if (level >= MPI_THREAD_FUNNELED) return MOECL_OK;
  return log_error(log, MOECL_ERROR_UNSUPPORTED,
                   "group: MPI was begun for programs of one thread, and OpenCL drivers have "
                   "threads of their own: MPI_Init_thread with MPI_THREAD_FUNNELED or more");
}

/* What a rank has failed in, and its lack of memory, are told once there is a communicator to tell
 * it on. */
moecl_status ranks_join(const moecl_log *log, const void *comm, moecl_status status,
                        group_ranks **out) {
  group_ranks made = {.log = log, .comm = MPI_COMM_NULL};
  MPI_Comm given;
  int code, tries = 0;
  *out = NULL;
  MOECL_TRY(check_begun(log));
  memcpy(&given, comm, sizeof given);
  do code = MPI_Comm_dup(given, &made.comm);
  while (again(log, code, "MPI_Comm_dup", &status, &tries));
  if (code != MPI_SUCCESS) return status;
  code = MPI_Comm_set_errhandler(made.comm, MPI_ERRORS_RETURN);
  if (status == MOECL_OK) status = check(log, code, "MPI_Comm_set_errhandler");
  MPI_Comm_rank(made.comm, &made.own);
  MPI_Comm_size(made.comm, &made.count);
  if (status == MOECL_OK) status = check_threads(log);
  group_ranks *ranks = malloc(sizeof *ranks);
  if (status == MOECL_OK && !ranks)
    status = log_error(log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  status = ranks_agree(&made, status, "group");
  if (status != MOECL_OK) {
    MPI_Comm_free(&made.comm);
    free(ranks);
    return status;
  }
  *ranks = made;
  *out = ranks;
  return MOECL_OK;
}

/* What the program has ended already is gone. */
void ranks_leave(group_ranks **handle) {
  int ended = 0;
  group_ranks *ranks = *handle;
  if (!ranks) return;
  *handle = NULL;
  MPI_Finalized(&ended);
  if (!ended && ranks->comm != MPI_COMM_NULL) MPI_Comm_free(&ranks->comm);
  free(ranks);
}

int ranks_own(const group_ranks *ranks) { return ranks ? ranks->own : 0; }
int ranks_count(const group_ranks *ranks) { return ranks ? ranks->count : 1; }

static moecl_status await(group_ranks *ranks, MPI_Request *request, const char *call) {
  for (int done = 0, looks = 0;; ranks_pause(&looks)) {
    MOECL_TRY(check(ranks->log, MPI_Test(request, &done, MPI_STATUS_IGNORE), call));
    if (done) return MOECL_OK;
  }
}

/* The status of the first rank whose is not MOECL_OK: the least of what all say, as the rank stands
 * before the status, and MOECL_OK is more than any. */
moecl_status ranks_agree(group_ranks *ranks, moecl_status status, const char *what) {
  enum { FINE = 1 << 30 };
  if (!ranks || ranks->count == 1) return status;
  int own, first = FINE, code, tries = 0;
  MPI_Request request = MPI_REQUEST_NULL;
  do {
    own = status == MOECL_OK ? FINE : ranks->own << 8 | (int)status;
    code = MPI_Iallreduce(&own, &first, 1, MPI_INT, MPI_MIN, ranks->comm, &request);
  } while (again(ranks->log, code, "MPI_Iallreduce", &status, &tries));
  if (code != MPI_SUCCESS) return status;
  MOECL_TRY(await(ranks, &request, "MPI_Iallreduce"));
  if (first == FINE || status != MOECL_OK) return status;
  return log_error(ranks->log, (moecl_status)(first & 255),
                   "%s: failed on rank %d: %s; its own log says why", what, first >> 8,
                   moecl_status_string((moecl_status)(first & 255)));
}

bool ranks_all(group_ranks *ranks, bool fine) {
  if (!ranks || ranks->count == 1) return fine;
  int own, all = 0, code, tries = 0;
  MPI_Request request = MPI_REQUEST_NULL;
  moecl_status status = MOECL_OK;
  do {
    own = fine && status == MOECL_OK;
    code = MPI_Iallreduce(&own, &all, 1, MPI_INT, MPI_MIN, ranks->comm, &request);
  } while (again(ranks->log, code, "MPI_Iallreduce", &status, &tries));
  return code == MPI_SUCCESS && await(ranks, &request, "MPI_Iallreduce") == MOECL_OK && all;
}

moecl_status ranks_split(group_ranks *ranks, moecl_status status, int colour, group_ranks **out) {
  group_ranks made = {.log = ranks->log, .comm = MPI_COMM_NULL};
  group_ranks *part = malloc(sizeof *part);
  int code, tries = 0;
  *out = NULL;
  if (status == MOECL_OK && !part)
    status = log_error(ranks->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  do code = MPI_Comm_split(ranks->comm, colour, ranks->own, &made.comm);
  while (again(ranks->log, code, "MPI_Comm_split", &status, &tries));
  if (code == MPI_SUCCESS) code = MPI_Comm_set_errhandler(made.comm, MPI_ERRORS_RETURN);
  if (status == MOECL_OK) status = check(ranks->log, code, "MPI_Comm_set_errhandler");
  status = ranks_agree(ranks, status, "group");
  if (status != MOECL_OK) {
    if (made.comm != MPI_COMM_NULL) MPI_Comm_free(&made.comm);
    free(part);
    return status;
  }
  MPI_Comm_rank(made.comm, &made.own);
  MPI_Comm_size(made.comm, &made.count);
  *part = made;
  *out = part;
  return MOECL_OK;
}

/* How the first call ended that did not end well, or the last one. */
static int begin_gather(group_ranks *ranks, void *rows, const int64_t *first, size_t row_bytes,
                        MPI_Request *request, const char **call) {
  int counts[MOECL_MAX_GROUP_MEMBERS], from[MOECL_MAX_GROUP_MEMBERS];
  MPI_Datatype row;
  for (int r = 0; r < ranks->count; r++) {
    counts[r] = (int)(first[r + 1] - first[r]);
    from[r] = (int)first[r];
  }
  *call = "MPI_Type_contiguous";
  int code = MPI_Type_contiguous((int)row_bytes, MPI_BYTE, &row);
  if (code != MPI_SUCCESS) return code;
  *call = "MPI_Type_commit";
  code = MPI_Type_commit(&row);
  if (code == MPI_SUCCESS) {
    *call = "MPI_Iallgatherv";
    code = MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, rows, counts, from, row, ranks->comm,
                           request);
  }
  MPI_Type_free(&row); /* when nothing needs it any more */
  return code;
}

moecl_status ranks_gather(group_ranks *ranks, void *rows, const int64_t *first, size_t row_bytes) {
  if (!ranks || ranks->count == 1) return MOECL_OK;
  MPI_Request request = MPI_REQUEST_NULL;
  moecl_status status = MOECL_OK;
  const char *call;
  int code, tries = 0;
  do code = begin_gather(ranks, rows, first, row_bytes, &request, &call);
  while (again(ranks->log, code, call, &status, &tries));
  if (code == MPI_SUCCESS) MOECL_TRY(await(ranks, &request, call));
  return status;
}

moecl_status ranks_broadcast(group_ranks *ranks, int from, void *data, size_t bytes) {
  if (!ranks || ranks->count == 1) return MOECL_OK;
  MPI_Request request = MPI_REQUEST_NULL;
  moecl_status status = MOECL_OK;
  int code, tries = 0;
  do code = MPI_Ibcast(data, (int)bytes, MPI_BYTE, from, ranks->comm, &request);
  while (again(ranks->log, code, "MPI_Ibcast", &status, &tries));
  if (code == MPI_SUCCESS) MOECL_TRY(await(ranks, &request, "MPI_Ibcast"));
  return status;
}

/* ---- messages ---- */

static void keep(ranks_message *message, MPI_Request request, size_t expected) {
  *message = (ranks_message){.under_way = true, .expected = expected};
  memcpy(&message->request, &request, sizeof request);
}

static MPI_Request request_of(const ranks_message *message) {
  MPI_Request request;
  memcpy(&request, &message->request, sizeof request);
  return request;
}

/* In the place of one that does not go an empty one does. */
moecl_status ranks_send(group_ranks *ranks, int to, int tag, const void *data, size_t bytes,
                        ranks_message *message) {
  MPI_Request request;
  moecl_status status = MOECL_OK;
  int code, tries = 0;
  do
    code = MPI_Isend(data, status == MOECL_OK ? (int)bytes : 0, MPI_BYTE, to, tag, ranks->comm,
                     &request);
  while (again(ranks->log, code, "MPI_Isend", &status, &tries));
  if (code == MPI_SUCCESS) keep(message, request, 0);
  return status;
}

moecl_status ranks_receive(group_ranks *ranks, int from, int tag, void *data, size_t bytes,
                           ranks_message *message) {
  MPI_Request request;
  moecl_status status = MOECL_OK;
  int code, tries = 0;
  do code = MPI_Irecv(data, (int)bytes, MPI_BYTE, from, tag, ranks->comm, &request);
  while (again(ranks->log, code, "MPI_Irecv", &status, &tries));
  if (code == MPI_SUCCESS) keep(message, request, bytes);
  return status;
}

static moecl_status check_size(group_ranks *ranks, const ranks_message *message,
                               const MPI_Status *status) {
  int came = 0;
  if (message->expected == 0) return MOECL_OK;
  MOECL_TRY(check(ranks->log, MPI_Get_count(status, MPI_BYTE, &came), "MPI_Get_count"));
  if ((size_t)came == message->expected) return MOECL_OK;
  return log_error(ranks->log, MOECL_ERROR_DEVICE,
                   "group: a message of %d bytes came from rank %d, expected %zu", came,
                   status->MPI_SOURCE, message->expected);
}

/* One that has failed is over as well, and its request gone. */
moecl_status ranks_test(group_ranks *ranks, ranks_message *message, bool *done) {
  int over = 0;
  MPI_Status how;
  *done = true;
  if (!message->under_way) return MOECL_OK;
  const ranks_message tested = *message;
  MPI_Request request = request_of(message);
  *message = (ranks_message){0};
  MOECL_TRY(check(ranks->log, MPI_Test(&request, &over, &how), "MPI_Test"));
  if (over) return check_size(ranks, &tested, &how);
  keep(message, request, tested.expected);
  *done = false;
  return MOECL_OK;
}

/* What is to come is called off at once. What goes may not be: Open MPI never does, and the other
 * rank may be reading it. It is done when MPI says so, not before. */
bool ranks_give_up(group_ranks *ranks, ranks_message *message) {
  enum { LOOKS = YIELDING + 100 }; /* some milliseconds */
  int over = 0, looks = 0;
  (void)ranks;
  if (!message->under_way) return true;
  MPI_Request request = request_of(message);
  if (!message->given_up) MPI_Cancel(&request);
  for (; !over && looks < LOOKS; ranks_pause(&looks))
    if (MPI_Test(&request, &over, MPI_STATUS_IGNORE) != MPI_SUCCESS) break;
  memcpy(&message->request, &request, sizeof request);
  message->given_up = true;
  message->under_way = !over;
  return over;
}

#else

/* Nobody ever joins. */
moecl_status ranks_join(const moecl_log *log, const void *comm, moecl_status status,
                        group_ranks **ranks) {
  (void)comm;
  *ranks = NULL;
  if (status != MOECL_OK) return status;
  return log_error(log, MOECL_ERROR_UNSUPPORTED,
                   "group: this libmoecl was built without MPI; install Open MPI or MPICH for "
                   "development and build again (-Dmpi=enabled)");
}
void ranks_leave(group_ranks **ranks) { *ranks = NULL; }
int ranks_own(const group_ranks *ranks) {
  (void)ranks;
  return 0;
}
int ranks_count(const group_ranks *ranks) {
  (void)ranks;
  return 1;
}
moecl_status ranks_agree(group_ranks *ranks, moecl_status status, const char *what) {
  (void)ranks, (void)what;
  return status;
}
bool ranks_all(group_ranks *ranks, bool fine) {
  (void)ranks;
  return fine;
}
moecl_status ranks_split(group_ranks *ranks, moecl_status status, int colour, group_ranks **part) {
  (void)ranks, (void)status, (void)colour;
  *part = NULL;
  return MOECL_ERROR_UNSUPPORTED;
}
moecl_status ranks_gather(group_ranks *ranks, void *rows, const int64_t *first, size_t row_bytes) {
  (void)ranks, (void)rows, (void)first, (void)row_bytes;
  return MOECL_OK;
}
moecl_status ranks_broadcast(group_ranks *ranks, int from, void *data, size_t bytes) {
  (void)ranks, (void)from, (void)data, (void)bytes;
  return MOECL_OK;
}
moecl_status ranks_send(group_ranks *ranks, int to, int tag, const void *data, size_t bytes,
                        ranks_message *message) {
  (void)ranks, (void)to, (void)tag, (void)data, (void)bytes, (void)message;
  return MOECL_ERROR_UNSUPPORTED;
}
moecl_status ranks_receive(group_ranks *ranks, int from, int tag, void *data, size_t bytes,
                           ranks_message *message) {
  (void)ranks, (void)from, (void)tag, (void)data, (void)bytes, (void)message;
  return MOECL_ERROR_UNSUPPORTED;
}
moecl_status ranks_test(group_ranks *ranks, ranks_message *message, bool *done) {
  (void)ranks, (void)message;
  *done = true;
  return MOECL_OK;
}
bool ranks_give_up(group_ranks *ranks, ranks_message *message) {
  (void)ranks, (void)message;
  return true;
}

#endif
