// Accounts that account.sqlite lacks although no deletion was recorded: the disk lost the database, and the server made
// an empty one.
//
// The repositories stay, so the loss shows nowhere else. A member's password, e-mail address and handle are in
// account.sqlite alone, and the backups that have them would expire.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const departures = require("./account_events.cjs");
const { Database, NOT, WAIT } = require("./account_check.cjs");
const { entries, writeWhole } = require("./files.cjs");

const NAMED = 3;
const RETURNED = "returned.json"; // below .snapshot; not part of a backup

/**
 * DIDs that are not among `accounts`: `gone`, all of them; `now`, those that the previous copy has. `before` is that
 * copy's manifest, or null. A deletion is recorded in the list or the events in `data`, or the operator lists it: an
 * entry for an account that was here while it was listed is of an earlier deletion.
 */
function missing({ data, before, accounts }) {
  const returned = new Set(noteReturned(data, accounts));
  const there = new Set([...accounts, ...listed().filter((did) => !returned.has(did))]);
  const earlier = Object.keys(before?.findings ?? {}).filter((did) => before.findings[did].gone);
  const absent = [...new Set([...(before?.accounts ?? []), ...earlier])].filter((did) => !there.has(did));
  const deleted = absent.length > 0 ? deletedIn(data) : new Set();
  const gone = absent.filter((did) => !deleted.has(did));
  return { gone, now: gone.filter((did) => !earlier.includes(did)) };
}

/** DIDs that the stack file has under 'delete'. */
function listed() {
  return (process.env.ACCOUNTS_DELETED ?? "").split(" ").filter(Boolean);
}

/** Notes which of the listed accounts are here. Returns those that were here in any run since they were listed. */
function noteReturned(data, accounts) {
  const before = returnedBefore(data);
  const known = new Set([...accounts, ...before]);
  const now = listed().filter((did) => known.has(did));
  if (now.join() === before.join()) return now;
  writeWhole(path.join(data, ".snapshot", RETURNED), JSON.stringify(now));
  return now;
}

function returnedBefore(data) {
  try {
    const noted = JSON.parse(fs.readFileSync(path.join(data, ".snapshot", RETURNED), "utf8"));
    return Array.isArray(noted) ? noted : [];
  } catch {
    return []; // none yet, or a crash damaged the file
  }
}

/** DIDs whose last event is a deletion, by the list or by the events. */
function deletedIn(data) {
  const lists = [departures.lines(path.join(data, departures.LIST))];
  let sequencer;
  try {
    sequencer = new Database(path.join(data, "sequencer.sqlite"), { readonly: true, fileMustExist: true, timeout: WAIT });
    // All events: those since the last backup are not in the list yet.
    lists.push(departures.events(sequencer));
  } catch (error) {
    console.error(`note: sequencer.sqlite cannot be read: ${error.message}`);
  } finally {
    sequencer?.close();
  }
  const last = lists.flatMap((list) => [...departures.since(list, "")]);
  return new Set(last.filter(([, status]) => status === "deleted").map(([did]) => did));
}

/** Why there may be no copy; null for a few accounts, and after a restore, which reported the accounts that it left out. */
function refusal({ data, before, now }) {
  if (now.length * 2 <= (before?.accounts.length ?? 0) || restoredSince(data, before.started)) return null;
  const more = now.length > NAMED ? ` and ${now.length - NAMED} more` : "";
  return (
    `account.sqlite has lost ${now.length} of the ${before.accounts.length} accounts of the backup of ` +
    `${before.started}, and no deletion was recorded: ${now.slice(0, NAMED).join(", ")}${more}. The backups keep the copies before it: ` +
    "`./pds restore STACK`. List accounts that are meant to be gone under 'delete' in the stack file: 'HANDLE: DID'."
  );
}

/** Whether a restore of all data put other data aside since `moment`. */
function restoredSince(data, moment) {
  const place = path.join(data, ".restore");
  const since = `old-${moment.replace(/[:.]/g, "")}`;
  return entries(place).some((name) => name > since && fs.existsSync(path.join(place, name, ".pds-identity.json")));
}

/** Adds a finding to the `copy` for each DID that is `gone`, and removes those of accounts that are back. */
function record(copy, gone) {
  for (const [did, finding] of Object.entries(copy.findings)) {
    if (finding.gone && !gone.includes(did)) delete copy.findings[did];
  }
  for (const did of gone) {
    const last = copy.before.findings[did]?.gone ?? copy.before.started;
    const meant = listed().includes(did)
      ? "If it is meant to be gone: its entry under 'delete' in the stack file is of an earlier deletion. Remove the entry, " +
        "run `pulumi up` and `./pds backup STACK`, then add the entry again"
      : `If it is meant to be gone, list it under 'delete' in the stack file: 'HANDLE: ${did}'`;
    const what =
      "account.sqlite has lost it, with its password, e-mail address and handle, and no deletion was recorded. Backups " +
      `until ${last} have it: \`./pds restore STACK --list\`, then \`./pds restore STACK --only ${did} --snapshot ID\`. ${meant}`;
    copy.find(did, NOT, what, { gone: last });
  }
}

module.exports = { missing, record, refusal };
