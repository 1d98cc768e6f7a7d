// SPDX-License-Identifier: MIT
/* moectl's processes, of which one has no memory left for what it is ordered to make: the leader
 * hears of it, and they go on. Run by mpirun. */
#include "run/follow.h"
#include "run/processes.h"
#include "run/together.h"
#include "unit.h"

enum { LARGE = 4096 };

/* The next large one fails. */
static bool calloc_fails;
void *__real_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size) {
  if (!calloc_fails || count * size < LARGE) return __real_calloc(count, size);
  calloc_fails = false;
  return NULL;
}

static void lead(runner *runner, const experiment_point *point) {
  char said[200];
  assert_int_equal(together_create(runner, point), MOECL_ERROR_OUT_OF_HOST_MEMORY);
  together_take_errors(runner->together, said, sizeof said);
  assert_string_equal(said, "rank 1: no host memory");
  together_release(runner);
  assert_ok(together_create(runner, point));
  together_release(runner);
  calloc_fails = true; /* its own: nobody was ordered anything */
  assert_int_equal(together_create(runner, point), MOECL_ERROR_OUT_OF_HOST_MEMORY);
  assert_false(calloc_fails);
  assert_null(runner->together);
}

int main(void) {
  volatile sig_atomic_t never = 0;
  experiment_point point = {
      .layer = {.hidden_size = 16, .intermediate_size = 8, .num_experts = 4, .top_k = 2},
      .parallel = {.experts = 2},
      .num_tokens = 4};
  experiment experiment = {.points = &point, .num_points = 1};
  runner runner = {.experiment = &experiment, .interrupted = &never};
  skip_without_device();
  if (!processes_begin() || processes_count() != 2) return 1;
  assert_ok(moecl_context_create(NULL, &runner.context));
  calloc_fails = processes_own() == 1;
  if (processes_own() == 0) lead(&runner, &point);
  else follow(&runner);
  processes_end();
  moecl_context_destroy(&runner.context);
  return 0;
}
