# SPDX-License-Identifier: MIT
"""Schemes of quantized checkpoints: a matrix [rows, columns] to the tensors that files have of it,
and the numbers that these are, in fp32.

compressed-tensors packs and unpacks with its own code, gpt-oss's MXFP4 is unpacked by transformers'
and AWQ's by AutoAWQ's; GPTQ and fp8 are packed and unpacked here, by their definitions. None of it
knows moecl.
"""

import importlib.util
import pathlib

import numpy
import torch

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def round_to_e2m1(values):
    """Codes 0 to 15 of the nearest numbers."""
    codes = (values.abs().unsqueeze(-1) - E2M1).abs().argmin(dim=-1)
    return (codes + 8 * (values < 0)).to(torch.uint8)


def nibbles(codes):
    """Two codes a byte, the first one low."""
    return codes[..., 0::2] | codes[..., 1::2] << 4


def words(codes, bits, lanes=None):
    """[..., n] codes to [..., n bits / 32] int32, neighbours from the lowest bits on, or where
    `lanes` says."""
    per = 32 // bits
    grouped = codes.numpy().astype(numpy.uint32).reshape(*codes.shape[:-1], -1, per)
    packed = numpy.zeros(grouped.shape[:-1], dtype=numpy.uint32)
    for i in range(per):
        packed |= grouped[..., i] << numpy.uint32(bits * (lanes[i] if lanes else i))
    return torch.from_numpy(packed.view(numpy.int32).copy())


# ---- gpt-oss ----

def mxfp4(stacked):
    """[E, columns, rows] as transformers has it."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors
    rows = stacked.transpose(1, 2).float()
    groups = rows.reshape(*rows.shape[:2], -1, 32)
    exponents = torch.floor(torch.log2(groups.abs().amax(dim=-1).clamp(min=2.0**-120))) - 2
    codes = round_to_e2m1(groups / 2.0**exponents.unsqueeze(-1))
    blocks, scales = nibbles(codes), (exponents + 127).to(torch.uint8)
    numbers = convert_moe_packed_tensors(blocks.clone(), scales.clone(), dtype=torch.float32)
    return {"_blocks": blocks, "_scales": scales}, numbers


# ---- fp8 ----

def fp8_block(weight):
    height, width = 128, 128
    rows, columns = weight.shape
    scales = torch.zeros(-(-rows // height), -(-columns // width))
    numbers = torch.zeros(rows, columns)
    codes = torch.zeros(rows, columns, dtype=torch.float8_e4m3fn)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            at = (slice(i * height, (i + 1) * height), slice(j * width, (j + 1) * width))
            scales[i, j] = weight[at].float().abs().max() / 448
            codes[at] = (weight[at].float() / scales[i, j]).to(torch.float8_e4m3fn)
            numbers[at] = codes[at].float() * scales[i, j]
    return {".weight": codes, ".weight_scale_inv": scales}, numbers


def fp8_tensor(weight):
    """As published: a static scale of the activations beside it."""
    scale = weight.float().abs().max() / 448
    codes = (weight.float() / scale).to(torch.float8_e4m3fn)
    return ({".weight": codes, ".weight_scale": scale, ".input_scale": torch.tensor(0.0125)},
            codes.float() * scale)


# ---- compressed-tensors ----

def compressed(weights, layout, actorder=False):
    """With the library's own arguments."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    args = QuantizationArgs(**weights)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    compressor = BaseCompressor.get_value_from_registry(layout)

    def quantize(weight):
        state = {"weight": weight.float()} | scales_of(weight.float(), args)
        files = compressor.compress(dict(state), scheme)
        numbers = (numbers_of_nvfp4(files) if layout == "nvfp4-pack-quantized" else compressor.decompress(
            {k: v.clone() for k, v in files.items()}, scheme)["weight"].float())
        if layout != "nvfp4-pack-quantized":
            files["weight_scale"] = files["weight_scale"].bfloat16()
        return {"." + name: tensor for name, tensor in files.items()}, numbers

    return quantize


def numbers_of_nvfp4(files):
    """The library's decompress rounds to bf16."""
    from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
    packed = files["weight_packed"]
    rows, columns = packed.shape[0], 2 * packed.shape[1]
    codes = unpack_fp4_from_uint8(packed, rows, columns, dtype=torch.float32).reshape(rows, -1, 16)
    scales = files["weight_scale"].float() / files["weight_global_scale"]
    return (codes * scales.unsqueeze(-1)).reshape(rows, columns)


