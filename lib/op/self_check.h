// SPDX-License-Identifier: MIT
/* Does a variant give the right answer on this device?
 *
 * Each check runs the program that a layer would use on a small problem with the
 * edges in it (nothing, a partial block or tile, more than one, odd sizes, ties)
 * and compares with plain C. A wrong answer is MOECL_ERROR_BUILD, logged: the
 * caller goes on as if the variant had not built. A program that passed once in
 * its context is not run again. All wait. */
#ifndef MOECL_LIB_OP_SELF_CHECK_H
#define MOECL_LIB_OP_SELF_CHECK_H

#include "op/grouped_gemm.h"

/* All but the shape's sizes decide the program. */
moecl_status op_gemm_self_check(moecl_context *context, const kernel_variant *variant,
                                const op_gemm_shape *shape);
/* The choice from logits, by the rule of the params. */
moecl_status op_router_self_check(moecl_context *context, const kernel_variant *variant,
                                  const moecl_layer_params *params);
/* Order, offsets and the capacity's drop policy. */
moecl_status op_permute_self_check(moecl_context *context, const kernel_variant *variant,
                                   const moecl_layer_params *params);
moecl_status op_combine_self_check(moecl_context *context, const kernel_variant *variant,
                                   const moecl_layer_params *params, bool input_f32);

#endif
