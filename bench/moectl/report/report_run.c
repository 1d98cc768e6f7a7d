// SPDX-License-Identifier: MIT
/* The reports' sections on what was run, where, and how to run it again. */
#include "report/report_parts.h"
#include "experiment/schema.h"
#include "base/clock.h"
#include "base/shell.h"
#include <inttypes.h>
#include <math.h>
#include <string.h>

/* Points that ran, but not in all their rounds. */
static void interrupted(const results *all, FILE *file) {
  int64_t planned = 0, left = 0;
  for (size_t i = 0; i < all->experiment->num_points; i++) {
    if (!point_ran(all, i)) continue;
    planned += all->points[i].rounds_planned;
    left += results_rounds_left(all, i);
  }
  if (left > 0)
    fprintf(file,
            "**The run was interrupted: %" PRId64 " of %" PRId64 " rounds of the points "
            "that ran are here.** The last section says how to go on.\n\n",
            planned - left, planned);
}

bool report_status(const results *all, FILE *file) {
  const experiment *plan = all->experiment;
  size_t counts[POINT_ERROR + 1] = {0}, missing = 0;
  for (size_t i = 0; i < plan->num_points; i++) {
    if (all->have[i]) counts[all->points[i].status]++;
    else missing++;
  }
  const struct {
    size_t count;
    const char *text;
  } parts[] = {{counts[POINT_OK], "ran and verified"},
               {counts[POINT_UNVERIFIED_OK], "ran without verification"},
               {counts[POINT_VERIFY_FAILED], "**did not verify**"},
               {counts[POINT_ERROR], "**failed**"},
               {missing, "not run"}};
  fprintf(file, "%zu point%s:", plan->num_points, plan->num_points == 1 ? "" : "s");
  bool first = true;
  for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
    if (parts[i].count == 0) continue;
    fprintf(file, "%s %zu %s", first ? "" : ",", parts[i].count, parts[i].text);
    first = false;
  }
  fputs(".\n\n", file);
  return true;
}

/* "1, 2 or 4"; of many "1 to 64 (9 values)". */
static void sentence_values(const experiment *plan, size_t axis, FILE *file) {
  enum { MOST = 5 };
  const size_t count = plan->axes[axis].count;
  char text[LABEL_SIZE];
  for (size_t i = 0; i < count; i++) {
    if (count > MOST && i > 0 && i + 1 < count) continue;
    if (i > 0) fputs(count > MOST ? " to " : i + 1 < count ? ", " : " or ", file);
    report_text(file, grid_value_text(plan, axis, i * grid_stride(plan, axis), text, sizeof text));
  }
  if (count > MOST) fprintf(file, " (%zu values)", count);
}

/* "num_experts 8"; nothing of a parameter that the points have not. */
static void sentence_part(const experiment *plan, const char *param, const char *before,
                          FILE *file) {
  const schema_id id = schema_find_param(param);
  const size_t axis = grid_find(plan, param);
  char text[LABEL_SIZE];
  if (axis == plan->num_axes && (plan->num_points == 0 || id == KEY_COUNT)) return;
  fprintf(file, "%s%s ", before, param);
  if (axis < plan->num_axes) {
    sentence_values(plan, axis, file);
    return;
  }
  schema_point_text(schema_get(id), &plan->points[0], text, sizeof text);
  report_text(file, strcmp(param, "capacity_factor") == 0 && strcmp(text, "null") == 0 ? "dropless"
                                                                                       : text);
}

static size_t count_elsewhere(const results *all) {
  size_t count = 0;
  for (size_t i = 0; i < all->experiment->num_points; i++)
    count += point_ran(all, i) && point_is_elsewhere(all, i);
  return count;
}

static size_t count_ran(const results *all) {
  size_t count = 0;
  for (size_t i = 0; i < all->experiment->num_points; i++) count += point_ran(all, i);
  return count;
}

