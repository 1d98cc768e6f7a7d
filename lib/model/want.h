// SPDX-License-Identifier: MIT
/* What is wanted of the files for a layer's tensor, and whether a tensor's shape is right. */
#ifndef MOECL_LIB_MODEL_WANT_H
#define MOECL_LIB_MODEL_WANT_H

#include "model/checkpoint.h"

/* `rows` of a matrix of `file_rows` rows, from `first_row` on in steps of `row_step`, which lies
 * in the file for `items` experts. */
typedef struct model_want {
  const char *pattern;
  int64_t item, items;   /* items 0: not per expert */
  int64_t rows, columns; /* columns 0: a vector */
  int64_t file_rows, first_row, row_step;
  bool transposed, flat;
} model_want;

/* What is wanted of an item of a layer's tensor, in one or two pieces; 0: zeros, from no file. */
moecl_status model_find_wants(moecl_checkpoint *checkpoint, const model_layer *layer,
                              moecl_tensor tensor, int64_t item, model_want wants[2], int *count);
/* A matrix of experts, routed or shared? */
bool model_is_projection(moecl_tensor tensor);

/* Is it one of the experts that lie in one tensor? */
bool model_is_stacked(const model_want *want);

enum { MODEL_MAX_RANK = 4 };

/* Equal but for dimensions of 1: a gate of [1,H] is a vector of H. */
bool model_same_shape(const int64_t *a, int rank_a, const int64_t *b, int rank_b);
/* MOECL_ERROR_IO, logged, where they are not. */
moecl_status model_check_shape(moecl_checkpoint *checkpoint, const moecl_safetensors *file,
                               const moecl_safetensors_tensor *tensor, const int64_t *expected,
                               int rank);
/* MOECL_ERROR_IO, logged, of a tensor that is not there. */
moecl_status model_missing(moecl_checkpoint *checkpoint, const char *name);

#endif
