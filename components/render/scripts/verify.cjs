// Checks on the host whether a snapshot can be restored, account by account.
//
// Same checks and messages as cli/snapshot/verify.py on the operator's machine, which has libraries beyond Node's and SQLite.
// With this program, members' data do not leave the host. A fault of one account affects only that account
// (account_check.cjs). The whole snapshot is refused for three reasons only: its manifest or its account database
// cannot be read, or it belongs to another server.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { NOT, WHOLE, checkAll, damageOf, read, sentences } = require("./account_check.cjs");
const { home, sha256 } = require("./repository.cjs");

const MANIFEST = "manifest.json";
const IDENTITY_FILE = ".pds-identity.json";
const FIELDS = ["hostname", "package_version", "started", "counts", "blobs", "accounts", "repositories", "files"];

/**
 * Checks the snapshot in `folder`, which should belong to `whose` (`hostname`, `rotation_public_key`; unknown ones are
 * omitted). Resolves to `manifest`; `refusals`, why nothing of it can be restored; `verdicts`, a map from DID to the
 * result of `checkAccount`; `keys`, a map from DID to did:key; `sequencer`, whether the events are usable; and `notes`.
 * If the folder has the files of `only` one account, the rest is not checked. `onAccounts` gets the DIDs before the
 * check, so that other queries about them can run meanwhile.
 */
async function verify(folder, whose, only = null, onAccounts = () => {}) {
  const found = { manifest: null, refusals: [], verdicts: new Map(), keys: new Map(), sequencer: false, notes: [] };
  const refuse = (text) => ({ ...found, refusals: [text] });
  let manifest;
  try {
    manifest = JSON.parse(fs.readFileSync(path.join(folder, MANIFEST), "utf8"));
  } catch (error) {
    return refuse(`${MANIFEST} cannot be read: ${error.message}`);
  }
  if (manifest?.format !== 1 || !FIELDS.every((field) => field in manifest)) {
    return refuse(`${MANIFEST} is of an unknown format`);
  }
  manifest.findings ??= {}; // backups made before there were any
  found.refusals.push(...identity(folder, manifest, whose, found.notes));
  sweep(folder, manifest, found.notes);
  const damage = databaseDamage(folder, manifest, "account.sqlite", found.notes);
  if (damage) found.refusals.push(damage);
  if (found.refusals.length > 0) return { ...found, manifest };
  const events = only ? "not asked" : databaseDamage(folder, manifest, "sequencer.sqlite", found.notes);
  if (events && !only) found.notes.push(`${events}; events begin anew`);

  const accounts = read(path.join(folder, "account.sqlite"), (db) => db.prepare("select did from actor").pluck().all());
  if (accounts.sort().join() !== [...manifest.accounts].sort().join()) {
    found.notes.push("account.sqlite has other accounts than the manifest");
  }
  const all = [...new Set([...accounts, ...Object.keys(manifest.repositories)])].sort();
  const dids = only ? all.filter((did) => did === only) : all;
  onAccounts(dids);
  const verdicts = await checkAll(folder, dids, { manifest });
  for (const did of dids) if (verdicts.get(did).key) found.keys.set(did, verdicts.get(did).key);
  return { ...found, manifest: { ...manifest, accounts }, verdicts, sequencer: !events };
}

function* identity(folder, manifest, whose, notes) {
  for (const [name, wanted] of Object.entries(whose)) {
    if (wanted && manifest[name] !== wanted) {
      yield `this is the snapshot of another PDS: its ${name} is ${manifest[name]}, not ${wanted}`;
    }
  }
  let identity;
  try {
    identity = JSON.parse(fs.readFileSync(path.join(folder, IDENTITY_FILE), "utf8"));
  } catch (error) {
    notes.push(`${IDENTITY_FILE} cannot be read: ${error.code ?? error.message}`);
    return;
  }
  if (["hostname", "rotation_public_key"].some((name) => identity[name] !== manifest[name])) {
    yield `${IDENTITY_FILE} and ${MANIFEST} name two PDSes`;
  }
}

/**
 * Removes what is not part of the manifest. SQLite would read a log beside a database, so a log with content is put
 * aside. A killed reader leaves an empty log, and its index.
 */
