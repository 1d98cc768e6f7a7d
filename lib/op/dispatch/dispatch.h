// SPDX-License-Identifier: MIT
/* Dispatch: from one device's lists of rows to those of a member of a group, and rows by a list.
 * What each list holds: cl/dispatch/lists.cl. */
#ifndef MOECL_LIB_OP_DISPATCH_DISPATCH_H
#define MOECL_LIB_OP_DISPATCH_DISPATCH_H

#include "op/op.h"
#include "op/places.h"

enum { OP_DISPATCH_MOST_BINS = 512, OP_DISPATCH_MOST_CHUNKS = 8 };

typedef struct op_dispatch_desc {
  int64_t num_experts; /* with matrices: identity experts, which come after them, have no member */
  int64_t top_k;
  int32_t members, me;
  int32_t own;   /* experts that this member has, copies included */
  bool weighted; /* rows get their weights before the experts */
  bool placed;   /* rows that go back are stored where they go, and not gathered */
} op_dispatch_desc;

enum { OP_DISPATCH_KERNELS = 6 };
typedef struct op_dispatch {
  op_dispatch_desc desc;
  uint32_t local; /* the most tokens of a block */
  ocl_kernel *kernels[OP_DISPATCH_KERNELS];
} op_dispatch;

/* int32 all, but the weights. T: the batch's tokens, t: this member's; R: rows that it receives, T
 * at most; S: slots of its own experts, T * K at most; B: members * chunks. */
typedef struct op_dispatch_io {
  int64_t num_tokens;
  int32_t num_blocks, chunks, tile_rows;
  const moecl_buffer *topk_ids, *assignment_slot, *expert_offsets, *topk_weights;
  const moecl_buffer *placement, *sources;
  const moecl_buffer *bins;                    /* T*K */
  const moecl_buffer *counts;                  /* blocks * B * 2 */
  const moecl_buffer *starts;                  /* (members+1) * B * 2 */
  const moecl_buffer *own_offsets, *own_tiles; /* own+1 */
  const moecl_buffer *slot_row, *returns;      /* S; placed: by slots, else by what returns */
  const moecl_buffer *send_token;              /* t * members at most */
  const moecl_buffer *home_slot;               /* t*K */
  const moecl_buffer *home_rows;               /* num_experts+1 */
  const moecl_buffer *received_slot, *received_weight; /* R*K, weighted */
} op_dispatch_io;

extern const kernel_table op_dispatch_table; /* the operation "dispatch" */
extern const op_kind op_dispatch_kind;       /* of an op_dispatch_desc */
moecl_status op_dispatch_self_check(moecl_context *context, const kernel_variant *variant,
                                    const void *desc);
enum { OP_DISPATCH_LAUNCHES = 5 };
moecl_status op_dispatch_enqueue(op_dispatch *dispatch, ocl_chain *chain, const op_dispatch_io *io);

/* Own experts of chunk c: those from op_dispatch_chunk_begin of c to that of c+1. */
int32_t op_dispatch_chunk_begin(int32_t own, int32_t chunks, int32_t c);
/* Their offsets, and those of tiles of so many rows; each own+1. Of one chunk they are own_offsets
 * and own_tiles. */
moecl_status op_dispatch_enqueue_chunk(op_dispatch *dispatch, ocl_chain *chain, int32_t chunks,
                                       int32_t c, const moecl_buffer *own_offsets,
                                       const moecl_buffer *offsets, const moecl_buffer *tiles,
                                       uint32_t tile_rows);

/* Ints of sources, which the host writes. */
size_t op_dispatch_sources_size(const op_dispatch_desc *desc, int32_t num_blocks);
/* Blocks of so many tokens of each member. */
int32_t op_dispatch_blocks(const op_dispatch *dispatch, const int64_t *tokens);
void op_dispatch_write_sources(const op_dispatch *dispatch, const int64_t *tokens,
                               int32_t *sources);

/* ---- rows by a list ---- */

typedef struct op_rows_desc {
  uint64_t row_bytes;
} op_rows_desc;

typedef struct op_rows {
  op_rows_desc desc;
  uint32_t unit;
  ocl_kernel *kernel;
} op_rows;

typedef struct op_rows_io {
  const moecl_buffer *from, *list;
  op_places to;
} op_rows_io;

extern const op_kind op_rows_kind; /* the operation "gather_rows", of an op_rows_desc */
moecl_status op_rows_self_check(moecl_context *context, const kernel_variant *variant,
                                const void *desc);
/* A launch for four parts. */
moecl_status op_rows_enqueue(op_rows *rows, ocl_chain *chain, const op_rows_io *io);

/* ---- several copies at once ---- */

typedef struct op_copies {
  ocl_kernel *kernel;
} op_copies;

/* Of 32-bit words: from the start of a buffer. */
typedef struct op_copy {
  const moecl_buffer *from, *to;
  uint64_t first_to, count;
} op_copy;

extern const op_kind op_copies_kind; /* the operation "copy_words"; it has no description */
moecl_status op_copies_self_check(moecl_context *context, const kernel_variant *variant,
                                  const void *desc);
/* A launch for four copies. */
moecl_status op_copies_enqueue(op_copies *op, ocl_chain *chain, const op_copy *copies,
                               size_t count);

/* ---- rows by a list as codes with scales, which are fewer bytes ---- */

typedef struct op_pack_desc {
  int64_t columns;
  const desc_format *rows;  /* plain elements */
  const desc_format *codes; /* 8 bits each, with fp32 scales of blocks of a row */
} op_pack_desc;

enum { OP_PACK_KERNELS = 2 };
typedef struct op_pack {
  op_pack_desc desc;
  const kernel_variant *variant;
  ocl_kernel *kernels[OP_PACK_KERNELS];
} op_pack;

extern const op_kind op_pack_kind; /* the operation "pack_rows", of an op_pack_desc */
moecl_status op_pack_self_check(moecl_context *context, const kernel_variant *variant,
                                const void *desc);
/* Of a row on its way. */
uint64_t op_pack_row_bytes(const desc_format *codes, int64_t columns);
moecl_status op_pack_enqueue(op_pack *pack, ocl_chain *chain, const op_rows_io *io); /* each part */
/* Rows from `first` on, at the same places of `to`. */
moecl_status op_pack_enqueue_back(op_pack *pack, ocl_chain *chain, const moecl_buffer *from,
                                  const moecl_buffer *to, uint64_t first, uint64_t count);

#endif
