// SPDX-License-Identifier: MIT
/* cl/dispatch/nvidia_peer.cl for devices of any kind, where all members are on one queue in order:
 * nobody has to wait for kernels, and a flag of theirs that is not there is a mistake. Engines are
 * threads of the host (peer_stand_in.h). */
__kernel void put(const __global uint4 *from, __global uint4 *to, ulong from_at, ulong to_at,
                  ulong units) {
  for (ulong i = get_global_id(0); i < units; i += get_global_size(0))
    to[to_at + i] = from[from_at + i];
}

__kernel void put_bytes(const __global uchar *from, __global uchar *to, ulong from_at, ulong to_at,
                        ulong units) {
  for (ulong i = get_global_id(0); i < units; i += get_global_size(0))
    to[to_at + i] = from[from_at + i];
}

__kernel void set_flags(volatile __global uint *flags_0, volatile __global uint *flags_1,
                        volatile __global uint *flags_2, volatile __global uint *flags_3,
                        volatile __global uint *flags_4, volatile __global uint *flags_5,
                        volatile __global uint *flags_6, volatile __global uint *flags_7,
                        uint count, uint line, uint number) {
  volatile __global uint *flags[8] = {flags_0, flags_1, flags_2, flags_3,
                                      flags_4, flags_5, flags_6, flags_7};
  mem_fence(CLK_GLOBAL_MEM_FENCE);
  if (get_local_id(0) < count) flags[get_local_id(0)][line * FLAG_WORDS] = number;
}

/* `late` is there when a group is made, which then refuses. There is no clock: a look counts as
 * half a nanosecond, as others may have to wait for a processor. */
__kernel void await_flags(const volatile __global uint *flags, __global uint *late, uint me,
                          uint members, uint wanted, uint follows, uint own, ulong limit) {
  const uint member = (uint)get_local_id(0), number = member == me ? own : wanted;
  if (member == me ? follows : member < members) {
    ulong looks = limit * 2;
    while ((int)(flags[member * FLAG_WORDS] - number) < 0 && --looks > 0) {
    }
    if (looks == 0 && !late) __builtin_trap(); /* the test ends */
    if (looks == 0) *late = 1;
  }
}
