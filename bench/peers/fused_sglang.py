# SPDX-License-Identifier: MIT
"""SGLang's kernels: its fused_moe_kernel, activation and sum."""

import torch
import triton.language as tl

import aligned
import packages

HOME = "srt.layers.moe.fused_moe_triton"


class SGLang(aligned.Peer):
    def __init__(self, folder):
        values = (("sglang.srt.utils", "is_cuda", torch.cuda.is_available),)
        self.kernels, = packages.load("sglang", folder, (f"{HOME}.fused_moe_triton_kernels",), values,
                                      others=("sgl_kernel",))

    def invoke(self, a, b, c, share, ids, lists, weighted, top_k, tile):
        kind = {torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}[a.dtype]
        self.kernels.invoke_fused_moe_kernel(
            a, b, None, c, None, None, None, share, ids, *lists, weighted, top_k, tile,
            compute_type=kind, use_fp8_w8a8=False, use_int8_w8a8=False, use_int8_w8a16=False,
            use_int4_w4a16=False, per_channel_quant=False, filter_expert=False)

    def act(self, x, out, ids, tile):
        self.kernels.act_and_mul_triton(x, out, tile, ids)

    def combine(self, y, share, out):
        if y.shape[1] == 2:  # as it does
            torch.add(y[:, 0], y[:, 1], out=out)
        else:
            self.kernels.moe_sum_reduce_triton(y, out, 1.0)


def build(case):
    folder = packages.find("sglang", case.packages)
    yield from aligned.build(case, "SGLang's kernels", SGLang(case.packages), folder)
