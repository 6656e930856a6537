// Starts the installed server once for each environment, one after the other in this process, as pds.mjs starts it
// once. Loading the server's modules is most of a start, and no module but Node's and the logger's reads the environment
// when it is loaded. Reads [{name, env}, …] from standard input; writes {name: error} to the file in the last argument,
// "" for a server that answered.
"use strict";

const fs = require("node:fs");
const { createRequire } = require("node:module");
const path = require("node:path");
const { inspect } = require("node:util");

const app = createRequire(path.join(process.cwd(), "package.json"));
const { PDS, envToCfg, envToSecrets, readEnv } = app("@atproto/pds");

let thrown;
for (const event of ["uncaughtException", "unhandledRejection"]) process.on(event, (error) => (thrown ??= error));

/** The error of a start with `given` as the only environment, or "". */
async function start(given) {
  for (const name of Object.keys(process.env)) delete process.env[name];
  Object.assign(process.env, given);
  thrown = undefined;
  let pds;
  try {
    const env = readEnv();
    env.version ||= app("@atproto/pds/package.json").version;
    pds = await PDS.create(envToCfg(env), envToSecrets(env));
    const listen = pds.app.listen.bind(pds.app);
    pds.app.listen = (port) => listen(port, "127.0.0.1");
    await pds.start();
    const { status } = await fetch(`http://127.0.0.1:${given.PDS_PORT}/xrpc/_health`);
    if (status !== 200) throw new Error(`its health is ${status}`);
    if (thrown) throw thrown;
    return "";
  } catch (error) {
    return inspect(error);
  } finally {
    if (pds?.server) await pds.destroy();
  }
}

async function main() {
  const errors = {};
  for (const { name, env } of JSON.parse(fs.readFileSync(0, "utf8"))) errors[name] = await start(env);
  fs.writeFileSync(process.argv.at(-1), JSON.stringify(errors));
  process.exit(); // a refused environment may leave a database open
}

main();
