// SPDX-License-Identifier: MIT
/* The grouped GEMM for AMD's GPUs since RDNA 3: v_wmma_f32_16x16x16, waves of 32. What it has
 * in common with amd_mfma.cl, all but the instruction, is amd_tiles.clh.
 *
 * RDNA 4 (gfx12): a lane of half p (lanes 16p to 16p+15) has row, or token, lane % 16 of an
 * operand: 8 elements, which of K's 16 is said by p. Of the sums it has weight rows 8p to 8p+7, of
 * token lane % 16. RDNA 3 (gfx11): it has all 16 elements, the same in both halves, and weight rows
 * p, 2+p, ... 14+p. */
#include "common/amd_wmma.clh"
#define GEMM_HINT
#define QUADS 2 /* a lane's quads of weight rows in a block's sums, and quad number t of them: */
#ifdef __GFX12__
#define LANE_QUAD(part, t) ((part)*2 + (t))
/* The weight row of a block that is number i of a quad, and the other way round. */
#define QUAD_OF(row) ((row) / 4)
#define INDEX_OF(row) ((row) % 4)
#define CHUNKS 2 /* a lane's of an operand's 32 elements along K, and chunk number c of them: */
#define LANE_CHUNK(part, c) ((c)*2 + (part))
#else
#define LANE_QUAD(part, t) ((t)*2 + (part))
#define QUAD_OF(row) ((row) / 8 * 2 + (row) % 2)
#define INDEX_OF(row) ((row) / 2 % 4)
#define CHUNKS 4
#define LANE_CHUNK(part, c) (c)
#endif

#define QUAD_SUMS(sums, t) ((t) ? (sums).hi : (sums).lo)
#include "grouped_gemm/amd_operands.clh"

#ifdef __GFX12__
ALWAYS_INLINE sums_t multiply(operand_t a, operand_t b, sums_t sums) {
  sums = MATRIX(a.chunk[0], b.chunk[0], sums);
  return MATRIX(a.chunk[1], b.chunk[1], sums);
}
#else
ALWAYS_INLINE sums_t multiply(operand_t a, operand_t b, sums_t sums) {
  sums = MATRIX((uint8)(a.chunk[0], a.chunk[1]), (uint8)(b.chunk[0], b.chunk[1]), sums);
  return MATRIX((uint8)(a.chunk[2], a.chunk[3]), (uint8)(b.chunk[2], b.chunk[3]), sums);
}
#endif

#include "grouped_gemm/amd_tiles.clh"
