// Loaded into the job that removes uploads: at the step PAUSE_AT of the upload PAUSE_KEY it prints "paused" and waits
// for a byte, or is killed if PAUSE_KILLS is set.
const fs = require("node:fs");

const { PAUSE_AT, PAUSE_KEY, PAUSE_KILLS } = process.env;
const { statSync, rmSync } = fs;
const STEPS = { listed: 2, locked: 3 }; // which look at the file follows each
let looks = 0;

function pause() {
  if (PAUSE_KILLS) process.kill(process.pid, "SIGKILL");
  fs.writeSync(1, "paused\n");
  fs.readSync(0, Buffer.alloc(1));
}

fs.statSync = (file, ...rest) => {
  if (String(file).endsWith(PAUSE_KEY) && ++looks === STEPS[PAUSE_AT]) pause();
  return statSync(file, ...rest);
};

fs.rmSync = (file, ...rest) => {
  if (String(file).endsWith(PAUSE_KEY) && PAUSE_AT === "committed") pause();
  return rmSync(file, ...rest);
};
