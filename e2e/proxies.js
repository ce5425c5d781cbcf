// Runs the proxies' examples in packaging/ with the real programs, and with the addresses and files of a test.

import { execFile, spawn } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { stopAndWait } from "./cluster.js";
import { eventually, freePort } from "./support.js";

const runFile = promisify(execFile);

/** PATH with /usr/sbin, where Debian installs nginx and HAProxy; not every user's PATH contains it. */
const PATH_WITH_SBIN = `${process.env.PATH}:/usr/sbin`;

const exampleConfigPath = (path) => fileURLToPath(new URL(`../packaging/${path}`, import.meta.url));

/** Makes all replacements in a text; throws if one of them does not occur in the text. */
function replaceAllOf(text, replacements) {
  for (const [before, after] of replacements) {
    if (!text.includes(before)) throw new Error(`the example no longer contains ${before}`);
    text = text.replaceAll(before, after);
  }
  return text;
}

const haproxyExample = (file) => ({
  async prepare({ directory, site, addresses }) {
    const configReplacements = [
      ["bind :443", `bind ${site}`],
      ["/etc/haproxy/chat.pem", join(directory, "chat.pem")],
      ["10.0.0.11", addresses[0]],
      ["10.0.0.12", addresses[1]],
    ];
    const config = join(directory, "haproxy.cfg");
    await writeFile(
      config,
      replaceAllOf(await readFile(exampleConfigPath(`proxy/${file}`), "utf8"), configReplacements),
    );
    return { check: ["haproxy", "-c", "-f", config], serve: ["haproxy", "-db", "-f", config] };
  },
});

/** The parts of Debian's nginx.conf around the files of conf.d, with a directory of the test for logs and temporary files. */
const nginxConfigAround = (directory, included) => `
worker_processes 2;
daemon off;
pid ${directory}/nginx.pid;
error_log ${directory}/error.log;
events { worker_connections 1024; }
http {
  access_log off;
  client_body_temp_path ${directory}/body;
  proxy_temp_path ${directory}/proxy;
  fastcgi_temp_path ${directory}/fastcgi;
  uwsgi_temp_path ${directory}/uwsgi;
  scgi_temp_path ${directory}/scgi;
  include ${included};
}
`;

/**
 * Each example proxy: its program (`program`), the settings of the nodes behind it (`env`), whether it checks the health of the
 * nodes (`probes`) and cuts the connections of a node that does not answer (`cutsDeadNodes`), and whether it passes a client's
 * request for `/readyz` and the like on to a node (`forwardsProbes`).
 */
export const PROXY_EXAMPLES = {
  "haproxy.cfg": { ...haproxyExample("haproxy.cfg"), program: "haproxy", env: {}, probes: true, cutsDeadNodes: true },
  "haproxy-tcp.cfg": {
    ...haproxyExample("haproxy-tcp.cfg"),
    program: "haproxy",
    env: { SWITCHBOARD_PROXY_PROTOCOL: "true" },
    probes: true,
    cutsDeadNodes: true,
    forwardsProbes: true,
  },
  "nginx.conf": {
    program: "nginx",
    env: {},
    probes: false,
    async prepare({ directory, site, addresses }) {
      const included = join(directory, "chat.conf");
      const configReplacements = [
        ["listen 443 ssl", `listen ${site} ssl`],
        ["/etc/nginx/chat.", join(directory, "chat.")],
        ["10.0.0.11", addresses[0]],
        ["10.0.0.12", addresses[1]],
      ];
      await writeFile(
        included,
        replaceAllOf(await readFile(exampleConfigPath("proxy/nginx.conf"), "utf8"), configReplacements),
      );
      const config = join(directory, "nginx.conf");
      await writeFile(config, nginxConfigAround(directory, included));
      const command = ["nginx", "-e", join(directory, "error.log"), "-p", directory, "-c", config];
      return { check: [...command, "-t"], serve: command };
    },
  },
  Caddyfile: {
    program: "caddy",
    // A command that fails if Caddy is too old: that of Debian 12 does not know `request_buffers`.
    parses: ["caddy", "adapt", "--adapter", "caddyfile", "--config", exampleConfigPath("compose/Caddyfile")],
    env: {},
    probes: true,
    async prepare({ directory, site, addresses }) {
      const config = join(directory, "Caddyfile");
      const tls = `\ttls ${directory}/chat.crt ${directory}/chat.key\n\n\treverse_proxy {$CHAT_NODES}`;
      const configReplacements = [
        ["\treverse_proxy {$CHAT_NODES}", tls],
        ["admin off", "admin off\n\tauto_https disable_redirects\n\tskip_install_trust"],
      ];
      await writeFile(
        config,
        replaceAllOf(await readFile(exampleConfigPath("compose/Caddyfile"), "utf8"), configReplacements),
      );
      const env = {
        CHAT_SITE: `https://${site}`,
        CHAT_NODES: addresses.map((address) => `${address}:9501`).join(" "),
        XDG_DATA_HOME: directory,
        XDG_CONFIG_HOME: directory,
      };
      const flags = ["--adapter", "caddyfile", "--config", config];
      return { env, check: ["caddy", "validate", ...flags], serve: ["caddy", "run", ...flags] };
    },
  },
};

