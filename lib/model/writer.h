// SPDX-License-Identifier: MIT
/* moecl_checkpoint_quantize: a model folder with experts in another format. writer.c has the shards
 * and the other files, writer_config.c what config.json says of them. */
#ifndef MOECL_LIB_MODEL_WRITER_H
#define MOECL_LIB_MODEL_WRITER_H

#include "model/encoded.h"

/* A tensor of the source, an expert's matrix or those of all. */
typedef struct written {
  const char *name;  /* the source's */
  model_coded coded; /* group and want: all rows of the file */
  moecl_dtype dtype;
} written;

typedef struct writer {
  moecl_checkpoint *checkpoint;
  const moecl_checkpoint_quantize_params *params;
  const char *folder; /* that is written */
  json_t *config;     /* quantization_config */
  model_quantization quantization;
  written *matrices; /* by name */
  size_t count, capacity;
  json_t *weight_map; /* of the index */
  uint64_t total;     /* bytes of all tensors */
} writer;

/* The tensor's; NULL: it is copied. */
const written *writer_find(const writer *writer, const char *name);
/* folder/name of what is written, malloc'ed; NULL without memory. */
char *writer_path(const writer *writer, const char *name);

/* Sets config and quantization, of the format's files. What cannot be expressed is
 * MOECL_ERROR_UNSUPPORTED, logged. */
moecl_status writer_config_make(writer *writer);
/* Names all other matrices, once the experts' are known. */
moecl_status writer_config_ignore(writer *writer);
/* Writes config.json, and the index where the source has one. */
moecl_status writer_config_write(writer *writer);

#endif
