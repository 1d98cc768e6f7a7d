// SPDX-License-Identifier: MIT
/* A layer's tensors, as they are given: shapes, items and types are public
 * (moecl/layer.h). */
#ifndef MOECL_LIB_DESC_TENSORS_H
#define MOECL_LIB_DESC_TENSORS_H

#include "desc/format.h"
#include "moecl/layer.h"

/* Of one item; no rows where the layer has no such tensor. Biases are one row. */
typedef struct desc_shape {
  int64_t rows, columns;
} desc_shape;
desc_shape desc_tensor_shape(const moecl_layer_params *params, moecl_tensor tensor);

/* How many matrices, of equal rows, an item is stored as: gate and up are two. */
int64_t desc_tensor_matrices(const moecl_layer_params *params, moecl_tensor tensor);

/* As moecl_layer_tensor_format says, of valid parameters. */
const desc_format *desc_tensor_format(const moecl_layer_params *params, moecl_tensor tensor);

#endif
