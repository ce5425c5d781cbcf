// Compares the verdicts of a run of Autobahn|Testsuite with those that are expected: autobahn.js <index.json> [--write]
import { readFileSync, writeFileSync } from "node:fs";

const EXPECTED = new URL("../crates/server/tests/autobahn/expected.json", import.meta.url);

// The accepted verdicts, from best to worst; the two in one list are equally good. Any other verdict is a failure.
const GRADES = [["OK", "INFORMATIONAL"], ["NON-STRICT"]];

function grade(verdict) {
  const at = GRADES.findIndex((verdicts) => verdicts.includes(verdict));
  return at < 0 ? GRADES.length : at;
}

/** The verdict of each case, and that of its closing handshake if it differs. */
function verdicts(report) {
  const cases = Object.entries(Object.values(report)[0] ?? {});
  const byNumber = ([one], [next]) => one.localeCompare(next, "en", { numeric: true });
  return Object.fromEntries(
    cases.sort(byNumber).map(([name, { behavior, behaviorClose }]) => {
      return [name, behavior === behaviorClose ? [behavior] : [behavior, behaviorClose]];
    }),
  );
}

function isWorse(got, wanted) {
  return [0, 1].some((part) => grade(got[part] ?? got[0]) > grade(wanted[part] ?? wanted[0]));
}

const [path, option] = process.argv.slice(2);
const got = verdicts(JSON.parse(readFileSync(path, "utf8")));
if (option === "--write") {
  const lines = Object.entries(got).map(([name, verdict]) => `  ${JSON.stringify(name)}: ${JSON.stringify(verdict)}`);
  writeFileSync(EXPECTED, `{\n${lines.join(",\n")}\n}\n`);
}
const expected = JSON.parse(readFileSync(EXPECTED, "utf8"));
const worse = Object.entries(expected).filter(([name, wanted]) => !got[name] || isWorse(got[name], wanted));
for (const [name, wanted] of worse) {
  console.log(`worse: ${name} is ${got[name] ?? "missing"}, expected ${wanted}`);
}
const counts = {};
for (const verdict of Object.values(got)) {
  counts[verdict] = (counts[verdict] ?? 0) + 1;
}
const told = Object.entries(counts)
  .map(([verdict, count]) => `${count} ${verdict.replace(",", ", closing ")}`)
  .join("; ");
console.log(`${Object.keys(got).length} cases: ${told}; ${worse.length} worse than expected`);
process.exitCode = worse.length > 0 ? 1 : 0;
