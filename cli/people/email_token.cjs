// Prints, as one line of JSON, the tokens that the server would have mailed to the account in the argument.
const { createRequire } = require("node:module");
const path = require("node:path");

// The server's own SQLite module, found from the server's package: pnpm, which builds the image, links it nowhere else.
const app = createRequire(path.join(process.cwd(), "package.json"));
const Database = createRequire(app.resolve("@atproto/pds/package.json"))("better-sqlite3");

const file = process.env.PDS_ACCOUNT_DB_LOCATION || path.join(process.env.PDS_DATA_DIRECTORY, "account.sqlite");
const db = new Database(file, { readonly: true, fileMustExist: true, timeout: 20000 });
const rows = db.prepare("SELECT purpose, token, requestedAt FROM email_token WHERE did = ?").all(process.argv[1]);
console.log(JSON.stringify(rows));
