// SPDX-License-Identifier: MIT
/* What jitter does to the router's choices: how many are others than without it. */
#ifndef MOECTL_CHANGED_CHOICES_H
#define MOECTL_CHANGED_CHOICES_H

#include "experiment/experiment.h"

/* The share of the point's T*K choices, `routing` of these hidden states, whose expert the router
 * would not have chosen for the token without jitter; NaN without jitter, and of a block. The
 * router is run again, in a layer of its own whose experts are as narrow as can be. Waits. */
moecl_status changed_choices(moecl_context *context, const experiment_point *point,
                             const moecl_buffer *hidden_states, const moecl_routing *routing,
                             double *share);

/* Device bytes that this takes for a while; 0 without jitter. */
moecl_status changed_choices_memory(moecl_context *context, const experiment_point *point,
                                    uint64_t *bytes);

#endif
