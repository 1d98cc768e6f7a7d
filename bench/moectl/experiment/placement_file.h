// SPDX-License-Identifier: MIT
/* parallel.placement_file: who has which experts, or what experts have to do. */
#ifndef MOECTL_PLACEMENT_FILE_H
#define MOECTL_PLACEMENT_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Either lists, one a member, or loads, one an expert. */
typedef struct placement_file {
  size_t num_lists;
  int32_t *lists; /* one after the other */
  size_t *list_sizes;
  size_t num_loads;
  int64_t *loads;
} placement_file;

/* JSON: [[0, 1], [2, 3]], [12, 0, 7, 9], or a run's results.json, whose tokens_per_expert are
 * summed over its points. False with one malloc'ed message, which begins with the path. */
bool placement_file_read(const char *path, placement_file *placement, char **error);
/* Do lists, of members of a layer with so many experts, have them all, and none twice in one? False
 * with a message; loads are no lists. */
bool placement_file_check_lists(const placement_file *placement, int64_t num_experts, char *message,
                                size_t size);
void placement_file_release(placement_file *placement);

#endif
