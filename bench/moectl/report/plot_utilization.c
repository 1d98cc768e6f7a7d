// SPDX-License-Identifier: MIT
/* How many assignments each expert was given and kept, at one point. */
#include "report/gnuplot.h"
#include "report/plots.h"
#include <inttypes.h>
#include <string.h>

static int64_t busiest(const moecl_routing *routing) {
  int64_t most = 0;
  for (int64_t e = 0; e < routing->num_experts; e++)
    if (routing->tokens_per_expert[e] > most) most = routing->tokens_per_expert[e];
  return most;
}

/* ", seed 3, jitter 0.1": what else tells the point from others. */
static void swept_values(const experiment *plan, size_t point, char *text, size_t size) {
  static const char *const listed[] = {"top_k", "capacity_factor", "num_experts", "num_tokens"};
  char value[64];
  size_t used = 0;
  text[0] = '\0';
  for (size_t i = 0; i < plan->num_axes; i++) {
    bool is_listed = false;
    for (size_t j = 0; j < sizeof listed / sizeof listed[0]; j++)
      is_listed = is_listed || strcmp(plan->axes[i].param, listed[j]) == 0;
    if (is_listed || used + 128 > size) continue;
    used += (size_t)snprintf(text + used, size - used, ", %s %s", plan->axes[i].param,
                             grid_value_text(plan, i, point, value, sizeof value));
  }
}

static void write_title(const results *all, const picture_plan *picture, FILE *script) {
  const experiment_point *point = &all->experiment->points[picture->point];
  const moecl_routing_statistics *statistics = &all->points[picture->point].routing.statistics;
  char k[64], factor[64] = "", line[LABEL_SIZE], number[NUMBER_SIZE];
  experiment_param_text(point, "top_k", k, sizeof k);
  if (point->layer.capacity_factor != 0)
    experiment_param_text(point, "capacity_factor", factor, sizeof factor);
  snprintf(line, sizeof line, "%.60s: expert utilization, top_k %s, %s%s", all->experiment->name, k,
           *factor ? "capacity factor " : "dropless", factor);
  fputs("set title ", script);
  gnuplot_quote(script, line);
  const size_t used =
      (size_t)snprintf(line, sizeof line, "num_experts %" PRId64 ", num_tokens %" PRId64,
                       point->layer.num_experts, point->num_tokens);
  swept_values(all->experiment, picture->point, line + used, sizeof line - used);
  fputs(" . \"\\n\" . ", script);
  gnuplot_quote(script, line);
  snprintf(line, sizeof line, "dropped %.2f%%, busiest expert %s times the mean",
           100 * statistics->dropped_fraction,
           number_text(statistics->max_mean_imbalance, number, sizeof number));
  fputs(" . \"\\n\" . ", script);
  gnuplot_quote(script, line);
  fputc('\n', script);
}

/* Ids at even distances, few enough to read. */
static int64_t id_step(int64_t num_experts) {
  int64_t step = 1;
  while (num_experts > 32 && num_experts / step > 20) step *= 2;
  return step;
}

void plot_utilization(const results *all, const picture_plan *picture, FILE *script, FILE *data) {
  const moecl_routing *routing = &all->points[picture->point].routing;
  const double even =
      (double)routing->num_tokens * (double)routing->top_k / (double)routing->num_experts;
  double top = (double)busiest(routing) > even ? (double)busiest(routing) : even;
  if (top < 1) top = 1;
  /* A capacity far above every bar would flatten them: it is then only named. */
  const bool show_capacity = routing->capacity >= 0 && (double)routing->capacity <= 4 * top;
  const double height =
      show_capacity && (double)routing->capacity > top ? (double)routing->capacity : top;
  fputs("# expert assignments_before_capacity assignments_after_capacity\n", data);
  for (int64_t e = 0; e < routing->num_experts; e++)
    fprintf(data, "%" PRId64 " %" PRId64 " %" PRId64 "\n", e, routing->tokens_per_expert[e],
            routing->tokens_per_expert_after_capacity[e]);

  /* Bars of a few pixels: gaps between them would be stripes. */
  const bool crowded = routing->num_experts > 200;
  plot_begin(script, picture->name, 700);
  write_title(all, picture, script);
  fprintf(script,
          "set xlabel 'expert id' . \"\\n \"\n" /* an empty line above the key */
          "set ylabel 'assignments (token-expert pairs)'\n"
          "set key below center horizontal\n"
          "set style fill solid 1.0 %s\n"
          "set xrange [-0.9:%" PRId64 ".9]\n"
          "set yrange [0:%.17g]\n"
          "set xtics 0,%" PRId64 ",%" PRId64 "\n",
          crowded ? "border" : "noborder", routing->num_experts - 1, 1.08 * height,
          id_step(routing->num_experts), routing->num_experts - 1);
  fprintf(
      script,
      "plot '%s.dat' using 1:2:(%s) with boxes linecolor '#9CC9E8' title 'before capacity', \\\n"
      "  '' using 1:3:(%s) with boxes linecolor '%s' title 'after capacity', \\\n",
      picture->name, crowded ? "1" : "0.86", crowded ? "1" : "0.56", plot_colour(0));
  if (show_capacity)
    fprintf(script,
            "  %" PRId64 " with lines linewidth 2.5 linecolor '%s' title 'capacity %" PRId64
            "', \\\n",
            routing->capacity, plot_colour(1), routing->capacity);
  else if (routing->capacity >= 0)
    fprintf(script,
            "  NaN with lines linewidth 2.5 linecolor '%s' title 'capacity %" PRId64
            " (above the picture)', \\\n",
            plot_colour(1), routing->capacity);
  char number[NUMBER_SIZE];
  fprintf(script,
          "  %.17g with lines linewidth 2.5 dashtype 2 linecolor '#000000' "
          "title 'even share %s'\n",
          even, number_text(even, number, sizeof number));
}
