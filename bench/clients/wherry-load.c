/* wherry-load: a small load client for the Kafka protocol on librdkafka, the same for every broker under test.
 *
 *   wherry-load produce -b HOST:PORT -t PREFIX [-T topics] [-P partitions] [-s size] (-n msgs | -d secs) [-r rate]
 *   wherry-load consume -b HOST:PORT -t PREFIX [-T topics] [-P partitions] -n msgs
 *   wherry-load e2e     -b HOST:PORT -t TOPIC  [-P partitions] -r rate -d secs [-s size]
 *   wherry-load lone    -b HOST:PORT -t TOPIC  -n msgs [-s size]       one message at a time, each awaited
 *   wherry-load steady  -b HOST:PORT -t TOPIC  [-P partitions] [-S stride] -r rate [-s size]   watches for gaps
 *   wherry-load delete  -b HOST:PORT -t PREFIX [-T topics]                                        deletes topics
 *   wherry-load topics  -b HOST:PORT -t PREFIX [-T topics] [-P partitions] [-R replicas] [-X topic.KEY=VALUE]   creates topics
 *
 * Common: [-a acks] [-z codec] [-l linger_ms] [-B batch_bytes] [-F file_of_payload_lines] [-q queue_messages]
 *         [-w warm_up_secs] [-X librdkafka.key=value]...
 * Topics are PREFIX when there is one, else PREFIX-0 .. PREFIX-(T-1); messages go round robin over them.
 * steady produces, idempotent, to every STRIDE-th partition until its input ends; it answers lines of its input: `age` with the
 * longest time that a partition has waited for an acknowledgement, `take` with the longest gaps since the last `take`.
 * Prints one line of JSON. With -r the load is open-loop: the latency clock starts at the planned send time, so a
 * stalled broker is charged for the messages that could not be sent.
 */
#include <getopt.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <librdkafka/rdkafka.h>

#define SECOND_NS 1000000000ull
#define SILENCE_NS (15 * SECOND_NS) /* a consumer that hears nothing for so long gives up */
#define MAX_EXTRA 64
#define BUILTIN_PAYLOADS 1024

/* ---- options ---- */

static struct {
  const char *brokers, *topic, *acks, *codec, *linger, *batch, *payload_file, *queue;
  int topics, partitions, size, replicas, stride;
  long count;
  double seconds, rate, warm_up;
  char *extra_key[MAX_EXTRA], *extra_value[MAX_EXTRA];
  int extras;
} opt = {.brokers = "127.0.0.1:9092", .topic = "bench", .acks = "all", .codec = "none", .linger = "5",
         .batch = "131072", .queue = "200000", .topics = 1, .partitions = 1, .size = 1024, .replicas = 1,
         .stride = 1};

/* ---- time, histogram, CPU ---- */

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * SECOND_NS + (uint64_t)t.tv_nsec;
}

static void sleep_ns(uint64_t ns) {
  struct timespec t = {(time_t)(ns / SECOND_NS), (long)(ns % SECOND_NS)};
  nanosleep(&t, NULL);
}

/* Waits until the planned moment; the last 50 us in one short sleep, so that the wake-up error stays small. */
static void pace(uint64_t until) {
  for (uint64_t now = now_ns(); now < until; now = now_ns())
    sleep_ns(until - now > 60000 ? until - now - 50000 : until - now);
}

/* Log-linear histogram of microseconds: 32 steps per octave, so 3 % wide. */
#define STEPS 32
#define BUCKETS (40 * STEPS)
typedef struct { uint64_t bucket[BUCKETS], n, max; } histogram;

static int bucket_of(uint64_t v) {
  if (v < STEPS) return (int)v;
  int shift = 63 - __builtin_clzll(v) - 5;
  int i = (shift + 1) * STEPS + (int)((v >> shift) - STEPS);
  return i < BUCKETS ? i : BUCKETS - 1;
}

static uint64_t bucket_middle(int i) {
  if (i < STEPS) return (uint64_t)i;
  int shift = i / STEPS - 1;
  return ((uint64_t)(i % STEPS + STEPS) << shift) + ((1ull << shift) >> 1);
}

