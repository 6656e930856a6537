// The place of a PDS's blobs: the volume, or one bucket. DATA/.pds-blobs.json records it.
//
// The volume check compares it with the server's settings at each start. `./pds blobs` replaces it once every blob is at
// the other place. A restore leaves it as it is.
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
      `${COMMAND} bucket\` copies them. In the bucket of 's3' the program copies none: remove 's3'.`,
    ];
  }
  const wanted = place.store === "disk" ? "name the volume" : `name the bucket ${place.bucket}`;
  return [
    `the blobs of this PDS are in the bucket ${there.bucket}, and its settings ${wanted}.`,
    `Name that bucket again. ${COMMAND} disk\` copies them to the volume.`,
  ];
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
