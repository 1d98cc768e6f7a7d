// SPDX-License-Identifier: MIT
/* A matrix that the files have as codes with scales: its tensors by the scheme's row, its bytes in
 * the layout of moecl_format, its numbers. */
#ifndef MOECL_LIB_MODEL_CODED_H
#define MOECL_LIB_MODEL_CODED_H

#include "model/want.h"

typedef enum coded_part {
  CODED_CODES,
  CODED_SCALES,
  CODED_ZERO_POINTS,
  CODED_MATRIX_SCALE,
  CODED_GROUP_INDEX,
  CODED_SHAPE,
  CODED_PARTS
} coded_part;

enum { CODED_MAX_NAMES = CODED_PARTS + 4 };

typedef struct model_coded {
  const model_quantized_group *group; /* NULL: none, it is a plain tensor or there is none */
  model_want want;
  const moecl_safetensors *file[CODED_PARTS];
  const moecl_safetensors_tensor *tensor[CODED_PARTS]; /* NULL: it has no such part */
  const char *names[CODED_MAX_NAMES];                  /* of all, also of those that are not used */
  size_t num_names;
} model_coded;

/* Whether the matrix is stored so, and where. Errors as moecl_checkpoint_check's, of parts that are
 * missing, of other shapes or types. */
moecl_status model_find_coded(moecl_checkpoint *checkpoint, const model_layer *layer,
                              const model_want *want, model_coded *coded);

/* The shape that a part has, of a matrix whose group and want are set; without experts. */
int model_part_shape(const model_coded *coded, coded_part part, int64_t shape[3]);

/* How a matrix is stored, said without an error whatever it is. */
typedef struct model_stored {
  const moecl_safetensors_tensor *tensor; /* plain elements, or codes; NULL: there is none */
  char *name;                             /* malloc'ed: of that, or as it would be called */
  const char *suffix;                     /* of codes: what stands instead of ".weight" */
  moecl_format format;                    /* of codes; MOECL_FORMAT_DTYPE: plain, or not known */
  bool mixed_groups;                      /* columns are not in the order of their groups */
} model_stored;
moecl_status model_look_at_stored(moecl_checkpoint *checkpoint, const model_layer *layer,
                                  const model_want *want, model_stored *stored);

/* The matrix as `coded`'s format has it: codes and scales as they are in the files. Errors, each
 * naming file and tensor: MOECL_ERROR_IO (codes or scales that are not numbers),
 * MOECL_ERROR_UNSUPPORTED (a scale that the format cannot hold; columns that are not in the order
 * of their groups). */
moecl_status model_read_codes(moecl_checkpoint *checkpoint, const model_coded *coded, void *matrix);
/* The same as numbers, each rounded once: elements of `dtype`; NULL: doubles. */
moecl_status model_read_coded(moecl_checkpoint *checkpoint, const model_coded *coded,
                              const moecl_dtype *dtype, void *values);

#endif
