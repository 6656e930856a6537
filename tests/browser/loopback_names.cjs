// Loaded into the PDS before anything else: it connects to the tests' names on this machine, and looks up no other name.
const dns = require("node:dns");
const tls = require("node:tls");
const { syncBuiltinESMExports } = require("node:module");

const names = new Set(process.env.TESTS_NAMES.split(","));
const connect = tls.connect;
// Certificates are checked as usual: undici sets `servername` from the URL.
tls.connect = (options, ...rest) =>
  names.has(options.host)
    ? connect({ ...options, host: "127.0.0.1", port: Number(process.env.TESTS_HTTPS_PORT) }, ...rest)
    : connect(options, ...rest);

const lookup = dns.lookup;
dns.lookup = (name, ...rest) => {
  if (name === "localhost" || name === "127.0.0.1") return lookup(name, ...rest);
  const error = Object.assign(new Error(`the tests look up no ${name}`), { code: "ENOTFOUND" });
  process.nextTick(rest.at(-1), error);
};
syncBuiltinESMExports();
