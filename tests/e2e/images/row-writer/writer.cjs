// Stands for a PDS on a volume that is taken away: the body of each POST becomes a row of a SQLite database with the
// server's own library, in WAL mode with every commit flushed, and is acknowledged after that. GET lists the rows.
"use strict";

const http = require("node:http");
const path = require("node:path");
const { createRequire } = require("node:module");

const server = createRequire(path.join(process.cwd(), "x.js")).resolve("@atproto/pds/package.json");
const Database = createRequire(server)("better-sqlite3");
const db = new Database(path.join(process.env.PDS_DATA_DIRECTORY, "rows.sqlite"));
db.pragma("journal_mode = WAL");
db.pragma("synchronous = FULL");
db.exec("create table if not exists row (id integer primary key, text text not null)");

function answer(response, status, body) {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify(body));
}

http
  .createServer((request, response) => {
    const chunks = [];
    request.on("data", (chunk) => chunks.push(chunk));
    request.on("end", () => {
      try {
        if (request.method === "POST") {
          db.prepare("insert into row (text) values (?)").run(Buffer.concat(chunks).toString());
        }
        const rows = request.method === "GET" ? db.prepare("select text from row order by id").pluck().all() : [];
        answer(response, 200, rows);
      } catch (error) {
        console.error(error.code, error.message);
        answer(response, 500, error.code);
      }
    });
  })
  .listen(3000, () => console.log("writes rows"));

// As the first process of a container it would otherwise ignore the signal.
process.on("SIGTERM", () => {
  db.close();
  process.exit(0);
});
