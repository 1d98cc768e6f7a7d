// SPDX-License-Identifier: MIT
/* A group over two processes, with allocations and calls of OpenCL and MPI made to fail on one of
 * them, one at a time, from its making to the routing that is read: where a call fails on one rank
 * it fails on both, nobody waits for ever, and nothing is kept.
 *
 * A place is a call with its nearest callers, and the first call from each fails once, of OpenCL's
 * places every third. How often a rank looks while it waits is not the same in every run. An alarm
 * tells where a rank may hang. */
#include "../unit/faults.h"
#include "../unit/small_layer.h"
#include "base/base.h"
#include "moecl/group.h"
#include <mpi.h>
#include <signal.h>
#include <unistd.h>

enum { MOST_PLACES = 4096, OWN = 2, TOLD_SECONDS = 60, ROW = SMALL_HIDDEN };

static MPI_Comm world;
static int own;
static moecl_context *contexts[OWN];
static char doing[200];
static bool is_warm; /* contexts have their programs */

/* ---- MPI: what begins something, and what counts what has come ---- */

#define MAY_FAIL(name, params, args)                                                               \
  int __real_##name params;                                                                        \
  int __wrap_##name params;                                                                        \
  int __wrap_##name params {                                                                       \
    return faults_hit(FAULT_MPI, #name) ? MPI_ERR_OTHER : __real_##name args;                      \
  }

MAY_FAIL(MPI_Comm_dup, (MPI_Comm comm, MPI_Comm *made), (comm, made))
MAY_FAIL(MPI_Comm_set_errhandler, (MPI_Comm comm, MPI_Errhandler handler), (comm, handler))
MAY_FAIL(MPI_Type_contiguous, (int count, MPI_Datatype of, MPI_Datatype *made), (count, of, made))
MAY_FAIL(MPI_Type_commit, (MPI_Datatype * type), (type))
MAY_FAIL(MPI_Iallreduce,
         (const void *from, void *to, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm,
          MPI_Request *request),
         (from, to, count, type, op, comm, request))
MAY_FAIL(MPI_Iallgatherv,
         (const void *from, int count, MPI_Datatype type, void *to, const int counts[],
          const int first[], MPI_Datatype of, MPI_Comm comm, MPI_Request *request),
         (from, count, type, to, counts, first, of, comm, request))
MAY_FAIL(MPI_Ibcast,
         (void *data, int count, MPI_Datatype type, int from, MPI_Comm comm, MPI_Request *request),
         (data, count, type, from, comm, request))
MAY_FAIL(MPI_Isend,
         (const void *data, int count, MPI_Datatype type, int to, int tag, MPI_Comm comm,
          MPI_Request *request),
         (data, count, type, to, tag, comm, request))
MAY_FAIL(MPI_Irecv,
         (void *data, int count, MPI_Datatype type, int from, int tag, MPI_Comm comm,
          MPI_Request *request),
         (data, count, type, from, tag, comm, request))
MAY_FAIL(MPI_Get_count, (const MPI_Status *status, MPI_Datatype type, int *count),
         (status, type, count))

static void tell(int number) {
  (void)number;
  (void)!write(2, doing, strlen(doing));
}

/* ---- what a program does: the first rank has one member, the other two ---- */

typedef enum step { CREATE, MAKE, WEIGHTS, FORWARD, STATISTICS, ROUTING, READ, STEPS } step;
static const char *const names[] = {"group_create", "group_layer_create", "set_weights", "forward",
                                    "statistics",   "read_routing",       "read",        "nothing"};

typedef struct user {
  moecl_group *group;
  moecl_group_layer *layer;
  moecl_buffer *hidden[OWN], *output[OWN];
  float values[OWN][2 * ROW];
} user;

static int members(void) { return own + 1; }
static int64_t tokens_of(int member) { return member == 2 ? 2 : member; } /* 0, 1, 2 */

static moecl_status give_weights(user *user) {
  for (int t = 0; t < MOECL_TENSOR_COUNT; t++) {
    float values[SMALL_EXPERTS * 2 * SMALL_INNER * SMALL_HIDDEN];
    const int64_t items = moecl_layer_tensor_items(&small_params, (moecl_tensor)t);
    small_fill(values, BASE_COUNT(values), (unsigned)t);
    if (items > 0)
      MOECL_TRY(moecl_group_layer_set_weights(user->layer, (moecl_tensor)t, 0, items, values));
  }
  return MOECL_OK;
}

static moecl_status forward(user *user) {
  moecl_group_tokens tokens[OWN] = {{0}};
  moecl_event *events[OWN] = {NULL};
  for (int m = 0; m < members(); m++) {
    tokens[m].num_tokens = tokens_of(own + m);
    tokens[m].hidden_states = tokens[m].num_tokens ? user->hidden[m] : NULL;
    tokens[m].output = tokens[m].num_tokens ? user->output[m] : NULL;
  }
  const moecl_group_forward_params params = {.tokens = tokens, .seed = 7, .measured = true};
  moecl_status status = moecl_group_layer_forward(user->layer, &params, events);
  for (int m = 0; m < members(); m++) {
    if (status == MOECL_OK) (void)moecl_event_wait(events[m]);
    moecl_event_destroy(&events[m]);
  }
  return status;
}

static moecl_status read_statistics(user *user) {
  moecl_group_statistics statistics;
  moecl_status status = MOECL_OK;
  for (size_t m = 0; status == MOECL_OK && m < moecl_group_size(user->group); m++)
    status = moecl_group_layer_statistics_wait(user->layer, m, &statistics);
  return status;
}

static moecl_status read_routing(user *user) {
  moecl_routing routing;
  const moecl_status status = moecl_group_layer_read_routing_wait(user->layer, &routing);
  moecl_routing_destroy(&routing);
  return status;
}

