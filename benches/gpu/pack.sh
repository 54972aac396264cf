#!/bin/sh
# Builds the program for CUDA and packs it with the scripts that measure it: one folder to carry to a GPU machine.
#
#     benches/gpu/pack.sh DIR
#
# There: xz -d brazier.xz && chmod +x brazier && python3 benches/gpu/run.py --brazier ./brazier --json gpu.json
set -eu
cd "$(dirname "$0")/../.."
out="${1:?usage: benches/gpu/pack.sh DIR}"
mkdir -p "$out/benches"
cargo build --profile dist --workspace --features cuda --bin brazier
strip -o "$out/brazier" "${CARGO_TARGET_DIR:-target}/dist/brazier"
xz -9 -T0 -f "$out/brazier"
cp -r benches/gpu benches/compare "$out/benches/"
ls -l "$out"
