// SPDX-License-Identifier: MIT
#include "moecl/layer.h"

const char *moecl_stage_name(moecl_stage stage) {
  switch (stage) {
  case MOECL_STAGE_ROUTER: return "router";
  case MOECL_STAGE_PERMUTE: return "permute";
  case MOECL_STAGE_GATE_UP: return "gate_up";
  case MOECL_STAGE_DOWN: return "down";
  case MOECL_STAGE_SHARED: return "shared";
  case MOECL_STAGE_COMBINE: return "combine";
  case MOECL_STAGE_LAYER: return "layer";
  case MOECL_STAGE_COUNT: break;
  }
  return "?";
}
