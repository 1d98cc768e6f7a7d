# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# Set-up shared by scripts/run and scripts/check. Sourced, never run: it only
# defines functions. Everything it says goes to stderr, so that stdout stays
# the program's own.
#
# What is needed is found by trying it (a tool on PATH, a pkg-config module, a
# header that compiles, a device that the OpenCL loader lists), never by the
# name of the system. Only what is missing is installed, and only with apt; on
# other systems the list of missing things is printed instead.

# One need a line: level | probe | Debian package | what it is.
#   need   nothing works without it
#   test   only the tests need it
#   want   things work without it, with less
needs() {
  cat <<'LIST'
need|tool cc|gcc|a C11 compiler
need|header stdio.h|libc6-dev|the C library's headers
need|tool pkg-config|pkg-config|pkg-config
need|tool meson|meson|the Meson build system
need|tool ninja|ninja-build|the Ninja build tool
need|tool python3|python3|Python 3
need|module OpenCL|ocl-icd-opencl-dev|the OpenCL ICD loader, for development
need|header CL/cl.h|opencl-c-headers|the OpenCL C headers
need|module clblast|libclblast-dev|CLBlast, for development
need|module yaml-0.1|libyaml-dev|libyaml, for development
need|module jansson|libjansson-dev|Jansson (JSON), for development
need|module libxxhash|libxxhash-dev|xxHash, for development
need|header Random123/philox.h|librandom123-dev|the Random123 headers
need|device any|pocl-opencl-icd|an OpenCL device (PoCL makes the CPU one)
want|device cpu|pocl-opencl-icd|PoCL, the CPU as an OpenCL device beside the others
want|locale de_DE|locales|sources of locales, for tests with a decimal comma
test|module cmocka|libcmocka-dev|cmocka (unit tests), for development
test|python jsonschema|python3-jsonschema|jsonschema for Python, for the test of results.json
want|tool clang-format-14|clang-format-14|clang-format 14, for the check of the sources' format
want|tool clang-19|clang-19|clang 19, for the checks of kernels for GPUs that are not here
want|module mpi|libopenmpi-dev|an MPI for development (Open MPI), for layers over several processes
want|tool mpirun|openmpi-bin|mpirun, which starts them
want|tool gnuplot|gnuplot-nox|gnuplot, for the pictures in reports
LIST
}

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# Ends the script: set-up problems share exit code 2 with bad usage.
die() {
  say "$*"
  exit 2
}

# The repository's root, whatever folder the caller is in.
repo_root() { cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd; }

# --- probes: each says through its exit code whether the thing is there -------

# Meson would also take a compiler named by CC; so do the probes.
compiler() {
  local name
  for name in "${CC:-}" cc gcc clang; do
    # CC may carry options ("ccache gcc"): the first word must be a program.
    [[ -n $name ]] && command -v "${name%% *}" >/dev/null && echo "$name" && return
  done
  return 1
}

probe_tool() {
  case $1 in
    cc) compiler >/dev/null ;;
    ninja) command -v ninja >/dev/null || command -v ninja-build >/dev/null ;;
    pkg-config) command -v pkg-config >/dev/null || command -v pkgconf >/dev/null ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

probe_module() {
  "$(command -v pkg-config || command -v pkgconf || echo false)" --exists "$1" 2>/dev/null
}

# Of the python3 that Meson runs tests with.
probe_python() { python3 -c "import $1" 2>/dev/null; }

probe_header() {
  local cc
  cc=$(compiler) || return 1
  # shellcheck disable=SC2086 # CC may carry options
  printf '#include <%s>\n' "$1" | $cc -DCL_TARGET_OPENCL_VERSION=300 -E -x c - >/dev/null 2>&1
}

# Asks the ICD loader itself, so a driver that is registered but doesn't work
# doesn't count, and one that works does wherever it is registered.
probe_device() {
  python3 - "$1" 2>/dev/null <<'PYTHON'
import ctypes, ctypes.util, sys
kinds = {"any": 0xFFFFFFFF, "cpu": 1 << 1}
cl = ctypes.CDLL(ctypes.util.find_library("OpenCL") or "libOpenCL.so.1")
count = ctypes.c_uint(0)
if cl.clGetPlatformIDs(0, None, ctypes.byref(count)) or not count.value:
    sys.exit(1)
platforms = (ctypes.c_void_p * count.value)()
cl.clGetPlatformIDs(count, platforms, None)
for platform in platforms:
    found = ctypes.c_uint(0)
    error = cl.clGetDeviceIDs(ctypes.c_void_p(platform), ctypes.c_ulong(kinds[sys.argv[1]]),
                              0, None, ctypes.byref(found))
    if not error and found.value:
        sys.exit(0)
sys.exit(1)
PYTHON
}

# The source of a locale, which localedef compiles.
probe_locale() { [[ -e /usr/share/i18n/locales/$1 ]]; }

probe() { "probe_$1" "$2"; }

# --- what is missing -----------------------------------------------------------

# Whether `level` is required for `purpose` (run or check).
required() { [[ $1 == need || ($1 == test && $2 == check) ]]; }

