// SPDX-License-Identifier: MIT
/* Of points whose experts are on several devices: what each device had to do, and what it sent. */
#include "report/report_parts.h"
#include <inttypes.h>
#include <math.h>

/* Of more points than this the first ones have rows. */
enum { MOST_POINTS = 24, BAR = 20 };

static bool is_shown(const results *all, size_t i) {
  return all->have[i] && all->points[i].status <= POINT_UNVERIFIED_OK &&
         all->points[i].parallel.num_members > 0;
}

/* Twenty signs are the busiest member's rows. */
static void bar(FILE *file, int64_t rows, int64_t most) {
  const int64_t length = most > 0 ? (rows * BAR + most / 2) / most : 0;
  fputs(" `", file);
  for (int i = 0; i < BAR; i++) fputc(i < length ? '#' : '.', file);
  fputs("` |", file);
}

static void member_rows(const results *all, size_t index, FILE *file) {
  const point_parallel *parallel = &all->points[index].parallel;
  int64_t most = 0;
  for (size_t m = 0; m < parallel->num_members; m++)
    if (parallel->members[m].rows > most) most = parallel->members[m].rows;
  for (size_t m = 0; m < parallel->num_members; m++) {
    const point_member *one = &parallel->members[m];
    fprintf(file, "| %zu | %zu, ", index, m);
    report_text(file, one->device);
    fputs(" | ", file);
    report_text(file, *one->grouped_gemm_variant ? one->grouped_gemm_variant : "n/a");
    fprintf(file, " | %s, %" PRId64 " | %" PRId64 " | %" PRId64 " | %" PRId64 " |",
            parallel->transport, (int64_t)parallel->chunks, one->experts, one->num_tokens,
            one->rows);
    bar(file, one->rows, most);
    report_cell(file, one->memory_bytes > 0 ? (double)one->memory_bytes / (1u << 20) : NAN);
    report_cell(file, (double)one->bytes_sent / (1u << 20));
    report_cell(file, one->layer_ms);
    report_cell(file, one->kernels_ms);
    report_cell(file, one->transfer_ms);
    report_cell(file, one->transfer_ms > 0 ? 100 * one->hidden_ms / one->transfer_ms : NAN);
    fputc('\n', file);
  }
}

void report_devices(const results *all, FILE *file) {
  size_t count = 0;
  for (size_t i = 0; i < all->experiment->num_points; i++) count += is_shown(all, i);
  if (count == 0) return;
  fputs(
      "## Devices\n\nThe experts of a point are on several devices, or contexts of one, each with "
      "a part of the tokens. The grouped GEMM's variant on each; how rows went there and back, and "
      "in how many parts; of one forward: "
      "rows that a device's experts computed, and as a bar; the memory of its weights, workspace, "
      "rows, input and output; "
      "what it sent to others; the time from its first kernel's start to its last one's end, that "
      "in which a kernel ran, that in which rows were copied, and how much of the last was hidden "
      "behind kernels. Every kernel was timed, which takes time of its own.\n\n"
      "| # | member, device | variant | by | experts | tokens | rows | load | MiB | MiB sent | "
      "layer ms | "
      "kernels ms | "
      "transfer ms | hidden % |\n"
      "| ---: | --- | --- | --- | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | "
      "---: |\n",
      file);
  size_t shown = 0;
  for (size_t i = 0; i < all->experiment->num_points && shown < MOST_POINTS; i++)
    if (is_shown(all, i)) member_rows(all, i, file), shown++;
  fputc('\n', file);
  if (shown < count) fprintf(file, "%zu more points are in `results.json`.\n\n", count - shown);
}
