// Checks whether one account of a snapshot can be restored: its key, its database, its records, its blobs.
//
// It defines the three states of an account and the messages for its faults. As a program it is a separate process that
// checks one account after the other: members' data are read before, and apart from, the server's code, and a check
// that the kernel kills for its memory affects no other job. `checkAll` is the caller's side.
"use strict";

const { fork } = require("node:child_process");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const { createRequire } = require("node:module");
const { commitProblems, home, isDigestOf, isHashOf, problems, publicKey, sha256 } = require("./repository.cjs");

// The image has the library as a dependency of the server package only.
const server = createRequire(path.join(process.cwd(), "x.js")).resolve("@atproto/pds/package.json");
const Database = createRequire(server)("better-sqlite3");

const WHOLE = "whole";
const LOSSES = "with losses";
const NOT = "not restorable";
const AT_ONCE = 2; // processes; each takes some 60 MiB of a job that may have 256
const NAMED = 100; // lost records
const NO_ROOM = ["ENOSPC", "EDQUOT", "SQLITE_FULL", "EROFS"]; // codes of errors that are not an account's
const WAIT = 5000; // ms; a database is locked only briefly, when its last user closes it
const PLACES = ["", "quarantine"]; // of blobs; the second holds blobs that were taken down

/**
 * The verdict on the account `did` below `folder`: `state`; `why` it is not restorable; lost `blobs` (CIDs) and
 * `records` (the first paths; `lost` is their count); `rebuild` if the tree of records must be rebuilt from the table;
 * `changed`, what differs from the manifest but is consistent; `key`, its did:key. `files` and `known` (cid, rev) come
 * from the manifest, if there is one.
 */
function checkAccount(folder, did, { files, known, blobs, commitOnly = false }) {
  const verdict = blank();
  const [store, keyFile] = ["store.sqlite", "key"].map((name) => path.join(home(did), name));
  if (!fs.existsSync(path.join(folder, store))) verdict.why.push("it has no repository");
  const pair = readKey(path.join(folder, keyFile), verdict);
  if (pair && verdict.why.length === 0) {
    checkStore(path.join(folder, store), { did, verifier: pair.verifier, known, commitOnly }, verdict);
  }
  if (verdict.why.length === 0 && !commitOnly) {
    for (const name of [store, keyFile]) {
      if (files && !isAsWritten(folder, name, files[name])) verdict.changed.push(`${name} is not what was written`);
    }
    if (blobs) verdict.blobs = lostBlobs(folder, did, path.join(folder, store));
  }
  if (verdict.why.length > 0) verdict.state = NOT;
  else if ([verdict.blobs, verdict.records, verdict.changed].some((list) => list.length > 0) || verdict.rebuild) {
    verdict.state = LOSSES;
  }
  return verdict;
}

function blank() {
  return { state: WHOLE, why: [], blobs: [], records: [], lost: 0, rebuild: false, changed: [], key: null };
}

/** The verdict in sentences, `why` first. */
function sentences(verdict) {
  return [
    ...verdict.why,
    ...verdict.records.map((name) => `record ${name} is lost`),
    ...(verdict.lost > verdict.records.length ? [`${verdict.lost - verdict.records.length} more records are lost`] : []),
    ...verdict.blobs.map((cid) => `blob ${cid} is lost`),
    ...(verdict.rebuild ? ["its tree of records is damaged and is made again from the table of records"] : []),
    ...verdict.changed,
  ];
}

function readKey(file, verdict) {
  try {
    const pair = publicKey(fs.readFileSync(file));
    verdict.key = pair.didKey;
    return pair;
  } catch (error) {
    verdict.why.push(error.code === "ENOENT" ? "it has no signing key" : "its signing key is not a secp256k1 key");
    return null;
  }
}

function isAsWritten(folder, name, written) {
  if (!written) return false;
  const file = path.join(folder, name);
  return fs.statSync(file).size === written.size && sha256(file) === written.sha256;
}

function checkStore(file, { did, verifier, known, commitOnly }, verdict) {
  try {
    read(file, (db) => {
      const damage = commitOnly ? null : damageOf(db, "integrity_check");
      if (damage) return verdict.why.push(`store.sqlite is damaged: ${damage}`);
      const root = db.prepare("select cid, rev from repo_root").get();
      if (!root) return verdict.why.push("no repository has been made in it");
      if (commitOnly) {
        const content = new Blocks(db).get(root.cid);
        const faults = commitProblems({ content, root: root.cid, rev: root.rev, did, verifier });
        return verdict.why.push(...[...faults].map(({ text }) => text));
      }
      checkRepository(db, { did, root, known, verifier }, verdict);
    });
  } catch (error) {
    verdict.why.push(`store.sqlite is damaged: ${error.message}`);
  }
}

