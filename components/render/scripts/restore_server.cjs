// The part of a restore that runs the server's own code, in a separate process: its recovery, new revisions, events.
//
// restore.cjs starts it and sends the job as its first message; it returns the outcome and ends. The server's code sees
// one data directory, can reach no relay, and can change no identity. Relays need (docs/decisions/0014): events with
// numbers above any that they saw, a first event at once, because the server takes its newest row for the newest
// number, and for every repository a revision above any that they saw.
"use strict";

const crypto = require("node:crypto");
const fs = require("node:fs");
const path = require("node:path");
const { createRequire } = require("node:module");
const { Readable } = require("node:stream");
const { Database, NO_ROOM, lostRecords, read } = require("./account_check.cjs");
const { home, isHashOf } = require("./repository.cjs");

const RACE = 60000; // ms; the server writes a repository first and its event a moment later
const WRITES = 100; // in one commit; the server accepts 200
const app = createRequire(path.join(process.cwd(), "x.js"));

class Refused extends Error {}

/**
 * Runs the `job` on its `directory`: for a whole restore everything, for one account (`only`) its revision and events.
 * Resolves to `left` (DID to why it is not in use), `notes` and the count of accounts in use, `active`.
 */
async function work(job) {
  const pds = await load(job);
  try {
    const server = { ctx: pds.ctx, scripts: app("@atproto/pds").scripts, job };
    return await (job.only ? oneAccount(server) : allAccounts(server));
  } finally {
    await pds.destroy();
    // Closing the last connection merges a database's log.
    for (const { db } of [pds.ctx.sequencer.db, pds.ctx.accountManager.db]) await db.destroy();
  }
}

async function load({ directory, only }) {
  const keep = ["PDS_HOSTNAME", "PDS_SERVICE_HANDLE_DOMAINS", "PDS_DID_PLC_URL"];
  const given = Object.keys(process.env).filter((name) => name.startsWith("PDS_"));
  for (const name of given) if (!keep.includes(name)) delete process.env[name];
  const key = () => crypto.randomBytes(32).toString("hex");
  Object.assign(process.env, {
    LOG_ENABLED: "false",
    PDS_DATA_DIRECTORY: directory,
    PDS_BLOBSTORE_DISK_LOCATION: path.join(directory, "blocks"),
    PDS_BLOBSTORE_DISK_TMP_LOCATION: path.join(directory, "temp"),
    PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX: "1".padStart(64, "0"),
    PDS_JWT_SECRET: key(),
    PDS_ADMIN_PASSWORD: key(),
  });
  const library = app("@atproto/pds");
  if (!only) withoutFlush(); // one account is put in place among live data
  const pds = await library.PDS.create(library.envToCfg(library.readEnv()), library.envToSecrets(library.readEnv()));
  await pds.ctx.sequencer.start(); // migrates its database to this version
  return pds;
}

/** Skips flushes: restore.cjs flushes everything once at the end, and nothing counts before. */
function withoutFlush() {
  const prepare = Database.prototype.prepare;
  const seen = new WeakSet();
  Database.prototype.prepare = function (...rest) {
    if (!seen.has(this) && !this.inTransaction) {
      seen.add(this);
      this.pragma("synchronous = off");
    }
    return prepare.apply(this, rest);
  };
}

// --- a whole restore

async function allAccounts(server) {
  const { ctx, job } = server;
  const found = { left: new Map(job.leftOut), notes: [], active: 0, recovered: [] };
  const failed = new Map();
  const unsigned = new Set(job.unsigned);
  if (job.recover) {
    const { unapplied, recovered } = await recover(server);
    if (unapplied.length > 0) return { unapplied, failed: [] };
    found.recovered = recovered;
  }
  for (const [did, loss] of job.repairs) await repair(server, did, loss, failed);
  await closeThoseWhoLeft(server, found);
  raise(ctx, job.sequence);
  for (const [did, deleted] of found.left) if (deleted === true) await announceDeleted(ctx, did);
  for (const { did, handle, takedownRef, deactivatedAt } of accounts(job.directory)) {
    if (job.moved[did]) continue; // another server publishes its events
    const status = takedownRef ? "takendown" : deactivatedAt ? "deactivated" : "active";
    let sync = null;
    try {
      // A moved account whose document names another key stays as it is: relays would drop the commit.
      const takesOne = !unsigned.has(did) && fs.existsSync(path.join(job.directory, home(did), "store.sqlite"));
      if (takesOne) sync = await newRevision(ctx, did, job.revisions[did]);
    } catch (error) {
      if (error instanceof Refused || NO_ROOM.includes(error.code)) throw error;
      failed.set(did, `it takes no new revision: ${error.message}`);
      continue;
    }
    found.active += status === "active";
    await announce(ctx, did, handle, status, sync);
  }
  if (failed.size > 0) return { failed: [...failed] };
  return { ...found, left: [...found.left].map(([did, why]) => [did, why === true ? DELETED : why]) };
}

