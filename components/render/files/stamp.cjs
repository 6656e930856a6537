// Leaves behind when a backup or drill first and last went well, and whether it went wrong since, for the job that
// watches: DATA/.stamps/NAME.json. Run by itself it is the last task of a backup, after the one that sends, which may
// not write there.
"use strict";

const fs = require("node:fs");
const path = require("node:path");

const folder = path.join(process.env.PDS_DATA_DIRECTORY, ".stamps");

/** Note that `name` went well (no `problems`), or what went wrong; `more` is kept of what went well. */
function stamp(name, problems, more) {
  const file = path.join(folder, `${name}.json`);
  const now = new Date().toISOString();
  let before = {};
  try {
    before = JSON.parse(fs.readFileSync(file, "utf8"));
  } catch {
    // None yet, or one that a crash left empty.
  }
  const failed = { ...before, failed: now, why: problems[0] };
  const after = problems.length > 0 ? failed : { first: before.first ?? now, good: now, ...more };
  fs.mkdirSync(folder, { recursive: true, mode: 0o700 });
  fs.writeFileSync(`${file}.next`, JSON.stringify(after) + "\n", { flush: true });
  fs.renameSync(`${file}.next`, file);
}

module.exports = { stamp };

if (require.main === module) {
  const sent = fs.existsSync(path.join(process.env.NOMAD_ALLOC_DIR, "data", "sent"));
  stamp("backup", sent ? [] : ["no snapshot was made, or it was not sent"], {});
}
