// SPDX-License-Identifier: MIT
/* One experiment on several devices, and how they compare. */
#ifndef MOECTL_RUN_DEVICES_H
#define MOECTL_RUN_DEVICES_H

#include <stdbool.h>

/* Does --device name several: "all", or a list "0:0,0:1"? NULL: no. */
bool devices_are_several(const char *device);

/* Runs on one device, into the folder or on with what it has (`resumes`); *ran: there are results.
 * An exit code. */
typedef int (*run_on_fn)(void *user, const char *device, const char *folder, bool resumes,
                         bool *ran);

/* Calls `run` for each of the devices in turn, with a folder of its own below `folder`, prints the
 * comparison and writes it there. A device that did not run is named and left out. The worst of
 * the others' exit codes. */
int run_on_each(const char *devices, const char *folder, bool resumes, run_on_fn run, void *user);

#endif
