// Prints what each account uses, as one line of JSON: `accounts`, and `blobs`, the largest ones that no record names.
// The argument is their greatest number. Sizes are in bytes. Runs in the server's container and changes nothing.
"use strict";

const crypto = require("node:crypto");
const fs = require("node:fs");
const path = require("node:path");
const { createRequire } = require("node:module");

// The server's own SQLite module, found from the server's package: pnpm, which builds the image, links it nowhere else.
const app = createRequire(path.join(process.cwd(), "package.json"));
const Database = createRequire(app.resolve("@atproto/pds/package.json"))("better-sqlite3");

const data = process.env.PDS_DATA_DIRECTORY;
const temporary = process.env.PDS_BLOBSTORE_DISK_TMP_LOCATION; // unset if blobs are in a bucket
const most = Number(process.argv[1]);
const WAIT = 5000; // ms

const UNREFERENCED = `select cid, size, "createdAt" as created, "tempKey" as key from blob
  where not exists (select 1 from record_blob where "blobCid" = cid)`;

function open(file) {
  return new Database(file, { readonly: true, fileMustExist: true, timeout: WAIT });
}

function size(file) {
  return fs.statSync(file, { throwIfNoEntry: false })?.size ?? 0;
}

function usage({ did, handle }, blobs) {
  const shard = crypto.createHash("sha256").update(did).digest("hex").slice(0, 2);
  const store = path.join(data, "actors", shard, did, "store.sqlite");
  const account = { did, handle, database: size(store) + size(`${store}-wal`) };
  let db;
  try {
    db = open(store);
    const count = (query) => db.prepare(query).get();
    const unreferenced = db.prepare(UNREFERENCED).all();
    const all = count("select count(*) as n, coalesce(sum(size), 0) as bytes from blob");
    for (const { cid, size, created } of unreferenced) blobs.push({ did, cid, size, created });
    account.records = count("select count(*) as n from record").n;
    account.blobs = all.n;
    account.blob_bytes = all.bytes;
    account.unreferenced = unreferenced.length;
    account.unreferenced_bytes = unreferenced.reduce((sum, blob) => sum + blob.size, 0);
    account.leftover_bytes = leftovers(db, did);
  } catch (error) {
    account.error = error.message;
  } finally {
    db?.close();
  }
  return account;
}

/** Size of uploads without a row: another upload of the same blob replaced them. */
function leftovers(db, did) {
  const folder = temporary && path.join(temporary, did);
  if (!folder || !fs.existsSync(folder)) return 0;
  const known = db.prepare('select 1 from blob where "tempKey" = ?');
  const files = fs.readdirSync(folder).filter((key) => !known.get(key));
  return files.reduce((sum, key) => sum + size(path.join(folder, key)), 0);
}

const db = open(process.env.PDS_ACCOUNT_DB_LOCATION || path.join(data, "account.sqlite"));
const actors = db.prepare("select did, handle from actor order by handle").all();
db.close();
const blobs = [];
const accounts = actors.map((actor) => usage(actor, blobs));
blobs.sort((one, other) => other.size - one.size);
console.log(JSON.stringify({ accounts, blobs: blobs.slice(0, most) }));
