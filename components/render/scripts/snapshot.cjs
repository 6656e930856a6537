// Makes one consistent copy of a PDS's data while the server keeps writing: DATA/.snapshot/current, with a manifest.
//
// Runs in the server's own image, with its own SQLite library. It decides the order in which things are copied, and refuses
// a copy if the account database cannot be read or has lost most accounts, or the volume is too full. A fault of one account is a
// finding (snapshot_accounts.cjs), which the manifest and the run's status contain. The order matters, because no
// moment is common to all files:
//
//   1 repositories with their keys    they contain everything acknowledged before the start
//   2 the account database            later than 1: an account's repository is never newer than its account
//   3 the sequencer                   later than 1: the server's own recovery brings a repository up to it, never down
//   4 repositories that 2 or 3 know and 1 lacks
//   5 blobs                           after their repository: the blobs of a recovered record exist
//
// Each database is copied with all its pages in one step. The library's default, 100 pages a step, starts again
// whenever the server writes, and may never end (docs/decisions/0011).
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { createRequire } = require("node:module");
const departures = require("./account_events.cjs");
const { Database, NOT, NO_ROOM, WAIT, WHOLE, checkAll, damageOf, read, sentences } = require("./account_check.cjs");
const { entries, folders, sync } = require("./files.cjs");
const { Copy, pause, size } = require("./snapshot_accounts.cjs");
const missingAccounts = require("./missing_accounts.cjs");
const { home } = require("./repository.cjs");
const { begin, end } = require("./run_status.cjs");

const server = createRequire(path.join(process.cwd(), "x.js")).resolve("@atproto/pds/package.json");

const ATTEMPTS = 3;
const ALL_CHECKED = 20 * 3600 * 1000; // ms; a day, less the delay of a run or two
const PAUSE_MS = 2; // between accounts: the server's members use the same disk and processor
const MEBIBYTE = 1024 * 1024;
const reserve = Number(process.env.PDS_SNAPSHOT_RESERVE_MIB ?? 256) * MEBIBYTE; // of free space, for the server

class Refused extends Error {}

const data = process.env.PDS_DATA_DIRECTORY;
const blocks = process.env.PDS_BLOBSTORE_DISK_LOCATION; // unset if blobs are in a bucket
// On the volume itself: a hard link cannot leave its mount. The server reads none of its names.
const stage = path.join(data, ".snapshot");
const [current, next, old] = ["current", "next", "old"].map((name) => path.join(stage, name));

async function main() {
  process.umask(0o077);
  const started = new Date();
  fs.mkdirSync(stage, { recursive: true, mode: 0o700 });
  alone();
  begin("backup");
  if (fs.existsSync(path.join(data, ".restore", "swap.json"))) {
    throw new Refused("a restore was cut short between the old data and the new: run it again.");
  }
  noteDepartures();
  tidy();
  const before = manifest(current);
  const copy = new Copy({ data, blocks, next, current, before });
  room(copy);
  const identity = readMark();

  copy.file(".pds-identity.json");
  for (const did of folders(data, unread)) {
    await copy.account(did);
    if (!copy.kept.has(did)) await pause(PAUSE_MS);
  }
  const { accounts, gone } = await accountsAndEvents(copy);
  leaveOut(copy, new Set(accounts));
  const content = describe(copy, identity, accounts, started);
  await checkShare(copy, content);
  missingAccounts.record(copy, gone);
  content.finished = new Date().toISOString();
  fs.writeFileSync(path.join(next, "manifest.json"), JSON.stringify(content, null, 1) + "\n", { flush: true });
  publish();
  report(copy, content, started);
}

/**
 * Copies the databases of the whole server, then accounts in them that the first pass lacks. Returns the accounts, and
 * those that are gone.
 */
async function accountsAndEvents(copy) {
  for (let attempt = 1; ; attempt++) {
    const accounts = await serverDatabase(copy, "account.sqlite", "select did from actor union select did from account");
    const events = await sequencer(copy);
    for (const did of new Set([...accounts, ...events])) if (!copy.whole(did) && !copy.findings[did]) await copy.account(did);
    for (const name of entries(path.join(data, "actors", "reserved_keys"))) copy.file(path.join("actors", "reserved_keys", name));
    const lacking = accounts.filter((did) => !copy.whole(did) && !copy.findings[did]);
    const { gone, now } = missingAccounts.missing({ data, before: copy.before, accounts });
    // A deleted account loses its files a moment after its row, in older servers before. Its event follows the row.
    if (lacking.length + now.length === 0 || attempt === ATTEMPTS) {
      const refusal = missingAccounts.refusal({ data, before: copy.before, now });
      if (refusal) throw new Refused(refusal);
      for (const did of lacking) copy.lacking(did);
      return { accounts, gone };
    }
    await pause(1000);
  }
}

