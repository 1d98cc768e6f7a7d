// SPDX-License-Identifier: MIT
/* Whether a module's name is as a pattern of compressed-tensors says: "re:" and a regular
 * expression, from the name's first character on and not to its last, as Python's re.match. */
#ifndef MOECL_LIB_MODEL_NAME_PATTERN_H
#define MOECL_LIB_MODEL_NAME_PATTERN_H

#include <stdbool.h>

typedef enum name_match {
  NAME_OTHER,
  NAME_MATCHES,
  NAME_UNKNOWN /* the expression has what is not known here: look-ahead, counts, groups in groups
                  in groups; or the name is too long */
} name_match;

/* Of the expression behind "re:". Known are . \. \d \w [a-z] [^a-z] ^ $ * + ? | and ( ). The time
 * grows with the name's length to a power and not with its possible readings. */
name_match name_match_expression(const char *expression, const char *name);

#endif
