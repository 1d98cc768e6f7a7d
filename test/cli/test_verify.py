#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""moectl verify on recordings that differ from ours and yet are right, and on such that
are wrong in the same places. usage: test_verify.py MOECTL GOLDEN_DIR"""
import json
import math
import random
import re
import struct
import sys
import unittest

from model_files import GOLDEN, ModelCase, no_device, numbers, read_file, tensor, write_file

SEED = 20261128


def to_f32(x):
    return struct.unpack('<f', struct.pack('<f', x))[0]


def to_bf16(x):
    bits = struct.unpack('<I', struct.pack('<f', x))[0]
    bits += 0x7fff + (bits >> 16 & 1)
    return struct.unpack('<f', struct.pack('<I', bits & 0xffff0000))[0]


def shares(logits):
    most = max(logits)
    terms = [math.exp(x - most) for x in logits]
    return [t / sum(terms) for t in terms]


def best(values, count):
    """Of equal ones the first."""
    return sorted(range(len(values)), key=lambda e: (-values[e], e))[:count]


@unittest.skipIf(no_device(), 'no OpenCL device')
class Verify(ModelCase):
    def verify(self, code, pattern, folder, io, *more, layer=1):
        path = self.work / 'io.safetensors'
        write_file(path, io)
        return self.expect(code, pattern, 'verify', folder, '--layer', layer, '--io', path,
                           *more)[0]

    def recorded(self, name):
        """The golden recording as rows."""
        io = read_file(GOLDEN / name / 'io.safetensors')
        return {key: numbers(value) for key, value in io.items()}

    def written(self, io):
        return {key: tensor('I32' if key == 'topk_ids' else 'F32', rows)
                for key, rows in io.items()}

    def test_another_order(self):
        """Experts listed in any order, their weights with them: torch.topk(sorted=False)."""
        folder = GOLDEN / 'deepseek_v3'
        draw = random.Random(SEED)
        io = self.recorded('deepseek_v3')
        moved = 0
        unmoved_weights = [list(row) for row in io['topk_weights']]
        for ids, weights in zip(io['topk_ids'], io['topk_weights']):
            order = draw.sample(range(4), 4)
            moved += order != [0, 1, 2, 3]
            ids[:] = [ids[k] for k in order]
            weights[:] = [weights[k] for k in order]
        out = self.verify(0, 'all tokens agree', folder, self.written(io))
        self.assertRegex(out, rf'(?m)^{moved} tokens have the same experts in another order')
        self.assertRegex(out, r'(?m)^output .* 0$')
        # Weights that stay behind are wrong ones.
        wrong = {**io, 'topk_weights': unmoved_weights}
        self.verify(1, r'first mismatching token: \d+ \(topk_weights\)', folder,
                    self.written(wrong))
        # So is another expert among them, wherever it stands.
        for place in range(4):
            ids = [list(row) for row in io['topk_ids']]
            ids[9][place] = next(e for e in range(16) if e not in ids[9])
            self.verify(1, r'first mismatching token: 9 \(topk_ids\)', folder,
                        self.written({**io, 'topk_ids': ids}))

    def test_scales_of_experts(self):
        """Gemma 4's weights are recorded with a number of each expert; a layer's are without."""
        folder = self.copy('gemma4')
        io = self.recorded('gemma4')
        self.verify(0, 'all tokens agree', folder, self.written(io), layer=0)
        self.verify(0, 'all tokens agree', folder, self.written(
            {name: io[name] for name in ('hidden_states', 'topk_weights')}), layer=0)
        tensors = read_file(folder / 'model.safetensors')
        scale = tensors['model.language_model.layers.0.router.per_expert_scale']
        numbers_of = numbers(scale)[0]
        without = [[w / numbers_of[e] for e, w in zip(*row)]
                   for row in zip(io['topk_ids'], io['topk_weights'])]
        self.verify(1, r'first mismatching token: 0 \(topk_weights\)', folder,
                    self.written({**io, 'topk_weights': without}), layer=0)
        # One of 0: what it weighs is not to be told, but not that it weighs something.
        some = io['topk_ids'][0][1]
        scale[2][2 * some:2 * some + 2] = b'\0\0'
        write_file(folder / 'model.safetensors', tensors)
        del io['output']
        self.verify(1, r'first mismatching token: 0 \(topk_weights\)', folder, self.written(io), layer=0)
        for ids, weights in zip(io['topk_ids'], io['topk_weights']):
            weights[:] = [0 if e == some else w for e, w in zip(ids, weights)]
        self.verify(0, 'all tokens agree', folder, self.written(io), layer=0)

    def test_order_of_a_capacity(self):
        """First choices come before second ones: which is which is no matter of taste."""
        name = 'nllb_moe-prioritized'
        io = self.recorded(name)
        token = next(t for t, row in enumerate(io['topk_ids']) if min(row) >= 0)
        io['topk_ids'][token].reverse()
        io['topk_weights'][token].reverse()
        self.verify(1, rf'first mismatching token: {token} \(topk_ids\)', GOLDEN / name,
                    self.written(io), layer=json.loads((GOLDEN / name / 'config.json').read_text())
                    ['encoder_sparse_step'] - 1)

    def test_experts_of_weight_0(self):
        """Softmax in fp32 underflows where logits are more than 103 apart."""
        folder = GOLDEN / 'qwen3_moe'
        io = self.recorded('qwen3_moe')
        hidden = [[to_f32(30 * x) for x in row] for row in io['hidden_states']]
        top_k, ids, weights, differ = len(io['topk_ids'][0]), [], [], []
        renormalize = json.loads((folder / 'config.json').read_text()).get('norm_topk_prob', False)
        for t, row in enumerate(io['router_logits']):
            logits = [30 * x for x in row]
            theirs = [s if s > 1e-44 else 0.0 for s in shares(logits)]
            chosen = best(theirs, top_k)
            if set(chosen) != set(best(logits, top_k)):
                differ.append(t)
            total = sum(theirs[e] for e in chosen) if renormalize else 1
            ids.append(chosen)
            weights.append([theirs[e] / total for e in chosen])
        self.assertGreater(len(differ), 2)
        io = {'hidden_states': hidden, 'topk_ids': ids, 'topk_weights': weights}
        out = self.verify(0, 'all tokens agree', folder, self.written(io))
        self.assertRegex(out, rf'(?m)^{len(differ)} tokens? ha\w+ other experts among those of '
                              r'weight 0')
        token = differ[1]
        good = ids[token][0]
        ids[token][0] = next(e for e in range(10) if e not in ids[token]) # for one that counts
        self.verify(1, rf'first mismatching token: {token} \(topk_ids\)', folder, self.written(io))
        ids[token][0] = good
        weights[token][-1] = 0.25
        self.verify(1, rf'first mismatching token: {token} \(topk_weights\)', folder,
                    self.written(io))

    def test_sparsemixers_limit(self):
        """The limit is set beside an expert, which the other side sees beyond it."""
        folder = self.copy('phimoe')
        config = json.loads((folder / 'config.json').read_text())
        io = self.recorded('phimoe')
        logits, ids = io['router_logits'], io['topk_ids']

        def behind(token, expert, most):
            return (most - logits[token][expert]) / max(abs(logits[token][expert]), most)

        def weights_of(token, limit, out=()):
            row, left = [], set(range(8))
            for k, chosen in enumerate(ids[token]):
                most = logits[token][chosen]
                inside = [e for e in left if behind(token, e, most) <= limit
                          and not (k == 0 and e in out)]
                row.append(1 / sum(math.exp(logits[token][e] - most) for e in inside))
                left.remove(chosen)
            return row

        found = [(t, e) for t in range(24) for e in range(8)
                 if e != ids[t][0] and 0.1 < behind(t, e, logits[t][ids[t][0]]) < 0.6]
        token, expert = next((t, e) for t, e in found if any(
            f not in (e, ids[t][0]) and behind(t, f, logits[t][ids[t][0]]) < behind(
                t, e, logits[t][ids[t][0]]) for f in range(8)))
        limit = behind(token, expert, logits[token][ids[token][0]]) + 3e-6
        config['router_jitter_noise'] = limit / 2
        (folder / 'config.json').write_text(json.dumps(config))
        del io['output']
        io['topk_weights'] = [weights_of(t, limit) for t in range(24)]
        self.verify(0, 'all tokens agree', folder, self.written(io))
        io['topk_weights'][token] = weights_of(token, limit, (expert,))
        out = self.verify(0, 'all other tokens agree', folder, self.written(io))
        self.assertRegex(out, r"(?m)^1 token has weights for an expert on the other side of "
                              r"sparsemixer's limit")
        # Two experts are not on the other side, nor is a wrong one; nor another token's.
        other = next(e for e in range(8) if e not in (expert, ids[token][0])
                     and behind(token, e, logits[token][ids[token][0]]) < limit)
        io['topk_weights'][token] = weights_of(token, limit, (expert, other))
        self.verify(1, rf'first mismatching token: {token} \(topk_weights\)', folder,
                    self.written(io))
        io['topk_weights'][token] = weights_of(token, limit)
        ids[token].reverse()
        self.verify(1, rf'first mismatching token: {token} \(topk_ids\)', folder, self.written(io))

    def test_rounded_logits(self):
        """Logits near 100 that the other side keeps in bf16: weights are off by several
        percent, and follow from the recorded logits."""
        folder = self.copy('mixtral')
        name = 'model.layers.1.block_sparse_moe.gate.weight'
        path = next(p for p in folder.glob('model*.safetensors') if name in read_file(p))
        tensors = read_file(path)
        # In bf16: expert 1's row becomes expert 2's with a bit changed here and there.
        rows = tensors[name][2]
        rows[96:192] = rows[192:288]
        for i in range(96, 192, 8):
            rows[i] ^= 1
        write_file(path, tensors)
        gate = numbers(tensors[name])
        hidden = [[to_bf16(16 * x) for x in row]
                  for row in self.recorded('mixtral')['hidden_states']]
        exact = [[sum(w * x for w, x in zip(gate_row, row)) for gate_row in gate] for row in hidden]
        rounded = [[to_bf16(x) for x in row] for row in exact]
        ids = [best(row, 2) for row in rounded]

        def weights_of(logits, t):
            return shares([logits[t][e] for e in ids[t]])

        weights = [weights_of(rounded, t) for t in range(24)]
        off = [t for t in range(24)
               if math.dist(weights[t], weights_of(exact, t)) > 0.02 * math.hypot(*weights[t])]
        self.assertGreater(len(off), 0)
        io = {'hidden_states': hidden, 'router_logits': rounded, 'topk_ids': ids,
              'topk_weights': weights}
        out = self.verify(0, 'agree', folder, self.written(io), '--dtype', 'bf16')
        told = re.search(r'(?m)^(\d+) tokens? ha\w+ weights that follow from the recorded logits',
                         out)
        self.assertTrue(told, out)
        self.assertGreaterEqual(int(told[1]), len(off))
        token = off[-1]
        weights[token] = [weights[token][0] * 1.1, weights[token][1]]
        self.verify(1, r'\(topk_weights\)', folder, self.written(io), '--dtype', 'bf16')
        weights[token] = weights_of(rounded, token)
        # Without the logits nobody can tell.
        del io['router_logits']
        self.verify(1, r'\(topk_weights\)', folder, self.written(io), '--dtype', 'bf16')

    def test_numbers_beyond_fp16(self):
        """Two tokens whose output fp16 does not hold, and in fp32 all is well."""
        folder = GOLDEN / 'mixtral'
        io = self.recorded('mixtral')
        for t in (3, 8):
            io['hidden_states'][t] = [3000 * x for x in io['hidden_states'][t]]
        io = {'hidden_states': io['hidden_states'], 'output': io['output']}
        out = self.verify(1, r'first mismatching token: 3 \(output\)', folder, self.written(io),
                          '--dtype', 'fp16')
        self.assertRegex(out, r"(?m)^2 tokens have outputs of ours that are not finite, the first is "
                              r"token 3: fp16's largest number is 65504; try --dtype bf16 or fp32$")
        out = self.verify(1, r'first mismatching token: 3 \(output\)', folder, self.written(io))
        self.assertNotIn('finite', out)
        io['output'][8][0] = 1e5
        out = self.verify(1, 'and the recorded output goes up to 100000; try', folder,
                          self.written(io), '--dtype', 'fp16')

    def twins(self):
        """OLMoE where another expert, of a higher number, gets the logits of token 0's last
        one; recorded tokens that neither serves, and token 0, which took the other one.
        Returns folder and recording."""
        folder = self.copy('olmoe')
        io = self.recorded('olmoe')
        last = io['topk_ids'][0][3]
        twin = max(e for e in range(16) if e not in io['topk_ids'][0])
        self.assertLess(last, twin)
        tensors = read_file(folder / 'model.safetensors')
        gate = tensors['model.layers.1.mlp.gate.weight'][2]
        gate[128 * twin:128 * (twin + 1)] = gate[128 * last:128 * (last + 1)]
        write_file(folder / 'model.safetensors', tensors)
        rows = []
        for t in range(24):
            logits = io['router_logits'][t]
            before = shares(logits)
            logits[twin] = logits[last]
            ids = best(logits, 4)
            if t and {last, twin} & {*ids, *io['topk_ids'][t]}:
                continue
            weights = [shares(logits)[e] for e in ids]
            # Not renormalized: all weights change by one factor, and the output with them.
            scale = weights[0] / before[ids[0]]
            rows.append((io['hidden_states'][t], logits, ids, weights,
                         [scale * x for x in io['output'][t]]))
        names = ('hidden_states', 'router_logits', 'topk_ids', 'topk_weights', 'output')
        io = dict(zip(names, map(list, zip(*rows))))
        self.assertEqual(io['topk_ids'][0][3], last)
        self.assertGreater(len(rows), 2)
        io['topk_ids'][0][3] = twin
        io['output'][0] = [sum(terms) for terms in zip(*(
            [w * x for x in self.expert(tensors, e, io['hidden_states'][0])]
            for e, w in zip(io['topk_ids'][0], io['topk_weights'][0])))]
        return folder, io

    @staticmethod
    def expert(tensors, number, row):
        """SwiGLU's two matrices, of layer 1."""
        gate, up, down = (numbers(tensors[f'model.layers.1.mlp.experts.{number}.{part}_proj.weight'])
                          for part in ('gate', 'up', 'down'))

        def times(matrix, x):
            return [sum(a * b for a, b in zip(line, x)) for line in matrix]
        inner = [g / (1 + math.exp(-g)) * u for g, u in zip(times(gate, row), times(up, row))]
        return times(down, inner)

    def test_a_tie_excuses_nothing_else(self):
        """Logits, weights and output of a token at a tie are compared all the same."""
        folder, io = self.twins()
        out = self.verify(0, '1 token has other experts at a tie', folder, self.written(io))
        self.assertIn('1 of these: output compared with what the reference makes', out)
        self.assertRegex(out, r'(?m)^output .* 0$')
        for name, place in (('router_logits', 5), ('topk_weights', 3), ('output', 7)):
            row = list(io[name][0])
            row[place] += 1e-3 * max(map(abs, row))
            wrong = {**io, name: [row, *io[name][1:]]}
            self.verify(1, rf'first mismatching token: 0 \({name}\)', folder, self.written(wrong))
        # Ours was not compared at all.
        alone = {name: rows[:1] for name, rows in io.items()}
        self.verify(1, 'nothing could be compared', folder, self.written(alone))

    def test_a_tie_by_the_correction_bias(self):
        """Scores far apart that the bias makes equal; and equal ones that it doesn't."""
        folder = self.copy('minimax_m2')
        io = self.recorded('minimax_m2')
        scores = [[1 / (1 + math.exp(-x)) for x in row] for row in io['router_logits']]
        tensors = read_file(folder / 'model.safetensors')
        name = 'model.layers.1.block_sparse_moe.e_score_correction_bias'
        bias = numbers([*tensors[name][:1], [1, 8], tensors[name][2]])[0]
        last = io['topk_ids'][0][2]
        other = max((e for e in range(8) if e not in io['topk_ids'][0]),
                    key=lambda e: abs(scores[0][e] - scores[0][last]))
        bias[other] = to_f32(scores[0][last] + bias[last] - scores[0][other] - 2e-6)
        tensors[name][2] = struct.pack('<8f', *bias)
        write_file(folder / 'model.safetensors', tensors)
        ids = [best([s + b for s, b in zip(row, bias)], 3) for row in scores]
        self.assertEqual(ids[0][2], last)
        io = {'hidden_states': io['hidden_states'], 'topk_ids': ids}
        self.verify(0, 'all tokens agree', folder, self.written(io))
        ids[0][2] = other
        self.verify(0, '1 token has other experts at a tie', folder, self.written(io))
        ids[0][1] = next(e for e in range(8) if e not in ids[0])
        self.verify(1, r'first mismatching token: 0 \(topk_ids\)', folder, self.written(io))


if __name__ == '__main__':
    unittest.main(argv=sys.argv[:1] + sys.argv[3:], verbosity=2)
