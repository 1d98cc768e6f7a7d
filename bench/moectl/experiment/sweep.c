// SPDX-License-Identifier: MIT
#include "experiment/sweep.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Multiplies the axes' lengths; 0, with the problem reported, when too many. */
static size_t count_points(const settings *settings, const schema_id *axes, size_t num_axes,
                           problems *problems) {
  double exact = 1;
  char factors[512] = "";
  size_t used = 0;
  for (size_t i = 0; i < num_axes; i++) {
    size_t count = settings->keys[axes[i]].count;
    exact *= (double)count;
    if (used < sizeof factors)
      used += (size_t)snprintf(factors + used, sizeof factors - used, "%s%s %zu",
                               i > 0 ? " x " : "", schema_get(axes[i])->name, count);
  }
  if (exact <= EXPERIMENT_MAX_POINTS) return (size_t)exact;
  problem_add(problems, settings->keys[axes[num_axes - 1]].mark,
              "the sweep has %.0f points (%s), expected at most %d", exact, factors,
              EXPERIMENT_MAX_POINTS);
  return 0;
}

/* A share of the experts is at least one of them. */
static void fill_cache(experiment_point *point) {
  const double cache = point->parallel.cache;
  const int64_t experts = point->layer.num_experts - point->layer.num_identity_experts;
  const double some = cache < 1 ? ceil(cache * (double)experts) : floor(cache);
  point->layer.expert_cache = cache > 0 ? (int64_t)some : MOECL_EXPERT_CACHE_FITS;
  point->layer.eviction = point->parallel.eviction;
}

static void fill_point(const settings *settings, const schema_id *axes, size_t num_axes,
                       size_t index, experiment_point *point) {
  for (int i = 0; i < KEY_COUNT; i++)
    if (!(schema_get((schema_id)i)->flags & OF_EXPERIMENT) && settings->keys[i].count > 0)
      schema_store(schema_get((schema_id)i), &settings->keys[i].values[0], point);
  for (size_t i = num_axes; i-- > 0;) {
    const setting *s = &settings->keys[axes[i]];
    schema_store(schema_get(axes[i]), &s->values[index % s->count], point);
    index /= s->count;
  }
  if (point->parallel.placement == PARALLEL_OFFLOAD) fill_cache(point);
}

/* What no point may have. Each is reported once, with its first point. */
typedef enum rule {
  RULE_TOP_K = 0,
  RULE_ASSIGNMENTS,
  RULE_BYTES,
  RULE_GROUPS,
  RULE_LAYER,
  RULE_BLOCK,
  RULE_POSITIONS,
  RULE_PARALLEL,
  RULE_PLACEMENT,
  RULE_OFFLOAD,
  RULE_COUNT
} rule;

typedef struct breach {
  char message[512];
  schema_id key; /* where it is reported; KEY_COUNT: at the layer */
} breach;

/* Whether all that the rule is about has values: what is missing or wrong by itself was
 * reported. */
static bool can_check(const settings *settings, rule rule) {
  const setting *keys = settings->keys;
  static const schema_id about[RULE_COUNT][5] = {
      [RULE_TOP_K] = {KEY_TOP_K, KEY_NUM_EXPERTS, KEY_COUNT},
      [RULE_ASSIGNMENTS] = {KEY_NUM_TOKENS, KEY_TOP_K, KEY_COUNT},
      [RULE_BYTES] = {KEY_NUM_TOKENS, KEY_TOP_K, KEY_HIDDEN_SIZE, KEY_INTERMEDIATE_SIZE, KEY_COUNT},
      [RULE_GROUPS] = {KEY_NUM_EXPERT_GROUP, KEY_TOPK_GROUP, KEY_COUNT},
      /* Has a default, unless a checkpoint failed that would have given all. */
      [RULE_LAYER] = {KEY_ACTIVATION, KEY_COUNT},
      [RULE_BLOCK] = {KEY_WHAT, KEY_HIDDEN_SIZE, KEY_NUM_HEADS, KEY_COUNT},
      [RULE_POSITIONS] = {KEY_NUM_TOKENS, KEY_CONTEXT, KEY_COUNT},
      [RULE_PARALLEL] = {KEY_WHAT, KEY_PARALLEL_EXPERTS, KEY_COUNT},
      [RULE_PLACEMENT] = {KEY_NUM_EXPERTS, KEY_PARALLEL_EXPERTS, KEY_PARALLEL_PLACEMENT,
                          KEY_PARALLEL_PLACEMENT_FILE, KEY_COUNT},
      [RULE_OFFLOAD] = {KEY_WHAT, KEY_NUM_EXPERTS, KEY_PARALLEL_PLACEMENT, KEY_PARALLEL_CACHE,
                        KEY_COUNT}};
  if (rule == RULE_LAYER && keys[KEY_ACTIVATION].given) return true;
  for (const schema_id *key = about[rule]; *key != KEY_COUNT; key++)
    if (keys[*key].count == 0) return false;
  return true;
}

