#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Compares the families' rows, lib/model/families*.c, with the configuration classes of the installed
transformers. For each of a row's model_types:

- every key of the class is read by the row, or refused unless it has one value (.refused), or
  without effect on a feed-forward layer: NO_EFFECT below for all models, .no_effect of the row;
- what the row takes where a key is left out is what the class has then, and a key that the class
  has none for (None) may be null in the row as well (key:value);
- the row names no keys that no class has.

usage: scripts/check_families.py [-v] [FAMILY...]

Needs transformers, and a C compiler, which expands the rows' macros. Exit code 1 where something
differs, 77 without transformers.
"""

import argparse
import dataclasses
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Keys of configuration classes that change nothing between a feed-forward layer's input and its
# output at inference, as regular expressions: of attention and state-space layers, embeddings,
# norms, the head, training, prediction of tokens behind the next one.
NO_EFFECT = re.compile("|".join(r"""
    (vocab_size|max_position_embeddings|position_embedding_type|embedding_multiplier|mup_enabled)
    (num_.*attention_heads.*|num_key_value_heads|head_dim|n_heads|num_heads|layer_types|qkv_bias|use_qk_norm)
    (attention_|attn_|attn_config\.|linear_|index_|indexer_|rope_|layer_rope_|no_rope_|rotary_|kda_|relative_attention_|kv_|d_kv).*
    ((use_)?sliding_window(_pattern)?|max_window_layers|global_attn_every_n_layers|partial_rotary_factor)
    (clip_qkv|q_lora_rank|qk_rope_head_dim|qk_nope_head_dim|qk_head_dim|v_head_dim)
    (mamba_|use_mamba|time_step_|conv_|short_conv_|ssm_).*|use_conv_bias
    (rms_norm_eps|norm_eps|layer_norm_eps|layer_norm_epsilon|residual_multiplier|residual_in_fp32)
    (tie_word_embeddings|lm_head_bias|logits_scaling|logit_scale|final_logit_softcapping|num_logits_to_keep|use_cache|pretraining_tp)
    (initializer_range|initializer_factor|init_std|rescale_prenorm_residual|.*dropout(_rate)?|.*_pdrop|.*_layerdrop)
    (output_router_logits|router_aux_loss_coef|aux_loss_coef|aux_loss_alpha|router_z_loss_coef)
    (router_jitter_noise|input_jitter_noise|router_ignore_padding_tokens|add_router_probs)
    (.*_token_id|is_decoder|is_encoder_decoder|add_cross_attention)
    (num_nextn_predict_layers|num_mtp_layers|mtp_.*)
""".split()))

# Members whose texts are no expressions.
PLAIN = {"name", "model_types", "section", "prefixes", "no_effect"}
PATTERNS = {"router", "router_bias", "correction_bias", "noise", "router_norm", "router_scale", "expert_scale",
            "shared_gate", "gate", "up", "gate_up", "down", "gate_bias", "up_bias", "gate_up_bias", "down_bias", "beside"}
LISTS = {"layer_types", "dense_layers", "moe_layers", "kinds"}
# Published keys which classes turn into others when they read a file, or read without naming them.
OF_FILES = {"first_k_dense_replace", "moe_layers_enum", "router_bias"}
# A file without them is refused, so that the row needs no default.
NEEDED = {"hidden_size", "num_layers", "step"}


# ---- the rows ----

TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[{},=]|\.\w+|[^\s{},=."]+)')


def parse(text):
    """C initializers: {.name = value, ...} or {value, ...} with strings and words."""
    tokens = TOKEN.findall(text)
    at = 0

    def value():
        nonlocal at
        if tokens[at] == "{":
            at += 1
            members, items = {}, []
            while tokens[at] != "}":
                if tokens[at].startswith("."):
                    name = tokens[at][1:]
                    assert tokens[at + 1] == "=", tokens[at:at + 3]
                    at += 2
                    members[name] = value()
                else:
                    items.append(value())
                at += tokens[at] == ","
            at += 1
            return members or items
        parts = []
        while tokens[at] not in "{},":
            parts.append(tokens[at])
            at += 1
        strings = [part[1:-1] for part in parts if part[0] == '"']
        return "".join(strings) if strings else None  # a flag, a number, an enumeration's value

    return value()


def read_rows():
    for path in sorted((ROOT / "lib/model").glob("families*.c")):
        run = subprocess.run([os.environ.get("CC", "cc"), "-E", "-P", f"-I{ROOT}/lib", f"-I{ROOT}/include",
                              path], capture_output=True, text=True, check=True)
        for rows in re.finditer(r"const family \w+\[\] = ", run.stdout):
            yield from parse(run.stdout[rows.end():])


def expressions(row, path=""):
    """(member, expression) of everything in a row that names keys."""
    for name, value in row.items():
        if value is None or name in PLAIN | PATTERNS:
            continue
        if isinstance(value, dict):
            yield from expressions(value, path + name + ".")
        elif isinstance(value, list):
            for item in value:
                yield from expressions(item, path + name + ".")
        else:
            yield path + name, value


@dataclasses.dataclass
class Term:
    member: str
    keys: list
    default: str | None  # the value where the key is not there
    null: str | None


def terms(row):
    """The keys that a row reads, with what their absence and null mean."""
    for member, text in expressions(row):
        last = member.rpartition(".")[2]
        if last == "refused":
            continue
        whole = last in LISTS | {"scoring_key", "scorings", "shared_combination", "groups_when",
                                 "activation", "second_choice"}
        for part in [text] if whole else re.split(r"[*/]|(?<![=:])(?<!\de)-", text):
            keys, default, null = re.fullmatch(r"([^=:]*)(?:=([^:]*))?(?::(.*))?", part).groups()
            if keys and not keys[0].isdigit():
                yield Term(last, keys.split("|"), null if default is None else default, null)


def refused(row):
    return [item.partition("=")[::2] for item in row.get("refused", "").split("|") if item]


# ---- the classes ----

class Configuration:
    """What a class says of its keys; a section's as section.key."""

    def __init__(self, cls, common):
        self.fields, self.values, self.aliases = [], {}, {}
        self.add(cls(), "", common)

    def add(self, made, prefix, common):
        made.allow_global_per_layer_attribute_access = True  # where layers may differ: the usual value
        for field in dataclasses.fields(made):
            if field.name in common:
                continue
            name, value = prefix + field.name, getattr(made, field.name)
            if dataclasses.is_dataclass(value):
                self.add(value, name + ".", common)
                continue
            self.fields.append(name)
            # As the constructor leaves it, and as it is declared: -1 may stand for another.
            self.values[name] = (value, field.default)
            if isinstance(value, dict):
                self.values |= {f"{name}.{key}": (item, item) for key, item in value.items()}
        for alias, name in made.attribute_map.items():
            self.aliases[prefix + alias] = prefix + name
        # What the constructor adds.
        self.values |= {prefix + key: (value, value) for key, value in vars(made).items()
                        if prefix + key not in self.values}

    def find(self, keys):
        """The class's own name of the first key that it has."""
        for key in keys:
            for name in (key, self.aliases.get(key)):
                if name in self.values:
                    return name
        return None


