"""A shop's services, told by their first argument; see README.md."""

import json
import os
import queue
import sys
import uuid

import grpc
from google.protobuf.duration_pb2 import Duration

from wherry.v1.message_pb2 import Message
from wherry.v1.publisher_pb2 import PublishRequest
from wherry.v1.publisher_pb2_grpc import PublisherServiceStub
from wherry.v1.request_pb2 import ReplyRequest, RequestRequest
from wherry.v1.request_pb2_grpc import RequestServiceStub
from wherry.v1.subscriber_pb2 import (
    ACK_OUTCOME_ACKNOWLEDGED,
    SUBSCRIBE_MODE_STREAM,
    Acknowledge,
    AckOutcome,
    Credits,
    NegativeAcknowledge,
    PullRequest,
    SubscribeRequest,
    SubscribeStart,
)
from wherry.v1.subscriber_pb2_grpc import SubscriberServiceStub

PATIENCE = 90  # seconds: longer than an outage of the cluster should last


def say(event, **facts):
    print(json.dumps({"event": event, **facts}), flush=True)


def message(topic, content, **fields):
    return Message(topic=topic, payload=json.dumps(content).encode(), content_type="application/json", **fields)


def orders(channel, count):
    """Publishes orders; has each reserved by the stock service, whose reply is the answer to the same call."""
    publisher, requests = PublisherServiceStub(channel), RequestServiceStub(channel)
    run = uuid.uuid4().hex[:8]
    for number in range(1, count + 1):
        order = {"order": f"{run}-{number}", "customer": f"customer-{number % 5}", "item": "oar", "quantity": number % 3 + 1}
        key = order["customer"].encode()
        published = publisher.Publish(
            PublishRequest(message=message("orders", order, key=key, message_id=order["order"])), timeout=PATIENCE
        )
        say("published", order=order["order"], partition=published.result.partition, offset=published.result.offset)
        answered = requests.Request(
            RequestRequest(message=message("reservations", order, key=key), timeout=Duration(seconds=PATIENCE))
        )
        say("answered", **json.loads(answered.reply.payload))


def stock(channel, count):
    """Takes requests one by one and replies; a reply acknowledges its request."""
    subscriber, requests = SubscriberServiceStub(channel), RequestServiceStub(channel)
    left, answers, reserved = 100, {}, 0
    while reserved < count:
        for request in subscriber.Pull(
            PullRequest(group="stock", topics=["reservations"], max_wait=Duration(seconds=10))
        ).messages:
            order = json.loads(request.message.payload)
            # The same request may come again: it gets the same answer, and takes nothing from the stock.
            if order["order"] not in answers:
                enough = left >= order["quantity"]
                left -= order["quantity"] if enough else 0
                answers[order["order"]] = {"order": order["order"], "reserved": enough, "by": "python"}
            reply = message("", answers[order["order"]])
            try:
                ack = requests.Reply(ReplyRequest(ack_id=request.ack_id, message=reply), timeout=PATIENCE).ack
                reserved += settled(order["order"], ack)
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.ABORTED:
                    raise
                say("lost", order=order["order"])  # took too long: the request comes again, to whoever pulls


def follow(channel, group, count, handle, mode=SUBSCRIBE_MODE_STREAM, credits=16):
    """Receives orders as a member of a group, until so many are acknowledged."""
    frames, names, done = queue.SimpleQueue(), {}, 0
    start = SubscribeStart(group=group, topics=["orders"], mode=mode, credits=credits)
    frames.put(SubscribeRequest(start=start))
    for response in SubscriberServiceStub(channel).Subscribe(iter(frames.get, None)):
        for received in response.delivery.messages:
            names[received.ack_id] = received.message.message_id
            frames.put(handle(received))
        for result in response.settled.results:
            done += settled(names.pop(result.ack_id), result)
            # Room for another one; after the last, the end of our side, whereupon the sidecar ends the other.
            frames.put(SubscribeRequest(credits=Credits(messages=1)) if done < count else None)
    if done < count:
        raise RuntimeError(f"the subscription of {group} ended after {done} of {count} orders; is it stopping?")


def take(received):
    return SubscribeRequest(ack=Acknowledge(ack_ids=[received.ack_id]))


def pack(received):
    """Large orders need a second attempt: they are handed back first."""
    if received.attempt == 1 and json.loads(received.message.payload)["quantity"] == 3:
        delay = Duration(nanos=50_000_000)
        return SubscribeRequest(nack=NegativeAcknowledge(ack_ids=[received.ack_id], delay=delay))
    return take(received)


def settled(order, result):
    """Tells what became of an order; true if it is done for good. What is not will be delivered again."""
    outcome = AckOutcome.Name(result.outcome).removeprefix("ACK_OUTCOME_").lower()
    say(outcome, order=order)
    return result.outcome == ACK_OUTCOME_ACKNOWLEDGED


ROLES = {
    "orders": orders,
    "stock": stock,
    "billing": lambda channel, count: follow(channel, "billing", count, take),
    "shipping": lambda channel, count: follow(channel, "shipping", count, take),
    "packing": lambda channel, count: follow(channel, "packing", count, pack, credits=1),
}


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in ROLES:
        sys.exit(f"usage: shop.py {'|'.join(ROLES)} COUNT")
    role, address = sys.argv[1], os.environ.get("WHERRY_ADDRESS", "localhost:7070")
    with grpc.insecure_channel(address) as channel:
        try:
            ROLES[role](channel, int(sys.argv[2]))
        except grpc.RpcError as error:
            sys.exit(f"{role}: {error.details()} (sidecar at {address})")
        except RuntimeError as error:
            sys.exit(f"{role}: {error} (sidecar at {address})")


if __name__ == "__main__":
    main()
