// Joins the modules of the server that is installed in the working directory: node bundle.cjs ESBUILD TARGET. Each entry
// of the package becomes a file of the same name, and so do the stores that durable.cjs imports; they share their modules
// in further files, so that each module still exists once.
"use strict";

const path = require("node:path");
const [bundler, target] = process.argv.slice(2);
const { buildSync } = require(bundler);

const from = path.resolve("node_modules/@atproto/pds/dist");
buildSync({
  entryPoints: ["index.js", "telemetry.js", "actor-store/actor-store.js", "disk-blobstore.js"].map((name) => path.join(from, name)),
  outbase: from,
  outdir: target,
  bundle: true,
  splitting: true,
  format: "esm",
  platform: "node",
  minifySyntax: true,
  minifyWhitespace: true,
  lineLimit: 120, // Node prints the line of an error that nothing catches
  // What is native, has files beside its modules, or starts threads from its own files.
  external: ["better-sqlite3", "sharp", "pino", "@atproto/oauth-provider-ui", "@atproto/oauth-provider-frontend"],
  define: { __dirname: "import.meta.dirname", __filename: "import.meta.filename" },
  banner: { js: 'import { createRequire as requireFrom } from "node:module"; const require = requireFrom(import.meta.url);' },
  logLevel: "error",
});
