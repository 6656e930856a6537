// Makes a PDS's data directory ready to open from a snapshot. The server must not run; it opens what is left here.
//
// Runs in the server's own image. Everything is done beside the old data, in DATA/.restore/new: copy, the server's own
// recovery, what happened since the snapshot, what relays need. The swap comes last and is renames alone. Killed before
// it, the old data are as they were and the next run begins anew; killed in it, the next run finishes it first.
// The old data stay in DATA/.restore/old-… until their owner says otherwise.
//
// What relays need (docs/decisions/0014): events with numbers above any that they saw, a first event at once, since the
// server takes its newest row for the newest number, and for every repository a revision above any that they saw.
"use strict";

const crypto = require("node:crypto");
const fs = require("node:fs");
const path = require("node:path");
const { createRequire } = require("node:module");
const departures = require("./departures.cjs");
const { documents } = require("./documents.cjs");
const { Database, MANIFEST, MARK, held, home, read, repositoryProblems, verify, walk } = require("./verify.cjs");

const MARGIN = 10000; // event numbers; who was not asked is not further ahead than this
const MEBIBYTE = 1024 * 1024;
const PATIENCE = 10000; // ms for a relay's answer
const RACE = 60000; // ms; the server writes a repository first and its event a moment later
const WAIT = 15 * 60 * 1000; // ms; a snapshot that is being made comes to its end

class Refused extends Error {}

const hostname = process.env.PDS_HOSTNAME;
const data = process.env.PDS_DATA_DIRECTORY;
const plc = process.env.PDS_DID_PLC_URL;
const relays = (process.env.PDS_CRAWLERS ?? "").split(",").filter(Boolean);
const place = path.join(data, ".restore");
const [fetched, next, plan] = ["fetched", "new", "swap.json"].map((name) => path.join(place, name));
const list = path.join(data, departures.LIST);
const STAYS = [".restore", ".snapshot", ".stamps", departures.LIST, "lost+found"];

// What the owner asked for (Nomad's meta of a dispatched job).
const asked = (name) => process.env[`NOMAD_META_${name}`] ?? "";
const dids = (name) => asked(name).split(" ").filter(Boolean);

async function main() {
  if (asked("show")) return; // the list was the task's before this one
  process.umask(0o077);
  const began = Date.now();
  fs.mkdirSync(place, { recursive: true, mode: 0o700 });
  fs.mkdirSync(path.join(data, ".snapshot"), { recursive: true, mode: 0o700 });
  alone();
  if (fs.existsSync(plan)) {
    swap();
    say("a restore that was cut short", "is finished");
  }
  if (asked("forget")) return forget();
  notServing();

  const source = asked("from") === "volume" ? path.join(data, ".snapshot", "current") : fetched;
  const { manifest, keys } = verified(source);
  say("snapshot", `of ${manifest.started}, ${manifest.counts.accounts} accounts, whole`);
  room(manifest);
  const before = whatWas();
  const known = departures.merged(before.list, departures.lines(path.join(place, "list", departures.LIST)));
  const world = await ask(manifest, keys, before);
  say("identities", `${keys.size} asked, ${world.moved.size} are another server's`);
  say("events", `go on after number ${world.sequence}`);

  fs.rmSync(next, { recursive: true, force: true });
  stage(source, manifest);
  const done = await onTheServer((server) => work(server, manifest, world, departures.since(known, manifest.started)));
  clean(keys);
  if (known.length > 0) departures.write(list, known);
  swap({ old: path.join(place, `old-${new Date().toISOString().replace(/[:.]/g, "")}`) });
  fs.rmSync(fetched, { recursive: true, force: true });

  for (const line of [...world.notes, ...done.notes]) console.log(`note: ${line}`);
  for (const [did, why] of done.left) console.log(`LEFT OUT: ${did}: ${why}`);
  const gone = manifest.accounts.length - done.active;
  say("ready", `${done.active} accounts in use, ${gone} not; ${((Date.now() - began) / 1000).toFixed(1)} s`);
}

function say(what, text) {
  console.log(`${what.padEnd(28)} ${text}`);
}

