// SPDX-License-Identifier: MIT
/* Threads that stay: each part has its own, and without them the caller's does all. */
#include "base/team.h"
#include "base/log.h"
#include "unit.h"
#include <errno.h>
#include <pthread.h>
#include <unistd.h>

/* The linker sends the library's calls here. */
static int refused_from = 1000, asked; /* calls of pthread_create */
int __real_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*start)(void *), void *user);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*start)(void *), void *user) {
  return ++asked >= refused_from ? EAGAIN : __real_pthread_create(thread, attributes, start, user);
}

enum { PARTS = 4, ROUNDS = 2000 };

typedef struct record {
  pthread_t by[PARTS];
  int runs[PARTS], order[PARTS * ROUNDS];
  int pause; /* microseconds that part 2 takes */
} record;

static void run_part(void *user, int part) {
  record *to = user;
  to->by[part] = pthread_self();
  to->runs[part]++;
  if (part == 2 && to->pause) usleep((useconds_t)to->pause);
}

static void count_in_order(void *user, int part) {
  record *to = user;
  to->order[to->runs[0]++] = part;
}

/* Each round has all parts, and what threads wrote is the caller's to read when it returns. */
static void test_threads(void **state) {
  record r = {.pause = 0};
  pthread_t by[PARTS];
  (void)state;
  base_team *team = base_team_create(PARTS);
  assert_non_null(team);
  for (int i = 0; i < ROUNDS; i++) {
    r.pause = i % 500 == 7 ? 20000 : 0; /* others go to sleep meanwhile */
    base_team_run(team, PARTS, run_part, &r);
    for (int p = 0; p < PARTS; p++) assert_int_equal(r.runs[p], i + 1);
    if (i == 0) memcpy(by, r.by, sizeof by);
    for (int p = 0; p < PARTS; p++) assert_true(pthread_equal(by[p], r.by[p]));
  }
  assert_true(pthread_equal(by[0], pthread_self()));
  for (int p = 0; p < PARTS; p++)
    for (int q = 0; q < p; q++) assert_false(pthread_equal(by[p], by[q]));
  usleep(20000); /* all are asleep */
  base_team_destroy(&team);
  assert_null(team);
  base_team_destroy(&team);
}

static void test_alone(void **state) {
  record r = {.runs = {0}};
  (void)state;
  assert_null(base_team_create(1));
  base_team_run(NULL, PARTS, count_in_order, &r);
  assert_int_equal(r.runs[0], PARTS);
  for (int p = 0; p < PARTS; p++) assert_int_equal(r.order[p], p);
}

/* Not one thread, and not all. */
static void test_refused(void **state) {
  (void)state;
  for (int had = 0; had < PARTS; had++) {
    record r = {.runs = {0}};
    int own = 0;
    asked = 0;
    refused_from = had + 1;
    base_team *team = base_team_create(PARTS);
    assert_int_equal(team != NULL, had > 0);
    base_team_run(team, PARTS, run_part, &r);
    for (int p = 0; p < PARTS; p++) {
      assert_int_equal(r.runs[p], 1);
      own += pthread_equal(r.by[p], pthread_self()) != 0;
    }
    assert_int_equal(own, PARTS - had);
    base_team_destroy(&team);
  }
  refused_from = 1000;
}

/* What threads log is kept, and handed on in order; errors are kept as well where the log wants. */
static void test_kept_messages(void **state) {
  log_kept kept = {NULL, NULL};
  log_errors errors = {.size = 0};
  test_log said = {.level = MOECL_LOG_DEBUG};
  const moecl_log keeps = log_keeping(&kept), to = {test_log_add, &said, &errors};
  (void)state;
  log_write(&keeps, MOECL_LOG_INFO, "first %d", 1);
  assert_int_equal(log_error(&keeps, MOECL_ERROR_IO, "second"), MOECL_ERROR_IO);
  assert_null(said.text.data);
  log_hand_on(&kept, &to);
  assert_string_equal(said.text.data, "2 first 1\n0 second\n");
  assert_string_equal(errors.text, "second\n");
  log_hand_on(&kept, &to); /* there is nothing left */
  assert_string_equal(errors.text, "second\n");
  free(said.text.data);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_threads), cmocka_unit_test(test_alone),
                                     cmocka_unit_test(test_refused),
                                     cmocka_unit_test(test_kept_messages)};
  return cmocka_run_group_tests_name("team", tests, NULL, NULL);
}
