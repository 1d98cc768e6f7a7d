// SPDX-License-Identifier: MIT
/* What the processor that this program runs on can do. An instruction that it does not know ends
 * the process, so that a probe kernel must not try it. */
#define _GNU_SOURCE /* syscall */
#include "ocl/program.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

/* Registers that the operating system keeps for each thread (XCR0). */
enum {
  KEEPS_AVX512 = 0xe6, /* with those of SSE and AVX */
  KEEPS_TILES = 0x60000
};

static uint32_t kept_registers(void) {
  uint32_t a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & 1u << 27)) return 0; /* no XGETBV */
  __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
  return a;
}

/* Linux gives a process the tile unit's registers when it asks; once and for all of its threads,
 * and again does no harm. */
static bool may_use_tiles(void) {
#if defined(__linux__) && defined(SYS_arch_prctl)
  enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
  return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
  return false;
#endif
}

uint32_t ocl_host_cpu_capabilities(void) {
  uint32_t a, b, c, d, a1, b1, c1, d1, has = 0;
  const uint32_t kept = kept_registers();
  if ((kept & KEEPS_AVX512) != KEEPS_AVX512) return 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
  if (a < 1 || !__get_cpuid_count(7, 1, &a1, &b1, &c1, &d1)) a1 = 0;
  const bool avx512 = b & 1u << 16, dots_of_bf16 = avx512 && a1 & 1u << 5, tiles = d & 1u << 24;
  if (avx512 && c & 1u << 11) has |= MOECL_CAP_AVX512_INT8;
  /* Beside a tile unit they are there for conversions' sake: fp32's products are faster. */
  if (dots_of_bf16 && !tiles) has |= MOECL_CAP_AVX512_BF16;
  if ((kept & KEEPS_TILES) != KEEPS_TILES || !tiles || !dots_of_bf16 || !may_use_tiles())
    return has;
  if (d & 1u << 22) has |= MOECL_CAP_AMX_BF16;
  if (d & 1u << 25) has |= MOECL_CAP_AMX_INT8;
  return has;
}

#else

uint32_t ocl_host_cpu_capabilities(void) { return 0; }

#endif
