// Tests the examples of proxies with the real programs: two nodes, users with the SDK, and restarts, hangs and lost databases.

import assert from "node:assert/strict";
import { randomInt } from "node:crypto";
import { request } from "node:https";
import { test } from "node:test";
import WebSocket from "ws";
import { connect } from "@switchboard/client";
import { until, untilOnline } from "../packages/client/test/support.js";
import { stopAndWait, ServerNode, startPostgres, token } from "./cluster.js";
import { PROXY_EXAMPLES, reasonProxyCannotRun, startProxy } from "./proxies.js";
import { eventually } from "./support.js";

/** Window over which clients spread their reconnects, in milliseconds. */
const RECONNECT_SPREAD_MS = 1_000;
/** Milliseconds that a reconnect may take in addition to `RECONNECT_SPREAD_MS`, because the machine may be busy. */
const MAX_RECONNECT_MS = 5_000;
const USER_COUNT = 20;

class Installation {
  static async start(t, name) {
    const installation = new Installation();
    // Each test has its own addresses, so that the examples can keep their ports.
    const network = `127.${randomInt(1, 255)}.${randomInt(1, 255)}`;
    Object.assign(installation, { network, postgres: await startPostgres(t, `${network}.20`) });
    const env = {
      SWITCHBOARD_STORE: installation.postgres.url,
      SWITCHBOARD_RECONNECT_SPREAD: String(RECONNECT_SPREAD_MS),
      SWITCHBOARD_CLUSTER_SWEEP: "500",
      ...PROXY_EXAMPLES[name].env,
    };
    const addresses = [`${network}.11`, `${network}.12`];
    installation.nodes = [];
    // The nodes start one after the other, because the first one creates the tables.
    for (const address of addresses) installation.nodes.push(await ServerNode.start(t, address, env));
    installation.proxy = await startProxy(t, name, `${network}.1`, addresses);
    await installation.proxy.started(async () => (await installation.asks("/v1/openapi.json")) === 200);
    return installation;
  }

  /** The status of a request through the proxy, from an address of the test's choice. */
  asks(path, { method = "GET", localAddress, headers } = {}) {
    const options = { ca: this.proxy.certificate, method, localAddress, headers, agent: false };
    return new Promise((answer, failed) => {
      const sent = request(this.proxy.url + path, options, (response) => {
        response.resume();
        answer(response.statusCode);
      });
      sent.on("error", failed).end();
    });
  }

  /** Whether the proxy has no node for a new connection: it answers 503, or if it forwards TCP, closes the connection. */
  refuses() {
    return this.asks("/v1/openapi.json").then(
      (status) => status === 503,
      (error) => error.code === "ECONNRESET",
    );
  }

  /** A user who connects through the proxy as a page of the same site does. */
  user(t, name) {
    const { certificate: ca, url: origin } = this.proxy;
    class AddressedSocket extends WebSocket {
      constructor(url, protocols) {
        super(url, protocols, { ca, origin });
        this.on("error", () => {});
      }
    }
    const chat = connect(origin, { token: token(name), WebSocket: AddressedSocket });
    t.after(() => chat.close());
    return chat;
  }

  /** Connects users until the end of the test `t`; `outages` has the milliseconds of each time that the user was offline. */
  async users(t) {
    const connectionCounts = async () => (await Promise.all(this.nodes.map((node) => node.connections()))).join();
    await eventually(async () => (await connectionCounts()) === "0,0", "the end of earlier connections");
    const names = Array.from({ length: USER_COUNT }, (_, n) => `user_${n}`);
    const users = names.map((name) => ({ name, chat: this.user(t, name), outages: [] }));
    await Promise.all(users.map(({ chat }) => untilOnline(chat)));
    for (const { chat, outages } of users) {
      let since;
      chat.status.subscribe(({ state }) => {
        if (state !== "online") since ??= performance.now();
        else if (since !== undefined) {
          outages.push(performance.now() - since);
          since = undefined;
        }
      });
    }
    return users;
  }

  /** Stops a node as its supervisor does, starts it again, and waits until the proxy sends it a connection. */
  async restart(t, node) {
    await stopAndWait(node.process, "SIGTERM");
    assert.equal(node.process.exitCode, 0);
    await node.start();
    await eventually(async () => (await node.probe("/readyz")) === 200, "the node to be ready");
    const before = await node.connections();
    await eventually(async () => {
      const probingUser = this.user(t, "probe");
      await untilOnline(probingUser);
      const foundNode = (await node.connections()) > before;
      probingUser.close();
      return foundNode;
    }, "the proxy to use the node again");
  }
}

/** Sends messages without a pause. Returns a function that stops this and returns the texts that were acknowledged. */
function startWriting(room) {
  const texts = [];
  let running = true;
  const writingEnds = (async () => {
    for (let n = 0; running; n++) {
      await room.send(`message ${n}`).acked;
      texts.push(`message ${n}`);
    }
  })();
  return async () => {
    running = false;
    await writingEnds;
    return texts;
  };
}

const longestOutage = (outages) => Math.round(Math.max(0, ...outages));

