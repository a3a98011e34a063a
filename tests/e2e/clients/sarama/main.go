// Command sarama runs the verbs of ../README.md on Sarama. SARAMA_VERSION picks the protocol version it speaks.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

type record struct {
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
	Key       string `json:"key,omitempty"`
	Value     string `json:"value,omitempty"`
	Member    int    `json:"member,omitempty"`
}

var out = bufio.NewWriter(os.Stdout)

func emit(v any) {
	if err := json.NewEncoder(out).Encode(v); err != nil {
		panic(err)
	}
}

var codecs = map[string]sarama.CompressionCodec{
	"none": sarama.CompressionNone, "gzip": sarama.CompressionGZIP, "snappy": sarama.CompressionSnappy,
	"lz4": sarama.CompressionLZ4, "zstd": sarama.CompressionZSTD,
}

func config() (*sarama.Config, error) {
	c := sarama.NewConfig()
	c.ClientID = "e2e-sarama"
	if name := os.Getenv("SARAMA_VERSION"); name != "" {
		version, err := sarama.ParseKafkaVersion(name)
		if err != nil {
			return nil, err
		}
		c.Version = version
	}
	c.Producer.RequiredAcks = sarama.WaitForAll
	c.Producer.Idempotent = true
	c.Net.MaxOpenRequests = 1
	c.Producer.Return.Successes = true
	c.Consumer.Offsets.Initial = sarama.OffsetOldest
	c.Consumer.Offsets.AutoCommit.Enable = false
	c.Consumer.Return.Errors = true
	return c, nil
}

func produce(brokers, topic, codec string) error {
	c, err := config()
	if err != nil {
		return err
	}
	compression, ok := codecs[codec]
	if !ok {
		return fmt.Errorf("unknown codec %q", codec)
	}
	c.Producer.Compression = compression
	producer, err := sarama.NewSyncProducer([]string{brokers}, c)
	if err != nil {
		return err
	}
	var sent []*sarama.ProducerMessage
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), "\t")
		sent = append(sent, &sarama.ProducerMessage{Topic: topic, Key: sarama.StringEncoder(key), Value: sarama.StringEncoder(value)})
	}
	if err := errors.Join(lines.Err(), producer.SendMessages(sent)); err != nil {
		return err
	}
	for _, m := range sent {
		emit(record{Partition: m.Partition, Offset: m.Offset})
	}
	return producer.Close()
}

// reader is one group member; all of them share the lock, the count and the signals.
type reader struct {
	shared *shared
	member int
}

type shared struct {
	sync.Mutex
	seen, count int
	claims      [3]int
	partitions  int // of the topic, when two members must share them before reading counts
	ready       bool
	done        chan struct{}
	once        sync.Once
}

func (r *reader) Setup(s sarama.ConsumerGroupSession) error {
	r.shared.Lock()
	defer r.shared.Unlock()
	n := 0
	for _, partitions := range s.Claims() {
		n += len(partitions)
	}
	r.shared.claims[r.member] = n
	a, b := r.shared.claims[1], r.shared.claims[2]
	if r.shared.partitions > 0 && !r.shared.ready && a > 0 && b > 0 && a+b == r.shared.partitions {
		r.shared.ready = true
		emit(map[string]any{"ready": []int{a, b}})
		out.Flush()
	}
	return nil
}

func (r *reader) Cleanup(sarama.ConsumerGroupSession) error {
	r.shared.Lock()
	defer r.shared.Unlock()
	r.shared.claims[r.member] = 0
	return nil
}

func (r *reader) take(s sarama.ConsumerGroupSession, m *sarama.ConsumerMessage) bool {
	r.shared.Lock()
	defer r.shared.Unlock()
	if r.shared.seen >= r.shared.count {
		return false
	}
	r.shared.seen++
	e := record{Partition: m.Partition, Offset: m.Offset, Key: string(m.Key), Value: string(m.Value)}
	if r.shared.partitions > 0 {
		e.Member = r.member
	}
	emit(e)
	s.MarkMessage(m, "")
	if r.shared.seen == r.shared.count {
		r.shared.once.Do(func() { close(r.shared.done) })
	}
	return true
}

