// SPDX-License-Identifier: MIT
/* A layer on a group whose members are in several processes, which mpirun starts: the bits of one
 * device, and a failure of one rank in whatever call of OpenCL it is fails on all, after which all
 * go on. An assertion that fails ends the process, and mpirun the others. */
#include "base/base.h"
#include "group/ranks.h"
#include "group_compare.h"
#include "ocl/ocl.h"
#include <CL/cl.h>
#include <mpi.h>
#include <stdatomic.h>

/* ---- a driver whose calls fail: linked with --wrap ---- */

static atomic_int calls;              /* members' threads call */
static int failing_from, failing_for; /* 0: none */

static bool fails(void) {
  const int call = ++calls;
  return failing_from > 0 && call >= failing_from && call < failing_from + failing_for;
}

cl_int __real_clEnqueueNDRangeKernel(cl_command_queue, cl_kernel, cl_uint, const size_t *,
                                     const size_t *, const size_t *, cl_uint, const cl_event *,
                                     cl_event *);
cl_int __wrap_clEnqueueNDRangeKernel(cl_command_queue queue, cl_kernel kernel, cl_uint dims,
                                     const size_t *offset, const size_t *global,
                                     const size_t *local, cl_uint count, const cl_event *waits,
                                     cl_event *event);
cl_int __wrap_clEnqueueNDRangeKernel(cl_command_queue queue, cl_kernel kernel, cl_uint dims,
                                     const size_t *offset, const size_t *global,
                                     const size_t *local, cl_uint count, const cl_event *waits,
                                     cl_event *event) {
  if (fails()) return CL_OUT_OF_RESOURCES;
  return __real_clEnqueueNDRangeKernel(queue, kernel, dims, offset, global, local, count, waits,
                                       event);
}

cl_int __real_clEnqueueReadBuffer(cl_command_queue, cl_mem, cl_bool, size_t, size_t, void *,
                                  cl_uint, const cl_event *, cl_event *);
cl_int __wrap_clEnqueueReadBuffer(cl_command_queue queue, cl_mem mem, cl_bool wait, size_t offset,
                                  size_t bytes, void *to, cl_uint count, const cl_event *waits,
                                  cl_event *event);
cl_int __wrap_clEnqueueReadBuffer(cl_command_queue queue, cl_mem mem, cl_bool wait, size_t offset,
                                  size_t bytes, void *to, cl_uint count, const cl_event *waits,
                                  cl_event *event) {
  if (fails()) return CL_OUT_OF_RESOURCES;
  return __real_clEnqueueReadBuffer(queue, mem, wait, offset, bytes, to, count, waits, event);
}

cl_int __real_clEnqueueWriteBuffer(cl_command_queue, cl_mem, cl_bool, size_t, size_t, const void *,
                                   cl_uint, const cl_event *, cl_event *);
cl_int __wrap_clEnqueueWriteBuffer(cl_command_queue queue, cl_mem mem, cl_bool wait, size_t offset,
                                   size_t bytes, const void *from, cl_uint count,
                                   const cl_event *waits, cl_event *event);
cl_int __wrap_clEnqueueWriteBuffer(cl_command_queue queue, cl_mem mem, cl_bool wait, size_t offset,
                                   size_t bytes, const void *from, cl_uint count,
                                   const cl_event *waits, cl_event *event) {
  if (fails()) return CL_OUT_OF_RESOURCES;
  return __real_clEnqueueWriteBuffer(queue, mem, wait, offset, bytes, from, count, waits, event);
}

cl_mem __real_clCreateBuffer(cl_context, cl_mem_flags, size_t, void *, cl_int *);
cl_mem __wrap_clCreateBuffer(cl_context context, cl_mem_flags flags, size_t size, void *host,
                             cl_int *code);
cl_mem __wrap_clCreateBuffer(cl_context context, cl_mem_flags flags, size_t size, void *host,
                             cl_int *code) {
  if (!fails()) return __real_clCreateBuffer(context, flags, size, host, code);
  if (code) *code = CL_MEM_OBJECT_ALLOCATION_FAILURE;
  return NULL;
}

