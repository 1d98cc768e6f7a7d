// SPDX-License-Identifier: MIT
#include "report/report.h"
#include "report/pictures.h"
#include "base/files.h"
#include "results/measures.h"
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool is_pair(const char *param) {
  return strcmp(param, "top_k") == 0 || strcmp(param, "capacity_factor") == 0;
}

/* Values may be texts of any kind (a variant's name); file names may not. */
static void append_safe(char *name, size_t size, const char *text) {
  size_t used = strlen(name);
  for (; *text && used + 1 < size; text++)
    name[used++] = (char)(isalnum((unsigned char)*text) || strchr("._-+", *text) ? *text : '-');
  name[used] = '\0';
}

static bool name_is_free(const picture_list *pictures, const char *name) {
  for (size_t i = 0; i < pictures->count; i++)
    if (strcmp(pictures->list[i].name, name) == 0) return false;
  return true;
}

/* expert_utilization_k2_cf1.25 or _cfdropless, and the other swept values where several
 * points share k and factor. */
static char *utilization_name(const results *all, const picture_list *pictures, size_t index) {
  const experiment *plan = all->experiment;
  const experiment_point *point = &plan->points[index];
  char name[200] = "expert_utilization_k", text[LABEL_SIZE];
  append_safe(name, sizeof name, experiment_param_text(point, "top_k", text, sizeof text));
  append_safe(name, sizeof name, "_cf");
  experiment_param_text(point, "capacity_factor", text, sizeof text);
  append_safe(name, sizeof name, strcmp(text, "null") == 0 ? "dropless" : text);
  for (size_t i = 0; i < plan->num_axes; i++) {
    const char *param = plan->axes[i].param;
    if (is_pair(param) || plan->axes[i].count < 2) continue;
    append_safe(name, sizeof name, "_");
    append_safe(name, sizeof name, param);
    append_safe(name, sizeof name, experiment_param_text(point, param, text, sizeof text));
  }
  /* Cut, or a list with a value twice. */
  if (strlen(name) + 1 >= sizeof name || !name_is_free(pictures, name))
    return format_text("%s_point%zu", name, index);
  return format_text("%s", name);
}

static bool add(picture_list *pictures, picture_kind kind, size_t point, size_t axis, char *name) {
  if (!name) return false;
  pictures->list[pictures->count++] = (picture_plan){kind, point, axis, name};
  return true;
}

static const struct {
  picture_quantity quantity;
  const char *measure;
} shown[PICTURE_KIND_COUNT] = {
    [PICTURE_TIME] = {{"time", "layer time", "layer time (ms)", "median of the iterations",
                       "lower is better", "median_ms min_ms p90_ms"},
                      NULL},
    [PICTURE_THROUGHPUT] = {{"throughput", "throughput", "throughput (tokens/s)",
                             "at the median time", "higher is better", "tokens_per_s"},
                            "tokens_per_s"},
    [PICTURE_SCALING] = {{"scaling", "speed over one member", "tokens per second, over that of one",
                          "at the median time; dashed: as many times as members",
                          "dashed is the ideal", "times_one_member"},
                         NULL},
    [PICTURE_IMBALANCE] = {{"imbalance", "load imbalance", "load imbalance (max/mean)",
                            "the busiest expert's load over the mean, before capacity", "1 is even",
                            "max_mean_imbalance"},
                           "max_mean_imbalance"},
    [PICTURE_VARIATION] = {{"variation", "coefficient of variation",
                            "coefficient of variation of the loads",
                            "standard deviation of the experts' loads over the mean, before "
                            "capacity",
                            "0 is even", "coefficient_of_variation"},
                           "coefficient_of_variation"},
    [PICTURE_DROPPED] = {{"dropped", "dropped assignments", "dropped assignments (%)",
                          "share of the assignments (token-expert pairs) over capacity",
                          "lower is better", "dropped_percent"},
                         "dropped_fraction"},
    [PICTURE_HIT_RATE] = {{"hit_rate", "hit rate", "hit rate (%)",
                           "experts that were on the device of those that a forward wanted",
                           "higher is better", "hit_rate_percent"},
                          "hit_rate"},
};

