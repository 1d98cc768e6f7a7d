// SPDX-License-Identifier: MIT
/* What the file and the overrides say, key by key. */
#ifndef MOECTL_SETTINGS_H
#define MOECTL_SETTINGS_H

#include "experiment/problems.h"
#include "experiment/schema.h"

struct json_t;

typedef struct setting {
  bool given; /* in the file or by --set; otherwise the default */
  bool list;
  size_t order;   /* among given keys, as the file has them; overrides of other keys last */
  tree_mark mark; /* of the value */
  bool by_old_name;
  tree_mark old_mark; /* of that name, where it was given so */
  value *values;
  size_t count;
} setting;

typedef struct settings {
  setting keys[KEY_COUNT];
  size_t num_given;
  tree_mark layer_mark; /* where the `layer` section stands; else the beginning */
} settings;

/* Each reports problems and goes on. */
void settings_read_tree(settings *settings, const tree_node *root, problems *problems);
void settings_override(settings *settings, const char *assignment, problems *problems);
/* Fills defaults in and reports required keys that are missing. */
void settings_complete(settings *settings, problems *problems);
void settings_free(settings *settings);

/* {"name": ..., "layer": {...}, ..., "sweep": [dotted keys, slowest first]};
 * malloc'ed; NULL without memory. */
char *settings_json(const settings *settings);
/* Is `recorded` the experiment that `resolved`, of settings_json, is? What an earlier
 * version wrote lacks the keys that are new: they had their defaults. */
bool settings_json_same(const char *resolved, const struct json_t *recorded);

/* The value (or list) of a key in what settings_json wrote, borrowed; NULL: it lacks it. */
struct json_t *settings_json_get(const struct json_t *experiment, const schema_key *key);
/* A key's default, as settings_json writes it, the caller's; NULL: it has none. */
struct json_t *settings_json_default(const schema_key *key);

/* The swept keys (two or more values), slowest first; returns how many. */
size_t settings_axes(const settings *settings, schema_id axes[KEY_COUNT]);

#endif
