// Preloaded into the server's process: holds an exclusive lock on the data directory for the life of the process, so
// that two servers never write to the same data.
//
// The other server can be an allocation that Nomad still stops, or an old one that a Nomad client finds in its state and
// starts again. This one waits for the time in which Nomad kills a task, and then refuses to start. The kernel releases
// the lock when the process ends, however it ends. Other Node processes of the container (`node -e`) are not affected.
"use strict";

if (process.execArgv.some((argument) => /^(-e|-p|-pe|--eval|--print)\b/.test(argument))) return;
if (!require("node:worker_threads").isMainThread) return;

const fs = require("node:fs");
const path = require("node:path");
const { createRequire } = require("node:module");

const WAIT = 90; // s; longer than the kill_timeout of the task
const file = path.join(process.env.PDS_DATA_DIRECTORY, ".run-status", "server-lock.sqlite");

function refuse(problem, remedy) {
  console.error(`REFUSED: ${problem}\n  ${remedy}`);
  process.exit(1);
}

function open(timeout) {
  // The server's own copy of the library, in the image's working directory.
  const server = createRequire(path.join(process.cwd(), "x.js")).resolve("@atproto/pds/package.json");
  const Database = createRequire(server)("better-sqlite3");
  fs.mkdirSync(path.dirname(file), { recursive: true, mode: 0o700 });
  const db = new Database(file, { timeout });
  db.exec("begin exclusive");
  return db;
}

function hold() {
  try {
    return open(0);
  } catch (error) {
    if (error.code !== "SQLITE_BUSY") throw error;
  }
  console.log(`another server still runs on these data; waiting up to ${WAIT} s until it ends`);
  return open(WAIT * 1000);
}

try {
  // Kept for the life of the process: a connection that is collected as garbage would close, and release the lock.
  globalThis[Symbol.for("pds.data-lock")] = hold();
} catch (error) {
  if (error.code === "SQLITE_BUSY") {
    refuse(
      "another server runs on these data, and two would damage them.",
      "Nomad starts this one again. If this repeats, stop the other one: `./pds nomad STACK -- job status pds` lists " +
        "the allocations."
    );
  }
  refuse(
    `the data directory cannot be locked: ${error.message}.`,
    `Fix what prevents the server from writing ${file}, for example a full or read-only disk.`
  );
}