/* Every second look at an event finds it not done yet: of two that are, the later one is seen
 * first. */
static bool looks_late;
cl_int __real_clGetEventInfo(cl_event, cl_event_info, size_t, void *, size_t *);
cl_int __wrap_clGetEventInfo(cl_event event, cl_event_info info, size_t size, void *value,
                             size_t *size_of);
cl_int __wrap_clGetEventInfo(cl_event event, cl_event_info info, size_t size, void *value,
                             size_t *size_of) {
  static unsigned looks;
  const cl_int code = __real_clGetEventInfo(event, info, size, value, size_of);
  if (looks_late && info == CL_EVENT_COMMAND_EXECUTION_STATUS && *(cl_int *)value == CL_COMPLETE &&
      ++looks % 2)
    *(cl_int *)value = CL_RUNNING;
  return code;
}

/* ---- an MPI that fails: messages are begun, and nothing more is heard of them ---- */

enum { MOST_LOST = 64 };
static bool mpi_fails, mpi_keeps; /* the latter: memory of messages that are given up */
/* Once: the next message that is done, or the next such that goes, is told as lost; or the next
 * that is to go never goes, which is told later. */
static enum { LOSE_NONE, LOSE_ANY, LOSE_SENT, LOSE_UNSENT } mpi_loses;
enum { UNSENT = 0xdead };
static const char *lost[MOST_LOST];
static int num_lost;

static void lose(const void *data) {
  if (mpi_fails && num_lost < MOST_LOST) lost[num_lost++] = data;
}

moecl_status __real_ranks_send(group_ranks *, int, int, const void *, size_t, ranks_message *);
moecl_status __wrap_ranks_send(group_ranks *group, int to, int tag, const void *data, size_t bytes,
                               ranks_message *message);
moecl_status __wrap_ranks_send(group_ranks *group, int to, int tag, const void *data, size_t bytes,
                               ranks_message *message) {
  lose(data);
  if (mpi_loses == LOSE_UNSENT) {
    mpi_loses = LOSE_NONE;
    *message = (ranks_message){.request = UNSENT, .under_way = true};
    return MOECL_OK;
  }
  return __real_ranks_send(group, to, tag, data, bytes, message);
}

moecl_status __real_ranks_receive(group_ranks *, int, int, void *, size_t, ranks_message *);
moecl_status __wrap_ranks_receive(group_ranks *group, int from, int tag, void *data, size_t bytes,
                                  ranks_message *message);
moecl_status __wrap_ranks_receive(group_ranks *group, int from, int tag, void *data, size_t bytes,
                                  ranks_message *message) {
  lose(data);
  return __real_ranks_receive(group, from, tag, data, bytes, message);
}

moecl_status __real_ranks_test(group_ranks *, ranks_message *, bool *);
moecl_status __wrap_ranks_test(group_ranks *group, ranks_message *message, bool *done);
moecl_status __wrap_ranks_test(group_ranks *group, ranks_message *message, bool *done) {
  const ranks_message was = *message;
  if (mpi_fails) return MOECL_ERROR_DEVICE;
  if (was.under_way && was.request == UNSENT) {
    *message = (ranks_message){0};
    return MOECL_ERROR_DEVICE;
  }
  const moecl_status status = __real_ranks_test(group, message, done);
  const bool goes = was.expected == 0, now = mpi_loses == LOSE_ANY || (mpi_loses && goes);
  if (!now || !was.under_way || !*done) return status;
  mpi_loses = LOSE_NONE;
  return MOECL_ERROR_DEVICE;
}

bool __real_ranks_give_up(group_ranks *, ranks_message *);
bool __wrap_ranks_give_up(group_ranks *group, ranks_message *message);
bool __wrap_ranks_give_up(group_ranks *group, ranks_message *message) {
  return mpi_keeps ? !message->under_way : __real_ranks_give_up(group, message);
}

