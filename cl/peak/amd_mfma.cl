// SPDX-License-Identifier: MIT
/* peak/amd_matrices.clh by v_mfma_f32_16x16x16. */
#include "common/amd_mfma.clh"
#include "peak/amd_matrices.clh"
