// SPDX-License-Identifier: MIT
#include "model/checkpoint.h"

#include "base/base.h"
#include "model/coded.h"
#include "model/config.h"
#include "model/json.h"
#include "model/safetensors.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static moecl_status no_memory(const moecl_checkpoint *checkpoint) {
  return log_error(&checkpoint->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
}

/* folder/name, malloc'ed; NULL without memory. */
static char *path_to(const char *folder, const char *name) {
  base_text text = {0};
  const bool slash = folder[strlen(folder) - 1] == '/';
  base_text_addf(&text, "%s%s%s", folder, slash ? "" : "/", name);
  if (text.failed) base_text_free(&text);
  return text.data;
}

/* ---- the index ---- */

/* A file of the folder itself: no slash, neither "." nor "..". */
static bool is_plain_name(const char *name) {
  return *name && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static void drop_index(moecl_checkpoint *checkpoint) {
  for (size_t i = 0; i < checkpoint->num_shards; i++) {
    moecl_safetensors_destroy(&checkpoint->shards[i].file);
    free(checkpoint->shards[i].path);
  }
  free(checkpoint->shards);
  free(checkpoint->entries);
  json_decref(checkpoint->index);
  checkpoint->shards = NULL;
  checkpoint->entries = NULL;
  checkpoint->index = NULL;
  checkpoint->num_shards = checkpoint->num_entries = 0;
}

static moecl_status add_shard(moecl_checkpoint *checkpoint, const char *name) {
  model_shard *shards = realloc(checkpoint->shards, (checkpoint->num_shards + 1) * sizeof *shards);
  if (!shards) return no_memory(checkpoint);
  checkpoint->shards = shards;
  shards[checkpoint->num_shards] = (model_shard){.path = path_to(checkpoint->folder, name)};
  if (!shards[checkpoint->num_shards].path) return no_memory(checkpoint);
  checkpoint->num_shards++;
  return MOECL_OK;
}

/* `numbers` maps shard names to their numbers. */
static moecl_status shard_number(moecl_checkpoint *checkpoint, const char *path, const char *tensor,
                                 json_t *shard, json_t *numbers, size_t *number) {
  const char *name = json_string_value(shard);
  if (!name || !is_plain_name(name))
    return log_error(&checkpoint->log, MOECL_ERROR_IO,
                     "%s: tensor '%.200s': its shard is %s%.200s%s, expected the name of a file in "
                     "this folder",
                     path, tensor, name ? "'" : "no text", name ? name : "", name ? "'" : "");
  json_t *known = json_object_get(numbers, name);
  *number = known ? (size_t)json_integer_value(known) : checkpoint->num_shards;
  if (known) return MOECL_OK;
  if (json_object_set_new(numbers, name, json_integer((json_int_t)*number)) != 0)
    return no_memory(checkpoint);
  return add_shard(checkpoint, name);
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const model_entry *)a)->name, ((const model_entry *)b)->name);
}

static moecl_status add_entries(moecl_checkpoint *checkpoint, json_t *map) {
  const char *path = checkpoint->index_path;
  json_t *shard;
  checkpoint->entries = calloc(json_object_size(map) + 1, sizeof *checkpoint->entries);
  json_t *numbers = json_object();
  const char *name;
  moecl_status status = checkpoint->entries && numbers ? MOECL_OK : no_memory(checkpoint);
  if (status == MOECL_OK) json_object_foreach(map, name, shard) {
      model_entry *entry = &checkpoint->entries[checkpoint->num_entries++];
      entry->name = name;
      status = shard_number(checkpoint, path, name, shard, numbers, &entry->shard);
      if (status != MOECL_OK) break;
    }
  json_decref(numbers);
  if (status == MOECL_OK)
    qsort(checkpoint->entries, checkpoint->num_entries, sizeof *checkpoint->entries, by_name);
  return status;
}

/* Large ones have as many names as take a tenth of a second: read when the first
 * tensor is asked for. What was read of a bad one is dropped. */
