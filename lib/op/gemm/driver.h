// SPDX-License-Identifier: MIT
/* Inside the room: what implements a variant's kernels on the host. */
#ifndef MOECL_LIB_OP_GEMM_DRIVER_H
#define MOECL_LIB_OP_GEMM_DRIVER_H

#include "op/gemm/gemm.h"

/* One table for kernels with a work-group a tile, one for such with tiles of several
 * heights (with and without kernels for few tokens), one for such by matrix instructions, one for
 * such by strips of panels, one for persistent work-groups that take tile after tile (with and
 * without tall tiles, and of codes by codes), two for such on weights with scales, one for CLBlast.
 * Beside create, all are asked of described GEMMs too. */
typedef struct op_gemm_driver {
  size_t state_bytes; /* of the driver's own state, zeros before create */
  moecl_status (*create)(op_gemm *gemm);
  void (*release)(op_gemm *gemm); /* of what create left, on failure too */
  /* Enqueues packing `count` experts' canonical weights. */
  moecl_status (*pack)(op_gemm *gemm, int64_t first, int64_t count, const moecl_buffer *src,
                       uint64_t offset_bytes);
  /* Of drivers with several kernels (NULL: there is one, and it is the driver's own): which a
   * description has beside the first, as bits; makes gemm->kernel[id]; and which is best for so
   * many rows, of tiles. */
  unsigned (*kernels)(const op_gemm *gemm);
  moecl_status (*create_kernel)(op_gemm *gemm, op_gemm_kernel_id id);
  op_gemm_kernel_id (*best_kernel)(const op_gemm *gemm, int64_t rows);
  unsigned late; /* those of them that are in programs of their own */
  uint32_t (*tile_rows)(const op_gemm *gemm, int64_t rows);
  uint64_t (*packed_bytes)(const op_gemm *gemm);          /* of one expert */
  uint64_t (*scratch)(const op_gemm *gemm, int64_t rows); /* NULL: none */
  moecl_status (*enqueue)(op_gemm *gemm, ocl_chain *chain, const op_gemm_io *io);
  /* Kernels for few tokens; NULL: there are none. */
  bool (*serves_few_tokens)(const op_gemm *gemm, int64_t num_tokens);
  moecl_status (*enqueue_few_tokens)(op_gemm *gemm, ocl_chain *chain,
                                     const op_gemm_few_tokens_io *io);
  uint64_t extra_bytes; /* of the device's buffers beside weights and bias */
  bool by_rows;         /* has several kernels, and chooses by rows an expert */
  bool waits;           /* enqueueing reads the counts on the host */
  bool ragged;          /* its tiles end where an expert's rows end */
  bool long_k;          /* goes through a long k in blocks, which op_gemm.short_blocks shortens */
  int64_t check_k;      /* inner size that goes through all of its loops; 0: any does */
} op_gemm_driver;

extern const op_gemm_driver op_gemm_tiles_driver, op_gemm_tile_heights_driver,
    op_gemm_tile_heights_few_driver, op_gemm_matrix_tiles_driver, op_gemm_strips_driver,
    op_gemm_persistent_driver, op_gemm_persistent_tall_driver, op_gemm_persistent_coded_driver,
    op_gemm_fragments_driver, op_gemm_fragments_wgmma_driver, op_gemm_clblast_driver;

/* The lists of rows of an ungrouped GEMM. */
typedef struct op_gemm_lists {
  ocl_kernel *kernel;
  moecl_buffer *offsets, *tiles;
  int64_t rows; /* that they are for; -1: none yet */
  uint32_t tile_rows;
} op_gemm_lists;
enum { OP_GEMM_LISTS_BYTES = 4 * sizeof(int32_t) }; /* of both buffers */
moecl_status op_gemm_lists_create(moecl_context *context, op_gemm_lists *lists);
void op_gemm_lists_release(op_gemm_lists *lists);
/* Writes them, once for every number of rows. */
moecl_status op_gemm_lists_write(op_gemm_lists *lists, ocl_chain *chain, int64_t rows,
                                 uint32_t tile_rows);

