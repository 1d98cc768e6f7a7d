#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Numbers near the ends of what fp32 holds, and a program cache with mixed up entries:
moectl's points verify all the same. usage: test_extremes.py MOECTL GOLDEN_DIR"""
import json
import math
import os
import random
import struct
import sys
import unittest
from unittest import mock

from model_files import ModelCase, no_device, numbers, put, read_file, tensor, write_file

SEED = 20261128
VARIANTS = ('auto', 'generic')


def to_f32(x):
    return struct.unpack('<f', struct.pack('<f', x))[0]


@unittest.skipIf(no_device(), 'no OpenCL device')
class Extremes(ModelCase):
    def point(self, *more, tokens=16, **workload):
        """Runs a small layer; its result, and its rows of output."""
        path, out = self.work / 'point.yaml', self.work / f'out{len(list(self.work.iterdir()))}'
        path.write_text(json.dumps({
            'name': 'extremes',
            'layer': {'hidden_size': 32, 'intermediate_size': 16, 'num_experts': 8, 'top_k': 2},
            'workload': {'num_tokens': tokens, **workload},
            'measure': {'warmup': 0, 'iterations': 1}}))
        _, err = self.expect(0, '', 'run', path, '--out', out, '--dump', *more)
        point = json.loads((out / 'results.json').read_text())['points'][0]
        self.assertEqual((point['status'], point['error']), ('ok', None))
        return numbers(read_file(out / 'point-000.safetensors')['output']), err

    def test_denormal_input(self):
        """Hidden states of 1e-42, which a device may take for 0: of the output too, which is
        of their third power, nothing is left."""
        draw = random.Random(SEED)
        rows = [[to_f32(1e-42 * draw.gauss(0, 1)) for _ in range(32)] for _ in range(16)]
        write_file(self.work / 'hidden.safetensors', {'hidden_states': tensor('F32', rows)})
        for variant in VARIANTS:
            with self.subTest(variant):
                output, _ = self.point('--set', f'layer.grouped_gemm_variant={variant}', '--set',
                                       f'layer.router.router_variant={variant}', distribution='file',
                                       file='hidden.safetensors')
                self.assertEqual({x for row in output for x in row}, {0})

    def test_tiny_scaling_factor(self):
        """Weights below the least normal number: the output is 1e-40 times the usual one, or
        0 where a device has no such numbers."""
        usual, _ = self.point()
        for variant in VARIANTS:
            with self.subTest(variant):
                output, err = self.point('--set', 'layer.router.routed_scaling_factor=1e-40', '--set',
                                         f'layer.grouped_gemm_variant={variant}', '--set',
                                         f'layer.router.router_variant={variant}')
                self.assertNotIn('self-check', err)
                for got, row in zip(output, usual):
                    for x, y in zip(got, row):
                        self.assertLess(min(abs(x - 1e-40 * y), abs(x)), 1e-43 + 1e-42 * abs(y))

    def test_mixed_up_cache(self):
        """Sound entries under each other's names: built anew, with a warning, and then right
        ones are there."""
        cache = self.work / 'cache'
        with mock.patch.dict(os.environ, MOECL_CACHE_DIR=str(cache)):
            usual, _ = self.point()
            entries = sorted(cache.glob('*.bin'))
            if not entries:
                self.skipTest('the driver gives no program binaries')
            self.assertGreater(len(entries), 2)
            binaries = [entry.read_bytes() for entry in entries]
            for entry, other in zip(entries, binaries[1:] + binaries[:1]):
                entry.write_bytes(other)
            output, err = self.point()
            self.assertIn('holds another program than its name says; building from source', err)
            self.assertEqual(output, usual)
            output, err = self.point()
            self.assertNotIn('holds another', err)
            self.assertEqual(output, usual)
            self.assertEqual(sorted(cache.glob('*.bin')), entries)

    def ernie(self):
        """ERNIE whose correction bias prefers experts 0 to 4, though a softmax over logits
        80 times as large leaves most of them nothing in fp32. Returns folder and recording;
        its weights are divided by at least 1e-12."""
        folder = self.copy('ernie4_5_moe')
        path = folder / 'model.safetensors'
        tensors = read_file(path)
        layer = 'model.layers.1.mlp.'
        gate = tensors[layer + 'gate.weight']
        rows = [[to_f32(80 * x) for x in row] for row in numbers(gate)]
        for i, x in enumerate(x for row in rows for x in row):
            put(gate, i, x)
        for e in range(8):
            put(tensors[layer + 'moe_statics.e_score_correction_bias'], e, 5 if e < 5 else 0)
        write_file(path, tensors)

        def network(name, row):
            """SwiGLU's three matrices."""
            parts = [numbers(tensors[f'{layer}{name}.{part}_proj.weight'])
                     for part in ('gate', 'up', 'down')]
            gate, up = ([sum(a * b for a, b in zip(line, row)) for line in part]
                        for part in parts[:2])
            inner = [g / (1 + math.exp(-g)) * u for g, u in zip(gate, up)]
            return [sum(a * b for a, b in zip(line, inner)) for line in parts[2]]

        io = {'hidden_states': numbers(read_file(folder / 'io.safetensors')['hidden_states'])}
        for name in ('router_logits', 'topk_ids', 'topk_weights', 'output'):
            io[name] = []
        for row in io['hidden_states']:
            logits = [to_f32(sum(a * b for a, b in zip(line, row))) for line in rows]
            terms = [to_f32(math.exp(x - max(logits))) for x in logits]
            scores = [to_f32(x / sum(terms)) for x in terms]
            ids = sorted(range(8), key=lambda e: (-to_f32(scores[e] + 5 * (e < 5)), e))[:3]
            total = max(sum(scores[e] for e in ids), 1e-12)
            weights = [scores[e] / total for e in ids]
            output = network('shared_experts', row)
            for expert, weight in zip(ids, weights):
                output = [a + weight * b for a, b in zip(output, network(f'experts.{expert}', row))]
            for name, values in (('router_logits', logits), ('topk_ids', ids),
                                 ('topk_weights', weights), ('output', output)):
                io[name].append(values)
        return folder, io

    def test_ernies_underflow(self):
        """Softmax shares that are all 0 in fp32 give weights of 0, not 0 / 0."""
        folder, io = self.ernie()
        empty = [t for t, row in enumerate(io['topk_weights']) if not any(row)]
        small = [t for t, row in enumerate(io['topk_weights']) if sum(row) < 0.99]
        self.assertGreater(len(empty), 0)
        self.assertGreater(len(small), len(empty))

        def verify(code, pattern):
            path = self.work / 'io.safetensors'
            write_file(path, {name: tensor('I32' if name == 'topk_ids' else 'F32', rows)
                              for name, rows in io.items()})
            return self.expect(code, pattern, 'verify', folder, '--layer', 1, '--io', path)[0]

        out = verify(0, 'tokens agree')
        self.assertRegex(out, r'(?m)^output .* 0$')
        # Shares of the three alone, as where nothing guards the sum, are something else.
        token = empty[0]
        logits = [io['router_logits'][token][e] for e in io['topk_ids'][token]]
        terms = [math.exp(x - max(logits)) for x in logits]
        io['topk_weights'][token] = [x / sum(terms) for x in terms]
        verify(1, rf'first mismatching token: {token} \(topk_weights\)')


if __name__ == '__main__':
    unittest.main(argv=sys.argv[:1] + sys.argv[3:], verbosity=2)
