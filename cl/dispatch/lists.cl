// SPDX-License-Identifier: MIT
/* Which rows go where, when a layer's experts are spread over the members of a group.
 *
 * The batch is the members' tokens one after the other. Every member has permuted all of it, so
 * that assignment_slot and expert_offsets are those of one device, and finds out here, without
 * asking another, what concerns itself:
 *
 *   find_owners  the bin of each assignment t*K+k: member * chunks + chunk, -1 where it was
 *                dropped, -2 where its expert is an identity expert
 *   own_offsets  where the rows of each of its own experts begin: like expert_offsets; and likewise
 *                their tiles, like tile_offsets
 *   count_bins   tokens and assignments of each bin in each block of tokens
 *   scan_blocks  their exclusive prefix over the blocks; and `starts`, the same where each
 *                member's tokens begin, and at the end of the batch
 *   write_lists  the lists
 *   chunk_offsets  both of the experts of one chunk alone, where there are several
 *
 * An expert may have copies on several members. They share its rows by rank, in equal parts.
 * The own experts of a member fall into as many chunks, one after the other.
 *
 * A token is sent to a member once, in the bin of the first chunk that needs it there. What a
 * member receives lies bin by bin, and in each in the order of tokens; what it gives back lies bin
 * by bin in the order of assignments, and so does what comes back to a token's home.
 *
 * Tables of counts have pairs: [..][bins][tokens, assignments].
 * placement: first[E+1], member[P], place[P] of the P copies, owned[members], then of this
 * member's own experts pairs of expert and which of its copies.
 * sources: first_block[members+1], first_token[blocks+1]; a block holds tokens of one member.
 * Defines: LOCAL, the most tokens of a block, 128 or less; WEIGHTED: rows are multiplied by their
 * weights before the experts; PLACED: experts' outputs are stored where they go back to. */
#include "common/scan.clh"
#define MOST_BINS 512
#define MOST_CHUNKS 8

typedef struct copies_t {
  const __global int *first, *member, *place, *owned, *own;
} copies_t;

static inline copies_t find_copies(const __global int *placement, int num_experts, int members) {
  copies_t at;
  at.first = placement;
  at.member = placement + num_experts + 1;
  at.place = at.member + placement[num_experts];
  at.owned = at.place + placement[num_experts];
  at.own = at.owned + members;
  return at;
}

/* Of `rows` that `copies` share: the first one of copy j, and whose one rank r is. */
static inline int share_begin(int rows, int copies, int j) {
  return (int)(((long)j * rows + copies - 1) / copies);
}
static inline int share_of(int rows, int copies, int r) { return (int)((long)r * copies / rows); }

__kernel void find_owners(const __global int *topk_ids, const __global int *assignment_slot,
                          const __global int *expert_offsets, const __global int *placement,
                          __global int *bins, int count, int num_experts, int members, int chunks) {
  const int a = (int)get_global_id(0);
  if (a >= count) return;
  const copies_t at = find_copies(placement, num_experts, members);
  const int e = topk_ids[a], slot = assignment_slot[a];
  int bin = slot < 0 ? -1 : -2;
  if (slot >= 0 && e < num_experts) {
    const int begin = expert_offsets[e], copies = at.first[e + 1] - at.first[e];
    const int copy = at.first[e] + share_of(expert_offsets[e + 1] - begin, copies, slot - begin);
    const int member = at.member[copy];
    bin = member * chunks + at.place[copy] * chunks / at.owned[member];
  }
  bins[a] = bin;
}

