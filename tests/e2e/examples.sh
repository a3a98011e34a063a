#!/usr/bin/env bash
# Builds the program of one language under examples/, as its README says, and prints the command that runs it, a word a line.
#
#   tests/e2e/examples.sh python|go|java|node|rust|bash
#
# Exit code 3: this machine lacks what the language needs; the sentence is on standard error. What is built is kept in
# ${WHERRY_CACHE:-$HOME/.cache/wherry}/examples, by a hash of its sources and of the .proto files, and built once.
set -euo pipefail

REPO="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
CACHE="${WHERRY_CACHE:-$HOME/.cache/wherry}"
BUILT="$CACHE/examples"
NICE="${WHERRY_NICE:-nice -n 10}"
language=${1:-}

say() { printf 'examples: %s\n' "$*" >&2; }
need() { command -v "$1" > /dev/null || { say "$1 is not installed"; exit 3; }; }
digest() { sha256sum | cut -c1-16; }
command_is() { printf '%s\n' "$@"; }

case "$language" in
  python) sources=(shop.py requirements.txt); need python3 ;;
  go) sources=(go.mod go.sum main.go generate.sh); need go; need python3 ;;
  java) sources=(pom.xml src); need java; need javac; need mvn ;;
  node) sources=(package.json package-lock.json shop.js); need node; need npm ;;
  rust) sources=(Cargo.toml Cargo.lock build.rs src); need cargo ;;
  bash) need curl; need jq; command_is bash "$REPO/examples/bash/shop.sh"; exit ;;
  *) sed -n 4p "$0" >&2; exit 2 ;;
esac

cd "$REPO"
from=("${sources[@]/#/examples/$language/}")
key="$(find "${from[@]}" proto/proto tests/e2e/examples.sh -type f | LC_ALL=C sort | xargs sha256sum | digest)"
place="$BUILT/$language-$key"
here="$place/examples/$language"
venv="$BUILT/venv-$(digest < examples/python/requirements.txt)"

case "$language" in
  python) words=("$venv/bin/python" "$here/shop.py") ;;
  go) words=("$here/bin/shop") ;;
  java) words=(java -Xmx128m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -jar "$here/target/shop.jar") ;;
  node) words=(node "$here/shop.js") ;;
  rust) words=("$here/bin/shop") ;;
esac

# Python's protoc is Go's as well.
python_packages() {
  [ -e "$venv/complete" ] && return
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install -q --disable-pip-version-check -r "$REPO/examples/python/requirements.txt" >&2
  touch "$venv/complete"
}

build() {
  case "$language" in
    python)
      python_packages
      "$venv/bin/python" -m grpc_tools.protoc -I ../../proto/proto --python_out=. --grpc_python_out=. \
        ../../proto/proto/wherry/v1/*.proto
      ;;
    go)
      python_packages
      PROTOC="$venv/bin/python -m grpc_tools.protoc" $NICE go generate .
      $NICE go build -p 2 -o bin/shop .
      ;;
    java) $NICE mvn -B -q -Dmaven.repo.local="$CACHE/m2" package ;;
    node) $NICE npm ci --no-audit --no-fund --ignore-scripts --loglevel=error ;;
    rust)
      $NICE cargo build --quiet --locked --target-dir "$BUILT/target-rust"
      install -D "$BUILT/target-rust/debug/shop" bin/shop
      ;;
  esac
}

# One at a time: tests of several checkouts share the folder.
mkdir -p "$BUILT"
exec 9> "$BUILT/lock"
flock 9
if [ ! -e "$place/complete" ]; then
  say "building the example in $language"
  rm -rf "$place"
  mkdir -p "$here" "$place/proto"
  cp -R proto/proto "$place/proto/proto"
  for source in "${sources[@]}"; do cp -R "examples/$language/$source" "$here/$source"; done
  (cd "$here" && build 9>&- >&2)
  touch "$place/complete"
  # What sources of days ago made is not needed any more.
  find "$BUILT" -mindepth 1 -maxdepth 1 -name "$language-*" ! -path "$place" -mtime +3 -exec rm -rf {} +
fi
command_is "${words[@]}"
