// SPDX-License-Identifier: MIT
/* How many files this process has open. */
#ifndef MOECL_TEST_OPEN_FILES_H
#define MOECL_TEST_OPEN_FILES_H

#include "../unit/unit.h"
#include <dirent.h>

static inline int open_files(void) {
  DIR *folder = opendir("/proc/self/fd");
  int count = 0;
  assert_non_null(folder);
  while (readdir(folder)) count++;
  closedir(folder);
  return count;
}

#endif