/** Copies a database of the whole server. Returns the result of `query`. */
async function serverDatabase(copy, name, query) {
  const refused = (why) => new Refused(`${name} cannot be read: ${why}. The backups keep the copies before it.`);
  try {
    await copy.database(name);
    const damage = read(path.join(next, name), (db) => damageOf(db, "quick_check"));
    if (damage) throw refused(damage);
    const found = column(name, query);
    copy.note(name);
    return found;
  } catch (error) {
    throw error instanceof Refused || NO_ROOM.includes(error.code) ? error : refused(error.message);
  }
}

/** The DIDs of the events. A server can be restored without its events: they are useful for some minutes. */
async function sequencer(copy) {
  const name = "sequencer.sqlite";
  try {
    return await serverDatabase(copy, name, "select distinct did from repo_seq");
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    fs.rmSync(path.join(next, name), { force: true });
    delete copy.files[name];
    copy.find(name, "damaged", `${error.message} A restore begins new events`);
    return [];
  }
}

function describe(copy, identity, accounts, started) {
  const events = copy.files["sequencer.sqlite"];
  return {
    format: 1,
    hostname: identity.hostname,
    rotation_public_key: identity.rotation_public_key,
    package_version: JSON.parse(fs.readFileSync(server, "utf8")).version,
    started: started.toISOString(),
    finished: "", // set after all checks
    counts: { accounts: accounts.length, repositories: Object.keys(copy.repositories).length, blobs: copy.blobs },
    blobs: blocks ? "disk" : process.env.BLOBS_SERVE === "bucket" ? "bucket" : "elsewhere", // copied by backup_blobs.cjs, or by none
    sequence: events ? column("sequencer.sqlite", "select coalesce(max(seq), 0) from repo_seq")[0] : 0,
    accounts: accounts.sort(),
    repositories: copy.repositories,
    files: copy.files,
    findings: copy.findings,
  };
}

/**
 * Fully checks a share of the accounts, longest unchecked first, so that each account is checked once a day. Changed
 * accounts get only a short check when they are copied: SQLite's quick check, the newest commit and the account's key.
 */
async function checkShare(copy, content) {
  const { repositories, started } = content;
  const dids = Object.keys(repositories).sort((one, other) =>
    (repositories[one].checked ?? "") < (repositories[other].checked ?? "") ? -1 : 1
  );
  const since = copy.before ? Date.parse(started) - Date.parse(copy.before.started) : Infinity;
  const share = Math.ceil(dids.length * Math.min(1, since / ALL_CHECKED));
  // A copy is only looked at: what a whole check found before is not gone because the account was written to.
  const known = (did) => copy.findings[did] || copy.before?.findings[did]?.checked;
  const suspects = dids.filter((did) => copy.suspects.has(did) || (known(did) && !copy.kept.has(did)));
  const verdicts = await checkAll(next, [...new Set([...suspects, ...dids.slice(0, share)])], { manifest: content, gently: true });
  await copyDamagedAgain(copy, content, verdicts);
  for (const [did, verdict] of verdicts) {
    repositories[did].checked = new Date().toISOString(); // also if the check was killed: the others have their turn
    // For an account that could not be copied now, that finding is more current than a check of its last copy.
    if (copy.findings[did] && !copy.findings[did].checked) continue;
    if (verdict.state === WHOLE) delete copy.findings[did];
    else copy.find(did, verdict.unchecked ? "not checked" : verdict.state, told(did, verdict), { checked: true });
  }
}

/** Copies accounts again whose kept copy is damaged, and replaces the `verdicts` on them by those on the new copies. */
async function copyDamagedAgain(copy, content, verdicts) {
  const damaged = [...verdicts].filter(([did, { state, unchecked }]) => state !== WHOLE && !unchecked && copy.kept.has(did));
  for (const [did, { state }] of damaged) {
    if (free() - roomOf(did) < reserve) {
      copy.repositories[did].stamp = null; // the next run copies it, or is refused for want of room
      continue;
    }
    await copy.again(did, state !== NOT);
    if (content.accounts.includes(did) && !copy.whole(did) && !copy.findings[did]) copy.lacking(did);
    verdicts.delete(did);
  }
  const copied = damaged.map(([did]) => did).filter((did) => !verdicts.has(did) && copy.repositories[did]);
  for (const found of await checkAll(next, copied, { manifest: content, gently: true })) verdicts.set(...found);
  Object.assign(content.counts, { repositories: Object.keys(copy.repositories).length, blobs: copy.blobs });
}

function told(did, verdict) {
  const all = sentences(verdict);
  const more = all.length > 3 ? ` (and ${all.length - 3} more)` : "";
  return `${all.slice(0, 3).join("; ")}${more}. An older backup may have it whole: \`./pds restore STACK --only ${did}\``;
}

function report(copy, { hostname, counts, findings }, started) {
  for (const [did, { state, what }] of Object.entries(findings)) console.error(`FINDING: ${did}: ${state}: ${what}`);
  console.log(
    `snapshot of ${hostname}: ${counts.accounts} accounts, ${counts.repositories - copy.kept.size} repositories copied ` +
      `and ${copy.kept.size} as before, ${counts.blobs} blobs, ${(copy.written / MEBIBYTE).toFixed(1)} MiB written in ` +
      `${((Date.now() - started) / 1000).toFixed(1)} s`
  );
}

