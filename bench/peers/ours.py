# SPDX-License-Identifier: MIT
"""moecl's side of the comparison: one `moectl run` a point."""

import pathlib
import subprocess

import floors

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"
SUSTAINED_ITERATIONS = (10, 5000)


def short_run(tokens):
    """(warm-up, iterations): fewer for large batches, whose every forward is long."""
    return (10, 30) if tokens < 1024 else (5, 15) if tokens < 4096 else (3, 10)


def command(moectl, shape, tokens, out, iterations, verify, device):
    warmup = short_run(tokens)[0]
    settings = shape.settings + (f"workload.num_tokens={tokens}", f"measure.warmup={warmup}",
                                 f"measure.iterations={iterations}",
                                 f"measure.verify={str(verify).lower()}")
    words = [str(moectl), "run", str(CONFIGS / shape.config), "--out", str(out), "--quiet"]
    if device:
        words += ["--device", device]
    for setting in settings:
        words += ["--set", setting]
    return words


class NoDevice(Exception):
    """moectl has nothing to run on: no point can be measured."""


NO_DEVICE = 3  # moectl's exit code for it


def run_once(words, out, shape, tokens, limit, log):
    log.write(f"\n$ {' '.join(words)}\n")
    log.flush()
    try:
        ran = subprocess.run(words, stdout=log, stderr=subprocess.PIPE, timeout=limit,
                             text=True, errors="replace")
    except subprocess.TimeoutExpired:
        return {"error": f"moectl took over {limit} s"}
    except OSError as error:
        return {"error": f"moectl did not start: {error}"}
    log.write(ran.stderr)
    log.flush()
    if ran.returncode == NO_DEVICE:
        raise NoDevice(ran.stderr.strip())
    try:
        return floors.read_ours((out / "results.json").read_text(), shape, tokens)
    except (OSError, ValueError, KeyError) as error:
        last = (ran.stderr.strip().splitlines() or [repr(error)])[-1]
        return {"error": f"moectl exited with {ran.returncode}: {last}"}


def run_point(options, shape, tokens, log):
    """{"ms", "min", "p90", "sustained_ms", ...} or {"error"}."""
    folder = options.out / "moectl" / f"{shape.name}-{tokens}"

    def run(name, iterations, verify):
        out = folder / name
        words = command(options.moectl, shape, tokens, out, iterations, verify, options.device)
        (out / "results.json").unlink(missing_ok=True)  # an older run's must not count
        return run_once(words, out, shape, tokens, options.limit, log)

    result = run("short", short_run(tokens)[1], tokens <= options.verify_tokens)
    if "ms" not in result or options.seconds <= 0:
        return result
    few, many = SUSTAINED_ITERATIONS
    count = int(min(max(options.seconds * 1000 / max(result["ms"], 1e-3), few), many))
    longer = run("sustained", count, False)
    if "ms" in longer:
        result["sustained_ms"] = longer["ms"]
    else:
        result["sustained_error"] = longer["error"]
    return result
