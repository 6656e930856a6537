// Loaded into the job that removes what no account needs from a bucket: in its first write transaction it prints
// "paused" and waits for a byte. PAUSE_AT is "listed" (before the transaction), "locked" (in it) or "committed".
const fs = require("node:fs");
const Module = require("node:module");

const TEXTS = { listed: "begin immediate", locked: "begin immediate", committed: "commit" };
const { PAUSE_AT } = process.env;
const { _load: load } = Module;
let waits = true;

function pause() {
  waits = false;
  fs.writeSync(1, "paused\n");
  fs.readSync(0, Buffer.alloc(1));
}

Module._load = function (name, ...rest) {
  const found = load.call(this, name, ...rest);
  if (name !== "better-sqlite3" || found.prototype.observed) return found;
  const { exec } = found.prototype;
  found.prototype.observed = true;
  found.prototype.exec = function (text) {
    const here = waits && text === TEXTS[PAUSE_AT];
    if (here && PAUSE_AT === "listed") pause();
    const done = exec.call(this, text);
    if (here && PAUSE_AT !== "listed") pause();
    return done;
  };
  return found;
};
