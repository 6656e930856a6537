// The reasons for an alarm on this host, for alerts.cjs: volume, accounts, backups and drills, and the alerts of a metrics
// store.
//
// A reason has a `text`, and a `key` without measured numbers, by which the next run knows it again. It lasts as long as
// its cause. One with `once` is sent when it is new, and again after so many milliseconds.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { load } = require("./run_status.cjs");

const HOUR = 3600000; // ms
const STUCK = 6; // hours; far longer than any backup or drill takes
const LOST = "not restorable"; // a finding's state (account_check.cjs)
const AGAIN = 7 * 24 * HOUR;

const { PDS_DATA_DIRECTORY: directory, SPACE_REMEDY: remedy } = process.env;

/** All reasons, and one line about the host for a ping without a reason. */
async function reasons() {
  let [found, summary] = [[], "volume not readable"];
  try {
    const accounts = damaged();
    [found, summary] = volume();
    found.push(...runs(), ...accounts);
    if (accounts.length > 0) summary += `, ${accounts.length} findings about accounts (./pds check)`;
    const lost = new Set(accounts.filter(({ once }) => once === AGAIN).map(({ did }) => did)).size;
    if (lost > 0) summary = `STILL: ${lost} account${lost > 1 ? "s" : ""} not restorable. ${summary}`;
  } catch (error) {
    found = [{ key: "unreadable", text: `the volume cannot be read: ${error.code ?? error.name}` }];
  }
  return [[...found, ...(await firing())], summary];
}

/** The reason if the record of this run cannot be written, as on a full volume or after an error of the file system. */
function unwritable({ code, name }) {
  const look = code === "ENOSPC" ? remedy : "see ./pds ssh STACK -- dmesg";
  return { key: "unwritable", text: `the volume cannot be written to: ${code ?? name}. Members cannot post: ${look}` };
}

function volume() {
  const disk = fs.statfsSync(directory);
  const space = percent(disk.blocks - disk.bfree, disk.bavail);
  const inodes = percent(disk.files - disk.ffree, disk.ffree);
  const count = accounts();
  const { ALERTS_VOLUME_PERCENT: most, ALERTS_ACCOUNTS: limit } = process.env;
  const found = [
    space >= most && { key: "volume", text: `the volume is ${space} % full: ${remedy}` },
    inodes >= most && { key: "inodes", text: `${inodes} % of the volume's files are used: ${remedy}` },
    count >= limit && { key: "accounts", once: Infinity, text: `${count} accounts: a relay stops at 100 until it is asked to take more` },
  ];
  return [found.filter(Boolean), `volume ${space} % full, ${count} accounts`];
}

// Like `df`: space reserved for root is neither used nor free.
function percent(used, free) {
  return used + free > 0 ? Math.ceil((100 * used) / (used + free)) : 0;
}

// One directory for each account, including deactivated and taken down ones: actors/XX/DID (actor-store of
// @atproto/pds). This never queries SQLite: counting must never hold a lock that the server waits for.
function accounts() {
  const actors = path.join(directory, "actors");
  if (!fs.existsSync(actors)) return 0;
  const names = fs.readdirSync(actors).flatMap((shard) => fs.readdirSync(path.join(actors, shard)));
  return names.filter((name) => name.startsWith("did:")).length;
}

// Uses the statuses of run_status.cjs. Before the first backup, time counts from when the identity file was written;
// before the first drill, from the first backup.
function runs() {
  const { ALERTS_BACKUP_HOURS: hours, ALERTS_DRILL_HOURS: drillHours } = process.env;
  if (!hours) return [];
  const identified = fs.statSync(path.join(directory, ".pds-identity.json"), { throwIfNoEntry: false })?.mtime;
  const [backup, drill] = ["backup", "drill"].map(status);
  return [...run("backup", backup, identified?.toISOString(), hours), ...run("drill", drill, backup.first, drillHours)];
}

/** The status of a run, in which one that began hours ago and has not ended, or a date in the future, is a failure. */
function status(name) {
  const found = load(name);
  if (Date.now() - Date.parse(found.began) > STUCK * HOUR) {
    const look = `./pds nomad STACK -- job status pds-${name}. \`job stop\` of a run that hangs lets the next one begin`;
    Object.assign(found, { failed: found.began, why: `it has not ended after ${STUCK} hours: it was killed, or it hangs. See ${look}` });
  }
  if (Date.parse(found.good) > Date.now() + HOUR) {
    Object.assign(found, { failed: found.good, good: undefined, why: "this date is in the future: the host's clock was ahead" });
  }
  return found;
}

/** A late run, or a failed one. The two have two keys: a run that fails for hours is worse than one that failed once. */
function run(name, { good, failed, why }, first, hours) {
  const since = good ?? first;
  if (Date.now() - Date.parse(since) >= hours * HOUR) {
    return [{ key: `late ${name}`, text: `no good ${name} since ${since}${failed ? `; at ${failed}: ${why}` : ""}` }];
  }
  return failed ? [{ key: name, text: `the ${name} of ${failed} failed: ${why}` }] : [];
}

/** The faults of single accounts that backups and drills found. Those of one account do not hide each other. */
function damaged() {
  const all = ["drill", "backup"].flatMap((name) => Object.entries(load(name).findings ?? {}));
  const found = new Map();
  for (const [did, { state, what }] of all) {
    const key = `${did}: ${state}: ${String(what).replace(/\d+/g, "#")}`; // without measured numbers
    found.set(key, { did, key, once: state === LOST ? AGAIN : Infinity, text: `${did}: ${state}: ${what}` });
  }
  return [...found.values()];
}

/**
 * The results of the metrics store's alert rules; none without a store. Each result of an expression is an alert
 * (rules.yaml). The password suffices to read and delete metrics, so no error is printed as a whole.
 */
async function firing() {
  const { ALERTS_METRICS: store, METRICS_PASSWORD: password } = process.env;
  if (!store) return [];
  const silent = (what) => [{ key: "metrics store", text: `the metrics store ${what}` }];
  const headers = { authorization: `Basic ${Buffer.from(`pds:${password}`).toString("base64")}` };
  try {
    const found = new Map();
    for (const rule of JSON.parse(fs.readFileSync(path.join(__dirname, "rules.json"), "utf8"))) {
      const body = new URLSearchParams({ query: rule.expr });
      const answer = await fetch(`${store}/api/v1/query`, { method: "POST", body, headers, signal: AbortSignal.timeout(10000) });
      if (!answer.ok) return silent(`answered ${answer.status} to the rule ${rule.alert}`);
      for (const { metric } of (await answer.json()).data.result) {
        const text = sentence(rule.summary, metric); // the labels that it names, and no measured number
        found.set(text, { key: text, text, ...(rule.once && { once: AGAIN }) });
      }
    }
    return [...found.values()];
  } catch (error) {
    return silent(`does not answer: ${error.cause?.code ?? error.name}`);
  }
}

// As vmalert and Prometheus write labels into a text. `default` is the namespace of the host's own PDS.
function sentence(summary, labels) {
  return summary.replace(/\{\{ *\$labels\.(\w+) *\}\}/g, (_, name) => labels[name] || "?");
}

module.exports = { reasons, unwritable };
