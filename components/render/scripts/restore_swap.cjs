// Replaces the old data with the restored data, and decides when the old data may be removed.
//
// The swap consists of renames. The remaining steps are written down first, and repeating a step is harmless: after a
// kill at any point, the next run finishes it. While the plan exists, no server starts (volume_check.cjs) and no snapshot is
// made.
"use strict";

const { spawnSync } = require("node:child_process");
const fs = require("node:fs");
const path = require("node:path");
const departures = require("./account_events.cjs");
const blobPlace = require("./blob_place.cjs");
const { documents } = require("./did_documents.cjs");
const { folders, sync, writeWhole } = require("./files.cjs");
const { home, publicKey } = require("./repository.cjs");
const { IDENTITY_FILE, walk } = require("./verify.cjs");

const STAYS = [".restore", ".snapshot", ".run-status", blobPlace.FILE, departures.LIST, "lost+found"];

/** The paths of a restore below `data`. */
function places(data) {
  const place = path.join(data, ".restore");
  const below = (name) => path.join(place, name);
  return { place, fetched: below("fetched"), next: below("new"), only: below("only"), older: below("older"), plan: below("swap.json") };
}

/** The folder for the old data of a restore that begins now. */
function aside(data) {
  return path.join(data, ".restore", `old-${new Date().toISOString().replace(/[:.]/g, "")}`);
}

function readPlan(data) {
  const { plan } = places(data);
  return fs.existsSync(plan) ? JSON.parse(fs.readFileSync(plan, "utf8")) : null;
}

function writePlan(data, todo) {
  writeWhole(places(data).plan, JSON.stringify(todo));
}

function forgetPlan(data) {
  const { place, plan } = places(data);
  fs.rmSync(plan);
  sync(place);
}

/** Moves the old data out and the new data in, for a whole server. */
function swapAll(data, todo) {
  const { next } = places(data);
  if (todo.step === "out") {
    fs.mkdirSync(todo.old, { recursive: true });
    move(data, todo.old, (name) => !STAYS.includes(name));
    if (fs.readdirSync(todo.old).length === 0) fs.rmdirSync(todo.old); // a new volume
    writePlan(data, { ...todo, step: "in" });
  }
  if (fs.existsSync(next)) {
    move(next, data, (name) => name !== IDENTITY_FILE);
    move(next, data, () => true); // the identity file last: with it the server may start
    fs.rmdirSync(next);
  }
  forgetPlan(data);
}

/** Swaps the data of one account. Keeps the plan for the revision and events that follow. */
function swapOne(data, todo) {
  const { only } = places(data);
  const folder = home(todo.did);
  if (todo.step === "out") {
    fs.mkdirSync(path.dirname(path.join(todo.old, folder)), { recursive: true });
    if (fs.existsSync(path.join(data, folder))) fs.renameSync(path.join(data, folder), path.join(todo.old, folder));
    writePlan(data, { ...todo, step: "in" });
  }
  if (fs.existsSync(path.join(only, folder))) {
    fs.mkdirSync(path.dirname(path.join(data, folder)), { recursive: true });
    fs.renameSync(path.join(only, folder), path.join(data, folder));
  }
  for (const name of walk(path.join(only, "blocks"))) {
    const target = path.join(data, "blocks", name);
    fs.mkdirSync(path.dirname(target), { recursive: true });
    fs.renameSync(path.join(only, "blocks", name), target);
  }
  toDisk(data);
  writePlan(data, { ...todo, step: "events" });
}

/** The old data of one account in its place again, if it had any; done twice it is done once. */
function swapBack(data, todo) {
  const folder = home(todo.did);
  const [there, made, kept] = [data, places(data).only, todo.old].map((place) => path.join(place, folder));
  if (fs.existsSync(there) && (fs.existsSync(kept) || todo.back)) {
    fs.rmSync(made, { recursive: true, force: true });
    fs.mkdirSync(path.dirname(made), { recursive: true });
    fs.renameSync(there, made);
  }
  if (fs.existsSync(kept)) fs.renameSync(kept, there);
}

function move(from, to, which) {
  for (const name of fs.readdirSync(from).filter(which)) fs.renameSync(path.join(from, name), path.join(to, name));
  for (const folder of [from, to]) sync(folder);
}

/** Flushes everything below `folder` to the disk: by one `sync`, or file by file if the image has no such program. */
function toDisk(folder) {
  if (spawnSync("sync").status === 0) return;
  const names = walk(folder);
  for (const name of [...names, ...new Set(names.map(path.dirname)), "."]) sync(path.join(folder, name));
}

// --- the old data

/**
 * Removes the old data of earlier restores. Returns their names. Keeps old data with a signing key that exists nowhere
 * else and that its account's identity still names; then `refused` has a line for each such account.
 */
async function forget(data, { plc, deleted }) {
  const { place } = places(data);
  const olds = fs.readdirSync(place).filter((name) => name.startsWith("old-"));
  const list = departures.lines(path.join(data, departures.LIST));
  const gone = new Set([...deleted, ...[...departures.since(list, "")].filter(([, status]) => status === "deleted").map(([did]) => did)]);
  const last = [...onlyThere(data, place, olds, gone)]; // an account can have several keys: one of them may be damaged
  for (const old of olds) for (const [did, key] of keysIn(path.join(place, old))) if (!isIn(data, did, key) && !gone.has(did)) last.push({ did, old, key });
  const refused = [];
  const asked = await documents([...new Set(last.map(({ did }) => did))].filter((did) => did.startsWith("did:")), plc);
  for (const { did, old, key } of last) {
    const { error, gone: ended, key: named, server } = asked.get(did) ?? { error: "it is a reserved key" };
    if (ended) continue;
    if (!key) {
      const here = error || server === process.env.PDS_HOSTNAME;
      if (here) refused.push(`${did}: its repository is in .restore/${old} alone, though it may be damaged`);
      continue;
    }
    if (!error && named !== didKey(key)) continue; // its identity needs another key
    refused.push(`${did}: its signing key is in .restore/${old} alone${error ? ` (${error})` : ""}`);
  }
  if (refused.length === 0) for (const old of olds) fs.rmSync(path.join(place, old), { recursive: true });
  return { olds, refused };
}

/** Accounts whose repository is in old data and not in the data that are served. */
function* onlyThere(data, place, olds, gone) {
  const has = (folder, did) => fs.statSync(path.join(folder, home(did), "store.sqlite"), { throwIfNoEntry: false })?.size > 0;
  for (const old of olds) {
    for (const did of folders(path.join(place, old))) {
      if (!gone.has(did) && has(path.join(place, old), did) && !has(data, did)) yield { did, old, key: null };
    }
  }
}

function* keysIn(folder) {
  for (const did of folders(folder)) {
    const key = path.join(folder, home(did), "key");
    if (fs.existsSync(key)) yield [did, fs.readFileSync(key)];
  }
  const reserved = path.join(folder, "actors", "reserved_keys");
  for (const name of walk(reserved)) yield [`reserved_keys/${name}`, fs.readFileSync(path.join(reserved, name))];
}

function isIn(data, did, key) {
  const name = did.startsWith("did:") ? path.join(home(did), "key") : path.join("actors", did);
  const file = path.join(data, name);
  return fs.existsSync(file) && fs.readFileSync(file).equals(key);
}

function didKey(key) {
  try {
    return publicKey(key).didKey;
  } catch {
    return null; // no key, so no identity names it
  }
}

module.exports = { aside, forget, forgetPlan, places, readPlan, swapAll, swapBack, swapOne, toDisk, writePlan };
