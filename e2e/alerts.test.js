// Tests the alerts and the dashboard in packaging/: promtool accepts them, their metrics exist, and a fault fires each alert.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { makeCertificate } from "../packages/client/test/certificate.js";
import { Server } from "../packages/client/test/support.js";
import { packagingPath, Prometheus, promtool } from "./prometheus.js";
import { freePort } from "./support.js";

const runFile = promisify(execFile);
const SECRET = "a secret of the tests that is long enough";
/** A metric that the backup job of docs/operating.md writes, so the server does not export it. */
const BACKUP_JOB_METRIC = "switchboard_backup_timestamp_seconds";

const readMetrics = async (server) => (await fetch(`${server.url}/metrics`)).text();

/** Sets a limit of a running process, such as `--nofile=9`. */
const setProcessLimit = (server, limit) => runFile("prlimit", ["--pid", String(server.process.pid), limit]);

test("promtool accepts the alerts, their tests and the server's metrics", async (t) => {
  const server = await Server.start(t);
  await promtool(["check", "rules", "--lint-fatal", "alerts.yml"]);
  await promtool(["test", "rules", "alerts_test.yml"]);
  await promtool(["check", "metrics"], await readMetrics(server));
});

/** Opens a WebSocket that sends `hello`, and reads nothing after the `welcome`. */
async function connectNonReadingClient(t, server, user) {
  const { hostname, port } = new URL(server.url);
  const socket = connect(Number(port), hostname);
  t.after(() => socket.destroy());
  // The server may close the connection, which is no error of the test.
  socket.on("error", () => {});
  await once(socket, "connect");
  socket.write(
    `GET /v1/ws HTTP/1.1\r\nHost: ${hostname}:${port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n` +
      "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
  );
  let answer = "";
  socket.on("data", (chunk) => (answer += chunk.toString("latin1")));
  while (!answer.includes("\r\n\r\n")) await once(socket, "data");
  const hello = Buffer.from(JSON.stringify({ type: "hello", user }));
  // A WebSocket text frame. Clients must mask their frames; a mask of zeros leaves the text as it is.
  socket.write(Buffer.concat([Buffer.from([0x81, 0x80 | hello.length, 0, 0, 0, 0]), hello]));
  while (!answer.includes('"welcome"')) await once(socket, "data");
  socket.removeAllListeners("data");
  socket.pause();
}

/** Sends long messages of many users to bob, who reads none of them, until the promise `done` is settled. */
async function sendUntilQueuesAreFull(t, server, connections, done) {
  await Promise.all(Array.from({ length: connections }, () => connectNonReadingClient(t, server, "bob")));
  const text = "x".repeat(16_000);
  let ended = false;
  const users = Array.from({ length: 20 }, async (_, user) => {
    while (!ended) await server.posts("send", { as: `user${user}`, to: "@bob", text });
  });
  await done.finally(() => (ended = true));
  await Promise.all(users);
}

/** An application that answers the questions of a hook and the requests of webhooks with the statuses that `nextStatus` returns. */
async function startApplication(t, nextStatus) {
  const application = createServer((request, response) => {
    request.resume().on("end", () => response.writeHead(nextStatus()).end());
  }).listen(0, "127.0.0.1");
  await once(application, "listening");
  t.after(() => {
    application.closeAllConnections();
    application.close();
  });
  return `http://127.0.0.1:${application.address().port}/`;
}

