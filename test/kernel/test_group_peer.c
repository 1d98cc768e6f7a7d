// SPDX-License-Identifier: MIT
/* The transports between GPUs (lib/group/nvidia_peer.c) on any device: what makes and imports
 * memory, and what copies beside kernels, is replaced (peer_stand_in.h) by buffers of one
 * cl_context, which all members have with one queue, and by threads; the kernels by
 * test/kernel/peer.cl. What the hardware does is not tested here: run test_group on two GPUs,
 * MOECL_TEST_TRANSPORT=nvidia_copy. */
#include "peer_members.h"
#include <math.h>

/* ---- tests ---- */

static const int64_t split[] = {70, 0, 80};

static void check_split(const moecl_layer_params *params, int32_t chunks, const char *what) {
  const moecl_group_layer_params with = {.chunks = chunks};
  problem p = make_problem(params, TOKENS);
  compare(&p, &with, 3, split, what);
  free_problem(&p);
  check_nothing_left();
}

static void test_whole(void **state) {
  moecl_layer_params params = params_by_name();
  (void)state;
  by("nvidia_peer");
  check_split(&params, 2, "imports in one piece");
  params.grouped_gemm_variant = "serial";
  check_split(&params, 2, "rows that are gathered");
  params.grouped_gemm_variant = "generic";
  params.hidden_size = 37; /* rows that are no multiple of what a work-item copies */
  params.dtype = MOECL_F16;
  check_split(&params, 1, "odd rows");
}

/* Three words of a choice, and so more copies than a launch makes. */
static void test_priorities(void **state) {
  moecl_layer_params params = params_by_name();
  (void)state;
  by("nvidia_peer");
  params.capacity_factor = 0.7;
  params.drop_policy = MOECL_DROP_PRIORITIZED;
  params.renormalize_after_capacity = true;
  check_split(&params, 1, "priorities");
}

/* Launches that store into another member's memory are told as copies: two for choices, tokens,
 * and outputs where they are gathered. Those that experts scatter are stored, and no copies. */
static void check_told(const char *variant, bool scatters, bool whole) {
  moecl_layer_params params = params_by_name();
  const moecl_group_layer_params with = {.chunks = 1};
  moecl_group_statistics s;
  moecl_status status;
  params.grouped_gemm_variant = variant;
  problem p = make_problem(&params, TOKENS);
  together t = make_together(&p, &with, 3, split);
  free(run_together(&t, 11, &status));
  assert_ok(status);
  for (int m = 0; m < 3; m++) {
    const group_member *member = &t.layer->member[m];
    assert_int_equal(member->share->scatters, scatters);
    if (whole)
      assert_int_equal(member->watch.num_copies, (split[m] > 0 ? 3 : 0) + (scatters ? 0 : 1));
    assert_true(moecl_buffer_size(member->sent) < p.row_bytes); /* the transport takes nothing */
    assert_true(moecl_buffer_size(member->given) < p.row_bytes);
    assert_ok(moecl_group_layer_statistics_wait(t.layer, (size_t)m, &s));
    assert_true(s.kernels_ms > 0 && s.transfer_ms >= 0);
    assert_true((s.stored_bytes > 0) == (scatters && s.rows > 0));
    assert_int_equal(s.copied_bytes + s.stored_bytes, s.bytes_sent + s.choice_bytes_sent);
  }
  free_together(&t);
  free_problem(&p);
  check_nothing_left();
}

static void test_told_as_copies(void **state) {
  (void)state;
  by("nvidia_peer");
  check_told("generic", true, true);
  check_told("serial", false, true);
  stand_in.most = 8000; /* in pieces of 50 rows: stored there, too, by more launches */
  check_told("generic", true, false);
  check_told("serial", false, false);
  stand_in.most = UINT64_C(1) << 40;
}

