// Tests whether another version of the server works, on throw-away data: accounts, records, blobs, the event stream,
// and all of it again after a restart. A successful health check proves little.
//
// Runs in the candidate's image, in a container without a network, and starts the image's own server. Identities need a
// directory, so this starts a small one on loopback; the public directory never receives them. repository.cjs reads the
// results back. The next task, which has the copy of the newest backup (serve.cjs), reads the outcome.
"use strict";

const crypto = require("node:crypto");
const fs = require("node:fs");
const http = require("node:http");
const path = require("node:path");
const { directory } = require("./fake_plc.cjs");
const { decodeAll, home, isDigestOf, openCar, problems, publicKey } = require("./repository.cjs");
const { Server } = require("./server.cjs");

const PATIENCE = 30000; // ms for an event
const POSTS = "app.bsky.feed.post";
const BLOBS = "at.noted.try.blob";
const scratch = path.join(process.env.NOMAD_ALLOC_DIR, "data");
const data = path.join(scratch, "throwaway");
const domain = (process.env.PDS_SERVICE_HANDLE_DOMAINS || `.${process.env.PDS_HOSTNAME}`).split(",")[0];

class Wrong extends Error {}

async function main() {
  const began = Date.now();
  const found = [];
  fs.mkdirSync(data, { recursive: true });
  const identities = await directory();
  const more = {
    PDS_DID_PLC_URL: identities.url,
    PDS_INVITE_REQUIRED: "false",
    PDS_DISABLE_SSRF_PROTECTION: "true", // newer servers refuse a directory on loopback otherwise
  };
  const server = new Server(data, more);
  try {
    await server.start();
    console.log(`version ${server.version} answers on throw-away data`);
    const made = await work(server);
    await server.stop();
    await server.start();
    await again(server, made);
    console.log("after a restart everything is there, and the server accepts more");
  } catch (error) {
    found.push(error instanceof Wrong ? error.message : `${error.message}\n${error.stack}`);
  }
  await server.stop();
  fs.rmSync(data, { recursive: true, force: true });
  for (const problem of found) console.error(`FAULT: on throw-away data: ${problem}`);
  const verdict = { problems: found, seconds: (Date.now() - began) / 1000 };
  fs.writeFileSync(path.join(scratch, "verdict.json"), JSON.stringify(verdict), { flush: true });
  process.exit(found.length > 0 ? 1 : 0);
}

async function work(server) {
  const accounts = [];
  for (const name of ["one", "two"]) {
    const password = crypto.randomBytes(16).toString("hex");
    const body = { handle: `trial-${name}${domain}`, email: `${name}@my-club.org`, password };
    accounts.push({ ...(await call(server, "server.createAccount", { body })), password });
  }
  const [{ did, accessJwt: token }] = accounts;
  const stream = await subscribe(server);
  const post = await record(server, did, token, POSTS, { text: "a trial", createdAt: new Date().toISOString() });
  await heard(stream, did, post);
  console.log("2 accounts created; a post written, and on the event stream");

  const content = crypto.randomBytes(100000);
  const { blob } = await call(server, "repo.uploadBlob", { token, content });
  const cid = blob.ref.$link;
  const kept = await record(server, did, token, BLOBS, { blob });
  await heard(stream, did, kept);
  const gone = await record(server, did, token, POSTS, { text: "to go", createdAt: new Date().toISOString() });
  await heard(stream, did, gone);
  const rkey = gone.uri.split("/").pop();
  await call(server, "repo.deleteRecord", { token, body: { repo: did, collection: POSTS, rkey } });
  await heard(stream, did, { ...gone, cid: null });
  stream.close();
  await served(server, did, cid, [post, kept]);
  console.log("a blob uploaded and served, a post deleted, the repository whole");
  return { did, password: accounts[0].password, cid, records: [post, kept] };
}

async function again(server, { did, password, cid, records }) {
  const { accessJwt: token } = await call(server, "server.createSession", { body: { identifier: did, password } });
  await served(server, did, cid, records);
  await record(server, did, token, POSTS, { text: "once more", createdAt: new Date().toISOString() });
}

