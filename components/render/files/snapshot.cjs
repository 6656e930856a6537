// Makes one consistent copy of a PDS's data while the server goes on writing: DATA/.snapshot/current, with a manifest.
//
// Runs in the server's own image, with its own SQLite library. Owns what is copied, in which order, and when a copy is
// refused; where it is then sent is another task's. The order is the design, since no moment is common to all files:
//
//   1 repositories with their keys    what was acknowledged before the start is in them
//   2 the account database            later than 1: an account's repository is never newer than its account
//   3 the sequencer                   later than 1: the server's own recovery brings a repository up to it, never down
//   4 repositories that 2 or 3 know and 1 lacks
//   5 blobs                           last, so that what a recovered record refers to is there
//
// Each database is copied with all its pages in one step. The library's default, 100 pages a step, begins again
// whenever the server writes, and may never end (docs/decisions/0011).
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { createRequire } = require("node:module");
const departures = require("./departures.cjs");
const { home, sha256 } = require("./repository.cjs");
const { stamp: noteOutcome } = require("./stamp.cjs");

// The image has the library as a dependency of the server package alone.
const server = createRequire(path.join(process.cwd(), "x.js")).resolve("@atproto/pds/package.json");
const Database = createRequire(server)("better-sqlite3");

const ATTEMPTS = 3;
const MEBIBYTE = 1024 * 1024;
const SETTLED = 2000; // ms; far above any file system's granularity of times
const WAIT = 5000; // ms; a database is locked for moments only, when its last user closes it

class Refused extends Error {}

const data = process.env.PDS_DATA_DIRECTORY;
const blocks = process.env.PDS_BLOBSTORE_DISK_LOCATION; // unset where blobs are in a bucket
// On the volume itself: a hard link cannot leave its mount. The server looks into none of its names.
const stage = path.join(data, ".snapshot");
const [current, next, old] = ["current", "next", "old"].map((name) => path.join(stage, name));
const kept = new Set(); // repositories taken from the copy before this one
let written = 0; // bytes

async function main() {
  process.umask(0o077);
  const started = new Date();
  fs.mkdirSync(stage, { recursive: true, mode: 0o700 });
  alone();
  if (fs.existsSync(path.join(data, ".restore", "swap.json"))) {
    throw new Refused("a restore was cut short between the old data and the new: run it again.");
  }
  noteDepartures();
  tidy();
  const before = manifest(current);
  room(before);
  const identity = JSON.parse(read(path.join(data, ".pds-identity.json"), "the volume has no mark of its PDS"));
  const copy = { files: {}, repositories: {}, before };

  file(copy, ".pds-identity.json");
  for (const did of repositories(data)) await repository(copy, did);
  let accounts, lacking;
  for (let attempt = 1; ; attempt++) {
    await database("account.sqlite");
    await database("sequencer.sqlite");
    accounts = column("account.sqlite", "select did from actor union select did from account");
    const known = new Set([...accounts, ...column("sequencer.sqlite", "select distinct did from repo_seq")]);
    for (const did of known) if (!whole(copy, did)) await repository(copy, did);
    reserved(copy);
    lacking = accounts.filter((did) => !whole(copy, did));
    // An account that is being deleted loses its files a moment after, in older servers before, its row.
    if (lacking.length === 0 || attempt === ATTEMPTS) break;
    await pause(1000);
  }
  if (lacking.length > 0) {
    const named = lacking.map((did) => `  ${did} has no ${missing(copy, did).join(" and no ")}`);
    throw new Refused(`${lacking.length} of ${accounts.length} accounts would be lost:\n${named.join("\n")}`);
  }
  for (const name of ["account.sqlite", "sequencer.sqlite"]) note(copy, name);
  leaveOut(copy, new Set(accounts));
  const blobs = blocks ? await allBlobs(copy) : 0;
  const count = Object.keys(copy.repositories).length;

  const content = {
    format: 1,
    hostname: identity.hostname,
    rotation_public_key: identity.rotation_public_key,
    package_version: JSON.parse(fs.readFileSync(server, "utf8")).version,
    started: started.toISOString(),
    finished: new Date().toISOString(),
    counts: { accounts: accounts.length, repositories: count, blobs },
    blobs: blocks ? "disk" : "elsewhere",
    sequence: column("sequencer.sqlite", "select coalesce(max(seq), 0) from repo_seq")[0],
    accounts: accounts.sort(),
    repositories: copy.repositories,
    files: copy.files,
  };
  fs.writeFileSync(path.join(next, "manifest.json"), JSON.stringify(content, null, 1) + "\n", { flush: true });
  publish();
  console.log(
    `snapshot of ${identity.hostname}: ${accounts.length} accounts, ${count - kept.size} repositories copied and ` +
      `${kept.size} as before, ${blobs} blobs, ${(written / MEBIBYTE).toFixed(1)} MiB written in ` +
      `${((Date.now() - started) / 1000).toFixed(1)} s`
  );
}

