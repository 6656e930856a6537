// Runs `documents` of the program in a file against a directory on loopback with a flaw: node flawed_directory.cjs
// PROGRAM COUNT FLAW. Prints how many accounts were answered, gone and failed, the requests, and an error.
"use strict";

const fs = require("node:fs");
const http = require("node:http");

const [program, count, flaw] = process.argv.slice(2);

// A clock that only the program's pauses advance, so that they and the directory's window take no time.
const began = 1e12;
let now = began;
const clock = { now: () => now, parse: Date.parse };
const later = (task, ms) => {
  const at = now + ms;
  setTimeout(() => {
    now = Math.max(now, at);
    task();
  }, 0);
};
const loaded = { exports: {} };
new Function("module", "Date", "setTimeout", fs.readFileSync(program, "utf8"))(loaded, clock, later);
const { documents } = loaded.exports;

const SPAN = 300; // seconds
const IN_SPAN = 100; // requests
const [OUTAGE_AFTER, OUTAGE] = [40, 6000]; // requests, ms
const DOCUMENT = JSON.stringify({
  verificationMethods: { atproto: "did:key:z" },
  services: { atproto_pds: { endpoint: "https://noted.at" } },
  alsoKnownAs: [],
});
let [window, inWindow, requests] = [0, 0, 0];

/** A fixed window. The answer says when it ends, or does not. */
function limited(header) {
  const at = Math.floor(now / 1000 / SPAN);
  if (at !== window) [window, inWindow] = [at, 0];
  if (++inWindow <= IN_SPAN) return [200, {}];
  const reset = (at + 1) * SPAN;
  const headers = {
    seconds: { "retry-after": Math.ceil(reset - now / 1000) },
    date: { "retry-after": new Date(reset * 1000).toUTCString() },
    reset: { "ratelimit-reset": reset },
    none: {},
  };
  return [429, headers[header]];
}

const FLAWS = {
  limited,
  blocked: () => [429, { "retry-after": 60 }],
  outage: () => [requests > OUTAGE_AFTER && now < began + OUTAGE ? 502 : 200, {}],
  unknown: () => [404, {}],
  broken: (_, did) => [did.endsWith("7") ? 500 : 200, {}],
};

const server = http.createServer((request, response) => {
  requests++;
  const [name, header] = flaw.split("-");
  const [status, headers] = FLAWS[name](header, request.url.split("/")[1]);
  response.writeHead(status, headers).end(status === 200 ? DOCUMENT : "{}");
});
server.listen(0, "127.0.0.1", async () => {
  const dids = Array.from({ length: Number(count) }, (_, number) => `did:plc:${number}`);
  console.log = () => {};
  const found = [...(await documents(dids, `http://127.0.0.1:${server.address().port}`)).values()];
  const counts = { answered: 0, gone: 0, failed: 0, requests, why: found.find(({ error }) => error)?.error };
  for (const { error, gone } of found) counts[error ? "failed" : gone ? "gone" : "answered"]++;
  process.stdout.write(JSON.stringify(counts), () => process.exit());
});
