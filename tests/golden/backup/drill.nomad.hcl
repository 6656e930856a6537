job "pds-drill" {
  datacenters = ["dc1"]
  region      = "global"
  type        = "batch"
  priority    = 30

  periodic {
    crons            = ["41 4 * * 0"]
    prohibit_overlap = true
  }

  group "pds-drill" {
    count = 1

    volume "pds" {
      type      = "host"
      read_only = false
      source    = "pds"
    }

    restart {
      attempts = 0
      interval = "10m"
      delay    = "15s"
      mode     = "fail"
    }

    reschedule {
      attempts  = 0
      unlimited = false
    }

    task "fetch" {
      driver = "docker"
      user   = "1000:1000"

      lifecycle {
        hook    = "prestart"
        sidecar = false
      }

      config {
        image           = "restic/restic:0.19.1"
        entrypoint      = ["/bin/sh", "-c", "sh /local/fetch.sh || true"]
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

      env {
        PDS_HOSTNAME       = "noted.at"
        RESTIC_REPOSITORY  = "s3:https://ams3.digitaloceanspaces.com/dev-noted-at-backup/noted.at"
        AWS_DEFAULT_REGION = "ams3"
      }

      template {
        destination = "local/fetch.sh"
        change_mode = "noop"
        data        = <<-EOT
        #!/bin/sh
        # Owns the way of a snapshot from the bucket to TARGET/fetched, and of the list of who left to TARGET/list; without a
        # TARGET to the allocation's own folder. Runs in restic's image before the task that uses them. What was asked for is
        # Nomad's meta of the dispatched job: `snapshot` is a snapshot's id in restic, `from` "volume" where the snapshot is on
        # the volume already, `show` anything to list them.
        set -eu
        umask 077

        [ "$${NOMAD_META_forget:-}" = "" ] || exit 0 # the next task's alone
        # shellcheck source=/dev/null
        . "$(dirname "$0")/open.sh"

        TARGET=$${TARGET:-$NOMAD_ALLOC_DIR/data}
        fetched=$TARGET/fetched
        wanted=$${NOMAD_META_snapshot:-latest}
        if [ "$REPOSITORY" = absent ]; then
            [ "$${NOMAD_META_from:-}" != volume ] || exit 0
            fail "$RESTIC_REPOSITORY holds no backups"
        fi

        # Nothing here takes a lock: a restore is kept from nothing by one that was left behind, a key that may only read does,
        # and a backup that thins out meanwhile goes on. What that one takes away below this is there under another name at the
        # second attempt.
        if [ "$${NOMAD_META_show:-}" != "" ]; then
            restic snapshots --no-lock --host "$PDS_HOSTNAME" --tag pds --compact
            exit 0
        fi

        mkdir -p "$TARGET"
        began=$(date +%s)

        # The newest list, whatever the snapshot: what it says of older ones is the point of it.
        rm -rf "$TARGET/list"
        case $(restic snapshots --no-lock --host "$PDS_HOSTNAME" --tag departures --json) in
            *short_id*) restic restore latest --no-lock --quiet --host "$PDS_HOSTNAME" --tag departures --target "$TARGET/list" ;;
        esac
        [ "$${NOMAD_META_from:-}" != volume ] || exit 0

        if ! said=$(restic snapshots --no-lock --host "$PDS_HOSTNAME" --tag pds --json "$wanted" 2>&1); then
            fail "there is no snapshot $wanted of $PDS_HOSTNAME in $RESTIC_REPOSITORY: $said"
        fi
        case $said in
            *short_id*) ;;
            *) fail "there is no snapshot $wanted of $PDS_HOSTNAME in $RESTIC_REPOSITORY" ;;
        esac

        # Room for it beside what is there, before a byte of it is written. What an earlier run fetched makes room first.
        rm -rf "$fetched" "$fetched.part"
        size=$(restic stats --no-lock --json --mode restore-size --host "$PDS_HOSTNAME" --tag pds "$wanted")
        size=$(($(echo "$size" | sed 's/.*"total_size":\([0-9]*\).*/\1/') / 1048576))
        free=$(($(df -Pk "$TARGET" | tail -n 1 | awk '{ print $4 }') / 1024))
        [ $((free - size)) -ge "$${PDS_SNAPSHOT_RESERVE_MIB:-256}" ] ||
            fail "the snapshot takes $size MiB and $free MiB are free. Make the volume larger: 'volume: {size_gib: …}'."

        get() {
            rm -rf "$fetched.part"
            restic restore "$wanted" --no-lock --host "$PDS_HOSTNAME" --tag pds --target "$fetched.part"
        }
        get || get
        mv "$fetched.part" "$fetched"
        echo "{\"seconds\": $(($(date +%s) - began))}" >"$TARGET/fetched.json"
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
        {{ with nomadVar "nomad/jobs/pds-drill" }}{{ range .Tuples }}{{ .K }}={{ .V | toJSON }}
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

    task "verify" {
      driver = "docker"
      user   = "1000:1000"

      config {
        image           = "ghcr.io/bluesky-social/pds:0.4.5037"
        command         = "node"
        args            = ["/local/drill.cjs"]
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

      env {
        PDS_HOSTNAME    = "noted.at"
        PDS_DID_PLC_URL = "https://plc.directory"
      }

      template {
        destination = "local/drill.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // The first half of a drill: is what the bucket gave back whole, and are the identities in it those of the world?
        //
        // Runs in the server's image on a scratch copy in the allocation's own folder; it sees nothing of the live data. It may
        // read the PLC directory, which the server on the copy may not (serve.cjs, the second half, which also tells the
        // outcome). Blobs, keys, repositories: verify.cjs has the questions.
        "use strict";

        const fs = require("node:fs");
        const path = require("node:path");
        const { documents } = require("./documents.cjs");
        const { held, verify } = require("./verify.cjs");

        const scratch = path.join(process.env.NOMAD_ALLOC_DIR, "data");
        const hostname = process.env.PDS_HOSTNAME;

        async function main() {
          const began = Date.now();
          if (!fs.existsSync(path.join(scratch, "fetched"))) {
            return end(["nothing was fetched: the task before this one says why"], began);
          }
          const { manifest, problems, keys } = verify(path.join(scratch, "fetched"), { hostname });
          if (manifest) {
            const asked = await documents(manifest.accounts, process.env.PDS_DID_PLC_URL);
            const { problems: wrong, moved, notes } = held(keys, asked, manifest.accounts, hostname);
            problems.push(...wrong);
            for (const note of notes) console.log(`note: $${note}`);
            for (const [did, why] of moved) console.log(`note: $${did}: $${why}`);
            const { accounts, repositories, blobs } = manifest.counts;
            const looked = `$${accounts} accounts, $${repositories} repositories, $${blobs} blobs`;
            console.log(`looked at $${looked}: $${problems.length} faults`);
          }
          end(problems, began);
        }

        function end(problems, began) {
          for (const problem of problems) console.error(`FAULT: $${problem}`);
          const verdict = { problems, seconds: (Date.now() - began) / 1000 };
          fs.writeFileSync(path.join(scratch, "verdict.json"), JSON.stringify(verdict), { flush: true });
          process.exit(problems.length > 0 ? 1 : 0);
        }

        main();
        EOT
      }

      template {
        destination = "local/documents.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // What the world says of an account: the key and the server that its DID document names.
        //
        // Asked are the PLC directory and, for did:web, the account's own domain; nothing is written anywhere. "Gone" and "not
        // reached" are two answers: on the first one acts, on the second nobody may.
        "use strict";

        const ATTEMPTS = 3;
        const AT_ONCE = 8;
        const PATIENCE = 10000; // ms for one answer

        /**
         * DID to `{ key, server, handles }`, `{ gone: why }`, or `{ error: why }` where it could not be asked. `plc` is the
         * directory's address.
         */
        async function documents(dids, plc) {
          const found = new Map();
          const left = [...dids];
          const ask = async () => {
            for (let did; (did = left.shift()); ) found.set(did, await one(did, plc));
          };
          await Promise.all(Array.from({ length: AT_ONCE }, ask));
          return found;
        }

        async function one(did, plc) {
          let why;
          for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
            try {
              if (did.startsWith("did:plc:")) return fromPlc(await get(`$${plc}/$${did}/data`));
              const host = decodeURIComponent(did.slice("did:web:".length));
              if (did.startsWith("did:web:")) return fromWeb(await get(`https://$${host}/.well-known/did.json`));
              return { error: "its method is unknown" };
            } catch (error) {
              // 404: never registered; 410: ended by its owner (web.plc.directory/spec).
              if (error.status === 410 || (error.status === 404 && did.startsWith("did:plc:"))) return { gone: error.message };
              why = error.message;
            }
            await new Promise((resume) => setTimeout(resume, 500 * attempt));
          }
          return { error: why };
        }

        async function get(url) {
          let answer;
          try {
            answer = await fetch(url, { signal: AbortSignal.timeout(PATIENCE) });
          } catch (error) {
            throw new Error(`$${url} does not answer ($${error.cause?.code ?? error.name})`);
          }
          if (!answer.ok) throw Object.assign(new Error(`$${url} answers $${answer.status}`), { status: answer.status });
          return answer.json();
        }

        function fromPlc(data) {
          return {
            key: data.verificationMethods?.atproto ?? null,
            server: hostOf(data.services?.atproto_pds?.endpoint),
            handles: handlesOf(data.alsoKnownAs),
          };
        }

        function fromWeb(document) {
          const entry = (list, id) => (list ?? []).find((item) => item.id?.endsWith(id));
          const method = entry(document.verificationMethod, "#atproto");
          return {
            // The older types give the key without saying of which curve it is; such a key is not compared.
            key: method?.type === "Multikey" ? `did:key:$${method.publicKeyMultibase}` : null,
            server: hostOf(entry(document.service, "#atproto_pds")?.serviceEndpoint),
            handles: handlesOf(document.alsoKnownAs),
          };
        }

        function hostOf(endpoint) {
          try {
            return new URL(endpoint).host;
          } catch {
            return null;
          }
        }

        function handlesOf(names) {
          return (names ?? []).filter((name) => name.startsWith("at://")).map((name) => name.slice("at://".length));
        }

        module.exports = { documents };
        EOT
      }

      template {
        destination = "local/verify.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // Whether a snapshot can be restored: everything in it is opened, hashed and held against everything else, on the host.
        //
        // The same questions, and words, as tools/verify.py asks on the owner's machine, where libraries beyond Node's and
        // SQLite are at hand. Here members' data do not leave the host to be looked at. Repositories are read by
        // repository.cjs; of the server's packages only the SQLite module is used. Nothing that was written
        // into the snapshot is changed.
        "use strict";

        const fs = require("node:fs");
        const path = require("node:path");
        const { createRequire } = require("node:module");
        const { home, isDigestOf, problems, publicKey, sha256 } = require("./repository.cjs");

        const server = createRequire(path.join(process.cwd(), "x.js")).resolve("@atproto/pds/package.json");
        const Database = createRequire(server)("better-sqlite3");

        const MANIFEST = "manifest.json";
        const MARK = ".pds-identity.json";
        const FIELDS = ["hostname", "package_version", "started", "counts", "blobs", "accounts", "repositories", "files"];

        /**
         * Check the snapshot in `folder`, which should be that of `whose` (`hostname`, `rotation_public_key`; what is not known
         * is left out). Returns `manifest`, `problems` (none: it can be restored), and `keys`: DID to did:key.
         */
        function verify(folder, whose) {
          let manifest;
          try {
            manifest = JSON.parse(fs.readFileSync(path.join(folder, MANIFEST), "utf8"));
          } catch (error) {
            return { manifest: null, problems: [`$${MANIFEST} cannot be read: $${error.message}`], keys: new Map() };
          }
          if (manifest?.format !== 1 || !FIELDS.every((field) => field in manifest)) {
            return { manifest: null, problems: [`$${MANIFEST} is of an unknown format`], keys: new Map() };
          }
          const found = { folder, manifest, keys: new Map(), broken: new Set() };
          const checks = [identity(found, whose), files(found), databases(found), accounts(found), blobs(found)];
          const wrong = new Set(checks.flatMap((check) => [...check]));
          return { manifest, problems: [...wrong], keys: found.keys };
        }

        function* identity({ folder, manifest }, whose) {
          for (const [name, wanted] of Object.entries(whose)) {
            if (wanted && manifest[name] !== wanted) {
              yield `this is the snapshot of another PDS: its $${name} is $${manifest[name]}, not $${wanted}`;
            }
          }
          try {
            const mark = JSON.parse(fs.readFileSync(path.join(folder, MARK), "utf8"));
            if (["hostname", "rotation_public_key"].some((name) => mark[name] !== manifest[name])) {
              yield `$${MARK} and $${MANIFEST} name two PDSes`;
            }
          } catch (error) {
            yield `$${MARK} cannot be read: $${error.message}`;
          }
        }

        /** A reader that was killed leaves an empty log beside a database, and its index: nothing that anybody wrote. */
        function sweep({ folder, manifest }) {
          for (const name of Object.keys(manifest.files)) {
            const [log, index] = ["-wal", "-shm"].map((suffix) => path.join(folder, name + suffix));
            if (fs.existsSync(log) && fs.statSync(log).size > 0) continue;
            for (const left of [log, index]) fs.rmSync(left, { force: true });
          }
        }

        function* files({ folder, manifest }) {
          sweep({ folder, manifest });
          const found = new Set(walk(folder).filter((name) => name.split(path.sep)[0] !== "blocks" && name !== MANIFEST));
          for (const name of found) if (!(name in manifest.files)) yield `$${name} is not in the manifest`;
          for (const [name, known] of Object.entries(manifest.files).sort()) {
            if (!found.has(name)) {
              yield `$${name} is missing`;
              continue;
            }
            const { size } = fs.statSync(path.join(folder, name));
            if (size !== known.size) yield `$${name} has $${size} bytes, the manifest says $${known.size}`;
            else if (sha256(path.join(folder, name)) !== known.sha256) {
              yield `$${name} is not what was written: its SHA-256 differs from the manifest's`;
            }
          }
        }

        function* databases(found) {
          const stores = Object.keys(found.manifest.repositories).map((did) => path.join(home(did), "store.sqlite"));
          for (const name of ["account.sqlite", "sequencer.sqlite", ...stores]) {
            if (!fs.existsSync(path.join(found.folder, name))) continue;
            let verdict;
            try {
              verdict = read(path.join(found.folder, name), (db) => db.pragma("integrity_check(1)", { simple: true }));
            } catch (error) {
              verdict = error.message;
            }
            if (verdict === "ok") continue;
            found.broken.add(name);
            yield `$${name} is damaged: $${verdict}`;
          }
        }

        function* accounts(found) {
          const { folder, manifest } = found;
          let known;
          try {
            known = read(path.join(folder, "account.sqlite"), (db) => db.prepare("select did from actor").pluck().all());
          } catch (error) {
            yield `account.sqlite cannot be read: $${error.message}`;
            return;
          }
          if (known.sort().join() !== [...manifest.accounts].sort().join()) {
            yield "account.sqlite has other accounts than the manifest";
          }
          for (const did of [...new Set([...known, ...Object.keys(manifest.repositories)])].sort()) {
            const [store, key] = ["store.sqlite", "key"].map((name) => path.join(folder, home(did), name));
            if (!fs.existsSync(store)) yield `$${did} has no repository`;
            if (!fs.existsSync(key)) {
              yield `$${did} has no signing key`;
              continue;
            }
            let pair;
            try {
              pair = publicKey(fs.readFileSync(key));
            } catch {
              yield `$${did}: its signing key is no secp256k1 key`;
              continue;
            }
            found.keys.set(did, pair.didKey);
            if (fs.existsSync(store)) yield* repository(found, did, store, pair.verifier);
          }
        }

        function* repository({ folder, manifest, broken }, did, store, verifier) {
          try {
            const { root, wrong } = stored(store, did, verifier);
            for (const problem of wrong) yield `$${did}: $${problem}`;
            const known = manifest.repositories[did];
            if (!known) yield `$${did}: its repository is not in the manifest`;
            else if (known.cid !== root.cid || known.rev !== root.rev) {
              yield `$${did}: its repository is at $${root.rev}, the manifest says $${known.rev}`;
            }
          } catch (error) {
            if (!broken.has(path.relative(folder, store))) yield `$${did}: its repository cannot be read: $${error.message}`;
          }
        }

        /** The root that a member's database names, and what is wrong with the repository below it. */
        function stored(store, did, verifier) {
          return read(store, (db) => {
            const root = db.prepare("select cid, rev from repo_root").get();
            if (!root) throw new Error("no repository has been made in it");
            const index = new Map(db.prepare("select collection || '/' || rkey, cid from record").raw().all());
            const whole = { blocks: new Blocks(db), root: root.cid, rev: root.rev, did, verifier, index };
            return { root, wrong: [...problems(whole)] };
          });
        }

        /** A database's blocks as a map that is not in memory: a repository can be larger than the host. */
        class Blocks {
          constructor(db) {
            this.all = db.prepare("select cid, content from repo_block").raw();
            this.one = db.prepare("select content from repo_block where cid = ?").pluck();
          }

          get(cid) {
            return this.one.get(cid);
          }

          has(cid) {
            return this.get(cid) !== undefined;
          }

          [Symbol.iterator]() {
            return this.all.iterate();
          }
        }

        /** What is wrong with one repository below `folder`, whatever a manifest says. */
        function repositoryProblems(folder, did) {
          const { verifier } = publicKey(fs.readFileSync(path.join(folder, home(did), "key")));
          return stored(path.join(folder, home(did), "store.sqlite"), did, verifier).wrong;
        }

        function* blobs({ folder, manifest }) {
          if (manifest.blobs !== "disk") return;
          const there = new Set();
          const blocks = path.join(folder, "blocks");
          for (const name of walk(blocks)) {
            const [cid, did] = name.split(path.sep).reverse();
            if (isDigestOf(cid, Buffer.from(sha256(path.join(blocks, name)), "hex"))) there.add(`$${did} $${cid}`);
            else yield `$${path.join("blocks", name)} does not hash to its name`;
          }
          for (const did of Object.keys(manifest.repositories)) {
            try {
              const wanted = read(path.join(folder, home(did), "store.sqlite"), (db) =>
                db.prepare('select cid from blob where "tempKey" is null order by cid').pluck().all()
              );
              for (const cid of wanted) if (!there.has(`$${did} $${cid}`)) yield `$${did}: blob $${cid} is missing`;
            } catch {
              // Said before.
            }
          }
        }

        /**
         * Hold the keys of a verified snapshot against the DID documents. `active` are the accounts in use. Returns `problems`
         * that make the snapshot no good, `moved`: DID to why it is no longer this server's, and `notes`.
         */
        function held(keys, documents, active, hostname) {
          const wrong = [];
          const notes = [];
          const moved = new Map();
          for (const did of active) {
            const document = documents.get(did);
            const owner = [...keys].find(([other, key]) => other !== did && key === document.key)?.[0];
            if (document.error) {
              // One domain that is away says nothing of the others; the directory that is away says nothing of anybody.
              const text = `$${did}: its DID document could not be read: $${document.error}`;
              (did.startsWith("did:web:") ? notes : wrong).push(text);
            } else if (document.gone) moved.set(did, `its identity is no more: $${document.gone}`);
            else if (document.server !== hostname) moved.set(did, `its DID document names the server $${document.server}`);
            else if (owner) {
              wrong.push(`$${did}: its DID document names the key $${document.key}, which is the key that $${owner} has here`);
            } else if (document.key && document.key !== keys.get(did)) {
              moved.set(did, `its DID document names the key $${document.key}, which is not in this snapshot`);
            }
          }
          return { problems: wrong, moved, notes };
        }

        // --- files

        /** Where a repository lies below the data directory. */
        /** Ask a database without changing it; one that may not be written to would leave side files behind. */
        function read(file, ask) {
          const db = new Database(file, { fileMustExist: true });
          try {
            db.pragma("query_only = 1");
            return ask(db);
          } finally {
            db.close();
          }
        }

        /** Every file below `folder`, as paths from there, in order. */
        function walk(folder, below = "") {
          if (!fs.existsSync(path.join(folder, below))) return [];
          return fs
            .readdirSync(path.join(folder, below), { withFileTypes: true })
            .sort((one, other) => (one.name < other.name ? -1 : 1))
            .flatMap((entry) => {
              const name = path.join(below, entry.name);
              return entry.isDirectory() ? walk(folder, name) : [name];
            });
        }

        module.exports = { Database, MANIFEST, MARK, held, home, read, repositoryProblems, verify, walk };
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

      resources {
        cpu    = 200
        memory = 256
      }

      logs {
        max_files     = 2
        max_file_size = 1
      }
    }

    task "serve" {
      driver = "docker"
      user   = "1000:1000"

      lifecycle {
        hook    = "poststop"
        sidecar = false
      }

      config {
        image           = "ghcr.io/bluesky-social/pds:0.4.5037"
        command         = "node"
        args            = ["/local/serve.cjs"]
        network_mode    = "none"
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
        TZ                 = "UTC"
        PDS_HOSTNAME       = "noted.at"
        PDS_DID_PLC_URL    = "https://plc.directory"
        PDS_DATA_DIRECTORY = "/pds"
      }

      template {
        destination = "local/serve.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // A server on the scratch copy of a backup, with no way out: it starts, and serves every repository and blob in it.
        //
        // Runs in a container without a network, after the task whose verdict it finds: as the second half of a drill in the
        // server's image (drill.cjs), and of a trial in a candidate's (candidate.cjs). Every repository is asked for as a
        // stranger would, and read by repository.cjs. The copy is then removed. A drill's outcome is left in DATA/.stamps for
        // the job that watches, also where the first half found faults; of a trial is said what it would do to the data.
        "use strict";

        const crypto = require("node:crypto");
        const fs = require("node:fs");
        const path = require("node:path");
        const { createRequire } = require("node:module");
        const { pipeline } = require("node:stream/promises");
        const { home, isDigestOf, openCar, problems, publicKey } = require("./repository.cjs");
        const { Server } = require("./server.cjs");

        const scratch = path.join(process.env.NOMAD_ALLOC_DIR, "data");
        const copy = path.join(scratch, "fetched");
        const drill = process.env.TRIAL !== "candidate";
        const outcome = drill ? require("./stamp.cjs").stamp : () => {};
        const statuses = ["RepoDeactivated", "RepoTakendown", "RepoSuspended"];

        async function main() {
          const found = { problems: ["the copy was not looked at: see the task before"] };
          let manifest = null;
          try {
            Object.assign(found, JSON.parse(fs.readFileSync(path.join(scratch, "verdict.json"), "utf8")));
            manifest = JSON.parse(fs.readFileSync(path.join(copy, "manifest.json"), "utf8"));
          } catch (error) {
            if (error.code !== "ENOENT") throw error;
            if (!drill && found.problems.length === 0) found.problems.push("no backup was fetched: the first task says why");
          }
          const known = drill || manifest ? found.problems.length : 0; // they were said
          if (manifest && known === 0) await serve(manifest, found);
          for (const name of ["fetched", "served.car"]) fs.rmSync(path.join(scratch, name), { recursive: true, force: true });
          outcome("drill", found.problems, { of: manifest?.started });
          for (const problem of found.problems.slice(known)) console.error(`FAULT: $${problem}`);
          if (found.problems.length > 0) process.exit(1);
          if (drill) report(manifest, found);
        }

        function report(manifest, found) {
          const fetched = JSON.parse(fs.readFileSync(path.join(scratch, "fetched.json"), "utf8")).seconds;
          const point = Date.parse(manifest.started);
          console.log(`recovery point  $${manifest.started}, $${((Date.now() - point) / 60000).toFixed(0)} minutes ago`);
          const [looked, served] = [found.seconds, found.served].map((seconds) => `$${seconds.toFixed(1)} s`);
          console.log(
            `recovery time   $${(fetched + found.seconds + found.served).toFixed(1)} s: fetched in $${fetched} s, looked at in ` +
              `$${looked}, served in $${served}`
          );
        }

        async function serve(manifest, found) {
          const began = Date.now();
          const before = drill ? null : migrations();
          const server = new Server(copy);
          try {
            await server.start();
            let served = 0;
            const accounts = new Set(manifest.accounts);
            for (const [did, known] of Object.entries(manifest.repositories)) {
              if (!accounts.has(did)) {
                // A server that is killed while it makes an account leaves this behind, and serves it to nobody.
                console.log(`note: $${did} has a repository and no account`);
                continue;
              }
              const wrong = await wrongWith(server, did, known, manifest.blobs === "disk");
              found.problems.push(...wrong.map((problem) => `$${did}: $${problem}`));
              served++;
            }
            found.served = (Date.now() - began) / 1000;
            console.log(`$${served} repositories served by the server on the copy: $${found.problems.length} faults`);
          } catch (error) {
            found.problems.push(`on the copy: $${error.message}`);
          } finally {
            await server.stop();
          }
          if (drill || found.problems.length > 0) return;
          for (const name of migrations()) if (!before.includes(name)) console.log(`MIGRATES $${name}`);
        }

        /** Which migrations the databases of the server have seen, as "account.sqlite 007". */
        function migrations() {
          const app = createRequire(path.join(process.cwd(), "x.js"));
          const Database = createRequire(app.resolve("@atproto/pds/package.json"))("better-sqlite3");
          return ["account.sqlite", "sequencer.sqlite"].flatMap((name) => {
            const db = new Database(path.join(copy, name), { fileMustExist: true });
            try {
              const names = db.prepare("select name from kysely_migration order by name").pluck().all();
              return names.map((migration) => `$${name} $${migration}`);
            } finally {
              db.close();
            }
          });
        }

        async function wrongWith(server, did, known, blobsToo) {
          const ask = (method, parameters) =>
            fetch(`$${server.url}/xrpc/com.atproto.sync.$${method}?$${new URLSearchParams(parameters)}`);
          const answer = await ask("getRepo", { did });
          if (!answer.ok) {
            const { error } = await answer.json();
            return statuses.includes(error) ? [] : [`its repository is not served: $${error}`];
          }
          const wrong = [];
          const file = path.join(scratch, "served.car");
          try {
            await pipeline(answer.body, fs.createWriteStream(file));
            const car = openCar(file);
            const { verifier } = publicKey(fs.readFileSync(path.join(copy, home(did), "key")));
            if (car.root !== known.cid) wrong.push(`$${car.root} is served, the manifest says $${known.cid}`);
            else wrong.push(...problems({ ...car, rev: known.rev, did, verifier }));
            car.close();
          } catch (error) {
            wrong.push(`what is served is no repository: $${error.message}`);
          }
          for (const cid of blobsToo ? known.blobs : []) {
            if (fs.existsSync(path.join(copy, "blocks", "quarantine", did, cid))) continue; // taken down
            const blob = await ask("getBlob", { did, cid });
            const hash = crypto.createHash("sha256");
            if (!blob.ok) wrong.push(`blob $${cid} is not served: $${(await blob.json()).error}`);
            else await pipeline(blob.body, hash);
            if (blob.ok && !isDigestOf(cid, hash.digest())) wrong.push(`blob $${cid} is served as something else`);
          }
          return wrong;
        }

        main().catch((error) => {
          outcome("drill", [error.message], {});
          console.error(`FAILED: $${error.stack}`);
          process.exit(1);
        });
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
        destination = "local/server.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // The image's own server, started on a data directory for a trial: on loopback, with secrets of nobody's.
        "use strict";

        const { spawn } = require("node:child_process");
        const crypto = require("node:crypto");
        const fs = require("node:fs");
        const path = require("node:path");

        const PORT = 3000;
        const START = 120000; // ms; a server that has to bring large databases up to its version
        const STOP = 30000; // ms
        // The image's own, in its working directory: upstream's is index.js up to 0.4.219, and index.ts in 0.4.50xx.
        const entry = process.env.TRIAL_ENTRY ?? (fs.existsSync("index.ts") ? "index.ts" : "index.js");

        const secret = () => crypto.randomBytes(32).toString("hex");

        class Server {
          /** `more` is what the server is told beside the places of its files. */
          constructor(data, more = {}) {
            this.url = `http://127.0.0.1:$${PORT}`;
            this.said = "";
            this.env = {
              ...process.env,
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

          /** Returns once it answers. Throws where it ends, or never does. */
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
                `this version is older than the data: it does not know their migration $${migration}. ` +
                "Going back is a restore: of a backup from before it"
              );
            }
            return `the server does not come up. It said:\n$${this.said.split("\n").slice(-20).join("\n")}`;
          }

          async healthy() {
            try {
              const answer = await fetch(`$${this.url}/xrpc/_health`);
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
  }
}
