// SPDX-License-Identifier: MIT
/* What members did in the latest forward: times of kernels and copies, by each device's clock. */
#include "base/base.h"
#include "group/group.h"

/* What copies between members carried. */
static void count_copied(const moecl_group_layer *layer, size_t m, moecl_group_statistics *s) {
  const bool prioritized = desc_prioritizes(&layer->member[m].share->dispatch);
  const uint64_t row = (uint64_t)layer->params.top_k * 8 + (prioritized ? 4 : 0);
  const uint64_t own = (uint64_t)layer->tokens[m], others = (uint64_t)layer->group->count - 1;
  const uint64_t all = (uint64_t)layer->first[layer->group->count];
  if (!layer->group->ranks) {
    s->choice_bytes_sent = own * row * others;
    s->choice_bytes_received = (all - own) * row;
  }
  s->copied_bytes = s->bytes_sent + s->choice_bytes_sent;
  if (!layer->group->transport->one_sided)
    s->copied_bytes += s->bytes_received + s->choice_bytes_received;
}

static moecl_status read_member(const moecl_group_layer *layer, size_t m,
                                moecl_group_statistics *read) {
  plan_watched times;
  *read = layer->member[m].statistics;
  count_copied(layer, m, read);
  MOECL_TRY(moecl_context_finish_wait(layer->group->device[m].context));
  MOECL_TRY(plan_watch_read(&layer->member[m].watch, &times));
  read->layer_ms = times.all_ms;
  read->kernels_ms = times.kernels_ms;
  read->transfer_ms = times.transfer_ms;
  read->hidden_ms = times.hidden_ms;
  return MOECL_OK;
}

static moecl_status check(const moecl_group_layer *layer, size_t member,
                          const moecl_group_statistics *statistics) {
  const moecl_group *group = layer->group;
  if (!statistics) return MOECL_ERROR_INVALID_ARGUMENT;
  if (member >= (size_t)group->count)
    return log_error(group_log(group), MOECL_ERROR_INVALID_ARGUMENT,
                     "group_layer: there is no member %llu", (unsigned long long)member);
  if (!layer->ran)
    return log_error(group_log(group), MOECL_ERROR_NOT_READY, "group_layer: there was no forward");
  return MOECL_OK;
}

moecl_status moecl_group_layer_statistics_wait(moecl_group_layer *layer, size_t member,
                                               moecl_group_statistics *statistics) {
  if (statistics) *statistics = (moecl_group_statistics){0};
  if (!layer) return MOECL_ERROR_INVALID_ARGUMENT;
  const moecl_group *group = layer->group;
  moecl_group_statistics read = {0};
  moecl_status status = check(layer, member, statistics);
  if (status == MOECL_OK && group_has(group, (int)member))
    status = read_member(layer, member, &read);
  MOECL_TRY(ranks_agree(group->ranks, status, "group_statistics"));
  MOECL_TRY(ranks_broadcast(group->ranks, group->device[member].rank, &read, sizeof read));
  *statistics = read;
  return MOECL_OK;
}