/** Finds lost records, and whether the tree is usable. Lists the first of many lost records and counts all. */
function checkRepository(db, { did, root, known, verifier }, verdict) {
  if (known && (known.cid !== root.cid || known.rev !== root.rev)) {
    verdict.changed.push(`its repository is at ${root.rev}, the manifest says ${known.rev}`);
  }
  const blocks = new Blocks(db);
  const named = db.prepare("select collection || '/' || rkey from record where cid = ?").pluck();
  const lose = (record) => {
    verdict.lost++;
    if (verdict.records.length < NAMED && !verdict.records.includes(record)) verdict.records.push(record);
  };
  for (const fault of problems({ blocks, root: root.cid, rev: root.rev, did, verifier, index: blocks.records() })) {
    const { kind, record, cid } = fault;
    if (kind === "signature") verdict.why.push(fault.text);
    else if (kind === "record" || fault.lost) lose(record);
    const leaves = kind === "block" ? named.all(cid) : [];
    for (const name of leaves) lose(name);
    if (kind === "tree" || kind === "index" || (kind === "block" && leaves.length === 0)) verdict.rebuild = true;
  }
  verdict.records.sort();
}

/** Paths of records whose block is missing or does not match its CID. */
function* lostRecords(db) {
  const rows = db.prepare(
    "select collection || '/' || rkey as name, r.cid, content from record r left join repo_block b on b.cid = r.cid"
  );
  for (const { name, cid, content } of rows.iterate()) if (!content || !isHashOf(cid, content)) yield name;
}

function lostBlobs(folder, did, store) {
  return read(store, (db) => keptBlobs(db).filter((cid) => !blobOf(folder, did, cid)));
}

/** The blobs that the server keeps, without those that were announced but never arrived, or that await a record. */
function keptBlobs(db) {
  return db.prepare('select cid from blob where "tempKey" is null order by cid').pluck().all();
}

/** Whether the file's content is that of the blob. Throws if it cannot be read. */
function isBlob(file, cid) {
  return isDigestOf(cid, Buffer.from(sha256(file), "hex"));
}

/** Path of an intact blob below `folder`; undefined if there is none. Blobs in `checked` were read already. */
function blobOf(folder, did, cid, { checked = false } = {}) {
  return PLACES.map((place) => path.join("blocks", place, did, cid)).find((name) => {
    const file = path.join(folder, name);
    try {
      return fs.existsSync(file) && (checked || isBlob(file, cid));
    } catch {
      return false; // what cannot be read is lost
    }
  });
}

/** The first finding of SQLite's `check` ("quick_check" or "integrity_check") as one line; null if there is none. */
function damageOf(db, check) {
  const found = db.pragma(`${check}(1)`, { simple: true });
  return found === "ok" ? null : String(found).replace(/^\*\*\* in database \w+ \*\*\*\s*/, "").replace(/\s+/g, " ");
}

/**
 * Copies a database while others write to it: all pages, one step, one moment. Read-only, so that it cannot change what
 * it copies. Throws SQLite's error.
 */
async function copyDatabase(from, to) {
  fs.mkdirSync(path.dirname(to), { recursive: true });
  fs.rmSync(to, { force: true }); // never through a link into an earlier copy
  const source = new Database(from, { readonly: true, fileMustExist: true, timeout: WAIT });
  try {
    await source.backup(to, { progress: () => 0x7fffffff });
  } finally {
    source.close();
  }
}

/** Queries a database without changing it. A connection without write access would leave side files behind. */
function read(file, ask) {
  const db = new Database(file, { fileMustExist: true });
  try {
    db.pragma("query_only = 1");
    return ask(db);
  } finally {
    db.close();
  }
}

// --- many accounts, in separate processes

/**
 * A map from each of `dids` to its verdict. `manifest` lists the expected content. With `gently`, one process works at
 * the lowest priority and pauses as long as it worked, because a server beside it has members who wait.
 */
async function checkAll(folder, dids, { manifest, gently = false, commitOnly = false }) {
  const verdicts = new Map();
  const left = [...dids];
  const count = gently ? 1 : Math.min(AT_ONCE, os.availableParallelism(), Math.ceil(left.length / 4));
  const workers = Array.from({ length: Math.min(count, left.length) }, () => worker(folder, left, { manifest, gently, commitOnly, verdicts }));
  await Promise.all(workers);
  return new Map(dids.map((did) => [did, verdicts.get(did)])); // in the order of `dids`, whichever process was first
}