static void *run_by(const char *transport, const problem *p, const moecl_group_layer_params *with) {
  moecl_status status;
  by(transport);
  together t = make_together(p, with, 3, split);
  void *got = run_together(&t, 11, &status);
  assert_ok(status);
  free_together(&t);
  return got;
}

/* Codes are sent, and what comes back is stored where it belongs. */
static void test_codes(void **state) {
  const moecl_layer_params params = params_by_name();
  const moecl_group_layer_params with = {.chunks = 2, .dispatch_format = MOECL_FORMAT_FP8_G128};
  (void)state;
  problem p = make_problem(&params, TOKENS);
  void *want = run_by("host", &p, &with), *got = run_by("nvidia_peer", &p, &with);
  assert_memory_equal(got, want, (size_t)TOKENS * p.row_bytes);
  free(got);
  got = run_by("nvidia_copy", &p, &with);
  assert_memory_equal(got, want, (size_t)TOKENS * p.row_bytes);
  free(got), free(want);
  free_problem(&p);
}

static void test_pieces(void **state) {
  static const uint64_t most[] = {1000, 960, 4800, 8000}; /* 6.25 rows; 6, 30 and 50 */
  moecl_layer_params params = params_by_name();
  (void)state;
  by("nvidia_peer");
  for (size_t i = 0; i < BASE_COUNT(most); i++) {
    stand_in.most = most[i];
    check_split(&params, 1 + (int32_t)i % 3, "imports in pieces");
  }
  params.grouped_gemm_variant = "serial";
  check_split(&params, 2, "imports in pieces, rows that are gathered");
  stand_in.most = 1000;
  by("nvidia_copy");
  stand_in.late_us = 300;
  check_split(&params, 2, "engines, imports in pieces");
  stand_in.late_us = 0;
  stand_in.most = UINT64_C(1) << 40;
}

/* ---- engines ---- */

/* All rows by engines; some; with as many parts as the transport chooses. */
static void test_engines(void **state) {
  static const struct {
    uint64_t worth;
    int32_t chunks;
    int64_t hidden;
  } cases[] = {{0, 2, HIDDEN}, {4000, 3, HIDDEN}, {0, 0, 37}};
  (void)state;
  by("nvidia_copy");
  stand_in.late_us = 1000;
  for (size_t i = 0; i < BASE_COUNT(cases); i++) {
    moecl_layer_params params = params_by_name();
    params.hidden_size = cases[i].hidden;
    stand_in.worth = cases[i].worth;
    seen.copies = seen.tells = 0;
    check_split(&params, cases[i].chunks, "engines");
    assert_true(seen.copies > 0 && seen.tells > 0);
  }
  stand_in.worth = 0;
  stand_in.late_us = 0;
}

/* The output of forwards behind one another, of which any copy may fail: then one that follows is
 * right. */
static void test_failing_copies(void **state) {
  const moecl_layer_params params = params_by_name();
  const moecl_group_layer_params with = {.chunks = 2};
  moecl_routing routing;
  problem p = make_problem(&params, TOKENS);
  void *want = run_alone(&p, 11, &routing);
  (void)state;
  by("nvidia_copy");
  stand_in.late_us = 200;
  together t = make_together(&p, &with, 3, split);
  for (int failing = 0, copies = 0; failing < 2 || failing <= copies; failing++) {
    moecl_status status;
    seen.copies = 0;
    stand_in.failing_copy = failing;
    void *got = run_together(&t, 11, &status);
    if (failing == 0) copies = seen.copies;
    assert_int_equal(status, failing ? MOECL_ERROR_DEVICE : MOECL_OK);
    if (got && !same_output(&t, got, want)) fail_msg("the output differs before a failure");
    free(got);
    stand_in.failing_copy = 0;
    got = run_together(&t, 11, &status);
    assert_ok(status);
    if (!same_output(&t, got, want)) fail_msg("the output differs after copy %d failed", failing);
    free(got);
  }
  stand_in.late_us = 0;
  moecl_group_statistics s;
  assert_ok(moecl_group_layer_statistics_wait(t.layer, 0, &s));
  assert_true(s.kernels_ms > 0 && isnan(s.transfer_ms) && isnan(s.hidden_ms)); /* untimed copies */
  free_together(&t);
  moecl_routing_destroy(&routing);
  free_problem(&p);
  free(want);
  check_nothing_left();
}

