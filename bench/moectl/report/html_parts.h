// SPDX-License-Identifier: MIT
/* The parts of report.html that are not report.md's: what is drawn. Each writes HTML, or nothing
 * where there is nothing to see. */
#ifndef MOECTL_HTML_PARTS_H
#define MOECTL_HTML_PARTS_H

#include "report/html.h"
#include "report/pictures.h"

/* html_loads.c: how loaded each expert is, before and after capacity. */
void html_loads(const results *all, FILE *file);

/* html_bars.c: the layer's time at each value that has no place on an axis; the stages. */
void html_choices(const results *all, FILE *file);
void html_stages(const results *all, FILE *file);

/* html_charts.c: the pictures of one kind (pictures.h), by gnuplot; nothing without it. */
void html_charts(const results *all, picture_kind kind, FILE *file);
/* An entry of a chart's key: one of gnuplot's shapes in a colour of plot_colour, and a label. */
void html_key_item(size_t colour, int shape, const char *label, FILE *file);

/* html_formats.c: the error of each format of weights against time, and against bits, by gnuplot;
 * nothing without it, or where formats were not swept. */
void html_formats(const results *all, FILE *file);

/* html_roofline.c: what each stage reaches of the device's peaks, by gnuplot; nothing without it,
 * or where the peaks were not measured. */
void html_roofline(const results *all, FILE *file);

#endif
