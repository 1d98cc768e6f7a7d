// SPDX-License-Identifier: MIT
/* What a run says while it runs: one line redrawn on a terminal, plain lines
 * otherwise. On stderr: stdout is for the results. */
#ifndef MOECTL_PROGRESS_H
#define MOECTL_PROGRESS_H

#include "results/results.h"

/* NULL is usable everywhere here: says nothing. */
typedef struct progress progress;
/* `pictures`: about how many will be drawn in the end. */
progress *progress_open(const experiment *experiment, const moecl_device_info *device,
                        size_t pictures, bool quiet);
/* Where the experiment is one of several: its name and number (from 1) of all, and those that
 * come after it, for the time left. */
typedef struct progress_place {
  const char *name;
  size_t number, count;
  const experiment *const *later;
  size_t num_later;
} progress_place;
/* Before anything begins; what the place points to stays there. */
void progress_set_place(progress *progress, const progress_place *place);
/* Point `index` will run: its first round or not, and so many later ones (negative: not
 * known yet). For the time left, before anything begins. */
void progress_expect(progress *progress, size_t index, bool first, int64_t later_rounds);
/* Round `round` (from 0) of `rounds` begins. Of a later one than the first plain lines tell
 * that alone. */
void progress_round(progress *progress, int64_t round, int64_t rounds);
void progress_begin(progress *progress, size_t index);
/* A point's first round ended, or a later one, a forward's median being that of `times`. */
void progress_end(progress *progress, size_t index, const point_result *result);
void progress_end_round(progress *progress, size_t index, const point_round *times,
                        int64_t later_rounds);
/* `done` of `count` pictures are drawn. */
void progress_picture(progress *progress, size_t done, size_t count);
/* Takes the line away: what follows is printed below what stays. */
void progress_clear(progress *progress);
void progress_close(progress **progress);

/* "[3/8] num_experts=8, top_k=2 | last 1234 tokens/s | about 3 s left" in at most so many
 * columns: the time left stays, the rate goes first, then the head is cut. Returns `line`. */
const char *progress_line(const char *head, const char *rate, const char *left, size_t columns,
                          char *line, size_t size);

#endif
