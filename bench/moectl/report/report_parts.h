// SPDX-License-Identifier: MIT
/* The parts of the reports, in Markdown: report.md is made of them, and report.html of the same
 * by html_markdown. Each writes its section, heading included. */
#ifndef MOECTL_REPORT_PARTS_H
#define MOECTL_REPORT_PARTS_H

#include "report/pictures.h"

/* report_text.c: a text that Markdown and HTML leave as it is, in a table cell too. */
void report_text(FILE *file, const char *text);
/* A number in a table's row, and the bar behind it. */
void report_cell(FILE *file, double number);

/* The host's load averages as rounds began; the least is the larger where none is known. */
void report_loads(const results *all, double *least, double *most);

/* report.c: what a picture shows. */
void report_caption(const results *all, const picture_plan *picture, FILE *file);

/* report_run.c */
/* "24 points: 23 ran and verified, 1 **failed**.", a paragraph; true. */
bool report_status(const results *all, FILE *file);
void report_summary(const results *all, FILE *file); /* without a heading */
/* `defaults`: those that are at their defaults too, folded away. */
void report_parameters(const results *all, bool defaults, FILE *file);
void report_device(const results *all, FILE *file);
void report_repeat(const results *all, FILE *file);

/* report_checks.c */
void report_variants(const results *all, FILE *file);
/* `every_point`: a row for each that was compared, not only for those that did not verify. */
void report_verification(const results *all, bool every_point, FILE *file);
void report_failures(const results *all, FILE *file);

/* report_tables.c */
void report_points(const results *all, FILE *file);
void report_stages(const results *all, FILE *file);
/* The stages that any point has; returns how many. */
size_t report_stages_of(const results *all, int stages[RESULTS_PARTS]);
void report_routing(const results *all, FILE *file);
void report_memory(const results *all, FILE *file);
/* Of the device's memory; NaN of a point on several. */
double report_memory_share(const results *all, size_t index);

/* report_devices.c: nothing where no point has several */
void report_devices(const results *all, FILE *file);
/* report_scaling.c: likewise, from a point that is on several what more would do */
void report_prediction(const results *all, FILE *file);
/* report_offload.c: nothing where all experts are on the device */
void report_offload(const results *all, FILE *file);

/* report_groups.c: the same of large sweeps, a row for each value of each swept parameter:
 * the mean over the points that have it. */
/* The stages' mean shares in percent, of points with one value of an axis (NaN: none has it);
 * returns how many points: 0 too where the axis has no rows. */
size_t report_stage_means(const results *all, size_t axis, size_t digit, const int *stages,
                          size_t count, double *means);
void report_stage_groups(const results *all, const int *stages, size_t count, FILE *file);
/* `identities`: with the share of identity experts in the last column. */
void report_routing_groups(const results *all, bool identities, FILE *file);
void report_memory_groups(const results *all, FILE *file);

/* report_peaks.c: nothing where the peaks were not measured */
void report_peaks(const results *all, FILE *file);
/* Operations per second that the device does at most where a stage of a point, or its layer, ran:
 * those of its matrix units where the variant of the products uses them, else of fp32. */
double report_arithmetic_peak(const results *all, size_t index, int stage);
/* What bounds a point, judged by its shares of the two peaks alone; UNKNOWN: they were not
 * measured, the point has no rates, or they are several devices'. */
typedef enum report_bound {
  BOUND_UNKNOWN = 0,
  BOUND_ARITHMETIC,
  BOUND_MEMORY,
  BOUND_NEITHER, /* too small a share of either */
  BOUND_BEYOND   /* more than the peak of its arithmetic */
} report_bound;
report_bound report_bound_of(const results *all, size_t index);

/* report_findings.c */
void report_findings(const results *all, FILE *file);

/* A paragraph where other programs had the machine too; false: nothing is known of such. */
bool report_busy_host(const results *all, FILE *file);

/* Single findings, a sentence or two of Markdown without an end of line; false: nothing is written,
 * since it was not swept, or nothing ran. */
/* report_cliffs.c: does one token more take much longer than its share of the work? */
bool report_cliffs(const results *all, FILE *file);
/* report_headline.c: what share of the choices jitter changes, and what it takes; how distributions
 * load experts, and what is dropped; which setting is slow, and why. */
bool report_jitter(const results *all, FILE *file);
bool report_distributions(const results *all, FILE *file);
bool report_slowest(const results *all, FILE *file);
/* report_scaling.c: of a sweep over parallel.experts what more devices gain; of one over placement
 * or replicas how even it is. */
bool report_scaling(const results *all, FILE *file);
bool report_placements(const results *all, FILE *file);
/* report_formats.c: of a sweep over weight_format the fastest format within an error. */
bool report_formats(const results *all, FILE *file);
/* The one of them that what was swept asks for. */
bool report_headline(const results *all, FILE *file);

/* report_formats.c: the points of a sweep over weight_format that stand side by side, at the first
 * value of each axis that has nothing to do with formats; 0: it is none, or no error is known. */
enum { REPORT_MOST_FORMATS = 40 };
size_t report_formats_points(const results *all, size_t *points, size_t most);
/* "int4-g32, mse". Returns `text`. */
const char *report_formats_label(const results *all, size_t index, char *text, size_t size);

#endif
