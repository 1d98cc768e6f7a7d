// SPDX-License-Identifier: MIT
/* The transport between GPUs of one machine (lib/group/nvidia_peer.c, node.c, descriptors.c) where
 * members are in several processes, on any device: what makes and imports memory is replaced
 * (process_stand_in.h), the kernels by test/kernel/peer.cl. What the hardware does is not tested
 * here. Each member has a context and a queue of its own, and a thread. An assertion that fails
 * ends the process, and mpirun the others. An alarm tells where somebody may hang. */
#include "base/base.h"
#include "group/descriptors.h"
#include "group/group.h"
#include "group_compare.h"
#include "open_files.h"
#include "process_stand_in.h"
#include <CL/cl.h>
#include <errno.h>
#include <mpi.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST_ALL = 6, TOLD_SECONDS = 60 };

static char doing[200];

static void tell(int number) {
  (void)number;
  (void)!write(2, doing, strlen(doing));
}

static void begin(const char *what, int number) {
  snprintf(doing, sizeof doing, "rank %d is in %s %d\n", ranks.own, what, number);
  alarm(TOLD_SECONDS);
}

/* ---- calls that fail ---- */

static int calls, failing_from, failing_for;               /* of the driver, from 1 on; 0: none */
static int messages;                                       /* between processes, through the host */
static int sends, failing_send, receives, failing_receive; /* of descriptors, likewise */
static bool has_no_socket, dies;

/* ---- rows that leave late ---- */

static bool late;

static void *complete(void *user) {
  nanosleep(&(struct timespec){0, 4000000}, NULL);
  clSetUserEventStatus(user, CL_COMPLETE);
  clReleaseEvent(user);
  return NULL;
}

/* What comes next on the queue waits some milliseconds. */
static void hold(cl_command_queue queue) {
  cl_context context;
  pthread_t thread;
  cl_int code;
  clGetCommandQueueInfo(queue, CL_QUEUE_CONTEXT, sizeof context, &context, NULL);
  cl_event event = clCreateUserEvent(context, &code);
  if (code != CL_SUCCESS || clEnqueueMarkerWithWaitList(queue, 1, &event, NULL) != CL_SUCCESS ||
      pthread_create(&thread, NULL, complete, event) != 0)
    abort();
  pthread_detach(thread);
}

static bool gathers(cl_kernel kernel) {
  char name[32] = "";
  clGetKernelInfo(kernel, CL_KERNEL_FUNCTION_NAME, sizeof name, name, NULL);
  return strcmp(name, "gather_rows") == 0;
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
  const int call = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
  if (failing_from > 0 && call >= failing_from && call < failing_from + failing_for)
    return CL_OUT_OF_RESOURCES;
  if (late && gathers(kernel)) hold(queue);
  return __real_clEnqueueNDRangeKernel(queue, kernel, dims, offset, global, local, count, waits,
                                       event);
}

moecl_status __real_ranks_send(group_ranks *, int, int, const void *, size_t, ranks_message *);
moecl_status __wrap_ranks_send(group_ranks *group, int to, int tag, const void *data, size_t bytes,
                               ranks_message *message);
moecl_status __wrap_ranks_send(group_ranks *group, int to, int tag, const void *data, size_t bytes,
                               ranks_message *message) {
  messages++;
  return __real_ranks_send(group, to, tag, data, bytes, message);
}

int __real_setsockopt(int, int, int, const void *, socklen_t);
int __wrap_setsockopt(int file, int level, int name, const void *value, socklen_t size);
int __wrap_setsockopt(int file, int level, int name, const void *value, socklen_t size) {
  if (has_no_socket && level == SOL_SOCKET && name == SO_PASSCRED) return errno = ENOMEM, -1;
  return __real_setsockopt(file, level, name, value, size);
}

