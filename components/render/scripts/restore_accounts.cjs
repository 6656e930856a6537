// Chooses the source of each account of a restore: the snapshot; if it is not restorable there, the newest older backup
// in which it is intact, else the old data on the volume; else it is left out and reported. Accounts that are newer
// than the snapshot are carried over from the old data. The script then assembles one new data directory from
// them.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { Database, LOSSES, NOT, PLACES, WHOLE, blobOf, checkAll, copyDatabase, keptBlobs, read, sentences } = require("./account_check.cjs");
const { entries } = require("./files.cjs");
const { home, publicKey, sha256 } = require("./repository.cjs");
const { MANIFEST } = require("./verify.cjs");

const NAMES = ["store.sqlite", "key", "did-op"]; // of an account's files
const PATIENCE = 3600 * 1000; // ms for one answer of the task that has the bucket's key
const LOOK = 200; // ms
const AWAY = "the older backups could not be read: try `./pds restore STACK --only` with this DID later";

// --- older backups: another task has restic's key (fetch_older.sh); the two communicate by files in this folder

class Older {
  /** `exchange` is the folder; `before` the time that bounds older backups, or null; `on` whether that task exists. */
  constructor(exchange, before, on) {
    Object.assign(this, { exchange, before, on });
    this.judged = new Map(); // hashes of an account's files to their verdict
    this.asked = new Map(); // IDs to whether their manifest could be fetched
  }

  async ask(...words) {
    fs.mkdirSync(this.exchange, { recursive: true });
    const [request, answer] = ["request", "answer"].map((name) => path.join(this.exchange, name));
    fs.rmSync(answer, { force: true });
    fs.writeFileSync(`${request}.next`, `${words.join(" ")}\n`);
    fs.renameSync(`${request}.next`, request);
    for (const end = Date.now() + PATIENCE; !fs.existsSync(answer); ) {
      if (Date.now() > end) return false;
      await new Promise((resume) => setTimeout(resume, LOOK));
    }
    return fs.readFileSync(answer, "utf8").trim() === "ok";
  }

  /** IDs of older backups, the newest first. */
  async list() {
    if (!this.on) return [];
    if (!this.ids) {
      const got = await this.ask("list");
      this.away = !got;
      const found = got ? JSON.parse(fs.readFileSync(path.join(this.exchange, "list.json"), "utf8")) : [];
      const older = found.filter(({ time }) => !this.before || Date.parse(time) < Date.parse(this.before));
      this.ids = older.sort((one, other) => Date.parse(other.time) - Date.parse(one.time)).map(({ id }) => id);
    }
    return this.ids;
  }

  /** The manifest of a backup; null if it cannot be fetched. It stays on the disk: all of them would fill the memory. */
  async manifest(id) {
    const [got, kept] = [path.join(this.exchange, id, MANIFEST), path.join(this.exchange, `${id}.json`)];
    if (!this.asked.has(id)) {
      this.asked.set(id, (await this.ask("manifest", id)) && fs.existsSync(got));
      if (this.asked.get(id)) fs.renameSync(got, kept); // each later answer has one of its own
    }
    return this.asked.get(id) ? JSON.parse(fs.readFileSync(kept, "utf8")) : null;
  }

  /**
   * The newest older backup with an intact account, else the newest with a damaged one; null if there is none. Where parts
   * are lost, restic takes minutes for each account, so one that was not whole is not fetched again from a backup with the
   * same files.
   */
  async find(did) {
    let second = null;
    const damaged = new Set(); // what the manifests have of it
    for (const id of await this.list()) {
      const folder = path.join(this.exchange, id);
      const manifest = await this.manifest(id);
      const files = NAMES.slice(0, 2).map((name) => manifest?.files[path.join(home(did), name)]?.sha256);
      if (files.includes(undefined) || damaged.has(files.join())) continue;
      if (!(await this.ask("get", id, home(did), did))) continue;
      const verdict = await this.judge(folder, did, manifest);
      damaged.add(files.join());
      const found = { folder, verdict, of: manifest.repositories[did]?.of ?? manifest.started, manifest };
      if (verdict.state === WHOLE) return found;
      if (verdict.state === LOSSES) second ??= found;
    }
    return second;
  }

