// SPDX-License-Identifier: MIT
#include "op/op.h"
#include "base/base.h"
#include "op/attention/attention.h"
#include "op/combine/combine.h"
#include "op/dispatch/dispatch.h"
#include "op/encode/encode.h"
#include "op/gate/gate.h"
#include "op/gemm/gemm.h"
#include "op/norm/norm.h"
#include "op/permute/permute.h"
#include "op/permute/rounds.h"
#include "op/permute/scale.h"
#include "op/quantize/quantize.h"
#include "op/random/random.h"
#include "op/rotary/rotary.h"
#include "op/route/route.h"
#include "op/router/prepare.h"
#include "op/router/router.h"
#include <string.h>

const op_kind *const op_kinds[] = {&op_prepare_kind,   &op_noise_kind,    &op_router_kind,
                                   &op_route_kind,     &op_permute_kind,  &op_scale_kind,
                                   &op_rounds_kind,    &op_gemm_kind,     &op_gate_kind,
                                   &op_combine_kind,   &op_norm_kind,     &op_rotary_kind,
                                   &op_attention_kind, &op_quantize_kind, &op_encode_kind,
                                   &op_random_kind,    &op_dispatch_kind, &op_rows_kind,
                                   &op_copies_kind,    &op_pack_kind,     NULL};

const op_kind *op_find(const char *name) {
  for (const op_kind *const *kind = op_kinds; *kind; kind++)
    if (strcmp((*kind)->table->operation, name) == 0) return *kind;
  return NULL;
}

moecl_status op_create(const op_kind *kind, moecl_context *context, const kernel_variant *variant,
                       const void *desc, void *op) {
  memset(op, 0, kind->size);
  MOECL_TRY(kind->self_check(context, variant, desc));
  const moecl_status status = kind->create(context, variant, desc, op);
  if (status == MOECL_OK) return MOECL_OK;
  kind->release(op);
  memset(op, 0, kind->size);
  return status;
}

moecl_status op_describe(const op_kind *kind, moecl_context *context, const kernel_variant *variant,
                         const void *desc, void *op) {
  memset(op, 0, kind->size);
  if (ocl_is_ahead(context)) MOECL_TRY(kind->self_check(context, variant, desc));
  return kind->describe(context, variant, desc, op);
}

typedef struct attempt {
  moecl_context *context;
  const op_choice *choice;
  void *op;
} attempt;

static bool accepts(void *user, const kernel_variant *variant) {
  return kernel_variant_accepts(variant, ((const attempt *)user)->choice->desc);
}

static moecl_status try_variant(void *user, const kernel_variant *variant) {
  const attempt *a = user;
  const op_kind *kind = a->choice->kind;
  return a->choice->described ? op_describe(kind, a->context, variant, a->choice->desc, a->op)
                              : op_create(kind, a->context, variant, a->choice->desc, a->op);
}

moecl_status op_choose(moecl_context *context, const op_choice *choice, void *op,
                       const kernel_variant **chosen, size_t *set_aside) {
  attempt a = {context, choice, op};
  const kernel_choice among = {.table = choice->kind->table,
                               .asked = choice->asked,
                               .format = choice->format,
                               .optional = choice->optional,
                               .accepts = accepts,
                               .try_variant = try_variant,
                               .user = &a};
  const kernel_variant *variant;
  size_t aside;
  return kernel_choose(context, &among, chosen ? chosen : &variant, set_aside ? set_aside : &aside);
}
