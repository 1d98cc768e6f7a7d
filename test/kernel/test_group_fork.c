// SPDX-License-Identifier: MIT
/* A program with a group that calls fork(): the child destroys what it has got and ends, and the
 * parent goes on. */
#include "group_compare.h"
#include <sys/wait.h>
#include <unistd.h>

/* 0: all handles are NULL. */
static int destroy_in_child(together *t) {
  for (int m = 0; m < t->own; m++) {
    moecl_buffer_destroy(&t->hidden[m]);
    moecl_buffer_destroy(&t->output[m]);
  }
  moecl_group_layer_destroy(&t->layer);
  moecl_group_destroy(&t->group);
  for (int m = 0; m < MOST_MEMBERS; m++) moecl_context_destroy(&contexts[m]);
  return t->layer || t->group || contexts[0];
}

static void *run(together *t) {
  moecl_status status;
  void *got = run_together(t, 11, &status);
  assert_ok(status);
  return got;
}

static void test_child(void **state) {
  static const int64_t split[] = {70, 0, 80};
  const moecl_group_layer_params with = {.chunks = 2};
  int ended = -1;
  (void)state;
  problem p = make_problem(&plain, TOKENS);
  together t = make_together(&p, &with, 3, split);
  assert_non_null(t.group->team); /* threads that the child has not */
  void *want = run(&t);
  fflush(NULL);
  const pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) _exit(destroy_in_child(&t));
  assert_int_equal(waitpid(child, &ended, 0), child);
  if (!WIFEXITED(ended) || WEXITSTATUS(ended) != 0) fail_msg("the child ended by %#x", ended);
  void *got = run(&t);
  assert_true(same_output(&t, got, want));
  free(got), free(want);
  free_together(&t);
  free_problem(&p);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_child)};
  skip_without_device();
  make_contexts();
  const int failed = cmocka_run_group_tests_name("group_fork", tests, NULL, NULL);
  destroy_contexts();
  return failed;
}
