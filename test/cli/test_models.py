#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""moectl inspect and verify on the recorded models, on copies of them with one thing
wrong, and experiments on a checkpoint's layer. usage: test_models.py MOECTL GOLDEN_DIR"""
import json
import math
import os
import re
import shutil
import struct
import sys
import unittest

from model_files import GOLDEN, ModelCase, moectl, no_device, put, read_file, write_file


class Models(ModelCase):
    # ---- inspect ----

    def test_inspect(self):
        folder = GOLDEN / 'deepseek_v3'
        out, _ = self.expect(0, 'deepseek_v3', 'inspect', folder)
        self.assertRegex(out, r'layers +2: 1 MoE, 1 dense')
        self.assertRegex(out, r'parameters +37\.6 thousand in all, 14 thousand active per token, '
                              r'528 in next-token-prediction layers')
        self.assertRegex(out, r'layer 0 \(model.layers.0.\): dense, stored as BF16\n  hidden 32, '
                              r'intermediate 40, swiglu')
        self.assertRegex(out, r'layer 1 \(model.layers.1.\): MoE, stored as BF16\n  hidden 32, 16 '
                              r'experts of intermediate 20, swiglu, shared expert of 20\n'
                              r'  parameters: 33.2 thousand, 10.1 thousand active per token')
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
        behind = sum(math.prod(t[1]) for n, t in tensors.items() if n.startswith('model.layers.2.'))
        self.assertEqual(found['extra_parameters'], behind)
        self.assertEqual(found['active_parameters'], total - behind - sum(experts) * 12 // 16)
        self.assertEqual(found['bytes'], sum(len(t[2]) for t in tensors.values()))
        dense, moe = found['kinds']
        self.assertEqual((dense['layers'], dense['moe']), ([0], False))
        self.assertEqual(dense['parameters'], 3 * 32 * 40)
        self.assertEqual((moe['layers'], moe['moe'], moe['stored_dtype']), ([1], True, 'BF16'))
        self.assertEqual(moe['params']['num_expert_group'], 4)
        self.assertEqual(moe['params']['scoring'], 'sigmoid')
        self.assertEqual(moe['params']['routed_scaling_factor'], 2.5)
        self.assertEqual(moe['params']['swiglu_limit'], 7)
        self.assertEqual(moe['active_parameters'], moe['parameters'] - sum(experts) * 12 // 16)
        self.assertIsNone(moe['cannot_be_loaded'])
        self.assertEqual(moe['parameters'], sum(experts) + 16 * 32 + 16 + 3 * 32 * 20)
        if found['device']:
            self.assertEqual(set(moe['memory']), {'fp32', 'fp16', 'bf16'})
            self.assertGreaterEqual(moe['memory']['fp32']['weight_bytes'], moe['parameters'] * 4)
            self.assertTrue(moe['memory']['fp32']['fits'])
            self.assertEqual(found['all_layers']['bf16']['weight_bytes'],
                             sum(kind['memory']['bf16']['weight_bytes'] for kind in (dense, moe)))

    def test_inspect_groups_layers_that_are_alike(self):
        out, _ = self.expect(0, r'layers 0 to 1 \(the first is model.layers.0.\): MoE', 'inspect',
                             GOLDEN / 'mixtral')
        self.assertEqual(len(re.findall(r'^layers? \d', out, re.M)), 1)
        # Layers of another stored type are of another kind, uneven ones are listed.
        folder = self.sized(num_hidden_layers=6, types={1: 'F16', 4: 'F16', 5: 'F16'})
        out, _ = self.expect(0, r'(?m)^layers 0,2,3 .*BF16', 'inspect', folder)
        self.assertRegex(out, r'(?m)^layers 1,4,5 .*F16')

    def sized(self, num_hidden_layers=1, types=(), tensor=None, **sizes):
        """A Mixtral whose tensors are holes in a file."""
        config = json.loads((GOLDEN / 'mixtral' / 'config.json').read_text())
        config.update(num_hidden_layers=num_hidden_layers, **sizes)
        hidden, inner = config['hidden_size'], config['intermediate_size']
        shapes = {'lm_head.weight': ([7, hidden], 'BF16')}
        for layer in range(num_hidden_layers):
            start = f'model.layers.{layer}.block_sparse_moe.'
            kind = dict(types).get(layer, 'BF16')
            shapes[start + 'gate.weight'] = ([config['num_local_experts'], hidden], kind)
            for expert in range(config['num_local_experts']):
                for name in ('w1', 'w2', 'w3'):
                    shapes[f'{start}experts.{expert}.{name}.weight'] = (
                        [hidden, inner] if name == 'w2' else [inner, hidden], kind)
        shapes.update(tensor or {})
        header, at = {}, 0
        for name, (shape, kind) in shapes.items():
            size = math.prod(shape) * {'BF16': 4, 'F16': 4, 'F4': 1}.get(kind, 2) // 2
            header[name] = {'dtype': kind, 'shape': shape, 'data_offsets': [at, at + size]}
            at += size
        folder = self.work / 'sized'
        shutil.rmtree(folder, True)
        folder.mkdir()
        (folder / 'config.json').write_text(json.dumps(config))
        text = json.dumps(header).encode()
        with open(folder / 'model.safetensors', 'wb') as file:
            file.write(struct.pack('<Q', len(text)) + text)
            file.truncate(8 + len(text) + at)
        return folder

    def test_inspect_counts_a_large_one(self):
        """Mixtral 8x7B's layers: 1.4 billion parameters each, two experts' of them active per token."""
        folder = self.sized(32, hidden_size=4096, intermediate_size=14336, num_local_experts=8,
                            num_experts_per_tok=2)
        found = json.loads(self.expect(0, '', 'inspect', folder, '--json')[0])
        expert = 3 * 4096 * 14336
        self.assertEqual(found['parameters'], 7 * 4096 + 32 * (8 * 4096 + 8 * expert))
        self.assertEqual(found['active_parameters'], 7 * 4096 + 32 * (8 * 4096 + 2 * expert))
        if found['device']:
            memory, = (kind['memory']['bf16'] for kind in found['kinds'])
            weights, fits = found['all_layers']['bf16']['weight_bytes'], memory['all_fit']
            self.assertEqual(weights, 32 * memory['weight_bytes'])
            self.assertGreaterEqual(weights, 2 * 32 * (8 * 4096 + 8 * expert))
            self.assertEqual(found['all_layers']['bf16']['fits'], fits)
            if fits:
                self.assertGreaterEqual(found['device']['global_memory_bytes'], weights)
        # No device holds experts of a terabyte.
        folder = self.sized(1, hidden_size=1 << 20, intermediate_size=1 << 18)
        found = json.loads(self.expect(0, '', 'inspect', folder, '--json')[0])
        if found['device']:
            self.assertFalse(found['kinds'][0]['memory']['fp32']['fits'])
            self.assertFalse(found['all_layers']['fp32']['fits'])

    def test_inspect_shows_what_cannot_be_loaded(self):
        folder = self.sized(1, types={0: 'F8_E4M3'})
        out, _ = self.expect(0, r"cannot be loaded: .*gate.weight' is of type F8_E4M3", 'inspect',
                             folder)
        self.assertRegex(out, r'parameters +\d')
        # Packed experts under other names, as OpenAI's gpt-oss has them.
        folder = self.sized(1, tensor={'model.layers.0.packed': ([1 << 20], 'U8')})
        out, _ = self.expect(0, 'parameters +not known: tensors are packed', 'inspect', folder)
        self.assertIsNone(json.loads(moectl('inspect', folder, '--json')[1])['active_parameters'])

    def test_inspect_shows_packed_experts(self):
        """Two elements a byte under the usual names, with their scales (NVFP4; int4 alike)."""
        for kind in ('U8', 'F4', 'I8'):
            with self.subTest(kind):
                packed = {f'model.layers.0.block_sparse_moe.experts.{e}.{w}.weight': (shape, kind)
                          for e in range(6) for w, shape in (('w1', [20, 24]), ('w2', [48, 10]),
                                                             ('w3', [20, 24]))}
                scales = {name + '_scale': ([2], 'F8_E4M3') for name in packed}
                folder = self.sized(1, tensor={**packed, **scales}, intermediate_size=20)
                out, _ = self.expect(0, rf"cannot be loaded: .*w1.weight' is of type {kind}, expected",
                                     'inspect', folder)
                self.assertRegex(out, rf'MoE, stored as {kind}\n')
                self.assertRegex(out, 'hidden 48, 6 experts of intermediate 20')

    def test_inspect_tells_layers_apart_that_cannot_be_loaded(self):
        extra = 'model.layers.1.block_sparse_moe.gate.bias'
        folder = self.sized(3, tensor={extra: ([6], 'BF16')})
        found = json.loads(self.expect(0, '', 'inspect', folder, '--json')[0])
        self.assertEqual([kind['layers'] for kind in found['kinds']], [[0, 2], [1]])
        self.assertIsNone(found['kinds'][0]['cannot_be_loaded'])
        self.assertIn(extra, found['kinds'][1]['cannot_be_loaded'])
        out, _ = self.expect(0, rf'layer 1 .*\n  cannot be loaded: .*{extra}', 'inspect', folder)
        if found['device']:
            self.assertEqual(len(re.findall(r'^  memory +weights +workspace +fits  all 2 layers fit$', out, re.M)), 1)
            self.assertEqual(len(re.findall(r'^  one of these sizes +weights +workspace +fits$', out,
                                            re.M)), 1)
            self.assertEqual(len(re.findall(r'^  fp32( +[0-9.]+ [KMG]iB){2}( +(yes|no))+$', out, re.M)), 2)

    def test_inspect_refuses_a_shard_that_is_cut_short(self):
        """Be its tensors' names known or not."""
        folder = self.work / 'cut'
        folder.mkdir()
        shutil.copy(GOLDEN / 'mixtral' / 'config.json', folder)
        for name in ('model.layers.0.block_sparse_moe.gate.weight', 'model.layers.0.packed'):
            write_file(folder / 'a.safetensors', {name: ['F32', [6, 48], bytes(1152)]})
            (folder / 'model.safetensors.index.json').write_text(
                json.dumps({'weight_map': {name: 'a.safetensors'}}))
            self.expect(0, r'stored as \(tensors of other names\)', 'inspect', folder)
            os.truncate(folder / 'a.safetensors', (folder / 'a.safetensors').stat().st_size - 4)
            self.refused('a.safetensors: .*cut short', 'inspect', folder)

    def test_inspect_refuses_what_contradicts(self):
        gate = 'model.layers.0.block_sparse_moe.gate.weight'
        folder = self.sized(1, tensor={gate: ([48, 6], 'BF16')})
        self.refused(rf"'{gate}' has shape \[48, 6\], expected \[6, 48\]", 'inspect', folder)
        folder = self.sized(1)
        config = json.loads((folder / 'config.json').read_text())
        (folder / 'config.json').write_text(json.dumps({**config, 'num_local_experts': 7}))
        self.refused('shape', 'inspect', folder)
        self.refused('no folder is named', 'inspect', '')

    def test_inspect_refuses(self):
        folder = self.copy('mixtral')
        self.refused('nowhere/config.json: ', 'inspect', self.work / 'nowhere')
        (folder / 'model-00002-of-00002.safetensors').unlink()
        self.refused('model-00002-of-00002.safetensors', 'inspect', folder)
        config = json.loads((folder / 'config.json').read_text())
        (folder / 'config.json').write_text(json.dumps({**config, 'model_type': 'nonesuch'}))
        self.refused("'nonesuch'.*known are .*mixtral.*deepseek_v3", 'inspect', folder)
        self.refused('needs a model folder', 'inspect')

    # ---- verify ----

    def verify(self, code, pattern, folder, io, *more, layer=1):
        return self.expect(code, pattern, 'verify', folder, '--layer', layer, '--io', io, *more)

    def changed_io(self, name, **changes):
        """A copy of the recording with elements changed: tensor=[(index, value), ...]."""
        tensors = read_file(GOLDEN / name / 'io.safetensors')
        for tensor, elements in changes.items():
            for index, value in elements:
                put(tensors[tensor], index, value)
        path = self.work / 'io.safetensors'
        write_file(path, tensors)
        return path

    @unittest.skipIf(no_device(), 'no OpenCL device')
    def test_verify_agrees(self):
        folder = GOLDEN / 'deepseek_v3'
        out, _ = self.verify(0, 'all tokens agree', folder, folder / 'io.safetensors')
        for name in ('router_logits', 'topk_ids', 'topk_weights', 'output'):
            self.assertRegex(out, rf'(?m)^{name} .* 0$')
        self.verify(0, 'bf16, 24 tokens', folder, folder / 'io-bf16.safetensors')
        self.verify(0, 'bf16, 24 tokens', folder, folder / 'io.safetensors', '--dtype', 'bf16')

    @unittest.skipIf(no_device(), 'no OpenCL device')
    def test_verify_encoder_and_decoder(self):
        """Dropped choices weigh nothing; the decoder's layers come after the encoder's."""
        folder = GOLDEN / 'switch_transformers'
        self.verify(0, r'layer 1 \(encoder', folder,
                    folder / 'io.safetensors')
        self.verify(0, r'layer 3 \(decoder', folder, folder / 'io-decoder.safetensors', layer=3)

    @unittest.skipIf(no_device(), 'no OpenCL device')
    def test_verify_names_the_first_token(self):
        folder = GOLDEN / 'mixtral'
        io = self.changed_io('mixtral', output=[(7 * 48 + 3, 9.0), (9 * 48, 9.0)])
        out, _ = self.verify(1, r'first mismatching token: 7 \(output\)', folder, io)
        self.assertRegex(out, r'output .* 2  <-')
        ids = read_file(io)['topk_ids'][2]
        other = next(e for e in range(6) if e not in struct.unpack_from('<2i', ids, 4 * 2 * 5))
        io = self.changed_io('mixtral', topk_ids=[(5 * 2, other)])
        self.verify(1, r'first mismatching token: 5 \(topk_ids\)', folder, io)
        io = self.changed_io('mixtral', topk_weights=[(4 * 2, 0.9)])
        self.verify(1, r'first mismatching token: 4 \(topk_weights\)', folder, io)
        io = self.changed_io('mixtral', router_logits=[(3 * 6, 9.0)])
        self.verify(1, r'first mismatching token: 3 \(router_logits\)', folder, io)
        # Another layer is another function.
        self.verify(1, 'first mismatching token: ', folder, folder / 'io.safetensors', layer=0)

    @unittest.skipIf(no_device(), 'no OpenCL device')
    def test_verify_adds_up(self):
        """Rows of which none is far off for itself may be so together."""
        _, shape, data = read_file(GOLDEN / 'mixtral' / 'io.safetensors')['output']
        rows = [struct.unpack_from(f'<{shape[1]}f', data, 4 * shape[1] * t) for t in range(shape[0])]
        lengths = [math.hypot(*row) for row in rows]
        usual = sorted(lengths)[shape[0] // 2]
        largest = [max(range(shape[1]), key=lambda i: abs(row[i])) for row in rows]
        for share, code in ((0.5, 0), (0.99, 1)):
            changes = [(shape[1] * t + i, rows[t][i] + share * 1e-5 * max(usual, lengths[t]))
                       for t, i in enumerate(largest)]
            io = self.changed_io('mixtral', output=changes)
            self.verify(code, r'output .* 1  <-' if code else 'all tokens agree', GOLDEN / 'mixtral', io)

    @unittest.skipIf(no_device(), 'no OpenCL device')
    def test_verify_lets_ties_differ(self):
        """An expert that comes last among the chosen gets a twin of a higher number: the
        two tie, and who recorded may have taken the twin."""
        folder = self.copy('olmoe')
        tensors = read_file(folder / 'model.safetensors')
        io = read_file(GOLDEN / 'olmoe' / 'io.safetensors')
        last = struct.unpack_from('<i', io['topk_ids'][2], 4 * 3)[0] # of token 0
        chosen = struct.unpack_from('<4i', io['topk_ids'][2], 0)
        twin = next(e for e in range(15, -1, -1) if e not in chosen)
        self.assertLess(last, twin)
        gate = tensors['model.layers.1.mlp.gate.weight'][2]
        gate[128 * twin:128 * (twin + 1)] = gate[128 * last:128 * (last + 1)]
        write_file(folder / 'model.safetensors', tensors)
        other = next(t for t in range(24) # that neither of the two serves
                     if not {last, twin} & set(struct.unpack_from('<4i', io['topk_ids'][2], 16 * t)))
        for width, name in ((32, 'hidden_states'), (4, 'topk_ids'), (4, 'topk_weights'),
                            (32, 'output')):
            data = io[name][2]
            io[name][1:] = [2, width], (data[:4 * width] +
                                        data[4 * width * other:4 * width * (other + 1)])
        put(io['topk_ids'], 3, twin)
        logits = io.pop('router_logits')[2]
        del io['topk_weights']
        path = self.work / 'ties.safetensors'
        # The twin's new logit is in every token's softmax: outputs are not as recorded.
        write_file(path, {name: io[name] for name in ('hidden_states', 'topk_ids')})
        out, _ = self.verify(0, '1 token has other experts at a tie', folder, path)
        self.assertIn('all other tokens agree', out)
        alone = {name: [kind, [1, shape[1]], data[:len(data) // 2]]
                 for name, (kind, shape, data) in io.items()}
        write_file(self.work / 'alone.safetensors', alone)
        # The twin's own weights are another expert's.
        self.verify(1, r'first mismatching token: 0 \(output\)', folder,
                    self.work / 'alone.safetensors')
        # Of what is no tie nothing may differ: an expert that wins, one that loses.
        logits = struct.unpack_from('<16f', logits)
        loser = min(range(16), key=lambda e: logits[e])
        for third, fourth in ((loser, twin), (chosen[2], loser), (last, twin)):
            put(io['topk_ids'], 2, third)
            put(io['topk_ids'], 3, fourth)
            write_file(path, io)
            self.verify(1, r'first mismatching token: 0 \(topk_ids\)', folder, path)

    @unittest.skipIf(no_device(), 'no OpenCL device')
    def test_verify_holds_each_token(self):
        """One token a thousand times as long as the others hides none of them."""
        io = read_file(GOLDEN / 'mixtral' / 'io.safetensors')
        rows = list(struct.unpack('<1152f', io['output'][2]))
        changes = [(i, 1000 * rows[i]) for i in range(48)] + [(48 * 5 + i, -rows[48 * 5 + i])
                                                              for i in range(48)]
        path = self.changed_io('mixtral', output=changes)
        self.verify(1, r'output .* 2  <-', GOLDEN / 'mixtral', path)
        # Ids that repeat, or are none, are no choice.
        for value, pattern in ((struct.unpack_from('<i', io['topk_ids'][2], 24)[0], 'token 3 has . twice'),
                               (6, 'token 3 has 6')):
            path = self.changed_io('mixtral', topk_ids=[(7, value)])
            self.refused(pattern, 'verify', GOLDEN / 'mixtral', '--layer', 1, '--io', path)
        fractional = read_file(GOLDEN / 'mixtral' / 'io.safetensors')
        ids = struct.unpack('<48i', fractional['topk_ids'][2])
        fractional['topk_ids'] = ['F32', [24, 2], struct.pack('<48f', ids[0] + 0.5, *ids[1:])]
        write_file(path, fractional)
        self.refused('token 0 has [0-5].5', 'verify', GOLDEN / 'mixtral', '--layer', 1, '--io', path)

    @unittest.skipIf(no_device(), 'no OpenCL device')
    def test_verify_survives_overflow(self):
        """Numbers whose squares overflow are far off all the same."""
        io = read_file(GOLDEN / 'mixtral' / 'io.safetensors')
        rows = struct.unpack('<1152f', io['output'][2])
        for count in (48, 1152):
            values = [1e200] * count + list(rows[count:])
            path = self.work / 'huge.safetensors'
            write_file(path, {**io, 'output': ['F64', [24, 48], struct.pack('<1152d', *values)]})
            self.verify(1, r'first mismatching token: 0 \(output\)', GOLDEN / 'mixtral', path)

    @unittest.skipIf(no_device(), 'no OpenCL device')
    def test_verify_bf16_has_limits(self):
        folder = GOLDEN / 'deepseek_v3'
        io = read_file(folder / 'io-bf16.safetensors')
        kind, shape, data = io['output']
        row = [struct.unpack('<f', b'\0\0' + data[2 * i:2 * i + 2])[0] for i in range(shape[1])]
        for i, value in enumerate(row): # of token 0, 5 % off
            data[2 * i:2 * i + 2] = struct.pack('<f', 1.05 * value)[2:]
        path = self.work / 'bf16.safetensors'
        write_file(path, io)
        self.verify(1, r'first mismatching token: 0 \(output\)', folder, path)

    @unittest.skipIf(no_device(), 'no OpenCL device')
    def test_verify_refuses_weights(self):
        for name, value in (('nan', 0x7fc00000), ('infinity', 0x7f800000)):
            with self.subTest(name):
                folder = self.copy('olmoe')
                self.addCleanup(shutil.rmtree, folder, True)
                tensors = read_file(folder / 'model.safetensors')
                tensor = tensors['model.layers.1.mlp.experts.3.up_proj.weight']
                struct.pack_into('<I', tensor[2], 4 * (5 * 32 + 7), value)
                write_file(folder / 'model.safetensors', tensors)
                self.verify(2, r"tensor 'model.layers.1.mlp.experts.3.up_proj.weight': element 167 ",
                            folder, folder / 'io.safetensors')
                shutil.rmtree(folder)

    def test_verify_refuses_recordings(self):
        folder = GOLDEN / 'mixtral'
        good = folder / 'io.safetensors'
        cases = {
            'no tensor .hidden_states': {'output': ['F32', [1, 48], bytes(192)]},
            'nothing to compare': {'hidden_states': ['F32', [1, 48], bytes(192)]},
            r"'hidden_states': expected the shape \[num_tokens, 48\]":
                {'hidden_states': ['F32', [2, 47], bytes(376)],
                 'output': ['F32', [2, 47], bytes(376)]},
            r"'output': expected the shape \[2, 48\]":
                {'hidden_states': ['F32', [2, 48], bytes(384)],
                 'output': ['F32', [1, 48], bytes(192)]},
            "'topk_ids': token 1 has 6, expected":
                {'hidden_states': ['F32', [2, 48], bytes(384)],
                 'topk_ids': ['I32', [2, 2], struct.pack('<4i', 0, 1, 6, 2)]},
            "'hidden_states': token 1 has a number that is not finite":
                {'hidden_states': ['F32', [2, 48], bytes(192) + struct.pack('<f', math.nan) +
                                   bytes(188)],
                 'output': ['F32', [2, 48], bytes(384)]},
            'has no tokens': {'hidden_states': ['F32', [0, 48], b''],
                              'output': ['F32', [0, 48], b'']},
        }
        path = self.work / 'bad.safetensors'
        for pattern, tensors in cases.items():
            with self.subTest(pattern):
                write_file(path, tensors)
                self.refused(pattern, 'verify', folder, '--layer', 1, '--io', path)
        path.write_bytes(good.read_bytes()[:500])
        self.refused('bad.safetensors', 'verify', folder, '--layer', 1, '--io', path)
        self.refused("--layer: '2', expected 0 to 1", 'verify', folder, '--layer', 2, '--io', good)
        self.refused("--layer: 'x'", 'verify', folder, '--layer', 'x', '--io', good)
        self.refused("--dtype: 'f8'", 'verify', folder, '--layer', 1, '--io', good, '--dtype',
                     'f8')
        self.refused("--dtype: 'bfloat16', expected fp32, fp16 or bf16; did you mean 'bf16'?",
                     'verify', folder, '--layer', 1, '--io', good, '--dtype', 'bfloat16')
        self.refused("'moectl verify' needs --io FILE, a recording; see", 'verify', folder, '--layer',
                     1)
        self.refused("'moectl verify' needs --layer N, one of the folder's; see", 'verify', folder,
                     '--io', good)
        self.refused("'moectl verify' needs --layer N, one of the folder's, and --io FILE, a "
                     'recording; see', 'verify', folder)
        path = path.with_name('hidden.npy')
        path.write_bytes(b'\x93NUMPY\x01\x00v\x00')
        self.refused('hidden.npy: is a .npy file, which holds one tensor; expected a safetensors file '
                     "with 'hidden_states' and what to compare",
                     'verify', folder, '--layer', 1, '--io', path)

    def test_workload_refuses_files(self):
        path = self.experiment('mixtral', layer_keys={'num_experts': [6, 8]})
        _, err = self.expect(2, "layer.num_experts: the checkpoint's layer has 6", 'check', path)
        io = GOLDEN / 'mixtral' / 'io.safetensors'
        path = self.experiment('mixtral')
        file = ('--set', 'workload.distribution=file', '--set')
        self.refused('workload.file: .* has 24 tokens, the experiment asks for 25', 'run', path, *file,
                     f'workload.file={io}', '--set', 'workload.num_tokens=25', '--out', self.work / 'no')
        pipe = self.work / 'pipe'
        os.mkfifo(pipe)
        self.refused('pipe: is not a regular file', 'run', path, *file, f'workload.file={pipe}',
                     '--out', self.work / 'no')

    def test_checkpoint_refuses_values(self):
        for value in ('[a, b]', '""'):
            with self.subTest(value):
                path = self.experiment('mixtral')
                path.write_text(path.read_text().replace('"checkpoint": "mixtral"',
                                                         f'"checkpoint": {value}'))
                err = moectl('check', path)[2]
                self.assertEqual(err.count('\n'), 1, err)
                self.assertIn('layer.checkpoint: ', err)

    # ---- experiments ----

    def experiment(self, name, layer=1, **more):
        """A file beside a copy of the model, which it names relative to itself."""
        if not (self.work / name).exists():
            self.copy(name)
        path = self.work / 'experiment.yaml'
        path.write_text(json.dumps({
            'name': 'checkpoint',
            'layer': {'checkpoint': name, 'layer': layer, **more.pop('layer_keys', {})},
            'workload': {'num_tokens': 24, 'distribution': 'file',
                         'file': f'{name}/io.safetensors'},
            'measure': {'warmup': 0, 'iterations': 1}, **more}))
        return path

    @unittest.skipIf(no_device(), 'no OpenCL device')
    def test_experiment_computes_the_recorded_output(self):
        for name in ('deepseek_v3', 'gpt_oss'):
            path = self.experiment(name, dtype='fp32')
            self.expect(0, 'results: ', 'run', path, '--out', self.work / name / 'out', '--dump')
            dumped = read_file(self.work / name / 'out' / 'point-000.safetensors')
            recorded = read_file(GOLDEN / name / 'io.safetensors')
            ours, theirs = (struct.unpack('<768f', t['output'][2]) for t in (dumped, recorded))
            off = math.dist(ours, theirs) / math.hypot(*theirs)
            self.assertLess(off, 1e-5, name)

    @unittest.skipIf(no_device(), 'no OpenCL device')
    def test_experiment_with_a_share_of_the_tokens(self):
        """NLLB-MoE's capacity, a quarter of 24 tokens, and one that is asked for beside it."""
        path = self.experiment('nllb_moe', layer_keys={'capacity': {'factor': [0.25, 0.07]}})
        self.expect(0, 'results: ', 'run', path, '--out', self.work / 'out')
        points = json.loads((self.work / 'out' / 'results.json').read_text())['points']
        self.assertEqual([p['params']['capacity_of_tokens'] for p in points], [True] * 2)
        self.assertEqual([p['routing']['capacity'] for p in points], [6, 2])

    @unittest.skipIf(no_device(), 'no OpenCL device')
    def test_experiment_of_what_was_recorded(self):
        """A sweep, in the stored data type; its results.json's experiment is one again."""
        path = self.experiment('mixtral', layer_keys={'top_k': [1, 2]})
        self.expect(0, 'results: ', 'run', path, '--out', self.work / 'out')
        results = json.loads((self.work / 'out' / 'results.json').read_text())
        self.assertEqual([p['params']['top_k'] for p in results['points']], [1, 2])
        self.assertEqual([p['params']['dtype'] for p in results['points']], ['bf16'] * 2)
        self.assertEqual([p['params']['hidden_size'] for p in results['points']], [48] * 2)
        again = results['experiment']
        again.pop('sweep')
        path.write_text(json.dumps(again))
        self.expect(0, '2 points', 'check', path)

    def test_experiment_refuses(self):
        path = self.experiment('mixtral')
        self.expect(0, 'ok', 'check', path)
        for pattern, setting in (
                (r'hidden_size: the checkpoint.s layer has 48, expected that', 'layer.hidden_size=9'),
                (r'router_bias: the checkpoint.s layer has false', 'layer.router.router_bias=true'),
                ('expected 0 to 1, the checkpoint', 'layer.layer=2'),
                ('layer.layer is missing; expected 0 to 1', 'layer.layer=null'),
                ('is the number of a layer of layer.checkpoint', 'layer.checkpoint=null'),
                ('layer.checkpoint: nowhere/config.json: cannot be read',
                 'layer.checkpoint=nowhere')):
            self.expect(2, pattern, 'check', path, '--set', setting)
        self.expect(0, 'ok', 'check', path, '--set', 'layer.hidden_size=48')
        (self.work / 'mixtral' / 'config.json').write_text('{"model_type": "nonesuch"}')
        self.expect(2, r"experiment.yaml:1:\d+: layer.checkpoint: .*config.json.*'nonesuch'",
                    'check', path)

    @unittest.skipIf(no_device(), 'no OpenCL device')
    def test_experiment_names_weights_that_are_wrong(self):
        path = self.experiment('olmoe')
        file = self.work / 'olmoe' / 'model.safetensors'
        tensors = read_file(file)
        put(tensors['model.layers.1.mlp.experts.9.down_proj.weight'], 3, math.inf)
        write_file(file, tensors)
        self.expect(2, 'experts.9.down_proj.weight', 'run', path, '--out', self.work / 'out')
        results = json.loads((self.work / 'out' / 'results.json').read_text())
        self.assertRegex(results['points'][0]['error'], 'experts.9.down_proj.weight')

    def test_device_that_is_not_there(self):
        self.expect(3, 'nonesuch|could not be opened', 'verify', GOLDEN / 'mixtral', '--layer', 1,
                    '--io', GOLDEN / 'mixtral' / 'io.safetensors', '--device', 'nonesuch')
        self.expect(3, 'could not be opened', 'inspect', GOLDEN / 'mixtral', '--device',
                    'nonesuch')


if __name__ == '__main__':
    unittest.main(argv=sys.argv[:1] + sys.argv[3:], verbosity=2)
