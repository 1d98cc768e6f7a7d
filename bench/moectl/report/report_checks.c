// SPDX-License-Identifier: MIT
/* The reports' sections on which kernels served, and whether what they gave is right. */
#include "report/report_parts.h"
#include "results/measures.h"
#include <inttypes.h>
#include <string.h>

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

void report_variants(const results *all, FILE *file) {
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

void report_verification(const results *all, bool every_point, FILE *file) {
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
  if (!every_point && passed == checked) return;
  fputs(
      "| # | tokens checked | experts reached | error | tolerance | top-k differences | capacity |"
      " verified |\n| ---: | ---: | ---: | ---: | ---: | ---: | --- | --- |\n",
      file);
  for (size_t i = 0; i < plan->num_points; i++) {
    const verify_result *verify = &all->points[i].verify;
    if (!point_ran(all, i) || !verify->ran) continue;
    if (!every_point && verify->ok) continue; /* the failed ones */
    fprintf(file,
            "| %zu | %" PRId64 " of %" PRId64 " | %" PRId64 " | %.2e | %.0e | %" PRId64
            " | %s | %s |\n",
            i, verify->tokens_checked, plan->points[i].num_tokens, verify->experts_checked,
            verify->error, verify->tolerance, verify->topk_mismatches,
            verify->capacity_ok ? "equal" : "**differs**", verify->ok ? "yes" : "**no**");
  }
  fputc('\n', file);
}

void report_failures(const results *all, FILE *file) {
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
