// SPDX-License-Identifier: MIT
/* Bars: what takes the layer's time, and how long the layer takes with each of several choices,
 * which have no order and no place on an axis. */
#include "report/html_parts.h"
#include "report/report_parts.h"
#include <math.h>

/* --- stages --------------------------------------------------------------------- */

static void stage_key(const int *stages, size_t count, FILE *file) {
  fputs("<ul class=\"key\" aria-label=\"Colours: stages\">\n", file);
  for (size_t i = 0; i < count; i++)
    fprintf(file, "<li><i class=\"s%d\"></i>%s</li>\n", stages[i],
            moecl_stage_name((moecl_stage)stages[i]));
  fputs("</ul>\n", file);
}

/* One bar of shares in percent; of a point's times too (NULL: means over several). */
static void stage_bar(const int *stages, size_t count, const double *shares,
                      const sample_summary *times, FILE *file) {
  char number[NUMBER_SIZE];
  const char *before = "";
  fputs("<td><div class=\"bar\" role=\"img\" aria-label=\"", file);
  for (size_t i = 0; i < count; i++) {
    if (!isfinite(shares[i])) continue;
    fprintf(file, "%s%s %.1f%%", before, moecl_stage_name((moecl_stage)stages[i]), shares[i]);
    before = ", ";
  }
  fputs("\">", file);
  for (size_t i = 0; i < count; i++) {
    if (!isfinite(shares[i])) continue;
    fprintf(file, "<span class=\"s%d\" style=\"width:%.2f%%\" title=\"%s %.1f%%", stages[i],
            shares[i], moecl_stage_name((moecl_stage)stages[i]), shares[i]);
    if (times)
      fprintf(file, ", %s ms", number_text(times[stages[i]].median, number, sizeof number));
    fputs("\"></span>", file);
  }
  fputs("</div></td>", file);
}

static void point_label(const results *all, size_t index, FILE *file) {
  char label[LABEL_SIZE];
  grid_line_label(all->experiment, all->experiment->num_axes, index, label, sizeof label);
  if (!*label) fputs("the point", file);
  for (const char *at = label; *at; at++) { /* a narrow screen breaks it before values */
    const char letter[2] = {*at, '\0'};
    html_text(file, letter);
    if (*at == '=') fputs("<wbr>", file);
  }
}

static void stages_of_points(const results *all, const int *stages, size_t count, FILE *file) {
  char number[NUMBER_SIZE];
  double shares[RESULTS_PARTS];
  for (size_t i = 0; i < all->experiment->num_points; i++) {
    const point_result *point = &all->points[i];
    const double sum = point_ran(all, i) ? point_stages_ms(point) : 0;
    if (!(sum > 0)) continue;
    for (size_t j = 0; j < count; j++) shares[j] = 100 * point->time_ms[stages[j]].median / sum;
    fputs("<tr><th scope=\"row\">", file);
    point_label(all, i, file);
    fputs("</th>", file);
    stage_bar(stages, count, shares, point->time_ms, file);
    fprintf(file, "<td class=\"n\">%s ms</td></tr>\n", number_text(sum, number, sizeof number));
  }
}

static void stages_of_values(const results *all, const int *stages, size_t count, FILE *file) {
  const experiment *plan = all->experiment;
  char text[LABEL_SIZE];
  double means[RESULTS_PARTS];
  for (size_t axis = 0; axis < plan->num_axes; axis++)
    for (size_t digit = 0; digit < plan->axes[axis].count; digit++) {
      const size_t points = report_stage_means(all, axis, digit, stages, count, means);
      if (points == 0) continue;
      fprintf(file, "<tr><th scope=\"row\">%s ", plan->axes[axis].param);
      html_text(file,
                grid_value_text(plan, axis, digit * grid_stride(plan, axis), text, sizeof text));
      fputs("</th>", file);
      stage_bar(stages, count, means, NULL, file);
      fprintf(file, "<td class=\"n\">%zu points</td></tr>\n", points);
    }
}

