// SPDX-License-Identifier: MIT
/* A group: members, their lanes, and the transport between them. */
#include "group/group.h"
#include "base/base.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const group_transport *const group_transports[] = {
    &group_nvidia_peer_transport, &group_host_transport, &group_nvidia_copy_transport, NULL};

moecl_group *group_retain(moecl_group *group) {
  group->references++;
  return group;
}

bool group_is_forked(const moecl_group *group) { return group->process != getpid(); }

const moecl_log *group_log(const moecl_group *group) {
  return &group->device[group->begin].context->log;
}

void moecl_group_destroy(moecl_group **handle) {
  if (!handle || !*handle) return;
  moecl_group *group = *handle;
  *handle = NULL;
  if (group_is_forked(group) || --group->references > 0) return;
  base_team_destroy(&group->team);
  if (group->state) group->transport->release(group->state);
  group_release_near(&group->near);
  ranks_leave(&group->ranks); /* before what it logs to */
  for (int m = group->begin; m < group->end; m++) {
    ocl_lane_release(&group->device[m].out);
    ocl_lane_release(&group->device[m].in);
    moecl_context_destroy(&group->device[m].context);
  }
  free(group);
}

static moecl_status add_member(group_device *device, moecl_context *context) {
  MOECL_TRY(ocl_lane_create(context, &device->out));
  return ocl_lane_create(context, &device->in);
}

/* ---- the transport ---- */

bool group_transport_is_asked(const group_transport *transport, const char *asked) {
  return asked ? strcmp(transport->name, asked) == 0 : !transport->asked_only;
}

static void log_as_info(void *user, moecl_log_level level, const char *message) {
  log_write(user, level == MOECL_LOG_ERROR ? MOECL_LOG_INFO : level, "%s", message);
}

moecl_status group_try_transport(const group_transport *transport, moecl_group *group,
                                 void **state) {
  moecl_log logs[MOECL_MAX_GROUP_MEMBERS];
  for (int m = group->begin; m < group->end; m++) {
    moecl_log *log = &group->device[m].context->log;
    logs[m] = *log;
    *log = (moecl_log){log_as_info, &logs[m], NULL};
  }
  const moecl_status status = transport->create(group, state);
  if (status != MOECL_OK && *state) transport->release(*state);
  if (status != MOECL_OK) *state = NULL;
  for (int m = group->begin; m < group->end; m++) group->device[m].context->log = logs[m];
  return status;
}

static const group_transport *const *find_asked(const group_transport *const *from,
                                                const char *asked) {
  while (*from && !group_transport_is_asked(*from, asked)) from++;
  return from;
}

static moecl_status refuse(const moecl_group *group, const char *asked, const char *where,
                           const char *why) {
  return log_error(group_log(group), MOECL_ERROR_UNSUPPORTED,
                   "group: the transport '%s' cannot serve here%s: %s; ask for 'host', which "
                   "always does, or for none, which takes the best that does",
                   asked ? asked : "auto", where, why);
}

/* One behind which there is another to fall back on may fail in being made, too. */
moecl_status group_choose_transport(moecl_group *group, const char *asked,
                                    const group_transport **transport, void **state,
                                    const char **why) {
  const group_transport *const *t = find_asked(group_transports, asked);
  if (group->count == 1) { /* sends nothing, whatever was asked for: a sweep's first point */
    *transport = &group_host_transport;
    return group_host_transport.create(group, state);
  }
  for (const group_transport *const *next; *t; t = next) {
    next = find_asked(t + 1, asked);
    *transport = *t;
    *why = (*t)->refuses(group);
    if (!*why && !*next) return (*t)->create(group, state);
    if (!*why && group_try_transport(*t, group, state) == MOECL_OK) return MOECL_OK;
    if (!*why) *why = GROUP_NOT_MADE;
    log_write(group_log(group), MOECL_LOG_INFO, "group: the transport '%s' does not serve: %s",
              (*t)->name, *why);
  }
  *transport = NULL;
  return MOECL_OK;
}

static moecl_status check_name(const moecl_group *group, const char *asked) {
  if (!asked || *find_asked(group_transports, asked)) return MOECL_OK;
  return log_error(group_log(group), MOECL_ERROR_UNSUPPORTED, "group: there is no transport '%s'",
                   asked);
}

/* All ranks, `why` being each one's own: between this process's members, or those of its node, the
 * one that was asked for, or the best that serves; around it messages, where there are others. Of
 * several processes they see together what is to be made of one that does not serve. */
