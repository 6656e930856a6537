job "pds-backup" {
  datacenters = ["dc1"]
  region      = "global"
  type        = "batch"
  priority    = 40

  periodic {
    crons            = ["*/15 * * * *"]
    prohibit_overlap = true
  }

  group "pds-backup" {
    count = 1

    volume "pds" {
      type      = "host"
      read_only = false
      source    = "pds"
    }

    restart {
      attempts = 1
      interval = "10m"
      delay    = "30s"
      mode     = "fail"
    }

    reschedule {
      attempts  = 0
      unlimited = false
    }

    task "snapshot" {
      driver = "docker"
      user   = "1000:1000"

      lifecycle {
        hook    = "prestart"
        sidecar = false
      }

      config {
        image           = "ghcr.io/bluesky-social/pds:0.4.5037"
        command         = "node"
        args            = ["/local/snapshot.cjs"]
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
        pids_limit      = 128

        mount {
          type   = "tmpfs"
          target = "/tmp"

          tmpfs_options {
            size = 67108864
          }
        }
      }

      volume_mount {
        volume      = "pds"
        destination = "/pds"
        read_only   = false
      }

      env {
        PDS_HOSTNAME                = "noted.at"
        PDS_DATA_DIRECTORY          = "/pds"
        PDS_BLOBSTORE_DISK_LOCATION = "/pds/blocks"
      }

      template {
        destination = "local/snapshot.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // Makes one consistent copy of a PDS's data while the server goes on writing: DATA/.snapshot/current, with a manifest.
        //
        // Runs in the server's own image, with its own SQLite library. Owns what is copied, in which order, and when a copy is
        // refused; where it is then sent is another task's. The order is the design, since no moment is common to all files:
        //
        //   1 repositories with their keys    what was acknowledged before the start is in them
        //   2 the account database            later than 1: an account's repository is never newer than its account
        //   3 the sequencer                   later than 1: the server's own recovery brings a repository up to it, never down
        //   4 repositories that 2 or 3 know and 1 lacks
        //   5 blobs                           last, so that what a recovered record refers to is there
        //
        // Each database is copied with all its pages in one step. The library's default, 100 pages a step, begins again
        // whenever the server writes, and may never end (docs/decisions/0011).
        "use strict";

        const fs = require("node:fs");
        const path = require("node:path");
        const { createRequire } = require("node:module");
        const departures = require("./departures.cjs");
        const { home, sha256 } = require("./repository.cjs");
        const { stamp: noteOutcome } = require("./stamp.cjs");

        // The image has the library as a dependency of the server package alone.
        const server = createRequire(path.join(process.cwd(), "x.js")).resolve("@atproto/pds/package.json");
        const Database = createRequire(server)("better-sqlite3");

        const ATTEMPTS = 3;
        const MEBIBYTE = 1024 * 1024;
        const SETTLED = 2000; // ms; far above any file system's granularity of times
        const WAIT = 5000; // ms; a database is locked for moments only, when its last user closes it

        class Refused extends Error {}

        const data = process.env.PDS_DATA_DIRECTORY;
        const blocks = process.env.PDS_BLOBSTORE_DISK_LOCATION; // unset where blobs are in a bucket
        // On the volume itself: a hard link cannot leave its mount. The server looks into none of its names.
        const stage = path.join(data, ".snapshot");
        const [current, next, old] = ["current", "next", "old"].map((name) => path.join(stage, name));
        const kept = new Set(); // repositories taken from the copy before this one
        let written = 0; // bytes

        async function main() {
          process.umask(0o077);
          const started = new Date();
          fs.mkdirSync(stage, { recursive: true, mode: 0o700 });
          alone();
          if (fs.existsSync(path.join(data, ".restore", "swap.json"))) {
            throw new Refused("a restore was cut short between the old data and the new: run it again.");
          }
          noteDepartures();
          tidy();
          const before = manifest(current);
          room(before);
          const identity = JSON.parse(read(path.join(data, ".pds-identity.json"), "the volume has no mark of its PDS"));
          const copy = { files: {}, repositories: {}, before };

          file(copy, ".pds-identity.json");
          for (const did of repositories(data)) await repository(copy, did);
          let accounts, lacking;
          for (let attempt = 1; ; attempt++) {
            await database("account.sqlite");
            await database("sequencer.sqlite");
            accounts = column("account.sqlite", "select did from actor union select did from account");
            const known = new Set([...accounts, ...column("sequencer.sqlite", "select distinct did from repo_seq")]);
            for (const did of known) if (!whole(copy, did)) await repository(copy, did);
            reserved(copy);
            lacking = accounts.filter((did) => !whole(copy, did));
            // An account that is being deleted loses its files a moment after, in older servers before, its row.
            if (lacking.length === 0 || attempt === ATTEMPTS) break;
            await pause(1000);
          }
          if (lacking.length > 0) {
            const named = lacking.map((did) => `  $${did} has no $${missing(copy, did).join(" and no ")}`);
            throw new Refused(`$${lacking.length} of $${accounts.length} accounts would be lost:\n$${named.join("\n")}`);
          }
          for (const name of ["account.sqlite", "sequencer.sqlite"]) note(copy, name);
          leaveOut(copy, new Set(accounts));
          const blobs = blocks ? await allBlobs(copy) : 0;
          const count = Object.keys(copy.repositories).length;

          const content = {
            format: 1,
            hostname: identity.hostname,
            rotation_public_key: identity.rotation_public_key,
            package_version: JSON.parse(fs.readFileSync(server, "utf8")).version,
            started: started.toISOString(),
            finished: new Date().toISOString(),
            counts: { accounts: accounts.length, repositories: count, blobs },
            blobs: blocks ? "disk" : "elsewhere",
            sequence: column("sequencer.sqlite", "select coalesce(max(seq), 0) from repo_seq")[0],
            accounts: accounts.sort(),
            repositories: copy.repositories,
            files: copy.files,
          };
          fs.writeFileSync(path.join(next, "manifest.json"), JSON.stringify(content, null, 1) + "\n", { flush: true });
          publish();
          console.log(
            `snapshot of $${identity.hostname}: $${accounts.length} accounts, $${count - kept.size} repositories copied and ` +
              `$${kept.size} as before, $${blobs} blobs, $${(written / MEBIBYTE).toFixed(1)} MiB written in ` +
              `$${((Date.now() - started) / 1000).toFixed(1)} s`
          );
        }

        // --- one at a time, and never half a copy under the final name

        function alone() {
          // The kernel takes this lock back however the process ends.
          try {
            const lock = new Database(path.join(stage, "lock.sqlite"), { timeout: 0 });
            lock.exec("begin exclusive");
            alone.held = lock;
          } catch (error) {
            if (error.code === "SQLITE_BUSY") throw new Refused("another snapshot is being made.");
            throw error;
          }
        }

        /** Who left is noted even where the copy is then refused. */
        function noteDepartures() {
          const file = path.join(data, "sequencer.sqlite");
          if (!fs.existsSync(file)) return; // said below
          const sequencer = new Database(file, { readonly: true, fileMustExist: true, timeout: WAIT });
          try {
            departures.append(path.join(data, departures.LIST), sequencer);
          } finally {
            sequencer.close();
          }
        }

        function tidy() {
          // What a killed run left behind. Between the two renames of `publish` there is no `current`.
          if (!fs.existsSync(current) && fs.existsSync(old)) fs.renameSync(old, current);
          for (const left of [next, old]) fs.rmSync(left, { recursive: true, force: true });
          fs.mkdirSync(next);
        }

        function publish() {
          if (fs.existsSync(current)) fs.renameSync(current, old);
          fs.renameSync(next, current);
          const handle = fs.openSync(stage);
          fs.fsyncSync(handle);
          fs.closeSync(handle);
          fs.rmSync(old, { recursive: true, force: true });
        }

        function manifest(folder) {
          try {
            const found = JSON.parse(fs.readFileSync(path.join(folder, "manifest.json"), "utf8"));
            return found.format === 1 ? found : null;
          } catch {
            return null; // without one everything is copied
          }
        }

        function room(before) {
          // What is in a log and not in its database yet is copied, too.
          const whole = (name) => size(path.join(data, name)) + size(path.join(data, `$${name}-wal`));
          let needed = whole("account.sqlite") + whole("sequencer.sqlite");
          for (const did of repositories(data)) {
            if (!unchanged(before, did, stamp(did))) needed += whole(path.join(home(did), "store.sqlite"));
          }
          const disk = fs.statfsSync(stage);
          const reserve = Number(process.env.PDS_SNAPSHOT_RESERVE_MIB ?? 256) * MEBIBYTE;
          const free = disk.bavail * disk.bsize;
          if (free - needed < reserve) {
            throw new Refused(
              `the volume has $${mebibytes(free)} free. The copy takes $${mebibytes(needed)} and has to leave ` +
                `$${mebibytes(reserve)} to the server. Raise 'volume: {size_gib: …}'.`
            );
          }
        }

        // --- databases

        /** Copy a database of the data directory to the same place in the copy: all pages, one step, one moment. */
        async function database(name) {
          const target = path.join(next, name);
          fs.rmSync(target, { force: true });
          let source;
          try {
            // Read-only, so that this program cannot change what it copies.
            source = new Database(path.join(data, name), { readonly: true, fileMustExist: true, timeout: WAIT });
            await source.backup(target, { progress: () => 0x7fffffff });
          } catch (error) {
            throw new Refused(`$${name} cannot be copied: $${error.message}`);
          } finally {
            source?.close();
          }
          written += size(target);
        }

        function column(name, query) {
          // Not read-only: the last reader of a WAL database that may not write leaves its side files behind.
          const opened = new Database(path.join(next, name), { fileMustExist: true });
          try {
            return opened.prepare(query).pluck().all();
          } finally {
            opened.close();
          }
        }

        // --- repositories

        function repositories(root) {
          const actors = path.join(root, "actors");
          const shelves = entries(actors).filter((name) => /^[0-9a-f]{2}$/.test(name));
          return shelves.flatMap((shelf) => entries(path.join(actors, shelf)).filter((name) => name.startsWith("did:")));
        }

        /**
         * What changes with every write to a repository: size and times of its files, taken before they are copied.
         *
         * A write always moves the time of the database or of its log. It could leave the time as it was only within one tick
         * of the file system's clock, so files that were written to in the last seconds have no stamp and are copied again.
         */
        function stamp(did) {
          const parts = [];
          for (const name of ["store.sqlite", "store.sqlite-wal", "key", "did-op"]) {
            const found = fs.statSync(path.join(data, home(did), name), { bigint: true, throwIfNoEntry: false });
            // An empty log is none; a reader may make one.
            if (!found || (name.endsWith("-wal") && found.size === 0n)) {
              parts.push("-");
              continue;
            }
            if (Date.now() - Number(found.mtimeMs) < SETTLED) return null;
            // Not the time of the inode's change: SQLite as root sets the owner of a log whenever it opens it.
            parts.push(`$${found.ino}:$${found.size}:$${found.mtimeNs}`);
          }
          return parts.join(" ");
        }

        function unchanged(before, did, now) {
          return now !== null && before?.repositories[did]?.stamp === now;
        }

        async function repository(copy, did) {
          for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
            const entry = await oneRepository(copy, did);
            if (!entry) return;
            const gone = blocks ? await theirBlobs(did, entry) : [];
            // A record that was deleted since took its blob with it: then the repository is copied again, without the record.
            delete entry.missing_blobs;
            if (gone.length === 0) return;
            entry.missing_blobs = gone;
            entry.stamp = null;
            if (attempt < ATTEMPTS) await pause(200);
          }
          for (const cid of copy.repositories[did].missing_blobs) {
            console.error(`MISSING: $${did} refers to blob $${cid}, which is not on the volume, or not whole`);
          }
        }

        async function oneRepository(copy, did) {
          const folder = home(did);
          const names = ["key", "did-op", "store.sqlite"].map((name) => path.join(folder, name));
          const now = stamp(did);
          fs.mkdirSync(path.join(next, folder), { recursive: true });
          if (unchanged(copy.before, did, now) && names.every((name) => keep(copy, name))) {
            kept.add(did);
            return (copy.repositories[did] = structuredClone(copy.before.repositories[did]));
          }
          delete copy.repositories[did];
          kept.delete(did);
          for (const name of names.slice(0, 2)) file(copy, name);
          if (!fs.existsSync(path.join(data, names[2]))) return null;
          try {
            await database(names[2]);
          } catch (error) {
            // Deleted under our hands: whether that may be is decided when the accounts are known.
            if (!fs.existsSync(path.join(data, names[2]))) return null;
            throw error;
          }
          let root, permanent;
          try {
            const opened = new Database(path.join(next, names[2]), { fileMustExist: true });
            try {
              root = opened.prepare("select cid, rev from repo_root").get();
              permanent = opened.prepare('select cid from blob where "tempKey" is null order by cid').pluck().all();
            } finally {
              opened.close();
            }
          } catch (error) {
            if (/no such table/.test(error.message)) return null; // an account that is being made
            throw new Refused(`$${names[2]} cannot be read: $${error.message}`);
          }
          if (!root) return null;
          note(copy, names[2]);
          return (copy.repositories[did] = { cid: root.cid, rev: root.rev, stamp: now, blobs: permanent });
        }

        function missing(copy, did) {
          const lacks = [];
          if (!copy.repositories[did]) lacks.push("repository");
          if (!copy.files[path.join(home(did), "key")]) lacks.push("signing key");
          return lacks;
        }

        function whole(copy, did) {
          return missing(copy, did).length === 0;
        }

        /** Repositories without an account: deleted ones leave the copy; those that are being made stay, with their keys. */
        function leaveOut(copy, accounts) {
          for (const did of repositories(next)) {
            if (accounts.has(did) || (whole(copy, did) && fs.existsSync(path.join(data, home(did), "key")))) continue;
            for (const tree of [home(did), path.join("blocks", did), path.join("blocks", "quarantine", did)]) {
              fs.rmSync(path.join(next, tree), { recursive: true, force: true });
            }
            for (const name of Object.keys(copy.files)) if (name.startsWith(home(did) + path.sep)) delete copy.files[name];
            delete copy.repositories[did];
            kept.delete(did);
          }
        }

        /** Keys that were promised to accounts which are moving here. */
        function reserved(copy) {
          const folder = path.join("actors", "reserved_keys");
          for (const name of entries(path.join(data, folder))) file(copy, path.join(folder, name));
        }

        // --- blobs: files that never change, named by their hash; a hard link is a copy that needs no room

        const PLACES = ["", "quarantine"];

        /** Link what the copied repository says is on the disk; returns what is not. */
        async function theirBlobs(did, entry) {
          const gone = [];
          for (const cid of entry.blobs) {
            let found = false;
            for (const place of PLACES) found ||= await blob(place, did, cid);
            if (!found) gone.push(cid);
          }
          return gone;
        }

        async function allBlobs(copy) {
          let count = 0;
          for (const did of Object.keys(copy.repositories)) {
            for (const place of PLACES) {
              for (const cid of entries(path.join(blocks, place, did))) if (await blob(place, did, cid)) count++;
            }
          }
          return count;
        }

        async function blob(place, did, cid) {
          const source = path.join(blocks, place, did, cid);
          const name = path.join("blocks", place, did, cid);
          const target = path.join(next, name);
          if (fs.existsSync(target)) return true;
          for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
            try {
              const found = fs.statSync(source);
              const known = fs.statSync(path.join(current, name), { throwIfNoEntry: false });
              const checked = known?.ino === found.ino && known?.dev === found.dev && known?.size === found.size;
              if (checked || sha256(source) === digest(cid)) {
                fs.mkdirSync(path.dirname(target), { recursive: true });
                link(source, target);
                return true;
              }
            } catch (error) {
              if (error.code === "ENOENT") return false;
              throw error;
            }
            await pause(200); // the server may be writing it: it writes under the final name
          }
          return false;
        }

        /** The hex SHA-256 in a CID: base32 of version 1, codec raw (0x55), hash sha2-256 (0x12) of 32 bytes. */
        function digest(cid) {
          let bits = 0n;
          for (const letter of cid.slice(1)) bits = bits * 32n + BigInt("abcdefghijklmnopqrstuvwxyz234567".indexOf(letter));
          const spare = ((cid.length - 1) * 5) % 8;
          const hex = (bits >> BigInt(spare)).toString(16).padStart(72, "0");
          return cid[0] === "b" && hex.startsWith("01551220") ? hex.slice(8) : null;
        }

        // --- files

        /** Copy a small file as it is; whether it was there. */
        function file(copy, name) {
          let content;
          try {
            content = fs.readFileSync(path.join(data, name));
          } catch (error) {
            if (error.code !== "ENOENT") throw error;
            delete copy.files[name];
            return;
          }
          const target = path.join(next, name);
          fs.mkdirSync(path.dirname(target), { recursive: true });
          fs.rmSync(target, { force: true }); // never through a link into the copy before this one
          fs.writeFileSync(target, content, { flush: true });
          note(copy, name);
        }

        /** Take a file from the copy before this one; false where that one is not what its manifest says. */
        function keep(copy, name) {
          const known = copy.before.files[name];
          if (!known) return name.endsWith("did-op"); // most have none
          if (size(path.join(current, name)) !== known.size) return false;
          fs.rmSync(path.join(next, name), { force: true });
          fs.linkSync(path.join(current, name), path.join(next, name));
          copy.files[name] = known;
          return true;
        }

        function note(copy, name) {
          const target = path.join(next, name);
          copy.files[name] = { size: size(target), sha256: sha256(target) };
        }

        function link(source, target) {
          try {
            fs.linkSync(source, target);
          } catch (error) {
            if (error.code !== "EXDEV") throw error;
            fs.copyFileSync(source, target); // blobs on a disk of their own
          }
        }

        function size(name) {
          return fs.statSync(name, { throwIfNoEntry: false })?.size ?? 0;
        }

        function entries(folder) {
          try {
            return fs.readdirSync(folder);
          } catch (error) {
            if (error.code === "ENOENT") return [];
            throw error;
          }
        }

        function read(name, problem) {
          if (!fs.existsSync(name)) throw new Refused(`$${problem} ($${path.basename(name)}): start the server once.`);
          return fs.readFileSync(name, "utf8");
        }

        function mebibytes(bytes) {
          return `$${Math.floor(bytes / MEBIBYTE)} MiB`;
        }

        function pause(milliseconds) {
          return new Promise((resume) => setTimeout(resume, milliseconds));
        }

        main().catch((error) => {
          // The copy before this one stays as it is.
          console.error(error instanceof Refused ? `REFUSED: $${error.message}` : `FAILED: $${error.stack}`);
          process.exitCode = 1;
          if (!alone.held) return; // another run's
          fs.rmSync(next, { recursive: true, force: true }); // on a full volume its room is the server's
          try {
            noteOutcome("backup", [error.message.replace(/\s+/g, " ").slice(0, 500)]);
          } catch (full) {
            console.error(`that it failed could not be noted: $${full.message}`);
          }
        });
        EOT
      }

      template {
        destination = "local/departures.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // Who left: deletions, takedowns and deactivations, as a list that only grows and is no part of any snapshot.
        //
        // A restore brings back what was true when the snapshot was made, and so would bring back whoever was deleted or taken
        // down since. The server tells of both in its event stream; this keeps those lines. The list is on the volume, outside
        // of what a restore replaces, and goes to the bucket beside the snapshots, since the volume may be what is lost.
        "use strict";

        const fs = require("node:fs");
        const { decode } = require("./repository.cjs");

        const LIST = ".departures.jsonl";

        /** The lines of a list; a last line that a crash cut short is left out. */
        function lines(file) {
          if (!fs.existsSync(file)) return [];
          const text = fs.readFileSync(file, "utf8");
          return text.split("\n").slice(0, -1).map((line) => JSON.parse(line));
        }

        /** Events about accounts in an open sequencer database, after number `after`: in use or not. */
        function events(sequencer, after) {
          return sequencer
            .prepare("select seq, did, event, sequencedAt from repo_seq where eventType = 'account' and seq > ? order by seq")
            .all(after)
            .map(({ seq, did, event, sequencedAt }) => {
              const { active, status } = decode(event);
              return { seq, time: sequencedAt, did, status: active ? "active" : status };
            });
        }

        /** Both, without what is there twice. That somebody is in use is of interest only where she was not before. */
        function merged(...lists) {
          const left = new Set();
          const all = new Map(lists.flat().map((line) => [`$${line.seq} $${line.did}`, line]));
          return [...all.values()]
            .sort((one, other) => one.seq - other.seq)
            .filter(({ did, status }) => (status === "active" ? left.has(did) : left.add(did)));
        }

        /** Add what a sequencer database knows and the list does not. */
        function append(file, sequencer) {
          const before = lines(file);
          const now = merged(before, events(sequencer, before.at(-1)?.seq ?? 0));
          if (now.length > before.length) write(file, now);
        }

        /** Written aside and renamed, so that a crash leaves the old list or the new one. */
        function write(file, list) {
          const text = list.map((line) => JSON.stringify(line) + "\n").join("");
          fs.writeFileSync(`$${file}.next`, text, { mode: 0o600, flush: true });
          fs.renameSync(`$${file}.next`, file);
        }

        /** DID to its last word since `moment` (ISO 8601): "deleted", "takendown", "suspended", "deactivated" or "active". */
        function since(list, moment) {
          return new Map(list.filter(({ time }) => time >= moment).map(({ did, status }) => [did, status]));
        }

        module.exports = { LIST, append, events, lines, merged, since, write };
        EOT
      }

      template {
        destination = "local/repository.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // One member's repository, read without the server's libraries: blocks, records, signature, and the account's key.
        //
        // The format is https://atproto.com/specs/repository: blocks of DAG-CBOR named by their hash, a tree of records (MST),
        // a signed commit on top. Owns the format, and where a server keeps it. Whoever checks a backup with the code that
        // wrote it learns that the code agrees with itself; this is a second reading, as tools/repository.py is a third one on
        // the owner's machine.
        "use strict";

        const crypto = require("node:crypto");
        const fs = require("node:fs");
        const path = require("node:path");

        const BASE32 = "abcdefghijklmnopqrstuvwxyz234567";
        const BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

        /** A content identifier; its text is base32 of version 1. */
        class Cid {
          constructor(bytes) {
            this.bytes = bytes;
          }

          toString() {
            let bits = 0;
            let value = 0;
            let text = "b";
            for (const byte of this.bytes) {
              value = (value << 8) | byte;
              for (bits += 8; bits >= 5; bits -= 5) text += BASE32[(value >> (bits - 5)) & 31];
              value &= 31; // what is left is less than one letter
            }
            return bits > 0 ? text + BASE32[(value << (5 - bits)) & 31] : text;
          }
        }

        // --- DAG-CBOR (https://ipld.io/specs/codecs/dag-cbor/spec/): definite lengths, text keys, one tag

        class Reader {
          constructor(bytes) {
            this.bytes = bytes;
            this.at = 0;
          }

          take(count) {
            if (this.at + count > this.bytes.length) throw new Error("it ends too early");
            this.at += count;
            return this.bytes.subarray(this.at - count, this.at);
          }

          head() {
            const first = this.take(1)[0];
            const info = first & 31;
            if (info < 24) return [first >> 5, info];
            if (info > 27) throw new Error("it has an indefinite length");
            const width = 1 << (info - 24);
            const rest = this.take(width);
            if (first >> 5 === 7) return [7, info, rest];
            return [first >> 5, width === 8 ? Number(rest.readBigUInt64BE()) : rest.readUIntBE(0, width)];
          }

          value() {
            const [major, count, rest] = this.head();
            switch (major) {
              case 0:
                return count;
              case 1:
                return -1 - count;
              case 2:
                return Buffer.from(this.take(count));
              case 3:
                return this.take(count).toString();
              case 4:
                return Array.from({ length: count }, () => this.value());
              case 5:
                return this.map(count);
              case 6:
                if (count !== 42) throw new Error(`it has the tag $${count}`);
                return new Cid(this.value().subarray(1)); // a zero comes first
              default:
                if (count === 27) return rest.readDoubleBE();
                if (count < 20 || count > 22) throw new Error("it has an unknown simple value");
                return [false, true, null][count - 20];
            }
          }

          map(count, entries = []) {
            for (; entries.length < count; ) {
              const from = this.at;
              const key = this.value();
              if (typeof key !== "string") throw new Error("it has a key that is no text");
              entries.push({ key, value: this.value(), from, to: this.at });
            }
            return Object.fromEntries(entries.map(({ key, value }) => [key, value]));
          }
        }

        /** The value of a whole block. Throws where it is no DAG-CBOR. */
        function decode(bytes) {
          const reader = new Reader(bytes);
          const value = reader.value();
          if (reader.at !== bytes.length) throw new Error("it goes on after its end");
          return value;
        }

        /** The values that follow one another. Throws as above. */
        function decodeAll(bytes) {
          const reader = new Reader(bytes);
          const values = [];
          while (reader.at < bytes.length) values.push(reader.value());
          return values;
        }

        /** What was signed: the commit's block without its signature. The order of the other entries stays. */
        function unsigned(bytes) {
          const reader = new Reader(bytes);
          const [, count] = reader.head();
          const entries = [];
          reader.map(count, entries);
          const kept = entries.filter(({ key }) => key !== "sig").map(({ from, to }) => bytes.subarray(from, to));
          return Buffer.concat([Buffer.from([0xa0 | kept.length]), ...kept]);
        }

        // --- hashes and keys

        /** Whether `content` is what `cid` (text) names. */
        function isHashOf(cid, content) {
          return isDigestOf(cid, crypto.createHash("sha256").update(content).digest());
        }

        /** Whether `cid` names what has this SHA-256: version 1, of a record or of raw bytes. */
        function isDigestOf(cid, digest) {
          return [0x71, 0x55].some((codec) => new Cid(Buffer.from([1, codec, 0x12, 0x20, ...digest])).toString() === cid);
        }

        /** A secp256k1 private key of 32 bytes: the key to check signatures with, and its did:key. Throws where it is none. */
        function publicKey(privateKey) {
          const pair = crypto.createECDH("secp256k1");
          pair.setPrivateKey(privateKey);
          const point = pair.getPublicKey();
          const [x, y] = [point.subarray(1, 33), point.subarray(33)].map((part) => part.toString("base64url"));
          const compressed = pair.getPublicKey(null, "compressed");
          return {
            verifier: crypto.createPublicKey({ key: { kty: "EC", crv: "secp256k1", x, y }, format: "jwk" }),
            didKey: `did:key:z$${base58(Buffer.from([0xe7, 0x01, ...compressed]))}`,
          };
        }

        function base58(bytes) {
          let number = BigInt(`0x$${bytes.toString("hex")}`);
          let text = "";
          for (; number > 0n; number /= 58n) text = BASE58[Number(number % 58n)] + text;
          return text;
        }

        // --- repositories

        /** Path and CID of each record below the tree's node `cid`, in order. */
        function* records(blocks, cid) {
          const node = block(blocks, cid);
          if (node.l) yield* records(blocks, node.l);
          let before = Buffer.alloc(0);
          for (const entry of node.e) {
            before = Buffer.concat([before.subarray(0, entry.p), entry.k]);
            yield [before.toString(), entry.v.toString()];
            if (entry.t) yield* records(blocks, entry.t);
          }
        }

        function block(blocks, cid) {
          const found = blocks.get(cid.toString());
          if (!found) throw new Error(`block $${cid} is missing`);
          return decode(found);
        }

        /**
         * What is wrong with a repository: `blocks` by CID, its newest commit `root` at `rev`, and `verifier`, with which the
         * account's key is checked. `index` is what the server's own table says, path to CID, where there is one.
         */
        function* problems({ blocks, root, rev, did, verifier, index }) {
          for (const [cid, content] of blocks) if (!isHashOf(cid, content)) yield `block $${cid} does not hash to its name`;
          let tree;
          try {
            const commit = block(blocks, root);
            if (commit.rev !== rev || commit.did !== did) {
              yield `commit $${root} is of $${commit.did} at $${commit.rev}, not of $${did} at $${rev}`;
            }
            const key = { key: verifier, dsaEncoding: "ieee-p1363" };
            if (!crypto.verify("sha256", unsigned(blocks.get(root)), key, commit.sig)) {
              yield `commit $${root} is not signed with the account's key`;
            }
            tree = new Map(records(blocks, commit.data));
          } catch (error) {
            yield `the blocks do not link up from the root: $${error.message}`;
            return;
          }
          index ??= tree;
          for (const path of [...new Set([...tree.keys(), ...index.keys()])].sort()) {
            if (tree.get(path) !== index.get(path)) {
              yield `record $${path} is $${tree.get(path)} in the repository and $${index.get(path)} in the index`;
            } else if (!blocks.has(tree.get(path))) yield `record $${path} has no block $${tree.get(path)}`;
          }
        }

        /**
         * An exported repository in the file `name` (https://ipld.io/specs/transport/car/carv1/): its root, and its blocks as a
         * map that is not in memory. `close` it.
         */
        function openCar(name) {
          const handle = fs.openSync(name);
          const { size } = fs.fstatSync(handle);
          const bytes = (at, count) => {
            const buffer = Buffer.alloc(count);
            if (fs.readSync(handle, buffer, 0, count, at) !== count) throw new Error("it ends too early");
            return buffer;
          };
          const length = (at) => {
            const head = bytes(at, Math.min(10, size - at));
            const last = head.findIndex((byte) => byte < 128);
            if (last < 0) throw new Error("it has a length without an end");
            const value = head.subarray(0, last + 1).reduceRight((sum, byte) => sum * 128 + (byte & 127), 0);
            return [at + last + 1, value];
          };
          const [start, count] = length(0);
          const header = decode(bytes(start, count));
          const places = new Map();
          for (let at = start + count; at < size; ) {
            const [from, whole] = length(at);
            if (from + whole > size) throw new Error("it ends too early");
            places.set(new Cid(bytes(from, 36)).toString(), [from + 36, whole - 36]);
            at = from + whole;
          }
          const get = (cid) => (places.has(cid) ? bytes(...places.get(cid)) : undefined);
          return {
            root: header.roots[0].toString(),
            blocks: {
              get,
              has: (cid) => places.has(cid),
              *[Symbol.iterator]() {
                for (const cid of places.keys()) yield [cid, get(cid)];
              },
            },
            close: () => fs.closeSync(handle),
          };
        }

        // --- where it lies

        /** Below the server's data, an account's folder (`getLocation` of @atproto/pds's actor-store). */
        function home(did) {
          return path.join("actors", crypto.createHash("sha256").update(did).digest("hex").slice(0, 2), did);
        }

        /** A file's hash, as hex. */
        function sha256(name) {
          const hash = crypto.createHash("sha256");
          const buffer = Buffer.allocUnsafe(1024 * 1024);
          const handle = fs.openSync(name);
          try {
            for (let got; (got = fs.readSync(handle, buffer)) > 0; ) hash.update(buffer.subarray(0, got));
          } finally {
            fs.closeSync(handle);
          }
          return hash.digest("hex");
        }

        module.exports = { decode, decodeAll, home, isDigestOf, openCar, problems, publicKey, sha256 };
        EOT
      }

      template {
        destination = "local/stamp.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // Leaves behind when a backup or drill first and last went well, and whether it went wrong since, for the job that
        // watches: DATA/.stamps/NAME.json. Run by itself it is the last task of a backup, after the one that sends, which may
        // not write there. Nomad does not run it after a snapshot that failed; snapshot.cjs says so itself.
        "use strict";

        const fs = require("node:fs");
        const path = require("node:path");

        const folder = path.join(process.env.PDS_DATA_DIRECTORY, ".stamps");

        /**
         * Note that `name` went well (no `problems`), or what went wrong; `more` is kept of what went well. Something may be
         * wrong beside a `good` one.
         */
        function stamp(name, problems, more = {}, good = problems.length === 0) {
          const file = path.join(folder, `$${name}.json`);
          const now = new Date().toISOString();
          let before = {};
          try {
            before = JSON.parse(fs.readFileSync(file, "utf8"));
          } catch {
            // None yet, or one that a crash left empty.
          }
          const after = {
            ...(good ? { first: before.first ?? now, good: now, ...more } : before),
            ...(problems.length > 0 && { failed: now, why: problems[0] }),
          };
          fs.mkdirSync(folder, { recursive: true, mode: 0o700 });
          fs.writeFileSync(`$${file}.next`, JSON.stringify(after) + "\n", { flush: true });
          fs.renameSync(`$${file}.next`, file);
        }

        module.exports = { stamp };

        if (require.main === module) {
          const [sent, checked] = ["sent", "checked"].map((name) =>
            fs.existsSync(path.join(process.env.NOMAD_ALLOC_DIR, "data", name))
          );
          const problems = [];
          if (!sent) problems.push("the snapshot was not sent");
          else if (!checked) problems.push("it was sent; thinning out, or reading a part of the bucket back, went wrong");
          stamp("backup", problems, {}, sent);
        }
        EOT
      }

      resources {
        cpu    = 200
        memory = 256
      }

      logs {
        max_files     = 2
        max_file_size = 1
      }
    }

    task "send" {
      driver = "docker"
      user   = "1000:1000"

      config {
        image           = "restic/restic:0.19.1"
        entrypoint      = ["/bin/sh", "/local/send.sh"]
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
        pids_limit      = 128
        hostname        = "pds-backup-dev"

        mount {
          type   = "tmpfs"
          target = "/tmp"

          tmpfs_options {
            size = 67108864
          }
        }
      }

      volume_mount {
        volume      = "pds"
        destination = "/pds"
        read_only   = true
      }

      env {
        PDS_HOSTNAME       = "noted.at"
        PDS_DATA_DIRECTORY = "/pds"
        RESTIC_REPOSITORY  = "s3:https://ams3.digitaloceanspaces.com/dev-noted-at-backup/noted.at"
        AWS_DEFAULT_REGION = "ams3"
        KEEP_DAYS          = "30"
      }

      template {
        destination = "local/send.sh"
        change_mode = "noop"
        data        = <<-EOT
        #!/bin/sh
        # Owns the way of a finished snapshot to the bucket: sent by restic, what is too old forgotten, a part read back. Runs in
        # restic's image (Alpine: sh and restic) after the snapshot task.
        set -eu
        # shellcheck source=/dev/null
        . "$(dirname "$0")/open.sh"

        snapshot=$PDS_DATA_DIRECTORY/.snapshot/current
        [ -f "$snapshot/manifest.json" ] || fail "there is no snapshot in $snapshot"

        if [ "$REPOSITORY" = absent ]; then
            restic init || fail "$RESTIC_REPOSITORY cannot be written to: is it this stack's bucket and key?"
        fi

        # A run that was killed leaves its lock in the bucket. restic would ask whether its process is there, and the numbers of a
        # container's processes say nothing in another one. Each run has the same host name, and while this one has the folder
        # no other sends: so a lock of that name is nobody's. Of others, restic removes those that are half an hour old.
        exec 9<"$PDS_DATA_DIRECTORY/.snapshot"
        flock -n 9 || fail "another run is sending; the next one sends what is new"
        here=$(cat /proc/sys/kernel/hostname) all=--remove-all
        for lock in $(restic list locks --no-lock --quiet); do
            case $(restic cat lock "$lock" --no-lock 2>&1) in
                *"\"hostname\": \"$here\""*) ;;
                *) all= ;;
            esac
        done
        restic unlock --quiet $all

        # Who left is no part of a snapshot: a restore of an old one has to know of it, too (departures.cjs).
        cd "$PDS_DATA_DIRECTORY"
        if [ -f .departures.jsonl ]; then
            restic backup --quiet --host "$PDS_HOSTNAME" --tag departures --ignore-ctime .departures.jsonl
        fi

        # The path is the same each time, so that restic finds the backup before this one. Hard links change a file's inode
        # time and nothing else.
        cd "$snapshot"
        restic backup --host "$PDS_HOSTNAME" --tag pds --ignore-ctime .

        : >"$NOMAD_ALLOC_DIR/data/sent" # the task after this one notes the time

        restic forget --quiet --host "$PDS_HOSTNAME" --tag departures --group-by host --keep-last 3
        restic forget --host "$PDS_HOSTNAME" --tag pds --group-by host --prune \
            --keep-last 1 --keep-within 2d --keep-within-daily "$${KEEP_DAYS}d"

        restic check --read-data-subset=1%

        : >"$NOMAD_ALLOC_DIR/data/checked"
        EOT
      }

      template {
        destination = "local/open.sh"
        change_mode = "noop"
        data        = <<-EOT
        #!/bin/sh
        # Owns how restic's repository is opened, for the scripts beside this one, and the words for why it does not open.
        # Names: RESTIC_*, AWS_* are restic's own. Sets REPOSITORY to "there" or "absent".
        set -eu

        fail() {
            echo "FAILED: $*" >&2
            exit 1
        }

        # Pack files are put together here; the container's /tmp is memory.
        export TMPDIR="$NOMAD_ALLOC_DIR/data" RESTIC_CACHE_DIR="$NOMAD_ALLOC_DIR/data/cache"

        export REPOSITORY=there
        # Without a lock: one that a killed run left must keep nobody from a restore.
        if ! said=$(restic cat config --no-lock 2>&1 >/dev/null); then
            case $said in
                *"wrong password"*) fail "the bucket holds backups under another password. Give it as 'backup: {password: …}'
        (the escrow file has it), or name another bucket." ;;
                # restic then says that there may be none, too.
                *"Access Denied"* | *AccessDenied*) fail "$RESTIC_REPOSITORY is not open to this stack's key: $said
        Is the bucket somebody else's, or the key of another one?" ;;
                *"Is there a repository at the following location"* | *"does not exist"*) REPOSITORY=absent ;;
                *) fail "$RESTIC_REPOSITORY cannot be read: $said" ;;
            esac
        fi
        EOT
      }

      template {
        destination = "secrets/backup.env"
        env         = true
        change_mode = "noop"
        perms       = "0600"
        data        = <<-EOT
        {{ with nomadVar "nomad/jobs/pds-backup" }}{{ range .Tuples }}{{ .K }}={{ .V | toJSON }}
        {{ end }}{{ end }}
        EOT
      }

      resources {
        cpu    = 200
        memory = 256
      }

      logs {
        max_files     = 2
        max_file_size = 1
      }
    }

    task "stamp" {
      driver = "docker"
      user   = "1000:1000"

      lifecycle {
        hook    = "poststop"
        sidecar = false
      }

      config {
        image           = "ghcr.io/bluesky-social/pds:0.4.5037"
        command         = "node"
        args            = ["/local/stamp.cjs"]
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
        pids_limit      = 64

        mount {
          type   = "tmpfs"
          target = "/tmp"

          tmpfs_options {
            size = 67108864
          }
        }
      }

      volume_mount {
        volume      = "pds"
        destination = "/pds"
        read_only   = false
      }

      env {
        PDS_DATA_DIRECTORY = "/pds"
      }

      template {
        destination = "local/stamp.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // Leaves behind when a backup or drill first and last went well, and whether it went wrong since, for the job that
        // watches: DATA/.stamps/NAME.json. Run by itself it is the last task of a backup, after the one that sends, which may
        // not write there. Nomad does not run it after a snapshot that failed; snapshot.cjs says so itself.
        "use strict";

        const fs = require("node:fs");
        const path = require("node:path");

        const folder = path.join(process.env.PDS_DATA_DIRECTORY, ".stamps");

        /**
         * Note that `name` went well (no `problems`), or what went wrong; `more` is kept of what went well. Something may be
         * wrong beside a `good` one.
         */
        function stamp(name, problems, more = {}, good = problems.length === 0) {
          const file = path.join(folder, `$${name}.json`);
          const now = new Date().toISOString();
          let before = {};
          try {
            before = JSON.parse(fs.readFileSync(file, "utf8"));
          } catch {
            // None yet, or one that a crash left empty.
          }
          const after = {
            ...(good ? { first: before.first ?? now, good: now, ...more } : before),
            ...(problems.length > 0 && { failed: now, why: problems[0] }),
          };
          fs.mkdirSync(folder, { recursive: true, mode: 0o700 });
          fs.writeFileSync(`$${file}.next`, JSON.stringify(after) + "\n", { flush: true });
          fs.renameSync(`$${file}.next`, file);
        }

        module.exports = { stamp };

        if (require.main === module) {
          const [sent, checked] = ["sent", "checked"].map((name) =>
            fs.existsSync(path.join(process.env.NOMAD_ALLOC_DIR, "data", name))
          );
          const problems = [];
          if (!sent) problems.push("the snapshot was not sent");
          else if (!checked) problems.push("it was sent; thinning out, or reading a part of the bucket back, went wrong");
          stamp("backup", problems, {}, sent);
        }
        EOT
      }

      resources {
        cpu    = 100
        memory = 128
      }

      logs {
        max_files     = 1
        max_file_size = 1
      }
    }
  }
}
