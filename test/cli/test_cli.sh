#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Uses moectl as a person would and checks what they get: output, exit codes,
# files. usage: bash test/cli/test_cli.sh path/to/moectl
set -euo pipefail

# shellcheck source=test/cli/checks.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/checks.sh"

# --- what needs no device -----------------------------------------------------------

test_usage() {
  call
  expect "no arguments: usage, exit 2" 2 'moectl run'
  call help
  expect "help" 0 'moectl run'
  call --help
  expect "--help" 0 'moectl run'
  local topic
  for topic in experiment results comparing devices environment exit-codes; do
    call help "$topic"
    expect "help $topic" 0
  done
  call help no-such-topic
  expect "help on an unknown topic, exit 2" 2 'no-such-topic'
  local command
  for command in run check explain compare inspect verify devices completion; do
    call help "$command"
    expect "help $command" 0 "^moectl $command"
    cp "$work/out" "$work/help"
    call "$command" --help
    expect "$command --help" 0
    holds "both are the same" bash -c "diff <(sed '/^$/q' '$work/help') <(sed '/^$/q' '$work/out')"
    holds "help $command fits 80 columns" bash -c "! sed -n '1,/Options:/d; p' '$work/out' | grep '.\{81\}'"
  done
  call help devices
  expect "help devices tells how one is chosen, too" 0 '^Choosing a device'
  call rnu
  expect "a misspelt command is suggested, exit 2" 2 "no command 'rnu'; did you mean 'run'\?"
  call help reslts
  expect "a misspelt topic is suggested, exit 2" 2 "did you mean 'moectl help results'\?"
  call run --itrations 3
  expect "a misspelt option is suggested, exit 2" 2 "did you mean '--iterations'\?"
  call --version
  expect "--version" 0 '^moectl [0-9]+\.[0-9]+'
  call frobnicate
  expect "unknown command, exit 2" 2 'frobnicate'
  call run
  expect "run without a file, exit 2" 2 'file'
  call check
  expect "check without a file, exit 2" 2 'file'
  call run --no-such-option "$work/tiny.yaml"
  expect "unknown option, exit 2" 2 '--no-such-option'
  call run "$work/tiny.yaml" --out
  expect "option without its value, exit 2" 2 '--out'
}

# full NAME CODE [arguments]: stdout that takes nothing is told once, on stderr.
full() {
  local name=$1 want=$2
  shift 2
  code=0
  : >"$work/out"
  timeout 900 "$moectl" "$@" >/dev/full 2>"$work/err" </dev/null || code=$?
  expect "$name" "$want" 'not all output could be written: No space left'
  holds "$name, told once" bash -c "[[ \$(grep -c 'could be written' '$work/err') == 1 ]]"
}

test_full_stdout() {
  [[ -c /dev/full ]] || { skip "output that cannot be written: there is no /dev/full" && return; }
  full "--version into a full disk, exit 1" 1 --version
  full "help into a full disk, exit 1" 1 help
  full "help experiment into a full disk, exit 1" 1 help experiment
  full "check into a full disk, exit 1" 1 check "$work/tiny.yaml"
  full "no arguments into a full disk stay exit 2" 2
}

# The same for the commands that need a device.
test_full_stdout_on_device() {
  [[ -c /dev/full ]] || return 0
  full "devices into a full disk, exit 1" 1 devices
  full "devices --json into a full disk, exit 1" 1 devices --json
  full "run into a full disk, exit 1" 1 run "$work/tiny.yaml" --quiet --out "$work/full-stdout"
  expect "and where its results are" 1 "^moectl: not all output .*; the results are in $work/full-stdout\$"
  json_holds "its results are there" "$work/full-stdout" "len(r['points']) == 1"
}

test_check() {
  local file
  for file in "$root"/configs/*.yaml; do
    OCL_ICD_VENDORS=/nonexistent call check "$file"
    expect "check configs/${file##*/}" 0
    holds "no warning about configs/${file##*/}" test ! -s "$work/err"
  done
  # A device is no part of an experiment's validity.
  OCL_ICD_VENDORS=/nonexistent call check "$work/tiny.yaml"
  expect "check without any device" 0 'no OpenCL device here: nothing about one was checked'
  OCL_ICD_VENDORS=/nonexistent call check "$work/tiny.yaml" "$work/no-such-file.yaml" "$root/configs/quickstart.yaml"
  expect "check of several files: the first code that is not 0" 2 'no-such-file.yaml: cannot be read'
  holds "check of several files: each is told" grep -qE "^$work/tiny.yaml: ok" "$work/out"
  holds "check of several files: those behind a bad one too" grep -qE "quickstart.yaml: ok, .* 4 points" "$work/out"
  OCL_ICD_VENDORS=/nonexistent call check "$work/tiny.yaml" --device cpu
  expect "check --device without any, exit 3" 3 '[Dd]evice'
}

# A driver that can't write its cache lists no device: that is not "install one".
test_no_home() {
  local XDG_CACHE_HOME POCL_CACHE_DIR # unset, until this returns
  HOME=/dev/null call devices
  if ((code == 0)); then
    skip "no device where HOME cannot be written: this driver lists one"
    return
  fi
  expect "devices where HOME cannot be written, exit 3" 3 '/dev/null/\.cache cannot be written'
  HOME=/dev/null call run "$work/tiny.yaml" --out "$work/never"
  expect "run where HOME cannot be written, exit 3" 3 '/dev/null/\.cache cannot be written'
  OCL_ICD_VENDORS=/nonexistent call devices
  holds "nothing is said of a cache that can be written" \
    bash -c "! grep 'cannot be written' '$work/err'"
}