static moecl_status make_transport(moecl_group *group, const char *asked, const char **why) {
  if (group->count == group->end - group->begin) {
    MOECL_TRY(group_choose_transport(group, asked, &group->transport, &group->state, why));
    return group->transport ? MOECL_OK : refuse(group, asked, "", *why);
  }
  MOECL_TRY(group_make_near(group, asked, why));
  moecl_group *near = group->near;
  if (!near->transport) return MOECL_OK;
  if (near->count < group->count) {
    group->transport = &group_messages_transport;
    return group_messages_create(group, &group->state);
  }
  group->transport = near->transport;
  group->state = near->state; /* which goes on with `near` as its group */
  near->state = NULL;
  return MOECL_OK;
}

static moecl_status check_count(const moecl_log *log, int64_t count) {
  if (count <= MOECL_MAX_GROUP_MEMBERS) return MOECL_OK;
  return log_error(log, MOECL_ERROR_INVALID_ARGUMENT, "group: %lld members, expected 1 to %d",
                   (long long)count, MOECL_MAX_GROUP_MEMBERS);
}

static moecl_status check_contexts(moecl_context *const *contexts, size_t count,
                                   const moecl_group_params *params) {
  if (!contexts || count == 0 || !contexts[0]) return MOECL_ERROR_INVALID_ARGUMENT;
  const moecl_log *log = &contexts[0]->log;
  MOECL_TRY(check_count(log, (int64_t)count));
  for (size_t i = 0; i < count; i++) {
    if (!contexts[i])
      return log_error(log, MOECL_ERROR_INVALID_ARGUMENT, "group: context %d is NULL", (int)i);
    for (size_t j = 0; j < i; j++)
      if (contexts[i] == contexts[j])
        return log_error(log, MOECL_ERROR_INVALID_ARGUMENT,
                         "group: members %d and %d are the same context; a device that is to be a "
                         "member twice needs two contexts",
                         (int)j, (int)i);
  }
  return params ? log_check_reserved(log, "moecl_group_params", params->reserved,
                                     BASE_COUNT(params->reserved))
                : MOECL_OK;
}

/* ---- members of all ranks ---- */

moecl_status group_share(const moecl_group *group, void *records, size_t bytes) {
  int64_t first[MOECL_MAX_GROUP_MEMBERS + 1] = {0};
  for (int m = 0, r = 0; m < group->count; m++) {
    r = group->device[m].rank;
    first[r + 1] = m + 1; /* each rank has some, and they are in order */
  }
  return ranks_gather(group->ranks, records, first, bytes);
}

/* Numbers the members, of which this rank has so many; `counts`: all ranks'. */
static moecl_status number_members(moecl_group *group, const moecl_log *log, int64_t *counts) {
  const int ranks = ranks_count(group->ranks), own = ranks_own(group->ranks);
  int64_t all = 0, first[MOECL_MAX_GROUP_MEMBERS + 1];
  for (int r = 0; r <= ranks; r++) first[r] = r;
  MOECL_TRY(ranks_gather(group->ranks, counts, first, sizeof *counts));
  for (int r = 0; r < ranks; r++) all += counts[r];
  MOECL_TRY(check_count(log, all));
  for (int r = 0; r < ranks; r++) {
    if (r == own) group->begin = group->count;
    for (int64_t i = 0; i < counts[r]; i++) group->device[group->count++].rank = r;
    if (r == own) group->end = group->count;
  }
  return MOECL_OK;
}

static moecl_status gather_members(moecl_group *group, moecl_context *const *contexts,
                                   size_t count) {
  const moecl_log *log = &contexts[0]->log;
  int64_t counts[MOECL_MAX_GROUP_MEMBERS];
  MOECL_TRY(check_count(log, ranks_count(group->ranks)));
  counts[ranks_own(group->ranks)] = (int64_t)count;
  MOECL_TRY(number_members(group, log, counts));
  for (int m = group->begin; m < group->end; m++)
    group->device[m].context = ocl_context_retain(contexts[m - group->begin]);
  return MOECL_OK;
}

/* Threads pay where to enqueue takes long beside kernels. CPUs' kernels want the processors
 * themselves, and begin at once. */
static bool wants_threads(const moecl_group *group) {
  for (int m = group->begin; m < group->end; m++)
    if (group->device[m].context->info.type == MOECL_DEVICE_CPU) return false;
  return true;
}