static void record(histogram *h, uint64_t v) {
  h->bucket[bucket_of(v)]++;
  h->n++;
  if (v > h->max) h->max = v;
}

static uint64_t quantile(const histogram *h, double q) {
  uint64_t want = (uint64_t)(q * (double)h->n), seen = 0;
  for (int i = 0; i < BUCKETS; i++) {
    seen += h->bucket[i];
    if (seen > want) return bucket_middle(i) < h->max ? bucket_middle(i) : h->max;
  }
  return h->max;
}

static void print_histogram(const char *name, const histogram *h) {
  printf(",\"%s\":{\"n\":%lu,\"p50\":%lu,\"p90\":%lu,\"p99\":%lu,\"p999\":%lu,\"max\":%lu}", name, h->n,
         quantile(h, .5), quantile(h, .9), quantile(h, .99), quantile(h, .999), h->max);
}

static double cpu_seconds(void) {
  struct rusage r;
  getrusage(RUSAGE_SELF, &r);
  return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) + (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

/* ---- payloads ---- */

static char *payload;
static size_t *payload_at, *payload_len, payloads;

static void add_payload(size_t at, size_t len) {
  payload_at[payloads] = at;
  payload_len[payloads++] = len;
}

static void make_payloads(void) {
  payload = malloc((size_t)BUILTIN_PAYLOADS * (size_t)opt.size);
  payload_at = malloc(BUILTIN_PAYLOADS * sizeof *payload_at);
  payload_len = malloc(BUILTIN_PAYLOADS * sizeof *payload_len);
  uint32_t state = 12345;
  for (size_t i = 0; i < (size_t)BUILTIN_PAYLOADS * (size_t)opt.size; i++) {
    state = state * 1103515245u + 12345u;
    payload[i] = (char)('A' + (state >> 16) % 26);
  }
  for (size_t i = 0; i < BUILTIN_PAYLOADS; i++) add_payload(i * (size_t)opt.size, (size_t)opt.size);
}

static void read_payloads(const char *path) {
  FILE *f = fopen(path, "r");
  if (!f) { perror(path); exit(2); }
  fseek(f, 0, SEEK_END);
  size_t length = (size_t)ftell(f), lines = 1, begin = 0;
  rewind(f);
  payload = malloc(length + 1);
  if (fread(payload, 1, length, f) != length) { perror(path); exit(2); }
  fclose(f);
  for (size_t i = 0; i < length; i++) lines += payload[i] == '\n';
  payload_at = malloc(lines * sizeof *payload_at);
  payload_len = malloc(lines * sizeof *payload_len);
  for (size_t i = 0; i < length; i++)
    if (payload[i] == '\n') {
      if (i > begin) add_payload(begin, i - begin);
      begin = i + 1;
    }
  if (!payloads) { fprintf(stderr, "%s: no lines\n", path); exit(2); }
}

static void load_payloads(void) {
  if (opt.payload_file) read_payloads(opt.payload_file);
  else make_payloads();
}

/* ---- librdkafka handles ---- */

static histogram ack_us, e2e_us;
static atomic_long acked, failed;
static _Atomic uint64_t last_ack, first_ack;
static uint64_t max_gap, max_gap_at, started, warm_until;
static atomic_int stop;

static void set(rd_kafka_conf_t *conf, const char *key, const char *value) {
  char error[256];
  if (rd_kafka_conf_set(conf, key, value, error, sizeof error) != RD_KAFKA_CONF_OK) {
    fprintf(stderr, "%s: %s\n", key, error);
    exit(2);
  }
}

static void set_extras(rd_kafka_conf_t *conf) {
  for (int i = 0; i < opt.extras; i++)
    if (strncmp(opt.extra_key[i], "topic.", 6) != 0) set(conf, opt.extra_key[i], opt.extra_value[i]);
}

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque) {
  (void)rk;
  (void)opaque;
  if (m->err) {
    if (atomic_fetch_add(&failed, 1) < 5) fprintf(stderr, "delivery: %s\n", rd_kafka_err2str(m->err));
    return;
  }
  uint64_t now = now_ns(), before = last_ack;
  if (before && now - before > max_gap) {
    max_gap = now - before;
    max_gap_at = before - started;
  }
  if (!first_ack) first_ack = now;
  last_ack = now;
  atomic_fetch_add_explicit(&acked, 1, memory_order_relaxed);
  if (now >= warm_until) record(&ack_us, (now - (uint64_t)(uintptr_t)m->_private) / 1000);
}