# Plans, before anything is built: from the public API alone, so of any device.
test_explain() {
  call explain "$work/tiny.yaml" --set 'layer.top_k=[1, 2]' --set 'seed=[1, 2]'
  expect "explain" 0 "^\\[1/4\\] "
  holds "explain: the ways that are taken, and why" grep -E '^  routing: .* \(.*\)$' "$work/out"
  holds "explain: every step once" bash -c \
    "[[ \$(grep -cE '^ +[0-9]+  gate_up +grouped_gemm +[a-z0-9_]+ +1  ' '$work/out') == 2 ]]"
  holds "explain: points that differ in their seed alone are told once" bash -c \
    "[[ \$(grep -c 'as a point above' '$work/out') == 2 ]]"
  holds "explain: memory" grep -E '^  weights .* workspace .* each$' "$work/out"
  call explain "$work/tiny.yaml" --set layer.router.router_variant=by_block \
    --set layer.router.jitter=0.1 --set 'workload.num_tokens=[32, 33]'
  holds "explain: a router by blocks permutes few tokens" grep -E '^  routing: fused \(' "$work/out"
  holds "explain: and counts more" grep -E '^  routing: counted \(' "$work/out"
  holds "explain builds nothing" bash -c "! grep -i 'variant.*set aside\|passes its self-check' '$work/err'"
  call explain "$work/tiny.yaml" --set layer.grouped_gemm_variant=generik
  expect "explain with a misspelt variant, exit 2" 2 "did you mean 'generic'\\?"
  call explain "$work/tiny.yaml" --device no-such-device
  expect "explain --device no-such-device, exit 3" 3 'no-such-device'
}

# Experts' weights of a format of their own: drawn and dumped, and read from a checkpoint.
test_weight_format() {
  call run "$work/tiny.yaml" --set layer.weight_format='[bf16, fp16]' --dump --out "$work/formats"
  expect "run with 16-bit weights beside fp32" 0 'bf16'
  holds "its dump has both types" python3 -c "
import json, struct
for point, want in ((0, 'BF16'), (1, 'F16')):
    file = open('$work/formats/point-%03d.safetensors' % point, 'rb')
    header = json.loads(file.read(struct.unpack('<Q', file.read(8))[0]))
    assert header['experts.down_proj']['dtype'] == want, header
    assert header['router.weight']['dtype'] == header['hidden_states']['dtype'] == 'F32', header"
  cat >"$work/narrow.yaml" <<YAML
layer: {checkpoint: $root/test/golden/families/mixtral, layer: 0, weight_format: bf16}
dtype: fp32
workload: {num_tokens: 8}
measure: {warmup: 0, iterations: 1, rounds: 1}
YAML
  call run "$work/narrow.yaml" --dump --out "$work/narrow"
  expect "a checkpoint's weights as bf16 beside fp32: verified to fp32's tolerance" 0 'e-07'
}

# Rows of 8-bit codes: what they cost, beside a row of none.
test_activation_format() {
  call run "$work/tiny.yaml" --set 'layer.activation_format=[dtype, int8, fp8-row]' \
    --out "$work/rows"
  expect "run with rows rounded to 8 bits" 0 'fp8-row'
  holds "verified, fp8 errs more than int8, and dtype not at all" python3 -c "
import json
points = [point['verify'] for point in json.load(open('$work/rows/results.json'))['points']]
assert all(verify['ok'] for verify in points), points
none, int8, fp8 = (verify['weight_error'] for verify in points)
assert none is None and 0.002 < int8 < 0.02 < fp8 < 0.1, (none, int8, fp8)"
  call check "$work/tiny.yaml" --set layer.activation_format=fp8-block
  expect "rows of 128 x 128 blocks, exit 2" 2 'expected one of dtype, int8, int8-g128, fp8-row, fp8-g128'
}

