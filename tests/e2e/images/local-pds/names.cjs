"use strict";
// What /etc/hosts would do, for the names in names.json.
const dns = require("node:dns");
const names = require("./names.json");

const lookup = dns.lookup;
dns.lookup = (name, ...rest) => lookup(names[name] ?? name, ...rest);
