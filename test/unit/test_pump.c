// SPDX-License-Identifier: MIT
/* What members send through the host, on lanes that are made up: a copy takes its bytes over a rate
 * on its lane, by a clock that goes on when the library calls or waits. */
#include "group/group.h"
#include "group/pump.h"
#include "unit.h"
#include <math.h>
#include <pthread.h>
#include <unistd.h>

enum { MEMBERS = 3, MOST_EVENTS = 4096, MOST_COPIES = 512, MIB = 1 << 20 };
#define RATE 35.2e3 /* bytes a microsecond */
#define CALL 6.0    /* microseconds of a copy's call */
#define LOOK 0.5

/* ---- the clock, events and lanes ---- */

typedef struct made_event {
  int held;
  double end;
} made_event;

typedef struct made_lane {
  double free; /* when it has done all */
} made_lane;

typedef struct made_copy {
  int member; /* whose lane it is on */
  bool down;
  uint64_t offset, bytes;
  double begin;
} made_copy;

typedef struct made_slot {
  const void *at;
  double read_end, written_end;
} made_slot;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* threads of pumps call, too */
static double now;
static made_event events[MOST_EVENTS];
static int num_events;
static made_copy copies[MOST_COPIES];
static int num_copies, fails_from; /* copies from that one on; 0: none */
static made_slot slots[MEMBERS * PUMP_SLOTS];
static made_lane lanes[2 * MEMBERS];
static bool at_once; /* copies take no time: for threads, which know no clock */

static made_event *make_event(double end) {
  assert_true(num_events < MOST_EVENTS);
  events[num_events] = (made_event){1, end};
  return &events[num_events++];
}

static int held(void) {
  int sum = 0;
  for (int i = 0; i < num_events; i++) sum += events[i].held;
  return sum;
}

static made_slot *slot_at(const void *at) {
  for (int i = 0;; i++) {
    if (!slots[i].at) slots[i].at = at;
    if (slots[i].at == at) return &slots[i];
  }
}

static made_event *copy(const ocl_lane *lane, uint64_t offset, uint64_t bytes, cl_event after) {
  made_lane *of = (made_lane *)lane->queue;
  const int which = (int)(of - lanes);
  now += at_once ? 0 : CALL;
  const double from = after ? fmax(now, ((made_event *)after)->end) : now;
  const double begin = fmax(of->free, from);
  of->free = begin + (at_once ? 0 : (double)bytes / RATE);
  assert_true(num_copies < MOST_COPIES);
  copies[num_copies++] = (made_copy){which / 2, which % 2 == 0, offset, bytes, begin};
  return make_event(of->free);
}

/* The linker sends the library's calls here. */
moecl_status __wrap_ocl_lane_read(ocl_lane *lane, const moecl_buffer *from, uint64_t offset,
                                  uint64_t bytes, void *to, cl_event after, cl_event *done);
moecl_status __wrap_ocl_lane_read(ocl_lane *lane, const moecl_buffer *from, uint64_t offset,
                                  uint64_t bytes, void *to, cl_event after, cl_event *done) {
  pthread_mutex_lock(&lock);
  made_slot *slot = slot_at(to);
  const bool fails = fails_from > 0 && num_copies + 1 >= fails_from;
  assert_true(slot->written_end <= now); /* nobody reads what is in it any more */
  *done = NULL;
  if (!fails) {
    made_event *event = copy(lane, offset, bytes, after);
    memcpy(to, (const char *)from->mem + offset, bytes);
    slot->read_end = event->end;
    slot->written_end = INFINITY;
    *done = (cl_event)event;
  }
  pthread_mutex_unlock(&lock);
  return fails ? ocl_check(lane->context, CL_OUT_OF_RESOURCES, "a made up copy") : MOECL_OK;
}

moecl_status __wrap_ocl_lane_write(ocl_lane *lane, const void *from, moecl_buffer *to,
                                   uint64_t offset, uint64_t bytes, cl_event after, cl_event *done);
moecl_status __wrap_ocl_lane_write(ocl_lane *lane, const void *from, moecl_buffer *to,
                                   uint64_t offset, uint64_t bytes, cl_event after,
                                   cl_event *done) {
  pthread_mutex_lock(&lock);
  made_slot *slot = slot_at(from);
  assert_null(after);
  assert_true(slot->read_end <= now); /* all of it is there */
  made_event *event = copy(lane, offset, bytes, NULL);
  memcpy((char *)to->mem + offset, from, bytes);
  slot->written_end = event->end;
  *done = (cl_event)event;
  pthread_mutex_unlock(&lock);
  return MOECL_OK;
}

