// Preloaded into the server's process: everything that the server acknowledges is on the disk, so a power cut loses
// none of it.
//
// Upstream's server relies on better-sqlite3's build default: a database in WAL mode that is reopened has
// `synchronous = NORMAL`, which flushes at checkpoints only. Blobs and keys are written without a flush.
// This module gives every connection FULL, and flushes files and directories below the data directory before a call
// returns.
//
// Before the server listens, its own stores write a trial account and blob beside the data. If one of these files is
// not flushed, or an open database does not have FULL, the server refuses to start (`pds.durable_writes`). Other Node
// processes of the container (`node -e`) are not affected.
"use strict";

if (process.execArgv.some((argument) => /^(-e|-p|-pe|--eval|--print)\b/.test(argument))) return;

const crypto = require("node:crypto");
const fs = require("node:fs");
const net = require("node:net");
const os = require("node:os");
const path = require("node:path");
const { createRequire, syncBuiltinESMExports } = require("node:module");
const { pathToFileURL } = require("node:url");
const { isMainThread } = require("node:worker_threads");

const ASIDE = ".writing"; // below a root, on the same file system
const FULL = 2;

const { lstat, mkdir, open, rename, rm, writeFile } = fs.promises;
const roots = [
  process.env.PDS_DATA_DIRECTORY,
  process.env.PDS_ACTOR_STORE_DIRECTORY,
  process.env.PDS_BLOBSTORE_DISK_LOCATION,
  process.env.PDS_BLOBSTORE_DISK_TMP_LOCATION,
]
  .filter(Boolean)
  .map((name) => path.resolve(name));

// Everything flushed so far, for the proof; discarded after it.
let witness = isMainThread ? { files: new Set(), databases: new Set() } : null;

function real(name) {
  return fs.existsSync(name) ? fs.realpathSync(name) : name;
}

function refuse(problem) {
  console.error(
    `REFUSED: this version of the server cannot be made to flush what it acknowledges: ${problem}\n` +
      "  A power cut would lose posts, pictures or an account's key. Go back to the version before, or accept the loss " +
      "with 'durable_writes: false' in the section 'pds:pds' of the stack file."
  );
  process.exit(1);
}

// --- databases: FULL, once per connection

const full = new WeakSet();

const { dlopen } = process;
process.dlopen = function (module, ...rest) {
  const result = dlopen.call(this, module, ...rest);
  // better-sqlite3's addon, identified by its exports: any copy, loaded by any module.
  const native = module.exports?.Database?.prototype;
  if (typeof native?.prepare === "function" && typeof native.exec === "function") hook(native);
  return result;
};

function hook(native) {
  const { prepare, exec } = native;
  native.prepare = function (source, ...rest) {
    beforeStatement(this, source);
    return prepare.call(this, source, ...rest);
  };
  native.exec = function (source, ...rest) {
    beforeStatement(this, source);
    return exec.call(this, source, ...rest);
  };

  function beforeStatement(connection, source) {
    // Not before a pragma: this one reads the schema, so it can find the database busy, and the server does not retry
    // its pragmas. A later pragma of the server is overridden.
    if (/^\s*pragma\b/i.test(source)) {
      if (/\bsynchronous\s*[=(]/i.test(source)) full.delete(connection);
      return;
    }
    if (full.has(connection) || connection.memory) return;
    exec.call(connection, "PRAGMA synchronous = FULL");
    const answer = prepare.call(connection, "PRAGMA synchronous", connection, true).pluck().get();
    if (answer !== FULL) refuse(`its database library answers 'PRAGMA synchronous' with ${answer}, not ${FULL}.`);
    full.add(connection);
    witness?.databases.add(real(connection.name));
  }
}

// --- files and directories: the content, then the entry

const rootOf = (name) =>
  typeof name === "string" ? roots.find((root) => path.resolve(name).startsWith(root + path.sep)) : undefined;

async function flush(name) {
  const handle = await open(name, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

// A directory of a concurrent call may be used before its entry is flushed, so writers inside it wait for that flush.
const entries = new Set();

function whileFlushing(promise) {
  const done = () => entries.delete(promise);
  entries.add(promise);
  promise.then(done, done);
  return promise;
}

Object.assign(fs.promises, {
  async mkdir(name, options) {
    const made = await mkdir(name, options);
    if (!rootOf(name)) return made;
    const last = path.resolve(name);
    const first = options?.recursive ? made && path.resolve(made) : last;
    const created = [];
    if (first) for (let one = last; one.length >= first.length; one = path.dirname(one)) created.push(one);
    await whileFlushing(Promise.all(created.map((one) => flush(path.dirname(one)))));
    for (const one of created) witness?.files.add(one);
    return made;
  },

  async rename(from, to) {
    if (!rootOf(from) && !rootOf(to)) return rename(from, to);
    // A file that was written to a temporary name by any means. If it is missing, `rename` reports that.
    await flush(from).catch((error) => error.code === "ENOENT" || Promise.reject(error));
    await rename(from, to);
    const folders = new Set([to, from].map((name) => path.dirname(path.resolve(name))));
    await Promise.all([...folders].map(flush));
    witness?.files.add(path.resolve(to));
  },

  async writeFile(name, data, options) {
    const root = rootOf(name);
    if (!root) return writeFile(name, data, options);
    const target = path.resolve(name);
    const found = await lstat(target).catch(() => null);
    const how = typeof options === "string" ? { encoding: options } : { ...options };
    if ((how.flag ?? "w") === "w" && (!found || found.isFile())) {
      // To a temporary name: half a file under its final name would pass for a complete blob.
      await replaceFile(root, target, data, how, found ? found.mode & 0o777 : (how.mode ?? 0o666));
    } else {
      await writeFile(name, data, options);
      await flush(target);
    }
    await flush(path.dirname(target));
    await Promise.all(entries);
    witness?.files.add(target);
  },
});
syncBuiltinESMExports();

async function replaceFile(root, target, data, { encoding, signal }, mode) {
  await mkdir(path.join(root, ASIDE), { recursive: true, mode: 0o700 });
  const aside = path.join(root, ASIDE, crypto.randomUUID());
  try {
    const handle = await open(aside, "wx", mode);
    try {
      await handle.writeFile(data, { encoding, signal });
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(aside, target);
  } catch (error) {
    await rm(aside, { force: true });
    throw error;
  }
}

// --- the proof, before the server listens

if (isMainThread) {
  const { listen } = net.Server.prototype;
  let proof;
  net.Server.prototype.listen = function (...rest) {
    if (witness === null) return listen.apply(this, rest);
    proof ??= prove().catch((error) => refuse(error.message.split("\n")[0]));
    proof.then(() => listen.apply(this, rest));
    return this;
  };
}

async function prove() {
  for (const root of roots) await rm(path.join(root, ASIDE), { recursive: true, force: true }); // left by a power cut
  const place = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), "durable-")));
  roots.push(place);
  try {
    await useStores(place);
    inspect(place);
  } finally {
    roots.pop();
    await rm(place, { recursive: true, force: true });
  }
  const unknown = openDatabases().filter((name) => !witness.databases.has(name));
  if (unknown.length > 0) throw new Error(`it opened ${unknown.join(", ")} by other means than better-sqlite3.`);
  witness = null;
  console.log("what the server acknowledges is flushed to the disk");
}

