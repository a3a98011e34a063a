// A shop's services, told by their first argument; see README.md.
package main

//go:generate ./generate.sh

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "shop/wherry/v1"
)

// Longer than an outage of the cluster should last.
const patience = 90 * time.Second

type order struct {
	Order    string `json:"order"`
	Customer string `json:"customer"`
	Item     string `json:"item"`
	Quantity int    `json:"quantity"`
}

type answer struct {
	Order    string `json:"order"`
	Reserved bool   `json:"reserved"`
	By       string `json:"by"`
}

// orders publishes orders and has each reserved by the stock service, whose reply is the answer to the same call.
func orders(ctx context.Context, conn *grpc.ClientConn, count int) error {
	publisher, requests := v1.NewPublisherServiceClient(conn), v1.NewRequestServiceClient(conn)
	run := make([]byte, 4)
	rand.Read(run)
	for number := 1; number <= count; number++ {
		order := order{
			Order:    fmt.Sprintf("%s-%d", hex.EncodeToString(run), number),
			Customer: fmt.Sprintf("customer-%d", number%5),
			Item:     "oar",
			Quantity: number%3 + 1,
		}
		placed := message("orders", order)
		placed.Key, placed.MessageId = []byte(order.Customer), order.Order
		published, err := publisher.Publish(ctx, &v1.PublishRequest{Message: placed})
		if err != nil {
			return err
		}
		say("published", map[string]any{
			"order": order.Order, "partition": published.Result.Partition, "offset": published.Result.Offset,
		})
		request := &v1.RequestRequest{Message: message("reservations", order), Timeout: durationpb.New(patience)}
		request.Message.Key = []byte(order.Customer)
		answered, err := requests.Request(ctx, request)
		if err != nil {
			return err
		}
		var answer answer
		if err := json.Unmarshal(answered.Reply.Payload, &answer); err != nil {
			return err
		}
		say("answered", map[string]any{"order": answer.Order, "reserved": answer.Reserved, "by": answer.By})
	}
	return nil
}

// stock takes requests one by one and replies; a reply acknowledges its request.
func stock(ctx context.Context, conn *grpc.ClientConn, count int) error {
	subscriber, requests := v1.NewSubscriberServiceClient(conn), v1.NewRequestServiceClient(conn)
	left, answers := 100, map[string]answer{}
	for reserved := 0; reserved < count; {
		pulled, err := subscriber.Pull(ctx, &v1.PullRequest{
			Group: "stock", Topics: []string{"reservations"}, MaxWait: durationpb.New(10 * time.Second),
		})
		if err != nil {
			return err
		}
		for _, request := range pulled.Messages {
			var order order
			if err := json.Unmarshal(request.Message.Payload, &order); err != nil {
				return err
			}
			// The same request may come again: it gets the same answer, and takes nothing from the stock.
			if _, known := answers[order.Order]; !known {
				enough := left >= order.Quantity
				if enough {
					left -= order.Quantity
				}
				answers[order.Order] = answer{order.Order, enough, "go"}
			}
			reply := &v1.ReplyRequest{AckId: request.AckId, Message: message("", answers[order.Order])}
			replied, err := requests.Reply(ctx, reply)
			if status.Code(err) == codes.Aborted {
				// Took too long: the request comes again, to whoever pulls.
				say("lost", map[string]any{"order": order.Order})
				continue
			}
			if err != nil {
				return err
			}
			if settled(order.Order, replied.Ack) {
				reserved++
			}
		}
	}
	return nil
}

// follow receives orders as a member of a group, until so many are acknowledged.
func follow(
	ctx context.Context, conn *grpc.ClientConn, count int, start *v1.SubscribeStart,
	handle func(*v1.ReceivedMessage) *v1.SubscribeRequest,
) error {
	stream, err := v1.NewSubscriberServiceClient(conn).Subscribe(ctx)
	if err != nil {
		return err
	}
	start.Topics = []string{"orders"}
	frames := []*v1.SubscribeRequest{{Frame: &v1.SubscribeRequest_Start{Start: start}}}
	orderOf, done := map[string]string{}, 0
	for done < count {
		for _, frame := range frames {
			// What broke a stream is known to Recv.
			if err := stream.Send(frame); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
		}
		frames = nil
		response, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("the subscription ended after %d of %d orders: %w", done, count, err)
		}
		for _, received := range response.GetDelivery().GetMessages() {
			orderOf[string(received.AckId)] = received.Message.MessageId
			frames = append(frames, handle(received))
		}
		for _, result := range response.GetSettled().GetResults() {
			if settled(orderOf[string(result.AckId)], result) {
				done++
			}
			delete(orderOf, string(result.AckId))
			more := &v1.Credits{Messages: 1}
			frames = append(frames, &v1.SubscribeRequest{Frame: &v1.SubscribeRequest_Credits{Credits: more}})
		}
	}
	return stream.CloseSend()
}

func take(received *v1.ReceivedMessage) *v1.SubscribeRequest {
	ack := &v1.Acknowledge{AckIds: [][]byte{received.AckId}}
	return &v1.SubscribeRequest{Frame: &v1.SubscribeRequest_Ack{Ack: ack}}
}

// pack hands large orders back at first: they need a second attempt.
func pack(received *v1.ReceivedMessage) *v1.SubscribeRequest {
	var order order
	if json.Unmarshal(received.Message.Payload, &order) == nil && order.Quantity == 3 && received.Attempt == 1 {
		nack := &v1.NegativeAcknowledge{AckIds: [][]byte{received.AckId}, Delay: durationpb.New(50 * time.Millisecond)}
		return &v1.SubscribeRequest{Frame: &v1.SubscribeRequest_Nack{Nack: nack}}
	}
	return take(received)
}

func message(topic string, content any) *v1.Message {
	payload, _ := json.Marshal(content) // plain structs always can be written
	return &v1.Message{Topic: topic, Payload: payload, ContentType: "application/json"}
}

// settled tells what became of an order; true if it is done for good. What is not will be delivered again.
func settled(order string, result *v1.AckResult) bool {
	outcome := strings.TrimPrefix(result.Outcome.String(), "ACK_OUTCOME_")
	say(strings.ToLower(outcome), map[string]any{"order": order})
	return result.Outcome == v1.AckOutcome_ACK_OUTCOME_ACKNOWLEDGED
}

func say(event string, facts map[string]any) {
	facts["event"] = event
	json.NewEncoder(os.Stdout).Encode(facts)
}

func run(ctx context.Context, address, role string, count int) error {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	mode := v1.SubscribeMode_SUBSCRIBE_MODE_STREAM
	switch role {
	case "orders":
		return orders(ctx, conn, count)
	case "stock":
		return stock(ctx, conn, count)
	case "billing", "shipping":
		return follow(ctx, conn, count, &v1.SubscribeStart{Group: role, Mode: mode, Credits: 16}, take)
	case "packing":
		return follow(ctx, conn, count, &v1.SubscribeStart{Group: role, Mode: mode, Credits: 1}, pack)
	}
	return errors.New("there is no such role: orders, stock, billing, shipping or packing")
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: shop orders|stock|billing|shipping|packing COUNT")
		os.Exit(2)
	}
	address, set := os.LookupEnv("WHERRY_ADDRESS")
	if !set {
		address = "localhost:7070"
	}
	count, err := strconv.Atoi(os.Args[2])
	if err == nil {
		err = run(context.Background(), address, os.Args[1], count)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v (sidecar at %s)\n", os.Args[1], err, address)
		os.Exit(1)
	}
}
