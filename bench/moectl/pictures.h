/* Which pictures a results folder has: plots.c draws them, report.c shows
 * them. */
#ifndef MOECTL_PICTURES_H
#define MOECTL_PICTURES_H

#include "grid.h"

typedef enum picture_kind {
  PICTURE_UTILIZATION = 0, /* of one point */
  PICTURE_TIME,            /* this and what follows: against one axis */
  PICTURE_THROUGHPUT,
  PICTURE_IMBALANCE, /* where the axis makes a difference to it, as all below */
  PICTURE_VARIATION,
  PICTURE_DROPPED,
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
const picture_quantity *picture_quantity_of(picture_kind kind);
/* A point's value, in the unit of the label; NaN: it has none. */
double picture_value(const results *all, picture_kind kind, size_t index);

typedef struct picture_plan {
  picture_kind kind;
  size_t point; /* PICTURE_UTILIZATION */
  size_t axis;  /* the others */
  char *name;   /* of the file, without suffix; unique in the folder */
} picture_plan;

typedef struct picture_list {
  picture_plan *list;
  size_t count;
} picture_list;

/* Plans the pictures of what has run so far. false: no memory. */
bool pictures_plan(const results *all, picture_list *pictures);
void pictures_release(picture_list *pictures);

/* The lines of points that a plot against an axis shows: all that have data,
 * or MAX_SERIES of them at even distances. Returns how many, with the point
 * each begins at; *total is how many there are. */
enum { MAX_SERIES = 12 };
size_t pictures_series(const results *all, picture_kind kind, size_t axis,
                       size_t starts[MAX_SERIES], size_t *total);

#endif
