// Records deletions, takedowns and deactivations, in a list that only grows and is not part of any snapshot.
//
// A restore returns to the time of its snapshot, and so would bring back accounts that were deleted or taken down
// since. The server reports both in its event stream; this program keeps those lines. The list is on the volume,
// outside of what a restore replaces, and is copied to the bucket beside the snapshots, because the volume may be lost.
"use strict";

const fs = require("node:fs");
const { decode } = require("./repository.cjs");

const LIST = ".departures.jsonl";

/** The lines of a list, without those that a crash or a bad disk damaged. */
function lines(file) {
  if (!fs.existsSync(file)) return [];
  const text = fs.readFileSync(file, "utf8");
  return text.split("\n").slice(0, -1).flatMap(parsed);
}

function parsed(line) {
  try {
    const found = JSON.parse(line);
    return typeof found?.did === "string" && typeof found.time === "string" ? [found] : [];
  } catch {
    return [];
  }
}

/**
 * Events about accounts in a sequencer database that are not in `list`. The database may be in use. If it was lost, the
 * server numbers from 1 again: an event is new by its number, or by its time.
 */
function events(sequencer, list = []) {
  const last = list.at(-1);
  return sequencer
    .prepare("select seq, did, event, sequencedAt from repo_seq where eventType = 'account' and (seq > ? or sequencedAt > ?) order by seq")
    .all(last?.seq ?? 0, last?.time ?? "")
    .map(({ seq, did, event, sequencedAt }) => {
      const { active, status } = decode(event);
      return { seq, time: sequencedAt, did, status: active ? "active" : status };
    });
}

/** All lists without duplicates. "Active" counts only if the account was not active before. */
function merged(...lists) {
  const left = new Set();
  const all = new Map(lists.flat().map((line) => [`${line.time} ${line.seq} ${line.did}`, line]));
  return [...all.values()]
    .sort((one, other) => (one.time < other.time ? -1 : one.time > other.time ? 1 : one.seq - other.seq))
    .filter(({ did, status }) => (status === "active" ? left.has(did) : left.add(did)));
}

/** Adds new events of a sequencer database to the list. */
function append(file, sequencer) {
  const before = lines(file);
  const now = merged(before, events(sequencer, before));
  if (now.length > before.length) write(file, now);
}

/** Writes to a temporary file and renames it, so that a crash leaves the old list or the new one. */
function write(file, list) {
  const text = list.map((line) => JSON.stringify(line) + "\n").join("");
  fs.writeFileSync(`${file}.next`, text, { mode: 0o600, flush: true });
  fs.renameSync(`${file}.next`, file);
}

/** DID to its last status since `moment` (ISO 8601): "deleted", "takendown", "suspended", "deactivated" or "active". */
function since(list, moment) {
  return new Map(list.filter(({ time }) => time >= moment).map(({ did, status }) => [did, status]));
}

module.exports = { LIST, append, events, lines, merged, since, write };
