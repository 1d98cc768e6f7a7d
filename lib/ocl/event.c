// SPDX-License-Identifier: MIT
#include "ocl/program.h"
#include <stdlib.h>

/* Takes over `cl` on success. */
static moecl_status make(moecl_context *context, cl_event cl, moecl_event **event) {
  moecl_event *made = malloc(sizeof *made);
  if (!made) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  *made = (moecl_event){.context = ocl_context_retain(context), .cl = cl};
  *event = made;
  return MOECL_OK;
}

/* An event's command that ended in an error has a negative status. Not every driver
 * passes that on to the commands that wait for it. */
static moecl_status check_outcome(moecl_context *context, cl_event event, size_t index,
                                  const char *of) {
  cl_int progress = CL_COMPLETE;
  MOECL_TRY(ocl_check(
      context,
      clGetEventInfo(event, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof progress, &progress, NULL),
      "clGetEventInfo"));
  if (progress >= 0) return MOECL_OK;
  return log_error(&context->log, MOECL_ERROR_DEVICE, "event %llu of %s has failed: %s (%d)",
                   (unsigned long long)index, of, ocl_error_name(progress), (int)progress);
}

/* Remembers what the chain waited for. */
static moecl_status follow(const ocl_chain *chain, moecl_event *event) {
  if (chain->num_waited == 0) return MOECL_OK;
  event->follows = calloc(chain->num_waited, sizeof *event->follows);
  if (!event->follows) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  for (size_t i = 0; i < chain->num_waited; i++) {
    MOECL_TRY(ocl_check(chain->context, clRetainEvent(chain->waited[i]->cl), "clRetainEvent"));
    event->follows[event->num_follows++] = chain->waited[i]->cl;
  }
  return MOECL_OK;
}

moecl_status moecl_event_wrap(moecl_context *context, cl_event cl, moecl_event **event) {
  if (!event) return MOECL_ERROR_INVALID_ARGUMENT;
  *event = NULL;
  if (!context) return MOECL_ERROR_INVALID_ARGUMENT;
  if (!cl)
    return log_error(&context->log, MOECL_ERROR_INVALID_ARGUMENT, "the cl_event to wrap is NULL");
  cl_context owner = NULL;
  MOECL_TRY(ocl_check(context, clGetEventInfo(cl, CL_EVENT_CONTEXT, sizeof owner, &owner, NULL),
                      "clGetEventInfo"));
  if (owner != context->cl)
    return log_error(&context->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "the cl_event to wrap belongs to another OpenCL context");
  MOECL_TRY(ocl_check(context, clRetainEvent(cl), "clRetainEvent"));
  moecl_status status = make(context, cl, event);
  if (status != MOECL_OK) clReleaseEvent(cl);
  return status;
}

moecl_status moecl_event_wait(moecl_event *event) {
  if (!event) return MOECL_ERROR_INVALID_ARGUMENT;
  MOECL_TRY(ocl_event_await(event->context, event->cl));
  MOECL_TRY(check_outcome(event->context, event->cl, 0, "those waited for"));
  for (size_t i = 0; i < event->num_follows; i++)
    MOECL_TRY(check_outcome(event->context, event->follows[i], i, "the work's wait list"));
  return MOECL_OK;
}

void moecl_event_destroy(moecl_event **event) {
  if (!event || !*event) return;
  clReleaseEvent((*event)->cl);
  for (size_t i = 0; i < (*event)->num_follows; i++) clReleaseEvent((*event)->follows[i]);
  free((*event)->follows);
  moecl_context_destroy(&(*event)->context);
  free(*event);
  *event = NULL;
}

cl_event moecl_event_cl(const moecl_event *event) { return event ? event->cl : NULL; }

/* An event of the chain's wait list: there, of this context, and it has not failed. */
static moecl_status check_waited(const ocl_chain *chain, size_t i) {
  const moecl_event *event = chain->waits[i];
  if (!event)
    return log_error(&chain->context->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "event %llu of the wait list is NULL", (unsigned long long)i);
  MOECL_TRY(ocl_check_owner(chain->context, event->context, "an event of the wait list"));
  return check_outcome(chain->context, event->cl, i, "the wait list");
}

/* The events of a chain's wait list; *list is NULL where there are none, and otherwise the
 * caller's to free. */
static moecl_status collect(const ocl_chain *chain, cl_event **list) {
  *list = NULL;
  if (chain->num_waits == 0) return MOECL_OK;
  if (!chain->waits || chain->num_waits > UINT32_MAX)
    return log_error(&chain->context->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "the wait list is NULL, or its count of %llu is too large",
                     (unsigned long long)chain->num_waits);
  cl_event *events = calloc(chain->num_waits, sizeof *events);
  if (!events) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  for (size_t i = 0; i < chain->num_waits; i++) {
    const moecl_status status = check_waited(chain, i);
    if (status != MOECL_OK) {
      free(events);
      return status;
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
  cl_int code =
      clEnqueueBarrierWithWaitList(chain->context->queue, (cl_uint)chain->num_waits, events, NULL);
  free(events);
  MOECL_TRY(ocl_check(chain->context, code, "clEnqueueBarrierWithWaitList"));
  chain->waited = chain->waits;
  chain->num_waited = chain->num_waits;
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
    status = follow(chain, *event);
    if (status != MOECL_OK) {
      moecl_event_destroy(event);
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

bool ocl_event_keep(cl_event *kept, cl_event event) {
  if (event && clRetainEvent(event) != CL_SUCCESS) return false;
  if (*kept) clReleaseEvent(*kept);
  *kept = event;
  return true;
}

moecl_status ocl_event_await(moecl_context *context, cl_event event) {
  return ocl_check(context, clWaitForEvents(1, &event), "clWaitForEvents");
}

moecl_status ocl_chain_record(const ocl_chain *chain, const char *kernel, cl_event event) {
  if (!event) return MOECL_OK;
  const ocl_launched launched = {chain->label, chain->step, kernel, event};
  if (chain->observer) chain->observer->record(chain->observer, &launched);
  return ocl_event_release(chain->context, event);
}

bool ocl_event_times(cl_event event, uint64_t *start_ns, uint64_t *end_ns) {
  cl_ulong start = CL_ULONG_MAX, end = 0; /* some drivers succeed and write nothing */
  if (!event || clWaitForEvents(1, &event) != CL_SUCCESS ||
      clGetEventProfilingInfo(event, CL_PROFILING_COMMAND_START, sizeof start, &start, NULL) !=
          CL_SUCCESS ||
      clGetEventProfilingInfo(event, CL_PROFILING_COMMAND_END, sizeof end, &end, NULL) !=
          CL_SUCCESS)
    return false;
  *start_ns = start;
  *end_ns = end;
  return start <= end;
}

bool ocl_event_queued(cl_event event, uint64_t *queued_ns) {
  cl_ulong queued = CL_ULONG_MAX;
  if (!event || clGetEventProfilingInfo(event, CL_PROFILING_COMMAND_QUEUED, sizeof queued, &queued,
                                        NULL) != CL_SUCCESS)
    return false;
  *queued_ns = queued;
  return queued != CL_ULONG_MAX;
}
