// SPDX-License-Identifier: MIT
/* The profile's reports: one of each part, and one of all. */
#include "report/profile_reports.h"
#include "base/files.h"
#include "base/wrap.h"
#include "report/grid.h"
#include "report/report_parts.h"
#include "report/text_table.h"
#include "results/measures.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- what all reports begin with ---- */

static void put_device(const profile *all, FILE *file) {
  const moecl_peaks *p = &all->peaks.rates;
  char flops[PROFILE_TEXT_SIZE], read[PROFILE_TEXT_SIZE], launch[PROFILE_TEXT_SIZE];
  report_text(file, all->device.name);
  fputs(", driver ", file);
  report_text(file, all->device.driver);
  fprintf(file, ", %s, moecl %s", all->measured, moecl_version());
  profile_put_load(all->least_load, all->most_load, file);
  fputs(".\n", file);
  if (!all->peaks.measured[0]) {
    fputs("Its peaks are not known, so no shares of them are given.\n\n", file);
    return;
  }
  fprintf(file, "Its measured peaks, which shares are of (`moectl peak`): %sFLOP/s of fp32, ",
          profile_count_text(p->flops_f32, flops));
  if (p->flops_matrix > 0)
    fprintf(file, "%sFLOP/s of matrix units, ", profile_count_text(p->flops_matrix, flops));
  fprintf(file, "%sB/s read, %s a launch.\n\n", profile_count_text(p->read_bytes, read),
          profile_time_text(p->launch_seconds * 1e6, launch));
}

static void put_title(const profile *all, const char *title, FILE *file) {
  fprintf(file, "# %s: ", title);
  report_text(file, all->experiment->name);
  fputs("\n\n", file);
  put_device(all, file);
}

static void put_point(const profile *all, size_t index, FILE *file) {
  char label[LABEL_SIZE];
  if (all->num_points == 1) return;
  experiment_point_label(all->experiment, index, label, sizeof label);
  fprintf(file, "## Point %zu: ", index);
  report_text(file, *label ? label : "as the first");
  fputs("\n\n", file);
}

/* ---- a part ---- */

static void put_spread(const profile_part *part, FILE *file) {
  char median[PROFILE_TEXT_SIZE], least[PROFILE_TEXT_SIZE], most[PROFILE_TEXT_SIZE],
      alone[PROFILE_TEXT_SIZE], host[PROFILE_TEXT_SIZE];
  if (!part->timed) return;
  fprintf(file,
          "%" PRId64 " forwards, the median %s, nine of ten from %s to %s; the tables have "
          "each kernel's median.",
          part->forwards, profile_time_text(part->span_us.median, median),
          profile_time_text(part->span_us.min, least), profile_time_text(part->span_us.p90, most));
  if (isfinite(part->alone_us.median))
    fprintf(file, " Without an event for each kernel: %s.",
            profile_time_text(part->alone_us.median, alone));
  fprintf(file, " Enqueueing one takes the host %s.\n\n", profile_time_text(part->host_us, host));
}

static void put_memory(const profile_part *part, const profile_facts *facts, FILE *file) {
  profile_memory_table(part, file);
  if (profile_memory_advice(facts, file) > 0) fputc('\n', file);
}

static void put_why(const profile_part *part, FILE *file) {
  fputs("Not profiled: ", file);
  report_text(file, part->why ? part->why : "it was interrupted");
  fputc('.', file);
}

static void put_part(const profile *all, const profile_point *point, profile_part_kind kind,
                     FILE *file) {
  char why[PROFILE_WHY_SIZE];
  const profile_part *part = &point->parts[kind];
  const profile_facts facts = profile_facts_of(all, point, kind, why);
  if (!part->ran) {
    put_why(part, file);
    fputs("\n\n", file);
    return;
  }
  if (part->note) fprintf(file, "%s\n\n", part->note);
  fputs("**", file);
  profile_bottleneck(&facts, file);
  fputs("**\n\n", file);
  put_spread(part, file);
  profile_stage_table(&facts, file);
  if (profile_advice(&facts, file) > 0) fputc('\n', file);
  profile_kernel_table(part, file);
  if (kind != PROFILE_ROUTER) put_memory(part, &facts, file);
}