static moecl_status read_index(moecl_checkpoint *checkpoint) {
  const json_limits limits = {.depth = 16, .values = 20000000};
  if (!checkpoint->index_path || checkpoint->index) return MOECL_OK;
  MOECL_TRY(
      json_read(&checkpoint->log, checkpoint->index_path, 1 << 28, limits, &checkpoint->index));
  json_t *map = json_object_get(checkpoint->index, "weight_map");
  const moecl_status status =
      json_is_object(map) ? add_entries(checkpoint, map)
                          : log_error(&checkpoint->log, MOECL_ERROR_IO,
                                      "%s: has no object 'weight_map'", checkpoint->index_path);
  if (status != MOECL_OK) drop_index(checkpoint);
  return status;
}

/* model.safetensors, else an index; which there is shows only here. */
static moecl_status find_files(moecl_checkpoint *checkpoint) {
  char *single = path_to(checkpoint->folder, "model.safetensors");
  char *index = path_to(checkpoint->folder, "model.safetensors.index.json");
  moecl_status status;
  if (!single || !index) status = no_memory(checkpoint);
  else if (access(single, F_OK) == 0) status = add_shard(checkpoint, "model.safetensors");
  else if (access(index, F_OK) == 0)
    status = (checkpoint->index_path = strdup(index)) ? MOECL_OK : no_memory(checkpoint);
  else
    status = log_error(&checkpoint->log, MOECL_ERROR_IO,
                       "%s: has neither model.safetensors nor model.safetensors.index.json",
                       checkpoint->folder);
  free(single);
  free(index);
  return status;
}

/* ---- opening ---- */

static moecl_status open_all(moecl_checkpoint *checkpoint) {
  const json_limits limits = {.depth = 64, .values = 100000, .python = true};
  checkpoint->config_path = path_to(checkpoint->folder, "config.json");
  if (!checkpoint->config_path) return no_memory(checkpoint);
  MOECL_TRY(
      json_read(&checkpoint->log, checkpoint->config_path, 1 << 24, limits, &checkpoint->config));
  MOECL_TRY(model_describe(&checkpoint->log, checkpoint->config_path, checkpoint->config,
                           &checkpoint->description));
  checkpoint->prefixes =
      calloc((size_t)checkpoint->description.num_layers, sizeof *checkpoint->prefixes);
  if (!checkpoint->prefixes) return no_memory(checkpoint);
  return find_files(checkpoint);
}

moecl_status moecl_checkpoint_open(const char *folder, moecl_log_fn log, void *log_user,
                                   moecl_checkpoint **out) {
  if (!out) return MOECL_ERROR_INVALID_ARGUMENT;
  *out = NULL;
  const moecl_log caller_log = {log, log_user};
  if (!folder || !*folder)
    return log_error(&caller_log, MOECL_ERROR_INVALID_ARGUMENT, "checkpoint: no folder is named");
  moecl_checkpoint *checkpoint = calloc(1, sizeof *checkpoint);
  if (!checkpoint) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  checkpoint->log = caller_log;
  checkpoint->folder = strdup(folder);
  const moecl_status status = checkpoint->folder ? open_all(checkpoint) : no_memory(checkpoint);
  if (status != MOECL_OK) moecl_checkpoint_destroy(&checkpoint);
  *out = checkpoint;
  return status;
}

void moecl_checkpoint_destroy(moecl_checkpoint **handle) {
  if (!handle || !*handle) return;
  moecl_checkpoint *checkpoint = *handle;
  *handle = NULL;
  drop_index(checkpoint);
  for (int64_t i = 0; checkpoint->prefixes && i < checkpoint->description.num_layers; i++)
    free(checkpoint->prefixes[i]);
  free(checkpoint->prefixes);
  model_description_free(&checkpoint->description);
  json_decref(checkpoint->config);
  free(checkpoint->config_path);
  free(checkpoint->index_path);
  free(checkpoint->folder);
  free(checkpoint);
}

/* ---- tensors by name ---- */

/* `tensor` (may be NULL) is what the shard is opened for. */
static moecl_status open_shard(moecl_checkpoint *checkpoint, size_t number, const char *tensor) {
  model_shard *shard = &checkpoint->shards[number];
  if (shard->file) return MOECL_OK;
  if (access(shard->path, F_OK) != 0)
    return log_error(&checkpoint->log, MOECL_ERROR_IO, "%s: cannot be read: %s%s%.200s%s",
                     shard->path, base_error_text(errno), tensor ? " (tensor '" : "",
                     tensor ? tensor : "", tensor ? "' is in it)" : "");
  return moecl_safetensors_open(shard->path, checkpoint->log.fn, checkpoint->log.user,
                                &shard->file);
}

