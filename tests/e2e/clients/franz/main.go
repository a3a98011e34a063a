// Command franz runs the verbs of ../README.md on franz-go.
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

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
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

func codec(name string) (kgo.CompressionCodec, error) {
	switch name {
	case "none":
		return kgo.NoCompression(), nil
	case "gzip":
		return kgo.GzipCompression(), nil
	case "snappy":
		return kgo.SnappyCompression(), nil
	case "lz4":
		return kgo.Lz4Compression(), nil
	case "zstd":
		return kgo.ZstdCompression(), nil
	}
	return kgo.NoCompression(), fmt.Errorf("unknown codec %q", name)
}

func produce(ctx context.Context, brokers, topic, codecName string) error {
	compression, err := codec(codecName)
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers), kgo.DefaultProduceTopic(topic), kgo.AllowAutoTopicCreation(),
		kgo.ProducerBatchCompression(compression), kgo.RequiredAcks(kgo.AllISRAcks()))
	if err != nil {
		return err
	}
	defer client.Close()
	var sent []*kgo.Record
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), "\t")
		sent = append(sent, &kgo.Record{Key: []byte(key), Value: []byte(value)})
	}
	if err := lines.Err(); err != nil {
		return err
	}
	if err := client.ProduceSync(ctx, sent...).FirstErr(); err != nil {
		return err
	}
	for _, r := range sent {
		emit(record{Partition: r.Partition, Offset: r.Offset})
	}
	return nil
}

func member(brokers, topic, group string, more ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append(more, kgo.SeedBrokers(brokers), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit(), kgo.FetchMaxWait(500*time.Millisecond))...)
}

func consume(ctx context.Context, brokers, topic, group string, count int) error {
	client, err := member(brokers, topic, group)
	if err != nil {
		return err
	}
	defer client.Close()
	for seen := 0; seen < count; {
		fetches := client.PollRecords(ctx, count-seen)
		if err := fetches.Err(); err != nil {
			return err
		}
		fetches.EachRecord(func(r *kgo.Record) {
			seen++
			emit(record{Partition: r.Partition, Offset: r.Offset, Key: string(r.Key), Value: string(r.Value)})
		})
	}
	return client.CommitUncommittedOffsets(ctx)
}

// groupOfTwo counts the partitions of two members until both have some, then reads on both.
func groupOfTwo(ctx context.Context, brokers, topic, group string, count int) error {
	var lock sync.Mutex
	var owned [2]int
	ready := false
	total, err := partitions(ctx, brokers, topic)
	if err != nil {
		return err
	}
	changed := func(i, sign int) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, m map[string][]int32) {
			lock.Lock()
			defer lock.Unlock()
			owned[i] += sign * len(m[topic])
			if !ready && owned[0] > 0 && owned[1] > 0 && owned[0]+owned[1] == total {
				ready = true
				emit(map[string]any{"ready": owned})
				out.Flush()
			}
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var clients [2]*kgo.Client
	failed := make(chan error, 2)
	seen := 0
	for i := range clients {
		clients[i], err = member(brokers, topic, group, kgo.OnPartitionsAssigned(changed(i, 1)),
			kgo.OnPartitionsRevoked(changed(i, -1)), kgo.OnPartitionsLost(changed(i, -1)))
		if err != nil {
			return err
		}
		go func() {
			for {
				fetches := clients[i].PollFetches(ctx)
				if err := fetches.Err(); err != nil {
					failed <- err
					return
				}
				lock.Lock()
				fetches.EachRecord(func(r *kgo.Record) {
					seen++
					emit(record{r.Partition, r.Offset, string(r.Key), string(r.Value), i + 1})
				})
				done := seen >= count
				lock.Unlock()
				if done {
					failed <- nil
					return
				}
			}
		}()
	}
	err = <-failed
	for _, client := range clients {
		err = errors.Join(err, client.CommitUncommittedOffsets(ctx))
		client.Close()
	}
	return err
}

func partitions(ctx context.Context, brokers, topic string) (int, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers))
	if err != nil {
		return 0, err
	}
	defer client.Close()
	topics, err := kadm.NewClient(client).ListTopics(ctx, topic)
	if err != nil {
		return 0, err
	}
	return len(topics[topic].Partitions), topics[topic].Err
}

