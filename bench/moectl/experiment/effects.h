// SPDX-License-Identifier: MIT
/* Keys that change nothing in an experiment, or have another name by now: worth a warning. */
#ifndef MOECTL_EFFECTS_H
#define MOECTL_EFFECTS_H

#include "experiment/settings.h"

/* Adds a warning for each key that was given though nothing in any point
 * depends on it, and for each under its old name. `settings` must be complete. */
void effects_check(const settings *settings, problems *warnings);

#endif
