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
  case MOECL_STAGE_ATTENTION_NORM: return "attention_norm";
  case MOECL_STAGE_QKV_PROJ: return "qkv_proj";
  case MOECL_STAGE_ROTARY: return "rotary";
  case MOECL_STAGE_ATTENTION: return "attention";
  case MOECL_STAGE_O_PROJ: return "o_proj";
  case MOECL_STAGE_FEED_FORWARD_NORM: return "feed_forward_norm";
  case MOECL_STAGE_RESIDUAL: return "residual";
  case MOECL_STAGE_COUNT: break;
  }
  return "?";
}
