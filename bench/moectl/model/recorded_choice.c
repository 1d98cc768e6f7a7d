// SPDX-License-Identifier: MIT
/* A token's recorded experts and weights beside ours. Where they are others, what could
 * make them so is looked for: rounding of scores, of group scores, of logits, of
 * sparsemixer's limit. What none of this explains is a wrong choice. */
#include "moecl/reference.h"
#include "model/recorded.h"
#include <math.h>
#include <string.h>

/* What the experts were chosen by. */
typedef struct judge {
  const choice_case *of;
  int64_t experts, count;
  bool has_groups, by_score;       /* by_score: fp32 scores decide, not logits */
  bool cuts_to_zero;               /* with a bias: nothing is below 0 without one */
  double value[MOECL_MAX_EXPERTS]; /* logits where they keep the scores' order, else as below */
  double score[MOECL_MAX_EXPERTS]; /* with the correction bias */
  double usual;                    /* how large values commonly are */
} judge;

static int64_t place_of(const double *ids, int64_t count, double id) {
  for (int64_t k = 0; k < count; k++)
    if (ids[k] == id) return k;
  return -1;
}

static double usual_size(const double *values, int64_t count) {
  double sizes[MOECL_MAX_EXPERTS];
  for (int64_t i = 0; i < count; i++) sizes[i] = fabs(values[i]);
  return median_of(sizes, count);
}

static void make_judge(const choice_case *of, judge *j) {
  const moecl_layer_params *params = of->params;
  int32_t ids[MOECL_MAX_TOP_K];
  double weights[MOECL_MAX_TOP_K];
  j->of = of;
  j->experts = params->num_experts;
  j->count = params->top_k;
  j->has_groups = params->topk_group < params->num_expert_group;
  j->by_score = !params->score_after_topk && params->scoring != MOECL_SCORING_SPARSEMIXER;
  j->cuts_to_zero = j->has_groups && params->cut_groups_to_zero && of->correction_bias;
  const bool sums = j->has_groups && params->group_score == MOECL_GROUP_TOP2_SUM;
  moecl_reference_topk(params, of->logits, of->correction_bias, 0, of->token, ids, weights,
                       j->score);
  for (int64_t e = 0; e < j->experts; e++) {
    if (of->correction_bias) j->score[e] += of->correction_bias[e];
    j->value[e] = of->correction_bias || sums ? j->score[e] : of->logits[e];
  }
  j->usual = usual_size(j->value, j->experts);
}

/* Is a difference rounding's, beside numbers of the usual size or of their own? */
static bool near(const judge *j, double a, double b, double usual) {
  return fabs(a - b) <= j->of->tolerance * fmax(usual, fmax(fabs(a), fabs(b)));
}

/* The same number in fp32, which may have no denormal ones. */
static bool same_in_fp32(double a, double b) {
  return fabs(a - b) <= 0x1p-22 * fmax(fabs(a), fabs(b)) + 0x1p-126;
}

static bool tied(const judge *j, int64_t a, int64_t b) {
  return near(j, j->value[a], j->value[b], j->usual) ||
         (j->by_score && same_in_fp32(j->score[a], j->score[b]));
}

static bool beats(const judge *j, int64_t a, int64_t b) {
  return j->value[a] > j->value[b] && !tied(j, a, b);
}

/* ---- groups ---- */

static double group_value(const judge *j, int64_t group, int64_t members) {
  double first = -INFINITY, second = -INFINITY;
  for (int64_t e = group * members; e < (group + 1) * members; e++) {
    second = fmax(second, fmin(first, j->value[e]));
    first = fmax(first, j->value[e]);
  }
  return j->of->params->group_score == MOECL_GROUP_MAX ? first : first + second;
}

/* Which groups were taken, as far as rounding lets it be told. */
typedef struct group_choice {
  int64_t groups, members, taken;     /* groups; experts of one; how many groups are taken */
  bool sure[MOECL_MAX_EXPERT_GROUPS]; /* in any case */
  bool open[MOECL_MAX_EXPERT_GROUPS]; /* perhaps */
} group_choice;