static bool has_too_many_choices(const experiment_point *point, breach *found) {
  const long long k = point->layer.top_k, e = point->layer.num_experts;
  found->key = KEY_TOP_K;
  snprintf(found->message, sizeof found->message,
           "layer.top_k: expected at most layer.num_experts (%lld), found %lld", e, k);
  return k > e;
}

static bool has_too_many_assignments(const experiment_point *point, breach *found) {
  const long long tokens = point->num_tokens, k = point->layer.top_k;
  found->key = KEY_NUM_TOKENS;
  snprintf(found->message, sizeof found->message,
           "workload.num_tokens: expected num_tokens x top_k at most %lld, found %lld x %lld",
           (long long)MOECL_MAX_ASSIGNMENTS, tokens, k);
  return tokens * k > MOECL_MAX_ASSIGNMENTS;
}

/* Keeps every byte count of workspace, input and output in 64 bits. */
static bool has_too_many_bytes(const experiment_point *point, breach *found) {
  const long long tokens = point->num_tokens, k = point->layer.top_k;
  const long long h = point->layer.hidden_size, i = point->layer.intermediate_size;
  found->key = KEY_NUM_TOKENS;
  snprintf(found->message, sizeof found->message,
           "workload.num_tokens: expected intermediate values that 64-bit sizes can count, found "
           "num_tokens %lld, top_k %lld, hidden_size %lld, intermediate_size %lld",
           tokens, k, h, i);
  return tokens * k <= MOECL_MAX_ASSIGNMENTS &&
         (double)tokens * (double)k * (double)(2 * i + h) * 16 > 0x1p63;
}

static bool has_half_of_groups(const experiment_point *point, breach *found) {
  const long long groups = point->layer.num_expert_group, taken = point->layer.topk_group;
  found->key = groups == 0 ? KEY_TOPK_GROUP : KEY_NUM_EXPERT_GROUP;
  if (groups == 0)
    snprintf(
        found->message, sizeof found->message,
        "layer.router.topk_group: is %lld without layer.router.num_expert_group; expected both or "
        "neither",
        taken);
  else
    snprintf(found->message, sizeof found->message,
             "layer.router.num_expert_group: is %lld without layer.router.topk_group; expected "
             "that beside "
             "it, 1 to %lld",
             groups, groups);
  return (groups == 0) != (taken == 0);
}

/* The library's message with its parameters' names as YAML has them; false where it is
 * about a key whose value is wrong by itself. */
static bool say_keys(const settings *settings, const char *detail,
                     bool (*is_of)(const schema_key *key), breach *found) {
  static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789_";
  size_t used = 0;
  found->key = KEY_COUNT;
  found->message[0] = '\0';
  while (*detail != '\0' && used < sizeof found->message) {
    char word[64];
    const size_t length = strspn(detail, letters), copied = length > 0 ? length : 1;
    snprintf(word, sizeof word, "%.*s", (int)copied, detail);
    const schema_id key = length > 0 ? schema_find_param(word) : KEY_COUNT;
    const bool named = key != KEY_COUNT && is_of(schema_get(key));
    if (named && settings->keys[key].count == 0) return false;
    if (named && found->key == KEY_COUNT && settings->keys[key].given) found->key = key;
    used += (size_t)snprintf(found->message + used, sizeof found->message - used, "%s",
                             named ? schema_get(key)->name : word);
    detail += copied;
  }
  return true;
}

/* What the library says of the layer, as if what other rules tell were mended, and with
 * something that serves where a size is missing or wrong by itself. */
static bool has_bad_layer(const settings *settings, const experiment_point *point, breach *found) {
  moecl_layer_params layer = point->layer;
  char detail[256];
  breach other;
  if (layer.hidden_size == 0) layer.hidden_size = 1;
  if (layer.intermediate_size == 0) layer.intermediate_size = 1;
  if (layer.num_experts == 0) layer.num_experts = MOECL_MAX_EXPERTS;
  layer.expert_cache = 0; /* has_bad_offload's */
  if (layer.top_k == 0 || layer.top_k > layer.num_experts) layer.top_k = 1;
  if (has_half_of_groups(point, &other)) layer.num_expert_group = layer.topk_group = 0;
  return moecl_layer_params_check(&layer, detail, sizeof detail) != MOECL_OK &&
         say_keys(settings, detail, schema_is_of_layer, found);
}

