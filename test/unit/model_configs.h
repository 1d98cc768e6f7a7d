// SPDX-License-Identifier: MIT
/* What more than one test of model folders says: a Mixtral with its tensors, and
 * configurations with more behind them. */
#ifndef MOECL_TEST_MODEL_CONFIGS_H
#define MOECL_TEST_MODEL_CONFIGS_H

#include "model_folder.h"

/* H 2, I 3, E 2 throughout. */
static const char mixtral[] =
    "{\"model_type\":\"mixtral\",\"hidden_size\":2,\"intermediate_size\":3,"
    "\"num_local_experts\":2,\"num_experts_per_tok\":1,\"num_hidden_layers\":2}";
#define AT "model.layers.1.block_sparse_moe."
static const made mixtral_tensors[] = {{AT "gate.weight", "F32", 2, {2, 2}, 1},
                                       {AT "experts.0.w1.weight", "F32", 2, {3, 2}, 10},
                                       {AT "experts.0.w2.weight", "BF16", 2, {2, 3}, 20},
                                       {AT "experts.0.w3.weight", "F16", 2, {3, 2}, 30},
                                       {AT "experts.1.w1.weight", "F32", 2, {3, 2}, 40},
                                       {AT "experts.1.w2.weight", "F32", 2, {2, 3}, 50},
                                       {AT "experts.1.w3.weight", "F32", 2, {3, 2}, 60}};

#define TYPES(list)                                                                                \
  "{\"model_type\":\"mimo_v2_flash\",\"hidden_size\":2,\"intermediate_size\":2,"                   \
  "\"num_hidden_layers\":3" list "}"
#define NLLB(more)                                                                                 \
  "{\"model_type\":\"nllb-moe\",\"encoder_layers\":1,\"decoder_layers\":0,"                        \
  "\"encoder_sparse_step\":1,\"num_experts\":6" more "}"
#define V2(more)                                                                                   \
  "{\"model_type\":\"deepseek_v2\",\"hidden_size\":2,\"num_hidden_layers\":1,"                     \
  "\"n_routed_experts\":8,\"num_experts_per_tok\":2,\"n_group\":4,\"topk_group\":2" more "}"

#endif