/** Why an example cannot be tested: its program is not installed, or is too old for it. */
export async function reasonProxyCannotRun(name) {
  const { program, parses } = PROXY_EXAMPLES[name];
  const reasonUnlessSucceeds = (words, reason) =>
    runFile(words[0], words.slice(1), { env: { PATH: PATH_WITH_SBIN } }).then(
      () => false,
      () => reason,
    );
  const reasonIfMissing = await reasonUnlessSucceeds(
    ["sh", "-c", `command -v ${program}`],
    `${program} is not installed`,
  );
  return reasonIfMissing || (parses ? reasonUnlessSucceeds(parses, `this ${program} is too old`) : false);
}

/** Makes a self-signed certificate for an address. */
async function makeCertificate(directory, host) {
  const [crt, key] = ["crt", "key"].map((kind) => join(directory, `chat.${kind}`));
  const subjectArguments = ["-subj", "/CN=chat.example.com", "-addext", `subjectAltName=IP:${host}`];
  const keyArguments = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
  await runFile("openssl", ["req", "-x509", ...keyArguments, ...subjectArguments, "-out", crt, "-keyout", key]);
  const certificate = await readFile(crt, "utf8");
  await writeFile(join(directory, "chat.pem"), certificate + (await readFile(key, "utf8")));
  return certificate;
}

/** Checks an example with its own program, and starts it; ends with the test `t`. */
export async function startProxy(t, name, host, addresses) {
  const directory = await mkdtemp(join(tmpdir(), "switchboard-proxy-"));
  let proxy;
  t.after(async () => {
    if (proxy) await stopAndWait(proxy, "SIGTERM");
    await rm(directory, { recursive: true, force: true });
  });
  const proxyAddress = `${host}:${await freePort(host)}`;
  const certificate = await makeCertificate(directory, host);
  const { check, serve, env: more } = await PROXY_EXAMPLES[name].prepare({ directory, site: proxyAddress, addresses });
  const env = { PATH: PATH_WITH_SBIN, ...more };
  await runFile(check[0], check.slice(1), { env });
  proxy = spawn(serve[0], serve.slice(1), { env, stdio: ["ignore", "pipe", "pipe"] });
  let printed = "";
  for (const output of [proxy.stdout, proxy.stderr]) output.on("data", (chunk) => (printed += chunk));
  const url = `https://${proxyAddress}`;
  const untilForwards = async (look) => {
    if (proxy.exitCode !== null) throw new Error(`${name} exited with ${proxy.exitCode}: ${printed}`);
    return look(url, certificate).catch(() => false);
  };
  return { url, certificate, started: (look) => eventually(() => untilForwards(look), `${name} to forward`) };
}