moecl_status __wrap_ocl_event_look(moecl_context *context, cl_event event, bool *done);
moecl_status __wrap_ocl_event_look(moecl_context *context, cl_event event, bool *done) {
  (void)context;
  pthread_mutex_lock(&lock);
  now += at_once ? 0 : LOOK;
  *done = ((made_event *)event)->end <= now;
  pthread_mutex_unlock(&lock);
  return MOECL_OK;
}

moecl_status __wrap_ocl_event_await(moecl_context *context, cl_event event);
moecl_status __wrap_ocl_event_await(moecl_context *context, cl_event event) {
  (void)context;
  pthread_mutex_lock(&lock);
  if (((made_event *)event)->end > now) now = ((made_event *)event)->end;
  pthread_mutex_unlock(&lock);
  return MOECL_OK;
}

void __wrap_ocl_event_let_go(cl_event *event);
void __wrap_ocl_event_let_go(cl_event *event) {
  pthread_mutex_lock(&lock);
  if (*event) ((made_event *)*event)->held--;
  pthread_mutex_unlock(&lock);
  *event = NULL;
}

bool __wrap_ocl_event_keep(cl_event *kept, cl_event event);
bool __wrap_ocl_event_keep(cl_event *kept, cl_event event) {
  pthread_mutex_lock(&lock);
  if (event) ((made_event *)event)->held++;
  pthread_mutex_unlock(&lock);
  *kept = event;
  return true;
}

static double ready_at;
moecl_status __wrap_ocl_queue_mark(moecl_context *context, cl_event *event);
moecl_status __wrap_ocl_queue_mark(moecl_context *context, cl_event *event) {
  (void)context;
  pthread_mutex_lock(&lock);
  *event = (cl_event)make_event(ready_at);
  pthread_mutex_unlock(&lock);
  return MOECL_OK;
}

moecl_status __wrap_ocl_lane_finish(ocl_lane *lane);
moecl_status __wrap_ocl_lane_finish(ocl_lane *lane) {
  (void)lane;
  return MOECL_OK;
}

moecl_status __wrap_ocl_pinned_create(ocl_lane *lane, uint64_t bytes, ocl_pinned *pinned);
moecl_status __wrap_ocl_pinned_create(ocl_lane *lane, uint64_t bytes, ocl_pinned *pinned) {
  (void)lane;
  pinned->host = malloc(bytes);
  assert_non_null(pinned->host);
  return MOECL_OK;
}

void __wrap_ocl_pinned_release(ocl_pinned *pinned);
void __wrap_ocl_pinned_release(ocl_pinned *pinned) {
  free(pinned->host);
  *pinned = (ocl_pinned){0};
}

/* ---- threads: real ones, or made up ones that go on when somebody pauses ---- */

static bool made_up;
static pump *pumps[MEMBERS];
static int num_pumps;

bool __real_base_thread_begin(pthread_t *thread, void *(*run)(void *), void *user);
bool __wrap_base_thread_begin(pthread_t *thread, void *(*run)(void *), void *user);
bool __wrap_base_thread_begin(pthread_t *thread, void *(*run)(void *), void *user) {
  if (!made_up) return __real_base_thread_begin(thread, run, user);
  pumps[num_pumps++] = user;
  return true;
}

int __real_pthread_join(pthread_t thread, void **result);
int __wrap_pthread_join(pthread_t thread, void **result);
int __wrap_pthread_join(pthread_t thread, void **result) {
  return made_up ? 0 : __real_pthread_join(thread, result);
}

/* The clock goes on to what ends next. */
static void await_next(void) {
  double next = INFINITY;
  for (int i = 0; i < num_events; i++)
    if (events[i].held > 0 && events[i].end > now) next = fmin(next, events[i].end);
  assert_true(next < INFINITY);
  now = next;
}

void __real_pump_pause(int *looks);
void __wrap_pump_pause(int *looks);
void __wrap_pump_pause(int *looks) {
  bool moved = false;
  if (!made_up) {
    __real_pump_pause(looks);
    return;
  }
  for (int i = 0; i < num_pumps; i++) moved |= pump_advance(pumps[i]);
  if (!moved) await_next();
}

/* ---- a group of made up members ---- */

typedef struct world {
  moecl_context context[MEMBERS];
  test_log log;
  moecl_group group;
  char *sent[MEMBERS], *got[MEMBERS];
  moecl_buffer source[MEMBERS], destination[MEMBERS];
  void *state;
  uint64_t bytes; /* to each */
  int seen[MEMBERS];
} world;