// --- before anything is touched

function alone() {
  // The lock of the snapshot program: no copy is made of data that change places.
  try {
    const lock = new Database(path.join(data, ".snapshot", "lock.sqlite"), { timeout: WAIT });
    lock.exec("begin exclusive");
    alone.held = lock;
  } catch (error) {
    if (error.code === "SQLITE_BUSY") throw new Refused("a snapshot, or another restore, is under way.");
    throw error;
  }
}

/** The server has its account database open as long as it runs, and then nobody else can have it alone. */
function notServing() {
  const file = path.join(data, "account.sqlite");
  if (!fs.existsSync(file)) return;
  try {
    const db = new Database(file, { fileMustExist: true, timeout: 2000 });
    db.pragma("locking_mode = exclusive");
    db.exec("begin immediate");
    db.exec("rollback");
    notServing.held = db; // and so no server starts on it meanwhile
  } catch (error) {
    if (error.code === "SQLITE_BUSY") throw new Refused("the server is running on these data. Pause it first.");
    console.log(`note: the old account.sqlite cannot be read (${error.message}); it is kept as it is`);
  }
}

function verified(source) {
  const mark = path.join(data, MARK);
  const old = fs.existsSync(mark) ? JSON.parse(fs.readFileSync(mark, "utf8")).rotation_public_key : null;
  const found = verify(source, { hostname, rotation_public_key: asked("rotation_public_key") || old });
  if (found.problems.length > 0) {
    throw new Refused(`this snapshot cannot be restored. Nothing was changed.\n  ${found.problems.join("\n  ")}`);
  }
  if (Date.parse(found.manifest.started) > Date.now() + RACE) {
    throw new Refused(`the snapshot is of ${found.manifest.started}, which is to come: this host's clock is behind.`);
  }
  return found;
}

function room(manifest) {
  const needed = Object.values(manifest.files).reduce((sum, { size }) => sum + size, 0);
  const disk = fs.statfsSync(place);
  const free = disk.bavail * disk.bsize;
  const reserve = Number(process.env.PDS_SNAPSHOT_RESERVE_MIB ?? 256) * MEBIBYTE;
  if (free - needed < reserve) {
    const [has, takes] = [free, needed].map((bytes) => `${Math.floor(bytes / MEBIBYTE)} MiB`);
    throw new Refused(`the volume has ${has} free, the databases take ${takes} beside the old ones. Make it larger.`);
  }
}

/** What the old data still tell, as far as they can be read: who left, and how far events and repositories were. */
function whatWas() {
  const before = { list: departures.lines(list), sequence: 0, revisions: new Map() };
  const sequencer = path.join(data, "sequencer.sqlite");
  try {
    // The account database is open already, and nobody else can open it.
    const revisions = notServing.held?.prepare("select did, rev from repo_root").raw().all();
    before.revisions = new Map(revisions ?? []);
    if (!fs.existsSync(sequencer)) return before;
    const db = new Database(sequencer, { readonly: true, fileMustExist: true });
    before.sequence = db.prepare("select seq from sqlite_sequence where name = 'repo_seq'").pluck().get() ?? 0;
    before.list = departures.merged(before.list, departures.events(db, before.list.at(-1)?.seq ?? 0));
    db.close();
  } catch (error) {
    console.log(`note: the old data do not tell everything: ${error.message}`);
  }
  return before;
}