const picture_quantity *picture_quantity_of(const results *all, picture_kind kind) {
  static const picture_quantity block = {"time",
                                         "block time",
                                         "block time (ms)",
                                         "median of the iterations",
                                         "lower is better",
                                         "median_ms min_ms p90_ms"};
  const bool blocks = kind == PICTURE_TIME && experiment_has_blocks(all->experiment);
  return blocks ? &block : &shown[kind].quantity;
}

/* One device without a group is one. */
static double members_of(const results *all, size_t index) {
  const int64_t experts = all->experiment->points[index].parallel.experts;
  return experts > 0 ? (double)experts : 1;
}

/* Of the points that differ in the number of members alone. Without a group is one alone, more so
 * than with a group of one. */
static size_t fewest_of(const results *all, size_t axis, size_t index) {
  const experiment *plan = all->experiment;
  const size_t stride = grid_stride(plan, axis);
  const size_t first = index - grid_digit(plan, axis, index) * stride;
  size_t fewest = index;
  for (size_t i = 0; i < plan->axes[axis].count; i++) {
    const size_t other = first + i * stride;
    if (point_ran(all, other) &&
        plan->points[other].parallel.experts < plan->points[fewest].parallel.experts)
      fewest = other;
  }
  return fewest;
}

/* Over the fewest, which do as many times one's as they are where that was not measured. */
static double scaling_of(const results *all, size_t index) {
  const size_t axis = grid_find(all->experiment, "experts");
  if (axis == all->experiment->num_axes) return NAN;
  const size_t fewest = fewest_of(all, axis, index);
  return members_of(all, fewest) * all->points[index].tokens_per_s /
         all->points[fewest].tokens_per_s;
}

int64_t pictures_scaling_from(const results *all, size_t index) {
  const size_t axis = grid_find(all->experiment, "experts");
  return (int64_t)members_of(all, fewest_of(all, axis, index));
}

double picture_value(const results *all, picture_kind kind, size_t index) {
  if (!point_ran(all, index)) return NAN;
  if (kind == PICTURE_TIME) return point_ms(all, index);
  if (kind == PICTURE_SCALING) return scaling_of(all, index);
  const measure *m = measure_find(shown[kind].measure);
  const double value = measure_get(m, &all->points[index]).real;
  return m->kind == MEASURE_SHARE ? 100 * value : value;
}

/* Whether the quantity differs anywhere along the axis. */
static bool varies(const results *all, picture_kind kind, size_t axis) {
  const size_t stride = grid_stride(all->experiment, axis);
  for (size_t line = 0; line < grid_lines(all->experiment, axis); line++) {
    double first = NAN;
    for (size_t i = 0; i < all->experiment->axes[axis].count; i++) {
      const size_t index = grid_line_start(all->experiment, axis, line) + i * stride;
      const double value = picture_value(all, kind, index);
      if (isfinite(value) && isfinite(first) && value != first) return true;
      if (isfinite(value)) first = value;
    }
  }
  return false;
}

/* Times always differ; that routing does is worth a picture only if it does. */
static bool is_wanted(const results *all, picture_kind kind, size_t axis) {
  const experiment *plan = all->experiment;
  if (plan->axes[axis].count < 2 || !grid_is_numeric(plan, axis)) return false;
  if (grid_is_seed(plan, axis)) return false; /* a line through seeds would be a trend */
  if (kind >= PICTURE_IMBALANCE) return varies(all, kind, axis);
  if (kind == PICTURE_SCALING && strcmp(plan->axes[axis].param, "experts") != 0) return false;
  picture_view view;
  return pictures_view(all, kind, axis, &view);
}

