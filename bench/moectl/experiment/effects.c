// SPDX-License-Identifier: MIT
#include "experiment/effects.h"

#define ANY -1, -1
#define ONE(choice) choice, choice
#define WITH_LIMIT                                                                                 \
  MOECL_SWIGLU_CLAMPED, MOECL_SWIGLU_LIMITED_SILU,                                                 \
      "'activation: swiglu_clamped', swiglu_limited or swiglu_limited_silu"

/* The key matters only to points where `needs` has a value: any but null, or
 * one from this choice to that. */
static const struct {
  schema_id key, needs;
  int64_t choice, last; /* -1: any */
  const char *text;
} rules[] = {
    {KEY_SWIGLU_ALPHA, KEY_ACTIVATION, ONE(MOECL_SWIGLU_CLAMPED), "'activation: swiglu_clamped'"},
    {KEY_SWIGLU_LIMIT, KEY_ACTIVATION, WITH_LIMIT},
    {KEY_SHARED_GATE, KEY_SHARED_SIZE, ANY, "a number for layer.shared.intermediate_size"},
    {KEY_SHARED_LIMIT, KEY_ACTIVATION, WITH_LIMIT},
    {KEY_SHARED_LIMIT, KEY_SHARED_SIZE, ANY, "a number for layer.shared.intermediate_size"},
    {KEY_SHARED_FACTOR, KEY_SHARED_SIZE, ANY, "a number for layer.shared.intermediate_size"},
    {KEY_MIN_CAPACITY, KEY_CAPACITY_FACTOR, ANY, "a number for layer.capacity.factor"},
    {KEY_CAPACITY_OF_TOKENS, KEY_CAPACITY_FACTOR, ANY, "a number for layer.capacity.factor"},
    {KEY_DROP_POLICY, KEY_CAPACITY_FACTOR, ANY, "a number for layer.capacity.factor"},
    {KEY_SPARSEMIXER_JITTER, KEY_SCORING, ONE(MOECL_SCORING_SPARSEMIXER), "'scoring: sparsemixer'"},
    {KEY_RENORMALIZE_EPSILON, KEY_RENORMALIZE, ONE(true), "'renormalize: true'"},
    {KEY_RENORMALIZE_MINIMUM, KEY_RENORMALIZE, ONE(true), "'renormalize: true'"},
    {KEY_GROUP_SCORE, KEY_GROUPS, ANY, "a number for layer.router.groups"},
    {KEY_CUT_TO_ZERO, KEY_GROUPS, ANY, "a number for layer.router.groups"},
    {KEY_CUT_TO_ZERO, KEY_CORRECTION_BIAS, ONE(true), "'correction_bias: true'"},
    {KEY_SKEW_EXPONENT, KEY_DISTRIBUTION, ONE(WORKLOAD_SKEWED), "'distribution: skewed'"},
    {KEY_SKEW_CLUSTERS, KEY_DISTRIBUTION, ONE(WORKLOAD_SKEWED), "'distribution: skewed'"},
    {KEY_SKEW_NOISE, KEY_DISTRIBUTION, ONE(WORKLOAD_SKEWED), "'distribution: skewed'"},
    {KEY_FILE, KEY_DISTRIBUTION, ONE(WORKLOAD_FILE), "'distribution: file'"},
    {KEY_TENSOR, KEY_DISTRIBUTION, ONE(WORKLOAD_FILE), "'distribution: file'"},
};

static bool is_met(const setting *needs, int64_t choice, int64_t last) {
  for (size_t i = 0; i < needs->count; i++)
    if (!needs->values[i].null &&
        (choice < 0 || (needs->values[i].integer >= choice && needs->values[i].integer <= last)))
      return true;
  return false;
}

/* A round without a forward would be none. */
static void check_rounds(const settings *settings, problems *warnings) {
  const setting *rounds = &settings->keys[KEY_ROUNDS];
  const int64_t iterations = settings->keys[KEY_ITERATIONS].values[0].integer;
  if (rounds->given && !rounds->values[0].null && rounds->values[0].integer > iterations)
    problem_add(warnings, rounds->mark,
                "warning: measure.rounds: more than measure.iterations (%lld), which is how many "
                "there will be",
                (long long)iterations);
}

void effects_check(const settings *settings, problems *warnings) {
  check_rounds(settings, warnings);
  for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
    const setting *key = &settings->keys[rules[i].key];
    const bool says_something = key->given && (key->count > 1 || !key->values[0].null);
    if (says_something && !is_met(&settings->keys[rules[i].needs], rules[i].choice, rules[i].last))
      problem_add(warnings, key->mark, "warning: %s has no effect without %s",
                  schema_get(rules[i].key)->name, rules[i].text);
  }
}
