// sbom.mjs ROOT < SBOM: makes a CycloneDX document the same in each run: no random serial number, the commit's time
// (SOURCE_DATE_EPOCH), and paths below ROOT relative to the repository.

import { readFileSync } from "node:fs";

const root = process.argv[2];
const bom = JSON.parse(readFileSync(0, "utf8").replaceAll(`file://${root}`, "file:///switchboard"));
delete bom.serialNumber;
// npm names a workspace after its directory.
const component = bom.metadata.component;
component.name = component["bom-ref"].startsWith("switchboard@") ? "switchboard" : component.name;
bom.metadata.timestamp = new Date(Number(process.env.SOURCE_DATE_EPOCH) * 1000).toISOString();
const compareBy = (key) => (a, b) => (a[key] < b[key] ? -1 : Number(a[key] > b[key]));
bom.components?.sort(compareBy("bom-ref"));
bom.dependencies?.sort(compareBy("ref"));
bom.dependencies?.forEach(({ dependsOn }) => dependsOn?.sort());
const text = JSON.stringify(bom, null, 2);
if (text.includes(root)) {
  console.error(`the SBOM names ${root}`);
  process.exit(1);
}
console.log(text);