def scales_of(weight, args):
    """Scales, which bf16 holds, and zero points by the largest magnitude of what shares them."""
    if args.strategy == "tensor_group":
        global_scale = 448 * 6 / weight.abs().max()
        groups = weight.reshape(weight.shape[0], -1, 16).abs().amax(dim=-1)
        scale = (groups / 6 * global_scale).to(torch.float8_e4m3fn).float()
        return {"weight_scale": scale, "weight_global_scale": global_scale.reshape(1)}
    groups = weight if args.strategy in ("tensor", "channel") else weight.reshape(
        weight.shape[0], -1, args.group_size)
    if args.strategy == "tensor":
        return {"weight_scale": (weight.abs().max() / 448).bfloat16().float().reshape(1)}
    if args.type == "float":
        return {"weight_scale": (groups.abs().amax(dim=-1, keepdim=True) / 448).bfloat16().float()}
    if args.symmetric:
        largest = groups.abs().amax(dim=-1, keepdim=args.strategy == "channel")
        return {"weight_scale": (largest / (2**(args.num_bits - 1) - 0.5)).bfloat16().float()}
    low, high = groups.amin(dim=-1).clamp(max=0), groups.amax(dim=-1).clamp(min=0)
    scale = ((high - low) / (2**args.num_bits - 1)).bfloat16().float()
    half = 2**(args.num_bits - 1)
    zero = (torch.round(-low / scale) - half).clamp(-half, half - 1).to(torch.int8)
    return {"weight_scale": scale, "weight_zero_point": zero}


# ---- AWQ ----

def awq(group_size):
    """`lanes` is where each of eight neighbours goes: AWQ's order 0, 2, 4, 6, 1, 3, 5, 7 read the
    other way."""
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    lanes = [order.index(i) for i in range(8)]

    def quantize(weight):
        codes, scales, zeros = integers(weight.float(), 4, group_size, symmetric=False)
        files = {
            ".qweight": words(codes.T.contiguous(), 4, lanes),
            ".qzeros": words(zeros.T.contiguous(), 4, lanes),
            ".scales": scales.T.contiguous(),
        }
        numbers = awq_utils().dequantize_gemm(files[".qweight"], files[".qzeros"],
                                              files[".scales"].float(), 4, group_size)
        return files, numbers.T.contiguous()

    return quantize


def awq_utils():
    """The package's own __init__ needs versions that are long gone; this file needs torch alone."""
    root = pathlib.Path(importlib.util.find_spec("awq").submodule_search_locations[0])
    spec = importlib.util.spec_from_file_location("awq_packing", root / "utils" / "packing_utils.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- GPTQ ----

def integers(weight, bits, group_size, symmetric, groups=None):
    """Codes [rows, columns], scales [rows, groups] in fp16 and zero points; `groups` is each
    column's."""
    columns = weight.shape[1]
    width = columns if group_size == -1 else group_size
    groups = torch.arange(columns) // width if groups is None else groups
    count, most = int(groups.max()) + 1, 2**bits - 1
    low = torch.stack([weight[:, groups == g].amin(dim=1) for g in range(count)], dim=1).clamp(max=0)
    high = torch.stack([weight[:, groups == g].amax(dim=1) for g in range(count)], dim=1).clamp(min=0)
    if symmetric:
        scales = (2 * torch.maximum(-low, high) / most).half()
        zeros = torch.full_like(low, (most + 1) // 2)
    else:
        scales = ((high - low) / most).half()
        zeros = torch.round(-low / scales.float())
    codes = torch.round(weight / scales.float()[:, groups]) + zeros[:, groups]
    return codes.clamp(0, most).int(), scales, zeros.clamp(0, most).int()


def gptq(bits, group_size, symmetric, act_order=False, version=1):
    def quantize(weight):
        columns = weight.shape[1]
        width = columns if group_size == -1 else group_size
        groups = torch.arange(columns) // width
        if act_order:
            generator = torch.Generator().manual_seed(int(columns))
            groups = groups[torch.randperm(columns, generator=generator)]
        codes, scales, zeros = integers(weight.float(), bits, group_size, symmetric, groups)
        numbers = (codes - zeros[:, groups]) * scales.float()[:, groups]
        stored = (zeros - 1) & (2**bits - 1) if version == 1 else zeros
        return {
            ".qweight": words(codes, bits).T.contiguous(),
            ".qzeros": words(stored.T.contiguous(), bits),
            ".scales": scales.T.contiguous(),
            ".g_idx": groups.int(),
        }, numbers

    return quantize
