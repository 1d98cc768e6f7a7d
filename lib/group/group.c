// SPDX-License-Identifier: MIT
/* A group: members, their lanes, and the transport between them. */
#include "group/group.h"
#include "base/base.h"
#include <stdlib.h>
#include <string.h>

const group_transport *const group_transports[] = {&group_nvidia_peer_transport,
                                                   &group_host_transport, NULL};

moecl_group *group_retain(moecl_group *group) {
  group->references++;
  return group;
}

const moecl_log *group_log(const moecl_group *group) { return &group->device[0].context->log; }

void moecl_group_destroy(moecl_group **handle) {
  if (!handle || !*handle) return;
  moecl_group *group = *handle;
  *handle = NULL;
  if (--group->references > 0) return;
  if (group->state) group->transport->release(group->state);
  for (int m = 0; m < group->count; m++) {
    ocl_lane_release(&group->device[m].out);
    ocl_lane_release(&group->device[m].in);
    moecl_context_destroy(&group->device[m].context);
  }
  free(group);
}

static moecl_status add_member(moecl_group *group, moecl_context *context) {
  group_device *device = &group->device[group->count++];
  device->context = ocl_context_retain(context);
  MOECL_TRY(ocl_lane_create(context, &device->out));
  return ocl_lane_create(context, &device->in);
}

/* The one that was asked for, or the best that serves. */
static moecl_status choose_transport(moecl_group *group, const char *asked) {
  const char *why = NULL;
  for (const group_transport *const *t = group_transports; *t; t++) {
    if (asked && strcmp((*t)->name, asked) != 0) continue;
    if ((why = (*t)->refuses(group))) {
      log_write(group_log(group), MOECL_LOG_INFO, "group: the transport '%s' does not serve: %s",
                (*t)->name, why);
      continue;
    }
    group->transport = *t;
    return (*t)->create(group, &group->state);
  }
  return log_error(group_log(group), MOECL_ERROR_UNSUPPORTED,
                   why ? "group: the transport '%s' cannot serve here: %s"
                       : "group: there is no transport '%s'%s",
                   asked ? asked : "", why ? why : "");
}

static moecl_status check_contexts(moecl_context *const *contexts, size_t count,
                                   const moecl_group_params *params) {
  const moecl_log *log = &contexts[0]->log;
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

moecl_status moecl_group_create(moecl_context *const *contexts, size_t count,
                                const moecl_group_params *params, moecl_group **out) {
  if (!out) return MOECL_ERROR_INVALID_ARGUMENT;
  *out = NULL;
  if (!contexts || count == 0 || !contexts[0]) return MOECL_ERROR_INVALID_ARGUMENT;
  if (count > MOECL_MAX_GROUP_MEMBERS)
    return log_error(&contexts[0]->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "group: %llu members, expected 1 to %d", (unsigned long long)count,
                     MOECL_MAX_GROUP_MEMBERS);
  MOECL_TRY(check_contexts(contexts, count, params));
  moecl_group *group = calloc(1, sizeof *group);
  if (!group) return log_error(&contexts[0]->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  group->references = 1;
  moecl_status status = MOECL_OK;
  for (size_t i = 0; i < count && status == MOECL_OK; i++) status = add_member(group, contexts[i]);
  if (status == MOECL_OK) status = choose_transport(group, params ? params->transport : NULL);
  if (status != MOECL_OK) moecl_group_destroy(&group);
  *out = group;
  return status;
}

size_t moecl_group_size(const moecl_group *group) { return group ? (size_t)group->count : 0; }

moecl_context *moecl_group_context(const moecl_group *group, size_t member) {
  return member < moecl_group_size(group) ? group->device[member].context : NULL;
}

const char *moecl_group_transport(const moecl_group *group) {
  return group ? group->transport->name : NULL;
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

moecl_status group_provide_arrivals(moecl_group *group, int member, uint64_t bytes,
                                    moecl_buffer **buffer) {
  const group_transport *transport = group->transport;
  return transport->provide ? transport->provide(group->state, member, bytes, buffer)
                            : group_provide(group->device[member].context, bytes, buffer);
}

void group_discard_arrivals(moecl_group *group, moecl_buffer **buffer) {
  if (group->transport->discard) group->transport->discard(group->state, buffer);
  else moecl_buffer_destroy(buffer);
}