/** Makes an account and a blob in `place` with the server's own stores, as its two version lines have them. */
async function useStores(place) {
  const app = createRequire(path.join(process.cwd(), "x.js"));
  const server = path.join(path.dirname(app.resolve("@atproto/pds/package.json")), "dist");
  const load = (name) => import(pathToFileURL(path.join(server, name)));
  const did = "did:plc:trial";

  const { ActorStore } = await load("actor-store/actor-store.js");
  const accounts = new ActorStore({ directory: path.join(place, "actors"), cacheSize: 1 }, {});
  await accounts.create(did, { export: async () => crypto.randomBytes(32) });
  await accounts.storePlcOp(did, Buffer.from("trial"));
  await accounts.reserveKeypair(did);

  if (!process.env.PDS_BLOBSTORE_DISK_LOCATION) return; // object storage
  const { DiskBlobStore } = await load("disk-blobstore.js");
  const blobs = DiskBlobStore.creator(path.join(place, "blocks"), path.join(place, "temp"))(did);
  const cid = (name) => ({ toString: () => name });
  await blobs.putTemp(Buffer.from("trial"));
  await blobs.makePermanent(await blobs.putTemp(Buffer.from("trial")), cid("moved"));
  await blobs.putPermanent(cid("put"), Buffer.from("trial"));
  await blobs.quarantine(cid("put"));
}

/** Whether everything in `place` was flushed, and the stores made the expected files. */
function inspect(place) {
  const found = [];
  for (const name of fs.readdirSync(place, { recursive: true }).sort()) {
    if (name.startsWith(ASIDE)) continue;
    const whole = path.join(place, name);
    const database = witness.databases.has(whole.replace(/-(wal|shm|journal)$/, ""));
    if (!database && !witness.files.has(whole)) {
      throw new Error(`its stores wrote ${name} by means that are not known here.`);
    }
    if (fs.statSync(whole).isFile()) found.push(`${name.split(path.sep)[0]} ${database ? "database" : "file"}`);
  }
  const blobs = process.env.PDS_BLOBSTORE_DISK_LOCATION ? ["blocks file", "temp file"] : [];
  const lacking = ["actors database", "actors file", ...blobs].filter((kind) => !found.includes(kind));
  if (lacking.length > 0) throw new Error(`its stores left nothing to look at (${lacking.join(", ")}).`);
}

/** The databases below the data directory that this process has open, if the system reports them. */
function openDatabases() {
  const table = "/proc/self/fd";
  const names = fs.existsSync(table) ? fs.readdirSync(table) : [];
  // By name only: to open and close a database here would drop the locks that SQLite holds on it.
  const opened = names.map((number) => target(path.join(table, number)).replace(/-wal$/, ""));
  const ours = (name) => roots.some((root) => name.startsWith(real(root) + path.sep));
  return [...new Set(opened.filter((name) => ours(name) && /\.(sqlite3?|db)$/.test(name)))];
}

function target(link) {
  try {
    return fs.readlinkSync(link);
  } catch {
    return ""; // closed meanwhile
  }
}
