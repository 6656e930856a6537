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
        // Makes one consistent copy of a PDS's data while the server keeps writing: DATA/.snapshot/current, with a manifest.
        //
        // Runs in the server's own image, with its own SQLite library. Owns the order in which things are copied, and when a
        // copy is refused: if the account database cannot be read, or the volume is too full. A fault of one account is a
        // finding (snapshot_accounts.cjs), which the manifest and the run's status contain. The order matters, because no
        // moment is common to all files:
        //
        //   1 repositories with their keys    they contain everything acknowledged before the start
        //   2 the account database            later than 1: an account's repository is never newer than its account
        //   3 the sequencer                   later than 1: the server's own recovery brings a repository up to it, never down
        //   4 repositories that 2 or 3 know and 1 lacks
        //   5 blobs                           after their repository: the blobs of a recovered record exist
        //
        // Each database is copied with all its pages in one step. The library's default, 100 pages a step, starts again
        // whenever the server writes, and may never end (docs/decisions/0011).
        "use strict";

        const fs = require("node:fs");
        const path = require("node:path");
        const { createRequire } = require("node:module");
        const departures = require("./departures.cjs");
        const { Database, NO_ROOM, WAIT, WHOLE, checkAll, damageOf, read, sentences } = require("./account_check.cjs");
        const { Copy, entries, folders, pause, size } = require("./snapshot_accounts.cjs");
        const { home } = require("./repository.cjs");
        const { begin, end } = require("./stamp.cjs");

        const server = createRequire(path.join(process.cwd(), "x.js")).resolve("@atproto/pds/package.json");

        const ATTEMPTS = 3;
        const ALL_CHECKED = 20 * 3600 * 1000; // ms; a day, less the delay of a run or two
        const BREATH = 2; // ms between accounts: the server's members use the same disk and processor
        const MEBIBYTE = 1024 * 1024;

        class Refused extends Error {}

        const data = process.env.PDS_DATA_DIRECTORY;
        const blocks = process.env.PDS_BLOBSTORE_DISK_LOCATION; // unset if blobs are in a bucket
        // On the volume itself: a hard link cannot leave its mount. The server reads none of its names.
        const stage = path.join(data, ".snapshot");
        const [current, next, old] = ["current", "next", "old"].map((name) => path.join(stage, name));

        async function main() {
          process.umask(0o077);
          const started = new Date();
          fs.mkdirSync(stage, { recursive: true, mode: 0o700 });
          alone();
          begin("backup");
          if (fs.existsSync(path.join(data, ".restore", "swap.json"))) {
            throw new Refused("a restore was cut short between the old data and the new: run it again.");
          }
          noteDepartures();
          tidy();
          const before = manifest(current);
          const copy = new Copy({ data, blocks, next, current, before });
          room(copy);
          const identity = readMark();

          copy.file(".pds-identity.json");
          for (const did of folders(data, unread)) {
            await copy.account(did);
            if (!copy.kept.has(did)) await pause(BREATH);
          }
          const accounts = await accountsAndEvents(copy);
          leaveOut(copy, new Set(accounts));
          const content = describe(copy, identity, accounts, started);
          await checkShare(copy, content);
          content.finished = new Date().toISOString();
          fs.writeFileSync(path.join(next, "manifest.json"), JSON.stringify(content, null, 1) + "\n", { flush: true });
          publish();
          report(copy, content, started);
        }

        /** Copies the databases of the whole server, then accounts in them that the first pass lacks. Returns the accounts. */
        async function accountsAndEvents(copy) {
          for (let attempt = 1; ; attempt++) {
            const accounts = await serverDatabase(copy, "account.sqlite", "select did from actor union select did from account");
            const events = await sequencer(copy);
            for (const did of new Set([...accounts, ...events])) if (!copy.whole(did) && !copy.findings[did]) await copy.account(did);
            for (const name of entries(path.join(data, "actors", "reserved_keys"))) copy.file(path.join("actors", "reserved_keys", name));
            const lacking = accounts.filter((did) => !copy.whole(did) && !copy.findings[did]);
            // A deleted account loses its files a moment after its row, in older servers before.
            if (lacking.length === 0 || attempt === ATTEMPTS) {
              for (const did of lacking) copy.lacking(did);
              return accounts;
            }
            await pause(1000);
          }
        }

        /** Copies a database of the whole server. Returns the result of `query`. */
        async function serverDatabase(copy, name, query) {
          const refused = (why) => new Refused(`$${name} cannot be read: $${why}. The backups keep the copies before it.`);
          try {
            await copy.database(name);
            const damage = read(path.join(next, name), (db) => damageOf(db, "quick_check"));
            if (damage) throw refused(damage);
            const found = column(name, query);
            copy.note(name);
            return found;
          } catch (error) {
            throw error instanceof Refused || NO_ROOM.includes(error.code) ? error : refused(error.message);
          }
        }

        /** The DIDs of the events. A server can be restored without its events: they are useful for some minutes. */
        async function sequencer(copy) {
          const name = "sequencer.sqlite";
          try {
            return await serverDatabase(copy, name, "select distinct did from repo_seq");
          } catch (error) {
            if (!(error instanceof Refused)) throw error;
            fs.rmSync(path.join(next, name), { force: true });
            delete copy.files[name];
            copy.find(name, "damaged", `$${error.message} A restore begins new events`);
            return [];
          }
        }

        function describe(copy, identity, accounts, started) {
          const events = copy.files["sequencer.sqlite"];
          return {
            format: 1,
            hostname: identity.hostname,
            rotation_public_key: identity.rotation_public_key,
            package_version: JSON.parse(fs.readFileSync(server, "utf8")).version,
            started: started.toISOString(),
            finished: "", // set after all checks
            counts: { accounts: accounts.length, repositories: Object.keys(copy.repositories).length, blobs: copy.blobs },
            blobs: blocks ? "disk" : "elsewhere",
            sequence: events ? column("sequencer.sqlite", "select coalesce(max(seq), 0) from repo_seq")[0] : 0,
            accounts: accounts.sort(),
            repositories: copy.repositories,
            files: copy.files,
            findings: copy.findings,
          };
        }

        /**
         * Fully checks a share of the accounts, longest unchecked first, so that each account is checked once a day. Changed
         * accounts get only a short check when they are copied: SQLite's quick check, the newest commit and the account's key.
         */
        async function checkShare(copy, content) {
          const { repositories, started } = content;
          const dids = Object.keys(repositories).sort((one, other) =>
            (repositories[one].checked ?? "") < (repositories[other].checked ?? "") ? -1 : 1
          );
          const since = copy.before ? Date.parse(started) - Date.parse(copy.before.started) : Infinity;
          const share = Math.ceil(dids.length * Math.min(1, since / ALL_CHECKED));
          // A copy is only looked at: what a whole check found before is not gone because the account was written to.
          const known = (did) => copy.findings[did] || copy.before?.findings[did]?.checked;
          const suspects = dids.filter((did) => copy.suspects.has(did) || (known(did) && !copy.kept.has(did)));
          const verdicts = await checkAll(next, [...new Set([...suspects, ...dids.slice(0, share)])], { manifest: content, gently: true });
          for (const [did, verdict] of verdicts) {
            repositories[did].checked = new Date().toISOString(); // also if the check was killed: the others have their turn
            // For an account that could not be copied now, that finding is more current than a check of its last copy.
            if (copy.findings[did] && !copy.findings[did].checked) continue;
            if (verdict.state === WHOLE) delete copy.findings[did];
            else copy.find(did, verdict.unchecked ? "not checked" : verdict.state, told(did, verdict), { checked: true });
          }
        }

        function told(did, verdict) {
          const all = sentences(verdict);
          const more = all.length > 3 ? ` (and $${all.length - 3} more)` : "";
          return `$${all.slice(0, 3).join("; ")}$${more}. An older backup may have it whole: \`./pds restore STACK --only $${did}\``;
        }

        function report(copy, { hostname, counts, findings }, started) {
          for (const [did, { state, what }] of Object.entries(findings)) console.error(`FINDING: $${did}: $${state}: $${what}`);
          console.log(
            `snapshot of $${hostname}: $${counts.accounts} accounts, $${counts.repositories - copy.kept.size} repositories copied ` +
              `and $${copy.kept.size} as before, $${counts.blobs} blobs, $${(copy.written / MEBIBYTE).toFixed(1)} MiB written in ` +
              `$${((Date.now() - started) / 1000).toFixed(1)} s`
          );
        }

        // --- one run at a time, and never an incomplete copy under the final name

        function alone() {
          // The kernel releases this lock however the process ends.
          try {
            const lock = new Database(path.join(stage, "lock.sqlite"), { timeout: 0 });
            lock.exec("begin exclusive");
            alone.held = lock;
          } catch (error) {
            if (error.code === "SQLITE_BUSY") throw new Refused("another snapshot is being made.");
            throw error;
          }
        }

        /** Records departures even if the copy is then refused. */
        function noteDepartures() {
          const file = path.join(data, "sequencer.sqlite");
          if (!fs.existsSync(file)) return; // reported below
          let sequencer;
          try {
            sequencer = new Database(file, { readonly: true, fileMustExist: true, timeout: WAIT });
            departures.append(path.join(data, departures.LIST), sequencer);
          } catch (error) {
            console.error(`note: sequencer.sqlite cannot be read: $${error.message}`);
          } finally {
            sequencer?.close();
          }
        }

        function tidy() {
          // Leftovers of a killed run. Between the two renames of `publish` there is no `current`.
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
            return found.format === 1 && found.findings ? found : null;
          } catch {
            return null; // everything is copied then
          }
        }

        function room(copy) {
          // Includes what is in a log and not yet in its database.
          const whole = (name) => size(path.join(data, name)) + size(path.join(data, `$${name}-wal`));
          let needed = whole("account.sqlite") + whole("sequencer.sqlite");
          for (const did of folders(data, unread)) {
            try {
              if (!copy.unchanged(did, copy.stamp(did))) needed += whole(path.join(home(did), "store.sqlite"));
            } catch (error) {
              unread(error); // a finding, when it is copied
            }
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

        /** The accounts of a shelf that cannot be read are known from the account database, and become findings. */
        function unread(error) {
          console.error(`note: $${error.message}`);
        }

        function readMark() {
          const mark = path.join(data, ".pds-identity.json");
          if (!fs.existsSync(mark)) {
            throw new Refused("the volume has no mark of its PDS (.pds-identity.json): start the server once.");
          }
          try {
            return JSON.parse(fs.readFileSync(mark, "utf8"));
          } catch (error) {
            throw new Refused(`.pds-identity.json cannot be read ($${error.message}). Remove it, and set 'volume: {adopt: …}' for the next start.`);
          }
        }

        // --- the copy

        function column(name, query) {
          // Not read-only: the last reader of a WAL database without write access leaves its side files behind.
          const opened = new Database(path.join(next, name), { fileMustExist: true });
          try {
            return opened.prepare(query).pluck().all();
          } finally {
            opened.close();
          }
        }

        /** Repositories without an account: removes deleted ones; keeps those that are being created, with their keys. */
        function leaveOut(copy, accounts) {
          for (const did of folders(next)) {
            if (accounts.has(did) || (copy.whole(did) && fs.existsSync(path.join(data, home(did), "key")))) continue;
            copy.drop(did);
          }
        }

        function mebibytes(bytes) {
          return `$${Math.floor(bytes / MEBIBYTE)} MiB`;
        }

        main().catch((error) => {
          // The previous copy is unchanged.
          console.error(error instanceof Refused ? `REFUSED: $${error.message}` : `FAILED: $${error.stack}`);
          process.exitCode = 1;
          if (!alone.held) return; // another run's
          fs.rmSync(next, { recursive: true, force: true }); // frees space for the server on a full volume
          try {
            end("backup", [error.message.replace(/\s+/g, " ").slice(0, 500)]);
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
        // Records deletions, takedowns and deactivations, in a list that only grows and is no part of any snapshot.
        //
        // A restore returns to the time of its snapshot, and so would bring back accounts that were deleted or taken down
        // since. The server reports both in its event stream; this program keeps those lines. The list is on the volume,
        // outside of what a restore replaces, and is copied to the bucket beside the snapshots, because the volume may be lost.
        "use strict";

        const fs = require("node:fs");
        const { decode } = require("./repository.cjs");

        const LIST = ".departures.jsonl";

        /** The lines of a list, without those that a crash or a bad disk damaged. */
        function lines(file) {
          if (!fs.existsSync(file)) return [];
          const text = fs.readFileSync(file, "utf8");
          return text.split("\n").slice(0, -1).flatMap(parsed);
        }

        function parsed(line) {
          try {
            const found = JSON.parse(line);
            return typeof found?.did === "string" && typeof found.time === "string" ? [found] : [];
          } catch {
            return [];
          }
        }

        /** Events about accounts in a sequencer database, after number `after`. The database may be in use. */
        function events(sequencer, after) {
          return sequencer
            .prepare("select seq, did, event, sequencedAt from repo_seq where eventType = 'account' and seq > ? order by seq")
            .all(after)
            .map(({ seq, did, event, sequencedAt }) => {
              const { active, status } = decode(event);
              return { seq, time: sequencedAt, did, status: active ? "active" : status };
            });
        }

        /** All lists without duplicates. "Active" counts only if the account was not active before. */
        function merged(...lists) {
          const left = new Set();
          const all = new Map(lists.flat().map((line) => [`$${line.seq} $${line.did}`, line]));
          return [...all.values()]
            .sort((one, other) => one.seq - other.seq)
            .filter(({ did, status }) => (status === "active" ? left.has(did) : left.add(did)));
        }

        /** Adds new events of a sequencer database to the list. */
        function append(file, sequencer) {
          const before = lines(file);
          const now = merged(before, events(sequencer, before.at(-1)?.seq ?? 0));
          if (now.length > before.length) write(file, now);
        }

        /** Writes to a temporary file and renames it, so that a crash leaves the old list or the new one. */
        function write(file, list) {
          const text = list.map((line) => JSON.stringify(line) + "\n").join("");
          fs.writeFileSync(`$${file}.next`, text, { mode: 0o600, flush: true });
          fs.renameSync(`$${file}.next`, file);
        }

        /** DID to its last status since `moment` (ISO 8601): "deleted", "takendown", "suspended", "deactivated" or "active". */
        function since(list, moment) {
          return new Map(list.filter(({ time }) => time >= moment).map(({ did, status }) => [did, status]));
        }

        module.exports = { LIST, append, events, lines, merged, since, write };
        EOT
      }

      template {
        destination = "local/account_check.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // Checks whether one account of a snapshot can be restored: its key, its database, its records, its blobs.
        //
        // Owns the three states of an account and the messages for its faults. As a program it is a separate process that
        // checks one account after the other: members' data are read before, and apart from, the server's code, and a check
        // that the kernel kills for its memory affects no other job. `checkAll` is the caller's side.
        "use strict";

        const { fork } = require("node:child_process");
        const fs = require("node:fs");
        const os = require("node:os");
        const path = require("node:path");
        const { createRequire } = require("node:module");
        const { commitProblems, home, isDigestOf, isHashOf, problems, publicKey, sha256 } = require("./repository.cjs");

        // The image has the library as a dependency of the server package only.
        const server = createRequire(path.join(process.cwd(), "x.js")).resolve("@atproto/pds/package.json");
        const Database = createRequire(server)("better-sqlite3");

        const WHOLE = "whole";
        const LOSSES = "with losses";
        const NOT = "not restorable";
        const AT_ONCE = 2; // processes; each takes some 60 MiB of a job that may have 256
        const NAMED = 100; // lost records
        const NO_ROOM = ["ENOSPC", "EDQUOT", "SQLITE_FULL", "EROFS"]; // codes of errors that are no account's
        const WAIT = 5000; // ms; a database is locked only briefly, when its last user closes it
        const PLACES = ["", "quarantine"]; // of blobs; the second holds blobs that were taken down

        /**
         * The verdict on the account `did` below `folder`: `state`; `why` it is not restorable; lost `blobs` (CIDs) and
         * `records` (the first paths; `lost` is their count); `rebuild` if the tree of records must be rebuilt from the table;
         * `changed`, what differs from the manifest but is consistent; `key`, its did:key. `files` and `known` (cid, rev) come
         * from the manifest, if there is one.
         */
        function checkAccount(folder, did, { files, known, blobs, commitOnly = false }) {
          const verdict = blank();
          const [store, keyFile] = ["store.sqlite", "key"].map((name) => path.join(home(did), name));
          if (!fs.existsSync(path.join(folder, store))) verdict.why.push("it has no repository");
          const pair = readKey(path.join(folder, keyFile), verdict);
          if (pair && verdict.why.length === 0) {
            checkStore(path.join(folder, store), { did, verifier: pair.verifier, known, commitOnly }, verdict);
          }
          if (verdict.why.length === 0 && !commitOnly) {
            for (const name of [store, keyFile]) {
              if (files && !isAsWritten(folder, name, files[name])) verdict.changed.push(`$${name} is not what was written`);
            }
            if (blobs) verdict.blobs = lostBlobs(folder, did, path.join(folder, store));
          }
          if (verdict.why.length > 0) verdict.state = NOT;
          else if ([verdict.blobs, verdict.records, verdict.changed].some((list) => list.length > 0) || verdict.rebuild) {
            verdict.state = LOSSES;
          }
          return verdict;
        }

        function blank() {
          return { state: WHOLE, why: [], blobs: [], records: [], lost: 0, rebuild: false, changed: [], key: null };
        }

        /** The verdict in sentences, `why` first. */
        function sentences(verdict) {
          return [
            ...verdict.why,
            ...verdict.records.map((name) => `record $${name} is lost`),
            ...(verdict.lost > verdict.records.length ? [`$${verdict.lost - verdict.records.length} more records are lost`] : []),
            ...verdict.blobs.map((cid) => `blob $${cid} is lost`),
            ...(verdict.rebuild ? ["its tree of records is damaged and is made again from the table of records"] : []),
            ...verdict.changed,
          ];
        }

        function readKey(file, verdict) {
          try {
            const pair = publicKey(fs.readFileSync(file));
            verdict.key = pair.didKey;
            return pair;
          } catch (error) {
            verdict.why.push(error.code === "ENOENT" ? "it has no signing key" : "its signing key is no secp256k1 key");
            return null;
          }
        }

        function isAsWritten(folder, name, written) {
          if (!written) return false;
          const file = path.join(folder, name);
          return fs.statSync(file).size === written.size && sha256(file) === written.sha256;
        }

        function checkStore(file, { did, verifier, known, commitOnly }, verdict) {
          try {
            read(file, (db) => {
              const damage = commitOnly ? null : damageOf(db, "integrity_check");
              if (damage) return verdict.why.push(`store.sqlite is damaged: $${damage}`);
              const root = db.prepare("select cid, rev from repo_root").get();
              if (!root) return verdict.why.push("no repository has been made in it");
              if (commitOnly) {
                const content = new Blocks(db).get(root.cid);
                const faults = commitProblems({ content, root: root.cid, rev: root.rev, did, verifier });
                return verdict.why.push(...[...faults].map(({ text }) => text));
              }
              checkRepository(db, { did, root, known, verifier }, verdict);
            });
          } catch (error) {
            verdict.why.push(`store.sqlite is damaged: $${error.message}`);
          }
        }

        /** Finds lost records, and whether the tree is usable. Lists the first of many lost records and counts all. */
        function checkRepository(db, { did, root, known, verifier }, verdict) {
          if (known && (known.cid !== root.cid || known.rev !== root.rev)) {
            verdict.changed.push(`its repository is at $${root.rev}, the manifest says $${known.rev}`);
          }
          const blocks = new Blocks(db);
          const named = db.prepare("select collection || '/' || rkey from record where cid = ?").pluck();
          const lose = (record) => {
            verdict.lost++;
            if (verdict.records.length < NAMED && !verdict.records.includes(record)) verdict.records.push(record);
          };
          for (const fault of problems({ blocks, root: root.cid, rev: root.rev, did, verifier, index: blocks.records() })) {
            const { kind, record, cid } = fault;
            if (kind === "signature") verdict.why.push(fault.text);
            else if (kind === "record" || fault.lost) lose(record);
            const leaves = kind === "block" ? named.all(cid) : [];
            for (const name of leaves) lose(name);
            if (kind === "tree" || kind === "index" || (kind === "block" && leaves.length === 0)) verdict.rebuild = true;
          }
          verdict.records.sort();
        }

        /** Paths of records whose block is missing or does not match its CID. */
        function* lostRecords(db) {
          const rows = db.prepare(
            "select collection || '/' || rkey as name, r.cid, content from record r left join repo_block b on b.cid = r.cid"
          );
          for (const { name, cid, content } of rows.iterate()) if (!content || !isHashOf(cid, content)) yield name;
        }

        function lostBlobs(folder, did, store) {
          return read(store, (db) => keptBlobs(db).filter((cid) => !blobOf(folder, did, cid)));
        }

        /** The blobs that the server keeps, without those that were announced but never arrived, or that await a record. */
        function keptBlobs(db) {
          return db.prepare('select cid from blob where "tempKey" is null order by cid').pluck().all();
        }

        /** Whether the file's content is that of the blob. Throws if it cannot be read. */
        function isBlob(file, cid) {
          return isDigestOf(cid, Buffer.from(sha256(file), "hex"));
        }

        /** Path of an intact blob below `folder`; undefined if there is none. Blobs in `checked` were read already. */
        function blobOf(folder, did, cid, { checked = false } = {}) {
          return PLACES.map((place) => path.join("blocks", place, did, cid)).find((name) => {
            const file = path.join(folder, name);
            try {
              return fs.existsSync(file) && (checked || isBlob(file, cid));
            } catch {
              return false; // what cannot be read is lost
            }
          });
        }

        /** The first finding of SQLite's `check` ("quick_check" or "integrity_check") as one line; null if there is none. */
        function damageOf(db, check) {
          const found = db.pragma(`$${check}(1)`, { simple: true });
          return found === "ok" ? null : String(found).replace(/^\*\*\* in database \w+ \*\*\*\s*/, "").replace(/\s+/g, " ");
        }

        /**
         * Copies a database while others write to it: all pages, one step, one moment. Read-only, so that it cannot change what
         * it copies. Throws SQLite's error.
         */
        async function copyDatabase(from, to) {
          fs.mkdirSync(path.dirname(to), { recursive: true });
          fs.rmSync(to, { force: true }); // never through a link into an earlier copy
          const source = new Database(from, { readonly: true, fileMustExist: true, timeout: WAIT });
          try {
            await source.backup(to, { progress: () => 0x7fffffff });
          } finally {
            source.close();
          }
        }

        /** Queries a database without changing it. A connection without write access would leave side files behind. */
        function read(file, ask) {
          const db = new Database(file, { fileMustExist: true });
          try {
            db.pragma("query_only = 1");
            return ask(db);
          } finally {
            db.close();
          }
        }

        // --- many accounts, in separate processes

        /**
         * A map from each of `dids` to its verdict. `manifest` lists the expected content. With `gently`, one process works at
         * the lowest priority and pauses as long as it worked, because a server beside it has members who wait.
         */
        async function checkAll(folder, dids, { manifest, gently = false, commitOnly = false }) {
          const verdicts = new Map();
          const left = [...dids];
          const count = gently ? 1 : Math.min(AT_ONCE, os.availableParallelism(), Math.ceil(left.length / 4));
          const workers = Array.from({ length: Math.min(count, left.length) }, () => worker(folder, left, { manifest, gently, commitOnly, verdicts }));
          await Promise.all(workers);
          return verdicts;
        }

        function worker(folder, left, { manifest, gently, commitOnly, verdicts }) {
          return new Promise((resolve, reject) => {
            const child = fork(__filename, [folder], { stdio: ["ignore", "inherit", "inherit", "ipc"] });
            let asked = null;
            const next = () => {
              asked = left.shift() ?? null;
              if (asked === null) return child.disconnect();
              child.send({ did: asked, gently, commitOnly, ...expected(manifest, asked) });
            };
            child.on("message", (verdict) => {
              verdicts.set(asked, verdict);
              next();
            });
            child.on("error", reject);
            child.on("exit", (code, signal) => {
              if (asked === null && code === 0) return resolve();
              const killed = new Killed(asked, signal ?? code);
              // Who restores can give it more memory. A backup goes on: its owner is told of the one account.
              if (asked === null || (signal === "SIGKILL" && !gently)) return reject(killed);
              verdicts.set(asked, { ...blank(), state: NOT, why: [killed.message], unchecked: signal === "SIGKILL" });
              resolve(worker(folder, left, { manifest, gently, commitOnly, verdicts }));
            });
            next();
          });
        }

        function expected(manifest, did) {
          const names = ["store.sqlite", "key"].map((name) => path.join(home(did), name));
          const files = manifest.files && Object.fromEntries(names.map((name) => [name, manifest.files[name]]));
          return { files, known: manifest.repositories[did] ?? null, blobs: manifest.blobs === "disk" };
        }

        /** A check that ended without a verdict. */
        class Killed extends Error {
          constructor(did, how) {
            super(
              how === "SIGKILL"
                ? `the check of $${did} was killed; $${outOfMemory() ? "this job ran out of memory" : "it may have run out of memory"}. ` +
                    "Raise 'backup: {memory_mib: …}'."
                : `the check of $${did} ended with $${how}`
            );
          }
        }

        /** Whether the kernel killed a process of this container for its memory. */
        function outOfMemory() {
          try {
            return /^oom_kill [1-9]/m.test(fs.readFileSync("/sys/fs/cgroup/memory.events", "utf8"));
          } catch {
            return false; // an older kernel, or no container
          }
        }

        /** A database's blocks as a map outside of memory: a repository can be larger than the host's memory. */
        class Blocks {
          constructor(db) {
            this.all = db.prepare("select cid, content from repo_block").raw();
            this.one = db.prepare("select content from repo_block where cid = ?").pluck();
            // By the index of URIs, whose order is that of the tree's keys, so no sorting is needed. The order of two columns
            // differs: "app.bsky.feed-x" is before "app.bsky.feed/".
            this.listed = db.prepare(
              `select ifnull(record.uri, '') as uri, record.cid, collection || '/' || rkey as filed,
                 repo_block.cid is not null as stored
               from record left join repo_block on repo_block.cid = record.cid order by record.uri`
            );
          }

          get(cid) {
            return this.one.get(String(cid));
          }

          has(cid) {
            return this.get(cid) !== undefined;
          }

          [Symbol.iterator]() {
            return this.all.iterate();
          }

          /** The records in the server's own table, in the order of the URIs. */
          *records() {
            yield* this.listed.iterate();
          }
        }

        module.exports = {
          Blocks,
          Database,
          Killed,
          LOSSES,
          NOT,
          NO_ROOM,
          PLACES,
          WAIT,
          WHOLE,
          blobOf,
          checkAccount,
          checkAll,
          copyDatabase,
          damageOf,
          isBlob,
          keptBlobs,
          lostRecords,
          read,
          sentences,
        };

        /** What cannot be read, as from a bad disk, is a fault of that account. */
        function verdictOn(folder, did, expectations) {
          try {
            return checkAccount(folder, did, expectations);
          } catch (error) {
            return { ...blank(), state: NOT, why: [`it cannot be read: $${error.message}`] };
          }
        }

        if (require.main === module) {
          const folder = process.argv[2];
          process.on("message", async ({ did, gently, ...expectations }) => {
            if (gently) os.setPriority(os.constants.priority.PRIORITY_LOW);
            const began = performance.now();
            const verdict = verdictOn(folder, did, expectations);
            if (gently) await new Promise((resume) => setTimeout(resume, performance.now() - began));
            process.send(verdict);
          });
          process.on("disconnect", () => process.exit(0));
        }
        EOT
      }

      template {
        destination = "local/snapshot_accounts.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // The accounts' part of a snapshot: copies each account's repository, key and blobs from the live data, or keeps them
        // from the previous copy. Owns which data are copied again, and the handling of an account that cannot be copied
        // intact: its last intact copy stays in the snapshot, and the account is among the findings. Damage of one account
        // affects no other.
        //
        // snapshot.cjs owns order and lock.
        "use strict";

        const fs = require("node:fs");
        const path = require("node:path");
        const { LOSSES, NOT, NO_ROOM, PLACES, copyDatabase, damageOf, isBlob, keptBlobs, read } = require("./account_check.cjs");
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
            this.findings = {}; // DID to state, what, remedy, since
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
              parts.push(`$${found.ino}:$${found.size}:$${found.mtimeNs}`);
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
              this.carry(did, null, `it cannot be read: $${error.message}`); // a damaged disk
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
              return `store.sqlite is damaged: $${error.message}`;
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
              if (damage) return `store.sqlite is damaged: $${damage}`;
              const root = db.prepare("select cid, rev from repo_root").get();
              if (!root || !this.files[path.join(home(did), "key")]) return root;
              let pair;
              try {
                pair = publicKey(fs.readFileSync(path.join(this.next, home(did), "key")));
              } catch {
                return "its signing key is no secp256k1 key";
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
              return this.find(did, NOT, `$${what}. The backups keep its copy of $${of}: \`./pds restore STACK --only $${did}\``);
            }
            this.drop(did);
            this.asItIs(did);
            const remedy = `an older one may have it: \`./pds restore STACK --only $${did}\``;
            const gone = `If it is meant to be gone, list it under 'delete' in the stack file: 'HANDLE: $${did}'`;
            this.find(did, NOT, `$${what}. There is no whole copy of it in this backup; $${remedy}. $${gone}`);
          }

          asItIs(did) {
            const store = path.join(home(did), "store.sqlite");
            try {
              for (const name of NAMES.slice(0, 2)) this.file(path.join(home(did), name));
              if (size(path.join(this.data, store)) === 0) return;
              fs.mkdirSync(path.join(this.next, home(did)), { recursive: true });
              fs.copyFileSync(path.join(this.data, store), path.join(this.next, `$${store}.damaged`));
              this.note(`$${store}.damaged`);
            } catch (error) {
              if (NO_ROOM.includes(error.code)) throw error; // other unreadable files count as absent
            }
          }

          /** Handles an account of the account database without a repository or a key in the data. */
          lacking(did) {
            const folder = path.join(this.data, home(did));
            const lacks = ["store.sqlite", "key"].filter((name) => size(path.join(folder, name)) === 0);
            const what = !fs.existsSync(folder) ? "its folder is gone" : `it has no $${lacks.join(" and no ") || "repository in it"}`;
            this.carry(did, this.stamp(did), what);
          }

          /** Records a fault of an account; `more` says how it was found. */
          find(did, state, what, more = {}) {
            const known = this.before?.findings[did];
            const since = known?.what === what ? known.since : new Date().toISOString();
            this.findings[did] = { state, what, since, ...more };
          }

          whole(did) {
            return Boolean(this.repositories[did]) && Boolean(this.files[path.join(home(did), "key")]);
          }

          /** Removes an account from the copy. */
          drop(did) {
            for (const tree of [home(did), path.join("blocks", did), path.join("blocks", "quarantine", did)]) {
              fs.rmSync(path.join(this.next, tree), { recursive: true, force: true });
            }
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

        /** Blobs that the backups have and the server lacks. */
        function heldHere(did, cids) {
          return `$${listed(cids)} missing on the server. The backups keep what is missing: \`./pds restore STACK --only $${did}\``;
        }

        /** Blobs that both lack. */
        function lost(cids) {
          return `$${listed(cids)} missing. An older backup may have it; else the member has to post it again`;
        }

        function listed(cids) {
          const more = cids.length > 3 ? ` and $${cids.length - 3} more` : "";
          return `$${cids.length === 1 ? "blob" : "blobs"} $${cids.slice(0, 3).join(", ")}$${more} $${cids.length === 1 ? "is" : "are"}`;
        }

        /** DIDs of the accounts with a folder below `root`. If `unread` is given, it gets the errors of unreadable folders. */
        function folders(root, unread) {
          const actors = path.join(root, "actors");
          const shelves = entries(actors).filter((name) => /^[0-9a-f]{2}$/.test(name));
          const listed = (shelf) => {
            try {
              return entries(path.join(actors, shelf));
            } catch (error) {
              if (!unread) throw error;
              unread(error);
              return [];
            }
          };
          return shelves.flatMap((shelf) => listed(shelf).filter((name) => name.startsWith("did:")));
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

        function pause(milliseconds) {
          return new Promise((resume) => setTimeout(resume, milliseconds));
        }

        module.exports = { Copy, entries, folders, pause, size };
        EOT
      }

      template {
        destination = "local/repository.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // Reads one member's repository without the server's libraries: blocks, records, signature, and the account's key.
        //
        // The format is https://atproto.com/specs/repository: blocks of DAG-CBOR named by their hash, a tree of records (MST),
        // a signed commit on top. Owns the format, and where a server keeps it. Checking a backup with the code that wrote it
        // only proves that the code agrees with itself. This is a second implementation; tools/repository.py is a third one, on
        // the operator's machine.
        "use strict";

        const crypto = require("node:crypto");
        const fs = require("node:fs");
        const path = require("node:path");
        const { Cid, Reader, decode, decodeAll, digestOf, isDigestOf } = require("./blocks.cjs");
        const { openCar } = require("./car.cjs");

        const BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
        const PATH = /^[\w~.:-]+\/[\w~.:-]+$/; // https://atproto.com/specs/repository#repo-paths, and the server's own check

        // --- keys and signatures

        /** The verifying key and the did:key of a secp256k1 private key of 32 bytes. Throws if it is invalid. */
        function publicKey(privateKey) {
          const pair = crypto.createECDH("secp256k1");
          if (privateKey.length !== 32) throw new Error(`it has $${privateKey.length} bytes`); // OpenSSL accepts fewer
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

        /** The signed bytes: the commit's block without its signature, with its other entries in order. */
        function unsigned(bytes) {
          const reader = new Reader(bytes);
          const [, count] = reader.head();
          const entries = [];
          reader.map(count, entries);
          const kept = entries.filter(({ key }) => key !== "sig").map(({ from, to }) => bytes.subarray(from, to));
          return Buffer.concat([Buffer.from([0xa0 | kept.length]), ...kept]);
        }

        // --- repositories: walked in order, so that memory does not grow with the records

        /** One node of a tree, read entry by entry: a node with many entries is large enough as bytes. */
        class Node {
          constructor(blocks, cid) {
            this.cid = cid;
            this.left = null;
            const reader = new Reader(found(blocks, cid));
            this.reader = reader;
            this.decoded(() => {
              const [major, count] = reader.head();
              for (let index = 0; index < count && major === 5; index++) this.field(reader.value());
              if (reader.at !== reader.bytes.length || this.from === undefined) throw new Error("it has other fields");
            });
          }

          field(name) {
            if (name === "l") this.left = this.reader.value();
            else if (name === "e") this.from = this.reader.skip();
            else throw new Error("it has other fields");
            if (!isLink(this.left)) throw new Error("its left side is no link");
          }

          decoded(read) {
            try {
              return read();
            } catch (error) {
              throw this.fault(`is no node of a tree: $${error.message}`);
            }
          }

          fault(text) {
            return new Error(`node $${this.cid} $${text}`);
          }

          /** Key, value and right subtree of each entry. */
          *entries() {
            this.reader.at = this.from;
            const [major, count] = this.reader.head();
            if (major !== 4) throw this.fault("is no node of a tree: it has no list");
            let before = "";
            for (let index = 0; index < count; index++) {
              const { p, k, v, t } = this.decoded(() => this.entry());
              const key = before.slice(0, p) + k.latin1Slice();
              if (key.length > 1024 || !PATH.test(key)) throw this.fault("has a key that is no path");
              const longer = p < before.length && before[p] === key[p];
              if (!Number.isInteger(p) || p < 0 || p > before.length || longer) {
                throw this.fault(`has $${key} with a wrong prefix`);
              }
              yield [key, v, t];
              before = key;
            }
          }

          entry() {
            const entry = this.reader.value();
            if (Buffer.isBuffer(entry.k) && entry.v instanceof Cid && isLink(entry.t)) return entry;
            throw new Error("it has an entry of another form");
          }
        }

        /** Whether it is a CID, or null for no link. */
        function isLink(value) {
          return value === null || value instanceof Cid;
        }

        /** The layer of a key in a tree: half the number of leading zero bits of its hash. */
        function layerOf(key) {
          const digest = digestOf(key);
          let zeros = 0;
          while (digest[zeros] === 0) zeros++;
          return zeros * 4 + ((Math.clz32(digest[zeros]) - 24) >> 1);
        }

        /**
         * Path and CID of each record in the tree below the node `top`, in the order of their bytes. Throws if it is no tree.
         * Terminates for any blocks: a step down is a layer down, and the keys of a subtree reached twice do not ascend.
         */
        function* records(blocks, top) {
          let last = "";
          function* below(node, layer) {
            let empty = node.left === null;
            if (layer < 0) throw node.fault("is below the lowest layer");
            if (node.left) yield* below(new Node(blocks, node.left), layer - 1);
            for (const [key, value, right] of node.entries()) {
              empty = false;
              if (key <= last) throw node.fault(`has $${key} after $${last}`);
              const own = layerOf(key);
              if (own !== layer) throw node.fault(`has $${key} in layer $${layer}, not $${own}`);
              last = key;
              yield [key, value];
              if (right) yield* below(new Node(blocks, right), layer - 1);
            }
            if (empty) throw node.fault("is empty");
          }
          const root = new Node(blocks, top);
          const [first] = root.entries().next().value ?? [];
          if (first !== undefined) yield* below(root, layerOf(first));
          else if (root.left) throw root.fault("is the root and has no key"); // without both there are no records
        }

        function found(blocks, cid) {
          const content = blocks.get(cid);
          if (!content) throw new Error(`block $${cid} is missing`);
          return content;
        }

        /**
         * The faults of a repository: `blocks`, its newest commit `root` (text) at `rev`, and `verifier`, which checks
         * the account's key. `index` is the content of the server's own table, if there is one: an iterable of `uri`, `cid`
         * (text), `filed` (the path by the other columns) and `stored` (whether the block exists), in the order of the URIs.
         *
         * Each fault has a `text` and a `kind`: "block" (`cid`) for one that does not match its CID, "signature" if the newest
         * commit has another account or key, "record" for a record (path) without its block, "index" for a record that differs
         * in the table (`lost` if the table lacks it), "tree" for any other broken link.
         */
        function* problems({ blocks, root, rev, did, verifier, index }) {
          yield* damaged(blocks);
          const content = blocks.get(root);
          const faults = [...commitProblems({ content, root, rev, did, verifier })];
          yield* faults;
          if (faults.some(({ kind, fatal }) => kind === "tree" && fatal)) return;
          try {
            const tree = records(blocks, decode(content).data);
            yield* index ? differences(tree, index, `at://$${did}/`) : lacking(tree, blocks);
          } catch (error) {
            yield { kind: "tree", text: `the blocks do not link up from the root: $${error.message}` };
          }
        }

        /** The faults of the newest commit, whose block is `content`; other parameters as for `problems`. */
        function* commitProblems({ content, root, rev, did, verifier }) {
          let commit, signed;
          try {
            if (!content) throw new Error(`block $${root} is missing`);
            if (!isDigestOf(root, digestOf(content))) throw new Error(`block $${root} does not hash to its name`);
            commit = decode(content);
            signed = crypto.verify("sha256", unsigned(content), { key: verifier, dsaEncoding: "ieee-p1363" }, commit.sig);
          } catch (error) {
            yield { kind: "tree", fatal: true, text: `the blocks do not link up from the root: $${error.message}` };
            return;
          }
          if (commit.did !== did) yield { kind: "signature", text: `commit $${root} is of $${commit.did}, not of $${did}` };
          else if (commit.rev !== rev) yield { kind: "tree", text: `commit $${root} is at $${commit.rev}, not at $${rev}` };
          if (!signed) yield { kind: "signature", text: `commit $${root} is not signed with the account's key` };
        }

        function* damaged(blocks) {
          for (const [cid, content] of blocks) {
            const name = cid instanceof Cid ? cid : Cid.from(String(cid));
            if (name?.names(digestOf(content))) continue;
            yield { kind: "block", cid: String(cid), text: `block $${cid} does not hash to its name` };
          }
        }

        function withoutBlock(record, cid) {
          return { kind: "record", record, text: `record $${record} has no block $${cid}` };
        }

        function* lacking(tree, blocks) {
          for (const [path, cid] of tree) if (!blocks.has(cid)) yield withoutBlock(path, cid);
        }

        /** Compares tree and table. Both are in the order of their URIs, so neither is held in memory. */
        function* differences(tree, index, prefix) {
          const rows = index[Symbol.iterator]();
          const next = () => rows.next().value;
          const differs = (record, here, there) => {
            const text = `record $${record} is $${here} in the repository and $${there} in the index`;
            return { kind: "index", record, lost: there === undefined, text };
          };
          const surplus = ({ uri, cid }) => differs(uri.startsWith(prefix) ? uri.slice(prefix.length) : uri, undefined, cid);
          try {
            let row = next();
            for (const [path, value] of tree) {
              const uri = prefix + path;
              for (; row && row.uri < uri; row = next()) yield surplus(row);
              const cid = String(value);
              const same = row?.uri === uri ? row : undefined;
              if (same?.cid !== cid) yield differs(path, cid, same?.cid);
              else if (!same.stored) yield withoutBlock(path, cid);
              if (same && same.filed !== path) {
                yield { kind: "index", record: path, text: `record $${path} is listed as $${same.filed} in the index` };
              }
              if (same) row = next();
            }
            for (; row; row = next()) yield surplus(row);
          } finally {
            rows.return?.(); // an unfinished statement keeps its database open
          }
        }

        // --- locations

        /** An account's folder below the server's data (`getLocation` of @atproto/pds's actor-store). */
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

        /** Whether `content` matches `cid` (text). */
        function isHashOf(cid, content) {
          return isDigestOf(cid, digestOf(content));
        }

        module.exports = { commitProblems, decode, decodeAll, home, isDigestOf, isHashOf, openCar, problems, publicKey, sha256 };
        EOT
      }

      template {
        destination = "local/stamp.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // The status of a stack's backups and drills, for the job that watches and for `./pds check`: DATA/.stamps/NAME.json.
        //
        // `first`, `good`, `failed`: when a run first and last succeeded, and when the last one failed, with `why`. `began`: a
        // run that has begun and not ended; a killed run leaves it behind. `findings`: faults of single accounts, which fail no
        // run. Run by itself it is the last task of a backup, after the task that sends, which may not write there. Nomad does
        // not run it after a failed snapshot; snapshot.cjs then ends the run itself.
        "use strict";

        const fs = require("node:fs");
        const path = require("node:path");

        const folder = path.join(process.env.PDS_DATA_DIRECTORY, ".stamps");

        /** Records that a run of `name` has begun. A run that was still under way was killed, and counts as failed. */
        function begin(name) {
          const before = load(name);
          const now = new Date().toISOString();
          save(name, { ...before, ...(before.began && killed(before.began)), began: now });
        }

        function killed(began) {
          return { failed: began, why: `the run that began at $${began} never ended: it was killed` };
        }

        /**
         * Records that `name` succeeded (no `problems`), or its problems; `more` is kept with a success. A `good` run may have
         * problems too.
         */
        function end(name, problems, more = {}, good = problems.length === 0) {
          const { began: _ended, ...before } = load(name);
          const now = new Date().toISOString();
          save(name, {
            ...(good ? { first: before.first ?? now, good: now, ...more } : before),
            ...(problems.length > 0 && { failed: now, why: problems[0] }),
          });
        }

        function load(name) {
          try {
            return JSON.parse(fs.readFileSync(path.join(folder, `$${name}.json`), "utf8"));
          } catch {
            return {}; // none yet, or one that a crash left empty
          }
        }

        function save(name, content) {
          const file = path.join(folder, `$${name}.json`);
          fs.mkdirSync(folder, { recursive: true, mode: 0o700 });
          fs.writeFileSync(`$${file}.next`, JSON.stringify(content) + "\n", { flush: true });
          fs.renameSync(`$${file}.next`, file);
        }

        module.exports = { begin, end, killed, load, save };

        if (require.main === module) {
          const [sent, checked] = ["sent", "checked"].map((name) =>
            fs.existsSync(path.join(process.env.NOMAD_ALLOC_DIR, "data", name))
          );
          const problems = [];
          if (!sent) problems.push("the snapshot was not sent");
          else if (!checked) problems.push("it was sent; thinning out, or reading a part of the bucket back, went wrong");
          end("backup", problems, findings(), sent);
        }

        function findings() {
          try {
            const file = path.join(process.env.PDS_DATA_DIRECTORY, ".snapshot", "current", "manifest.json");
            return { findings: JSON.parse(fs.readFileSync(file, "utf8")).findings };
          } catch {
            return {};
          }
        }
        EOT
      }

      template {
        destination = "local/blocks.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // Blocks of the AT Protocol, read without the server's libraries: content identifiers and DAG-CBOR.
        //
        // Owns the two formats, and whether a block matches its CID. repository.cjs owns what blocks form together.
        "use strict";

        const crypto = require("node:crypto");

        const ALPHABET32 = Buffer.from("abcdefghijklmnopqrstuvwxyz234567");
        const DIGITS = new Int8Array(128).fill(-1);
        ALPHABET32.forEach((code, digit) => (DIGITS[code] = digit));

        const digestOf = crypto.hash // in newer Node versions, and twice as fast
          ? (content) => crypto.hash("sha256", content, "buffer")
          : (content) => crypto.createHash("sha256").update(content).digest();

        /** Whether `cid` (text) identifies content with this SHA-256. */
        function isDigestOf(cid, digest) {
          return Cid.from(cid)?.names(digest) ?? false;
        }

        /** A content identifier; its text is base32 of version 1. */
        class Cid {
          constructor(bytes) {
            this.bytes = bytes;
          }

          /** Returns undefined if the text is no base32, or not the canonical text of its bytes. */
          static from(text) {
            if (text[0] !== "b") return undefined;
            const bytes = Buffer.alloc(((text.length - 1) * 5) >> 3);
            let [bits, value, at] = [0, 0, 0];
            for (let index = 1; index < text.length; index++) {
              const digit = DIGITS[text.charCodeAt(index)];
              if (!(digit >= 0)) return undefined;
              value = (value << 5) | digit;
              bits += 5;
              if (bits < 8) continue;
              bits -= 8;
              bytes[at++] = value >> bits;
              value &= 255 >> (8 - bits);
            }
            return bits < 5 && value === 0 ? new Cid(bytes) : undefined;
          }

          toString() {
            const { bytes } = this;
            const text = Buffer.allocUnsafe(Math.ceil((bytes.length * 8) / 5));
            let [bits, value, at] = [0, 0, 0];
            for (let index = 0; index < bytes.length; index++) {
              value = ((value & 31) << 8) | bytes[index]; // the rest is less than one letter
              for (bits += 8; bits >= 5; bits -= 5) text[at++] = ALPHABET32[(value >> (bits - 5)) & 31];
            }
            if (bits > 0) text[at] = ALPHABET32[(value << (5 - bits)) & 31];
            return `b$${text.latin1Slice()}`;
          }

          /** Whether it identifies content with this SHA-256: version 1, any codec. */
          names(digest) {
            const { bytes } = this;
            const hash = bytes.length - 34;
            if (hash < 2 || bytes[0] !== 1 || bytes[hash] !== 0x12 || bytes[hash + 1] !== 0x20) return false;
            for (let at = 1; at < hash; at++) if (bytes[at] > 127 !== at < hash - 1) return false; // one number
            return bytes.compare(digest, 0, 32, hash + 2) === 0;
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
                return this.list(count);
              case 5:
                return this.map(count);
              case 6:
                return this.link(count);
              default:
                if (count === 27) return rest.readDoubleBE();
                if (count < 20 || count > 22) throw new Error("it has an unknown simple value");
                return [false, true, null][count - 20];
            }
          }

          /** Skips the next value. Returns where it began. */
          skip() {
            const from = this.at;
            for (let left = 1; left > 0; left--) {
              const [major, count] = this.head();
              if (major === 2 || major === 3) this.take(count);
              else if (major === 6) left += 1;
              else if (major === 4 || major === 5) left += (major - 3) * count;
            }
            return from;
          }

          /** Not preallocated: the count may be any number. */
          list(count) {
            const values = [];
            while (values.length < count) values.push(this.value());
            return values;
          }

          link(tag) {
            const bytes = tag === 42 && this.value();
            if (!Buffer.isBuffer(bytes) || bytes[0] !== 0) throw new Error("it has a tag that is no link");
            return new Cid(bytes.subarray(1)); // after a leading zero
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

        /** The value of a whole block. Throws if it is no DAG-CBOR. */
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

        module.exports = { Cid, Reader, decode, decodeAll, digestOf, isDigestOf };
        EOT
      }

      template {
        destination = "local/car.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // An exported repository, as the server serves it (https://ipld.io/specs/transport/car/carv1/): a file of blocks.
        //
        // Blocks come in any order, so a table finds them. repository.cjs owns what they form together.
        "use strict";

        const fs = require("node:fs");
        const { Cid, decode } = require("./blocks.cjs");

        const HEAD = 512; // bytes; the length and the CID of a block, and most whole blocks
        const WINDOW = 1024 * 1024; // bytes of the file that are in memory at once, unless a block is larger

        /**
         * An exported repository in the file `name`: its root, and its blocks, which are not in memory. Call `close`
         * afterwards.
         */
        function openCar(name) {
          const blocks = new Car(name);
          return { root: blocks.root, blocks, close: () => blocks.close() };
        }

        class Car {
          constructor(name) {
            this.handle = fs.openSync(name);
            try {
              this.size = fs.fstatSync(this.handle).size;
              const [count, start] = number(this.read(0, HEAD), 0);
              this.first = start + count;
              this.root = String(decode(this.read(start, count, true)).roots[0]);
              let blocks = 0;
              for (const _ of this.sections()) blocks++; // so that the table has its final size
              this.places = new Places(blocks, this.size);
              for (const { at, cid } of this.sections()) this.places.add(cid.bytes, at);
            } catch (error) {
              this.close();
              throw error;
            }
          }

          close() {
            fs.closeSync(this.handle);
          }

          /** Bytes at an offset; fewer at the end of the file, unless `all` are required. */
          read(at, count, all = false, buffer = null) {
            const there = Math.min(count, this.size - at);
            if (all && there < count) throw new Error("it ends too early");
            const into = buffer && there <= buffer.length ? buffer : Buffer.allocUnsafe(there);
            const got = fs.readSync(this.handle, into, 0, there, at);
            if (got !== there) throw new Error("it ends too early");
            return into.subarray(0, there);
          }

          section(at, read) {
            const [length, start] = number(read(at, HEAD), 0);
            const end = start + length;
            if (at + end > this.size) throw new Error("it ends too early");
            const bytes = read(at, end);
            const from = endOfCid(bytes, start);
            if (from > end) throw new Error("it has a CID that is longer than its block");
            return { at, cid: new Cid(bytes.subarray(start, from)), content: bytes.subarray(from, end), next: at + end };
          }

          /** Every block, in one pass. Each value is valid until the next one. */
          *sections() {
            const buffer = Buffer.allocUnsafe(WINDOW);
            let [window, start] = [Buffer.alloc(0), 0];
            const read = (at, count) => {
              if (at + count > start + window.length) {
                window = this.read(at, Math.max(count, WINDOW), false, buffer);
                start = at;
              }
              return window.subarray(at - start, at - start + count);
            };
            for (let at = this.first; at < this.size; ) {
              const section = this.section(at, read);
              yield section;
              at = section.next;
            }
          }

          *[Symbol.iterator]() {
            for (const { cid, content } of this.sections()) yield [cid, content];
          }

          get(cid) {
            const { bytes } = (typeof cid === "string" ? Cid.from(cid) : cid) ?? {};
            for (const at of bytes ? this.places.of(bytes) : []) {
              const section = this.section(at, (place, count) => this.read(place, count));
              if (section.cid.bytes.equals(bytes)) return section.content;
            }
            return undefined;
          }

          has(cid) {
            return this.get(cid) !== undefined;
          }
        }

        /**
         * Offsets by the end of a CID, in a table with open addressing for `count` CIDs in a file of `size` bytes. It takes 12
         * to 24 bytes a block; a map takes some 200.
         */
        class Places {
          constructor(count, size) {
            const slots = 2 ** Math.ceil(Math.log2(count * 1.5 + 2));
            this.last = slots - 1;
            this.hashes = new Uint32Array(slots);
            this.offsets = size < 2 ** 32 ? new Uint32Array(slots) : new Float64Array(slots);
          }

          add(bytes, offset) {
            const hash = bytes.readUInt32LE(bytes.length - 4);
            let slot = hash & this.last;
            while (this.offsets[slot] > 0) slot = (slot + 1) & this.last;
            this.hashes[slot] = hash;
            this.offsets[slot] = offset;
          }

          of(bytes) {
            const hash = bytes.readUInt32LE(bytes.length - 4);
            const offsets = [];
            for (let slot = hash & this.last; this.offsets[slot] > 0; slot = (slot + 1) & this.last) {
              if (this.hashes[slot] === hash) offsets.push(this.offsets[slot]);
            }
            return offsets;
          }
        }

        /** A number of variable length, and where it ends. */
        function number(bytes, at) {
          let value = 0;
          for (let index = at, unit = 1; index < at + 10 && index < bytes.length; index++, unit *= 128) {
            value += (bytes[index] & 127) * unit;
            if (bytes[index] < 128) return [value, index + 1];
          }
          throw new Error("it has a length without an end");
        }

        function endOfCid(bytes, at) {
          if (bytes[at] === 0x12 && bytes[at + 1] === 0x20) return at + 34; // version 0
          let [count, end] = [0, at];
          for (let field = 0; field < 4; field++) [count, end] = number(bytes, end); // version, codec, hash, its length
          return end + count;
        }

        module.exports = { openCar };
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
        # Owns the upload of a finished snapshot to the bucket: restic sends it, removes expired ones, and reads a part back.
        # Runs in restic's image (Alpine: sh and restic) after the snapshot task.
        set -eu
        # shellcheck source=/dev/null
        . "$(dirname "$0")/open.sh"

        snapshot=$PDS_DATA_DIRECTORY/.snapshot/current
        [ -f "$snapshot/manifest.json" ] || fail "there is no snapshot in $snapshot"

        if [ "$REPOSITORY" = absent ]; then
            restic init || fail "$RESTIC_REPOSITORY cannot be written to: is it this stack's bucket and key?"
        fi

        # A killed run leaves its lock in the bucket. restic would check whether its process exists, but process numbers of one
        # container mean nothing in another. Each run has the same host name, and only the run that locks this folder sends: so
        # any other lock of that name is stale. Of foreign locks, restic removes those that are half an hour old.
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

        # Departures are no part of a snapshot: a restore of an old one needs them, too (departures.cjs).
        cd "$PDS_DATA_DIRECTORY"
        if [ -f .departures.jsonl ]; then
            restic backup --quiet --host "$PDS_HOSTNAME" --tag departures --ignore-ctime .departures.jsonl
        fi

        # The path is the same each time, so that restic finds the previous backup. Hard links change only a file's inode time.
        cd "$snapshot"
        restic backup --host "$PDS_HOSTNAME" --tag pds --ignore-ctime .

        : >"$NOMAD_ALLOC_DIR/data/sent" # the next task records the time

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
        # Owns opening restic's repository for the scripts beside this one, and the messages if it does not open. The names
        # RESTIC_* and AWS_* are restic's own. Sets REPOSITORY to "there" or "absent".
        set -eu

        fail() {
            echo "FAILED: $*" >&2
            exit 1
        }

        # restic assembles pack files here; the container's /tmp is memory.
        export TMPDIR="$NOMAD_ALLOC_DIR/data" RESTIC_CACHE_DIR="$NOMAD_ALLOC_DIR/data/cache"

        export REPOSITORY=there
        # Without a lock: the lock of a killed run must not block a restore.
        code=0
        said=$(restic cat config --no-lock 2>&1 >/dev/null) || code=$?
        if [ "$code" -ne 0 ]; then
            # restic asks "Is there a repository at the following location?" after every fault, including a wrong region. The
            # code 10 (restic 0.17 and newer) or the first line means that the service has no such object.
            case "$code:$said" in
                *"wrong password"*) fail "the bucket holds backups under another password. Give it as 'backup: {password: …}'
        (the escrow file has it), or name another bucket." ;;
                # restic also suggests then that there may be none.
                *"Access Denied"* | *AccessDenied*) fail "$RESTIC_REPOSITORY is not open to this stack's key: $said
        The bucket may belong to another account, or the key to another bucket." ;;
                10:* | *"specified key does not exist"* | *"no such file or directory"*) REPOSITORY=absent ;;
                *) fail "$RESTIC_REPOSITORY cannot be read: $said
        Nothing is known of what it holds. Check 'endpoint', 'region' and 'bucket' of 'backup'." ;;
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
        // The status of a stack's backups and drills, for the job that watches and for `./pds check`: DATA/.stamps/NAME.json.
        //
        // `first`, `good`, `failed`: when a run first and last succeeded, and when the last one failed, with `why`. `began`: a
        // run that has begun and not ended; a killed run leaves it behind. `findings`: faults of single accounts, which fail no
        // run. Run by itself it is the last task of a backup, after the task that sends, which may not write there. Nomad does
        // not run it after a failed snapshot; snapshot.cjs then ends the run itself.
        "use strict";

        const fs = require("node:fs");
        const path = require("node:path");

        const folder = path.join(process.env.PDS_DATA_DIRECTORY, ".stamps");

        /** Records that a run of `name` has begun. A run that was still under way was killed, and counts as failed. */
        function begin(name) {
          const before = load(name);
          const now = new Date().toISOString();
          save(name, { ...before, ...(before.began && killed(before.began)), began: now });
        }

        function killed(began) {
          return { failed: began, why: `the run that began at $${began} never ended: it was killed` };
        }

        /**
         * Records that `name` succeeded (no `problems`), or its problems; `more` is kept with a success. A `good` run may have
         * problems too.
         */
        function end(name, problems, more = {}, good = problems.length === 0) {
          const { began: _ended, ...before } = load(name);
          const now = new Date().toISOString();
          save(name, {
            ...(good ? { first: before.first ?? now, good: now, ...more } : before),
            ...(problems.length > 0 && { failed: now, why: problems[0] }),
          });
        }

        function load(name) {
          try {
            return JSON.parse(fs.readFileSync(path.join(folder, `$${name}.json`), "utf8"));
          } catch {
            return {}; // none yet, or one that a crash left empty
          }
        }

        function save(name, content) {
          const file = path.join(folder, `$${name}.json`);
          fs.mkdirSync(folder, { recursive: true, mode: 0o700 });
          fs.writeFileSync(`$${file}.next`, JSON.stringify(content) + "\n", { flush: true });
          fs.renameSync(`$${file}.next`, file);
        }

        module.exports = { begin, end, killed, load, save };

        if (require.main === module) {
          const [sent, checked] = ["sent", "checked"].map((name) =>
            fs.existsSync(path.join(process.env.NOMAD_ALLOC_DIR, "data", name))
          );
          const problems = [];
          if (!sent) problems.push("the snapshot was not sent");
          else if (!checked) problems.push("it was sent; thinning out, or reading a part of the bucket back, went wrong");
          end("backup", problems, findings(), sent);
        }

        function findings() {
          try {
            const file = path.join(process.env.PDS_DATA_DIRECTORY, ".snapshot", "current", "manifest.json");
            return { findings: JSON.parse(fs.readFileSync(file, "utf8")).findings };
          } catch {
            return {};
          }
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
