// Joins the modules of the server that is installed in the working directory: node bundle.cjs ESBUILD TARGET. Each entry
// of the package becomes a file of the same name, and so do the stores that durable.cjs imports. All of them take their
// exports out of one file with all modules, so that each module still exists once, and V8 finds its functions compiled.
"use strict";

const { execFileSync } = require("node:child_process");
const fs = require("node:fs");
const path = require("node:path");
const { pathToFileURL } = require("node:url");
const [bundler, target] = process.argv.slice(2);
const { build } = require(bundler);

const from = path.resolve("node_modules/@atproto/pds/dist");
const entries = ["index.js", "actor-store/actor-store.js", "disk-blobstore.js"];
const { type } = JSON.parse(fs.readFileSync(path.join(from, "../package.json"), "utf8"));
const isModule = type === "module";

/** What the one file exports: a function for each entry, which returns the entry's exports. */
function contents() {
  const required = entries.map((name) => `${JSON.stringify(name)}: () => require("./${name}")`);
  if (!isModule) return `module.exports = { ${required} };`;
  const imported = entries.map((name, number) => `import * as entry${number} from "./${name}";\n`).join("");
  const returned = entries.map((name, number) => `${JSON.stringify(name)}: () => entry${number}`);
  return `${imported}module.exports = { ${returned} };`;
}

/** The table of reserved names with the value that its module computes: for each of 1,029 names the module copies the
 * object of those before it, which takes a fifth of a start. */
const RESERVED = {
  name: "reserved",
  setup({ onLoad }) {
    onLoad({ filter: /@atproto\/pds\/dist\/handle\/reserved\.js$/ }, async ({ path: file }) => {
      const { reservedSubdomains, ...more } = await import(pathToFileURL(file));
      const known = ["__esModule", "default", "module.exports"];
      const others = Object.keys(more).filter((name) => !known.includes(name));
      if (others.length > 0) throw new Error(`${file} also exports ${others}`);
      const table = JSON.stringify(reservedSubdomains);
      return { contents: isModule ? `export const reservedSubdomains = ${table};` : `exports.reservedSubdomains = ${table};` };
    });
  },
};

/** Loads `all.js` as Node loads a CommonJS module, with the functions that V8 compiled while it was loaded once. */
const LOADER = `"use strict";
const fs = require("node:fs");
const path = require("node:path");
const vm = require("node:vm");
const file = path.join(__dirname, "all.js");
const cache = path.join(__dirname, "all.compiled");
const script = new vm.Script("(function (exports, require, module, __filename, __dirname) {" + fs.readFileSync(file, "latin1") + "\\n})", {
  filename: file,
  cachedData: fs.existsSync(cache) ? fs.readFileSync(cache) : undefined,
  importModuleDynamically: vm.constants.USE_MAIN_CONTEXT_DEFAULT_LOADER,
});
script.runInThisContext()(exports, require, module, file, __dirname);
module.exports.script = script;
`;

async function main() {
  await build({
    stdin: { contents: contents(), resolveDir: from },
    outfile: path.join(target, "all.js"),
    bundle: true,
    platform: "node",
    format: "cjs",
    minifySyntax: true,
    minifyWhitespace: true,
    lineLimit: 120, // Node prints the line of an error that nothing catches
    // What is native, has files beside its modules, or starts threads from its own files.
    external: ["better-sqlite3", "sharp", "pino", "@atproto/oauth-provider-ui", "@atproto/oauth-provider-frontend"],
    define: { "import.meta.dirname": "__dirname", "import.meta.filename": "__filename", "import.meta.url": "importMetaUrl" },
    banner: { js: 'const importMetaUrl = require("node:url").pathToFileURL(__filename).href;' },
    plugins: [RESERVED],
    logLevel: "error",
  });
  fs.writeFileSync(path.join(target, "package.json"), '{ "type": "commonjs" }\n');
  fs.writeFileSync(path.join(target, "load.js"), LOADER);
  const load = `require(${JSON.stringify(path.join(target, "load.js"))})`;
  const program =
    `const all = ${load};` +
    `const names = ${JSON.stringify(entries)}.map((name) => [name, Object.keys(all[name]())]);` +
    `require("fs").writeFileSync(${JSON.stringify(path.join(target, "all.compiled"))}, all.script.createCachedData());` +
    "console.log(JSON.stringify(names)); process.exit();";
  for (const [name, names] of JSON.parse(execFileSync(process.execPath, ["-e", program], { encoding: "utf8" }))) {
    const installed = Object.keys(require(path.join(from, name))).filter((each) => each !== "__esModule");
    const missing = installed.filter((each) => !names.includes(each));
    if (missing.length > 0) throw new Error(`the joined ${name} does not export ${missing}`);
    const file = path.join(target, name);
    const relative = path.relative(path.dirname(file), target) || ".";
    fs.mkdirSync(path.dirname(file), { recursive: true });
    // The second line tells an import of an ECMAScript module the names.
    const named = names.filter((each) => each !== "default");
    const text = `module.exports = require("./${relative}/load.js")["${name}"]();\n0 && (module.exports = { ${named} });\n`;
    fs.writeFileSync(file, text);
  }
}

main();
