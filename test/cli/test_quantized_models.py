#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""moectl inspect, verify and experiments on quantized models, and on copies with one thing wrong.
usage: test_quantized_models.py MOECTL GOLDEN_DIR"""
import json
import math
import struct
import sys
import unittest

from model_files import GOLDEN, ModelCase, no_device, read_file, write_file

MXFP4 = 'gpt_oss-mxfp4'
BLOCKS = 'model.layers.1.mlp.experts.down_proj_blocks'


class QuantizedModels(ModelCase):
    def changed(self, name, change, file='model.safetensors'):
        folder = self.copy(name)
        tensors = read_file(folder / file)
        change(tensors)
        write_file(folder / file, tensors)
        return folder

    def test_inspect(self):
        out, _ = self.expect(0, r'MoE, stored as U8\n  quantized: mxfp4, taken as mxfp4, 4\.25 bits a '
                             r'weight in all\n', 'inspect', GOLDEN / MXFP4)
        found = json.loads(self.expect(0, '', 'inspect', GOLDEN / MXFP4, '--json')[0])
        kind, = found['kinds']
        self.assertEqual((kind['quantization'], kind['params']['weight_format'], kind['bits_a_weight']),
                         ('mxfp4', 'mxfp4', 4.25))
        self.assertIsNone(kind['cannot_be_loaded'])
        if found['device']:
            self.assertRegex(out, r'(?m)^  mxfp4 +\d')
            tensors = read_file(GOLDEN / MXFP4 / 'model.safetensors')
            stored = sum(len(t[2]) for n, t in tensors.items()
                         if n.startswith('model.layers.1.mlp.experts.') and 'bias' not in n)
            held = kind['memory']['mxfp4']['weight_bytes']
            self.assertGreater(held, stored)
            self.assertLess(held, 3 * stored)  # of matrices so small, some variants' tiles are padding
            self.assertLess(2 * held, kind['memory']['bf16']['weight_bytes'])
            self.assertEqual(found['all_layers']['stored']['weight_bytes'], 2 * held)

    def test_inspect_says_what_is_not_as_stored(self):
        self.expect(0, r'act-order\): weights are dequantized', 'inspect', GOLDEN / 'qwen3_moe-gptq-act_order')
        self.expect(0, r"shared_experts.gate_proj.weight' as BF16: weights are dequantized", 'inspect',
                    GOLDEN / 'deepseek_v3-shared-bf16')
        self.expect(0, 'activation_scheme: activations are not quantized', 'inspect',
                    GOLDEN / 'deepseek_v3-fp8')

    def test_inspect_shows_what_cannot_be_loaded(self):
        folder = self.copy('qwen3_moe-gptq')
        config = json.loads((folder / 'config.json').read_text())
        config['quantization_config']['bits'] = 3
        (folder / 'config.json').write_text(json.dumps(config))
        self.expect(0, r"cannot be loaded: .*config.json: quantization_config: type 'int', bits 3, "
                    'group_size 32 is no weight format; those are int8, ', 'inspect', folder)
        self.refused('bits 3', 'verify', folder, '--layer', 1, '--io', folder / 'io.safetensors')

    @unittest.skipIf(no_device(), 'no OpenCL device')
    def test_verify(self):
        io = GOLDEN / MXFP4 / 'io.safetensors'
        self.expect(0, 'all tokens agree', 'verify', GOLDEN / MXFP4, '--layer', 1, '--io', io)
        _, err = self.expect(0, 'all tokens agree', 'verify', GOLDEN / 'qwen3_moe-gptq-act_order', '--layer', 1,
                             '--io', GOLDEN / 'qwen3_moe-gptq-act_order' / 'io.safetensors')
        self.assertRegex(err, r'warning: .*act-order')
        # One code of an expert that is chosen: another number.
        def flip(tensors):
            data = tensors[BLOCKS][2]
            for i in range(0, len(data), 16):
                data[i] ^= 0x05
        folder = self.changed(MXFP4, flip)
        self.expect(1, 'first mismatching token', 'verify', folder, '--layer', 1, '--io', io)

    def test_damaged(self):
        def verify(folder, pattern):
            self.refused(pattern, 'verify', folder, '--layer', 1, '--io', folder / 'io.safetensors')
        scales = BLOCKS.replace('blocks', 'scales')
        verify(self.changed(MXFP4, lambda t: t.pop(scales)), f"has no tensor '{scales}'")
        def reshape(tensors):
            tensors[BLOCKS][1] = [4, 64, 48]
        folder = self.work / MXFP4
        self.cleaned(folder)
        verify(self.changed(MXFP4, reshape), r'has shape \[4, 64, 48\], expected \[4, 64, 3, 16\]')
        self.cleaned(folder)
        data = (self.copy(MXFP4) / 'model.safetensors').read_bytes()
        (folder / 'model.safetensors').write_bytes(data[:-100])
        verify(folder, 'cut short')

    def cleaned(self, folder):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()

    @unittest.skipIf(no_device(), 'no OpenCL device')
    def test_numbers_that_are_none(self):
        def nan(tensors):
            tensors['model.layers.1.mlp.experts.2.up_proj.weight'][2][5 * 160 + 3] = 0xff
        folder = self.changed('deepseek_v3-fp8', nan)
        self.expect(2, r"experts.2.up_proj.weight': row 5, column 3 is NaN", 'verify', folder, '--layer', 1,
                    '--io', folder / 'io.safetensors')
        def huge(tensors):
            tensors[BLOCKS.replace('blocks', 'scales')][2][7] = 0xff
        folder = self.changed(MXFP4, huge)
        self.expect(2, r"down_proj_scales': expert 0, row 2, column 1 is not a finite number", 'verify', folder,
                    '--layer', 1, '--io', folder / 'io.safetensors')

    @unittest.skipIf(no_device(), 'no OpenCL device')
    def test_experiment(self):
        """The stored format without being asked for, and another that is."""
        folder = self.copy(MXFP4)
        path = self.work / 'experiment.yaml'
        for keys, format in (({}, 'mxfp4'), ({'weight_format': 'fp32'}, 'fp32')):
            path.write_text(json.dumps({
                'name': 'quantized', 'dtype': 'fp32', 'layer': {'checkpoint': MXFP4, 'layer': 1, **keys},
                'workload': {'num_tokens': 24, 'distribution': 'file', 'file': f'{MXFP4}/io.safetensors'},
                'measure': {'warmup': 0, 'iterations': 1}}))
            out = self.work / format
            self.expect(0, 'results: ', 'run', path, '--out', out, '--dump')
            point, = json.loads((out / 'results.json').read_text())['points']
            self.assertEqual(point['params']['weight_format'], format)
            tensors = [read_file(file)['output'][2] for file in (out / 'point-000.safetensors',
                                                                 folder / 'io.safetensors')]
            ours, theirs = (struct.unpack(f'<{24 * 64}f', data) for data in tensors)
            self.assertLess(math.dist(ours, theirs) / math.hypot(*theirs), 1e-5)


if __name__ == '__main__':
    unittest.main(argv=sys.argv[:1])
