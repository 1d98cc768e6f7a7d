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

/* ---- by load ---- */

/* The most loaded expert that has no member yet; of equals the first. */
static int64_t heaviest(const int64_t *loads, int64_t experts, const int32_t *member) {
  int64_t most = -1;
  for (int64_t e = 0; e < experts; e++)
    if (member[e] < 0 && (most < 0 || loads[e] > loads[most])) most = e;
  return most;
}

/* Whole numbers would overflow; these only have to be compared. */
static int32_t lightest(const double *sums, const size_t *sizes, size_t members, int64_t experts) {
  const size_t room = ((size_t)experts + members - 1) / members;
  const size_t full = (size_t)experts - (room - 1) * members; /* that may have so many */
  int32_t least = -1;
  size_t at_most = 0;
  for (size_t m = 0; m < members; m++) at_most += sizes[m] == room;
  for (size_t m = 0; m < members; m++)
    if (sizes[m] < (at_most < full ? room : room - 1) && (least < 0 || sums[m] < sums[least]))
      least = (int32_t)m;
  return least;
}

moecl_status moecl_group_balance(const int64_t *loads, int64_t num_experts, size_t members,
                                 int32_t *lists, size_t *list_sizes) {
  double sums[MOECL_MAX_GROUP_MEMBERS] = {0};
  int32_t member[MOECL_MAX_EXPERTS];
  if (!loads || !lists || !list_sizes || num_experts < 1 || num_experts > MOECL_MAX_EXPERTS ||
      members < 1 || members > MOECL_MAX_GROUP_MEMBERS)
    return MOECL_ERROR_INVALID_ARGUMENT;
  for (int64_t e = 0; e < num_experts; member[e++] = -1)
    if (loads[e] < 0) return MOECL_ERROR_INVALID_ARGUMENT;
  for (size_t m = 0; m < members; m++) list_sizes[m] = 0;
  for (int64_t i = 0; i < num_experts; i++) {
    const int64_t e = heaviest(loads, num_experts, member);
    const int32_t m = lightest(sums, list_sizes, members, num_experts);
    member[e] = m;
    sums[m] += (double)loads[e];
    list_sizes[m]++;
  }
  for (size_t m = 0, at = 0; m < members; m++)
    for (int32_t e = 0; e < num_experts; e++)
      if (member[e] == (int32_t)m) lists[at++] = e;
  return MOECL_OK;
}

/* ---- the table ---- */

/* Members' lists, and experts that all have as well. */
typedef struct member_lists {
  const int32_t *lists;
  const size_t *sizes;
  bool everywhere[MOECL_MAX_EXPERTS];
} member_lists;

static moecl_status read_replicated(const moecl_group *group,
                                    const moecl_group_layer_params *params, int64_t experts,
                                    member_lists *from) {
  if (params->num_replicated > 0 && !params->replicated)
    return invalid(group, "num_replicated is not 0, and replicated is NULL");
  for (size_t i = 0; i < params->num_replicated; i++) {
    const int32_t e = params->replicated[i];
    if (e < 0 || e >= experts || from->everywhere[e])
      return log_error(group_log(group), MOECL_ERROR_INVALID_ARGUMENT,
                       "group_layer: replicated has expert %d%s, expected 0 to %lld, each once",
                       (int)e, e < 0 || e >= experts ? "" : " twice", (long long)experts - 1);
    from->everywhere[e] = true;
  }
  return MOECL_OK;
}

static bool has(const int32_t *list, size_t size, int32_t expert) {
  for (size_t i = 0; i < size; i++)
    if (list[i] == expert) return true;
  return false;
}

/* Copies by expert and then by member; a member's places are in the order of its experts. */
static void fill(group_placement *p, const member_lists *from) {
  for (int32_t e = 0; e < p->num_experts; e++) {
    const int32_t *list = from->lists;
    for (int m = 0; m < p->count; list += from->sizes[m++]) {
      if (!from->everywhere[e] && !has(list, from->sizes[m], e)) continue;
      p->member[p->copies] = m;
      p->place[p->copies++] = p->owned[m]++;
    }
    p->first[e + 1] = (int32_t)p->copies;
  }
}

static moecl_status make(const moecl_group *group, int64_t experts, const member_lists *from,
                         group_placement *p) {
  size_t most = 0; /* copies */
  for (int m = 0; m < group->count; m++) most += from->sizes[m];
  for (int64_t e = 0; e < experts; e++) most += from->everywhere[e] ? (size_t)group->count : 0;
  if (most > 2 * (size_t)MOECL_MAX_EXPERTS * MOECL_MAX_GROUP_MEMBERS)
    return invalid(group, "the lists name more experts than all members can have");
  *p = (group_placement){.num_experts = experts, .count = group->count};
  p->first = calloc((size_t)experts + 1, sizeof *p->first);
  p->member = calloc(most + 1, sizeof *p->member);
  p->place = calloc(most + 1, sizeof *p->place);
  int32_t *seen = calloc((size_t)experts + 1, sizeof *seen);
  moecl_status status =
      p->first && p->member && p->place && seen
          ? check_lists(group, experts, from->lists, from->sizes, seen)
          : log_error(group_log(group), MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  free(seen);
  if (status == MOECL_OK) fill(p, from);
  else group_placement_release(p);
  return status;
}

moecl_status group_place(const moecl_group *group, const moecl_group_layer_params *params,
                         group_placement *placement) {
  const int64_t experts = params->layer.num_experts - params->layer.num_identity_experts;
  size_t sizes[MOECL_MAX_GROUP_MEMBERS];
  int32_t all[MOECL_MAX_EXPERTS];
  member_lists from = {.lists = all, .sizes = sizes};
  MOECL_TRY(read_replicated(group, params, experts, &from));
  for (int32_t e = 0; e < experts; e++) all[e] = e;
  switch (params->placement) {
  case MOECL_PLACE_EVEN: MOECL_TRY(count_weighted(group, experts, NULL, sizes)); break;
  case MOECL_PLACE_WEIGHTED:
    if (!params->member_weights) return invalid(group, "weighted placement needs member_weights");
    MOECL_TRY(count_weighted(group, experts, params->member_weights, sizes));
    break;
  case MOECL_PLACE_GIVEN:
    if (!params->lists || !params->list_sizes)
      return invalid(group, "given placement needs lists and list_sizes");
    from.lists = params->lists;
    from.sizes = params->list_sizes;
    break;
  default: return invalid(group, "placement is no value of moecl_placement");
  }
  return make(group, experts, &from, placement);
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
