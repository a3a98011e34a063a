#!/usr/bin/env bash
# A shop's services over HTTP, told by their first argument; see README.md.
set -euo pipefail

ROLE=${1:-} COUNT=${2:-}
ADDRESS=${WHERRY_ADDRESS:-localhost:7070}
SIDECAR=http://$ADDRESS
PATIENCE=90 # seconds: longer than an outage of the cluster should last

die() { printf '%s: %s (sidecar at %s)\n' "$ROLE" "$*" "$ADDRESS" >&2; exit 1; }

# call PATH [CURL ARGUMENT...]: the answer; a refusal's own sentence is the reason to end, but for one with the code EXPECTED.
call() {
  local path=$1 answer; shift
  if answer=$(curl -s --max-time "$PATIENCE" --fail-with-body "$@" "$SIDECAR$path") ||
    [[ -n "${EXPECTED:-}" && "$answer" == *"\"code\":\"$EXPECTED\""* ]]; then
    printf '%s' "$answer"
  else
    die "$([ -n "$answer" ] && jq -r .message <<< "$answer" || echo "no answer; is it there?")"
  fi
}
post() { call "$@" -H 'content-type: application/json'; }

# Publishes orders; has each reserved by the stock service, whose reply is the answer to the same call.
orders() {
  local run number id customer order answer
  run=$(od -An -N4 -tx4 /dev/urandom | tr -d ' ')
  for ((number = 1; number <= $1; number++)); do
    id="$run-$number" customer="customer-$((number % 5))"
    order=$(jq -nc '{order: $id, customer: $customer, item: "oar", quantity: ($number % 3 + 1)}' \
      --arg id "$id" --arg customer "$customer" --argjson number "$number")
    answer=$(post "/v1/topics/orders/messages?key=$customer" -H "wherry-message-id: $id" -d "$order")
    jq -c '{event: "published", order: $id, partition, offset}' --arg id "$id" <<< "$answer"
    answer=$(post "/v1/topics/reservations/requests?key=$customer&timeout=${PATIENCE}s" -d "$order")
    jq -c '{event: "answered"} + .reply.json' <<< "$answer"
  done
}

# pull GROUP TOPIC MAX: the messages that there are, as a JSON array; waits when there are none.
pull() { call "/v1/topics/$2/messages?group=$1&max=$3&wait=10s" | jq -c .messages; }

# Takes requests one by one and replies; a reply acknowledges its request.
stock() {
  local left=100 reserved=0 request id quantity enough reply answer
  declare -A answers
  while ((reserved < $1)); do
    request=$(pull stock reservations 1)
    [ "$request" != '[]' ] || continue
    read -r id quantity < <(jq -r '.[].json | "\(.order) \(.quantity)"' <<< "$request")
    # The same request may come again: it gets the same answer, and takes nothing from the stock.
    if [ -z "${answers[$id]:-}" ]; then
      enough=$((left >= quantity ? 1 : 0))
      left=$((left - enough * quantity)) answers[$id]=$enough
    fi
    reply=$(jq -c '{ack_id: .[].ack_id, message: {json: {order: $id, reserved: ($reserved == "1"), by: "bash"}}}' \
      --arg id "$id" --arg reserved "${answers[$id]}" <<< "$request")
    # When that took too long, the request comes again, to whoever pulls.
    answer=$(EXPECTED=ABORTED post /v1/reply -d "$reply")
    jq -c '{event: (.ack.outcome // "lost"), order: $id}' --arg id "$id" <<< "$answer"
    reserved=$((reserved + $(jq '[select(.ack.outcome == "acknowledged")] | length' <<< "$answer")))
  done
}

# follow GROUP COUNT: receives orders as a member of a group, as server-sent events, until so many are acknowledged.
follow() {
  local group=$1 count=$2 done=0 line name='' events
  exec {events}< <(exec curl -sN "$SIDECAR/v1/topics/orders/events?group=$group&window=16")
  trap "kill $! 2> /dev/null || true" EXIT
  while ((done < count)) && IFS= read -r line; do
    case $line in
      event:*) name=${line#*: } ;;
      data:*)
        [ -z "$name" ] || die "the subscription is at its end ($name): ${line#*: }"
        settle ack "[${line#*: }]"
        ;;
      '{"code":'*) die "$(jq -r .message <<< "$line")" ;;
    esac
  done <&"$events"
  ((done == count)) || die "the subscription ended after $done of $count orders; is it there?"
}

# Shares the orders with other workers: takes one at a time. Large ones need a second attempt: they are handed back first.
packing() {
  local count=$1 done=0 message verb
  while ((done < count)); do
    message=$(pull packing orders 1)
    verb=$(jq -r 'if any(.attempt == 1 and .json.quantity == 3) then "nack" else "ack" end' <<< "$message")
    settle "$verb" "$message"
  done
}

# settle ack|nack MESSAGES: tells what became of each. What is not acknowledged will be delivered again.
settle() {
  local results
  [ "$2" != '[]' ] || return 0
  results=$(post "/v1/$1" -d "$(jq -c '{ack_ids: map(.ack_id)}' <<< "$2")" |
    jq -c '[.results, $messages] | transpose[] | {event: .[0].outcome, order: .[1].message_id}' --argjson messages "$2")
  printf '%s\n' "$results"
  done=$((done + $(grep -c '"acknowledged"' <<< "$results" || true)))
}

case "$ROLE $COUNT" in
  "orders "[1-9]* | "stock "[1-9]* | "packing "[1-9]*) "$ROLE" "$COUNT" ;;
  "billing "[1-9]* | "shipping "[1-9]*) follow "$ROLE" "$COUNT" ;;
  *) die "usage: shop.sh orders|stock|billing|shipping|packing COUNT" ;;
esac
