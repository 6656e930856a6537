// The accounts' part of a snapshot: copies each account's repository, key and blobs from the live data, or keeps them
// from the previous copy. It decides which data are copied again. If an account cannot be copied intact,
// its last intact copy stays in the snapshot, and the account is among the findings. Damage of one account
// affects no other.
//
// snapshot.cjs has the order and the lock.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { LOSSES, NOT, NO_ROOM, PLACES, copyDatabase, damageOf, isBlob, keptBlobs, read } = require("./account_check.cjs");
const leftOutList = require("./left_out.cjs");
const { entries } = require("./files.cjs");
const { commitProblems, home, publicKey, sha256 } = require("./repository.cjs");

const ATTEMPTS = 3;
const SETTLED = 2000; // ms; far above any file system's granularity of times
const NAMES = ["key", "did-op", "store.sqlite"]; // of an account's files

class Copy {
  /** From `data` and `blocks` (undefined for a bucket) to `next`; `current` is the previous copy. */
  constructor({ data, blocks, next, current, before }) {
    Object.assign(this, { data, blocks, next, current, before });
    this.files = {}; // path to size and SHA-256
    this.repositories = {}; // DID to cid, rev, stamp, checked, and since when it is no newer (`of`)
    this.findings = {}; // DID to state, what, since; `older` if only an older backup can have it whole: then none is removed
    this.had = new Set([...hadWhole(before), ...leftOutList.recorded(data)]);
    this.kept = new Set(); // DIDs
    this.suspects = new Set(); // DIDs of accounts that are checked whole in this run
    this.blobs = 0;
    this.written = 0; // bytes
  }

  // --- databases and files

  /** Copies a database to the same path in the copy: all pages, one step, one moment. Throws SQLite's error. */
  async database(name) {
    const target = path.join(this.next, name);
    await copyDatabase(path.join(this.data, name), target);
    this.written += size(target);
  }

  /** Copies a small file unchanged, if it exists. */
  file(name) {
    let content;
    try {
      content = fs.readFileSync(path.join(this.data, name));
    } catch (error) {
      if (error.code !== "ENOENT") throw error;
      delete this.files[name];
      return;
    }
    const target = path.join(this.next, name);
    fs.mkdirSync(path.dirname(target), { recursive: true });
    fs.rmSync(target, { force: true }); // never through a link into the previous copy
    fs.writeFileSync(target, content, { flush: true });
    this.note(name);
  }

  note(name) {
    const target = path.join(this.next, name);
    this.files[name] = { size: size(target), sha256: sha256(target) };
  }

  /** Takes a file from the previous copy. Returns false if that file does not match its manifest. */
  keepFile(name) {
    const known = this.before.files[name];
    if (!known) return name.endsWith("did-op"); // most accounts have none
    if (size(path.join(this.current, name)) !== known.size) return false;
    const target = path.join(this.next, name);
    fs.mkdirSync(path.dirname(target), { recursive: true });
    fs.rmSync(target, { force: true });
    fs.linkSync(path.join(this.current, name), target);
    this.files[name] = known;
    return true;
  }

  // --- accounts

  /**
   * A value that changes with every write to a repository: size and times of its files, taken before they are copied.
   *
   * A write always changes the time of the database or of its log. The time could stay the same only within one tick of
   * the file system's clock, so files that were written to in the last seconds have no stamp and are copied again.
   */
  stamp(did) {
    const parts = [];
    for (const name of ["store.sqlite", "store.sqlite-wal", "key", "did-op"]) {
      const found = fs.statSync(path.join(this.data, home(did), name), { bigint: true, throwIfNoEntry: false });
      // An empty log counts as absent; a reader may create one.
      if (!found || (name.endsWith("-wal") && found.size === 0n)) {
        parts.push("-");
        continue;
      }
      if (Date.now() - Number(found.mtimeMs) < SETTLED) return null;
      // Not the inode's change time: SQLite as root sets the owner of a log whenever it opens it.
      parts.push(`${found.ino}:${found.size}:${found.mtimeNs}`);
    }
    return parts.join(" ");
  }

