// SPDX-License-Identifier: MIT
/* config.json, asked through short expressions that the families' rows are made
 * of:
 *
 *   intermediate_size                 a key; one in a section as section.key
 *   num_experts|num_local_experts     the first key that is there and not null
 *   num_experts_per_tok=2             a default, where the key is not there
 *   n_shared_experts=2:0              the same, and what null means
 *   n_group:0                         null and no key mean the same
 *   n_shared_experts=0*moe_intermediate_size
 *                                     *, / and - from left to right
 *   1                                 a constant
 *
 * A null that is given no meaning is refused. true counts as 1 and false as 0; of a list, the
 * layer's element is taken. */
#ifndef MOECL_LIB_MODEL_CONFIG_H
#define MOECL_LIB_MODEL_CONFIG_H

#include "base/log.h"
#include <jansson.h>

typedef struct model_config {
  const moecl_log *log;
  const char *path;   /* for messages */
  const char *family; /* likewise */
  json_t *root;       /* where keys are looked up: the whole, or its text_config */
  int64_t layer;      /* whose elements of lists count */
} model_config;

/* Each is MOECL_ERROR_IO, logged, where a key is missing that has no default, or
 * has a value of another kind. NULL or "" is 0, false or NULL. */
moecl_status config_number(const model_config *config, const char *expression, double *value);
/* A whole number from `min` to `max`. */
moecl_status config_integer(const model_config *config, const char *expression, int64_t min,
                            int64_t max, int64_t *value);
moecl_status config_flag(const model_config *config, const char *expression, bool *value);
/* Keys with an optional default, no arithmetic; `buffer` keeps the default. */
moecl_status config_text(const model_config *config, const char *expression, char *buffer,
                         size_t size, const char **value);
/* The value of the first key that is there and not null; else NULL. */
json_t *config_find(const model_config *config, const char *keys, size_t size);

/* Keys with values that nothing here can compute: "use_bias|hidden_act=silu" refuses
 * each that is there, not null, and other than what is named; without a name than false
 * and 0.
 * Errors: MOECL_ERROR_UNSUPPORTED. */
moecl_status config_refuse(const model_config *config, const char *rules);

#endif
