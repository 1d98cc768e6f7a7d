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

json_t *config_find(const model_config *config, const char *keys, size_t size) {
  while (size > 0) {
    const char *bar = memchr(keys, '|', size);
    const size_t length = bar ? (size_t)(bar - keys) : size;
    json_t *value = at_path(config->root, keys, length);
    if (value && !json_is_null(value)) return value;
    keys += bar ? length + 1 : length;
    size -= bar ? length + 1 : length;
  }
  return NULL;
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

/* One term, of `size` characters. */
static moecl_status term_value(const model_config *config, const char *term, size_t size,
                               double *value) {
  if (size > 0 && term[0] >= '0' && term[0] <= '9') {
    *value = base_parse_double(term, NULL);
    return MOECL_OK;
  }
  const char *equals = memchr(term, '=', size);
  const size_t keys = equals ? (size_t)(equals - term) : size;
  json_t *node = config_find(config, term, keys);
  if (json_is_array(node)) node = json_array_get(node, (size_t)config->layer);
  if (json_is_number(node)) {
    *value = json_number_value(node);
  } else if (json_is_boolean(node)) {
    *value = json_is_true(node);
  } else if (node) {
    return wrong(config, term, keys, "a number");
  } else if (equals) {
    *value = base_parse_double(equals + 1, NULL);
  } else {
    return missing(config, term, keys);
  }
  return isfinite(*value) ? MOECL_OK : wrong(config, term, keys, "a finite number");
}

moecl_status config_number(const model_config *config, const char *expression, double *value) {
  char operation = 0;
  *value = 0;
  for (const char *at = expression; at && *at;) {
    const size_t size = strcspn(at, "*/-");
    double term = 0;
    MOECL_TRY(term_value(config, at, size, &term));
    switch (operation) {
    case '*':
      *value *= term;
      break;
    case '/':
      *value = term != 0 ? *value / term : INFINITY;
      break;
    case '-':
      *value -= term;
      break;
    default:
      *value = term;
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
  json_t *node = config_find(config, expression, keys);
  if (node && !json_is_string(node)) return wrong(config, expression, keys, "a text");
  if (!node && !expression[keys]) return missing(config, expression, keys);
  *value = node ? json_string_value(node) : buffer;
  if (!node) {
    strncpy(buffer, expression + keys + 1, size - 1);
    buffer[size - 1] = '\0';
  }
  return MOECL_OK;
}