moecl_status moecl_checkpoint_find(moecl_checkpoint *checkpoint, const char *name,
                                   const moecl_safetensors **file,
                                   const moecl_safetensors_tensor **tensor) {
  if (tensor) *tensor = NULL;
  if (file) *file = NULL;
  if (!checkpoint || !name || !tensor) return MOECL_ERROR_INVALID_ARGUMENT;
  size_t shard = 0;
  MOECL_TRY(read_index(checkpoint));
  if (checkpoint->index) {
    const model_entry key = {.name = name};
    const model_entry *entry =
        bsearch(&key, checkpoint->entries, checkpoint->num_entries, sizeof key, by_name);
    if (!entry) return MOECL_OK;
    shard = entry->shard;
  }
  MOECL_TRY(open_shard(checkpoint, shard, name));
  *tensor = moecl_safetensors_find(checkpoint->shards[shard].file, name);
  if (file) *file = checkpoint->shards[shard].file;
  if (*tensor || !checkpoint->index) return MOECL_OK;
  return log_error(&checkpoint->log, MOECL_ERROR_IO,
                   "%s: has no tensor '%.200s', which the index says is in it",
                   checkpoint->shards[shard].path, name);
}

const char *model_name_at(const moecl_checkpoint *checkpoint, size_t i, const char **file) {
  if (checkpoint->index) {
    if (i >= checkpoint->num_entries) return NULL;
    *file = checkpoint->shards[checkpoint->entries[i].shard].path;
    return checkpoint->entries[i].name;
  }
  const moecl_safetensors_tensor *tensor = moecl_safetensors_at(checkpoint->shards[0].file, i);
  *file = checkpoint->shards[0].path;
  return tensor ? tensor->name : NULL;
}

size_t model_first_name(const moecl_checkpoint *checkpoint, const char *name) {
  size_t first = 0, behind = checkpoint->index
                                 ? checkpoint->num_entries
                                 : moecl_safetensors_count(checkpoint->shards[0].file);
  while (first < behind) {
    const char *file;
    const size_t middle = first + (behind - first) / 2;
    if (strcmp(model_name_at(checkpoint, middle, &file), name) < 0) first = middle + 1;
    else behind = middle;
  }
  return first;
}

/* Is it a tensor of a layer after the stack's last one? */
static bool is_behind(const char *name, const family_stack *stack, int64_t num_layers) {
  for (const char *prefix = stack->prefixes; prefix; prefix = strchr(prefix, '|')) {
    prefix += *prefix == '|';
    const char *number = strstr(prefix, "{layer}");
    const size_t head = number ? (size_t)(number - prefix) : 0;
    if (!number || strncmp(name, prefix, head) != 0) continue;
    char *end;
    const long long layer = strtoll(name + head, &end, 10);
    if (end > name + head && *end == '.' && layer >= num_layers) return true;
  }
  return false;
}

static void measure(const moecl_checkpoint *checkpoint, const moecl_safetensors_tensor *tensor,
                    moecl_checkpoint_size *size) {
  const model_description *description = &checkpoint->description;
  size->bytes += tensor->bytes;
  if (!safetensors_is_real(tensor)) {
    size->other_bytes += tensor->bytes;
    return;
  }
  size->parameters += tensor->count;
  bool extra = false;
  for (int i = 0; i < 2 && description->family->stacks[i].prefixes; i++)
    extra = extra ||
            is_behind(tensor->name, &description->family->stacks[i], description->stack_layers[i]);
  if (extra) size->extra_parameters += tensor->count;
}

moecl_status moecl_checkpoint_measure(moecl_checkpoint *checkpoint, moecl_checkpoint_size *size) {
  if (!size) return MOECL_ERROR_INVALID_ARGUMENT;
  *size = (moecl_checkpoint_size){0};
  if (!checkpoint) return MOECL_ERROR_INVALID_ARGUMENT;
  moecl_checkpoint_size sum = {0};
  MOECL_TRY(read_index(checkpoint));
  for (size_t i = 0; i < checkpoint->num_shards; i++) {
    MOECL_TRY(open_shard(checkpoint, i, NULL));
    const moecl_safetensors *file = checkpoint->shards[i].file;
    for (size_t t = 0; t < moecl_safetensors_count(file); t++)
      measure(checkpoint, moecl_safetensors_at(file, t), &sum);
  }
  *size = sum;
  return MOECL_OK;
}

