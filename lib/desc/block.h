// SPDX-License-Identifier: MIT
/* Parts of a block's parameters that operations and the reference take, defaults already
 * put in. */
#ifndef MOECL_LIB_DESC_BLOCK_H
#define MOECL_LIB_DESC_BLOCK_H

#include "desc/attention.h"
#include "desc/norm.h"
#include "moecl/block.h"

desc_attention desc_attention_of(const moecl_block_params *params);
/* One of the block's two norms. */
desc_norm desc_norm_of(const moecl_block_params *params, const moecl_norm_params *norm);

#endif
