// SPDX-License-Identifier: MIT
#include "experiment/effects.h"
#include "base/list.h"

/* What the key needs, as a message says it: "'activation: a', b or c". */
static const char *need_text(const schema_need *need, char *text, size_t size) {
  const schema_key *key = schema_get(need->key);
  const char *name = schema_param(key);
  if (need->any) {
    snprintf(text, size, "a number for %s", key->name);
    return text;
  }
  if (key->type == TYPE_BOOL) {
    snprintf(text, size, "'%s: %s'", name, need->choice ? "true" : "false");
    return text;
  }
  int left = 0;
  size_t used = 0;
  for (int i = 0; i < key->num_choices; i++) left += schema_meets(need, i);
  for (int i = 0; i < key->num_choices && used < size; i++) {
    if (!schema_meets(need, i)) continue;
    used += used == 0 ? (size_t)snprintf(text, size, "'%s: %s'", name, key->choice(i))
                      : (size_t)snprintf(text + used, size - used, "%s%s",
                                         left == 1 ? " or " : ", ", key->choice(i));
    left--;
  }
  return text;
}

static bool is_met(const settings *settings, const schema_need *need) {
  const setting *other = &settings->keys[need->key];
  for (size_t i = 0; i < other->count; i++)
    if (!other->values[i].null && schema_meets(need, other->values[i].integer)) return true;
  return false;
}

/* An offloading placement is of one device, and needs no members. */
static bool offloads(const settings *settings, schema_id id) {
  const schema_need offload = {KEY_PARALLEL_PLACEMENT, false, PARALLEL_OFFLOAD, NULL};
  return id == KEY_PARALLEL_PLACEMENT && is_met(settings, &offload);
}

/* Is the key of members, which no placement that is asked for has? */
static bool lacks_members(const settings *settings, const schema_key *key) {
  const setting *placement = &settings->keys[KEY_PARALLEL_PLACEMENT];
  if (key->needs[0].key != KEY_PARALLEL_EXPERTS) return false;
  for (size_t i = 0; i < placement->count; i++)
    if (placement->values[i].integer != PARALLEL_OFFLOAD) return false;
  return placement->count > 0;
}

/* It says who has which experts, or which of them are replicated. */
static void check_placement_file(const settings *settings, problems *warnings) {
  const setting *file = &settings->keys[KEY_PARALLEL_PLACEMENT_FILE];
  const setting *replicas = &settings->keys[KEY_PARALLEL_REPLICAS];
  const schema_need by_file = {KEY_PARALLEL_PLACEMENT, false, PARALLEL_FROM_FILE, NULL};
  bool is_read = is_met(settings, &by_file);
  for (size_t i = 0; i < replicas->count; i++) is_read = is_read || replicas->values[i].integer > 0;
  if (!is_read)
    problem_add(warnings, file->mark,
                "warning: parallel.placement_file has no effect without 'placement: file' or a "
                "number of parallel.replicas");
}

static void check_needs(const settings *settings, schema_id id, problems *warnings) {
  char text[512];
  const schema_key *key = schema_get(id);
  const setting *s = &settings->keys[id];
  if (!s->given || (s->count == 1 && s->values[0].null) || offloads(settings, id)) return;
  if (lacks_members(settings, key)) {
    problem_add(warnings, s->mark, "warning: %s has no effect with 'placement: offload'",
                key->name);
    return;
  }
  if (id == KEY_PARALLEL_PLACEMENT_FILE) check_placement_file(settings, warnings);
  for (size_t i = 0; i < sizeof key->needs / sizeof key->needs[0]; i++)
    if (key->needs[i].key != KEY_NAME && !is_met(settings, &key->needs[i]))
      problem_add(warnings, s->mark, "warning: %s has no effect without %s", key->name,
                  need_text(&key->needs[i], text, sizeof text));
}

/* Once a key, whatever came of the value. */
static void check_name(const settings *settings, schema_id id, problems *warnings) {
  char old[64];
  const schema_key *key = schema_get(id);
  if (settings->keys[id].by_old_name)
    problem_add(warnings, settings->keys[id].old_mark, "warning: %s is now called %s",
                schema_old_name(key, old, sizeof old), key->name);
}

/* A round without a forward would be none. */
static void check_rounds(const settings *settings, problems *warnings) {
  const setting *rounds = &settings->keys[KEY_ROUNDS];
  const int64_t iterations = settings->keys[KEY_ITERATIONS].values[0].integer;
  if (rounds->given && !rounds->values[0].null && rounds->values[0].integer > iterations)
    problem_add(warnings, rounds->mark,
                "warning: measure.rounds: more than measure.iterations (%lld), which is how many "
                "there will be",
                (long long)iterations);
}

static int64_t count_items(const char *list) {
  int64_t count = 0;
  size_t length;
  for (const char *at = list; (at = list_next(at, &length)) != NULL; at += length) count++;
  return count;
}

/* Members take devices in turns, from the first. */
static void check_devices(const settings *settings, problems *warnings) {
  const setting *devices = &settings->keys[KEY_PARALLEL_DEVICES];
  const setting *experts = &settings->keys[KEY_PARALLEL_EXPERTS];
  int64_t named = 0, members = 0;
  for (size_t i = 0; i < devices->count; i++) {
    const int64_t items = devices->values[i].null ? 0 : count_items(devices->values[i].text);
    if (items > named) named = items;
  }
  for (size_t i = 0; i < experts->count; i++)
    if (!experts->values[i].null && experts->values[i].integer > members)
      members = experts->values[i].integer;
  if (members > 0 && named > members)
    problem_add(warnings, devices->mark,
                "warning: devices: %lld are named for at most %lld members (parallel.experts): the "
                "last ones are not used",
                (long long)named, (long long)members);
}

void effects_check(const settings *settings, problems *warnings) {
  check_rounds(settings, warnings);
  check_devices(settings, warnings);
  for (int id = 0; id < KEY_COUNT; id++) {
    check_name(settings, (schema_id)id, warnings);
    check_needs(settings, (schema_id)id, warnings);
  }
}