  async judge(folder, did, manifest) {
    const files = NAMES.map((name) => path.join(folder, home(did), name));
    const hashes = files.map((file) => (fs.existsSync(file) ? sha256(file) : "-")).join();
    if (!this.judged.has(hashes)) this.judged.set(hashes, (await checkAll(folder, [did], { manifest })).get(did));
    return this.judged.get(hashes);
  }
}

// --- choices

/**
 * The source of each account: `chosen`, a map from DID to `folder`, `verdict`, and `of`, the time of its data if it is
 * not the snapshot's; and `leftOut`, a map from DID to why. `found` is what `verify` returned for `source`.
 */
async function choose({ source, found, older, old, scratch, without }) {
  const result = { chosen: new Map(), leftOut: new Map() };
  for (const [did, verdict] of found.verdicts) {
    if (without.includes(did)) result.leftOut.set(did, "you left it out (--without)");
    else if (verdict.state !== NOT) result.chosen.set(did, { folder: source, verdict, of: found.manifest.repositories[did]?.of, manifest: found.manifest });
    else if (!found.manifest.accounts.includes(did)) result.leftOut.set(did, "it has no account, and its repository is damaged");
    else {
      const backup = await older.find(did);
      const here = backup?.verdict.state === WHOLE ? null : await fromOldData(old, scratch, did, found.manifest);
      const other = here?.verdict.state === WHOLE ? here : (backup ?? here);
      if (other) result.chosen.set(did, { ...other, instead: sentences(verdict)[0] });
      else result.leftOut.set(did, sentences(verdict).join("; ") + (older.away ? `; ${AWAY}` : ""));
    }
  }
  return result;
}

/** Accounts in the old data that the snapshot lacks, likewise; without those that are to be deleted. */
async function newer({ found, old, scratch, deleted, without }) {
  const result = { chosen: new Map(), leftOut: new Map() };
  const known = new Set([...found.manifest.accounts, ...deleted]);
  for (const did of old.dids.filter((did) => !known.has(did))) {
    const carried = without.includes(did) ? null : await fromOldData(old, scratch, did, found.manifest);
    if (carried) result.chosen.set(did, { ...carried, of: null });
    else result.leftOut.set(did, without.includes(did) ? "you left it out (--without)" : `it was made after the snapshot, and ${old.why(did)}`);
  }
  return result;
}

/** Leave out one of the `accounts` that were chosen. */
function leaveOut(accounts, did, why) {
  accounts.leftOut.set(did, why);
  accounts.chosen.delete(did);
  if (accounts.carried.includes(did)) accounts.newer--;
  accounts.carried = accounts.carried.filter((other) => other !== did);
}

/** The old data on the volume: `data`, an open connection to their account database, and the DIDs of their accounts. */
function oldAccounts(data, accounts, dids, folderDids) {
  const faults = new Map();
  return {
    data,
    accounts,
    dids: dids ?? folderDids, // without an account database, the folders still identify the accounts
    faults,
    why: (did) => (accounts ? (faults.get(did) ?? "it cannot be read in the old data") : "the old account.sqlite cannot be read"),
  };
}

async function fromOldData(old, scratch, did, manifest) {
  if (!old.accounts || !old.dids.includes(did)) return null;
  const folder = path.join(scratch, "carried");
  fs.mkdirSync(path.join(folder, home(did)), { recursive: true });
  try {
    await copyDatabase(path.join(old.data, home(did), "store.sqlite"), path.join(folder, home(did), "store.sqlite"));
    for (const name of NAMES.slice(1)) {
      const file = path.join(old.data, home(did), name);
      if (fs.existsSync(file)) fs.copyFileSync(file, path.join(folder, home(did), name));
    }
    if (manifest.blobs === "disk") for (const place of ["", "quarantine"]) linkBlobs(old.data, folder, place, did);
  } catch (error) {
    old.faults.set(did, `its data cannot be read: ${error.message}`);
    return null;
  }
  const expected = { files: null, repositories: {}, blobs: manifest.blobs };
  const verdict = (await checkAll(folder, [did], { manifest: expected })).get(did);
  if (verdict.state !== NOT) return { folder, verdict, of: null };
  old.faults.set(did, verdict.why.join("; "));
  return null;
}

