// SPDX-License-Identifier: MIT
/* Rows from GPU to GPU: `put` stores into another one's memory, `set_flags` says to others that all
 * of an exchange is there, or to the own copy engine that rows are there to be sent, and
 * `await_flags` waits for what others say, and the own engine.
 *
 * flags[m * FLAG_WORDS] is the number of the latest exchange of which member m has sent all that it
 * had to send here; the own one, of which the engine has copied all. Numbers go round.
 * `await_flags` is one work-group, whose work-items have a member each: what it waits for needs the
 * rest of the device. After `limit` nanoseconds the sender is taken for lost: `late` is told, and
 * without it (NULL) the kernel fails, and with it all that would have read the rows. */

/* Offsets and sizes in units. */
__kernel __attribute__((reqd_work_group_size(PUT_LOCAL, 1, 1))) void
put(const __global uint4 *from, __global uint4 *to, ulong from_at, ulong to_at, ulong units) {
  for (ulong i = get_global_id(0); i < units; i += get_global_size(0))
    to[to_at + i] = from[from_at + i];
}

__kernel __attribute__((reqd_work_group_size(PUT_LOCAL, 1, 1))) void
put_bytes(const __global uchar *from, __global uchar *to, ulong from_at, ulong to_at, ulong units) {
  for (ulong i = get_global_id(0); i < units; i += get_global_size(0))
    to[to_at + i] = from[from_at + i];
}

/* To `count` of those, a work-item each. What kernels before it in the queue have stored is seen by
 * who sees the flag. */
__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
set_flags(__global uint *flags_0, __global uint *flags_1, __global uint *flags_2,
          __global uint *flags_3, __global uint *flags_4, __global uint *flags_5,
          __global uint *flags_6, __global uint *flags_7, uint count, uint line, uint number) {
  const uint i = (uint)get_local_id(0);
  __global uint *low = i < 2 ? (i == 0 ? flags_0 : flags_1) : (i == 2 ? flags_2 : flags_3);
  __global uint *high = i < 6 ? (i == 4 ? flags_4 : flags_5) : (i == 6 ? flags_6 : flags_7);
  __global uint *flag = (i < 4 ? low : high) + line * FLAG_WORDS;
  if (i < count) {
    asm volatile("fence.acq_rel.sys;" ::: "memory");
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(flag), "r"(number) : "memory");
  }
}

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
static inline int has_come(uint number, uint wanted) { return (int)(number - wanted) >= 0; }

/* `wanted` of so many members; where it `follows` its engine, `own` of this one. */
__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
await_flags(const __global uint *flags, __global uint *late, uint me, uint members, uint wanted,
            uint follows, uint own, ulong limit) {
  const uint member = (uint)get_local_id(0), number = member == me ? own : wanted;
  const ulong begin = nanoseconds();
  bool waits = member == me ? follows : member < members;
  while (waits && !has_come(acquire(flags + member * FLAG_WORDS), number)) {
    waits = nanoseconds() - begin < limit;
    if (!waits && late) *late = 1;
    if (!waits && !late) fail();
  }
}
