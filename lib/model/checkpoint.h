// SPDX-License-Identifier: MIT
/* A checkpoint as lib/model's parts share it. */
#ifndef MOECL_LIB_MODEL_CHECKPOINT_H
#define MOECL_LIB_MODEL_CHECKPOINT_H

#include "model/describe.h"
#include "moecl/checkpoint.h"

typedef struct model_shard {
  char *path;
  moecl_safetensors *file; /* NULL: not opened yet */
} model_shard;

/* Where the index says a tensor is. */
typedef struct model_entry {
  const char *name;
  size_t shard;
} model_entry;

struct moecl_checkpoint {
  moecl_log log;
  char *folder;
  char *config_path;
  json_t *config;
  char *index_path; /* NULL: a single file */
  json_t *index;    /* NULL: not read yet */
  model_description description;
  model_shard *shards;
  size_t num_shards;
  model_entry *entries; /* of the index, by name */
  size_t num_entries;
  char **prefixes; /* per layer, as found in the files or the first alternative */
};

/* The name that the alternatives of `pattern` behind the layer's prefix make and
 * that is in the files, else the first of them; malloc'ed, NULL without memory.
 * *tensor is NULL if there is none. */
moecl_status model_find(moecl_checkpoint *checkpoint, const model_layer *layer, const char *pattern,
                        int64_t expert, char **name, const moecl_safetensors **file,
                        const moecl_safetensors_tensor **tensor);

/* All tensors' names, in order, of the index or the one file, which has been opened:
 * the number of the first that does not come before `name`, and name and file of
 * number `i`; NULL after the last. */
size_t model_first_name(const moecl_checkpoint *checkpoint, const char *name);
const char *model_name_at(const moecl_checkpoint *checkpoint, size_t i, const char **file);

/* weights.c: a tensor [rows, columns] (columns 0: a vector) by its pattern behind the layer's
 * prefix, converted to `dtype`; or only whether it is there as it should be. Errors as
 * moecl_checkpoint_read's. */
moecl_status model_read_whole(moecl_checkpoint *checkpoint, const model_layer *layer,
                              const char *pattern, int64_t rows, int64_t columns, moecl_dtype dtype,
                              void *values);
moecl_status model_check_whole(moecl_checkpoint *checkpoint, const model_layer *layer,
                               const char *pattern, int64_t rows, int64_t columns);

/* Sets the layer's stored_format and remark: the format that all its experts' matrices are stored
 * in, by those of the first expert and of the shared one. Missing ones are left to who reads. */
moecl_status model_find_format(moecl_checkpoint *checkpoint, int64_t index);

/* Whether the files call a network's tensors as usual or as `other` does. */
moecl_status model_find_ffn(moecl_checkpoint *checkpoint, const model_layer *layer,
                            const family_ffn *usual, const family_ffn *other,
                            const family_ffn **ffn);
/* Likewise of the layer's experts, or of its dense network. */
moecl_status model_find_experts(moecl_checkpoint *checkpoint, const model_layer *layer,
                                const family_ffn **ffn);

#endif
