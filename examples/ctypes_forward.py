#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The layer of forward.c from Python, through ctypes alone.

usage: ctypes_forward.py [LIBRARY]     (libmoecl.so.0 where the loader finds it)

Structures have the members of include/moecl/, in order, `reserved` at their end: later
versions of the library take new members from there, so these stay right."""
import ctypes as c
import sys

T, H, I, E, K = 16, 128, 256, 8, 2  # tokens, sizes, experts, experts a token
F32, NORMAL, SWIGLU = 0, 0, 0  # moecl_dtype, moecl_distribution, moecl_activation
ROUTER_WEIGHT, GATE_UP_PROJ, DOWN_PROJ = 0, 2, 4  # moecl_tensor
LOG_FN = c.CFUNCTYPE(None, c.c_void_p, c.c_int, c.c_char_p)


def struct(name, reserved, *members):
    """A C struct: `members` are (type, "names of that type"), in order."""
    fields = [(one, kind) for kind, names in members for one in names.split()]
    return type(name, (c.Structure,), {"_fields_": fields + [("reserved", c.c_uint64 * reserved)]})


ContextParams = struct(
    "ContextParams", 8, (c.c_char_p, "device"), (LOG_FN, "log"), (c.c_void_p, "log_user"),
    (c.c_char_p, "kernel_dir cache_dir"), (c.c_bool, "disable_cache"))
LayerParams = struct(
    "LayerParams", 31,
    (c.c_int64, "hidden_size intermediate_size num_experts num_identity_experts top_k"),
    (c.c_int, "dtype weight_format activation"), (c.c_bool, "router_bias gate_up_bias down_bias"),
    (c.c_float, "swiglu_alpha swiglu_limit"), (c.c_int64, "shared_intermediate_size"),
    (c.c_bool, "shared_gate"), (c.c_float, "shared_swiglu_limit shared_scaling_factor"),
    (c.c_bool, "weight_on_input"), (c.c_int, "scoring"), (c.c_bool, "score_after_topk"),
    (c.c_float, "sparsemixer_jitter"), (c.c_bool, "renormalize"),
    (c.c_float, "renormalize_epsilon renormalize_minimum routed_scaling_factor"),
    (c.c_bool, "score_correction_bias"), (c.c_int64, "num_expert_group topk_group"),
    (c.c_int, "group_score"), (c.c_bool, "cut_groups_to_zero"), (c.c_int, "second_choice"),
    (c.c_bool, "router_noise"), (c.c_float, "jitter"), (c.c_double, "capacity_factor"),
    (c.c_bool, "capacity_of_tokens"), (c.c_int64, "min_capacity"), (c.c_int, "drop_policy"),
    (c.c_bool, "renormalize_after_capacity"), (c.c_char_p, "grouped_gemm_variant router_variant"),
    (c.c_int, "activation_format"))
ForwardParams = struct(
    "ForwardParams", 16, (c.c_int64, "num_tokens"), (c.c_void_p, "hidden_states output workspace"),
    (c.c_uint64, "seed"), (c.c_void_p, "wait_list"), (c.c_size_t, "wait_count"),
    (c.c_void_p, "profile"))
RandomParams = struct(
    "RandomParams", 4, (c.c_int, "dtype distribution"), (c.c_float, "scale"),
    (c.c_uint64, "seed stream first_index"))
RoutingStatistics = struct(
    "RoutingStatistics", 16,
    (c.c_double, "load_balancing_loss router_z_loss entropy max_mean_imbalance "
                 "coefficient_of_variation dropped_fraction padding_waste identity_fraction"),
    (c.c_int64, "nonfinite_tokens first_nonfinite_token nonfinite_score_tokens "
                "first_nonfinite_score_token zero_weight_tokens first_zero_weight_token"))
Routing = struct(
    "Routing", 16, (c.c_int64, "num_tokens num_experts top_k num_identity_experts"),
    (c.POINTER(c.c_float), "router_logits"), (c.POINTER(c.c_int32), "topk_ids"),
    (c.POINTER(c.c_float), "topk_weights"), (c.POINTER(c.c_uint8), "kept"),
    (c.POINTER(c.c_float), "token_priority"),
    (c.POINTER(c.c_int64), "tokens_per_expert tokens_per_expert_after_capacity"),
    (c.c_int64, "capacity"), (RoutingStatistics, "statistics"))


class Error(Exception):
    """A call of the library failed; its log said why."""


def load(path):
    """The library. Calls that return a status raise Error instead of an error's."""
    lib = c.CDLL(path)
    lib.moecl_status_string.restype = c.c_char_p
    lib.moecl_layer_variant.restype = c.c_char_p

    def check(status, function, _arguments):
        if status:
            raise Error(f"{function.__name__}: {lib.moecl_status_string(status).decode()}")

    p, pp, i64, u64 = c.c_void_p, c.POINTER(c.c_void_p), c.c_int64, c.c_uint64
    for name, *arguments in (
            ("moecl_context_create", c.POINTER(ContextParams), pp),
            ("moecl_layer_create", p, c.POINTER(LayerParams), pp),
            ("moecl_layer_set_weights", p, c.c_int, i64, i64, p),
            ("moecl_layer_forward", p, c.POINTER(ForwardParams), pp),
            ("moecl_layer_read_routing_wait", p, c.POINTER(Routing)),
            ("moecl_buffer_create", p, u64, pp),
            ("moecl_buffer_read_wait", p, u64, u64, p),
            ("moecl_buffer_write_wait", p, u64, u64, p),
            ("moecl_event_wait", p),
            ("moecl_random_host", p, u64, c.POINTER(RandomParams))):
        function = getattr(lib, name)
        function.argtypes, function.restype, function.errcheck = arguments, c.c_int, check
    for name in ("context", "layer", "buffer", "event"):
        function = getattr(lib, f"moecl_{name}_destroy")
        function.argtypes, function.restype = [pp], None
    lib.moecl_routing_destroy.argtypes = [c.POINTER(Routing)]
    lib.moecl_layer_variant.argtypes = [p, c.c_char_p, p]
    return lib


