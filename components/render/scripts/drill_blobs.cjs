// The part of a drill that reads the encrypted copies of the bucket's blobs: every blob that the fetched backup names is
// decrypted and hashed. It needs no space, because it stores none.
//
// Runs in the server's image with the keys of the backups, after the check of the fetched copy (drill.cjs), whose files
// it opens. The outcome is in ALLOC/data/blobs.json, for serve.cjs. The next backup makes a damaged copy again, and all of
// them after a change of the password: by its name and size a copy looks whole.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { LOSSES } = require("./account_check.cjs");
const { accountsIn, rowsOf } = require("./blob_copy.cjs");
const { Damaged, backupStore, verified } = require("./blob_stores.cjs");

const AT_ONCE = 4;
const LOOK = 500; // ms
const NAMED = 3; // blobs in one finding
const PATIENCE = 6 * 3600 * 1000; // ms; Nomad ends this task if the check fails

const scratch = path.join(process.env.NOMAD_ALLOC_DIR, "data");
const copy = path.join(scratch, "fetched");

async function main() {
  for (const end = Date.now() + PATIENCE; !fs.existsSync(path.join(scratch, "verdict.json")); ) {
    if (Date.now() > end) throw new Error("the check of the fetched copy did not end");
    await new Promise((resume) => setTimeout(resume, LOOK));
  }
  const file = path.join(copy, "manifest.json");
  if (!fs.existsSync(file) || JSON.parse(fs.readFileSync(file, "utf8")).blobs !== "bucket") return { findings: {}, damaged: [] };
  const began = Date.now();
  const store = backupStore();
  const todo = accountsIn(copy).flatMap((did) => kept(did).map(({ cid }) => [did, cid]));
  const [lost, damaged, total] = [{}, [], { blobs: 0, bytes: 0 }];
  const left = [...todo];
  const next = async () => {
    for (let one; (one = left.pop()); ) {
      const [did, cid] = one;
      const size = await verified(store, `blocks/${did}/${cid}`, cid).catch((error) => (error instanceof Damaged ? error : Promise.reject(error)));
      if (typeof size === "number") Object.assign(total, { blobs: total.blobs + 1, bytes: total.bytes + size });
      else (lost[did] ??= []).push(`blob ${cid} ${size ? "is damaged" : "is missing"} in the backups`);
      if (size instanceof Damaged) damaged.push(`blocks/${did}/${cid}`);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, next));
  console.log(`read ${total.blobs} of ${todo.length} blobs, ${(total.bytes / 2 ** 20).toFixed(1)} MiB, in ${((Date.now() - began) / 1000).toFixed(1)} s`);
  const what = (texts) => `${texts.slice(0, NAMED).join("; ")}. The next backup copies it again from the server's bucket`;
  const findings = Object.entries(lost).map(([did, texts]) => [did, { state: LOSSES, what: what(texts) }]);
  return { findings: Object.fromEntries(findings), damaged };
}

function kept(did) {
  try {
    return rowsOf(copy, did).filter(({ key }) => key === null);
  } catch {
    return []; // a finding of the check
  }
}

function end(problems, { findings, damaged }) {
  for (const problem of problems) console.error(`FAULT: ${problem}`);
  for (const [did, { state, what }] of Object.entries(findings)) console.error(`FINDING: ${did}: ${state}: ${what}`);
  fs.writeFileSync(path.join(scratch, "blobs.json"), JSON.stringify({ problems, findings, damaged }), { flush: true });
  process.exit(problems.length > 0 ? 1 : 0);
}

main().then(
  (found) => end([], found),
  (error) => end([`the copies of the blobs cannot be read: ${error.message}`], { findings: {}, damaged: [] })
);