/* What MPI keeps stays there. */
void __real_ocl_pinned_release(ocl_pinned *);
void __wrap_ocl_pinned_release(ocl_pinned *pinned);
void __wrap_ocl_pinned_release(ocl_pinned *pinned) {
  const char *begin = pinned->host, *end = begin + (begin ? pinned->bytes : 0);
  for (int i = 0; mpi_keeps && i < num_lost; i++) assert_false(lost[i] >= begin && lost[i] < end);
  __real_ocl_pinned_release(pinned);
}

/* ---- bits ---- */

/* For two ranks and for three: members without tokens, without experts, several on a rank. */
static const arrangement arrangements[] = {
    {3, {70, 0, 80}, 1, {0}},
    {4, {20, 70, 1, 59}, 8, {0}},
    {4, {0, 0, 150, 0}, 2, {0, 1, 0, 3}},
};
enum { ARRANGEMENTS = sizeof arrangements / sizeof *arrangements };

static void check_rule(const moecl_layer_params *params, int first, int step, const char *what) {
  problem p = make_problem(params, TOKENS);
  for (int i = first; i < ARRANGEMENTS; i += step) {
    const moecl_group_layer_params with = params_of(&arrangements[i]);
    compare(&p, &with, arrangements[i].members, arrangements[i].split, what);
  }
  free_problem(&p);
}

static void test_arrangements(void) { check_rule(&plain, 0, 1, "plain"); }

static void test_drop_policies(void) {
  for (int policy = 0; policy < MOECL_DROP_POLICY_COUNT; policy++) {
    moecl_layer_params params = plain;
    params.capacity_factor = 0.7;
    params.drop_policy = (moecl_drop_policy)policy;
    params.renormalize_after_capacity = policy != 0;
    check_rule(&params, policy % ARRANGEMENTS, ARRANGEMENTS, "a drop policy");
  }
}

static void test_shared_and_draws(void) {
  moecl_layer_params params = plain;
  params.shared_intermediate_size = 12;
  params.jitter = 0.125f;
  params.weight_on_input = true;
  check_rule(&params, 1, ARRANGEMENTS, "a shared expert, jitter and weighted inputs");
}

/* An expert on all ranks, another on two. */
static void test_given(void) {
  static const int32_t lists[] = {7, 0, 3, 3, 1, 5, 2, 3, 6, 4, 0};
  static const size_t sizes[] = {3, 4, 4};
  static const int64_t split[] = {10, 100, 40};
  const moecl_group_layer_params with = {
      .placement = MOECL_PLACE_GIVEN, .lists = lists, .list_sizes = sizes, .chunks = 2};
  problem p = make_problem(&plain, TOKENS);
  compare(&p, &with, 3, split, "given lists");
  free_problem(&p);
}

/* ---- weights from a checkpoint ---- */

static void add_matrix(base_text *header, const char *name, int rows, int columns, size_t *at) {
  const size_t bytes = (size_t)rows * (size_t)columns * sizeof(float);
  base_text_addf(header,
                 "%s\"model.layers.0.block_sparse_moe.%s.weight\":{\"dtype\":\"F32\","
                 "\"shape\":[%d,%d],\"data_offsets\":[%zu,%zu]}",
                 *at ? "," : "{", name, rows, columns, *at, *at + bytes);
  *at += bytes;
}