/* What was run, in one sentence. */
static void sentence(const results *all, FILE *file) {
  static const char *const always[] = {
      "num_experts",     "top_k", "hidden_size", "intermediate_size",
      "capacity_factor", "dtype", "num_tokens",  /* of blocks too: */ "context",
      "num_heads"};
  enum { COUNT = sizeof always / sizeof always[0] };
  const experiment *plan = all->experiment;
  const bool blocks = experiment_has_blocks(plan);
  const size_t num_always = blocks ? COUNT : COUNT - 2;
  fputs(blocks ? "A transformer block with a Mixture-of-Experts layer"
               : "A Mixture-of-Experts layer",
        file);
  if (plan->checkpoint) {
    fputs(" of the checkpoint ", file);
    report_text(file, plan->checkpoint);
  }
  fputs(" was timed on ", file);
  const size_t elsewhere = count_elsewhere(all);
  const bool here = elsewhere == 0 || elsewhere < count_ran(all);
  if (here) report_text(file, all->device.name);
  if (elsewhere > 0) fprintf(file, "%smembers' devices", here ? " and " : "its ");
  for (size_t i = 0; i < num_always; i++) sentence_part(plan, always[i], i > 0 ? ", " : ": ", file);
  for (size_t axis = 0; axis < plan->num_axes; axis++) {
    bool listed = false;
    for (size_t i = 0; i < num_always; i++)
      listed = listed || strcmp(plan->axes[axis].param, always[i]) == 0;
    if (!listed) sentence_part(plan, plan->axes[axis].param, ", ", file);
  }
  fputs(".\n\n", file);
}

void report_summary(const results *all, FILE *file) {
  char date[TIME_SIZE] = "at an unknown time";
  time_text(date);
  sentence(all, file);
  fprintf(file, "Written %s by moecl %s. ", date, moecl_version());
  report_status(all, file);
  interrupted(all, file);
  if (!all->kernels.dir) return;
  fputs("**The kernels were read from the folder ", file);
  report_text(file, all->kernels.dir);
  fputs(" (MOECL_KERNEL_DIR), not those built in.**\n\n", file);
}

/* The axis's values in the order of the sweep. */
static void axis_values(const experiment *plan, size_t axis, FILE *file) {
  char text[LABEL_SIZE];
  for (size_t i = 0; i < plan->axes[axis].count; i++) {
    const size_t index = i * grid_stride(plan, axis);
    fputs(i > 0 ? ", " : "", file);
    report_text(file, grid_value_text(plan, axis, index, text, sizeof text));
  }
}

static bool all_have_rounds(const results *all, int64_t rounds) {
  for (size_t i = 0; i < all->experiment->num_points; i++)
    if (point_ran(all, i) && all->points[i].rounds_planned < rounds) return false;
  return true;
}

/* Rows of what is not swept: what is at its default, or all else. A checkpoint's layer has
 * its own values; those equal to the defaults are omitted too. */
static void parameters(const experiment *plan, bool at_default, FILE *file) {
  char text[LABEL_SIZE];
  for (int id = 0; id < KEY_COUNT && plan->num_points > 0; id++) {
    const schema_key *key = schema_get((schema_id)id);
    const char *param = schema_param(key);
    if (!param || grid_find(plan, param) < plan->num_axes) continue;
    if (!schema_applies(key, &plan->points[0])) continue;
    schema_point_text(key, &plan->points[0], text, sizeof text);
    if ((key->default_text && strcmp(text, key->default_text) == 0) != at_default) continue;
    if (strcmp(param, "capacity_factor") == 0 && strcmp(text, "null") == 0)
      snprintf(text, sizeof text, "null (dropless)");
    fprintf(file, "| %s | ", param);
    report_text(file, text);
    fputs(" |\n", file);
  }
}

void report_parameters(const results *all, bool defaults, FILE *file) {
  const experiment *plan = all->experiment;
  fputs("## What was run\n\nThe experiment ", file);
  report_text(file, plan->name);
  fputs(" of `", file);
  for (const char *c = plan->path; *c; c++) /* of one line */
    fputc(*c == '`' ? '\'' : (unsigned char)*c < ' ' ? ' ' : *c, file);
  const int64_t rounds = results_rounds(all);
  fprintf(file, "`: %" PRId64 " forward passes to warm up, %" PRId64 " timed, at each point",
          plan->warmup, plan->iterations);
  if (rounds > 1)
    fprintf(file, ", in %" PRId64 " rounds in which %s points take turns", rounds,
            all_have_rounds(all, rounds) ? "all" : "those that are short");
  fputc('.', file);
  if (plan->input_file) {
    fputs(" Recorded hidden states: ", file);
    report_text(file, plan->input_file);
    fputc('.', file);
  }
  if (plan->checkpoint) {
    fputs(" The layer is of the checkpoint ", file);
    report_text(file, plan->checkpoint);
    if (plan->source) fprintf(file, ", layer %" PRId64, plan->source->layer);
    fputc('.', file);
  }
  fputs("\n\n| parameter | value |\n| --- | --- |\n", file);
  for (size_t axis = 0; axis < plan->num_axes; axis++) {
    fprintf(file, "| **%s** (swept) | ", plan->axes[axis].param);
    axis_values(plan, axis, file);
    fputs(" |\n", file);
  }
  parameters(plan, false, file);
  fputc('\n', file);
  if (!defaults) return;
  fputs("<details><summary>Parameters at their defaults</summary>\n\n"
        "| parameter | value |\n| --- | --- |\n",
        file);
  parameters(plan, true, file);
  fputs("\n</details>\n\n", file);
}

