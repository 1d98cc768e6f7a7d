// SPDX-License-Identifier: MIT
/* The map of the experts' loads: a cell an expert; a row for each point with other loads than the
 * rest before capacity, and below it one for each other that capacity leaves of them. A table, so
 * that its numbers are there to be read. */
#include "report/html_parts.h"
#include "report/load_rows.h"
#include <inttypes.h>
#include <stdlib.h>

/* Limits the cells in all, so that the page stays below a few megabytes. Experts whose cells have
 * room for a number; ids that the head names where they have none. */
enum { MAX_CELLS = 12000, LEAST_ROWS = 8, MAX_ROWS = 96, FEW_EXPERTS = 16, NAMED_EXPERTS = 8 };

/* Steps of a load over the even share; each is a colour, the first that of none at all. */
static const struct {
  double below;
  const char *name;
} levels[] = {{0, "none"},    {0.5, "below 1/2"}, {0.8, "below 4/5"}, {1.25, "even (4/5 to 5/4)"},
              {2, "below 2"}, {4, "below 4"},     {0, "4 and more"}};
enum { LEVELS = sizeof levels / sizeof levels[0] };

static int level_of(double load, double even) {
  if (load == 0) return 0;
  int level = 1;
  while (level < LEVELS - 1 && load >= levels[level].below * even) level++;
  return level;
}

static void put_key(FILE *file) {
  fputs("<ul class=\"key\" aria-label=\"Colours: load over the even share\">\n", file);
  for (int i = 0; i < LEVELS; i++)
    fprintf(file, "<li><i class=\"h%d\"></i>%s</li>\n", i, levels[i].name);
  fputs("</ul>\n", file);
}

/* How many experts a heading stands over. */
static int64_t head_step(int64_t num_experts) {
  int64_t step = 1;
  while (num_experts > FEW_EXPERTS && num_experts > NAMED_EXPERTS * step) step *= 2;
  return step;
}

typedef struct load_map {
  const results *all;
  load_rows rows; /* of other loads after capacity, or before it */
  bool *given;    /* [num_axes]: the rows differ in it, and so do their loads before capacity */
  bool limited;   /* some row is of a point with a capacity */
} load_map;

/* Does the axis change the loads after capacity only? */
static bool is_of_capacity(const load_map *map, size_t axis) {
  return load_rows_named(&map->rows, axis) && !map->given[axis];
}

/* Have the two the same loads before capacity? */
static bool same_given(const load_map *map, size_t a, size_t b) {
  const experiment *plan = map->all->experiment;
  for (size_t axis = 0; axis < plan->num_axes; axis++)
    if (map->given[axis] && grid_digit(plan, axis, a) != grid_digit(plan, axis, b)) return false;
  return true;
}

/* What tells rows after capacity from each other. */
static void put_capacity_head(const load_map *map, FILE *file) {
  const experiment *plan = map->all->experiment;
  const char *separator = "";
  fputs("<th class=\"w\" scope=\"col\">", file);
  for (size_t axis = 0; axis < plan->num_axes; axis++) {
    if (!is_of_capacity(map, axis)) continue;
    fprintf(file, "%s%s", separator, plan->axes[axis].param);
    separator = ", ";
  }
  fputs(*separator ? "</th>" : "capacity</th>", file);
}

static void put_head(const load_map *map, FILE *file) {
  const experiment *plan = map->all->experiment;
  const int64_t num_experts = map->rows.num_experts, step = head_step(num_experts);
  fputs("<thead><tr>", file);
  for (size_t axis = 0; axis < plan->num_axes; axis++)
    if (map->given[axis])
      fprintf(file, "<th class=\"p\" scope=\"col\">%s</th>", plan->axes[axis].param);
  if (map->limited) put_capacity_head(map, file);
  for (int64_t e = 0; e < num_experts; e += step) {
    const int64_t width = e + step <= num_experts ? step : num_experts - e;
    fprintf(file, "<th scope=\"col\" colspan=\"%" PRId64 "\">%s%" PRId64 "</th>", width,
            e == 0 && step > 1 ? "expert " : "", e);
  }
  fputs("</tr></thead>\n", file);
}

static void put_value(const load_map *map, size_t axis, size_t index, FILE *file) {
  char text[LABEL_SIZE];
  html_text(file, grid_value_text(map->all->experiment, axis, index, text, sizeof text));
}

/* One line of cells: of what the router gave, or of what capacity left. */
static void put_cells(const moecl_routing *routing, int64_t num_experts, bool kept, FILE *file) {
  const int64_t *given = routing->tokens_per_expert;
  const int64_t *shown = kept ? routing->tokens_per_expert_after_capacity : given;
  const double even = load_even_share(routing);
  char ratio[NUMBER_SIZE];
  for (int64_t e = 0; e < routing->num_experts; e++) {
    fprintf(file, "<td class=\"h%d\" title=\"expert %" PRId64, level_of((double)shown[e], even), e);
    if (kept) fprintf(file, ": %" PRId64 " of %" PRId64 " kept", shown[e], given[e]);
    else
      fprintf(file, ": %" PRId64 " assignments, %s of even", given[e],
              number_text((double)given[e] / even, ratio, sizeof ratio));
    if (e >= routing->num_experts - routing->num_identity_experts) fputs(", identity", file);
    fprintf(file, "\">%" PRId64 "</td>", shown[e]);
  }
  if (routing->num_experts < num_experts)
    fprintf(file, "<td colspan=\"%" PRId64 "\"></td>", num_experts - routing->num_experts);
}