// --- one at a time, and never half a copy under the final name

function alone() {
  // The kernel takes this lock back however the process ends.
  try {
    const lock = new Database(path.join(stage, "lock.sqlite"), { timeout: 0 });
    lock.exec("begin exclusive");
    alone.held = lock;
  } catch (error) {
    if (error.code === "SQLITE_BUSY") throw new Refused("another snapshot is being made.");
    throw error;
  }
}

/** Who left is noted even where the copy is then refused. */
function noteDepartures() {
  const file = path.join(data, "sequencer.sqlite");
  if (!fs.existsSync(file)) return; // said below
  const sequencer = new Database(file, { readonly: true, fileMustExist: true, timeout: WAIT });
  try {
    departures.append(path.join(data, departures.LIST), sequencer);
  } finally {
    sequencer.close();
  }
}

function tidy() {
  // What a killed run left behind. Between the two renames of `publish` there is no `current`.
  if (!fs.existsSync(current) && fs.existsSync(old)) fs.renameSync(old, current);
  for (const left of [next, old]) fs.rmSync(left, { recursive: true, force: true });
  fs.mkdirSync(next);
}

function publish() {
  if (fs.existsSync(current)) fs.renameSync(current, old);
  fs.renameSync(next, current);
  const handle = fs.openSync(stage);
  fs.fsyncSync(handle);
  fs.closeSync(handle);
  fs.rmSync(old, { recursive: true, force: true });
}

function manifest(folder) {
  try {
    const found = JSON.parse(fs.readFileSync(path.join(folder, "manifest.json"), "utf8"));
    return found.format === 1 ? found : null;
  } catch {
    return null; // without one everything is copied
  }
}

function room(before) {
  // What is in a log and not in its database yet is copied, too.
  const whole = (name) => size(path.join(data, name)) + size(path.join(data, `${name}-wal`));
  let needed = whole("account.sqlite") + whole("sequencer.sqlite");
  for (const did of repositories(data)) {
    if (!unchanged(before, did, stamp(did))) needed += whole(path.join(home(did), "store.sqlite"));
  }
  const disk = fs.statfsSync(stage);
  const reserve = Number(process.env.PDS_SNAPSHOT_RESERVE_MIB ?? 256) * MEBIBYTE;
  const free = disk.bavail * disk.bsize;
  if (free - needed < reserve) {
    throw new Refused(
      `the volume has ${mebibytes(free)} free. The copy takes ${mebibytes(needed)} and has to leave ` +
        `${mebibytes(reserve)} to the server. Raise 'volume: {size_gib: …}'.`
    );
  }
}

// --- databases

/** Copy a database of the data directory to the same place in the copy: all pages, one step, one moment. */
async function database(name) {
  const target = path.join(next, name);
  fs.rmSync(target, { force: true });
  let source;
  try {
    // Read-only, so that this program cannot change what it copies.
    source = new Database(path.join(data, name), { readonly: true, fileMustExist: true, timeout: WAIT });
    await source.backup(target, { progress: () => 0x7fffffff });
  } catch (error) {
    throw new Refused(`${name} cannot be copied: ${error.message}`);
  } finally {
    source?.close();
  }
  written += size(target);
}

function column(name, query) {
  // Not read-only: the last reader of a WAL database that may not write leaves its side files behind.
  const opened = new Database(path.join(next, name), { fileMustExist: true });
  try {
    return opened.prepare(query).pluck().all();
  } finally {
    opened.close();
  }
}

// --- repositories

function repositories(root) {
  const actors = path.join(root, "actors");
  const shelves = entries(actors).filter((name) => /^[0-9a-f]{2}$/.test(name));
  return shelves.flatMap((shelf) => entries(path.join(actors, shelf)).filter((name) => name.startsWith("did:")));
}

/**
 * What changes with every write to a repository: size and times of its files, taken before they are copied.
 *
 * A write always moves the time of the database or of its log. It could leave the time as it was only within one tick
 * of the file system's clock, so files that were written to in the last seconds have no stamp and are copied again.
 */
