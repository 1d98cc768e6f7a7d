// SPDX-License-Identifier: MIT
/* What the tests of experiment files share. */
#ifndef MOECL_TEST_CONFIG_H
#define MOECL_TEST_CONFIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
/* after the ones above, as cmocka asks */
#include <cmocka.h>

#include "experiment/experiment.h"

/* The least that is an experiment; one key a line, for overrides to change. */
static const char minimal[] = "layer:\n"
                              "  hidden_size: 64\n"
                              "  intermediate_size: 128\n"
                              "  num_experts: 8\n"
                              "  top_k: 2\n"
                              "workload:\n"
                              "  num_tokens: 16\n";

/* Loads text with one override (or NULL), which has to work. */
static inline experiment load(const char *text, const char *set) {
  experiment experiment;
  char *error = NULL;
  experiment_override override = {set};
  bool good = experiment_parse(text, strlen(text), "dir/t.yaml", &override, set != NULL,
                               &experiment, &error);
  if (!good) print_error("%s\n", error);
  assert_true(good);
  assert_null(error);
  return experiment;
}

#endif
