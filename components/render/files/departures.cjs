// Who left: deletions, takedowns and deactivations, as a list that only grows and is no part of any snapshot.
//
// A restore brings back what was true when the snapshot was made, and so would bring back whoever was deleted or taken
// down since. The server tells of both in its event stream; this keeps those lines. The list is on the volume, outside
// of what a restore replaces, and goes to the bucket beside the snapshots, since the volume may be what is lost.
"use strict";

const fs = require("node:fs");
const { decode } = require("./repository.cjs");

const LIST = ".departures.jsonl";

/** The lines of a list; what a crash or a bad disk left of a line is left out. */
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

/** Events about accounts in an open sequencer database, after number `after`: in use or not. */
function events(sequencer, after) {
  return sequencer
    .prepare("select seq, did, event, sequencedAt from repo_seq where eventType = 'account' and seq > ? order by seq")
    .all(after)
    .map(({ seq, did, event, sequencedAt }) => {
      const { active, status } = decode(event);
      return { seq, time: sequencedAt, did, status: active ? "active" : status };
    });
}

/** Both, without what is there twice. That somebody is in use is of interest only where she was not before. */
function merged(...lists) {
  const left = new Set();
  const all = new Map(lists.flat().map((line) => [`${line.seq} ${line.did}`, line]));
  return [...all.values()]
    .sort((one, other) => one.seq - other.seq)
    .filter(({ did, status }) => (status === "active" ? left.has(did) : left.add(did)));
}

/** Add what a sequencer database knows and the list does not. */
function append(file, sequencer) {
  const before = lines(file);
  const now = merged(before, events(sequencer, before.at(-1)?.seq ?? 0));
  if (now.length > before.length) write(file, now);
}

/** Written aside and renamed, so that a crash leaves the old list or the new one. */
function write(file, list) {
  const text = list.map((line) => JSON.stringify(line) + "\n").join("");
  fs.writeFileSync(`${file}.next`, text, { mode: 0o600, flush: true });
  fs.renameSync(`${file}.next`, file);
}

/** DID to its last word since `moment` (ISO 8601): "deleted", "takendown", "suspended", "deactivated" or "active". */
function since(list, moment) {
  return new Map(list.filter(({ time }) => time >= moment).map(({ did, status }) => [did, status]));
}

module.exports = { LIST, append, events, lines, merged, since, write };
