// SPDX-License-Identifier: MIT
/* The grouped GEMM for AMD's data center GPUs since MI200 (CDNA 2): v_mfma_f32_16x16x16, waves
 * of 64. What it has in common with amd_wmma.cl, all but the instruction, is amd_tiles.clh.
 *
 * A lane of part p (lanes 16p to 16p+15) has row, or token, lane % 16 of an operand: 4 elements,
 * which of K's 16 is said by p. It takes chunk p of K's 32: the first 4 are one instruction's, the
 * last 4 the next one's. Of the sums it has weight rows 4p to 4p+3, of token lane % 16. */
#include "common/amd_mfma.clh"
/* Work-groups of a compute unit, of which local memory holds as many: else the compiler, which has
 * 512 registers, spends more than a third of them. */
#define GEMM_HINT __attribute__((amdgpu_waves_per_eu(3)))
#define QUADS 1 /* a lane's quads of weight rows in a block's sums, and quad number t of them: */
#define LANE_QUAD(part, t) (part)
/* The weight row of a block that is number i of a quad, and the other way round. */
#define QUAD_OF(row) ((row) / 4)
#define INDEX_OF(row) ((row) % 4)
#define CHUNKS 1 /* a lane's of an operand's 32 elements along K, and chunk number c of them: */
#define LANE_CHUNK(part, c) (part)

#define QUAD_SUMS(sums, t) (sums)
#include "grouped_gemm/amd_operands.clh"

ALWAYS_INLINE sums_t multiply(operand_t a, operand_t b, sums_t sums) {
  sums = MATRIX(a.chunk[0].lo, b.chunk[0].lo, sums);
  return MATRIX(a.chunk[0].hi, b.chunk[0].hi, sums);
}

#include "grouped_gemm/amd_tiles.clh"
