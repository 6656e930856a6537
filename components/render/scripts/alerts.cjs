// Reports volume usage, account count, backup and drill status, and the alerts of a metrics store to a dead man's switch:
// PING_URL if all is well, else its /fail with the reasons. A switch that receives nothing raises the alarm by itself, so
// it also detects a lost host, unless a reason that lasts holds it down already.
//
// A switch notifies when its status changes, and only then (Check.ping in hc/api/models.py of Healthchecks). So a reason
// that lasts would hide every later one. If the switch may be down, a run with a new reason pings PING_URL before /fail.
// Its status is unknown after a restore to a new volume, for example.
//
// DATA/.run-status/told.json has what the switch accepted: its status, and `known`, from the key of a reason to when it was
// last `seen` and last `told` as a new one, and whether it is a `lasting` one. A reason that comes and goes is told once: it
// is new again after some time without it, and a lasting one holds the switch down for that time. alerts.json beside it is
// the status of this job itself, for `./pds check`.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { reasons: findReasons, unwritable } = require("./alert_reasons.cjs");
const { begin, end, load, save } = require("./run_status.cjs");

const NAMED = 8; // reasons in one message
const RUN = 15 * 60000; // ms from one run to the next
const RUNS = 96; // a day
const QUIET = 4 * RUN; // a lasting reason that comes back sooner is not new
const LONG_QUIET = RUNS * RUN; // and any other one: a backup may find a fault of an account in every second run only
const TOLD = "told";
const NO_SUCH = [400, 404, 405, 410]; // not 408 or 429, which a service with /fail answers for a moment
const [UP, DOWN, NO_FAIL] = ["up", "down", "has no /fail"];

async function main() {
  const now = Date.now();
  const [reasons, summary] = await findReasons();
  const told = load(TOLD);
  const { good } = load("alerts");
  const written = lastWritten();
  let fresh = reasons.filter((reason) => isNew(reason, told, now));
  try {
    begin("alerts");
    save(TOLD, told);
  } catch (error) {
    reasons.unshift(unwritable(error));
    // What is sent cannot be stored. The first run on such a volume reports it as new, and then one run a day.
    const runs = Math.round(between(now, written) / RUN);
    fresh = runs <= 1 || runs % RUNS === 0 ? [reasons[0], ...fresh] : [];
  }
  // Without pings for so long, the switch went down by itself.
  const silent = between(now, Date.parse(good)) > 1.5 * RUN;
  const over = ended(reasons, told, now);
  const { problem, status } = await report({ reasons, fresh, over, summary, before: told.status, silent });
  if (problem) console.error(problem);
  try {
    save(TOLD, problem ? { ...told, status } : { status, known: afterwards(reasons, fresh, told, now) });
    end("alerts", problem ? [problem] : []);
  } catch (error) {
    console.error(`could not record what was sent: ${error.code}`);
  }
  if (problem) process.exitCode = 1;
}

/** A time in the future, of a clock that was ahead, is as far away as one in the past. */
function between(now, time) {
  return Math.abs(now - time);
}

/** When the last run that could write did so, in ms; NaN if none did. */
function lastWritten() {
  try {
    return fs.statSync(path.join(process.env.PDS_DATA_DIRECTORY, ".run-status", "alerts.json")).mtimeMs;
  } catch {
    return NaN;
  }
}

function isNew({ key, once }, { known }, now) {
  const { seen, told } = known?.[key] ?? {};
  const isRecent = between(now, Date.parse(seen)) < (once ? LONG_QUIET : QUIET);
  return !isRecent || between(now, Date.parse(told)) > once;
}

/** The keys of lasting reasons that ended a moment ago, and may come back. */
function ended(reasons, { known }, now) {
  const isRecent = ([, { lasting, seen }]) => lasting && between(now, Date.parse(seen)) < QUIET;
  const recent = Object.entries(known ?? {}).filter(isRecent).map(([key]) => key);
  return recent.filter((key) => !reasons.some((reason) => reason.key === key));
}

/** Sends the reasons, the `fresh` ones first. Returns the switch's status, and the `problem` if it lacks the message. */
async function report({ reasons, fresh, over, summary, before, silent }) {
  const lasting = reasons.filter((reason) => !reason.once && !fresh.includes(reason));
  if (fresh.length + lasting.length === 0) {
    if (over.length === 0 || before !== DOWN) return await ping("", summary, before);
    return await ping("/fail", `${summary}; ended less than an hour ago: ${over.join(", ")}`, before);
  }
  let status = before;
  if (fresh.length > 0 && before !== NO_FAIL && (before !== UP || silent)) {
    const first = await ping("", `an alarm follows: ${message(fresh)}`, before);
    if (first.problem) return first;
    status = first.status;
  }
  return await ping("/fail", message([...fresh, ...lasting]), status);
}

function message(reasons) {
  const more = reasons.length > NAMED ? [`and ${reasons.length - NAMED} more: ./pds check, ./pds dashboard`] : [];
  return [...reasons.slice(0, NAMED).map(({ text }) => text), ...more].join("; ");
}

/** Returns the `status` of the switch, `before` if it is unchanged, and the `problem` if the ping counts for nothing. */
async function ping(suffix, what, before) {
  const text = `${process.env.PDS_HOSTNAME}: ${what}`;
  console.log(text);
  // The URL suffices to silence the alarm, so neither it nor an error that may contain it is printed.
  try {
    const url = process.env.PING_URL + suffix;
    const answer = await fetch(url, { method: "POST", body: text, signal: AbortSignal.timeout(30000) });
    if (!answer.ok) {
      return { status: suffix && NO_SUCH.includes(answer.status) ? NO_FAIL : before, problem: `the ping was answered with ${answer.status}` };
    }
    // hc-ping.com answers 200 for a deleted check, and above its limit of pings.
    const [ignored] = /not found|rate limited/i.exec(await answer.text()) ?? [];
    if (!ignored) return { status: suffix ? DOWN : UP };
    return { status: before, problem: `the switch ignored the ping: ${ignored}. Does the check of alerts.ping_url still exist?` };
  } catch (error) {
    return { status: before, problem: `the ping did not arrive: ${error.cause?.code ?? error.name}` };
  }
}

/** `known` after a message that the switch accepted. */
function afterwards(reasons, fresh, { known = {} }, now) {
  const at = new Date(now).toISOString();
  const next = Object.entries(known).filter(([, { seen }]) => between(now, Date.parse(seen)) < LONG_QUIET);
  for (const reason of reasons) {
    const { key, once } = reason;
    if (fresh.includes(reason)) next.push([key, { lasting: !once, seen: at, told: at }]);
    else if (known[key]) next.push([key, { ...known[key], seen: at }]);
  }
  return Object.fromEntries(next);
}

main();