static const char *member(const json_t *object, const char *key) {
  const char *text = json_string_value(json_object_get(object, key));
  return text ? text : "?";
}

void report_loads(const results *all, double *least, double *most) {
  *least = INFINITY, *most = -INFINITY;
  for (size_t p = 0; p < all->experiment->num_points; p++)
    for (size_t r = 0; all->have[p] && r < all->points[p].num_rounds; r++) {
      *least = fmin(*least, all->points[p].rounds[r].load_average);
      *most = fmax(*most, all->points[p].rounds[r].load_average);
    }
}

/* Where, with which program, and how busy the machine was: one line a run. */
static void machine(const results *all, FILE *file) {
  double least, most;
  char low[NUMBER_SIZE], high[NUMBER_SIZE];
  size_t i;
  json_t *run;
  report_loads(all, &least, &most);
  json_array_foreach(all->runs, i, run) {
    fputs(i > 0 ? "Resumed " : "Started ", file);
    report_text(file, member(run, "started"));
    fputs(" on host ", file);
    report_text(file, member(run, "host"));
    fputs(" (", file);
    report_text(file, member(run, "system"));
    fprintf(file, ", %" JSON_INTEGER_FORMAT " processors), moecl ",
            json_integer_value(json_object_get(run, "processors")));
    report_text(file, member(run, "moecl"));
    fputs(", commit ", file);
    report_text(file, member(run, "commit"));
    fputs(".\n", file);
  }
  if (least <= most)
    fprintf(file,
            "Load average of the host as points were measured (moectl's own work counts in it): "
            "%s to %s.\n",
            number_text(least, low, sizeof low), number_text(most, high, sizeof high));
  if (i > 0 || least <= most) fputc('\n', file);
}

void report_device(const results *all, FILE *file) {
  const moecl_device_info *device = &all->device;
  fputs("## Device\n\n", file);
  report_text(file, device->name);
  fprintf(file, " (%s), ", moecl_device_type_name(device->type));
  report_text(file, device->vendor);
  fputs("; platform ", file);
  report_text(file, device->platform);
  fputs(", driver ", file);
  report_text(file, device->driver);
  fputs(", ", file);
  report_text(file, device->opencl_version);
  fprintf(
      file,
      ". %" PRIu32 " compute units, %" PRIu32 " MHz, %.1f GiB memory, %.0f KiB local memory%s.\n\n",
      device->compute_units, device->clock_mhz, (double)device->global_memory_bytes / (1u << 30),
      (double)device->local_memory_bytes / 1024,
      device->local_memory_dedicated ? "" : " (not dedicated)");
  if (count_elsewhere(all) > 0)
    fputs("Points with members on several devices, or on another one, ran there (each member's is "
          "in the table of devices); this one drew their inputs and weights.\n\n",
          file);
  machine(all, file);
}

static void command_line(const results *all, FILE *file) {
  char launcher[SHELL_LAUNCHER_SIZE];
  if (all->kernels.dir) {
    fputs("MOECL_KERNEL_DIR=", file);
    shell_word(file, all->kernels.dir);
    fputc(' ', file);
  }
  fprintf(file, "%smoectl run ", shell_launcher(all->experiment->processes, launcher));
  shell_word(file, all->experiment->path);
}

void report_repeat(const results *all, FILE *file) {
  const experiment *plan = all->experiment;
  bool missing = false;
  for (size_t i = 0; i < plan->num_points; i++) missing = missing || !all->have[i];
  fputs("## How to repeat\n\n```sh\n", file);
  command_line(all, file);
  const char *options = plan->options ? plan->options : "";
  if (missing) {
    fprintf(file, "%s --resume ", options);
    shell_word(file, all->folder);
    fputs("   # runs the points that are missing here\n", file);
    command_line(all, file);
  }
  fputs(options, file);
  size_t i;
  json_t *run;
  json_array_foreach(all->runs, i, run) {
    fputs(i == 0 ? "\n# as it was run:\n# " : "\n# ", file);
    for (const char *c = member(run, "command"); *c; c++) /* a comment is one line */
      fputc((unsigned char)*c < ' ' ? ' ' : *c, file);
  }
  fputs(
      "\n```\n\nEverything, with full digits and the resolved\nexperiment, is in `results.json`; a "
      "row for each point in "
      "`results.csv`. The same seed draws the same weights,\ninputs and jitter on every device.\n",
      file);
}
