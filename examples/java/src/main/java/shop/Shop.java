package shop;

import com.google.gson.Gson;
import com.google.protobuf.ByteString;
import com.google.protobuf.Duration;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusException;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.Locale;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;
import wherry.v1.MessageOuterClass.Message;
import wherry.v1.Publisher.PublishRequest;
import wherry.v1.PublisherServiceGrpc;
import wherry.v1.Request.ReplyRequest;
import wherry.v1.Request.RequestRequest;
import wherry.v1.RequestServiceGrpc;
import wherry.v1.Subscriber.AckOutcome;
import wherry.v1.Subscriber.AckResult;
import wherry.v1.Subscriber.Acknowledge;
import wherry.v1.Subscriber.Credits;
import wherry.v1.Subscriber.NegativeAcknowledge;
import wherry.v1.Subscriber.PullRequest;
import wherry.v1.Subscriber.ReceivedMessage;
import wherry.v1.Subscriber.SubscribeMode;
import wherry.v1.Subscriber.SubscribeRequest;
import wherry.v1.Subscriber.SubscribeStart;
import wherry.v1.SubscriberServiceGrpc;

/** A shop's services, told by their first argument; see README.md. */
public final class Shop {
    private static final Gson GSON = new Gson();
    /** Longer than an outage of the cluster should last. */
    private static final Duration PATIENCE = Duration.newBuilder().setSeconds(90).build();

    record Order(String order, String customer, String item, int quantity) {}

    record Answer(String order, boolean reserved, String by) {}

    private final ManagedChannel channel;

    private Shop(ManagedChannel channel) {
        this.channel = channel;
    }

    /** Publishes orders; has each reserved by the stock service, whose reply is the answer to the same call. */
    private void orders(int count) throws StatusException {
        var publisher = PublisherServiceGrpc.newBlockingV2Stub(channel);
        var requests = RequestServiceGrpc.newBlockingV2Stub(channel);
        var run = UUID.randomUUID().toString().substring(0, 8);
        for (int number = 1; number <= count; number++) {
            var order = new Order(run + "-" + number, "customer-" + number % 5, "oar", number % 3 + 1);
            var key = ByteString.copyFromUtf8(order.customer());
            var message = message("orders", order).setKey(key).setMessageId(order.order());
            var published = publisher.publish(PublishRequest.newBuilder().setMessage(message).build()).getResult();
            say("published", order.order(), "partition", published.getPartition(), "offset", published.getOffset());
            var request = RequestRequest.newBuilder()
                    .setMessage(message("reservations", order).setKey(key))
                    .setTimeout(PATIENCE);
            var reply = requests.request(request.build()).getReply();
            var answer = GSON.fromJson(reply.getPayload().toStringUtf8(), Answer.class);
            say("answered", answer.order(), "reserved", answer.reserved(), "by", answer.by());
        }
    }

    /** Takes requests one by one and replies; a reply acknowledges its request. */
    private void stock(int count) throws StatusException {
        var subscriber = SubscriberServiceGrpc.newBlockingV2Stub(channel);
        var requests = RequestServiceGrpc.newBlockingV2Stub(channel);
        var pull = PullRequest.newBuilder()
                .setGroup("stock")
                .addTopics("reservations")
                .setMaxWait(Duration.newBuilder().setSeconds(10))
                .build();
        var answers = new HashMap<String, Answer>();
        int left = 100;
        for (int reserved = 0; reserved < count; ) {
            for (var request : subscriber.pull(pull).getMessagesList()) {
                var order = order(request);
                // The same request may come again: it gets the same answer, and takes nothing from the stock.
                if (!answers.containsKey(order.order())) {
                    boolean enough = left >= order.quantity();
                    left -= enough ? order.quantity() : 0;
                    answers.put(order.order(), new Answer(order.order(), enough, "java"));
                }
                var reply = ReplyRequest.newBuilder()
                        .setAckId(request.getAckId())
                        .setMessage(message("", answers.get(order.order())));
                try {
                    reserved += settled(order.order(), requests.reply(reply.build()).getAck()) ? 1 : 0;
                } catch (StatusException error) {
                    if (error.getStatus().getCode() != Status.Code.ABORTED) {
                        throw error;
                    }
                    say("lost", order.order()); // took too long: the request comes again, to whoever pulls
                }
            }
        }
    }