async function ask(manifest, keys, before) {
  const found = await documents(manifest.accounts, plc);
  const { problems, moved, notes } = held(keys, found, manifest.accounts, hostname);
  if (problems.length > 0) {
    throw new Refused(`identities do not fit. Nothing was changed.\n  ${problems.join("\n  ")}`);
  }
  const seen = await Promise.all(
    relays.map(async (relay) => [relay, await answer(relay, "getHostStatus", { hostname })])
  );
  const told = seen.filter(([, status]) => status !== null);
  for (const [relay, status] of seen) if (status === null) notes.push(`${relay} did not say how far it is`);
  const given = Number(asked("sequence") || 0);
  if (relays.length > 0 && told.length === 0 && !given && !before.sequence) {
    throw new Refused(
      "no relay says how far it has followed this server's events, and the old ones are not here. Nothing was " +
        "changed. Give a number that is surely above: --sequence N."
    );
  }
  const heard = told.map(([, status]) => Number(status.seq ?? 0));
  const most = Math.max(manifest.sequence, given, before.sequence, ...heard);
  const revisions = new Map(before.revisions);
  const statuses = new Map();
  const [relay] = told[0] ?? [];
  for (const did of relay ? manifest.accounts : []) {
    const status = await answer(relay, "getRepoStatus", { did });
    if (status?.rev > (revisions.get(did) ?? "")) revisions.set(did, status.rev);
    if (status?.active === false) statuses.set(did, status.status);
  }
  return { moved, notes, documents: found, sequence: most + MARGIN, revisions, statuses };
}

/** A relay's answer; {} where it does not know the name, null where it cannot be asked. */
async function answer(relay, method, parameters) {
  const url = `${relay}/xrpc/com.atproto.sync.${method}?${new URLSearchParams(parameters)}`;
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(PATIENCE) });
    const body = await response.json();
    if (response.ok) return body;
    return response.status < 500 && /NotFound/.test(body.error) ? {} : null;
  } catch {
    return null;
  }
}

// --- beside the old data

function stage(source, manifest) {
  for (const name of Object.keys(manifest.files)) {
    fs.mkdirSync(path.dirname(path.join(next, name)), { recursive: true });
    fs.copyFileSync(path.join(source, name), path.join(next, name));
  }
  for (const name of walk(path.join(source, "blocks"))) {
    const target = path.join(next, "blocks", name);
    fs.mkdirSync(path.dirname(target), { recursive: true });
    fs.linkSync(path.join(source, "blocks", name), target); // blobs never change
  }
}

/** The server's own code on the staged data: it can neither reach a relay nor change an identity. */
async function onTheServer(job) {
  const keep = ["PDS_HOSTNAME", "PDS_SERVICE_HANDLE_DOMAINS", "PDS_DID_PLC_URL"];
  const given = Object.keys(process.env).filter((name) => name.startsWith("PDS_"));
  for (const name of given) if (!keep.includes(name)) delete process.env[name];
  const key = () => crypto.randomBytes(32).toString("hex");
  Object.assign(process.env, {
    LOG_ENABLED: "false",
    PDS_DATA_DIRECTORY: next,
    PDS_BLOBSTORE_DISK_LOCATION: path.join(next, "blocks"),
    PDS_BLOBSTORE_DISK_TMP_LOCATION: path.join(next, "temp"),
    PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX: "1".padStart(64, "0"),
    PDS_JWT_SECRET: key(),
    PDS_ADMIN_PASSWORD: key(),
  });
  const library = createRequire(path.join(process.cwd(), "x.js"))("@atproto/pds");
  const pds = await library.PDS.create(library.envToCfg(library.readEnv()), library.envToSecrets(library.readEnv()));
  try {
    await pds.ctx.sequencer.start(); // brings its database up to this version
    return await job({ ctx: pds.ctx, scripts: library.scripts });
  } finally {
    await pds.destroy();
    // With its last connection a database takes in its log.
    for (const { db } of [pds.ctx.sequencer.db, pds.ctx.accountManager.db]) await db.destroy();
  }
}

