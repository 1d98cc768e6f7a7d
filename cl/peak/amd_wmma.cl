// SPDX-License-Identifier: MIT
/* peak/amd_matrices.clh by v_wmma_f32_16x16x16. */
#include "common/amd_wmma.clh"
#include "peak/amd_matrices.clh"
