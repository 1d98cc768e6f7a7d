// SPDX-License-Identifier: MIT
/* What work points are, and which of two runs' points are the same. */
#include "report/compare.h"
#include "base/files.h"
#include "base/utf8.h"
#include <stdlib.h>
#include <string.h>

static bool is_work(const schema_key *key) { return !(key->flags & NOT_WORK); }
/* What a point asked for, beside its work: its variants. */
static bool is_asked(const schema_key *key) { return schema_param(key) && !is_work(key); }

static const char *short_name(const schema_key *key) {
  return schema_param(key) ? schema_param(key) : key->name;
}

/* Closes a text stream; NULL: no memory. */
static char *close_text(FILE *file, char **text) {
  const bool ok = file && !ferror(file);
  if (file && fclose(file) == 0 && ok) return *text;
  free(*text);
  return NULL;
}

/* ---- values ---- */

/* Beside the keys, which say what was asked for: what took rows from member to member. */
enum { SERVED_TRANSPORT = KEY_COUNT };

/* `of`: a key, or SERVED_TRANSPORT. NULL: the point did not run, so that nothing served it. */
static const char *value_of(const measured_run *run, size_t point, int of) {
  const point_result *result = &run->points[point].result;
  if (of != SERVED_TRANSPORT) return measured_value(run, point, (schema_id)of);
  if (result->status > POINT_UNVERIFIED_OK) return NULL;
  return *result->parallel.transport ? result->parallel.transport : "none";
}

static bool run_has(const measured_run *run, int of, const char *wanted) {
  for (size_t i = 0; i < run->num_points; i++) {
    const char *value = value_of(run, i, of);
    if (value && strcmp(value, wanted) == 0) return true;
  }
  return false;
}

/* The distinct values: "1, 2, 4"; after a few "...". */
static void put_values(const measured_run *run, int of, FILE *file) {
  enum { MOST = 4 };
  const char *put[MOST];
  size_t count = 0;
  for (size_t i = 0; i < run->num_points; i++) {
    const char *value = value_of(run, i, of);
    bool is_new = value != NULL;
    for (size_t j = 0; j < count && is_new; j++) is_new = strcmp(put[j], value) != 0;
    if (!is_new) continue;
    fprintf(file, "%s%s", count ? ", " : "", count < MOST ? value : "...");
    if (count == MOST) return;
    put[count++] = value;
  }
}

/* "name (1, 2 beside 4)" */
static void put_beside(FILE *file, const char *name, const measured_run *a, const measured_run *b,
                       int of) {
  fprintf(file, "%s (", name);
  put_values(a, of, file);
  fputs(" beside ", file);
  put_values(b, of, file);
  fputc(')', file);
}

/* How many of a's points have a value, and how many one that none of b's has. */
static size_t count_values(const measured_run *a, int of) {
  size_t count = 0;
  for (size_t i = 0; i < a->num_points; i++) count += value_of(a, i, of) != NULL;
  return count;
}
static size_t count_others(const measured_run *a, const measured_run *b, int of) {
  size_t count = 0;
  for (size_t i = 0; i < a->num_points; i++) {
    const char *value = value_of(a, i, of);
    count += value && !run_has(b, of, value);
  }
  return count;
}

static bool is_disjoint(const measured_run *a, const measured_run *b, schema_id key) {
  return count_others(a, b, key) == a->num_points;
}

size_t compare_varying(const measured_run *run, schema_id keys[KEY_COUNT]) {
  size_t count = 0;
  for (int key = 0; key < KEY_COUNT; key++) {
    bool varies = false;
    for (size_t i = 1; i < run->num_points && !varies && schema_param(schema_get((schema_id)key));
         i++)
      varies = strcmp(measured_value(run, i, (schema_id)key),
                      measured_value(run, 0, (schema_id)key)) != 0;
    if (varies) keys[count++] = (schema_id)key;
  }
  return count;
}