static void refused(const char *transport, const char *part) {
  const moecl_group_params asked = {.transport = transport};
  moecl_group *group = NULL;
  char text[400];
  moecl_context_take_errors(contexts[0], NULL, 0);
  assert_int_not_equal(moecl_group_create(contexts, 2, &asked, &group), MOECL_OK);
  assert_null(group);
  moecl_context_take_errors(contexts[0], text, sizeof text);
  if (part && !strstr(text, part)) fail_msg("'%s' does not say '%s'", text, part);
  check_nothing_left();
}

/* Words that come behind their number, a number that does not come, an engine that does not hear
 * its queue, and every part that cannot be had. */
static void test_refused_engines(void **state) {
  moecl_group *group = NULL;
  (void)state;
  stand_in.early = true;
  refused("nvidia_copy", "did not arrive");
  stand_in.early = false;
  stand_in.mute = true;
  refused("nvidia_copy", "did not arrive");
  stand_in.mute = false;
  stand_in.deaf = true;
  refused("nvidia_copy", "did not arrive");
  stand_in.deaf = false;
  for (int i = 1; i <= 2; i++) {
    seen.made_engines = 0;
    stand_in.failing_engine = i;
    refused("nvidia_copy", "the test has no engine");
  }
  stand_in.failing_engine = 0;
  for (int i = 1; i <= 6; i++) { /* flags, words that leave and that arrive, of two */
    seen.made_mappings = 0;
    stand_in.failing_mapping = i;
    refused("nvidia_copy", "could not be had");
  }
  stand_in.failing_mapping = 0;
  assert_ok(moecl_group_create(contexts, 2, NULL, &group)); /* it serves by name alone */
  assert_string_equal(moecl_group_transport(group), "nvidia_peer");
  moecl_group_destroy(&group);
}

/* ---- many exchanges, behind one another ---- */

enum { EXCHANGES = 10000, WORDS = 8 };

static void see_nothing(group_observer *observer, int member, cl_event event) {
  (void)observer, (void)member, (void)event;
}

/* Each round's words are written over those that the engine has just sent, and what has come is
 * kept; the host does not wait. Numbers go round: the first that is sent is 0. */
static void send_rounds(moecl_group *group, moecl_buffer **source, moecl_buffer **arrival,
                        moecl_buffer **kept) {
  group_observer observer = {see_nothing};
  const group_transport *transport = group->transport;
  for (int r = 0; r < EXCHANGES; r++) {
    group_block blocks[2];
    for (int m = 0; m < 2; m++) {
      const int byte = 2 * r + m;
      assert_ok(moecl_buffer_fill_byte(source[m], 0, WORDS * 4, (uint8_t)(byte % 251)));
      blocks[m] = (group_block){m, !m, source[m], arrival[!m], 0, 0, WORDS * 4};
    }
    if (r % 7 == 0) transport->open(group->state);
    assert_ok(group_exchange(group, blocks, 2, r % 7, &observer));
    if (r % 7 == 6) transport->settle(group->state);
    for (int m = 0; m < 2; m++)
      assert_ok(ocl_buffer_copy(arrival[m], (WORDS - 1) * 4, kept[m], (uint64_t)r, 1));
  }
}

