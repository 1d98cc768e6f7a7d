// SPDX-License-Identifier: MIT
/* Formats that keep a layer's experts off the matrix units that the device has. */
#ifndef MOECTL_MATRIX_UNITS_H
#define MOECTL_MATRIX_UNITS_H

#include "moecl/layer.h"
#include <stdbool.h>

/* Has the device kernels of its matrix units for the layer's weights, or for its rows' codes, and
 * none for both? Then `text` tells so, and which formats have them. Plans alone: nothing is built.
 */
bool matrix_units_missed(moecl_context *context, const moecl_layer_params *params,
                         int64_t num_tokens, char *text, size_t size);

#endif
