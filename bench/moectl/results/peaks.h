// SPDX-License-Identifier: MIT
/* What a device was measured to do at most (moectl peak), kept by device and driver beside
 * the compiled programs. */
#ifndef MOECTL_PEAKS_H
#define MOECTL_PEAKS_H

#include "base/clock.h"
#include "moecl/moecl.h"
#include <jansson.h>

typedef struct device_peaks {
  moecl_peaks rates;
  char measured[TIME_SIZE]; /* when; "": never, and the rates are zeros */
} device_peaks;

/* Measures them now; none after a failure. Waits, some seconds. */
moecl_status peaks_measure(moecl_context *context, device_peaks *peaks);

/* As results.json and `moectl peak --json` have them; null where there are none. NULL
 * without memory. */
json_t *peaks_json(const device_peaks *peaks);
/* Back; what does not look like it counts as none. */
device_peaks peaks_of_json(const json_t *json);

/* The context's device, driver and version of moecl with its peaks, as they are kept and printed:
 * JSON, malloc'ed; NULL without memory. */
char *peaks_text(const moecl_context *context, const device_peaks *peaks);
/* Those kept for the context's device; none where there are none, or not of this driver and
 * version of moecl. */
device_peaks peaks_load(const moecl_context *context);
/* Those of `peaks`, or of `kept` where these are better: another program may have been at work.
 * True where one was. */
bool peaks_keep_best(device_peaks *peaks, const device_peaks *kept);
/* Keeps them; false with *error where they could not be. */
bool peaks_save(const moecl_context *context, const device_peaks *peaks, char **error);

#endif
