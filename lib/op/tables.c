// SPDX-License-Identifier: MIT
#include "op/tables.h"
#include "op/combine/combine.h"
#include "op/gemm/gemm.h"
#include "op/permute/permute.h"
#include "op/router/router.h"
#include <string.h>

const kernel_table *op_table(const char *operation) {
  static const kernel_table *const all[] = {&op_router_table, &op_permute_table, &op_gemm_table,
                                            &op_combine_table};
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
    if (strcmp(all[i]->operation, operation) == 0) return all[i];
  return NULL;
}