# Experts on several devices, here contexts of one, and what stands in the way.
test_parallel() {
  call run "$work/tiny.yaml" --set 'parallel.experts=[null, 1, 3]' --set layer.batch_invariant=true \
    --set layer.capacity.capacity_factor=1 --out "$work/parallel"
  expect "run with experts on three members" 0 'experts=3.*verified'
  holds "what each device did is there, and adds up" python3 -c "
import json
points = json.load(open('$work/parallel/results.json'))['points']
assert 'parallel' not in points[0], points[0]
for point, count in zip(points[1:], (1, 3)):
    members = point['parallel']['members']
    assert len(members) == count and point['verify']['ok'], point
    assert sum(m['num_tokens'] for m in members) == point['params']['num_tokens'], members
    assert sum(m['rows'] for m in members) == sum(
        point['routing']['tokens_per_expert_after_capacity']), members
    sent = sum(m['bytes_sent'] for m in members)
    assert sent == sum(m['bytes_received'] for m in members) == point['parallel']['sent_bytes']
    assert (sent > 0) == (count > 1), members
    choices = 8 * point['params']['top_k'] * point['params']['num_tokens'] * (count - 1)
    for key in ('choice_bytes_sent', 'choice_bytes_received'):
        assert sum(m[key] for m in members) == choices, members
    assert sum(m['copied_bytes'] for m in members) == 2 * (sent + choices), members"
  holds "the report shows them" grep -q '^## Devices' "$work/parallel/report.md"
  call run "$work/tiny.yaml" --set parallel.experts=2 --set 'devices=[0:0, 99:99]' \
    --out "$work/parallel-none"
  expect "a member's device that is not there" 1 'the layer could not be made: .*99:99'
  printf 'parallel:\n  experts: 2\n  transport: hots\ndevices: [0:0, 99:99]\n' |
    cat "$work/tiny.yaml" - >"$work/unknown.yaml"
  local line
  line=$(grep -n 'transport: hots' "$work/unknown.yaml" | cut -d: -f1)
  call check "$work/unknown.yaml"
  expect "check: a transport that there is not" 2 \
    "unknown.yaml:$line:[0-9]+: parallel.transport: there is no transport 'hots'; expected nvidia_peer, host, nvidia_copy, or auto; did you mean 'host'"
  expect "check: and a device" 2 \
    "unknown.yaml:$((line + 1)):[0-9]+: devices: there is no device '99:99' here; expected .* 0:0 \\("
  call explain "$work/unknown.yaml"
  expect "explain: likewise" 2 "there is no device '99:99' here"
  call run "$work/unknown.yaml" --out "$work/unknown"
  expect "run: the transport" 2 "there is no transport 'hots'"
  call explain "$work/tiny.yaml" --set parallel.experts=2 --set parallel.transport=host \
    --set parallel.chunks=2
  expect "explain tells the group" 0 \
    'a group of 2 members, rows by host, in one process; placement even, replicas 0, chunks 2'
  holds "explain: and says that the plan is one device's" grep -q "what is told is one device's plan" \
    "$work/out"
  call explain "$work/tiny.yaml" --set parallel.experts=2 --set 'layer.top_k=[1, 2]' --set 'seed=[1, 2]'
  expect "explain tells the group of each plan" 0 'a group of 2 members, rows by [a-z]'
  holds "explain: and of a plan once" bash -c "[ \$(grep -c 'a group of' '$work/out') = 2 ]"
  call explain "$work/tiny.yaml" --set parallel.experts=2 --set parallel.transport=nvidia_peer
  expect "explain with a transport that does not serve, exit 1" 1 'the group could not be made: '
  call run "$work/tiny.yaml" --set parallel.experts=2 --set parallel.transport=nvidia_peer \
    --out "$work/no-transport"
  expect "run: it is no variant that was asked for" 1 \
    "could not be made: what was asked for is not supported here: group: the transport 'nvidia_peer' cannot serve here: "
  holds "help: auto is never a transport that has to be named" bash -c \
    "'$moectl' help experiment | tr -s ' \\n' ' ' | grep -q 'auto: the best that serves, never nvidia_copy'"
  holds "help: a transport that is named and does not serve is an error" bash -c \
    "'$moectl' help experiment | tr -s ' \\n' ' ' | grep -q 'One that is named and serves no two members, or not those of one process, is an error'"
  holds "help: transports in the order in which they are tried" bash -c \
    "'$moectl' help experiment | tr -s ' \\n' ' ' | grep -q 'member: nvidia_peer, host, nvidia_copy'"
  call profile "$work/tiny.yaml" --set parallel.experts=2 --out "$work/parallel-profile"
  expect "a profile of several devices, exit 2" 2 'a profile is of one device'
  call check "$work/tiny.yaml" --set parallel.experts=2 --set measure.what=block \
    --set block.attention.num_heads=4
  expect "a block on several devices, exit 2" 2 'parallel.experts: expected null where blocks'
}

# Where experts are: by a list, by what a run found that they have to do, with copies of some.
test_placement() {
  local four=(--set layer.num_experts=4 --set layer.top_k=2 --set parallel.experts=2 --set measure.warmup=0
    --set 'devices=[0:0, 0:0]')
  echo '[[3, 1], [0, 2, 1]]' >"$work/lists.json"
  call run "$work/tiny.yaml" "${four[@]}" --set parallel.placement=file \
    --set "parallel.placement_file=$work/lists.json" --out "$work/placement-lists"
  expect "run with lists of experts" 0 verified
  call run "$work/tiny.yaml" "${four[@]}" --set 'parallel.placement=[file, capacity]' \
    --set "parallel.placement_file=$work/placement-lists/results.json" --set 'parallel.replicas=[0, 1]' \
    --out "$work/placement-loads"
  expect "run with loads of experts, and a copy of one" 0 'replicas=1.*verified'
  holds "experts are where they should be" python3 -c "
import json
read = lambda name: json.load(open('$work/placement-' + name + '/results.json'))['points']
[lists], points = read('lists'), read('loads')
experts = lambda point: [member['experts'] for member in point['parallel']['members']]
assert experts(lists) == [2, 3], lists
assert sorted(sum(experts(point)) for point in points) == [4, 4, 5, 5], points
for point in points: assert point['parallel']['member_imbalance'] >= 1, point"
  call run "$work/tiny.yaml" "${four[@]}" --set layer.router.weight_on_input=true \
    --set 'parallel.dispatch_format=[dtype, fp8-g128]' --out "$work/rounded"
  expect "rows sent as fp8, as the reference rounds them" 0 'dispatch_format=fp8-g128.*verified'
  holds "they are fewer bytes, and their error is told" python3 -c "
import json
plain, rounded = json.load(open('$work/rounded/results.json'))['points']
assert rounded['parallel']['sent_bytes'] < plain['parallel']['sent_bytes']
assert 0.001 < rounded['verify']['weight_error'] < 0.1 and plain['verify']['weight_error'] is None"
  call check "$work/tiny.yaml" "${four[@]}" --set parallel.placement=file
  expect "a placement without its file, exit 2" 2 "'file' needs parallel.placement_file"
}

