// Collects what a snapshot does not contain before it is restored: the old data on the volume, DID documents, relays.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const departures = require("./account_events.cjs");
const { Database } = require("./account_check.cjs");
const { documents } = require("./did_documents.cjs");
const { held } = require("./verify.cjs");

const AT_ONCE = 8; // concurrent queries to a relay
const MARGIN = 10000; // event numbers; relays that were not queried are not further ahead than this
const PATIENCE = 10000; // ms for a relay's answer
const TOLERATED = 0.01; // share of the accounts whose answer can be missing or name a foreign key; one always can
const REMEDY = "see docs/guide/members.md#another-signing-key";

/** The answers do not suffice for a restore. The message lists what is missing. */
class Unknown extends Error {}

/**
 * The readable part of the old data in `data`: account events, and the last numbers of events (`sequence` as assigned,
 * `newest` as stored) and repositories.
 * `accounts` is an open connection to the old account database, or undefined. `created` maps a DID to the time at which
 * its account was made there.
 */
function oldData(data, accounts) {
  const list = departures.lines(path.join(data, departures.LIST));
  const before = { list, sequence: 0, newest: 0, revisions: {}, accounts: null, created: {} };
  const sequencer = path.join(data, "sequencer.sqlite");
  try {
    before.revisions = Object.fromEntries(accounts?.prepare("select did, rev from repo_root").raw().all() ?? []);
    before.created = Object.fromEntries(accounts?.prepare('select did, "createdAt" from actor order by did').raw().all() ?? []);
    before.accounts = accounts ? Object.keys(before.created) : null;
  } catch (error) {
    console.log(`note: the old account.sqlite cannot be read: ${error.message}`);
  }
  if (!fs.existsSync(sequencer)) return before;
  try {
    const db = new Database(sequencer, { readonly: true, fileMustExist: true });
    before.sequence = db.prepare("select seq from sqlite_sequence where name = 'repo_seq'").pluck().get() ?? 0;
    before.newest = db.prepare("select coalesce(max(seq), 0) from repo_seq").pluck().get();
    before.list = departures.merged(list, departures.events(db, list));
    db.close();
  } catch (error) {
    console.log(`note: the old events cannot be read: ${error.message}`);
  }
  return before;
}

/**
 * Queries the directory and the `relays` about the accounts `dids`, whose keys are `keys`. `known` has the numbers from
 * other sources: `manifest`, `given` (by the operator) and `old`; `asked` are documents that are already available.
 * Resolves to `documents`, `moved`, `resting`, `unsigned` (DID to why its document names another key than the restored
 * one), `notes`, `sequence`, `revisions` and `statuses`. Throws Unknown if the directory does not answer or names foreign
 * keys for too many accounts, or if no event number is known. `withoutDirectory`: the operator restores without its
 * answers, or cannot (undefined). `moves`: the old host served these data until now, so another key closes no account.
 */