@LOG_FN
def print_log(_user, level, message):
    if level <= 1:  # MOECL_LOG_WARNING
        print(f"moecl: {message.decode()}", file=sys.stderr)


def random(lib, count, scale, stream):
    """`count` normal numbers, fp32."""
    values = (c.c_float * count)()
    lib.moecl_random_host(values, count, RandomParams(dtype=F32, distribution=NORMAL, scale=scale,
                                                      stream=stream))
    return values


def forward(lib, context, layer, handles):
    """One forward of random hidden states: the output, [T*H]."""
    states = random(lib, T * H, 1, 100)
    output = (c.c_float * (T * H))()
    source, result, done = c.c_void_p(), c.c_void_p(), c.c_void_p()
    handles += [("buffer", source), ("buffer", result), ("event", done)]
    lib.moecl_buffer_create(context, c.sizeof(states), source)
    lib.moecl_buffer_create(context, c.sizeof(output), result)
    lib.moecl_buffer_write_wait(source, 0, c.sizeof(states), states)
    lib.moecl_layer_forward(
        layer, ForwardParams(num_tokens=T, hidden_states=source, output=result), done)
    lib.moecl_event_wait(done)
    lib.moecl_buffer_read_wait(result, 0, c.sizeof(output), output)
    return output


def run(lib, handles):
    """Makes the layer, runs it and prints what came of it; what it makes is in `handles`."""
    context, layer = c.c_void_p(), c.c_void_p()
    handles += [("context", context), ("layer", layer)]
    lib.moecl_context_create(ContextParams(log=print_log), context)
    lib.moecl_layer_create(context, LayerParams(
        hidden_size=H, intermediate_size=I, num_experts=E, top_k=K, dtype=F32, activation=SWIGLU,
        renormalize=True), layer)
    for tensor, items, size in ((ROUTER_WEIGHT, 1, E * H), (GATE_UP_PROJ, E, 2 * I * H),
                                (DOWN_PROJ, E, H * I)):
        lib.moecl_layer_set_weights(layer, tensor, 0, items,
                                    random(lib, items * size, 0.1, tensor))
    output, routing = forward(lib, context, layer, handles), Routing()
    lib.moecl_layer_read_routing_wait(layer, routing)
    print("grouped GEMM:", lib.moecl_layer_variant(layer, b"grouped_gemm", None).decode())
    print("tokens per expert:", *routing.tokens_per_expert[:E])
    ids, weights = routing.topk_ids[:K], routing.topk_weights[:K]
    print(f"token 0: experts {ids[0]} {ids[1]}, weights {weights[0]:.4f} {weights[1]:.4f}, "
          f"output {output[0]:.4f} {output[1]:.4f} {output[2]:.4f}")
    lib.moecl_routing_destroy(routing)


def main():
    handles = []
    try:
        lib = load(sys.argv[1] if len(sys.argv) > 1 else "libmoecl.so.0")
        try:
            run(lib, handles)
        finally:
            for kind, handle in reversed(handles):
                getattr(lib, f"moecl_{kind}_destroy")(handle)  # NULL does nothing
    except (OSError, Error) as error:
        sys.exit(f"ctypes_forward.py: {error}")


if __name__ == "__main__":
    main()