test_offload() {
  call run "$work/tiny.yaml" --set parallel.placement=offload --set 'parallel.cache=[1, 0.5, null]' \
    --set layer.num_experts=8 --out "$work/offload"
  expect "run with experts in the host's memory" 0 'cache=0.5.*verified'
  holds "what the cache did is there" python3 -c "
import json
points = json.load(open('$work/offload/results.json'))['points']
assert [p['offload']['places'] for p in points] == [1, 4, 8], points
for point in points:
    offload = point['offload']
    assert point['verify']['ok'] and (offload['hit_rate'] == 1) == (offload['moved_bytes'] == 0)
assert points[2]['offload']['hit_rate'] == 1 and points[0]['offload']['hit_rate'] < 1, points"
  holds "the report shows it" grep -q "^## Experts in the host's memory" "$work/offload/report.md"
  call run "$work/tiny.yaml" --set parallel.placement=offload --set parallel.experts=1 \
    --set parallel.dispatch_format=fp8-g128 --out "$work/unsent"
  expect "nothing is sent to experts of one device, so nothing is rounded" 0 'verified'
  expect "which is said" 0 "dispatch_format has no effect with 'placement: offload'"
  call check "$work/tiny.yaml" --set parallel.placement=offload --set parallel.experts=1 \
    --set parallel.cache=3 --set devices=0:7
  expect "other devices have none of its experts" 0 "devices has no effect with 'placement: offload'"
  call check "$work/tiny.yaml" --set parallel.placement=offload --set parallel.cache=1
  expect "check tells the host's memory" 0 "and .* of the host's memory"
  call explain "$work/tiny.yaml" --set parallel.placement=offload --set parallel.cache=1
  expect "explain tells the way and the host's memory" 0 'experts: in rounds'
  for wrong in parallel.experts=2 parallel.cache=100 "measure.what=block"; do
    call check "$work/tiny.yaml" --set parallel.placement=offload --set "$wrong" \
      --set block.attention.num_heads=4
    expect "offload with $wrong, exit 2" 2 'parallel\.(placement|cache): .*expected'
  done
  call check "$work/tiny.yaml" --set parallel.cache=2
  expect "a cache without offload" 0 "parallel.cache has no effect without 'placement: offload'"
}

# What a run would refuse on the device, check refuses too, with the same exit code.
test_check_on_device() {
  call check "$work/tiny.yaml" --set 'layer.top_k=[1, 2]' --iterations 2
  expect "check on a device" 0 "^on 0:0, .*memory as its driver states"
  holds "check: memory and time of each point" bash -c \
    "[[ \$(grep -cE '^ *[0-9.]+ [KMG]iB +[0-9.]+ s  top_k=[12]\$' '$work/out') == 2 ]]"
  holds "check: the time of all" grep -E '^in all about [0-9]+ s' "$work/out"
  local what
  for what in "check" "run --out $work/never"; do
    # shellcheck disable=SC2086 # a command and its options
    set -- $what
    call "$1" "$work/tiny.yaml" "${@:2}" --device no-such-device
    expect "$1 --device no-such-device, exit 3" 3 'no-such-device'
    call "$1" "$work/tiny.yaml" "${@:2}" --set device=no-such-device
    expect "$1 with another device in the file, exit 3" 3 'no-such-device'
    call "$1" "$work/tiny.yaml" "${@:2}" --set layer.grouped_gemm_variant=generik
    expect "$1 with a misspelt variant, exit 2" 2 \
      "layer\.grouped_gemm_variant: 'generik' does not serve fp32 on .* did you mean 'generic'\\?"
    call "$1" "$work/tiny.yaml" "${@:2}" --set 'layer.router.router_variant=[auto, nix]' \
      --set layer.grouped_gemm_variant=nix --set 'dtype=[fp32, bf16]'
    expect "$1 with unknown variants, exit 2" 2 "layer\.router\.router_variant: 'nix' does not serve bf16"
    holds "each is told once" bash -c "[[ \$(grep -c \"'nix' does not serve\" '$work/err') == 4 ]]"
    call "$1" "$work/tiny.yaml" "${@:2}" --set layer.router.router_variant=nix \
      --set layer.grouped_gemm_variant=nix --set dtype=bf16 --set 'layer.weight_format=[fp16, fp32]'
    expect "$1 with unknown variants of weights' formats, exit 2" 2 \
      "layer\.router\.router_variant: 'nix' does not serve bf16"
    holds "the experts' are those that weights are stored in" bash -c \
      "[[ \$(grep -o \"grouped_gemm_variant: 'nix' does not serve [a-z0-9]*\" '$work/err' | grep -o '[^ ]*\$' | sort | paste -sd ' ') == 'fp16 fp32' ]]"
    call "$1" "$work/tiny.yaml" "${@:2}" --set layer.hidden_size=65536 \
      --set layer.intermediate_size=65536 --set layer.num_experts=1024
    expect "$1 of what does not fit, exit 2" 2 \
      'needs 48\.[0-9]+ TiB of memory, but the driver of .* states '
    holds "it is told how to go on all the same" grep -e --ignore-memory-limit "$work/err"
    holds "and what else there is" grep -e "parallel.experts.*placement: offload.*parallel.cache" "$work/err"
    call "$1" "$work/tiny.yaml" "${@:2}" --set layer.hidden_size=65536 --set layer.top_k=1 \
      --set layer.intermediate_size=65536 --set 'layer.num_experts=[1024, 1023, 1022, 1021, 1020, 1019, 1018]'
    expect "$1 of many that do not fit: the others are counted" 2 '^moectl: and so do 2 more points$'
    holds "five are told, by what tells them apart" bash -c \
      "[[ \$(grep -c '^moectl: point [0-4] (num_experts=10[0-9]*) needs 4[78]\.' '$work/err') == 5 ]]"
  done
  holds "nothing was written" test ! -e "$work/never"
  call check "$work/tiny.yaml" --set layer.hidden_size=65536 --set layer.intermediate_size=65536 \
    --set layer.num_experts=1024 --ignore-memory-limit
  expect "check --ignore-memory-limit" 0 '48\.[0-9]+ TiB'
  write_tiny "$work/filed.yaml"
  sed -i 's/num_tokens: 16/num_tokens: 16, distribution: file, file: nix.npy/' "$work/filed.yaml"
  call check "$work/filed.yaml"
  expect "workload.file: its line is told" 2 'filed\.yaml:12:54: workload\.file: .*nix\.npy: '
  call run "$work/filed.yaml" --out "$work/never"
  expect "run tells it, too" 2 'filed\.yaml:12:54: workload\.file: .*nix\.npy: '
}

