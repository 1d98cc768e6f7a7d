// SPDX-License-Identifier: MIT
#include "sweep.h"

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
}

/* What no point may have. Each is reported once, with its first point. */
typedef enum rule { RULE_TOP_K = 0, RULE_ASSIGNMENTS, RULE_BYTES, RULE_LAYER, RULE_COUNT } rule;

/* Whether all that the rule is about has values: what is missing or wrong by itself was
 * reported. */
static bool can_check(const settings *settings, rule rule) {
  const setting *keys = settings->keys;
  if (rule == RULE_TOP_K) return keys[KEY_TOP_K].count > 0 && keys[KEY_NUM_EXPERTS].count > 0;
  if (rule == RULE_ASSIGNMENTS) return keys[KEY_NUM_TOKENS].count > 0 && keys[KEY_TOP_K].count > 0;
  for (int i = 0; i < KEY_COUNT; i++)
    if (keys[i].count == 0 && (i == KEY_NUM_TOKENS || schema_is_of_layer(schema_get((schema_id)i))))
      return false;
  return true;
}

/* The first of the rules to be checked that the point breaks, with the message;
 * RULE_COUNT: none. */
static rule broken_rule(const experiment_point *point, const bool checked[RULE_COUNT],
                        char *message, size_t size) {
  const moecl_layer_params *layer = &point->layer;
  long long tokens = point->num_tokens, k = layer->top_k, h = layer->hidden_size;
  long long i = layer->intermediate_size, e = layer->num_experts;
  if (checked[RULE_TOP_K] && k > e) {
    snprintf(message, size, "layer.top_k: expected at most layer.num_experts (%lld), found %lld", e,
             k);
    return RULE_TOP_K;
  }
  if (checked[RULE_ASSIGNMENTS] && tokens * k > MOECL_MAX_ASSIGNMENTS) {
    snprintf(message, size,
             "workload.num_tokens: expected num_tokens x top_k at most %lld, found %lld x %lld",
             (long long)MOECL_MAX_ASSIGNMENTS, tokens, k);
    return RULE_ASSIGNMENTS;
  }
  /* Keeps every byte count of workspace, input and output in 64 bits. */
  if (checked[RULE_BYTES] && (double)tokens * (double)k * (double)(2 * i + h) * 16 > 0x1p63) {
    snprintf(message, size,
             "workload.num_tokens: expected intermediate values that 64-bit sizes can count, found "
             "num_tokens %lld, top_k %lld, hidden_size %lld, intermediate_size %lld",
             tokens, k, h, i);
    return RULE_BYTES;
  }
  char detail[256];
  if (checked[RULE_LAYER] && moecl_layer_params_check(layer, detail, sizeof detail) != MOECL_OK) {
    snprintf(message, size, "layer: %s", detail);
    return RULE_LAYER;
  }
  return RULE_COUNT;
}

static tree_mark rule_mark(const settings *settings, rule rule) {
  switch (rule) {
  case RULE_TOP_K: return settings->keys[KEY_TOP_K].mark;
  case RULE_ASSIGNMENTS:
  case RULE_BYTES: return settings->keys[KEY_NUM_TOKENS].mark;
  case RULE_LAYER:
  case RULE_COUNT: break;
  }
  return settings->layer_mark;
}

static void check_points(const settings *settings, const experiment *experiment,
                         problems *problems) {
  size_t first[RULE_COUNT], broken[RULE_COUNT] = {0};
  bool checked[RULE_COUNT];
  char message[512], label[512];
  for (int rule = 0; rule < RULE_COUNT; rule++)
    checked[rule] = can_check(settings, (enum rule)rule);
  for (size_t i = 0; i < experiment->num_points; i++) {
    rule rule = broken_rule(&experiment->points[i], checked, message, sizeof message);
    if (rule != RULE_COUNT && broken[rule]++ == 0) first[rule] = i;
  }
  for (int rule = 0; rule < RULE_COUNT; rule++) {
    if (broken[rule] == 0) continue;
    broken_rule(&experiment->points[first[rule]], checked, message, sizeof message);
    experiment_point_label(experiment, first[rule], label, sizeof label);
    tree_mark mark = rule_mark(settings, (enum rule)rule);
    if (experiment->num_points == 1) problem_add(problems, mark, "%s", message);
    else
      problem_add(problems, mark, "%s, in the point %s (%zu of %zu points are like it)", message,
                  label, broken[rule], experiment->num_points);
  }
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
        (experiment_axis){schema_get(axes[i])->param, settings->keys[axes[i]].count};
  for (size_t i = 0; i < num_points; i++)
    fill_point(settings, axes, num_axes, i, &experiment->points[i]);
  check_points(settings, experiment, problems);
}
