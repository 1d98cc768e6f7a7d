#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""moectl quantize: what it writes, computed once more here from the formats' definitions, and what
it refuses.
usage: test_quantize.py MOECTL GOLDEN_DIR"""
import json
import math
import struct
import sys
import unittest

from model_files import GOLDEN, ModelCase, read_file, write_file

E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
DOWN = 'model.layers.1.mlp.experts.down_proj'


def bf16(data):
    return [struct.unpack('<f', b'\0\0' + data[i:i + 2])[0] for i in range(0, len(data), 2)]


def fp16(tensor):
    """Its rows."""
    kind, (rows, columns), data = tensor
    assert kind == 'F16', kind
    flat = struct.unpack(f'<{rows * columns}e', data)
    return [flat[i * columns:(i + 1) * columns] for i in range(rows)]


def e2m1(x):
    """The nearest code, of two the even one."""
    code = min(range(8), key=lambda i: (abs(E2M1[i] - abs(x)), i % 2))
    return code | (8 if math.copysign(1, x) < 0 else 0)


def mxfp4(block):
    """The scale's byte and the codes of 32 numbers, by OCP's microscaling."""
    largest = max(map(abs, block))
    exponent = math.frexp(largest)[1] - 1 - 2 if largest else 0
    codes = [e2m1(x * 2.0 ** -exponent) for x in block]
    return exponent + 127, bytes(codes[i] | codes[i + 1] << 4 for i in range(0, 32, 2))


class Quantize(ModelCase):
    def quantize(self, source, *options):
        out = self.work / 'out'
        self.expect(0, 'matrices of experts', 'quantize', source, '--out', out, *options)
        return out, json.loads((out / 'config.json').read_text())['quantization_config']

    def test_gpt_oss(self):
        """All experts in one tensor, which is transposed: [E, I, H] becomes [E, H, I / 32, 16]."""
        folder = self.copy('gpt_oss-mxfp4')
        config = json.loads((folder / 'config.json').read_text())
        del config['quantization_config']
        (folder / 'config.json').write_text(json.dumps(config))
        source = read_file(folder / 'model.safetensors')
        for name in [n for n in source if n.endswith('_scales')]:
            experts, rows, blocks = source.pop(name)[1]
            source.pop(name.replace('_scales', '_blocks'))
            state, data = len(name), bytearray()
            for _ in range(experts * rows * blocks * 32):
                state = (state * 1664525 + 1013904223) % 2 ** 32
                data += struct.pack('<f', (state >> 8) / 2 ** 23 - 1)[2:]
            source[name.replace('_scales', '')] = ['BF16', [experts, blocks * 32, rows], data]
        write_file(folder / 'model.safetensors', source)
        out, config = self.quantize(folder, '--to', 'mxfp4')
        made = read_file(out / 'model.safetensors')
        self.assertEqual(config['quant_method'], 'mxfp4')
        self.assertIn('model.layers.0.mlp.router', config['modules_to_not_convert'])
        kind, (experts, inner, hidden), data = source[DOWN]
        self.assertEqual(kind, 'BF16')
        source_numbers = bf16(data)
        blocks, scales = made[DOWN + '_blocks'], made[DOWN + '_scales']
        self.assertEqual(blocks[:2], ['U8', [experts, hidden, inner // 32, 16]])
        self.assertEqual(scales[:2], ['U8', [experts, hidden, inner // 32]])
        for place in range(experts * hidden * (inner // 32)):
            row, block = divmod(place, inner // 32)
            expert, row = divmod(row, hidden)
            at = [(expert * inner + block * 32 + i) * hidden + row for i in range(32)]
            scale, codes = mxfp4([source_numbers[i] for i in at])
            self.assertEqual((scales[2][place], bytes(blocks[2][16 * place:16 * place + 16])),
                             (scale, codes))
        self.assertNotIn(DOWN, made)
        for name in source:
            if 'experts.down_proj' not in name and 'experts.gate_up_proj' not in name \
                    or name.endswith('bias'):
                self.assertEqual(source[name], made[name], name)
        self.expect(0, 'quantized: mxfp4, taken as mxfp4', 'inspect', out)

    def test_int8(self):
        """A scale a row, the codes plus 128 in words."""
        out, config = self.quantize(GOLDEN / 'qwen3_moe', '--to', 'int8')
        group = config['config_groups']['group_0']
        self.assertEqual((config['quant_method'], config['format']),
                         ('compressed-tensors', 'pack-quantized'))
        self.assertEqual((group['weights']['num_bits'], group['weights']['strategy']),
                         (8, 'channel'))
        self.assertIn(r're:model\.layers\.\d+\.mlp\.gate$', config['ignore'])
        source, made = (read_file(f / 'model.safetensors') for f in (GOLDEN / 'qwen3_moe', out))
        name = 'model.layers.1.mlp.experts.2.down_proj.weight'
        rows, columns = source[name][1]
        words = made[name + '_packed'][1][1] * 4
        self.assertEqual(made[name + '_packed'][:2], ['I32', [rows, -(-columns // 4)]])
        self.assertEqual(made[name + '_shape'][2], struct.pack('<2q', rows, columns))
        for row, values in enumerate(fp16(source[name])):
            scale, = struct.unpack('<f', struct.pack('<f', max(map(abs, values)) / 127))
            self.assertEqual(made[name + '_scale'][2][4 * row:4 * row + 4],
                             struct.pack('<f', scale))
            codes = bytes(round(x / scale) + 128 for x in values)
            self.assertEqual(made[name + '_packed'][2][words * row:words * row + columns], codes)

    def test_refused(self):
        source, out = GOLDEN / 'qwen3_moe', self.work / 'out'
        self.refused("--to: 'int5' is no format of weights; expected int8, ", 'quantize', source,
                     '--to', 'int5', '--out', out)
        self.refused('needs --to FORMAT: int8, ', 'quantize', source, '--out', out)
        self.refused('needs --out DIR', 'quantize', source, '--to', 'int8')
        self.refused("--scale-search: 'best' is none", 'quantize', source, '--to', 'int8', '--out',
                     out, '--scale-search', 'best')
        self.refused('has files in it', 'quantize', source, '--to', 'int8', '--out', source)
        self.refused("has all experts in it, which files of int8 weights cannot express",
                     'quantize', GOLDEN / 'gpt_oss', '--to', 'int8', '--out', out)
        self.refused('no multiple of 128', 'quantize', source, '--to', 'int4-g128', '--out', out)
        self.refused('quantized already', 'quantize', GOLDEN / 'gpt_oss-mxfp4', '--to', 'int8',
                     '--out', out)
        self.assertFalse(out.exists())


if __name__ == '__main__':
    unittest.main(argv=sys.argv[:1])