/* ---- tensors by pattern ---- */

/* Adds `size` characters of a pattern with {layer} and {expert} filled in. */
static void add_pattern(base_text *text, const char *pattern, size_t size, int64_t layer,
                        int64_t expert) {
  for (size_t i = 0; i < size;) {
    if (strncmp(pattern + i, "{layer}", 7) == 0) {
      base_text_addf(text, "%lld", (long long)layer);
      i += 7;
    } else if (strncmp(pattern + i, "{expert}", 8) == 0) {
      base_text_addf(text, "%lld", (long long)expert);
      i += 8;
    } else {
      base_text_add(text, pattern + i++, 1);
    }
  }
}

/* The alternatives of "a|b", one after the other; false after the last. */
static bool next_alternative(const char **at, const char **begin, size_t *size) {
  if (!*at) return false;
  *begin = *at;
  *size = strcspn(*at, "|");
  *at = (*at)[*size] ? *at + *size + 1 : NULL;
  return true;
}

static moecl_status find_one(moecl_checkpoint *checkpoint, base_text *text,
                             const moecl_safetensors **file,
                             const moecl_safetensors_tensor **tensor) {
  if (text->failed) return no_memory(checkpoint);
  return moecl_checkpoint_find(checkpoint, text->data, file, tensor);
}

moecl_status model_find(moecl_checkpoint *checkpoint, const model_layer *layer, const char *pattern,
                        int64_t expert, char **name, const moecl_safetensors **file,
                        const moecl_safetensors_tensor **tensor) {
  const char *prefixes = layer->stack->prefixes, *prefix, *part;
  char *first = NULL;
  size_t prefix_size, part_size;
  moecl_status status = MOECL_OK;
  *name = NULL;
  *tensor = NULL;
  while (status == MOECL_OK && !*tensor && next_alternative(&prefixes, &prefix, &prefix_size)) {
    const char *patterns = pattern;
    while (status == MOECL_OK && !*tensor && next_alternative(&patterns, &part, &part_size)) {
      base_text text = {0};
      add_pattern(&text, prefix, prefix_size, layer->number, expert);
      add_pattern(&text, part, part_size, layer->number, expert);
      status = find_one(checkpoint, &text, file, tensor);
      if (*tensor || !first) {
        free(first);
        first = text.data;
      } else {
        base_text_free(&text);
      }
    }
  }
  *name = first;
  return status;
}

moecl_status model_find_ffn(moecl_checkpoint *checkpoint, const model_layer *layer,
                            const family_ffn *usual, const family_ffn *other,
                            const family_ffn **ffn) {
  *ffn = usual;
  if (!other->down) return MOECL_OK;
  const model_want sign = {.pattern = other->gate_up ? other->gate_up : other->down, .columns = 1};
  model_stored stored;
  const moecl_status status = model_look_at_stored(checkpoint, layer, &sign, &stored);
  free(stored.name);
  if (status == MOECL_OK && stored.tensor) *ffn = other;
  return status;
}

moecl_status model_find_experts(moecl_checkpoint *checkpoint, const model_layer *layer,
                                const family_ffn **ffn) {
  const family *family = checkpoint->description.family;
  return layer->is_moe
             ? model_find_ffn(checkpoint, layer, &family->experts, &family->other_experts, ffn)
             : model_find_ffn(checkpoint, layer, &family->dense, &family->other_dense, ffn);
}

/* ---- layers ---- */

/* The name without what one of the pattern's alternatives adds, with the suffix of codes or
 * without (NULL); malloc'ed, NULL without memory. */
static char *prefix_of(const char *name, const char *pattern, const char *suffix, int64_t layer) {
  const size_t length = strlen(name);
  const char *part;
  size_t part_size;
  while (next_alternative(&pattern, &part, &part_size)) {
    const bool weight = part_size >= 7 && memcmp(part + part_size - 7, ".weight", 7) == 0;
    base_text tail = {0};
    add_pattern(&tail, part, part_size - (suffix && weight ? 7 : 0), layer, 0);
    base_text_addf(&tail, "%s", suffix ? suffix : "");
    const bool is_tail = !tail.failed && tail.size <= length &&
                         memcmp(name + length - tail.size, tail.data, tail.size) == 0;
    const size_t rest = length - (is_tail ? tail.size : 0);
    base_text_free(&tail);
    if (is_tail) return strndup(name, rest);
  }
  return NULL;
}

