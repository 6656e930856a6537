// The status of a stack's backups, drills and alerts, for the alerts job and `./pds check`: DATA/.run-status/NAME.json.
//
// `first`, `good`, `failed`: when a run first and last succeeded, and when the last one failed, with `why`. `began`: a
// run that has begun and not ended; a killed run leaves it behind. `findings`: faults of single accounts, which fail no
// run; `checked`: when they were found, also by a run that failed then. Run by itself it is the last task of a backup,
// after the tasks that send, one of which may not write there. Nomad does not run it after a failed snapshot; snapshot.cjs
// then ends the run itself. It fails if the blobs were not copied: the task that copies them may not fail, because Nomad
// would end the one that sends. DATA/.run-status/repository names the repository that has the last backup: its address,
// and restic's ID of it. The next run has to find the same (send.sh).
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { writeWhole } = require("./files.cjs");

const LONGEST = 500; // characters of a reason: it is part of a line of `./pds check` and of a message
const NAMED = 3; // problems in a reason
const folder = path.join(process.env.PDS_DATA_DIRECTORY, ".run-status");

/** Records that a run of `name` has begun. A run that was still under way was killed, and counts as failed. */
function begin(name) {
  const before = load(name);
  const killed = { failed: before.began, why: `the run that began at ${before.began} never ended: it was killed` };
  save(name, { ...before, ...(before.began && killed), began: new Date().toISOString() });
}

/**
 * Records that `name` succeeded (no `problems`), or its problems; `more` is kept with a success. A `good` run may have
 * problems too. `findings` are kept in any case: a fault of an account is one whether or not its backup was sent.
 */
function end(name, problems, { findings, ...more } = {}, good = problems.length === 0) {
  const { began: _ended, ...before } = load(name);
  const now = new Date().toISOString();
  save(name, {
    ...(good ? { first: before.first ?? now, good: now, ...more } : before),
    ...(findings ? { findings, checked: now } : { findings: before.findings, checked: before.checked }),
    ...(problems.length > 0 && { failed: now, why: reason(problems) }),
  });
}

function reason(problems) {
  const named = problems.slice(0, NAMED);
  const texts = named.map((text) => text.replace(/\s+/g, " ").trim().slice(0, Math.floor(LONGEST / named.length)));
  return texts.join("; ") + (problems.length > NAMED ? `; and ${problems.length - NAMED} more` : "");
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
  fs.mkdirSync(folder, { recursive: true, mode: 0o700 });
  writeWhole(path.join(folder, name), text);
}

module.exports = { begin, end, load, save };

if (require.main === module) {
  const [sent, checked] = ["sent", "checked"].map((name) => path.join(process.env.NOMAD_ALLOC_DIR, "data", name)).map(fs.existsSync);
  if (sent) write("repository", fs.readFileSync(path.join(process.env.NOMAD_ALLOC_DIR, "data", "sent"), "utf8"));
  const problems = [];
  if (!sent) problems.push("the snapshot was not sent");
  else if (!checked) problems.push("it was sent; the removal of old backups, or the check of a part of the bucket, failed");
  const copied = blobs();
  const areCopied = copied.problems.length === 0;
  problems.push(...copied.problems);
  end("backup", problems, findings(areCopied ? copied.findings : knownOfBlobs()), sent && areCopied);
  if (!areCopied) process.exitCode = 1;
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

/** The findings of the last copy of the blobs: a copy that failed did not look for them. */
function knownOfBlobs() {
  return Object.fromEntries(Object.entries(load("backup").findings ?? {}).filter(([, { blobs }]) => blobs));
}

/** The findings of this run's snapshot; none if the manifest is of an earlier one. */
function findings(more) {
  try {
    const file = path.join(process.env.PDS_DATA_DIRECTORY, ".snapshot", "current", "manifest.json");
    const manifest = JSON.parse(fs.readFileSync(file, "utf8"));
    const { began } = load("backup");
    return began && manifest.finished < began ? {} : { findings: { ...more, ...manifest.findings } };
  } catch {
    return {};
  }
}
