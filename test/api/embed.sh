#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Installs the build into a scratch prefix, and builds and runs embed*.c, examples/ and a fragment of
# docs/library.md against that installation, through pkg-config alone: what an embedder does.
# usage: embed.sh BUILD_DIR SOURCE_ROOT [MPICC MPIRUN]
set -euo pipefail
build=$1 root=$2 mpicc=${3:-} mpirun=${4:-}
prefix=$(mktemp -d)
trap 'rm -rf "$prefix"' EXIT
meson install -C "$build" --no-rebuild --destdir "$prefix/dest" >"$prefix/log" 2>&1 ||
  { cat "$prefix/log"; exit 1; }

# The installed tree as it would lie at its prefix.
pc=$(find "$prefix/dest" -name moecl.pc)
[[ -n $pc ]] || { echo "moecl.pc was not installed"; exit 1; }
export PKG_CONFIG_PATH=${pc%/*}
installed=$(pkg-config --variable=prefix moecl)
flags=$(pkg-config --cflags --libs moecl | sed "s#$installed#$prefix/dest$installed#g")
libdir=${pc%/pkgconfig/*}

# embed SOURCE.c: compiles and runs it.
embed() {
  # shellcheck disable=SC2086 # flags are several words
  "${CC:-cc}" -std=c11 -Wall -Wextra -Werror -I"$prefix" "$1" -o "$prefix/embed" $flags
  LD_LIBRARY_PATH=$libdir "$prefix/embed"
}
embed "$root/test/api/embed.c"
embed "$root/test/api/embed_group.c"

# What is shown of blocks, with other sizes.
sed -n '/^## Blocks/,/^## Forwards/p' "$root/docs/library.md" | sed -n '/^```c/,/^```$/p' | sed '/^```/d' |
  sed 's/hidden_size = 4096/hidden_size = 256/; s/14336/96/' >"$prefix/block_fragment.h"
embed "$root/test/api/embed_block.c" | tee "$prefix/fragment"
grep -q 'docs/library.md: 513 tokens' "$prefix/fragment"

# And the examples, which are of the same layer and say the same of its first token.
for example in forward own_opencl group; do embed "$root/examples/$example.c" | tee "$prefix/$example.out"; done
LD_LIBRARY_PATH=$libdir python3 "$root/examples/ctypes_forward.py" | tee "$prefix/ctypes_forward.out"
programs=4
if [[ $mpirun ]]; then
  # shellcheck disable=SC2086 # flags are several words
  "$mpicc" -std=c11 -Wall -Wextra -Werror "$root/examples/group_mpi.c" -o "$prefix/embed" $flags
  LD_LIBRARY_PATH=$libdir "$mpirun" -n 2 "$prefix/embed" | tee "$prefix/group_mpi.out"
  programs=5
else
  echo "SKIP: examples/group_mpi.c, without MPI"
fi
[[ $(cat "$prefix"/*.out | grep -c '^token 0: experts ') == "$programs" ]]
[[ $(cat "$prefix"/*.out | grep '^token 0:' | sort -u | wc -l) == 1 ]] ||
  { echo "the examples differ in their answers"; exit 1; }

# A block's steps from a cache give what all tokens at once give, as the example finds.
embed "$root/examples/block.c" | tee "$prefix/block"
grep -q '^a prompt of 16 tokens and 4 steps beside all 20 at once: the same ' "$prefix/block"

# What goes wrong is said.
if LD_LIBRARY_PATH=$libdir MOECL_DEVICE=99:99 python3 "$root/examples/ctypes_forward.py" 2>"$prefix/err"; then
  echo "ctypes_forward.py ran on a device that is not there"; exit 1
fi
grep -q 'moecl_context_create: no OpenCL device' "$prefix/err"

# The installed moectl runs from there too, without the build folder's help.
moectl=$(find "$prefix/dest" -name moectl -path '*/bin/*' -type f)
LD_LIBRARY_PATH=$libdir "$moectl" --version

# And finds its suite, with the recording that a part reads.
(cd / && LD_LIBRARY_PATH=$libdir "$moectl" suite --only none 2>&1 || true) | tee "$prefix/suite"
grep -q "has no part 'none'; expected some of block, decode, jitter" "$prefix/suite"
[[ -s $(find "$prefix/dest" -path '*/share/moecl/configs/data/hidden_states.safetensors') ]] ||
  { echo "the recorded data was not installed"; exit 1; }

# And the shells find its completion.
for script in bash-completion/completions/moectl zsh/site-functions/_moectl \
  fish/vendor_completions.d/moectl.fish; do
  found=$(find "$prefix/dest" -path "*/share/$script" -size +0)
  [[ -n $found ]] || { echo "share/$script was not installed"; exit 1; }
done

# And man the manual page.
[[ -s $(find "$prefix/dest" -path '*/man/man1/moectl.1') ]] || { echo "moectl.1 was not installed"; exit 1; }

# Without tests and programs the library is all that is built.
meson setup "$prefix/library" "$root" -Dtests=false -Dprograms=false >"$prefix/log" 2>&1 ||
  { cat "$prefix/log"; exit 1; }
meson introspect --targets "$prefix/library" | python3 -c '
import json, sys
built = {t["name"] for t in json.load(sys.stdin) if t["type"] == "executable" or "library" in t["type"]}
assert built == {"moecl"}, built'
