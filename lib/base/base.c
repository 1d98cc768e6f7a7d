// SPDX-License-Identifier: MIT
#include "base/base.h"
#include <string.h>
#include <xxhash.h>

const char *moecl_version(void) { return MOECL_VERSION; }

bool base_mul(uint64_t a, uint64_t b, uint64_t *product) {
  if (a != 0 && b > UINT64_MAX / a) return false;
  *product = a * b;
  return true;
}

size_t base_first_set(const uint64_t *values, size_t count) {
  size_t i = 0;
  while (i < count && values[i] == 0) i++;
  return i;
}

void base_hash_hex(const void *data, size_t size, char hex[33]) {
  static const char digits[] = "0123456789abcdef";
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits(data, size));
  for (int i = 0; i < 16; i++) {
    hex[2 * i] = digits[canonical.digest[i] >> 4];
    hex[2 * i + 1] = digits[canonical.digest[i] & 15];
  }
  hex[32] = '\0';
}
