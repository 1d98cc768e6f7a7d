// SPDX-License-Identifier: MIT
/* A matrix in the layout of moecl_format as tensors of a file: coded.h, the other way. */
#ifndef MOECL_LIB_MODEL_ENCODED_H
#define MOECL_LIB_MODEL_ENCODED_H

#include "model/coded.h"

/* What there is of a matrix whose group and want are set, all rows of the file's: its parts, by
 * what stands behind the module's name, type, and shape without experts; NULL: it has no such. */
const char *model_part_suffix(const model_coded *coded, coded_part part, size_t *size);
const char *model_part_type(const model_coded *coded, coded_part part);
int model_written_shape(const model_coded *coded, coded_part part, int64_t shape[3]);
uint64_t model_part_bytes(const model_coded *coded, coded_part part);

/* Bytes of one expert's part, from its matrix of the group's format. */
void model_encode_part(const model_coded *coded, coded_part part, const void *matrix, void *bytes);

#endif