static group_observer observer;
static world *watched;

static void see(group_observer *of, int member, cl_event event) {
  assert_ptr_equal(of, &observer);
  assert_non_null(event);
  pthread_mutex_lock(&lock);
  watched->seen[member]++;
  pthread_mutex_unlock(&lock);
}

static void make_world(world *w, int members, uint64_t bytes) {
  *w = (world){.bytes = bytes, .log = {.level = MOECL_LOG_ERROR}};
  now = 0, num_events = 0, num_copies = 0, fails_from = 0, ready_at = 0, at_once = false;
  made_up = false, num_pumps = 0;
  memset(slots, 0, sizeof slots);
  memset(lanes, 0, sizeof lanes);
  observer.copied = see;
  watched = w;
  w->group.count = w->group.end = members;
  for (int m = 0; m < members; m++) {
    group_device *device = &w->group.device[m];
    w->context[m].log = (moecl_log){.fn = test_log_add, .user = &w->log};
    device->context = &w->context[m];
    device->out = (ocl_lane){device->context, (cl_command_queue)&lanes[2 * m]};
    device->in = (ocl_lane){device->context, (cl_command_queue)&lanes[2 * m + 1]};
    w->sent[m] = malloc(bytes);
    w->got[m] = calloc((size_t)members, bytes);
    assert_true(w->sent[m] && w->got[m]);
    for (uint64_t i = 0; i < bytes; i++) w->sent[m][i] = (char)(i * 31 + (i >> 12) + (uint64_t)m);
    w->source[m].mem = (cl_mem)w->sent[m];
    w->destination[m].mem = (cl_mem)w->got[m];
  }
  assert_ok(group_host_transport.create(&w->group, &w->state));
}

static void free_world(world *w) {
  group_host_transport.release(w->state);
  assert_int_equal(held(), 0);
  for (int m = 0; m < w->group.count; m++) free(w->sent[m]), free(w->got[m]);
  free(w->log.text.data);
}

/* To the members in order; a part of what each has for each. */
static void begin(world *w, int m, uint64_t first, uint64_t bytes) {
  group_block blocks[MEMBERS];
  size_t count = 0;
  for (int to = 0; to < w->group.count; to++)
    if (to != m)
      blocks[count++] = (group_block){.from = m,
                                      .to = to,
                                      .source = &w->source[m],
                                      .source_offset = first,
                                      .destination = &w->destination[to],
                                      .destination_offset = (uint64_t)m * w->bytes + first,
                                      .bytes = bytes};
  assert_ok(group_host_transport.begin_part(w->state, m, blocks, count, &observer));
}

static void check(const world *w) {
  for (int to = 0; to < w->group.count; to++)
    for (int from = 0; from < w->group.count; from++)
      if (from != to)
        assert_memory_equal(w->got[to] + (uint64_t)from * w->bytes, w->sent[from], w->bytes);
}

/* All members' parts, up to the first that fails. */
static moecl_status try_finish(world *w, int exchange) {
  for (int m = 0; m < w->group.count; m++)
    MOECL_TRY(group_host_transport.finish_part(w->state, m, exchange));
  return MOECL_OK;
}

static void finish(world *w, int exchange) { assert_ok(try_finish(w, exchange)); }

/* ---- tests ---- */

static base_team *const some_team = (base_team *)1; /* there are processors; never run */

static void check_case(uint64_t bytes, uint64_t piece, bool threads) {
  const double pieces = (double)((bytes + piece - 1) / piece);
  const double one = (double)piece / RATE, all = (double)bytes / RATE;
  const double most = all + one + 60 + 4 * pieces; /* calls and looks, which one clock adds up */
  world w;
  make_world(&w, 2, bytes);
  made_up = threads;
  w.group.team = threads ? some_team : NULL;
  for (int m = 0; m < 2; m++) begin(&w, m, 0, bytes);
  finish(&w, 0);
  check(&w);
  assert_true(now >= all);
  if (now > most)
    fail_msg("%llu bytes took %.0f us, expected %.0f", (unsigned long long)bytes, now, most);
  assert_int_equal(num_copies, 4 * (int)pieces);
  assert_int_equal(w.seen[0], 2 * (int)pieces);
  assert_int_equal(w.seen[1], 2 * (int)pieces);
  free_world(&w);
}

/* All lanes are busy at once: blocks take what the longest lane takes, and one piece more, with no
 * more under way than there are slots for (the slots look). */
