// The status of a stack's backups and drills, for the alerts job and `./pds check`: DATA/.run-status/NAME.json.
//
// `first`, `good`, `failed`: when a run first and last succeeded, and when the last one failed, with `why`. `began`: a
// run that has begun and not ended; a killed run leaves it behind. `findings`: faults of single accounts, which fail no
// run. Run by itself it is the last task of a backup, after the tasks that send, one of which may not write there. Nomad
// does not run it after a failed snapshot; snapshot.cjs then ends the run itself. It fails if the blobs were not copied:
// the task that copies them may not fail, because Nomad would end the one that sends. DATA/.run-status/repository names the
// repository that has the last backup: its address, and restic's ID of it. The next run has to find the same (send.sh).
"use strict";

const fs = require("node:fs");
const path = require("node:path");

const LONGEST = 500; // characters of a reason: it is part of a line of `./pds check` and of a message
const folder = path.join(process.env.PDS_DATA_DIRECTORY, ".run-status");

/** Records that a run of `name` has begun. A run that was still under way was killed, and counts as failed. */
function begin(name) {
  const before = load(name);
  const now = new Date().toISOString();
  save(name, { ...before, ...(before.began && killed(before.began)), began: now });
}

function killed(began) {
  return { failed: began, why: `the run that began at ${began} never ended: it was killed` };
}

/**
 * Records that `name` succeeded (no `problems`), or its problems; `more` is kept with a success. A `good` run may have
 * problems too.
 */
function end(name, problems, more = {}, good = problems.length === 0) {
  const { began: _ended, ...before } = load(name);
  const now = new Date().toISOString();
  save(name, {
    ...(good ? { first: before.first ?? now, good: now, ...more } : before),
    ...(problems.length > 0 && { failed: now, why: problems[0].replace(/\s+/g, " ").trim().slice(0, LONGEST) }),
  });
}

function load(name) {
  try {
    return JSON.parse(fs.readFileSync(path.join(folder, `${name}.json`), "utf8"));
  } catch {
    return {}; // none yet, or one that a crash left empty
  }
}

function save(name, content) {
  write(`${name}.json`, JSON.stringify(content) + "\n");
}

function write(name, text) {
  const file = path.join(folder, name);
  fs.mkdirSync(folder, { recursive: true, mode: 0o700 });
  fs.writeFileSync(`${file}.next`, text, { flush: true });
  fs.renameSync(`${file}.next`, file);
}

module.exports = { begin, end, killed, load, save };

if (require.main === module) {
  const [sent, checked] = ["sent", "checked"].map((name) => path.join(process.env.NOMAD_ALLOC_DIR, "data", name)).map(fs.existsSync);
  if (sent) write("repository", fs.readFileSync(path.join(process.env.NOMAD_ALLOC_DIR, "data", "sent"), "utf8"));
  const problems = [];
  if (!sent) problems.push("the snapshot was not sent");
  else if (!checked) problems.push("it was sent; the removal of old backups, or the check of a part of the bucket, failed");
  const copied = blobs();
  problems.push(...copied.problems);
  end("backup", problems, findings(copied.findings), sent && copied.problems.length === 0);
  if (copied.problems.length > 0) process.exitCode = 1;
}

/** The outcome of the task that copies the bucket's blobs (backup_blobs.cjs), if there is one. */
function blobs() {
  if (process.env.BLOBS_COPIED !== "true") return { problems: [], findings: {} };
  try {
    return JSON.parse(fs.readFileSync(path.join(process.env.NOMAD_ALLOC_DIR, "data", "blobs.json"), "utf8"));
  } catch {
    return { problems: ["the blobs in the bucket were not copied: the task that copies them was killed"], findings: {} };
  }
}

function findings(more) {
  try {
    const file = path.join(process.env.PDS_DATA_DIRECTORY, ".snapshot", "current", "manifest.json");
    return { findings: { ...more, ...JSON.parse(fs.readFileSync(file, "utf8")).findings } };
  } catch {
    return {};
  }
}