const DELETED = "it was deleted after the snapshot";

function accounts(directory) {
  return read(path.join(directory, "account.sqlite"), (db) => db.prepare("select * from actor").all());
}

async function closeThoseWhoLeft({ ctx, job }, found) {
  const there = new Map(accounts(job.directory).map((account) => [account.did, account]));
  for (const did of job.deleted) {
    if (!there.has(did)) continue;
    found.left.set(did, true);
    there.delete(did);
    await ctx.actorStore.destroy(did);
    await ctx.accountManager.deleteAccount(did);
  }
  const hidden = new Set(job.hidden);
  const resting = new Map([...Object.entries(job.moved), ...Object.entries(job.resting), ...job.leftOut, ...found.left]);
  for (const { did, handle, takedownRef, deactivatedAt } of there.values()) {
    if (hidden.has(did) && !takedownRef) {
      found.left.set(did, "it was taken down after the snapshot");
      close(job.directory, did, "takedownRef");
    }
    if (typeof resting.get(did) === "string" && !deactivatedAt) {
      found.left.set(did, resting.get(did));
      close(job.directory, did, "deactivatedAt");
    }
    const names = job.handles[did];
    if (names?.length && !names.includes(handle)) {
      found.notes.push(`${did}, ${handle} here, is ${names[0]} by its document`);
    }
  }
}

/** The server's own recovery: brings repositories that are behind the event stream up to date. */
async function recover({ ctx, scripts, job }) {
  // Not from the beginning: an account that was deleted long ago and came back would be deleted again.
  const from = new Date(Date.parse(job.started) - RACE).toISOString();
  const first = await ctx.sequencer.earliestAfterTime(from);
  if (!first) return { unapplied: [], recovered: [] };
  // Events cannot be applied to accounts whose data are not the snapshot's.
  const db = new Database(ctx.sequencer.dbLocation, { fileMustExist: true, timeout: 10000 });
  for (const did of job.without) db.prepare("delete from repo_seq where did = ?").run(did);
  db.close();
  const ask = (query) => read(path.join(job.directory, "recovery.sqlite"), (db) => db.prepare(query).pluck().all());
  await quietly(async () => {
    await scripts["sequencer-recovery"](ctx, [String(first.seq - 1), "4"]);
    if (ask("select did from failed").length > 0) await scripts["recovery-repair-repos"](ctx, []);
  });
  const failed = ask("select did from failed where fixed = 0");
  // No new key is ever made for an identity that exists: such an account's events are not applied.
  const unapplied = [...new Set([...failed, ...ask("select did from new_account")])];
  const recovered = read(ctx.sequencer.dbLocation, (db) => db.prepare("select distinct did from repo_seq where seq >= ?").pluck().all(first.seq));
  return { unapplied, recovered };
}

async function quietly(task) {
  const log = console.log;
  console.log = () => {};
  try {
    return await task();
  } finally {
    console.log = log;
  }
}

