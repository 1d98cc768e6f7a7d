// SPDX-License-Identifier: MIT
#include "report/report.h"
#include <stdlib.h>

bool report_finish(results *all, char **note, char **error) {
  char *ignored = NULL;
  *error = NULL;
  if (note) *note = NULL;
  const bool ok = results_write(all, error) && plots_write(all, note ? note : &ignored, error) &&
                  report_write(all, error) && report_html_write(all, error);
  free(ignored);
  return ok;
}