async function assertForwardsAddresses(here, { forwardsProbes }) {
  const client = `${here.network}.99`;
  const headers = {
    authorization: "Bearer forged",
    "content-type": "application/json",
    "x-forwarded-for": "203.0.113.7",
  };
  const status = await here.asks("/v1/conversations", { method: "POST", localAddress: client, headers });
  assert.equal(status, 401);
  const deniedLine = await eventually(
    () => here.nodes.flatMap(({ lines }) => lines).find(({ reason }) => reason === "malformed_token"),
    "a line for the failed login",
  );
  assert.equal(deniedLine.address, client);
  if (forwardsProbes) return;
  for (const path of ["/livez", "/readyz", "/healthz", "/metrics"]) assert.equal(await here.asks(path), 404, path);
}

async function assertSurvivesRestarts(t, here) {
  const users = await here.users(t);
  const connectionCounts = await Promise.all(here.nodes.map((node) => node.connections()));
  assert.deepEqual(connectionCounts, [USER_COUNT / 2, USER_COUNT / 2], "connections by node");
  const [writer, reader] = [users[0], users[1]];
  const room = writer.chat.conversation(`@${reader.name}`);
  const other = reader.chat.conversation(`@${writer.name}`);
  other.messages.subscribe(() => {});
  const stopWriting = startWriting(room);

  await here.restart(t, here.nodes[0]);
  await Promise.all(users.map(({ chat }) => untilOnline(chat)));
  const outagesOfFirstRestart = users.flatMap(({ outages }) => outages);
  assert.equal(
    outagesOfFirstRestart.length,
    connectionCounts[0],
    "the clients of the restarted node reconnect, the others are not cut",
  );
  await here.restart(t, here.nodes[1]);
  await Promise.all(users.map(({ chat }) => untilOnline(chat)));

  const sent = await stopWriting();
  assert.ok(sent.length > 0);
  const listedMessages = await until(other.messages, (list) => list.at(-1)?.text === sent.at(-1));
  const texts = listedMessages.map(({ text }) => text);
  assert.deepEqual(texts, sent.slice(-texts.length));
  const outages = users.flatMap(({ outages }) => outages);
  t.diagnostic(`${outages.length} reconnects, the longest ${longestOutage(outages)} ms; ${sent.length} messages`);
  for (const { name, outages } of users) assert.ok(outages.length <= 2, `${name} was cut ${outages.length} times`);
  assert.ok(
    longestOutage(outages) < RECONNECT_SPREAD_MS + MAX_RECONNECT_MS,
    `offline for ${longestOutage(outages)} ms`,
  );
}

async function assertKeepsConnections(t, here, { probes }) {
  const users = await here.users(t);
  here.postgres.cut();
  const readinessOfNodes = () => Promise.all(here.nodes.map((node) => node.probe("/readyz?exclude=writes")));
  await eventually(
    async () => (await readinessOfNodes()).every((status) => status === 503),
    "nodes without a database",
  );
  // A proxy that queries the nodes' probes has noticed the lost database when it refuses a new connection.
  if (probes) await eventually(() => here.refuses(), "the proxy to refuse connections");
  here.postgres.goOnline();
  await eventually(async () => (await readinessOfNodes()).every((status) => status === 200), "nodes with a database");
  await eventually(async () => !(await here.refuses()), "the proxy to admit connections");
  const answer = await users[0].chat.conversation("@user_1").send("still here").acked;
  assert.ok(answer.seq > 0);
  for (const { name, chat, outages } of users) {
    assert.equal(chat.status.getSnapshot().state, "online", name);
    assert.deepEqual(outages, [], name);
  }
}

/** A node that hangs answers no probe and closes no connection. */
async function assertCutsDeadNode(t, here) {
  const users = await here.users(t);
  // The previous test made both nodes unready, so all connections may be on the node that was ready again first.
  const connectionsOfFirstNode = await here.nodes[0].connections();
  const [hanging, other] = connectionsOfFirstNode > 0 ? here.nodes : here.nodes.toReversed();
  const hangingConnections = await hanging.connections();
  assert.ok(hangingConnections > 0);
  hanging.process.kill("SIGSTOP");
  const start = performance.now();
  await eventually(async () => (await other.connections()) === USER_COUNT, "the clients on the other node");
  t.diagnostic(
    `${hangingConnections} clients of a hanging node were on the other one after ${Math.round(performance.now() - start)} ms`,
  );
  hanging.process.kill("SIGCONT");
  await Promise.all(users.map(({ chat }) => untilOnline(chat)));
  assert.equal(users.flatMap(({ outages }) => outages).length, hangingConnections, "the others are not cut");
}

for (const [name, example] of Object.entries(PROXY_EXAMPLES)) {
  test(name, { skip: await reasonProxyCannotRun(name) }, async (t) => {
    const installation = await Installation.start(t, name);
    await t.test("the client's address arrives, a forged one does not, and probes are not forwarded", () =>
      assertForwardsAddresses(installation, example),
    );
    await t.test("a rolling restart cuts only the clients of the node, for a reconnect, and loses nothing", (t) =>
      assertSurvivesRestarts(t, installation),
    );
    await t.test("nodes without a database keep their connections", (t) =>
      assertKeepsConnections(t, installation, example),
    );
    // Only in long runs (SOAK), because the proxy cuts the connections only after three failed health checks.
    const testsHangingNode = example.cutsDeadNodes && !!process.env.SOAK;
    await t.test("clients of a hanging node are cut, and reconnect to the other", { skip: !testsHangingNode }, (t) =>
      assertCutsDeadNode(t, installation),
    );
  });
}
