// SPDX-License-Identifier: MIT
#include "experiment/settings.h"

#include "base/suggest.h"
#include "experiment/value.h"
#include <stdlib.h>
#include <string.h>

enum { LONGEST_KEY = 64 };

static void clear_setting(setting *s) {
  for (size_t i = 0; i < s->count; i++) value_free(&s->values[i]);
  free(s->values);
  s->values = NULL;
  s->count = 0;
}

void settings_free(settings *settings) {
  for (int i = 0; i < KEY_COUNT; i++) clear_setting(&settings->keys[i]);
}

static bool is_repeated(const schema_key *key, const setting *s, const value *v) {
  for (size_t i = 0; i < s->count; i++)
    if (value_equal(key, &s->values[i], v)) return true;
  return false;
}

static void read_list(const schema_key *key, setting *s, const tree_node *list,
                      problems *problems) {
  char text[160];
  if (key->flags & OF_EXPERIMENT) {
    problem_add(problems, list->mark, "%s: cannot be swept; expected one value, found a list",
                key->name);
    return;
  }
  if (list->count == 0 || list->count > EXPERIMENT_MAX_LIST) {
    problem_add(problems, list->mark, "%s: expected 1 to %d values in the list, found %zu",
                key->name, EXPERIMENT_MAX_LIST, list->count);
    return;
  }
  s->values = calloc(list->count, sizeof *s->values);
  if (s->values == NULL) {
    problem_out_of_memory(problems);
    return;
  }
  for (size_t i = 0; i < list->count; i++) {
    value v;
    if (!value_read(key, list->items[i], &v, problems)) continue;
    if (is_repeated(key, s, &v)) {
      problem_add(problems, list->items[i]->mark, "%s: %s is in the list twice", key->name,
                  tree_describe(list->items[i], text, sizeof text));
      value_free(&v);
      continue;
    }
    s->values[s->count++] = v;
  }
}

/* Is the list one value, of words? One that has a list in it is swept. */
static bool is_words(const schema_key *key, const tree_node *list) {
  if (!(key->flags & WORDS)) return false;
  for (size_t i = 0; i < list->count; i++)
    if (list->items[i]->kind == TREE_LIST) return false;
  return true;
}

/* A key that has its value; an earlier one (overrides) gives way. */
static void read_setting(settings *settings, schema_id id, const tree_node *node,
                         problems *problems) {
  const schema_key *key = schema_get(id);
  setting *s = &settings->keys[id];
  clear_setting(s);
  if (!s->given) s->order = settings->num_given++;
  s->given = true;
  s->list = node->kind == TREE_LIST && !is_words(key, node);
  s->mark = node->mark;
  if (s->list) {
    read_list(key, s, node, problems);
    return;
  }
  s->values = calloc(1, sizeof *s->values);
  if (s->values == NULL) problem_out_of_memory(problems);
  else if (value_read(key, node, &s->values[0], problems)) s->count = 1;
}

/* The name's last part: "jitter" of "layer.router.jitter". */
static const char *last_part(const char *name) {
  const char *dot = strrchr(name, '.');
  return dot == NULL ? name : dot + 1;
}

/* The name's next part below `section`, if it lies there: "router" of
 * "layer.router.jitter" below "layer". */
static bool part_below(const char *name, const char *section, char part[LONGEST_KEY]) {
  size_t length = strlen(section);
  if (strncmp(name, section, length) != 0 || (length > 0 && name[length] != '.')) return false;
  const char *below = name + length + (length > 0);
  snprintf(part, LONGEST_KEY, "%.*s", (int)strcspn(below, "."), below);
  return true;
}

/* The key whose dotted name or last part is nearest; KEY_COUNT: none is near. */
static schema_id nearest_key(const char *written, size_t length, size_t *how_far) {
  schema_id best = KEY_COUNT;
  suggestion s = suggest_begin(written, length);
  for (int i = 0; i < KEY_COUNT; i++) {
    const char *before = s.best, *name = schema_get((schema_id)i)->name;
    suggest_try(&s, name);
    suggest_try(&s, last_part(name));
    if (s.best != before) best = (schema_id)i;
  }
  *how_far = s.best_distance;
  return best;
}

