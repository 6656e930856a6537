// Records deletions, takedowns and deactivations, in a list that only grows and is not part of any snapshot.
//
// A restore returns to the time of its snapshot, and so would bring back accounts that were deleted or taken down
// since. The server reports both in its event stream; this program keeps those lines. The list is on the volume,
// outside of what a restore replaces, and is copied to the bucket beside the snapshots, because the volume may be lost.
"use strict";

const fs = require("node:fs");
const { writeWhole } = require("./files.cjs");
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
 * Events about accounts in a sequencer database: those after the last line of `list`. A database without that line was
 * lost or restored since, and the server numbers anew: all events then. The database may be in use.
 */
function events(sequencer, list = []) {
  const { seq: last, did: whose, time: when } = list.at(-1) ?? { seq: 0, did: "", time: "" };
  const known = "select seq from repo_seq where seq = ? and did = ? and sequencedAt = ?";
  return sequencer
    .prepare(`select seq, did, event, sequencedAt from repo_seq where eventType = 'account' and seq > coalesce((${known}), 0) order by seq`)
    .all(last, whose, when)
    .map(({ seq, did, event, sequencedAt }) => {
      const { active, status } = decode(event);
      return { seq, time: sequencedAt, did, status: active ? "active" : status };
    });
}

/** All lists without duplicates, the oldest list first. "Active" counts only if the account was not active before. */
function merged(...lists) {
  const left = new Set();
  return lists.reduce(joined, []).filter(({ did, status }) => (status === "active" ? left.has(did) : left.add(did)));
}

/**
 * Two lists as one that keeps the order of each. Neither times nor numbers suffice to sort: a clock can be set back, and
 * numbers can begin anew. A line of `later` alone follows those of `earlier` alone, unless its number and time are both smaller.
 */
function joined(earlier, later) {
  const places = new Map(earlier.map((line, index) => [keyOf(line), index]));
  const common = new Set(later.map(keyOf).filter((key) => places.has(key)));
  const all = new Map();
  let next = 0;
  const takeWhile = (condition) => {
    for (; next < earlier.length && condition(earlier[next]); next++) all.set(keyOf(earlier[next]), earlier[next]);
  };
  for (const line of later) {
    const key = keyOf(line);
    if (common.has(key)) takeWhile(() => next <= places.get(key));
    else takeWhile((other) => !common.has(keyOf(other)) && (line.seq > other.seq || line.time > other.time));
    all.set(key, line);
  }
  takeWhile(() => true);
  return [...all.values()];
}

function keyOf({ time, seq, did }) {
  return `${time} ${seq} ${did}`;
}

/** Adds new events of a sequencer database to the list. */
function append(file, sequencer) {
  const before = lines(file);
  const now = merged(before, events(sequencer, before));
  if (now.length > before.length) write(file, now);
}

function write(file, list) {
  writeWhole(file, list.map((line) => JSON.stringify(line) + "\n").join(""));
}

/**
 * DID to its last status, "deleted", "takendown", "suspended", "deactivated" or "active", if that is of `moment` (ISO 8601)
 * or later. The last line counts, although one before it can have a later time: of a clock that was ahead.
 */
function since(list, moment) {
  const last = new Map(list.map((line) => [line.did, line]));
  return new Map([...last.values()].filter(({ time }) => time >= moment).map(({ did, status }) => [did, status]));
}

module.exports = { LIST, append, events, lines, merged, since, write };
