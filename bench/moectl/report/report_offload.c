// SPDX-License-Identifier: MIT
/* Of points whose experts are in the host's memory: how often one was on the device, and what
 * bringing the others took. */
#include "report/report_parts.h"
#include <inttypes.h>
#include <math.h>

/* Of more points than this the first ones have rows. */
enum { MOST_POINTS = 64 };

static bool is_shown(const results *all, size_t i) {
  return all->have[i] && all->points[i].status <= POINT_UNVERIFIED_OK &&
         all->points[i].offload.places > 0;
}

static void point_row(const results *all, size_t index, FILE *file) {
  const point_offload *offload = &all->points[index].offload;
  const double experts = (double)(all->points[index].routing.num_experts -
                                  all->points[index].routing.num_identity_experts);
  const double one = (double)offload->host_bytes / experts;
  fprintf(file, "| %zu | %" PRId64 " |", index, offload->places);
  report_cell(file, one * (double)offload->places / (1u << 20));
  report_cell(file, (double)offload->host_bytes / (1u << 20));
  report_cell(file, 100 * offload->hit_rate);
  report_cell(file, offload->moved_bytes / (1u << 20));
  report_cell(file, offload->copy_ms);
  report_cell(file, 100 * offload->copy_hidden_share);
  report_cell(file, all->points[index].time_ms[MOECL_STAGE_LAYER].median);
  fputc('\n', file);
}

void report_offload(const results *all, FILE *file) {
  size_t count = 0, shown = 0;
  for (size_t i = 0; i < all->experiment->num_points; i++) count += is_shown(all, i);
  if (count == 0) return;
  fputs(
      "## Experts in the host's memory\n\nThe device has places for some of a point's experts; the "
      "others were brought when tokens chose them. Hits: experts that were there, of those that "
      "forwards wanted, once the layer had been timed; moved: in one of those forwards, on "
      "average. "
      "Copies: the time in which one forward's copies ran, and how much of it was hidden behind "
      "kernels, of a forward whose kernels were all timed.\n\n"
      "| # | places | MiB there | MiB in the host | hits % | MiB moved | copies ms | hidden % | "
      "layer ms |\n"
      "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
      file);
  for (size_t i = 0; i < all->experiment->num_points && shown < MOST_POINTS; i++)
    if (is_shown(all, i)) point_row(all, i, file), shown++;
  fputc('\n', file);
  if (shown < count) fprintf(file, "%zu more points are in `results.json`.\n\n", count - shown);
}
