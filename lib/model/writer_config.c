// SPDX-License-Identifier: MIT
/* What config.json says of the weights that are written. It is read back by the rows of
 * quantization.c, and what these make of it is what the tensors are written by. */
#include "model/writer.h"

#include "base/base.h"
#include "model/json.h"
#include <stdlib.h>
#include <string.h>

static moecl_status no_memory(const writer *w) {
  return log_error(&w->checkpoint->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
}

static const desc_format *format_of(const writer *w) { return &desc_formats[w->params->format]; }

static const char *strategy_of(const desc_format *format) {
  if (format->scale == ELEMENT_NONE) return "tensor";
  if (!format->block) return "channel";
  return format->matrix_scale ? "tensor_group" : "group";
}

static const char *layout_of(const desc_format *format) {
  switch (format->element) {
  case ELEMENT_INT8: /* weights alone; "int-quantized" is of 8-bit activations, too, to others */
  case ELEMENT_INT4: return "pack-quantized";
  case ELEMENT_E4M3: return "float-quantized";
  default: return format->matrix_scale ? "nvfp4-pack-quantized" : "mxfp4-pack-quantized";
  }
}

/* compressed-tensors: what its library reads. */
static json_t *compressed(const desc_format *format, bool searched) {
  const bool is_int = format->element == ELEMENT_INT8 || format->element == ELEMENT_INT4;
  const char *layout = layout_of(format);
  json_t *group_size = format->block ? json_integer(format->block) : json_null();
  json_t *weights =
      json_pack("{s:i, s:s, s:b, s:s, s:o, s:n, s:b, s:n, s:s}", "num_bits", (int)format->bits,
                "type", is_int ? "int" : "float", "symmetric", !format->zero_points, "strategy",
                strategy_of(format), "group_size", group_size, "block_structure", "dynamic", 0,
                "actorder", "observer", searched ? "mse" : "minmax");
  json_t *group = json_pack("{s:[s], s:o, s:n, s:n, s:s}", "targets", "Linear", "weights", weights,
                            "input_activations", "output_activations", "format", layout);
  return json_pack("{s:s, s:s, s:s, s:{s:o}, s:[], s:n, s:n}", "quant_method", "compressed-tensors",
                   "format", layout, "quantization_status", "compressed", "config_groups",
                   "group_0", group, "ignore", "kv_cache_scheme", "global_compression_ratio");
}

static json_t *make_config(const writer *w) {
  const desc_format *format = format_of(w);
  const char *type = moecl_checkpoint_model_type(w->checkpoint);
  if (format->scale_rows > 1) /* DeepSeek-V3's */
    return json_pack("{s:s, s:s, s:s, s:[i,i], s:[]}", "quant_method", "fp8", "fmt", "e4m3",
                     "activation_scheme", "dynamic", "weight_block_size", (int)format->scale_rows,
                     (int)format->block, "modules_to_not_convert");
  if (format->scale == ELEMENT_E8M0 && type && strcmp(type, "gpt_oss") == 0)
    return json_pack("{s:s, s:[]}", "quant_method", "mxfp4", "modules_to_not_convert");
  return compressed(format, w->params->scale_search != MOECL_SCALE_SEARCH_NONE);
}

moecl_status writer_config_make(writer *w) {
  const moecl_checkpoint *checkpoint = w->checkpoint;
  w->config = make_config(w);
  json_t *root = w->config ? json_pack("{s:O}", "quantization_config", w->config) : NULL;
  if (!root) return no_memory(w);
  moecl_status status = model_quantization_read(&checkpoint->log, checkpoint->config_path, root,
                                                root, &w->quantization);
  json_decref(root);
  if (status != MOECL_OK) return status;
  const model_quantization *q = &w->quantization;
  if (!q->refused && q->num_groups == 1 && q->groups[0].format == w->params->format)
    return MOECL_OK;
  return log_error(&checkpoint->log, MOECL_ERROR_UNSUPPORTED,
                   "%s: no scheme of published files has weights in %s", checkpoint->folder,
                   moecl_format_name(w->params->format));
}

/* ---- what is left as it is ---- */

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

/* An expression for the module: its name, each number in it any number. */
static void add_expression(base_text *text, const char *name, size_t size) {
  base_text_add(text, "re:", 3);
  for (size_t i = 0; i < size; i++) {
    const bool begins = i == 0 || name[i - 1] == '.';
    size_t digits = 0;
    while (begins && i + digits < size && is_digit(name[i + digits])) digits++;
    if (digits > 0 && (i + digits == size || name[i + digits] == '.')) {
      base_text_add(text, "\\d+", 3);
      i += digits - 1;
    } else if (name[i] == '.') base_text_add(text, "\\.", 2);
    else base_text_add(text, name + i, 1);
  }
  base_text_add(text, "$", 1);
}

/* The module of a matrix that is no expert's; false: it is none. */
static bool is_left(const writer *w, const moecl_safetensors_tensor *tensor, size_t *size) {
  const size_t length = strlen(tensor->name);
  *size = length - 7;
  return tensor->rank == 2 && length > 7 && strcmp(tensor->name + *size, ".weight") == 0 &&
         !writer_find(w, tensor->name);
}

/* The expressions of what is quantized: a layer that is not, behind those that config.json counts,
 * may have tensors of the same names. */
static json_t *expressions_of_experts(const writer *w) {
  json_t *all = json_object();
  for (size_t i = 0; all && i < w->count; i++) {
    base_text text = {0};
    const char *name = w->matrices[i].name;
    const size_t length = strlen(name);
    const bool is_weight = length > 7 && strcmp(name + length - 7, ".weight") == 0;
    add_expression(&text, name, is_weight ? length - 7 : length);
    if (text.failed || json_object_set_new(all, text.data, json_true())) {
      json_decref(all);
      all = NULL;
    }
    base_text_free(&text);
  }
  return all;
}

/* In words where it is an expression that says `experts`' names, too. */
static moecl_status add_left(const writer *w, const char *name, size_t size, const json_t *experts,
                             json_t *known, json_t *list) {
  base_text text = {0};
  if (experts) add_expression(&text, name, size);
  if (!experts || (!text.failed && json_object_get(experts, text.data))) {
    base_text_free(&text);
    base_text_add(&text, name, size);
  }
  int failed = text.failed;
  if (!failed && !json_object_get(known, text.data))
    failed = json_object_set_new(known, text.data, json_true()) ||
             json_array_append_new(list, json_string(text.data));
  base_text_free(&text);
  return failed ? no_memory(w) : MOECL_OK;
}

moecl_status writer_config_ignore(writer *w) {
  json_t *expressions = json_object_get(w->config, "ignore");
  json_t *list = expressions ? expressions : json_object_get(w->config, "modules_to_not_convert");
  json_t *known = json_object(), *experts = expressions ? expressions_of_experts(w) : NULL;
  moecl_status status = known && (experts || !expressions) ? MOECL_OK : no_memory(w);
  for (size_t s = 0; status == MOECL_OK && s < w->checkpoint->num_shards; s++) {
    const moecl_safetensors *file = w->checkpoint->shards[s].file;
    for (size_t t = 0; status == MOECL_OK && t < moecl_safetensors_count(file); t++) {
      const moecl_safetensors_tensor *tensor = moecl_safetensors_at(file, t);
      size_t size;
      if (is_left(w, tensor, &size)) status = add_left(w, tensor->name, size, experts, known, list);
    }
  }
  json_decref(known);
  json_decref(experts);
  return status;
}

/* ---- files ---- */

static moecl_status write_json(const writer *w, const char *name, const json_t *root) {
  char *path = writer_path(w, name), *text = json_to_text(root, true);
  moecl_status status = path && text ? MOECL_OK : no_memory(w);
  if (status == MOECL_OK && base_file_write_atomic(path, text, strlen(text)) != MOECL_OK)
    status = log_error(&w->checkpoint->log, MOECL_ERROR_IO, "%s: could not be written", path);
  free(path);
  free(text);
  return status;
}

static moecl_status write_index(const writer *w) {
  json_t *index = json_copy(w->checkpoint->index);
  json_t *metadata = index ? json_copy(json_object_get(index, "metadata")) : NULL;
  if (index && !metadata) metadata = json_object();
  const int failed =
      !index || !metadata ||
      json_object_set_new(metadata, "total_size", json_integer((json_int_t)w->total)) ||
      json_object_set(index, "metadata", metadata) ||
      json_object_set(index, "weight_map", w->weight_map);
  const moecl_status status =
      failed ? no_memory(w) : write_json(w, "model.safetensors.index.json", index);
  json_decref(metadata);
  json_decref(index);
  return status;
}

moecl_status writer_config_write(writer *w) {
  if (w->checkpoint->index) MOECL_TRY(write_index(w));
  json_t *root = json_copy(w->checkpoint->config);
  const moecl_status status = !root || json_object_set(root, "quantization_config", w->config) != 0
                                  ? no_memory(w)
                                  : write_json(w, "config.json", root);
  json_decref(root);
  return status;
}
