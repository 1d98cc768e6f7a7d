// SPDX-License-Identifier: MIT
/* Experiments on a checkpoint's layer: sizes, rule and weights come from there. */
#ifndef MOECTL_FROM_CHECKPOINT_H
#define MOECTL_FROM_CHECKPOINT_H

#include "experiment/settings.h"

/* Opens the folder that layer.checkpoint names (`folder`: resolved; NULL: none is
 * named) and gives the layer's keys that were not given their values from its layer
 * layer.layer. Keys that say something else than the checkpoint, and may not, are a problem.
 * *source is NULL without a checkpoint or with a problem. */
void from_checkpoint(settings *settings, const char *folder, checkpoint_source **source,
                     problems *problems);
void checkpoint_source_destroy(checkpoint_source **source);

#endif
