// Removes uploads that no record has named for UNREFERENCED_BLOB_DAYS, beside the running server.
//
// The server stores an upload as temp/DID/KEY and a row of `blob` with that `tempKey`. The first record that names it
// moves the file to blocks/DID/CID and sets `tempKey` to null, in one transaction (actor-store/blob/transactor.js,
// disk-blobstore.js of @atproto/pds). An upload that no record names stays for ever. Another upload of the same blob
// replaces the row's key and leaves the earlier file behind, without a row.
//
// Only files below temp/ are removed: no record, blob in blocks/ or in quarantine,
// and no backup, which holds blobs of records only, is affected. For each file, in a write transaction on the account's
// database, so that no record can be written meanwhile:
//
//   1 the row with its key is deleted, if no record names it, and it is not taken down or too young
//   2 the commit is flushed
//   3 the file is deleted
//
// A run that ends between 2 and 3 leaves a file without a row, which the next run deletes. A record that comes after 1
// is refused (BlobNotFound), as for any blob that was never uploaded. KEY is random and never used again.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { createRequire } = require("node:module");
const { entries } = require("./files.cjs");
const { home } = require("./repository.cjs");
const { begin, end } = require("./run_status.cjs");

// The image has the library as a dependency of the server package only.
const server = createRequire(path.join(process.cwd(), "x.js")).resolve("@atproto/pds/package.json");
const Database = createRequire(server)("better-sqlite3");

const NAME = "unreferenced-blobs"; // of the run's status
const DAY = 24 * 3600 * 1000; // ms
const LEAST_DAYS = 1; // an upload is written before its row; younger files may be incomplete uploads
const WAIT = 5000; // ms; the server itself waits as long for a locked database
const PAUSE_MS = 2; // between two transactions: the server's members use the same disk

const data = process.env.PDS_DATA_DIRECTORY;
const temporary = process.env.PDS_BLOBSTORE_DISK_TMP_LOCATION; // unset with `s3`

async function main() {
  const days = Number(process.env.UNREFERENCED_BLOB_DAYS);
  if (!(days >= LEAST_DAYS)) throw new Error(`UNREFERENCED_BLOB_DAYS is ${days}, not ${LEAST_DAYS} or more`);
  begin(NAME);
  const total = { removed: 0, bytes: 0, problems: [] };
  if (!temporary) {
    console.log("blobs are in the bucket of 's3': nothing is removed. `./pds usage` lists what no record names");
  } else if (fs.existsSync(path.join(data, ".restore", "swap.json"))) {
    total.problems.push("a restore was cut short between the old data and the new: run it again");
  } else {
    const before = Date.now() - days * DAY;
    for (const did of entries(temporary).filter((name) => name.startsWith("did:"))) await sweep(did, before, total);
    console.log(`removed ${total.removed} uploads of ${total.bytes} bytes, older than ${days} days`);
  }
  for (const problem of total.problems) console.error(problem);
  end(NAME, total.problems, { removed: total.removed, bytes: total.bytes });
  if (total.problems.length > 0) process.exitCode = 1;
}

/** Removes an account's old uploads. A fault of one account stops no other. */
async function sweep(did, before, total) {
  let db;
  try {
    const folder = path.join(temporary, did);
    const old = entries(folder).filter((name) => isOlder(path.join(folder, name), before));
    const store = path.join(data, home(did), "store.sqlite");
    if (old.length === 0 || !fs.existsSync(store)) return; // of a deleted account, the server deletes the folder
    db = new Database(store, { fileMustExist: true, timeout: WAIT });
    db.pragma("synchronous = FULL"); // else a power cut could bring back the row of a deleted file (decision 16)
    for (const key of old) {
      const file = path.join(folder, key);
      const size = fs.statSync(file, { throwIfNoEntry: false })?.size ?? 0;
      if (!release(db, file, key, before)) continue;
      fs.rmSync(file, { force: true });
      total.removed++;
      total.bytes += size;
      await new Promise((resume) => setTimeout(resume, PAUSE_MS));
    }
  } catch (error) {
    total.problems.push(`${did}: its uploads could not be removed: ${error.message}`);
  } finally {
    db?.close();
  }
}

/** Deletes the row of an upload, if there is one. Returns whether its file is to be deleted. */
function release(db, file, key, before) {
  return db
    .transaction(() => {
      if (!isOlder(file, before)) return false; // a record came, and the server moved it
      const row = db
        .prepare(
          `select cid, "createdAt" as created, "takedownRef" as takedown,
             exists (select 1 from record_blob where "blobCid" = cid) as named
           from blob where "tempKey" = ?`
        )
        .get(key);
      if (!row) return true; // a later upload of the same blob replaced it, or an earlier run was killed
      if (row.named || row.takedown || !(Date.parse(row.created) < before)) return false;
      db.prepare('delete from blob where cid = ? and "tempKey" = ?').run(row.cid, key);
      return true;
    })
    .immediate();
}

/** Whether it is a file whose content was last written before `before`. */
function isOlder(file, before) {
  const found = fs.statSync(file, { throwIfNoEntry: false });
  return Boolean(found?.isFile() && found.mtimeMs < before);
}

main().catch((error) => {
  console.error(`FAILED: ${error.message}`);
  process.exitCode = 1;
  try {
    end(NAME, [error.message.replace(/\s+/g, " ").slice(0, 500)]);
  } catch (full) {
    console.error(`could not record the failure: ${full.message}`);
  }
});
