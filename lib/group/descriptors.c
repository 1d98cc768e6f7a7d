// SPDX-License-Identifier: MIT
/* File descriptors between the processes of one machine (SCM_RIGHTS).
 *
 * Each rank has one datagram socket, whose name in Linux's abstract room the kernel makes up; names
 * go round by MPI. A message is one descriptor, with the turn, its place in the list and a number.
 * In a turn everybody sends all it has to everybody, and takes what others send, whichever comes
 * first. What can go wrong, and what is done about it:
 *
 * - A stranger writes to the socket: the kernel says who has sent a message (SCM_CREDENTIALS), and
 *   what is not of the process and user that MPI has named is dropped, its descriptor closed. No
 *   file of the file system is left behind, and none can be in the way.
 * - Two ranks send to each other, and both queues are full: nobody ever waits in a call. Who can
 *   send nothing takes what has come, and looks again.
 * - A rank cannot go on: it sends the others a message without a descriptor, as far as that goes,
 *   and they give up as well, at once.
 * - A rank has died, or never sends: each turn has an end (PATIENCE_SECONDS). To send to one that
 *   has died is an error at once. The caller then agrees with the others by MPI that it came to
 *   nothing; of a process that is gone it is mpirun that ends the rest.
 * - A rank has given up, and messages of that turn come later: turns have numbers. Those before
 *   this one are dropped; one after it cannot come, as a turn begins behind an agreement of all.
 * - A message is lost on the way, or comes twice: the kernel promises neither happens; a place
 *   that has its descriptor, or is not the sender's, is an error.
 * - A process ends with messages under way: the kernel closes what is in them. */
#define _GNU_SOURCE /* struct ucred */
#include "group/descriptors.h"
#include "base/base.h"
#include "moecl/group.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifdef __linux__

enum { PATIENCE_SECONDS = 10 };

/* What the ranks tell each other of themselves. */
typedef struct seat {
  struct sockaddr_un name;
  int64_t length; /* of the name; 0: it has none */
  int64_t process, user;
} seat;

typedef struct note {
  uint64_t turn, place, bytes;
} note;

struct group_descriptors {
  const moecl_log *log;
  group_ranks *ranks;
  int socket;
  uint64_t turn;
  seat seat[MOECL_MAX_GROUP_MEMBERS];
};

/* ---- who is in reach ---- */

static bool add_link(char *text, size_t size, const char *path) {
  char target[64];
  const ssize_t length = readlink(path, target, sizeof target);
  const size_t used = strlen(text);
  if (length <= 0 || (size_t)length >= sizeof target) return false;
  snprintf(text + used, size - used, " %.*s", (int)length, target);
  return true;
}

/* The kernel, by its boot's number, and the namespaces of processes and sockets, which containers
 * have of their own. Of a rank that cannot tell nobody else is in reach. */
void descriptors_reach(int rank, char name[DESCRIPTORS_REACH]) {
  char boot[40] = "";
  FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
  const bool known = file && fgets(boot, sizeof boot, file);
  if (file) fclose(file);
  snprintf(name, DESCRIPTORS_REACH, "%.*s", (int)strcspn(boot, "\n"), boot);
  if (!known || !add_link(name, DESCRIPTORS_REACH, "/proc/self/ns/pid") ||
      !add_link(name, DESCRIPTORS_REACH, "/proc/self/ns/net") ||
      !add_link(name, DESCRIPTORS_REACH, "/proc/self/ns/user"))
    snprintf(name, DESCRIPTORS_REACH, "rank %d", rank);
}

static moecl_status failed(const group_descriptors *d, const char *what) {
  return log_error(d->log, MOECL_ERROR_IO, "group: %s: %s", what, base_error_text(errno));
}

/* ---- sockets ---- */

/* The sender is told of every message, so also of one that comes before the names are known. */
static moecl_status open_socket(group_descriptors *d, seat *own) {
  const struct sockaddr_un any = {.sun_family = AF_UNIX};
  const int on = 1;
  socklen_t length = sizeof own->name;
  *own = (seat){.process = getpid(), .user = getuid()};
  d->socket = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (d->socket < 0) return failed(d, "no socket for other processes of this machine");
  if (setsockopt(d->socket, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) != 0 ||
      bind(d->socket, (const struct sockaddr *)&any, sizeof any.sun_family) != 0 ||
      getsockname(d->socket, (struct sockaddr *)&own->name, &length) != 0)
    return failed(d, "no name for a socket");
  own->length = length;
  return MOECL_OK;
}