func expect(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

// awaitConfigs waits until a change has spread: it is accepted before every part of a broker knows it.
func awaitConfigs(ctx context.Context, admin *kadm.Client, topic string, want map[string]string) error {
	var values map[string]string
	for range 500 {
		configs, err := admin.DescribeTopicConfigs(ctx, topic)
		if err != nil {
			return fmt.Errorf("describe configs: %w", err)
		}
		values = map[string]string{}
		missing := len(want)
		for _, c := range configs[0].Configs {
			values[c.Key] = c.MaybeValue()
			if value, ok := want[c.Key]; ok && value == c.MaybeValue() {
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

func adminTopic(ctx context.Context, admin *kadm.Client, client *kgo.Client, topic string) error {
	limit, segment := "604800000", "1048576"
	created, err := admin.CreateTopic(ctx, 2, 1, map[string]*string{"retention.ms": &limit}, topic)
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	if err := expect(created.NumPartitions == 2 || created.NumPartitions == -1, "created with %d partitions", created.NumPartitions); err != nil {
		return err
	}
	_, err = admin.CreateTopic(ctx, 2, 1, nil, topic)
	if err := expect(errors.Is(err, kerr.TopicAlreadyExists), "second create: %v", err); err != nil {
		return err
	}
	altered, err := admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "segment.bytes", Value: &segment}}, topic)
	if err != nil || altered[0].Err != nil {
		return fmt.Errorf("alter configs: %v %v", err, altered)
	}
	if err := awaitConfigs(ctx, admin, topic, map[string]string{"retention.ms": limit, "segment.bytes": segment}); err != nil {
		return err
	}
	if _, err := admin.UpdatePartitions(ctx, 3, topic); err != nil {
		return fmt.Errorf("create partitions: %w", err)
	}
	var records []*kgo.Record
	for range 10 {
		records = append(records, &kgo.Record{Topic: topic, Partition: 1, Value: []byte("x")})
	}
	if err := client.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return fmt.Errorf("produce: %w", err)
	}
	trim := kadm.Offsets{}
	trim.AddOffset(topic, 1, 4, -1)
	trimmed, err := admin.DeleteRecords(ctx, trim)
	if err != nil || trimmed.Error() != nil {
		return fmt.Errorf("delete records: %v %v", err, trimmed.Error())
	}
	starts, err := admin.ListStartOffsets(ctx, topic)
	if err != nil {
		return err
	}
	ends, err := admin.ListEndOffsets(ctx, topic)
	if err != nil {
		return err
	}
	start, _ := starts.Lookup(topic, 1)
	end, _ := ends.Lookup(topic, 1)
	return expect(len(ends[topic]) == 3 && start.Offset == 4 && end.Offset == 10, "offsets: %v .. %v of %v", start, end, ends)
}

func adminGroup(ctx context.Context, admin *kadm.Client, topic, group string) error {
	commit := kadm.Offsets{}
	commit.Add(kadm.Offset{Topic: topic, Partition: 1, At: 7, LeaderEpoch: -1, Metadata: "seven"})
	if err := admin.CommitAllOffsets(ctx, group, commit); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	fetched, err := admin.FetchOffsets(ctx, group)
	if err != nil {
		return fmt.Errorf("fetch offsets: %w", err)
	}
	at, ok := fetched.Lookup(topic, 1)
	if err := expect(ok && at.At == 7 && at.Metadata == "seven", "committed: %+v", at); err != nil {
		return err
	}
	groups, err := admin.DescribeGroups(ctx, group)
	if err != nil {
		return fmt.Errorf("describe group: %w", err)
	}
	if err := expect(groups[group].State == "Empty", "group state %q", groups[group].State); err != nil {
		return err
	}
	lags, err := admin.Lag(ctx, group)
	if err != nil {
		return fmt.Errorf("lag: %w", err)
	}
	if err := expect(lags[group].Lag.Total() == 3, "lag %d", lags[group].Lag.Total()); err != nil {
		return err
	}
	if _, err := admin.DeleteGroup(ctx, group); err != nil {
		return fmt.Errorf("delete group: %w", err)
	}
	left, err := admin.ListGroups(ctx)
	if err != nil {
		return fmt.Errorf("list groups: %w", err)
	}
	_, still := left[group]
	return expect(!still, "group is still listed")
}

func admin(ctx context.Context, brokers, topic string) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	if err := adminTopic(ctx, admin, client, topic); err != nil {
		return err
	}
	if err := adminGroup(ctx, admin, topic, topic+"-group"); err != nil {
		return err
	}
	if _, err := admin.DeleteTopic(ctx, topic); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	for range 500 { // a deletion is announced, then spreads
		topics, err := admin.ListTopics(ctx)
		if err != nil {
			return err
		}
		if !topics.Has(topic) {
			emit(map[string]bool{"ok": true})
			return nil
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
		return admin(ctx, args[1], args[2])
	}
	if args[0] == "produce" && len(args) == 4 {
		return produce(ctx, args[1], args[2], args[3])
	}
	if len(args) != 5 {
		return errors.New("usage: see clients/README.md")
	}
	count, err := strconv.Atoi(args[4])
	if err != nil {
		return err
	}
	if args[0] == "group" {
		return groupOfTwo(ctx, args[1], args[2], args[3], count)
	}
	return consume(ctx, args[1], args[2], args[3], count)
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
