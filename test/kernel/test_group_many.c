// SPDX-License-Identifier: MIT
/* Ten thousand forwards of a group take no more of anything than a quarter of them did: devices'
 * memory, open files, and the host's memory. Members have a thread each, or take turns. */
#include "group_compare.h"
#include "open_files.h"
#include <malloc.h>
#include <unistd.h>

/* Draws come again and again: the first few forwards have the most rows that any has. */
enum { FORWARDS = 10000, QUARTER = FORWARDS / 4, SEEDS = 50, MEMBERS = 3 };

/* Of the host's memory: each thread keeps some pieces by it that were given back, and a driver may
 * be a little behind. On PoCL that is less than 10 kB. What is lost in each forward, be it 8 bytes,
 * is more than this between the two looks. */
enum { ALLOWED_BYTES = 8 * (FORWARDS - QUARTER) - 1 };

typedef struct taken {
  uint64_t device[MEMBERS];
  int files;
  size_t host;
} taken;

/* What malloc has handed out in all arenas, and mapped; 0 where nobody says. Drivers of GPUs are
 * not asked to come to rest. */
static size_t host_bytes(void) {
#if defined __GLIBC__ && __GLIBC_PREREQ(2, 33)
  const struct mallinfo2 info = mallinfo2();
  if (moecl_context_device(contexts[0])->type == MOECL_DEVICE_CPU)
    return info.uordblks + info.hblkhd;
#endif
  return 0;
}

/* When all is done. PoCL lets go of a command some time behind its end: the least of some looks,
 * and of as many as there are in a minute until it is not more than `enough`. */
static taken look(size_t enough) {
  enum { LOOKS = 20, MOST_LOOKS = 60000 };
  taken taken = {.host = SIZE_MAX};
  for (int m = 0; m < MEMBERS; m++) {
    assert_ok(moecl_context_finish_wait(contexts[m]));
    taken.device[m] = moecl_context_memory(contexts[m], NULL);
  }
  for (int i = 0; i < LOOKS || (i < MOST_LOOKS && taken.host > enough); i++) {
    const size_t host = host_bytes();
    taken.host = host < taken.host ? host : taken.host;
    usleep(1000);
  }
  taken.files = open_files();
  return taken;
}

static void check_growth(void) {
  static const int64_t split[MEMBERS] = {3, 0, 5};
  const moecl_group_layer_params with = {.chunks = 2};
  const moecl_layer_params params = {
      .hidden_size = 8, .intermediate_size = 8, .num_experts = 6, .top_k = 2, .jitter = 0.5f};
  taken quarter = {.files = 0};
  problem p = make_problem(&params, 8);
  together t = make_together(&p, &with, MEMBERS, split);
  for (int i = 0; i < FORWARDS; i++) {
    moecl_status status;
    if (i == QUARTER) quarter = look(SIZE_MAX);
    free(run_together(&t, (uint64_t)(i % SEEDS), &status));
    assert_ok(status);
  }
  const size_t enough = quarter.host + ALLOWED_BYTES;
  const taken end = look(enough);
  for (int m = 0; m < MEMBERS; m++) assert_int_equal(end.device[m], quarter.device[m]);
  assert_int_equal(end.files, quarter.files);
  if (end.host > enough) fail_msg("the host's memory grew by %zu bytes", end.host - quarter.host);
  free_together(&t);
  free_problem(&p);
}

static void test_threads(void **state) {
  (void)state;
  check_growth();
}

static void test_turns(void **state) {
  (void)state;
  takes_turns = true;
  check_growth();
  takes_turns = false;
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_threads), cmocka_unit_test(test_turns)};
  skip_without_device();
  make_contexts();
  const int failed = cmocka_run_group_tests_name("group_many", tests, NULL, NULL);
  destroy_contexts();
  return failed ? 1 : 0;
}