static rd_kafka_t *open_handle(rd_kafka_type_t type, rd_kafka_conf_t *conf) {
  char error[256];
  set(conf, "bootstrap.servers", opt.brokers);
  set(conf, "log_level", "3");
  set_extras(conf);
  rd_kafka_t *rk = rd_kafka_new(type, conf, error, sizeof error);
  if (!rk) { fprintf(stderr, "%s\n", error); exit(2); }
  return rk;
}

static rd_kafka_t *open_producer(void) {
  rd_kafka_conf_t *conf = rd_kafka_conf_new();
  set(conf, "acks", opt.acks);
  set(conf, "compression.codec", opt.codec);
  set(conf, "linger.ms", opt.linger);
  set(conf, "batch.size", opt.batch);
  set(conf, "queue.buffering.max.messages", opt.queue);
  set(conf, "queue.buffering.max.kbytes", "1048576");
  rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
  return open_handle(RD_KAFKA_PRODUCER, conf);
}

static rd_kafka_t *open_consumer(void) {
  rd_kafka_conf_t *conf = rd_kafka_conf_new();
  set(conf, "group.id", "wherry-load");
  set(conf, "enable.auto.commit", "false");
  set(conf, "auto.offset.reset", "earliest");
  set(conf, "queued.min.messages", "1000000");
  set(conf, "fetch.message.max.bytes", "1048576");
  set(conf, "fetch.error.backoff.ms", "5");
  return open_handle(RD_KAFKA_CONSUMER, conf);
}

static void name_topic(char *out, size_t n, int i) {
  if (opt.topics == 1) snprintf(out, n, "%s", opt.topic);
  else snprintf(out, n, "%s-%d", opt.topic, i);
}

static void await_metadata(rd_kafka_t *rk, rd_kafka_topic_t *topic) {
  const struct rd_kafka_metadata *metadata;
  rd_kafka_resp_err_t e = rd_kafka_metadata(rk, 0, topic, &metadata, 30000);
  if (e) { fprintf(stderr, "metadata: %s\n", rd_kafka_err2str(e)); exit(2); }
  rd_kafka_metadata_destroy(metadata);
}

static void *poll_loop(void *rk) {
  while (!stop) rd_kafka_poll(rk, 50);
  return NULL;
}

/* Sends payload i at planned time `at` (its latency clock), waiting while the client's own queue is full. */
static int send_one(rd_kafka_topic_t *topic, int partition, void *bytes, size_t n, uint64_t at, int closed_loop) {
  static int complaints;
  while (rd_kafka_produce(topic, partition, RD_KAFKA_MSG_F_COPY, bytes, n, NULL, 0, (void *)(uintptr_t)at) == -1) {
    rd_kafka_resp_err_t e = rd_kafka_last_error();
    if (e != RD_KAFKA_RESP_ERR__QUEUE_FULL) {
      if (complaints++ < 5) fprintf(stderr, "produce: %s\n", rd_kafka_err2str(e));
      if (complaints > 1000) return -1;
    }
    sleep_ns(e == RD_KAFKA_RESP_ERR__QUEUE_FULL ? 500000 : 100000000);
    if (closed_loop) at = now_ns();
  }
  return 0;
}

/* Ends without tearing librdkafka down: destroying a handle waits for its threads, which nobody measures. */
static int finish(int code) {
  fflush(stdout);
  _exit(code);
}

/* ---- produce ---- */

