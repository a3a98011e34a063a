// KafkaShareConsumer of the stock Java client, driven line by line: see README.md for the verbs.
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import org.apache.kafka.clients.consumer.AcknowledgeType;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaShareConsumer;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicIdPartition;
import org.apache.kafka.common.serialization.StringDeserializer;

public class Share {
    static final Duration POLL = Duration.ofMillis(500);
    static final Map<String, ConsumerRecord<String, String>> HELD = new LinkedHashMap<>();

    public static void main(String[] args) throws Exception {
        Properties set = new Properties();
        set.put("bootstrap.servers", args[0]);
        set.put("group.id", args[2]);
        set.put("share.acknowledgement.mode", "explicit");
        set.put("key.deserializer", StringDeserializer.class.getName());
        set.put("value.deserializer", StringDeserializer.class.getName());
        for (int at = 3; at < args.length; at++) {
            String[] pair = args[at].split("=", 2);
            set.put(pair[0], pair[1]);
        }
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        try (KafkaShareConsumer<String, String> consumer = new KafkaShareConsumer<>(set)) {
            consumer.subscribe(List.of(args[1]));
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                String[] words = line.split(" ");
                switch (words[0]) {
                    case "take" -> take(consumer, Integer.parseInt(words[1]));
                    case "accept", "release", "reject", "renew" -> acknowledge(consumer, words);
                    case "handle" -> handle(consumer, Integer.parseInt(words[1]));
                    case "close" -> { return; }
                    default -> throw new IllegalArgumentException(line);
                }
            }
        }
    }

    /** Polls until records came, or so many polls brought none: the next poll wants those at hand acknowledged. */
    static void take(KafkaShareConsumer<String, String> consumer, int polls) {
        for (int poll = 0; poll < polls && HELD.isEmpty(); poll++) {
            ConsumerRecords<String, String> records = consumer.poll(POLL);
            for (ConsumerRecord<String, String> record : records) {
                HELD.put(record.value(), record);
                System.out.printf("{\"value\":\"%s\",\"offset\":%d,\"count\":%d}%n", record.value(), record.offset(),
                    record.deliveryCount().orElse((short) 0));
            }
        }
        System.out.println("{\"done\":true}");
    }

    /** Takes and accepts until a take brings none. */
    static void handle(KafkaShareConsumer<String, String> consumer, int polls) {
        for (take(consumer, polls); !HELD.isEmpty(); take(consumer, polls)) {
            acknowledge(consumer, new String[] {"accept", "all"});
        }
    }

    /** `accept all`, or the values of some records. */
    static void acknowledge(KafkaShareConsumer<String, String> consumer, String[] words) {
        AcknowledgeType type = AcknowledgeType.valueOf(words[0].toUpperCase());
        List<String> values = words[1].equals("all") ? List.copyOf(HELD.keySet()) : List.of(words).subList(1, words.length);
        for (String value : values) {
            // What is renewed comes again with the next poll.
            consumer.acknowledge(HELD.remove(value), type);
        }
        Map<TopicIdPartition, Optional<KafkaException>> told = consumer.commitSync(Duration.ofSeconds(30));
        String errors = "";
        for (Optional<KafkaException> error : told.values()) {
            errors += error.map(Throwable::toString).orElse("");
        }
        System.out.printf("{\"acknowledged\":%d,\"errors\":\"%s\"}%n", values.size(), errors.replace('"', '\''));
    }
}
