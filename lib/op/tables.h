// SPDX-License-Identifier: MIT
/* The operations that have variants. */
#ifndef MOECL_LIB_OP_TABLES_H
#define MOECL_LIB_OP_TABLES_H

#include "kernel/variant.h"

/* By the name that users give ("router", "permute", "grouped_gemm", "combine"); NULL:
 * there is no such operation. */
const kernel_table *op_table(const char *operation);

#endif