static int produce(void) {
  load_payloads();
  rd_kafka_t *rk = open_producer();
  rd_kafka_topic_t **topics = malloc((size_t)opt.topics * sizeof *topics);
  char name[256];
  for (int i = 0; i < opt.topics; i++) {
    name_topic(name, sizeof name, i);
    topics[i] = rd_kafka_topic_new(rk, name, NULL);
  }
  await_metadata(rk, topics[0]);
  pthread_t poller;
  pthread_create(&poller, NULL, poll_loop, rk);
  double cpu = cpu_seconds(), step = opt.rate > 0 ? 1e9 / opt.rate : 0;
  started = now_ns();
  warm_until = started + (uint64_t)(opt.warm_up * 1e9);
  uint64_t end = opt.seconds > 0 ? started + (uint64_t)(opt.seconds * 1e9) : UINT64_MAX;
  for (long i = 0; !opt.count || i < opt.count; i++) {
    uint64_t at = step > 0 ? started + (uint64_t)((double)i * step) : now_ns();
    if (at >= end) break;
    if (step > 0) pace(at);
    size_t k = (size_t)i % payloads;
    int partition = (int)((i / opt.topics) % opt.partitions);
    if (send_one(topics[i % opt.topics], partition, payload + payload_at[k], payload_len[k], at, step == 0)) break;
  }
  while (rd_kafka_outq_len(rk) > 0) sleep_ns(500000);
  stop = 1;
  pthread_join(poller, NULL);
  double seconds = (double)(last_ack - started) / 1e9;
  printf("{\"mode\":\"produce\",\"topics\":%d,\"partitions\":%d,\"size\":%zu,\"acks\":\"%s\",\"codec\":\"%s\","
         "\"msgs\":%ld,\"failed\":%ld,\"secs\":%.3f,\"rate\":%.0f,\"mb_s\":%.2f,\"first_ack_ms\":%.1f,"
         "\"max_gap_ms\":%.1f,\"max_gap_at_s\":%.3f,\"cpu_s\":%.2f",
         opt.topics, opt.partitions, payload_len[0], opt.acks, opt.codec, (long)acked, (long)failed, seconds,
         (double)acked / seconds, (double)acked / seconds * (double)payload_len[0] / 1e6,
         (double)(first_ack - started) / 1e6, (double)max_gap / 1e6, (double)max_gap_at / 1e9, cpu_seconds() - cpu);
  print_histogram("ack_us", &ack_us);
  printf("}\n");
  return finish(failed ? 1 : 0);
}

/* ---- lone: one message in flight ---- */

static int lone(void) {
  load_payloads();
  opt.linger = "0";
  rd_kafka_t *rk = open_producer();
  rd_kafka_topic_t *topic = rd_kafka_topic_new(rk, opt.topic, NULL);
  await_metadata(rk, topic);
  double cpu = cpu_seconds();
  started = now_ns();
  warm_until = UINT64_MAX;
  for (long i = 0; i < opt.count; i++) {
    if (i == opt.count / 10) warm_until = now_ns();
    long want = acked + failed + 1;
    size_t k = (size_t)i % payloads;
    if (send_one(topic, 0, payload + payload_at[k], payload_len[k], now_ns(), 1)) break;
    while (acked + failed < want) rd_kafka_poll(rk, 100);
  }
  double seconds = (double)(last_ack - started) / 1e9;
  printf("{\"mode\":\"lone\",\"size\":%zu,\"acks\":\"%s\",\"msgs\":%ld,\"failed\":%ld,\"secs\":%.3f,\"rate\":%.0f,"
         "\"cpu_s\":%.2f",
         payload_len[0], opt.acks, (long)acked, (long)failed, seconds, (double)acked / seconds, cpu_seconds() - cpu);
  print_histogram("ack_us", &ack_us);
  printf("}\n");
  return finish(failed ? 1 : 0);
}

/* ---- consume ---- */

