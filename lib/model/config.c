// SPDX-License-Identifier: MIT
#include "model/config.h"

#include "base/base.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* "section.key" from the root on. */
static json_t *at_path(json_t *node, const char *path, size_t size) {
  while (node && size > 0) {
    const char *dot = memchr(path, '.', size);
    const size_t length = dot ? (size_t)(dot - path) : size;
    node = json_object_getn(node, path, length);
    path += dot ? length + 1 : length;
    size -= dot ? length + 1 : length;
  }
  return node;
}

/* The value of the first key that is there and not null, else a null if there is
 * one, else NULL. */
static json_t *find_or_null(const model_config *config, const char *keys, size_t size) {
  json_t *null = NULL;
  while (size > 0) {
    const char *bar = memchr(keys, '|', size);
    const size_t length = bar ? (size_t)(bar - keys) : size;
    json_t *value = at_path(config->root, keys, length);
    if (value && !json_is_null(value)) return value;
    if (value) null = value;
    keys += bar ? length + 1 : length;
    size -= bar ? length + 1 : length;
  }
  return null;
}

json_t *config_find(const model_config *config, const char *keys, size_t size) {
  json_t *value = find_or_null(config, keys, size);
  return json_is_null(value) ? NULL : value;
}

static moecl_status missing(const model_config *config, const char *keys, size_t size) {
  return log_error(config->log, MOECL_ERROR_IO, "%s: has no key '%.*s', which family %s needs",
                   config->path, (int)size, keys, config->family);
}

static moecl_status wrong(const model_config *config, const char *keys, size_t size,
                          const char *expected) {
  return log_error(config->log, MOECL_ERROR_IO, "%s: the value of '%.*s' is not %s", config->path,
                   (int)size, keys, expected);
}

/* The parts of a term: keys, and where the texts of its default and of what null
 * means begin; NULL: it has none. */
typedef struct term_parts {
  size_t keys;
  const char *absent, *null;
} term_parts;

static term_parts split_term(const char *term, size_t size) {
  const char *equals = memchr(term, '=', size), *colon = memchr(term, ':', size);
  const char *end = equals ? equals : colon ? colon : term + size;
  return (term_parts){.keys = (size_t)(end - term),
                      .absent = equals  ? equals + 1
                                : colon ? colon + 1
                                        : NULL,
                      .null = colon ? colon + 1 : NULL};
}

/* One term, of `size` characters. */
static moecl_status term_value(const model_config *config, const char *term, size_t size,
                               double *value) {
  if (size > 0 && term[0] >= '0' && term[0] <= '9') {
    *value = base_parse_double(term, NULL);
    return MOECL_OK;
  }
  const term_parts parts = split_term(term, size);
  json_t *node = find_or_null(config, term, parts.keys);
  if (json_is_array(node)) node = json_array_get(node, (size_t)config->layer);
  const char *text = json_is_null(node) ? parts.null : parts.absent;
  if (json_is_number(node)) {
    *value = json_number_value(node);
  } else if (json_is_boolean(node)) {
    *value = json_is_true(node);
  } else if (json_is_null(node) && !text) {
    return wrong(config, term, parts.keys, "a number, and null has no meaning there");
  } else if (node && !json_is_null(node)) {
    return wrong(config, term, parts.keys, "a number");
  } else if (text) {
    *value = base_parse_double(text, NULL);
  } else {
    return missing(config, term, parts.keys);
  }
  return isfinite(*value) ? MOECL_OK : wrong(config, term, parts.keys, "a finite number");
}

/* Is the minus at `at[size]` a number's: -1, 1e-6? */
static bool is_sign(const char *at, size_t size) {
  const char before = size > 0 ? at[size - 1] : '\0';
  return before == '=' || before == ':' ||
         (before == 'e' && size > 1 && at[size - 2] >= '0' && at[size - 2] <= '9');
}

/* The length of an expression's first term. */
static size_t term_size(const char *at) {
  size_t size = strcspn(at, "*/-");
  while (at[size] == '-' && is_sign(at, size)) size += 1 + strcspn(at + size + 1, "*/-");
  return size;
}

moecl_status config_number(const model_config *config, const char *expression, double *value) {
  char operation = 0;
  *value = 0;
  for (const char *at = expression; at && *at;) {
    const size_t size = term_size(at);
    double term = 0;
    MOECL_TRY(term_value(config, at, size, &term));
    switch (operation) {
    case '*': *value *= term; break;
    case '/': *value = term != 0 ? *value / term : INFINITY; break;
    case '-': *value -= term; break;
    default: *value = term;
    }
    operation = at[size];
    at += size + (operation != 0);
  }
  if (isfinite(*value)) return MOECL_OK;
  return wrong(config, expression, strlen(expression), "a finite number");
}

moecl_status config_integer(const model_config *config, const char *expression, int64_t min,
                            int64_t max, int64_t *value) {
  double number;
  *value = 0;
  MOECL_TRY(config_number(config, expression, &number));
  if (!(number >= (double)min && number <= (double)max) || number != floor(number))
    return log_error(config->log, MOECL_ERROR_IO,
                     "%s: '%s' is %.17g, expected a whole number from %lld to %lld", config->path,
                     expression, number, (long long)min, (long long)max);
  *value = (int64_t)number;
  return MOECL_OK;
}

moecl_status config_flag(const model_config *config, const char *expression, bool *value) {
  int64_t number;
  *value = false;
  MOECL_TRY(config_integer(config, expression, 0, 1, &number));
  *value = number == 1;
  return MOECL_OK;
}

moecl_status config_text(const model_config *config, const char *expression, char *buffer,
                         size_t size, const char **value) {
  *value = NULL;
  if (!expression) return MOECL_OK;
  const size_t keys = strcspn(expression, "=");
  json_t *node = find_or_null(config, expression, keys);
  if (node && !json_is_string(node)) return wrong(config, expression, keys, "a text");
  if (!node && !expression[keys]) return missing(config, expression, keys);
  *value = node ? json_string_value(node) : buffer;
  if (!node) {
    strncpy(buffer, expression + keys + 1, size - 1);
    buffer[size - 1] = '\0';
  }
  return MOECL_OK;
}

/* Does `value` say the same as `text`, a text, a number, or a flag as 0 or 1? No text is
 * nothing or 0. */
static bool says(json_t *value, const char *text, size_t size) {
  char number[32] = "0";
  if (!value || json_is_null(value)) return true;
  if (json_is_string(value))
    return json_string_length(value) == size && memcmp(json_string_value(value), text, size) == 0;
  if (size >= sizeof number) return false;
  if (size > 0) memcpy(number, text, size);
  number[size > 0 ? size : 1] = '\0';
  if (json_is_boolean(value)) return json_is_true(value) == (base_parse_double(number, NULL) != 0);
  return json_is_number(value) && json_number_value(value) == base_parse_double(number, NULL);
}

moecl_status config_refuse(const model_config *config, const char *rules) {
  for (const char *at = rules; at && *at;) {
    const size_t size = strcspn(at, "|"), keys = strcspn(at, "=|");
    const char *value = at + keys + (keys < size);
    const size_t length = size - keys - (keys < size);
    if (!says(config_find(config, at, keys), value, length))
      return log_error(config->log, MOECL_ERROR_UNSUPPORTED,
                       "%s: '%.*s' asks for what is not known of family %s, expected %s%.*s",
                       config->path, (int)keys, at, config->family,
                       length ? "" : "none, false or 0", (int)length, value);
    at += size + (at[size] == '|');
  }
  return MOECL_OK;
}
