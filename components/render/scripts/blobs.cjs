// Moves a PDS's blobs between the volume and its bucket, beside the running server; `./pds blobs` dispatches it.
//
// Nomad's meta has the step: `copy` while the server runs, as often as it takes; `finish` while it is stopped, for the
// rest, which then records the new place, so that only a server with those settings starts; `forget` removes the copies
// at the other place; `repair` brings lost blobs back from the other place or from the backups; `show` counts.
// What is damaged or missing is reported, and stops `finish` unless the operator accepts it. Nothing is deleted that
// exists nowhere else.
"use strict";

const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const blobPlace = require("./blob_place.cjs");
const { KEPT, Run, accountsIn, deletions, isFull, noRoom, rowsOf } = require("./blob_copy.cjs");
const { backupStore, bucketStore, isIntact, volumeStore } = require("./blob_stores.cjs");
const { Refused, alone, stopped } = require("./exclusive.cjs");

const PASSES = 5; // copies beside the running server
const FEW = 20; // blobs that may be left for the pause

const data = process.env.PDS_DATA_DIRECTORY;
const asked = (name) => process.env[`NOMAD_META_${name}`] ?? "";

async function main() {
  process.umask(0o077);
  os.setPriority(os.constants.priority.PRIORITY_BELOW_NORMAL);
  const [volume, bucket] = [volumeStore(data), bucketStore()];
  const places = { bucket: { store: "bucket", bucket: bucket.bucket }, disk: { store: "disk" } };
  const steps = { copy, finish, forget, repair, show };
  if (!steps[asked("step")]) throw new Refused(`there is no step '${asked("step")}'.`);
  if (fs.existsSync(path.join(data, ".restore", "swap.json")) && asked("step") !== "show") {
    throw new Refused("a restore was cut short between the old data and the new: run it again.");
  }
  await steps[asked("step")]({ volume, bucket, places, to: asked("to") });
}

/** The stores of a move to `to`. */
function direction({ volume, bucket, to }) {
  if (to !== "bucket" && to !== "disk") throw new Refused(`there is no place '${to}'.`);
  return to === "bucket" ? { from: volume, to: bucket } : { from: bucket, to: volume };
}

function refuseLosses(run, accepted) {
  if (run.losses.length === 0 || accepted) return;
  throw new Refused(
    `${run.losses.length} blobs are damaged or missing at their current location: see LOSS above. They were not copied, and nothing ` +
      "was deleted. `./pds blobs STACK --repair` restores what the backups have. `--accept-losses` moves without them."
  );
}

/** How much a copy to the volume would write, for accounts whose databases can be read. */
async function roomFor(volume) {
  const index = await volume.index();
  let bytes = 0;
  for (const did of accountsIn(data)) {
    try {
      for (const { cid, size } of rowsOf(data, did)) {
        if (index.get(`blocks/${did}/${cid}`) !== size && index.get(`quarantine/${did}/${cid}`) !== size) bytes += size;
      }
    } catch (error) {
      console.log(`note: ${did}: ${error.message}`); // a loss, when it is copied
    }
  }
  const full = noRoom(data, bytes);
  if (full) throw new Refused(full);
}

async function copy(given) {
  const { from, to } = direction(given);
  if (to === given.volume) await roomFor(given.volume);
  for (let pass = 1; pass <= PASSES; pass++) {
    const run = await new Run({ data, from, to, gently: true }).copy();
    run.tell(`pass ${pass}`);
    if (run.counts.copied > FEW && pass < PASSES) continue;
    return refuseLosses(run, asked("accept_losses"));
  }
}

async function finish(given) {
  const { from, to } = direction(given);
  alone(data); // a snapshot links the files
  const isDeleted = deletions(data); // before the lock
  stopped(data);
  if (to === given.volume) await roomFor(given.volume);
  const run = await new Run({ data, from, to }).copy();
  run.tell("the rest");
  refuseLosses(run, asked("accept_losses"));
  const removed = await run.removeUnnamed(isDeleted);
  if (removed > 0) console.log(`${removed} that were deleted since an earlier copy are removed`);
  await counted(run);
  blobPlace.record(data, given.places[given.to]);
  console.log(`the place of the blobs is ${given.to === "bucket" ? `the bucket ${given.bucket.bucket}` : "the volume"}`);
}

