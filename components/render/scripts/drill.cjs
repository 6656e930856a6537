// The first half of a drill: checks that the bucket's backup is intact, and that its identities match their DID
// documents.
//
// Runs in the server's image on a scratch copy in the allocation's own folder, without access to the live data. It may
// read the PLC directory, which the server on the copy may not (serve.cjs, the second half, which also reports the
// outcome). verify.cjs checks blobs, keys and repositories. It fails if nothing of the copy can be restored. A fault of
// the identities fails the second half, after its own checks.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { LOSSES } = require("./account_check.cjs");
const { documents } = require("./did_documents.cjs");
const { assessed, held, lines, verify } = require("./verify.cjs");

const scratch = path.join(process.env.NOMAD_ALLOC_DIR, "data");
const hostname = process.env.PDS_HOSTNAME;
const REMEDY = "see docs/guide/members.md#another-signing-key";

async function main() {
  const began = Date.now();
  if (!fs.existsSync(path.join(scratch, "fetched"))) {
    return end({ problems: ["nothing was fetched: the previous task shows why"] }, began);
  }
  const { manifest, refusals, verdicts, keys, notes } = await verify(path.join(scratch, "fetched"), { hostname });
  for (const note of notes) console.log(`note: ${note}`);
  const found = refusals.length > 0 ? {} : assessed(verdicts);
  for (const line of lines(verdicts)) console.error(`FINDING: ${line}`);
  const faults = refusals.length > 0 ? [] : await identities(manifest.accounts, keys, found.findings);
  if (manifest) {
    const { accounts, repositories, blobs } = manifest.counts;
    const looked = `${accounts} accounts, ${repositories} repositories, ${blobs} blobs`;
    console.log(`looked at ${looked}: ${refusals.length + faults.length} faults`);
  }
  end({ problems: refusals, identities: faults, ...found }, began);
}

/**
 * Compares the DID documents with the keys. A member who moved to another server is not a fault. A document with a key
 * that the server lacks is one of the `findings`: relays drop all that the account writes.
 */
async function identities(accounts, keys, findings) {
  const asked = await documents(accounts, process.env.PDS_DID_PLC_URL);
  const { unread, moved, swapped, foreign } = held(keys, asked, accounts, hostname);
  for (const [did, why] of foreign) {
    const what = `${why}. Relays drop what it writes: ${REMEDY}`;
    console.error(`FINDING: ${did}: ${LOSSES}: ${what}`);
    findings[did] = { state: findings[did]?.state ?? LOSSES, what: [what, findings[did]?.what].filter(Boolean).join("; ") };
  }
  for (const [did, why] of moved) console.log(`note: ${did}: ${why}`);
  const faults = [];
  for (const [did, why] of unread) {
    if (did.startsWith("did:plc:")) faults.push(`${did}: ${why}`);
    else console.log(`note: ${did}: ${why}`);
  }
  return [...faults, ...[...swapped].map(([did, why]) => `${did}: ${why}`)];
}

function end(verdict, began) {
  for (const problem of [...verdict.problems, ...(verdict.identities ?? [])]) console.error(`FAULT: ${problem}`);
  const text = JSON.stringify({ ...verdict, seconds: (Date.now() - began) / 1000 });
  fs.writeFileSync(path.join(scratch, "verdict.json"), text, { flush: true });
  process.exit(verdict.problems.length > 0 ? 1 : 0);
}

main().catch((error) => end({ problems: [error.message] }, Date.now()));
