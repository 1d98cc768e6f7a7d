// SPDX-License-Identifier: MIT
/* A layer's tensors, as they are given: shapes, items and types are public
 * (moecl/layer.h). */
#ifndef MOECL_LIB_DESC_TENSORS_H
#define MOECL_LIB_DESC_TENSORS_H

#include "desc/format.h"
#include "moecl/layer.h"

/* As moecl_layer_tensor_format says, of valid parameters. */
const desc_format *desc_tensor_format(const moecl_layer_params *params, moecl_tensor tensor);

#endif
