// SPDX-License-Identifier: MIT
/* A layer on one device and the same one on a group, for tests that compare them. */
#ifndef MOECL_TEST_GROUP_RUN_H
#define MOECL_TEST_GROUP_RUN_H

#include "group/group.h"
#include "problem.h"

enum { MOST_MEMBERS = 4, MOST_TOKENS = 400 };

/* The program's: on as many GPUs of one kind as there are, in turns, or all on one other device. */
static moecl_context *contexts[MOST_MEMBERS];

/* Members take turns in the caller's thread, as those of a group with a CPU do; else each has one,
 * on CPUs, too. */
static bool takes_turns;

/* Ranks of a test that mpirun runs: each has a part of the members. */
static struct {
  const void *comm; /* NULL: there are no others */
  int own, count;
} ranks = {NULL, 0, 1};

/* The output of one device, and its routing. */
static inline void *run_alone(const problem *p, uint64_t seed, moecl_routing *routing) {
  moecl_layer *layer = NULL;
  moecl_buffer *hidden = NULL, *output = NULL;
  moecl_event *done = NULL;
  const uint64_t bytes = (uint64_t)p->num_tokens * p->row_bytes;
  void *result = take(bytes);
  assert_ok(moecl_layer_create(contexts[0], &p->params, &layer));
  for (int t = 0; t < MOECL_TENSOR_COUNT; t++)
    if (p->weights[t])
      assert_ok(moecl_layer_set_weights(layer, (moecl_tensor)t, 0,
                                        moecl_layer_tensor_items(&p->params, (moecl_tensor)t),
                                        p->weights[t]));
  assert_ok(moecl_buffer_create(contexts[0], bytes, &hidden));
  assert_ok(moecl_buffer_create(contexts[0], bytes, &output));
  assert_ok(moecl_buffer_write_wait(hidden, 0, bytes, p->hidden));
  const moecl_forward_params forward = {
      .num_tokens = p->num_tokens, .hidden_states = hidden, .output = output, .seed = seed};
  assert_ok(moecl_layer_forward(layer, &forward, &done));
  assert_ok(moecl_event_wait(done));
  assert_ok(moecl_buffer_read_wait(output, 0, bytes, result));
  assert_ok(moecl_layer_read_routing_wait(layer, routing));
  moecl_event_destroy(&done);
  moecl_buffer_destroy(&hidden);
  moecl_buffer_destroy(&output);
  moecl_layer_destroy(&layer);
  return result;
}

/* ---- a group ---- */

typedef struct together {
  const problem *p;
  moecl_group *group;
  moecl_group_layer *layer;
  int members, own; /* of all ranks, and of this one */
  const int64_t *split;
  int64_t first, num_tokens;               /* of its own */
  moecl_group_tokens tokens[MOST_MEMBERS]; /* own, as all below */
  moecl_buffer *hidden[MOST_MEMBERS], *output[MOST_MEMBERS];
} together;

static inline void give_tokens(together *t, int m, int64_t first, int64_t tokens) {
  const size_t row = t->p->row_bytes;
  const uint64_t bytes = (uint64_t)tokens * row;
  t->tokens[m].num_tokens = tokens;
  if (tokens == 0) return;
  assert_ok(moecl_buffer_create(contexts[m], bytes, &t->hidden[m]));
  assert_ok(moecl_buffer_create(contexts[m], bytes, &t->output[m]));
  assert_ok(
      moecl_buffer_write_wait(t->hidden[m], 0, bytes, (char *)t->p->hidden + (size_t)first * row));
  t->tokens[m].hidden_states = t->hidden[m];
  t->tokens[m].output = t->output[m];
}

