// SPDX-License-Identifier: MIT
/* Points whose experts are on several devices: the group, its layer, members' inputs and times. */
#ifndef MOECTL_TOGETHER_H
#define MOECTL_TOGETHER_H

#include "run/forwards.h"

struct together {
  int members;
  moecl_context *context[MOECL_MAX_GROUP_MEMBERS];
  char said[2000]; /* members' errors since they were last taken, a blank between two */
  moecl_group *group;
  moecl_group_layer *layer;
  /* Of a point's forwards. */
  moecl_group_tokens tokens[MOECL_MAX_GROUP_MEMBERS]; /* num_tokens and output */
  moecl_buffer *hidden[INPUT_SETS][MOECL_MAX_GROUP_MEMBERS], *output[MOECL_MAX_GROUP_MEMBERS];
  moecl_profile *profile[MOECL_MAX_GROUP_MEMBERS];
};

/* The runner's group layer is then the point's, without weights. */
moecl_status together_create(runner *runner, const experiment_point *point);
void together_release(runner *runner);
/* Draws or loads every tensor. Waits. */
moecl_status together_set_weights(runner *runner, const experiment_point *point);
/* Every member's part of the inputs that `buffers` have, its output, and a profile. Waits. */
moecl_status together_provide_buffers(runner *runner, const experiment_point *point,
                                      const point_buffers *buffers);
void together_release_buffers(struct together *together);
/* Waits for the outputs. */
moecl_status together_forward(struct together *together, const experiment_point *point, int set,
                              bool measured, bool profiled);
/* `most` timed forwards: of each stage the longest of all members. */
moecl_status together_time(runner *runner, const experiment_point *point, int sets, bool layer_only,
                           size_t most, int64_t *timed_of, sample_summary *summaries,
                           sample_summary *host, size_t *kept);
/* The outputs of the latest forward where one device would have left them. Waits. */
moecl_status together_collect(struct together *together, moecl_buffer *output);
/* What members did in the latest forward, which was measured. */
moecl_status together_describe(struct together *together, point_result *result);
uint64_t together_weight_bytes(const struct together *together);
/* What members' calls said of their failures. */
void together_take_errors(struct together *together, char *text, size_t size);

#endif
