// SPDX-License-Identifier: MIT
/* JSON as text whose every number reads back as the same one. */
#ifndef MOECTL_JSON_TEXT_H
#define MOECTL_JSON_TEXT_H

#include <jansson.h>

/* Reals with the fewest digits that read back as they are (0.1, not
 * 0.10000000000000001). `indent` 0: on one line, without spaces; else so many
 * spaces a level. malloc'ed, NULL without memory. */
char *json_text(const json_t *value, int indent);

/* A string, also of bytes that are not UTF-8 (a driver's name, an error): '?' for those.
 * null for NULL; NULL without memory. */
json_t *json_words(const char *text);

#endif
