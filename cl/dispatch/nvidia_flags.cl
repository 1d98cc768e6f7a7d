// SPDX-License-Identifier: MIT
/* Rows that other GPUs put into this one's memory: waits until their flags say that all are there.
 *
 * flags[m * FLAG_WORDS] is the number of the latest exchange of which member m has sent all that it
 * had to send here, modulo NUMBERS; other GPUs write it behind their rows. One work-group, whose
 * work-items have a member each: what it waits for needs the rest of the device. After `limit`
 * nanoseconds the sender is taken for lost: `late` is told, and without it (NULL) the kernel fails,
 * and with it all that would have read the rows. */

/* What is read after it was written before the flag, by whichever device. */
static inline uint acquire(const __global uint *flag) {
  uint value;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
  return value;
}

static inline ulong nanoseconds(void) {
  ulong time;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(time)::"memory");
  return time;
}

static inline void fail(void) { asm volatile("trap;"); }

/* Half of the numbers are ahead of one, half are behind. */
static inline int has_come(uint number, uint wanted) {
  return (number - wanted) % NUMBERS < NUMBERS / 2;
}

__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
await_flags(const __global uint *flags, __global uint *late, uint me, uint members, uint wanted,
            ulong limit) {
  const uint member = (uint)get_local_id(0);
  const ulong begin = nanoseconds();
  bool waits = member < members && member != me;
  while (waits && !has_come(acquire(flags + member * FLAG_WORDS), wanted)) {
    waits = nanoseconds() - begin < limit;
    if (!waits && late) *late = 1;
    if (!waits && !late) fail();
  }
}
