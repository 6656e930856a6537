// Copies the blobs of a PDS from one place to another, each with a check of its hash. The accounts'
// databases name them. Changes no source, and nothing at the target that a database names.
//
// A blob is copied if the target lacks it, so that a run that was cut short is continued by the next. On a bucket, size
// and name suffice: its service checked the content at the upload. On a disk, the content is read again.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { Database, NO_ROOM, read } = require("./account_check.cjs");
const { Damaged, Folder, Sealed, isIntact } = require("./blob_stores.cjs");
const departures = require("./account_events.cjs");
const { folders } = require("./files.cjs");
const { home } = require("./repository.cjs");

const AT_ONCE = 4; // blobs; each holds a part of itself in memory
const EVERY = 10000; // ms between two lines of progress
const KEPT = ["blocks", "quarantine"];

/** DIDs of the accounts with a database below `data`. */
function accountsIn(data) {
  return folders(data).filter((did) => fs.existsSync(path.join(data, home(did), "store.sqlite"))).sort();
}

/**
 * The blobs that an account's database names: `cid`, `size`, `key` of an upload that no record names yet, and whether
 * it was taken down (`hidden`).
 */
function rowsOf(data, did) {
  return read(path.join(data, home(did), "store.sqlite"), (db) =>
    db.prepare('select cid, size, "tempKey" as key, "takedownRef" is not null as hidden from blob order by cid').all()
  );
}

/** Whether an account is deleted: the server announced it, and nothing of it is left. */
function deletions(data) {
  const found = [path.join(data, "sequencer.sqlite"), path.join(data, "account.sqlite")].map((file) =>
    fs.existsSync(file) ? new Database(file, { fileMustExist: true }) : null
  );
  const [events, accounts] = found;
  try {
    const list = departures.lines(path.join(data, departures.LIST));
    const statuses = departures.since(departures.merged(list, events ? departures.events(events) : []), "");
    const known = new Set(accounts?.prepare("select did from actor").pluck().all());
    const present = new Set(accountsIn(data));
    return (did) => statuses.get(did) === "deleted" && !known.has(did) && !present.has(did);
  } finally {
    for (const db of found) db?.close();
  }
}

class Run {
  /**
   * Copies between the stores `from` and `to`, for the accounts in `data`. With `gently`, two blobs at a time, with pauses
   * as long as the copies: the server's members use the same disk and processor. `damaged` are names of copies at the
   * target that are made again.
   */
  constructor({ data, from, to, only = "", gently = false, damaged = new Set() }) {
    Object.assign(this, { data, from, to, only, gently, damaged });
    this.mended = new Set(); // of the damaged ones
    this.counts = { named: 0, there: 0, copied: 0, bytes: 0 };
    this.losses = []; // [DID, sentence, CID]: what the source cannot give and the target lacks
    this.lost = []; // [DID, CID]: what the target alone has
    this.gone = []; // [DID, CID]: what the source no longer had when it was read
    this.wanted = new Map(); // DID to the names that its blobs have at the target
  }

  async copy() {
    if (this.to instanceof Folder) this.to.tidy();
    [this.source, this.target] = await Promise.all([this.from, this.to].map((store) => store.index(this.only)));
    const todo = [];
    for (const did of accountsIn(this.data).filter((name) => !this.only || name === this.only)) todo.push(...this.blobsOf(did));
    this.counts.named = todo.length;
    let [at, shown, fatal] = [0, Date.now(), null];
    const worker = async () => {
      while (at < todo.length && !fatal) {
        const began = performance.now();
        await this.one(todo[at++]).catch((error) => (fatal ??= error));
        if (this.gently) await new Promise((resume) => setTimeout(resume, performance.now() - began));
        if (Date.now() - shown > EVERY) {
          shown = Date.now();
          console.log(`${at} of ${todo.length} blobs, ${this.counts.copied} copied`);
        }
      }
    };
    await Promise.all(Array.from({ length: this.gently ? AT_ONCE / 2 : AT_ONCE }, worker));
    if (fatal) throw fatal;
    return this;
  }

