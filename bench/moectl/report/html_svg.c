// SPDX-License-Identifier: MIT
#include "report/html_svg.h"
#include "report/plots.h"
#include <stdlib.h>
#include <string.h>

enum { COLOURS = 7 };

static const char *skip_past(const char *at, const char *mark) {
  const char *found = strstr(at, mark);
  return found ? found + strlen(mark) : at + strlen(at);
}

static bool starts(const char *at, const char *with) {
  return strncmp(at, with, strlen(with)) == 0;
}

/* "rgb(  0, 114, 178)", if it is a line's: the page's own then. Returns what is behind it. */
static const char *put_colour(const char *at, FILE *file) {
  unsigned r, g, b;
  int length = 0;
  if (sscanf(at, "rgb(%u,%u,%u)%n", &r, &g, &b, &length) == 3 && length > 0)
    for (size_t i = 0; i < COLOURS; i++)
      if (strtoul(plot_colour(i) + 1, NULL, 16) == (r << 16 | g << 8 | b)) {
        fprintf(file, "var(--s%zu)", i);
        return at + length;
      }
  fputc(*at, file);
  return at + 1;
}

/* <g id="gnuplot_plot_7" ><title>...</title>: `at` is behind the number's text. */
static const char *put_plot(const char *at, const svg_words *words, FILE *file) {
  const size_t number = strtoul(at, NULL, 10);
  fputs("<g>", file);
  words->plot(words->user, number, file);
  return skip_past(at, "</title>");
}

/* The drawing's insides. Names are made the drawing's own, since a page has them only once. */
static void put_inside(const char *at, const char *end, const char *id, const svg_words *words,
                       FILE *file) {
  static const char plot[] = "<g id=\"gnuplot_plot_", white[] = "'white'";
  static const char *const names[] = {" id='", " id=\"", "href='#"};
  while (at < end) {
    const char *name = NULL;
    for (size_t i = 0; i < sizeof names / sizeof names[0] && !name; i++)
      if (starts(at, names[i])) name = names[i];
    if (starts(at, plot)) at = put_plot(at + strlen(plot), words, file);
    else if (starts(at, "rgb(")) at = put_colour(at, file);
    else if (starts(at, white)) { /* below marks: of the paper */ fputs("'var(--bg)'", file);
      at += strlen(white);
    } else if (name) {
      fprintf(file, "%s%s-", name, id);
      at += strlen(name);
    } else fputc(*at++, file);
  }
}

const char *html_svg(const char *svg, const char *id, int width, int height, const svg_words *words,
                     FILE *file) {
  const char *begin = strstr(svg, "<svg");
  const char *end = begin ? strstr(begin, "</svg>") : NULL;
  if (!end) return NULL;
  begin = skip_past(begin, "</desc>"); /* behind the element's own tag, and what gnuplot says */
  fprintf(file, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"", width, height);
  words->whole(words->user, file);
  fputs("\">", file);
  if (begin < end) put_inside(begin, end, id, words, file);
  fputs("</svg>\n", file);
  return end + strlen("</svg>");
}
