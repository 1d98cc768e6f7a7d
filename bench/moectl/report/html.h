// SPDX-License-Identifier: MIT
/* HTML, written to a stream. */
#ifndef MOECTL_HTML_H
#define MOECTL_HTML_H

#include <stdio.h>

/* A text as it is, in an attribute in double quotes too; control characters become blanks. */
void html_text(FILE *file, const char *text);

/* The Markdown that the reports' parts write (report_parts.h): paragraphs, lists, tables,
 * <details>, code, **strong**, *emphasis*, and a backslash before what is none of it. All else is
 * text: nothing in it becomes an element. Headings are h3; tables of many rows fold away. */
void html_markdown(FILE *file, const char *markdown);
/* Of one line: no element but strong, em and code. */
void html_inline(FILE *file, const char *markdown);

/* The page up to its content, with the style, and what closes it. The page may load nothing and
 * run nothing: its own policy says so. */
void html_begin(FILE *file, const char *title);
void html_end(FILE *file);

#endif