# bad NAME PATTERN: the YAML on stdin is refused, naming file, line and column.
bad() {
  cat >"$work/bad.yaml"
  call check "$work/bad.yaml"
  expect "$1" 2 "bad\.yaml:[0-9]+:[0-9]+: .*$2"
}

test_warnings() {
  write_tiny "$work/warned.yaml"
  sed -i 's/capacity_factor: null/drop_policy: probability/' "$work/warned.yaml"
  call check "$work/warned.yaml"
  expect "a key without effect: a warning, exit 0" 0 'warned\.yaml:10:27: warning: layer\.capacity\.drop_policy'
  OCL_ICD_VENDORS=/nonexistent call run "$work/warned.yaml" --out "$work/never"
  expect "run warns too" 3 'warned\.yaml:10:27: warning: layer\.capacity\.drop_policy'
}

test_bad_yaml() {
  bad "broken YAML: file, line, column" '' <<<'layer: {hidden_size: 8'
  bad "an empty file" '' <<<''
  bad "a list at the top" '' <<<'[1, 2]'
  write_tiny "$work/typo.yaml"
  bad "unknown key: the nearest one is suggested" 'hidden_size' \
    < <(sed 's/hidden_size/hiden_size/' "$work/typo.yaml")
  bad "wrong type" 'num_tokens' < <(sed 's/num_tokens: 16/num_tokens: many/' "$work/typo.yaml")
  bad "zero size" 'hidden_size' < <(sed 's/hidden_size: 24/hidden_size: 0/' "$work/typo.yaml")
  bad "K > E" 'top_k' < <(sed 's/top_k: 2/top_k: 5/' "$work/typo.yaml")
  bad "the same key twice" 'dtype' < <(cat "$work/typo.yaml" && echo 'dtype: fp16')
  bad "a value out of its range" '' < <(sed 's/top_k: 2/top_k: -1/' "$work/typo.yaml")
  holds "the line and column are the value's" grep -E 'bad\.yaml:7:10: ' "$work/err"
  call check "$work/no-such-file.yaml"
  expect "a missing file, exit 2" 2 'no-such-file\.yaml'
  call check "$work"
  expect "a folder for a file, exit 2" 2
  call check "$work/tiny.yaml" --set layer.top_k=99
  expect "--set layer.top_k=99 refused" 2 'top_k'
  call check "$work/tiny.yaml" --set layer.top_q=1
  expect "--set with an unknown key" 2 'top_k'
  call check "$work/tiny.yaml" --iterations none
  expect "--iterations is checked as the key is" 2 'measure\.iterations: expected an integer from 1'
  call check "$work/tiny.yaml" --set 'layer.top_k=[1, 2]'
  expect "--set with a list sweeps" 0 '2 points'
  call run "$work/bad.yaml" --out "$work/never"
  expect "run refuses what check refuses" 2
  holds "nothing was written" test ! -e "$work/never"
}

test_no_device() {
  OCL_ICD_VENDORS=/nonexistent call run "$work/tiny.yaml" --out "$work/never"
  expect "run without a device, exit 3" 3 '[Dd]evice'
  OCL_ICD_VENDORS=/nonexistent call devices
  expect "devices without a device, exit 3" 3 '[Dd]evice'
  OCL_ICD_VENDORS=/nonexistent call devices --json
  holds "devices --json stays JSON" python3 -m json.tool "$work/out"
}

# --- what needs one --------------------------------------------------------------------

