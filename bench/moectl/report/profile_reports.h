// SPDX-License-Identifier: MIT
/* What moectl profile writes of a profile: reports below docs, the router's benchmark, the
 * timeline. */
#ifndef MOECTL_PROFILE_REPORTS_H
#define MOECTL_PROFILE_REPORTS_H

#include "report/profile_rules.h"
#include "results/profile.h"

/* Writes all files below the folder, docs/ made. `baseline` NULL: the profile is its own. False
 * with a malloc'ed message. */
bool profile_reports_write(const profile *all, const profile_baseline *baseline, const char *folder,
                           char **error);
/* profile_trace.c: the timeline in the trace-event format, which Perfetto and chrome://tracing
 * open. */
bool profile_trace_write(const profile *all, const char *path, char **error);
/* The timeline as JSON, malloc'ed; NULL without memory. */
char *profile_trace_json(const profile *all);

/* profile_report.c: what is printed when all is done. */
void profile_print(const profile *all, FILE *file);

/* ---- the parts, for one another ---- */

/* profile_facts.c: what the rules are told of a part of a point. Its texts are the point's, and
 * `why`, which receives the reason why a variant was set aside. */
enum { PROFILE_WHY_SIZE = 512 };
profile_facts profile_facts_of(const profile *all, const profile_point *point,
                               profile_part_kind kind, char why[PROFILE_WHY_SIZE]);

/* profile_tables.c */
void profile_stage_table(const profile_facts *facts, FILE *file);
void profile_kernel_table(const profile_part *part, FILE *file);
void profile_memory_table(const profile_part *part, FILE *file);
/* "537 M": three digits and a prefix. */
enum { PROFILE_TEXT_SIZE = 40 };
const char *profile_count_text(double count, char text[PROFILE_TEXT_SIZE]);
/* "; load average 0.10 to 1.20" of the machine; nothing where it is not known. */
void profile_put_load(double least, double most, FILE *file);
/* "12.3 us", "4.56 ms"; "-" for NaN. */
const char *profile_time_text(double us, char text[PROFILE_TEXT_SIZE]);

/* profile_baseline.c, profile_variants.c: a whole file each. */
void profile_baseline_report(const profile *all, const profile_baseline *baseline, FILE *file);
void profile_variants_text(const profile *all, FILE *file);

#endif