static moecl_status add_members(moecl_group *group) {
  for (int m = group->begin; m < group->end; m++)
    MOECL_TRY(add_member(&group->device[m], group->device[m].context));
  if (wants_threads(group)) group->team = base_team_create(group->end - group->begin);
  return MOECL_OK;
}

/* What takes rows between members near each other, or why what was asked for does not: "": that is
 * not known here. */
typedef struct inside {
  char name[16], why[160];
  int32_t shares; /* in several processes */
  int32_t lacks;  /* one process's members have nothing */
} inside;

static void say_inside(const moecl_group *group, const char *why, inside *insides) {
  const moecl_group *near = group->near;
  inside one = {.lacks = near && !near->transport};
  if (near && near->count > 1 && near->transport) {
    snprintf(one.name, sizeof one.name, "%s", near->transport->name);
    one.shares = near->ranks != NULL;
  }
  if (why && strcmp(why, GROUP_ELSEWHERE) != 0) snprintf(one.why, sizeof one.why, "%s", why);
  for (int m = group->begin; m < group->end; m++) insides[m] = one;
}

/* Of several processes: one that was asked for serves some members, and within a process that has
 * several those. All that asked for it say the same. */
static moecl_status check_asked(const moecl_group *group, const inside *insides,
                                const char *asked) {
  const group_transport *transport = *find_asked(group_transports, asked);
  int served = 0, lacking = -1, told = -1;
  char where[80];
  if (!asked || !group->near || transport->everywhere) return MOECL_OK;
  for (int m = group->count - 1; m >= 0; m--) {
    served += strcmp(insides[m].name, asked) == 0;
    if (insides[m].lacks) lacking = m;
    if (*insides[m].why) told = m;
  }
  if (lacking < 0 && served > 0) return MOECL_OK;
  if (lacking < 0 && told < 0)
    return refuse(group, asked, ", between any two members",
                  transport->across ? "none are in one process, or in processes of one machine "
                                      "that all ask for it"
                                    : "none are in one process");
  const int from = lacking < 0 ? told : lacking;
  snprintf(where, sizeof where,
           lacking < 0 ? ", between any two members, as rank %d finds"
                       : ", between the members of rank %d",
           group->device[from].rank);
  return refuse(group, asked, where, insides[from].why);
}

static void add_name(moecl_group *group, const char *name, const char *where) {
  char *all = group->transport_name;
  const size_t length = strlen(all);
  snprintf(all + length, sizeof group->transport_name - length, "%s%s%s", length ? "+" : "", name,
           where);
}

/* All ranks. "mpi+host": between processes, and what any of them has between members of its own;
 * "mpi+nvidia_peer@node": what there is between all members of a node, in whichever process. Not
 * where one that was asked for by name serves too few. */
static moecl_status name_transport(moecl_group *group, const char *asked, const char *why) {
  inside insides[MOECL_MAX_GROUP_MEMBERS] = {{{0}, {0}, 0, 0}};
  say_inside(group, why, insides);
  MOECL_TRY(group_share(group, insides, sizeof *insides));
  MOECL_TRY(check_asked(group, insides, asked));
  add_name(group, group->near ? group_messages_transport.name : group->transport->name, "");
  for (const group_transport *const *t = group_transports; *t; t++)
    for (int32_t shares = 1; shares >= 0; shares--)
      for (int m = 0; m < group->count; m++) {
        if (strcmp(insides[m].name, (*t)->name) != 0 || insides[m].shares != shares) continue;
        add_name(group, (*t)->name, shares ? "@node" : "");
        group->shares |= shares != 0;
        break;
      }
  return MOECL_OK;
}

