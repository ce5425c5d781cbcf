#!/usr/bin/env bash
# completions.sh BINARY DIRECTORY: writes the completions of each shell under the name that it loads.
set -euo pipefail

binary=$1
directory=$2
mkdir -p "$directory"/{bash,fish,zsh}
"$binary" completions bash >"$directory/bash/switchboard"
"$binary" completions fish >"$directory/fish/switchboard.fish"
"$binary" completions zsh >"$directory/zsh/_switchboard"
