// Loaded into a job: the process is killed before its step number KILL_AT. Steps are files that get their final name or
// are removed, and requests that change the bucket.
const fs = require("node:fs");
const http = require("node:http");

let left = Number(process.env.KILL_AT);

function step() {
  if (--left === 0) process.kill(process.pid, "SIGKILL");
}

for (const name of ["renameSync", "rmSync"]) {
  const original = fs[name];
  fs[name] = (...rest) => {
    if (name === "renameSync" || fs.existsSync(rest[0])) step();
    return original(...rest);
  };
}
const { request } = http;
http.request = (options, ...rest) => {
  if (["PUT", "DELETE"].includes(options.method)) step();
  return request(options, ...rest);
};