func (r *reader) ConsumeClaim(s sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	defer s.Commit()
	for {
		select {
		case m, ok := <-claim.Messages():
			if !ok || !r.take(s, m) {
				return nil
			}
		case <-r.shared.done:
			return nil
		case <-s.Context().Done():
			return nil
		}
	}
}

func join(ctx context.Context, brokers, topic, group string, r *reader, failed chan<- error) (sarama.ConsumerGroup, error) {
	c, err := config()
	if err != nil {
		return nil, err
	}
	g, err := sarama.NewConsumerGroup([]string{brokers}, group, c)
	if err != nil {
		return nil, err
	}
	go func() {
		for err := range g.Errors() {
			failed <- err
		}
	}()
	go func() {
		for ctx.Err() == nil {
			if err := g.Consume(ctx, []string{topic}, r); err != nil {
				failed <- err
				return
			}
			select {
			case <-r.shared.done:
				return
			default:
			}
		}
	}()
	return g, nil
}

func consume(ctx context.Context, brokers, topic, group string, count, members int) error {
	s := &shared{count: count, done: make(chan struct{})}
	if members == 2 {
		c, err := config()
		if err != nil {
			return err
		}
		client, err := sarama.NewClient([]string{brokers}, c)
		if err != nil {
			return err
		}
		partitions, err := client.Partitions(topic)
		if err != nil {
			return err
		}
		s.partitions = len(partitions)
		client.Close()
	}
	failed := make(chan error, 64)
	var groups []sarama.ConsumerGroup
	for i := range members {
		g, err := join(ctx, brokers, topic, group, &reader{s, i + 1}, failed)
		if err != nil {
			return err
		}
		groups = append(groups, g)
	}
	var err error
	select {
	case <-s.done:
	case err = <-failed:
	case <-ctx.Done():
		err = ctx.Err()
	}
	for _, g := range groups {
		err = errors.Join(err, g.Close())
	}
	return err
}

