// SPDX-License-Identifier: MIT
/* Tensors of a layer that nothing reads. */
#ifndef MOECL_LIB_MODEL_UNREAD_H
#define MOECL_LIB_MODEL_UNREAD_H

#include "model/checkpoint.h"

/* MOECL_ERROR_UNSUPPORTED, logged, if the files have a tensor of the feed-forward
 * network below `prefix` that is not among the `count` names in `read`, which are
 * sorted in place. The index must have been read. */
moecl_status model_check_unread(const moecl_checkpoint *checkpoint, const model_layer *layer,
                                const char *prefix, const char **read, size_t count);

#endif
