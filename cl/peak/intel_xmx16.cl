// SPDX-License-Identifier: MIT
/* peak/intel_xmx.clh for devices whose matrix instruction is for sub-groups of 16. */
#define LANES 16
#include "peak/intel_xmx.clh"
