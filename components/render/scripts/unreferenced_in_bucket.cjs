// Removes from the server's bucket what no account needs, beside the running server: everything of deleted accounts,
// blobs that no database names, and, if UNREFERENCED_BLOB_DAYS is set, uploads that no record has named for so long.
//
// The server deletes the blobs of a deleted record or account in the background, and only those in blocks/. If the bucket
// does not answer then, they stay for ever (actor-store.js, blob/transactor.js of @atproto/pds). An account counts as
// deleted if the server announced it and nothing of it is left. Each other object is deleted in a write transaction on
// the account's database, in which the database does not name it: the server inserts the row of an upload first, so no
// record can make it a blob meanwhile. The bucket keeps deleted objects as old versions for 30 days. The server's own
// writes wait for the lock, 5 s at most, so the deletion is given up before. Without a server on these data it removes
// nothing.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { Database, WAIT } = require("./account_check.cjs");
const { deletions } = require("./blob_copy.cjs");
const { bucketStore } = require("./blob_stores.cjs");
const { isServed } = require("./exclusive.cjs");
const { home } = require("./repository.cjs");
const { begin, end } = require("./run_status.cjs");

const NAME = "unreferenced-blobs"; // of the run's status
const DAY = 24 * 3600 * 1000; // ms
const UNNAMED_DAYS = 7; // a blob is stored before its transaction ends
const PATIENCE = 2000; // ms for a deletion under the lock; the server's writes fail after 5000 (db/util.js, retrySqlite)

const data = process.env.PDS_DATA_DIRECTORY;
const days = process.env.UNREFERENCED_BLOB_DAYS && Number(process.env.UNREFERENCED_BLOB_DAYS);
const total = { removed: 0, bytes: 0, uploads: 0, uploadBytes: 0, problems: [] };

async function main() {
  if (days !== undefined && !(days >= 1)) throw new Error(`UNREFERENCED_BLOB_DAYS is ${days}, not 1 or more`);
  if (fs.existsSync(path.join(data, ".restore", "swap.json"))) throw new Error("a restore was cut short between the old data and the new: run it again");
  if (!isServed(data)) {
    // They may be of an earlier stay, as on the host that the PDS comes back to before the restore. They lack the blobs
    // that the live server has stored since.
    console.log("note: no server runs on these data, so another one may use the bucket: nothing was removed");
    process.exit(0);
  }
  begin(NAME);
  const [bucket, once] = [bucketStore(), bucketStore(process.env, 1)];
  const index = await bucket.index("", ({ Size, LastModified }) => ({ size: Size, at: LastModified.getTime() }));
  const isDeleted = deletions(data);
  const byAccount = new Map();
  for (const object of index) {
    count([object], 1);
    const did = object[0].split("/")[1];
    if (!byAccount.has(did)) byAccount.set(did, []);
    byAccount.get(did).push(object);
  }
  let unknown = 0;
  for (const [did, objects] of byAccount) {
    if (isDeleted(did)) await remove(bucket, objects);
    else if (fs.existsSync(path.join(data, home(did), "store.sqlite"))) await sweep({ bucket, once }, did, objects);
    else unknown += objects.length;
  }
  if (unknown > 0) console.log(`note: ${unknown} objects of accounts that are neither here nor deleted are kept`);
  console.log(`removed ${total.removed} objects of ${total.bytes} bytes`);
  for (const problem of total.problems) console.error(problem);
  // For `./pds check` and `./pds list`, which do not read the bucket.
  const left = { uploads: total.uploads, uploads_kib: Math.ceil(total.uploadBytes / 1024) };
  end(NAME, total.problems, { removed: total.removed, bytes: total.bytes, ...left });
  process.exit(total.problems.length > 0 ? 1 : 0);
}

/** Counts the uploads among objects that are there (1) or removed (-1). */
function count(objects, sign) {
  for (const [, { size }] of objects.filter(([name]) => name.startsWith("tmp/"))) {
    total.uploads += sign;
    total.uploadBytes += sign * size;
  }
}

async function remove(bucket, objects) {
  await bucket.remove(objects.map(([name]) => name));
  removed(objects);
}

function removed(objects) {
  count(objects, -1);
  total.removed += objects.length;
  total.bytes += objects.reduce((sum, [, { size }]) => sum + size, 0);
}

/** A fault of one account stops no other. */
async function sweep(stores, did, objects) {
  const now = Date.now();
  const limit = (name) => (name.startsWith("tmp/") ? days : UNNAMED_DAYS);
  const old = objects.filter(([name, { at }]) => limit(name) !== undefined && at < now - limit(name) * DAY);
  if (old.length === 0) return;
  let db;
  try {
    db = new Database(path.join(data, home(did), "store.sqlite"), { fileMustExist: true, timeout: WAIT });
    db.pragma("synchronous = FULL"); // else a power cut could bring back the row of a deleted object (decision 16)
    for (const object of old) await release(db, stores, object, now);
  } catch (error) {
    total.problems.push(`${did}: what it does not need could not be removed: ${error.message}`);
  } finally {
    db?.close();
  }
}

async function release(db, { bucket, once }, object, now) {
  const [place, , id] = object[0].split("/");
  const upload = place === "tmp";
  // Read first: almost every object has a row, and readers lock nothing.
  const needed = () => {
    const row = db.prepare(`${ROW} where ${upload ? '"tempKey"' : "cid"} = ?`).get(id);
    if (!row) return false;
    return !upload || row.named || row.hidden || !(Date.parse(row.created) < now - days * DAY);
  };
  if (needed()) return;
  db.exec("begin immediate");
  let free;
  try {
    free = !needed();
    if (free && upload) db.prepare('delete from blob where "tempKey" = ?').run(id);
    if (free && !upload) await once.removeWithin(object[0], PATIENCE); // while its row cannot come
    db.exec("commit");
  } catch (error) {
    if (db.inTransaction) db.exec("rollback");
    throw error;
  }
  if (free && upload) await remove(bucket, [object]); // its key is never used again
  else if (free) removed([object]);
}

const ROW = `select "createdAt" as created, "takedownRef" is not null as hidden,
  exists (select 1 from record_blob where "blobCid" = cid) as named from blob`;

main().catch((error) => {
  console.error(`FAILED: ${error.message}`);
  end(NAME, [error.message.replace(/\s+/g, " ").slice(0, 500)]);
  process.exit(1);
});