static void find_groups(const judge *j, group_choice *found) {
  const int64_t groups = j->of->params->num_expert_group, taken = j->of->params->topk_group;
  double value[MOECL_MAX_EXPERT_GROUPS] = {0}, sorted[MOECL_MAX_EXPERT_GROUPS] = {0};
  *found = (group_choice){.groups = groups, .members = j->experts / groups, .taken = taken};
  for (int64_t g = 0; g < groups; g++) sorted[g] = value[g] = group_value(j, g, found->members);
  const double usual = usual_size(value, groups);
  median_of(sorted, groups);
  const double last_in = sorted[groups - taken], first_out = sorted[groups - taken - 1];
  for (int64_t g = 0; g < groups; g++) {
    found->sure[g] = value[g] > first_out && !near(j, value[g], first_out, usual) &&
                     !same_in_fp32(value[g], first_out);
    found->open[g] = !found->sure[g] && (value[g] >= last_in || near(j, value[g], last_in, usual) ||
                                         same_in_fp32(value[g], last_in));
  }
}

/* Those that have experts of `ids` were taken. False: they can't have been. */
static bool take_used(const judge *j, const double *ids, group_choice *found) {
  int64_t count = 0;
  for (int64_t k = 0; k < j->count; k++) {
    const int64_t g = (int64_t)ids[k] / found->members;
    if (!found->sure[g] && !found->open[g]) return false;
    found->sure[g] = true;
    found->open[g] = false;
  }
  for (int64_t g = 0; g < found->groups; g++) count += found->sure[g];
  return count <= found->taken;
}

/* ---- experts ---- */

/* Does it mean something which expert comes first? */
static bool has_order(const moecl_layer_params *params) {
  return params->scoring == MOECL_SCORING_SPARSEMIXER ||
         params->second_choice != MOECL_SECOND_ALL ||
         (params->capacity_factor > 0 && params->drop_policy != MOECL_DROP_PROBABILITY);
}

/* Does none of the experts from `first` to `end` that are not among `ids` beat `worst`? */
static bool none_beats(const judge *j, const double *ids, int64_t worst, int64_t first,
                       int64_t end) {
  for (int64_t e = first; e < end; e++)
    if (place_of(ids, j->count, (double)e) < 0 && beats(j, e, worst)) return false;
  return true;
}

/* The same where only some groups count. Those that are open are as good as each
 * other: enough of them have to have nothing better. */
static bool none_in_groups_beats(const judge *j, const double *ids, int64_t worst) {
  group_choice groups;
  find_groups(j, &groups);
  if (!take_used(j, ids, &groups)) return false;
  int64_t count = 0;
  for (int64_t g = 0; g < groups.groups; g++) {
    const int64_t first = g * groups.members;
    const bool none = none_beats(j, ids, worst, first, first + groups.members);
    if (groups.sure[g] && !none) return false;
    count += groups.sure[g] || (groups.open[g] && none);
  }
  return count >= groups.taken;
}

/* Could rounding choose these experts: does no other one beat the last of them? What
 * is drawn by chance has no such bounds. */
static bool is_choice(const judge *j, const double *ids) {
  const moecl_layer_params *params = j->of->params;
  if (params->second_choice != MOECL_SECOND_ALL || place_of(ids, j->count, -1) >= 0) return false;
  int64_t worst = (int64_t)ids[0];
  for (int64_t k = 1; k < j->count; k++) {
    if (j->value[(int64_t)ids[k]] < j->value[worst]) worst = (int64_t)ids[k];
    if (has_order(params) && beats(j, (int64_t)ids[k], (int64_t)ids[k - 1])) return false;
  }
  return j->has_groups ? none_in_groups_beats(j, ids, worst)
                       : none_beats(j, ids, worst, 0, j->experts);
}

static bool same_experts(const judge *j) {
  const double *a = j->of->ids, *b = j->of->their_ids;
  for (int64_t k = 0; k < j->count; k++)
    if (place_of(b, j->count, a[k]) < 0 || place_of(a, j->count, b[k]) < 0) return false;
  return true;
}

static bool order_is_tied(const judge *j) {
  const double *a = j->of->ids, *b = j->of->their_ids;
  for (int64_t k = 0; k < j->count; k++)
    if (a[k] != b[k] && (a[k] < 0 || b[k] < 0 || !tied(j, (int64_t)a[k], (int64_t)b[k])))
      return false;
  return true;
}

/* `expected`: the weights of the recorded experts, by our logits. */
static bool is_weightless(const judge *j, const double *expected) {
  const double *a = j->of->ids, *b = j->of->their_ids;
  for (int64_t k = 0; k < j->count; k++)
    if ((place_of(b, j->count, a[k]) < 0 && j->of->weights[k] > 0x1p-126) ||
        (place_of(a, j->count, b[k]) < 0 && expected[k] > 0x1p-126))
      return false;
  return true;
}

