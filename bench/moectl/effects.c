#include "effects.h"

/* The key matters only to points where `needs` has a value: any but null, or
 * this choice. */
static const struct {
  schema_id key, needs;
  int64_t choice; /* -1: any */
  const char *text;
} rules[] = {
    {KEY_SWIGLU_ALPHA, KEY_ACTIVATION, MOECL_SWIGLU_CLAMPED, "'activation: swiglu_clamped'"},
    {KEY_SWIGLU_LIMIT, KEY_ACTIVATION, MOECL_SWIGLU_CLAMPED, "'activation: swiglu_clamped'"},
    {KEY_SHARED_GATE, KEY_SHARED_SIZE, -1, "a number for layer.shared.intermediate_size"},
    {KEY_MIN_CAPACITY, KEY_CAPACITY_FACTOR, -1, "a number for layer.capacity.factor"},
    {KEY_CAPACITY_OF_TOKENS, KEY_CAPACITY_FACTOR, -1, "a number for layer.capacity.factor"},
    {KEY_DROP_POLICY, KEY_CAPACITY_FACTOR, -1, "a number for layer.capacity.factor"},
    {KEY_SPARSEMIXER_JITTER, KEY_SCORING, MOECL_SCORING_SPARSEMIXER, "'scoring: sparsemixer'"},
    {KEY_RENORMALIZE_EPSILON, KEY_RENORMALIZE, true, "'renormalize: true'"},
    {KEY_RENORMALIZE_MINIMUM, KEY_RENORMALIZE, true, "'renormalize: true'"},
    {KEY_GROUP_SCORE, KEY_GROUPS, -1, "a number for layer.router.groups"},
    {KEY_SKEW_EXPONENT, KEY_DISTRIBUTION, WORKLOAD_SKEWED, "'distribution: skewed'"},
    {KEY_SKEW_CLUSTERS, KEY_DISTRIBUTION, WORKLOAD_SKEWED, "'distribution: skewed'"},
    {KEY_SKEW_NOISE, KEY_DISTRIBUTION, WORKLOAD_SKEWED, "'distribution: skewed'"},
    {KEY_FILE, KEY_DISTRIBUTION, WORKLOAD_FILE, "'distribution: file'"},
    {KEY_TENSOR, KEY_DISTRIBUTION, WORKLOAD_FILE, "'distribution: file'"},
};

static bool is_met(const setting *needs, int64_t choice) {
  for (size_t i = 0; i < needs->count; i++)
    if (!needs->values[i].null && (choice < 0 || needs->values[i].integer == choice)) return true;
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
    if (says_something && !is_met(&settings->keys[rules[i].needs], rules[i].choice))
      problem_add(warnings, key->mark, "warning: %s has no effect without %s",
                  schema_get(rules[i].key)->name, rules[i].text);
  }
}
