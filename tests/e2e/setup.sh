#!/usr/bin/env bash
# Fetches what the end-to-end tests and the benchmarks run against: stock Kafka clients and Apache Kafka itself.
#
#   tests/e2e/setup.sh [all|PART...]     parts: kafka packages python rdkafka bench go examples
#
# Idempotent: each part leaves a stamp that holds the versions it fetched, and is skipped while the stamp matches.
# Everything is kept in ${WHERRY_CACHE:-$HOME/.cache/wherry}; only Debian packages are installed system-wide, and
# only as root. Nothing here starts a server.
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
REPO="$(cd "$HERE/../.." && pwd)"
CACHE="${WHERRY_CACHE:-$HOME/.cache/wherry}"
KAFKA_VERSION="${WHERRY_KAFKA_VERSION:-4.3.1}"        # the oracle, and the newest Java tools
OLD_KAFKA_VERSION="${WHERRY_OLD_KAFKA_VERSION:-2.1.1}" # the oldest Java client we promise to serve
RDKAFKA_SYS_VERSION="${WHERRY_RDKAFKA_SYS_VERSION:-4}" # the crate that carries librdkafka's source
NICE="${WHERRY_NICE:-nice -n 10}"
mkdir -p "$CACHE/stamps" "$CACHE/bin"

say() { printf 'setup: %s\n' "$*" >&2; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }
# fresh PART KEY: true when PART was made from KEY (its versions) before.
fresh() { [ "$(cat "$CACHE/stamps/$1" 2>/dev/null)" = "$2" ]; }
stamp() { printf '%s' "$2" > "$CACHE/stamps/$1"; }
digest() { cat "$@" | sha256sum | cut -c1-16; }
need() { command -v "$1" > /dev/null || die "$1 is missing: install it with '$2'"; }

