// Starts nodes on one PostgreSQL, each with an address of its own, so that the examples of proxies can keep their ports.

import { execFile, spawn } from "node:child_process";
import { createHmac } from "node:crypto";
import { once } from "node:events";
import { chown, mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { eventually, startCuttableProxy } from "./support.js";

const runFile = promisify(execFile);
const serverBinary =
  process.env.SWITCHBOARD_BINARY ?? fileURLToPath(new URL("../target/debug/switchboard", import.meta.url));
const SECRET = "a secret of the tests that is long enough";

/** Kills a process and waits until it has ended. */
export async function stopAndWait(child, signal = "SIGKILL") {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const processEnds = once(child, "exit");
  child.kill(signal);
  await processEnds;
}

/** Makes a token for a user, which is valid for an hour. */
export function token(user) {
  const base64UrlJson = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const claims = { sub: user, exp: Math.floor(Date.now() / 1_000) + 3_600 };
  const signed = `${base64UrlJson({ alg: "HS256", typ: "JWT" })}.${base64UrlJson(claims)}`;
  return `${signed}.${createHmac("sha256", SECRET).update(signed).digest("base64url")}`;
}

/** The directory of the newest PostgreSQL's programs. Debian has one for each version, and none of them is in PATH. */
async function postgresPrograms() {
  const versions = await readdir("/usr/lib/postgresql").catch(() => []);
  const newestVersion = versions.sort((one, other) => Number(other) - Number(one))[0];
  return newestVersion ? `/usr/lib/postgresql/${newestVersion}/bin/` : "";
}

/** The account for PostgreSQL, which refuses to run as root: if the test runs as root, that of the user `postgres`. */
async function postgresAccount() {
  if (process.getuid() !== 0) return {};
  const [uid, gid] = await Promise.all(
    ["-u", "-g"].map(async (flag) => Number((await runFile("id", [flag, "postgres"])).stdout)),
  );
  return { uid, gid };
}

/** A PostgreSQL behind a connection that a test can cut; ends with the test `t`. */
export async function startPostgres(t, address) {
  const programs = await postgresPrograms();
  const account = await postgresAccount();
  const directory = await mkdtemp(join(tmpdir(), "switchboard-postgres-"));
  let postgres;
  t.after(async () => {
    if (postgres) await stopAndWait(postgres, "SIGQUIT");
    await rm(directory, { recursive: true, force: true });
  });
  if (account.uid) await chown(directory, account.uid, account.gid);
  const data = join(directory, "data");
  const user = ["-U", "switchboard"];
  const initdbArguments = [...user, "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", "-D", data];
  await runFile(`${programs}initdb`, initdbArguments, { ...account, cwd: directory });
  const settings = { listen_addresses: address, port: 5432, unix_socket_directories: directory };
  const flags = Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
  postgres = spawn(`${programs}postgres`, ["-D", data, ...flags], { ...account, cwd: directory, stdio: "ignore" });
  const createDatabaseArguments = [
    "-h",
    address,
    ...user,
    "-d",
    "postgres",
    "-c",
    "CREATE DATABASE switchboard TEMPLATE template0",
  ];
  await eventually(
    () =>
      runFile(`${programs}psql`, createDatabaseArguments).then(
        () => true,
        () => false,
      ),
    "PostgreSQL",
  );
  const databaseProxy = await startCuttableProxy(t, { url: `http://${address}:5432` });
  return { ...databaseProxy, url: `postgres://switchboard@${new URL(databaseProxy.url).host}/switchboard` };
}

/** A Switchboard node: it listens for clients on port 9501 of its address, and for operators on port 9502. */
export class ServerNode {
  static async start(t, address, env) {
    const node = new ServerNode();
    Object.assign(node, { address, env, lines: [] });
    t.after(() => stopAndWait(node.process));
    await node.start();
    return node;
  }

  async start() {
    const listen = ["--listen", `${this.address}:9501`, "--operator-listen", `${this.address}:9502`];
    this.process = spawn(serverBinary, ["serve", ...listen], {
      env: {
        PATH: process.env.PATH,
        SWITCHBOARD_AUTH_SECRET: SECRET,
        SWITCHBOARD_TRUSTED_PROXIES: "127.0.0.1",
        SWITCHBOARD_LOG_FORMAT: "json",
        ...this.env,
      },
      stdio: ["ignore", "pipe", "pipe"],
    });
    createInterface({ input: this.process.stderr }).on("line", (line) => this.lines.push(JSON.parse(line)));
    await new Promise((ready, failed) => {
      this.process.once("exit", (code) =>
        failed(new Error(`the node exited with ${code}: ${JSON.stringify(this.lines)}`)),
      );
      createInterface({ input: this.process.stdout }).once("line", ready);
    });
  }

  /** The HTTP status of the node's answer to a probe, such as `/readyz`. */
  async probe(path) {
    return (await fetch(`http://${this.address}:9502${path}`)).status;
  }

  async connections() {
    const metrics = await (await fetch(`http://${this.address}:9502/metrics`)).text();
    return Number(/^switchboard_connections (\d+)/m.exec(metrics)[1]);
  }
}