static void test_many(void **state) {
  static uint8_t bytes[EXCHANGES];
  const moecl_group_params asked = {.transport = "nvidia_copy"};
  moecl_group *group = NULL;
  moecl_buffer *source[2] = {NULL}, *arrival[2] = {NULL}, *kept[2];
  (void)state;
  assert_ok(moecl_group_create(contexts, 2, &asked, &group));
  for (int m = 0; m < 2; m++) {
    assert_ok(group_provide_source(group, m, WORDS * 4, &source[m]));
    assert_ok(group_provide_arrivals(group, &(group_arrival){m, WORDS * 4, &arrival[m]}, 1));
    assert_ok(moecl_buffer_create(contexts[m], EXCHANGES, &kept[m]));
  }
  seen.copies = 0;
  send_rounds(group, source, arrival, kept);
  assert_int_equal(seen.copies, 2 * EXCHANGES);
  for (int m = 0; m < 2; m++) {
    assert_ok(moecl_buffer_read_wait(kept[m], 0, EXCHANGES, bytes));
    for (int r = 0; r < EXCHANGES; r++)
      if (bytes[r] != (2 * r + !m) % 251) fail_msg("round %d: byte %d has come", r, bytes[r]);
    moecl_buffer_destroy(&kept[m]);
    group_discard_arrivals(group, &source[m]);
    group_discard_arrivals(group, &arrival[m]);
  }
  moecl_group_destroy(&group);
  check_nothing_left();
}

/* ---- what a queue waits for ---- */

static void send_words(moecl_group *group, moecl_buffer **source, moecl_buffer **arrival,
                       uint64_t offset, uint64_t bytes) {
  group_observer observer = {see_nothing};
  group_block blocks[2];
  for (int m = 0; m < 2; m++)
    blocks[m] = (group_block){m, !m, source[m], arrival[!m], offset, offset, bytes};
  for (int m = 0; m < 2; m++)
    assert_ok(group->transport->begin_part(group->state, m, blocks, 2, &observer));
}

static void await_words(moecl_group *group, int exchange) {
  for (int m = 0; m < 2; m++) assert_ok(group->transport->finish_part(group->state, m, exchange));
}

static void check_words(moecl_buffer *const *arrival, uint64_t offset, uint64_t bytes) {
  uint8_t words[WORDS * 4];
  for (int m = 0; m < 2; m++) {
    assert_ok(moecl_buffer_read_wait(arrival[m], offset, bytes, words));
    for (uint64_t i = 0; i < bytes; i++) assert_int_equal(words[i], 1 + !m);
  }
}

/* Few bytes go by kernels, and then many by engines, as tokens and outputs of a chunk may: what
 * follows the few does not wait for engines, which have not begun. */
static void test_waits(void **state) {
  enum { FEW = 4, ALL = WORDS * 4 };
  const moecl_group_params asked = {.transport = "nvidia_copy"};
  moecl_group *group = NULL;
  moecl_buffer *source[2] = {NULL}, *arrival[2] = {NULL};
  (void)state;
  assert_ok(moecl_group_create(contexts, 2, &asked, &group));
  for (int m = 0; m < 2; m++) {
    assert_ok(group_provide_source(group, m, ALL, &source[m]));
    assert_ok(group_provide_arrivals(group, &(group_arrival){m, ALL, &arrival[m]}, 1));
    assert_ok(moecl_buffer_fill_byte(source[m], 0, ALL, (uint8_t)(1 + m)));
  }
  stand_in.worth = FEW + 1;
  seen.copies = 0;
  __atomic_store_n(&stand_in.held, true, __ATOMIC_RELEASE);
  send_words(group, source, arrival, 0, FEW);
  send_words(group, source, arrival, FEW, ALL - FEW);
  assert_int_equal(seen.copies, 2);
  await_words(group, 0);
  assert_ok(moecl_context_finish_wait(contexts[0])); /* a kernel that waits ends the test */
  __atomic_store_n(&stand_in.held, false, __ATOMIC_RELEASE);
  check_words(arrival, 0, FEW);
  await_words(group, 1);
  check_words(arrival, FEW, ALL - FEW);
  group->transport->settle(group->state);
  stand_in.worth = 0;
  for (int m = 0; m < 2; m++) {
    group_discard_arrivals(group, &source[m]);
    group_discard_arrivals(group, &arrival[m]);
  }
  moecl_group_destroy(&group);
  check_nothing_left();
}

