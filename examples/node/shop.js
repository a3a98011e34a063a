// A shop's services, told by their first argument; see README.md.
import { randomBytes } from "node:crypto";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const PROTO = fileURLToPath(new URL("../../proto/proto", import.meta.url));
const { wherry } = grpc.loadPackageDefinition(
  loader.loadSync(
    ["publisher", "request", "subscriber"].map((name) => `wherry/v1/${name}.proto`),
    { includeDirs: [PROTO], enums: String, longs: Number, arrays: true },
  ),
);
const ADDRESS = process.env.WHERRY_ADDRESS ?? "localhost:7070";
const PATIENCE = 90; // seconds: longer than an outage of the cluster should last

const client = (service) => new wherry.v1[service](ADDRESS, grpc.credentials.createInsecure());
const publisher = client("PublisherService");
const requests = client("RequestService");
const subscriber = client("SubscriberService");

// Calls a unary method; what it throws has the sidecar's sentence in `details`.
const call = (service, method, request) =>
  promisify(service[method]).call(service, request, { deadline: Date.now() + PATIENCE * 1000 });

const say = (event, facts) => console.log(JSON.stringify({ event, ...facts }));
const parse = (message) => JSON.parse(message.payload.toString());
const message = (fields, content) => ({
  ...fields,
  payload: Buffer.from(JSON.stringify(content)),
  contentType: "application/json",
});

// Publishes orders; has each reserved by the stock service, whose reply is the answer to the same call.
async function orders(count) {
  const run = randomBytes(4).toString("hex");
  for (let number = 1; number <= count; number++) {
    const order = {
      order: `${run}-${number}`,
      customer: `customer-${number % 5}`,
      item: "oar",
      quantity: (number % 3) + 1,
    };
    const key = Buffer.from(order.customer);
    const { result } = await call(publisher, "publish", {
      message: message({ topic: "orders", key, messageId: order.order }, order),
    });
    say("published", { order: order.order, partition: result.partition, offset: result.offset });
    const { reply } = await call(requests, "request", {
      message: message({ topic: "reservations", key }, order),
      timeout: { seconds: PATIENCE },
    });
    say("answered", parse(reply));
  }
}

// Takes requests one by one and replies; a reply acknowledges its request.
async function stock(count) {
  const answers = new Map();
  let left = 100;
  for (let reserved = 0; reserved < count; ) {
    const { messages } = await call(subscriber, "pull", {
      group: "stock",
      topics: ["reservations"],
      maxWait: { seconds: 10 },
    });
    for (const request of messages) {
      const { order, quantity } = parse(request.message);
      // The same request may come again: it gets the same answer, and takes nothing from the stock.
      if (!answers.has(order)) {
        const enough = left >= quantity;
        left -= enough ? quantity : 0;
        answers.set(order, { order, reserved: enough, by: "node" });
      }
      const reply = { ackId: request.ackId, message: message({}, answers.get(order)) };
      try {
        const { ack } = await call(requests, "reply", reply);
        if (settled(order, ack)) reserved++;
      } catch (error) {
        if (error.code !== grpc.status.ABORTED) throw error;
        say("lost", { order }); // took too long: the request comes again, to whoever pulls
      }
    }
  }
}

// Receives orders as a member of a group, until so many are acknowledged.
async function follow(group, count, handle = take, credits = 16, mode = "SUBSCRIBE_MODE_STREAM") {
  const stream = subscriber.subscribe();
  const orderOf = new Map();
  let done = 0;
  stream.write({ start: { group, topics: ["orders"], mode, credits } });
  for await (const { delivery, settled: answers } of stream) {
    for (const received of delivery?.messages ?? []) {
      orderOf.set(received.ackId.toString("hex"), received.message.messageId);
      stream.write(handle(received));
    }
    for (const result of answers?.results ?? []) {
      if (settled(orderOf.get(result.ackId.toString("hex")), result)) done++;
      orderOf.delete(result.ackId.toString("hex"));
      // Room for another one; after the last, the end of our side, whereupon the sidecar ends the other.
      if (done < count) stream.write({ credits: { messages: 1 } });
      else stream.end();
    }
  }
  if (done < count) throw new Error(`the subscription ended after ${done} of ${count} orders; is it stopping?`);
}

const take = ({ ackId }) => ({ ack: { ackIds: [ackId] } });

// Large orders need a second attempt: they are handed back first.
function pack(received) {
  const again = received.attempt === 1 && parse(received.message).quantity === 3;
  return again ? { nack: { ackIds: [received.ackId], delay: { nanos: 50_000_000 } } } : take(received);
}

// Tells what became of an order; true if it is done for good. What is not will be delivered again.
function settled(order, { outcome }) {
  say(outcome.replace("ACK_OUTCOME_", "").toLowerCase(), { order });
  return outcome === "ACK_OUTCOME_ACKNOWLEDGED";
}

const ROLES = {
  orders,
  stock,
  billing: (count) => follow("billing", count),
  shipping: (count) => follow("shipping", count),
  packing: (count) => follow("packing", count, pack, 1),
};

const [role, count] = process.argv.slice(2);
if (!Object.hasOwn(ROLES, role ?? "") || !(Number(count) > 0)) {
  console.error(`usage: node shop.js ${Object.keys(ROLES).join("|")} COUNT`);
  process.exit(2);
}
try {
  await ROLES[role](Number(count));
} catch (error) {
  console.error(`${role}: ${error.details ?? error.message} (sidecar at ${ADDRESS})`);
  process.exitCode = 1;
} finally {
  [publisher, requests, subscriber].forEach((service) => service.close());
}
