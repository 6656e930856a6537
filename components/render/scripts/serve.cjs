// Starts a server on the scratch copy of a backup, without a network, and checks that it serves every repository and
// blob.
//
// Runs after the task whose verdict it reads: as the second half of a drill in the server's image (drill.cjs), and of a
// trial in a candidate's (upgrade_trial.cjs). It requests every repository as the public would; repository.cjs reads it.
// The copy is then removed. A drill's outcome is written to DATA/.run-status for the alerts job, also if the first
// half found faults. A trial prints what it would do to the data.
"use strict";

const crypto = require("node:crypto");
const fs = require("node:fs");
const path = require("node:path");
const { createRequire } = require("node:module");
const { pipeline } = require("node:stream/promises");
const { keptBlobs, read } = require("./account_check.cjs");
const damagedCopies = require("./damaged_copies.cjs");
const { home, isDigestOf, openCar, problems, publicKey } = require("./repository.cjs");
const { Server } = require("./server.cjs");
const { assessed, lines, verify } = require("./verify.cjs");

const scratch = path.join(process.env.NOMAD_ALLOC_DIR, "data");
const copy = path.join(scratch, "fetched");
const drill = process.env.TRIAL !== "candidate";
const { begin, end: outcome, load } = drill ? require("./run_status.cjs") : { begin: () => {}, end: () => {} };
const NAMED = 20; // faults of one account
const statuses = ["RepoDeactivated", "RepoTakendown", "RepoSuspended"];

async function main() {
  begin("drill"); // a server that is killed for its memory reports nothing more
  const found = { problems: ["the copy was not checked: see the previous task"] };
  let manifest = null;
  try {
    Object.assign(found, JSON.parse(fs.readFileSync(path.join(scratch, "verdict.json"), "utf8")));
    manifest = JSON.parse(fs.readFileSync(path.join(copy, "manifest.json"), "utf8"));
  } catch (error) {
    if (error.code !== "ENOENT") throw error;
    if (!drill && found.problems.length === 0) found.problems.push("no backup was fetched: the first task shows why");
  }
  const known = drill || manifest ? found.problems.length : 0; // they were reported already
  if (manifest && known === 0 && !drill) Object.assign(found, await assess());
  if (manifest && known === 0) await serve(manifest, found);
  if (manifest && drill && manifest.blobs === "bucket") readCopies(found);
  for (const name of ["fetched", "served.car"]) fs.rmSync(path.join(scratch, name), { recursive: true, force: true });
  for (const problem of found.problems.slice(known)) console.error(`FAULT: ${problem}`);
  found.problems.push(...(found.identities ?? [])); // the first half printed them; a server on the copy does not need them
  outcome("drill", found.problems, { of: manifest?.started, findings: found.findings });
  if (found.problems.length > 0) process.exit(1);
  if (drill) report(manifest, found);
}

/** The outcome of the task that reads the blobs' copies (drill_blobs.cjs). */
function readCopies(found) {
  let read = { problems: ["the copies of the blobs were not read to their end: see the task 'blobs'"], damaged: [] };
  try {
    read = JSON.parse(fs.readFileSync(path.join(scratch, "blobs.json"), "utf8"));
  } catch {
    // the problem above
  }
  found.problems.push(...read.problems);
  const known = read.problems.length > 0 ? load("drill").findings : read.findings; // those that it did not look for stay
  if (found.findings) found.findings = { ...known, ...found.findings };
  if (read.damaged.length > 0) damagedCopies.write(process.env.PDS_DATA_DIRECTORY, read.damaged);
  fs.rmSync(path.join(scratch, "blobs.json"), { force: true });
}

/** Faults of single accounts of the copy are not faults of another version of the server. */
async function assess() {
  const { verdicts } = await verify(copy, {});
  for (const line of lines(verdicts)) console.log(`FINDING: ${line}`);
  return assessed(verdicts);
}

function report(manifest, found) {
  const fetched = JSON.parse(fs.readFileSync(path.join(scratch, "fetched.json"), "utf8")).seconds;
  const point = Date.parse(manifest.started);
  console.log(`recovery point  ${manifest.started}, ${((Date.now() - point) / 60000).toFixed(0)} minutes ago`);
  const [looked, served] = [found.seconds, found.served].map((seconds) => `${seconds.toFixed(1)} s`);
  console.log(
    `recovery time   ${(fetched + found.seconds + found.served).toFixed(1)} s: fetched in ${fetched} s, checked in ` +
      `${looked}, served in ${served}`
  );
}

