// A certificate authority and a certificate for 127.0.0.1, made by openssl(1).

import { execFile } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

const runFile = promisify(execFile);

/** Makes the files `ca`, `certificate` and `key` for 127.0.0.1; they are deleted after the test `t`. */
export async function makeCertificate(t) {
  const directory = await mkdtemp(join(tmpdir(), "switchboard-tls-"));
  t.after(() => rm(directory, { recursive: true, force: true }));
  const [ca, caKey, certificate, key, request, names] = [
    "ca.pem",
    "ca.key",
    "tls.crt",
    "tls.key",
    "tls.csr",
    "names",
  ].map((name) => join(directory, name));
  const newKeyArguments = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  await runFile("openssl", [
    "req",
    "-x509",
    ...newKeyArguments,
    "-keyout",
    caKey,
    "-out",
    ca,
    "-subj",
    "/CN=Tests",
    "-days",
    "365",
  ]);
  await runFile("openssl", ["req", ...newKeyArguments, "-keyout", key, "-out", request, "-subj", "/CN=127.0.0.1"]);
  await writeFile(names, "subjectAltName=IP:127.0.0.1\n");
  const signArguments = [
    "x509",
    "-req",
    "-in",
    request,
    "-CA",
    ca,
    "-CAkey",
    caKey,
    "-CAcreateserial",
    "-out",
    certificate,
  ];
  await runFile("openssl", [...signArguments, "-days", "365", "-extfile", names]);
  return { ca, certificate, key };
}
