// Files and folders of a data directory, for the programs that read, copy and replace them.
"use strict";

const fs = require("node:fs");
const path = require("node:path");

const NO_FOLDER = ["ENOENT", "ENOTDIR"];

/** The names in a folder; none if it does not exist, or if reading it fails with another code of `absent`. */
function entries(folder, absent = ["ENOENT"]) {
  try {
    return fs.readdirSync(folder);
  } catch (error) {
    if (absent.includes(error.code)) return [];
    throw error;
  }
}

/** DIDs of the accounts with a folder below `root`. If `unread` is given, it gets the errors of unreadable folders. */
function folders(root, unread) {
  const actors = path.join(root, "actors");
  const shards = entries(actors).filter((name) => /^[0-9a-f]{2}$/.test(name));
  const listed = (shard) => {
    try {
      return entries(path.join(actors, shard));
    } catch (error) {
      if (!unread) throw error;
      unread(error);
      return [];
    }
  };
  return shards.flatMap((shard) => listed(shard).filter((name) => name.startsWith("did:")));
}

/** Flushes a file, or the entries of a folder, to the disk. */
function sync(name) {
  const handle = fs.openSync(name);
  try {
    fs.fsyncSync(handle);
  } finally {
    fs.closeSync(handle);
  }
}

/** Writes a small file so that a crash or a power cut leaves the old one or the new one. */
function writeWhole(file, text) {
  fs.writeFileSync(`${file}.tmp`, text, { mode: 0o600, flush: true });
  fs.renameSync(`${file}.tmp`, file);
  sync(path.dirname(file));
}

module.exports = { NO_FOLDER, entries, folders, sync, writeWhole };
