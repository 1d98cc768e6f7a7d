// SPDX-License-Identifier: MIT
/* Whether the driver's event times are times: Mesa's rusticl 22.3 says that
 * everything takes a nanosecond. What is asserted of times is left out there. */
#ifndef MOECL_TEST_EVENT_TIMES_H
#define MOECL_TEST_EVENT_TIMES_H

#include "ocl/ocl.h"
#include "unit.h"

/* By 16 MiB that are filled: no device does that within a microsecond. */
static inline bool events_tell_time(moecl_context *context) {
  enum { BYTES = 1 << 24 };
  const cl_uint zero = 0;
  moecl_buffer *buffer = NULL;
  cl_event event = NULL;
  uint64_t start = 0, end = 0;
  assert_ok(moecl_buffer_create(context, BYTES, &buffer));
  assert_int_equal(clEnqueueFillBuffer(context->queue, buffer->mem, &zero, sizeof zero, 0, BYTES, 0,
                                       NULL, &event),
                   CL_SUCCESS);
  const bool known = ocl_event_times(event, &start, &end);
  clReleaseEvent(event);
  moecl_buffer_destroy(&buffer);
  if (known && end > start && end - start >= 1000) return true;
  printf("SKIP: this driver's event times are no times\n");
  return false;
}

#endif
