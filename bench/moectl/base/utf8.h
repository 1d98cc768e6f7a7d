// SPDX-License-Identifier: MIT
/* Characters of texts that others wrote. */
#ifndef MOECTL_UTF8_H
#define MOECTL_UTF8_H

#include <stddef.h>

/* Bytes of the control character that the text begins with, C1 ones (U+0080 to U+009F), which
 * terminals obey too, among them; 0: it begins with another. */
size_t utf8_control(const char *text);
/* A text that was cut by bytes may end in a part of a character: takes that away. Returns
 * `text`. */
char *utf8_drop_part(char *text);

#endif
