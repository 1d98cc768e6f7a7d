// SPDX-License-Identifier: MIT
#include "report/report_file.h"
#include "base/files.h"
#include <stdlib.h>

void report_file_open(report_file *file) {
  *file = (report_file){.text = NULL};
  file->stream = open_memstream(&file->text, &file->size);
}

bool report_file_put(report_file *file, const results *all, const char *name, bool ok,
                     char **error) {
  ok = ok && file->stream && !ferror(file->stream);
  if (file->stream && fclose(file->stream) != 0) ok = false;
  char *path = format_text("%s/%s", results_folder(all), name);
  if (!ok || !path) {
    ok = fail_text(error, "no memory for %s", name);
  } else {
    ok = replace_file(path, file->text, file->size, error);
  }
  free(path);
  free(file->text);
  *file = (report_file){.text = NULL};
  return ok;
}
