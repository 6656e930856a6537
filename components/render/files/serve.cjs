// The second half of a drill: the server starts on the scratch copy, with no way out, and serves what is in it.
//
// Runs in the server's image in a container without a network. Every repository is asked for as a stranger would, and
// read by repository.cjs; every blob is fetched and hashed. The copy is then removed, and the outcome left for the job
// that watches (watch.cjs), in DATA/.stamps, also where the first half found faults.
"use strict";

const { spawn } = require("node:child_process");
const crypto = require("node:crypto");
const fs = require("node:fs");
const path = require("node:path");
const { pipeline } = require("node:stream/promises");
const { stamp } = require("./stamp.cjs");
const { isDigestOf, openCar, problems, publicKey } = require("./repository.cjs");

const PORT = 3000;
const START = 120000; // ms; a server that has to bring large databases up to its version
const scratch = path.join(process.env.NOMAD_ALLOC_DIR, "data");
const copy = path.join(scratch, "fetched");
const entry = process.env.DRILL_ENTRY ?? "index.js"; // the image's own
const statuses = ["RepoDeactivated", "RepoTakendown", "RepoSuspended"];

async function main() {
  const found = { problems: ["the copy was not looked at: see the task before"] };
  let manifest = null;
  try {
    Object.assign(found, JSON.parse(fs.readFileSync(path.join(scratch, "verdict.json"), "utf8")));
    manifest = JSON.parse(fs.readFileSync(path.join(copy, "manifest.json"), "utf8"));
  } catch (error) {
    if (error.code !== "ENOENT") throw error;
  }
  const known = found.problems.length; // they were said
  if (manifest && known === 0) await serve(manifest, found);
  for (const name of ["fetched", "served.car"]) fs.rmSync(path.join(scratch, name), { recursive: true, force: true });
  stamp("drill", found.problems, { of: manifest?.started });
  for (const problem of found.problems.slice(known)) console.error(`FAULT: ${problem}`);
  if (found.problems.length > 0) process.exit(1);
  const fetched = JSON.parse(fs.readFileSync(path.join(scratch, "fetched.json"), "utf8")).seconds;
  const point = Date.parse(manifest.started);
  console.log(`recovery point  ${manifest.started}, ${((Date.now() - point) / 60000).toFixed(0)} minutes ago`);
  const [looked, served] = [found.seconds, found.served].map((seconds) => `${seconds.toFixed(1)} s`);
  console.log(
    `recovery time   ${(fetched + found.seconds + found.served).toFixed(1)} s: fetched in ${fetched} s, looked at in ` +
      `${looked}, served in ${served}`
  );
}

async function serve(manifest, found) {
  const began = Date.now();
  const options = { env: environment(), stdio: ["pipe", "inherit", "inherit"] };
  const server = spawn(process.execPath, ["--enable-source-maps", entry], options);
  let ended = false;
  server.on("exit", () => (ended = true));
  try {
    for (const end = began + START; !(await healthy()); ) {
      if (ended || Date.now() > end) {
        found.problems.push("the server does not come up on the copy: its log is above");
        return;
      }
      await new Promise((resume) => setTimeout(resume, 200));
    }
    let served = 0;
    for (const [did, known] of Object.entries(manifest.repositories)) {
      const wrong = await wrongWith(did, known, manifest.blobs === "disk");
      found.problems.push(...wrong.map((problem) => `${did}: ${problem}`));
      served++;
    }
    found.served = (Date.now() - began) / 1000;
    console.log(`${served} repositories served by the server on the copy: ${found.problems.length} faults`);
  } finally {
    server.kill();
    if (!ended) await new Promise((resume) => server.on("exit", resume));
  }
}

/** The server's own environment, with secrets of nobody's, and no relay to tell. */
function environment() {
  const secret = () => crypto.randomBytes(32).toString("hex");
  return Object.assign({ ...process.env }, {
    LOG_ENABLED: "false",
    PDS_DATA_DIRECTORY: copy,
    PDS_BLOBSTORE_DISK_LOCATION: path.join(copy, "blocks"),
    PDS_BLOBSTORE_DISK_TMP_LOCATION: path.join(copy, "temp"),
    PDS_PORT: String(PORT),
    PDS_RATE_LIMITS_ENABLED: "false",
    PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX: "1".padStart(64, "0"),
    PDS_JWT_SECRET: secret(),
    PDS_ADMIN_PASSWORD: secret(),
  });
}

async function healthy() {
  try {
    return (await fetch(`http://127.0.0.1:${PORT}/xrpc/_health`)).ok;
  } catch {
    return false;
  }
}

async function wrongWith(did, known, blobsToo) {
  const answer = await ask("getRepo", { did });
  if (!answer.ok) {
    const { error } = await answer.json();
    return statuses.includes(error) ? [] : [`its repository is not served: ${error}`];
  }
  const wrong = [];
  const file = path.join(scratch, "served.car");
  try {
    await pipeline(answer.body, fs.createWriteStream(file));
    const car = openCar(file);
    const shelf = crypto.createHash("sha256").update(did).digest("hex").slice(0, 2);
    const { verifier } = publicKey(fs.readFileSync(path.join(copy, "actors", shelf, did, "key")));
    if (car.root !== known.cid) wrong.push(`${car.root} is served, the manifest says ${known.cid}`);
    else wrong.push(...problems({ ...car, rev: known.rev, did, verifier }));
    car.close();
  } catch (error) {
    wrong.push(`what is served is no repository: ${error.message}`);
  }
  for (const cid of blobsToo ? known.blobs : []) {
    if (fs.existsSync(path.join(copy, "blocks", "quarantine", did, cid))) continue; // taken down
    const blob = await ask("getBlob", { did, cid });
    const hash = crypto.createHash("sha256");
    if (!blob.ok) wrong.push(`blob ${cid} is not served: ${(await blob.json()).error}`);
    else await pipeline(blob.body, hash);
    if (blob.ok && !isDigestOf(cid, hash.digest())) wrong.push(`blob ${cid} is served as something else`);
  }
  return wrong;
}

function ask(method, parameters) {
  return fetch(`http://127.0.0.1:${PORT}/xrpc/com.atproto.sync.${method}?${new URLSearchParams(parameters)}`);
}

main().catch((error) => {
  stamp("drill", [error.message], {});
  console.error(`FAILED: ${error.stack}`);
  process.exit(1);
});
