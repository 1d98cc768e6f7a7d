// SPDX-License-Identifier: MIT
#include "experiment/placement_file.h"
#include "base/files.h"
#include "moecl/group.h"
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPECTED                                                                                   \
  "expected [[0, 1], [2, 3]] (each member's experts), [12, 0, 7, 9] (what each expert has to "     \
  "do), "                                                                                          \
  "or the results.json of a run"

/* Numbers from 0 to `most`; false: something in it is none. */
static bool are_numbers(const json_t *list, int64_t most) {
  size_t i;
  json_t *item;
  json_array_foreach(list, i, item) {
    if (!json_is_integer(item) || json_integer_value(item) < 0 || json_integer_value(item) > most)
      return false;
  }
  return json_is_array(list);
}

static bool read_lists(const json_t *root, placement_file *into) {
  size_t count = 0, m, i;
  json_t *list, *item;
  json_array_foreach(root, m, list) {
    if (!are_numbers(list, MOECL_MAX_EXPERTS - 1)) return false;
    count += json_array_size(list);
  }
  into->num_lists = json_array_size(root);
  into->lists = calloc(count + 1, sizeof *into->lists);
  into->list_sizes = calloc(into->num_lists + 1, sizeof *into->list_sizes);
  if (!into->lists || !into->list_sizes) return false;
  count = 0;
  json_array_foreach(root, m, list) {
    json_array_foreach(list, i, item) into->lists[count++] = (int32_t)json_integer_value(item);
    into->list_sizes[m] = i;
  }
  return true;
}

/* Adds to what earlier points gave. Sums stay far from the largest number. */
static bool add_loads(const json_t *list, placement_file *into) {
  const size_t count = json_array_size(list);
  if (!are_numbers(list, INT32_MAX) || count > MOECL_MAX_EXPERTS) return false;
  if (into->num_loads != 0 && count != into->num_loads) return false;
  if (!into->loads) into->loads = calloc(count + 1, sizeof *into->loads);
  into->num_loads = count;
  for (size_t e = 0; into->loads && e < count; e++)
    into->loads[e] += json_integer_value(json_array_get(list, e));
  return into->loads && count > 0;
}

/* Points that did not run have no routing. */
static bool add_points(const json_t *points, placement_file *into) {
  size_t i;
  json_t *point;
  json_array_foreach(points, i, point) {
    const json_t *routing = json_object_get(point, "routing");
    if (!json_is_null(routing) && !add_loads(json_object_get(routing, "tokens_per_expert"), into))
      return false;
  }
  return into->num_loads > 0;
}

static bool read_root(const json_t *root, placement_file *into) {
  if (json_is_object(root)) return add_points(json_object_get(root, "points"), into);
  if (json_is_array(json_array_get(root, 0))) return read_lists(root, into);
  return add_loads(root, into);
}

bool placement_file_read(const char *path, placement_file *placement, char **error) {
  size_t size;
  json_error_t where;
  *placement = (placement_file){0};
  char *text = read_whole_file(path, &size);
  if (!text) return fail_text(error, "%s cannot be read: %s", path, strerror(errno));
  json_t *root = json_loadb(text, size, 0, &where);
  free(text);
  if (!root) return fail_text(error, "%s: line %d: %s; " EXPECTED, path, where.line, where.text);
  const bool ok = read_root(root, placement);
  json_decref(root);
  if (ok) return true;
  placement_file_release(placement);
  return fail_text(error, "%s is no placement: " EXPECTED ", of points with as many experts", path);
}

bool placement_file_check_lists(const placement_file *placement, int64_t num_experts, char *message,
                                size_t size) {
  int64_t latest[MOECL_MAX_EXPERTS] = {0}; /* list that has it, counted from 1 */
  size_t i = 0;
  for (size_t m = 0; m < placement->num_lists; m++)
    for (const size_t end = i + placement->list_sizes[m]; i < end; i++) {
      const int32_t expert = placement->lists[i];
      const bool is_one = expert < num_experts, again = is_one && latest[expert] == (int64_t)m + 1;
      if (!is_one)
        snprintf(message, size, "member %zu's list has expert %d, expected 0 to %lld", m,
                 (int)expert, (long long)num_experts - 1);
      if (again) snprintf(message, size, "member %zu's list has expert %d twice", m, (int)expert);
      if (!is_one || again) return false;
      latest[expert] = (int64_t)m + 1;
    }
  for (int64_t e = 0; e < num_experts && placement->num_lists > 0; e++)
    if (!latest[e]) {
      snprintf(message, size, "expert %lld is in no member's list", (long long)e);
      return false;
    }
  return true;
}

void placement_file_release(placement_file *placement) {
  free(placement->lists);
  free(placement->list_sizes);
  free(placement->loads);
  *placement = (placement_file){0};
}
