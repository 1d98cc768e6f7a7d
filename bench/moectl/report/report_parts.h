// SPDX-License-Identifier: MIT
/* The parts of report.md. Each writes its section, heading included. */
#ifndef MOECTL_REPORT_PARTS_H
#define MOECTL_REPORT_PARTS_H

#include "report/grid.h"

/* report_text.c: a text that Markdown and HTML leave as it is, in a table cell too. */
void report_text(FILE *file, const char *text);

/* The host's load averages as rounds began; the least is the larger where none is known. */
void report_loads(const results *all, double *least, double *most);

/* report_tables.c */
void report_points(const results *all, FILE *file);
void report_stages(const results *all, FILE *file);
void report_routing(const results *all, FILE *file);

/* report_groups.c: the same of large sweeps, a row for each value of each swept parameter:
 * the mean over the points that have it. */
void report_stage_groups(const results *all, const int *stages, size_t count, FILE *file);
/* `identities`: with the share of identity experts in the last column. */
void report_routing_groups(const results *all, bool identities, FILE *file);

/* report_findings.c */
void report_findings(const results *all, FILE *file);

#endif
