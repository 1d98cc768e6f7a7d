// SPDX-License-Identifier: MIT
/* A results folder's lock: one process at a time, whatever the others do. */
#include "results/lock.h"
#include "unit.h"
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[] = "/tmp/moecl-lock-XXXXXX";

static int set_up(void **state) {
  (void)state;
  return mkdtemp(folder) ? 0 : -1;
}
static int tear_down(void **state) {
  (void)state;
  return rmdir(folder); /* fails where a lock is left */
}

static void test_one_holder(void **state) {
  (void)state;
  char *error = NULL, expected[256];
  folder_lock *lock = folder_lock_take(folder, &error);
  assert_non_null(lock);
  assert_null(error);
  snprintf(expected, sizeof expected,
           "another run (process %ld) is writing into %s: wait until it ends, or choose another "
           "folder with --out",
           (long)getpid(), folder);
  for (int i = 0; i < 2; i++) {
    assert_null(folder_lock_take(folder, &error));
    assert_string_equal(error, expected);
  }
  folder_lock_release(&lock);
  assert_null(lock);
  folder_lock_release(&lock);
  lock = folder_lock_take(folder, &error);
  assert_non_null(lock);
  folder_lock_release(&lock);
  free(error);
}

static void test_no_folder(void **state) {
  (void)state;
  char *error = NULL;
  assert_null(folder_lock_take("/no-such-folder", &error));
  assert_string_equal(error, "/no-such-folder/.lock could not be made: No such file or directory");
  free(error);
}

/* The holder died: its file is there, its lock is not. */
static void test_dead_holder(void **state) {
  (void)state;
  const pid_t child = fork();
  if (child == 0) {
    char *error = NULL;
    folder_lock *lock = folder_lock_take(folder, &error);
    _exit(lock == NULL); /* without releasing it */
  }
  int status;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_int_equal(status, 0);
  char *error = NULL;
  folder_lock *lock = folder_lock_take(folder, &error);
  assert_non_null(lock);
  folder_lock_release(&lock);
}

/* Takes and leaves the lock many times; while it has it, nobody else may. Exit code
 * 0: never together with another. */
static void contend(const char *inside) {
  enum { OFTEN = 100, PAUSE_US = 200 };
  for (int had = 0; had < OFTEN;) {
    char *error = NULL;
    folder_lock *lock = folder_lock_take(folder, &error);
    free(error);
    if (!lock) {
      usleep(PAUSE_US);
      continue;
    }
    had++;
    const int file = open(inside, O_CREAT | O_EXCL | O_WRONLY, 0600);
    if (file < 0) _exit(1);
    close(file);
    unlink(inside);
    folder_lock_release(&lock);
  }
  _exit(0);
}

static void test_contention(void **state) {
  (void)state;
  enum { PROCESSES = 4 };
  char inside[64];
  pid_t children[PROCESSES];
  snprintf(inside, sizeof inside, "%s-inside", folder);
  for (int i = 0; i < PROCESSES; i++)
    if ((children[i] = fork()) == 0) contend(inside);
  for (int i = 0; i < PROCESSES; i++) {
    int status;
    assert_int_equal(waitpid(children[i], &status, 0), children[i]);
    assert_int_equal(status, 0);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_one_holder), cmocka_unit_test(test_no_folder),
      cmocka_unit_test(test_dead_holder), cmocka_unit_test(test_contention)};
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
