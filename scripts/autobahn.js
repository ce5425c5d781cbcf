// Compares the verdicts of a run of Autobahn|Testsuite with those that are expected: autobahn.js <index.json> [--write]
import { readFileSync, writeFileSync } from "node:fs";

const EXPECTED_VERDICTS_FILE = new URL("../crates/server/tests/autobahn/expected.json", import.meta.url);

// The accepted verdicts, from best to worst; the two in one list are equally good. Any other verdict is a failure.
const VERDICTS_BY_GRADE = [["OK", "INFORMATIONAL"], ["NON-STRICT"]];

function gradeOf(verdict) {
  const at = VERDICTS_BY_GRADE.findIndex((verdicts) => verdicts.includes(verdict));
  return at < 0 ? VERDICTS_BY_GRADE.length : at;
}

/** The verdict of each case, and that of its closing handshake if it differs. */
function verdictsByCase(report) {
  const caseResults = Object.entries(Object.values(report)[0] ?? {});
  const byNumber = ([one], [next]) => one.localeCompare(next, "en", { numeric: true });
  return Object.fromEntries(
    caseResults.sort(byNumber).map(([name, { behavior, behaviorClose }]) => {
      return [name, behavior === behaviorClose ? [behavior] : [behavior, behaviorClose]];
    }),
  );
}

function isWorse(got, expectedVerdict) {
  return [0, 1].some((part) => gradeOf(got[part] ?? got[0]) > gradeOf(expectedVerdict[part] ?? expectedVerdict[0]));
}

const [path, option] = process.argv.slice(2);
const actualVerdicts = verdictsByCase(JSON.parse(readFileSync(path, "utf8")));
if (option === "--write") {
  const lines = Object.entries(actualVerdicts).map(
    ([name, verdict]) => `  ${JSON.stringify(name)}: ${JSON.stringify(verdict)}`,
  );
  writeFileSync(EXPECTED_VERDICTS_FILE, `{\n${lines.join(",\n")}\n}\n`);
}
const expected = JSON.parse(readFileSync(EXPECTED_VERDICTS_FILE, "utf8"));
const worseCases = Object.entries(expected).filter(
  ([name, expectedVerdict]) => !actualVerdicts[name] || isWorse(actualVerdicts[name], expectedVerdict),
);
for (const [name, expectedVerdict] of worseCases) {
  console.log(`worse: ${name} is ${actualVerdicts[name] ?? "missing"}, expected ${expectedVerdict}`);
}
const counts = {};
for (const verdict of Object.values(actualVerdicts)) {
  counts[verdict] = (counts[verdict] ?? 0) + 1;
}
const countsText = Object.entries(counts)
  .map(([verdict, count]) => `${count} ${verdict.replace(",", ", closing ")}`)
  .join("; ");
console.log(`${Object.keys(actualVerdicts).length} cases: ${countsText}; ${worseCases.length} worse than expected`);
process.exitCode = worseCases.length > 0 ? 1 : 0;
