// Whether a snapshot can be restored: everything in it is opened, hashed and held against everything else, on the host.
//
// The same questions, and words, as tools/verify.py asks on the owner's machine, where libraries beyond Node's and
// SQLite are at hand. Here members' data do not leave the host to be looked at. Repositories are read by
// repository.cjs; of the server's packages only the SQLite module is used. Nothing that was written
// into the snapshot is changed.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { createRequire } = require("node:module");
const { home, isDigestOf, problems, publicKey, sha256 } = require("./repository.cjs");

const server = createRequire(path.join(process.cwd(), "x.js")).resolve("@atproto/pds/package.json");
const Database = createRequire(server)("better-sqlite3");

const MANIFEST = "manifest.json";
const MARK = ".pds-identity.json";
const FIELDS = ["hostname", "package_version", "started", "counts", "blobs", "accounts", "repositories", "files"];

/**
 * Check the snapshot in `folder`, which should be that of `whose` (`hostname`, `rotation_public_key`; what is not known
 * is left out). Returns `manifest`, `problems` (none: it can be restored), and `keys`: DID to did:key.
 */
function verify(folder, whose) {
  let manifest;
  try {
    manifest = JSON.parse(fs.readFileSync(path.join(folder, MANIFEST), "utf8"));
  } catch (error) {
    return { manifest: null, problems: [`${MANIFEST} cannot be read: ${error.message}`], keys: new Map() };
  }
  if (manifest?.format !== 1 || !FIELDS.every((field) => field in manifest)) {
    return { manifest: null, problems: [`${MANIFEST} is of an unknown format`], keys: new Map() };
  }
  const found = { folder, manifest, keys: new Map(), broken: new Set() };
  const checks = [identity(found, whose), files(found), databases(found), accounts(found), blobs(found)];
  const wrong = new Set(checks.flatMap((check) => [...check]));
  return { manifest, problems: [...wrong], keys: found.keys };
}

function* identity({ folder, manifest }, whose) {
  for (const [name, wanted] of Object.entries(whose)) {
    if (wanted && manifest[name] !== wanted) {
      yield `this is the snapshot of another PDS: its ${name} is ${manifest[name]}, not ${wanted}`;
    }
  }
  try {
    const mark = JSON.parse(fs.readFileSync(path.join(folder, MARK), "utf8"));
    if (["hostname", "rotation_public_key"].some((name) => mark[name] !== manifest[name])) {
      yield `${MARK} and ${MANIFEST} name two PDSes`;
    }
  } catch (error) {
    yield `${MARK} cannot be read: ${error.message}`;
  }
}

/** A reader that was killed leaves an empty log beside a database, and its index: nothing that anybody wrote. */
function sweep({ folder, manifest }) {
  for (const name of Object.keys(manifest.files)) {
    const [log, index] = ["-wal", "-shm"].map((suffix) => path.join(folder, name + suffix));
    if (fs.existsSync(log) && fs.statSync(log).size > 0) continue;
    for (const left of [log, index]) fs.rmSync(left, { force: true });
  }
}

function* files({ folder, manifest }) {
  sweep({ folder, manifest });
  const found = new Set(walk(folder).filter((name) => name.split(path.sep)[0] !== "blocks" && name !== MANIFEST));
  for (const name of found) if (!(name in manifest.files)) yield `${name} is not in the manifest`;
  for (const [name, known] of Object.entries(manifest.files).sort()) {
    if (!found.has(name)) {
      yield `${name} is missing`;
      continue;
    }
    const { size } = fs.statSync(path.join(folder, name));
    if (size !== known.size) yield `${name} has ${size} bytes, the manifest says ${known.size}`;
    else if (sha256(path.join(folder, name)) !== known.sha256) {
      yield `${name} is not what was written: its SHA-256 differs from the manifest's`;
    }
  }
}

function* databases(found) {
  const stores = Object.keys(found.manifest.repositories).map((did) => path.join(home(did), "store.sqlite"));
  for (const name of ["account.sqlite", "sequencer.sqlite", ...stores]) {
    if (!fs.existsSync(path.join(found.folder, name))) continue;
    let verdict;
    try {
      verdict = read(path.join(found.folder, name), (db) => db.pragma("integrity_check(1)", { simple: true }));
    } catch (error) {
      verdict = error.message;
    }
    if (verdict === "ok") continue;
    found.broken.add(name);
    yield `${name} is damaged: ${verdict}`;
  }
}

function* accounts(found) {
  const { folder, manifest } = found;
  let known;
  try {
    known = read(path.join(folder, "account.sqlite"), (db) => db.prepare("select did from actor").pluck().all());
  } catch (error) {
    yield `account.sqlite cannot be read: ${error.message}`;
    return;
  }
  if (known.sort().join() !== [...manifest.accounts].sort().join()) {
    yield "account.sqlite has other accounts than the manifest";
  }
  for (const did of [...new Set([...known, ...Object.keys(manifest.repositories)])].sort()) {
    const [store, key] = ["store.sqlite", "key"].map((name) => path.join(folder, home(did), name));
    if (!fs.existsSync(store)) yield `${did} has no repository`;
    if (!fs.existsSync(key)) {
      yield `${did} has no signing key`;
      continue;
    }
    let pair;
    try {
      pair = publicKey(fs.readFileSync(key));
    } catch {
      yield `${did}: its signing key is no secp256k1 key`;
      continue;
    }
    found.keys.set(did, pair.didKey);
    if (fs.existsSync(store)) yield* repository(found, did, store, pair.verifier);
  }
}