/* A model of one layer, Mixtral's kind. */
static void write_model(const char *folder) {
  static const char *const names[] = {"w1", "w2", "w3"};
  base_text header = {0};
  size_t bytes = 0;
  char name[600];
  add_matrix(&header, "gate", EXPERTS, HIDDEN, &bytes);
  for (int i = 0; i < 3 * EXPERTS; i++) {
    const bool down = i % 3 == 1;
    snprintf(name, sizeof name, "experts.%d.%s", i / 3, names[i % 3]);
    add_matrix(&header, name, down ? HIDDEN : INNER, down ? INNER : HIDDEN, &bytes);
  }
  base_text_addf(&header, "}");
  const uint64_t length = header.size;
  const size_t count = bytes / sizeof(float);
  double *values = take(count * sizeof *values);
  float *rounded = take(bytes);
  draw(values, count, 5);
  for (size_t i = 0; i < count; i++) rounded[i] = (float)values[i];
  snprintf(name, sizeof name, "%s/model.safetensors", folder);
  FILE *file = fopen(name, "wb");
  assert_non_null(file);
  assert_true(fwrite(&length, 8, 1, file) == 1 && fwrite(header.data, length, 1, file) == 1 &&
              fwrite(rounded, bytes, 1, file) == 1 && fclose(file) == 0);
  snprintf(name, sizeof name, "%s/config.json", folder);
  file = fopen(name, "w");
  assert_non_null(file);
  fprintf(file,
          "{\"model_type\":\"mixtral\",\"hidden_size\":%d,\"intermediate_size\":%d,"
          "\"num_local_experts\":%d,\"num_experts_per_tok\":%d,\"num_hidden_layers\":1}",
          HIDDEN, INNER, EXPERTS, TOP_K);
  assert_int_equal(fclose(file), 0);
  base_text_free(&header);
  free(values), free(rounded);
}

static void *load_alone(const problem *p, moecl_checkpoint *checkpoint) {
  moecl_layer *layer = NULL;
  moecl_buffer *hidden = NULL, *output = NULL;
  const uint64_t bytes = (uint64_t)p->num_tokens * p->row_bytes;
  void *result = take(bytes);
  assert_ok(moecl_layer_create(contexts[0], &p->params, &layer));
  assert_ok(moecl_layer_load(layer, checkpoint, 0));
  assert_ok(moecl_buffer_create(contexts[0], bytes, &hidden));
  assert_ok(moecl_buffer_create(contexts[0], bytes, &output));
  assert_ok(moecl_buffer_write_wait(hidden, 0, bytes, p->hidden));
  const moecl_forward_params forward = {
      .num_tokens = p->num_tokens, .hidden_states = hidden, .output = output};
  assert_ok(moecl_layer_forward(layer, &forward, NULL));
  assert_ok(moecl_buffer_read_wait(output, 0, bytes, result));
  moecl_buffer_destroy(&hidden);
  moecl_buffer_destroy(&output);
  moecl_layer_destroy(&layer);
  return result;
}

static void test_load(void) {
  const char *folder = getenv("MOECL_TEST_DIR");
  char path[512];
  moecl_checkpoint *checkpoint = NULL;
  moecl_checkpoint_layer stored;
  moecl_status status;
  snprintf(path, sizeof path, "%s/ranks-%d", folder ? folder : "/tmp", ranks.count);
  assert_ok(base_make_directories(path));
  if (ranks.own == 0) write_model(path);
  MPI_Barrier(MPI_COMM_WORLD);
  assert_ok(moecl_checkpoint_open(path, NULL, NULL, &checkpoint));
  assert_ok(moecl_checkpoint_get_layer(checkpoint, 0, &stored));
  stored.params.batch_invariant = true;
  problem p = make_problem(&stored.params, TOKENS);
  const moecl_group_layer_params with = params_of(&arrangements[0]);
  together t = make_together(&p, &with, 3, arrangements[0].split);
  assert_ok(moecl_group_layer_load(t.layer, checkpoint, 0));
  void *want = load_alone(&p, checkpoint), *got = run_together(&t, 0, &status);
  assert_ok(status);
  assert_true(same_output(&t, got, want));
  free(got), free(want);
  free_together(&t);
  free_problem(&p);
  moecl_checkpoint_destroy(&checkpoint);
}

/* Blocks of many pieces, more of them than there are slots. */
static void test_large_rows(void) {
  static const int64_t split[] = {3, 0, 397};
  moecl_layer_params params = plain;
  const moecl_group_layer_params with = {.chunks = 0};
  params.hidden_size = 40000;
  params.intermediate_size = 2;
  problem p = make_problem(&params, 400);
  compare(&p, &with, 3, split, "large rows");
  free_problem(&p);
}

/* Messages of one member to another come in the order in which they are waited for. */
static void test_order(void) {
  looks_late = true;
  check_rule(&plain, 1, ARRANGEMENTS, "late looks");
  looks_late = false;
}