function stamp(did) {
  const parts = [];
  for (const name of ["store.sqlite", "store.sqlite-wal", "key", "did-op"]) {
    const found = fs.statSync(path.join(data, home(did), name), { bigint: true, throwIfNoEntry: false });
    // An empty log is none; a reader may make one.
    if (!found || (name.endsWith("-wal") && found.size === 0n)) {
      parts.push("-");
      continue;
    }
    if (Date.now() - Number(found.mtimeMs) < SETTLED) return null;
    // Not the time of the inode's change: SQLite as root sets the owner of a log whenever it opens it.
    parts.push(`${found.ino}:${found.size}:${found.mtimeNs}`);
  }
  return parts.join(" ");
}

function unchanged(before, did, now) {
  return now !== null && before?.repositories[did]?.stamp === now;
}

async function repository(copy, did) {
  for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
    const entry = await oneRepository(copy, did);
    if (!entry) return;
    const gone = blocks ? await theirBlobs(did, entry) : [];
    // A record that was deleted since took its blob with it: then the repository is copied again, without the record.
    delete entry.missing_blobs;
    if (gone.length === 0) return;
    entry.missing_blobs = gone;
    entry.stamp = null;
    if (attempt < ATTEMPTS) await pause(200);
  }
  for (const cid of copy.repositories[did].missing_blobs) {
    console.error(`MISSING: ${did} refers to blob ${cid}, which is not on the volume, or not whole`);
  }
}

async function oneRepository(copy, did) {
  const folder = home(did);
  const names = ["key", "did-op", "store.sqlite"].map((name) => path.join(folder, name));
  const now = stamp(did);
  fs.mkdirSync(path.join(next, folder), { recursive: true });
  if (unchanged(copy.before, did, now) && names.every((name) => keep(copy, name))) {
    kept.add(did);
    return (copy.repositories[did] = structuredClone(copy.before.repositories[did]));
  }
  delete copy.repositories[did];
  kept.delete(did);
  for (const name of names.slice(0, 2)) file(copy, name);
  if (!fs.existsSync(path.join(data, names[2]))) return null;
  try {
    await database(names[2]);
  } catch (error) {
    // Deleted under our hands: whether that may be is decided when the accounts are known.
    if (!fs.existsSync(path.join(data, names[2]))) return null;
    throw error;
  }
  let root, permanent;
  try {
    const opened = new Database(path.join(next, names[2]), { fileMustExist: true });
    try {
      root = opened.prepare("select cid, rev from repo_root").get();
      permanent = opened.prepare('select cid from blob where "tempKey" is null order by cid').pluck().all();
    } finally {
      opened.close();
    }
  } catch (error) {
    if (/no such table/.test(error.message)) return null; // an account that is being made
    throw new Refused(`${names[2]} cannot be read: ${error.message}`);
  }
  if (!root) return null;
  note(copy, names[2]);
  return (copy.repositories[did] = { cid: root.cid, rev: root.rev, stamp: now, blobs: permanent });
}

function missing(copy, did) {
  const lacks = [];
  if (!copy.repositories[did]) lacks.push("repository");
  if (!copy.files[path.join(home(did), "key")]) lacks.push("signing key");
  return lacks;
}

function whole(copy, did) {
  return missing(copy, did).length === 0;
}

/** Repositories without an account: deleted ones leave the copy; those that are being made stay, with their keys. */
function leaveOut(copy, accounts) {
  for (const did of repositories(next)) {
    if (accounts.has(did) || (whole(copy, did) && fs.existsSync(path.join(data, home(did), "key")))) continue;
    for (const tree of [home(did), path.join("blocks", did), path.join("blocks", "quarantine", did)]) {
      fs.rmSync(path.join(next, tree), { recursive: true, force: true });
    }
    for (const name of Object.keys(copy.files)) if (name.startsWith(home(did) + path.sep)) delete copy.files[name];
    delete copy.repositories[did];
    kept.delete(did);
  }
}

/** Keys that were promised to accounts which are moving here. */
function reserved(copy) {
  const folder = path.join("actors", "reserved_keys");
  for (const name of entries(path.join(data, folder))) file(copy, path.join(folder, name));
}

// --- blobs: files that never change, named by their hash; a hard link is a copy that needs no room

const PLACES = ["", "quarantine"];