/** The settings of a server that asks an application before it stores a message, and that may have webhooks. */
async function applicationSettings(t, nextStatus) {
  const directory = await mkdtemp(join(tmpdir(), "switchboard-secrets-"));
  t.after(() => rm(directory, { recursive: true, force: true }));
  const [hook, webhooks] = ["hook", "webhooks"].map((name) => join(directory, name));
  await writeFile(hook, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
  await writeFile(webhooks, SECRET);
  const env = {
    SWITCHBOARD_HOOKS_URL: await startApplication(t, nextStatus),
    SWITCHBOARD_HOOKS_SECRET_FILE: hook,
    SWITCHBOARD_HOOKS_ASK: "message",
    SWITCHBOARD_HOOKS_ON_FAILURE: "message=refuse",
    SWITCHBOARD_WEBHOOKS_SECRET_FILE: webhooks,
  };
  return { env };
}

const FAULT_BY_ALERT = {
  async SwitchboardDown({ server }) {
    await server.kill();
  },
  async SwitchboardRestarting({ server, prometheus }) {
    for (let restart = 0; restart < 3; restart++) {
      await server.kill();
      await server.start();
      const processStartTime = /^process_start_time_seconds (.*)$/m.exec(await readMetrics(server))[1];
      await prometheus.until("a scrape after the restart", async () => {
        const [sample] = await prometheus.query(`process_start_time_seconds{instance="${operatorsAddress(server)}"}`);
        return Number(sample?.value[1]) === Number(processStartTime);
      });
    }
  },
  // A client stops reading, so the server waits for this client when it shuts down.
  async SwitchboardNotReady({ t, server }) {
    await connectNonReadingClient(t, server, "bob");
    server.process.kill("SIGTERM");
  },
  // The kernel refuses every write to a file, as it does when a disk quota is used up.
  async SwitchboardWritesRefused({ server, alert }) {
    await setProcessLimit(server, "--fsize=1:");
    await assert.rejects(server.posts("send", { as: "alice", to: "@bob", text: "lost" }), /unavailable/);
    await alert("SwitchboardCommandsUnavailable");
    await alert("SwitchboardWritesRefused");
    await setProcessLimit(server, "--fsize=unlimited:");
    return { ends: true };
  },
  // Stops the process for a while during commits, as if the machine froze.
  async SwitchboardCommitSlow({ server, until }) {
    await until("SwitchboardCommitSlow", async () => {
      const sent = Array.from({ length: 50 }, (_, index) =>
        server.posts("send", { as: `user${index}`, to: "@bob", text: "slow" }),
      );
      await sent[0];
      server.process.kill("SIGSTOP");
      // waits for: the end of the freeze
      await new Promise((done) => setTimeout(done, 600));
      server.process.kill("SIGCONT");
      await Promise.all(sent);
    });
  },
  async SwitchboardSlowConsumersCut({ t, server, alert }) {
    await sendUntilQueuesAreFull(t, server, 12, alert("SwitchboardSlowConsumersCut"));
  },
  async SwitchboardCatchingUp({ t, server, alert }) {
    await sendUntilQueuesAreFull(t, server, 8, alert("SwitchboardCatchingUp"));
  },
  async SwitchboardConnectionsRefused({ t, server }) {
    const { hostname, port } = new URL(server.url);
    for (let count = 0; count < 60; count++) {
      const socket = connect(Number(port), hostname);
      t.after(() => socket.destroy());
      socket.on("error", () => {});
      socket.write("GET /v1/ws HTTP/1.1\r\n");
      await once(socket, "connect");
    }
  },
  async SwitchboardFlood({ server }) {
    for (let count = 0; count < 400; count++) {
      await server.asUser("alice", "send", { to: "@bob", text: "more" }).catch((error) => {
        assert.match(String(error), /rate_limited/);
      });
    }
  },
  async SwitchboardDescriptorsShort({ server }) {
    const openDescriptors = Number(/^process_open_fds (\d+)$/m.exec(await readMetrics(server))[1]);
    await setProcessLimit(server, `--nofile=${Math.ceil(openDescriptors / 0.85)}:`);
  },
  async SwitchboardWrongCredentials({ server }) {
    const serverWithOtherSecret = { env: { SWITCHBOARD_AUTH_SECRET: `${SECRET}, and another one` } };
    const token = server.token.call(serverWithOtherSecret, "alice");
    for (let count = 0; count < 12; count++) {
      await assert.rejects(server.posts("conversations", {}, { authorization: `Bearer ${token}` }), /unauthorized/);
    }
  },
  async SwitchboardHandshakesRefused({ server }) {
    for (let count = 0; count < 120; count++) await assert.rejects(server.posts("conversations", {}), /unauthorized/);
  },
  async SwitchboardHookPaused({ server }) {
    // Of each user, one failure in a row counts.
    for (let count = 0; count < 12; count++) {
      await assert.rejects(server.posts("send", { as: `user-${count}`, to: "@bob", text: "unseen" }), /unavailable/);
    }
  },
  async SwitchboardHookFailing({ server }) {
    for (let count = 0; count < 40; count++) {
      const sent = server.posts("send", { as: "alice", to: "@bob", text: "unseen" });
      await (count % 2 ? sent : assert.rejects(sent, /unavailable/));
    }
  },
  async SwitchboardWebhookFailing({ t, server }) {
    const url = await startApplication(t, () => 503);
    await server.posts("add_webhook", { name: "shop", url, types: ["message"] });
    await server.posts("send", { as: "alice", to: "@bob", text: "not taken" });
  },
  async SwitchboardCertificateNotRenewed({ server }) {
    await writeFile(server.env.SWITCHBOARD_TLS_KEY, "no key");
  },
  // The server logs to stderr, which is a pipe; the test closes the reading end.
  async SwitchboardLogLinesDropped({ server }) {
    server.process.stderr.destroy();
    for (let count = 0; count < 3; count++) await assert.rejects(server.posts("conversations", {}), /unauthorized/);
  },
};

const productionServer = (limits = {}) => ({ args: ["serve"], env: { SWITCHBOARD_AUTH_SECRET: SECRET, ...limits } });
const SERVER_SETTINGS_BY_ALERT = {
  SwitchboardNotReady: { env: { SWITCHBOARD_OPERATOR_LISTEN: `127.0.0.1:${await freePort()}` } },
  SwitchboardSlowConsumersCut: { env: { SWITCHBOARD_LIMITS_LAGS: "1" } },
  SwitchboardConnectionsRefused: productionServer({ SWITCHBOARD_LIMITS_CONNECTIONS_PER_ADDRESS: "5" }),
  SwitchboardFlood: productionServer({ SWITCHBOARD_LIMITS_SENDS_PER_USER: "1" }),
  SwitchboardWrongCredentials: productionServer(),
  SwitchboardHandshakesRefused: productionServer(),
  SwitchboardLogLinesDropped: productionServer(),
};

/** The address at which Prometheus scrapes this server. */
const operatorsAddress = ({ url, env }) => env.SWITCHBOARD_OPERATOR_LISTEN ?? new URL(url).host;

test("an alert fires on its fault, and not before", async (t) => {
  const alertNames = Object.keys(FAULT_BY_ALERT);
  const servers = new Map();
  const { certificate, key } = await makeCertificate(t);
  SERVER_SETTINGS_BY_ALERT.SwitchboardCertificateNotRenewed = {
    env: {
      SWITCHBOARD_TLS_CERTIFICATE: certificate,
      SWITCHBOARD_TLS_KEY: key,
      SWITCHBOARD_OPERATOR_LISTEN: `127.0.0.1:${await freePort()}`,
    },
  };
  let questions = 0;
  Object.assign(SERVER_SETTINGS_BY_ALERT, {
    SwitchboardHookPaused: await applicationSettings(t, () => 500),
    SwitchboardHookFailing: await applicationSettings(t, () => (questions++ % 2 ? 204 : 500)),
    SwitchboardWebhookFailing: await applicationSettings(t, () => 204),
  });
  for (const name of alertNames) servers.set(name, await Server.start(t, SERVER_SETTINGS_BY_ALERT[name]));
  const prometheus = await Prometheus.start(t, [...servers.values()].map(operatorsAddress));
  // The disk belongs to the machine that runs the test, and may be full there. On a busy machine a scrape may time out, which
  // the next one mends.
  await prometheus.until("moment without a fault and without an alert", async () =>
    (await prometheus.alerts()).every(({ labels }) => labels.alertname === "SwitchboardDiskSpaceLow"),
  );
  for (const name of alertNames) {
    await t.test(name, async (t) => {
      const server = servers.get(name);
      const alert = (name) => prometheus.alert(name, operatorsAddress(server));
      const alertFires = async (name) =>
        (await prometheus.alerts(operatorsAddress(server))).some(({ labels }) => labels.alertname === name);
      const repeatUntilAlertFires = async (name, repeat) => {
        while (!(await alertFires(name))) await repeat();
      };
      const { ends } =
        (await FAULT_BY_ALERT[name]({ t, server, prometheus, alert, until: repeatUntilAlertFires })) ?? {};
      if (ends) return prometheus.ends(name, operatorsAddress(server));
      const { annotations } = await alert(name);
      assert.doesNotMatch(JSON.stringify(annotations), /error|no value|\{\{/i);
      t.diagnostic(annotations.summary);
    });
  }
});

/** The names of the metrics, and the values of labels, in an expression of PromQL. */
function familiesAndLabels(expression) {
  const metricFamilies = expression.match(/\b(?:switchboard|process)_\w+/g) ?? [];
  const labels = [...expression.matchAll(/\b(reason|code)(?:=|=~|!=|!~)"([^"]*)"/g)];
  return {
    families: metricFamilies,
    values: labels.flatMap(([, label, values]) => values.split("|").map((value) => [label, value])),
  };
}

/** Metrics with a series for each token issuer, and so with none on a server that has none. */
const OPTIONAL_METRICS = /^switchboard_token_key/;

/** Asserts that a server exports the metrics and label values in an expression. A value may be a regular expression. */
function assertExported(page, where, expression) {
  const { families, values } = familiesAndLabels(expression);
  for (const family of families) {
    if (family === BACKUP_JOB_METRIC || OPTIONAL_METRICS.test(family)) continue;
    assert.match(page, new RegExp(`^${family}[{ ]`, "m"), `${where} names ${family}`);
  }
  for (const [label, value] of values) {
    assert.match(page, new RegExp(`[{,]${label}="(?:${value})"`), `${where} names the ${label} ${value}`);
  }
  return families;
}

/** Adds a webhook, and reads the metrics once it has sent a message. */
async function readMetricsOfWebhook(t, server) {
  const url = await startApplication(t, () => 204);
  await server.posts("add_webhook", { name: "shop", url, types: ["message"] });
  await server.posts("send", { as: "alice", to: "@bob", text: "taken" });
  for (;;) {
    const page = await readMetrics(server);
    const [, position] = /^switchboard_webhook_position\{webhook="shop"\} (\d+)$/m.exec(page) ?? [];
    if (position > 0 && /^switchboard_webhook_requests_total\{.*result="taken"\} [1-9]/m.test(page)) return page;
    // waits for: the server to send, which no event reports
    await new Promise((done) => setTimeout(done, 50));
  }
}

test("every family, label and paragraph that the alerts and the dashboard name exists", async (t) => {
  const settings = await applicationSettings(t, () => 204);
  const directory = await mkdtemp(join(tmpdir(), "switchboard-words-"));
  t.after(() => rm(directory, { recursive: true }));
  settings.env.SWITCHBOARD_MODERATION_WORDS_FILE = join(directory, "words");
  await writeFile(settings.env.SWITCHBOARD_MODERATION_WORDS_FILE, "idiot\n");
  const server = await Server.start(t, settings);
  const page = await readMetricsOfWebhook(t, server);
  const prometheus = await Prometheus.start(t, [operatorsAddress(server)]);
  const rules = await prometheus.rules();
  const [operating, tests, dashboard] = await Promise.all(
    ["../docs/operating.md", "prometheus/alerts_test.yml", "grafana/switchboard.json"].map((path) =>
      readFile(packagingPath(path), "utf8"),
    ),
  );
  const { panels, templating } = JSON.parse(dashboard);
  assert.ok(rules.length > 20 && panels.length > 20);

  for (const { name, query, annotations, labels } of rules) {
    assertExported(page, name, query);
    const runbookHeading = new RegExp(`\n#+ ${name}\n`);
    assert.match(operating, runbookHeading, `docs/operating.md has no paragraph on ${name}`);
    assert.equal(annotations.runbook, `docs/operating.md#${name.toLowerCase()}`);
    assert.ok(annotations.summary && annotations.description && /^(critical|warning)$/.test(labels.severity));
    assert.ok(tests.includes(`alertname="${name}"`), `alerts_test.yml has no test in which ${name} fires`);
  }

  const shownMetrics = new Set();
  for (const { title, type, description, targets = [], fieldConfig } of panels) {
    if (type === "row") continue;
    assert.ok(
      description && fieldConfig.defaults.unit && targets.length,
      `${title} has a description, a unit and a query`,
    );
    for (const { expr } of targets) {
      assertExported(page, title, expr).forEach((family) => shownMetrics.add(family));
      assert.ok(!/_total\b/.test(expr) || /(rate|increase)\(/.test(expr), `${title} shows how fast a counter grows`);
      const expressionWithoutVariables = expr
        .replaceAll("$__rate_interval", "1m")
        .replaceAll(/\$(job|instance)/g, ".+");
      assert.doesNotMatch(expressionWithoutVariables, /\$/, `${title} uses a variable that does not exist`);
      await prometheus.query(expressionWithoutVariables);
    }
    for (const [alert] of description.matchAll(/\bSwitchboard[A-Z]\w+/g)) {
      assert.ok(
        rules.some(({ name }) => name === alert),
        `${title} names ${alert}`,
      );
    }
  }
  assert.deepEqual(
    templating.list.map(({ name }) => name),
    ["datasource", "job", "instance"],
  );
  const metricFamilies = [...page.matchAll(/^# TYPE (switchboard_\w+)/gm)].map(([, family]) => family);
  const undisplayedFamilies = metricFamilies.filter(
    (family) => ![...shownMetrics].some((name) => name.startsWith(family)),
  );
  assert.deepEqual(undisplayedFamilies, [], "the dashboard shows every family of the server");
});
