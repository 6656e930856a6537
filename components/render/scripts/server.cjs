// Starts the image's own server on a data directory for a trial: on loopback, with throw-away secrets.
"use strict";

const { spawn } = require("node:child_process");
const crypto = require("node:crypto");
const fs = require("node:fs");
const path = require("node:path");

const PORT = 3000;
const START = 120000; // ms; enough to migrate large databases
const STOP = 30000; // ms
// The image's entry in its working directory: upstream's is index.js up to 0.4.219, and index.ts in 0.4.50xx.
const entry = process.env.TRIAL_ENTRY ?? (fs.existsSync("index.ts") ? "index.ts" : "index.js");

const secret = () => crypto.randomBytes(32).toString("hex");

class Server {
  /** `more` is additional environment beside the paths of its files. */
  constructor(data, more = {}) {
    this.url = `http://127.0.0.1:${PORT}`;
    this.said = "";
    this.env = {
      ...process.env,
      // The modules that the stack's own server preloads.
      ...(process.env.TRIAL_NODE_OPTIONS && { NODE_OPTIONS: process.env.TRIAL_NODE_OPTIONS }),
      LOG_ENABLED: "false",
      PDS_DATA_DIRECTORY: data,
      PDS_BLOBSTORE_DISK_LOCATION: path.join(data, "blocks"),
      PDS_BLOBSTORE_DISK_TMP_LOCATION: path.join(data, "temp"),
      PDS_PORT: String(PORT),
      PDS_RATE_LIMITS_ENABLED: "false",
      PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX: "1".padStart(64, "0"),
      PDS_JWT_SECRET: secret(),
      PDS_ADMIN_PASSWORD: secret(),
      ...more,
    };
  }

  /** Returns once it answers. Throws if it ends, or does not answer in time. */
  async start() {
    const child = spawn(process.execPath, ["--enable-source-maps", entry], { env: this.env, stdio: "pipe" });
    this.child = child;
    this.ended = new Promise((resolve) => child.on("exit", resolve));
    let over = false;
    this.ended.then(() => (over = true));
    for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (this.said += text));
    for (const end = Date.now() + START; !(await this.healthy()); ) {
      if (over || Date.now() > end) throw new Error(this.why());
      await new Promise((resume) => setTimeout(resume, 200));
    }
  }

  why() {
    const [, migration] = /previously executed migration ([\w-]+) is missing/.exec(this.said) ?? [];
    if (migration) {
      return (
        `this version is older than the data: it does not know their migration ${migration}. ` +
        "Going back is a restore: of a backup from before it"
      );
    }
    const said = this.said.trim().split("\n").slice(-20).join("\n");
    return `the server does not start. ${said ? `Its output:\n${said}` : `In ${START / 1000} s it neither answered nor printed a reason.`}`;
  }

  async healthy() {
    try {
      const answer = await fetch(`${this.url}/xrpc/_health`);
      this.version = (await answer.json()).version;
      return answer.ok;
    } catch {
      return false;
    }
  }

  async stop() {
    if (!this.child) return;
    const late = setTimeout(() => this.child.kill("SIGKILL"), STOP);
    this.child.kill();
    await this.ended;
    clearTimeout(late);
    this.child = null;
  }
}

module.exports = { Server };