static bool is_below(const load_map *map, size_t first, size_t index) {
  return map->all->points[index].routing.capacity >= 0 && same_given(map, first, index);
}

static void put_after(const load_map *map, size_t index, FILE *file) {
  const char *separator = " ";
  fputs("</tr>\n<tr><td class=\"w\">after", file);
  for (size_t axis = 0; axis < map->all->experiment->num_axes; axis++) {
    if (!is_of_capacity(map, axis)) continue;
    fputs(separator, file);
    put_value(map, axis, index, file);
    separator = ", ";
  }
  fputs("</td>", file);
  put_cells(&map->all->points[index].routing, map->rows.num_experts, true, file);
}

/* The row of what the router gave, and those of what capacity left of it. */
static void put_rows(const load_map *map, size_t row, FILE *file) {
  const size_t index = map->rows.points[row];
  size_t lines = 1;
  for (size_t i = row; i < map->rows.count; i++) lines += is_below(map, index, map->rows.points[i]);
  fputs("<tbody><tr>", file);
  for (size_t axis = 0; axis < map->all->experiment->num_axes; axis++) {
    if (!map->given[axis]) continue;
    fprintf(file, "<th class=\"p\" scope=\"rowgroup\" rowspan=\"%zu\">", lines);
    put_value(map, axis, index, file);
    fputs("</th>", file);
  }
  if (map->limited) fputs("<td class=\"w\">before</td>", file);
  put_cells(&map->all->points[index].routing, map->rows.num_experts, false, file);
  for (size_t i = row; i < map->rows.count; i++)
    if (is_below(map, index, map->rows.points[i])) put_after(map, map->rows.points[i], file);
  fputs("</tr></tbody>\n", file);
}

/* No earlier row has the same loads before capacity. */
static bool is_first(const load_map *map, size_t row) {
  for (size_t i = 0; i < row; i++)
    if (same_given(map, map->rows.points[i], map->rows.points[row])) return false;
  return true;
}

static void put_held(const load_map *map, FILE *file) {
  const experiment *plan = map->all->experiment;
  const char *separator = " Shown are the points with ";
  for (size_t axis = 0; axis < plan->num_axes; axis++) {
    if (!map->rows.held[axis]) continue;
    fprintf(file, "%s%s ", separator, plan->axes[axis].param);
    put_value(map, axis, map->rows.points[0], file);
    separator = ", ";
  }
  if (*separator == ',') fputc('.', file);
}

static size_t most_rows(const results *all) {
  int64_t most = 1;
  for (size_t i = 0; i < all->experiment->num_points; i++)
    if (point_has_loads(all, i) && all->points[i].routing.num_experts > most)
      most = all->points[i].routing.num_experts;
  const size_t rows = MAX_CELLS / (size_t)most;
  return rows < LEAST_ROWS ? LEAST_ROWS : rows > MAX_ROWS ? MAX_ROWS : rows;
}

static void put_map(const load_map *map, FILE *file) {
  const int64_t experts = map->rows.num_experts;
  char busiest[NUMBER_SIZE];
  size_t labels = 0;
  for (size_t axis = 0; axis < map->all->experiment->num_axes; axis++) labels += map->given[axis];
  fprintf(file,
          "<p>How many assignments (token-expert pairs) the router gave each expert%s; colours are "
          "of the share that each would have, were the load even. The busiest expert has %s times "
          "that. Points with the same loads share a row.",
          map->limited ? ", and how many of them capacity left (a dropless point keeps all)" : "",
          number_text(map->rows.busiest, busiest, sizeof busiest));
  put_held(map, file);
  fputs("</p>\n", file);
  put_key(file);
  fprintf(file,
          "<div class=\"scroll\" tabindex=\"0\"><table class=\"heat%s\" aria-label=\"Assignments "
          "of each expert\" "
          "style=\"min-width:calc(%zu*2.4rem + 4rem + %" PRId64 "*3px)\">\n",
          experts <= FEW_EXPERTS ? " few" : "", labels, experts);
  put_head(map, file);
  for (size_t row = 0; row < map->rows.count; row++)
    if (is_first(map, row)) put_rows(map, row, file);
  fputs("</table></div>\n", file);
}

void html_loads(const results *all, FILE *file) {
  load_map map = {.all = all, .given = calloc(all->experiment->num_axes + 1, sizeof *map.given)};
  if (load_rows_choose(all, true, most_rows(all), &map.rows) && map.given && map.rows.count > 0) {
    for (size_t axis = 0; axis < all->experiment->num_axes; axis++)
      map.given[axis] = load_rows_named(&map.rows, axis) && pictures_axis_loads(all, axis, false);
    for (size_t i = 0; i < map.rows.count; i++)
      map.limited = map.limited || all->points[map.rows.points[i]].routing.capacity >= 0;
    put_map(&map, file);
  }
  load_rows_release(&map.rows);
  free(map.given);
}