/** Reads the repository as the public sees it: every record, a consistent tree, and the blob. */
async function served(server, did, cid, records) {
  const file = path.join(scratch, "throwaway.car");
  fs.writeFileSync(file, await call(server, "sync.getRepo", { parameters: { did } }));
  const car = openCar(file);
  const { rev } = await call(server, "sync.getLatestCommit", { parameters: { did } });
  const { verifier } = publicKey(fs.readFileSync(path.join(data, home(did), "key")));
  const wrong = [...problems({ ...car, rev, did, verifier })].map(({ text }) => text);
  for (const { uri, cid } of records) if (!car.blocks.has(cid)) wrong.push(`${uri} is not in its repository`);
  car.close();
  fs.rmSync(file);
  if (wrong.length > 0) throw new Wrong(wrong.join("; "));
  const blob = await call(server, "sync.getBlob", { parameters: { did, cid } });
  if (!isDigestOf(cid, crypto.createHash("sha256").update(blob).digest())) throw new Wrong("a blob came back changed");
}

function record(server, did, token, collection, content) {
  const body = { repo: did, collection, record: { $type: collection, ...content }, validate: false };
  return call(server, "repo.createRecord", { token, body });
}

/** Calls a method. Returns JSON as a value, everything else as bytes. Throws the server's error. */
async function call(server, method, { parameters = {}, body, content, token }) {
  const url = `${server.url}/xrpc/com.atproto.${method}?${new URLSearchParams(parameters)}`;
  const type = content ? "application/octet-stream" : "application/json";
  const sent = content ?? (body && JSON.stringify(body));
  const headers = { ...(token && { authorization: `Bearer ${token}` }), ...(sent && { "content-type": type }) };
  const answer = await fetch(url, { method: sent ? "POST" : "GET", headers, body: sent });
  const bytes = Buffer.from(await answer.arrayBuffer());
  if (!answer.ok) throw new Wrong(`${method} is answered with ${answer.status} ${bytes.toString().slice(0, 300)}`);
  return answer.headers.get("content-type")?.startsWith("application/json") ? JSON.parse(bytes) : bytes;
}

// --- the event stream: a WebSocket, of which only the server's frames are read (RFC 6455, section 5.2)

async function subscribe(server) {
  const url = `${server.url}/xrpc/com.atproto.sync.subscribeRepos`;
  const key = crypto.randomBytes(16).toString("base64");
  const headers = { connection: "Upgrade", upgrade: "websocket", "sec-websocket-version": "13" };
  const request = http.get(url, { headers: { ...headers, "sec-websocket-key": key } });
  const socket = await new Promise((resolve, reject) => {
    request.on("upgrade", (_answer, socket) => resolve(socket));
    request.on("response", (answer) => reject(new Wrong(`the event stream answers ${answer.statusCode}`)));
    request.on("error", reject);
  });
  const commits = [];
  let rest = Buffer.alloc(0);
  socket.on("error", () => {});
  socket.on("data", (chunk) => {
    rest = Buffer.concat([rest, chunk]);
    for (let frame; (frame = nextFrame(rest)); rest = rest.subarray(frame.end)) {
      if (frame.opcode !== 2) continue;
      const [header, event] = decodeAll(frame.content);
      if (header.t === "#commit") commits.push(event);
    }
  });
  return { commits, close: () => socket.destroy() };
}

function nextFrame(bytes) {
  if (bytes.length < 2) return null;
  const short = bytes[1] & 127;
  const start = short === 127 ? 10 : short === 126 ? 4 : 2;
  if (bytes.length < start) return null;
  const size = short === 127 ? Number(bytes.readBigUInt64BE(2)) : short === 126 ? bytes.readUInt16BE(2) : short;
  if (bytes.length < start + size) return null;
  return { opcode: bytes[0] & 15, content: bytes.subarray(start, start + size), end: start + size };
}

async function heard(stream, did, { uri, cid }) {
  const named = uri.split("/").slice(-2).join("/");
  const told = ({ repo, ops }) =>
    repo === did && ops.some((op) => op.path === named && (op.cid?.toString() ?? null) === cid);
  for (const end = Date.now() + PATIENCE; !stream.commits.some(told); ) {
    if (Date.now() > end) throw new Wrong(`the event stream says nothing of ${named}`);
    await new Promise((resume) => setTimeout(resume, 50));
  }
}

main();
