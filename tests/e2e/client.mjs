// Any client on mqtt.js. Usage: client.mjs URL VERSION(4|5) USER PASSWORD [CLIENT_ID]; takes commands as JSON lines on
// standard input ({"subscribe": FILTER} or {"publish": [TOPIC, PAYLOAD, RETAIN]}), prints one JSON line for each thing
// that happens.
import { createInterface } from "node:readline";
import { createRequire } from "node:module";
const mqtt = createRequire(import.meta.url)("mqtt"); // found through NODE_PATH

const [url, version, username, password, clientId] = process.argv.slice(2);
const say = (line) => console.log(JSON.stringify(line));
const client = mqtt.connect(url, {
  clientId,
  username,
  password,
  protocolVersion: Number(version),
  reconnectPeriod: 0,
});
client.on("connect", () => say({ connected: true }));
client.on("message", (topic, body) => say({ topic, body: String(body) }));
client.on("error", (error) => say({ error: String(error), code: error.code }));
client.on("close", () => say({ closed: true }));

createInterface({ input: process.stdin }).on("line", async (line) => {
  const command = JSON.parse(line);
  if (command.subscribe) {
    const answer = await client.subscribeAsync(command.subscribe, { qos: 1 }).then(
      (granted) => granted.every(({ qos }) => qos < 128),
      () => false,
    );
    say({ subscribed: command.subscribe, granted: answer });
  } else {
    const [topic, payload, retain] = command.publish;
    const answer = await client.publishAsync(topic, payload, { qos: 1, retain: Boolean(retain) }).then(
      () => "taken",
      () => "denied",
    );
    say({ published: topic, answer });
  }
});