static bool is_of_either(const schema_key *key) {
  return schema_is_of_layer(key) || schema_is_of_block(key);
}

/* The library's names of members as the keys' last parts are: rope.theta is rope_theta. */
static void flatten(char *detail) {
  static const char *const norms[] = {"attention_norm.", "feed_forward_norm."};
  for (size_t i = 0; i < sizeof norms / sizeof norms[0]; i++)
    if (strncmp(detail, norms[i], strlen(norms[i])) == 0)
      memmove(detail, strstr(detail, "norm."), strlen(strstr(detail, "norm.")) + 1);
  for (char *dot = detail; (dot = strchr(dot, '.')); dot++) {
    const bool rope = dot - detail >= 4 && strncmp(dot - 4, "rope", 4) == 0;
    if (rope || (dot - detail == 4 && strncmp(detail, "norm", 4) == 0)) *dot = '_';
  }
}

/* What the library says of the block around a layer that it takes. */
static bool has_bad_block(const settings *settings, const experiment_point *point, breach *found) {
  moecl_block_params block = experiment_block_params(point);
  char detail[256];
  if (point->what != WHAT_BLOCK) return false;
  block.layer.expert_cache = 0; /* has_bad_offload's */
  if (moecl_layer_params_check(&block.layer, NULL, 0) != MOECL_OK) return false;
  if (block.attention.num_heads == 0) {
    found->key = KEY_WHAT;
    snprintf(found->message, sizeof found->message,
             "block.attention.num_heads is missing, which a block needs; expected an integer from "
             "1 to %d",
             MOECL_MAX_HEADS);
    return true;
  }
  if (moecl_block_params_check(&block, detail, sizeof detail) == MOECL_OK) return false;
  flatten(detail);
  return say_keys(settings, detail, is_of_either, found);
}

static bool has_too_many_positions(const experiment_point *point, breach *found) {
  const long long context = point->context, tokens = point->num_tokens;
  found->key = KEY_CONTEXT;
  snprintf(found->message, sizeof found->message,
           "workload.context: expected context + num_tokens at most %d, found %lld + %lld",
           MOECL_MAX_POSITIONS, context, tokens);
  return point->what == WHAT_BLOCK && context + tokens > MOECL_MAX_POSITIONS;
}

static bool has_parallel_block(const experiment_point *point, breach *found) {
  found->key = KEY_PARALLEL_EXPERTS;
  snprintf(found->message, sizeof found->message,
           "parallel.experts: expected null where blocks are measured (measure.what), found %lld: "
           "layers alone are spread over devices",
           (long long)point->parallel.experts);
  return point->what == WHAT_BLOCK && point->parallel.experts > 0;
}

/* Is a placement file missing, or of another layer or group? */
static bool has_bad_placement(const experiment *experiment, const experiment_point *point,
                              breach *found) {
  const placement_file *file = &experiment->placement;
  const long long members = point->parallel.experts;
  const long long experts = point->layer.num_experts - point->layer.num_identity_experts;
  const bool by_file = point->parallel.placement == PARALLEL_FROM_FILE;
  const long long lists = (long long)file->num_lists, loads = (long long)file->num_loads;
  char wrong[128];
  if (members == 0 || (!by_file && point->parallel.replicas == 0)) return false;
  found->key = by_file ? KEY_PARALLEL_PLACEMENT : KEY_PARALLEL_REPLICAS;
  if (by_file && !experiment->placement_path)
    snprintf(found->message, sizeof found->message,
             "parallel.placement: 'file' needs parallel.placement_file");
  else if (by_file && lists > 0 && lists != members)
    snprintf(found->message, sizeof found->message,
             "parallel.placement: %s has lists of %lld members, expected parallel.experts (%lld)",
             experiment->placement_path, lists, members);
  else if (by_file && !placement_file_check_lists(file, experts, wrong, sizeof wrong)) {
    found->key = KEY_PARALLEL_PLACEMENT_FILE;
    snprintf(found->message, sizeof found->message, "parallel.placement_file: %s: %s",
             experiment->placement_path, wrong);
  } else if (loads > 0 && loads != experts && loads != point->layer.num_experts)
    snprintf(found->message, sizeof found->message,
             "parallel.placement_file: %s has loads of %lld experts, expected %lld",
             experiment->placement_path, loads, experts);
  else if (point->parallel.replicas > experts) {
    found->key = KEY_PARALLEL_REPLICAS;
    snprintf(found->message, sizeof found->message,
             "parallel.replicas: expected at most the layer's %lld experts, found %lld", experts,
             (long long)point->parallel.replicas);
  } else return false;
  return true;
}

