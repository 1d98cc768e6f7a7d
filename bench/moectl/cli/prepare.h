// SPDX-License-Identifier: MIT
/* What `run` and `check` do before anything runs. */
#ifndef MOECTL_PREPARE_H
#define MOECTL_PREPARE_H

#include "cli/moectl.h"
#include "run/memory.h"

/* Reads the experiment and what it names, and prints warnings; false: complained about. */
bool prepare_load(const options *options, experiment *experiment, recording *recording);

/* Are the variants that were asked for by name there on the device? Complains about each
 * that is not. */
bool prepare_variants(const experiment *experiment, moecl_context *context);

/* Are the transports and the devices between which a layer is to be shared known here? Complains
 * about those that are not. */
bool prepare_transports(const experiment *experiment);
bool prepare_devices(const experiment *experiment);

/* Does the device, and does that of each member of this process, hold every point? Complains about
 * those that do not, unless the limit is to be ignored. `needed` ([num_points], or NULL) receives
 * what each takes of the context's device; `devices` may be NULL. */
bool prepare_memory(const options *options, const experiment *experiment, moecl_context *context,
                    memory_devices *devices, runner_memory *needed);
/* The same of a process that is led, which complains about nothing: `said` has the first refusal,
 * how many there are, and what to do. */
bool prepare_memory_led(const options *options, const experiment *experiment,
                        moecl_context *context, char *said, size_t size);

#endif
