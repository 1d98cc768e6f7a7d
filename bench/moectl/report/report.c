// SPDX-License-Identifier: MIT
/* report.md: what was run, on what, what came out and what it means. */
#include "report/report.h"
#include "report/report_parts.h"
#include "base/files.h"
#include "results/measures.h"
#include "report/pictures.h"
#include "experiment/schema.h"
#include "base/shell.h"
#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

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

static void heading(const results *all, FILE *file) {
  const experiment *plan = all->experiment;
  size_t counts[POINT_ERROR + 1] = {0}, missing = 0;
  for (size_t i = 0; i < plan->num_points; i++) {
    if (all->have[i]) counts[all->points[i].status]++;
    else missing++;
  }
  const time_t now = time(NULL);
  struct tm local;
  char date[64] = "at an unknown time";
  if (localtime_r(&now, &local)) strftime(date, sizeof date, "%Y-%m-%d %H:%M:%S %z", &local);
  fputs("# ", file);
  report_text(file, plan->name);
  fprintf(file, "\n\nWritten %s by moecl %s. %zu point%s:", date, moecl_version(), plan->num_points,
          plan->num_points == 1 ? "" : "s");
  const struct {
    size_t count;
    const char *text;
  } parts[] = {{counts[POINT_OK], "ran and verified"},
               {counts[POINT_UNVERIFIED_OK], "ran without verification"},
               {counts[POINT_VERIFY_FAILED], "**did not verify**"},
               {counts[POINT_ERROR], "**failed**"},
               {missing, "not run"}};
  bool first = true;
  for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
    if (parts[i].count == 0) continue;
    fprintf(file, "%s %zu %s", first ? "" : ",", parts[i].count, parts[i].text);
    first = false;
  }
  fputs(".\n\n", file);
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
 * its own values; those that are the defaults are as little news. */
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

static void what_was_run(const results *all, FILE *file) {
  const experiment *plan = all->experiment;
  fputs("## What was run\n\nThe experiment ", file);
  report_text(file, plan->name);
  fputs(" of `", file);
  for (const char *c = plan->path; *c; c++) fputc(*c == '`' ? '\'' : *c, file);
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
  fputs("\n<details><summary>Parameters at their defaults</summary>\n\n"
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
    fprintf(file, "%s%s on host ", i > 0 ? "Resumed " : "Started ", member(run, "started"));
    report_text(file, member(run, "host"));
    fputs(" (", file);
    report_text(file, member(run, "system"));
    fprintf(file, ", %" JSON_INTEGER_FORMAT " processors), moecl %s, commit %s.\n",
            json_integer_value(json_object_get(run, "processors")), member(run, "moecl"),
            member(run, "commit"));
  }
  if (least <= most)
    fprintf(file,
            "Load average of the host as points were measured (moectl's own work counts in it): "
            "%s to %s.\n",
            number_text(least, low, sizeof low), number_text(most, high, sizeof high));
  if (i > 0 || least <= most) fputc('\n', file);
}

static void device(const results *all, FILE *file) {
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
  machine(all, file);
}

static bool same(const char *a, const char *b) { return a && b ? strcmp(a, b) == 0 : a == b; }

/* How many points an operation served in the same way; 0 for one that was told
 * with an earlier point. */
static size_t served_alike(const results *all, size_t index, int operation) {
  const point_result *point = &all->points[index];
  size_t count = 0;
  for (size_t i = 0; i < all->experiment->num_points; i++) {
    const point_result *other = &all->points[i];
    if (!point_ran(all, i) || !same(point->variants[operation], other->variants[operation]) ||
        !same(point->variant_reasons[operation], other->variant_reasons[operation]))
      continue;
    if (i < index) return 0;
    count++;
  }
  return count;
}

