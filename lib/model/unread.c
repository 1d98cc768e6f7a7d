// SPDX-License-Identifier: MIT
/* A tensor that the files have of a layer's feed-forward network and that nothing
 * reads is a part of its function which no member of the family's row describes: a
 * bias, a scale, another expert. */
#include "model/unread.h"

#include "base/base.h"
#include "model/checkpoint.h"
#include <stdlib.h>
#include <string.h>

static int by_name(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Does `tail` begin as one of the pattern's alternatives, up to the first dot? */
static bool begins_as(const char *tail, const char *pattern) {
  for (const char *at = pattern; at; at = strchr(at, '|')) {
    at += *at == '|';
    const size_t size = strcspn(at, ".|");
    if (at[size] == '.' && strncmp(tail, at, size + 1) == 0) return true;
  }
  return false;
}

static bool begins_as_ffn(const char *tail, const family_ffn *ffn) {
  return begins_as(tail, ffn->gate) || begins_as(tail, ffn->up) || begins_as(tail, ffn->gate_up) ||
         begins_as(tail, ffn->down);
}

/* Does a name's first part sound like a part of the network? Norms before and after it
 * are the block's. */
static bool sounds_like_ffn(const char *tail) {
  static const char *const words[] = {"router", "expert",       "moe",         "mlp",
                                      "ffn",    "feed_forward", "feedforward", "shared"};
  char first[64];
  const size_t size = strcspn(tail, ".");
  if (size >= sizeof first) return false;
  memcpy(first, tail, size);
  first[size] = '\0';
  if (strstr(first, "norm")) return false;
  for (size_t i = 0; i < sizeof words / sizeof *words; i++)
    if (strstr(first, words[i])) return true;
  return false;
}

/* Is it the feed-forward network's? A prefix that ends after the layer's number is of
 * attention and norms too; any other one is of the network alone. */
static bool is_of_ffn(const family *family, const char *prefix, const char *tail) {
  const size_t size = strlen(prefix);
  const bool whole_layer = size >= 2 && prefix[size - 2] >= '0' && prefix[size - 2] <= '9';
  if (whole_layer && begins_as(tail, family->beside)) return false;
  return !whole_layer || sounds_like_ffn(tail) || begins_as(tail, family->router) ||
         begins_as_ffn(tail, &family->experts) || begins_as_ffn(tail, &family->shared) ||
         begins_as_ffn(tail, &family->dense) || begins_as_ffn(tail, &family->other_experts) ||
         begins_as_ffn(tail, &family->other_shared) || begins_as_ffn(tail, &family->other_dense);
}

/* Is `tail` one of the pattern's alternatives, with an identity expert's number? */
static bool is_of_identity(const char *tail, const char *pattern,
                           const moecl_layer_params *params) {
  for (const char *at = pattern; at; at = strchr(at, '|')) {
    at += *at == '|';
    const char *number = strstr(at, "{expert}");
    const size_t head = number ? (size_t)(number - at) : 0, size = strcspn(at, "|");
    if (!number || head > size || strncmp(tail, at, head) != 0) continue;
    char *rest;
    const long long expert = strtoll(tail + head, &rest, 10);
    const size_t behind = size - head - strlen("{expert}");
    if (expert >= params->num_experts - params->num_identity_experts &&
        expert < params->num_experts && strlen(rest) == behind &&
        memcmp(rest, number + strlen("{expert}"), behind) == 0)
      return true;
  }
  return false;
}

/* transformers makes and saves gate and up of identity experts, too, and uses them no
 * more than it is done here. */
static bool is_idle(const family *family, const model_layer *layer, const char *tail) {
  const moecl_layer_params *params = &layer->params;
  return is_of_identity(tail, family->experts.gate, params) ||
         is_of_identity(tail, family->experts.up, params);
}

moecl_status model_check_unread(const moecl_checkpoint *checkpoint, const model_layer *layer,
                                const char *prefix, const char **read, size_t count) {
  const family *family = checkpoint->description.family;
  const size_t size = strlen(prefix);
  if (count > 0) qsort(read, count, sizeof *read, by_name);
  for (size_t i = model_first_name(checkpoint, prefix);; i++) {
    const char *file, *name = model_name_at(checkpoint, i, &file);
    if (!name || strncmp(name, prefix, size) != 0) return MOECL_OK;
    if (!is_of_ffn(family, prefix, name + size) || is_idle(family, layer, name + size)) continue;
    if (count > 0 && bsearch(&name, read, count, sizeof *read, by_name)) continue;
    return log_error(&checkpoint->log, MOECL_ERROR_UNSUPPORTED,
                     "%s: tensor '%.300s' is of layer %lld's feed-forward network, and family %s "
                     "does not know what it is for",
                     file, name, (long long)layer->number, family->name);
  }
}