static void test_no_tokens(void) {
  static const int64_t none[MOST_MEMBERS] = {0};
  const moecl_group_layer_params with = {0};
  moecl_status status;
  problem p = make_problem(&plain, 0);
  together t = make_together(&p, &with, 3, none);
  const char *transport = moecl_group_transport(t.group); /* of all, also where this rank has one */
  if (ranks.count < 3) assert_true(strncmp(transport, "mpi+", 4) == 0);
  else assert_string_equal(transport, "mpi");
  free(run_together(&t, 1, &status));
  assert_ok(status);
  free_together(&t);
  free_problem(&p);
}

/* Forwards with other seeds, so with other routing: memory comes to rest. */
static void test_many(void) {
  const char *asked = getenv("MOECL_TEST_FORWARDS");
  const int forwards = asked ? atoi(asked) : 1000;
  moecl_layer_params params = plain;
  uint64_t early[MOST_MEMBERS] = {0};
  params.jitter = 0.5f;
  problem p = make_problem(&params, TOKENS);
  const arrangement *a = &arrangements[1];
  const moecl_group_layer_params with = params_of(a);
  together t = make_together(&p, &with, a->members, a->split);
  for (int i = 0; i < forwards; i++) {
    moecl_status status;
    free(run_together(&t, (uint64_t)i, &status));
    assert_ok(status);
    for (int m = 0; m < t.own && i == forwards / 2; m++)
      early[m] = moecl_context_memory(contexts[m], NULL);
  }
  for (int m = 0; m < t.own; m++)
    assert_true(moecl_context_memory(contexts[m], NULL) <= early[m] + early[m] / 8);
  free_together(&t);
  free_problem(&p);
}

/* ---- failures ---- */

/* In the log of any member. */
static void expect(moecl_status got, moecl_status want, const char *part) {
  char text[MOST_MEMBERS * 1000];
  size_t length = 0;
  assert_int_equal(got, want);
  for (int m = 0; m < MOST_MEMBERS; m++) {
    moecl_context_take_errors(contexts[m], text + length, sizeof text - length);
    length += strlen(text + length);
  }
  if (!strstr(text, part)) fail_msg("'%s' says nothing of '%s'", text, part);
}

enum { NEVER = 1 << 20, FOR_EVER = 1 << 20 };

/* One forward in which rank `who`'s calls fail from the n-th on, that one or all; how many calls
 * it made. */
static int run_failing(together *t, int who, int from, int how_many, const void *want) {
  moecl_status status;
  calls = 0;
  failing_from = ranks.own == who ? from : 0;
  failing_for = how_many;
  void *got = run_together(t, 11, &status);
  int made = calls, theirs = made;
  failing_from = 0;
  MPI_Bcast(&theirs, 1, MPI_INT, who, MPI_COMM_WORLD);
  if (from > theirs) {
    assert_ok(status);
    assert_true(same_output(t, got, want));
  } else {
    assert_true(status == MOECL_ERROR_DEVICE || status == MOECL_ERROR_OUT_OF_DEVICE_MEMORY);
    expect(status, status, ranks.own == who ? "failed: CL_" : "failed on rank");
  }
  free(got);
  return theirs;
}

/* Every third call in turn, on the first rank and on the last; the forward after it is as it
 * should be. The last call, which reads the output back, is the test's own. */
static void test_failing_calls(void) {
  moecl_routing routing;
  moecl_layer_params params = plain;
  int later_failures = 0;
  params.shared_intermediate_size = 12;
  problem p = make_problem(&params, TOKENS);
  void *want = run_alone(&p, 11, &routing);
  const moecl_group_layer_params with = params_of(&arrangements[0]);
  for (int who = 0; who < ranks.count; who += ranks.count - 1) {
    together t = make_together(&p, &with, 3, arrangements[0].split);
    run_failing(&t, who, NEVER, 1, want); /* makes buffers, which later ones find there */
    const int all = run_failing(&t, who, NEVER, 1, want) - 1;
    for (int from = 1; from <= all; from += 3, later_failures++) {
      run_failing(&t, who, from, from % 2 ? 1 : FOR_EVER, want);
      run_failing(&t, who, NEVER, 1, want);
    }
    free_together(&t);
  }
  if (later_failures <= 12) fail_msg("only %d calls failed", later_failures);
  free(want);
  moecl_routing_destroy(&routing);
  free_problem(&p);
}

