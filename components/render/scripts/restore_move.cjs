// What the restore of a move refuses and `./pds restore` does not: newer data on the volume.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { read } = require("./account_check.cjs");
const { writeWhole } = require("./files.cjs");
const { Refused, asked, data } = require("./restore_request.cjs");

const RESTORED = ".pds-restored.json"; // beside the restored data: the last event that the restore itself wrote

/** Notes in `next` the last event of the restored data: with a later one, a server has run on them. */
function note(next) {
  const file = path.join(next, "sequencer.sqlite");
  const sequence = read(file, (db) => db.prepare("select coalesce(max(seq), 0) from repo_seq").pluck().get());
  writeWhole(path.join(next, RESTORED), JSON.stringify({ sequence }) + "\n");
}

function restoredUpTo() {
  try {
    return JSON.parse(fs.readFileSync(path.join(data, RESTORED), "utf8")).sequence ?? 0;
  } catch {
    return 0; // no restore made these data
  }
}

/**
 * Refuses a snapshot that is older than the data on the volume, whose last event is `newest`. A server that is moved
 * continues the numbers of its events, so data of an earlier stay are behind. Data that an unrecorded restore left are
 * ahead, up to the last event of that restore.
 */
function refuseNewerData(newest, manifest) {
  if (asked("old_data") !== "no" || newest <= Math.max(manifest.sequence, restoredUpTo())) return;
  throw new Refused(
    `NEWER DATA: a server has run on the data of this volume. Their last event is number ${newest}, and that of the backup ` +
      `of ${manifest.started} is ${manifest.sequence}. The stack file may be of an older checkout, and the PDS may have moved ` +
      "here already. Nothing was changed. Use the newest stack file. Only if the data on this volume are obsolete: remove the " +
      "club from the 'clubs' of this host and run `pulumi up` there, which renames and keeps the data. Then add it again, and " +
      "repeat the move."
  );
}

module.exports = { note, refuseNewerData };
