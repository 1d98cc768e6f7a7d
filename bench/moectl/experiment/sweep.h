// SPDX-License-Identifier: MIT
/* From settings to the points of an experiment. */
#ifndef MOECTL_SWEEP_H
#define MOECTL_SWEEP_H

#include "experiment/settings.h"

/* Fills experiment->points and ->axes; reports impossible combinations. */
void sweep_expand(const settings *settings, experiment *experiment, problems *problems);

#endif
