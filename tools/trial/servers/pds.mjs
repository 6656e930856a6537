// Starts the PDS that is installed in the working directory, as upstream's container image does, with two
// differences: it listens on loopback only, and it stops when standard input closes (its parent has died). It keeps the
// compiled modules beside the installed ones: compiling them is most of the processor time of a start.
import { createRequire, enableCompileCache } from "node:module";
import { join } from "node:path";

enableCompileCache(join(process.cwd(), ".compiled"));
const require = createRequire(join(process.cwd(), "package.json"));
const { PDS, envToCfg, envToSecrets, readEnv } = require("@atproto/pds");

const env = readEnv();
env.version ||= require("@atproto/pds/package.json").version;
const pds = await PDS.create(envToCfg(env), envToSecrets(env));
const listen = pds.app.listen.bind(pds.app);
pds.app.listen = (port) => listen(port, "127.0.0.1");
await pds.start();

// An ingress requests this before it orders a certificate for a name: is it the server's, or a member's?
pds.app.get("/tls-check", async (request, response) => {
  const { domain } = request.query;
  const { service, identity } = pds.ctx.cfg;
  const handle = identity.serviceHandleDomains.some((end) => String(domain).endsWith(end));
  const known = domain === service.hostname || (handle && (await pds.ctx.accountManager.getAccount(domain)));
  response.status(known ? 200 : 404).json({ success: Boolean(known) });
});

let stopping;
const stop = () => (stopping ??= pds.destroy().finally(() => process.stdin.destroy()));
process.on("SIGTERM", stop);
process.stdin.on("end", stop).resume();