static void put_parts(const profile *all, profile_part_kind kind, FILE *file) {
  for (size_t i = 0; i < all->num_points; i++) {
    if (!all->points[i].ran) continue;
    put_point(all, i, file);
    put_part(all, &all->points[i], kind, file);
  }
}

static void router_report(const profile *all, FILE *file) {
  put_title(all, "Router profile", file);
  fputs("The router and the permutation of a layer whose experts are next to nothing (an "
        "intermediate size of 8), so that nothing else fills the caches. How every variant of the "
        "router does: `opencl_router_benchmark_results.txt`.\n\n",
        file);
  put_parts(all, PROFILE_ROUTER, file);
}

static void put_variants(const profile_point *point, FILE *file) {
  for (int i = 0; i < NUM_LAYER_OPERATIONS; i++) {
    if (!point->operations[i].name) continue;
    fprintf(file, "%s%s `%s`", i ? ", " : "Variants: ", measure_operations[i],
            point->operations[i].name);
  }
  fputs(".\n\n", file);
}

static void layer_report(const profile *all, FILE *file) {
  put_title(all, "MoE layer profile", file);
  for (size_t i = 0; i < all->num_points; i++) {
    if (!all->points[i].ran) continue;
    put_point(all, i, file);
    if (all->points[i].parts[PROFILE_LAYER].ran) put_variants(&all->points[i], file);
    put_part(all, &all->points[i], PROFILE_LAYER, file);
  }
}

static void block_report(const profile *all, FILE *file) {
  put_title(all, "Transformer block profile", file);
  put_parts(all, PROFILE_BLOCK, file);
}

/* ---- all of it ---- */

static void put_part_time(const profile_part *part, char *cell) {
  char text[PROFILE_TEXT_SIZE];
  const double us = part->ran ? profile_whole(part)->median : NAN;
  snprintf(cell, CELL_SIZE, "%s", profile_time_text(us, text));
}

static void put_table(const profile *all, FILE *file) {
  enum { COUNT = 6 };
  static const char *const names[COUNT] = {"point", "router",         "layer",
                                           "block", "layer tokens/s", "layer memory"};
  text_table table;
  size_t row = 1;
  if (!text_table_make(&table, all->num_points + 1, COUNT)) return;
  for (size_t i = 0; i < COUNT; i++)
    snprintf(text_table_cell(&table, 0, i), CELL_SIZE, "%s", names[i]);
  for (size_t i = 0; i < all->num_points; i++) {
    const profile_point *point = &all->points[i];
    const profile_part *layer = &point->parts[PROFILE_LAYER];
    const double tokens = (double)all->experiment->points[i].num_tokens;
    char label[LABEL_SIZE], text[PROFILE_TEXT_SIZE];
    if (!point->ran) continue;
    experiment_point_label(all->experiment, i, label, sizeof label);
    snprintf(text_table_cell(&table, row, 0), CELL_SIZE, "%zu%s%.64s", i, *label ? ": " : "",
             label);
    for (int part = 0; part < PROFILE_PARTS; part++)
      put_part_time(&point->parts[part], text_table_cell(&table, row, (size_t)part + 1));
    if (layer->ran && layer->timed)
      snprintf(text_table_cell(&table, row, 4), CELL_SIZE, "%s",
               profile_count_text(tokens / (profile_whole(layer)->median * 1e-6), text));
    if (layer->ran)
      snprintf(text_table_cell(&table, row, 5), CELL_SIZE, "%s",
               bytes_text(layer->memory.seen, text));
    row++;
  }
  table.rows = row;
  text_table_measure(&table);
  text_table_print_padded(&table, 1, file);
  fputc('\n', file);
  text_table_release(&table);
}

static void put_bottlenecks(const profile *all, size_t index, FILE *file) {
  static const char *const names[PROFILE_PARTS] = {"Router", "Layer", "Block"};
  char why[PROFILE_WHY_SIZE];
  const profile_point *point = &all->points[index];
  for (int kind = 0; kind < PROFILE_PARTS; kind++) {
    const profile_facts facts = profile_facts_of(all, point, (profile_part_kind)kind, why);
    const profile_part *part = &point->parts[kind];
    if (!part->ran && !part->skipped) continue;
    fprintf(file, "- **%s:** ", names[kind]);
    if (part->ran) profile_bottleneck(&facts, file);
    else put_why(part, file);
    fputc('\n', file);
  }
  fputc('\n', file);
}