static int consume(void) {
  rd_kafka_t *rk = open_consumer();
  rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(opt.topics * opt.partitions);
  char name[256];
  for (int i = 0; i < opt.topics; i++)
    for (int p = 0; p < opt.partitions; p++) {
      name_topic(name, sizeof name, i);
      rd_kafka_topic_partition_list_add(list, name, p)->offset = RD_KAFKA_OFFSET_BEGINNING;
    }
  rd_kafka_queue_t *queue = rd_kafka_queue_get_consumer(rk);
  double cpu = cpu_seconds();
  uint64_t first = 0, bytes = 0, last = started = now_ns();
  long got = 0;
  rd_kafka_message_t *batch[1000];
  rd_kafka_assign(rk, list);
  while (got < opt.count) {
    ssize_t n = rd_kafka_consume_batch_queue(queue, 1000, batch, 1000);
    if (n <= 0) {
      if (now_ns() - last > SILENCE_NS) break;
      continue;
    }
    last = now_ns();
    if (!first) first = last;
    for (ssize_t i = 0; i < n; i++) {
      if (!batch[i]->err) {
        got++;
        bytes += batch[i]->len;
      }
      rd_kafka_message_destroy(batch[i]);
    }
  }
  double seconds = (double)(last - started) / 1e9;
  printf("{\"mode\":\"consume\",\"topics\":%d,\"partitions\":%d,\"msgs\":%ld,\"secs\":%.3f,\"rate\":%.0f,"
         "\"mb_s\":%.2f,\"first_ms\":%.1f,\"cpu_s\":%.2f}\n",
         opt.topics, opt.partitions, got, seconds, (double)got / seconds, (double)bytes / seconds / 1e6,
         (double)(first - started) / 1e6, cpu_seconds() - cpu);
  return finish(got >= opt.count ? 0 : 1);
}

/* ---- e2e: a paced producer and a live consumer, one clock ---- */

static atomic_int consumer_ready;
static atomic_long received;
static long wanted;

static void *e2e_consumer(void *unused) {
  (void)unused;
  rd_kafka_t *rk = open_consumer();
  rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(opt.partitions);
  for (int p = 0; p < opt.partitions; p++) {
    int64_t low, high;
    rd_kafka_resp_err_t e = rd_kafka_query_watermark_offsets(rk, opt.topic, p, &low, &high, 20000);
    if (e) { fprintf(stderr, "watermarks: %s\n", rd_kafka_err2str(e)); exit(2); }
    rd_kafka_topic_partition_list_add(list, opt.topic, p)->offset = high;
  }
  rd_kafka_assign(rk, list);
  uint64_t begin = now_ns();
  while (received < wanted) {
    rd_kafka_message_t *m = rd_kafka_consumer_poll(rk, consumer_ready ? 200 : 20);
    uint64_t now = now_ns();
    if (now - begin > SECOND_NS * 3 / 2) consumer_ready = 1; /* its first, empty fetch is out by then */
    if (!m) {
      if (stop && now - last_ack > SECOND_NS * 5) break;
      continue;
    }
    if (!m->err && m->len >= sizeof(uint64_t)) {
      uint64_t sent;
      memcpy(&sent, m->payload, sizeof sent);
      if (sent >= warm_until) record(&e2e_us, (now - sent) / 1000);
      received++;
    }
    rd_kafka_message_destroy(m);
  }
  return NULL;
}

