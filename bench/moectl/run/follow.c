// SPDX-License-Identifier: MIT
#include "run/follow.h"
#include "run/processes.h"
#include "run/together.h"
#include <stdlib.h>

static void release_buffers(point_buffers *buffers) {
  forwards_release_buffers(buffers);
  *buffers = (point_buffers){0};
}

static void read_routing(struct together *together) {
  moecl_routing routing;
  if (together_read_routing(together, &routing) == MOECL_OK) moecl_routing_destroy(&routing);
}

static void run_forward(struct together *together, const process_order *order) {
  together->layer_only = order->layer_only;
  together_forward(together, together->point, order->set, order->measured, order->profiled);
}

/* What fails here the leader hears of in the same call. */
static void obey(runner *runner, const process_order *order, point_buffers *buffers) {
  const experiment_point *point = &runner->experiment->points[order->point];
  double ms[RESULTS_STAGES];
  point_result result = {0};
  switch (order->kind) {
  case ORDER_CREATE: together_create(runner, point); break;
  case ORDER_WEIGHTS: together_set_weights(runner, point); break;
  case ORDER_BUFFERS:
    release_buffers(buffers);
    forwards_provide_buffers(runner, point, buffers);
    break;
  case ORDER_FORWARD: run_forward(runner->together, order); break;
  case ORDER_PROFILES: together_read_profiles(runner->together, ms); break;
  case ORDER_COLLECT: together_collect(runner->together, NULL); break;
  case ORDER_DESCRIBE: together_describe(runner->together, &result); break;
  case ORDER_ROUTING: read_routing(runner->together); break;
  case ORDER_RELEASE:
    release_buffers(buffers);
    together_release(runner);
    break;
  default: break;
  }
  free(result.parallel.members);
}

void follow(runner *runner) {
  point_buffers buffers = {0};
  for (process_order order; processes_follow(&order);) obey(runner, &order, &buffers);
  release_buffers(&buffers);
  together_release(runner);
}