    /** Receives orders as a member of a group, until so many are acknowledged. */
    private void follow(int count, SubscribeStart.Builder start, Function<ReceivedMessage, SubscribeRequest> handle)
            throws StatusException, InterruptedException {
        var stream = SubscriberServiceGrpc.newBlockingV2Stub(channel).subscribe();
        var orderOf = new HashMap<ByteString, String>();
        start.addTopics("orders").setMode(SubscribeMode.SUBSCRIBE_MODE_STREAM);
        stream.write(SubscribeRequest.newBuilder().setStart(start).build());
        for (int done = 0; done < count; ) {
            var response = stream.read();
            if (response == null) {
                throw new IllegalStateException("the subscription ended after " + done + " of " + count
                        + " orders; is it stopping?");
            }
            for (var received : response.getDelivery().getMessagesList()) {
                orderOf.put(received.getAckId(), received.getMessage().getMessageId());
                stream.write(handle.apply(received));
            }
            for (var result : response.getSettled().getResultsList()) {
                done += settled(orderOf.remove(result.getAckId()), result) ? 1 : 0;
                if (done < count) {
                    var more = Credits.newBuilder().setMessages(1);
                    stream.write(SubscribeRequest.newBuilder().setCredits(more).build());
                }
            }
        }
        stream.halfClose();
    }

    private static SubscribeRequest take(ReceivedMessage received) {
        var ack = Acknowledge.newBuilder().addAckIds(received.getAckId());
        return SubscribeRequest.newBuilder().setAck(ack).build();
    }

    /** Large orders need a second attempt: they are handed back first. */
    private static SubscribeRequest pack(ReceivedMessage received) {
        if (received.getAttempt() > 1 || order(received).quantity() < 3) {
            return take(received);
        }
        var delay = Duration.newBuilder().setNanos(50_000_000);
        var nack = NegativeAcknowledge.newBuilder().addAckIds(received.getAckId()).setDelay(delay);
        return SubscribeRequest.newBuilder().setNack(nack).build();
    }

    private static Order order(ReceivedMessage received) {
        return GSON.fromJson(received.getMessage().getPayload().toStringUtf8(), Order.class);
    }

    private static Message.Builder message(String topic, Object content) {
        return Message.newBuilder()
                .setTopic(topic)
                .setPayload(ByteString.copyFromUtf8(GSON.toJson(content)))
                .setContentType("application/json");
    }

    /** Tells what became of an order; true if it is done for good. What is not will be delivered again. */
    private static boolean settled(String order, AckResult result) {
        say(result.getOutcome().name().replace("ACK_OUTCOME_", "").toLowerCase(Locale.ROOT), order);
        return result.getOutcome() == AckOutcome.ACK_OUTCOME_ACKNOWLEDGED;
    }

    private static void say(String event, String order, Object... facts) {
        Map<String, Object> line = new LinkedHashMap<>(Map.of("event", event, "order", order));
        for (int at = 0; at < facts.length; at += 2) {
            line.put((String) facts[at], facts[at + 1]);
        }
        System.out.println(GSON.toJson(line));
    }

    private void run(String role, int count) throws StatusException, InterruptedException {
        switch (role) {
            case "orders" -> orders(count);
            case "stock" -> stock(count);
            case "billing", "shipping" ->
                    follow(count, SubscribeStart.newBuilder().setGroup(role).setCredits(16), Shop::take);
            case "packing" -> follow(count, SubscribeStart.newBuilder().setGroup(role).setCredits(1), Shop::pack);
            default -> throw new IllegalStateException("no such role: orders, stock, billing, shipping or packing");
        }
    }

    public static void main(String[] arguments) throws InterruptedException {
        if (arguments.length != 2) {
            System.err.println("usage: shop orders|stock|billing|shipping|packing COUNT");
            System.exit(2);
        }
        var address = System.getenv().getOrDefault("WHERRY_ADDRESS", "localhost:7070");
        var channel = Grpc.newChannelBuilder(address, InsecureChannelCredentials.create()).build();
        try {
            new Shop(channel).run(arguments[0], Integer.parseInt(arguments[1]));
            channel.shutdown().awaitTermination(5, TimeUnit.SECONDS);
        } catch (StatusException | IllegalStateException | NumberFormatException error) {
            System.err.println(arguments[0] + ": " + error.getMessage() + " (sidecar at " + address + ")");
            System.exit(1);
        }
    }
}
