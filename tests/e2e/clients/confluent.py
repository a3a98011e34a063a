#!/usr/bin/env python3
"""The verbs of README.md on confluent-kafka (librdkafka)."""
import faulthandler
import os
import threading
import time

from confluent_kafka import (
    Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, Producer, TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic, OffsetSpec, ResourceType,
)

import verbs
from verbs import check, emit, emit_record


def produce(brokers, topic, codec):
    producer = Producer({
        "bootstrap.servers": brokers, "compression.type": codec, "enable.idempotence": True, "linger.ms": 5,
        "partitioner": "murmur2_random",
    })
    acks = []

    def delivered(i):
        def callback(error, message):
            check(error is None, "delivery", error)
            acks[i] = (message.partition(), message.offset())
        return callback

    for i, (key, value) in enumerate(verbs.lines()):
        acks.append(None)
        producer.produce(topic, key=key, value=value, on_delivery=delivered(i))
        producer.poll(0)
    check(producer.flush(60) == 0, "unsent messages", len(producer))
    for partition, offset in acks:
        emit(partition=partition, offset=offset)


def member(brokers, topic, group, **callbacks):
    modern = os.environ.get("GROUP_PROTOCOL") == "consumer"  # there, the session is the broker's to set
    protocol = {"group.protocol": "consumer"} if modern else {"session.timeout.ms": 10000}
    consumer = Consumer({
        "bootstrap.servers": brokers, "group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False,
        "topic.metadata.refresh.interval.ms": 1000, **protocol,
    })
    consumer.subscribe([topic], **callbacks)
    return consumer


def poll(consumer, most, **more):
    messages = consumer.consume(most, timeout=0.05)
    for message in messages:
        check(message.error() is None, "poll", message.error())
        emit_record(message.partition(), message.offset(), message.key(), message.value(), **more)
    return len(messages)


def consume(brokers, topic, group, count):
    consumer = member(brokers, topic, group)
    seen, deadline = 0, time.monotonic() + verbs.DEADLINE_S
    while seen < count:
        check(time.monotonic() < deadline, "too few records", seen)
        seen += poll(consumer, count - seen)
    consumer.commit(asynchronous=False)
    consumer.close()


def group(brokers, topic, group, count):
    total = len(AdminClient({"bootstrap.servers": brokers}).list_topics(topic, timeout=20).topics[topic].partitions)
    members = [member(brokers, topic, group) for _ in range(2)]
    seen, ready, deadline = 0, False, time.monotonic() + verbs.DEADLINE_S
    while seen < count:
        check(time.monotonic() < deadline, "too few records", seen)
        seen += sum(poll(m, 100, member=i + 1) for i, m in enumerate(members))
        owned = [len(m.assignment()) for m in members]
        if not ready and min(owned) > 0 and sum(owned) == total:
            ready = True
            emit(ready=owned)
    for m in members:
        m.commit(asynchronous=False)
        m.close()


class Owners:
    """Who has which partition, by what the callbacks say: never two at once."""

    def __init__(self):
        self.lock, self.owners, self.seen, self.failure = threading.Lock(), {}, 0, None

    def take(self, partitions, who):
        with self.lock:
            for p in partitions:
                check(p.partition not in self.owners, f"{who} got {p.partition}, which is with", self.owners)
                self.owners[p.partition] = who

    def give(self, partitions, who):
        with self.lock:
            for p in partitions:
                check(self.owners.pop(p.partition, None) == who, f"{who} gave up {p.partition} of", self.owners)

    def counts(self, members):
        with self.lock:
            return [sum(1 for owner in self.owners.values() if owner == m) for m in members]


class Member(threading.Thread):
    """A member with a thread of its own; it commits what it has read before it gives a partition up."""

    def __init__(self, owners, number, *where):
        super().__init__(daemon=True)
        self.owners, self.number, self.where, self.leaving = owners, number, where, False
        self.start()

    def run(self):
        try:
            self.read()
        except BaseException as e:
            self.owners.failure = self.owners.failure or e

    def read(self):
        consumer = member(
            *self.where, on_assign=lambda _, partitions: self.owners.take(partitions, self.number),
            on_revoke=self.revoked, on_lost=lambda _, partitions: check(False, "lost", partitions),
        )
        while not self.leaving:
            count = poll(consumer, 50, member=self.number)
            with self.owners.lock:
                self.owners.seen += count
        consumer.close()

    def revoked(self, consumer, partitions):
        try:
            consumer.commit(asynchronous=False)
        except KafkaException as e:
            check(e.args[0].code() == KafkaError._NO_OFFSET, "commit", e)
        self.owners.give(partitions, self.number)


