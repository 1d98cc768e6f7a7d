// SPDX-License-Identifier: MIT
/* What members did in the latest forward: rows and bytes, and times of kernels and copies, by each
 * device's clock. */
#include "base/base.h"
#include "group/group.h"

/* ---- while it runs ---- */

/* Rows of a member's tokens that go to an owner, or that come back. */
static uint64_t between(const moecl_group_layer *layer, int home, int owner, int which) {
  const int chunks = layer->chunks;
  return (uint64_t)(group_before_bin(layer, home, (owner + 1) * chunks, which) -
                    group_before_bin(layer, home, owner * chunks, which));
}

/* Bytes from one member to another: of its own tokens, and of outputs of the other's. */
static uint64_t rows_between(const moecl_group_layer *layer, int from, int to) {
  const group_trait *trait = &layer->member[0].trait;
  return between(layer, from, to, GROUP_ROWS) * trait->hidden_row_bytes +
         between(layer, to, from, GROUP_SLOTS) * trait->output_row_bytes;
}

/* Bytes of a member's choices to each other one, where no hosts gather them. */
static uint64_t choices_of(const moecl_group_layer *layer, int m) {
  if (layer->group->ranks) return 0;
  const bool prioritized = desc_prioritizes(&layer->member[m].share->dispatch);
  return (uint64_t)layer->tokens[m] * ((uint64_t)layer->params.top_k * 8 + (prioritized ? 4 : 0));
}

static void count_bytes(const moecl_group_layer *layer, int m, moecl_group_statistics *s) {
  const uint64_t choices = choices_of(layer, m);
  for (int other = 0; other < layer->group->count; other++) {
    if (other == m) continue;
    const uint64_t sent = rows_between(layer, m, other), received = rows_between(layer, other, m);
    const uint64_t others_choices = choices_of(layer, other);
    const uint64_t stored = group_stored_bytes(layer, m, other);
    s->bytes_sent += sent;
    s->bytes_received += received;
    s->choice_bytes_sent += choices;
    s->choice_bytes_received += others_choices;
    s->stored_bytes += stored;
    s->copied_bytes += sent - stored + choices;
    if (!group_sender_copies_alone(layer->group, other, m))
      s->copied_bytes += received + others_choices;
  }
}

void group_count_work(moecl_group_layer *layer) {
  for (int m = layer->group->begin; m < layer->group->end; m++) {
    moecl_group_statistics *statistics = &layer->member[m].statistics;
    *statistics =
        (moecl_group_statistics){.num_tokens = layer->tokens[m],
                                 .experts = layer->placement.owned[m],
                                 .rows = layer->slots[m],
                                 .chunks = layer->chunks,
                                 .row_bytes = layer->member[m].trait.hidden_row_bytes,
                                 .output_row_bytes = layer->member[m].trait.output_row_bytes};
    count_bytes(layer, m, statistics);
  }
}

/* ---- afterwards ---- */

static moecl_status read_member(const moecl_group_layer *layer, size_t m,
                                moecl_group_statistics *read) {
  plan_watched times;
  *read = layer->member[m].statistics;
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
  status = ranks_broadcast(group->ranks, group->device[member].rank, &read, sizeof read);
  MOECL_TRY(ranks_agree(group->ranks, status, "group_statistics"));
  *statistics = read;
  return MOECL_OK;
}
