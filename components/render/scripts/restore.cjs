// Prepares a PDS's data directory from a snapshot. The server must not run; it opens the result.
//
// Runs in the server's own image. All work happens beside the old data, in DATA/.restore/new: copy, the server's own
// recovery, events since the snapshot, what relays need. The swap comes last and consists of renames. If it is killed
// before the swap, the old data are unchanged and the next run starts again. If it is killed during the swap, the next
// run finishes the swap first. The old data stay in DATA/.restore/old-… until the operator removes them.
//
// One account alone (`only`) is prepared while the server runs, in DATA/.restore/only. A second run (`step` is "in")
// puts it in place while the server is stopped, which takes seconds.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const departures = require("./account_events.cjs");
const leftOutList = require("./left_out.cjs");
const accountsOf = require("./restore_accounts.cjs");
const moves = require("./restore_move.cjs");
const request = require("./restore_request.cjs");
const swaps = require("./restore_swap.cjs");
const { Killed, NOT, checkAll, sentences } = require("./account_check.cjs");
const { documents } = require("./did_documents.cjs");
const { folders } = require("./files.cjs");
const { home } = require("./repository.cjs");
const { finishOne, makeOneReady, putOneInPlace } = require("./restore_one.cjs");
const { Unknown, deletedSince, lastStatuses, oldData, whoLeft, world } = require("./restore_world.cjs");
const { IDENTITY_FILE, verify } = require("./verify.cjs");

const MEBIBYTE = 1024 * 1024;
const ROUNDS = 5;
const RACE = 60000; // ms; tolerates a clock that is slightly behind

const { Refused, asked, data, dids, hostname, notServing, onTheServer, plc, relays, repairs, say } = request;
const { place, fetched, next, only, older: exchange } = swaps.places(data);
const list = path.join(data, departures.LIST);

async function main() {
  if (asked("show")) return; // the task before this one printed the list
  process.umask(0o077);
  fs.mkdirSync(place, { recursive: true, mode: 0o700 });
  if (asked("verify")) return verifyAlone();
  if (asked("only") && asked("step") !== "in") return makeOneReady(asked("only"));
  request.alone();
  const finished = await finishWhatWasCutShort();
  if (asked("forget")) return forget();
  notServing();
  return asked("only") ? putOneInPlace(asked("only"), finished) : restoreAll();
}

// --- a whole server

async function restoreAll() {
  const began = Date.now();
  const source = asked("from") === "volume" ? path.join(data, ".snapshot", "current") : fetched;
  let asking; // the directory answers while both cores check
  const found = await verified(source, (accounts) => (asking = documents(accounts, plc)));
  room(found.manifest);
  const before = oldData(data, notServing.held);
  moves.refuseNewerData(before.newest, found.manifest);
  const departed = departures.merged(departures.lines(path.join(place, "list", departures.LIST)), before.list);
  const accounts = await choices(source, found, before, departed);
  const keys = new Map([...accounts.chosen].map(([did, { verdict }]) => [did, verdict.key]));
  const told = await outside([...accounts.chosen.keys()], keys, before, found.manifest, await asking);
  const [moved, unsigned] = [told.moved, told.unsigned].map((of) => Object.keys(of).length);
  say("identities", `${keys.size} asked, ${moved} are another server's${unsigned ? `, ${unsigned} have another key` : ""}`);
  say("events", `continue after number ${told.sequence}`);

  const there = new Set([...found.manifest.accounts, ...accounts.carried]);
  const since = lastStatuses(departed, found.manifest.started, accounts.carried);
  const left = whoLeft({ there, created: ofThisStay(before), departed, since, statuses: told.statuses, wanted: wanted() });
  const done = await made(source, found, accounts, (now) => wholeJob(found, now, told, left));
  moves.refuseLosses(found, accounts);
  moves.note(next);
  if (departed.length > 0) departures.write(list, departed);
  leftOutList.record(data, [...accounts.leftOut.keys()], found.manifest); // before the swap: a killed one is finished without it
  const todo = { step: "out", old: swaps.aside(data) };
  swaps.writePlan(data, todo);
  swaps.swapAll(data, todo);
  for (const name of [fetched, exchange, only, path.join(place, "carried")]) fs.rmSync(name, { recursive: true, force: true });
  for (const line of [...told.notes, ...left.notes, ...accounts.notes, ...done.notes]) console.log(`note: ${line}`);
  for (const [did, why] of done.left) if (!accounts.leftOut.has(did)) console.log(`LEFT OUT: ${did}: ${why}`);
  for (const [did, why] of accounts.leftOut) console.log(`NOT RESTORED: ${did}: ${why}`);
  for (const [did, cids] of accounts.lost) {
    for (const cid of cids) console.log(`WITH LOSSES: ${did}: blob ${cid} is lost: it was uploaded while the snapshot was made`);
  }
  const gone = found.manifest.accounts.length + accounts.newer - done.active;
  say("ready", `${done.active} accounts in use, ${gone} not; ${((Date.now() - began) / 1000).toFixed(1)} s`);
}