static void variants(const results *all, FILE *file) {
  fputs(
      "## Kernel variants\n\n| operation | variant | points | why |\n| --- | --- | ---: | --- |\n",
      file);
  for (int operation = 0; operation < NUM_OPERATIONS; operation++)
    for (size_t i = 0; i < all->experiment->num_points; i++) {
      const point_result *point = &all->points[i];
      if (!point_ran(all, i) || !point->variants[operation]) continue;
      const size_t count = served_alike(all, i, operation);
      if (count == 0) continue;
      fprintf(file, "| %s | ", measure_operations[operation]);
      report_text(file, point->variants[operation]);
      fprintf(file, " | %zu | ", count);
      report_text(file, point->variant_reasons[operation] ? point->variant_reasons[operation] : "");
      fputs(" |\n", file);
    }
  fputs("\nKernel sources: ", file);
  report_text(file, all->kernels.dir ? all->kernels.dir : "built in");
  fprintf(file, ", hash `%s`.\n\n", all->kernels.hash);
}

static void verification(const results *all, FILE *file) {
  const experiment *plan = all->experiment;
  size_t checked = 0, passed = 0, sampled = 0;
  const point_result *worst = NULL;
  for (size_t i = 0; i < plan->num_points; i++) {
    const point_result *point = &all->points[i];
    if (!point_ran(all, i) || !point->verify.ran) continue;
    checked++;
    passed += point->verify.ok;
    sampled += point->verify.tokens_checked < plan->points[i].num_tokens;
    /* `!(<=)`: an error that is not a number is the worst. */
    if (!worst || !(point->verify.error / point->verify.tolerance <=
                    worst->verify.error / worst->verify.tolerance))
      worst = point;
  }
  fputs("## Verification\n\n", file);
  if (!worst) {
    fputs("No point was compared with the reference: these figures say how fast the output came, "
          "not that it is right.\n\n",
          file);
    return;
  }
  fprintf(
      file,
      "%zu of %zu compared points verified. Each was compared with a plain C implementation in "
      "double precision,\nindependent of the kernels. A point verifies if\n\n"
      "- the output's error, ||output - reference|| / ||reference|| over the checked tokens, is at "
      "most the tolerance\n  (numbers that a device may lose as denormals count as the least that "
      "it keeps),\n"
      "- the tokens chose the reference's experts, but for scores equal within rounding, and\n"
      "- capacity kept the same assignments, of all tokens.\n\n"
      "Closest to its tolerance is point %zu: error %.2e of %.0e.\n",
      passed, checked, worst->index, worst->verify.error, worst->verify.tolerance);
  fprintf(file,
          sampled > 0 ? "In %zu points the output was checked on a sample of the tokens; an error "
                        "that shows only "
                        "in tokens outside\nof it would be missed.\n\n"
                      : "All tokens were checked.\n\n",
          sampled);
  if (plan->num_points > SMALL_SWEEP && passed == checked) return;
  fputs(
      "| # | tokens checked | experts reached | error | tolerance | top-k differences | capacity |"
      " verified |\n| ---: | ---: | ---: | ---: | ---: | ---: | --- | --- |\n",
      file);
  for (size_t i = 0; i < plan->num_points; i++) {
    const verify_result *verify = &all->points[i].verify;
    if (!point_ran(all, i) || !verify->ran) continue;
    if (plan->num_points > SMALL_SWEEP && verify->ok) continue; /* the failed ones */
    fprintf(file,
            "| %zu | %" PRId64 " of %" PRId64 " | %" PRId64 " | %.2e | %.0e | %" PRId64
            " | %s | %s |\n",
            i, verify->tokens_checked, plan->points[i].num_tokens, verify->experts_checked,
            verify->error, verify->tolerance, verify->topk_mismatches,
            verify->capacity_ok ? "equal" : "**differs**", verify->ok ? "yes" : "**no**");
  }
  fputc('\n', file);
}

static void failures(const results *all, FILE *file) {
  bool any = false;
  char label[LABEL_SIZE];
  for (size_t i = 0; i < all->experiment->num_points; i++) {
    const point_result *point = &all->points[i];
    if (!all->have[i] || (point->status != POINT_ERROR && point->status != POINT_VERIFY_FAILED))
      continue;
    if (!any) fputs("## Failed points\n\n", file);
    any = true;
    fprintf(file, "- Point %zu", i);
    grid_line_label(all->experiment, all->experiment->num_axes, i, label, sizeof label);
    if (*label) {
      fputs(" (", file);
      report_text(file, label);
      fputc(')', file);
    }
    fputs(point->status == POINT_ERROR ? " failed: " : " did not verify: ", file);
    report_text(file, point->error ? point->error : "no message");
    fputc('\n', file);
  }
  if (any) fputc('\n', file);
}