struct op_gemm {
  moecl_context *context;
  const kernel_variant *variant;
  const op_gemm_driver *driver;
  op_gemm_desc desc;
  kernel_tile tile;
  ocl_kernel *pack;                    /* of all drivers: its program is the variant's */
  ocl_kernel *kernel[OP_GEMM_KERNELS]; /* NULL: not there, or not yet */
  unsigned lost;                       /* those that do not serve */
  unsigned noted;                      /* those whose programs were noted to be built ahead */
  op_gemm *partner;                    /* its rows are this one's: they lose kernels together */
  void *state;                         /* the driver's own */
  moecl_buffer *weights, *bias;        /* bias NULL without one */
  uint64_t packed_elements; /* of one expert, in the packed type; bytes of formats with scales */
  op_gemm_lists lists;      /* of an ungrouped one */
  bool short_blocks;        /* of a self-check, whose k would make one block else */
  op_gemm_kernel_id forced; /* of a self-check: it serves any number of rows */
};

/* Does the description have the kernel, and is it to be made later? */
bool op_gemm_has_kernel(const op_gemm *gemm, op_gemm_kernel_id id);
unsigned op_gemm_late(const op_gemm *gemm);
/* A source's defines for a description and a tile. */
void op_gemm_defines(const op_gemm_desc *desc, const kernel_tile *tile, char *text, size_t size);
/* Rows of one expert's weights. */
int64_t op_gemm_weight_rows(const op_gemm_desc *desc);
/* Bytes of one expert's weights as they are given: gate and up are two matrices. */
uint64_t op_gemm_given_bytes(const op_gemm_desc *desc);
/* Tiles of `tile.n` weight rows that one expert's columns make. */
uint64_t op_gemm_column_tiles(const op_gemm *gemm);
/* Bytes of one expert's weights packed as whole tiles of columns, their rows in multiples
 * of so many bytes. */
uint64_t op_gemm_tiled_bytes(const op_gemm *gemm, uint64_t step_bytes);
/* The most tiles of `each` rows that `rows` slots can make: every expert may end in a
 * partial one. */
uint64_t op_gemm_most_tiles(const op_gemm *gemm, uint64_t rows, uint64_t each);
/* Launches the pack kernel over `items` work-items (work-groups, where its source
 * requires a size) for each expert, or in strides over one expert's elements. */
moecl_status op_gemm_pack(op_gemm *gemm, int64_t first, int64_t count, const moecl_buffer *src,
                          uint64_t offset_bytes, uint64_t items);
moecl_status op_gemm_pack_strided(op_gemm *gemm, int64_t first, int64_t count,
                                  const moecl_buffer *src, uint64_t offset_bytes);
static inline int64_t op_gemm_chosen_rows(const op_gemm_io *io) {
  return io->chosen_rows ? io->chosen_rows : io->rows;
}
static inline int64_t op_gemm_spread(const op_gemm *gemm) {
  return gemm->desc.spread ? gemm->desc.spread : gemm->desc.num_experts;
}
uint32_t op_gemm_fixed_tile_rows(const op_gemm *gemm, int64_t rows);
/* What a kernel gets as its output; and of one that scatters, its arguments from number `first` on,
 * behind all others (cl/grouped_gemm/places.clh). */
const moecl_buffer *op_gemm_output(const op_gemm *gemm, const op_gemm_io *io);
moecl_status op_gemm_set_places(const op_gemm *gemm, ocl_kernel *kernel, uint32_t first,
                                const op_gemm_io *io);
/* Where the scales of rows of codes begin: bytes from the input's first. Kernels that read codes
 * get it as their last argument. */
uint64_t op_gemm_input_scales(const op_gemm *gemm, const op_gemm_io *io);
/* few_tokens.c: kernels that stream weights. They are there for one "expert" of all tokens, for
 * gate/up that gathers and for down, which they weight and combine; and pay for up to `most`. */
enum { OP_GEMM_MOST_FEW_TOKENS = 4 };
bool op_gemm_has_few_tokens(const op_gemm_desc *desc);
bool op_gemm_few_tokens_pay(const op_gemm *gemm, int64_t num_tokens, int64_t most);
/* The same with as many as plain weights pay for. */
bool op_gemm_plain_few_tokens_pay(const op_gemm *gemm, int64_t num_tokens);
/* What their kernels want defined, behind a source's other defines. */
void op_gemm_few_tokens_defines(const op_gemm_desc *desc, char *text, size_t size);
/* Of a source whose programs are parts of it (PART_ of common/enums.h): which, and the same for
 * those with few tokens. The others of several GEMMs are one program. */
void op_gemm_parts_defines(const op_gemm_desc *desc, unsigned parts, char *text, size_t size);
moecl_status op_gemm_launch_few_tokens(const op_gemm *gemm, ocl_kernel *few, ocl_chain *chain,
                                       const op_gemm_few_tokens_io *io);

#endif
