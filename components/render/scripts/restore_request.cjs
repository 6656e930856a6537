// The parts that a restore of a whole server (restore.cjs) and of one account (restore_one.cjs) share: its parameters,
// its output, exclusive access to the data, and running the server's code.
"use strict";

const { fork } = require("node:child_process");
const fs = require("node:fs");
const path = require("node:path");
const { Killed, LOSSES, NOT, WHOLE, sentences } = require("./account_check.cjs");
const exclusive = require("./exclusive.cjs");
const { places } = require("./restore_swap.cjs");
const { IDENTITY_FILE } = require("./verify.cjs");

const NAMED = 20; // losses of one account

const { Refused } = exclusive;
const hostname = process.env.PDS_HOSTNAME;
const data = process.env.PDS_DATA_DIRECTORY;
const plc = process.env.PDS_DID_PLC_URL;
const relays = (process.env.PDS_CRAWLERS ?? "").split(",").filter(Boolean);
const olderAreThere = process.env.OLDER_BACKUPS === "true"; // a task that has the key of the backups (fetch_older.sh)

/** The operator's parameter (Nomad's meta of a dispatched job): a text, or a list of DIDs. */
const asked = (name) => process.env[`NOMAD_META_${name}`] ?? "";
const dids = (name) => asked(name).split(" ").filter(Boolean);

function say(what, text) {
  console.log(`${what.padEnd(28)} ${text}`);
}

function whose() {
  return { hostname, rotation_public_key: asked("rotation_public_key") || identityOfVolume() };
}

function identityOfVolume() {
  const identityFile = path.join(data, IDENTITY_FILE);
  try {
    return fs.existsSync(identityFile) ? JSON.parse(fs.readFileSync(identityFile, "utf8")).rotation_public_key : null;
  } catch (error) {
    console.log(`note: ${IDENTITY_FILE} on the volume cannot be read (${error.message}); the snapshot has its own`);
    return null;
  }
}

/** Refuses a backup whose blobs this stack cannot bring back: `./pds restore` does so after the data are restored. */
function refuseLostBlobs({ blobs }) {
  if (blobs !== "bucket" || process.env.BLOBS_SERVE) return;
  throw new Refused(
    "the blobs of this backup are separate copies, and the stack has no 'blobs' to restore them to. Nothing was changed. " +
      "Set 'blobs.bucket', and 'blobs.serve' to disk to have them on the volume. Then run `pulumi up`."
  );
}

/** Prints one line for all intact accounts, and one for each other account. Returns those that are not restorable. */
function tell({ manifest, verdicts, notes }) {
  const counts = { [WHOLE]: 0, [LOSSES]: 0, [NOT]: 0 };
  for (const verdict of verdicts.values()) counts[verdict.state]++;
  say("snapshot", `of ${manifest.started}, ${Object.entries(counts).map(([state, count]) => `${count} ${state}`).join(", ")}`);
  for (const note of notes) console.log(`note: ${note}`);
  for (const [did, { state, what }] of Object.entries(manifest.findings)) {
    if (!verdicts.has(did) || verdicts.get(did).state === WHOLE) console.log(`note: at the backup, ${did}: ${state}: ${what}`);
  }
  for (const [did, verdict] of verdicts) if (verdict.state === LOSSES) tellLosses(did, verdict);
  const broken = [...verdicts].filter(([, { state }]) => state === NOT);
  for (const [did, verdict] of broken) console.log(`NOT RESTORABLE: ${did}: ${sentences(verdict).join("; ")}`);
  return broken.map(([did]) => did);
}

function tellLosses(did, verdict) {
  const all = sentences(verdict);
  for (const text of all.slice(0, NAMED)) console.log(`WITH LOSSES: ${did}: ${text}`);
  if (all.length > NAMED) console.log(`WITH LOSSES: ${did}: and ${all.length - NAMED} more`);
}

// --- exclusive access to the data

function alone() {
  exclusive.alone(data);
}

/** Refuses a running server. Old data that cannot be read are not a reason: they are kept as they are. */
function notServing() {
  try {
    notServing.held = exclusive.stopped(data);
  } catch (error) {
    if (error instanceof Refused) throw error;
    console.log(`note: the old account.sqlite cannot be read (${error.message}); it is kept as it is`);
  }
}

/** Runs restore_server.cjs, which uses the server's code, on the `job`. Returns its outcome. */
function onTheServer(job) {
  return new Promise((resolve, reject) => {
    const child = fork(path.join(__dirname, "restore_server.cjs"), { stdio: ["ignore", "inherit", "inherit", "ipc"] });
    child.on("message", ({ error, refused, told, ...done }) => {
      if (error) reject(Object.assign(refused ? new Refused(error) : new Error(error), { told }));
      else resolve(done);
    });
    child.on("error", reject);
    child.on("exit", (code, signal) => reject(new Killed("the restored data", signal ?? code)));
    child.send(job);
  });
}

function repairs(chosen) {
  return [...chosen].filter(([, { verdict }]) => verdict.records.length > 0 || verdict.rebuild).map(([did, { verdict }]) => [did, verdict]);
}

module.exports = {
  Refused,
  alone,
  asked,
  data,
  dids,
  hostname,
  notServing,
  olderAreThere,
  onTheServer,
  plc,
  refuseLostBlobs,
  relays,
  repairs,
  say,
  tell,
  tellLosses,
  whose,
};