/* ---- imports ---- */

static void note_reason(void *user, moecl_log_level level, const char *message) {
  if (level == MOECL_LOG_INFO && strstr(message, "'nvidia_peer' does not serve: "))
    snprintf(user, 200, "%s", message);
}

/* A group that nobody asked for more than the best of: the host serves, which is no error of any
 * member's, and the first one's log says why. */
static void fall_back(const char *why) {
  moecl_group *group = NULL;
  char said[200] = "";
  const moecl_log log = contexts[0]->log;
  contexts[0]->log.fn = note_reason;
  contexts[0]->log.user = said;
  assert_ok(moecl_group_create(contexts, 2, NULL, &group));
  contexts[0]->log = log;
  assert_string_equal(moecl_group_transport(group), "host");
  if (!strstr(said, why)) fail_msg("'%s' does not say '%s'", said, why);
  for (int m = 0; m < 2; m++) assert_int_equal(moecl_context_take_errors(contexts[m], NULL, 0), 0);
  check_nothing_left();
  moecl_group_destroy(&group);
}

/* Every import that fails, of the trial and behind it: the host serves, or an error where it was
 * asked for. */
static void test_failing_imports(void **state) {
  /* Flags, words that leave and that arrive, of two, by two; and then flags. */
  enum { TRIAL = 12, ALL = TRIAL + 4 };
  moecl_group *group = NULL;
  (void)state;
  for (int m = 0; m < 2; m++) moecl_context_take_errors(contexts[m], NULL, 0);
  for (stand_in.failing_import = 1; stand_in.failing_import <= ALL; stand_in.failing_import++) {
    seen.imports = 0;
    fall_back(stand_in.failing_import <= TRIAL ? "could not be had" : "could then not be made");
    seen.imports = 0;
    refused("nvidia_peer", NULL);
  }
  seen.imports = 0;
  assert_ok(moecl_group_create(contexts, 2, NULL, &group));
  assert_int_equal(seen.imports, ALL);
  assert_string_equal(moecl_group_transport(group), "nvidia_peer");
  moecl_group_destroy(&group);
  stand_in.failing_import = 0;
  stand_in.refusal = "the test says so";
  refused("nvidia_peer", stand_in.refusal);
  refused("nvidia_copy", stand_in.refusal);
  stand_in.refusal = NULL;
}

/* What says so as an error, behind the trial (whose log is not the stand-in's matter). */
static void test_failing_queues(void **state) {
  enum { TRIAL = 2, ALL = TRIAL + 2 };
  (void)state;
  for (int m = 0; m < 2; m++) moecl_context_take_errors(contexts[m], NULL, 0);
  for (failing_aside = TRIAL + 1; failing_aside <= ALL; failing_aside++) {
    begun_asides = 0;
    fall_back("could then not be made");
  }
  begun_asides = 0;
  failing_aside = ALL;
  refused("nvidia_peer", NULL);
  assert_int_equal(begun_asides, ALL);
  failing_aside = 0;
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_whole),
                                     cmocka_unit_test(test_priorities),
                                     cmocka_unit_test(test_told_as_copies),
                                     cmocka_unit_test(test_codes),
                                     cmocka_unit_test(test_pieces),
                                     cmocka_unit_test(test_engines),
                                     cmocka_unit_test(test_failing_copies),
                                     cmocka_unit_test(test_refused_engines),
                                     cmocka_unit_test(test_many),
                                     cmocka_unit_test(test_waits),
                                     cmocka_unit_test(test_failing_imports),
                                     cmocka_unit_test(test_failing_queues)};
  if (argc > 1) cmocka_set_test_filter(argv[1]);
  skip_without_device();
  make_members();
  const int failed = cmocka_run_group_tests_name("group_peer", tests, NULL, NULL);
  destroy_members();
  return failed ? 1 : 0;
}