/* Does it come? One that was called off is given a quarter of a second to come all the same. */
static bool comes(group_ranks *joined, ranks_message *message, bool off) {
  enum { LOOKS = 2500 };
  bool done = false;
  for (int looks = 0, all = 0; !done && !(off && all == LOOKS); all++, ranks_pause(&looks))
    assert_ok(ranks_test(joined, message, &done));
  return done;
}

/* One that nobody takes is done with when somebody does, or where MPI can call it off; one that
 * nobody sends at once. */
static void test_cancelled(void) {
  enum { BYTES = 8 << 20, TAKEN = 5, NEVER_SENT = 6 };
  group_ranks *joined;
  ranks_message message = {0};
  int off = 0;
  char *data = take(BYTES);
  assert_ok(ranks_join(&contexts[0]->log, ranks.comm, MOECL_OK, &joined));
  memset(data, 7, BYTES);
  if (ranks.own == 0) {
    assert_ok(ranks_send(joined, 1, TAKEN, data, BYTES, &message));
    off = ranks_give_up(joined, &message);
    assert_true(message.under_way == !off);
  } else {
    assert_ok(ranks_receive(joined, 0, NEVER_SENT, data, BYTES, &message));
    assert_true(ranks_give_up(joined, &message) && !message.under_way);
  }
  MPI_Bcast(&off, 1, MPI_INT, 0, MPI_COMM_WORLD);
  if (ranks.own == 1) {
    memset(data, 0, BYTES);
    assert_ok(ranks_receive(joined, 0, TAKEN, data, BYTES, &message));
    assert_true(comes(joined, &message, off) == !off);
    for (int i = 0; i < BYTES; i++) assert_int_equal(data[i], off ? 0 : 7);
    assert_true(ranks_give_up(joined, &message));
  }
  while (!off && ranks.own == 0) off = ranks_give_up(joined, &message);
  MPI_Barrier(MPI_COMM_WORLD);
  ranks_leave(&joined);
  free(data);
}

/* Memory of messages that are given up is let go of when MPI has done so, and not before; the group
 * is of no use any more, and another one is. */
static void test_given_up(void) {
  static const int64_t split[] = {3, 0, 397};
  const moecl_group_layer_params with = {.chunks = 2};
  moecl_layer_params params = plain;
  moecl_status status;
  params.hidden_size = 40000;
  params.intermediate_size = 2;
  problem p = make_problem(&params, 400);
  for (int keeps = 0; keeps < 2; keeps++) {
    together t = make_together(&p, &with, 3, split);
    num_lost = 0;
    mpi_fails = true;
    mpi_keeps = keeps;
    run_together(&t, 11, &status);
    mpi_fails = false;
    assert_int_equal(status, MOECL_ERROR_DEVICE);
    assert_true(num_lost > 0);
    moecl_context_take_errors(contexts[0], NULL, 0);
    run_together(&t, 11, &status);
    expect(status, MOECL_ERROR_DEVICE, "make another one");
    free_together(&t);
    mpi_keeps = false;
  }
  compare(&p, &with, 3, split, "a group after one that was given up");
  free_problem(&p);
}

/* One message that MPI fails in, had it gone or not: nobody waits for it in vain, and the group is
 * of no use any more. */
static void lose_one(const problem *p, const arrangement *a, int how) {
  const moecl_group_layer_params with = params_of(a);
  moecl_status status;
  together t = make_together(p, &with, a->members, a->split);
  mpi_loses = ranks.own == 0 ? how : LOSE_NONE;
  free(run_together(&t, 11, &status));
  assert_int_equal(status, MOECL_ERROR_DEVICE);
  assert_int_equal(mpi_loses, LOSE_NONE);
  moecl_context_take_errors(contexts[0], NULL, 0);
  free(run_together(&t, 11, &status));
  assert_int_equal(status, MOECL_ERROR_DEVICE);
  if (ranks.own == 0) expect(status, MOECL_ERROR_DEVICE, "make another one");
  free_together(&t);
}

