// The server as a container: started, asked by an ingress which names it serves, stopped in order. Upstream's image has
// an index.ts from the line 0.4.50xx on, which Node runs as it is, and says its tag where others say the package.
import { PDS, httpLogger, readEnv } from "@atproto/pds";
import manifest from "@atproto/pds/package.json" with { type: "json" };

// What an ingress with on-demand certificates asks before it orders one: is this name the server's, or a member's?
async function mayHaveCertificate(pds: PDS, name: string): Promise<boolean> {
  const { service, identity } = pds.ctx.cfg;
  if (name === service.hostname) return true;
  if (!identity.serviceHandleDomains.some((end) => name.endsWith(end))) return false;
  return Boolean(await pds.ctx.accountManager.getAccount(name as never));
}

function answerIngress(pds: PDS): void {
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
}

const env = readEnv();
const [, line, patch] = manifest.version.split(".");
env.version ||= `0.4.${line}${patch.padStart(3, "0")}`;
await PDS.run({ env, onCreated: answerIngress });
