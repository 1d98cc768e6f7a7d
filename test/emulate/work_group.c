// SPDX-License-Identifier: MIT
#include "work_group.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

enum { MOST_ITEMS = 1024, MOST_LANES = 64, STACK_BYTES = 1 << 16 };

typedef enum item_state { RUNS, AT_BARRIER, IN_WAVE, DONE } item_state;

typedef struct item {
  ucontext_t context;
  char *stack;
  item_state state;
  emulated_instruction *instruction;
  const void *in;
  void *out;
} item;

static item items[MOST_ITEMS];
static ucontext_t scheduler;
static emulated_launch now;
static uint32_t group, current;
static uint64_t global_id[2], global_size;
static uint32_t random_state = 1;

void emulate_seed(uint32_t seed) { random_state = seed * 2654435761u + 1; }
uint32_t emulate_draw(void) {
  random_state = random_state * 1664525u + 1013904223u;
  return random_state >> 8;
}

size_t emulated_local_id(void) { return current; }
size_t emulated_group_id(void) { return group; }
size_t emulated_global_id(unsigned dimension) { return global_id[dimension]; }
size_t emulated_global_size(void) { return global_size; }

static void fail(const char *what) {
  printf("FAIL: work-group %u, work-item %u: %s\n", group, current, what);
  exit(1);
}

static void stop(item_state state) {
  items[current].state = state;
  swapcontext(&items[current].context, &scheduler);
}

void emulated_barrier(void) { stop(AT_BARRIER); }

void emulate_together(emulated_instruction *instruction, const void *in, void *out) {
  item *me = &items[current];
  me->instruction = instruction;
  me->in = in;
  me->out = out;
  stop(IN_WAVE);
}

/* ---- a wave ---- */

static uint32_t lanes_of(uint32_t first) {
  return first + now.wave <= now.local ? now.wave : now.local - first;
}

static uint32_t count(uint32_t first, uint32_t lanes, item_state state) {
  uint32_t found = 0;
  for (uint32_t i = first; i < first + lanes; i++) found += items[i].state == state;
  return found;
}

static void execute(uint32_t first, uint32_t lanes) {
  const void *in[MOST_LANES];
  void *out[MOST_LANES];
  for (uint32_t i = 0; i < lanes; i++) {
    current = first + i;
    if (items[current].instruction != items[first].instruction)
      fail("lanes of a wave are at different instructions");
    in[i] = items[current].in;
    out[i] = items[current].out;
  }
  items[first].instruction(lanes, in, out);
  for (uint32_t i = first; i < first + lanes; i++) items[i].state = RUNS;
}

/* Until all of it are at a barrier or done. */
static void run_wave(uint32_t first) {
  const uint32_t lanes = lanes_of(first);
  while (count(first, lanes, RUNS) > 0) {
    const uint32_t start = emulate_draw() % lanes;
    for (uint32_t i = 0; i < lanes; i++) {
      current = first + (start + i) % lanes;
      if (items[current].state == RUNS) swapcontext(&scheduler, &items[current].context);
    }
    const uint32_t waiting = count(first, lanes, IN_WAVE);
    if (waiting == lanes) execute(first, lanes);
    else if (waiting > 0) fail("a part of a wave is at an instruction of the whole");
  }
}

/* ---- a work-group ---- */

static void enter(void) {
  now.kernel();
  stop(DONE);
}

static void prepare(item *it) {
  if (!it->stack) it->stack = malloc(STACK_BYTES);
  if (!it->stack || getcontext(&it->context) != 0) fail("there is no memory for it");
  it->state = RUNS;
  it->context.uc_stack.ss_sp = it->stack;
  it->context.uc_stack.ss_size = STACK_BYTES;
  makecontext(&it->context, enter, 0);
}

/* All waves once, in an order drawn anew. */
static void run_waves(void) {
  uint32_t order[MOST_ITEMS];
  const uint32_t waves = (now.local + now.wave - 1) / now.wave;
  for (uint32_t i = 0; i < waves; i++) {
    const uint32_t other = emulate_draw() % (i + 1);
    order[i] = order[other];
    order[other] = i;
  }
  for (uint32_t i = 0; i < waves; i++) run_wave(order[i] * now.wave);
}

static void run_group(void) {
  for (current = 0; current < now.local; current++) prepare(&items[current]);
  while (count(0, now.local, DONE) < now.local) {
    run_waves();
    const uint32_t waiting = count(0, now.local, AT_BARRIER);
    if (waiting == 0) continue;
    if (waiting < now.local) fail("a part of the work-group is at a barrier");
    for (uint32_t i = 0; i < now.local; i++) items[i].state = RUNS;
  }
}

void emulate_launch(const emulated_launch *launch) {
  now = *launch;
  if (now.local > MOST_ITEMS || now.wave == 0 || now.wave > MOST_LANES) {
    printf("FAIL: a work-group of %u in waves of %u\n", now.local, now.wave);
    exit(1);
  }
  for (group = 0; group < now.groups; group++) run_group();
}

void emulate_items(void (*kernel)(void), uint64_t count_of_items, uint64_t second) {
  global_size = count_of_items;
  for (global_id[1] = 0; global_id[1] < second; global_id[1]++)
    for (global_id[0] = 0; global_id[0] < count_of_items; global_id[0]++) kernel();
}
