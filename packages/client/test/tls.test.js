// The SDK and a server with TLS, whose certificate is from a private authority.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test } from "node:test";
import { promisify } from "node:util";
import { makeCertificate } from "./certificate.js";
import { Server } from "./support.js";

const runFile = promisify(execFile);

/** Sends a message, and prints the status of a probe and what the conversation shows. */
const PROGRAM = `
  import { connect } from "@switchboard/client";
  const chat = connect(process.env.SERVER, { user: "alice", outbox: null });
  const room = chat.conversation("@bob");
  const stop = room.messages.subscribe(() => {});
  await room.send("over TLS").acked;
  const health = await fetch(process.env.SERVER + "/livez");
  console.log(health.status, room.messages.getSnapshot().map(({ text }) => text).join());
  stop();
  chat.close();
`;

test("the SDK in Node talks to a server with TLS whose authority NODE_EXTRA_CA_CERTS names", async (t) => {
  const { ca, certificate, key } = await makeCertificate(t);
  const server = await Server.start(t, {
    env: { SWITCHBOARD_TLS_CERTIFICATE: certificate, SWITCHBOARD_TLS_KEY: key },
  });
  assert.match(server.url, /^https:/);
  const runClientProgram = (env) =>
    runFile(process.execPath, ["--input-type=module", "-e", PROGRAM], {
      cwd: import.meta.dirname,
      env: { ...process.env, SERVER: server.url, ...env },
      timeout: 20_000,
    });
  const { stdout } = await runClientProgram({ NODE_EXTRA_CA_CERTS: ca });
  assert.equal(stdout.trim(), "200 over TLS");
  const fetchProgram = `await fetch(process.env.SERVER + "/livez").catch((error) => console.log(error.cause.code))`;
  const refusedFetch = await runFile(process.execPath, ["--input-type=module", "-e", fetchProgram], {
    env: { ...process.env, SERVER: server.url },
  });
  assert.match(refusedFetch.stdout, /UNABLE_TO_VERIFY|SELF_SIGNED|UNABLE_TO_GET_ISSUER/);
});