static moecl_status read_outputs(user *user) {
  for (int m = 0; m < members(); m++) {
    const uint64_t bytes = (uint64_t)tokens_of(own + m) * ROW * sizeof(float);
    if (bytes > 0) MOECL_TRY(moecl_buffer_read_wait(user->output[m], 0, bytes, user->values[m]));
  }
  return MOECL_OK;
}

static moecl_status take(user *user, step step) {
  const moecl_group_params by = {.mpi_comm = &world};
  moecl_group_layer_params with = {.layer = small_params, .chunks = 2};
  with.layer.capacity_factor = 1.25;
  with.layer.drop_policy = MOECL_DROP_PRIORITIZED;
  with.layer.renormalize_after_capacity = true;
  switch (step) {
  case CREATE: return moecl_group_create(contexts, (size_t)members(), &by, &user->group);
  case MAKE: return moecl_group_layer_create(user->group, &with, &user->layer);
  case WEIGHTS: return give_weights(user);
  case FORWARD: return forward(user);
  case STATISTICS: return read_statistics(user);
  case ROUTING: return read_routing(user);
  default: return read_outputs(user);
  }
}

/* Where it stopped. What a rank does by itself, the ranks of this program tell each other of; in
 * the rest they fail together. */
static step run(user *user) {
  step step = CREATE;
  for (; step < STEPS; step++) {
    int failed = take(user, step) != MOECL_OK, any, all;
    MPI_Allreduce(&failed, &any, 1, MPI_INT, MPI_MAX, world);
    MPI_Allreduce(&failed, &all, 1, MPI_INT, MPI_MIN, world);
    if (any != all && step != WEIGHTS && step != READ)
      fail_msg("%s: rank %d has %s in %s, and the other not", doing, own,
               failed ? "failed" : "not failed", names[step]);
    if (any) break;
  }
  moecl_group_layer_destroy(&user->layer);
  moecl_group_destroy(&user->group);
  return step;
}

/* ---- the walk ---- */

static void make_user(user *user) {
  *user = (struct user){NULL};
  for (int m = 0; m < members(); m++) {
    float input[2 * ROW];
    small_fill(input, BASE_COUNT(input), 1000 + (unsigned)(own + m));
    assert_ok(moecl_buffer_create(contexts[m], sizeof input, &user->hidden[m]));
    assert_ok(moecl_buffer_create(contexts[m], sizeof input, &user->output[m]));
    assert_ok(moecl_buffer_write_wait(user->hidden[m], 0, sizeof input, input));
  }
}

static uint64_t places[MOST_PLACES]; /* from which calls come, of one of the ranks */

/* The first call from a place fails on rank `who`; number 0: none, and its places are kept. */
static step try(user *user, fault_kind kind, size_t number, int who) {
  faults = (fault_state){.kind = own == who ? kind : FAULT_KINDS,
                         .place = own == who && number > 0 ? places[number - 1] : 0,
                         .code = CL_OUT_OF_RESOURCES,
                         .places = number == 0 ? places : NULL,
                         .most = MOST_PLACES,
                         .once = true};
  static const char *const kinds[] = {"OpenCL calls", "allocations", "MPI calls"};
  snprintf(doing, sizeof doing, "place %zu of %s of rank %d\n", number, kinds[kind], who);
  alarm(TOLD_SECONDS);
  const step stopped = run(user);
  alarm(0);
  if (is_warm && kind == FAULT_MEMORY && (faults.objects != 0 || faults.blocks != 0))
    fail_msg("%srank %d keeps %lld objects and %lld blocks", doing, own, (long long)faults.objects,
             (long long)faults.blocks);
  return stopped;
}

static void walk(fault_kind kind, int who) {
  size_t stopped[STEPS + 1] = {0};
  user user;
  make_user(&user);
  assert_int_equal(try(&user, kind, 0, who), STEPS);
  is_warm = true;
  assert_int_equal(try(&user, kind, 0, who), STEPS);
  size_t count = faults.num_places;
  MPI_Bcast(&count, sizeof count, MPI_BYTE, who, world);
  assert_true(count > 0 && count < MOST_PLACES);
  for (size_t i = 0; i < count; i += kind == FAULT_OPENCL ? 3 : 1)
    stopped[try(&user, kind, i + 1, who)]++;
  assert_int_equal(try(&user, kind, 0, who), STEPS);
  faults.kind = FAULT_KINDS;
  for (int m = 0; m < members(); m++) {
    moecl_buffer_destroy(&user.hidden[m]);
    moecl_buffer_destroy(&user.output[m]);
  }
  for (int s = 0; own == 0 && s <= STEPS; s++)
    printf("%s %zu%s", names[s], stopped[s], s < STEPS ? ", " : "\n");
  assert_true(stopped[CREATE] > 0 && stopped[FORWARD] > 0);
  assert_true(kind == FAULT_OPENCL || stopped[MAKE] > 0); /* variants that fail are set aside */
}

int main(int argc, char **argv) {
  int level, count;
  skip_without_device();
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level);
  world = MPI_COMM_WORLD;
  MPI_Comm_rank(world, &own);
  MPI_Comm_size(world, &count);
  if (count != 2) MPI_Abort(world, 1);
  signal(SIGALRM, tell);
  for (int m = 0; m < members(); m++) assert_ok(moecl_context_create(NULL, &contexts[m]));
  for (int who = 0; who < count; who++) walk(FAULT_MEMORY, who);
  for (int who = 0; who < count; who++) walk(FAULT_MPI, who);
  walk(FAULT_OPENCL, 1);
  for (int m = 0; m < members(); m++) moecl_context_destroy(&contexts[m]);
  MPI_Finalize();
  return 0;
}