/* Is a cache of other than one device's layer, or larger than that, or of no number of experts? */
static bool has_bad_offload(const experiment_point *point, breach *found) {
  const long long experts = point->layer.num_experts - point->layer.num_identity_experts;
  const bool block = point->what == WHAT_BLOCK, group = point->parallel.experts > 1;
  const double cache = point->parallel.cache;
  if (point->parallel.placement != PARALLEL_OFFLOAD) return false;
  found->key = block || group ? KEY_PARALLEL_PLACEMENT : KEY_PARALLEL_CACHE;
  if (block || group)
    snprintf(found->message, sizeof found->message,
             "parallel.placement: 'offload' is of layers on one device, expected %s",
             block ? "another where blocks are measured (measure.what)"
                   : "parallel.experts to be null or 1");
  else
    snprintf(found->message, sizeof found->message,
             "parallel.cache: expected a share below 1, or a whole number up to the layer's %lld "
             "experts, found %g",
             experts, cache);
  return block || group || point->layer.expert_cache > experts ||
         (cache > 1 && cache != floor(cache));
}

static bool breaks(const settings *settings, rule rule, const experiment *experiment,
                   const experiment_point *point, breach *found) {
  switch (rule) {
  case RULE_TOP_K: return has_too_many_choices(point, found);
  case RULE_ASSIGNMENTS: return has_too_many_assignments(point, found);
  case RULE_BYTES: return has_too_many_bytes(point, found);
  case RULE_GROUPS: return has_half_of_groups(point, found);
  case RULE_LAYER: return has_bad_layer(settings, point, found);
  case RULE_BLOCK: return has_bad_block(settings, point, found);
  case RULE_POSITIONS: return has_too_many_positions(point, found);
  case RULE_PARALLEL: return has_parallel_block(point, found);
  case RULE_PLACEMENT: return has_bad_placement(experiment, point, found);
  case RULE_OFFLOAD: return has_bad_offload(point, found);
  case RULE_COUNT: break;
  }
  return false;
}

static void check_rule(const settings *settings, rule rule, const experiment *experiment,
                       problems *problems) {
  breach found, first;
  size_t broken = 0, at = 0;
  char label[512];
  for (size_t i = 0; i < experiment->num_points; i++) {
    if (!breaks(settings, rule, experiment, &experiment->points[i], &found) || broken++ > 0)
      continue;
    at = i;
    first = found;
  }
  if (broken == 0) return;
  const tree_mark mark =
      first.key == KEY_COUNT ? settings->layer_mark : settings->keys[first.key].mark;
  experiment_point_label(experiment, at, label, sizeof label);
  if (experiment->num_points == 1) problem_add(problems, mark, "%s", first.message);
  else
    problem_add(problems, mark, "%s, in the point %s (%zu of %zu points are like it)",
                first.message, label, broken, experiment->num_points);
}

void sweep_expand(const settings *settings, experiment *experiment, problems *problems) {
  schema_id axes[KEY_COUNT];
  size_t num_axes = settings_axes(settings, axes);
  size_t num_points = count_points(settings, axes, num_axes, problems);
  if (num_points == 0) return;
  experiment->points = calloc(num_points, sizeof *experiment->points);
  experiment->axes = calloc(num_axes + 1, sizeof *experiment->axes); /* never of size 0 */
  if (experiment->points == NULL || experiment->axes == NULL) {
    problem_out_of_memory(problems);
    return;
  }
  experiment->num_points = num_points;
  experiment->num_axes = num_axes;
  for (size_t i = 0; i < num_axes; i++)
    experiment->axes[i] =
        (experiment_axis){schema_param(schema_get(axes[i])), settings->keys[axes[i]].count};
  for (size_t i = 0; i < num_points; i++)
    fill_point(settings, axes, num_axes, i, &experiment->points[i]);
  for (int rule = 0; rule < RULE_COUNT; rule++)
    if (can_check(settings, (enum rule)rule))
      check_rule(settings, (enum rule)rule, experiment, problems);
}