  unchanged(did, now) {
    return now !== null && this.before?.repositories[did]?.stamp === now;
  }

  /** Copies or keeps an account. Copies nothing without a repository. Throws only if the volume is full. */
  async account(did) {
    try {
      await this.copyOrKeep(did);
    } catch (error) {
      if (NO_ROOM.includes(error.code)) throw error;
      this.carry(did, null, `it cannot be read: ${error.message}`); // a damaged disk
    }
  }

  async copyOrKeep(did) {
    const now = this.stamp(did);
    if (this.unchanged(did, now) && this.keep(did)) return this.blobsAsBefore(did);
    let gone = [];
    for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
      const damage = await this.repository(did, now);
      if (damage === undefined) return;
      if (damage) return this.carry(did, null, damage); // it may have been for a moment: tried again each time
      gone = this.blocks ? await this.theirBlobs(did) : [];
      // A record that was deleted since took its blob with it. The repository is then copied again, without the record.
      if (gone.length === 0) return;
      if (attempt < ATTEMPTS) await pause(200);
    }
    this.find(did, LOSSES, lost(gone));
  }

  /** Links blobs of an account with an unchanged repository: missing ones may have come back. */
  async blobsAsBefore(did) {
    const { state, checked } = this.findings[did] ?? {};
    if (state === LOSSES && !checked) delete this.findings[did];
    this.keptBlobs(did);
    if (state !== LOSSES || checked || !this.blocks) return;
    const gone = await this.theirBlobs(did);
    if (gone.length > 0) this.find(did, LOSSES, lost(gone));
  }

  keep(did) {
    const entry = this.before.repositories[did];
    if (!NAMES.every((name) => this.keepFile(path.join(home(did), name)))) return false;
    this.kept.add(did);
    this.repositories[did] = structuredClone(entry);
    if (this.before.findings[did]) this.findings[did] = this.before.findings[did];
    return true;
  }

  /** Copies key and database. Returns undefined if there is none, else its fault, or "". */
  async repository(did, now) {
    const [key, operation, store] = NAMES.map((name) => path.join(home(did), name));
    delete this.repositories[did];
    delete this.findings[did];
    this.kept.delete(did);
    for (const name of [key, operation]) this.file(name);
    if (!fs.existsSync(path.join(this.data, store))) return undefined;
    let root;
    try {
      await this.database(store);
      root = this.rootOf(did, store);
    } catch (error) {
      // Deleted meanwhile: whether that is legitimate is decided once the accounts are known.
      if (!fs.existsSync(path.join(this.data, store)) || /no such table/.test(error.message)) return undefined;
      if (NO_ROOM.includes(error.code)) throw error;
      return `store.sqlite is damaged: ${error.message}`;
    }
    if (typeof root === "string") return root;
    if (!root) return undefined;
    this.note(store);
    const { checked } = this.before?.repositories[did] ?? {};
    this.repositories[did] = { cid: root.cid, rev: root.rev, stamp: now, ...(checked && { checked }) };
    return "";
  }

  /** The root of a repository that was just copied, or a sentence that says why it is not this account's. */
  rootOf(did, store) {
    return read(path.join(this.next, store), (db) => {
      const damage = damageOf(db, "quick_check");
      if (damage) return `store.sqlite is damaged: ${damage}`;
      const root = db.prepare("select cid, rev from repo_root").get();
      if (!root || !this.files[path.join(home(did), "key")]) return root;
      let pair;
      try {
        pair = publicKey(fs.readFileSync(path.join(this.next, home(did), "key")));
      } catch {
        return "its signing key is not a secp256k1 key";
      }
      const content = db.prepare("select content from repo_block where cid = ?").pluck().get(root.cid);
      const faults = [...commitProblems({ content, root: root.cid, rev: root.rev, did, verifier: pair.verifier })];
      if (faults.length > 0) this.suspects.add(did);
      return faults.find(({ kind }) => kind === "signature")?.text ?? root;
    });
  }

  /**
   * Handles an account that cannot be copied: keeps its last intact copy, however old. Without one, copies the present
   * files unchanged: a key may be the only one, and a damaged database may still be read by hand.
   */
  carry(did, now, what) {
    const last = this.before?.repositories[did];
    this.drop(did);
    if (last && this.keep(did)) {
      const of = last.of ?? this.before.started;
      Object.assign(this.repositories[did], { of, stamp: now });
      this.keptBlobs(did);
      return this.find(did, NOT, `${what}. The backups keep its copy of ${of}: \`./pds restore STACK --only ${did}\``, { older: false });
    }
    this.drop(did);
    this.asItIs(did);
    const remedy = `an older one may have it: \`./pds restore STACK --only ${did}\``;
    const gone = `If it is meant to be gone, list it under 'delete' in the stack file: 'HANDLE: ${did}'`;
    this.find(did, NOT, `${what}. There is no whole copy of it in this backup; ${remedy}. ${gone}`);
  }

  /**
   * Copies an account again whose kept copy is damaged. The disk may have damaged the copy alone, and a restore of it
   * would replace intact data. A copy that can be restored with losses (`usable`) stays if the account is worse.
   */
  async again(did, usable) {
    if (usable) this.before.repositories[did].stamp = null;
    else delete this.before.repositories[did];
    this.drop(did);
    await this.account(did);
  }

  asItIs(did) {
    const store = path.join(home(did), "store.sqlite");
    try {
      for (const name of NAMES.slice(0, 2)) this.file(path.join(home(did), name));
      if (size(path.join(this.data, store)) === 0) return;
      fs.mkdirSync(path.join(this.next, home(did)), { recursive: true });
      fs.copyFileSync(path.join(this.data, store), path.join(this.next, `${store}.damaged`));
      this.note(`${store}.damaged`);
    } catch (error) {
      if (NO_ROOM.includes(error.code)) throw error; // other unreadable files count as absent
    }
  }

  /** Handles an account of the account database without a repository or a key in the data. */
  lacking(did) {
    const folder = path.join(this.data, home(did));
    const lacks = ["store.sqlite", "key"].filter((name) => size(path.join(folder, name)) === 0);
    const what = !fs.existsSync(folder) ? "its folder is gone" : `it has no ${lacks.join(" and no ") || "repository in it"}`;
    this.carry(did, this.stamp(did), what);
  }

  /** Records a fault of an account; `more` says how it was found, and overrides `older`. */
  find(did, state, what, more = {}) {
    const { older = state === NOT && (Boolean(more.gone) || this.had.has(did)), ...rest } = more;
    const said = older ? `${what}. Until this is settled, no backup expires` : what;
    const known = this.before?.findings[did];
    const since = known?.what === said ? known.since : new Date().toISOString();
    this.findings[did] = { state, what: said, since, ...rest, ...(older && { older }) };
  }

  whole(did) {
    return Boolean(this.repositories[did]) && Boolean(this.files[path.join(home(did), "key")]);
  }

  /** Removes an account from the copy. */
  drop(did) {
    for (const place of PLACES) {
      const tree = path.join(this.next, "blocks", place, did);
      this.blobs -= entries(tree).length;
      fs.rmSync(tree, { recursive: true, force: true });
    }
    fs.rmSync(path.join(this.next, home(did)), { recursive: true, force: true });
    for (const name of Object.keys(this.files)) if (name.startsWith(home(did) + path.sep)) delete this.files[name];
    delete this.repositories[did];
    delete this.findings[did];
    this.kept.delete(did);
  }

  // --- blobs: files that never change, named by their hash; a hard link is a copy that takes no space

  /** Links the blobs of the copied repository that are on the disk. Returns the others. */
  async theirBlobs(did) {
    const gone = [];
    for (const cid of read(path.join(this.next, home(did), "store.sqlite"), keptBlobs)) {
      let found = false;
      for (const place of PLACES) found ||= await this.blob(place, did, cid);
      if (!found && !PLACES.some((place) => this.healed(place, did, cid))) gone.push(cid);
    }
    return gone;
  }

  /** Links the previous copy's blobs of an account with an unchanged repository. */
  keptBlobs(did) {
    if (!this.blocks) return;
    const away = [];
    for (const place of PLACES) {
      for (const cid of entries(path.join(this.current, "blocks", place, did))) {
        const name = path.join("blocks", place, did, cid);
        this.link(path.join(this.current, name), name);
        if (!this.isSame(name, path.join(this.blocks, place, did, cid))) away.push(cid);
      }
    }
    if (away.length > 0 && !this.findings[did]) this.find(did, LOSSES, heldHere(did, away));
  }

  isSame(name, source) {
    const [theirs, ours] = [source, path.join(this.current, name)].map((file) => fs.statSync(file, { throwIfNoEntry: false }));
    return theirs !== undefined && theirs.size === ours.size;
  }

  async blob(place, did, cid) {
    const source = path.join(this.blocks, place, did, cid);
    const name = path.join("blocks", place, did, cid);
    if (fs.existsSync(path.join(this.next, name))) return true;
    for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
      try {
        const found = fs.statSync(source);
        const known = fs.statSync(path.join(this.current, name), { throwIfNoEntry: false });
        const checked = known?.ino === found.ino && known?.dev === found.dev && known?.size === found.size;
        if (checked || isBlob(source, cid)) {
          this.link(source, name);
          return true;
        }
      } catch (error) {
        if (!error.code || NO_ROOM.includes(error.code)) throw error;
        return false; // gone, or on a bad disk
      }
      await pause(200); // the server may be writing it: it writes under the final name
    }
    return false;
  }

  /** Whether the previous copy still has a blob that the server has lost. */
  healed(place, did, cid) {
    const name = path.join("blocks", place, did, cid);
    const kept = path.join(this.current, name);
    if (!fs.existsSync(kept) || !isBlob(kept, cid)) return false;
    this.link(kept, name);
    if (!this.findings[did]) this.find(did, LOSSES, heldHere(did, [cid]));
    return true;
  }

  link(source, name) {
    const target = path.join(this.next, name);
    if (fs.existsSync(target)) return;
    fs.mkdirSync(path.dirname(target), { recursive: true });
    this.blobs++;
    try {
      fs.linkSync(source, target);
    } catch (error) {
      if (error.code !== "EXDEV") throw error;
      fs.copyFileSync(source, target); // blobs are on a separate disk
    }
  }
}

