#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""moectl on copies of the recorded models that say the same in another published way, or
another thing that can be computed. usage: test_published.py MOECTL GOLDEN_DIR"""
import json
import math
import re
import struct
import sys
import unittest

from model_files import ModelCase, no_device, numbers, read_file, tensor, write_file


def product(matrix, vector):
    return [math.fsum(map(lambda a, b: a * b, row, vector)) for row in matrix]


def silu_network(gate, up, down, hidden_states):
    """A gated feed-forward network in double precision."""
    return [product(down, [g / (1 + math.exp(-g)) * u
                           for g, u in zip(product(gate, x), product(up, x))]) for x in hidden_states]


def transposed(stacked, size):
    """[E, A, B] to [E, B, A]; `size` is an element's."""
    kind, (experts, rows, columns), data = stacked
    element = lambda at: data[size * at:size * (at + 1)]
    return [kind, [experts, columns, rows],
            b''.join(element((e * rows + r) * columns + c)
                     for e in range(experts) for c in range(columns) for r in range(rows))]


@unittest.skipIf(no_device(), 'no OpenCL device')
class Published(ModelCase):
    """What files say in other ways than the recorded ones; the values are the recordings'."""

    def agrees(self, folder, layer=1, io='io.safetensors', pattern='all tokens agree'):
        return self.expect(0, pattern, 'verify', folder, '--layer', layer, '--io', folder / io)

    def configured(self, name, change, model_type=None):
        """A copy whose config.json has been through `change`, a function of the object."""
        folder = self.copy(name)
        config = json.loads((folder / 'config.json').read_text())
        change(config)
        (folder / 'config.json').write_text(json.dumps(config))
        return folder

    def renamed(self, name, rename):
        folder = self.copy(name)
        path = folder / 'model.safetensors'
        write_file(path, {rename(key): value for key, value in read_file(path).items()})
        return folder

    def test_defaults_are_the_classes(self):
        self.agrees(self.configured('afmoe', lambda c: c.pop('num_shared_experts')))

    def test_networks_beside(self):
        """LongCat-Flash's blocks have two dense networks beside the MoE; a third is not known."""
        folder = self.copy('longcat_flash')
        path = folder / 'model.safetensors'
        known = read_file(path)
        for name, code in (('mlps.0.up_proj.weight', 0), ('mlp_2.up_proj.weight', 2)):
            write_file(path, {**known, f'model.layers.1.{name}': ['F32', [1], bytes(4)]})
            self.expect(code, 'all tokens agree' if code == 0 else name, 'verify', folder,
                        '--layer', 1, '--io', folder / 'io.safetensors')

    def test_names_without_model(self):
        for name, prefix in (('olmoe', 'model.'), ('dbrx', 'transformer.'), ('nllb_moe', 'model.'),
                             ('qwen3_vl_moe', 'model.')):
            with self.subTest(name):
                self.agrees(self.renamed(name, lambda key: key.removeprefix(prefix)))

    def test_other_model_types(self):
        self.agrees(self.configured('minimax', lambda c: c.update(model_type='minimax_m1')))
        self.agrees(self.configured('dots1', lambda c: c.update(scoring_func='noaux_tc')))

    def test_numbers_that_are_no_json(self):
        """As Python writes them; the recorded config has no such number but in an object."""
        folder = self.configured('nemotron_h', lambda c: c.update(
            time_step_limit=[0.0, math.inf], other={'"NaN"': [math.nan, -math.inf]}))
        self.assertRegex((folder / 'config.json').read_text(), r'0\.0, Infinity\].*NaN, -Infinity')
        self.agrees(folder)

    def test_layers_as_words(self):
        def words(config):
            del config['hybrid_override_pattern']
            config['layers_block_type'] = ['mlp', 'moe', 'full_attention']
        self.agrees(self.configured('nemotron_h', words))

    def test_experts_the_other_way_round(self):
        folder = self.copy('qwen3_vl_moe')
        path = folder / 'model.safetensors'
        write_file(path, {name: transposed(value, 2) if '.experts.' in name else value
                          for name, value in read_file(path).items()})
        self.agrees(folder)

    def test_sparse_step_from_counts(self):
        def without_step(config):
            del config['encoder_sparse_step'], config['decoder_sparse_step']
        folder = self.configured('switch_transformers', without_step)
        self.agrees(folder)
        self.agrees(folder, 3, 'io-decoder.safetensors')

    def test_null_may_mean_no(self):
        """DBRX without normalization: weights are the softmax's, outputs as much smaller."""
        folder = self.configured('dbrx', lambda c: c['ffn_config'].update(
            moe_normalize_expert_weights=None))
        io = read_file(folder / 'io.safetensors')
        top_k = io['topk_ids'][1][1]
        ids = struct.unpack(f"<{24 * top_k}i", io['topk_ids'][2])
        weights, outputs = [], []
        for t, (logits, output) in enumerate(zip(numbers(io['router_logits']), numbers(io['output']))):
            scores = [math.exp(logit - max(logits)) for logit in logits]
            kept = [scores[e] / math.fsum(scores) for e in ids[t * top_k:(t + 1) * top_k]]
            weights.append(kept)
            outputs.append([value * math.fsum(kept) for value in output])
        write_file(folder / 'io.safetensors', {**io, 'topk_weights': tensor('F32', weights),
                                               'output': tensor('F32', outputs)})
        self.agrees(folder)

    def dense(self, folder, layer, gate, up, down):
        """Records what the network gives for the recorded inputs."""
        x = read_file(folder / 'io.safetensors')['hidden_states']
        output = silu_network(gate, up, down, numbers(x))
        write_file(folder / 'dense.safetensors', {'hidden_states': x, 'output': tensor('F32', output)})
        self.agrees(folder, layer, 'dense.safetensors')

    def test_jamba_with_one_expert(self):
        """All layers are dense then."""
        folder = self.configured('jamba', lambda c: c.update(num_experts=1, num_experts_per_tok=1))
        path = folder / 'model.safetensors'
        old, tensors = 'model.layers.1.feed_forward.experts.0.', {}
        for name, value in read_file(path).items():
            if name.startswith(old) or 'layers.1.' not in name:
                tensors[name.replace('experts.0.', '')] = value
        write_file(path, tensors)
        for layer in (0, 1):
            self.dense(folder, layer, *(
                numbers(tensors[f'model.layers.{layer}.feed_forward.{part}_proj.weight'])
                for part in ('gate', 'up', 'down')))

    def test_granite_without_experts(self):
        """The shared network is all there is."""
        folder = self.configured('granitemoehybrid', lambda c: c.update(
            num_local_experts=0, num_experts_per_tok=0))
        path = folder / 'model.safetensors'
        tensors = {name: value for name, value in read_file(path).items()
                   if 'block_sparse_moe' not in name}
        write_file(path, tensors)
        both = numbers(tensors['model.layers.1.shared_mlp.input_linear.weight'])
        down = numbers(tensors['model.layers.1.shared_mlp.output_linear.weight'])
        self.dense(folder, 1, both[:len(both) // 2], both[len(both) // 2:], down)

    def test_capacity_in_nllbs_arithmetic(self):
        """A share of 24 tokens that Python's math.ceil lifts to the recorded 6."""
        share = math.nextafter(5 / 24, 1)
        self.assertEqual(math.ceil(share * 24), 6)
        self.assertLess(share * 24 - 5, 1e-14)
        self.agrees(self.configured('nllb_moe', lambda c: c.update(
            moe_eval_capacity_token_fraction=share)))

    def test_keys_that_change_the_layer(self):
        """Whose meaning is not known are refused, by name."""
        for name, changes in (('deepseek_v2', {'mlp_bias': True}), ('glm_moe_dsa', {'mlp_bias': True}),
                              ('hy_v3', {'mlp_bias': True}), ('nemotron_h', {'mlp_bias': True}),
                              ('ernie4_5_moe', {'use_bias': True}),
                              ('minimax', {'shared_intermediate_size': 8}),
                              ('switch_transformers', {'router_dtype': 'bfloat16'})):
            with self.subTest(name):
                folder = self.configured(name, lambda c: c.update(changes))
                self.refused(f"config.json: '{next(iter(changes))}' asks for what is not known",
                             'verify', folder, '--layer', 1, '--io', folder / 'io.safetensors')
        folder = self.configured('aria', lambda c: c['text_config'].update(hidden_act='gelu'))
        self.refused("'hidden_act' asks for .* expected silu", 'inspect', folder)

    def test_tensors_that_nothing_reads(self):
        """Biases that config.json does not tell of."""
        for name, extra in (('deepseek_v2', 'model.layers.1.mlp.shared_experts.up_proj.bias'),
                            ('deepseek_v3', 'model.layers.0.mlp.down_proj.bias'),
                            ('nemotron_h', 'backbone.layers.1.mixer.fc1_latent_proj.weight'),
                            ('granitemoeshared', 'model.layers.1.shared_mlp.scale'),
                            ('switch_transformers', 'encoder.block.1.layer.1.mlp.wi.weight')):
            with self.subTest(name):
                folder = self.copy(name)
                layer = int(re.search(r'(?:layers|block)\.(\d)', extra)[1])
                path = next(folder.glob('model*.safetensors'))
                write_file(path, {**read_file(path), extra: ['F32', [2], bytes(8)]})
                index = folder / 'model.safetensors.index.json'
                if index.exists():
                    files = json.loads(index.read_text())
                    files['weight_map'][extra] = path.name
                    index.write_text(json.dumps(files))
                pattern = f"{path.name}: tensor '{extra}' is of layer {layer}'s feed-forward network"
                self.refused(pattern, 'verify', folder, '--layer', layer, '--io',
                             folder / 'io.safetensors')
                self.expect(0, 'cannot be loaded: .*' + pattern, 'inspect', folder)


if __name__ == '__main__':
    unittest.main(argv=sys.argv[:1] + sys.argv[3:], verbosity=2)
