// Leaves behind when a backup or drill first and last went well, and whether it went wrong since, for the job that
// watches: DATA/.stamps/NAME.json. Run by itself it is the last task of a backup, after the one that sends, which may
// not write there. Nomad does not run it after a snapshot that failed; snapshot.cjs says so itself.
"use strict";

const fs = require("node:fs");
const path = require("node:path");

const folder = path.join(process.env.PDS_DATA_DIRECTORY, ".stamps");

/**
 * Note that `name` went well (no `problems`), or what went wrong; `more` is kept of what went well. Something may be
 * wrong beside a `good` one.
 */
function stamp(name, problems, more = {}, good = problems.length === 0) {
  const file = path.join(folder, `${name}.json`);
  const now = new Date().toISOString();
  let before = {};
  try {
    before = JSON.parse(fs.readFileSync(file, "utf8"));
  } catch {
    // None yet, or one that a crash left empty.
  }
  const after = {
    ...(good ? { first: before.first ?? now, good: now, ...more } : before),
    ...(problems.length > 0 && { failed: now, why: problems[0] }),
  };
  fs.mkdirSync(folder, { recursive: true, mode: 0o700 });
  fs.writeFileSync(`${file}.next`, JSON.stringify(after) + "\n", { flush: true });
  fs.renameSync(`${file}.next`, file);
}

module.exports = { stamp };

if (require.main === module) {
  const [sent, checked] = ["sent", "checked"].map((name) =>
    fs.existsSync(path.join(process.env.NOMAD_ALLOC_DIR, "data", name))
  );
  const problems = [];
  if (!sent) problems.push("the snapshot was not sent");
  else if (!checked) problems.push("it was sent; thinning out, or reading a part of the bucket back, went wrong");
  stamp("backup", problems, {}, sent);
}
