// SPDX-License-Identifier: MIT
/* report.html: one file with all there is to see, of report.md's parts and of what is drawn. */
#include "report/report.h"
#include "report/html_parts.h"
#include "report/report_file.h"
#include "report/report_parts.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

typedef void (*part_of)(const results *all, FILE *file);

static void parameters(const results *all, FILE *file) { report_parameters(all, true, file); }
static void verification(const results *all, FILE *file) { report_verification(all, true, file); }

static void times(const results *all, FILE *file) {
  html_charts(all, PICTURE_TIME, file);
  html_choices(all, file);
  html_formats(all, file);
}

static void scaling(const results *all, FILE *file) { html_charts(all, PICTURE_SCALING, file); }

static void balance(const results *all, FILE *file) {
  html_charts(all, PICTURE_IMBALANCE, file);
  html_charts(all, PICTURE_DROPPED, file);
  html_charts(all, PICTURE_HIT_RATE, file);
}

/* A section: what is drawn, then what report.md says. */
static const struct {
  const char *title; /* NULL: report.md's */
  part_of drawn, text;
} sections[] = {
    {NULL, NULL, parameters},
    {NULL, NULL, report_findings},
    {"Expert utilization", html_loads, NULL},
    {"Time", times, report_points},
    {NULL, html_roofline, report_peaks},
    {NULL, html_stages, report_stages},
    {NULL, balance, report_routing},
    {NULL, scaling, report_devices},
    {NULL, NULL, report_prediction},
    {NULL, NULL, report_offload},
    {NULL, NULL, report_memory},
    {NULL, NULL, report_variants},
    {NULL, NULL, verification},
    {NULL, NULL, report_device},
    {NULL, NULL, report_repeat},
};
enum { SECTIONS = sizeof sections / sizeof sections[0] };

/* What a part writes, malloc'ed; NULL: nothing, or no memory. */
static char *text_of(part_of part, const results *all) {
  report_file file;
  if (!part) return NULL;
  report_file_open(&file);
  if (!file.stream) return NULL;
  part(all, file.stream);
  if (fclose(file.stream) == 0 && file.size > 0) return file.text;
  free(file.text);
  return NULL;
}

/* Takes the first heading off a part's Markdown; returns what follows it. */
static const char *take_title(const char *markdown, char *title, size_t size) {
  title[0] = '\0';
  if (!markdown || strncmp(markdown, "## ", 3) != 0) return markdown;
  const size_t length = strcspn(markdown + 3, "\n");
  snprintf(title, size, "%.*s", (int)length, markdown + 3);
  return markdown + 3 + length;
}

/* "where-the-time-goes". */
static void put_id(FILE *file, const char *title) {
  for (; *title; title++)
    fputc(isalnum((unsigned char)*title) ? tolower((unsigned char)*title) : '-', file);
}

static void put_link(FILE *file, const char *title) {
  fputs("<a href=\"#", file);
  put_id(file, title);
  fputs("\">", file);
  html_text(file, title);
  fputs("</a>\n", file);
}

static void put_section(const results *all, size_t which, FILE *body, FILE *links) {
  char text_title[64];
  char *drawn = text_of(sections[which].drawn, all), *text = text_of(sections[which].text, all);
  const char *rest = take_title(text, text_title, sizeof text_title);
  const char *title = sections[which].title ? sections[which].title : text_title;
  if (drawn || text) {
    fputs("<section id=\"", body);
    put_id(body, title);
    fputs("\">\n<h2>", body);
    html_text(body, title);
    fputs("</h2>\n", body);
    if (drawn) fputs(drawn, body);
    if (text && title != text_title) fprintf(body, "<h3>%s</h3>\n", text_title);
    if (text) html_markdown(body, rest);
    fputs("</section>\n", body);
    put_link(links, title);
  }
  free(drawn);
  free(text);
}

/* Failed points come first: who reads on should know. */
static void put_failures(const results *all, FILE *file) {
  char title[64];
  char *text = text_of(report_failures, all);
  if (!text) return;
  const char *rest = take_title(text, title, sizeof title);
  fprintf(file, "<section class=\"fail\" id=\"failed-points\">\n<h2>%s</h2>\n", title);
  html_markdown(file, rest);
  fputs("</section>\n", file);
  free(text);
}

static void put_header(const results *all, const char *links, FILE *file) {
  char *summary = text_of(report_summary, all);
  fputs("<header>\n<h1>", file);
  html_text(file, all->experiment->name);
  fputs("</h1>\n<div class=\"lead\">\n", file);
  if (summary) html_markdown(file, summary);
  fputs("</div>\n<nav aria-label=\"Sections\">\n", file);
  fputs(links, file);
  fputs("</nav>\n</header>\n", file);
  free(summary);
}

bool report_html_write(const results *all, char **error) {
  report_file body, links, file;
  report_file_open(&body);
  report_file_open(&links);
  report_file_open(&file);
  bool ok = body.stream && links.stream && file.stream;
  for (size_t i = 0; ok && i < SECTIONS; i++) put_section(all, i, body.stream, links.stream);
  if (body.stream) ok = fclose(body.stream) == 0 && ok;
  if (links.stream) ok = fclose(links.stream) == 0 && ok;
  if (ok) {
    html_begin(file.stream, all->experiment->name);
    put_header(all, links.text, file.stream);
    fputs("<main>\n", file.stream);
    put_failures(all, file.stream);
    fputs(body.text, file.stream);
    fputs("</main>\n<footer>Values appear where the pointer rests on a cell, a bar or a mark. All "
          "of them are in results.csv and results.json.</footer>\n",
          file.stream);
    html_end(file.stream);
  }
  free(body.text);
  free(links.text);
  return report_file_put(&file, all, "report.html", ok, error);
}
