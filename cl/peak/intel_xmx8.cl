// SPDX-License-Identifier: MIT
/* peak/intel_xmx.clh for devices whose matrix instruction is for sub-groups of 8. */
#define LANES 8
#include "peak/intel_xmx.clh"