static int e2e(void) {
  wanted = (long)(opt.rate * opt.seconds);
  load_payloads();
  pthread_t consumer, poller;
  pthread_create(&consumer, NULL, e2e_consumer, NULL);
  rd_kafka_t *rk = open_producer();
  rd_kafka_topic_t *topic = rd_kafka_topic_new(rk, opt.topic, NULL);
  await_metadata(rk, topic);
  pthread_create(&poller, NULL, poll_loop, rk);
  while (!consumer_ready) sleep_ns(1000000);
  double cpu = cpu_seconds(), step = 1e9 / opt.rate;
  char *message = malloc((size_t)opt.size);
  started = now_ns();
  warm_until = started + (uint64_t)(opt.warm_up * 1e9);
  for (long i = 0; i < wanted; i++) {
    uint64_t at = started + (uint64_t)((double)i * step);
    pace(at);
    memcpy(message, payload + payload_at[(size_t)i % payloads], (size_t)opt.size);
    memcpy(message, &at, sizeof at);
    if (send_one(topic, (int)(i % opt.partitions), message, (size_t)opt.size, at, 0)) break;
  }
  while (rd_kafka_outq_len(rk) > 0) sleep_ns(500000);
  stop = 1;
  pthread_join(poller, NULL);
  pthread_join(consumer, NULL);
  double seconds = (double)(last_ack - started) / 1e9;
  printf("{\"mode\":\"e2e\",\"rate_set\":%.0f,\"size\":%d,\"acks\":\"%s\",\"linger\":\"%s\",\"msgs\":%ld,"
         "\"failed\":%ld,\"secs\":%.3f,\"rate\":%.0f,\"cpu_s\":%.2f",
         opt.rate, opt.size, opt.acks, opt.linger, (long)received, (long)failed, seconds,
         (double)received / seconds, cpu_seconds() - cpu);
  print_histogram("e2e_us", &e2e_us);
  print_histogram("ack_us", &ack_us);
  printf("}\n");
  return finish(received >= wanted ? 0 : 1);
}

/* ---- steady: the longest time between two acknowledgements of each partition ---- */

typedef struct { _Atomic uint64_t last, gap; } watched;
static watched *watch;

static void on_steady_delivery(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque) {
  (void)rk;
  (void)opaque;
  if (m->err) {
    if (atomic_fetch_add(&failed, 1) < 5) fprintf(stderr, "delivery: %s\n", rd_kafka_err2str(m->err));
    return;
  }
  watched *w = &watch[m->partition];
  uint64_t now = now_ns(), gap = now - w->last;
  if (gap > w->gap) w->gap = gap;
  w->last = now;
  atomic_fetch_add(&acked, 1);
}

static void *steady_send(void *topic) {
  int sent = (opt.partitions + opt.stride - 1) / opt.stride;
  for (long i = 0; !stop; i++) {
    uint64_t at = started + (uint64_t)((double)i * 1e9 / opt.rate);
    pace(at);
    if (send_one(topic, (int)(i % sent) * opt.stride, payload, (size_t)opt.size, at, 0)) break;
  }
  return NULL;
}

static void print_age(void) {
  uint64_t now = now_ns(), oldest = now;
  for (int p = 0; p < opt.partitions; p += opt.stride) oldest = watch[p].last < oldest ? watch[p].last : oldest;
  printf("{\"age_ms\":%.3f}\n", (double)(now - oldest) / 1e6);
}

static void print_gaps(void) {
  uint64_t now = now_ns();
  printf("{\"gaps_ms\":[");
  for (int p = 0; p < opt.partitions; p += opt.stride) {
    uint64_t gap = atomic_exchange(&watch[p].gap, 0), last = watch[p].last;
    if (now > last && now - last > gap) gap = now - last;
    printf("%s[%d,%.3f]", p ? "," : "", p, (double)gap / 1e6);
  }
  printf("],\"acked\":%ld,\"errors\":%ld}\n", atomic_exchange(&acked, 0), atomic_exchange(&failed, 0));
}

static int steady(void) {
  load_payloads();
  watch = calloc((size_t)opt.partitions, sizeof *watch);
  rd_kafka_conf_t *conf = rd_kafka_conf_new();
  set(conf, "enable.idempotence", "true");
  set(conf, "acks", "all");
  set(conf, "linger.ms", opt.linger);
  rd_kafka_conf_set_dr_msg_cb(conf, on_steady_delivery);
  rd_kafka_t *rk = open_handle(RD_KAFKA_PRODUCER, conf);
  rd_kafka_topic_t *topic = rd_kafka_topic_new(rk, opt.topic, NULL);
  await_metadata(rk, topic);
  started = now_ns();
  for (int p = 0; p < opt.partitions; p++) watch[p].last = started;
  pthread_t poller, sender;
  pthread_create(&poller, NULL, poll_loop, rk);
  pthread_create(&sender, NULL, steady_send, topic);
  char line[64];
  while (fgets(line, sizeof line, stdin)) {
    if (!strncmp(line, "age", 3)) print_age();
    else print_gaps();
    fflush(stdout);
  }
  return finish(0);
}