function* repository({ folder, manifest, broken }, did, store, verifier) {
  try {
    const { root, wrong } = stored(store, did, verifier);
    for (const problem of wrong) yield `${did}: ${problem}`;
    const known = manifest.repositories[did];
    if (!known) yield `${did}: its repository is not in the manifest`;
    else if (known.cid !== root.cid || known.rev !== root.rev) {
      yield `${did}: its repository is at ${root.rev}, the manifest says ${known.rev}`;
    }
  } catch (error) {
    if (!broken.has(path.relative(folder, store))) yield `${did}: its repository cannot be read: ${error.message}`;
  }
}

/** The root that a member's database names, and what is wrong with the repository below it. */
function stored(store, did, verifier) {
  return read(store, (db) => {
    const root = db.prepare("select cid, rev from repo_root").get();
    if (!root) throw new Error("no repository has been made in it");
    const blocks = new Blocks(db);
    const whole = { blocks, root: root.cid, rev: root.rev, did, verifier, index: blocks.records() };
    return { root, wrong: [...problems(whole)] };
  });
}

/** A database's blocks as a map that is not in memory: a repository can be larger than the host. */
class Blocks {
  constructor(db) {
    this.all = db.prepare("select cid, content from repo_block").raw();
    this.one = db.prepare("select content from repo_block where cid = ?").pluck();
    // By the index of URIs, whose order is that of the tree's keys and needs no sorting; that of two columns is another:
    // "app.bsky.feed-x" is before "app.bsky.feed/".
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

  /** What the server's own table lists, in the order of the URIs. */
  *records() {
    yield* this.listed.iterate();
  }
}

/** What is wrong with one repository below `folder`, whatever a manifest says. */
function repositoryProblems(folder, did) {
  const { verifier } = publicKey(fs.readFileSync(path.join(folder, home(did), "key")));
  return stored(path.join(folder, home(did), "store.sqlite"), did, verifier).wrong;
}

function* blobs({ folder, manifest }) {
  if (manifest.blobs !== "disk") return;
  const there = new Set();
  const blocks = path.join(folder, "blocks");
  for (const name of walk(blocks)) {
    const [cid, did] = name.split(path.sep).reverse();
    if (isDigestOf(cid, Buffer.from(sha256(path.join(blocks, name)), "hex"))) there.add(`${did} ${cid}`);
    else yield `${path.join("blocks", name)} does not hash to its name`;
  }
  for (const did of Object.keys(manifest.repositories)) {
    try {
      const wanted = read(path.join(folder, home(did), "store.sqlite"), (db) =>
        db.prepare('select cid from blob where "tempKey" is null order by cid').pluck().all()
      );
      for (const cid of wanted) if (!there.has(`${did} ${cid}`)) yield `${did}: blob ${cid} is missing`;
    } catch {
      // Said before.
    }
  }
}

/**
 * Hold the keys of a verified snapshot against the DID documents. `active` are the accounts in use. Returns `problems`
 * that make the snapshot no good, `moved`: DID to why it is no longer this server's, and `notes`.
 */
function held(keys, documents, active, hostname) {
  const wrong = [];
  const notes = [];
  const moved = new Map();
  for (const did of active) {
    const document = documents.get(did);
    const owner = [...keys].find(([other, key]) => other !== did && key === document.key)?.[0];
    if (document.error) {
      // One domain that is away says nothing of the others; the directory that is away says nothing of anybody.
      const text = `${did}: its DID document could not be read: ${document.error}`;
      (did.startsWith("did:web:") ? notes : wrong).push(text);
    } else if (document.gone) moved.set(did, `its identity is no more: ${document.gone}`);
    else if (document.server !== hostname) moved.set(did, `its DID document names the server ${document.server}`);
    else if (owner) {
      wrong.push(`${did}: its DID document names the key ${document.key}, which is the key that ${owner} has here`);
    } else if (document.key && document.key !== keys.get(did)) {
      moved.set(did, `its DID document names the key ${document.key}, which is not in this snapshot`);
    }
  }
  return { problems: wrong, moved, notes };
}

// --- files

/** Where a repository lies below the data directory. */
/** Ask a database without changing it; one that may not be written to would leave side files behind. */
function read(file, ask) {
  const db = new Database(file, { fileMustExist: true });
  try {
    db.pragma("query_only = 1");
    return ask(db);
  } finally {
    db.close();
  }
}

/** Every file below `folder`, as paths from there, in order. */
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

module.exports = { Blocks, Database, MANIFEST, MARK, held, home, read, repositoryProblems, verify, walk };