def rebalance(brokers, topic, group, count):
    total = len(AdminClient({"bootstrap.servers": brokers}).list_topics(topic, timeout=20).topics[topic].partitions)
    owners, members = Owners(), []

    def until(condition, what):
        def holds():
            if owners.failure:
                raise owners.failure
            return condition()
        verbs.until(holds, what)

    # Who comes (+) and who goes (-).
    stages = [[+1], [+2], [+3], [-1], [+4], [-2, -3]]
    for done, stage in enumerate(stages, 1):
        for change in stage:
            if change > 0:
                members.append(Member(owners, change, brokers, topic, group))
            else:
                gone = next(m for m in members if m.number == -change)
                members.remove(gone)
                gone.leaving = True
                gone.join()
        def even():
            counts = owners.counts([m.number for m in members])
            return sum(counts) == total and max(counts) - min(counts) <= 1
        until(even, f"even share among {[m.number for m in members]}")
        emit(ready=owners.counts([m.number for m in members]))
        until(lambda: owners.seen >= count * done // len(stages), "records")
    for m in members:
        m.leaving = True
        m.join()
    until(lambda: not owners.owners, "end of all ownership")


def one(futures):
    return next(iter(futures.values())).result(30)


def config(admin, topic):
    described = one(admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic)]))
    return {name: entry.value for name, entry in described.items()}


def admin_topic(admin, brokers, topic):
    new = NewTopic(topic, 2, 1, config={"retention.ms": "604800000"})
    one(admin.create_topics([new]))
    try:
        one(admin.create_topics([new]))
        check(False, "created twice")
    except Exception as e:
        check(e.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS, "second create", e)
    entry = ConfigEntry("segment.bytes", "1048576", incremental_operation=AlterConfigOpType.SET)
    one(admin.incremental_alter_configs([ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])]))
    wanted = {"retention.ms": "604800000", "segment.bytes": "1048576"}.items()
    verbs.until(lambda: wanted <= config(admin, topic).items(), "changed configuration")
    one(admin.create_partitions([NewPartitions(topic, 3)]))
    partitions = lambda: admin.list_topics(topic, timeout=20).topics[topic].partitions
    verbs.until(lambda: len(partitions()) == 3, "third partition")
    producer = Producer({"bootstrap.servers": brokers})
    for _ in range(10):
        producer.produce(topic, b"x", partition=1)
    check(producer.flush(30) == 0, "unsent messages")
    trimmed = one(admin.delete_records([TopicPartition(topic, 1, 4)]))
    check(trimmed.low_watermark == 4, "trimmed", trimmed)
    at = TopicPartition(topic, 1)
    start = one(admin.list_offsets({at: OffsetSpec.earliest()})).offset
    end = one(admin.list_offsets({at: OffsetSpec.latest()})).offset
    check((start, end) == (4, 10), "offsets", (start, end))


def admin_group(admin, topic, group):
    request = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 1, 7, metadata="seven")])
    one(admin.alter_consumer_group_offsets([request]))
    committed = one(admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])).topic_partitions[0]
    check((committed.partition, committed.offset, committed.metadata) == (1, 7, "seven"), "committed", committed)
    described = one(admin.describe_consumer_groups([group]))
    check(described.state.name == "EMPTY", "group state", described.state)
    listed = lambda: {g.group_id for g in admin.list_consumer_groups().result(30).valid}
    check(group in listed(), "group is not listed")
    one(admin.delete_consumer_groups([group]))
    check(group not in listed(), "group is still listed")


def admin(brokers, topic):
    admin = AdminClient({"bootstrap.servers": brokers})
    admin_topic(admin, brokers, topic)
    admin_group(admin, topic, topic + "-group")
    one(admin.delete_topics([topic]))
    verbs.until(lambda: topic not in admin.list_topics(timeout=20).topics, "end of the topic")
    cluster = admin.describe_cluster().result(30)
    check(len(cluster.nodes) == 1 and cluster.cluster_id, "cluster", cluster)


faulthandler.enable()  # the library is native code: if it crashes, say where
verbs.main(produce, consume, group, admin, rebalance)