static void test_both_ways(void **state) {
  static const struct {
    uint64_t bytes, piece;
  } cases[] = {{1000, 1000},
               {MIB / 2, MIB / 2},
               {4 * MIB, MIB},
               {16 * MIB, 2 * MIB},
               {70 * MIB + 4, 4 * MIB}};
  (void)state;
  for (size_t i = 0; i < BASE_COUNT(cases); i++)
    for (int threads = 0; threads < 2; threads++)
      check_case(cases[i].bytes, cases[i].piece, threads);
}

/* What is not there yet holds up nothing before it, and goes when it is there. */
static void test_not_there(void **state) {
  (void)state;
  for (int threads = 0; threads < 2; threads++) {
    world w;
    make_world(&w, 2, 24 * MIB);
    made_up = threads;
    w.group.team = threads ? some_team : NULL;
    for (int m = 0; m < 2; m++) begin(&w, m, 0, 8 * MIB);
    ready_at = 5000;
    for (int m = 0; m < 2; m++) begin(&w, m, 8 * MIB, 16 * MIB);
    finish(&w, 0);
    assert_true(now < 500);
    assert_memory_equal(w.got[0] + w.bytes, w.sent[1], 8 * MIB);
    finish(&w, 1);
    check(&w);
    for (int i = 0; i < num_copies; i++)
      if (copies[i].offset % w.bytes >= 8 * MIB) assert_true(copies[i].begin >= 5000);
    assert_true(now < 5000 + 18 * MIB / RATE + 200);
    free_world(&w);
  }
}

/* No two members send to the same one at first. */
static void test_turns(void **state) {
  world w;
  int last[MEMBERS] = {-1, -1, -1};
  (void)state;
  make_world(&w, 3, 3 * MIB);
  for (int m = 0; m < 3; m++) begin(&w, m, 0, w.bytes);
  finish(&w, 0);
  check(&w);
  for (int i = 0; i < num_copies; i++) {
    const int from = (int)(copies[i].offset / w.bytes);
    if (copies[i].down) continue;
    if (last[copies[i].member] < 0) assert_int_equal(from, (copies[i].member + 2) % 3);
    last[copies[i].member] = from;
  }
  free_world(&w);
}

/* Who waits for rows that do not come hears of it, with the reason; after that all is as new. */
static void test_failures(void **state) {
  (void)state;
  for (int threads = 0; threads < 2; threads++) {
    world w;
    make_world(&w, 2, 20 * MIB);
    at_once = threads;
    w.group.team = threads ? base_team_create(2) : NULL;
    for (int round = 0; round < 3; round++) {
      fails_from = round == 1 ? num_copies + 5 : 0;
      ready_at = 0;
      for (int m = 0; m < 2; m++) begin(&w, m, 0, w.bytes);
      if (round == 1) assert_int_equal(try_finish(&w, 0), MOECL_ERROR_DEVICE);
      else finish(&w, 0);
      if (round != 1) check(&w);
      group_host_transport.settle(w.state);
      assert_int_equal(held(), 0);
      for (int m = 0; m < 2; m++) memset(w.got[m], 0, 2 * w.bytes);
      for (size_t i = 0; i < BASE_COUNT(slots); i++)
        slots[i].read_end = slots[i].written_end = 0; /* lanes were finished */
    }
    assert_true(test_log_has(&w.log, "a made up copy failed: CL_OUT_OF_RESOURCES"));
    assert_true(test_log_has(&w.log, "rows of another member do not come"));
    base_team_destroy(&w.group.team);
    free_world(&w);
  }
}

/* With threads nobody has to wait for rows to move on; and they end in the middle of it. */
static void test_threads(void **state) {
  world w;
  (void)state;
  make_world(&w, 3, 13 * MIB);
  at_once = true;
  w.group.team = base_team_create(3);
  for (int m = 0; m < 3; m++) begin(&w, m, 0, w.bytes);
  for (int all = 0; all < 3 * 2 * 2 * 8;) {
    usleep(1000);
    pthread_mutex_lock(&lock);
    all = num_copies;
    pthread_mutex_unlock(&lock);
  }
  check(&w);
  finish(&w, 0);
  ready_at = INFINITY;
  for (int m = 0; m < 3; m++) begin(&w, m, 0, w.bytes);
  base_team_destroy(&w.group.team);
  free_world(&w);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_both_ways),
                                     cmocka_unit_test(test_not_there), cmocka_unit_test(test_turns),
                                     cmocka_unit_test(test_failures),
                                     cmocka_unit_test(test_threads)};
  return cmocka_run_group_tests_name("pump", tests, NULL, NULL);
}