/** Every blob is at the target, by its own list. */
async function counted(run) {
  const lost = new Set(run.losses.map(([, , cid]) => cid));
  const index = await run.to.index();
  const absent = [...run.wanted.values()].flatMap((names) => [...names]).filter(
    (name) => !name.startsWith("tmp/") && !index.has(name) && !lost.has(name.split("/")[2])
  );
  if (absent.length > 0) throw new Error(`${absent.length} blobs that were copied are not at the target: ${absent.slice(0, 3).join(", ")}`);
}

/** Removes the copies at the place that the server no longer uses. */
async function forget({ volume, bucket, places }) {
  alone(data); // a snapshot links the files
  const here = blobPlace.recorded(data) ?? places.disk;
  const [used, old] = here.store === "bucket" ? [bucket, volume] : [volume, bucket];
  if (here.store === "bucket" && here.bucket !== bucket.bucket) throw new Refused(`the blobs are in the bucket ${here.bucket}.`);
  const [kept, index] = await Promise.all([used.index(), old.index()]);
  const [isUnnamed, isDeleted] = [unnamedBlobs(), deletions(data)];
  const [remove, stay] = [[], []];
  for (const [name, size] of index) {
    const [place, did, cid] = name.split("/");
    const other = KEPT.map((kind) => `${kind}/${did}/${cid}`).find((one) => kept.get(one) === size);
    if (place === "tmp" || isDeleted(did) || isUnnamed(did, cid)) remove.push(name);
    else if (!other) stay.push([name, "the place in use does not have it"]);
    // The last look at both: a damaged file is not deleted, and none whose other copy is damaged.
    else if (!(await isIntact(old, name, cid))) stay.push([name, "it is damaged"]);
    else if (!(await isIntact(used, other, cid))) stay.push([name, "the copy at the place in use is damaged"]);
    else remove.push(name);
  }
  await old.remove(remove);
  for (const [name, why] of stay) console.log(`KEPT: ${name}: ${why}`);
  console.log(`removed ${remove.length} old copies, kept ${stay.length}`);
}

/** Whether an account has a database that does not name the blob. */
function unnamedBlobs() {
  const named = new Map();
  for (const did of accountsIn(data)) {
    try {
      named.set(did, new Set(rowsOf(data, did).map(({ cid }) => cid)));
    } catch (error) {
      console.log(`note: ${did}: its database cannot be read (${error.message}): all of its blobs count`);
    }
  }
  return (did, cid) => named.has(did) && !named.get(did).has(cid);
}

/**
 * Brings lost blobs back to the place that the stack's settings name. Restored data on a new volume have no record of a
 * place, and the server would not start on them. A server that has run recorded one.
 */
async function repair({ volume, bucket, places }) {
  const toBucket = process.env.BLOBS_SERVE === "bucket";
  const [to, other] = toBucket ? [bucket, volume] : [volume, bucket];
  if (!toBucket) await roomFor(volume);
  const first = await new Run({ data, from: other, to, only: asked("only") }).copy();
  const backup = first.losses.length > 0 ? backupStore() : null;
  const second = backup && (await new Run({ data, from: backup, to, only: asked("only") }).copy());
  const counts = [first.counts.named, first.counts.copied, second?.counts.copied ?? 0];
  console.log(`${counts[0]} blobs, ${counts[1]} restored from the ${toBucket ? "volume" : "bucket"}, ${counts[2]} from the backups`);
  const { losses } = second ?? first;
  for (const [did, text] of losses) console.log(`WITH LOSSES: ${did}: ${text}`);
  if (!asked("only") && blobPlace.recorded(data) === null) blobPlace.record(data, toBucket ? places.bucket : places.disk);
  if (losses.length > 0) process.exitCode = 1;
}

async function show({ volume, bucket, places }) {
  const here = blobPlace.recorded(data) ?? places.disk;
  console.log(`blobs are served from ${here.store === "bucket" ? `the bucket ${here.bucket}` : "the volume"}`);
  for (const [what, store] of [["volume", volume], [`bucket ${bucket.bucket}`, bucket]]) {
    const index = await store.index();
    const bytes = [...index.values()].reduce((sum, size) => sum + size, 0);
    console.log(`${what}: ${index.size} blobs and uploads, ${(bytes / 2 ** 20).toFixed(1)} MiB`);
  }
}

main().then(
  () => process.exit(),
  (error) => {
    const full = isFull(error) ? "the volume is full. What was copied stays, and the next run continues. Raise 'volume.size_gib'." : null;
    const plain = error instanceof Refused || error.service;
    console.error(full ? `REFUSED: ${full}` : plain ? `REFUSED: ${error.message}` : `FAILED: ${error.stack}`);
    process.exit(1);
  }
);
