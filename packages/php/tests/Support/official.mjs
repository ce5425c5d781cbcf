// The official library for JavaScript: reads {"do", "secret", "id", "timestamp", "body", "signature"} and prints the
// signature, or whether the one that came is good.

import { text } from "node:stream/consumers";
import { Webhook } from "standardwebhooks";

const { do: task, secret, id, timestamp, body, signature } = JSON.parse(await text(process.stdin));
const webhook = new Webhook(secret);
if (task === "sign") {
  console.log(webhook.sign(id, new Date(timestamp * 1000), body));
} else {
  const headers = { "webhook-id": id, "webhook-timestamp": String(timestamp), "webhook-signature": signature };
  try {
    webhook.verify(body, headers);
    console.log("good");
  } catch (error) {
    console.log(error.constructor.name);
  }
}