/** The new directory, and what was done to it: begun anew without the accounts, or their events, that the server's code fails at. */
async function made(source, found, accounts, jobOf) {
  for (let round = 1; round <= ROUNDS; round++) {
    stage(source, found, accounts);
    const done = await onTheServer(jobOf(accounts));
    const failed = new Map(done.failed ?? (await holdsTogether(accounts, done, found.manifest.blobs === "disk" && [data, source])));
    const behind = done.unapplied ?? [];
    if (failed.size + behind.length === 0) return done;
    // A fault of the host, as of its disk, is not an account's.
    if (failed.size > 1 && failed.size * 2 > accounts.chosen.size) {
      throw new Error(`what was restored does not hold together:\n  ${[...failed].map((line) => line.join(": ")).join("\n  ")}`);
    }
    for (const did of behind) accounts.unapplied.add(did);
    for (const [did, why] of failed) accountsOf.leaveOut(accounts, did, why);
  }
  throw new Error(`the server's code failed at other accounts in each of ${ROUNDS} rounds`);
}

function wanted() {
  return { delete: dids("delete"), applied: dids("applied"), takedown: dids("takedown"), bring_back: dids("bring_back") };
}

async function verified(source, onAccounts) {
  const found = await verify(source, request.whose(), null, onAccounts);
  if (found.refusals.length > 0) {
    throw new Refused(`this snapshot cannot be restored. Nothing was changed.\n  ${found.refusals.join("\n  ")}`);
  }
  if (Date.parse(found.manifest.started) > Date.now() + RACE) {
    throw new Refused(`the snapshot is of ${found.manifest.started}, which is to come: this host's clock is behind.`);
  }
  request.refuseLostBlobs(found.manifest);
  request.tell(found);
  return found;
}

async function choices(source, found, before, departed) {
  // A move's snapshot is of a stopped server. Data on its new volume are of an earlier stay: no account comes from them.
  const old = asked("old_data") === "no" ? accountsOf.oldAccounts(data, null, [], []) : oldAccounts(before);
  const older = new accountsOf.Older(exchange, found.manifest.started, request.olderAreThere);
  const shared = { found, old, scratch: place, without: dids("without") };
  const { chosen, leftOut } = await accountsOf.choose({ ...shared, source, older });
  const gone = deletedSince(old.dids, before.created, departed, wanted());
  const carried = await accountsOf.newer({ ...shared, deleted: [...gone.keys()] });
  for (const [did, { of, instead }] of chosen) {
    if (instead) console.log(`FROM ${of ? `THE BACKUP OF ${of}` : "THE OLD DATA"}: ${did}: ${instead}`);
    else if (of) console.log(`AS OF ${of}: ${did}: ${found.manifest.findings[did]?.what ?? "its last whole copy"}`);
  }
  for (const did of carried.chosen.keys()) {
    const isNewer = before.created[did] >= found.manifest.started;
    console.log(`CARRIED OVER: ${did}: ${isNewer ? "it was made after the snapshot" : "only the old data have it, though it is older than the snapshot"}`);
  }
  for (const [did, time] of gone) {
    const why = time ? `it was deleted on ${time}` : "the stack file lists it under 'delete'";
    if (!found.manifest.accounts.includes(did)) console.log(`LEFT OUT: ${did}: only the old data have it, and ${why}`);
  }
  return {
    snapshot: new Set(chosen.keys()),
    chosen: new Map([...chosen, ...carried.chosen]),
    carried: [...carried.chosen.keys()],
    leftOut: new Map([...leftOut, ...carried.leftOut]),
    newer: carried.chosen.size,
    unapplied: new Set(),
    lost: new Map(),
    notes: [],
  };
}

