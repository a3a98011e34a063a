#!/usr/bin/env bash
# A shop's services over HTTP, told by their first argument; see README.md.
set -euo pipefail

SIDECAR="http://${WHERRY_ADDRESS:-localhost:7070}"
PATIENCE=90 # seconds: longer than an outage of the cluster should last

die() { printf '%s\n' "$*" >&2; exit 1; }

# call PATH [CURL ARGUMENT...]: the answer; a refusal's own sentence is the reason to end.
call() {
  local path=$1 answer; shift
  answer=$(curl -s --max-time "$PATIENCE" --fail-with-body "$@" "$SIDECAR$path") ||
    die "$path: $(jq -er .message <<< "$answer" 2> /dev/null || echo "no answer from $SIDECAR; is a sidecar there?")"
  printf '%s' "$answer"
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

# pull GROUP TOPIC MAX: the messages that there are, one a line; waits when there are none.
pull() { call "/v1/topics/$2/messages?group=$1&max=$3&wait=10s" | jq -c '.messages[]'; }

# Takes requests one by one and replies; a reply acknowledges its request.
stock() {
  local left=100 reserved=0 request id quantity enough answer outcome
  declare -A answers
  while ((reserved < $1)); do
    request=$(pull stock reservations 1)
    [ -n "$request" ] || continue
    { read -r id && read -r quantity; } < <(jq -r '.json.order, .json.quantity' <<< "$request")
    # The same request may come again: it gets the same answer, and takes nothing from the stock.
    if [ -z "${answers[$id]:-}" ]; then
      if ((left >= quantity)); then enough=true; ((left -= quantity)) || true; else enough=false; fi
      answers[$id]=$enough
    fi
    answer=$(post /v1/reply -d "$(jq -c '{ack_id, message: {json: {order: .json.order, reserved: $enough, by: "bash"}}}' \
      --argjson enough "${answers[$id]}" <<< "$request")")
    outcome=$(jq -r .ack.outcome <<< "$answer")
    if settled "$id" "$outcome"; then ((reserved += 1)); fi
  done
}

# follow GROUP COUNT MAX: takes orders as a member of a group, until so many are acknowledged.
follow() {
  local group=$1 count=$2 max=$3 done=0 received messages verb outcome
  while ((done < count)); do
    messages=$(pull "$group" orders "$max")
    while read -r received; do
      [ -n "$received" ] || continue
      verb=ack
      # Large orders need a second attempt at packing: they are handed back first.
      [ "$group" = packing ] && jq -e '.attempt == 1 and .json.quantity == 3' <<< "$received" > /dev/null && verb=nack
      outcome=$(post "/v1/$verb" -d "$(jq -c '{ack_ids: [.ack_id]}' <<< "$received")" | jq -r '.results[0].outcome')
      if settled "$(jq -r .message_id <<< "$received")" "$outcome"; then ((done += 1)); fi
    done <<< "$messages"
  done
}

# Tells what became of an order; true if it is done for good. What is not will be delivered again.
settled() {
  jq -nc '{event: $outcome, order: $order}' --arg order "$1" --arg outcome "$2"
  [ "$2" = acknowledged ]
}

case "${1:-} ${2:-}" in
  "orders "[1-9]*) orders "$2" ;;
  "stock "[1-9]*) stock "$2" ;;
  "billing "[1-9]* | "shipping "[1-9]*) follow "$1" "$2" 16 ;;
  "packing "[1-9]*) follow packing "$2" 1 ;;
  *) die "usage: shop.sh orders|stock|billing|shipping|packing COUNT" ;;
esac
