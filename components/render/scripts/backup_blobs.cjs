// Copies the bucket's blobs beside the backups, encrypted: those that the finished snapshot names and that have no copy.
//
// Runs beside the task that sends the snapshot. A blob never changes, so a copy is never made twice. A copy that no
// snapshot needs any more is removed. Snapshots are kept for KEEP_DAYS on which there was a backup (send.sh), so it is removed
// when so many have passed since the newest snapshot stopped naming it. The outcome is in ALLOC/data/blobs.json, for run_status.cjs. It never fails itself:
// Nomad would end the task that sends.
"use strict";

const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const { LOSSES } = require("./account_check.cjs");
const { KEPT, Run, accountsIn, rowsOf } = require("./blob_copy.cjs");
const { backupStore, bucketStore } = require("./blob_stores.cjs");
const damagedCopies = require("./damaged_copies.cjs");
const { writeWhole } = require("./files.cjs");
const runStatus = require("./run_status.cjs");

const DAY = 24 * 3600 * 1000; // ms
const NAMED = 3; // blobs in one finding

const data = process.env.PDS_DATA_DIRECTORY;
const snapshot = path.join(data, ".snapshot", "current");
const unneeded = path.join(data, ".snapshot", "unneeded-blobs.json");
const outcome = path.join(process.env.NOMAD_ALLOC_DIR, "data", "blobs.json");

async function main() {
  os.setPriority(os.constants.priority.PRIORITY_BELOW_NORMAL);
  fs.rmSync(outcome, { force: true }); // of the attempt before
  const manifest = JSON.parse(fs.readFileSync(path.join(snapshot, "manifest.json"), "utf8"));
  refuseUnmounted();
  const backup = backupStore();
  const inBucket = manifest.blobs === "bucket";
  const damaged = new Set(damagedCopies.read(data));
  const run = new Run({ data: inBucket ? snapshot : path.join(snapshot, "none"), from: bucketStore(), to: backup, gently: true, damaged });
  await run.copy();
  // What the bucket no longer has stays: the account or the blob was deleted, or it is a finding.
  if (run.mended.size > 0) damagedCopies.write(data, damagedCopies.read(data).filter((name) => !run.mended.has(name)));
  if (inBucket) run.tell("copied");
  await expire(run, manifest, backup);
  return findingsOf(run);
}

/** A disk that is not mounted leaves an empty folder on the host's own disk, which the copies would fill (send.sh). */
function refuseUnmounted() {
  const [place, disk] = [process.env.RESTIC_REPOSITORY, process.env.BACKUP_VOLUME];
  if (!disk || fs.existsSync(path.join(place, "config"))) return;
  const known = path.join(data, ".run-status", "repository");
  if (!fs.existsSync(known) || !fs.readFileSync(known, "utf8").startsWith(`${place} on ${disk} `)) return;
  throw new Error(`${place} on ${disk} holds no backups any more: is the disk mounted?`);
}

/**
 * Losses of blobs that the server still names. A deleted record takes its blob with it. One that was there at the
 * beginning may have gone meanwhile, or only have moved, by a takedown.
 */
async function findingsOf({ losses, lost, gone, from }) {
  const live = new Map(accountsIn(data).map((did) => [did, named(did)]));
  const is = (did, cid) => !cid || !live.get(did) || live.get(did).has(cid);
  const found = {};
  const add = (did, text) => (found[did] ??= []).push(text);
  for (const [did, text, cid] of losses) if (is(did, cid)) add(did, `${text} in the bucket. The backups have no copy of it`);
  for (const [did, cid] of lost) {
    if (is(did, cid)) add(did, `blob ${cid} is missing in the bucket. The backups keep it: \`./pds blobs STACK --repair\``);
  }
  for (const [did, cid] of gone) {
    const there = is(did, cid) && (await from.index(did));
    if (there && !KEPT.some((place) => there.has(`${place}/${did}/${cid}`))) {
      add(did, `blob ${cid} disappeared from the bucket during the backup, which has no copy of it`);
    }
  }
  return Object.fromEntries(
    Object.entries(found).map(([did, texts]) => {
      const more = texts.length > NAMED ? ` (and ${texts.length - NAMED} more)` : "";
      const what = texts.slice(0, NAMED).join("; ") + more;
      return [did, { state: LOSSES, what, blobs: true, since: new Date().toISOString() }];
    })
  );
}

/** The blobs of an account in the live data; null if they cannot be read. */
function named(did) {
  try {
    return new Set(rowsOf(data, did).map(({ cid }) => cid));
  } catch {
    return null;
  }
}

async function expire(run, manifest, backup) {
  const now = Date.now();
  const before = load(now);
  const unread = new Set(run.losses.filter(([, , cid]) => !cid).map(([did]) => did));
  // An account without a whole copy in the snapshot may still be repaired by hand.
  const held = (did) => unread.has(did) || (manifest.accounts.includes(did) && manifest.blobs === "bucket" && !run.wanted.has(did));
  const [next, remove] = [{}, []];
  // No snapshot expires then (send.sh).
  const allStay = Object.values(manifest.findings).some(({ older }) => older);
  for (const name of run.target.keys()) {
    const did = name.split("/")[1];
    if (run.wanted.get(did)?.has(name) || held(did)) continue;
    const since = before.since[name] ?? now;
    if (now - since > (Number(process.env.KEEP_DAYS) + 1) * DAY && !allStay) remove.push(name);
    else next[name] = before.next[name] ?? now;
  }
  await backup.remove(remove);
  writeWhole(unneeded, JSON.stringify({ at: before.at, since: next }));
  if (remove.length > 0) console.log(`removed ${remove.length} copies that no backup needs`);
}

/**
 * Since when no snapshot names each copy (`since`). No snapshot expires while none is sent, so more than a day without one
 * counts as a day. `at` is the run from which these days count: the last one after which a snapshot was sent. `next` is what
 * this run records of the times.
 */
function load(now) {
  let known;
  try {
    known = JSON.parse(fs.readFileSync(unneeded, "utf8"));
  } catch {
    return { at: now, since: {}, next: {} }; // then they are kept longer
  }
  const pause = Math.max(0, now - known.at - DAY);
  const since = Object.fromEntries(Object.entries(known.since).map(([name, time]) => [name, Math.min(now, time + pause)]));
  const isSent = Date.parse(runStatus.load("backup").good) >= known.at;
  return isSent ? { at: now, since, next: since } : { at: known.at, since, next: known.since };
}

function end(problems, findings) {
  for (const problem of problems) console.error(`FAULT: ${problem}`);
  for (const [did, { state, what }] of Object.entries(findings)) console.error(`FINDING: ${did}: ${state}: ${what}`);
  fs.writeFileSync(outcome, JSON.stringify({ problems, findings }), { flush: true });
  process.exit(0);
}

main().then(
  (findings) => end([], findings),
  (error) => end([`the blobs in the bucket were not copied: ${error.message}`.replace(/\s+/g, " ").slice(0, 500)], {})
);
