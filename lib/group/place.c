// SPDX-License-Identifier: MIT
/* Which members have which experts. */
#include "base/base.h"
#include "group/group.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *moecl_placement_name(moecl_placement placement) {
  static const char *const names[MOECL_PLACEMENT_COUNT] = {"even", "weighted", "given"};
  return (unsigned)placement < MOECL_PLACEMENT_COUNT ? names[placement] : "?";
}

static moecl_status invalid(const moecl_group *group, const char *what) {
  return log_error(group_log(group), MOECL_ERROR_INVALID_ARGUMENT, "group_layer: %s", what);
}

/* ---- how many, and which ---- */

/* Neighbours: the members before m have a share of the experts that is theirs of the weights. */
static moecl_status count_weighted(const moecl_group *group, int64_t experts, const double *weights,
                                   size_t *sizes) {
  double sum = 0, before = 0;
  for (int m = 0; weights && m < group->count; m++) {
    if (!(weights[m] >= 0) || isinf(weights[m]))
      return invalid(group, "member_weights must be finite, and 0 or more");
    sum += weights[m];
  }
  if (weights && !(sum > 0 && sum < INFINITY))
    return invalid(group, "of member_weights at least one must be more than 0");
  int64_t begin = 0;
  for (int m = 0; m < group->count; m++) {
    before += weights ? weights[m] / sum : 1.0 / group->count;
    int64_t end =
        weights ? (int64_t)floor(before * (double)experts + 0.5) : (m + 1) * experts / group->count;
    if (end > experts || m == group->count - 1) end = experts;
    sizes[m] = (size_t)(end - begin);
    begin = end;
  }
  return MOECL_OK;
}

/* Is each in a list, and in none twice? `seen` is zeros. */
static moecl_status check_lists(const moecl_group *group, int64_t experts, const int32_t *lists,
                                const size_t *sizes, int32_t *seen) {
  size_t i = 0;
  for (int m = 0; m < group->count; m++)
    for (const size_t end = i + sizes[m]; i < end; i++) {
      if (lists[i] < 0 || lists[i] >= experts)
        return log_error(group_log(group), MOECL_ERROR_INVALID_ARGUMENT,
                         "group_layer: member %d's list has expert %d, expected 0 to %lld", m,
                         (int)lists[i], (long long)experts - 1);
      if (seen[lists[i]] == m + 1)
        return log_error(group_log(group), MOECL_ERROR_INVALID_ARGUMENT,
                         "group_layer: member %d's list has expert %d twice", m, (int)lists[i]);
      seen[lists[i]] = m + 1;
    }
  for (int64_t e = 0; e < experts; e++)
    if (!seen[e])
      return log_error(group_log(group), MOECL_ERROR_INVALID_ARGUMENT,
                       "group_layer: expert %lld is in no member's list", (long long)e);
  return MOECL_OK;
}

/* ---- the table ---- */

static bool has(const int32_t *list, size_t size, int32_t expert) {
  for (size_t i = 0; i < size; i++)
    if (list[i] == expert) return true;
  return false;
}

/* Copies by expert and then by member; a member's places are in the order of its experts. */
static void fill(group_placement *p, const int32_t *lists, const size_t *sizes) {
  size_t next = 0;
  for (int32_t e = 0; e < p->num_experts; e++) {
    const int32_t *list = lists;
    for (int m = 0; m < p->count; list += sizes[m++]) {
      if (!has(list, sizes[m], e)) continue;
      p->member[next] = m;
      p->place[next++] = p->owned[m]++;
    }
    p->first[e + 1] = (int32_t)next;
  }
}

static moecl_status make(const moecl_group *group, int64_t experts, const int32_t *lists,
                         const size_t *sizes, group_placement *p) {
  size_t copies = 0;
  for (int m = 0; m < group->count; m++) copies += sizes[m];
  if (copies > (size_t)MOECL_MAX_EXPERTS * MOECL_MAX_GROUP_MEMBERS)
    return invalid(group, "the lists name more experts than all members can have");
  *p = (group_placement){.num_experts = experts, .count = group->count, .copies = copies};
  p->first = calloc((size_t)experts + 1, sizeof *p->first);
  p->member = calloc(copies + 1, sizeof *p->member);
  p->place = calloc(copies + 1, sizeof *p->place);
  int32_t *seen = calloc((size_t)experts + 1, sizeof *seen);
  moecl_status status =
      p->first && p->member && p->place && seen
          ? check_lists(group, experts, lists, sizes, seen)
          : log_error(group_log(group), MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  free(seen);
  if (status == MOECL_OK) fill(p, lists, sizes);
  else group_placement_release(p);
  return status;
}

moecl_status group_place(const moecl_group *group, const moecl_group_layer_params *params,
                         group_placement *placement) {
  const int64_t experts = params->layer.num_experts - params->layer.num_identity_experts;
  size_t sizes[MOECL_MAX_GROUP_MEMBERS];
  int32_t all[MOECL_MAX_EXPERTS];
  switch (params->placement) {
  case MOECL_PLACE_EVEN: MOECL_TRY(count_weighted(group, experts, NULL, sizes)); break;
  case MOECL_PLACE_WEIGHTED:
    if (!params->member_weights) return invalid(group, "weighted placement needs member_weights");
    MOECL_TRY(count_weighted(group, experts, params->member_weights, sizes));
    break;
  case MOECL_PLACE_GIVEN:
    if (!params->lists || !params->list_sizes)
      return invalid(group, "given placement needs lists and list_sizes");
    return make(group, experts, params->lists, params->list_sizes, placement);
  default: return invalid(group, "placement is no value of moecl_placement");
  }
  for (int32_t e = 0; e < experts; e++) all[e] = e;
  return make(group, experts, all, sizes, placement);
}

void group_placement_release(group_placement *p) {
  free(p->first);
  free(p->member);
  free(p->place);
  *p = (group_placement){0};
}

int32_t *group_placement_words(const group_placement *p, int member, size_t *count) {
  const size_t experts = (size_t)p->num_experts, members = (size_t)p->count;
  const size_t own = experts + 1 + 2 * p->copies + members;
  *count = own + 2 * (size_t)p->owned[member];
  int32_t *words = calloc(*count + 1, sizeof *words);
  if (!words) return NULL;
  memcpy(words, p->first, (experts + 1) * sizeof *words);
  memcpy(words + experts + 1, p->member, p->copies * sizeof *words);
  memcpy(words + experts + 1 + p->copies, p->place, p->copies * sizeof *words);
  memcpy(words + experts + 1 + 2 * p->copies, p->owned, members * sizeof *words);
  for (int32_t e = 0; e < p->num_experts; e++)
    for (int32_t c = p->first[e]; c < p->first[e + 1]; c++) {
      if (p->member[c] != member) continue;
      words[own + 2 * (size_t)p->place[c]] = e;
      words[own + 2 * (size_t)p->place[c] + 1] = c - p->first[e];
    }
  return words;
}