/* Whatever a rank fails in, it says so to those that wait for it. */
moecl_status moecl_group_create(moecl_context *const *contexts, size_t count,
                                const moecl_group_params *params, moecl_group **out) {
  const moecl_log *log = contexts && count > 0 && contexts[0] ? &contexts[0]->log : NULL;
  const char *asked = params ? params->transport : NULL, *why = NULL;
  moecl_group *group = calloc(1, sizeof *group);
  group_ranks *ranks = NULL;
  moecl_status status =
      out ? check_contexts(contexts, count, params) : MOECL_ERROR_INVALID_ARGUMENT;
  if (out) *out = NULL;
  if (status == MOECL_OK && !group)
    status = log_error(log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  if (params && params->mpi_comm) status = ranks_join(log, params->mpi_comm, status, &ranks);
  if (status != MOECL_OK) {
    free(group);
    return status;
  }
  group->references = 1;
  group->process = getpid();
  group->ranks = ranks;
  status = gather_members(group, contexts, count);
  if (status == MOECL_OK) status = check_name(group, asked);
  if (status == MOECL_OK) status = add_members(group);
  status = ranks_agree(ranks, status, "group");
  if (status == MOECL_OK) /* in which ranks wait for each other */
    status = ranks_agree(ranks, make_transport(group, asked, &why), "group");
  if (status == MOECL_OK) status = ranks_agree(ranks, name_transport(group, asked, why), "group");
  if (status != MOECL_OK) moecl_group_destroy(&group);
  *out = group;
  return status;
}

size_t moecl_group_size(const moecl_group *group) { return group ? (size_t)group->count : 0; }

size_t moecl_group_own(const moecl_group *group, size_t *first) {
  if (first) *first = group ? (size_t)group->begin : 0;
  return group ? (size_t)(group->end - group->begin) : 0;
}

moecl_context *moecl_group_context(const moecl_group *group, size_t member) {
  return member < moecl_group_size(group) ? group->device[member].context : NULL;
}

const char *moecl_group_transport(const moecl_group *group) {
  return group ? group->transport_name : NULL;
}

size_t moecl_group_transports(const char **names, size_t capacity) {
  size_t count = 0;
  for (const group_transport *const *t = group_transports; *t; t++, count++)
    if (names && count < capacity) names[count] = (*t)->name;
  return count;
}

/* An eighth more than is needed: routing differs from forward to forward, and memory is to come
 * to rest. */
uint64_t group_provided_bytes(const moecl_buffer *buffer, uint64_t bytes) {
  return bytes + (buffer ? bytes / 8 : 0);
}

moecl_status group_provide(moecl_context *context, uint64_t bytes, moecl_buffer **buffer) {
  if (*buffer && moecl_buffer_size(*buffer) >= bytes) return MOECL_OK;
  const uint64_t made = group_provided_bytes(*buffer, bytes);
  moecl_buffer_destroy(buffer);
  return moecl_buffer_create(context, made, buffer);
}

moecl_status group_provide_arrivals(moecl_group *group, const group_arrival *arrivals,
                                    size_t count) {
  const group_transport *transport = group->transport;
  if (transport->provide) return transport->provide(group->state, arrivals, count);
  for (size_t i = 0; i < count; i++) {
    const group_arrival *one = &arrivals[i];
    if (group_has(group, one->member))
      MOECL_TRY(group_provide(group->device[one->member].context, one->bytes, one->buffer));
  }
  return MOECL_OK;
}

moecl_status group_provide_source(moecl_group *group, int member, uint64_t bytes,
                                  moecl_buffer **buffer) {
  const group_transport *transport = group->transport;
  return transport->provide_source ? transport->provide_source(group->state, member, bytes, buffer)
                                   : group_provide(group->device[member].context, bytes, buffer);
}

void group_discard_arrivals(moecl_group *group, moecl_buffer **buffer) {
  if (group->transport->discard) group->transport->discard(group->state, buffer);
  else moecl_buffer_destroy(buffer);
}

bool group_sender_copies_alone(const moecl_group *group, int from, int to) {
  const moecl_group *near = group->near;
  const bool are_near = near && group->device[from].near >= 0 && group->device[to].near >= 0;
  return (are_near ? near->transport : group->transport)->one_sided;
}

group_reached group_reach_at(const moecl_group *group, const moecl_buffer *buffer, int from,
                             uint64_t offset) {
  const group_transport *transport = group->transport;
  return transport->reach ? transport->reach(group->state, buffer, from, offset)
                          : (group_reached){NULL, 0, 0};
}

const moecl_buffer *group_reach(const moecl_group *group, const moecl_buffer *buffer, int from) {
  const group_reached reached = group_reach_at(group, buffer, from, 0);
  return reached.bytes == UINT64_MAX ? reached.memory : NULL;
}

moecl_status group_exchange(moecl_group *group, const group_block *blocks, size_t count,
                            int exchange, group_observer *observer) {
  const group_transport *transport = group->transport;
  for (int m = group->begin; transport->begin_part && m < group->end; m++)
    MOECL_TRY(transport->begin_part(group->state, m, blocks, count, observer));
  if (transport->begin) MOECL_TRY(transport->begin(group->state, blocks, count, observer));
  if (transport->finish) MOECL_TRY(transport->finish(group->state, exchange));
  for (int m = group->begin; transport->finish_part && m < group->end; m++)
    MOECL_TRY(transport->finish_part(group->state, m, exchange));
  return MOECL_OK;
}