/* Says what may have been meant by an unknown key of `section` ("": top). */
static void unknown_key(const tree_node *key, const char *section, problems *problems) {
  char parts[KEY_COUNT][LONGEST_KEY], shown[64];
  if (problems_full(problems)) { /* a large file of nothing but unknown keys */
    problem_add(problems, key->mark, "unknown key");
    return;
  }
  suggestion near = suggest_begin(key->text, key->size);
  for (int i = 0; i < KEY_COUNT; i++)
    if (part_below(schema_get((schema_id)i)->name, section, parts[i])) suggest_try(&near, parts[i]);
  size_t how_far = 0;
  schema_id other = nearest_key(key->text, key->size, &how_far);
  printable(key->text, key->size, shown, sizeof shown);
  const char *in = section[0] != '\0' ? " in " : "";
  if (other != KEY_COUNT && (near.best == NULL || how_far < near.best_distance)) {
    /* Right name, wrong place. */
    const char *name = schema_get(other)->name, *last = last_part(name);
    if (last == name)
      problem_add(problems, key->mark, "unknown key '%s'%s%s; did you mean '%s' at the top level?",
                  shown, in, section, name);
    else
      problem_add(problems, key->mark, "unknown key '%s'%s%s; did you mean '%s' in %.*s?", shown,
                  in, section, last, (int)(last - name - 1), name);
  } else if (near.best != NULL) {
    problem_add(problems, key->mark, "unknown key '%s'%s%s; did you mean '%s'?", shown, in, section,
                near.best);
  } else {
    problem_add(problems, key->mark, "unknown key '%s'%s%s; 'moectl help experiment' lists all",
                shown, in, section);
  }
}

static void read_mapping(settings *settings, const tree_node *mapping, const char *section,
                         problems *problems);

static void read_section(settings *settings, const tree_node *node, const char *section,
                         problems *problems) {
  char found[96];
  if (strcmp(section, "layer") == 0) settings->layer_mark = node->mark;
  if (node->kind == TREE_MAPPING) read_mapping(settings, node, section, problems);
  else
    problem_add(problems, node->mark, "%s: expected a section (keys below it), found %s", section,
                tree_describe(node, found, sizeof found));
}

/* The key that is called so, by its old name too (which is remembered, for a warning). */
static schema_id find_key(settings *settings, const char *name, size_t length, tree_mark mark) {
  const schema_id id = schema_find(name, length), old = schema_find_old(name, length);
  if (id < KEY_COUNT || old == KEY_COUNT) return id;
  settings->keys[old].by_old_name = true;
  settings->keys[old].old_mark = mark;
  return old;
}

/* Whether an earlier key of the mapping has the same text. */
static bool is_duplicate(const tree_node *mapping, size_t index) {
  const tree_node *key = mapping->items[index];
  for (size_t i = 0; i < index; i += 2) {
    const tree_node *other = mapping->items[i];
    if (other->kind == TREE_SCALAR && other->size == key->size &&
        memcmp(other->text, key->text, key->size) == 0)
      return true;
  }
  return false;
}

static void read_mapping(settings *settings, const tree_node *mapping, const char *section,
                         problems *problems) {
  char name[2 * LONGEST_KEY], found[96];
  for (size_t i = 0; i + 1 < mapping->count; i += 2) {
    const tree_node *key = mapping->items[i], *node = mapping->items[i + 1];
    if (key->kind != TREE_SCALAR) {
      problem_add(problems, key->mark, "expected a key, found %s",
                  tree_describe(key, found, sizeof found));
      continue;
    }
    /* A dot in the key itself never matches: "layer.top_k" is a --set name. */
    bool plain = key->size < LONGEST_KEY && memchr(key->text, '.', key->size) == NULL;
    size_t length = 0;
    if (plain)
      length =
          (size_t)snprintf(name, sizeof name, "%s%s%s", section, section[0] ? "." : "", key->text);
    schema_id id = plain ? find_key(settings, name, length, key->mark) : KEY_COUNT;
    bool is_section = plain && schema_is_section(name, length);
    /* Known keys only, so that the search stays short. */
    if ((id < KEY_COUNT || is_section) && is_duplicate(mapping, i))
      problem_add(problems, key->mark, "%s is given twice; expected it once", name);
    else if (id < KEY_COUNT && settings->keys[id].given)
      problem_add(problems, key->mark,
                  "%s is given twice, under its old name too; expected it once",
                  schema_get(id)->name);
    else if (id < KEY_COUNT) read_setting(settings, id, node, problems);
    else if (is_section) read_section(settings, node, name, problems);
    else unknown_key(key, section, problems);
  }
}

