// SPDX-License-Identifier: MIT
/* The resolved experiment as JSON. */
#include "base/json_text.h"
#include "experiment/settings.h"
#include "experiment/value.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* An integer that is none to jansson, nor exact as a real. No other key goes below 0. */
static json_t *wide_json(uint64_t integer) {
  char digits[24];
  snprintf(digits, sizeof digits, "%" PRIu64, integer);
  return json_string(digits);
}

static json_t *value_json(const schema_key *key, const value *v) {
  if (v->null) return json_null();
  switch (key->type) {
  case TYPE_INT: return v->integer < 0 ? wide_json((uint64_t)v->integer) : json_integer(v->integer);
  case TYPE_REAL: return json_real(v->real);
  case TYPE_BOOL: return json_boolean(v->integer != 0);
  case TYPE_CHOICE: return json_string(key->choice((int)v->integer));
  case TYPE_TEXT: return json_string(v->text);
  }
  return NULL;
}

/* Lists stay lists, so that the file can be written again from it. */
static json_t *setting_json(const schema_key *key, const setting *s) {
  if (!s->list) return s->count > 0 ? value_json(key, &s->values[0]) : json_null();
  json_t *list = json_array();
  for (size_t i = 0; i < s->count; i++)
    if (json_array_append_new(list, value_json(key, &s->values[i])) != 0) {
      json_decref(list);
      return NULL;
    }
  return list;
}

/* Sets "layer.router.jitter" inside nested objects. */
static bool set_nested(json_t *object, const char *name, json_t *item) {
  const char *dot;
  while ((dot = strchr(name, '.')) != NULL) {
    char section[64];
    snprintf(section, sizeof section, "%.*s", (int)(dot - name), name);
    json_t *inner = json_object_get(object, section);
    if (inner == NULL) {
      inner = json_object();
      if (json_object_set_new(object, section, inner) != 0) {
        json_decref(item);
        return false;
      }
    }
    object = inner;
    name = dot + 1;
  }
  return json_object_set_new(object, name, item) == 0;
}

static bool set_sweep(json_t *root, const settings *settings) {
  schema_id axes[KEY_COUNT];
  size_t count = settings_axes(settings, axes);
  json_t *sweep = json_array();
  for (size_t i = 0; i < count; i++)
    if (json_array_append_new(sweep, json_string(schema_get(axes[i])->name)) != 0) {
      json_decref(sweep);
      return false;
    }
  return json_object_set_new(root, "sweep", sweep) == 0;
}

/* Is it of blocks, and no point measures one? Written, it would be read with a warning. */
static bool is_idle(const settings *settings, const schema_key *key) {
  const setting *what = &settings->keys[KEY_WHAT];
  bool blocks = false;
  for (size_t i = 0; i < what->count; i++) blocks |= what->values[i].integer == WHAT_BLOCK;
  return schema_needs_block(key) && !blocks;
}

char *settings_json(const settings *settings) {
  json_t *root = json_object();
  bool good = root != NULL;
  for (int i = 0; i < KEY_COUNT && good; i++) {
    const schema_key *key = schema_get((schema_id)i);
    if (is_idle(settings, key)) continue;
    good = set_nested(root, key->name, setting_json(key, &settings->keys[i]));
  }
  good = good && set_sweep(root, settings);
  char *text = good ? json_text(root, 0) : NULL;
  json_decref(root);
  return text;
}

/* The object that has the last part of a dotted name, which *last receives; NULL: none. */
static json_t *section_of(const json_t *object, const char *name, const char **last) {
  char section[64];
  for (const char *dot; (dot = strchr(name, '.')) != NULL; name = dot + 1) {
    snprintf(section, sizeof section, "%.*s", (int)(dot - name), name);
    object = json_object_get(object, section);
  }
  *last = name;
  return (json_t *)object;
}

json_t *settings_json_get(const json_t *experiment, const schema_key *key) {
  const char *last;
  const json_t *section = section_of(experiment, key->name, &last);
  return json_object_get(section, last);
}

json_t *settings_json_default(const schema_key *key) {
  struct problems none = {.path = ""};
  value v = {0};
  json_t *item = NULL;
  if (key->default_text != NULL && value_default(key, &v, &none)) item = value_json(key, &v);
  value_free(&v);
  return item;
}

/* What an earlier version wrote under a key's old name. */
static void rename_old(json_t *recorded, const schema_key *key) {
  char old[64];
  if (schema_old_name(key, old, sizeof old) == NULL) return;
  const char *last;
  json_t *section = section_of(recorded, old, &last), *item = json_object_get(section, last);
  json_t *axes = json_object_get(recorded, "sweep");
  if (item != NULL) {
    set_nested(recorded, key->name, json_incref(item));
    json_object_del(section, last);
  }
  for (size_t i = 0; i < json_array_size(axes); i++) {
    const json_t *axis = json_array_get(axes, i);
    if (json_is_string(axis) && strcmp(json_string_value(axis), old) == 0)
      json_array_set_new(axes, i, json_string(key->name));
  }
}

static void add_default(json_t *experiment, const schema_key *key) {
  json_t *missing = settings_json_get(experiment, key) == NULL ? settings_json_default(key) : NULL;
  if (missing != NULL) set_nested(experiment, key->name, missing);
}

bool settings_json_same(const char *resolved, const json_t *recorded) {
  json_t *now = json_loads(resolved, 0, NULL), *then = json_deep_copy(recorded);
  for (int i = 0; i < KEY_COUNT && json_is_object(then); i++) {
    const schema_key *key = schema_get((schema_id)i);
    rename_old(then, key);
    add_default(then, key);
    add_default(now, key);
  }
  const bool same = now != NULL && then != NULL && json_equal(now, then);
  json_decref(now);
  json_decref(then);
  return same;
}
