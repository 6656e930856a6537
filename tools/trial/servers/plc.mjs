// Runs the PLC directory that is installed in the working directory: node plc.mjs FOLDER PORT. Its PostgreSQL is
// PGlite, in this process, its files in FOLDER. Listens on loopback only; stops when standard input closes.
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.cwd(), "package.json"));
const { Database, PlcServer } = require("@did-plc/server");
const { PGlite } = require("@electric-sql/pglite");
const { Kysely, PostgresDialect } = require("kysely");

const [folder, port] = process.argv.slice(2);
const postgres = await PGlite.create(folder);

// The connection pool that the query builder needs, over PGlite's one connection: requests queue up.
let turn = Promise.resolve();
const pool = {
  async connect() {
    const before = turn;
    let release;
    turn = new Promise((resolve) => (release = resolve));
    await before;
    const query = async (text, values) => {
      const { rows, affectedRows } = await postgres.query(text, values);
      return { rows, rowCount: affectedRows, command: text.split(" ", 1)[0].toUpperCase() };
    };
    return { query, release };
  },
  end: () => postgres.close(),
};
const db = new Database(new Kysely({ dialect: new PostgresDialect({ pool }) }));
await db.migrateToLatestOrThrow();
const server = createServer(PlcServer.create({ db }).app).listen(Number(port), "127.0.0.1");

let stopping;
const stop = () =>
  (stopping ??= new Promise((resolve) => {
    server.close(resolve);
    server.closeAllConnections();
  })
    .then(() => db.close())
    .finally(() => process.stdin.destroy()));
process.on("SIGTERM", stop);
process.stdin.on("end", stop).resume();
