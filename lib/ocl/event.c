#include "ocl/program.h"
#include <stdlib.h>

/* Takes over `cl` on success. */
static moecl_status make(moecl_context *context, cl_event cl, moecl_event **event) {
  moecl_event *made = malloc(sizeof *made);
  if (!made) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  *made = (moecl_event){ocl_context_retain(context), cl};
  *event = made;
  return MOECL_OK;
}

moecl_status moecl_event_wrap(moecl_context *context, cl_event cl, moecl_event **event) {
  if (!event) return MOECL_ERROR_INVALID_ARGUMENT;
  *event = NULL;
  if (!context || !cl) return MOECL_ERROR_INVALID_ARGUMENT;
  MOECL_TRY(ocl_check(context, clRetainEvent(cl), "clRetainEvent"));
  moecl_status status = make(context, cl, event);
  if (status != MOECL_OK) clReleaseEvent(cl);
  return status;
}

moecl_status moecl_event_wait(moecl_event *event) {
  if (!event) return MOECL_ERROR_INVALID_ARGUMENT;
  return ocl_check(event->context, clWaitForEvents(1, &event->cl), "clWaitForEvents");
}

void moecl_event_destroy(moecl_event **event) {
  if (!event || !*event) return;
  clReleaseEvent((*event)->cl);
  moecl_context_destroy(&(*event)->context);
  free(*event);
  *event = NULL;
}

cl_event moecl_event_cl(const moecl_event *event) { return event ? event->cl : NULL; }

/* The events of a chain's wait list; *list is NULL where there are none, and
 * otherwise the caller's to free. */
static moecl_status collect(const ocl_chain *chain, cl_event **list) {
  *list = NULL;
  if (chain->num_waits == 0) return MOECL_OK;
  if (!chain->waits || chain->num_waits > UINT32_MAX) return MOECL_ERROR_INVALID_ARGUMENT;
  cl_event *events = calloc(chain->num_waits, sizeof *events);
  if (!events) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  for (size_t i = 0; i < chain->num_waits; i++) {
    if (!chain->waits[i]) {
      free(events);
      return log_error(&chain->context->log, MOECL_ERROR_INVALID_ARGUMENT,
                       "event %llu of the wait list is NULL", (unsigned long long)i);
    }
    events[i] = chain->waits[i]->cl;
  }
  *list = events;
  return MOECL_OK;
}

moecl_status ocl_keep_order(moecl_context *context) {
  if (!context->out_of_order) return MOECL_OK;
  return ocl_check(context, clEnqueueBarrierWithWaitList(context->queue, 0, NULL, NULL),
                   "clEnqueueBarrierWithWaitList");
}

/* What comes next in the chain's queue follows everything enqueued before and,
 * once, the chain's wait list. */
moecl_status ocl_chain_order(ocl_chain *chain) {
  MOECL_TRY(ocl_keep_order(chain->context));
  cl_event *events;
  MOECL_TRY(collect(chain, &events));
  if (!events) return MOECL_OK;
  cl_int code = clEnqueueBarrierWithWaitList(chain->context->queue, (cl_uint)chain->num_waits,
                                             events, NULL);
  free(events);
  MOECL_TRY(ocl_check(chain->context, code, "clEnqueueBarrierWithWaitList"));
  chain->waits = NULL;
  chain->num_waits = 0;
  return MOECL_OK;
}

moecl_status ocl_chain_end(ocl_chain *chain, moecl_event **event) {
  if (event) *event = NULL;
  MOECL_TRY(ocl_chain_order(chain));
  moecl_context *context = chain->context;
  if (event) {
    cl_event cl;
    MOECL_TRY(ocl_check(context, clEnqueueMarkerWithWaitList(context->queue, 0, NULL, &cl),
                        "clEnqueueMarkerWithWaitList"));
    moecl_status status = make(context, cl, event);
    if (status != MOECL_OK) {
      clReleaseEvent(cl);
      return status;
    }
  }
  /* Sends the work off, so that another queue may wait for the event. */
  moecl_status status = ocl_check(context, clFlush(context->queue), "clFlush");
  if (status != MOECL_OK && event) moecl_event_destroy(event);
  return status;
}

moecl_status ocl_event_release(moecl_context *context, cl_event event) {
  return ocl_check(context, clReleaseEvent(event), "clReleaseEvent");
}

bool ocl_event_times(cl_event event, uint64_t *start_ns, uint64_t *end_ns) {
  cl_ulong start, end;
  if (!event || clWaitForEvents(1, &event) != CL_SUCCESS ||
      clGetEventProfilingInfo(event, CL_PROFILING_COMMAND_START, sizeof start, &start, NULL) !=
          CL_SUCCESS ||
      clGetEventProfilingInfo(event, CL_PROFILING_COMMAND_END, sizeof end, &end, NULL) !=
          CL_SUCCESS)
    return false;
  *start_ns = start;
  *end_ns = end;
  return true;
}
