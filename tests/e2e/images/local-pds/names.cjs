"use strict";
// What /etc/hosts would do, for the names in names.json.
const dns = require("node:dns");
const names = require("./names.json");

const lookup = dns.lookup;
dns.lookup = (name, ...rest) => lookup(names[name] ?? name, ...rest);

// The server's mail library queries name servers first (nodemailer, lib/shared), which do not know these names.
const { resolve4 } = dns.Resolver.prototype;
dns.Resolver.prototype.resolve4 = function (name, ...rest) {
  if (!(name in names)) return resolve4.call(this, name, ...rest);
  process.nextTick(rest.at(-1), null, [names[name]]);
};
