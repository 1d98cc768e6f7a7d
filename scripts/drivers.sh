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

# A package that would register itself as a driver for every program: what it depends on is
# installed, its own files are put below DIR/root. unpack PACKAGE DIR
unpack() {
  local package=$1 dir=$2 log=$2/setup.log needs
  can_install || return
  mapfile -t needs < <(apt-cache depends "$package" 2>/dev/null |
    sed -n 's/^ *Depends: \([^<]*\)$/\1/p' | sort -u)
  ((${#needs[@]})) || { # lists of packages that nobody has fetched yet
    apt_get update >"$log" 2>&1
    mapfile -t needs < <(apt-cache depends "$package" 2>/dev/null |
      sed -n 's/^ *Depends: \([^<]*\)$/\1/p' | sort -u)
  }
  rm -f "$dir/$package"_*.deb
  ((${#needs[@]})) && apt_get install --no-install-recommends "${needs[@]}" 2>"$log" &&
    (cd "$dir" && apt-get -q download "$package" && dpkg -x ./"$package"_*.deb root) \
      >>"$log" 2>&1 </dev/null
}

# With Mesa's older Clover, which stays unregistered too.
install_rusticl() {
  local dir=$1 library
  say "fetching Mesa's rusticl"
  unpack mesa-opencl-icd "$dir" || return
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

# Intel's compiler for its GPUs, as a program: test/offline/intel_check.py finds it there.
install_ocloc() {
  local dir
  dir=$(drivers_root)/ocloc
  [[ -n ${OCLOC:-} || -x $dir/root/usr/bin/ocloc ]] || command -v ocloc >/dev/null && return
  mkdir -p "$dir"
  say "fetching Intel's ocloc"
  unpack intel-opencl-icd "$dir" && [[ -x $dir/root/usr/bin/ocloc ]] && return
  say "ocloc does not install here; Intel's kernels are not compiled ($dir/setup.log)"
}

# Runs a command that sees this driver alone: with_driver NAME COMMAND...
with_driver() {
  local -x OCL_ICD_VENDORS RUSTICL_ENABLE=llvmpipe
  OCL_ICD_VENDORS=$(drivers_root)/$1
  shift
  "$@"
}