void settings_read_tree(settings *settings, const tree_node *root, problems *problems) {
  char found[96];
  settings->layer_mark = (tree_mark){NULL, 1, 1};
  if (root->kind == TREE_MAPPING) read_mapping(settings, root, "", problems);
  else
    problem_add(problems, root->mark,
                "expected an experiment (keys such as 'layer' and 'workload'), found %s",
                tree_describe(root, found, sizeof found));
}

/* The key that ends in ".name": "router.jitter" is clear enough a hint. */
static schema_id key_ending_in(const char *name, size_t length) {
  for (int i = 0; i < KEY_COUNT && length > 0; i++) {
    const char *full = schema_get((schema_id)i)->name;
    size_t full_length = strlen(full);
    if (full_length > length && full[full_length - length - 1] == '.' &&
        memcmp(full + full_length - length, name, length) == 0)
      return (schema_id)i;
  }
  return KEY_COUNT;
}

static void unknown_override(tree_mark mark, const char *name, size_t length, problems *problems) {
  char shown[64];
  size_t how_far = 0;
  schema_id meant = key_ending_in(name, length);
  if (meant == KEY_COUNT) meant = nearest_key(name, length, &how_far);
  printable(name, length, shown, sizeof shown);
  if (schema_is_section(name, length))
    problem_add(problems, mark, "'%s' is a section; expected one of its keys", shown);
  else if (meant != KEY_COUNT)
    problem_add(problems, mark, "unknown key '%s'; did you mean '%s'?", shown,
                schema_get(meant)->name);
  else problem_add(problems, mark, "unknown key '%s'; 'moectl help experiment' lists all", shown);
}

void settings_override(settings *settings, const char *assignment, problems *problems) {
  tree_mark mark = {assignment, 1, 1};
  const char *equals = strchr(assignment, '=');
  if (equals == NULL) {
    problem_add(problems, mark, "expected KEY=VALUE, e.g. layer.top_k=4");
    return;
  }
  size_t length = (size_t)(equals - assignment);
  schema_id id = find_key(settings, assignment, length, mark);
  if (id == KEY_COUNT) {
    unknown_override(mark, assignment, length, problems);
    return;
  }
  bool empty = false;
  tree_node *node = tree_parse(equals + 1, strlen(equals + 1), assignment, &empty, problems);
  if (node != NULL) read_setting(settings, id, node, problems);
  else if (empty) problem_add(problems, mark, "expected a value after '='");
  tree_destroy(node);
}

void settings_complete(settings *settings, problems *problems) {
  char expected[SCHEMA_EXPECTED_SIZE];
  for (int i = 0; i < KEY_COUNT; i++) {
    const schema_key *key = schema_get((schema_id)i);
    setting *s = &settings->keys[i];
    if (s->given || s->count > 0) continue; /* from_checkpoint fills some */
    if (key->flags & REQUIRED) {
      tree_mark top = {NULL, 1, 1};
      problem_add(problems, strncmp(key->name, "layer.", 6) == 0 ? settings->layer_mark : top,
                  "%s is missing; expected %s", key->name,
                  schema_expected(key, expected, sizeof expected));
    } else if (key->default_text != NULL) {
      s->values = calloc(1, sizeof *s->values);
      if (s->values == NULL) problem_out_of_memory(problems);
      else if (value_default(key, &s->values[0], problems)) s->count = 1;
    }
  }
}

size_t settings_axes(const settings *settings, schema_id axes[KEY_COUNT]) {
  size_t count = 0;
  for (size_t order = 0; order < settings->num_given; order++)
    for (int i = 0; i < KEY_COUNT; i++) {
      const setting *s = &settings->keys[i];
      if (s->given && s->order == order && s->count > 1) axes[count++] = (schema_id)i;
    }
  return count;
}
