#!/usr/bin/env python3
"""follow.py BROKERS TOPIC PARTITIONS [OFFSET...]: a consumer without a group that reads every partition from its beginning, until it
is killed, and goes on through whatever happens to the brokers.

Prints `PARTITION OFFSET PRODUCER/SEQ` for each record of load.py. Ends with status 1 on an error that the library does not
hide. If nothing came for a while it says `anew` and begins anew, as another process, where it was: the library was seen to wait
for ever after its brokers had been stopped one after the other. What it says goes to a file in $WHERRY_LOAD_LOGS, if that is set.
"""
import logging
import os
import sys
import time

from confluent_kafka import Consumer, KafkaError, TopicPartition

QUIET_S = 20


def main():
    brokers, topic, partitions = sys.argv[1], sys.argv[2], int(sys.argv[3])
    position = [int(offset) for offset in sys.argv[4:]] or [0] * partitions
    logs, settings = os.environ.get("WHERRY_LOAD_LOGS"), {}
    if logs:
        logging.basicConfig(filename=f"{logs}/follow-{os.getpid()}", level=logging.DEBUG, format="%(asctime)s %(message)s")
        settings = {"logger": logging.getLogger("librdkafka"), "debug": "fetch,topic,broker,metadata"}
    consumer = Consumer({
        "bootstrap.servers": brokers, "group.id": "follow", "enable.auto.commit": False, "check.crcs": True,
        "auto.offset.reset": "error", "reconnect.backoff.ms": 10, "reconnect.backoff.max.ms": 200,
        "socket.timeout.ms": 10000, "retry.backoff.ms": 10, "log_level": 7 if logs else 2, "fetch.error.backoff.ms": 20,
        "topic.metadata.refresh.fast.interval.ms": 50, **settings,
    })
    consumer.assign([TopicPartition(topic, p, position[p]) for p in range(partitions)])
    parent, heard = os.getppid(), time.monotonic()
    while os.getppid() == parent:
        if time.monotonic() > heard + QUIET_S:
            print("anew", flush=True)
            os.execv(sys.executable, [sys.executable, *sys.argv[:4], *map(str, position)])
        for message in consumer.consume(500, 0.2):
            error = message.error()
            if error is None:
                producer, sequence, _ = message.value().decode().split("/")
                sys.stdout.write(f"{message.partition()} {message.offset()} {producer}/{sequence}\n")
                position[message.partition()], heard = message.offset() + 1, time.monotonic()
            elif error.fatal() or error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
                sys.stderr.write(f"{error}\n")
                sys.exit(1)
        sys.stdout.flush()


main()
