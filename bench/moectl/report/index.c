// SPDX-License-Identifier: MIT
#include "report/index.h"
#include "base/clock.h"
#include "base/files.h"
#include "report/html.h"
#include "report/report_parts.h"
#include "results/results_private.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* --- what is known of a part ---------------------------------------------------------- */

void index_part_release(index_part *part) {
  free(part->name);
  free(part->question);
  free(part->device);
  free(part->count);
  free(part->finding);
  free(part->caution);
  free(part->problem);
  *part = (index_part){0};
}

/* What `write` writes, malloc'ed; NULL: nothing, or no memory. */
static char *text_of(bool (*write)(const results *all, FILE *file), const results *all) {
  char *text = NULL;
  size_t size = 0;
  FILE *file = open_memstream(&text, &size);
  const bool any = file && write(all, file);
  if (file && fclose(file) == 0 && any) return text;
  free(text);
  return NULL;
}

static bool put_device(const results *all, FILE *file) {
  fprintf(file, "%s (%s, driver %s)", all->device.name, all->device.platform, all->device.driver);
  return true;
}

/* The first point that failed. */
static bool put_failure(const results *all, FILE *file) {
  for (size_t i = 0; i < all->experiment->num_points; i++) {
    char label[LABEL_SIZE];
    if (!all->have[i] || all->points[i].status < POINT_VERIFY_FAILED) continue;
    grid_line_label(all->experiment, all->experiment->num_axes, i, label, sizeof label);
    fprintf(file, "point %zu%s%s%s: %s", i, *label ? " (" : "", label, *label ? ")" : "",
            all->points[i].error ? all->points[i].error : "failed");
    return true;
  }
  return false;
}

void index_part_set(index_part *part, const results *all) {
  char **const texts[] = {&part->device, &part->count, &part->finding, &part->caution,
                          &part->problem};
  bool (*const write[])(const results *, FILE *) = {put_device, report_status, report_headline,
                                                    report_busy_host, put_failure};
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
    free(*texts[i]);
    *texts[i] = text_of(write[i], all);
  }
  double least;
  report_loads(all, &least, &part->load);
  if (part->count) part->count[strcspn(part->count, "\n")] = '\0'; /* without the paragraph's end */
  part->has_report = true;
}

const char *index_caution(const index_part *parts, size_t count) {
  const index_part *most = NULL;
  for (size_t i = 0; i < count; i++)
    if (parts[i].caution && (!most || parts[i].load > most->load)) most = &parts[i];
  return most ? most->caution : NULL;
}

char *index_plain_text(char *markdown) {
  char *to = markdown;
  for (const char *from = markdown; *from; from++) {
    if (*from == '\\' && from[1]) *to++ = *++from;
    else if (*from != '*') *to++ = *from;
  }
  *to = '\0';
  return markdown;
}

/* --- what both pages say ------------------------------------------------------------- */

/* The parts' device; NULL: none ran, or they ran on several. */
static const char *device_of(const report_index *index) {
  const char *device = NULL;
  for (size_t i = 0; i < index->count; i++) {
    const char *one = index->parts[i].device;
    if (one && device && strcmp(one, device) != 0) return NULL;
    if (one) device = one;
  }
  return device;
}

/* Markdown: what was run, on what, and how much of it. */
static void put_summary(const report_index *index, FILE *file) {
  const char *device = device_of(index);
  char date[TIME_SIZE] = "at an unknown time";
  size_t ran = 0, wrong = 0;
  time_text(date);
  for (size_t i = 0; i < index->count; i++) {
    ran += index->parts[i].count != NULL;
    wrong += index->parts[i].problem != NULL;
  }
  fprintf(file, "A benchmark suite of %zu part%s", index->count, index->count == 1 ? "" : "s");
  if (ran < index->count) fprintf(file, ", of which %zu ran", ran);
  if (device) {
    fputs(", on ", file);
    report_text(file, device);
  }
  fprintf(file, ". Written %s by moecl %s.\n\n", date, moecl_version());
  const char *caution = index_caution(index->parts, index->count);
  if (caution) fputs(caution, file);
  if (wrong == 0) return;
  fprintf(file, "**%zu part%s did not end well:**", wrong, wrong == 1 ? "" : "s");
  const char *before = " ";
  for (size_t i = 0; i < index->count; i++) {
    if (!index->parts[i].problem) continue;
    fputs(before, file);
    report_text(file, index->parts[i].name);
    before = ", ";
  }
  fputs(".\n\n", file);
}

/* A part's own words, Markdown; its name and the way to its report are the page's. */
static void put_words(const report_index *index, const index_part *part, FILE *file) {
  if (part->question) {
    report_text(file, part->question);
    fputs("\n\n", file);
  }
  if (part->finding) fprintf(file, "%s\n\n", part->finding);
  if (part->problem) {
    fputs("**Problem:** ", file);
    report_text(file, part->problem);
    fputs("\n\n", file);
  }
  if (part->device && !device_of(index)) {
    fputs("On ", file);
    report_text(file, part->device);
    fputs(".\n\n", file);
  }
}

