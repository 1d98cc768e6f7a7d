// SPDX-License-Identifier: MIT
/* cl/dispatch/nvidia_peer.cl for devices of any kind, where all members are on one queue in order:
 * nobody has to wait, and a flag that is not there is a mistake. */
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

__kernel void set_flags(__global uint *flags_0, __global uint *flags_1, __global uint *flags_2,
                        __global uint *flags_3, __global uint *flags_4, __global uint *flags_5,
                        __global uint *flags_6, __global uint *flags_7, uint count, uint me,
                        uint number) {
  __global uint *flags[8] = {flags_0, flags_1, flags_2, flags_3,
                             flags_4, flags_5, flags_6, flags_7};
  if (get_local_id(0) < count) flags[get_local_id(0)][me * FLAG_WORDS] = number;
}

/* `late` is there when a group is made, which then refuses. */
__kernel void await_flags(const __global uint *flags, __global uint *late, uint me, uint members,
                          uint wanted, ulong limit) {
  const uint member = (uint)get_local_id(0);
  if (late && member < members && member != me && flags[member * FLAG_WORDS] != wanted) *late = 1;
}
