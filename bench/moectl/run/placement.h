// SPDX-License-Identifier: MIT
/* Which members of a point's group have which experts. */
#ifndef MOECTL_RUN_PLACEMENT_H
#define MOECTL_RUN_PLACEMENT_H

#include "run/forwards.h"

/* What a member's device says of itself. */
typedef struct member_facts {
  double compute, memory;
  char device[128];
} member_facts;
member_facts placement_facts(const moecl_device_info *device);

typedef struct point_placement {
  double weights[MOECL_MAX_GROUP_MEMBERS];
  size_t sizes[MOECL_MAX_GROUP_MEMBERS];
  int32_t lists[MOECL_MAX_EXPERTS], replicated[MOECL_MAX_EXPERTS];
} point_placement;

/* Sets the members of *params that say it, which refer to *room and the experiment. Where experts
 * are to be replicated and no file says which are the most loaded, the router is asked. Waits. */
moecl_status placement_choose(runner *runner, const experiment_point *point,
                              const member_facts *members, point_placement *room,
                              moecl_group_layer_params *params);
/* Would it be the same for two points with the same layer and group? */
bool placement_same(const experiment_point *a, const experiment_point *b);

#endif
