# SPDX-License-Identifier: MIT
"""lmdeploy's fused experts, which are all in Triton and tune themselves."""

import packages
import triton_moe

HOME = "pytorch.kernels.cuda"


def build(case):
    fused = packages.load("lmdeploy", case.packages,
                          (f"{HOME}.moe.fused_moe", f"{HOME}.activation", f"{HOME}.utils"))[0]
    top_k = case.shape.top_k

    def call(x, weights):
        router, gate_up, down = weights
        ids, share = triton_moe.route(x, router, top_k)
        return fused.fused_moe(x, gate_up, down, share, ids, top_k)
    yield "lmdeploy's kernels", call, True
