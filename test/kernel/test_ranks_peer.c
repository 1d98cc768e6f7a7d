// SPDX-License-Identifier: MIT
/* A group over two processes, of which one has two members with a transport between GPUs between
 * them (peer_members.h). An assertion that fails ends the process, and mpirun the other. */
#include "peer_members.h"
#include <mpi.h>

enum { MEMBERS = 3 };

static const int64_t split[MEMBERS] = {60, 20, 70};

/* The second rank has the last two members. */
static bool apart(int a, int b) { return (a == 0) != (b == 0); }

/* ---- what goes where, by the choices alone ---- */

typedef struct traffic {
  uint64_t rows[MEMBERS][MEMBERS];  /* tokens of a member with an expert on another */
  uint64_t slots[MEMBERS][MEMBERS]; /* choices of those */
} traffic;

static void find_owners(const together *t, int owners[EXPERTS]) {
  int32_t experts[EXPERTS];
  for (int m = 0; m < MEMBERS; m++) {
    const size_t count = moecl_group_layer_experts(t->layer, (size_t)m, experts, EXPERTS);
    for (size_t i = 0; i < count; i++) owners[experts[i]] = m;
  }
}

static traffic count_traffic(const together *t, const moecl_routing *routing) {
  traffic traffic = {{{0}}};
  int owners[EXPERTS];
  int64_t token = 0;
  find_owners(t, owners);
  for (int home = 0; home < MEMBERS; home++)
    for (int64_t end = token + split[home]; token < end; token++) {
      bool goes[MEMBERS] = {false};
      for (int k = 0; k < TOP_K; k++) {
        const int owner = owners[routing->topk_ids[token * TOP_K + k]];
        traffic.slots[home][owner]++;
        traffic.rows[home][owner] += !goes[owner];
        goes[owner] = true;
      }
    }
  return traffic;
}

static uint64_t bytes_between(const traffic *traffic, int from, int to,
                              const moecl_group_statistics *s) {
  return traffic->rows[from][to] * s->row_bytes + traffic->slots[to][from] * s->output_row_bytes;
}

/* Within a process the sender alone copies, and outputs are stored without a copy. */
static void check_member(const traffic *traffic, int m, const moecl_group_statistics *s) {
  uint64_t sent = 0, received = 0, copied = 0, all_stored = 0;
  for (int other = 0; other < MEMBERS; other++) {
    if (other == m) continue;
    sent += bytes_between(traffic, m, other, s);
    received += bytes_between(traffic, other, m, s);
    const uint64_t stored = apart(m, other) ? 0 : traffic->slots[other][m] * s->output_row_bytes;
    all_stored += stored;
    copied += bytes_between(traffic, m, other, s) - stored;
    if (apart(m, other)) copied += bytes_between(traffic, other, m, s);
  }
  assert_int_equal(s->bytes_sent, sent);
  assert_int_equal(s->bytes_received, received);
  assert_int_equal(s->copied_bytes, copied);
  assert_int_equal(s->stored_bytes, all_stored);
}

static void test_copied_bytes(void) {
  const moecl_layer_params params = params_by_name();
  const moecl_group_layer_params with = {.chunks = 2};
  moecl_group_statistics s;
  moecl_routing routing;
  moecl_status status;
  problem p = make_problem(&params, TOKENS);
  together t = make_together(&p, &with, MEMBERS, split);
  assert_string_equal(moecl_group_transport(t.group), "mpi+nvidia_peer");
  free(run_together(&t, 11, &status));
  assert_ok(status);
  assert_ok(moecl_group_layer_read_routing_wait(t.layer, &routing));
  const traffic traffic = count_traffic(&t, &routing);
  for (int m = 0; m < MEMBERS; m++) {
    assert_ok(moecl_group_layer_statistics_wait(t.layer, (size_t)m, &s));
    check_member(&traffic, m, &s);
  }
  moecl_routing_destroy(&routing);
  free_together(&t);
  free_problem(&p);
}

static void test_bits(void) {
  static const char *const transports[] = {"nvidia_peer", "nvidia_copy"};
  const moecl_layer_params params = params_by_name();
  const moecl_group_layer_params with = {.chunks = 2};
  problem p = make_problem(&params, TOKENS);
  for (int i = 0; i < 2; i++) {
    by(ranks.own == 1 ? transports[i] : "host"); /* between one member and nobody */
    compare(&p, &with, MEMBERS, split, transports[i]);
    check_nothing_left();
  }
  free_problem(&p);
}

/* ---- what is asked for by name ---- */

/* Members of either rank; which one's GPUs refuse each other, if any; and what serves, or part of
 * why nothing does. */
typedef struct wish {
  const char *transport;
  int members[2];
  int refusing;
  const char *serves, *part;
} wish;

/* With this stand-in nothing serves between processes. */
static const wish wishes[] = {
    {"nvidia_peer", {1, 2}, -1, "mpi+nvidia_peer", NULL},
    {"nvidia_copy", {2, 1}, -1, "mpi+nvidia_copy", NULL},
    {"nvidia_copy", {2, 2}, -1, "mpi+nvidia_copy", NULL},
    {"nvidia_peer", {1, 1}, -1, NULL, ", between any two members, as rank 0 finds: memory of a"},
    {"nvidia_peer",
     {1, 1},
     1,
     NULL,
     ", between any two members, as rank 1 finds: the test says so"},
    {"nvidia_copy", {1, 1}, -1, NULL, ", between any two members: none are in one process"},
    {"nvidia_peer", {1, 2}, 1, NULL, ", between the members of rank 1: the test says so"},
    {"nvidia_peer", {2, 2}, 1, NULL, ", between the members of rank 1: the test says so"},
    {"nvidia_copy", {2, 2}, 0, NULL, ", between the members of rank 0: the test says so"},
    {"host", {1, 1}, -1, "mpi", NULL},
    {NULL, {1, 1}, -1, "mpi", NULL},
    {NULL, {1, 2}, 1, "mpi+host", NULL},
};

static void check_wish(const wish *wish) {
  const moecl_group_params asked = {.mpi_comm = ranks.comm, .transport = wish->transport};
  moecl_group *group = NULL;
  char text[1000];
  moecl_context_take_errors(contexts[0], NULL, 0);
  if (wish->refusing == ranks.own) stand_in.refusal = "the test says so";
  const moecl_status status =
      moecl_group_create(contexts, (size_t)wish->members[ranks.own], &asked, &group);
  stand_in.refusal = NULL;
  moecl_context_take_errors(contexts[0], text, sizeof text);
  if (wish->serves) {
    if (status != MOECL_OK) fail_msg("%s: '%s'", wish->serves, text);
    assert_string_equal(moecl_group_transport(group), wish->serves);
  } else if (status != MOECL_ERROR_UNSUPPORTED || !strstr(text, wish->part)) {
    fail_msg("'%s' does not say '%s'", text, wish->part);
  }
  moecl_group_destroy(&group);
  check_nothing_left();
}

static void test_by_name(void) {
  for (size_t i = 0; i < sizeof wishes / sizeof *wishes; i++) check_wish(&wishes[i]);
}

int main(int argc, char **argv) {
  static MPI_Comm world;
  int level;
  skip_without_device();
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level);
  world = MPI_COMM_WORLD;
  MPI_Comm_rank(world, &ranks.own);
  MPI_Comm_size(world, &ranks.count);
  ranks.comm = &world;
  if (ranks.count != 2) MPI_Abort(world, 1);
  make_members();
  test_bits();
  by("nvidia_peer");
  test_copied_bytes();
  test_by_name();
  destroy_members();
  MPI_Finalize();
  return 0;
}