/* `split`: tokens of each member. */
static inline together make_together(const problem *p, const moecl_group_layer_params *with,
                                     int members, const int64_t *split) {
  const int begin = members * ranks.own / ranks.count;
  together t = {.p = p,
                .members = members,
                .own = members * (ranks.own + 1) / ranks.count - begin,
                .split = split};
  moecl_group_layer_params params = *with;
  const moecl_group_params by = {.transport = getenv("MOECL_TEST_TRANSPORT"),
                                 .mpi_comm = ranks.comm};
  size_t first_member;
  params.layer = p->params;
  assert_ok(moecl_group_create(contexts, (size_t)t.own, members > 1 ? &by : NULL, &t.group));
  assert_int_equal(moecl_group_size(t.group), members);
  assert_int_equal(moecl_group_own(t.group, &first_member), t.own);
  assert_int_equal(first_member, begin);
  if (takes_turns) base_team_destroy(&t.group->team);
  else if (!t.group->team) t.group->team = base_team_create(t.own);
  assert_ok(moecl_group_layer_create(t.group, &params, &t.layer));
  for (int i = 0; i < MOECL_TENSOR_COUNT; i++)
    if (p->weights[i])
      assert_ok(moecl_group_layer_set_weights(t.layer, (moecl_tensor)i, 0,
                                              moecl_layer_tensor_items(&p->params, (moecl_tensor)i),
                                              p->weights[i]));
  for (int m = 0; m < begin; m++) t.first += split[m];
  for (int m = 0; m < t.own; t.num_tokens += split[begin + m++])
    give_tokens(&t, m, t.first + t.num_tokens, split[begin + m]);
  return t;
}

static inline void free_together(together *t) {
  for (int m = 0; m < t->own; m++) {
    moecl_buffer_destroy(&t->hidden[m]);
    moecl_buffer_destroy(&t->output[m]);
  }
  moecl_group_layer_destroy(&t->layer);
  moecl_group_destroy(&t->group);
}

/* The output of this rank's tokens; NULL, and the status, where the forward fails. */
static inline void *run_together(together *t, uint64_t seed, moecl_status *status) {
  moecl_event *done[MOST_MEMBERS];
  const moecl_group_forward_params forward = {.tokens = t->tokens, .seed = seed, .measured = true};
  *status = moecl_group_layer_forward(t->layer, &forward, done);
  for (int m = 0; *status != MOECL_OK && m < t->own; m++) assert_null(done[m]);
  if (*status != MOECL_OK) return NULL;
  char *result = take((size_t)t->num_tokens * t->p->row_bytes), *at = result;
  for (int m = 0; m < t->own; m++) {
    const uint64_t bytes = (uint64_t)t->tokens[m].num_tokens * t->p->row_bytes;
    assert_ok(moecl_event_wait(done[m]));
    moecl_event_destroy(&done[m]);
    if (bytes) assert_ok(moecl_buffer_read_wait(t->output[m], 0, bytes, at));
    at += bytes;
  }
  return result;
}

/* The name of the n-th device like that one, in turns. */
static inline void name_device(const moecl_device_info *like, int n, char name[32]) {
  moecl_device_info *devices = NULL;
  size_t count = 0, alike = 0;
  snprintf(name, 32, "%d:%d", (int)like->platform_index, (int)like->device_index);
  if (like->type != MOECL_DEVICE_GPU) return;
  assert_ok(moecl_devices_list(&devices, &count));
  for (size_t turn = 0; turn < 2; turn++) { /* counted, then found */
    const size_t wanted = alike ? (size_t)n % alike : 0;
    alike = 0;
    for (size_t i = 0; i < count; i++) {
      const moecl_device_info *one = &devices[i];
      if (one->platform_index != like->platform_index || strcmp(one->name, like->name) != 0)
        continue;
      if (turn == 1 && alike == wanted)
        snprintf(name, 32, "%d:%d", (int)one->platform_index, (int)one->device_index);
      alike++;
    }
  }
  moecl_devices_destroy(&devices);
}

/* `want` has the whole batch. */
static inline bool same_output(const together *t, const void *got, const void *want) {
  return memcmp(got, (const char *)want + (size_t)t->first * t->p->row_bytes,
                (size_t)t->num_tokens * t->p->row_bytes) == 0;
}

static inline void make_contexts(void) {
  static const char *const names[MOST_MEMBERS] = {"0", "1", "2", "3"};
  for (int m = 0; m < MOST_MEMBERS; m++) {
    moecl_context_params params = {.log = log_problem, .log_user = (void *)names[m]};
    char device[32];
    if (m > 0) name_device(moecl_context_device(contexts[0]), m, device);
    if (m > 0) params.device = device;
    assert_ok(moecl_context_create(&params, &contexts[m]));
  }
}

static inline void destroy_contexts(void) {
  for (int m = 0; m < MOST_MEMBERS; m++) moecl_context_destroy(&contexts[m]);
}

#endif
