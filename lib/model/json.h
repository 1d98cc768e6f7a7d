// SPDX-License-Identifier: MIT
/* JSON from files that are not trusted: its size is limited before it is parsed. */
#ifndef MOECL_LIB_MODEL_JSON_H
#define MOECL_LIB_MODEL_JSON_H

#include "base/log.h"
#include <jansson.h>

typedef struct json_limits {
  int depth;     /* of arrays and objects in one another */
  size_t values; /* all together: a parsed value takes up to some hundred bytes */
  bool python;   /* NaN, Infinity and -Infinity, which are no JSON but what Python writes, become
                    texts: whoever asks for a number refuses them */
} json_limits;

/* Parses an object; duplicate keys are refused. `path` and `what` ("its header")
 * are for the message. The caller owns *root on success; it is NULL on failure.
 * Errors: MOECL_ERROR_IO. */
moecl_status json_parse(const moecl_log *log, const char *path, const char *what, const char *text,
                        size_t size, json_limits limits, json_t **root);

/* The same from a regular file of at most `max_bytes`. */
moecl_status json_read(const moecl_log *log, const char *path, uint64_t max_bytes,
                       json_limits limits, json_t **root);

/* As text, malloc'ed; NULL without memory. Indented, else without blanks. */
char *json_to_text(const json_t *root, bool indented);

#endif
