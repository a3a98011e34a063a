//! Compile-time proof that the futures of the public API can be spawned.

use crate::*;

fn spawnable<T: Send>(_: T) {}

#[expect(dead_code, reason = "it only has to compile")]
fn all(client: &Client, producer: &Producer, consumer: &mut Consumer, admin: &Admin, record: ProduceRecord) {
    spawnable(Client::connect(ClientConfig::default()));
    spawnable(client.producer(ProducerConfig::default()));
    spawnable(client.consumer(ConsumerConfig::default()));
    spawnable(producer.send(record));
    spawnable(producer.flush());
    spawnable(producer.close());
    spawnable(consumer.poll(1));
    spawnable(consumer.subscribe(&[]));
    spawnable(consumer.assign(&[]));
    spawnable(consumer.commit(&[]));
    spawnable(consumer.committed(&[]));
    spawnable(consumer.committer().commit_in_generation(1, &[]));
    spawnable(admin.cluster());
    spawnable(admin.create_topics(&[], false));
    spawnable(admin.delete_topics(&[]));
    spawnable(admin.create_partitions(&[]));
    spawnable(admin.list_topics());
    spawnable(admin.describe_topics(&[]));
    spawnable(admin.describe_configs(&[]));
    spawnable(admin.alter_configs(&[], false));
    spawnable(admin.delete_records(&[]));
    spawnable(admin.list_offsets(&[]));
    spawnable(admin.list_groups());
    spawnable(admin.describe_groups(&[]));
    spawnable(admin.group_offsets("", None));
    spawnable(admin.alter_group_offsets("", &[]));
    spawnable(admin.delete_groups(&[]));
    spawnable(admin.delete_group_offsets("", &[]));
}
