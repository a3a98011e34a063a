#!/usr/bin/env python3
"""Transactions on confluent-kafka (librdkafka): `transact.py copy|read ...` (see README.md)."""
import json
import os
import random
import sys
import threading
import time
import zlib

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

import verbs
from verbs import check, emit, emit_record

TIMEOUT_S = 60
ABORTED_PERCENT = 15
# What a coordinator says while it moves, which calls on committed offsets hand through.
PASSING = (
    KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._WAIT_COORD,
)


# librdkafka may never come back from a call about a group whose coordinator has left the cluster (its issue 5511); after so
# long the program begins anew, as whoever watched over it would have it do.
HANGS_S = 20
BEFORE = "COPIED_BEFORE"


class Copier:
    """Reads, writes what it read, and commits both in one transaction; some it aborts on purpose."""

    def __init__(self, brokers, source, target, group, name):
        self.brokers, self.source, self.target, self.name = brokers, source, target, name
        self.random = random.Random(zlib.crc32(name.encode()))
        self.committed, self.aborted, self.failed = json.loads(os.environ.get(BEFORE, "[0, 0, 0]"))
        self.consumer = Consumer({
            "bootstrap.servers": brokers, "group.id": group, "auto.offset.reset": "earliest",
            "enable.auto.commit": False, "isolation.level": "read_committed", "session.timeout.ms": 10000,
        })
        self.consumer.subscribe([source])
        self.producer = None

    def begin_anew(self):
        """Another producer with the same name: it ends whatever the one before has left open."""
        deadline = time.monotonic() + verbs.DEADLINE_S
        while True:
            check(time.monotonic() < deadline, "no producer")
            try:
                self.producer = Producer({
                    "bootstrap.servers": self.brokers, "transactional.id": self.name, "linger.ms": 2,
                    "transaction.timeout.ms": 30000, "message.timeout.ms": 20000,
                })
                return self.producer.init_transactions(TIMEOUT_S)
            except KafkaException as e:
                check(not e.args[0].fatal(), "init_transactions", e)

    def again(self, act):
        """Does something until it is known what became of it."""
        deadline = time.monotonic() + verbs.DEADLINE_S
        while True:
            try:
                return act(TIMEOUT_S)
            except KafkaException as e:
                error = e.args[0]
                if not (error.retriable() or error.code() in PASSING) or time.monotonic() > deadline:
                    raise
            time.sleep(0.05)

    def unless_it_hangs(self, act):
        def begin_anew():
            counts = json.dumps([self.committed, self.aborted, self.failed + 1])
            os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, BEFORE: counts})

        watch = threading.Timer(HANGS_S, begin_anew)
        watch.start()
        try:
            return act()
        finally:
            watch.cancel()

    def transaction(self, messages):
        self.producer.begin_transaction()
        for message in messages:
            self.producer.produce(self.target, key=message.key(), value=message.value())
        if self.random.randrange(100) < ABORTED_PERCENT:
            self.producer.flush(TIMEOUT_S)
            self.again(self.producer.abort_transaction)
            self.aborted += 1
            return False
        offsets = self.consumer.position(self.consumer.assignment())
        self.unless_it_hangs(
            lambda: self.producer.send_offsets_to_transaction(
                offsets, self.consumer.consumer_group_metadata(), HANGS_S / 2
            )
        )
        self.again(self.producer.commit_transaction)
        self.committed += len(messages)
        return True

    def rewind(self):
        """Back to what is committed."""
        committed = self.again(lambda limit: self.consumer.committed(self.consumer.assignment(), timeout=limit))
        for at in committed:
            at.offset = max(at.offset, 0)
            self.consumer.seek(at)

    def copy(self, messages):
        try:
            if self.transaction(messages):
                return
        except KafkaException as e:
            self.failed += 1
            if e.args[0].txn_requires_abort():
                try:
                    self.again(self.producer.abort_transaction)
                except KafkaException:
                    self.begin_anew()
            else:
                self.begin_anew()
        try:
            self.rewind()
        except KafkaException as e:
            # A rebalance came in between: what comes next is what is committed.
            check(e.args[0].code() in (KafkaError._STATE, KafkaError._UNKNOWN_PARTITION), "rewind", e)

    def is_done(self, total):
        """All of the source is committed, by whichever copier."""
        places = [TopicPartition(self.source, p) for p in self.partitions()]
        try:
            committed = self.consumer.committed(places, timeout=TIMEOUT_S)
        except KafkaException:
            return False
        return sum(max(at.offset, 0) for at in committed) >= total

    def partitions(self):
        return self.consumer.list_topics(self.source, timeout=TIMEOUT_S).topics[self.source].partitions

    def run(self, total):
        self.begin_anew()
        if BEFORE not in os.environ:
            emit(ready=True)
        deadline = time.monotonic() + 3 * verbs.DEADLINE_S
        while True:
            check(time.monotonic() < deadline, "too slow", self.committed)
            messages = [m for m in self.consumer.consume(40, timeout=0.5) if m.error() is None]
            if messages:
                self.copy(messages)
            elif self.is_done(total):
                break
        self.consumer.close()
        emit(committed=self.committed, aborted=self.aborted, failed=self.failed)


def read(brokers, topic, isolation):
    """All of a topic, each partition to its end."""
    consumer = Consumer({
        "bootstrap.servers": brokers, "group.id": f"readers-{time.time()}", "isolation.level": isolation,
        "enable.partition.eof": True, "enable.auto.commit": False,
    })
    left = set(consumer.list_topics(topic, timeout=TIMEOUT_S).topics[topic].partitions)
    consumer.assign([TopicPartition(topic, p, 0) for p in left])
    deadline = time.monotonic() + verbs.DEADLINE_S
    while left:
        check(time.monotonic() < deadline, "no end of", left)
        message = consumer.poll(0.5)
        if message is None:
            continue
        if message.error() is None:
            emit_record(message.partition(), message.offset(), message.key(), message.value())
        elif message.error().code() == KafkaError._PARTITION_EOF:
            left.discard(message.partition())
    consumer.close()


if __name__ == "__main__":
    verb, brokers, topic, *rest = sys.argv[1:]
    if verb == "read":
        read(brokers, topic, rest[0])
    else:
        target, group, name, total = rest
        Copier(brokers, topic, target, group, name).run(int(total))
