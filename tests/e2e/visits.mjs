// A client on mqtt.js with its defaults that connects, asks for its settings, and goes, again and again, each time under the id
// that the library makes. Usage: visits.mjs URL USER PASSWORD COUNT clean|kept; prints how many visits were answered.
import { createRequire } from "node:module";
const mqtt = createRequire(import.meta.url)("mqtt"); // found through NODE_PATH

const [url, username, password, count, session] = process.argv.slice(2);
let answered = 0;
for (let n = 0; n < Number(count); n++) {
  const options = session === "clean" ? {} : { clean: false, clientId: `mqttjs_${n.toString(16).padStart(8, "0")}` };
  const client = await mqtt.connectAsync(url, { username, password, ...options });
  const { clientId } = client.options;
  const answer = new Promise((resolve) => client.on("message", (topic) => topic.includes("/replies/") && resolve()));
  await client.subscribeAsync(`${username}/others/#`, { qos: 1 });
  await client.publishAsync(`${username}/self/requests/${clientId}`, JSON.stringify({ id: `r${n}`, op: "settings" }), { qos: 1 });
  await answer;
  answered += 1;
  await client.endAsync();
}
console.log(answered);
