// SPDX-License-Identifier: MIT
/* grouped_gemm/intel_xmx.clh for devices whose matrix instruction is for sub-groups of 16. */
#define LANES 16
#include "grouped_gemm/intel_xmx.clh"
