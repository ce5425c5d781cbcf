// Lists the source files that run for one `send` on one node, by line coverage: alice sends to #general, where bob is, too.
// Fails if a file ran that ARCHITECTURE.md names neither in its walk of a message nor among the leaves, or if the walk has more than
// ten files. Needs `rustup component add llvm-tools`. Builds the workspace's crates with counters beside the regular build.

import { spawn, execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { chmodSync, copyFileSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";

const root = join(import.meta.dirname, "..");
const target = process.env.CARGO_TARGET_DIR ?? join(root, "target");
const run = (program, args, options) =>
  execFileSync(program, args, { cwd: root, encoding: "utf8", maxBuffer: 1 << 30, ...options });

const sysroot = run("rustc", ["--print", "sysroot"]).trim();
const host = /^host: (.*)$/m.exec(run("rustc", ["-vV"]))[1];
const llvmTool = (tool) => join(sysroot, "lib", "rustlib", host, "bin", tool);

const scratch = mkdtempSync(join(tmpdir(), "send-path-"));
process.on("exit", () => rmSync(scratch, { recursive: true, force: true }));

// Compiles coverage counters into the workspace's crates only. The counters are in a file that is mapped into memory
// ("continuous mode"), so they can be read while the server runs.
const rustcWrapper = join(scratch, "rustc");
writeFileSync(rustcWrapper, '#!/bin/sh\nexec "$@" -C instrument-coverage -C llvm-args=-runtime-counter-relocation\n');
chmodSync(rustcWrapper, 0o755);
const buildOutput = run("cargo", ["build", "--locked", "--bin", "switchboard", "--message-format", "json"], {
  // The profile of the build scripts, which are compiled with counters, too.
  env: {
    ...process.env,
    RUSTC_WORKSPACE_WRAPPER: rustcWrapper,
    CARGO_TARGET_DIR: target,
    LLVM_PROFILE_FILE: join(scratch, "built"),
  },
  stdio: ["ignore", "pipe", "inherit"],
});
const messages = buildOutput
  .trim()
  .split("\n")
  .map((line) => JSON.parse(line));
const binary = messages.map((message) => message.executable).findLast(Boolean);

/** Encodes a text as a WebSocket frame of a client, which must be masked. */
const maskedTextFrame = (text) => {
  const [body, mask] = [Buffer.from(text), randomBytes(4)];
  const maskedBody = body.map((byte, at) => byte ^ mask[at % 4]);
  return Buffer.concat([Buffer.from([0x81, 0x80 | body.length]), mask, maskedBody]);
};

/** A connection that has said hello; `until` resolves once the server has sent this text. */
const connectClient = async (port, user) => {
  const socket = connect(port, "127.0.0.1");
  let received = "";
  let check = () => {};
  socket.on("data", (bytes) => {
    received += bytes.toString("latin1");
    check();
  });
  const untilReceived = (text) =>
    new Promise((resolve) => {
      check = () => received.includes(text) && resolve();
      check();
    });
  const key = randomBytes(16).toString("base64");
  socket.write(
    `GET /v1/ws HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n` +
      `Sec-WebSocket-Key: ${key}\r\nSec-WebSocket-Version: 13\r\n\r\n`,
  );
  await untilReceived("\r\n\r\n");
  const sendCommand = (command) => socket.write(maskedTextFrame(JSON.stringify(command)));
  sendCommand({ type: "hello", user });
  await untilReceived('"type":"welcome"');
  return { say: sendCommand, until: untilReceived };
};

const listeningPort = (server) =>
  new Promise((resolve) => {
    let text = "";
    server.stdout.on("data", (bytes) => {
      text += bytes;
      const port = /127\.0\.0\.1:(\d+)/.exec(text)?.[1];
      if (port) resolve(Number(port));
    });
  });

const server = spawn(binary, ["dev", "--listen", "127.0.0.1:0", "--data", join(scratch, "data")], {
  env: { ...process.env, LLVM_PROFILE_FILE: join(scratch, "%p%c.profraw") },
  stdio: ["ignore", "pipe", "inherit"],
});
process.on("exit", () => server.kill("SIGKILL"));
const port = await listeningPort(server);
const [alice, bob] = [await connectClient(port, "alice"), await connectClient(port, "bob")];
const send = async (id, text) => {
  alice.say({ type: "send", id, to: "#general", key: `path-${id}`, text });
  await Promise.all([alice.until(`"id":${id}`), bob.until(text)]);
};
// The counters are read after this first message, so that they include lines that run only at the start or on connecting.
await send(1, "first");
const liveCoverageFile = join(
  scratch,
  readdirSync(scratch).find((name) => name.endsWith(".profraw")),
);

/** How often each line has run until now: a map by file of maps by line number. */
const lineCounts = (name) => {
  const [raw, merged] = [join(scratch, `${name}.raw`), join(scratch, `${name}.profdata`)];
  copyFileSync(liveCoverageFile, raw);
  run(llvmTool("llvm-profdata"), ["merge", "-sparse", raw, "-o", merged]);
  const report = run(llvmTool("llvm-cov"), ["export", "-format=lcov", `-instr-profile=${merged}`, binary]);
  const files = new Map();
  let file;
  for (const line of report.split("\n")) {
    const [kind, rest] = [line.slice(0, 3), line.slice(3)];
    if (kind === "SF:") files.set(rest, (file = new Map()));
    if (kind === "DA:") {
      const [number, count] = rest.split(",").map(Number);
      file.set(number, count);
    }
  }
  return files;
};

const countsBefore = lineCounts("before");
await send(2, "second");
const countsAfter = lineCounts("after");
server.kill("SIGTERM");

const linesRun = [];
for (const [file, lines] of countsAfter) {
  if (!file.startsWith(join(root, "crates/"))) continue;
  const moreOften = [...lines].filter(([line, count]) => count > (countsBefore.get(file)?.get(line) ?? 0));
  if (moreOften.length) linesRun.push({ file: relative(root, file), lines: moreOften.length });
}
linesRun.sort((one, other) => other.lines - one.lines);

const map = readFileSync(join(root, "ARCHITECTURE.md"), "utf8");
const mapSection = (title) => map.split(`## ${title}\n`)[1]?.split("\n## ")[0] ?? "";
/** The Rust files that a text names in backticks, with their path or after the name of their directory. */
const namedFiles = (text) => {
  let directory = "";
  const files = new Set();
  for (const [, name] of text.matchAll(/`([\w./-]+)`/g)) {
    if (name.endsWith("/")) directory = name;
    else if (name.endsWith(".rs")) files.add(name.startsWith("crates/") ? name : directory + name);
  }
  return files;
};
const [walk, leaves] = mapSection("One message, end to end").split("**Leaves**");
const [path, rest] = [namedFiles(walk), namedFiles(leaves ?? "")];
rest.forEach((leaf) => path.delete(leaf));
const runOnPath = linesRun.filter(({ file }) => path.has(file));
const runOffPath = linesRun.filter(({ file }) => !path.has(file) && !rest.has(file));
for (const { file, lines } of linesRun) {
  const placeOf = path.has(file) ? "path" : rest.has(file) ? "leaf" : "MISSING";
  console.log(`${placeOf.padEnd(8)}${String(lines).padStart(4)} lines  ${file}`);
}
console.log(
  `${linesRun.length} files ran: ${runOnPath.length} on the path, ${runOffPath.length} that ARCHITECTURE.md does not name`,
);
process.exit(runOffPath.length || runOnPath.length > 10 ? 1 : 0);
