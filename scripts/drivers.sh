# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# Other OpenCL implementations of the CPU, for tests: Mesa's rusticl (Debian) and
# Intel's runtime (PyPI). Sourced, after setup.sh. They are put into folders of
# their own below build-drivers/, and seen by what runs under with_driver alone.

drivers_root() { echo "$(repo_root)/build-drivers"; }

# Makes a driver's folder of .icd files, or says why it is left out: install_driver NAME.
install_driver() {
  local dir
  dir=$(drivers_root)/$1
  [[ -e $dir/driver.icd ]] && return
  mkdir -p "$dir"
  "install_$1" "$dir" || {
    say "$1 does not install here; its tests are left out ($dir/setup.log)"
    return 1
  }
}

# The package would register itself, and Mesa's older Clover, for every program:
# what it depends on is installed, its own files are put here.
install_rusticl() {
  local dir=$1 log=$1/setup.log needs library
  can_install || return
  say "fetching Mesa's rusticl"
  mapfile -t needs < <(apt-cache depends mesa-opencl-icd 2>/dev/null |
    sed -n 's/^ *Depends: \([^<]*\)$/\1/p')
  ((${#needs[@]})) && apt_get install --no-install-recommends "${needs[@]}" 2>"$log" &&
    (cd "$dir" && apt-get -q download mesa-opencl-icd && dpkg -x ./mesa-opencl-icd_*.deb root) \
      >>"$log" 2>&1 </dev/null || return
  library=$(find "$dir/root" -name libRusticlOpenCL.so.1 -print -quit)
  [[ -n $library ]] && echo "$library" >"$dir/driver.icd"
}

install_intel() {
  local dir=$1 log=$1/setup.log library
  [[ $(uname -m) == x86_64 ]] || return
  say "fetching Intel's OpenCL runtime (800 MB on the disk)"
  python3 -m venv "$dir/venv" >"$log" 2>&1 </dev/null &&
    "$dir/venv/bin/pip" install -q --disable-pip-version-check \
      intel-opencl-rt intel-cmplr-lib-rt tbb >>"$log" 2>&1 </dev/null || return
  library=$(find "$dir/venv" -name libintelocl.so -print -quit)
  [[ -n $library ]] && echo "$library" >"$dir/driver.icd"
}

# Runs a command that sees this driver alone: with_driver NAME COMMAND...
with_driver() {
  local -x OCL_ICD_VENDORS RUSTICL_ENABLE=llvmpipe
  OCL_ICD_VENDORS=$(drivers_root)/$1
  shift
  "$@"
}
