// The place of a PDS's blobs: the volume, or one bucket. DATA/.pds-blobs.json records it.
//
// The volume check compares it with the server's settings at each start. `./pds blobs` replaces it once every blob is at
// the other place. A restore leaves it as it is. With PDS_VOLUME_CHECK_BLOBS the operator says that every blob is there:
// the program copies none to or from a bucket of their own ('s3').
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { NO_FOLDER, entries, writeWhole } = require("./files.cjs");

const FILE = ".pds-blobs.json";
const COMMAND = "`./pds blobs STACK --to";

/** The place of the server's settings: { store: "disk" } or { store: "bucket", bucket }. */
function ofServer() {
  const bucket = process.env.PDS_BLOBSTORE_S3_BUCKET;
  return bucket ? { store: "bucket", bucket } : { store: "disk" };
}

/** The recorded place; null if none is recorded yet. Throws if the file cannot be read. */
function recorded(data) {
  const file = path.join(data, FILE);
  return fs.existsSync(file) ? JSON.parse(fs.readFileSync(file, "utf8")) : null;
}

/** Why a server must not look for blobs at `place`: the problem and a remedy; null if it may. */
function fault(data, place) {
  if (process.env.PDS_VOLUME_CHECK_BLOBS === (place.bucket ?? "disk")) return null;
  let known;
  try {
    known = recorded(data);
  } catch (error) {
    return [`${FILE} on the volume cannot be read (${error.message}).`, `Run ${COMMAND} bucket\` or ${COMMAND} disk\`.`];
  }
  // Without a record, and before the first blob, they can be anywhere.
  const there = known?.store === "bucket" ? known : { store: "disk" };
  if (same(there, place)) return null;
  if (there.store === "disk") {
    if (!hasBlobs(data)) return null;
    return [
      `the blobs of this PDS are on the volume, and its settings name the bucket ${place.bucket}.`,
      `${COMMAND} bucket\` copies them. ${byHand(place)}`,
    ];
  }
  const wanted = place.store === "disk" ? "name the volume" : `name the bucket ${place.bucket}`;
  return [
    `the blobs of this PDS are in the bucket ${there.bucket}, and its settings ${wanted}.`,
    `Name that bucket again. ${COMMAND} disk\` copies them to the volume. ${byHand(place)}`,
  ];
}

/** What to do after a move to or from a bucket of one's own. The place is named as in the stack's state. */
function byHand(place) {
  const [, host] = /^\w+:\/\/([^/:]+)/.exec(process.env.PDS_BLOBSTORE_S3_ENDPOINT) ?? [];
  const name = place.bucket ? `s3 bucket ${place.bucket} at ${host}` : "disk";
  return `With a bucket of your own ('s3') copy them yourself, then start with \`PDS_BLOBS_MOVED='${name}' pulumi up\`.`;
}

function same(one, other) {
  return one.store === other.store && one.bucket === other.bucket;
}

/** Records that the blobs are at `place`. */
function record(data, place) {
  const file = path.join(data, FILE);
  const text = JSON.stringify(place) + "\n";
  if (fs.existsSync(file) && fs.readFileSync(file, "utf8") === text) return;
  writeWhole(file, text);
}

/** Whether any blob is on the volume. */
function hasBlobs(data) {
  const blocks = path.join(data, "blocks");
  return [blocks, path.join(blocks, "quarantine")].some((folder) =>
    entries(folder, NO_FOLDER).some((did) => did.startsWith("did:") && entries(path.join(folder, did), NO_FOLDER).length > 0)
  );
}

module.exports = { FILE, fault, ofServer, record, recorded, same };