def text_class(cls, sections):
    """The class of the text model, where it is a section of another's: "a.b|a"."""
    for path in (sections or "").split("|"):
        made = cls()
        for name in path.split("."):
            made = getattr(made, name, None)
        if dataclasses.is_dataclass(made):
            return type(made)
    return cls


def same(text, values):
    """Does the row's text say one of the values?"""
    for value in values:
        if isinstance(value, (bool, int, float)):
            try:
                if float(text) == float(value):
                    return True
            except ValueError:
                pass
        elif text == value:
            return True
    return False


# ---- comparing ----

def compare_term(term, configuration):
    """What differs of one key that the row reads; None: nothing."""
    key = configuration.find(term.keys)
    if key is None or term.member in LISTS | {"groups_when", "scoring_key"}:
        return None
    values = configuration.values[key]
    if term.default is None:
        if term.member not in NEEDED and values[0] is not None:
            return f"{term.member}: {key} has no default, the class's is {values[0]!r}"
    elif values[0] is None:
        if term.null is None:
            return f"{term.member}: {key} is None in the class: write {key}:{term.default}"
    elif not same(term.default, values):
        return f"{term.member}: {key}={term.default}, the class's default is {values[0]!r}"
    return None


def compare(row, configuration):
    """What differs, a line each."""
    known = set(row.get("no_effect", "").split())
    for term in terms(row):
        names = [name for key in term.keys for name in (key, configuration.aliases.get(key)) if name]
        known |= set(names) | {name.rpartition(".")[0] for name in names}
        line = compare_term(term, configuration)
        if line:
            yield line
    for key, value in refused(row):
        known.add(key)
        values = configuration.values.get(key, (None,))
        if values[0] is not None and not same(value, values) if value else values[0]:
            yield f"refused: {key}={value}, the class's default is {values[0]!r}"
    for key in configuration.fields:
        if key not in known and not NO_EFFECT.fullmatch(key):
            yield f"{key} (default {configuration.values[key][0]!r}) is neither read nor refused nor without effect"


def names_of_none(row, configurations):
    """Keys of the row that no class has, where there is nothing else in their place."""
    for term in terms(row):
        if not any(configuration.find(term.keys) for configuration in configurations):
            if term.member != "scoring_key" and not OF_FILES & set(term.keys):
                yield f"{term.member}: no class has {'|'.join(term.keys)}"
    for key in row.get("no_effect", "").split():
        if not any(configuration.find([key]) for configuration in configurations):
            yield f"no_effect: no class has {key}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("-v", action="store_true", help="name what is compared")
    parser.add_argument("family", nargs="*")
    options = parser.parse_args()
    try:
        import transformers
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    except ImportError:
        print("transformers is not installed: nothing is compared")
        return 77
    transformers.logging.set_verbosity_error()
    common = {field.name for field in dataclasses.fields(transformers.PreTrainedConfig)}
    bad, compared, unknown = 0, 0, []
    for row in read_rows():
        if options.family and row["name"] not in options.family:
            continue
        configurations = []
        for model_type in row["model_types"].split("|"):
            if model_type not in CONFIG_MAPPING:
                unknown.append(model_type)
                continue
            cls = text_class(CONFIG_MAPPING[model_type], row.get("section"))
            configurations.append(Configuration(cls, common))
            compared += 1
            if options.v:
                print(f"{row['name']}: {model_type} is {cls.__name__}")
            for line in compare(row, configurations[-1]):
                print(f"{row['name']} ({model_type}): {line}")
                bad += 1
        for line in names_of_none(row, configurations) if configurations else ():
            print(f"{row['name']}: {line}")
            bad += 1
    print(f"{compared} classes of transformers {transformers.__version__} compared, {bad} differences"
          f"{'; it has no ' + ', '.join(unknown) if unknown else ''}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
