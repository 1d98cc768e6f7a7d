#!/usr/bin/env python3
"""moectl inspect on the recorded models, and on copies of them with one thing wrong. usage: test_models.py MOECTL GOLDEN_DIR"""
import json
import math
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

MOECTL, GOLDEN = sys.argv[1], pathlib.Path(sys.argv[2]) / 'families'


def moectl(*arguments):
    run = subprocess.run([MOECTL, *map(str, arguments)], capture_output=True, text=True,
                         timeout=300)
    return run.returncode, run.stdout, run.stderr


def no_device():
    return moectl('devices')[0] == 3


def read_file(path):
    """Tensors of a safetensors file: name to [dtype, shape, bytes]."""
    data = pathlib.Path(path).read_bytes()
    length = struct.unpack('<Q', data[:8])[0]
    header = json.loads(data[8:8 + length])
    header.pop('__metadata__', None)
    data = data[8 + length:]
    return {name: [t['dtype'], t['shape'], bytearray(data[slice(*t['data_offsets'])])]
            for name, t in header.items()}


class Models(unittest.TestCase):
    def setUp(self):
        self.work = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.work)

    def copy(self, name):
        return pathlib.Path(shutil.copytree(GOLDEN / name, self.work / name))

    def expect(self, code, pattern, *arguments):
        got, out, err = moectl(*arguments)
        self.assertEqual(got, code, out + err)
        self.assertRegex(out + err, pattern)
        return out, err

    def refused(self, pattern, *arguments):
        """Bad input: exit code 2 and one message."""
        _, err = self.expect(2, pattern, *arguments)
        self.assertEqual(err.count('moectl: '), 1 if 'could not be loaded' not in err else 2, err)

    # ---- inspect ----

    def test_inspect(self):
        folder = GOLDEN / 'deepseek_v3'
        out, _ = self.expect(0, 'deepseek_v3', 'inspect', folder)
        self.assertRegex(out, r'layers +2: 1 MoE, 1 dense')
        self.assertRegex(out, r'layer 0: dense, stored as BF16\n  hidden 32, intermediate 40, swiglu')
        self.assertRegex(out, r'layer 1: MoE, stored as BF16\n  hidden 32, 16 experts of '
                              r'intermediate 20, swiglu, shared expert of 20')
        self.assertRegex(out, r'router: top 4 of sigmoid, a correction bias, in 2 of 4 groups '
                              r'\(by top2_sum\), renormalized, times 2.5')

    def test_inspect_json(self):
        folder = GOLDEN / 'deepseek_v3'
        out, _ = self.expect(0, 'kinds', 'inspect', folder, '--json')
        found = json.loads(out)
        tensors = {}
        for shard in folder.glob('model-*.safetensors'):
            tensors.update(read_file(shard))
        total = sum(math.prod(t[1]) for t in tensors.values())
        experts = [math.prod(t[1]) for n, t in tensors.items() if '.mlp.experts.' in n]
        self.assertEqual(found['parameters'], total)
        self.assertEqual(found['active_parameters'], total - sum(experts) * 12 // 16)
        self.assertEqual(found['bytes'], sum(len(t[2]) for t in tensors.values()))
        dense, moe = found['kinds']
        self.assertEqual((dense['layers'], dense['moe']), ([0], False))
        self.assertEqual(dense['parameters'], 3 * 32 * 40)
        self.assertEqual((moe['layers'], moe['moe'], moe['stored_dtype']), ([1], True, 'BF16'))
        self.assertEqual(moe['params']['num_expert_group'], 4)
        self.assertEqual(moe['params']['scoring'], 'sigmoid')
        self.assertEqual(moe['parameters'], sum(experts) + 16 * 32 + 16 + 3 * 32 * 20)
        if found['device']:
            self.assertEqual(set(moe['memory']), {'fp32', 'fp16', 'bf16'})
            self.assertGreaterEqual(moe['memory']['fp32']['weight_bytes'], moe['parameters'] * 4)
            self.assertTrue(moe['memory']['fp32']['fits'])

    def test_inspect_groups_layers_that_are_alike(self):
        out, _ = self.expect(0, 'layers 0 to 1: MoE', 'inspect', GOLDEN / 'mixtral')
        self.assertEqual(out.count('\nlayer'), 1 + out.count('\nlayers  '))

    def test_inspect_refuses(self):
        folder = self.copy('mixtral')
        self.refused('nowhere/config.json: ', 'inspect', self.work / 'nowhere')
        (folder / 'model-00002-of-00002.safetensors').unlink()
        self.refused('model-00002-of-00002.safetensors', 'inspect', folder)
        config = json.loads((folder / 'config.json').read_text())
        (folder / 'config.json').write_text(json.dumps({**config, 'model_type': 'nonesuch'}))
        self.refused("'nonesuch'.*known are .*mixtral.*deepseek_v3", 'inspect', folder)
        self.refused('needs a model folder', 'inspect')

    def test_device_that_is_not_there(self):
        self.expect(3, 'could not be opened', 'inspect', GOLDEN / 'mixtral', '--device',
                    'nonesuch')


if __name__ == '__main__':
    unittest.main(argv=sys.argv[:1] + sys.argv[3:], verbosity=2)
