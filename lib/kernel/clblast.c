// SPDX-License-Identifier: MIT
#include "kernel/clblast.h"
#include "ocl/program.h"

bool kernel_clblast_is_built(void) { return MOECL_HAVE_CLBLAST; }

#if MOECL_HAVE_CLBLAST
#include <clblast_c.h>

moecl_status kernel_clblast_sgemm(ocl_chain *chain, int64_t m, int64_t n, int64_t k,
                                  const moecl_buffer *a, uint64_t a_offset, const moecl_buffer *b,
                                  uint64_t b_offset, const moecl_buffer *c, uint64_t c_offset) {
  moecl_context *context = chain->context;
  cl_event event = NULL;
  cl_command_queue queue = context->queue;
  moecl_status ready = ocl_chain_order(chain);
  if (ready != MOECL_OK) return ready;
  const CLBlastStatusCode code = CLBlastSgemm(
      CLBlastLayoutRowMajor, CLBlastTransposeNo, CLBlastTransposeYes, (size_t)m, (size_t)n,
      (size_t)k, 1.0f, a->mem, (size_t)a_offset, (size_t)k, b->mem, (size_t)b_offset, (size_t)k,
      0.0f, c->mem, (size_t)c_offset, (size_t)n, &queue, &event);
  if (code != CLBlastSuccess)
    return log_error(&context->log, MOECL_ERROR_DEVICE, "CLBlastSgemm failed with status %d",
                     (int)code);
  return ocl_chain_record(chain, "CLBlastSgemm", event);
}

#else

moecl_status kernel_clblast_sgemm(ocl_chain *chain, int64_t m, int64_t n, int64_t k,
                                  const moecl_buffer *a, uint64_t a_offset, const moecl_buffer *b,
                                  uint64_t b_offset, const moecl_buffer *c, uint64_t c_offset) {
  (void)m, (void)n, (void)k, (void)a, (void)a_offset, (void)b, (void)b_offset, (void)c;
  (void)c_offset;
  return log_error(&chain->context->log, MOECL_ERROR_UNSUPPORTED,
                   "this libmoecl was built without CLBlast; install it and build again");
}

#endif