test_devices() {
  local name=$1
  call devices
  expect "devices" 0
  holds "devices lists $name" grep -F -- "$name" "$work/out"
  holds "devices fits 80 columns" bash -c "! grep '.\{81\}' '$work/out'"
  holds "devices tells the variants" grep -E '^ +grouped GEMM +[a-z].* \(best last\)$' "$work/out"
  call devices --json
  expect "devices --json" 0
  holds "devices --json: what matters is there" python3 -c '
import json, sys
for d in json.load(open(sys.argv[1])):
    for key in ("type name driver opencl_c_version global_memory_bytes max_allocation_bytes "
                "local_memory_bytes subgroup_size fp16 matrix").split():
        assert key in d, key
    assert any("variants" in key for key in d)' "$work/out"
  # Those of every format, so of fp32 too, whose kernel for wgmma takes nothing else.
  holds "devices --json: variants of all formats" python3 -c '
import json, sys
for d in json.load(open(sys.argv[1])):
    names = d["grouped_gemm_variants"]
    assert len(set(names)) == len(names) and "serial" in names, d
    assert ("nvidia_sm90" in names) == ("nvidia_sm90_tf32" in names), d' "$work/out"
  # The GEMM for wgmma serves where a probe ran it, so the two go together.
  holds "devices --json: matrix units as the variants need them" python3 -c '
import json, sys
for d in json.load(open(sys.argv[1])):
    assert d["matrix"] in ("none", "mma.sync (PTX)", "wgmma (PTX)", "MFMA", "WMMA",
                           "matrix_mad (sub-groups of 8)",
                           "matrix_mad (sub-groups of 16)", "tiles (AMX)",
                           "vdpbf16ps (AVX-512)"), d["matrix"]
    assert (d["matrix"] == "wgmma (PTX)") == ("nvidia_sm90" in d["grouped_gemm_variants"]), d' \
    "$work/out"
  call run "$work/tiny.yaml" --device no-such-device --out "$work/never"
  expect "--device no-such-device, exit 3" 3 'no-such-device'
  holds "the devices found are listed" grep -F -- "$name" "$work/err"
  call run "$work/tiny.yaml" --device 97:98 --out "$work/never"
  expect "--device 97:98, exit 3" 3
  call run "$work/tiny.yaml" --device "$(tr '[:lower:]' '[:upper:]' <<<"${name:0:6}")" --out "$work/byname"
  expect "--device by part of its name" 0
  call run "$work/tiny.yaml" --device 0:0 --out "$work/byindex"
  expect "--device 0:0" 0
}

test_run() {
  write_tiny "$work/sweep.yaml" 4 '[1, 2, 4]' '[swiglu, swiglu_clamped, swiglu_limited, relu]' '[null, 1.0]'
  call run "$work/sweep.yaml" --out "$work/sweep" --dump
  expect "run: a sweep of 24 points" 0
  holds "files and numbers, recomputed from the dumps" \
    python3 "$here/check_results.py" "$work/sweep" --points 24 --dump
  json_holds "who measured: host, commit and command line" "$work/sweep" \
    "r['runs'][0]['host'] == __import__('platform').node() and r['versions']['commit'] == r['runs'][0]['commit']
     and r['runs'][0]['command'].endswith('run $work/sweep.yaml --out $work/sweep --dump')"
  if command -v gnuplot >/dev/null; then
    holds "expert utilisation pictures" \
      bash -c "ls '$work/sweep'/expert_utilization_k2_cf1*.png '$work/sweep'/expert_utilization_k4_cf*.png"
  else
    skip "pictures: gnuplot is not installed"
  fi
  write_tiny "$work/identities.yaml" 6 '[1, 3]' swiglu '[null, 0.7]'
  call run "$work/identities.yaml" --set layer.num_identity_experts='[3, 5]' --out "$work/identities" --dump
  expect "run: identity experts" 0
  holds "identity experts, recomputed from the dumps" \
    python3 "$here/check_results.py" "$work/identities" --points 8 --dump
  holds "the report tells the identity experts' share" \
    grep -q 'last column' "$work/identities/report.md"
  local dtype
  for dtype in fp16 bf16; do
    call run "$work/tiny.yaml" --set "dtype=$dtype" --set layer.capacity.capacity_factor=1.0 \
      --set layer.capacity.drop_policy=probability --set layer.router.jitter=0.01 \
      --set layer.router.renormalize=false --out "$work/$dtype" --dump
    expect "run: $dtype, jitter, dropping by probability" 0
    holds "$dtype recomputed" python3 "$here/check_results.py" "$work/$dtype" --points 1 --dump
  done
  call run "$work/tiny.yaml" --set layer.router.router_bias=true --set layer.gate_up_bias=true \
    --set layer.down_bias=true --set workload.distribution=skewed --out "$work/biased" --dump
  expect "run: biases, skewed input" 0
  holds "biases recomputed" python3 "$here/check_results.py" "$work/biased" --points 1 --dump
  # A layer that a sweep leaves unchanged by mistake does not verify.
  call run "$work/tiny.yaml" --set layer.capacity.capacity_factor=0.6 --set layer.router.renormalize=false \
    --set 'layer.capacity.drop_policy=[position, prioritized]' \
    --set 'layer.capacity.renormalize_after_capacity=[false, true]' --set 'layer.router.routed_scaling_factor=[1, 0.8]' \
    --set 'layer.shared.shared_intermediate_size=[null, 12]' --set workload.distribution=skewed \
    --out "$work/rules" --dump
  expect "run: capacity by priority, renormalized after it, shared experts" 0
  holds "rules recomputed" python3 "$here/check_results.py" "$work/rules" --points 16 --dump
  call run "$work/tiny.yaml" --set layer.num_experts=1 --set layer.top_k=1 \
    --set workload.num_tokens=1 --out "$work/one" --dump
  expect "run: one token, one expert" 0
  holds "one token recomputed" python3 "$here/check_results.py" "$work/one" --points 1 --dump
  call run "$work/tiny.yaml" --set measure.verify=false --out "$work/unverified" --quiet
  expect "run: verify false, quiet" 0
  holds "unverified results" python3 "$here/check_results.py" "$work/unverified" --points 1 --no-verify
}

