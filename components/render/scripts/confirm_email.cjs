// Marks the e-mail addresses of the accounts in PDS_CONFIRM_DIDS as confirmed, as a link in a message would: one short
// transaction beside the running server, on these accounts only.
const { createRequire } = require("node:module");
const path = require("node:path");

// The server's own SQLite module, resolved from the server's package: pnpm, which builds the image, links it only
// there.
const app = createRequire(path.join(process.cwd(), "package.json"));
const Database = createRequire(app.resolve("@atproto/pds/package.json"))("better-sqlite3");

const file = process.env.PDS_ACCOUNT_DB_LOCATION || path.join(process.env.PDS_DATA_DIRECTORY, "account.sqlite");
const dids = process.env.PDS_CONFIRM_DIDS.split(" ").filter((word) => word.startsWith("did:"));

const db = new Database(file, { fileMustExist: true, timeout: 20000 });
db.pragma("synchronous = FULL"); // the stack's state will record it as done (decision 16)
const known = db.prepare("SELECT 1 FROM account WHERE did = ?");
const update = db.prepare("UPDATE account SET emailConfirmedAt = ? WHERE did = ? AND emailConfirmedAt IS NULL");
const now = new Date().toISOString();
const confirm = db.transaction(() => {
  for (const did of dids) {
    if (!known.get(did)) console.log(`${did} is not an account here`);
    else console.log(`${did} ${update.run(now, did).changes ? "is confirmed now" : "was confirmed before"}`);
  }
});
confirm.immediate();
db.close();
