# SPDX-License-Identifier: MIT
"""vLLM's kernels: its fused_moe_kernel and its sum. All of vLLM, where it can be imported, is a peer of
layers.py."""

import torch
import triton
import triton.language as tl

import aligned
import packages

HOME = "model_executor.layers.fused_moe"


class Platform:
    def is_cuda(self):
        return torch.cuda.is_available()

    def is_rocm(self):
        return False

    def get_device_capability(self, index=0):
        return torch.cuda.get_device_capability(index)


def without_descriptors():
    return False


VALUES = (("vllm.triton_utils", "triton", triton), ("vllm.triton_utils", "tl", tl),
          (f"vllm.{HOME}.utils", "resolve_moe_use_td", without_descriptors),
          ("vllm.platforms", "current_platform", Platform()))


class VLLM(aligned.Peer):
    weighted = False  # the sum does

    def __init__(self, folder):
        # What these are is asked for by the kernel's launcher.
        self.fused, self.sums = packages.load(
            "vllm", folder, (f"{HOME}.fused_moe", f"{HOME}.moe_fused_mul_sum"), VALUES)

    def lists(self, ids, rows, experts):
        """As its _prepare_expert_assignment: so few choices are tiles of their own."""
        if ids.numel() * 4 > experts:
            return aligned.align(ids, rows, experts)
        return None, ids.view(-1), torch.full((1,), ids.numel() * rows, device=ids.device,
                                              dtype=torch.int32)

    def invoke(self, a, b, c, share, ids, lists, weighted, top_k, tile):
        kind = {torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}[a.dtype]
        self.fused.invoke_fused_moe_triton_kernel(
            a, b, c, None, None, share, *lists, weighted, top_k, tile, compute_type=kind,
            use_fp8_w8a8=False, use_int8_w8a8=False, use_int8_w8a16=False, use_int4_w4a16=False,
            per_channel_quant=False)

    def combine(self, y, share, out):
        self.sums.moe_fused_mul_sum(y, share, out)


def build(case):
    folder = packages.find("vllm", case.packages)
    yield from aligned.build(case, "vLLM's kernels", [VLLM(case.packages)], folder)