const char *compare_point_label(const measured_run *run, size_t point, char *text, size_t size) {
  schema_id keys[KEY_COUNT];
  const size_t count = compare_varying(run, keys);
  size_t used = (size_t)snprintf(text, size, "point %zu", run->points[point].result.index);
  for (size_t i = 0; i < count && used < size; i++)
    used += (size_t)snprintf(text + used, size - used, "%s%s=%s", i ? ", " : " (",
                             short_name(schema_get(keys[i])), measured_value(run, point, keys[i]));
  if (count > 0 && used < size) snprintf(text + used, size - used, ")");
  return utf8_drop_part(text);
}

/* ---- matching ---- */

typedef struct entry {
  char *work, *asked; /* all values of either kind as one text */
  size_t point;
} entry;

static char *values_text(const measured_run *run, size_t point,
                         bool (*wanted)(const schema_key *key)) {
  char *text = NULL;
  size_t size;
  FILE *file = open_memstream(&text, &size);
  for (int key = 0; file && key < KEY_COUNT; key++)
    if (wanted(schema_get((schema_id)key)))
      fprintf(file, "%s\n", measured_value(run, point, (schema_id)key));
  return close_text(file, &text);
}

static int by_work(const void *a, const void *b) {
  const entry *x = a, *y = b;
  const int works = strcmp(x->work, y->work), asked = strcmp(x->asked, y->asked);
  return works ? works : asked ? asked : x->point < y->point ? -1 : x->point > y->point;
}

static void release_entries(entry *entries, size_t count) {
  for (size_t i = 0; entries && i < count; i++) {
    free(entries[i].work);
    free(entries[i].asked);
  }
  free(entries);
}

/* Sorted: points of one work stand together. */
static entry *make_entries(const measured_run *run) {
  entry *entries = calloc(run->num_points + 1, sizeof *entries);
  bool ok = entries != NULL;
  for (size_t i = 0; ok && i < run->num_points; i++) {
    entries[i] = (entry){values_text(run, i, is_work), values_text(run, i, is_asked), i};
    ok = entries[i].work && entries[i].asked;
  }
  if (!ok) {
    release_entries(entries, run->num_points);
    return NULL;
  }
  qsort(entries, run->num_points, sizeof *entries, by_work);
  return entries;
}

/* How many from the first on are the same work. */
static size_t group_size(const entry *entries, size_t count) {
  size_t size = count > 0;
  while (size < count && strcmp(entries[size].work, entries[0].work) == 0) size++;
  return size;
}

/* One work's points: those that asked for the same are partners, and what is left of both if it
 * is one of each. */
static void match_group(entry *a, size_t count_a, entry *b, size_t count_b, size_t *partners) {
  size_t left_a = 0, left_b = 0, i = 0, j = 0;
  while (i < count_a || j < count_b) {
    const int order = i == count_a ? 1 : j == count_b ? -1 : strcmp(a[i].asked, b[j].asked);
    if (order == 0) partners[a[i++].point] = b[j++].point;
    else if (order < 0) a[left_a++].point = a[i++].point;
    else b[left_b++].point = b[j++].point;
  }
  if (left_a == 1 && left_b == 1) partners[a[0].point] = b[0].point;
}

bool compare_match(const measured_run *a, const measured_run *b, size_t *partners) {
  entry *of_a = make_entries(a), *of_b = make_entries(b);
  for (size_t i = 0; i < a->num_points; i++) partners[i] = SIZE_MAX;
  for (size_t i = 0, j = 0; of_a && of_b && i < a->num_points && j < b->num_points;) {
    const int order = strcmp(of_a[i].work, of_b[j].work);
    const size_t step_a = order <= 0 ? group_size(of_a + i, a->num_points - i) : 0;
    const size_t step_b = order >= 0 ? group_size(of_b + j, b->num_points - j) : 0;
    if (order == 0) match_group(of_a + i, step_a, of_b + j, step_b, partners);
    i += step_a;
    j += step_b;
  }
  const bool ok = of_a && of_b;
  release_entries(of_a, a->num_points);
  release_entries(of_b, b->num_points);
  return ok;
}

/* ---- reasons ---- */