/* The type that a quantized layer's own numbers have: what config.json says, else bf16. */
static moecl_dtype config_dtype(const moecl_checkpoint *checkpoint) {
  static const char *const names[MOECL_DTYPE_COUNT] = {"float32", "float16", "bfloat16"};
  const json_t *places[] = {checkpoint->description.root, checkpoint->config};
  for (size_t p = 0; p < BASE_COUNT(places); p++)
    for (int d = 0; d < MOECL_DTYPE_COUNT; d++) {
      const char *text = json_string_value(json_object_get(places[p], "dtype"));
      if (!text) text = json_string_value(json_object_get(places[p], "torch_dtype"));
      if (text && strcmp(text, names[d]) == 0) return (moecl_dtype)d;
    }
  return MOECL_BF16;
}

static void describe_stored(const moecl_checkpoint *checkpoint, const model_layer *layer,
                            const model_stored *stored, moecl_checkpoint_layer *out) {
  const model_quantization *q = &checkpoint->description.quantization;
  out->stored_dtype = stored->tensor ? stored->tensor->dtype : NULL;
  out->params.dtype = config_dtype(checkpoint);
  if (layer->remark || stored->format != MOECL_FORMAT_DTYPE) {
    out->quantization = q->method;
    out->remark = layer->remark;
    out->activations = q->activations;
  }
  if (!moecl_safetensors_dtype(stored->tensor, &out->params.dtype))
    out->params.weight_format = layer->stored_format;
}

/* The expert tensor that says a layer's prefix and how its weights are stored. */
static moecl_status look_at_files(moecl_checkpoint *checkpoint, int64_t index,
                                  moecl_checkpoint_layer *out) {
  const model_layer *layer = &checkpoint->description.layers[index];
  const family_ffn *ffn;
  MOECL_TRY(model_find_experts(checkpoint, layer, &ffn));
  MOECL_TRY(model_find_format(checkpoint, index));
  const model_want want = {.pattern = ffn->down, .columns = 1};
  model_stored stored;
  const moecl_status status = model_look_at_stored(checkpoint, layer, &want, &stored);
  if (status == MOECL_OK && !checkpoint->prefixes[index] && stored.name)
    checkpoint->prefixes[index] = prefix_of(stored.name, ffn->down, stored.suffix, layer->number);
  if (status == MOECL_OK) describe_stored(checkpoint, layer, &stored, out);
  free(stored.name);
  if (status != MOECL_OK) return status;
  out->prefix = checkpoint->prefixes[index];
  return out->prefix ? MOECL_OK : no_memory(checkpoint);
}

moecl_status moecl_checkpoint_get_layer(moecl_checkpoint *checkpoint, int64_t index,
                                        moecl_checkpoint_layer *out) {
  if (!out) return MOECL_ERROR_INVALID_ARGUMENT;
  *out = (moecl_checkpoint_layer){0};
  if (!checkpoint) return MOECL_ERROR_INVALID_ARGUMENT;
  if (index < 0 || index >= checkpoint->description.num_layers)
    return log_error(&checkpoint->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "%s: has no layer %lld, expected 0 to %lld", checkpoint->folder,
                     (long long)index, (long long)checkpoint->description.num_layers - 1);
  const model_layer *layer = &checkpoint->description.layers[index];
  out->params = layer->params;
  out->is_moe = layer->is_moe;
  const moecl_status status = look_at_files(checkpoint, index, out);
  if (status != MOECL_OK) *out = (moecl_checkpoint_layer){0};
  return status;
}

const char *moecl_checkpoint_family(const moecl_checkpoint *checkpoint) {
  return checkpoint ? checkpoint->description.family->name : NULL;
}

const char *moecl_checkpoint_model_type(const moecl_checkpoint *checkpoint) {
  return checkpoint ? checkpoint->description.model_type : NULL;
}

int64_t moecl_checkpoint_num_layers(const moecl_checkpoint *checkpoint) {
  return checkpoint ? checkpoint->description.num_layers : 0;
}

size_t moecl_checkpoint_num_families(void) { return model_num_families(); }

const char *moecl_checkpoint_family_name(size_t index) {
  const family *family = model_family_at(index);
  return family ? family->name : NULL;
}