void html_stages(const results *all, FILE *file) {
  int stages[RESULTS_PARTS];
  const size_t count = report_stages_of(all, stages);
  bool any = false;
  for (size_t i = 0; i < all->experiment->num_points; i++)
    any = any || (point_ran(all, i) && point_stages_ms(&all->points[i]) > 0);
  if (!any) return;
  stage_key(stages, count, file);
  fputs("<table class=\"bars\" aria-label=\"Share of each stage in the time\">\n"
        "<colgroup><col class=\"l\"><col><col class=\"v\"></colgroup>\n",
        file);
  if (all->experiment->num_points > SMALL_SWEEP) stages_of_values(all, stages, count, file);
  else stages_of_points(all, stages, count, file);
  fputs("</table>\n", file);
}

/* --- choices -------------------------------------------------------------------- */

static double longest_of(const results *all, size_t axis, const picture_view *view) {
  double longest = 0;
  for (size_t panel = 0; panel < view->num_panels; panel++)
    for (size_t line = 0; line < view->num_lines; line++)
      for (size_t i = 0;
           view->starts[panel][line] != SIZE_MAX && i < all->experiment->axes[axis].count; i++) {
        const size_t index = view->starts[panel][line] + i * grid_stride(all->experiment, axis);
        if (!point_ran(all, index)) continue;
        const sample_summary *time = &all->points[index].time_ms[MOECL_STAGE_LAYER];
        longest = fmax(longest, fmax(time->median, time->p90));
      }
  return longest;
}

/* The median as a bar, from the fastest iteration to the 90th percentile as a line on it. */
static void choice_row(const results *all, size_t axis, size_t index, double longest, FILE *file) {
  const sample_summary *time = &all->points[index].time_ms[MOECL_STAGE_LAYER];
  char value[LABEL_SIZE], a[NUMBER_SIZE], b[NUMBER_SIZE], c[NUMBER_SIZE];
  if (!point_ran(all, index) || !isfinite(time->median)) return;
  number_text(time->median, a, sizeof a);
  number_text(time->min, b, sizeof b);
  number_text(time->p90, c, sizeof c);
  fputs("<tr><th scope=\"row\">", file);
  html_text(file, grid_value_text(all->experiment, axis, index, value, sizeof value));
  fprintf(file,
          "</th><td><div class=\"bar range\" title=\"%s ms (%s to %s)\">"
          "<span class=\"s%zu\" style=\"width:%.2f%%\"></span>",
          a, b, c, grid_digit(all->experiment, axis, index) % 7, 100 * time->median / longest);
  if (isfinite(time->min) && isfinite(time->p90))
    fprintf(file, "<i style=\"left:%.2f%%;width:%.2f%%\"></i>", 100 * time->min / longest,
            100 * (time->p90 - time->min) / longest);
  fprintf(file, "</div></td><td class=\"n\">%s ms <span class=\"r\">(%s to %s)</span></td></tr>\n",
          a, b, c);
}

static void choice_table(const results *all, size_t axis, FILE *file) {
  const experiment *plan = all->experiment;
  picture_view view;
  char label[LABEL_SIZE];
  if (!pictures_view(all, PICTURE_TIME, axis, &view)) return;
  const double longest = longest_of(all, axis, &view);
  fprintf(file,
          "<h3>%s</h3>\n<p>Median of the layer's time, and from the fastest iteration to the "
          "90th percentile; lower is better.</p>\n"
          "<table class=\"bars choices\" aria-label=\"Layer time by %s\">\n"
          "<colgroup><col class=\"l\"><col><col class=\"v\"></colgroup>\n",
          plan->axes[axis].param, plan->axes[axis].param);
  for (size_t panel = 0; panel < view.num_panels; panel++)
    for (size_t line = 0; line < view.num_lines; line++) {
      const size_t start = view.starts[panel][line];
      if (start == SIZE_MAX) continue;
      grid_line_label(plan, axis, start, label, sizeof label);
      fputs("<tbody>", file);
      if (*label) {
        fputs("<tr><th scope=\"rowgroup\" colspan=\"3\" class=\"g\">", file);
        html_text(file, label);
        fputs("</th></tr>\n", file);
      }
      for (size_t i = 0; i < plan->axes[axis].count; i++)
        choice_row(all, axis, start + i * grid_stride(plan, axis), longest, file);
      fputs("</tbody>\n", file);
    }
  fputs("</table>\n", file);
}

void html_choices(const results *all, FILE *file) {
  const experiment *plan = all->experiment;
  for (size_t axis = 0; axis < plan->num_axes; axis++)
    if (plan->axes[axis].count > 1 && !grid_is_numeric(plan, axis)) choice_table(all, axis, file);
}