  blobsOf(did) {
    const wanted = new Set();
    this.wanted.set(did, wanted);
    let rows;
    try {
      rows = rowsOf(this.data, did);
    } catch (error) {
      this.losses.push([did, `its database cannot be read (${error.message}): the files of its folder are copied`]);
      const names = [...this.source.keys()].filter((name) => KEPT.includes(name.split("/")[0]) && name.split("/")[1] === did);
      const hidden = (name) => name.startsWith("quarantine/");
      rows = names.map((name) => ({ cid: name.split("/")[2], size: this.source.get(name), key: null, hidden: hidden(name) }));
    }
    const sealed = this.to instanceof Sealed || this.from instanceof Sealed;
    const kept = sealed ? rows.filter(({ key }) => key === null) : rows;
    return kept.map(({ cid, size, key, hidden }) => {
      const names = key ? [`tmp/${did}/${key}`] : KEPT.map((place) => `${place}/${did}/${cid}`);
      const there = (index) => names.find((name) => index.has(name));
      const source = there(this.source);
      // A takedown moves a blob, and an old copy may be from before or after: the row decides. Copies beside the backups
      // have one place.
      const name = this.to instanceof Sealed ? names[0] : (names[hidden ? 1 : 0] ?? names[0]);
      const other = names.find((one) => one !== name && this.target.has(one));
      wanted.add(name);
      return { did, cid, size, source, name, other, upload: key !== null };
    });
  }

  async one({ did, cid, size, source, name, other, upload }) {
    // A bucket's service checked the content at the upload.
    if (this.target.get(name) === size && !this.damaged.has(name) && (!(this.to instanceof Folder) || (await isIntact(this.to, name, cid)))) {
      if (!source && !upload) this.lost.push([did, cid]);
      return void this.counts.there++;
    }
    let fault = `blob ${cid} is missing`;
    const places = [[this.from, source, this.source], [this.to, other, this.target]].filter(([, known]) => known);
    for (const [store, known, index] of places) {
      fault = await this.put(store, known, index.get(known), name, cid);
      if (fault instanceof Gone) return void (upload || this.gone.push([did, cid]));
      if (!fault) return;
    }
    if (other) this.wanted.get(did).add(other); // it may be the best that is left
    // An upload that never arrived has a row, too.
    if (!upload || places.length > 0) this.losses.push([did, fault, cid]);
  }

  /** Copies a blob to the target. Returns why it is lost, null if it is not, Gone if it was deleted or moved meanwhile. */
  async put(store, known, size, name, cid) {
    let unread = null;
    const open = async () => {
      const content = await store.get(known);
      if (!content) throw new Gone(known);
      return content.once("error", (error) => (unread = error));
    };
    try {
      await this.to.put(name, cid, size, open);
      if (this.damaged.has(name)) this.mended.add(name);
      this.counts.copied++;
      this.counts.bytes += size;
      return null;
    } catch (error) {
      if (error instanceof Gone) return error;
      if (error instanceof Damaged) return `blob ${cid} is damaged: ${error.message}`;
      // A bad disk. A bucket that does not answer is not a blob's fault.
      if (unread && store instanceof Folder) return `blob ${cid} cannot be read: ${unread.message}`;
      throw error;
    }
  }

  /** Removes what was deleted since an earlier copy: of accounts, and of records, so that no database names it. */
  async removeUnnamed(isDeleted) {
    const unread = new Set(this.losses.filter(([, , cid]) => !cid).map(([did]) => did));
    const names = [...this.target.keys()].filter((name) => {
      const did = name.split("/")[1];
      return isDeleted(did) || (this.wanted.has(did) && !unread.has(did) && !this.wanted.get(did).has(name));
    });
    await this.to.remove(names);
    return names.length;
  }

  tell(what) {
    const { named, there, copied, bytes } = this.counts;
    console.log(`${what}: ${named} blobs, ${there} there before, ${copied} copied (${(bytes / 2 ** 20).toFixed(1)} MiB), ${this.losses.length} losses`);
    for (const [did, text] of this.losses) console.log(`LOSS: ${did}: ${text}`);
  }
}

class Gone extends Error {}

/** Why `bytes` more do not fit on the volume; null if they do. The server keeps its reserve. */
function noRoom(data, bytes) {
  const reserve = Number(process.env.PDS_SNAPSHOT_RESERVE_MIB ?? 256) * 2 ** 20;
  const disk = fs.statfsSync(data);
  const free = disk.bavail * disk.bsize;
  const shown = (count) => `${Math.ceil(count / 2 ** 20)} MiB`;
  if (free - bytes >= reserve) return null;
  return `the volume has ${shown(free)} free. The blobs take ${shown(bytes)} and have to leave ${shown(reserve)} to the server. Raise 'volume.size_gib'.`;
}

/** Whether an error means that the disk is full. */
function isFull(error) {
  return NO_ROOM.includes(error.code);
}

module.exports = { KEPT, Run, accountsIn, deletions, isFull, noRoom, rowsOf };
