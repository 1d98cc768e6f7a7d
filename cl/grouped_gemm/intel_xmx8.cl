// SPDX-License-Identifier: MIT
/* grouped_gemm/intel_xmx.clh for devices whose matrix instruction is for sub-groups of 8. */
#define LANES 8
#include "grouped_gemm/intel_xmx.clh"