func expect(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

// awaitConfigs waits until a change has spread: it is accepted before every part of a broker knows it.
func awaitConfigs(admin sarama.ClusterAdmin, topic string, want map[string]string) error {
	var values map[string]string
	for range 500 {
		entries, err := admin.DescribeConfig(sarama.ConfigResource{Type: sarama.TopicResource, Name: topic})
		if err != nil {
			return fmt.Errorf("describe configs: %w", err)
		}
		values = map[string]string{}
		missing := len(want)
		for _, e := range entries {
			values[e.Name] = e.Value
			if value, ok := want[e.Name]; ok && value == e.Value {
				missing--
			}
		}
		if missing == 0 {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("configs: %v", values)
}

func adminTopic(admin sarama.ClusterAdmin, client sarama.Client, topic string) error {
	retention, segment := "604800000", "1048576"
	detail := &sarama.TopicDetail{NumPartitions: 2, ReplicationFactor: 1, ConfigEntries: map[string]*string{"retention.ms": &retention}}
	if err := admin.CreateTopic(topic, detail, false); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	err := admin.CreateTopic(topic, detail, false)
	var te *sarama.TopicError
	if err := expect(errors.As(err, &te) && te.Err == sarama.ErrTopicAlreadyExists, "second create: %v", err); err != nil {
		return err
	}
	want := map[string]string{"retention.ms": retention}
	if client.Config().Version.IsAtLeast(sarama.V2_3_0_0) { // that is when incremental changes came
		err = admin.IncrementalAlterConfig(sarama.TopicResource, topic, map[string]sarama.IncrementalAlterConfigsEntry{
			"segment.bytes": {Operation: sarama.IncrementalAlterConfigsOperationSet, Value: &segment}}, false)
		if err != nil {
			return fmt.Errorf("alter configs: %w", err)
		}
		want["segment.bytes"] = segment
	}
	if err := awaitConfigs(admin, topic, want); err != nil {
		return err
	}
	if err := admin.CreatePartitions(topic, 3, nil, false); err != nil {
		return fmt.Errorf("create partitions: %w", err)
	}
	if err := client.RefreshMetadata(topic); err != nil {
		return err
	}
	partitions, err := client.Partitions(topic)
	return errors.Join(err, expect(len(partitions) == 3, "partitions %v", partitions))
}

func adminRecords(admin sarama.ClusterAdmin, client sarama.Client, topic string) error {
	producer, err := sarama.NewSyncProducerFromClient(client)
	if err != nil {
		return err
	}
	for range 10 {
		if _, _, err := producer.SendMessage(&sarama.ProducerMessage{Topic: topic, Partition: 1, Value: sarama.StringEncoder("x")}); err != nil {
			return fmt.Errorf("produce: %w", err)
		}
	}
	if err := admin.DeleteRecords(topic, map[int32]int64{1: 4}); err != nil {
		return fmt.Errorf("delete records: %w", err)
	}
	start, err := client.GetOffset(topic, 1, sarama.OffsetOldest)
	if err != nil {
		return err
	}
	end, err := client.GetOffset(topic, 1, sarama.OffsetNewest)
	if err != nil {
		return err
	}
	return expect(start == 4 && end == 10, "offsets %d .. %d", start, end)
}

func adminGroup(admin sarama.ClusterAdmin, client sarama.Client, topic, group string) error {
	manager, err := sarama.NewOffsetManagerFromClient(group, client)
	if err != nil {
		return err
	}
	partition, err := manager.ManagePartition(topic, 1)
	if err != nil {
		return fmt.Errorf("manage: %w", err)
	}
	partition.MarkOffset(7, "seven")
	manager.Commit()
	partition.AsyncClose() // Close would wait for the manager, which closes next
	if err := manager.Close(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	fetched, err := admin.ListConsumerGroupOffsets(group, map[string][]int32{topic: {1}})
	if err != nil {
		return fmt.Errorf("offsets: %w", err)
	}
	block := fetched.GetBlock(topic, 1)
	if err := expect(block != nil && block.Offset == 7 && block.Metadata == "seven", "committed: %+v", block); err != nil {
		return err
	}
	described, err := admin.DescribeConsumerGroups([]string{group})
	if err != nil {
		return fmt.Errorf("describe group: %w", err)
	}
	if err := expect(len(described) == 1 && described[0].State == "Empty", "groups: %+v", described); err != nil {
		return err
	}
	if err := admin.DeleteConsumerGroup(group); err != nil {
		return fmt.Errorf("delete group: %w", err)
	}
	left, err := admin.ListConsumerGroups()
	if err != nil {
		return fmt.Errorf("list groups: %w", err)
	}
	_, still := left[group]
	return expect(!still, "group is still listed")
}

func admin(brokers, topic string) error {
	c, err := config()
	if err != nil {
		return err
	}
	c.Producer.Partitioner = sarama.NewManualPartitioner
	client, err := sarama.NewClient([]string{brokers}, c)
	if err != nil {
		return err
	}
	admin, err := sarama.NewClusterAdmin([]string{brokers}, c)
	if err != nil {
		return err
	}
	if err := adminTopic(admin, client, topic); err != nil {
		return err
	}
	if err := adminRecords(admin, client, topic); err != nil {
		return err
	}
	if err := adminGroup(admin, client, topic, topic+"-group"); err != nil {
		return err
	}
	if err := admin.DeleteTopic(topic); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	for range 500 { // a deletion is announced, then spreads
		topics, err := admin.ListTopics()
		if err != nil {
			return err
		}
		if _, still := topics[topic]; !still {
			emit(map[string]bool{"ok": true})
			return errors.Join(admin.Close(), client.Close())
		}
		time.Sleep(20 * time.Millisecond)
	}
	return errors.New("topic is still listed")
}

func run(ctx context.Context, args []string) error {
	if len(args) < 3 {
		return errors.New("usage: see clients/README.md")
	}
	if args[0] == "admin" {
		return admin(args[1], args[2])
	}
	if args[0] == "produce" && len(args) == 4 {
		return produce(args[1], args[2], args[3])
	}
	if len(args) != 5 {
		return errors.New("usage: see clients/README.md")
	}
	count, err := strconv.Atoi(args[4])
	if err != nil {
		return err
	}
	members := 1
	if args[0] == "group" {
		members = 2
	}
	return consume(ctx, args[1], args[2], args[3], count, members)
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	err := run(ctx, os.Args[1:])
	out.Flush()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
