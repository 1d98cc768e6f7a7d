#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Does verification notice a kernel that is wrong? Runs moectl with copies of the
# kernels, one thing broken in each, and expects a point that failed.
# usage: bash test/cli/test_mutants.sh path/to/moectl path/to/cl
#
# A variant's self-check runs on small problems and would set a kernel aside that
# is wrong there, so that another one served rightly. What is broken here is
# broken only for tokens and loads beyond those of the self-checks.
#
# A thing that each variant does in its own way is broken in each, and one of what
# is broken must be what this device runs, by `moectl explain` and variants.def.
set -euo pipefail

moectl=$(realpath -- "${1:?usage: test_mutants.sh path/to/moectl path/to/cl}")
kernels=$(realpath -- "${2:?usage: test_mutants.sh path/to/moectl path/to/cl}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0

cat >"$work/layer.yaml" <<'YAML'
name: mutants
seed: 7
layer: {hidden_size: 24, intermediate_size: 20, num_experts: 4, top_k: 2}
dtype: fp32
workload: {num_tokens: 2000}
measure: {warmup: 0, iterations: 1, verify: true}
YAML

fail() {
  printf 'FAILED  %s: %s\n' "$1" "$2"
  tail -n 15 "$work/log" | sed 's/^/        | /'
  failed=$((failed + 1))
}

# run_with FOLDER [arguments]: leaves $code, $status (the point's, or nothing).
run_with() {
  local folder=$1
  shift
  rm -rf "$work/results"
  code=0
  MOECL_KERNEL_DIR=$folder MOECL_CACHE_DIR=$work/cache timeout 900 "$moectl" run "$work/layer.yaml" \
    --out "$work/results" "$@" >"$work/log" 2>&1 </dev/null || code=$?
  status=$(python3 -c '
import json, sys
print(json.load(open(sys.argv[1]))["points"][0]["status"])' "$work/results/results.json" 2>/dev/null) || true
}

# right NAME [arguments]: the kernels as they are verify.
right() {
  local name=$1
  shift
  run_with "$kernels" "$@"
  if [[ $code == 0 && $status == ok ]]; then
    printf 'ok      %s\n' "$name"
    passed=$((passed + 1))
  else
    fail "$name" "exit code $code, point '$status'"
  fi
}

# runs [arguments]: the files of the variants that serve here, one a line, and with "some " before it
# each file of any variant.
cat >"$work/runs.py" <<'PY'
import pathlib, re, sys
root = pathlib.Path(sys.argv[1])

def closure(name, seen):
    if name not in seen and (root / name).exists():
        seen.add(name)
        for other in re.findall(r'^\s*#\s*include "(.+?)"', (root / name).read_text(), re.M):
            closure(other, seen)
    return seen

variants = {}
for path in root.glob("*/variants.def"):
    for name, source in re.findall(r'VARIANT\("(\w+)", "(.+?)"', path.read_text()):
        variants.setdefault(path.parent.name, {})[name] = source
for step in re.findall(r"^ *\d+  \w+ +(\w+) +(\w+) ", sys.stdin.read(), re.M):
    source = variants.get(step[0], {}).get(step[1])
    if source:
        print(*sorted(closure(source, set())), sep="\n")
for operation, sources in variants.items():
    for source in sources.values():
        print(*(f"some {name}" for name in closure(source, set())), sep="\n")
PY
runs() {
  "$moectl" explain "$work/layer.yaml" "$@" 2>>"$work/log" | python3 "$work/runs.py" "$kernels"
}

# also FILE PATTERN REPLACEMENT: broken too, in the next `wrong`.
more=()
also() { more+=("$1" "$2" "$3"); }

# breaks FILE PATTERN REPLACEMENT, in $work/cl; fails where nothing changes.
breaks() {
  sed -E -i "s@$2@$3@" "$work/cl/$1"
  ! cmp -s "$kernels/$1" "$work/cl/$1"
}

# wrong NAME FILES PATTERN REPLACEMENT [arguments]: extended regular expressions,
# which must change every file.
wrong() {
  local name=$1 files=$2 pattern=$3 replacement=$4 file broken=() served=no here
  shift 4
  for file in $files; do more+=("$file" "$pattern" "$replacement"); done
  set -- "${more[@]}" -- "$@"
  more=()
  rm -rf "$work/cl"
  cp -r "$kernels" "$work/cl"
  : >"$work/log"
  while [[ $1 != -- ]]; do
    if ! breaks "$1" "$2" "$3"; then
      fail "$name" "nothing to break in $1: the pattern is out of date"
      return
    fi
    broken+=("$1")
    shift 3
  done
  shift
  here=$(runs "$@")
  for file in "${broken[@]}"; do
    # What is no variant's runs everywhere.
    if grep -qxF -- "$file" <<<"$here" || ! grep -qxF -- "some $file" <<<"$here"; then served=yes; fi
  done
  if [[ $served == no ]]; then
    fail "$name" "this device runs none of what is broken: ${broken[*]}; break its variant too"
    return
  fi
  run_with "$work/cl" "$@"
  if [[ $code == 1 && ($status == verify_failed || $status == error) ]]; then
    printf 'ok      %s: %s\n' "$name" "$(grep -E -m 1 'verification failed|could not be made' "$work/log")"
    passed=$((passed + 1))
  else
    fail "$name" "exit code $code, point '$status', expected 1 and a failed one"
  fi
}

# says NAME PATTERN: in what the last run printed.
says() {
  if grep -E -- "$2" "$work/log" >/dev/null; then
    printf 'ok      %s\n' "$1"
    passed=$((passed + 1))
  else
    fail "$1" "no line matches: $2"
  fi
}

if ! "$moectl" devices >/dev/null 2>&1; then
  echo 'skipped: there is no OpenCL device'
  exit 77
fi

narrow=(--set dtype=bf16 --set layer.intermediate_size=24)
block=(--set measure.what=block --set block.attention.num_heads=3
  --set block.attention.num_kv_heads=1 --set workload.num_tokens=700)
decode=("${block[@]}" --set workload.context=600 --set workload.num_tokens=3)
by_position=(--set layer.capacity.capacity_factor=0.5 --set layer.capacity.drop_policy=position)
by_probability=(--set layer.capacity.capacity_factor=0.5 --set layer.capacity.drop_policy=probability)
by_priority=(--set layer.capacity.capacity_factor=0.5 --set layer.capacity.drop_policy=prioritized
  --set layer.capacity.renormalize_after_capacity=true)

right "kernels as they are"
right "16 bits as they are" "${narrow[@]}"
right "capacity by position as it is" "${by_position[@]}"
right "capacity by probability as it is" "${by_probability[@]}"
right "capacity by priority as it is" "${by_priority[@]}"

wrong "combine adds up another slot's output" combine/generic.cl \
  'slot = (assignment_slot\[.*\]);' 'slot = \1 - (token >= 100 \&\& \1 > 0);'
wrong "combine forgets the last choice" combine/generic.cl \
  'if \(slot < 0\) continue;' 'if (slot < 0 || (token >= 100 \&\& k > 0)) continue;'
wrong "only the last token's output is wrong" combine/generic.cl \
  'ELEMENT_STORE\(OUTPUT\)\(sum\[i\],' \
  'ELEMENT_STORE(OUTPUT)(token >= 100 \&\& token + 1 == get_num_groups(0) / groups_per_token ? 1.0f : sum[i],'
wrong "a token's output is infinite, for no reason" combine/generic.cl \
  'ELEMENT_STORE\(OUTPUT\)\(sum\[i\],' 'ELEMENT_STORE(OUTPUT)(token == 1234 ? INFINITY : sum[i],'
says "that token is looked into, though no sample has it" \
  '1 of 2000 tokens have outputs that are not finite, though all exact numbers of token 1234 fit what they are stored as'
also combine/gpu.cl 'assignment_slot \+= token ' 'assignment_slot += (token - (token >= 100)) '
wrong "combine in 16 bits takes another token's outputs" combine/generic.cl \
  'slot = (assignment_slot\[.*\]);' 'slot = \1 - (token >= 100 \&\& \1 > 0);' "${narrow[@]}"
also router/nvidia_sm80.cl 'ids\[k\] = (chosen_id\[i\]);' \
  'ids[token >= 100 ? top_k - 1 - k : k] = \1;'
wrong "the choices' ids in reverse order" 'router/choose_token.clh router/generic.cl' \
  'topk_ids\[k\] = (best_id\[k\]|index\[0\]);' 'topk_ids[token >= 100 ? top_k - 1 - k : k] = \1;'
says "capacity is then not compared, and not called wrong" 'capacity not compared'
wrong "a count before capacity is one too many" permute/generic.cl \
  'tokens_per_expert\[e\] = base;' 'tokens_per_expert[e] = base + (e == 1 \&\& base > 400);' \
  "${by_position[@]}"
wrong "capacity drops the first token instead of the last" permute/generic.cl \
  'slot = expert_offsets\[e\] \+ rank;' \
  'slot = expert_offsets[e] + (expert_offsets[e + 1] - expert_offsets[e] < 400 ? rank : rank ? rank - 1 : 1 << 28);' \
  "${by_position[@]}"
wrong "capacity keeps the first weights, not the largest" permute/generic.cl \
  'larger \|\| \(tie && tie_rank < ties\)' \
  '(capacity < 400 ? larger || (tie \&\& tie_rank < ties) : i < capacity)' \
  "${by_probability[@]}"
wrong "the first tokens have priority" permute/generic.cl \
  'larger \|\| \(tie && tie_rank < ties\)' \
  '(capacity < 400 ? larger || (tie \&\& tie_rank < ties) : i < capacity)' \
  "${by_priority[@]}"
wrong "a token's priority is not its own" permute/priority.cl \
  'token_priority\[token\] = ' 'token_priority[token] = token > 1000 ? 0.5f : ' "${by_priority[@]}"
wrong "weights are renormalized over all choices" permute/kept_weights.cl \
  'sum \+= assignment_slot\[first \+ k\] >= 0' \
  'sum += assignment_slot[first + k] >= 0 || token > 1000' "${by_priority[@]}"

# Few tokens, whose choices and lists are made in one launch with their logits, or where those are
# others' in one launch without them: what this device does by itself, or by the portable router.
at_once=("${narrow[@]}" --set workload.num_tokens=200)
if ! runs "${at_once[@]}" | grep '^route/' >/dev/null; then
  at_once+=(--set layer.router.router_variant=by_block)
fi
listed=("${at_once[@]}" --set workload.num_tokens=30 --set layer.router.jitter=0.1)
choices() { # NAME [arguments]
  also router/nvidia_sm80.cl 'ids\[k\] = (chosen_id\[i\]);' 'ids[token >= 25 ? top_k - 1 - k : k] = \1;'
  wrong "$1" router/choose_token.clh \
    'topk_ids\[k\] = (best_id\[k\]);' 'topk_ids[token >= 25 ? top_k - 1 - k : k] = \1;' "${@:2}"
}

right "few tokens, listed with their choice, as they are" "${listed[@]}"
choices "ids of few tokens in reverse order" "${listed[@]}"
wrong "few tokens' lists begin a slot late" router/by_block.clh \
  'start\[e\] = 0;' 'start[e] = e == 1 \&\& num_tokens > 20;' "${listed[@]}"
if runs "${at_once[@]}" | grep '^route/' >/dev/null; then
  right "few tokens, routed at once, as they are" "${at_once[@]}"
  also route/nvidia_sm80.cl 'x = hidden \+ \(long\)g ' 'x = hidden + (experts == 4 \&\& get_group_id(0) > 8 ? 0 : (long)g) '
  wrong "logits at once are another token's" route/by_block.cl \
    'row = (of_weights \? r - BLOCK_TOKENS) : r;' 'row = \1 : experts == 4 \&\& get_group_id(0) > 8 ? 0 : r;' "${at_once[@]}"
  choices "ids of tokens routed at once in reverse order" "${at_once[@]}"
  wrong "lists at once give two tokens one slot" route/route.clh \
    '(start\[e\] \+ count_before\(.*, t\));' '\1 - (t == 150 \&\& start[e] > 0);' "${at_once[@]}"
else
  printf 'no check of routing at once: no variant of it serves here\n'
fi

right "a block as it is" "${block[@]}"
right "a block in bf16 as it is" "${block[@]}" --set dtype=bf16
right "a step after a context as it is" "${decode[@]}"

wrong "attention forgets the first token" attention/attention.clh \
  'position - window \+ 1 : 0;' 'position - window + 1 : position > 400;' "${block[@]}"
wrong "attention forgets the token itself" attention/attention.clh \
  'return position \+ 1;' 'return position + 1 - (position == 699);' "${block[@]}"
wrong "attention looks at few tokens, in bf16" attention/attention.clh \
  'position - window \+ 1 : 0;' 'position - window + 1 : position > 400 ? position - 8 : 0;' \
  "${block[@]}" --set dtype=bf16
wrong "positions are off by one" rotary/generic.cl \
  '(position = \(ulong\)context \+ token);' '\1 + (token > 400);' "${block[@]}"
wrong "a cached token is not looked at" attention/attention.clh \
  'position - window \+ 1 : 0;' 'position - window + 1 : position > 590;' "${decode[@]}"
wrong "values go to another token" rotary/generic.cl \
  'value_at\(\(ulong\)\(head \+ h\), \(ulong\)capacity, position\)' \
  'value_at((ulong)(head + h), (ulong)capacity, position - (position > 590))' "${decode[@]}"

printf '%d checks passed, %d failed\n' "$passed" "$failed"
((failed == 0))