static void put_advice(const profile *all, size_t index, FILE *file) {
  char why[PROFILE_WHY_SIZE];
  char *text = NULL;
  size_t size = 0;
  FILE *memory = open_memstream(&text, &size);
  if (!memory) return;
  const profile_facts facts = profile_facts_of(all, &all->points[index], PROFILE_LAYER, why);
  const size_t said = profile_advice(&facts, memory) + profile_memory_advice(&facts, memory);
  if (fclose(memory) == 0 && said > 0) fprintf(file, "What to try:\n\n%s\n", text);
  free(text);
}

static void consolidated_report(const profile *all, FILE *file) {
  put_title(all, "Profile", file);
  fputs("The table has median device times of layer and block without an event for each kernel, as "
        "`moectl run` measures; the router's, and all below it, are measured with one for each, "
        "which costs time between kernels. Stage by stage and kernel by kernel: "
        "[router](router_profiling_report.md), [layer](moe_layer_profiling_report.md), "
        "[block](transformer_block_profiling_report.md); beside earlier ones: "
        "[baseline](baseline_profiling.md).\n\n",
        file);
  put_table(all, file);
  for (size_t i = 0; i < all->num_points; i++) {
    if (!all->points[i].ran) continue;
    put_point(all, i, file);
    put_bottlenecks(all, i, file);
    put_advice(all, i, file);
  }
}

void profile_print(const profile *all, FILE *file) {
  char why[PROFILE_WHY_SIZE], label[LABEL_SIZE];
  for (size_t i = 0; i < all->num_points; i++) {
    const profile_point *point = &all->points[i];
    if (!point->ran) continue;
    experiment_point_label(all->experiment, i, label, sizeof label);
    fprintf(file, "[%zu/%zu]%s%s\n", i + 1, all->num_points, *label ? " " : "", label);
    for (int kind = 0; kind < PROFILE_PARTS; kind++) {
      if (!point->parts[kind].ran) continue;
      const profile_facts facts = profile_facts_of(all, point, (profile_part_kind)kind, why);
      fprintf(file, "  %-6s  ", profile_part_names[kind]);
      profile_bottleneck(&facts, file);
      fputc('\n', file);
    }
  }
}

/* ---- files ---- */

typedef struct report_text_file {
  const char *name;
  void (*write)(const profile *all, FILE *file);
} report_text_file;

static bool put_file(const char *folder, const char *name, FILE *stream, char **text, size_t *size,
                     char **error) {
  char *path = format_text("%s/%s", folder, name);
  bool ok = stream && !ferror(stream);
  if (stream && fclose(stream) != 0) ok = false;
  if (!ok || !path) ok = fail_text(error, "no memory for %s", name);
  else ok = replace_file(path, *text, *size, error);
  free(path);
  free(*text);
  *text = NULL;
  return ok;
}

static bool write_one(const profile *all, const report_text_file *report, const char *folder,
                      char **error) {
  char *text = NULL;
  size_t size = 0;
  FILE *stream = open_memstream(&text, &size);
  if (stream) report->write(all, stream);
  return put_file(folder, report->name, stream, &text, &size, error);
}

static bool write_baseline(const profile *all, const profile_baseline *baseline, const char *folder,
                           char **error) {
  char *text = NULL;
  size_t size = 0;
  FILE *stream = open_memstream(&text, &size);
  if (stream) profile_baseline_report(all, baseline, stream);
  return put_file(folder, "docs/baseline_profiling.md", stream, &text, &size, error);
}

bool profile_reports_write(const profile *all, const profile_baseline *baseline, const char *folder,
                           char **error) {
  static const report_text_file reports[] = {
      {"docs/router_profiling_report.md", router_report},
      {"docs/moe_layer_profiling_report.md", layer_report},
      {"docs/transformer_block_profiling_report.md", block_report},
      {"docs/consolidated_profiling_report.md", consolidated_report},
      {"opencl_router_benchmark_results.txt", profile_variants_text}};
  char *docs = format_text("%s/docs", folder);
  bool ok = docs ? make_directories(docs, error) : fail_text(error, "no memory");
  free(docs);
  for (size_t i = 0; ok && i < sizeof reports / sizeof reports[0]; i++)
    ok = write_one(all, &reports[i], folder, error);
  return ok && write_baseline(all, baseline, folder, error);
}
