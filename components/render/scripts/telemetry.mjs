// Preloaded into the server's process (`--import`): starts the server's own telemetry, if the image has it.
//
// Upstream's way, `--import=@atproto/pds/telemetry`, ends the process in an image without that module
// (ERR_PACKAGE_PATH_NOT_EXPORTED), and Nomad would start it again and again. Here such a server starts without
// telemetry, and says so in its log. The variables OTEL_* decide what telemetry does.
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

const MODULE = "@atproto/pds/telemetry";

// `node -e` in the container, as `./pds check` runs it, is not a server: its port would be taken already.
if (!process.execArgv.some((argument) => /^(-e|-p|-pe|--eval|--print)\b/.test(argument))) {
  try {
    // From the server's directory, as for `--import` of the package itself. This file is elsewhere.
    const resolved = createRequire(path.join(process.cwd(), "index.js")).resolve(MODULE);
    await import(pathToFileURL(resolved));
  } catch (error) {
    console.error(`this image has no telemetry, so 'metrics' shows none of the server (${error.code ?? error.name})`);
  }
}