test_kernel_dir() {
  MOECL_KERNEL_DIR=$work/nowhere call run "$work/tiny.yaml" --out "$work/never"
  expect "a folder of kernels that is not there, exit 2" 2
  holds "it is named" grep -F "'$work/nowhere' (MOECL_KERNEL_DIR) is not there" "$work/err"
}

test_recorded() {
  local file=$root/configs/data/hidden_states.safetensors
  [[ -r $file ]] || { skip "a recorded file: configs/data/ has none" && return; }
  call run "$work/tiny.yaml" --set workload.distribution=file --set "workload.file=$file" \
    --set layer.hidden_size=384 --out "$work/recorded" --dump
  expect "run: recorded hidden states" 0
  holds "recorded input recomputed" python3 "$here/check_results.py" "$work/recorded" --points 1 --dump
  call run "$work/tiny.yaml" --set workload.distribution=file --set "workload.file=$file" \
    --out "$work/never"
  expect "recorded: a hidden size that doesn't fit, exit 2" 2 '384'
  call run "$work/tiny.yaml" --set workload.distribution=file \
    --set workload.file=no-such.safetensors --out "$work/never"
  expect "recorded: a missing file, exit 2" 2 'no-such\.safetensors'
  head -c 1000 "$file" >"$work/cut.safetensors"
  call run "$work/tiny.yaml" --set workload.distribution=file \
    --set "workload.file=$work/cut.safetensors" --set layer.hidden_size=384 --out "$work/never"
  expect "recorded: a truncated file, exit 2" 2 'cut\.safetensors'
}

test_kernel_folder() {
  call run "$work/tiny.yaml" --out "$work/builtin"
  json_holds "kernels: built in" "$work/builtin" "r['kernels']['dir'] is None and len(r['kernels']['hash']) == 32"
  cp -r "$root/cl" "$work/my cl"
  MOECL_KERNEL_DIR="$work/my cl" call run "$work/tiny.yaml" --out "$work/folder"
  expect "run: kernels from a folder" 0
  holds "the folder and the sources' hash are recorded" python3 -c '
import json, sys
a, b = (json.load(open(f"{path}/results.json"))["kernels"] for path in sys.argv[1:3])
assert b["dir"] == sys.argv[3], b
assert a["hash"] == b["hash"], (a, b)' "$work/builtin" "$work/folder" "$work/my cl"
  holds "report.md says so" grep -F "The kernels were read from the folder $work/my cl" "$work/folder/report.md"
  echo '/* edited */' >>"$work/my cl/common/types.clh"
  MOECL_KERNEL_DIR="$work/my cl" call run "$work/tiny.yaml" --resume "$work/folder"
  expect "--resume with edited kernels, exit 2" 2 'measured with other kernels'
}

test_same_bits() {
  local round
  for round in 1 2; do
    call run "$work/tiny.yaml" --set dtype=bf16 --set workload.num_tokens=65 \
      --set layer.router.jitter=0.01 --dump --out "$work/bits$round"
  done
  holds "two runs give the same bits" bash -c "
    cd '$work/bits1' && for file in point-*.safetensors; do cmp \$file '$work/bits2'/\$file || exit; done"
}

test_places() {
  mkdir -p "$work/else where"
  cd "$work/else where"
  call run ../tiny.yaml
  expect "run from another folder" 0
  holds "results/<name>-<time>/ is there" bash -c 'test -s results/tiny-*/results.json'
  call run ../tiny.yaml --out "a folder/b"
  expect "--out makes the folders" 0
  holds "with results" test -s "a folder/b/results.json"
  : >plain
  call run ../tiny.yaml --out plain/x
  if ((code == 1 || code == 2)) && grep -F 'plain/x' "$work/err" >/dev/null; then
    pass "--out that can't be made: a message"
  else
    fail "--out that can't be made" "exit code $code, expected 1 or 2 and the folder's name"
  fi
  cd "$work"
}

test_refused_at_run() {
  # Tens of terabytes of weights: refused at once, before anything runs.
  call run "$work/tiny.yaml" --set layer.hidden_size=65536 --set layer.intermediate_size=65536 \
    --set layer.num_experts=1024 --out "$work/never"
  expect "more memory than the device has, exit 2" 2 '[Mm]emory'
  call run "$work/tiny.yaml" --set layer.grouped_gemm_variant=no-such-variant --out "$work/novariant"
  if ((code == 1 || code == 2)) && grep -F 'no-such-variant' "$work/out" "$work/err" >/dev/null; then
    pass "an unknown variant is named, not replaced"
  else
    fail "an unknown variant" "exit code $code, expected 1 or 2 and its name"
  fi
}

test_results_given() {
  call run "$work/byindex"
  expect "results for an experiment, exit 2" 2 "moectl run FILE\.yaml --resume $work/byindex"
  call check "$work/byindex/results.json"
  expect "results.json for an experiment, exit 2" 2 "moectl run FILE\.yaml --resume $work/byindex"
  # What the message says to do with jq, which need not be there.
  python3 -c '
import json, sys
plan = json.load(open(sys.argv[1]))["experiment"]
del plan["sweep"]
json.dump(plan, open(sys.argv[2], "w"))' "$work/sweep/results.json" "$work/again.yaml"
  call check "$work/again.yaml"
  expect "the recorded experiment is one" 0 '24 points'
}

