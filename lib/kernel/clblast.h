// SPDX-License-Identifier: MIT
/* The only file that calls CLBlast. */
#ifndef MOECL_LIB_KERNEL_CLBLAST_H
#define MOECL_LIB_KERNEL_CLBLAST_H

#include "ocl/ocl.h"

/* Was the library built with it? */
bool kernel_clblast_is_built(void);

/* C[m,n] = A[m,k] * B[n,k]^T in fp32, all row-major without padding; offsets in
 * elements. Enqueued on the chain. MOECL_ERROR_UNSUPPORTED when the library was
 * built without CLBlast. */
moecl_status kernel_clblast_sgemm(ocl_chain *chain, int64_t m, int64_t n, int64_t k,
                                  const moecl_buffer *a, uint64_t a_offset, const moecl_buffer *b,
                                  uint64_t b_offset, const moecl_buffer *c, uint64_t c_offset);

#endif
