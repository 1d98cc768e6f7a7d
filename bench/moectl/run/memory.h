// SPDX-License-Identifier: MIT
/* What a point takes of each device that this process has a part in, known before anything is
 * allocated: one device, or those of the group's members. */
#ifndef MOECTL_RUN_MEMORY_H
#define MOECTL_RUN_MEMORY_H

#include "run/runner.h"

/* Of single buffers on a device, as far as they were tried; zeros: nothing was. */
typedef struct memory_limits {
  uint64_t given, denied;
} memory_limits;

/* All that there are, and a context of each that some point's members are on; zeros: none yet. */
typedef struct memory_devices {
  moecl_device_info *list;
  size_t count;
  moecl_context **context; /* [count], as bool *tried: NULL where it cannot be opened */
  bool *tried;
  memory_limits *limits, own_limits; /* [count]; of the experiment's own device */
} memory_devices;
void memory_devices_release(memory_devices *devices);

typedef struct device_memory {
  moecl_context *context; /* the experiment's own, or of memory_devices */
  memory_limits *limits;  /* the device's, of memory_devices */
  int members;            /* on the device, of this process */
  runner_memory needed;
} device_memory;

/* The first is the experiment's own device, which draws inputs and weights for members wherever
 * they are. */
typedef struct point_devices {
  size_t count;
  device_memory device[MOECL_MAX_GROUP_MEMBERS + 1];
} point_devices;

/* As runner_memory_needed, on several devices as if each member had as many rows as the next.
 * Members whose device is not there, or cannot be opened, are left out: running the point says so.
 */
moecl_status memory_of_point(moecl_context *own, const experiment *plan, size_t index,
                             bool draws_again, memory_devices *devices, point_devices *memory);

#endif
