// SPDX-License-Identifier: MIT
/* A process that is led (processes.h): its part of the points' layers and forwards. */
#ifndef MOECTL_RUN_FOLLOW_H
#define MOECTL_RUN_FOLLOW_H

#include "run/runner.h"

/* Obeys until it is to end. */
void follow(runner *runner);

#endif