/**
 * DIDs of accounts that an earlier backup can have whole, as far as the manifest `before` knows. An account that was never
 * whole, like a row without a repository on an adopted PDS, does not stop other members' deleted data from expiring.
 */
function hadWhole(before) {
  const { repositories, findings } = before ?? { repositories: {}, findings: {} };
  const copied = Object.keys(repositories).filter((did) => repositories[did].of || findings[did]?.state !== NOT);
  return new Set([...copied, ...Object.keys(findings).filter((did) => findings[did].older)]);
}

/** Blobs that the backups have and the server lacks. */
function heldHere(did, cids) {
  return `${listed(cids)} missing on the server. The backups keep what is missing: \`./pds restore STACK --only ${did}\``;
}

/** Blobs that both lack. */
function lost(cids) {
  return `${listed(cids)} missing. An older backup may have it; else the member has to post it again`;
}

function listed(cids) {
  const more = cids.length > 3 ? ` and ${cids.length - 3} more` : "";
  return `${cids.length === 1 ? "blob" : "blobs"} ${cids.slice(0, 3).join(", ")}${more} ${cids.length === 1 ? "is" : "are"}`;
}

function size(name) {
  return fs.statSync(name, { throwIfNoEntry: false })?.size ?? 0;
}

function pause(milliseconds) {
  return new Promise((resume) => setTimeout(resume, milliseconds));
}

module.exports = { Copy, pause, size };
