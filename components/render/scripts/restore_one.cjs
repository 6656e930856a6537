// Restores one account of a backup and leaves all others unchanged.
//
// It is prepared beside the running server, in DATA/.restore/only: fetched, checked, its identity queried. It is then
// put in place while the server is stopped, which takes seconds: renames, a new revision, and its events. If it is
// killed before the plan is written, nothing has changed. If it is killed after it, the next run continues; no server
// starts before.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { Database, Killed, LOSSES, NOT, WHOLE, damageOf, read, sentences } = require("./account_check.cjs");
const accountsOf = require("./restore_accounts.cjs");
const { home, publicKey } = require("./repository.cjs");
const request = require("./restore_request.cjs");
const swaps = require("./restore_swap.cjs");
const { Unknown, world } = require("./restore_world.cjs");
const { verify } = require("./verify.cjs");

const { Refused, asked, data, hostname, notServing, plc, relays, say } = request;
const { fetched, only, older: exchange } = swaps.places(data);

/** Fetches, checks and stages one account beside the running server. */
async function makeOneReady(did) {
  // An interrupted restore needs its staged files until the run after this one finishes it.
  if (swaps.readPlan(data)) return say("a restore that was cut short", "is finished with the server at rest");
  const source = asked("from") === "volume" ? path.join(data, ".snapshot", "current") : fetched;
  const found = await verify(source, request.whose(), did);
  const fault = found.refusals[0] ?? (found.verdicts.has(did) ? null : `it has no account ${did}`);
  const of = found.manifest?.repositories[did]?.of ?? found.manifest?.started;
  let account = fault ? null : { folder: source, verdict: found.verdicts.get(did), of, manifest: found.manifest };
  if (account?.verdict.state !== WHOLE && !asked("snapshot") && !asked("from")) {
    const other = await new accountsOf.Older(exchange, found.manifest?.started ?? null, request.olderAreThere).find(did);
    if (other && (!account || account.verdict.state === NOT || other.verdict.state === WHOLE)) account = other;
  }
  // Of an account that was deleted only the backup has its password and e-mail address; the newest backup lacks it, too.
  const rows = account && [account.folder, source].map((folder) => path.join(folder, "account.sqlite")).find((file) => hasAccount(file, did));
  const there = hasAccount(path.join(data, "account.sqlite"), did);
  if (rows && !there) account = (await liveRepository(did, account)) ?? account;
  if (!account || account.verdict.state === NOT) {
    const why = fault ?? sentences(account.verdict).join("; ");
    throw new Refused(`${did} cannot be restored from ${asked("snapshot") || "any backup"}: ${why}. Nothing was changed.`);
  }
  request.refuseLostBlobs(account.manifest);
  if (!rows && !there) {
    throw new Refused(
      `${did} was deleted, and the account database of the backup of ${account.of} does not have it. Nothing was changed. ` +
        "Restore it from another backup: --snapshot ID."
    );
  }
  const told = await outsideOf(did, account.verdict.key);
  fs.rmSync(only, { recursive: true, force: true });
  accountsOf.stageAccount(only, did, account, account.manifest.blobs === "disk");
  if (rows) fs.copyFileSync(rows, path.join(only, "account.sqlite"));
  const ready = { did, of: account.of, verdict: account.verdict, revisions: told.revisions, resting: told.resting[did] };
  fs.writeFileSync(path.join(only, "ready.json"), JSON.stringify(ready));
  swaps.toDisk(only);
  for (const name of [fetched, exchange]) fs.rmSync(name, { recursive: true, force: true });
  if (account.verdict.state === LOSSES) request.tellLosses(did, account.verdict);
  if (ready.resting) console.log(`note: ${did}: ${ready.resting}`);
  say("ready", `${did} as of ${account.of}, ${account.verdict.state}; the server has not been touched`);
}

/**
 * The repository on the volume of an account that account.sqlite lost, if it is whole and not older than that of the
 * `account` of the backup; else null. Only the account is lost then, and the backup's repository lacks the newest records.
 */
async function liveRepository(did, account) {
  const repository = path.join(home(did), "store.sqlite");
  if (!fs.existsSync(path.join(data, repository))) return null;
  const old = accountsOf.oldAccounts(data, true, [did], []);
  const manifest = { ...account.manifest, accounts: [] };
  const scratch = path.join(exchange, "live");
  const { chosen, leftOut } = await accountsOf.newer({ found: { manifest }, old, scratch, deleted: [], without: [] });
  const live = chosen.get(did);
  const { state, key } = account.verdict;
  const revision = ({ folder }) => read(path.join(folder, repository), (db) => db.prepare("select rev from repo_root").pluck().get());
  let why = null;
  if (live?.verdict.state !== WHOLE) why = live ? sentences(live.verdict)[0] : leftOut.get(did);
  else if (key && key !== live.verdict.key) why = "it has another key";
  else if (state !== NOT && revision(live) < revision(account)) why = "it is older";
  if (why) {
    console.log(`note: ${did}: the repository on the volume is not used: ${why}`);
    return null;
  }
  console.log(
    `note: ${did}: the repository on the volume is whole and stays. Only what account.sqlite lost comes from the backup. ` +
      "To restore the repository of the backup as well, run the same again afterwards."
  );
  return { ...live, of: `now, with its account of ${account.manifest.started}`, manifest: account.manifest };
}