# jars DIR COORDINATE...: copies the artifacts and all they need at run time into $CACHE/DIR, through Maven.
jars() {
  local dir=$1 work coordinate group artifact version; shift
  need mvn "apt-get install maven default-jdk-headless"
  work="$(mktemp -d)"
  {
    echo '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
    echo "<groupId>wherry</groupId><artifactId>$dir</artifactId><version>1</version><dependencies>"
    for coordinate in "$@"; do
      IFS=: read -r group artifact version <<< "$coordinate"
      echo "<dependency><groupId>$group</groupId><artifactId>$artifact</artifactId><version>$version</version></dependency>"
    done
    echo '</dependencies></project>'
  } > "$work/pom.xml"
  rm -rf "$CACHE/$dir.part"
  (cd "$work" && $NICE mvn -B -q -Dmaven.repo.local="$CACHE/m2" dependency:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$CACHE/$dir.part" >&2)
  rm -rf "${CACHE:?}/$dir" "$work"
  mv "$CACHE/$dir.part" "$CACHE/$dir"
}

# The broker we compare with and its tools; and the console tools of the oldest Java client we serve.
part_kafka() {
  fresh kafka "$KAFKA_VERSION $OLD_KAFKA_VERSION" && return
  say "Apache Kafka $KAFKA_VERSION"
  jars "kafka-$KAFKA_VERSION" "org.apache.kafka:kafka_2.13:$KAFKA_VERSION" \
    "org.apache.kafka:kafka-tools:$KAFKA_VERSION" org.slf4j:slf4j-simple:1.7.36
  say "Kafka tools $OLD_KAFKA_VERSION"
  jars "kafka-$OLD_KAFKA_VERSION" "org.apache.kafka:kafka_2.12:$OLD_KAFKA_VERSION" \
    "org.apache.kafka:kafka-tools:$OLD_KAFKA_VERSION" # brings its own slf4j binding
  stamp kafka "$KAFKA_VERSION $OLD_KAFKA_VERSION"
}

PACKAGES=(kcat strace e2fsprogs iproute2 nftables util-linux gcc make python3 python3-venv zlib1g-dev liblz4-dev libzstd-dev)
part_packages() {
  local missing=() package
  for package in "${PACKAGES[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
  done
  command -v java > /dev/null || missing+=(default-jdk-headless)
  command -v mvn > /dev/null || missing+=(maven)
  [ ${#missing[@]} -eq 0 ] && return
  if [ "$(id -u)" != 0 ]; then die "install these packages, then run this again: sudo apt-get install ${missing[*]}"; fi
  command -v apt-get > /dev/null || die "no apt-get here; install with your package manager what Debian calls: ${missing[*]}"
  say "packages: ${missing[*]}"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" > "$CACHE/apt.log" 2>&1 ||
    { apt-get update -qq > /dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "${missing[@]}" > "$CACHE/apt.log" 2>&1; } || { tail -20 "$CACHE/apt.log" >&2; die "apt-get failed"; }
}

part_python() {
  local key; key="$(digest "$HERE/clients/requirements.txt")"
  fresh python "$key" && return
  say "Python clients"
  rm -rf "$CACHE/venv"
  python3 -m venv "$CACHE/venv"
  $NICE "$CACHE/venv/bin/pip" install -q --disable-pip-version-check -r "$HERE/clients/requirements.txt" >&2
  stamp python "$key"
}

# librdkafka from the source that the rdkafka-sys crate carries: the load client is built against it.
part_rdkafka() {
  fresh rdkafka "$RDKAFKA_SYS_VERSION" && return
  say "librdkafka (rdkafka-sys $RDKAFKA_SYS_VERSION)"
  need cargo "rustup"; need gcc "apt-get install gcc make"
  local work; work="$(mktemp -d)"
  mkdir -p "$work/src"
  printf '[package]\nname = "fetch"\nversion = "0.1.0"\nedition = "2021"\n[dependencies]\nrdkafka-sys = "%s"\n' \
    "$RDKAFKA_SYS_VERSION" > "$work/Cargo.toml"
  echo 'fn main() {}' > "$work/src/main.rs"
  (cd "$work" && cargo vendor -q vendor > /dev/null)
  rm -rf "$CACHE/librdkafka"
  (cd "$work/vendor/rdkafka-sys/librdkafka" &&
    ./configure --disable-ssl --disable-gssapi --disable-curl --prefix="$CACHE/librdkafka" > conf.log &&
    $NICE make -j1 libs > make.log 2>&1 && make -C src install > install.log) || die "librdkafka did not build; see $work"
  rm -rf "$work"
  stamp rdkafka "$RDKAFKA_SYS_VERSION"
}

# Our load client (bench/clients).
part_bench() {
  part_rdkafka
  local key; key="$(digest "$REPO"/bench/clients/*.[ch])-$RDKAFKA_SYS_VERSION"
  fresh bench "$key" && return
  say "the load client"
  gcc -O2 -Wall -Wextra -o "$CACHE/bin/wherry-load" "$REPO"/bench/clients/*.c -isystem "$CACHE/librdkafka/include" \
    -L"$CACHE/librdkafka/lib" -Wl,-rpath,"\$ORIGIN/../librdkafka/lib" -lrdkafka -lpthread
  stamp bench "$key"
}

# Small programs on franz-go and Sarama. Without Go the tests that use them say so and are not run.
part_go() {
  if ! command -v go > /dev/null; then say "NOTICE: Go is not installed: the franz-go and Sarama tests will not run"; return; fi
  local client key
  for client in franz sarama; do
    key="$(digest "$HERE/clients/$client"/go.mod "$HERE/clients/$client"/go.sum "$HERE/clients/$client"/*.go)"
    fresh "go-$client" "$key" && continue
    say "Go client: $client"
    (cd "$HERE/clients/$client" && GOFLAGS=-mod=readonly $NICE go build -p 1 -o "$CACHE/bin/$client" .)
    stamp "go-$client" "$key"
  done
}

# The programs under examples/. The test of a language that can't be built here says so and is not run.
part_examples() {
  local language
  for language in python go java node rust bash; do
    "$HERE/examples.sh" "$language" > /dev/null || { [ $? -eq 3 ] && say "NOTICE: the example in $language will not run"; }
  done
}

[ $# -eq 0 ] && set -- all
for part in "$@"; do
  case "$part" in
    all) part_packages; part_kafka; part_python; part_rdkafka; part_bench; part_go; part_examples ;;
    kafka | packages | python | rdkafka | bench | go | examples) "part_$part" ;;
    *) sed -n 2,4p "$0" >&2; exit 2 ;;
  esac
done
