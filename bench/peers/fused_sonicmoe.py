# SPDX-License-Identifier: MIT
"""SonicMoE, installed with what it needs (quack-kernels, nvidia-cutlass-dsl): its kernels are no
Triton that could be taken out of it."""

import torch

from layers import interleaved


def build(case):
    from sonicmoe.enums import ActivationType
    from sonicmoe.functional import moe_TC_softmax_topk_layer
    top_k = case.shape.top_k
    ready = {id(weights): interleaved(weights[1]).permute(1, 2, 0) for weights in case.weights}

    def call(x, weights):
        stream = torch.cuda.current_stream().cuda_stream
        return moe_TC_softmax_topk_layer(x, weights[0], ready[id(weights)], None,
                                         weights[2].permute(1, 2, 0), None, top_k, stream,
                                         ActivationType.SWIGLU, True)[0]
    yield "SonicMoE", call, True
