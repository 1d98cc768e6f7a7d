// SPDX-License-Identifier: MIT
/* Kernels with a mistake in them. */
#ifndef MOECL_TEST_SPOIL_H
#define MOECL_TEST_SPOIL_H

#include "../unit/unit.h"
#include "base/base.h"

/* A fresh copy of cl/ at ROOT/cl in which `from` in `file` (below cl/) reads `to`. */
static inline void spoil_kernels(const char *root, const char *file, const char *from,
                                 const char *to) {
  const char *source = getenv("MOECL_SOURCE_CL");
  char command[4096], path[4096], *data;
  size_t size;
  base_text text = {0};
  assert_non_null(source);
  snprintf(command, sizeof command, "rm -rf '%s/cl' && cp -r '%s' '%s/cl'", root, source, root);
  assert_int_equal(system(command), 0);
  snprintf(path, sizeof path, "%s/cl/%s", root, file);
  assert_ok(base_file_read(path, &data, &size));
  char *at = strstr(data, from);
  assert_non_null(at);
  base_text_add(&text, data, (size_t)(at - data));
  base_text_addf(&text, "%s%s", to, at + strlen(from));
  assert_false(text.failed);
  assert_ok(base_file_write_atomic(path, text.data, text.size));
  base_text_free(&text);
  free(data);
}

#endif
