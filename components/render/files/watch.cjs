// Looks at the volume, the number of accounts, and when a backup and a drill last went well, and tells a dead man's
// switch: PING_URL while all is well, its /fail with the reasons else. A switch that hears nothing raises the alarm by
// itself, so a host that is gone is noticed too.
const fs = require("node:fs");
const path = require("node:path");
const { killed, load, save } = require("./stamp.cjs");

const NAMED = 5; // findings in one message
const STUCK = 6 * 3600000; // ms; far longer than any backup or drill takes
const TOLD = "told";

const directory = process.env.PDS_DATA_DIRECTORY;

// As `df` counts: what is reserved for root is neither used nor free.
function percent(used, free) {
  return used + free > 0 ? Math.ceil((100 * used) / (used + free)) : 0;
}

// One directory for each account, deactivated and taken down ones too: actors/XX/DID (actor-store of @atproto/pds).
// SQLite is not asked: counting must never hold a lock that the server waits for.
function accounts() {
  const actors = path.join(directory, "actors");
  if (!fs.existsSync(actors)) return 0;
  const names = fs.readdirSync(actors).flatMap((shard) => fs.readdirSync(path.join(actors, shard)));
  return names.filter((name) => name.startsWith("did:")).length;
}

// By what stamp.cjs keeps. Before the first backup, time is counted from when the volume was marked as this PDS's; before
// the first drill, from the first backup.
function overdue() {
  const { WATCH_BACKUP_HOURS: hours, WATCH_DRILL_HOURS: drillHours } = process.env;
  if (!hours) return [];
  const marked = fs.statSync(path.join(directory, ".pds-identity.json"), { throwIfNoEntry: false })?.mtime;
  const [backup, drill] = ["backup", "drill"].map(status);
  const wrong = late("backup", backup, marked?.toISOString(), hours);
  wrong.push(...late("drill", drill, backup.first, drillHours));
  if (wrong.length > 0) return wrong;
  for (const [name, { failed, why }] of Object.entries({ backup, drill })) {
    if (failed) wrong.push(`the ${name} of ${failed} failed: ${why}`);
  }
  return wrong;
}

/** The status of a run. One that began hours ago and has not ended was killed: then its next run says so, or this does. */
function status(name) {
  const found = load(name);
  const lasted = found.began ? Date.now() - Date.parse(found.began) : 0;
  return lasted > STUCK ? { ...found, ...killed(found.began) } : found;
}

/**
 * What backups and drills found wrong with single accounts. It is told once, when it is new: it would hide every other
 * alarm if each run told it. What was told is kept beside the statuses. Returns all of it, the new part, and its keeper.
 */
function accountFindings() {
  const all = {};
  for (const name of ["drill", "backup"]) {
    for (const [did, { state, what }] of Object.entries(load(name).findings ?? {})) all[did] = `${did}: ${state}: ${what}`;
  }
  const told = load(TOLD);
  const fresh = Object.entries(all).filter(([did, text]) => told[did] !== text);
  return { count: Object.keys(all).length, fresh: fresh.map(([, text]) => text), keep: () => save(TOLD, all) };
}

function late(name, { good, failed, why }, first, hours) {
  const since = good ?? first;
  if (!since || Date.now() - Date.parse(since) < hours * 3600000) return [];
  return [`no good ${name} since ${since}${failed ? `; at ${failed}: ${why}` : ""}`];
}

function findings() {
  const volume = fs.statfsSync(directory);
  const space = percent(volume.blocks - volume.bfree, volume.bavail);
  const inodes = percent(volume.files - volume.ffree, volume.ffree);
  const count = accounts();
  const found = [
    [space >= process.env.WATCH_VOLUME_PERCENT, `the volume is ${space} % full: raise volume.size_gib`],
    [inodes >= process.env.WATCH_VOLUME_PERCENT, `${inodes} % of the volume's files are used: raise volume.size_gib`],
    [count >= process.env.WATCH_ACCOUNTS, `${count} accounts: a relay stops at 100 until it is asked to take more`],
  ];
  const wrong = found.filter(([bad]) => bad).map(([, text]) => text);
  wrong.push(...overdue());
  return [wrong, `volume ${space} % full, ${count} accounts`];
}

function keep({ fresh, keep: save }) {
  if (fresh.length === 0) return;
  try {
    save();
  } catch (error) {
    console.error(`that the findings were sent could not be noted, so they are sent again: ${error.code}`);
  }
}

async function main() {
  let wrong, summary, accounts;
  try {
    [wrong, summary] = findings();
    accounts = accountFindings();
  } catch (error) {
    [wrong, summary] = [[`the volume cannot be read: ${error.code ?? error.name}`], "volume not readable"];
    accounts = { count: 0, fresh: [], keep: () => {} };
  }
  const more = accounts.fresh.length > NAMED ? [`and ${accounts.fresh.length - NAMED} more: ./pds check`] : [];
  wrong.push(...accounts.fresh.slice(0, NAMED), ...more);
  if (accounts.count > 0) summary += `, ${accounts.count} findings about accounts (./pds check)`;
  const text = `${process.env.PDS_HOSTNAME}: ${wrong.length > 0 ? wrong.join("; ") : summary}`;
  console.log(text);
  // The URL is enough to silence the alarm: it is never printed, nor is an error that may hold it.
  try {
    const url = process.env.PING_URL + (wrong.length > 0 ? "/fail" : "");
    const answer = await fetch(url, { method: "POST", body: text, signal: AbortSignal.timeout(30000) });
    if (answer.ok) return keep(accounts);
    console.error(`the ping was answered with ${answer.status}`);
  } catch (error) {
    console.error(`the ping did not arrive: ${error.cause?.code ?? error.name}`);
  }
  process.exitCode = 1;
}

main();