static bool same_loads(const results *all, size_t a, size_t b, bool kept) {
  const moecl_routing *x = &all->points[a].routing, *y = &all->points[b].routing;
  const size_t bytes = (size_t)x->num_experts * sizeof *x->tokens_per_expert;
  return x->num_experts == y->num_experts &&
         memcmp(x->tokens_per_expert, y->tokens_per_expert, bytes) == 0 &&
         (!kept || memcmp(x->tokens_per_expert_after_capacity, y->tokens_per_expert_after_capacity,
                          bytes) == 0);
}

bool pictures_axis_loads(const results *all, size_t axis, bool kept) {
  const experiment *plan = all->experiment;
  for (size_t line = 0; line < grid_lines(plan, axis); line++) {
    size_t first = SIZE_MAX;
    for (size_t i = 0; i < plan->axes[axis].count; i++) {
      const size_t index = grid_line_start(plan, axis, line) + i * grid_stride(plan, axis);
      if (!point_has_loads(all, index)) continue;
      if (first == SIZE_MAX) first = index;
      else if (!same_loads(all, first, index, kept)) return true;
    }
  }
  return false;
}

static bool draws_each(const results *all) {
  return all->pictures == PICTURES_ALL || all->experiment->num_points <= SMALL_SWEEP;
}

size_t report_pictures_expected(const results *all) {
  const experiment *plan = all->experiment;
  if (all->pictures == PICTURES_NONE) return 0;
  /* Times and throughput are always drawn, the loads' pictures where they differ. */
  return (draws_each(all) ? plan->num_points : 0) + (plan->num_points <= SMALL_SWEEP) +
         2 * plan->num_axes + (plan->num_axes > 0);
}

static bool has_stages(const results *all) {
  for (size_t i = 0; i < all->experiment->num_points; i++)
    if (point_ran(all, i) && point_stages_ms(&all->points[i]) > 0) return true;
  return false;
}

bool pictures_has_devices(const results *all, size_t index) {
  return point_ran(all, index) && all->points[index].parallel.num_members > 1;
}

static bool any_devices(const results *all) {
  for (size_t i = 0; i < all->experiment->num_points; i++)
    if (pictures_has_devices(all, i)) return true;
  return false;
}

bool pictures_plan(const results *all, picture_list *pictures) {
  const experiment *plan = all->experiment;
  pictures->count = 0;
  pictures->list =
      calloc(plan->num_points + PICTURE_KIND_COUNT * plan->num_axes + 4, sizeof *pictures->list);
  bool ok = pictures->list != NULL, loads = false;
  if (all->pictures == PICTURES_NONE) return ok;
  for (size_t axis = 0; ok && axis < plan->num_axes; axis++)
    for (int kind = PICTURE_TIME; ok && kind < PICTURE_KIND_COUNT; kind++)
      if (is_wanted(all, (picture_kind)kind, axis))
        ok = add(pictures, (picture_kind)kind, 0, axis,
                 format_text("%s_vs_%s", shown[kind].quantity.name, plan->axes[axis].param));
  if (ok && plan->num_points <= SMALL_SWEEP && has_stages(all))
    ok = add(pictures, PICTURE_STAGES, 0, 0, format_text("stages"));
  if (ok && any_devices(all)) ok = add(pictures, PICTURE_DEVICES, 0, 0, format_text("device_load"));
  for (size_t axis = 0; axis < plan->num_axes; axis++)
    loads = loads || pictures_axis_loads(all, axis, false);
  if (ok && loads) ok = add(pictures, PICTURE_LOADS, 0, 0, format_text("expert_utilization"));
  const bool each = draws_each(all);
  for (size_t i = 0; ok && each && i < plan->num_points; i++)
    if (point_has_loads(all, i))
      ok = add(pictures, PICTURE_UTILIZATION, i, 0, utilization_name(all, pictures, i));
  if (!ok) pictures_release(pictures);
  return ok;
}

void pictures_release(picture_list *pictures) {
  for (size_t i = 0; i < pictures->count; i++) free(pictures->list[i].name);
  free(pictures->list);
  pictures->list = NULL;
  pictures->count = 0;
}
