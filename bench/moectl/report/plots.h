// SPDX-License-Identifier: MIT
/* The gnuplot scripts and data of single pictures. */
#ifndef MOECTL_PLOTS_H
#define MOECTL_PLOTS_H

#include "report/pictures.h"

/* Terminal, fonts, colours and output file, as every script begins; 1200 by `height`. */
void plot_begin(FILE *script, const char *name, int height);
/* Okabe and Ito's colours, readable with any colour vision; "#rrggbb". */
const char *plot_colour(size_t index);
/* A stage's, in bars of several. */
const char *plot_stage_colour(moecl_stage stage);

/* Of a map of loads over what is even: blue below it, white at it, orange above, and grey where a
 * row has nothing. */
void plot_load_colours(double busiest, const char *what, FILE *script);

/* plot_sweep.c, plot_utilization.c, plot_loads.c, plot_stages.c, plot_devices.c: a picture's script
 * and its data. */
void plot_sweep(const results *all, const picture_plan *picture, FILE *script, FILE *data);
void plot_utilization(const results *all, const picture_plan *picture, FILE *script, FILE *data);
void plot_stages(const results *all, const picture_plan *picture, FILE *script, FILE *data);
void plot_loads(const results *all, const picture_plan *picture, FILE *script, FILE *data);
void plot_devices(const results *all, const picture_plan *picture, FILE *script, FILE *data);

#endif
