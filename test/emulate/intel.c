// SPDX-License-Identifier: MIT
/* Intel's matrix instruction, D = A B + D with A of 8 by 16 elements of 16 bits and a column of B
 * for each lane, after the text of cl_intel_subgroup_matrix_multiply_accumulate: which element
 * stands where in which lane's operands. */
#include "numbers.h"
#include "work_group.h"

enum { ROWS = 8, K = 16 };

/* A lane's operands as intel.clh has them: of A each row's elements that it shares in, one
 * (sub-groups of 16) or two (of 8); of B its column; sums. */
static void multiply(int element, uint32_t lanes, const void *const *in, void *const *out) {
  const uint32_t each = K / lanes;
  float a[ROWS][K];
  for (uint32_t l = 0; l < lanes; l++)
    for (uint32_t r = 0; r < ROWS; r++)
      for (uint32_t i = 0; i < each; i++)
        a[r][l * each + i] = number_of(element, ((const uint16_t *)in[l])[r * each + i]);
  for (uint32_t l = 0; l < lanes; l++) {
    const uint16_t *b = (const uint16_t *)in[l] + ROWS * each;
    const float *sums = (const float *)(b + K);
    for (uint32_t r = 0; r < ROWS; r++) {
      double sum = (double)sums[r];
      for (uint32_t k = 0; k < K; k++) sum += (double)a[r][k] * (double)number_of(element, b[k]);
      ((float *)out[l])[r] = (float)sum;
    }
  }
}

static void multiply_f16(uint32_t lanes, const void *const *in, void *const *out) {
  multiply(ELEMENT_F16, lanes, in, out);
}
static void multiply_bf16(uint32_t lanes, const void *const *in, void *const *out) {
  multiply(ELEMENT_BF16, lanes, in, out);
}

/* Blocks of eight words or halves a lane, each of all lanes and then the next, from where the
 * first lane says. The others say the same: what differs is no block. */
typedef struct block {
  uint64_t at;
  uint32_t bytes, values[8]; /* of an element; of a write */
} block;

static void read_block(uint32_t lanes, const void *const *in, void *const *out) {
  const block *first = in[0];
  for (uint32_t l = 0; l < lanes; l++) {
    const block *b = in[l];
    for (uint32_t i = 0; i < 8; i++)
      memcpy((char *)out[l] + i * first->bytes,
             (const char *)first->at + (size_t)(i * lanes + l) * first->bytes, first->bytes);
    if (b->at != first->at) memset(out[l], 0xff, 8 * first->bytes);
  }
}

static void write_block(uint32_t lanes, const void *const *in, void *const *out) {
  const block *first = in[0];
  (void)out;
  for (uint32_t l = 0; l < lanes; l++)
    for (uint32_t i = 0; i < 8; i++)
      ((uint32_t *)first->at)[i * lanes + l] = ((const block *)in[l])->values[i];
}

static void broadcast(uint32_t lanes, const void *const *in, void *const *out) {
  for (uint32_t l = 0; l < lanes; l++) memcpy(out[l], in[0], sizeof(uint32_t));
}

/* What intel.clh calls. */
#define INSTRUCTION(name)                                                                          \
  void emulated_##name(const void *in, void *out);                                                 \
  void emulated_##name(const void *in, void *out) { emulate_together(name, in, out); }
INSTRUCTION(multiply_f16)
INSTRUCTION(multiply_bf16)
INSTRUCTION(read_block)
INSTRUCTION(write_block)
INSTRUCTION(broadcast)
