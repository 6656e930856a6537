// Queries an account's DID document for its key and its server.
//
// Queries the PLC directory and, for did:web, the account's own domain; writes nothing anywhere. "Gone" and
// "unreachable" are two answers: the first may be acted on, the second never.
"use strict";

const ATTEMPTS = 3;
const AT_ONCE = 8;
const AWAY = 16; // failures in a row after which the directory is not asked any more
const PATIENCE = 10000; // ms for one answer

/**
 * DID to `{ key, server, handles }`, `{ gone: why }`, or `{ error: why }` if the query failed. `plc` is the directory's
 * address.
 */
async function documents(dids, plc) {
  const found = new Map();
  const left = [...dids];
  let failures = 0; // of the directory, in a row: each takes half a minute
  const ask = async () => {
    for (let did; (did = left.shift()); ) {
      const fromDirectory = did.startsWith("did:plc:");
      const answer = fromDirectory && failures >= AWAY ? { error: `${plc} does not answer` } : await one(did, plc);
      if (fromDirectory) failures = answer.error ? failures + 1 : 0;
      found.set(did, answer);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, ask));
  return found;
}

async function one(did, plc) {
  let why;
  for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
    try {
      if (did.startsWith("did:plc:")) return fromPlc(await get(`${plc}/${did}/data`));
      const host = decodeURIComponent(did.slice("did:web:".length));
      if (did.startsWith("did:web:")) return fromWeb(await get(`https://${host}/.well-known/did.json`));
      return { error: "its method is unknown" };
    } catch (error) {
      // 404: never registered; 410: ended by its owner (web.plc.directory/spec).
      if (error.status === 410 || (error.status === 404 && did.startsWith("did:plc:"))) return { gone: error.message };
      why = error.message;
    }
    await new Promise((resume) => setTimeout(resume, 500 * attempt));
  }
  return { error: why };
}

async function get(url) {
  let answer;
  try {
    answer = await fetch(url, { signal: AbortSignal.timeout(PATIENCE) });
  } catch (error) {
    throw new Error(`${url} does not answer (${error.cause?.code ?? error.name})`);
  }
  if (!answer.ok) throw Object.assign(new Error(`${url} answers ${answer.status}`), { status: answer.status });
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