/* ---- topics ---- */

#define TOPICS_PER_REQUEST 500

static long count_errors(rd_kafka_event_t *event) {
  size_t n;
  long errors = 0;
  const rd_kafka_topic_result_t **results =
      rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event), &n);
  for (size_t i = 0; i < n; i++) {
    rd_kafka_resp_err_t e = rd_kafka_topic_result_error(results[i]);
    if (e && e != RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS && errors++ < 5)
      fprintf(stderr, "%s: %s\n", rd_kafka_topic_result_name(results[i]), rd_kafka_err2str(e));
  }
  return errors;
}

static long create_range(rd_kafka_t *rk, rd_kafka_queue_t *queue, int from, int to) {
  rd_kafka_NewTopic_t *new[TOPICS_PER_REQUEST];
  char name[256], error[256];
  for (int i = from; i < to; i++) {
    name_topic(name, sizeof name, i);
    new[i - from] = rd_kafka_NewTopic_new(name, opt.partitions, opt.replicas, error, sizeof error);
    for (int x = 0; x < opt.extras; x++)
      if (!strncmp(opt.extra_key[x], "topic.", 6))
        rd_kafka_NewTopic_set_config(new[i - from], opt.extra_key[x] + 6, opt.extra_value[x]);
  }
  rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(rk, RD_KAFKA_ADMIN_OP_CREATETOPICS);
  rd_kafka_AdminOptions_set_request_timeout(options, 120000, error, sizeof error);
  rd_kafka_AdminOptions_set_operation_timeout(options, 60000, error, sizeof error);
  rd_kafka_CreateTopics(rk, new, (size_t)(to - from), options, queue);
  rd_kafka_event_t *event = rd_kafka_queue_poll(queue, 130000);
  long errors = 1;
  if (!event || rd_kafka_event_error(event))
    fprintf(stderr, "create: %s\n", event ? rd_kafka_event_error_string(event) : "no answer");
  else errors = count_errors(event);
  if (event) rd_kafka_event_destroy(event);
  rd_kafka_AdminOptions_destroy(options);
  rd_kafka_NewTopic_destroy_array(new, (size_t)(to - from));
  return errors;
}

/* True when the broker lists every one of our topics with a leader for each partition. */
static int all_ready(rd_kafka_t *rk) {
  const struct rd_kafka_metadata *metadata;
  if (rd_kafka_metadata(rk, 1, NULL, &metadata, 60000)) return 0;
  int ready = 0;
  size_t prefix = strlen(opt.topic);
  for (int i = 0; i < metadata->topic_cnt; i++) {
    const struct rd_kafka_metadata_topic *t = &metadata->topics[i];
    if (strncmp(t->topic, opt.topic, prefix) || (opt.topics > 1 ? t->topic[prefix] != '-' : t->topic[prefix])) continue;
    int led = t->err == 0 && t->partition_cnt == opt.partitions;
    for (int p = 0; led && p < t->partition_cnt; p++) led = t->partitions[p].leader >= 0;
    ready += led;
  }
  rd_kafka_metadata_destroy(metadata);
  return ready >= opt.topics;
}

static int topics(void) {
  rd_kafka_conf_t *conf = rd_kafka_conf_new();
  set(conf, "socket.timeout.ms", "120000");
  rd_kafka_t *rk = open_handle(RD_KAFKA_PRODUCER, conf);
  rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
  uint64_t begin = now_ns();
  long errors = 0;
  for (int i = 0; i < opt.topics; i += TOPICS_PER_REQUEST)
    errors += create_range(rk, queue, i, i + TOPICS_PER_REQUEST < opt.topics ? i + TOPICS_PER_REQUEST : opt.topics);
  double created = (double)(now_ns() - begin) / 1e9;
  while (!errors && !all_ready(rk) && now_ns() - begin < 300 * SECOND_NS) sleep_ns(20000000);
  printf("{\"mode\":\"topics\",\"topics\":%d,\"partitions\":%d,\"errors\":%ld,\"create_s\":%.3f,\"ready_s\":%.3f}\n",
         opt.topics, opt.partitions, errors, created, (double)(now_ns() - begin) / 1e9);
  return finish(errors ? 1 : 0);
}

