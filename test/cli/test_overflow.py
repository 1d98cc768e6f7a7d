#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Numbers that do not fit a point's data type are told as that, and where they are.
usage: test_overflow.py MOECTL GOLDEN_DIR"""
import json
import math
import random
import re
import shutil
import struct
import sys
import unittest

from model_files import ModelCase, moectl, no_device, read_file, write_file

SEED = 20261128
TOKENS, HIDDEN = 24, 64
LARGEST = 65504
SAYS = (r"(\d+) of 24 tokens have outputs that are not finite: exact values are beyond 65504, the "
        r"largest of fp16 \(token (\d+): (.*)\)\. No mistake of the engine's, and yet not verified: "
        r"take bf16 or fp32, or smaller inputs or weights")


def rows_of(tensor):
    kind, shape, data = tensor
    flat = struct.unpack(f'<{len(data) // 2}e' if kind == 'F16' else f'<{len(data) // 4}f', data)
    return [flat[i:i + shape[-1]] for i in range(0, len(flat), shape[-1])]


@unittest.skipIf(no_device(), 'no OpenCL device')
class Overflow(ModelCase):
    def run_layer(self, scale_of, **layer):
        """Points in fp16 and fp32 with tokens `scale_of` times as long as usual; dumped."""
        draw = random.Random(SEED)
        values = [scale_of(t) * draw.gauss(0, 1) for t in range(TOKENS) for _ in range(HIDDEN)]
        write_file(self.work / 'hidden.safetensors',
                   {'hidden_states': ['F32', [TOKENS, HIDDEN],
                                      struct.pack(f'<{len(values)}f', *values)]})
        path = self.work / 'overflow.yaml'
        path.write_text(json.dumps({
            'name': 'overflow', 'dtype': ['fp16', 'fp32'],
            'layer': {'hidden_size': HIDDEN, 'intermediate_size': 48, 'num_experts': 8, 'top_k': 2,
                      **layer},
            'workload': {'num_tokens': TOKENS, 'distribution': 'file', 'file': 'hidden.safetensors'},
            'measure': {'warmup': 0, 'iterations': 1}}))
        out = self.work / 'out'
        shutil.rmtree(out, True)
        code, printed, err = moectl('run', path, '--out', out, '--dump')
        points = json.loads((out / 'results.json').read_text())['points']
        self.assertEqual(points[1]['status'], 'ok', err)
        return code, printed + err, points[0], [read_file(out / f'point-00{i}.safetensors')
                                                for i in range(2)]

    def check(self, scale_of, tensors, **layer):
        """fp16 overflows in `tensors`; returns the token's parts of the message."""
        code, printed, point, dumps = self.run_layer(scale_of, **layer)
        self.assertEqual((code, point['status']), (1, 'verify_failed'))
        said = re.fullmatch(SAYS, point['error'])
        self.assertTrue(said, point['error'])
        self.assertIn(point['error'], printed)
        self.assertIn(point['error'], (self.work / 'out' / 'report.md').read_text())
        output = rows_of(dumps[0]['output'])
        wrong = [t for t in range(TOKENS) if not all(map(math.isfinite, output[t]))]
        self.assertEqual((int(said[1]), int(said[2])), (len(wrong), wrong[0]))
        parts = dict(re.fullmatch(r'(.*) (\S+)', part).groups() for part in said[3].split(', '))
        ids = struct.unpack_from('<2i', dumps[0]['topk_ids'][2], 8 * wrong[0])
        for name, value in parts.items():
            self.assertGreater(float(value), LARGEST)
            expert = re.match(r"expert (\d+)'s ", name)
            self.assertTrue(not expert or int(expert[1]) in ids, name)
        # Tensor cores' variants may keep experts' outputs as fp16, all others do as fp32.
        if not point['variants']['grouped_gemm'].startswith('nvidia_sm'):
            tensors = tensors - {"expert's output", "the shared expert's output"}
        self.assertEqual({re.sub(r'expert \d+', 'expert', name) for name in parts}, tensors)
        # fp32's output has other rounding of the weights, and no infinity.
        exact = max(map(abs, rows_of(dumps[1]['output'])[wrong[0]]))
        if "the token's output" in parts:
            self.assertLess(abs(float(parts["the token's output"]) - exact), 0.02 * exact)
        return wrong

    def test_everywhere(self):
        for variant in ('generic', 'auto'):
            with self.subTest(variant):
                wrong = self.check(lambda t: 1000, {"expert's intermediate", "expert's output",
                                                    "the token's output"}, variant=variant)
                self.assertEqual(len(wrong), TOKENS)

    def test_one_token(self):
        wrong = self.check(lambda t: 1000 if t == 7 else 1,
                           {"expert's intermediate", "expert's output", "the token's output"})
        self.assertEqual(wrong, [7])

    def test_shared_expert(self):
        self.check(lambda t: 1000, {"expert's intermediate", "expert's output",
                                    "the shared expert's intermediate",
                                    "the shared expert's output", "the token's output"},
                   shared={'intermediate_size': 32})

    def test_weighted_input(self):
        """Only the weights are large: they make the expert's input so."""
        self.check(lambda t: 10, {"expert's input", "expert's intermediate", "expert's output",
                                  "the token's output"}, activation='relu',
                   router={'weight_on_input': True, 'scaling_factor': 100000})

    def test_between_the_matrices(self):
        """Outputs fit, what stands between is too large for those variants that store it."""
        layer = {'variant': 'generic', 'router': {'scaling_factor': 0.001}}
        if self.run_layer(lambda t: 1000, **layer)[2]['status'] != 'ok':
            self.check(lambda t: 1000, {"expert's intermediate", "expert's output"}, **layer)

    def test_nothing_overflows(self):
        code, _, point, _ = self.run_layer(lambda t: 10)
        self.assertEqual((code, point['status'], point['error']), (0, 'ok', None))


if __name__ == '__main__':
    unittest.main(argv=sys.argv[:1] + sys.argv[3:], verbosity=2)
