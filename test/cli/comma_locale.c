// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
/* Loaded into moectl: a driver that sets the process's locale, as some do. The
 * programs that moectl starts have no such driver. */
#include <locale.h>
#include <stdlib.h>

__attribute__((constructor)) static void set_locale(void) {
  setlocale(LC_ALL, "");
  unsetenv("LD_PRELOAD");
}