static unsigned judge_ids(const judge *j, const double *expected) {
  const choice_case *of = j->of;
  if (memcmp(of->ids, of->their_ids, (size_t)j->count * sizeof *of->ids) == 0) return 0;
  if (same_experts(j)) {
    if (!order_is_tied(j)) return has_order(of->params) ? CHOICE_OTHER : CHOICE_REORDERED;
    /* Sparsemixer's weights depend on who is first. */
    return of->params->scoring == MOECL_SCORING_SPARSEMIXER ? CHOICE_TIE : 0;
  }
  if (!is_choice(j, of->their_ids)) return CHOICE_OTHER;
  return of->params->capacity_factor == 0 && is_weightless(j, expected) ? CHOICE_WEIGHTLESS
                                                                        : CHOICE_TIE;
}

/* ---- experts of groups that were cut off, as zeros ---- */

enum { MOST_OPEN = 12 }; /* groups at a tie; all combinations of them are tried */

/* With experts of value 0 where their group is not `in`, there are no groups any more. */
static unsigned judge_zeros(const judge *j, const group_choice *groups, const bool *in,
                            const double *expected) {
  judge zeros = *j;
  zeros.has_groups = false;
  for (int64_t e = 0; e < j->experts; e++)
    if (!in[e / groups->members]) zeros.value[e] = zeros.score[e] = 0;
  return judge_ids(&zeros, expected);
}

/* Is there a choice of `left` open groups from number `next` on that explains the experts? */
static unsigned try_groups(const judge *j, const group_choice *groups, int64_t next, int64_t left,
                           bool *in, const double *expected) {
  if (left == 0) return judge_zeros(j, groups, in, expected);
  for (int64_t g = next; g < groups->groups; g++) {
    if (!groups->open[g]) continue;
    in[g] = true;
    const unsigned found = try_groups(j, groups, g + 1, left - 1, in, expected);
    in[g] = false;
    if (found != CHOICE_OTHER) return found;
  }
  return CHOICE_OTHER;
}

static unsigned judge_ids_with_zeros(const judge *j, const double *expected) {
  group_choice groups;
  bool in[MOECL_MAX_EXPERT_GROUPS];
  int64_t open = 0;
  find_groups(j, &groups);
  int64_t left = groups.taken;
  for (int64_t g = 0; g < groups.groups; g++) {
    in[g] = groups.sure[g];
    left -= groups.sure[g];
    open += groups.open[g];
  }
  if (open > MOST_OPEN) return judge_ids(j, expected);
  return try_groups(j, &groups, 0, left, in, expected);
}

/* ---- weights ---- */

/* The weights the rule gives if these experts are chosen: the reference's, with a
 * correction bias that makes it choose them in this order. */
static void weights_of(const choice_case *of, const double *logits, const double *ids,
                       double *weights) {
  moecl_layer_params forced = *of->params;
  double wish[MOECL_MAX_EXPERTS] = {0}, score[MOECL_MAX_EXPERTS], made[MOECL_MAX_TOP_K];
  int32_t chosen[MOECL_MAX_TOP_K];
  double largest = 0;
  const int64_t count = of->params->top_k;
  forced.num_expert_group = forced.topk_group = 0;
  forced.second_choice = MOECL_SECOND_ALL;
  forced.top_k = 0;
  for (int64_t k = 0; k < count; k++) forced.top_k += ids[k] >= 0;
  memset(weights, 0, (size_t)count * sizeof *weights);
  if (forced.top_k == 0) return;
  moecl_reference_topk(&forced, logits, NULL, 0, of->token, chosen, made, score);
  for (int64_t e = 0; e < forced.num_experts; e++) largest = fmax(largest, score[e]);
  for (int64_t k = 0, left = forced.top_k; k < count; k++)
    if (ids[k] >= 0) wish[(int64_t)ids[k]] = (double)left-- * (2 * largest + 1);
  moecl_reference_topk(&forced, logits, wish, 0, of->token, chosen, made, NULL);
  for (int64_t k = 0, i = 0; k < count; k++)
    if (ids[k] >= 0) weights[k] = made[i++];
}

/* Ours in the order of `ids`; 0 for experts that we did not choose. */
static void in_order(const choice_case *of, const double *ids, double *weights) {
  for (int64_t k = 0; k < of->params->top_k; k++) {
    const int64_t place = place_of(of->ids, of->params->top_k, ids[k]);
    weights[k] = place < 0 ? 0 : of->weights[place];
  }
}

static bool close_to(const choice_case *of, const double *a, const double *b) {
  const int64_t count = of->params->top_k;
  return row_distance(a, b, count) <= of->tolerance * row_distance(b, NULL, count);
}