async function work(server, manifest, world, since) {
  const { ctx } = server;
  const left = new Map();
  const notes = [];
  await recover(server, manifest);
  const accounts = () => read(path.join(next, "account.sqlite"), (db) => db.prepare("select * from actor").all());
  const there = new Set(accounts().map(({ did }) => did));
  for (const did of Object.keys(manifest.repositories)) {
    if (!there.has(did)) notes.push(`${did} was being made, or deleted; it has a repository here and no account`);
  }

  const deleted = new Set(dids("delete"));
  const hidden = new Set(dids("takedown"));
  const resting = new Map(world.moved);
  const broughtBack = new Set(dids("bring_back"));
  for (const [did, status] of since) {
    if (broughtBack.has(did)) continue;
    if (status === "deleted") deleted.add(did);
    if (status === "takendown" || status === "suspended") hidden.add(did);
    if (status === "deactivated") resting.set(did, "it was deactivated after the snapshot");
    if (status === "active") notes.push(`${did} came into use again after the snapshot; here it is as it was then`);
  }
  for (const [did, status] of world.statuses) {
    if (broughtBack.has(did)) continue;
    if (["deleted", "deactivated"].includes(status)) resting.set(did, `the relay says that it was ${status}`);
    else notes.push(`the relay passes nothing on of ${did} (${status}); if you took it down, do so again`);
  }
  for (const did of deleted) {
    if (!there.has(did)) continue;
    left.set(did, "it was deleted after the snapshot");
    await ctx.actorStore.destroy(did);
    await ctx.accountManager.deleteAccount(did);
  }
  for (const { did, handle, takedownRef, deactivatedAt } of accounts()) {
    if (hidden.has(did) && !takedownRef) {
      left.set(did, "it was taken down after the snapshot");
      close(did, "takedownRef");
    }
    if (resting.has(did) && !deactivatedAt) {
      left.set(did, resting.get(did));
      close(did, "deactivatedAt");
    }
    const names = world.documents.get(did)?.handles;
    if (names?.length && !names.includes(handle)) notes.push(`${did}, ${handle} here, is ${names[0]} by its document`);
  }

  raise(ctx, world.sequence);
  for (const did of left.keys()) if (deleted.has(did)) await announceDeleted(ctx, did);
  let active = 0;
  for (const { did, handle, takedownRef, deactivatedAt } of accounts()) {
    if (world.moved.has(did)) continue; // its events are another server's
    const sync = await newRevision(ctx, did, world.revisions.get(did));
    const status = takedownRef ? "takendown" : deactivatedAt ? "deactivated" : "active";
    active += status === "active";
    await announce(ctx, did, handle, status, sync);
  }
  return { left, notes, active };
}

/** The server's own recovery: repositories that are behind the event stream are brought up to it. */
async function recover(server, manifest) {
  const { ctx, scripts } = server;
  // Not from the beginning: an account that was deleted long ago and came back would be deleted again.
  const from = new Date(Date.parse(manifest.started) - RACE).toISOString();
  const first = await ctx.sequencer.earliestAfterTime(from);
  const told = console.log;
  console.log = () => {};
  const ask = (query) => read(path.join(next, "recovery.sqlite"), (db) => db.prepare(query).pluck().all());
  try {
    if (first) await scripts["sequencer-recovery"](ctx, [String(first.seq - 1), "4"]);
    if (first && ask("select did from failed").length > 0) await scripts["recovery-repair-repos"](ctx, []);
  } finally {
    console.log = told;
  }
  const failed = first ? ask("select did from failed where fixed = 0") : [];
  if (failed.length > 0) throw new Error(`the server's own recovery failed for ${failed.join(", ")}`);
  const made = first ? ask("select did from new_account") : [];
  if (made.length > 0) throw new Error(`the server's own recovery made new keys for ${made.join(", ")}`);
}

/** A takedown or deactivation without an event: what is announced is decided in one place. */
function close(did, column) {
  const db = new Database(path.join(next, "account.sqlite"), { fileMustExist: true, timeout: 10000 });
  try {
    db.prepare(`update actor set "${column}" = ? where did = ?`).run(new Date().toISOString(), did);
    // As the server does: a takedown ends every session; who deactivated herself may come back by logging in.
    const ended = column === "takedownRef" ? ["refresh_token", "token"] : [];
    for (const table of ended) db.prepare(`delete from ${table} where did = ?`).run(did);
  } finally {
    db.close();
  }
}

function raise(ctx, sequence) {
  const db = new Database(ctx.sequencer.dbLocation, { fileMustExist: true, timeout: 10000 });
  try {
    db.exec("begin immediate; delete from sqlite_sequence where name = 'repo_seq'");
    db.prepare("insert into sqlite_sequence (name, seq) values ('repo_seq', ?)").run(sequence);
    db.exec("commit");
  } finally {
    db.close();
  }
}

