#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The layers of bench/peers against their double-precision reference, on the CPU:
PyTorch, transformers, and Triton's kernels in its interpreter. Skipped without
PyTorch, and what needs transformers or Triton without those."""

import importlib
import json
import os
import pathlib
import sys
import tempfile
import time
import unittest
from types import SimpleNamespace
from unittest import mock

sys.dont_write_bytecode = True
os.environ["TRITON_INTERPRET"] = "1"
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "bench/peers"))

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    print("SKIP: no PyTorch")
    sys.exit(77)

import floors  # noqa: E402
import layers  # noqa: E402
import worker  # noqa: E402

# Not powers of two and, for Triton, a multiple of the depth of its tiles.
SHAPE = floors.Shape("test", "test", "", (), 192, 320, 12, 3)


def case_of(tokens, dtype, shape=SHAPE):
    weights = layers.draw_weights(shape, "cpu", dtype, 1)
    inputs = layers.draw_inputs(shape, tokens, weights[0], 2, 3)
    checked = layers.sample_tokens(inputs[0], weights[0], shape.top_k)
    return SimpleNamespace(shape=shape, tokens=tokens, device="cpu", weights=[weights],
                           inputs=inputs, checked=checked, log=lambda text: None, packages=None,
                           expected=layers.reference(inputs[0], weights, shape.top_k, checked))


# What SGLang has in Triton, in PyTorch; and an import that stands in.
SGLANG = '''
import torch
from sglang.srt.utils import is_cuda

def invoke_fused_moe_kernel(a, b, bias, c, a_scale, b_scale, b_zp, share, ids, order, tile_expert, padded,
                            weighted, top_k, tile, compute_type, filter_expert, fuse_swiglu=False,
                            **formats):
    rows, flat = tile["BLOCK_SIZE_M"], c.view(-1, c.shape[-1])
    for at in range(padded.item() // rows):
        there = order[at * rows:(at + 1) * rows].long()
        there = there[there < ids.numel()]
        y = a[there // top_k] @ b[tile_expert[at]].t()
        if fuse_swiglu:
            y = torch.nn.functional.silu(y[:, 0::2]) * y[:, 1::2]
        flat[there] = (y * share.flatten()[there, None] if weighted else y).to(c.dtype)

def act_and_mul_triton(x, out, tile, ids):
    gate, up = x.chunk(2, -1)
    out.copy_(torch.nn.functional.silu(gate) * up)

def moe_sum_reduce_triton(y, out, factor):
    out.copy_(y.sum(1) * factor)
'''


class Layers(unittest.TestCase):
    def check_case(self, case, name, tolerance):
        found = list(layers.BUILDERS[name](case))
        self.assertTrue(found)
        for title, layer, _ in found:
            out = layer(case.inputs[0], case.weights[0])
            error = layers.error_of(out, case.expected, case.checked)
            self.assertLess(error, tolerance, (title, case.tokens))
        return [title for title, _, _ in found]

    def test_grouped_mm(self):
        for tokens in (1, 5, 64):
            self.check_case(case_of(tokens, torch.float32), "grouped_mm", 1e-5)
            self.check_case(case_of(tokens, torch.bfloat16), "grouped_mm", layers.TOLERANCE)

    def test_missing_packages(self):
        """A peer that is not there says so, and how to bring it."""
        for name in ("vllm", "sglang", "lmdeploy", "sonicmoe"):
            try:
                importlib.import_module(name)
            except Exception:
                with self.assertRaisesRegex(ImportError, name):
                    list(layers.BUILDERS[name](case_of(1, torch.float32)))

    def test_aligned(self):
        """Kernels out of a package, here in PyTorch: what is around them is right."""
        try:
            import triton  # noqa: F401
        except ImportError:
            self.skipTest("no Triton")
        import aligned
        with tempfile.TemporaryDirectory() as folder:
            home = pathlib.Path(folder) / "sglang/kernels/ops/moe"
            home.mkdir(parents=True)
            (home / "fused_moe_triton_kernels.py").write_text(SGLANG)
            tiles = {m: {"BLOCK_SIZE_M": m, "BLOCK_SIZE_N": 64} for m in (16, 32, 64)}
            self.write_table(folder, SHAPE, {"triton_version": "3", **tiles})
            for tokens in (1, 20):
                nearest = min(tiles, key=lambda m: abs(m - tokens))
                self.assertEqual(aligned.tabled_tiles(folder, SHAPE, tokens), [tiles[nearest]])
                for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, layers.TOLERANCE)):
                    case = case_of(tokens, dtype)
                    case.packages, case.timer = folder, lambda call: float(len(call()))
                    self.assertEqual(self.check_case(case, "sglang", tolerance), ["SGLang's kernels"])

    def write_table(self, folder, shape, table, device="H200"):
        path = pathlib.Path(folder) / f"E={shape.experts},N={shape.intermediate},device_name=NVIDIA_{device}.json"
        path.write_text(json.dumps(table))

    def test_tables(self):
        """Of several tables: the most similar shape's first, among these the H200's."""
        try:
            import aligned
        except ImportError:
            self.skipTest("no Triton")
        with tempfile.TemporaryDirectory() as folder:
            for experts, inner, device in ((1, 320, "H200"), (12, 640, "H100_80GB_HBM3"), (12, 640, "H200"),
                                           (24, 80, "H200"), (12, 320, "H100_80GB_HBM3")):
                shape = SHAPE._replace(experts=experts, intermediate=inner)
                self.write_table(folder, shape, {"1": {"is": [experts, inner, device]}}, device)
            found = [tile["is"] for tile in aligned.tabled_tiles(folder, SHAPE, 1)]
            self.assertEqual(found, [[12, 320, "H100_80GB_HBM3"], [12, 640, "H200"],
                                     [12, 640, "H100_80GB_HBM3"], [24, 80, "H200"], [1, 320, "H200"]])

    def test_ways(self):
        """The fastest of a peer's ways, also when the first one fails, and with what it arranged."""
        try:
            import aligned
        except ImportError:
            self.skipTest("no Triton")

        class Way(aligned.Peer):
            def __init__(self, name):
                self.name = name

            def __str__(self):
                return self.name

            def arrange(self, weights):
                return (*weights, self.name)

        tried, case = [], case_of(1, torch.float32)
        case.timer = lambda call: call()

        def layer(x, weights, top_k, tile, way):
            tried.append((way.name, tile["BLOCK_SIZE_M"], weights[-1]))
            if way.name == "broken":
                raise MemoryError("too much local memory")
            return {"slow": 3, "fast": 2, "last": 4}[way.name] + 1 / tile["BLOCK_SIZE_M"]
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(aligned, "layer", layer):
            self.write_table(folder, SHAPE, {"1": {"BLOCK_SIZE_M": 64}})
            ways = [Way(name) for name in ("broken", "slow", "fast", "last")]
            way, tile, arranged = aligned.tune(case, ways, folder)
            self.assertEqual((way.name, tile["BLOCK_SIZE_M"], arranged[0][-1]), ("fast", 64, "fast"))
            self.assertEqual(tried, [(name, m, name) for name, m in (
                ("broken", 64), ("broken", 16), ("slow", 64), ("slow", 16), ("fast", 64), ("last", 64))])
            with self.assertRaisesRegex(RuntimeError, "no tile works"):
                aligned.tune(case, ways[:1], folder)

    def test_lists(self):
        """Each expert's assignments in their order, in tiles of its own."""
        try:
            import aligned
        except ImportError:
            self.skipTest("no Triton")
        ids = torch.randint(0, 5, (33, 3), dtype=torch.int32)  # the last two experts have none
        order, tile_expert, padded = aligned.align(ids, 16, 7)
        want, experts = [], []
        for expert in range(7):
            mine = [i for i, e in enumerate(ids.flatten().tolist()) if e == expert]
            whole = -(-len(mine) // 16)
            want += mine + [ids.numel()] * (16 * whole - len(mine))
            experts += [expert] * whole
        self.assertEqual(padded.tolist(), [len(want)])
        self.assertEqual(order[:len(want)].tolist(), want)
        self.assertEqual(tile_expert[:len(experts)].tolist(), experts)

    def test_loop(self):
        """What stands in for grouped_mm where PyTorch has none."""
        a, b = torch.randn(9, 16), torch.randn(4, 16, 8)
        out = layers.grouped_loop(a, b, torch.tensor([2, 2, 7, 9], dtype=torch.int32))
        expert = [0, 0, 2, 2, 2, 2, 2, 3, 3]
        self.assertTrue(torch.allclose(out, torch.einsum("nk,nko->no", a, b[expert]), atol=1e-5))

    def test_transformers(self):
        try:
            import transformers  # noqa: F401
        except ImportError:
            self.skipTest("no transformers")
        for tokens in (1, 64):
            names = self.check_case(case_of(tokens, torch.float32), "transformers", 1e-5)
            self.assertEqual(len(names), 3)

    def test_triton(self):
        try:
            import triton_moe
        except ImportError:
            self.skipTest("no Triton")
        for tokens in (1, 5, 64):
            # The interpreter multiplies no bf16.
            case = case_of(tokens, torch.float16)
            x, weights, top_k = case.inputs[0], case.weights[0], SHAPE.top_k
            for tile in (triton_moe.Tile(16, 64, 64, 1, 4, 3, False),
                         triton_moe.Tile(32, 128, 64, 4, 4, 3, True)):
                try:
                    out = triton_moe.layer(x, weights, top_k, [tile, tile])
                except Exception as error:
                    if "0-dimensional" in str(error):
                        self.skipTest("this numpy is too new for Triton's interpreter")
                    raise
                error = layers.error_of(out, case.expected, case.checked)
                self.assertLess(error, 0.01, (tokens, tile))

    def test_triton_tunes(self):
        try:
            import triton_moe
        except ImportError:
            self.skipTest("no Triton")
        case, said = case_of(1, torch.float16), []
        x, weights = case.inputs[0], case.weights[0]

        def timer(call):
            if len(said) == 0:
                raise MemoryError("too much local memory")
            start = time.time()
            call()
            return time.time() - start
        try:
            tiles = triton_moe.tune(x, weights, SHAPE.top_k, timer, False, said.append)
        except Exception as error:
            if "0-dimensional" in str(error):
                self.skipTest("this numpy is too new for Triton's interpreter")
            raise
        self.assertIn("too much local memory", said[0])
        self.assertEqual(len(tiles), 2)
        self.assertTrue(all(SHAPE.hidden % tile.k == 0 for tile in tiles[:1]))


def cast(x, width=128):
    """triton_quantized.quantize in PyTorch: the interpreter's cast to E4M3 loses what a rounded
    fraction carries (124 becomes 64)."""
    rows, columns = x.shape
    width = width or columns
    grouped = F.pad(x.float(), (0, -columns % width)).view(rows, -1, width)
    scales = (grouped.abs().amax(-1) / 448).clamp(min=1e-12)
    codes = (grouped / scales[:, :, None]).to(torch.float8_e4m3fn)
    return codes.view(rows, -1), scales


class Quantized(unittest.TestCase):
    """The Triton kernels of weights with scales, and how they are stored."""
    # Neither inner size is whole groups of 128; blocks of 128 rows end within gate and up.
    shape = SimpleNamespace(hidden=192, intermediate=160, experts=5, top_k=2)

    def setUp(self):
        try:
            import triton_quantized
        except ImportError:
            self.skipTest("no Triton")
        self.q = triton_quantized

    def weights(self, quantize):
        """Rows, and groups of columns, of sizes of their own: a wrong scale shows."""
        router, gate_up, down = layers.draw_weights(self.shape, "cpu", torch.float16, 3)
        generator = torch.Generator().manual_seed(9)

        def factors(size, parts=1):
            """One a block of 128 of each part, 0.5 to 2."""
            of_blocks = torch.exp2(torch.randint(-1, 2, (parts, 2), generator=generator)).half()
            return torch.cat([one.repeat_interleave(128)[:size // parts] for one in of_blocks])
        for e in range(self.shape.experts):
            gate_up[e] *= factors(320, 2)[:, None] * factors(192)
            down[e] *= factors(192)[:, None] * factors(160)
        return router, quantize(gate_up, 2), quantize(down, 1)

    def test_stored_numbers_are_the_nearest(self):
        _, gate_up, _ = layers.draw_weights(self.shape, "cpu", torch.float16, 3)
        for quantize, share in ((self.q.quantize_int4, 0.51 / 7), (self.q.quantize_fp8, 1.01 / 28)):
            stored, numbers = quantize(gate_up, 2), gate_up.double()
            for e in range(self.shape.experts):
                # Half a step of the group's largest, of E4M3 that of the numbers near the largest.
                most = F.pad(numbers[e], (0, 64)).view(-1, 2, 128).abs().amax(-1)
                if quantize == self.q.quantize_fp8:  # of a block's rows, gate's and up's apart
                    most = torch.cat([torch.cat([part[:128].amax(0, True).expand(128, -1),
                                                 part[128:].amax(0, True).expand(32, -1)])
                                      for part in most.chunk(2)])
                off = F.pad((stored[e] - numbers[e]).abs(), (0, 64)).view(-1, 2, 128).amax(-1)
                self.assertTrue((off <= most * share).all(), (quantize.__name__, e))

    def layer(self, weights, tokens, tile):
        x = layers.draw_inputs(self.shape, tokens, weights[0], 1, 4)[0]
        try:
            out = self.q.layer(x, weights, self.shape.top_k, [tile, tile])
        except Exception as error:
            if "0-dimensional" in str(error):
                self.skipTest("this numpy is too new for Triton's interpreter")
            raise
        every = torch.arange(tokens)
        return layers.error_of(out, layers.reference(x, weights, self.shape.top_k, every), every)

    def test_int4(self):
        weights = self.weights(self.q.quantize_int4)
        for tokens, tile in ((1, self.q.Tile(16, 64, 1, 4, 1)), (40, self.q.Tile(16, 32, 4, 4, 1))):
            self.assertLess(self.layer(weights, tokens, tile), 0.005)

    def test_fp8(self):
        weights = self.weights(self.q.quantize_fp8)
        with mock.patch.object(self.q, "quantize", cast):
            for tokens, tile in ((1, self.q.Tile(16, 64, 1, 4, 1)), (40, self.q.Tile(32, 32, 4, 4, 1))):
                self.assertLess(self.layer(weights, tokens, tile), 0.09)  # activations' own

    def test_quantize(self):
        x = torch.randn(3, 200, generator=torch.Generator().manual_seed(5)).half()
        for width in (128, 0):
            codes, scales = self.q.quantize(x, width)
            want, right = cast(x, width)
            self.assertEqual((codes.shape, scales.shape), (want.shape, right.shape))
            self.assertTrue(torch.allclose(scales, right, rtol=1e-6))
            same = (codes.float() - want.float()).abs() <= 0.13 * want.float().abs() + 1e-3
            self.assertGreater(same.float().mean().item(), 0.9)  # the interpreter's cast: see above


class Checks(unittest.TestCase):
    def test_reference_by_hand(self):
        """Two experts of one column each, both chosen."""
        weights = (torch.tensor([[0.0], [1.0]]), torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]]),
                   torch.tensor([[[1.0]], [[10.0]]]))
        out = layers.reference(torch.tensor([[1.0]]), weights, 2, torch.tensor([0]))

        def silu(v):
            return v / (1 + torch.exp(torch.tensor(-v, dtype=torch.float64)))
        share = 1 / (1 + torch.exp(torch.tensor(1.0, dtype=torch.float64)))  # expert 0's
        expected = share * silu(1.0) * 2 + (1 - share) * silu(3.0) * 4 * 10
        self.assertAlmostEqual(out.item(), expected.item(), places=12)

    def test_wrong_answers_are_seen(self):
        case = case_of(64, torch.float32)
        right = layers.sorted_layer(case.inputs[0], case.weights[0], SHAPE.top_k,
                                    layers.grouped_loop, layers.combine_index_add)
        router, gate_up, down = case.weights[0]
        swapped = (router, gate_up.flip(0), down)
        wrong = layers.sorted_layer(case.inputs[0], swapped, SHAPE.top_k, layers.grouped_loop,
                                    layers.combine_index_add)
        nan = right.clone()
        nan[case.checked[0]] = float("nan")
        for out, good in ((right, True), (wrong, False), (nan, False),
                          (torch.zeros_like(right), False)):
            error = layers.error_of(out, case.expected, case.checked)
            self.assertEqual(error <= layers.TOLERANCE, good)

    def test_sampled_tokens_are_not_in_doubt(self):
        case = case_of(1000, torch.float32)
        gaps = layers.routing_gap(case.inputs[0], case.weights[0][0], SHAPE.top_k)
        self.assertEqual(len(set(case.checked.tolist())), 8)
        self.assertGreater(gaps[case.checked].min(), 0.03)
        self.assertGreater(len(set((case.checked // 250).tolist())), 1)  # not only the first
        x = torch.zeros(40, SHAPE.hidden)  # equal logits: every choice is as right
        x[17] = case.inputs[0][case.checked[0]]
        found = layers.sample_tokens(x, case.weights[0][0], SHAPE.top_k)
        self.assertEqual(found.tolist(), [17])


class Worker(unittest.TestCase):
    """What is timed and what is left out, with the GPU's part replaced."""

    def run_layer(self, captured, layer=None, capture=True):
        """(those that are right, those that are left out), by name."""
        case, said = case_of(8, torch.float32), []
        self.right = layers.sorted_layer(case.inputs[0], case.weights[0], SHAPE.top_k,
                                         layers.grouped_loop, layers.combine_index_add)
        replaced = {(worker, "answer"): lambda **message: said.append(message),
                    (worker, "timer"): lambda call: 1, (worker, "captured"): captured,
                    (worker, "log"): lambda text: None,
                    (torch.cuda, "synchronize"): lambda: None}
        before = {key: getattr(*key) for key in replaced}
        for (module, name), value in replaced.items():
            setattr(module, name, value)
        try:
            found = worker.try_layer(case, "x", layer or (lambda x, weights: self.right), capture)
        finally:
            for (module, name), value in before.items():
                setattr(module, name, value)
        return [one[0] for one in found], [message["left_out"]["name"] for message in said]

    def test_both_modes(self):
        output = torch.empty(0)

        def captured(calls):
            nonlocal output
            output = calls[0]().clone()
            return [lambda: output.copy_(self.right)], output
        self.assertEqual(self.run_layer(captured), (["x, eager", "x, graph"], []))
        self.assertEqual(self.run_layer(captured, capture=False), (["x, eager"], []))

    def test_a_graph_that_does_nothing_is_left_out(self):
        def captured(calls):
            return [lambda: None], calls[0]().clone()
        self.assertEqual(self.run_layer(captured), (["x, eager"], ["x, graph"]))

    def test_failures_are_left_out(self):
        def fails(*_):
            raise RuntimeError("operation not permitted when stream is capturing")
        self.assertEqual(self.run_layer(fails), (["x, eager"], ["x, graph"]))
        self.assertEqual(self.run_layer(fails, layer=fails), ([], ["x, eager"]))
        self.assertEqual(self.run_layer(fails, layer=lambda x, weights: torch.zeros_like(x)),
                         ([], ["x, eager"]))

    def test_window(self):
        """Weights, inputs and an output go through it; another output is found wrong."""
        worker.DEVICE = "cpu"
        window = torch.zeros(1 << 19, dtype=torch.bfloat16)
        bench = worker.Bench(window)
        bench.use_shape(SHAPE)
        for first, tensor, items in ((0, "router", bench.weights[0]), (1, "gate_up", bench.weights[1][1:3]),
                                     (2, "down", bench.weights[2][2:4])):
            bench.give(tensor, first, 2)
            self.assertTrue(torch.equal(window[:items.numel()].view(items.shape), items))
        case = bench.use_tokens(4)
        inputs = torch.stack(bench.case.inputs)
        self.assertEqual((case["sets"], len(case["active"])), (8, 8))
        self.assertTrue(torch.equal(window[:inputs.numel()].view(inputs.shape), inputs))
        right = layers.sorted_layer(inputs[0], bench.weights, SHAPE.top_k, layers.grouped_loop,
                                    layers.combine_index_add)
        window[:right.numel()].view(right.shape).copy_(right)
        self.assertLess(bench.check(), layers.TOLERANCE)
        window[:right.numel()] = 0
        self.assertGreater(bench.check(), 0.9)
        again = worker.Bench(torch.zeros(1 << 19, dtype=torch.bfloat16))  # as after a death
        again.use_shape(SHAPE)
        again.use_tokens(4)
        self.assertTrue(torch.equal(torch.stack(again.case.inputs), inputs))
        worker.DEVICE = "cuda"


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    torch.set_num_threads(2)
    torch.manual_seed(0)
    unittest.main()
