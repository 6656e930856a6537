"use strict";
// The server as a container: started, asked by an ingress which names it serves, stopped in order.
const { PDS, envToCfg, envToSecrets, readEnv, httpLogger } = require("@atproto/pds");
const { version } = require("@atproto/pds/package.json");

// What an ingress with on-demand certificates asks before it orders one: is this name the server's, or a member's?
async function mayHaveCertificate(pds, name) {
  const { service, identity } = pds.ctx.cfg;
  if (name === service.hostname) return true;
  if (!identity.serviceHandleDomains.some((end) => name.endsWith(end))) return false;
  return Boolean(await pds.ctx.accountManager.getAccount(name));
}

async function main() {
  const env = readEnv();
  env.version ||= version;
  const pds = await PDS.create(envToCfg(env), envToSecrets(env));
  await pds.start();
  httpLogger.info("pds has started");
  pds.app.get("/tls-check", async (request, response) => {
    const name = request.query.domain;
    if (typeof name !== "string" || !name) {
      return response.status(400).json({ error: "InvalidRequest", message: "no domain was asked for" });
    }
    try {
      const ours = await mayHaveCertificate(pds, name);
      return ours ? response.json({ success: true }) : response.status(404).json({ error: "NotFound" });
    } catch (error) {
      httpLogger.error({ err: error }, "tls-check failed");
      return response.status(500).json({ error: "InternalServerError" });
    }
  });
  process.on("SIGTERM", async () => {
    httpLogger.info("pds is stopping");
    await pds.destroy();
    httpLogger.info("pds is stopped");
  });
}

main();
