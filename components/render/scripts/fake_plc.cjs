// An in-memory directory of identities on loopback for throw-away accounts, with the calls that the server uses.
//
// The public directory must never receive a trial's identities: they are permanent there. This one validates nothing.
"use strict";

const http = require("node:http");

/** Starts it on a free port. `url` is its address for the server. */
async function directory() {
  const operations = new Map();
  const listener = http.createServer(async (request, response) => {
    const [, did, ...rest] = decodeURIComponent(request.url).split("/");
    if (request.method === "POST") {
      const chunks = [];
      for await (const chunk of request) chunks.push(chunk);
      operations.set(did, JSON.parse(Buffer.concat(chunks)));
      return response.end("{}");
    }
    const found = operations.get(did);
    const [status, answer] = found ? [200, view(did, found, rest.join("/"))] : [404, { message: "not registered" }];
    response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(answer));
  });
  await new Promise((resume) => listener.listen(0, "127.0.0.1", resume));
  listener.unref();
  // By name: the server refuses a bare IP address.
  return { url: `http://localhost:${listener.address().port}` };
}

/** The three forms in which a directory returns an identity (web.plc.directory/spec). */
function view(did, { verificationMethods, rotationKeys, alsoKnownAs, services, ...operation }, form) {
  if (form === "data") return { did, verificationMethods, rotationKeys, alsoKnownAs, services };
  if (form === "log/last") return { verificationMethods, rotationKeys, alsoKnownAs, services, ...operation };
  const publicKeyMultibase = verificationMethods.atproto.slice("did:key:".length);
  const { type, endpoint } = services.atproto_pds;
  return {
    "@context": ["https://www.w3.org/ns/did/v1"],
    id: did,
    alsoKnownAs,
    verificationMethod: [{ id: `${did}#atproto`, type: "Multikey", controller: did, publicKeyMultibase }],
    service: [{ id: "#atproto_pds", type, serviceEndpoint: endpoint }],
  };
}

module.exports = { directory };
