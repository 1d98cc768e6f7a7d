// SPDX-License-Identifier: MIT
#include "base/utf8.h"
#include <string.h>

size_t utf8_control(const char *text) {
  const unsigned char first = (unsigned char)text[0];
  if (first == '\0') return 0;
  if (first < ' ' || first == 0x7f) return 1;
  const unsigned char second = (unsigned char)text[1];
  return first == 0xc2 && second >= 0x80 && second <= 0x9f ? 2 : 0;
}

/* Bytes of a character that begins so. */
static size_t length_of(unsigned char first) {
  return first < 0xc0 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
}

char *utf8_drop_part(char *text) {
  const size_t length = strlen(text);
  for (size_t back = 1; back <= 3 && back <= length; back++) {
    const unsigned char c = (unsigned char)text[length - back];
    if ((c & 0xc0) == 0x80) continue; /* not a character's first byte */
    if (length_of(c) > back) text[length - back] = '\0';
    break;
  }
  return text;
}
