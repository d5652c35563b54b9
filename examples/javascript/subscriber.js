// Follows the events that crbridge has put into a NATS stream: all of them in
// order, and after a restart from where it was. It prints a line for each; put
// what you do with them in place of that.
import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";

import { AckPolicy, DeliverPolicy, JetStreamApiCodes, JetStreamApiError, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connect, credsAuthenticator, nanos } from "@nats-io/transport-node";
import { HTTP } from "cloudevents";

const { values: options } = parseArgs({
  options: {
    server: { type: "string", default: "nats://127.0.0.1:4222" }, // or several with commas
    creds: { type: "string" }, // file with the credentials for NATS
    stream: { type: "string", default: "K8S" },
    subject: { type: "string", default: "k8s.>" }, // not what begins with crbridge, which is the bridge's own
    name: { type: "string", default: "javascript-example" }, // under which NATS remembers how far we are
    snapshot: { type: "boolean", default: false }, // begin with the newest event of each object, not with the oldest of all
    json: { type: "boolean", default: false }, // print events as JSON
  },
});

let stop = () => process.exit(0); // nothing is under way yet
for (const signal of ["SIGINT", "SIGTERM"]) {
  process.on(signal, () => stop());
}

const nc = await connect({
  servers: options.server.split(","),
  name: options.name,
  maxReconnectAttempts: -1,
  waitOnFirstConnect: true,
  authenticator: options.creds ? credsAuthenticator(await readFile(options.creds)) : undefined,
});
const consumer = await waitForStream();
const messages = await consumer.consume();
stop = () => messages.stop(); // what was taken is handled to its end
for await (const message of messages) {
  await take(message);
}
await nc.drain();

// waitForStream makes the consumer, or takes the one that there is, as soon as
// the stream is there.
async function waitForStream() {
  for (;;) {
    try {
      const manager = await jetstreamManager(nc);
      await manager.consumers.add(options.stream, {
        durable_name: options.name,
        filter_subject: options.subject,
        ack_policy: AckPolicy.Explicit,
        ack_wait: nanos(10_000), // as long as handling may take
        // One message at a time: so one that has to come again does not come
        // after its successors. Where order does not matter, take more.
        max_ack_pending: 1,
        deliver_policy: options.snapshot ? DeliverPolicy.LastPerSubject : DeliverPolicy.All,
      });
      return await jetstream(nc).consumers.get(options.stream, options.name);
    } catch (err) {
      if (err instanceof JetStreamApiError && err.code !== JetStreamApiCodes.StreamNotFound) {
        throw err; // such as another policy for a consumer that there is
      }
      console.error(`stream ${options.stream}: ${err.message}; trying again`);
      await sleep(1000);
    }
  }
}

// take handles one message. Only when that has worked it is acknowledged; until
// then it comes again, also after this process has ended.
//
// So handle an event in such a way that a second time does no harm. It is
// enough to keep, together with what you make of it, the event's uid, route and
// sequence, and to skip what is older; docs/subscribing.md says what else there is
// to know of an operator's resync and of a cluster that was restored.
async function take(message) {
  let event;
  try {
    event = decode(message);
  } catch (err) {
    console.error(`message on ${message.subject}: ${err.message}`);
    message.term(); // no event, and never will be one
    return;
  }
  try {
    await handle(event);
  } catch (err) {
    console.error(`event ${event.id}: ${err.message}`);
    message.nak(1000);
    return;
  }
  message.ack();
}

// decode reads both modes: attributes in headers, and all in one JSON document.
// The SDK has no binding for NATS, but that of HTTP has the same headers. It
// checks what it reads.
function decode(message) {
  const headers = {};
  for (const [name, values] of message.headers ?? []) {
    headers[name] = name.startsWith("ce-") ? decodeURIComponent(values[0]) : values[0];
  }
  if (headers["Content-Type"]) { // structured
    return HTTP.toEvent({ headers: { "content-type": headers["Content-Type"] }, body: message.string() });
  }
  headers["content-type"] = headers["ce-datacontenttype"];
  return HTTP.toEvent({ headers, body: message.string() });
}

async function handle(event) {
  await print(options.json ? JSON.stringify(event) : inWords(event));
}

function inWords(event) {
  const what = event.type.replace(/^dev\.crbridge\.resource\./, "").replace(/\.v1$/, "");
  const line = `${event.time}  ${what.padEnd(10)} ${event.kind} ${event.subject}`;
  switch (what) {
    case "existing":
    case "created":
    case "updated":
      return `${line} at ${event.resourceversion}: ${JSON.stringify(event.data.spec)}`;
    default: // deleted, deselected: there is no such object any more
      return line;
  }
}

// print waits until the line has gone out, which console.log does not: an event
// is not to be acknowledged before.
function print(line) {
  return new Promise((resolve, reject) => {
    process.stdout.write(line + "\n", (err) => (err ? reject(err) : resolve()));
  });
}
