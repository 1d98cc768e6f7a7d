// SPDX-License-Identifier: MIT
/* How long points will take: by their work, and the rates of a device. For telling a
 * person beforehand; nothing that is measured depends on it. */
#ifndef MOECTL_ESTIMATE_H
#define MOECTL_ESTIMATE_H

#include "experiment/experiment.h"

/* Per second; of the host `host_flops`. */
typedef struct device_rates {
  double flops, bytes; /* of experts' GEMMs: many rows, and few */
  double drawn;        /* bytes of weights and inputs */
  double launch;       /* seconds that a forward takes at least */
} device_rates;

/* What a device of the kind might do, to weigh one point against another. */
device_rates rates_guess(const moecl_device_info *device);
/* Times a small layer of the point's data type, activation and variant on the device, in
 * about a second, besides building its kernels. */
moecl_status rates_measure(moecl_context *context, const experiment_point *like,
                           device_rates *rates);

typedef struct point_estimate {
  double forward;      /* seconds of one forward */
  double forwards;     /* of the first round, or of each later one */
  double later_rounds; /* how many */
  double later_forwards;
  double draw, check; /* seconds: a round's weights, inputs and file; verification */
} point_estimate;
/* Of point `index`, where the point before it has run. */
point_estimate estimate_point(const experiment *experiment, size_t index,
                              const device_rates *rates);
/* Seconds of the first round, of one later, and of all. */
double estimate_first(const point_estimate *estimate);
double estimate_later(const point_estimate *estimate);
double estimate_all(const point_estimate *estimate);

#endif
