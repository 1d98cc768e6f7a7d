// SPDX-License-Identifier: MIT
#include "base/list.h"

#include <string.h>

const char *list_next(const char *at, size_t *length) {
  at += strspn(at, " ,");
  *length = strcspn(at, ",");
  while (*length > 0 && at[*length - 1] == ' ') --*length;
  return *length > 0 ? at : NULL;
}