async function world({ dids, keys, hostname, plc, relays, known, revisions, asked = new Map(), withoutDirectory, moves = false }) {
  const rest = dids.filter((did) => !asked.has(did));
  const wanted = new Set(dids);
  const found = new Map([...asked, ...(await documents(rest, plc))].filter(([did]) => wanted.has(did)));
  const { unread, moved, swapped, foreign } = held(keys, found, dids, hostname);
  const unsigned = Object.fromEntries([...swapped, ...foreign]);
  const silent = silentAccounts(dids, unread, plc, withoutDirectory);
  if (!moves && withoutDirectory === false) refuseForeignKeys(dids, foreign, plc);
  const notes = [...unread].filter(([did]) => !silent.includes(did)).map(([did, why]) => `${did}: ${why}`);
  const answers = await Promise.all(relays.map(async (relay) => [relay, await ask(relay, "getHostStatus", { hostname })]));
  for (const [relay, status] of answers) if (status === null) notes.push(`${relay} did not report its newest event`);
  const heard = answers.filter(([, status]) => status !== null);
  if (relays.length > 0 && heard.length === 0 && !known.given && !known.old) {
    throw new Unknown(
      "no relay reports how many events it has, and the old events are gone. Give a number above every event ever sent: " +
        "--sequence N."
    );
  }
  const sequence = Math.max(known.manifest, known.given, known.old, ...heard.map(([, status]) => Number(status.seq ?? 0)));
  const followed = heard.length > 0 ? await repositoriesAt(heard[0][0], dids) : new Map();
  const seen = { ...revisions };
  const statuses = new Map();
  for (const [did, status] of followed) {
    if (status?.rev > (seen[did] ?? "")) seen[did] = status.rev;
    if (status?.active === false) statuses.set(did, status.status);
  }
  if (withoutDirectory && silent.length > 0) {
    notes.push(`${silent.length} accounts are as in the backup, because ${plc} did not answer; ./pds check names those that moved away`);
  }
  const closed = withoutDirectory ? [] : silent;
  const resting = Object.fromEntries(closed.map((did) => [did, `${unread.get(did)}. The member can reactivate it`]));
  // Relays drop what the server signs for an account whose document names another key.
  for (const [did, why] of Object.entries(unsigned)) {
    if (moves) notes.push(`${did}: ${why}. It arrives as the old host has it: ${REMEDY}`);
    else resting[did] = `${why}. It is deactivated: ${REMEDY}`;
  }
  return { documents: found, moved: Object.fromEntries(moved), resting, unsigned, notes, sequence: sequence + MARGIN, revisions: seen, statuses };
}

/**
 * The accounts without an answer of the directory. They are restored deactivated, so a few can be; an outage or a limit
 * would lock the members out, who cannot activate an account without the directory either.
 */
function silentAccounts(dids, unread, plc, withoutDirectory) {
  const fromPlc = dids.filter((did) => did.startsWith("did:plc:"));
  const silent = fromPlc.filter((did) => unread.has(did));
  const tooMany = silent.length > Math.max(1, fromPlc.length * TOLERATED) || (silent.length > 0 && silent.length === fromPlc.length);
  if (tooMany && !withoutDirectory) {
    const option = " If it stays away, add --without-directory: these accounts are then restored as they are in the backup, also those that moved away.";
    throw new Unknown(
      `${plc} did not answer for ${silent.length} of ${fromPlc.length} accounts, as for ${silent[0]}: ${unread.get(silent[0])}. ` +
        `Repeat the command once it answers.${withoutDirectory === undefined ? "" : option}`
    );
  }
  return silent;
}

/**
 * Refuses a restore after which many members could not write. Then the directory is more likely to be another one, or the
 * backup to be too old, than each of these members to have changed the key.
 */
function refuseForeignKeys(dids, foreign, plc) {
  const all = foreign.size > 0 && foreign.size === dids.length;
  if (!all && foreign.size <= Math.max(1, dids.length * TOLERATED)) return;
  const [did, why] = [...foreign][0];
  throw new Unknown(
    `${foreign.size} of ${dids.length} accounts would be deactivated, because relays drop what they sign, as ${did}: ${why}. ` +
      `Is ${plc} the directory of these accounts? If not, correct PDS_DID_PLC_URL. If it is, restore a backup with the documents' ` +
      "keys: --snapshot ID. To restore these accounts deactivated, add --without-directory."
  );
}

async function repositoriesAt(relay, dids) {
  const found = new Map();
  const left = [...dids];
  const next = async () => {
    for (let did; (did = left.shift()); ) found.set(did, await ask(relay, "getRepoStatus", { did }));
  };
  await Promise.all(Array.from({ length: AT_ONCE }, next));
  return found;
}

/** A relay's answer; {} if it does not know the name, null if the query fails. */
async function ask(relay, method, parameters) {
  const url = `${relay}/xrpc/com.atproto.sync.${method}?${new URLSearchParams(parameters)}`;
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(PATIENCE) });
    const body = await response.json();
    if (response.ok) return body;
    return response.status < 500 && /NotFound/.test(body.error) ? {} : null;
  } catch {
    return null;
  }
}