// --- one run at a time, and never an incomplete copy under the final name

function alone() {
  // The kernel releases this lock however the process ends.
  try {
    const lock = new Database(path.join(stage, "lock.sqlite"), { timeout: 0 });
    lock.exec("begin exclusive");
    alone.held = lock;
  } catch (error) {
    if (error.code === "SQLITE_BUSY") throw new Refused("another snapshot is being made.");
    throw error;
  }
}

/** Records departures even if the copy is then refused. */
function noteDepartures() {
  const file = path.join(data, "sequencer.sqlite");
  if (!fs.existsSync(file)) return; // reported below
  let sequencer;
  try {
    sequencer = new Database(file, { readonly: true, fileMustExist: true, timeout: WAIT });
    departures.append(path.join(data, departures.LIST), sequencer);
  } catch (error) {
    console.error(`note: sequencer.sqlite cannot be read: ${error.message}`);
  } finally {
    sequencer?.close();
  }
}

function tidy() {
  // Leftovers of a killed run. Between the two renames of `publish` there is no `current`.
  if (!fs.existsSync(current) && fs.existsSync(old)) fs.renameSync(old, current);
  for (const left of [next, old]) fs.rmSync(left, { recursive: true, force: true });
  fs.mkdirSync(next);
}

function publish() {
  if (fs.existsSync(current)) fs.renameSync(current, old);
  fs.renameSync(next, current);
  sync(stage);
  fs.rmSync(old, { recursive: true, force: true });
}

function manifest(folder) {
  try {
    const found = JSON.parse(fs.readFileSync(path.join(folder, "manifest.json"), "utf8"));
    return found.format === 1 && found.findings ? found : null;
  } catch {
    return null; // everything is copied then
  }
}

function room(copy) {
  let needed = withLog("account.sqlite") + withLog("sequencer.sqlite");
  for (const did of folders(data, unread)) needed += roomOf(did, copy);
  const left = free();
  if (left - needed < reserve) {
    throw new Refused(
      `the volume has ${mebibytes(left)} free. The copy takes ${mebibytes(needed)} and has to leave ` +
        `${mebibytes(reserve)} to the server: ${process.env.SPACE_REMEDY ?? "make the volume larger"}.`
    );
  }
}

/** Bytes for an account; 0 if the `copy` keeps the previous one. */
function roomOf(did, copy = null) {
  try {
    return copy?.unchanged(did, copy.stamp(did)) ? 0 : withLog(path.join(home(did), "store.sqlite"));
  } catch (error) {
    unread(error); // a finding, when it is copied
    return 0;
  }
}

/** Bytes of a database, with what is in its log and not yet in it. */
function withLog(name) {
  return size(path.join(data, name)) + size(path.join(data, `${name}-wal`));
}

function free() {
  const disk = fs.statfsSync(stage);
  return disk.bavail * disk.bsize;
}

/** The accounts of a shard that cannot be read are known from the account database, and become findings. */
function unread(error) {
  console.error(`note: ${error.message}`);
}

function readMark() {
  const identityFile = path.join(data, ".pds-identity.json");
  if (!fs.existsSync(identityFile)) {
    throw new Refused("the volume has no identity file (.pds-identity.json): start the server once.");
  }
  try {
    return JSON.parse(fs.readFileSync(identityFile, "utf8"));
  } catch (error) {
    throw new Refused(`.pds-identity.json cannot be read (${error.message}). Remove it, and set 'volume.adopt' to the volume's ID for the next start.`);
  }
}

// --- the copy

function column(name, query) {
  // Not read-only: the last reader of a WAL database without write access leaves its side files behind.
  const opened = new Database(path.join(next, name), { fileMustExist: true });
  try {
    return opened.prepare(query).pluck().all();
  } finally {
    opened.close();
  }
}

/** Repositories without an account: removes deleted ones; keeps those that are being created, with their keys. */
function leaveOut(copy, accounts) {
  for (const did of folders(next)) {
    if (accounts.has(did) || (copy.whole(did) && fs.existsSync(path.join(data, home(did), "key")))) continue;
    copy.drop(did);
  }
}

function mebibytes(bytes) {
  return `${Math.floor(bytes / MEBIBYTE)} MiB`;
}

main().catch((error) => {
  // The previous copy is unchanged.
  console.error(error instanceof Refused ? `REFUSED: ${error.message}` : `FAILED: ${error.stack}`);
  process.exitCode = 1;
  if (!alone.held) return; // another run's
  fs.rmSync(next, { recursive: true, force: true }); // frees space for the server on a full volume
  try {
    end("backup", [error.message.replace(/\s+/g, " ").slice(0, 500)]);
  } catch (full) {
    console.error(`could not record the failure: ${full.message}`);
  }
});
