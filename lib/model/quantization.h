// SPDX-License-Identifier: MIT
/* What config.json says of quantized weights (`quantization_config`), by rows of data: how a
 * scheme's tensors are called and lie in the files, and which format its numbers are.
 * CONTRIBUTING.md says how to add a row. */
#ifndef MOECL_LIB_MODEL_QUANTIZATION_H
#define MOECL_LIB_MODEL_QUANTIZATION_H

#include "base/log.h"
#include "desc/format.h"
#include <jansson.h>

/* How numbers of 8 or 4 bits lie in a tensor: `unit` bits (8, or 32 for I32) hold as many
 * neighbours as fit, the first in the lowest bits. */
typedef struct model_packing {
  int unit;
  bool transposed;      /* [columns, rows] instead of [rows, columns] */
  bool along_rows;      /* the neighbours in a unit are of one column, not of one row */
  bool in_blocks;       /* [rows, columns / 32, 16], as gpt-oss counts its bytes */
  const uint8_t *lanes; /* where in a unit each neighbour is; NULL: in order */
} model_packing;

/* A row. Suffixes stand behind the name of a module, which is that of the family's pattern without
 * ".weight". Expressions are config.h's, of `quantization_config`, or where there are
 * `config_groups` of a group's `weights`; "=a" is the text a whatever config.json says. */
typedef struct model_scheme {
  const char *method;     /* quant_method */
  const char *when;       /* "key=a": a text, by default a, */
  const char *is;         /* that must be this one; looked for in the group and around it */
  const char *type;       /* "int" or "float" */
  const char *bits;       /* of a code */
  const char *strategy;   /* what shares a scale: "tensor", "channel" (a row), "block", "group" or
                             "tensor_group" */
  const char *group_size; /* neighbours in a row; -1: all of them */
  const char *block;      /* key of a list, rows and columns; the row is of files that have it */
  const char *symmetric;  /* a flag: no zero points */
  const char *expected;   /* "key=a": a text that must be this one, if it is there */
  const char *codes, *scales; /* suffixes; scales of the tensor, too */
  const char *zero_points, *matrix_scale, *group_index, *shape;
  const char *unread;     /* suffixes of what is there and not used: scales of activations */
  const char *code_types; /* as the files name them */
  model_packing packing, zero_packing; /* scales are transposed as codes are */
  bool offset_binary;                  /* int8 codes are those plus 128 */
  int zero_offset;                     /* a zero point is that more than what is stored */
  bool reciprocal;                     /* the tensor's scale is what is divided by */
} model_scheme;

/* A scheme with the format that its numbers are, and the modules it is of. */
typedef struct model_quantized_group {
  const model_scheme *scheme;
  moecl_format format;
  json_t *targets; /* names, "re:" expressions and classes; NULL: all. In the JSON's memory */
} model_quantized_group;

/* The type that the format's codes have in the scheme's files; NULL: it has others. */
const char *model_code_types(const model_scheme *scheme, const desc_format *format);

enum { MODEL_MAX_GROUPS = 16 };

typedef struct model_quantization {
  const char *method; /* in the JSON's memory; NULL: nothing is quantized */
  model_quantized_group groups[MODEL_MAX_GROUPS];
  size_t num_groups;
  const char *activations; /* a key that asks for quantized activations, which layers are not given
                              by themselves; NULL: none does */
  char *refused;           /* why none of it can be read; NULL: it can */
} model_quantization;

/* `path` names config.json in messages; `section` is where the text model's keys are. What cannot
 * be served is said in `refused`, for who reads a quantized tensor: the model may have others.
 * Errors: MOECL_ERROR_OUT_OF_HOST_MEMORY. */
moecl_status model_quantization_read(const moecl_log *log, const char *path, json_t *root,
                                     json_t *section, model_quantization *quantization);
void model_quantization_free(model_quantization *quantization);

/* Is module `name` one of the group's? *known false: an expression cannot be read here. */
bool model_group_has(const model_quantized_group *group, const char *name, bool *known);

#endif
