#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Without a device, moectl says which of the reasons it is: no driver registered, a
# driver that can't be loaded, one that offers no platform, a platform without
# devices. Needs an ICD loader that takes the folder from OCL_ICD_VENDORS.
# usage: test_no_device.sh MOECTL EMPTY_PLATFORM.so
set -euo pipefail
moectl=$(realpath -- "$1") empty=$(realpath -- "$2")
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0
unset OPENCL_VENDOR_PATH OCL_ICD_VENDORS

# says NAME VENDORS PATTERN...: `moectl devices` and `run` both end with 3, and say each.
says() {
  local name=$1 vendors=$2 pattern command ok=1
  shift 2
  for command in "devices" "run $root/configs/quickstart.yaml --out $work/out"; do
    local code=0
    # shellcheck disable=SC2086 # several words
    env OCL_ICD_VENDORS="$vendors" "$moectl" $command >"$work/log" 2>&1 || code=$?
    [[ $code == 3 ]] || { echo "        | $command: exit code $code, expected 3"; ok=0; }
    for pattern; do
      grep -qE -- "$pattern" "$work/log" || { echo "        | $command: no '$pattern'"; ok=0; }
    done
    # What is not the case is not said.
    [[ " $* " == *"is registered"* ]] || ! grep -q "no driver is registered" "$work/log" || ok=0
  done
  if ((ok)); then
    echo "ok      $name" && passed=$((passed + 1))
  else
    echo "FAILED  $name" && sed 's/^/        | /' "$work/log" && failed=$((failed + 1))
  fi
}

mkdir "$work"/{none,broken,text,wrong,platform,both}
echo /nowhere/libvendor.so.1 >"$work/broken/vendor.icd"
echo "not a library" >"$work/text.so"
echo "$work/text.so" >"$work/text/vendor.icd"
printf '\n' >"$work/text/hollow.icd"
echo libm.so.6 >"$work/wrong/vendor.icd"
echo "$empty" >"$work/platform/vendor.icd"
cp "$work/platform/vendor.icd" "$work/both/a.icd"
cp "$work/broken/vendor.icd" "$work/both/b.icd"

if env OCL_ICD_VENDORS="$work/none" "$moectl" devices >/dev/null 2>&1; then
  echo "SKIP: this loader takes no folder from OCL_ICD_VENDORS"
  exit 77
fi
says "no vendor file" "$work/none" "no driver is registered: $work/none, which is OCL_ICD_VENDORS"
says "no folder" "$work/nowhere" "OCL_ICD_VENDORS names $work/nowhere, which cannot be loaded"
says "a library that is not there" "$work/broken" \
  "broken/vendor.icd names /nowhere/libvendor.so.1, which cannot be loaded: .*No such file"
says "a file that is no library" "$work/text" \
  "text/vendor.icd names $work/text.so, which cannot be loaded: .*(invalid ELF|too short)" \
  "text/hollow.icd is empty"
says "a library that is no driver" "$work/wrong" \
  "wrong/vendor.icd names libm.so.6, which loads and offers no platform"
says "a platform without devices" "$work/platform" \
  "platform 0, Empty Platform, has no devices \(clGetDeviceIDs: CL_DEVICE_NOT_FOUND\)"
says "both" "$work/both" "Empty Platform, has no devices" "b.icd names /nowhere/libvendor"
{ env OCL_ICD_VENDORS="$work/none" "$moectl" run "$root/configs/quickstart.yaml" 2>&1 || true; } |
  grep -q pocl-opencl-icd || { echo "FAILED  what to do is not said"; failed=$((failed + 1)); }
echo "$passed passed, $failed failed"
((failed == 0))
