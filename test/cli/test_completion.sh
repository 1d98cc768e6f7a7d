#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The shells' completion: what a person would be offered. usage:
# bash test/cli/test_completion.sh path/to/moectl
# Every option that the help of a command tells is offered for it, and nothing else.
# Prints what fails; exit code 1 then. zsh and fish are tried where they are installed.
set -uo pipefail

moectl=$(realpath -- "${1:?usage: test_completion.sh path/to/moectl}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

# same NAME EXPECTED FOUND: the same words in any order.
same() {
  local want found
  want=$(tr -s ' \n' '\n\n' <<<"$2" | sort -u | sed '/^$/d')
  found=$(tr -s ' \n' '\n\n' <<<"$3" | sort -u | sed '/^$/d')
  if [[ $want == "$found" ]]; then
    printf 'ok      %s\n' "$1"
  else
    printf 'FAILED  %s:\n' "$1"
    diff <(echo "$want") <(echo "$found") | sed 's/^/        | /'
    failed=1
  fi
}

# offered WORD...: what bash offers for the last word of a line.
offered() {
  COMP_WORDS=(moectl "$@")
  COMP_CWORD=$#
  COMPREPLY=()
  _moectl
  printf '%s\n' "${COMPREPLY[@]}"
}

# The options that help tells, by its table's first column.
told() { "$moectl" help "$1" | sed -n '/^Options:/,/^$/s/^  \(--[a-z-]*\).*/\1/p'; }

# shellcheck disable=SC1090
source <("$moectl" completion bash) || exit 1
commands=$("$moectl" help | sed -n 's/^  moectl \([a-z]*\) .*/\1/p')
[[ $(wc -w <<<"$commands") -ge 7 ]] || { echo "FAILED  help lists the commands" && failed=1; }

same "the commands" "$commands --version --help" "$(offered '')"
same "a command's beginning" "devices" "$(offered dev)"
for command in $commands; do
  same "options of $command" "--help $([[ $command == help ]] || told "$command")" \
    "$(offered "$command" --)"
done
same "an option's beginning" "--ignore-memory-limit --iterations" "$(offered run --i)"
same "--device" "auto gpu cpu accelerator all" "$(offered run --device '')"
same "--device=" "gpu" "$(offered run --device = g)"
same "--set offers the experiment's keys" \
  "$("$moectl" help experiment | sed -n 's/^  \([a-z][a-z_.]*\)$/\1=/p')" "$(offered run --set '')"
same "topics" "$commands experiment results comparing profiling models devices environment exit-codes" \
  "$(offered help '')"
same "a number has no offers" "" "$(offered run --iterations '')"
cd "$work" || exit 1
mkdir "a folder" && : >one.yaml && : >two.yml && : >three.txt
same "experiment files and folders" "one.yaml two.yml a folder" "$(offered run '')"
same "folders alone" "a folder" "$(offered run --out '')"
same "any file" "one.yaml two.yml three.txt a folder" "$(offered verify x --io '')"

for shell in bash zsh fish; do
  "$moectl" completion "$shell" >"$work/script" || failed=1
  if command -v "$shell" >/dev/null; then
    if "$shell" -n "$work/script"; then echo "ok      $shell reads its script"; else failed=1; fi
  else
    echo "skipped $shell is not installed"
  fi
done
same "zsh: options of run" "$(told run)" \
  "$("$moectl" completion zsh | sed -n 's/^  run:-\*) compadd -- \(.*\) ;;$/\1/p')"
same "fish: options of run" "$(told run)" \
  "$("$moectl" completion fish | sed -n "s/.*seen_subcommand_from run' -l \([a-z-]*\).*/--\1/p")"
"$moectl" completion csh 2>"$work/err"
[[ $? == 2 ]] && grep -q "bash, zsh or fish" "$work/err" || { echo "FAILED  csh: exit 2" && failed=1; }
exit "$failed"
