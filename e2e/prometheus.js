// A real Prometheus with the alerts of packaging/prometheus/, which scrapes the servers of a test twice a second.

import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { freePort } from "./support.js";

const runFile = promisify(execFile);
export const packagingPath = (path) => fileURLToPath(new URL(`../packaging/${path}`, import.meta.url));

/** Runs promtool in the directory of the alerts, with a text as its input. If it fails, throws an error with its output. */
export async function promtool(args, input = "") {
  const promtoolProcess = runFile("promtool", args, { cwd: packagingPath("prometheus") });
  promtoolProcess.child.stdin.end(input);
  await promtoolProcess.catch((error) => {
    throw new Error(`promtool ${args.join(" ")}: ${error.stdout}${error.stderr}`);
  });
}

/** How long a test waits for a state that Prometheus reports, in milliseconds. Only a failing test waits so long. */
const ALERT_TIMEOUT_MS = 90_000;
/** Milliseconds between two queries to Prometheus. */
const POLL_INTERVAL_MS = 250;

export class Prometheus {
  /** Starts a Prometheus that scrapes these addresses, and waits until it has scraped all of them and evaluated the rules. */
  static async start(t, targets) {
    const prometheus = new Prometheus();
    const directory = await mkdtemp(join(tmpdir(), "switchboard-prometheus-"));
    const port = await freePort();
    prometheus.url = `http://127.0.0.1:${port}`;
    const config = {
      global: { scrape_interval: "500ms", scrape_timeout: "500ms", evaluation_interval: "500ms" },
      rule_files: [packagingPath("prometheus/alerts.yml")],
      scrape_configs: [{ job_name: "switchboard", static_configs: [{ targets }] }],
    };
    // Prometheus reads YAML, and every JSON text is also valid YAML.
    await writeFile(join(directory, "prometheus.yml"), JSON.stringify(config));
    const args = [
      `--config.file=${join(directory, "prometheus.yml")}`,
      `--storage.tsdb.path=${join(directory, "data")}`,
      `--web.listen-address=127.0.0.1:${port}`,
    ];
    const child = spawn("prometheus", args, { stdio: ["ignore", "ignore", "pipe"] });
    prometheus.log = "";
    child.stderr.on("data", (chunk) => (prometheus.log += chunk));
    t.after(async () => {
      if (child.exitCode === null && child.signalCode === null) {
        const processExits = once(child, "exit");
        child.kill("SIGKILL");
        await processExits;
      }
      await rm(directory, { recursive: true, force: true });
    });
    await prometheus.until(`${targets.length} servers`, async () => {
      const upTargets = await prometheus.query('count(up{job="switchboard"} == 1)').catch(() => []);
      return Number(upTargets[0]?.value[1]) === targets.length;
    });
    return prometheus;
  }

  async get(path, parameters = {}) {
    const answer = await fetch(`${this.url}/api/v1/${path}?${new URLSearchParams(parameters)}`);
    const { status, data, error } = await answer.json();
    if (status !== "success") throw new Error(`${JSON.stringify(parameters)}: ${error}`);
    return data;
  }

  async query(query) {
    return (await this.get("query", { query })).result;
  }

  /** The alerting rules that Prometheus has loaded. */
  async rules() {
    return (await this.get("rules", { type: "alert" })).groups.flatMap(({ rules }) => rules);
  }

  /** Alerts whose expression is true now, of one server or of all, also while `for` delays them (tested in alerts_test.yml). */
  async alerts(instance) {
    const { alerts } = await this.get("alerts");
    return alerts.filter(({ labels }) => !instance || labels.instance === instance);
  }

  /** Waits until an alert's expression is true for a server, and returns the alert. */
  async alert(name, instance) {
    return this.until(`${name} for ${instance}`, async () =>
      (await this.alerts(instance)).find(({ labels }) => labels.alertname === name),
    );
  }

  /** Waits until an alert's expression is no longer true for a server. */
  async ends(name, instance) {
    await this.until(`the end of ${name}`, async () =>
      (await this.alerts(instance)).every(({ labels }) => labels.alertname !== name),
    );
  }

  async until(what, look) {
    for (const end = performance.now() + ALERT_TIMEOUT_MS; performance.now() < end;) {
      const found = await look();
      if (found) return found;
      // waits for: the next scrape and evaluation, which Prometheus does not announce
      await new Promise((done) => setTimeout(done, POLL_INTERVAL_MS));
    }
    throw new Error(`no ${what}; ${JSON.stringify(await this.alerts().catch(String))}\n${this.log}`);
  }
}