/* Of few that go at once, and of more and larger ones than do. */
static void test_lost(void) {
  static const arrangement many = {3, {3, 0, 397}, 2, {0}};
  moecl_layer_params params = plain;
  problem few = make_problem(&plain, TOKENS);
  params.hidden_size = 40000;
  params.intermediate_size = 2;
  problem p = make_problem(&params, 400);
  for (int how = LOSE_ANY; how <= LOSE_UNSENT; how++) {
    lose_one(&few, &arrangements[0], how);
    lose_one(&p, &many, how);
  }
  const moecl_group_layer_params with = params_of(&many);
  compare(&p, &with, many.members, many.split, "a group after those that lost a message");
  free_problem(&few);
  free_problem(&p);
}

/* What all have to ask for alike. */
static void test_refusals(void) {
  const bool last = ranks.own == ranks.count - 1;
  const moecl_group_params across = {.mpi_comm = ranks.comm},
                           unknown = {.mpi_comm = ranks.comm, .transport = "pigeons"};
  const moecl_group_layer_params params = {.layer = plain, .chunks = last ? 2 : 1};
  const moecl_group_layer_params wrong = {.layer = plain, .chunks = last ? 99 : 1};
  moecl_group *group = NULL;
  moecl_group_layer *layer = NULL;
  moecl_context_take_errors(contexts[0], NULL, 0);
  expect(moecl_group_create(contexts, 1, last ? &unknown : &across, &group),
         MOECL_ERROR_UNSUPPORTED, last ? "pigeons" : "failed on rank");
  assert_null(group);
  expect(moecl_group_create(contexts, last ? 99 : 1, &across, &group), MOECL_ERROR_INVALID_ARGUMENT,
         last ? "1 to 64" : "failed on rank");
  assert_ok(moecl_group_create(contexts, 1, &across, &group));
  assert_string_equal(moecl_group_transport(group), "mpi");
  for (int m = 0; m < ranks.count; m++)
    assert_ptr_equal(moecl_group_context(group, (size_t)m), m == ranks.own ? contexts[0] : NULL);
  expect(moecl_group_layer_create(group, &wrong, &layer), MOECL_ERROR_INVALID_ARGUMENT,
         last ? "1 to 8" : "failed on rank");
  expect(moecl_group_layer_create(group, &params, &layer), MOECL_ERROR_INVALID_ARGUMENT,
         "asks for another layer");
  assert_null(layer);
  moecl_group_layer_params other = {.layer = plain, .chunks = 1};
  other.layer.jitter = last ? 0.25f : 0; /* nobody would wait in vain, but for the same bits */
  expect(moecl_group_layer_create(group, &other, &layer), MOECL_ERROR_INVALID_ARGUMENT,
         "asks for another layer");
  assert_null(layer);
  moecl_group_destroy(&group);
}

/* What the group of so many members says where a transport was asked for: its name, or why there is
 * none; all ranks the same. */
static void ask(const char *transport, int members, char said[1000]) {
  const int own = members * (ranks.own + 1) / ranks.count - members * ranks.own / ranks.count;
  const moecl_group_params by = {.mpi_comm = ranks.comm, .transport = transport};
  moecl_group *group = NULL;
  char first[1000];
  for (int m = 0; m < MOST_MEMBERS; m++) moecl_context_take_errors(contexts[m], NULL, 0);
  const moecl_status status = moecl_group_create(contexts, (size_t)own, &by, &group);
  assert_true(status == MOECL_OK || status == MOECL_ERROR_UNSUPPORTED);
  assert_true((group != NULL) == (status == MOECL_OK));
  if (group) snprintf(said, 1000, "%s", moecl_group_transport(group));
  else moecl_context_take_errors(contexts[0], said, 1000);
  moecl_group_destroy(&group);
  snprintf(first, sizeof first, "%s", said);
  MPI_Bcast(first, sizeof first, MPI_CHAR, 0, MPI_COMM_WORLD);
  assert_string_equal(said, first);
}

