/* Does a GEMM variant give the right answer on this device? */
#ifndef MOECL_LIB_OP_SELF_CHECK_H
#define MOECL_LIB_OP_SELF_CHECK_H

#include "op/grouped_gemm.h"

/* Runs the program a layer of this shape would use on a small ragged problem
 * (an empty expert, a partial tile, more than one tile, odd sizes) and compares
 * it with plain C. MOECL_ERROR_BUILD, logged, if the answer is wrong: the
 * caller sets the variant aside as if it had not built. Waits. */
moecl_status op_gemm_self_check(moecl_context *context, const kernel_variant *variant,
                                const op_gemm_shape *shape);

#endif