/** When each account of the old data was made, unless the data on the volume are of an earlier stay. */
function ofThisStay(before) {
  return asked("old_data") === "no" ? {} : before.created;
}

function oldAccounts(before) {
  const there = folders(data, ({ message }) => console.log(`note: ${message}`));
  return accountsOf.oldAccounts(data, notServing.held, before.accounts, there);
}

async function outside(accounts, keys, before, manifest, answers) {
  const known = { manifest: manifest.sequence, given: Number(asked("sequence") || 0), old: before.sequence };
  try {
    const options = { withoutDirectory: asked("without_directory") === "yes", moves: asked("whole") === "yes" };
    return await world({ dids: accounts, keys, hostname, plc, relays, known, revisions: before.revisions, asked: answers, ...options });
  } catch (error) {
    if (error instanceof Unknown) throw new Refused(`${error.message} Nothing was changed.`);
    throw error;
  }
}

function stage(source, { manifest, sequencer }, accounts) {
  accounts.notes = [...accounts.unapplied].map((did) => `${did}: what came while the snapshot was made could not be applied`);
  fs.rmSync(next, { recursive: true, force: true });
  fs.mkdirSync(next, { recursive: true });
  const { hostname: name, rotation_public_key } = manifest;
  fs.writeFileSync(path.join(next, IDENTITY_FILE), JSON.stringify({ hostname: name, rotation_public_key }, null, 2) + "\n");
  for (const file of ["account.sqlite", ...(sequencer ? ["sequencer.sqlite"] : [])]) {
    fs.copyFileSync(path.join(source, file), path.join(next, file));
  }
  for (const did of accounts.carried) {
    try {
      const note = accountsOf.copyRows(notServing.held, path.join(next, "account.sqlite"), did);
      if (note) accounts.notes.push(note);
    } catch (error) {
      accountsOf.leaveOut(accounts, did, `it was made after the snapshot, which has another account with its e-mail address (${error.message})`);
    }
  }
  const disk = manifest.blobs === "disk";
  for (const [did, account] of accounts.chosen) accounts.notes.push(...accountsOf.stageAccount(next, did, account, disk));
  // A move may have left blobs on the volume: those of the old data stay, whatever the snapshot has.
  if (manifest.blobs === "bucket") for (const did of accounts.chosen.keys()) accountsOf.keepBlobs(data, next, did);
  for (const did of accounts.leftOut.keys()) accountsOf.stageKey(next, did, source);
  accounts.notes.push(...accountsOf.stageReservedKeys(next, { source, data, files: manifest.files }));
}

function wholeJob({ manifest, sequencer }, accounts, told, left) {
  const others = [...accounts.chosen].filter(([did, { of }]) => of || !accounts.snapshot.has(did)).map(([did]) => did);
  return {
    directory: next,
    started: manifest.started,
    recover: sequencer,
    without: [...others, ...accounts.leftOut.keys(), ...accounts.unapplied],
    leftOut: [...accounts.leftOut],
    repairs: repairs(accounts.chosen),
    moved: told.moved,
    resting: { ...told.resting, ...left.resting },
    unsigned: asked("whole") === "yes" ? Object.keys(told.unsigned) : [],
    deleted: left.deleted,
    hidden: left.hidden,
    revisions: told.revisions,
    handles: Object.fromEntries([...told.documents].map(([did, { handles }]) => [did, handles])),
    sequence: told.sequence,
  };
}

/**
 * Changed accounts must be consistent as a whole. In the others only the newest commit is new. `withBlobs` are the folders
 * that may have blobs of records that only the events have.
 */
