// SPDX-License-Identifier: MIT
/* Which pictures a results folder has: plots.c draws them, report.c shows
 * them. */
#ifndef MOECTL_PICTURES_H
#define MOECTL_PICTURES_H

#include "report/grid.h"

typedef enum picture_kind {
  PICTURE_UTILIZATION = 0, /* of one point */
  PICTURE_LOADS,           /* of all points: how loaded each expert is */
  PICTURE_STAGES,          /* of all points of a small sweep: which stage takes the time */
  PICTURE_DEVICES,         /* of all points that are on several devices: how loaded each is */
  PICTURE_TIME,            /* this and what follows: against one axis */
  PICTURE_THROUGHPUT,
  PICTURE_SCALING,   /* against the number of members alone */
  PICTURE_IMBALANCE, /* where the axis makes a difference to it, as all below */
  PICTURE_VARIATION,
  PICTURE_DROPPED,
  PICTURE_HIT_RATE,
  PICTURE_KIND_COUNT
} picture_kind;

/* What a picture shows against an axis. */
typedef struct picture_quantity {
  const char *name;    /* "time" of the file time_vs_top_k */
  const char *title;   /* "layer time", as it stands within a sentence */
  const char *label;   /* of the vertical axis, with the unit */
  const char *remark;  /* below the title: how it was measured */
  const char *reading; /* after the caption: "lower is better" */
  const char *columns; /* of the data file, after the place on the axis */
} picture_quantity;
const picture_quantity *picture_quantity_of(const results *all, picture_kind kind);
/* A point's value, in the unit of the label; NaN: it has none. */
double picture_value(const results *all, picture_kind kind, size_t index);

typedef struct picture_plan {
  picture_kind kind;
  size_t point; /* PICTURE_UTILIZATION */
  size_t axis;  /* those against one */
  char *name;   /* of the file, without suffix; unique in the folder */
} picture_plan;

typedef struct picture_list {
  picture_plan *list;
  size_t count;
} picture_list;

/* Plans the pictures of what has run so far: a picture of every point's experts only in
 * small sweeps, or where all are asked for. false: no memory. */
bool pictures_plan(const results *all, picture_list *pictures);
void pictures_release(picture_list *pictures);

/* What a plot against an axis shows. Few lines: all of them, in one panel. More: lines that
 * differ in one other parameter, in panels that differ in a second, those two that matter
 * most to the quantity; the rest is held at the values of the first point that has data. */
enum { MAX_SERIES = 12, MAX_PANELS = 6 };
typedef struct picture_view {
  size_t series, panels; /* axes; num_axes: lines differ in all others, there is one panel */
  size_t num_lines, num_panels;
  size_t starts[MAX_PANELS][MAX_SERIES]; /* the point each line begins at; SIZE_MAX: none ran */
  size_t num_series, num_values;         /* values that those axes have: more may be there */
} picture_view;
/* False: nothing has data. */
bool pictures_view(const results *all, picture_kind kind, size_t axis, picture_view *view);
/* "dtype=fp32, seed=0": what is held; empty: nothing. Returns `text`. */
const char *pictures_held(const results *all, size_t axis, const picture_view *view, char *text,
                          size_t size);
/* What tells a line from the panel's others. */
const char *pictures_line_label(const results *all, size_t axis, const picture_view *view,
                                size_t start, char *text, size_t size);

/* Which of its axis's values a panel has. */
size_t pictures_panel_digit(const picture_view *view, size_t panel);

/* The members that a value of PICTURE_SCALING, which there is, compares the point's with: where
 * they are more than one they are taken to do as many times one's. */
int64_t pictures_scaling_from(const results *all, size_t index);

/* Is the point on several devices, and ran? */
bool pictures_has_devices(const results *all, size_t index);

/* Does the axis make a difference to how loaded the experts are, anywhere? With `kept` also to
 * what capacity leaves of it. */
bool pictures_axis_loads(const results *all, size_t axis, bool kept);

#endif