function sweep(folder, manifest, notes) {
  const known = (name) => name === MANIFEST || name.split(path.sep)[0] === "blocks" || name in manifest.files;
  for (const name of walk(folder).filter((name) => !known(name) && !name.endsWith(".left"))) {
    const file = path.join(folder, name);
    const [, base, suffix] = /^(.*)(-wal|-shm)$/.exec(name) ?? [];
    if (!(base in manifest.files)) notes.push(`${name} is not in the manifest`);
    else if (suffix === "-shm" || fs.statSync(file).size === 0) fs.rmSync(file);
    else {
      fs.renameSync(file, `${file}.left`);
      notes.push(`${name} is not in the manifest`);
    }
  }
}

/** The damage that makes a database of the whole server unusable; null if there is none. */
function databaseDamage(folder, manifest, name, notes) {
  const file = path.join(folder, name);
  if (!fs.existsSync(file)) return `${name} is missing`;
  let damage;
  try {
    damage = read(file, (db) => damageOf(db, "integrity_check"));
  } catch (error) {
    damage = error.message;
  }
  if (damage) return `${name} is damaged: ${damage}`;
  const written = manifest.files[name];
  if (fs.statSync(file).size !== written?.size || sha256(file) !== written.sha256) {
    notes.push(`${name} is not what was written: its SHA-256 differs from the manifest's`);
  }
  return null;
}

/** The faults, one per line: `DID: state: sentence`. */
function* lines(verdicts) {
  for (const [did, verdict] of verdicts) for (const text of sentences(verdict)) yield `${did}: ${verdict.state}: ${text}`;
}

/**
 * Faults of a snapshot that are not faults of a server that serves it: `findings`, from DID to state and `what`; `left`,
 * DIDs that cannot be served; `lost`, from DID to its missing blobs; `damaged`, DIDs whose records have losses.
 */
function assessed(verdicts) {
  const found = { findings: {}, left: [], lost: {}, damaged: [] };
  for (const [did, verdict] of verdicts) {
    if (verdict.state === WHOLE) continue;
    found.findings[did] = { state: verdict.state, what: sentences(verdict).slice(0, 3).join("; ") };
    if (verdict.state === NOT) found.left.push(did);
    if (verdict.blobs.length > 0) found.lost[did] = verdict.blobs;
    if (verdict.records.length > 0 || verdict.rebuild || verdict.changed.length > 0) found.damaged.push(did);
  }
  return found;
}

/**
 * Compares the keys of a verified snapshot with the DID documents. `active` are the accounts in use. Returns `unread`,
 * a map from DID to why its document cannot be read; `moved`, from DID to why it has left this server; `swapped`, from
 * DID to the owner of the key that it has; and `foreign`, of documents that name this server and a key that it lacks.
 */
function held(keys, documents, active, hostname) {
  const owners = new Map([...keys].map(([did, key]) => [key, did]));
  const found = { unread: new Map(), moved: new Map(), swapped: new Map(), foreign: new Map() };
  for (const did of active) {
    const { error, gone, server, key } = documents.get(did);
    const owner = key && owners.get(key);
    if (error) found.unread.set(did, `its DID document cannot be read: ${error}`);
    else if (gone) found.moved.set(did, `its identity does not exist any more: ${gone}`);
    else if (server !== hostname) found.moved.set(did, `its DID document names the server ${server}`);
    else if (!key || key === keys.get(did)) continue;
    else if (owner) found.swapped.set(did, `its DID document names the key ${key}, which is the key that ${owner} has here`);
    else if (keys.has(did)) {
      found.foreign.set(did, `its DID document names this server and the key ${key}, and it signs with ${keys.get(did)} here`);
    }
  }
  return found;
}

/** Every file below `folder`, as relative paths, in order. */
function walk(folder, below = "") {
  if (!fs.existsSync(path.join(folder, below))) return [];
  return fs
    .readdirSync(path.join(folder, below), { withFileTypes: true })
    .sort((one, other) => (one.name < other.name ? -1 : 1))
    .flatMap((entry) => {
      const name = path.join(below, entry.name);
      return entry.isDirectory() ? walk(folder, name) : [name];
    });
}

module.exports = { MANIFEST, IDENTITY_FILE, assessed, held, home, lines, verify, walk };
