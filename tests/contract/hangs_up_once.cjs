// Loaded into the PDS before anything else: the first question for a blob ends with its connection, and no answer.
const http = require("node:http");

const { emit } = http.Server.prototype;
let before = true;
http.Server.prototype.emit = function (name, request, ...rest) {
  if (name !== "request" || !before || !request.url.includes("getBlob")) return emit.call(this, name, request, ...rest);
  before = false;
  request.socket.destroy();
  return true;
};
