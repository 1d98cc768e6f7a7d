// SPDX-License-Identifier: MIT
#include "report/html.h"
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Of more rows than this a table folds away. */
enum { OPEN_ROWS = 12, MAX_COLUMNS = 64 };

static void put(FILE *file, char c) {
  switch (c) {
  case '&': fputs("&amp;", file); break;
  case '<': fputs("&lt;", file); break;
  case '>': fputs("&gt;", file); break;
  case '"': fputs("&quot;", file); break;
  case '\'': fputs("&#39;", file); break;
  default: fputc((unsigned char)c < ' ' ? ' ' : c, file);
  }
}

void html_text(FILE *file, const char *text) {
  for (; *text; text++) put(file, *text);
}

/* A piece of the text: a line, a cell. */
typedef struct piece {
  const char *begin, *end;
} piece;

static bool starts(piece line, const char *with) {
  const size_t length = strlen(with);
  return (size_t)(line.end - line.begin) >= length && memcmp(line.begin, with, length) == 0;
}

/* `code`: up to the next backtick. Returns where to go on. */
static const char *put_code(FILE *file, const char *at, const char *end) {
  const char *close = memchr(at + 1, '`', (size_t)(end - at - 1));
  if (!close) {
    put(file, '`');
    return at + 1;
  }
  fputs("<code>", file);
  for (const char *c = at + 1; c < close; c++) put(file, *c);
  fputs("</code>", file);
  return close + 1;
}

/* Opens or closes an element. */
static void toggle(FILE *file, bool *open, const char *name) {
  fprintf(file, *open ? "</%s>" : "<%s>", name);
  *open = !*open;
}

static void put_inline(FILE *file, piece text) {
  bool strong = false, em = false;
  for (const char *at = text.begin; at < text.end;) {
    const bool more = at + 1 < text.end;
    if (*at == '\\' && more) {
      put(file, at[1]);
      at += 2;
    } else if (*at == '`' && more) {
      at = put_code(file, at, text.end);
    } else if (*at == '*' && more && at[1] == '*') {
      toggle(file, &strong, "strong");
      at += 2;
    } else if (*at == '*' && (em || (more && at[1] != ' '))) {
      toggle(file, &em, "em");
      at++;
    } else {
      put(file, *at++);
    }
  }
  if (em) fputs("</em>", file);
  if (strong) fputs("</strong>", file);
}

void html_inline(FILE *file, const char *text) {
  put_inline(file, (piece){text, text + strlen(text)});
}

/* --- tables --------------------------------------------------------------------- */

/* The cells of "| a | b |", at most `most`; returns how many. */
static size_t split(piece line, piece *cells, size_t most) {
  size_t count = 0;
  const char *begin = line.begin + 1;
  for (const char *at = begin; at < line.end && count < most; at++) {
    if (*at == '\\') at++;
    else if (*at == '|') {
      piece cell = {begin, at};
      while (cell.begin < cell.end && *cell.begin == ' ') cell.begin++;
      while (cell.begin < cell.end && cell.end[-1] == ' ') cell.end--;
      cells[count++] = cell;
      begin = at + 1;
    }
  }
  return count;
}

/* The first cell of a row is its heading. */
static void put_row(FILE *file, piece line, const bool *numbers, bool head) {
  piece cells[MAX_COLUMNS];
  const size_t count = split(line, cells, MAX_COLUMNS);
  fputs("<tr>", file);
  for (size_t i = 0; i < count; i++) {
    const bool heading = head || i == 0;
    fputs(heading ? "<th" : "<td", file);
    if (heading) fputs(head ? " scope=\"col\"" : " scope=\"row\"", file);
    fputs(numbers[i] ? " class=\"n\">" : ">", file);
    put_inline(file, cells[i]);
    fputs(heading ? "</th>" : "</td>", file);
  }
  fputs("</tr>\n", file);
}

/* `lines`: heading, rule and rows. */
static void put_table(FILE *file, const piece *lines, size_t count, bool may_fold) {
  piece cells[MAX_COLUMNS];
  bool numbers[MAX_COLUMNS] = {false};
  if (count < 3) return;
  const size_t columns = split(lines[1], cells, MAX_COLUMNS), rows = count - 2;
  for (size_t i = 0; i < columns; i++)
    numbers[i] = cells[i].end > cells[i].begin && cells[i].end[-1] == ':';
  const bool fold = may_fold && rows > OPEN_ROWS;
  if (fold) fprintf(file, "<details><summary>Table of %zu rows</summary>\n", rows);
  fputs("<div class=\"scroll\" tabindex=\"0\"><table>\n<thead>", file);
  put_row(file, lines[0], numbers, true);
  fputs("</thead>\n<tbody>\n", file);
  for (size_t i = 2; i < count; i++) put_row(file, lines[i], numbers, false);
  fputs("</tbody></table></div>\n", file);
  if (fold) fputs("</details>\n", file);
}