/* One that serves nobody is refused in the same words on all ranks, however members are spread: no
 * rank has two, some have, all have. The host always serves. */
static void test_by_name(void) {
  char said[1000];
  if (moecl_context_device(contexts[0])->capabilities & MOECL_CAP_PTX_SM80) return;
  for (int members = ranks.count; members <= MOST_MEMBERS; members++) {
    ask("host", members, said);
    assert_string_equal(said, members > ranks.count ? "mpi+host" : "mpi");
    ask("nvidia_peer", members, said);
    if (!strstr(said, "'nvidia_peer' cannot serve here, between ") ||
        !strstr(said, ": a member is no GPU of NVIDIA's") || !strstr(said, "; ask for 'host'"))
      fail_msg("%d members: '%s'", members, said);
    ask("nvidia_copy", members, said);
    if (!strstr(said, "'nvidia_copy' cannot serve here, between ") ||
        !strstr(said, members > ranks.count ? ": a member is no GPU" : ": none are in one process"))
      fail_msg("%d members: '%s'", members, said);
  }
}

/* Weights that one rank has not set; other seeds. */
static void test_not_ready(void) {
  static const int64_t split[] = {50, 50, 50};
  const moecl_group_layer_params with = {0};
  moecl_group_layer *layer;
  moecl_status status;
  problem p = make_problem(&plain, TOKENS);
  together t = make_together(&p, &with, 3, split);
  moecl_context_take_errors(contexts[0], NULL, 0);
  run_together(&t, (uint64_t)ranks.own, &status);
  expect(status, MOECL_ERROR_INVALID_ARGUMENT, "a forward has one");
  moecl_group_layer_params params = {.layer = plain};
  assert_ok(moecl_group_layer_create(t.group, &params, &layer));
  for (int i = 0; ranks.own > 0 && i < MOECL_TENSOR_COUNT; i++)
    if (p.weights[i])
      assert_ok(moecl_group_layer_set_weights(layer, (moecl_tensor)i, 0,
                                              moecl_layer_tensor_items(&plain, (moecl_tensor)i),
                                              p.weights[i]));
  const moecl_group_forward_params forward = {.tokens = t.tokens};
  expect(moecl_group_layer_forward(layer, &forward, NULL), MOECL_ERROR_NOT_READY,
         ranks.own == 0 ? "were not set" : "failed on rank 0");
  moecl_group_layer_destroy(&layer);
  free_together(&t);
  free_problem(&p);
}

int main(int argc, char **argv) {
  static const struct {
    const char *name;
    void (*test)(void);
  } tests[] = {{"arrangements", test_arrangements},
               {"drop_policies", test_drop_policies},
               {"shared_and_draws", test_shared_and_draws},
               {"given", test_given},
               {"load", test_load},
               {"large_rows", test_large_rows},
               {"order", test_order},
               {"no_tokens", test_no_tokens},
               {"many", test_many},
               {"failing_calls", test_failing_calls},
               {"refusals", test_refusals},
               {"by_name", test_by_name},
               {"not_ready", test_not_ready},
               {"cancelled", test_cancelled},
               {"given_up", test_given_up},
               {"lost", test_lost}};
  static MPI_Comm world;
  int level;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level);
  world = MPI_COMM_WORLD;
  MPI_Comm_rank(world, &ranks.own);
  MPI_Comm_size(world, &ranks.count);
  ranks.comm = &world;
  if (argc > 1 && ranks.count != atoi(argv[1])) {
    fprintf(stderr, "%d ranks instead of %s: mpirun is another MPI's than the library's\n",
            ranks.count, argv[1]);
    MPI_Abort(world, 1);
  }
  make_contexts();
  for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
    if (argc > 2 && strcmp(argv[2], tests[i].name) != 0) continue;
    if (ranks.own == 0) printf("%s\n", tests[i].name), fflush(stdout);
    tests[i].test();
  }
  destroy_contexts();
  MPI_Finalize();
  return 0;
}