# Someone who names the drivers through OCL_ICD_VENDORS wants exactly those:
# installing another could not make it visible, and must not be asked for.
skipped() { [[ $1 == device* && -n ${OCL_ICD_VENDORS:-} ]]; }

# Prints the lines of needs() that are missing, as "level|package|what it is".
missing() {
  local level check package what
  while IFS='|' read -r level check package what; do
    skipped "$check" && continue
    # shellcheck disable=SC2086 # "kind argument"
    probe $check </dev/null || printf '%s|%s|%s\n' "$level" "$package" "$what"
  done < <(needs)
}

# Keeps the lines of stdin whose level `purpose` requires.
only_required() {
  local level package what
  while IFS='|' read -r level package what; do
    if required "$level" "$1"; then printf '%s|%s|%s\n' "$level" "$package" "$what"; fi
  done
}

# Prints lines "level|package|what" for people, a package once.
print_needs() {
  local package what last=
  while IFS='|' read -r _ package what; do
    [[ -z $package || $package == "$last" ]] || printf '  %-22s %s\n' "$package" "$what" >&2
    last=$package
  done
}

# --- installing ----------------------------------------------------------------

# Runs a command as root. Asks for a password only where someone can answer.
as_root() {
  if ((EUID == 0)); then
    "$@"
  elif [[ -t 0 ]]; then
    sudo "$@"
  else
    sudo -n "$@"
  fi
}

can_install() { command -v apt-get >/dev/null && { ((EUID == 0)) || command -v sudo >/dev/null; }; }

# Waits up to five minutes for another apt (a new machine updates itself).
apt_get() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y \
    -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" </dev/null >&2
}

available() { apt-cache policy "$1" 2>/dev/null | grep -E '^ +Candidate: [^(]' >/dev/null; }

# Installs the packages of the lines in $1. A package this system's sources
# don't have is named; only a required one ends the set-up. Recommended
# packages are left out: none is needed, and they are large.
install_missing() {
  local lines=$1 purpose=$2 level package what lost=() names=()
  say "installing with apt:"
  print_needs <<<"$lines"
  apt_get update || say "the package lists could not be updated; trying with those that are here"
  while IFS='|' read -r level package what; do
    if available "$package"; then
      names+=("$package")
    elif required "$level" "$purpose"; then
      lost+=("$package")
    else
      say "$package ($what) is not available here; going on without it"
    fi
  done <<<"$lines"
  if ((${#lost[@]})); then
    die "not available from this system's package sources: ${lost[*]}. \
Add a source that has them (Debian: main; Ubuntu: universe) or install them by hand, then try again."
  fi
  ((${#names[@]} == 0)) || apt_get install --no-install-recommends "${names[@]}" ||
    die "apt could not install the packages above; its messages say why."
}

# Says how to register a GPU driver's OpenCL that the loader doesn't know yet.
hint_unregistered_driver() {
  local dir lib
  [[ -z ${OCL_ICD_VENDORS:-} ]] || return 0
  grep -qs nvidia /etc/OpenCL/vendors/*.icd && return
  for dir in /usr/lib/*-linux-gnu /usr/lib64 /usr/lib /usr/local/nvidia/lib64 /usr/lib/wsl/lib; do
    lib=$dir/libnvidia-opencl.so.1
    [[ -e $lib ]] || continue
    say "NVIDIA's OpenCL is here but not registered; to use the GPU, as root:"
    say "  mkdir -p /etc/OpenCL/vendors && echo $lib >/etc/OpenCL/vendors/nvidia.icd"
    return
  done
}

# Makes everything `purpose` (run or check) needs be there, or ends the script.
setup_system() {
  local purpose=$1 lines still
  lines=$(missing)
  hint_unregistered_driver
  if [[ -n $lines ]]; then
    if can_install; then
      install_missing "$lines" "$purpose"
    elif [[ -n $(only_required "$purpose" <<<"$lines") ]]; then
      say "these are missing, and can only be installed here by hand (Debian's package names; others are close):"
      print_needs <<<"$lines"
      exit 2
    fi
    still=$(missing)
    if [[ -n $(only_required "$purpose" <<<"$still") ]]; then
      say "still missing after the set-up:"
      only_required "$purpose" <<<"$still" | print_needs
      exit 2
    fi
    if [[ -n $still ]]; then
      say "going on without:"
      print_needs <<<"$still"
    fi
  fi
}

# --- building ------------------------------------------------------------------

# Runs a command with its output in a log, shown only when it fails.
logged() {
  local log=$1
  shift
  "$@" >>"$log" 2>&1 </dev/null && return
  cat "$log" >&2
  say "failed: $*"
  return 1
}

# Configures (once) and compiles a build folder: build NAME [meson options].
build() {
  local root dir log options
  root=$(repo_root)
  dir=$root/$1
  shift
  mkdir -p "$dir"
  log=$dir/setup.log
  : >"$log"
  options=("$@")
  if [[ ! -f $dir/build.ninja ]]; then
    say "configuring $dir"
    # What an interrupted configuration left behind would be refused.
    rm -rf "$dir/meson-private" "$dir/meson-info"
    logged "$log" meson setup "${options[@]}" "$dir" "$root" || return
  fi
  say "building in $dir"
  logged "$log" meson compile -C "$dir"
}