/* --- blocks --------------------------------------------------------------------- */

typedef struct reader {
  FILE *file;
  const char *next; /* line */
  int details;      /* that are open */
} reader;

static bool next_line(reader *r, piece *line) {
  if (!*r->next) return false;
  const char *end = strchr(r->next, '\n');
  *line = (piece){r->next, end ? end : r->next + strlen(r->next)};
  r->next = end ? end + 1 : line->end;
  return true;
}

/* What a line that begins a block begins with; others go on with their paragraph or item. */
static bool begins_block(piece line) {
  static const char *const marks[] = {"#", "- ", "|", "```", "<details>", "</details>"};
  bool found = line.begin == line.end;
  for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++)
    found = found || starts(line, marks[i]);
  return found;
}

/* `first` and the lines that go on with it; emphasis may reach over their ends. */
static void put_text(reader *r, piece first) {
  piece line;
  for (const char *from = r->next; next_line(r, &line); from = r->next) {
    if (begins_block(line)) {
      r->next = from;
      break;
    }
    first.end = line.end;
  }
  put_inline(r->file, first);
}

static void read_code(reader *r) {
  piece line;
  fputs("<pre><code>", r->file);
  while (next_line(r, &line) && !starts(line, "```")) {
    for (const char *c = line.begin; c < line.end; c++) put(r->file, *c);
    fputc('\n', r->file);
  }
  fputs("</code></pre>\n", r->file);
}

static void read_table(reader *r, piece first) {
  size_t count = 1, room = 64;
  piece *lines = malloc(room * sizeof *lines), line;
  if (!lines) return;
  lines[0] = first;
  for (const char *from = r->next; next_line(r, &line); from = r->next) {
    if (!starts(line, "|")) {
      r->next = from;
      break;
    }
    piece *more = count == room ? realloc(lines, 2 * room * sizeof *lines) : lines;
    if (!more) continue;
    if (count == room) room *= 2;
    lines = more;
    lines[count++] = line;
  }
  put_table(r->file, lines, count, r->details == 0);
  free(lines);
}

static void read_list(reader *r, piece first) {
  fputs("<ul>\n", r->file);
  bool item = true;
  for (piece line = first; item;) {
    fputs("<li>", r->file);
    line.begin += 2;
    put_text(r, line);
    fputs("</li>\n", r->file);
    const char *from = r->next;
    item = next_line(r, &line) && starts(line, "- ");
    if (!item) r->next = from;
  }
  fputs("</ul>\n", r->file);
}

static void read_details(reader *r, piece line) {
  static const char open[] = "<details><summary>";
  const char *end = line.begin;
  while (end < line.end && !starts((piece){end, line.end}, "</summary>")) end++;
  if (!starts(line, open) || end == line.end) return;
  fputs(open, r->file);
  put_inline(r->file, (piece){line.begin + strlen(open), end});
  fputs("</summary>\n", r->file);
  r->details++;
}

static void close_details(reader *r) {
  if (r->details == 0) return;
  fputs("</details>\n", r->file);
  r->details--;
}

static void read_heading(reader *r, piece line) {
  while (line.begin < line.end && (*line.begin == '#' || *line.begin == ' ')) line.begin++;
  fputs("<h3>", r->file);
  put_inline(r->file, line);
  fputs("</h3>\n", r->file);
}

void html_markdown(FILE *file, const char *markdown) {
  reader r = {.file = file, .next = markdown};
  piece line;
  while (next_line(&r, &line)) {
    if (line.begin == line.end) continue;
    if (starts(line, "```")) read_code(&r);
    else if (starts(line, "|")) read_table(&r, line);
    else if (starts(line, "- ")) read_list(&r, line);
    else if (starts(line, "#")) read_heading(&r, line);
    else if (starts(line, "<details>")) read_details(&r, line);
    else if (starts(line, "</details>")) close_details(&r);
    else {
      fputs("<p>", file);
      put_text(&r, line);
      fputs("</p>\n", file);
    }
  }
  while (r.details > 0) close_details(&r);
}