function linkBlobs(from, to, place, did) {
  const folder = path.join(from, "blocks", place, did);
  if (!fs.existsSync(folder)) return;
  for (const cid of fs.readdirSync(folder)) link(from, to, path.join("blocks", place, did, cid));
}

// --- one new data directory

/**
 * Puts an account's files and intact blobs into `next`. Blobs never change, so they are linked. Returns notes. No check of an
 * account reads its `did-op`, which most have not: `manifest`, if there is one, tells whether it is what was written.
 */
function stageAccount(next, did, { folder, verdict, manifest }, disk) {
  const notes = [];
  for (const name of NAMES) {
    const file = path.join(folder, home(did), name);
    if (name === "did-op" && !fs.existsSync(file)) continue; // the others were there when it was checked
    if (name === "did-op" && manifest?.files && !isAsWritten(folder, path.join(home(did), name), manifest.files)) {
      notes.push(`${did}: its did-op is damaged in the backup, and is left out`);
      continue;
    }
    fs.mkdirSync(path.join(next, home(did)), { recursive: true });
    fs.copyFileSync(file, path.join(next, home(did), name));
  }
  if (!disk) return notes;
  for (const cid of read(path.join(folder, home(did), "store.sqlite"), keptBlobs)) {
    const name = blobOf(folder, did, cid, { checked: true });
    if (verdict.blobs.includes(cid)) continue;
    if (!name) throw new Error(`blob ${cid} of ${did} was there when it was checked, and is gone`);
    link(folder, next, name);
  }
  return notes;
}

/** Whether the file `name` below `folder` is what `files` of a manifest has. restic leaves zeros for a part that is lost. */
function isAsWritten(folder, name, files) {
  const file = path.join(folder, name);
  const written = files[name];
  return Boolean(written) && fs.existsSync(file) && fs.statSync(file).size === written.size && sha256(file) === written.sha256;
}

/** Links the file `name` below `from` to the same name below `to`. */
function link(from, to, name) {
  fs.mkdirSync(path.dirname(path.join(to, name)), { recursive: true });
  fs.rmSync(path.join(to, name), { force: true });
  fs.linkSync(path.join(from, name), path.join(to, name));
}

/** Links blobs that the account's records name and `next` lacks, from the first of `folders` that has them; returns the others. */
function bringBlobs(next, did, folders) {
  const store = path.join(next, home(did), "store.sqlite");
  if (!fs.existsSync(store)) return [];
  return read(store, keptBlobs).filter((cid) => {
    if (blobOf(next, did, cid, { checked: true })) return false;
    const from = folders.find((folder) => blobOf(folder, did, cid));
    if (!from) return true;
    const name = blobOf(from, did, cid, { checked: true });
    link(from, next, name);
    return false;
  });
}

/** Links the blobs of an account that the old data in `from` have. */
function keepBlobs(from, next, did) {
  for (const cid of read(path.join(next, home(did), "store.sqlite"), keptBlobs)) {
    for (const name of PLACES.map((place) => path.join("blocks", place, did, cid))) {
      if (fs.existsSync(path.join(from, name)) && !fs.existsSync(path.join(next, name))) link(from, next, name);
    }
  }
}

function isKey(file) {
  try {
    publicKey(fs.readFileSync(file));
    return true;
  } catch {
    return false;
  }
}

/** Keeps the key of an account that is left out, if it is a valid key: it may be the only copy. */
function stageKey(next, did, folder) {
  const file = path.join(folder, home(did), "key");
  if (!isKey(file)) return;
  fs.mkdirSync(path.join(next, home(did)), { recursive: true });
  fs.copyFileSync(file, path.join(next, home(did), "key"));
}

/**
 * Keys reserved for accounts that are migrating to this server: as the snapshot in `source` has them by the `files` of its
 * manifest, else as the old `data` do. Returns notes. The directory names these keys, so another one is of no use.
 */
