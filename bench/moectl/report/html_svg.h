// SPDX-License-Identifier: MIT
/* gnuplot's SVG, made fit to stand in an HTML page. */
#ifndef MOECTL_HTML_SVG_H
#define MOECTL_HTML_SVG_H

#include <stddef.h>
#include <stdio.h>

/* What is said of a drawing: the whole in words, as HTML text; of one of its plots (from 1) the
 * <title> that appears under the pointer, or nothing. */
typedef struct svg_words {
  void (*whole)(const void *user, FILE *file);
  void (*plot)(const void *user, size_t number, FILE *file);
  const void *user;
} svg_words;

/* Writes the next drawing of `svg`; returns what is behind it, NULL where there was none. What has
 * a name in it is named after `id`, the page's only drawing of that name; the lines' colours
 * (plot_colour) become the page's --s0 and so on. */
const char *html_svg(const char *svg, const char *id, int width, int height, const svg_words *words,
                     FILE *file);

#endif