/* Are the recorded logits ours but for rounding, each of them? */
static bool logits_are_near(const choice_case *of) {
  const int64_t experts = of->params->num_experts;
  if (!of->their_logits) return false;
  const double usual = usual_size(of->logits, experts);
  for (int64_t e = 0; e < experts; e++)
    if (!(fabs(of->their_logits[e] - of->logits[e]) <=
          of->tolerance * fmax(usual, fabs(of->logits[e]))))
      return false;
  return true;
}

enum { MOST_AT_LIMIT = 12 }; /* all combinations of them are tried */

/* A choice's sum of exponentials: of experts within sparsemixer's limit for sure, and
 * of those at it. `taken` holds the earlier choices. */
typedef struct mask {
  double sum, at_limit[MOST_AT_LIMIT];
  int count; /* at the limit; more than MOST_AT_LIMIT: too many to tell */
} mask;

static mask find_mask(const choice_case *of, const double *logits, const double *ids, int64_t k) {
  const double jitter = of->params->sparsemixer_jitter;
  const double limit = 2 * (jitter > 0 ? jitter : (double)0.01f), most = logits[(int64_t)ids[k]];
  mask mask = {0};
  for (int64_t e = 0; e < of->params->num_experts; e++) {
    const double size = fmax(fabs(logits[e]), most);
    const double behind = size == 0 ? 0 : (most - logits[e]) / size;
    const double term = exp(logits[e] - most);
    if (place_of(ids, k, (double)e) >= 0) continue;
    if (ids[k] != (double)e && fabs(behind - limit) <= of->tolerance) {
      if (mask.count < MOST_AT_LIMIT) mask.at_limit[mask.count] = term;
      mask.count++;
    } else if (behind <= limit) mask.sum += term;
  }
  return mask;
}

/* Does the weight follow with some of the experts at the limit? */
static bool fits(const choice_case *of, const mask *mask, int next, double sum, double weight) {
  const double scale =
      of->params->routed_scaling_factor == 0 ? 1 : of->params->routed_scaling_factor;
  if (fabs(scale / sum - weight) <= of->tolerance * weight) return true;
  for (int i = next; i < mask->count; i++)
    if (fits(of, mask, i + 1, sum + mask->at_limit[i], weight)) return true;
  return false;
}

/* Are the recorded weights sparsemixer's, with experts at its limit on either side of
 * it? Where none were recorded: may they be? */
static bool mask_explains(const choice_case *of, const double *logits, const double *ids) {
  bool any = false;
  if (of->params->scoring != MOECL_SCORING_SPARSEMIXER || of->params->renormalize) return false;
  for (int64_t k = 0; k < of->params->top_k; k++) {
    if (ids[k] < 0) return false;
    const mask mask = find_mask(of, logits, ids, k);
    any = any || mask.count > 0;
    if (mask.count > MOST_AT_LIMIT) return false;
    if (of->their_weights && !fits(of, &mask, 0, mask.sum, of->their_weights[k])) return false;
  }
  return any;
}

static unsigned judge_weights(const choice_case *of, const double *ids, double *expected) {
  const size_t bytes = (size_t)of->params->top_k * sizeof *expected;
  const bool near_logits = logits_are_near(of);
  const double *logits = near_logits ? of->their_logits : of->logits;
  double by_logits[MOECL_MAX_TOP_K];
  if (of->their_weights && close_to(of, expected, of->their_weights)) return 0;
  weights_of(of, logits, ids, by_logits);
  const double *want = of->their_weights ? of->their_weights : expected;
  if (near_logits && close_to(of, by_logits, want) == (of->their_weights != NULL)) {
    memcpy(expected, by_logits, bytes);
    return CHOICE_ROUNDED;
  }
  if (!mask_explains(of, logits, ids)) return 0;
  if (of->their_weights) memcpy(expected, of->their_weights, bytes);
  return CHOICE_MASK;
}

unsigned compare_choice(const choice_case *of, double *expected) {
  const double *ids = of->their_ids ? of->their_ids : of->ids;
  unsigned found = 0;
  if (of->their_ids) {
    judge j;
    make_judge(of, &j);
    weights_of(of, of->logits, ids, expected);
    found = j.cuts_to_zero ? judge_ids_with_zeros(&j, expected) : judge_ids(&j, expected);
  }
  /* With a capacity, who is dropped hangs on all tokens' choices. */
  const bool made = found & (CHOICE_TIE | CHOICE_WEIGHTLESS) && of->params->capacity_factor == 0;
  if (!made) in_order(of, ids, expected);
  if (found & CHOICE_OTHER || of->params->capacity_factor > 0) return found;
  return found | judge_weights(of, ids, expected);
}