/** Removes the lost records from a repository, so that the rest is consistent. */
async function repair({ ctx, scripts, job }, did, { rebuild }, failed) {
  const store = path.join(job.directory, home(did), "store.sqlite");
  try {
    if (rebuild) {
      forgetRecords(store);
      answerNext();
      await quietly(() => scripts["rebuild-repo"](ctx, [did]));
      return;
    }
    const { AtUri } = createRequire(app.resolve("@atproto/pds/package.json"))("@atproto/syntax");
    const lost = read(store, (db) => [...lostRecords(db)]);
    for (let from = 0; from < lost.length; from += WRITES) {
      const writes = lost
        .slice(from, from + WRITES)
        .map((name) => ({ action: "delete", uri: new AtUri(`at://${did}/${name}`) }));
      const commit = await ctx.actorStore.transact(did, (actor) => actor.repo.processWrites(writes));
      await ctx.accountManager.updateRepoRoot(did, commit.cid, commit.rev);
    }
  } catch (error) {
    if (NO_ROOM.includes(error.code)) throw error;
    failed.set(did, `it could not be repaired: ${error.message}`);
  }
}

/** The server's rebuild-repo asks whether to continue. An empty line says so; each question reads all that its input has. */
function answerNext() {
  Object.defineProperty(process, "stdin", { value: Readable.from(["\n"]), configurable: true });
}

function forgetRecords(store) {
  const db = new Database(store, { fileMustExist: true });
  const rows = db.prepare("select uri, cid from record where collection || '/' || rkey = ?");
  try {
    for (const name of [...lostRecords(db)]) {
      for (const { uri, cid } of rows.all(name)) {
        db.prepare("delete from repo_block where cid = ?").run(cid);
        db.prepare("delete from record where uri = ?").run(uri);
        db.prepare("delete from backlink where uri = ?").run(uri);
        db.prepare('delete from record_blob where "recordUri" = ?').run(uri);
      }
    }
    // The rebuilt tree has its own blocks. A damaged block under a CID that it needs must not pass for intact.
    const blocks = db.prepare("select cid, content from repo_block").raw();
    const bad = [];
    for (const [cid, content] of blocks.iterate()) if (!isHashOf(cid, content)) bad.push(cid);
    for (const cid of bad) db.prepare("delete from repo_block where cid = ?").run(cid);
  } finally {
    db.close();
  }
}

/** A takedown or deactivation without an event: one place decides which events are sent. */
function close(directory, did, column) {
  const db = new Database(path.join(directory, "account.sqlite"), { fileMustExist: true, timeout: 10000 });
  try {
    db.prepare(`update actor set "${column}" = ? where did = ?`).run(new Date().toISOString(), did);
    // As the server does: a takedown ends every session; a deactivated member may return by logging in.
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

// --- one account in the data of a stopped server

async function oneAccount({ ctx, scripts, job }) {
  const did = job.only;
  const failed = new Map();
  for (const [, loss] of job.repairs) await repair({ ctx, scripts, job }, did, loss, failed);
  if (failed.size > 0) throw new Error(`${did}: ${failed.get(did)}`);
  const sync = await newRevision(ctx, did, job.revisions[did]);
  job.told = true; // also the row of a live account is changed from here on
  if (job.resting) close(job.directory, did, "deactivatedAt");
  const account = accounts(job.directory).find((other) => other.did === did);
  const status = account.takedownRef ? "takendown" : account.deactivatedAt ? "deactivated" : "active";
  if (job.back || job.resting) await announce(ctx, did, account.handle, status, sync);
  else if (status === "active") await announceSync(ctx, did, sync);
  return { left: [], notes: [] };
}

/** An empty signed commit. Its revision is the time, and must be above any seen of this repository. */
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
  if (status !== "active" || !sync) return;
  await (events.sequenceIdentity ?? events.sequenceIdentityEvt).call(events, did, handle);
  await announceSync(ctx, did, sync);
}

async function announceSync({ sequencer: events }, did, sync) {
  await (events.sequenceSync ?? events.sequenceSyncEvt).call(events, did, sync);
}

async function announceDeleted(ctx, did) {
  const events = ctx.sequencer;
  if (events.sequenceAccountDeletion) await events.sequenceAccountDeletion(did);
  else await events.deleteAllForUser(did, [await events.sequenceAccountEvt(did, "deleted")]);
}

process.once("disconnect", () => process.exit(1)); // restore.cjs was killed
process.once("message", async (job) => {
  let answer;
  try {
    answer = await work(job);
  } catch (error) {
    answer = { told: job.told, refused: error instanceof Refused, error: error instanceof Refused ? error.message : error.stack };
  }
  process.send(answer, () => process.exit(0)); // not when the last idle connection ends
});
