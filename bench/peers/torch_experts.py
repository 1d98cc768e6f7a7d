# SPDX-License-Identifier: MIT
"""Times PyTorch's experts on a CPU, round by round, for formats.py: a product an expert after the
other, or grouped_mm; from tokens to rows of every choice, sorted by expert, activation included.

    torch_experts.py --shape H:I:E:K --peer loop|grouped_mm --dtype bf16 [--threads N]

It is spoken to as layer_times and peer_ggml are: "tokens T N ID..." and "run SECONDS" on standard
input, lines of JSON on standard output.
"""

import argparse
import math
import sys
import time

sys.dont_write_bytecode = True

from answers import answer  # noqa: E402, before what prints

try:
    import torch
    import torch.nn.functional as F
    import layers
except ImportError as error:
    answer(unsuitable=f"PyTorch is not installed ({error})")
    sys.exit(0)

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
SETS = 2  # of weights, which experts have in turn
MOST_SAMPLES = 4096


class Experts:
    def __init__(self, shape, peer, dtype):
        hidden, inner, self.experts, self.top_k = shape
        self.peer, self.dtype, self.hidden = peer, dtype, hidden
        generator = torch.Generator().manual_seed(42)

        def draw(rows, columns):
            """[E, rows, columns] of two sets in turn, each expert's in its own memory."""
            sets = torch.randn(SETS, rows, columns, generator=generator).div_(math.sqrt(columns)).to(dtype)
            return sets.repeat(-(-self.experts // SETS), 1, 1)[:self.experts].contiguous()

        self.gate_up, self.down = draw(2 * inner, hidden), draw(hidden, inner)

    def begin(self, tokens, inputs, ids):
        """Draws the tokens; the permutation is not what is timed."""
        generator = torch.Generator().manual_seed(7)
        self.x = torch.randn(tokens, self.hidden, generator=generator).to(self.dtype)
        each = tokens * self.top_k
        self.choices = [self.sorted(ids[at:at + each]) for at in range(0, inputs * each, each)]

    def sorted(self, ids):
        """(each row's expert and token, where an expert's rows end, (expert, begin, end) of those
        that have rows)."""
        by_expert, order = torch.tensor(ids).sort(stable=True)
        counts = torch.bincount(by_expert, minlength=self.experts)
        spans, at = [], 0
        for expert, count in enumerate(counts.tolist()):
            if count:
                spans.append((expert, at, at + count))
            at += count
        return (by_expert, order.div(self.top_k, rounding_mode="floor"),
                counts.cumsum(0).to(torch.int32), spans)

    def rows(self, number=0):
        """[T * K, H] of one input, sorted by expert."""
        _, token, ends, spans = self.choices[number % len(self.choices)]
        if self.peer == "grouped_mm":
            gathered = self.x.index_select(0, token)
            gate, up = layers.grouped_mm(gathered, self.gate_up.transpose(1, 2), ends).chunk(2, -1)
            return layers.grouped_mm(F.silu(gate) * up, self.down.transpose(1, 2), ends)
        found = []
        for expert, begin, end in spans:
            gate, up = F.linear(self.x.index_select(0, token[begin:end]),
                                self.gate_up[expert]).chunk(2, -1)
            found.append(F.linear(F.silu(gate) * up, self.down[expert]))
        return found

    def error(self):
        """Of a few rows beside double precision, relative to their norms."""
        found, (expert_of, token, _, _) = self.rows(), self.choices[0]
        found = found if torch.is_tensor(found) else torch.cat(found)
        worst = 0.0
        for row in {0, len(found) // 2, len(found) - 1}:
            expert = int(expert_of[row])
            gate, up = F.linear(self.x[token[row]].double(), self.gate_up[expert].double()).chunk(2, -1)
            want = F.linear(F.silu(gate) * up, self.down[expert].double())
            worst = max(worst, ((found[row].double() - want).norm() / want.norm()).item())
        return worst if math.isfinite(worst) else 1e30

    def run(self, seconds):
        samples = []
        self.rows()  # what another process left in caches is no sample
        end = time.perf_counter() + seconds
        while len(samples) < MOST_SAMPLES and (not samples or time.perf_counter() < end):
            begun = time.perf_counter()
            self.rows(len(samples))
            samples.append(1e3 * (time.perf_counter() - begun))
        samples.sort()
        return (samples[len(samples) // 2] + samples[(len(samples) - 1) // 2]) / 2, len(samples)


def serve(experts):
    for line in sys.stdin:
        word, *rest = line.split()
        if word == "tokens":
            experts.begin(int(rest[0]), int(rest[1]), [int(one) for one in rest[2:]])
            answer(tokens=int(rest[0]), error=experts.error())
        else:
            ms, samples = experts.run(float(rest[0]))
            answer(experts=ms, samples=samples)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", required=True)
    parser.add_argument("--peer", required=True, choices=("loop", "grouped_mm"))
    parser.add_argument("--dtype", default="bf16", choices=DTYPES)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    torch.set_num_threads(options.threads)
    if options.peer == "grouped_mm" and not (hasattr(F, "grouped_mm") or hasattr(torch, "_grouped_mm")):
        answer(unsuitable="this PyTorch has no grouped_mm")
        return
    shape = [int(size) for size in options.shape.split(":")]
    experts = Experts(shape, options.peer, DTYPES[options.dtype])
    answer(device=f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads, "
                  f"{torch.backends.cpu.get_cpu_capability()}")
    serve(experts)


if __name__ == "__main__":
    main()