/** An empty signed commit. Its revision is the time, and has to be above what anybody saw of this repository. */
async function newRevision(ctx, did, seen) {
  const sync = await ctx.actorStore.transact(did, async (store) => {
    await store.repo.processWrites([]);
    return store.repo.getSyncEventData();
  });
  if (seen && sync.rev <= seen) {
    throw new Refused(`${did} was at ${seen} and is at ${sync.rev} now: this host's clock is behind.`);
  }
  await ctx.accountManager.updateRepoRoot(did, sync.cid, sync.rev);
  return sync;
}

// The two version lines of the server name these differently.

async function announce(ctx, did, handle, status, sync) {
  const events = ctx.sequencer;
  await (events.sequenceAccount ?? events.sequenceAccountEvt).call(events, did, status);
  if (status !== "active") return;
  await (events.sequenceIdentity ?? events.sequenceIdentityEvt).call(events, did, handle);
  await (events.sequenceSync ?? events.sequenceSyncEvt).call(events, did, sync);
}

async function announceDeleted(ctx, did) {
  const events = ctx.sequencer;
  if (events.sequenceAccountDeletion) await events.sequenceAccountDeletion(did);
  else await events.deleteAllForUser(did, [await events.sequenceAccountEvt(did, "deleted")]);
}

/** Only what a server needs is left, it holds together after all that was done to it, and it is on the disk. */
function clean(keys) {
  for (const name of fs.readdirSync(next)) {
    if (/^(recovery|did_cache)\.sqlite|^temp$/.test(name)) fs.rmSync(path.join(next, name), { recursive: true });
  }
  const wrong = [...keys.keys()]
    .filter((did) => fs.existsSync(path.join(next, home(did))))
    .flatMap((did) => repositoryProblems(next, did).map((problem) => `${did}: ${problem}`));
  if (wrong.length > 0) throw new Error(`what was restored does not hold together:\n  ${wrong.join("\n  ")}`);
  const handles = [...walk(next), ...new Set(walk(next).map(path.dirname))];
  for (const name of [...handles, "."]) sync(path.join(next, name));
}

// --- the swap

/** Old data out, new data in. What is still to be done is written down first; doing it twice is doing it once. */
function swap(begun) {
  const todo = begun ? { ...begun, step: "out" } : JSON.parse(fs.readFileSync(plan, "utf8"));
  const remember = () => {
    fs.writeFileSync(`${plan}.next`, JSON.stringify(todo), { flush: true });
    fs.renameSync(`${plan}.next`, plan);
    sync(place);
  };
  if (begun) remember();
  if (todo.step === "out") {
    fs.mkdirSync(todo.old, { recursive: true });
    move(data, todo.old, (name) => !STAYS.includes(name));
    if (fs.readdirSync(todo.old).length === 0) fs.rmdirSync(todo.old); // a new volume
    todo.step = "in";
    remember();
  }
  if (fs.existsSync(next)) {
    move(next, data, (name) => name !== MARK);
    move(next, data, () => true); // the mark last: with it the server may start
    fs.rmdirSync(next);
  }
  fs.rmSync(plan);
  sync(place);
}

function move(from, to, which) {
  for (const name of fs.readdirSync(from).filter(which)) fs.renameSync(path.join(from, name), path.join(to, name));
  for (const folder of [from, to]) sync(folder);
}

function sync(name) {
  const handle = fs.openSync(name);
  try {
    fs.fsyncSync(handle);
  } finally {
    fs.closeSync(handle);
  }
}

function forget() {
  const olds = fs.readdirSync(place).filter((name) => name.startsWith("old-"));
  for (const name of olds) fs.rmSync(path.join(place, name), { recursive: true });
  say("old data", olds.length > 0 ? `removed: ${olds.join(", ")}` : "there are none");
}

main().then(
  () => process.exit(0), // not when the last idle connection ends
  (error) => {
    // Before the swap the old data are as they were.
    console.error(error instanceof Refused ? `REFUSED: ${error.message}` : `FAILED: ${error.stack}`);
    process.exit(1);
  }
);