/* One work-group. */
__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
own_offsets(const __global int *expert_offsets, const __global int *placement,
            __global int *offsets, __global int *tiles, int num_experts, int members, int own,
            int tile_m) {
  __local int scratch[LOCAL];
  const int lid = (int)get_local_id(0);
  const copies_t at = find_copies(placement, num_experts, members);
  int before = 0, tiles_before = 0;
  for (int first = 0; first < own; first += LOCAL) {
    const int l = first + lid;
    int count = 0;
    if (l < own) {
      const int e = at.own[2 * l], j = at.own[2 * l + 1];
      const int rows = expert_offsets[e + 1] - expert_offsets[e];
      const int copies = at.first[e + 1] - at.first[e];
      count = share_begin(rows, copies, j + 1) - share_begin(rows, copies, j);
    }
    const int end = before + group_scan(count, scratch, lid, LOCAL);
    before += scratch[LOCAL - 1];
    if (l < own) offsets[l + 1] = end;
    barrier(CLK_LOCAL_MEM_FENCE);
    const int tiles_end =
        tiles_before + group_scan((count + tile_m - 1) / tile_m, scratch, lid, LOCAL);
    tiles_before += scratch[LOCAL - 1];
    if (l < own) tiles[l + 1] = tiles_end;
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  if (lid == 0) offsets[0] = tiles[0] = 0;
}

/* The first of a token's bins on a member, or MOST_BINS. */
static inline int first_bin(const __global int *bins, int top_k, int member, int chunks) {
  int least = MOST_BINS;
  for (int k = 0; k < top_k; k++)
    if (bins[k] >= member * chunks && bins[k] < (member + 1) * chunks) least = min(least, bins[k]);
  return least;
}

static inline int count_bin(const __global int *bins, int top_k, int bin) {
  int count = 0;
  for (int k = 0; k < top_k; k++) count += bins[k] == bin;
  return count;
}

/* A work-group a block, a work-item a token. */
__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
count_bins(const __global int *bins, const __global int *sources, __global int *counts, int top_k,
           int members, int chunks) {
  __local int sums[2 * MOST_BINS];
  const int lid = (int)get_local_id(0), block = (int)get_group_id(0);
  const int pairs = 2 * members * chunks;
  const __global int *first_token = sources + members + 1;
  const int t = first_token[block] + lid;
  for (int i = lid; i < pairs; i += LOCAL) sums[i] = 0;
  barrier(CLK_LOCAL_MEM_FENCE);
  if (t < first_token[block + 1]) {
    bins += (size_t)t * (size_t)top_k;
    for (int k = 0; k < top_k; k++)
      if (bins[k] >= 0) atomic_inc(&sums[2 * bins[k] + 1]);
    for (int m = 0; m < members; m++) {
      const int bin = first_bin(bins, top_k, m, chunks);
      if (bin < MOST_BINS) atomic_inc(&sums[2 * bin]);
    }
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  counts += (size_t)block * (size_t)pairs;
  for (int i = lid; i < pairs; i += LOCAL) counts[i] = sums[i];
}

/* A work-group for each of the pairs' numbers. */
__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
scan_blocks(__global int *counts, const __global int *sources, __global int *starts, int num_blocks,
            int members) {
  __local int scratch[LOCAL];
  const int lid = (int)get_local_id(0), i = (int)get_group_id(0);
  const int pairs = (int)get_num_groups(0);
  int before = 0;
  for (int first = 0; first < num_blocks; first += LOCAL) {
    const int b = first + lid;
    const size_t at = (size_t)b * (size_t)pairs + (size_t)i;
    const int count = b < num_blocks ? counts[at] : 0;
    const int end = before + group_scan(count, scratch, lid, LOCAL);
    if (b < num_blocks) {
      counts[at] = end - count;
      for (int m = 0; m < members; m++)
        if (sources[m] == b) starts[m * pairs + i] = end - count;
    }
    before += scratch[LOCAL - 1];
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  for (int m = lid; m <= members; m += LOCAL)
    if (sources[m] == num_blocks) starts[m * pairs + i] = before;
}

/* A work-group a block, a work-item a token.
 *   slot_row       the received row that each of the own experts' slots reads
 *   returns        the slot whose row goes back, bin by bin; PLACED: of each slot which of those
 *                  its row is
 *   send_token     this member's tokens to be sent, bin by bin
 *   home_slot      assignment_slot of this member's tokens, among the rows that come back
 *   home_rows      at its end: how many those are, where slots of identity experts begin
 *   received_slot, received_weight  with WEIGHTED, of received rows: their choices' slots here or
 *                  -1, and weights */
__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
write_lists(const __global int *bins, const __global int *topk_ids,
            const __global int *assignment_slot, const __global int *expert_offsets,
            const __global float *weights, const __global int *placement,
            const __global int *sources, const __global int *counts, const __global int *starts,
            const __global int *own_offsets, __global int *slot_row, __global int *returns,
            __global int *send_token, __global int *home_slot, __global int *home_rows,
            __global int *received_slot, __global float *received_weight, int top_k,
            int num_experts, int members, int chunks, int me) {
  __local int scratch[LOCAL], send_base[MOST_BINS], home_base[MOST_BINS];
  __local int token_row[LOCAL]; /* a work-item's own: PoCL 3.1 loses such a number over barriers */
  __local int row_base[MOST_CHUNKS], return_base[MOST_CHUNKS];
  const int lid = (int)get_local_id(0), block = (int)get_group_id(0);
  const int num_bins = members * chunks, pairs = 2 * num_bins;
  const copies_t at = find_copies(placement, num_experts, members);
  const __global int *first_token = sources + members + 1;
  const __global int *mine = starts + me * pairs, *all = starts + members * pairs;
  const bool is_home = block >= sources[me] && block < sources[me + 1];
  const int t = first_token[block] + lid;
  const bool inside = t < first_token[block + 1];
  const int home_first = first_token[sources[me]];
  int home_all = 0;
  for (int b = lid; b <= num_bins; b += LOCAL) {
    int send = 0, home = 0;
    for (int j = 0; j < b; j++) {
      send += mine[pairs + 2 * j] - mine[2 * j];
      home += mine[pairs + 2 * j + 1] - mine[2 * j + 1];
    }
    if (b < num_bins) {
      send_base[b] = send - mine[2 * b];
      home_base[b] = home - mine[2 * b + 1];
    } else if (block == sources[me]) {
      home_rows[num_experts] = home;
    }
  }
  for (int c = lid; c < chunks; c += LOCAL) {
    int rows = 0, slots = 0;
    for (int j = 0; j < c; j++) {
      rows += all[2 * (me * chunks + j)];
      slots += all[2 * (me * chunks + j) + 1];
    }
    row_base[c] = rows;
    return_base[c] = slots;
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int j = 0; j < num_bins; j++) home_all += mine[pairs + 2 * j + 1] - mine[2 * j + 1];

  const size_t first_choice = inside ? (size_t)t * (size_t)top_k : 0;
  const __global int *own_bins = bins + first_choice;
  token_row[lid] = -1;
  for (int m = 0; m < members; m++) {
    const int first = inside ? first_bin(own_bins, top_k, m, chunks) : MOST_BINS;
    const int end = m == me || is_home ? (m + 1) * chunks : 0; /* of the whole work-group */
    for (int bin = m * chunks; bin < end; bin++) {
      const int sent = first == bin, count = inside ? count_bin(own_bins, top_k, bin) : 0;
      const int packed = count << 8 | sent;
      const int before = group_scan(packed, scratch, lid, LOCAL) - packed;
      const __global int *base = counts + (size_t)block * (size_t)pairs + 2 * bin;
      const int row = base[0] + (before & 255), assignment = base[1] + (before >> 8);
      const int c = bin - m * chunks;
      if (m == me && sent) token_row[lid] = row_base[c] + row;
      if (is_home && sent) send_token[send_base[bin] + row] = t - home_first;
      for (int k = 0, n = 0; k < top_k && n < count; k++) {
        if (own_bins[k] != bin) continue;
        if (is_home)
          home_slot[(size_t)(t - home_first) * (size_t)top_k + (size_t)k] =
              home_base[bin] + assignment + n;
        if (m == me) {
          const int e = topk_ids[first_choice + k];
          const int begin = expert_offsets[e], rows = expert_offsets[e + 1] - begin;
          const int rank = assignment_slot[first_choice + k] - begin;
          const int copies = at.first[e + 1] - at.first[e], j = share_of(rows, copies, rank);
          const int slot =
              own_offsets[at.place[at.first[e] + j]] + rank - share_begin(rows, copies, j);
          slot_row[slot] = token_row[lid];
#if PLACED
          returns[slot] = return_base[c] + assignment + n;
#else
          returns[return_base[c] + assignment + n] = slot;
#endif
#if WEIGHTED
          received_slot[(size_t)token_row[lid] * (size_t)top_k + (size_t)k] = slot;
#endif
        }
        n++;
      }
    }
  }
  for (int k = 0; inside && k < top_k; k++) {
    const int bin = own_bins[k];
    if (is_home && bin < 0)
      home_slot[(size_t)(t - home_first) * (size_t)top_k + (size_t)k] = bin == -2 ? home_all : -1;
#if WEIGHTED
    if (token_row[lid] < 0) continue;
    const size_t choice = (size_t)token_row[lid] * (size_t)top_k + (size_t)k;
    if (bin < me * chunks || bin >= (me + 1) * chunks) received_slot[choice] = -1;
    received_weight[choice] = weights[first_choice + k];
#endif
  }
}

/* One work-group. Experts before `first` and from `end` on have no rows; slots keep their
 * numbers. */
__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
chunk_offsets(const __global int *offsets, __global int *own_chunk_offsets,
              __global int *chunk_tiles, int own, int first, int end, int tile_m) {
  __local int scratch[LOCAL];
  const int lid = (int)get_local_id(0);
  int before = 0;
  for (int at = 0; at < own; at += LOCAL) {
    const int l = at + lid;
    const bool is_in = l >= first && l < end;
    const int rows = is_in ? offsets[l + 1] - offsets[l] : 0;
    const int tiles_end = before + group_scan((rows + tile_m - 1) / tile_m, scratch, lid, LOCAL);
    before += scratch[LOCAL - 1];
    barrier(CLK_LOCAL_MEM_FENCE);
    if (l < own) {
      own_chunk_offsets[l + 1] = offsets[clamp(l + 1, first, end)];
      chunk_tiles[l + 1] = tiles_end;
    }
  }
  if (lid == 0) {
    own_chunk_offsets[0] = offsets[first];
    chunk_tiles[0] = 0;
  }
}