function stageReservedKeys(next, { source, data, files }) {
  const place = path.join("actors", "reserved_keys");
  const listed = Object.keys(files).filter((name) => path.dirname(name) === place);
  const notes = [];
  for (const name of new Set([...listed, ...entries(path.join(data, place)).map((entry) => path.join(place, entry))])) {
    const from = [source, data].find((folder) => (folder === source ? isAsWritten(folder, name, files) : isKey(path.join(folder, name))));
    if (listed.includes(name) && from !== source) {
      const instead = from ? "comes from the old data" : "is lost: the member has to begin the migration again";
      notes.push(`the reserved key ${path.basename(name)} is damaged in the backup, and ${instead}`);
    }
    if (!from) continue;
    fs.mkdirSync(path.join(next, place), { recursive: true });
    fs.copyFileSync(path.join(from, name), path.join(next, name));
  }
  return notes;
}

// --- an account's rows

const FIRST = ["actor", "account"]; // others refer to them
const NUMBERED = { token: "id" }; // columns that a database numbers by itself

/**
 * Copies an account's rows from the account database `from` (an open connection) to the one in the file `to`: password,
 * e-mail address, app passwords, sessions, invite codes. Throws if another account has the e-mail address. Leaves a
 * handle of another account empty: the server restores it if the DID document names it. Returns a note, or null.
 */
function copyRows(from, to, did) {
  const db = new Database(to, { fileMustExist: true, timeout: 10000 });
  try {
    return db.transaction(() => copyInto(from, db, did))();
  } finally {
    db.close();
  }
}

function copyInto(from, db, did) {
  const tables = db.prepare("select name from sqlite_master where type = 'table'").pluck().all();
  const columns = (base, table) => base.pragma(`table_info("${table}")`).map(({ name }) => name);
  const owned = tables.filter((table) => columns(from, table).includes("did") && columns(db, table).includes("did"));
  const rest = owned.filter((table) => !FIRST.includes(table) && table !== "authorization_request");
  let note = null;
  const copy = (table, condition) => {
    const names = columns(db, table).filter((name) => columns(from, table).includes(name) && NUMBERED[table] !== name);
    const listed = names.map((name) => `"${name}"`).join();
    const insert = db.prepare(`insert or ${FIRST.includes(table) ? "abort" : "ignore"} into "${table}" (${listed}) values (${names.map(() => "?").join()})`);
    for (const row of from.prepare(`select ${listed} from "${table}" where ${condition}`).raw().all(did)) {
      if (table === "actor" && taken(db, row[names.indexOf("handle")])) {
        note = `${did}: its handle ${row[names.indexOf("handle")]} is another account's in the snapshot; it is without one`;
        row[names.indexOf("handle")] = null;
      }
      insert.run(...row);
    }
  };
  for (const table of FIRST) copy(table, "did = ?");
  if (tables.includes("account_device")) copy("device", 'id in (select "deviceId" from account_device where did = ?)');
  for (const table of rest) copy(table, "did = ?");
  copy("invite_code", '"forAccount" = ?');
  copy("invite_code_use", '"usedBy" = ?');
  return note;
}

/** Remove an account's rows from the account database in the file `name`. */
function removeRows(name, did) {
  const db = new Database(name, { fileMustExist: true, timeout: 10000 });
  try {
    const tables = db.prepare("select name from sqlite_master where type = 'table'").pluck().all();
    const owned = tables.filter((table) => db.pragma(`table_info("${table}")`).some((column) => column.name === "did"));
    const order = [...owned.filter((table) => !FIRST.includes(table)), ...FIRST.toReversed()];
    db.transaction(() => order.forEach((table) => db.prepare(`delete from "${table}" where did = ?`).run(did)))();
  } finally {
    db.close();
  }
}

function taken(db, handle) {
  return handle !== null && db.prepare("select 1 from actor where lower(handle) = lower(?)").get(handle) !== undefined;
}

module.exports = { Older, bringBlobs, choose, copyRows, keepBlobs, leaveOut, newer, oldAccounts, removeRows, stageAccount, stageKey, stageReservedKeys };