/**
 * Changes of accounts since the snapshot: `deleted` and `hidden` (DIDs), `resting` (DID to why), and `notes`. `there`
 * has the DIDs of the snapshot and of what is carried over; `created` the accounts of the old data; `departed` is the
 * list of departures; `since` maps a DID to its last status in it after the snapshot; `wanted` has the operator's
 * parameters (DIDs).
 */
function whoLeft({ there, created, departed, since, statuses, wanted }) {
  const left = { deleted: new Set(), hidden: new Set(wanted.takedown), resting: {}, notes: [] };
  const back = new Set(wanted.bring_back);
  for (const did of wanted.delete.filter((other) => !back.has(other))) {
    if (there.has(did) && isBack(did, departed, since)) left.notes.push(`${did} came back after it was deleted, and is kept; remove it from 'delete'`);
    else if (there.has(did) && isAfterItsEntry(did, created, departed, wanted)) {
      left.notes.push(`${did} came after \`up\` applied its entry in 'delete', and is kept; remove it from 'delete'`);
    }
    else left.deleted.add(did);
  }
  for (const [did, status] of since) {
    if (back.has(did)) continue;
    if (status === "deleted") left.deleted.add(did);
    if (status === "takendown" || status === "suspended") left.hidden.add(did);
    if (status === "deactivated") left.resting[did] = "it was deactivated after the snapshot";
    if (status === "active") left.notes.push(`${did} was reactivated after the snapshot; here it is as in the snapshot`);
  }
  for (const [did, status] of statuses) {
    if (back.has(did)) continue;
    if (["deleted", "deactivated"].includes(status)) left.resting[did] = `the relay says that it was ${status}`;
    else left.notes.push(`the relay distributes nothing of ${did} (${status}). If you took it down, do so again`);
  }
  return { ...left, deleted: [...left.deleted], hidden: [...left.hidden] };
}

/**
 * The accounts `dids` of the old data that are not carried over: DID to the time of its deletion, or null if only the
 * operator's list has it. The volume can be older than the snapshot, so the whole list of departures counts. An account
 * that was made after its last deletion is a member's who came back.
 */
function deletedSince(dids, created, departed, wanted) {
  const last = departures.since(departed, "");
  const times = new Map(departed.filter(({ status }) => status === "deleted").map(({ did, time }) => [did, time]));
  const isGone = (did) => {
    if (wanted.bring_back.includes(did)) return false;
    if (!times.has(did)) return wanted.delete.includes(did) && !isAfterItsEntry(did, created, departed, wanted);
    return last.get(did) === "deleted" && !(created[did] > times.get(did));
  };
  return new Map(dids.filter(isGone).map((did) => [did, times.get(did) ?? null]));
}

/**
 * DID to its last status in the list of departures: of the snapshot's accounts since it `started`, of those that are
 * `carried` over from the old data ever, because these can be older. A deletion is of before such an account was made.
 */
function lastStatuses(departed, started, carried) {
  const statuses = departures.since(departed, started);
  const ever = departures.since(departed, "");
  for (const did of carried) {
    if (["takendown", "suspended", "deactivated"].includes(ever.get(did))) statuses.set(did, ever.get(did));
    else statuses.delete(did);
  }
  return statuses;
}

/**
 * Whether an account that the operator deletes came back since. As in `up`, an entry of 'delete' is applied once. A
 * snapshot that has the account is of before its last deletion only if that is among the departures `since`.
 */
function isBack(did, departed, since) {
  return departed.some((line) => line.did === did && line.status === "deleted") && since.get(did) !== "deleted";
}

/**
 * Whether an account was made after `up` applied its entry in 'delete', as an entry for an account of another server:
 * the old data have it, and no deletion of it was recorded. `created` has the accounts of the old data.
 */
function isAfterItsEntry(did, created, departed, wanted) {
  return wanted.applied.includes(did) && Object.hasOwn(created, did) && !departed.some((line) => line.did === did && line.status === "deleted");
}

module.exports = { Unknown, deletedSince, lastStatuses, oldData, whoLeft, world };
