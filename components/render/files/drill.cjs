// The first half of a drill: is what the bucket gave back whole, and are the identities in it those of the world?
//
// Runs in the server's image on a scratch copy in the allocation's own folder; it sees nothing of the live data. It may
// read the PLC directory, which the server on the copy may not (serve.cjs, the second half, which also tells the
// outcome). Blobs, keys, repositories: verify.cjs has the questions.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { documents } = require("./documents.cjs");
const { held, verify } = require("./verify.cjs");

const scratch = path.join(process.env.NOMAD_ALLOC_DIR, "data");
const hostname = process.env.PDS_HOSTNAME;

async function main() {
  const began = Date.now();
  if (!fs.existsSync(path.join(scratch, "fetched"))) {
    return end(["nothing was fetched: the task before this one says why"], began);
  }
  const { manifest, problems, keys } = verify(path.join(scratch, "fetched"), { hostname });
  if (manifest) {
    const asked = await documents(manifest.accounts, process.env.PDS_DID_PLC_URL);
    const { problems: wrong, moved, notes } = held(keys, asked, manifest.accounts, hostname);
    problems.push(...wrong);
    for (const note of notes) console.log(`note: ${note}`);
    for (const [did, why] of moved) console.log(`note: ${did}: ${why}`);
    const { accounts, repositories, blobs } = manifest.counts;
    const looked = `${accounts} accounts, ${repositories} repositories, ${blobs} blobs`;
    console.log(`looked at ${looked}: ${problems.length} faults`);
  }
  end(problems, began);
}

function end(problems, began) {
  for (const problem of problems) console.error(`FAULT: ${problem}`);
  const verdict = { problems, seconds: (Date.now() - began) / 1000 };
  fs.writeFileSync(path.join(scratch, "verdict.json"), JSON.stringify(verdict), { flush: true });
  process.exit(problems.length > 0 ? 1 : 0);
}

main();
