// Loaded into the PDS before anything else: it asks the tests' own name server, and looks up no name but this machine's.
const dns = require("node:dns");
const { syncBuiltinESMExports } = require("node:module");

dns.setServers([process.env.TESTS_NAME_SERVER]);
dns.promises.setServers([process.env.TESTS_NAME_SERVER]);

const lookup = dns.lookup;
dns.lookup = (name, ...rest) => {
  if (name === "localhost" || name === "127.0.0.1") return lookup(name, ...rest);
  const error = Object.assign(new Error(`the tests look up no ${name}`), { code: "ENOTFOUND" });
  process.nextTick(rest.at(-1), error);
};
syncBuiltinESMExports();
