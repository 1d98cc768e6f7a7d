// SPDX-License-Identifier: MIT
/* Elements of 16 bits, ELEMENT_F16 or ELEMENT_BF16 of cl/common/enums.h. */
#ifndef MOECL_TEST_NUMBERS_H
#define MOECL_TEST_NUMBERS_H

#include "common/enums.h"
#include <stdint.h>
#include <string.h>

static inline float number_of(int element, uint16_t bits) {
  const uint32_t wide = (uint32_t)bits << 16;
  _Float16 half;
  float value;
  memcpy(&half, &bits, sizeof half);
  memcpy(&value, &wide, sizeof value);
  return element == ELEMENT_F16 ? (float)half : value;
}

/* The nearest one, of finite numbers and infinities. */
static inline uint16_t bits_of(int element, float value) {
  const _Float16 half = (_Float16)value;
  uint16_t bits;
  uint32_t wide;
  memcpy(&bits, &half, sizeof bits);
  memcpy(&wide, &value, sizeof wide);
  return element == ELEMENT_F16 ? bits : (uint16_t)((wide + 0x7fff + (wide >> 16 & 1)) >> 16);
}

#endif
