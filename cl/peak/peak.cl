// SPDX-License-Identifier: MIT
/* What a device does at most: arithmetic, memory, launches. Nothing here is useful but for
 * how long it takes.
 *
 * Defines: LOCAL, work-items of a work-group; WIDTH, elements of a vector; CHAINS, vectors
 * that a work-item multiplies in turn, so that none waits for the last one's result; HALF 1:
 * in fp16; STRIDED 1: work-items side by side read side by side, else each reads a part of
 * its own from end to end, as a processor's core likes it. */
#if HALF
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
typedef half element_t;
#define NAME(width) half##width
#else
typedef float element_t;
#define NAME(width) float##width
#endif
#define VECTOR(width) NAME(width)
#if WIDTH == 1
typedef element_t vector_t;
#define SUM(v) (v)
#else
typedef VECTOR(WIDTH) vector_t;
#define SUM(v) ((v).s0 + (v).s1)
#endif

/* As in grouped_gemm/cpu.cl: mad() is not fused on some CPUs, fma() a call on others. */
#if HALF || defined(FP_FAST_FMAF) || defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define MULTIPLY_ADD(a, b, c) fma(a, b, c)
#else
#define MULTIPLY_ADD(a, b, c) ((a) * (b) + (c))
#endif

/* rounds * CHAINS * WIDTH multiply-adds a work-item. */
__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
multiply_add(__global float *out, float scale, float offset, int rounds) {
  const vector_t by = (vector_t)((element_t)scale), add = (vector_t)((element_t)offset);
  vector_t x[CHAINS];
#pragma unroll
  for (int i = 0; i < CHAINS; i++) x[i] = (vector_t)((element_t)(scale * (float)i));
  for (int r = 0; r < rounds; r++) {
#pragma unroll
    for (int i = 0; i < CHAINS; i++) x[i] = MULTIPLY_ADD(x[i], by, add);
  }
  vector_t sum = x[0];
#pragma unroll
  for (int i = 1; i < CHAINS; i++) sum += x[i];
  out[get_global_id(0)] = (float)SUM(sum);
}

/* The part of `count` that this work-item goes through. */
typedef struct part_t {
  ulong first, end, step;
} part_t;
static inline part_t part_of(ulong count) {
  const ulong items = get_global_size(0), id = get_global_id(0);
  part_t p;
#if STRIDED
  p.first = id;
  p.end = count;
  p.step = items;
#else
  p.first = count / items * id;
  p.end = id + 1 == items ? count : count / items * (id + 1);
  p.step = 1;
#endif
  return p;
}

/* `count` vectors of 32 bytes. */
__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
read_all(const __global uint8 *from, __global uint *out, ulong count) {
  const part_t p = part_of(count);
  uint8 a = (uint8)(0), b = a, c = a, d = a;
  ulong i = p.first;
  for (; i + 3 * p.step < p.end; i += 4 * p.step) {
    a += from[i];
    b += from[i + p.step];
    c += from[i + 2 * p.step];
    d += from[i + 3 * p.step];
  }
  for (; i < p.end; i += p.step) a += from[i];
  a += b + c + d;
  out[get_global_id(0)] = a.s0 + a.s1 + a.s2 + a.s3 + a.s4 + a.s5 + a.s6 + a.s7;
}

__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
copy_all(const __global uint8 *from, __global uint8 *to, ulong count) {
  const part_t p = part_of(count);
  for (ulong i = p.first; i < p.end; i += p.step) to[i] = from[i];
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void nothing(__global uint *out) {
  out[0] = 1;
}
