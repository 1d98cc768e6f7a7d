# SPDX-License-Identifier: MIT
"""SGLang's kernels: its fused_moe_kernel, activation and sum."""

import torch
import triton.language as tl

import aligned
import layers
import packages

HOME = "kernels.ops.moe"


VALUES = (("sglang.srt.utils", "is_cuda", torch.cuda.is_available),
          ("sglang.srt.layers.moe.utils", "get_moe_padding_size", lambda aiter: 0),
          # launched before the one ahead has ended, its kernels read outside their lists (H200)
          ("sglang.kernels.jit.utils", "is_arch_support_pdl", lambda: False))


class SGLang(aligned.Peer):
    """`fused`: gate_up's epilogue has the activation, for rows of gate and up in turn;
    `descriptors`: gate_up's weights come by them."""

    def __init__(self, folder, fused=False, descriptors=False):
        self.fused, self.descriptors = fused, descriptors
        self.kernels, = packages.load("sglang", folder, (f"{HOME}.fused_moe_triton_kernels",), VALUES,
                                      others=("sgl_kernel",))

    def __str__(self):
        return "SGLang" + ", fused" * self.fused + ", descriptors" * self.descriptors

    def arrange(self, weights):
        router, gate_up, down = weights
        return (router, layers.interleaved(gate_up), down) if self.fused else weights

    def gate_up(self, x, weights, out, share, ids, lists, top_k, tile):
        how = {"b_use_tma": self.descriptors}
        if self.fused:
            self.invoke(x, weights, out, share, ids, lists, False, top_k, tile, fuse_swiglu=True, **how)
            return
        first = torch.empty(len(x), top_k, weights.shape[1], device=x.device, dtype=x.dtype)
        self.invoke(x, weights, first, share, ids, lists, False, top_k, tile, **how)
        self.kernels.act_and_mul_triton(first.view(len(out), -1), out, tile, ids)

    def invoke(self, a, b, c, share, ids, lists, weighted, top_k, tile, **how):
        kind = {torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}[a.dtype]
        self.kernels.invoke_fused_moe_kernel(
            a, b, None, c, None, None, None, share, ids, *lists, weighted, top_k, tile,
            compute_type=kind, use_fp8_w8a8=False, use_int8_w8a8=False, use_int8_w8a16=False,
            use_int4_w4a16=False, per_channel_quant=False, filter_expert=False, **how)

    def combine(self, y, share, out):
        if y.shape[1] == 2:  # as it does
            torch.add(y[:, 0], y[:, 1], out=out)
        else:
            self.kernels.moe_sum_reduce_triton(y, out, 1.0)


def build(case):
    folder = packages.find("sglang", case.packages)
    ways = [SGLang(case.packages)]
    if case.inputs[0].dtype == torch.bfloat16:  # the epilogue's only type
        ways = [SGLang(case.packages, fused=True), *ways,
                SGLang(case.packages, fused=True, descriptors=True)]
    yield from aligned.build(case, "SGLang's kernels", ways, folder)
