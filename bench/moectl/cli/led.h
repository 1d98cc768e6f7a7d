// SPDX-License-Identifier: MIT
/* moectl run in several processes, which mpirun starts (run/processes.h). */
#ifndef MOECTL_CLI_LED_H
#define MOECTL_CLI_LED_H

#include "cli/moectl.h"

/* False, complained about: some point has nothing that several processes could share. */
bool led_serves(const experiment *experiment);
/* Has the others open the experiment, and see whether their devices hold it; an exit code,
 * complained about. */
int led_open(void);
/* What the others do, in place of the command: until the leader ends. */
int led_run(const options *options);

#endif
