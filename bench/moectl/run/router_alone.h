// SPDX-License-Identifier: MIT
/* A point's router without what comes after it: what would it choose? */
#ifndef MOECTL_ROUTER_ALONE_H
#define MOECTL_ROUTER_ALONE_H

#include "run/workload.h"

/* The point with the least of a layer behind its router, without capacity. */
experiment_point router_alone(const experiment_point *point);
/* What the router of such a point chooses for [num_tokens,H]; the caller destroys. Waits. */
moecl_status router_choices(moecl_context *context, const experiment_point *alone,
                            const moecl_buffer *hidden_states, moecl_routing *routing);

#endif
