// SPDX-License-Identifier: MIT
/* Texts that are lists, with commas between items; an item may have blanks inside, as devices'
 * names do. */
#ifndef MOECTL_LIST_H
#define MOECTL_LIST_H

#include <stddef.h>

/* The next item from `at` on and its bytes, without the blanks around it; NULL: there is none.
 * Empty ones do not count. What follows is from the item's end on. */
const char *list_next(const char *at, size_t *length);

#endif
