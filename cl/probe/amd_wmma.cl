// SPDX-License-Identifier: MIT
/* probe/amd_matrices.clh by v_wmma_f32_16x16x16. */
#include "common/amd_wmma.clh"
#include "probe/amd_matrices.clh"