/** Whether an account database can be read and has the account. */
function hasAccount(file, did) {
  try {
    return read(file, (db) => !damageOf(db, "quick_check") && db.prepare("select 1 from actor where did = ?").get(did) !== undefined);
  } catch {
    return false;
  }
}

/**
 * What the directory and the relays report. An account whose document names another key is restored deactivated: its
 * member needs it to change the document. It is refused if the volume has the document's key, which would be replaced.
 */
async function outsideOf(did, key) {
  const known = { manifest: 0, given: 1, old: 1 };
  const told = await world({ dids: [did], keys: new Map([[did, key]]), hostname, plc, relays, known, revisions: {} }).catch((error) => {
    throw error instanceof Unknown ? new Refused(`${error.message} Nothing was changed.`) : error;
  });
  if (told.moved[did]) throw new Refused(`${did}: ${told.moved[did]}. Nothing was changed.`);
  if (told.unsigned[did] && keyOnVolume(did) === told.documents.get(did).key) {
    throw new Refused(
      `${did}: its DID document names the key that it has here, and this backup has ${key}. Nothing was changed. Restore it ` +
        "from a backup with the document's key: --snapshot ID."
    );
  }
  return told;
}

/** The did:key of the account's key on the volume; null if there is none that can be read. */
function keyOnVolume(did) {
  try {
    return publicKey(fs.readFileSync(path.join(data, home(did), "key"))).didKey;
  } catch {
    return null;
  }
}

/** Replaces the current account with the prepared one. The server is stopped. */
async function putOneInPlace(did, finished) {
  const file = path.join(only, "ready.json");
  if (!fs.existsSync(file) && finished === did) return say("ready", "it is in place already");
  if (!fs.existsSync(file)) throw new Refused(`nothing of ${did} has been made ready: run the same again.`);
  const ready = JSON.parse(fs.readFileSync(file, "utf8"));
  if (ready.did !== did) throw new Refused(`what was made ready is ${ready.did}, not ${did}: begin again.`);
  if (!notServing.held) throw new Refused("the server's account.sqlite cannot be read: restore all of it.");
  const old = notServing.held.prepare("select rev from repo_root where did = ?").pluck().get(did);
  const there = notServing.held.prepare("select 1 from actor where did = ?").get(did) !== undefined;
  if (!there && !hasAccount(path.join(only, "account.sqlite"), did)) {
    throw new Refused(`${did} was deleted since it was made ready: begin again.`);
  }
  if (old > (ready.revisions[did] ?? "")) ready.revisions[did] = old;
  const todo = { step: "out", did, old: swaps.aside(data), back: !there, ...ready };
  swaps.writePlan(data, todo);
  await finishOne(todo);
  if (ready.resting) console.log(`LEFT OUT: ${did}: ${ready.resting}`);
  say("in place", `${did} as of ${ready.of}; all others are as they were`);
}

async function finishOne(todo) {
  const { did, verdict, revisions, resting } = todo;
  notServing.held?.close(); // the plan keeps every server from starting
  notServing.held = null;
  if (todo.step === "undo") return undoOne(todo);
  if (todo.step !== "events") swaps.swapOne(data, todo);
  const job = { directory: data, only: did, back: todo.back, repairs: request.repairs(new Map([[did, { verdict }]])), revisions, resting };
  try {
    if (todo.back) restoreRows(did);
    await request.onTheServer(job);
  } catch (error) {
    // A killed run is continued by the next one. What failed would fail again, and no server starts while the plan is there.
    if (error instanceof Killed || error.told) throw error;
    undoOne(todo);
    throw error;
  }
  swaps.toDisk(data);
  fs.rmSync(only, { recursive: true, force: true });
  swaps.forgetPlan(data);
}

/** Nothing of it was told to relays: the account becomes what it was. */
function undoOne(todo) {
  swaps.writePlan(data, { ...todo, step: "undo" });
  swaps.swapBack(data, todo);
  if (todo.back) accountsOf.removeRows(path.join(data, "account.sqlite"), todo.did);
  swaps.toDisk(data);
  swaps.forgetPlan(data);
  say("put back", `${todo.did} is as it was before`);
}

function restoreRows(did) {
  const source = new Database(path.join(only, "account.sqlite"), { fileMustExist: true });
  try {
    const there = new Database(path.join(data, "account.sqlite"), { fileMustExist: true });
    const known = there.prepare("select 1 from actor where did = ?").get(did);
    there.close();
    if (!known) accountsOf.copyRows(source, path.join(data, "account.sqlite"), did);
  } catch (error) {
    if (!/^UNIQUE.*email/.test(error.message)) throw error;
    throw new Refused(`another account has the e-mail address of ${did} now. Give that one another address, then run the same again.`);
  } finally {
    source.close();
  }
}

module.exports = { finishOne, makeOneReady, putOneInPlace };