async function serve(manifest, found) {
  const began = Date.now();
  const databases = ["account.sqlite", "sequencer.sqlite", ...storeOf(manifest, found.left)];
  const before = drill ? null : migrations(databases);
  const server = new Server(copy);
  try {
    await server.start();
    let served = 0;
    const accounts = new Set(manifest.accounts);
    for (const [did, known] of Object.entries(manifest.repositories)) {
      if (!accounts.has(did)) {
        // A server that is killed while it creates an account leaves this behind, and never serves it.
        console.log(`note: ${did} has a repository and no account`);
        continue;
      }
      if (found.left?.includes(did)) continue; // a finding of the first half
      const lost = found.lost?.[did] ?? [];
      const wrong = await wrongWith(server, did, found.damaged?.includes(did) ? null : known, manifest.blobs === "disk" && lost);
      found.problems.push(...wrong.map((problem) => `${did}: ${problem}`));
      served++;
    }
    found.served = (Date.now() - began) / 1000;
    console.log(`${served} repositories served by the server on the copy: ${found.problems.length} faults`);
  } catch (error) {
    found.problems.push(`on the copy: ${error.message}`);
  } finally {
    await server.stop();
  }
  if (drill || found.problems.length > 0) return;
  for (const name of migrations(databases)) if (!before.includes(name)) console.log(`MIGRATES ${name}`);
}

/** The database of the first account that is served: each account's has the same migrations. */
function storeOf(manifest, left = []) {
  const did = manifest.accounts.find((did) => did in manifest.repositories && !left.includes(did));
  return did ? [path.join(home(did), "store.sqlite")] : [];
}

/** The applied migrations of these databases of the server, as "account.sqlite 007". */
function migrations(databases) {
  const app = createRequire(path.join(process.cwd(), "x.js"));
  const Database = createRequire(app.resolve("@atproto/pds/package.json"))("better-sqlite3");
  return databases.flatMap((name) => {
    const db = new Database(path.join(copy, name), { fileMustExist: true });
    try {
      const names = db.prepare("select name from kysely_migration order by name").pluck().all();
      return names.map((migration) => `${path.basename(name)} ${migration}`);
    } finally {
      db.close();
    }
  });
}

/** Unserved parts of an account. `known` is null if records are lost; `lost` are blobs, or false for no check. */
async function wrongWith(server, did, known, lost) {
  // A connection that ended while a large repository was read fails only at the next request, so that one is repeated.
  const ask = (method, parameters) => {
    const url = `${server.url}/xrpc/com.atproto.sync.${method}?${new URLSearchParams(parameters)}`;
    return fetch(url).catch(() => fetch(url));
  };
  const answer = await ask("getRepo", { did });
  if (!answer.ok) {
    const { error } = await answer.json();
    return statuses.includes(error) ? [] : [`its repository is not served: ${error}`];
  }
  const wrong = [];
  const file = path.join(scratch, "served.car");
  try {
    await pipeline(answer.body, fs.createWriteStream(file));
    if (known) wrong.push(...carProblems(file, did, known));
  } catch (error) {
    if (known) wrong.push(`what is served is not a repository: ${error.message}`);
  }
  const kept = lost ? read(path.join(copy, home(did), "store.sqlite"), keptBlobs) : [];
  for (const cid of kept) {
    if (lost.includes(cid) || fs.existsSync(path.join(copy, "blocks", "quarantine", did, cid))) continue; // taken down
    const blob = await ask("getBlob", { did, cid });
    const hash = crypto.createHash("sha256");
    if (!blob.ok) wrong.push(`blob ${cid} is not served: ${(await blob.json()).error}`);
    else await pipeline(blob.body, hash);
    if (blob.ok && !isDigestOf(cid, hash.digest())) wrong.push(`blob ${cid} is served as something else`);
  }
  return wrong;
}

function carProblems(file, did, known) {
  const car = openCar(file);
  try {
    if (car.root !== known.cid) return [`${car.root} is served, the manifest says ${known.cid}`];
    const { verifier } = publicKey(fs.readFileSync(path.join(copy, home(did), "key")));
    const wrong = [];
    for (const { text } of problems({ ...car, rev: known.rev, did, verifier })) {
      if (wrong.push(text) === NAMED) break; // all of a million records can differ
    }
    return wrong;
  } finally {
    car.close();
  }
}

main().catch((error) => {
  outcome("drill", [error.message], {});
  console.error(`FAILED: ${error.stack}`);
  process.exit(1);
});
