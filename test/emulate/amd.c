// SPDX-License-Identifier: MIT
/* AMD's matrix instructions, D = A B + C with A and B of 16 by 16 elements of 16 bits, after AMD's
 * documents: which element of a matrix stands where in which lane's registers. */
#include "numbers.h"
#include "work_group.h"

enum { SIDE = 16 };
typedef struct matrices {
  int element;
  float a[SIDE][SIDE], b[SIDE][SIDE]; /* a[row][k], b[column][k] */
} matrices;

/* Of a lane that has `each` elements of row (of B: column) lane % 16, from K `first` on: fours,
 * between which `apart` are another lane's. */
static void take(matrices *m, uint32_t lane, const uint16_t *elements, int each, int first,
                 int apart) {
  for (int i = 0; i < each; i++) {
    const int k = first + i + i / 4 * apart;
    m->a[lane % SIDE][k] = number_of(m->element, elements[i]);
    m->b[lane % SIDE][k] = number_of(m->element, elements[each + i]);
  }
}

/* Sum `i` of a lane, which come behind its elements of A and B, and what is added to it. */
static void add_product(const matrices *m, const void *in, int each, int i, int row, int column,
                        void *out) {
  double sum = (double)((const float *)((const uint16_t *)in + 2 * each))[i];
  for (int k = 0; k < SIDE; k++) sum += (double)m->a[row][k] * (double)m->b[column][k];
  ((float *)out)[i] = (float)sum;
}

/* CDNA, v_mfma_f32_16x16x16: lane l has K 4 (l / 16) and on of its row, and of D rows
 * 4 (l / 16) and on of column l % 16. */
static void mfma(int element, uint32_t lanes, const void *const *in, void *const *out) {
  enum { EACH = 4, SUMS = 4 };
  matrices m = {.element = element};
  for (uint32_t l = 0; l < lanes; l++) take(&m, l, in[l], EACH, (int)(l / SIDE) * EACH, 0);
  for (uint32_t l = 0; l < lanes; l++)
    for (int i = 0; i < SUMS; i++)
      add_product(&m, in[l], EACH, i, (int)(l / SIDE) * SUMS + i, (int)(l % SIDE), out[l]);
}

/* RDNA 3, v_wmma_f32_16x16x16: lane l has all of its row, the same as lane l + 16, and of D rows
 * l / 16, 2 + l / 16, ... of column l % 16. Lanes that should be equal and are not make NaN. */
static void wmma_gfx11(int element, uint32_t lanes, const void *const *in, void *const *out) {
  enum { EACH = 16, SUMS = 8 };
  matrices m = {.element = element};
  for (uint32_t l = 0; l < lanes; l++) {
    take(&m, l, in[l], EACH, 0, 0);
    if (memcmp(in[l], in[l % SIDE], 2 * EACH * sizeof(uint16_t)) != 0) m.a[0][0] = 0.0f / 0.0f;
  }
  for (uint32_t l = 0; l < lanes; l++)
    for (int i = 0; i < SUMS; i++)
      add_product(&m, in[l], EACH, i, 2 * i + (int)(l / SIDE), (int)(l % SIDE), out[l]);
}

/* RDNA 4: lane l has K 4 (l / 16) to 4 (l / 16) + 3 of its row, and the same of 8 to 15, and of D
 * rows 8 (l / 16) and on of column l % 16. */
static void wmma_gfx12(int element, uint32_t lanes, const void *const *in, void *const *out) {
  enum { EACH = 8, SUMS = 8 };
  matrices m = {.element = element};
  for (uint32_t l = 0; l < lanes; l++) take(&m, l, in[l], EACH, (int)(l / SIDE) * 4, 4);
  for (uint32_t l = 0; l < lanes; l++)
    for (int i = 0; i < SUMS; i++)
      add_product(&m, in[l], EACH, i, (int)(l / SIDE) * SUMS + i, (int)(l % SIDE), out[l]);
}

/* What amd.clh calls. */
#define INSTRUCTION(name, type, element)                                                           \
  static void name##_##type(uint32_t lanes, const void *const *in, void *const *out) {             \
    name(element, lanes, in, out);                                                                 \
  }                                                                                                \
  void emulated_##name##_##type(const void *in, void *out);                                        \
  void emulated_##name##_##type(const void *in, void *out) {                                       \
    emulate_together(name##_##type, in, out);                                                      \
  }
INSTRUCTION(mfma, f16, ELEMENT_F16)
INSTRUCTION(mfma, bf16, ELEMENT_BF16)
INSTRUCTION(wmma_gfx11, f16, ELEMENT_F16)
INSTRUCTION(wmma_gfx11, bf16, ELEMENT_BF16)
INSTRUCTION(wmma_gfx12, f16, ELEMENT_F16)
INSTRUCTION(wmma_gfx12, bf16, ELEMENT_BF16)
