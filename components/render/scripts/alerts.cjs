// Reports volume usage, account count, backup and drill status, and the alerts of a metrics store to a dead man's switch:
// PING_URL if all is well, else its /fail with the reasons. A switch that receives nothing raises the alarm by itself, so
// it also detects a lost host.
const fs = require("node:fs");
const path = require("node:path");
const { killed, load, save } = require("./run_status.cjs");

const NAMED = 5; // findings in one message
const STUCK = 6 * 3600000; // ms; far longer than any backup or drill takes
const TOLD = "told";

const directory = process.env.PDS_DATA_DIRECTORY;

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
function overdue() {
  const { ALERTS_BACKUP_HOURS: hours, ALERTS_DRILL_HOURS: drillHours } = process.env;
  if (!hours) return [];
  const identified = fs.statSync(path.join(directory, ".pds-identity.json"), { throwIfNoEntry: false })?.mtime;
  const [backup, drill] = ["backup", "drill"].map(status);
  const wrong = late("backup", backup, identified?.toISOString(), hours);
  wrong.push(...late("drill", drill, backup.first, drillHours));
  if (wrong.length > 0) return wrong;
  for (const [name, { failed, why }] of Object.entries({ backup, drill })) {
    if (failed) wrong.push(`the ${name} of ${failed} failed: ${why}`);
  }
  return wrong;
}

/** The status of a run. A run that began hours ago and has not ended was killed, and is reported as failed. */
function status(name) {
  const found = load(name);
  const lasted = found.began ? Date.now() - Date.parse(found.began) : 0;
  return lasted > STUCK ? { ...found, ...killed(found.began) } : found;
}

/**
 * The faults of single accounts that backups and drills found. Each is reported once: repeating it in every run would
 * hide every other alarm. Reported faults are kept beside the statuses. Returns all of them, the new ones, and a
 * function that stores them.
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
    [space >= process.env.ALERTS_VOLUME_PERCENT, `the volume is ${space} % full: raise volume.size_gib`],
    [inodes >= process.env.ALERTS_VOLUME_PERCENT, `${inodes} % of the volume's files are used: raise volume.size_gib`],
    [count >= process.env.ALERTS_ACCOUNTS, `${count} accounts: a relay stops at 100 until it is asked to take more`],
  ];
  const wrong = found.filter(([bad]) => bad).map(([, text]) => text);
  wrong.push(...overdue());
  return [wrong, `volume ${space} % full, ${count} accounts`];
}

/**
 * The results of the metrics store's alert rules, one sentence each; none without a store. Each result of an expression
 * is an alert (rules.yaml). The password suffices to read and delete metrics, so no error is printed as a whole.
 */
async function firing() {
  const { ALERTS_METRICS: store, METRICS_PASSWORD: password } = process.env;
  if (!store) return [];
  const headers = { authorization: `Basic ${Buffer.from(`pds:${password}`).toString("base64")}` };
  try {
    const wrong = [];
    for (const rule of JSON.parse(fs.readFileSync(path.join(__dirname, "rules.json"), "utf8"))) {
      const body = new URLSearchParams({ query: rule.expr });
      const answer = await fetch(`${store}/api/v1/query`, { method: "POST", body, headers, signal: AbortSignal.timeout(10000) });
      if (!answer.ok) return [`the metrics store answered ${answer.status} to the rule ${rule.alert}`];
      for (const { metric } of (await answer.json()).data.result) wrong.push(sentence(rule.summary, metric));
    }
    const more = wrong.length > NAMED ? [`and ${wrong.length - NAMED} more alerts: ./pds dashboard`] : [];
    return [...wrong.slice(0, NAMED), ...more];
  } catch (error) {
    return [`the metrics store does not answer: ${error.cause?.code ?? error.name}`];
  }
}

// As vmalert and Prometheus write labels into a text. `default` is the namespace of the host's own PDS.
function sentence(summary, labels) {
  return summary.replace(/\{\{ *\$labels\.(\w+) *\}\}/g, (_, name) => labels[name] || "?");
}

function keep({ fresh, keep: save }) {
  if (fresh.length === 0) return;
  try {
    save();
  } catch (error) {
    console.error(`could not record the sent findings, so the next run sends them again: ${error.code}`);
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
  wrong.push(...(await firing()));
  const more = accounts.fresh.length > NAMED ? [`and ${accounts.fresh.length - NAMED} more: ./pds check`] : [];
  wrong.push(...accounts.fresh.slice(0, NAMED), ...more);
  if (accounts.count > 0) summary += `, ${accounts.count} findings about accounts (./pds check)`;
  const text = `${process.env.PDS_HOSTNAME}: ${wrong.length > 0 ? wrong.join("; ") : summary}`;
  console.log(text);
  // The URL suffices to silence the alarm, so neither it nor an error that may contain it is printed.
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