moecl_status descriptors_open(const moecl_log *log, group_ranks *ranks, group_descriptors **out) {
  group_descriptors *d = calloc(1, sizeof *d);
  moecl_status status =
      d ? MOECL_OK : log_error(log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  int64_t first[MOECL_MAX_GROUP_MEMBERS + 1];
  *out = d;
  if (d) *d = (group_descriptors){.log = log, .ranks = ranks, .socket = -1};
  if (d) status = open_socket(d, &d->seat[ranks_own(ranks)]);
  status = ranks_agree(ranks, status, "group");
  for (int r = 0; r <= ranks_count(ranks); r++) first[r] = r;
  if (status == MOECL_OK)
    status = ranks_agree(ranks, ranks_gather(ranks, d->seat, first, sizeof *d->seat), "group");
  if (status != MOECL_OK) descriptors_close(out);
  return status;
}

void descriptors_close(group_descriptors **handle) {
  group_descriptors *d = *handle;
  *handle = NULL;
  if (d && d->socket >= 0) close(d->socket);
  free(d);
}

/* ---- one message ---- */

typedef union control { /* room for a descriptor and for who has sent it, aligned */
  struct cmsghdr header;
  char room[CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
} control;

/* Without a file (-1): nothing more will come. */
static bool try_send(const group_descriptors *d, int to, note note, int file) {
  control control = {.room = {0}};
  struct iovec data = {&note, sizeof note};
  struct msghdr message = {.msg_name = (void *)&d->seat[to].name,
                           .msg_namelen = (socklen_t)d->seat[to].length,
                           .msg_iov = &data,
                           .msg_iovlen = 1,
                           .msg_control = control.room,
                           .msg_controllen = CMSG_SPACE(sizeof file)};
  struct cmsghdr *part = CMSG_FIRSTHDR(&message);
  *part = (struct cmsghdr){
      .cmsg_len = CMSG_LEN(sizeof file), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
  memcpy(CMSG_DATA(part), &file, sizeof file);
  if (file < 0) message.msg_controllen = 0;
  return sendmsg(d->socket, &message, MSG_NOSIGNAL) == (ssize_t)sizeof note;
}

/* *sent: false, the other one's queue is full. */
static moecl_status send_one(const group_descriptors *d, int to, note note, int file, bool *sent) {
  *sent = try_send(d, to, note, file);
  if (*sent || errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS || errno == EINTR)
    return MOECL_OK;
  return failed(d, "a descriptor cannot be sent to another process");
}

/* A message, of whomever. */
typedef struct arrival {
  note note;
  int file; /* -1: none, or not one alone */
  struct ucred sender;
  bool whole;
} arrival;

static void read_parts(struct msghdr *message, arrival *arrival) {
  for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part; part = CMSG_NXTHDR(message, part)) {
    const size_t bytes = part->cmsg_len - CMSG_LEN(0);
    if (part->cmsg_level != SOL_SOCKET) continue;
    if (part->cmsg_type == SCM_CREDENTIALS && bytes == sizeof arrival->sender)
      memcpy(&arrival->sender, CMSG_DATA(part), bytes);
    for (size_t at = 0; part->cmsg_type == SCM_RIGHTS && at < bytes; at += sizeof(int)) {
      if (arrival->file >= 0) close(arrival->file), arrival->whole = false;
      memcpy(&arrival->file, CMSG_DATA(part) + at, sizeof(int));
    }
  }
}

/* *came: false, there is none. */
static moecl_status receive_one(const group_descriptors *d, arrival *arrival, bool *came) {
  control control;
  struct iovec data = {&arrival->note, sizeof arrival->note};
  struct msghdr message = {.msg_iov = &data,
                           .msg_iovlen = 1,
                           .msg_control = control.room,
                           .msg_controllen = sizeof control.room};
  *arrival = (struct arrival){.file = -1, .sender = {.pid = -1}};
  const ssize_t bytes = recvmsg(d->socket, &message, MSG_CMSG_CLOEXEC);
  *came = bytes >= 0;
  if (!*came && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return MOECL_OK;
  if (!*came) return failed(d, "a descriptor cannot be had from another process");
  arrival->whole =
      bytes == (ssize_t)sizeof arrival->note && !(message.msg_flags & (MSG_TRUNC | MSG_CTRUNC));
  read_parts(&message, arrival);
  return MOECL_OK;
}

/* ---- a turn ---- */

static int find_sender(const group_descriptors *d, const struct ucred *sender) {
  for (int r = 0; r < ranks_count(d->ranks); r++)
    if (d->seat[r].process == sender->pid && d->seat[r].user == (int64_t)sender->uid) return r;
  return -1;
}

/* What is a rank's, and of this turn, to its place. */
static moecl_status take(const group_descriptors *d, arrival *arrival, descriptor *list,
                         const int64_t *first, int64_t *missing) {
  const int from = find_sender(d, &arrival->sender);
  const int64_t place = (int64_t)arrival->note.place;
  const bool stale = arrival->whole && arrival->note.turn != d->turn;
  if (from < 0 || stale) {
    if (arrival->file >= 0) close(arrival->file);
    return MOECL_OK;
  }
  if (arrival->whole && arrival->file >= 0 && place >= first[from] && place < first[from + 1] &&
      from != ranks_own(d->ranks) && list[place].file < 0) {
    list[place] = (descriptor){arrival->file, arrival->note.bytes};
    --*missing;
    return MOECL_OK;
  }
  if (arrival->file >= 0) close(arrival->file);
  return log_error(d->log, MOECL_ERROR_IO,
                   "group: no descriptor, or one that nobody waits for, came from rank %d of this "
                   "machine, which has given up, or this process has too many files open",
                   from);
}

static moecl_status take_all(const group_descriptors *d, descriptor *list, const int64_t *first,
                             int64_t *missing, bool *moved) {
  for (bool came = true; came;) {
    arrival arrival;
    MOECL_TRY(receive_one(d, &arrival, &came));
    if (came) MOECL_TRY(take(d, &arrival, list, first, missing));
    *moved = *moved || came;
  }
  return MOECL_OK;
}

/* What is left to be sent: others' seats in turn, for each of the own ones. */
typedef struct sending {
  int64_t place;
  int to;
} sending;

static moecl_status send_all(const group_descriptors *d, const descriptor *list, int64_t end,
                             sending *next, bool *moved) {
  while (next->place < end) {
    const note note = {d->turn, (uint64_t)next->place, list[next->place].bytes};
    bool sent = true;
    if (next->to != ranks_own(d->ranks))
      MOECL_TRY(send_one(d, next->to, note, list[next->place].file, &sent));
    if (!sent) return MOECL_OK; /* take what has come meanwhile */
    *moved = true;
    if (++next->to < ranks_count(d->ranks)) continue;
    next->to = 0;
    next->place++;
  }
  return MOECL_OK;
}

static int64_t now_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec;
}

static moecl_status exchange(const group_descriptors *d, descriptor *list, const int64_t *first) {
  const int own = ranks_own(d->ranks);
  const int64_t end = first[own + 1], until = now_seconds() + PATIENCE_SECONDS;
  int64_t missing = first[ranks_count(d->ranks)] - (end - first[own]);
  sending next = {first[own], 0};
  for (int looks = 0; next.place < end || missing > 0;) {
    bool moved = false;
    MOECL_TRY(send_all(d, list, end, &next, &moved));
    MOECL_TRY(take_all(d, list, first, &missing, &moved));
    if (moved) looks = 0;
    else if (now_seconds() >= until)
      return log_error(d->log, MOECL_ERROR_IO,
                       "group: %lld descriptors did not come from other processes of this machine "
                       "in %d seconds",
                       (long long)missing, PATIENCE_SECONDS);
    else ranks_pause(&looks);
  }
  return MOECL_OK;
}

static void give_up(const group_descriptors *d) {
  for (int r = 0; r < ranks_count(d->ranks); r++)
    if (r != ranks_own(d->ranks)) (void)try_send(d, r, (note){.turn = d->turn}, -1);
}

moecl_status descriptors_pass(group_descriptors *d, descriptor *list, const int64_t *first) {
  const int own = ranks_own(d->ranks);
  const int64_t count = first[ranks_count(d->ranks)];
  d->turn++;
  for (int64_t i = 0; i < count; i++)
    if (i < first[own] || i >= first[own + 1]) list[i] = (descriptor){.file = -1};
  const moecl_status status = exchange(d, list, first);
  if (status != MOECL_OK) give_up(d);
  for (int64_t i = 0; i < count && status != MOECL_OK; i++) {
    if (i >= first[own] && i < first[own + 1]) continue;
    if (list[i].file >= 0) close(list[i].file);
    list[i].file = -1;
  }
  return status;
}

#else /* kernels that do not say who has sent a message */

void descriptors_reach(int rank, char name[DESCRIPTORS_REACH]) {
  snprintf(name, DESCRIPTORS_REACH, "rank %d", rank);
}

moecl_status descriptors_open(const moecl_log *log, group_ranks *ranks, group_descriptors **out) {
  (void)ranks;
  *out = NULL;
  return log_error(log, MOECL_ERROR_UNSUPPORTED,
                   "group: descriptors are passed between processes on Linux alone");
}
void descriptors_close(group_descriptors **descriptors) { *descriptors = NULL; }
moecl_status descriptors_pass(group_descriptors *descriptors, descriptor *list,
                              const int64_t *first) {
  (void)descriptors, (void)list, (void)first;
  return MOECL_ERROR_UNSUPPORTED;
}

#endif
