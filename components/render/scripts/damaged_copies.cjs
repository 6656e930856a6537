// The copies of blobs that a drill could not decrypt, or whose content is not the blob: DATA/.snapshot/damaged-copies.json.
// The last task of a drill writes them (serve.cjs), and the next backup makes them again (backup_blobs.cjs).
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { writeWhole } = require("./files.cjs");

const file = (data) => path.join(data, ".snapshot", "damaged-copies.json");

/** Their names, as blob_stores.cjs has them. */
function read(data) {
  try {
    return JSON.parse(fs.readFileSync(file(data), "utf8"));
  } catch {
    return []; // none yet; the next drill writes them again
  }
}

function write(data, names) {
  fs.mkdirSync(path.dirname(file(data)), { recursive: true, mode: 0o700 });
  writeWhole(file(data), JSON.stringify(names));
}

module.exports = { read, write };