async function holdsTogether(accounts, done, withBlobs) {
  for (const did of withBlobs ? done.recovered.filter((did) => accounts.chosen.has(did)) : []) {
    const known = accounts.chosen.get(did).verdict.blobs;
    accounts.lost.set(did, accountsOf.bringBlobs(next, did, withBlobs).filter((cid) => !known.includes(cid)));
  }
  swaps.toDisk(next);
  for (const name of fs.readdirSync(next)) {
    if (/^(recovery|did_cache)\.sqlite|^temp$/.test(name)) fs.rmSync(path.join(next, name), { recursive: true });
  }
  const touched = new Set([...repairs(accounts.chosen).map(([did]) => did), ...done.recovered]);
  const rest = [...accounts.chosen.keys()].filter((did) => fs.existsSync(path.join(next, home(did), "store.sqlite")));
  const manifest = { files: null, repositories: {}, blobs: "elsewhere" };
  const verdicts = await checkAll(next, rest.filter((did) => touched.has(did)), { manifest });
  const brief = await checkAll(next, rest.filter((did) => !touched.has(did)), { manifest, commitOnly: true });
  const wrong = [...verdicts, ...brief].filter(([, verdict]) => verdict.why.length + verdict.records.length > 0 || verdict.rebuild);
  return wrong.map(([did, verdict]) => [did, sentences(verdict).join("; ")]);
}

function room(manifest) {
  const needed = Object.values(manifest.files).reduce((sum, { size }) => sum + size, 0);
  const disk = fs.statfsSync(place);
  const free = disk.bavail * disk.bsize;
  const reserve = Number(process.env.PDS_SNAPSHOT_RESERVE_MIB ?? 256) * MEBIBYTE;
  if (free - needed < reserve) {
    const [has, takes] = [free, needed].map((bytes) => `${Math.floor(bytes / MEBIBYTE)} MiB`);
    throw new Refused(`the volume has ${has} free, the databases take ${takes} in addition to the old ones. Make it larger.`);
  }
}

async function finishWhatWasCutShort() {
  const todo = swaps.readPlan(data);
  if (!todo) return;
  if (todo.did) await finishOne(todo);
  else swaps.swapAll(data, todo);
  if (!todo.did) fs.rmSync(only, { recursive: true, force: true }); // made ready for the data before
  say("a restore that was cut short", "is finished");
  return todo.did;
}

// --- read-only

/** Whether the snapshot can be restored, account by account. */
async function verifyAlone() {
  const source = asked("from") === "volume" ? path.join(data, ".snapshot", "current") : fetched;
  const found = await verified(source);
  const without = dids("without");
  const { accounts, repositories, findings } = found.manifest;
  const expected = accounts.filter((did) => !without.includes(did));
  const broken = expected.filter((did) => found.verdicts.get(did).state === NOT);
  const older = expected.filter((did) => !broken.includes(did) && repositories[did]?.of);
  for (const did of older) console.log(`AS OF ${repositories[did].of}: ${did}: ${findings[did]?.what ?? "its last whole copy"}`);
  if (source === fetched) fs.rmSync(fetched, { recursive: true, force: true });
  if (broken.length + older.length > 0) {
    const kinds = [[broken, "cannot be restored from it"], [older, "would be restored from an older copy, without what was written since"]];
    const faults = kinds.filter(([dids]) => dids.length > 0).map(([dids, what]) => `${dids.length} of ${accounts.length} accounts ${what}`);
    throw new Refused(`${faults.join("; ")}. To restore without them: ${[...broken, ...older].map((did) => `--without ${did}`).join(" ")}`);
  }
  say("verified", "it can be restored");
}

async function forget() {
  const { olds, refused } = await swaps.forget(data, { plc, deleted: dids("delete") });
  if (refused.length > 0) {
    throw new Refused(
      `the old data hold the last copy of a signing key. Nothing was removed.\n  ${refused.join("\n  ")}\n` +
        "Bring these accounts back, or list those that are meant to be gone under 'delete' in the stack file."
    );
  }
  say("old data", olds.length > 0 ? `removed: ${olds.join(", ")}` : "there are none");
}

main().then(
  () => process.exit(0), // not when the last idle connection ends
  (error) => {
    // Before the swap the old data are unchanged.
    const plain = error instanceof Refused || error instanceof Killed;
    console.error(plain ? `REFUSED: ${error.message}` : `FAILED: ${error.stack}`);
    process.exit(1);
  }
);
