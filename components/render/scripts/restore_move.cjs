// What the restore of a move refuses and `./pds restore` does not: newer data on the volume, and accounts that would not
// arrive as the old host has them. The old host still has everything then, and its server can be started again.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { LOSSES, read, sentences } = require("./account_check.cjs");
const { writeWhole } = require("./files.cjs");
const { Refused, asked, data, dids, say } = require("./restore_request.cjs");
const { places } = require("./restore_swap.cjs");

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

/** Whether a server has ever run on the data of this volume: each makes its lock at its start, and a restore leaves it. */
function hasServed() {
  return fs.existsSync(path.join(data, ".run-status", "server-lock.sqlite"));
}

/**
 * Refuses a snapshot that is older than the data on the volume, whose last event is `newest`. A server that is moved
 * continues the numbers of its events, so data of an earlier stay are behind. Data that a restore left are ahead, up to
 * the last event of that restore, or without a server's lock if the restore did not note that.
 */
function refuseNewerData(newest, manifest) {
  if (asked("old_data") !== "no") return;
  if (newest <= Math.max(manifest.sequence, restoredUpTo()) || !hasServed()) {
    say("data on this volume", "none that are newer than the backup"); // `cli/move/arrival.py` reads it
    return;
  }
  throw new Refused(
    `NEWER DATA: a server has run on the data of this volume. Their last event is number ${newest}, and that of the backup ` +
      `of ${manifest.started} is ${manifest.sequence}. The stack file may be of an older checkout, and the PDS may have moved ` +
      "here already. Nothing was changed. Use the newest stack file. Only if the data on this volume are obsolete: run " +
      "`pulumi config rm --path move:note.newer --stack STACK`, then go back with `./pds move STACK` and the old host as " +
      "'--to', which renames and keeps them. Then move again."
  );
}

/** Whether the bucket did not give all of the snapshot (fetch.sh). */
function fetchedDamaged() {
  if (asked("from") === "volume") return false;
  try {
    return JSON.parse(fs.readFileSync(path.join(places(data).place, "fetched.json"), "utf8")).damaged === "yes";
  } catch {
    return false;
  }
}

/** Why the account would not arrive as the old host has it; null if it would, or if its losses are the old host's. */
function lossOf(did, { manifest }, { chosen, leftOut }, damaged) {
  if (leftOut.has(did)) return leftOut.get(did);
  const { of, instead, verdict } = chosen.get(did) ?? {};
  if (of || instead) return `the only whole copy is of ${of ?? "the data on this volume"}${instead ? `: ${instead}` : ""}`;
  if (!damaged || verdict?.state !== LOSSES || manifest.findings[did]?.state === LOSSES) return null;
  return `the bucket has lost a part of it: ${sentences(verdict)[0]}`;
}

/** With `whole`, refuses to replace the data if an account but those in `without` would be missing or be an older one. */
function refuseLosses(found, accounts) {
  if (asked("whole") !== "yes") return;
  const damaged = fetchedDamaged();
  const expected = found.manifest.accounts.filter((did) => !dids("without").includes(did));
  const losses = expected.map((did) => [did, lossOf(did, found, accounts, damaged)]).filter(([, why]) => why);
  if (losses.length === 0) return;
  throw new Refused(
    `${losses.length} of ${found.manifest.accounts.length} accounts would not arrive as they are on the old host. Nothing was ` +
      `changed.\n  ${losses.map((loss) => loss.join(": ")).join("\n  ")}\n` +
      `To move without them: ${losses.map(([did]) => `--without ${did}`).join(" ")}`
  );
}

module.exports = { note, refuseLosses, refuseNewerData };
