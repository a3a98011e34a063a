#!/usr/bin/env python3
"""The verbs of README.md on kafka-python."""
import threading
import time

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic
from kafka.errors import TopicAlreadyExistsError

import verbs
from verbs import check, emit, emit_record


def produce(brokers, topic, codec):
    producer = KafkaProducer(
        bootstrap_servers=brokers, compression_type=None if codec == "none" else codec, acks="all", linger_ms=5
    )
    futures = [producer.send(topic, key=key, value=value) for key, value in verbs.lines()]
    producer.flush()
    for future in futures:
        metadata = future.get(timeout=30)
        emit(partition=metadata.partition, offset=metadata.offset)
    producer.close()


def member(brokers, topic, group):
    return KafkaConsumer(
        topic, bootstrap_servers=brokers, group_id=group, auto_offset_reset="earliest", enable_auto_commit=False,
        heartbeat_interval_ms=300,
    )


def consume(brokers, topic, group, count):
    consumer = member(brokers, topic, group)
    seen, deadline = 0, time.monotonic() + verbs.DEADLINE_S
    while seen < count:
        check(time.monotonic() < deadline, "too few records", seen)
        for records in consumer.poll(timeout_ms=500, max_records=count - seen).values():
            for r in records:
                seen += 1
                emit_record(r.partition, r.offset, r.key, r.value)
    consumer.commit()
    consumer.close()


def group(brokers, topic, group, count):
    lock, seen, failures = threading.Lock(), [0], []
    owned, stop = [0, 0], threading.Event()
    probe = KafkaConsumer(bootstrap_servers=brokers)
    total = len(probe.partitions_for_topic(topic))
    probe.close()

    def read(i):
        consumer = member(brokers, topic, group)
        try:
            while not stop.is_set():
                # Longer than a rebalance takes: kafka-python 3.0 can forget an assignment that arrives between polls.
                polled = consumer.poll(timeout_ms=2000)
                with lock:
                    owned[i] = len(consumer.assignment())
                    for records in polled.values():
                        for r in records:
                            seen[0] += 1
                            emit_record(r.partition, r.offset, r.key, r.value, member=i + 1)
            consumer.commit()
        except Exception as e:  # reported by the main thread
            failures.append(e)
        finally:
            consumer.close()

    threads = [threading.Thread(target=read, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    try:
        verbs.until(lambda: failures or (min(owned) > 0 and sum(owned) == total), "two members with partitions")
        if not failures:
            emit(ready=owned)
            verbs.until(lambda: failures or seen[0] >= count, f"{count} records")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]


def config(admin, topic):
    described = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)], config_filter="all")
    return {name: entry["value"] for name, entry in described["topic"][topic].items()}


def admin_topic(admin, brokers, topic):
    new = NewTopic(topic, 2, 1, topic_configs={"retention.ms": "604800000"})
    admin.create_topics([new])
    try:
        admin.create_topics([new])
        check(False, "created twice")
    except TopicAlreadyExistsError:
        pass
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"segment.bytes": "1048576"})])
    wanted = {"retention.ms": "604800000", "segment.bytes": "1048576"}.items()
    verbs.until(lambda: wanted <= config(admin, topic).items(), "changed configuration")
    admin.create_partitions({topic: 3})
    verbs.until(lambda: len(admin.describe_topics([topic])[0]["partitions"]) == 3, "third partition")
    producer = KafkaProducer(bootstrap_servers=brokers)
    for _ in range(10):
        producer.send(topic, b"x", partition=1)
    producer.close()
    at = TopicPartition(topic, 1)
    admin.delete_records({at: 4})
    consumer = KafkaConsumer(bootstrap_servers=brokers)
    bounds = consumer.beginning_offsets([at])[at], consumer.end_offsets([at])[at]
    consumer.close()
    check(bounds == (4, 10), "offsets", bounds)


def admin_group(admin, topic, group):
    at = TopicPartition(topic, 1)
    admin.alter_group_offsets(group, {at: OffsetAndMetadata(7, "seven", -1)})
    committed = admin.list_group_offsets(group)[group][at]
    check(committed.offset == 7 and committed.metadata == "seven", "committed", committed)
    described = admin.describe_groups([group])[group]
    check(described["group_state"] == "Empty", "group", described)
    check(group in {g["group_id"] for g in admin.list_groups()}, "group is not listed")
    admin.delete_groups([group])
    check(group not in {g["group_id"] for g in admin.list_groups()}, "group is still listed")


def admin(brokers, topic):
    admin = KafkaAdminClient(bootstrap_servers=brokers)
    admin_topic(admin, brokers, topic)
    admin_group(admin, topic, topic + "-group")
    admin.delete_topics([topic])
    verbs.until(lambda: topic not in admin.list_topics(), "end of the topic")
    cluster = admin.describe_cluster()
    check(len(cluster["brokers"]) == 1, "cluster", cluster)
    admin.close()


verbs.main(produce, consume, group, admin)