/** Link what the copied repository says is on the disk; returns what is not. */
async function theirBlobs(did, entry) {
  const gone = [];
  for (const cid of entry.blobs) {
    let found = false;
    for (const place of PLACES) found ||= await blob(place, did, cid);
    if (!found) gone.push(cid);
  }
  return gone;
}

async function allBlobs(copy) {
  let count = 0;
  for (const did of Object.keys(copy.repositories)) {
    for (const place of PLACES) {
      for (const cid of entries(path.join(blocks, place, did))) if (await blob(place, did, cid)) count++;
    }
  }
  return count;
}

async function blob(place, did, cid) {
  const source = path.join(blocks, place, did, cid);
  const name = path.join("blocks", place, did, cid);
  const target = path.join(next, name);
  if (fs.existsSync(target)) return true;
  for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
    try {
      const found = fs.statSync(source);
      const known = fs.statSync(path.join(current, name), { throwIfNoEntry: false });
      const checked = known?.ino === found.ino && known?.dev === found.dev && known?.size === found.size;
      if (checked || sha256(source) === digest(cid)) {
        fs.mkdirSync(path.dirname(target), { recursive: true });
        link(source, target);
        return true;
      }
    } catch (error) {
      if (error.code === "ENOENT") return false;
      throw error;
    }
    await pause(200); // the server may be writing it: it writes under the final name
  }
  return false;
}

/** The hex SHA-256 in a CID: base32 of version 1, codec raw (0x55), hash sha2-256 (0x12) of 32 bytes. */
function digest(cid) {
  let bits = 0n;
  for (const letter of cid.slice(1)) bits = bits * 32n + BigInt("abcdefghijklmnopqrstuvwxyz234567".indexOf(letter));
  const spare = ((cid.length - 1) * 5) % 8;
  const hex = (bits >> BigInt(spare)).toString(16).padStart(72, "0");
  return cid[0] === "b" && hex.startsWith("01551220") ? hex.slice(8) : null;
}

// --- files

/** Copy a small file as it is; whether it was there. */
function file(copy, name) {
  let content;
  try {
    content = fs.readFileSync(path.join(data, name));
  } catch (error) {
    if (error.code !== "ENOENT") throw error;
    delete copy.files[name];
    return;
  }
  const target = path.join(next, name);
  fs.mkdirSync(path.dirname(target), { recursive: true });
  fs.rmSync(target, { force: true }); // never through a link into the copy before this one
  fs.writeFileSync(target, content, { flush: true });
  note(copy, name);
}

/** Take a file from the copy before this one; false where that one is not what its manifest says. */
function keep(copy, name) {
  const known = copy.before.files[name];
  if (!known) return name.endsWith("did-op"); // most have none
  if (size(path.join(current, name)) !== known.size) return false;
  fs.rmSync(path.join(next, name), { force: true });
  fs.linkSync(path.join(current, name), path.join(next, name));
  copy.files[name] = known;
  return true;
}

function note(copy, name) {
  const target = path.join(next, name);
  copy.files[name] = { size: size(target), sha256: sha256(target) };
}

function link(source, target) {
  try {
    fs.linkSync(source, target);
  } catch (error) {
    if (error.code !== "EXDEV") throw error;
    fs.copyFileSync(source, target); // blobs on a disk of their own
  }
}

function size(name) {
  return fs.statSync(name, { throwIfNoEntry: false })?.size ?? 0;
}

function entries(folder) {
  try {
    return fs.readdirSync(folder);
  } catch (error) {
    if (error.code === "ENOENT") return [];
    throw error;
  }
}

function read(name, problem) {
  if (!fs.existsSync(name)) throw new Refused(`${problem} (${path.basename(name)}): start the server once.`);
  return fs.readFileSync(name, "utf8");
}

function mebibytes(bytes) {
  return `${Math.floor(bytes / MEBIBYTE)} MiB`;
}

function pause(milliseconds) {
  return new Promise((resume) => setTimeout(resume, milliseconds));
}

main().catch((error) => {
  // The copy before this one stays as it is.
  console.error(error instanceof Refused ? `REFUSED: ${error.message}` : `FAILED: ${error.stack}`);
  process.exitCode = 1;
  if (!alone.held) return; // another run's
  fs.rmSync(next, { recursive: true, force: true }); // on a full volume its room is the server's
  try {
    noteOutcome("backup", [error.message.replace(/\s+/g, " ").slice(0, 500)]);
  } catch (full) {
    console.error(`that it failed could not be noted: ${full.message}`);
  }
});
