#!/usr/bin/env python3
"""Transactions on confluent-kafka (librdkafka): `transact.py copy|read ...` (see README.md)."""
import random
import sys
import time
import zlib

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

import verbs
from verbs import check, emit, emit_record

TIMEOUT_S = 60
ABORTED_PERCENT = 15


class Copier:
    """Reads, writes what it read, and commits both in one transaction; some it aborts on purpose."""

    def __init__(self, brokers, source, target, group, name):
        self.brokers, self.source, self.target, self.name = brokers, source, target, name
        self.random = random.Random(zlib.crc32(name.encode()))
        self.committed, self.aborted, self.failed = 0, 0, 0
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
                if not e.args[0].retriable() or time.monotonic() > deadline:
                    raise

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
        self.producer.send_offsets_to_transaction(offsets, self.consumer.consumer_group_metadata(), TIMEOUT_S)
        self.again(self.producer.commit_transaction)
        self.committed += len(messages)
        return True

    def rewind(self):
        """Back to what is committed."""
        for at in self.consumer.committed(self.consumer.assignment(), timeout=TIMEOUT_S):
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
