#!/usr/bin/env python3
"""load.py BROKERS TOPIC PARTITIONS PRODUCER RATE: an idempotent producer that goes on through broker restarts.

Message SEQ goes to partition SEQ % PARTITIONS, with a payload that follows from PRODUCER and SEQ (src/judge.rs makes
the same). Prints `SEQ PARTITION OFFSET` for each acknowledgement, and at the end, on SIGTERM, after all that was sent
is settled, `sent SENT failed FAILED`. What librdkafka itself says goes to a file in $WHERRY_LOAD_LOGS, if that is set.
"""
import logging
import os
import signal
import sys
import time

from confluent_kafka import Producer

MASK = (1 << 64) - 1


def payload(number, seq):
    word = "%016x" % ((seq * 6364136223846793005 + number * 1442695040888963407 + 1) & MASK)
    return f"{number}/{seq}/{word * (1 + (seq * 7 + number) % 60)}"


def main():
    brokers, topic, partitions, number, rate = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    failed = 0
    logs, settings = os.environ.get("WHERRY_LOAD_LOGS"), {}
    if logs:
        logging.basicConfig(filename=f"{logs}/{number}-{os.getpid()}", level=logging.DEBUG, format="%(asctime)s %(message)s")
        settings = {"logger": logging.getLogger("librdkafka"), "debug": "eos"}
    producer = Producer({
        "bootstrap.servers": brokers, "enable.idempotence": True, "linger.ms": (0, 1, 5)[number % 3],
        "compression.type": ("none", "lz4", "zstd")[number % 3], "message.timeout.ms": 300000,
        "queue.buffering.max.messages": 3000, "retry.backoff.ms": 10, "reconnect.backoff.ms": 10,
        "reconnect.backoff.max.ms": 200, "socket.timeout.ms": 10000, "log_level": 7 if logs else 2, **settings,
    })

    def delivered(seq):
        def callback(error, message):
            nonlocal failed
            if error is None:
                sys.stdout.write(f"{seq} {message.partition()} {message.offset()}\n")
            else:
                failed += 1
                sys.stderr.write(f"{seq}: {error}\n")
        return callback

    seq, begin, parent = 0, time.monotonic(), os.getppid()
    while not stop:
        if os.getppid() != parent:
            os._exit(1)  # a test that was killed can't tell its producers to stop
        if seq > (time.monotonic() - begin) * rate:
            time.sleep(0.001)
        else:
            try:
                producer.produce(topic, payload(number, seq), partition=seq % partitions, on_delivery=delivered(seq))
                seq += 1
            except BufferError:  # the broker is away or slow; what could not be sent meanwhile is not caught up with
                producer.poll(0.01)
                begin = time.monotonic() - seq / rate
        producer.poll(0)
        sys.stdout.flush()
    unsettled = producer.flush(120)
    print(f"sent {seq} failed {failed + unsettled}", flush=True)


main()
