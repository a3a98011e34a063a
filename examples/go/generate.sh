#!/usr/bin/env bash
# Generates wherry/v1 from the .proto files. PROTOC names a protoc that is called otherwise: "python3 -m grpc_tools.protoc".
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
PROTO=../../proto/proto

GOBIN="$PWD/bin" go install tool # protoc-gen-go and protoc-gen-go-grpc, as go.mod has them
options=(--go_opt=module=shop --go-grpc_opt=module=shop)
files=("$PROTO"/wherry/v1/*.proto)
for file in "${files[@]#"$PROTO/"}"; do
  options+=("--go_opt=M$file=shop/wherry/v1" "--go-grpc_opt=M$file=shop/wherry/v1")
done
# shellcheck disable=SC2086 # PROTOC may be several words
${PROTOC:-protoc} -I "$PROTO" --plugin=bin/protoc-gen-go --plugin=bin/protoc-gen-go-grpc --go_out=. --go-grpc_out=. \
  "${options[@]}" "${files[@]}"
