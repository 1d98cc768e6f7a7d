// SPDX-License-Identifier: MIT
/* A model's feed-forward layers, from its config.json and its family's row. */
#ifndef MOECL_LIB_MODEL_DESCRIBE_H
#define MOECL_LIB_MODEL_DESCRIBE_H

#include "base/log.h"
#include "model/family.h"
#include "model/quantization.h"
#include <jansson.h>

typedef struct model_layer {
  moecl_layer_params params; /* dtype is not known yet */
  bool is_moe;
  const family_stack *stack;
  int64_t number;             /* in its stack */
  bool looked;                /* model_find_format has set the next two */
  moecl_format stored_format; /* of its experts' matrices, where it is codes with scales and they
                                 are taken as they are; else MOECL_FORMAT_DTYPE */
  char *remark;               /* why they are not, where they could be; NULL: nothing is to say */
} model_layer;

typedef struct model_description {
  const family *family;
  const char *model_type; /* in the JSON's memory */
  json_t *root;           /* likewise: where the text model's keys are */
  model_layer *layers;
  int64_t num_layers;
  model_quantization quantization;
  int64_t stack_layers[2]; /* of each stack, those without a feed-forward network too */
} model_description;

/* `path` names config.json in messages. *description is all zeros on failure.
 * Errors: MOECL_ERROR_IO, MOECL_ERROR_UNSUPPORTED (an unknown family or rule),
 * MOECL_ERROR_OUT_OF_HOST_MEMORY. */
moecl_status model_describe(const moecl_log *log, const char *path, json_t *root,
                            model_description *description);
void model_description_free(model_description *description);

#endif
