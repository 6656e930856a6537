// Queries an account's DID document for its key and its server.
//
// Queries the PLC directory and, for did:web, the account's own domain; writes nothing anywhere. "Gone" and
// "unreachable" are two answers: the first may be acted on, the second never.
"use strict";

const ATTEMPTS = 3;
const AT_ONCE = 8;
const AWAY = 16; // failures in a row after which the directory is not queried any more
const PATIENCE = 10000; // ms for one answer
const AGAIN = 5000; // ms before those that failed are asked once more
const PAUSE = 30000; // ms of the first pause for a directory that limits queries and does not say how long; each next one is twice as long
const LONGEST = 900000; // ms of one pause
const PAUSES = 4; // without an answer between them

const isPlc = (did) => did.startsWith("did:plc:");
const sleep = (ms) => new Promise((resume) => setTimeout(resume, ms));

/**
 * DID to `{ key, server, handles }`, `{ gone: why }`, or `{ error: why }` if the query failed. `plc` is the directory's
 * address. What fails is asked again as long as that brings answers.
 */
async function documents(dids, plc) {
  const found = new Map();
  const limit = new Limit(plc);
  for (let left = dids; ; await sleep(AGAIN)) {
    await askAll(left, found, limit);
    const asked = left.filter(isPlc);
    left = asked.filter((did) => found.get(did).error);
    if (left.length === 0 || left.length === asked.length) return found;
  }
}

async function askAll(dids, found, limit) {
  const left = [...dids];
  let failures = 0; // of the directory, in a row: each can take half a minute
  let why;
  const ask = async () => {
    for (let did; (did = left.shift()); ) {
      const answer = isPlc(did) && failures >= AWAY ? { error: `${limit.plc} is not queried any more: ${why}` } : await one(did, limit);
      if (isPlc(did)) failures = answer.error ? failures + 1 : 0;
      if (isPlc(did) && failures < AWAY) why = answer.error;
      found.set(did, answer);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, ask));
}

/** Holds all queries back while the directory limits them: thousands of accounts are more than it answers at once. */
class Limit {
  constructor(plc) {
    Object.assign(this, { plc, until: 0, pauses: 0 });
  }

  async wait() {
    for (let left; (left = this.until - Date.now()) > 0; ) await sleep(left);
  }

  /** Begins a pause, and returns whether to ask again after it. Queries that ran at the same time share the pause. */
  pause(headers) {
    if (Date.now() < this.until) return true;
    if (this.pauses >= PAUSES) return false;
    const ms = Math.min(Math.max(requested(headers) ?? PAUSE * 2 ** this.pauses, 1000), LONGEST);
    this.pauses++;
    this.until = Date.now() + ms;
    console.log(`note: ${this.plc} limits queries; asked again in ${Math.ceil(ms / 1000)} s`);
    return true;
  }
}

/** The pause that an answer requests, in ms, or null. Retry-After has seconds or a date; RateLimit-Reset has seconds, or a time in seconds. */
function requested(headers) {
  const given = headers.get("retry-after") ?? headers.get("ratelimit-reset") ?? "";
  const ms = /^\d{1,8}$/.test(given) ? given * 1000 : (/^\d+$/.test(given) ? given * 1000 : Date.parse(given)) - Date.now();
  return Number.isNaN(ms) ? null : ms;
}

async function one(did, limit) {
  let why;
  for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
    try {
      if (isPlc(did)) return fromPlc(await fromDirectory(`${limit.plc}/${did}/data`, limit));
      const host = decodeURIComponent(did.slice("did:web:".length));
      if (did.startsWith("did:web:")) return fromWeb(await get(`https://${host}/.well-known/did.json`));
      return { error: "its method is unknown" };
    } catch (error) {
      // 404: never registered; 410: ended by its owner (web.plc.directory/spec).
      if (error.status === 410 || (error.status === 404 && isPlc(did))) return { gone: error.message };
      why = error.message;
      if (error.limited) break;
    }
    await sleep(500 * attempt);
  }
  return { error: why };
}

/** As `get`, after the pauses that the directory requests. */
async function fromDirectory(url, limit) {
  for (;;) {
    await limit.wait();
    try {
      const body = await get(url);
      limit.pauses = 0;
      return body;
    } catch (error) {
      const limited = error.status === 429 || (error.status === 503 && error.headers.has("retry-after"));
      if (error.status && !limited) limit.pauses = 0;
      if (!limited) throw error;
      if (!limit.pause(error.headers)) throw Object.assign(error, { limited });
    }
  }
}

async function get(url) {
  let answer;
  try {
    answer = await fetch(url, { signal: AbortSignal.timeout(PATIENCE) });
  } catch (error) {
    throw new Error(`${url} does not answer (${error.cause?.code ?? error.name})`);
  }
  if (!answer.ok) throw Object.assign(new Error(`${url} answers ${answer.status}`), { status: answer.status, headers: answer.headers });
  return answer.json();
}

function fromPlc(data) {
  return {
    key: data.verificationMethods?.atproto ?? null,
    server: hostOf(data.services?.atproto_pds?.endpoint),
    handles: handlesOf(data.alsoKnownAs),
  };
}

function fromWeb(document) {
  const entry = (list, id) => (list ?? []).find((item) => item.id?.endsWith(id));
  const method = entry(document.verificationMethod, "#atproto");
  return {
    // The older types give the key without naming its curve; such a key is not compared.
    key: method?.type === "Multikey" ? `did:key:${method.publicKeyMultibase}` : null,
    server: hostOf(entry(document.service, "#atproto_pds")?.serviceEndpoint),
    handles: handlesOf(document.alsoKnownAs),
  };
}

function hostOf(endpoint) {
  try {
    return new URL(endpoint).host;
  } catch {
    return null;
  }
}

function handlesOf(names) {
  return (names ?? []).filter((name) => name.startsWith("at://")).map((name) => name.slice("at://".length));
}

module.exports = { documents };
