// SPDX-License-Identifier: MIT
/* Points whose experts are on several devices: the group, its layer, members' inputs and times.
 * With several processes (processes.h) each has some of the members; the leader's calls below order
 * the others to make the same ones, and all succeed or fail together. */
#ifndef MOECTL_TOGETHER_H
#define MOECTL_TOGETHER_H

#include "run/forwards.h"
#include "run/placement.h"

struct together {
  runner *runner;
  int members;    /* of all processes */
  int begin, own; /* this one's: the first, and how many; 0: it is left out */
  member_facts facts[MOECL_MAX_GROUP_MEMBERS];     /* of all */
  moecl_context *context[MOECL_MAX_GROUP_MEMBERS]; /* own, from 0 on, as all below */
  char said[2000]; /* members' errors since they were last taken, a blank between two */
  moecl_group *group;
  moecl_group_layer *layer;
  bool ready; /* it has its weights */
  /* Of a point's forwards. */
  const experiment_point *point;
  uint64_t first_byte;                                /* of the batch, that is an own token's */
  bool layer_only;                                    /* what profiles tell */
  moecl_group_tokens tokens[MOECL_MAX_GROUP_MEMBERS]; /* num_tokens and output */
  moecl_buffer *hidden[INPUT_SETS][MOECL_MAX_GROUP_MEMBERS], *output[MOECL_MAX_GROUP_MEMBERS];
  moecl_profile *profile[MOECL_MAX_GROUP_MEMBERS];
};

/* The runner's group layer is then the point's, without weights. */
moecl_status together_create(runner *runner, const experiment_point *point);
void together_release(runner *runner);
/* Draws or loads every tensor. Waits. */
moecl_status together_set_weights(runner *runner, const experiment_point *point);
/* Inputs are drawn between the two: the others are ordered to draw theirs; then every member gets
 * its part of those in `buffers` (or `status` says why there are none), an output and a profile.
 * Waits. */
void together_lead_buffers(struct together *together, const experiment_point *point);
moecl_status together_provide_buffers(struct together *together, const experiment_point *point,
                                      const point_buffers *buffers, moecl_status status);
void together_release_buffers(struct together *together);
/* Waits for the outputs. */
moecl_status together_forward(struct together *together, const experiment_point *point, int set,
                              bool measured, bool profiled);
/* Of the latest profiled forward: of each stage the longest of all members. Waits. */
moecl_status together_read_profiles(struct together *together, double ms[RESULTS_STAGES]);
/* `most` timed forwards. */
moecl_status together_time(runner *runner, const experiment_point *point, int sets, bool layer_only,
                           size_t most, int64_t *timed_of, sample_summary *summaries,
                           sample_summary *host, size_t *kept);
/* The outputs of the latest forward where one device would have left them; NULL on those that
 * follow. Waits. */
moecl_status together_collect(struct together *together, moecl_buffer *output);
/* Its routing. Waits. */
moecl_status together_read_routing(struct together *together, moecl_routing *routing);
/* What members did in the latest forward, which was measured. */
moecl_status together_describe(struct together *together, point_result *result);
/* Of member m's device: "0:1", or as `devices` has it. */
enum { DEVICE_NAME_SIZE = 256 };
moecl_status together_name_device(const moecl_context *context, const experiment_point *point,
                                  int m, char name[DEVICE_NAME_SIZE]);
/* What members' calls said of their failures. */
void together_take_errors(struct together *together, char *text, size_t size);

#endif