# The memory told beforehand is what the variant takes: on a device of 1 GiB
# these weights fit, but not the rows that the cpu variant keeps as fp32, nor the
# single workspace of the generic one.
test_memory() {
  if ! POCL_MEMORY_LIMIT=1 "$moectl" devices --json 2>/dev/null |
    python3 -c '
import json, sys
sys.exit(json.load(sys.stdin)[0]["global_memory_bytes"] != 1 << 30)'; then
    skip "a device with 1 GiB: PoCL alone makes one, with POCL_MEMORY_LIMIT"
    return
  fi
  write_tiny "$work/large.yaml" 8 2 swiglu null bf16 16384
  sed -i 's/hidden_size: .*/hidden_size: 1024/; s/intermediate_size: .*/intermediate_size: 4096/
    s/verify: true/verify: false/' "$work/large.yaml"
  local variant
  for variant in cpu clblast; do
    "$moectl" devices --json 2>/dev/null | grep -F "\"$variant\"" >/dev/null ||
      { skip "memory of the $variant variant: it is not there" && continue; }
    POCL_MEMORY_LIMIT=1 call run "$work/large.yaml" --set workload.num_tokens=32768 \
      --set "layer.grouped_gemm_variant=$variant" --out "$work/never"
    expect "memory that the $variant variant would lack, exit 2" 2 'GiB of memory, but the driver of .* states 1 GiB'
  done
  POCL_MEMORY_LIMIT=1 call run "$work/large.yaml" --set layer.grouped_gemm_variant=generic --out "$work/never"
  expect "a buffer larger than the device gives, exit 2" 2 'in one buffer'
  holds "whose limit is not what is free" sh -c '! grep -q "free at the moment" "$1"' - "$work/err"
  holds "nothing was written without memory" test ! -e "$work/never"
  POCL_MEMORY_LIMIT=1 call run "$work/tiny.yaml" --out "$work/small-device"
  expect "what fits 1 GiB runs there" 0
  POCL_MEMORY_LIMIT=1 call run "$work/tiny.yaml" --set layer.hidden_size=2048 \
    --set layer.intermediate_size=2048 --set layer.num_experts=100 --set measure.verify=false \
    --ignore-memory-limit --out "$work/tried"
  expect "--ignore-memory-limit tries it" 1 'the layer could not be made: out of device memory'
}

test_resume() {
  call run "$work/tiny.yaml" --resume "$work/byindex"
  expect "--resume of a finished run" 0
  call run "$work/tiny.yaml" --resume "$work/no-such-results"
  expect "--resume of nothing, exit 2" 2 'no-such-results'
  call run "$work/tiny.yaml" --set seed=8 --resume "$work/byindex"
  expect "--resume with another experiment, exit 2" 2
}

test_short_options() {
  call run "$work/tiny.yaml" --iterations 5 --warmup=0 --out "$work/short"
  expect "run --iterations 5 --warmup=0" 0
  json_holds "they are the experiment's" "$work/short" \
    "r['experiment']['measure'] == {'what': 'layer', 'warmup': 0, 'iterations': 5, 'rounds': None, 'verify': True} and
     r['points'][0]['iterations'] == 5"
}

# What a run draws: one picture of a sweep's experts; each point's own if it is small, or asked for.
test_pictures() {
  local many=(--set 'layer.top_k=[1, 2, 3, 4]' --set 'workload.num_tokens=[8, 16, 24, 32, 40, 48, 56]'
    --set measure.verify=false --set measure.rounds=1 --quiet)
  call run "$work/tiny.yaml" "${many[@]}" --out "$work/few"
  expect "run: 28 points" 0
  holds "28 points: one picture of their experts" \
    bash -c "[[ \$(ls '$work/few'/expert_utilization*.gp) == '$work/few/expert_utilization.gp' ]]"
  call run "$work/tiny.yaml" "${many[@]}" --pictures all --resume "$work/few"
  expect "--pictures all" 0
  holds "one of each point besides" bash -c "(( \$(ls '$work/few'/expert_utilization_k*.gp | wc -l) == 28 ))"
  call run "$work/tiny.yaml" "${many[@]}" --pictures none --out "$work/none"
  expect "--pictures none" 0
  holds "draws nothing" bash -c "! ls '$work/none'/*.gp"
  call run "$work/tiny.yaml" --pictures some --out "$work/never"
  expect "--pictures with another word, exit 2" 2 "expected few, all or none, found 'some'"
}

main() {
  local name
  : >"$work/out" && : >"$work/err"
  write_tiny "$work/tiny.yaml"
  test_usage
  test_full_stdout
  test_check
  test_warnings
  test_bad_yaml
  test_no_device
  if name=$(device_name) && [[ -n $name ]]; then
    test_devices "$name"
    test_check_on_device
    test_explain
    test_weight_format
    test_activation_format
    test_parallel
    test_placement
    test_offload
    test_no_home
    test_full_stdout_on_device
    test_run
    test_kernel_dir
    test_recorded
    test_kernel_folder
    test_same_bits
    test_places
    test_refused_at_run
    test_results_given
    test_memory
    test_short_options
    test_resume
    test_pictures
  else
    skip "everything that needs an OpenCL device: there is none"
  fi
  summary "$name"
}

main