/* A stranger's messages come between: one with a descriptor, one without. */
static bool strangers;
static void send_stranger(const struct msghdr *like) {
  const pid_t child = fork();
  int status;
  if (child == 0) {
    struct msghdr message = *like;
    const int file = socket(AF_UNIX, SOCK_DGRAM, 0);
    const bool sent = sendmsg(file, &message, 0) >= 0;
    message.msg_controllen = 0;
    _exit(sent && sendmsg(file, &message, 0) >= 0 ? 0 : 1);
  }
  assert_true(child > 0 && waitpid(child, &status, 0) == child && status == 0);
}

/* The first message of who is LATE leaves when all others, who GIVE_UP, have told so. */
static enum { GOES, WITHOUT, TWICE, LATE, GIVE_UP } sending;

static void await_others(void) {
  for (int r = 0; r < ranks.count; r++)
    if (r != ranks.own) MPI_Recv(NULL, 0, MPI_BYTE, r, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
}

ssize_t __real_sendmsg(int, const struct msghdr *, int);
ssize_t __wrap_sendmsg(int file, const struct msghdr *message, int flags);
ssize_t __wrap_sendmsg(int file, const struct msghdr *message, int flags) {
  struct msghdr changed = *message;
  if (dies) _exit(7);
  if (++sends == failing_send) return errno = ENOTCONN, -1;
  if (strangers) strangers = false, send_stranger(message);
  if (sending == LATE) sending = GOES, await_others();
  if (sending == GIVE_UP && message->msg_controllen == 0) {
    sending = GOES;
    MPI_Send(NULL, 0, MPI_BYTE, ranks.count - 1, 0, MPI_COMM_WORLD);
  }
  if (sending == WITHOUT) changed.msg_controllen = 0;
  if (sending == TWICE) (void)__real_sendmsg(file, message, flags);
  return __real_sendmsg(file, &changed, flags);
}

ssize_t __real_recvmsg(int, struct msghdr *, int);
ssize_t __wrap_recvmsg(int file, struct msghdr *message, int flags);
ssize_t __wrap_recvmsg(int file, struct msghdr *message, int flags) {
  if (++receives == failing_receive) return errno = ENOMEM, -1;
  return __real_recvmsg(file, message, flags);
}

/* Nodes that there are not. */
static bool two_nodes;
void __real_descriptors_reach(int rank, char name[DESCRIPTORS_REACH]);
void __wrap_descriptors_reach(int rank, char name[DESCRIPTORS_REACH]);
void __wrap_descriptors_reach(int rank, char name[DESCRIPTORS_REACH]) {
  __real_descriptors_reach(rank, name);
  if (two_nodes) snprintf(name, DESCRIPTORS_REACH, "node %d", rank / 2);
}

/* ---- what is left ---- */

static int files_before;

static void check_nothing_left(void) {
  for (int m = 0; m < MOST_MEMBERS; m++)
    if (contexts[m]) assert_ok(moecl_context_finish_wait(contexts[m]));
  assert_int_equal(seen.sharers, 0);
  assert_int_equal(seen.shared, 0);
  /* PoCL's last command lets go of its buffers a little behind its end: a minute is enough. */
  for (int i = 0; i < 60000 && __atomic_load_n(&seen.mapped, __ATOMIC_SEQ_CST) > 0; i++)
    usleep(1000);
  assert_int_equal(__atomic_load_n(&seen.mapped, __ATOMIC_SEQ_CST), 0);
  assert_int_equal(open_files(), files_before);
}

static void reset(void) {
  stand_in.failing_sharer = stand_in.failing_create = stand_in.failing_import = 0;
  stand_in.private_import = 0;
  stand_in.refusal = NULL;
  failing_from = failing_send = failing_receive = 0;
  sending = GOES;
  has_no_socket = strangers = false;
  memset(&seen.made_sharers, 0, sizeof seen - offsetof(__typeof__(seen), made_sharers));
  sends = receives = calls = messages = 0;
}

/* ---- bits ---- */

static moecl_layer_params params_by_name(void) {
  moecl_layer_params params = plain;
  params.grouped_gemm_variant = "generic";
  params.router_variant = "generic";
  return params;
}

static const char direct[] = "mpi+nvidia_peer@node";

static const char *fallen_back(int members) {
  return members > ranks.count ? "mpi+nvidia_peer" : "mpi";
}

static void by_default(void) { unsetenv("MOECL_TEST_TRANSPORT"); }

/* A member of each rank; of some two; of all. */
static const int64_t split_by[MOST_ALL + 1][MOST_ALL] = {
    [2] = {70, 80}, [3] = {70, 0, 80}, [4] = {20, 70, 1, 59}, [6] = {0, 30, 50, 0, 9, 61}};

static void check_bits(const moecl_layer_params *params, int members, int32_t chunks) {
  const moecl_group_layer_params with = {.chunks = chunks};
  problem p = make_problem(params, TOKENS);
  compare(&p, &with, members, split_by[members], "processes");
  free_problem(&p);
  check_nothing_left();
}

static void check_name(int members, const char *want) {
  const int first = members * ranks.own / ranks.count,
            own = members * (ranks.own + 1) / ranks.count - first;
  const moecl_group_params by = {.mpi_comm = ranks.comm};
  moecl_group *group = NULL;
  assert_ok(moecl_group_create(contexts, (size_t)own, &by, &group));
  if (strcmp(moecl_group_transport(group), want) != 0)
    fail_msg("%s: '%s' serves, expected '%s'", doing, moecl_group_transport(group), want);
  moecl_group_destroy(&group);
}

static void test_bits(void) {
  for (int members = ranks.count; members <= 2 * ranks.count; members++) {
    if (members == 5) continue;
    for (int32_t chunks = 1; chunks <= 3; chunks += 2) {
      begin("bits of members", members);
      const moecl_layer_params params = params_by_name();
      reset();
      check_name(members, direct);
      check_bits(&params, members, chunks);
      assert_int_equal(messages, 0);
    }
  }
}

/* Rows that are no multiple of what a work-item copies; weighted inputs, a shared expert. */
static void test_rules(void) {
  moecl_layer_params params = params_by_name();
  begin("rules", 0);
  reset();
  params.hidden_size = 37;
  params.dtype = MOECL_F16;
  check_bits(&params, ranks.count + 1, 1);
  params = params_by_name();
  params.shared_intermediate_size = 12;
  params.jitter = 0.125f;
  params.weight_on_input = true;
  params.capacity_factor = 0.7;
  params.drop_policy = MOECL_DROP_PRIORITIZED;
  params.renormalize_after_capacity = true;
  check_bits(&params, ranks.count + 1, 2);
  assert_int_equal(messages, 0);
}

/* 6.25 rows each, and 30, which are stored right there: what comes is copied out of them. */
static void test_pieces(void) {
  const moecl_layer_params params = params_by_name();
  reset();
  begin("pieces", 0);
  stand_in.most = 1000;
  check_bits(&params, ranks.count + 1, 3);
  stand_in.most = 4800;
  check_bits(&params, ranks.count + 1, 2);
  stand_in.most = UINT64_C(1) << 40;
  assert_int_equal(messages, 0);
}

/* Codes go as blocks, and are decoded where they arrive: as through the host. */
static void test_codes(void) {
  const moecl_layer_params params = params_by_name();
  const moecl_group_layer_params with = {.chunks = 2, .dispatch_format = MOECL_FORMAT_FP8_G128};
  const int members = ranks.count + 1;
  void *got[2];
  problem p = make_problem(&params, TOKENS);
  begin("codes", 0);
  reset();
  for (int i = 0; i < 2; i++) {
    moecl_status status;
    if (i == 0) setenv("MOECL_TEST_TRANSPORT", "host", 1);
    together t = make_together(&p, &with, members, split_by[members]);
    assert_int_equal(strcmp(moecl_group_transport(t.group), direct) == 0, i == 1);
    by_default();
    messages = 0;
    got[i] = run_together(&t, 11, &status);
    assert_ok(status);
    assert_true(i == 0 || messages == 0);
    if (i == 1) assert_memory_equal(got[0], got[1], (size_t)t.num_tokens * p.row_bytes);
    free_together(&t);
  }
  free(got[0]), free(got[1]);
  free_problem(&p);
  check_nothing_left();
}

/* Two nodes: rows go directly on the one of two ranks, and by messages between the two. */
static void test_two_nodes(void) {
  const moecl_layer_params params = params_by_name();
  if (ranks.count < 3) return;
  for (int members = 3; members <= 6; members++) {
    if (members == 5) continue;
    begin("two nodes", members);
    reset();
    two_nodes = true;
    check_name(members, members == 3 ? direct : "mpi+nvidia_peer@node+nvidia_peer");
    check_bits(&params, members, 1);
    check_bits(&params, members, 3);
    two_nodes = false;
    assert_true(messages > 0);
  }
}

/* ---- buffers that grow, forwards behind each other ---- */

typedef struct growing {
  problem p, part; /* the latter: its first tokens */
  together t;
  int64_t split[MOST_ALL];
} growing;

static void make_growing(growing *g, int members) {
  moecl_layer_params params = params_by_name();
  const moecl_group_layer_params with = {.chunks = 2};
  params.jitter = 0.5f; /* by the seed */
  *g = (growing){.p = make_problem(&params, MOST_TOKENS)};
  g->t = make_together(&g->p, &with, members, g->split);
}

/* The next forward has so many tokens. */
static void give(growing *g, int64_t tokens) {
  together *t = &g->t;
  const int begin = t->members * ranks.own / ranks.count;
  g->part = g->p;
  g->part.num_tokens = tokens;
  t->p = &g->part;
  t->first = t->num_tokens = 0;
  for (int m = 0; m < t->members; m++) /* the second has none, the first what is left */
    g->split[m] = m == 0 ? tokens : m == 1 ? 0 : tokens / t->members;
  for (int m = 2; m < t->members; m++) g->split[0] -= g->split[m];
  for (int m = 0; m < begin; m++) t->first += g->split[m];
  for (int m = 0; m < t->own; t->num_tokens += g->split[begin + m++]) {
    moecl_buffer_destroy(&t->hidden[m]);
    moecl_buffer_destroy(&t->output[m]);
    t->tokens[m] = (moecl_group_tokens){0};
    give_tokens(t, m, t->first + t->num_tokens, g->split[begin + m]);
  }
}

static void check_forward(growing *g, uint64_t seed) {
  moecl_routing routing;
  moecl_status status;
  void *got = run_together(&g->t, seed, &status);
  assert_ok(status);
  if (g->part.num_tokens == 0) {
    free(got);
    return;
  }
  void *want = run_alone(&g->part, seed, &routing);
  if (!same_output(&g->t, got, want)) fail_msg("%s: the output differs", doing);
  moecl_routing_destroy(&routing);
  free(got), free(want);
}

static void free_growing(growing *g) {
  free_together(&g->t);
  free_problem(&g->p);
}

static void test_growth(void) {
  static const int64_t tokens[] = {9, 150, 40, 400, 3, 400, 0, 20};
  growing g;
  reset();
  make_growing(&g, ranks.count + 1);
  for (size_t i = 0; i < BASE_COUNT(tokens); i++) {
    begin("growth", (int)i);
    give(&g, tokens[i]);
    const int before = seen.imports;
    check_forward(&g, 5);
    assert_int_equal(seen.imports > before, i == 0 || i == 1 || i == 3);
  }
  free_growing(&g);
  check_nothing_left();
}

/* Nobody waits between forwards: what one reads is not written by the next. One rank's rows leave
 * late, in turns. */
static void test_many(void) {
  enum { FORWARDS = 40 };
  growing g;
  void *want[FORWARDS];
  reset();
  make_growing(&g, 2 * ranks.count);
  give(&g, TOKENS);
  for (int i = 0; i < FORWARDS; i++) {
    moecl_routing routing;
    want[i] = i < 3 ? run_alone(&g.part, (uint64_t)i, &routing) : want[i % 3];
    if (i < 3) moecl_routing_destroy(&routing);
  }
  for (int i = 0; i < FORWARDS; i++) {
    const moecl_group_forward_params forward = {.tokens = g.t.tokens, .seed = (uint64_t)(i % 3)};
    begin("forwards", i);
    late = ranks.own == i / 8 % ranks.count;
    assert_ok(moecl_group_layer_forward(g.t.layer, &forward, NULL));
    if (i % 8 != 7) continue;
    moecl_status status;
    void *got = run_together(&g.t, (uint64_t)(i % 3), &status);
    assert_ok(status);
    if (!same_output(&g.t, got, want[i % 3])) fail_msg("forward %d: the output differs", i);
    free(got);
  }
  late = false;
  for (int i = 0; i < 3; i++) free(want[i]);
  free_growing(&g);
  check_nothing_left();
}

/* ---- failures ---- */

/* All ranks have what `who` counted. */
static int told_by(int who, int number) {
  MPI_Bcast(&number, 1, MPI_INT, who, MPI_COMM_WORLD);
  return number;
}

/* Each call of a kind (of many every fourth) fails once, on the rank `who`, when a group is made:
 * all fall back together, and what serves then is right. */
static void fail_in_turn(const char *what, int *failing, const int *count, int who) {
  const int members = ranks.count + 1;
  reset();
  check_name(members, direct);
  const int all = told_by(who, *count);
  assert_true(all > 0);
  for (int i = 1; i <= all; i += all > 8 ? 4 : 1) {
    begin(what, i);
    reset();
    if (ranks.own == who) *failing = i;
    check_name(members, fallen_back(members));
    check_nothing_left();
  }
  const moecl_layer_params params = params_by_name();
  reset();
  if (ranks.own == who) *failing = all;
  check_bits(&params, members, 2);
  reset();
}

static void test_failing_steps(void) {
  for (int who = 0; who < ranks.count; who += ranks.count - 1) {
    fail_in_turn("sharers that cannot be made", &stand_in.failing_sharer, &seen.made_sharers, who);
    fail_in_turn("memory that cannot be made", &stand_in.failing_create, &seen.creates, who);
    fail_in_turn("imports", &stand_in.failing_import, &seen.imports, who);
    fail_in_turn("descriptors that cannot be sent", &failing_send, &sends, who);
  }
}

/* One rank's fault, and the others hear of it. */
static void fall_back(const char *what, int number) {
  begin(what, number);
  check_name(ranks.count, "mpi");
  check_nothing_left();
  reset();
}

static void test_failing_sockets(void) {
  const bool last = ranks.own == ranks.count - 1;
  reset();
  has_no_socket = last;
  fall_back("no socket", 0);
  for (int i = 1; i <= 3; i++) {
    if (last) failing_receive = i;
    fall_back("receiving", i);
  }
  if (last) sending = WITHOUT;
  fall_back("messages without a descriptor", 0);
  sending = last ? LATE : GIVE_UP;
  fall_back("messages that come late", 0);
  if (last) stand_in.refusal = "the test says so";
  fall_back("a device that refuses another", 0);
}

/* What others of the machine send is nothing, and what comes twice is once, or fails on all. */
static void test_strangers(void) {
  char names[64] = {0};
  moecl_group *group = NULL;
  const moecl_group_params by = {.mpi_comm = ranks.comm};
  reset();
  begin("strangers", 0);
  strangers = ranks.own == 0;
  check_name(ranks.count, direct);
  check_nothing_left();
  reset();
  if (ranks.own == 0) sending = TWICE;
  assert_ok(moecl_group_create(contexts, 1, &by, &group));
  snprintf(names, sizeof names, "%s", moecl_group_transport(group));
  MPI_Bcast(names, sizeof names, MPI_CHAR, 0, MPI_COMM_WORLD);
  assert_string_equal(names, moecl_group_transport(group));
  moecl_group_destroy(&group);
  check_nothing_left();
}

/* Flags, and words, that a rank has for itself alone. */
static void test_not_shared(void) {
  const int flags = ranks.count, words = flags + 2; /* behind those that leave */
  for (int i = 1; i <= flags + 1; i++) {
    reset();
    if (ranks.own == ranks.count - 1) stand_in.private_import = i <= flags ? i : words;
    fall_back("memory that is not shared", i);
  }
}

/* One that asks otherwise than the others. */
static void test_asked(void) {
  moecl_group *group = NULL;
  const bool last = ranks.own == ranks.count - 1;
  const moecl_group_params by = {.mpi_comm = ranks.comm, .transport = last ? "host" : NULL},
                           named = {.mpi_comm = ranks.comm, .transport = "nvidia_peer"};
  reset();
  begin("asked", 0);
  assert_ok(moecl_group_create(contexts, 1, &by, &group));
  assert_string_equal(moecl_group_transport(group), "mpi");
  moecl_group_destroy(&group);
  assert_ok(moecl_group_create(contexts, 1, &named, &group));
  assert_string_equal(moecl_group_transport(group), direct);
  moecl_group_destroy(&group);
  check_nothing_left();
}

/* ---- failures of a forward ---- */

static void expect_failure(growing *g, const char *what, int number) {
  moecl_status status;
  begin(what, number);
  void *got = run_together(&g->t, 11, &status);
  if (status == MOECL_OK) fail_msg("rank %d: %s %d does not fail", ranks.own, what, number);
  assert_null(got);
}

/* Memory that cannot grow, on one rank: the forward fails on all, and the next one is right. */
static void test_failing_growth(void) {
  enum { STEPS = 3 };
  int *const failing[STEPS] = {&stand_in.failing_create, &stand_in.failing_import, &failing_send};
  const int *const counted[STEPS] = {&seen.creates, &seen.imports, &sends};
  for (int step = 0; step < STEPS; step++) {
    growing g;
    reset();
    make_growing(&g, ranks.count + 1);
    give(&g, 10);
    check_forward(&g, 11);
    for (int i = 1; i <= 2; i++) {
      give(&g, 10 + 190 * i);
      const int there = *counted[step];
      if (ranks.own == ranks.count - 1) *failing[step] = there + i;
      expect_failure(&g, "growth", step);
      *failing[step] = 0;
      check_forward(&g, 11);
    }
    free_growing(&g);
    check_nothing_left();
  }
}

/* Every third launch of a forward in turn, that one alone or all from there on. */
static void test_failing_launches(void) {
  for (int who = 0; who < ranks.count; who += ranks.count - 1) {
    growing g;
    reset();
    make_growing(&g, ranks.count + 1);
    give(&g, TOKENS);
    check_forward(&g, 11);
    calls = 0;
    moecl_status status;
    free(run_together(&g.t, 11, &status));
    assert_ok(status);
    const int all = told_by(who, calls);
    assert_true(all > 10);
    for (int i = 1; i <= all; i += 3) {
      calls = 0;
      if (ranks.own == who) failing_from = i, failing_for = i % 2 ? 1 : 1 << 20;
      expect_failure(&g, "launches", i);
      failing_from = 0;
      check_forward(&g, (uint64_t)i);
    }
    free_growing(&g);
    check_nothing_left();
  }
}

/* A rank that ends while descriptors are passed ends the others: mpirun is told so, at once. */
static void test_dying(void) {
  begin("a rank that died", 0);
  reset();
  dies = ranks.own == ranks.count - 1;
  check_name(ranks.count, direct);
  printf("rank %d goes on\n", ranks.own);
}

/* ---- contexts ---- */

static char root[100];

static void make_kernels(void) {
  const char *cl = getenv("MOECL_SOURCE_CL");
  char command[1000];
  snprintf(root, sizeof root, "/tmp/moecl-ranks-XXXXXX");
  assert_non_null(cl);
  assert_non_null(mkdtemp(root));
  snprintf(command, sizeof command,
           "cp -r '%s' '%s/cl' && cp '%s/../test/kernel/peer.cl' '%s/cl/dispatch/nvidia_peer.cl'",
           cl, root, cl, root);
  assert_int_equal(system(command), 0);
}

static void make_members(void) {
  static const char *const names[] = {"0", "1"};
  char kernels[128];
  make_kernels();
  snprintf(kernels, sizeof kernels, "%s/cl", root);
  for (int m = 0; m < 2; m++) {
    const moecl_context_params params = {
        .log = log_problem, .log_user = (void *)names[m], .kernel_dir = kernels};
    assert_ok(moecl_context_create(&params, &contexts[m]));
    contexts[m]->info.capabilities |= MOECL_CAP_PTX_SM80;
  }
}

/* What drivers and MPI open once is open. */
static void warm_up(void) {
  begin("warming up", 0);
  const moecl_layer_params params = params_by_name();
  const moecl_group_layer_params with = {.chunks = 1};
  problem p = make_problem(&params, TOKENS);
  compare(&p, &with, ranks.count + 1, split_by[ranks.count + 1], "processes");
  setenv("MOECL_TEST_TRANSPORT", "host", 1);
  compare(&p, &with, ranks.count + 1, split_by[ranks.count + 1], "processes");
  by_default();
  free_problem(&p);
  files_before = open_files();
}

typedef struct named_test {
  const char *name;
  void (*test)(void);
} named_test;

static void run_it(void **state) {
  const named_test *test = *state;
  test->test();
  alarm(0);
}

/* cmocka says what has failed at a test's end; then all end. */
static void run_named(named_test *test) {
  const struct CMUnitTest one[] = {{test->name, run_it, NULL, NULL, test}};
  if (cmocka_run_group_tests_name(test->name, one, NULL, NULL) != 0) MPI_Abort(MPI_COMM_WORLD, 1);
}

int main(int argc, char **argv) {
  static named_test tests[] = {{"bits", test_bits},
                               {"rules", test_rules},
                               {"pieces", test_pieces},
                               {"codes", test_codes},
                               {"two_nodes", test_two_nodes},
                               {"growth", test_growth},
                               {"many", test_many},
                               {"failing_steps", test_failing_steps},
                               {"failing_sockets", test_failing_sockets},
                               {"strangers", test_strangers},
                               {"not_shared", test_not_shared},
                               {"asked", test_asked},
                               {"failing_growth", test_failing_growth},
                               {"failing_launches", test_failing_launches},
                               {"dying", test_dying}}; /* the last, by name alone */
  static MPI_Comm world;
  char command[200];
  int level;
  if (sysconf(_SC_NPROCESSORS_ONLN) < 2) {
    printf("SKIP: kernels that wait for each other want two processors\n");
    return 77;
  }
  skip_without_device();
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level);
  world = MPI_COMM_WORLD;
  MPI_Comm_rank(world, &ranks.own);
  MPI_Comm_size(world, &ranks.count);
  ranks.comm = &world;
  if (argc < 2 || ranks.count != atoi(argv[1])) MPI_Abort(world, 1);
  signal(SIGALRM, tell);
  make_members();
  run_named(&(named_test){"warm_up", warm_up});
  for (size_t i = 0; i < BASE_COUNT(tests); i++) {
    if (argc > 2 ? strcmp(argv[2], tests[i].name) != 0 : i + 1 == BASE_COUNT(tests)) continue;
    run_named(&tests[i]);
  }
  destroy_contexts();
  snprintf(command, sizeof command, "rm -rf '%s'", root);
  assert_int_equal(system(command), 0);
  MPI_Finalize();
  return 0;
}