static void put_repeat(const report_index *index, FILE *file) {
  fputs("```sh\n", file);
  for (const char *c = index->command; *c; c++) /* of one line */
    fputc((unsigned char)*c < ' ' ? ' ' : *c, file);
  if (index->resume) fprintf(file, "\n%s   # what is missing here", index->resume);
  fputs("\n```\n\nEach part is an experiment of its own; the end of its report says how to run it "
        "alone.\n",
        file);
}

/* A part's folder as a link has it. */
static void put_address(const char *name, FILE *file) {
  for (; *name; name++)
    if (isalnum((unsigned char)*name) || strchr("._-", *name)) fputc(*name, file);
    else fprintf(file, "%%%02X", (unsigned)(unsigned char)*name);
}

/* --- index.md ------------------------------------------------------------------------- */

static void write_markdown(const report_index *index, FILE *file) {
  fputs("# Benchmark suite\n\n", file);
  put_summary(index, file);
  for (size_t i = 0; i < index->count; i++) {
    const index_part *part = &index->parts[i];
    fputs("## ", file);
    report_text(file, part->name);
    fputs("\n\n", file);
    put_words(index, part, file);
    if (part->count) fprintf(file, "%s ", part->count);
    if (!part->has_report) continue;
    fputs("[report.md](", file);
    put_address(part->name, file);
    fputs("/report.md), [report.html](", file);
    put_address(part->name, file);
    fputs("/report.html)\n\n", file);
  }
  fputs("## How to repeat\n\n", file);
  put_repeat(index, file);
}

/* --- index.html ----------------------------------------------------------------------- */

/* What a function writes as Markdown, as HTML. */
static void put_html(const char *markdown, FILE *file) {
  if (markdown) html_markdown(file, markdown);
}

static char *summary_text(const report_index *index) {
  char *text = NULL;
  size_t size = 0;
  FILE *file = open_memstream(&text, &size);
  if (file) put_summary(index, file);
  if (file && fclose(file) == 0) return text;
  free(text);
  return NULL;
}

static char *words_text(const report_index *index, const index_part *part) {
  char *text = NULL;
  size_t size = 0;
  FILE *file = open_memstream(&text, &size);
  if (file && part) put_words(index, part, file);
  else if (file) put_repeat(index, file);
  if (file && fclose(file) == 0) return text;
  free(text);
  return NULL;
}

static void put_link(const index_part *part, const char *text, FILE *file) {
  fputs("<a href=\"", file);
  put_address(part->name, file);
  fputs("/report.html\">", file);
  html_text(file, text);
  fputs("</a>", file);
}

static void put_part(const report_index *index, const index_part *part, FILE *file) {
  char *words = words_text(index, part);
  fprintf(file, "<section%s id=\"", part->problem ? " class=\"fail\"" : "");
  put_address(part->name, file);
  fputs("\">\n<h2>", file);
  if (part->has_report) put_link(part, part->name, file);
  else html_text(file, part->name);
  fputs("</h2>\n", file);
  put_html(words, file);
  if (part->has_report) {
    fputs("<p>", file);
    if (part->count) html_inline(file, part->count);
    fputc(' ', file);
    put_link(part, "The report", file);
    fputs("</p>\n", file);
  }
  fputs("</section>\n", file);
  free(words);
}

static void write_html(const report_index *index, FILE *file) {
  char *summary = summary_text(index), *repeat = words_text(index, NULL);
  html_begin(file, "Benchmark suite");
  fputs("<header>\n<h1>Benchmark suite</h1>\n<div class=\"lead\">\n", file);
  put_html(summary, file);
  fputs("</div>\n</header>\n<main>\n", file);
  for (size_t i = 0; i < index->count; i++) put_part(index, &index->parts[i], file);
  fputs("<section id=\"how-to-repeat\">\n<h2>How to repeat</h2>\n", file);
  put_html(repeat, file);
  fputs("</section>\n</main>\n", file);
  html_end(file);
  free(summary);
  free(repeat);
}

/* --- both ----------------------------------------------------------------------------- */

static bool write_file(const report_index *index, const char *name,
                       void (*write)(const report_index *index, FILE *file), char **error) {
  char *text = NULL, *path = format_text("%s/%s", index->folder, name);
  size_t size = 0;
  FILE *file = open_memstream(&text, &size);
  if (file) write(index, file);
  bool ok = file && !ferror(file);
  if (file) ok = fclose(file) == 0 && ok;
  ok = ok && path ? replace_file(path, text, size, error)
                  : fail_text(error, "no memory for %s", name);
  free(text);
  free(path);
  return ok;
}

bool report_index_write(const report_index *index, char **error) {
  return write_file(index, "index.md", write_markdown, error) &&
         write_file(index, "index.html", write_html, error);
}