static int delete(void) {
  rd_kafka_conf_t *conf = rd_kafka_conf_new();
  set(conf, "socket.timeout.ms", "120000");
  rd_kafka_t *rk = open_handle(RD_KAFKA_PRODUCER, conf);
  rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
  uint64_t begin = now_ns();
  long errors = 0;
  char name[256];
  for (int from = 0; from < opt.topics; from += TOPICS_PER_REQUEST) {
    int to = from + TOPICS_PER_REQUEST < opt.topics ? from + TOPICS_PER_REQUEST : opt.topics;
    rd_kafka_DeleteTopic_t *old[TOPICS_PER_REQUEST];
    for (int i = from; i < to; i++) {
      name_topic(name, sizeof name, i);
      old[i - from] = rd_kafka_DeleteTopic_new(name);
    }
    rd_kafka_DeleteTopics(rk, old, (size_t)(to - from), NULL, queue);
    rd_kafka_event_t *event = rd_kafka_queue_poll(queue, 130000);
    errors += !event || rd_kafka_event_error(event);
    if (event) rd_kafka_event_destroy(event);
    rd_kafka_DeleteTopic_destroy_array(old, (size_t)(to - from));
  }
  printf("{\"mode\":\"delete\",\"topics\":%d,\"errors\":%ld,\"secs\":%.3f}\n", opt.topics, errors,
         (double)(now_ns() - begin) / 1e9);
  return finish(errors ? 1 : 0);
}

/* ---- */

static void add_extra(char *pair) {
  char *equals = strchr(pair, '=');
  if (!equals || opt.extras == MAX_EXTRA) { fprintf(stderr, "-X wants key=value\n"); exit(2); }
  *equals = 0;
  opt.extra_key[opt.extras] = pair;
  opt.extra_value[opt.extras++] = equals + 1;
}

static void parse(int argc, char **argv) {
  int o;
  optind = 2;
  while ((o = getopt(argc, argv, "b:t:T:P:R:S:s:n:d:r:a:z:l:B:F:q:w:X:")) != -1) switch (o) {
    case 'b': opt.brokers = optarg; break;
    case 't': opt.topic = optarg; break;
    case 'T': opt.topics = atoi(optarg); break;
    case 'P': opt.partitions = atoi(optarg); break;
    case 'R': opt.replicas = atoi(optarg); break;
    case 'S': opt.stride = atoi(optarg); break;
    case 's': opt.size = atoi(optarg); break;
    case 'n': opt.count = atol(optarg); break;
    case 'd': opt.seconds = atof(optarg); break;
    case 'r': opt.rate = atof(optarg); break;
    case 'a': opt.acks = optarg; break;
    case 'z': opt.codec = optarg; break;
    case 'l': opt.linger = optarg; break;
    case 'B': opt.batch = optarg; break;
    case 'F': opt.payload_file = optarg; break;
    case 'q': opt.queue = optarg; break;
    case 'w': opt.warm_up = atof(optarg); break;
    case 'X': add_extra(optarg); break;
    default: exit(2);
    }
  if (opt.topics < 1 || opt.partitions < 1 || opt.size < 8 || opt.stride < 1) { fprintf(stderr, "bad -T, -P, -S or -s\n"); exit(2); }
}

int main(int argc, char **argv) {
  static const struct { const char *name; int (*run)(void); } modes[] = {
      {"produce", produce}, {"consume", consume}, {"e2e", e2e}, {"lone", lone}, {"steady", steady}, {"topics", topics},
      {"delete", delete}};
  if (argc >= 2) {
    parse(argc, argv);
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
      if (!strcmp(argv[1], modes[i].name)) return modes[i].run();
  }
  fprintf(stderr, "usage: wherry-load produce|consume|e2e|lone|steady|topics|delete ... (librdkafka %s)\n", rd_kafka_version_str());
  return 2;
}
