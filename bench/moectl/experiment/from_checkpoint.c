// SPDX-License-Identifier: MIT
#include "experiment/from_checkpoint.h"

#include "base/files.h"
#include "experiment/value.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* What may be changed about a layer whose weights are given. */
static bool may_change(schema_id id) { return (schema_get(id)->flags & WITH_CHECKPOINT) != 0; }

/* The value that the checkpoint's layer has, as YAML writes it. */
static bool stored_value(const schema_key *key, const experiment_point *point, char text[32],
                         value *stored, problems *problems) {
  schema_key filled = *key;
  filled.default_text = schema_point_text(key, point, text, 32);
  return value_default(&filled, stored, problems);
}

/* A key beside the checkpoint may say the same: recorded experiments do. */
static void check_given(schema_id id, const setting *s, const value *stored, const char *text,
                        problems *problems) {
  const schema_key *key = schema_get(id);
  for (size_t i = 0; i < s->count && !may_change(id); i++)
    if (!value_equal(key, &s->values[i], stored)) {
      problem_add(problems, s->mark, "%s: the checkpoint's layer has %s, expected that or nothing",
                  key->name, text);
      return;
    }
}

static void fill(schema_id id, const experiment_point *point, setting *s, problems *problems) {
  char text[32];
  value stored;
  if (!stored_value(schema_get(id), point, text, &stored, problems)) return;
  if (s->given) {
    check_given(id, s, &stored, text, problems);
    value_free(&stored);
    return;
  }
  s->values = malloc(sizeof *s->values);
  if (s->values == NULL) {
    problem_out_of_memory(problems);
    value_free(&stored);
    return;
  }
  s->values[0] = stored;
  s->count = 1;
}

/* The keys for which `is_of` holds. */
static void fill_all(settings *settings, const experiment_point *point,
                     bool (*is_of)(const schema_key *key), problems *problems) {
  for (int i = 0; i < KEY_COUNT; i++)
    if (is_of(schema_get((schema_id)i))) fill((schema_id)i, point, &settings->keys[i], problems);
}

static bool measures_blocks(const settings *settings) {
  const setting *what = &settings->keys[KEY_WHAT];
  for (size_t i = 0; i < what->count; i++)
    if (what->values[i].integer == WHAT_BLOCK) return true;
  return false;
}

/* The layer's number, when one is given that the checkpoint has. */
static bool choose_layer(const settings *settings, checkpoint_source *source, problems *problems) {
  const setting *layer = &settings->keys[KEY_CHECKPOINT_LAYER];
  const int64_t count = moecl_checkpoint_num_layers(source->checkpoint);
  if (layer->given && layer->count == 0) return false; /* reported */
  const bool given = layer->given && !layer->values[0].null;
  if (given && layer->values[0].integer < count) {
    source->layer = layer->values[0].integer;
    return true;
  }
  problem_add(problems, given ? layer->mark : settings->layer_mark,
              "layer.layer%s; expected 0 to %" PRId64 ", the checkpoint's layers",
              given ? ": there is no such one" : " is missing", count - 1);
  return false;
}

static bool open_source(const settings *settings, const char *folder, checkpoint_source *source,
                        experiment_point *point, problems *problems) {
  moecl_checkpoint_layer layer;
  moecl_block_params block;
  const bool blocks = measures_blocks(settings);
  /* The experiment reports a message at its place, a run with the point that failed. */
  moecl_status status =
      moecl_checkpoint_open(folder, keep_error, &source->message, &source->checkpoint);
  if (status == MOECL_OK) {
    if (!choose_layer(settings, source, problems)) return false;
    status = moecl_checkpoint_get_layer(source->checkpoint, source->layer, &layer);
    if (status == MOECL_OK && blocks)
      status = moecl_checkpoint_get_block(source->checkpoint, source->layer, &block);
    if (status == MOECL_OK)
      status = blocks ? moecl_checkpoint_check_block(source->checkpoint, source->layer)
                      : moecl_checkpoint_check(source->checkpoint, source->layer);
  }
  if (status == MOECL_OK) {
    point->layer = layer.params;
    if (blocks) point->block = experiment_block_of(&block);
    return true;
  }
  problem_add(problems, settings->keys[KEY_CHECKPOINT].mark, "layer.checkpoint: %s",
              source->message ? source->message : moecl_status_string(status));
  return false;
}

void from_checkpoint(settings *settings, const char *folder, checkpoint_source **source,
                     problems *problems) {
  const setting *layer = &settings->keys[KEY_CHECKPOINT_LAYER];
  *source = NULL;
  if (folder == NULL) {
    const setting *named = &settings->keys[KEY_CHECKPOINT];
    if (named->given && named->count == 0) return; /* reported */
    if (layer->given && layer->count > 0 && !layer->values[0].null)
      problem_add(problems, layer->mark,
                  "layer.layer: is the number of a layer of layer.checkpoint; expected that "
                  "beside it");
    return;
  }
  experiment_point stored = {0};
  *source = calloc(1, sizeof **source);
  if (*source == NULL) {
    problem_out_of_memory(problems);
    return;
  }
  if (!open_source(settings, folder, *source, &stored, problems)) {
    checkpoint_source_destroy(source);
    return;
  }
  fill_all(settings, &stored, schema_is_of_layer, problems);
  if (measures_blocks(settings)) fill_all(settings, &stored, schema_is_of_block, problems);
}

void checkpoint_source_destroy(checkpoint_source **source) {
  if (*source == NULL) return;
  moecl_checkpoint_destroy(&(*source)->checkpoint);
  free((*source)->message);
  free(*source);
  *source = NULL;
}
