// The accounts that the last restore left out, though a backup may have them whole: DATA/.run-status/left_out, one DID a
// line. A restore onto another volume leaves the last snapshot behind, from which a backup knows that elsewhere.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { writeWhole } = require("./files.cjs");
const { NOT } = require("./account_check.cjs");

const file = (data) => path.join(data, ".run-status", "left_out");

/** Records those of `dids` that the backup with this manifest, or one before it, had whole. */
function record(data, dids, { accounts, repositories, findings }) {
  const had = (did) => findings[did]?.state !== NOT || findings[did].older || repositories[did]?.of;
  const lines = dids.filter((did) => accounts.includes(did) && had(did)).map((did) => `${did}\n`);
  fs.mkdirSync(path.dirname(file(data)), { recursive: true, mode: 0o700 });
  writeWhole(file(data), lines.join(""));
}

function recorded(data) {
  try {
    return fs.readFileSync(file(data), "utf8").split("\n").filter(Boolean);
  } catch (error) {
    if (error.code === "ENOENT") return [];
    throw error;
  }
}

module.exports = { record, recorded };