static bool has_same_work(const measured_run *run, size_t point, const measured_run *other) {
  for (size_t i = 0; i < other->num_points; i++) {
    bool same = true;
    for (int key = 0; same && key < KEY_COUNT; key++)
      same = !is_work(schema_get((schema_id)key)) ||
             strcmp(measured_value(run, point, (schema_id)key),
                    measured_value(other, i, (schema_id)key)) == 0;
    if (same) return true;
  }
  return false;
}

char *compare_why_alone(const measured_run *run, size_t point, const measured_run *other) {
  char *text = NULL;
  size_t size, count = 0;
  if (has_same_work(run, point, other))
    return format_text("the same work with other variants asked for: which of them is meant "
                       "can't be told");
  FILE *file = open_memstream(&text, &size);
  for (int key = 0; file && key < KEY_COUNT; key++) {
    const char *value = measured_value(run, point, (schema_id)key);
    if (!is_work(schema_get((schema_id)key)) || run_has(other, (schema_id)key, value)) continue;
    fprintf(file, "%s%s is %s, not ", count++ ? "; " : "", short_name(schema_get((schema_id)key)),
            value);
    put_values(other, (schema_id)key, file);
  }
  if (file && count == 0) fputs("that combination is not there", file);
  return close_text(file, &text);
}

char *compare_disjoint(const measured_run *a, const measured_run *b) {
  char *text = NULL;
  size_t size, count = 0;
  FILE *file = open_memstream(&text, &size);
  for (int key = 0; file && key < KEY_COUNT; key++) {
    if (!is_work(schema_get((schema_id)key)) || !is_disjoint(a, b, (schema_id)key)) continue;
    if (count++ > 0) fputs(", ", file);
    put_beside(file, short_name(schema_get((schema_id)key)), a, b, key);
  }
  if (file && count == 0) fputs("the combinations of their values", file);
  return close_text(file, &text);
}

/* "name (a, b)" of what differs. */
static void put_difference(FILE *file, size_t *count, const char *name, const char *a,
                           const char *b) {
  if (strcmp(a, b) == 0) return;
  fprintf(file, "%s%s (%s, %s)", (*count)++ ? "; " : "", name, a, b);
}

/* Keys that say how it was measured, and variants where all points asked for others. */
static void put_key_differences(FILE *file, size_t *count, const measured_run *a,
                                const measured_run *b) {
  for (int id = 0; id < KEY_COUNT; id++) {
    const schema_key *key = schema_get((schema_id)id);
    if (is_work(key) || id == KEY_NAME || id == KEY_DEVICE) continue;
    if (!schema_param(key)) {
      put_difference(file, count, key->name, a->values[id] ? a->values[id] : "null",
                     b->values[id] ? b->values[id] : "null");
    } else if (is_disjoint(a, b, (schema_id)id)) {
      if ((*count)++ > 0) fputs("; ", file);
      put_beside(file, schema_param(key), a, b, id);
    }
  }
}

/* Both runs may have asked for the same, and of some points another one served: of several
 * processes, say, where there are members in more than one. */
static void put_transports(FILE *file, size_t *count, const measured_run *a,
                           const measured_run *b) {
  const int of = SERVED_TRANSPORT;
  if (count_values(a, of) == 0 || count_values(b, of) == 0) return;
  if (count_others(a, b, of) == 0 && count_others(b, a, of) == 0) return;
  if ((*count)++ > 0) fputs("; ", file);
  put_beside(file, "transport that served", a, b, of);
}

char *compare_subject(const measured_run *a, const measured_run *b) {
  char *text = NULL;
  size_t size, count = 0;
  FILE *file = open_memstream(&text, &size);
  if (!file) return NULL;
  put_difference(file, &count, "device", a->device, b->device);
  put_difference(file, &count, "platform", a->platform, b->platform);
  put_difference(file, &count, "driver", a->driver, b->driver);
  put_difference(file, &count, "system", a->system, b->system);
  put_difference(file, &count, "version", a->version, b->version);
  put_difference(file, &count, "commit", a->commit, b->commit);
  put_difference(file, &count, "kernels", a->kernels, b->kernels);
  put_key_differences(file, &count, a, b);
  put_transports(file, &count, a, b);
  return close_text(file, &text);
}