function worker(folder, left, { manifest, gently, commitOnly, verdicts }) {
  return new Promise((resolve, reject) => {
    const child = fork(__filename, [folder], { stdio: ["ignore", "inherit", "inherit", "ipc"] });
    let asked = null;
    const next = () => {
      asked = left.shift() ?? null;
      if (asked === null) return child.disconnect();
      child.send({ did: asked, gently, commitOnly, ...expected(manifest, asked) });
    };
    child.on("message", (verdict) => {
      verdicts.set(asked, verdict);
      next();
    });
    child.on("error", reject);
    child.on("exit", (code, signal) => {
      if (asked === null && code === 0) return resolve();
      const killed = new Killed(asked, signal ?? code);
      // A restore can be given more memory. A backup continues, and reports the one account.
      if (asked === null || (signal === "SIGKILL" && !gently)) return reject(killed);
      verdicts.set(asked, { ...blank(), state: NOT, why: [killed.message], unchecked: signal === "SIGKILL" });
      resolve(worker(folder, left, { manifest, gently, commitOnly, verdicts }));
    });
    next();
  });
}

function expected(manifest, did) {
  const names = ["store.sqlite", "key"].map((name) => path.join(home(did), name));
  const files = manifest.files && Object.fromEntries(names.map((name) => [name, manifest.files[name]]));
  return { files, known: manifest.repositories[did] ?? null, blobs: manifest.blobs === "disk" };
}

/** A check that ended without a verdict. */
class Killed extends Error {
  constructor(did, how) {
    super(
      how === "SIGKILL"
        ? `the check of ${did} was killed; ${outOfMemory() ? "this job ran out of memory" : "it may have run out of memory"}. ` +
            "Raise 'backup.memory_mib'."
        : `the check of ${did} ended with ${how}`
    );
  }
}

/** Whether the kernel killed a process of this container for its memory. */
function outOfMemory() {
  try {
    return /^oom_kill [1-9]/m.test(fs.readFileSync("/sys/fs/cgroup/memory.events", "utf8"));
  } catch {
    return false; // an older kernel, or no container
  }
}

/** A database's blocks as a map outside of memory: a repository can be larger than the host's memory. */
class Blocks {
  constructor(db) {
    this.all = db.prepare("select cid, content from repo_block").raw();
    this.one = db.prepare("select content from repo_block where cid = ?").pluck();
    // By the index of URIs, whose order is that of the tree's keys, so no sorting is needed. The order of two columns
    // differs: "app.bsky.feed-x" is before "app.bsky.feed/".
    this.listed = db.prepare(
      `select ifnull(record.uri, '') as uri, record.cid, collection || '/' || rkey as filed,
         repo_block.cid is not null as stored
       from record left join repo_block on repo_block.cid = record.cid order by record.uri`
    );
  }

  get(cid) {
    return this.one.get(String(cid));
  }

  has(cid) {
    return this.get(cid) !== undefined;
  }

  [Symbol.iterator]() {
    return this.all.iterate();
  }

  /** The records in the server's own table, in the order of the URIs. */
  *records() {
    yield* this.listed.iterate();
  }
}

module.exports = {
  Blocks,
  Database,
  Killed,
  LOSSES,
  NOT,
  NO_ROOM,
  PLACES,
  WAIT,
  WHOLE,
  blobOf,
  checkAccount,
  checkAll,
  copyDatabase,
  damageOf,
  isBlob,
  keptBlobs,
  lostRecords,
  read,
  sentences,
};

/** What cannot be read, as from a bad disk, is a fault of that account. */
function verdictOn(folder, did, expectations) {
  try {
    return checkAccount(folder, did, expectations);
  } catch (error) {
    return { ...blank(), state: NOT, why: [`it cannot be read: ${error.message}`] };
  }
}

if (require.main === module) {
  const folder = process.argv[2];
  process.on("message", async ({ did, gently, ...expectations }) => {
    if (gently) os.setPriority(os.constants.priority.PRIORITY_LOW);
    const began = performance.now();
    const verdict = verdictOn(folder, did, expectations);
    if (gently) await new Promise((resume) => setTimeout(resume, performance.now() - began));
    process.send(verdict);
  });
  process.on("disconnect", () => process.exit(0));
}
