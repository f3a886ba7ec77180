// A backend application on mqtt.js. Usage: bal.mjs PORT VERSION(4|5) NAME PAYLOAD; prints what arrives, one JSON per line.
import { createRequire } from "node:module";
const mqtt = createRequire(import.meta.url)("mqtt"); // found through NODE_PATH

const [port, version, name, payload] = process.argv.slice(2);
const say = (line) => console.log(JSON.stringify(line));
const client = mqtt.connect(`mqtt://127.0.0.1:${port}`, {
  clientId: name,
  clean: false,
  protocolVersion: Number(version),
  properties: version === "5" ? { sessionExpiryInterval: 3600 } : undefined,
});
client.on("message", (topic, body) => say({ topic, body: JSON.parse(body) }));
client.on("error", (error) => say({ error: String(error) }));
client.once("connect", async () => {
  await client.subscribeAsync(`${name}/others/+`, { qos: 1 });
  say({ subscribed: true });
  await client.publishAsync(`${name}/self/messages`, payload, { qos: 1 });
  say({ acked: true });
});