static bool exists(const results *all, const char *name) {
  char *path = format_text("%s/%s.png", all->folder, name);
  const bool found = path && access(path, R_OK) == 0;
  free(path);
  return found;
}

static void caption(const results *all, const picture_plan *picture, FILE *file) {
  const experiment *plan = all->experiment;
  char label[LABEL_SIZE] = "";
  if (picture->kind == PICTURE_UTILIZATION) {
    fprintf(file, "Assignments each expert was given (light) and kept (dark), point %zu",
            picture->point);
    grid_line_label(plan, plan->num_axes, picture->point, label, sizeof label);
    if (*label) fputs(": ", file);
    report_text(file, label);
  } else if (picture->kind == PICTURE_LOADS) {
    fputs(
        "How loaded each expert is over the sweep, before capacity; near white is the even share, "
        "grey no such expert",
        file);
  } else if (picture->kind == PICTURE_STAGES) {
    fputs("Which stage of the layer takes the time, at each point; at the right what all take",
          file);
  } else {
    const picture_quantity *quantity = picture_quantity_of(picture->kind);
    fprintf(file, "%c%s against %s", toupper((unsigned char)quantity->title[0]),
            quantity->title + 1, plan->axes[picture->axis].param);
    picture_view view;
    if (pictures_view(all, picture->kind, picture->axis, &view))
      pictures_held(all, picture->axis, &view, label, sizeof label);
    if (*label) fputs(" with ", file);
    report_text(file, label);
    fprintf(file, "; %s", quantity->reading);
  }
}

/* Those that were drawn; gnuplot may be missing. */
static bool show_pictures(const results *all, FILE *file) {
  picture_list pictures;
  bool any = false;
  if (!pictures_plan(all, &pictures)) return false;
  for (size_t i = 0; i < pictures.count; i++) {
    const char *name = pictures.list[i].name;
    if (!exists(all, name)) continue;
    if (!any) fputs("## Pictures\n\n", file);
    any = true;
    fputs("![", file);
    caption(all, &pictures.list[i], file);
    fprintf(file, "](%s.png)\n\n*", name);
    caption(all, &pictures.list[i], file);
    fprintf(file, ".* Script and data: `%s.gp`, `%s.dat`.\n\n", name, name);
  }
  pictures_release(&pictures);
  return true;
}

static void command_line(const results *all, FILE *file) {
  if (all->kernels.dir) {
    fputs("MOECL_KERNEL_DIR=", file);
    shell_word(file, all->kernels.dir);
    fputc(' ', file);
  }
  fputs("moectl run ", file);
  shell_word(file, all->experiment->path);
}

static void repeat(const results *all, FILE *file) {
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

bool report_write(const results *all, char **error) {
  char *text = NULL;
  size_t size = 0;
  FILE *file = open_memstream(&text, &size);
  if (!file) return fail_text(error, "no memory for report.md");
  heading(all, file);
  what_was_run(all, file);
  device(all, file);
  variants(all, file);
  report_findings(all, file);
  report_points(all, file);
  report_stages(all, file);
  report_routing(all, file);
  verification(all, file);
  failures(all, file);
  bool ok = show_pictures(all, file);
  repeat(all, file);
  ok = !ferror(file) && ok;
  ok = fclose(file) == 0 && ok;
  char *path = format_text("%s/report.md", all->folder);
  pending_file pending = {0};
  if (!ok || !path) {
    ok = fail_text(error, "no memory for report.md");
  } else if ((ok = pending_open(&pending, path, error))) {
    ok = pending_write(&pending, text, size, error);
    if (ok) ok = pending_commit(&pending, error);
    else pending_discard(&pending);
  }
  free(path);
  free(text);
  return ok;
}
