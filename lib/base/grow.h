// SPDX-License-Identifier: MIT
/* Lists that grow. */
#ifndef MOECL_LIB_BASE_GROW_H
#define MOECL_LIB_BASE_GROW_H

#include <stdlib.h>

/* The list with room for `count` items, 1 or more, of so many bytes: that one, or a larger one in
 * its place, which has room for twice as many as before. NULL, and it stays as it is: no host
 * memory. */
static inline void *base_grow(void *list, size_t count, size_t *room, size_t size) {
  enum { FEWEST = 16 };
  size_t more = *room ? 2 * *room : FEWEST;
  if (count <= *room) return list;
  if (more < count) more = count;
  void *grown = realloc(list, more * size);
  if (grown) *room = more;
  return grown;
}

#endif
