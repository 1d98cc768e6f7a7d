// SPDX-License-Identifier: MIT
/* Runs a kernel that was compiled for the processor: work-items are fibers, which wait for each
 * other at barriers and at instructions of a whole wave. So a kernel for hardware that is not
 * there runs as it is, with its matrix instructions written in C. */
#ifndef MOECL_TEST_WORK_GROUP_H
#define MOECL_TEST_WORK_GROUP_H

#include <stddef.h>
#include <stdint.h>

typedef struct emulated_launch {
  void (*kernel)(void); /* calls the kernel with its arguments */
  uint32_t groups, local;
  uint32_t wave; /* work-items of a wave (a warp, a sub-group) */
} emulated_launch;

/* Between barriers waves run one after the other, in an order drawn anew each time, and so do
 * work-items of a wave between its instructions: what is not ordered by a barrier shows as a wrong
 * answer in some order. Waiting for what never comes ends the program with a message. */
void emulate_launch(const emulated_launch *launch);
/* Calls `kernel` for each of `items` work-items of the first dimension and `count` of the second,
 * which have no barriers. */
void emulate_items(void (*kernel)(void), uint64_t items, uint64_t count);

/* What a wave's instruction does, of its lanes' operands and results. Every lane has read its
 * operands before any has its result. */
typedef void emulated_instruction(uint32_t lanes, const void *const *in, void *const *out);
/* Called by each work-item of a wave, at the same instruction. */
void emulate_together(emulated_instruction *instruction, const void *in, void *out);

/* For kernels, by test/emulate/opencl.clh. */
size_t emulated_local_id(void);
size_t emulated_group_id(void);
size_t emulated_global_id(unsigned dimension);
size_t emulated_global_size(void);
void emulated_barrier(void);

/* Random numbers, the same for the same seed. */
void emulate_seed(uint32_t seed);
uint32_t emulate_draw(void);

#endif
