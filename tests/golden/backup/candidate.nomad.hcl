job "pds-candidate" {
  datacenters = ["dc1"]
  region      = "global"
  type        = "batch"
  priority    = 30

  parameterized {
    payload       = "forbidden"
    meta_required = ["image"]
  }

  group "pds-candidate" {
    count = 1

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
        # Owns the download of a snapshot from the bucket to TARGET/fetched, and of the list of departures to TARGET/list;
        # without a TARGET, to the allocation's own folder. Runs in restic's image before the task that uses them. Nomad's meta
        # of the dispatched job has the parameters: `snapshot` is a snapshot's ID in restic, `from` is "volume" if the snapshot
        # is on the volume already, `show` lists snapshots, `only` is the DID of the one account to fetch.
        set -eu
        umask 077

        TARGET=$${TARGET:-$NOMAD_ALLOC_DIR/data}

        # Two runs at once would remove each other's files. `./pds restore` waits for a run that is active; the lock decides
        # between two that were started at the same moment. The kernel releases it with the last process of this task.
        if [ "$${NOMAD_META_show:-}" = "" ]; then
            mkdir -p "$TARGET"
            exec 9>"$TARGET/fetch.lock"
            if command -v flock >/dev/null && ! flock -n 9; then
                echo "FAILED: another restore is fetching a snapshot for this PDS. This one changed nothing. When that one has
        ended, check whether the PDS is as it should be (\`./pds check\`) before you run this again." >&2
                exit 1
            fi
            rm -rf "$TARGET/older" # requests of a run that was cut short
        fi
        [ "$${NOMAD_META_forget:-}$${NOMAD_META_step:-}" = "" ] || exit 0 # for the next task only

        # Always the newest list: it has to cover events after the snapshot.
        departures() {
            rm -rf "$TARGET/list"
            case $(restic snapshots --no-lock --host "$PDS_HOSTNAME" --tag departures --json) in
                *short_id*) restic restore latest --no-lock --quiet --host "$PDS_HOSTNAME" --tag departures --target "$TARGET/list" ;;
            esac
        }

        # A snapshot on the volume needs no bucket: the volume has a list of its own.
        if [ "$${NOMAD_META_from:-}" = volume ]; then
            # shellcheck source=/dev/null
            (. "$(dirname "$0")/open.sh" && if [ "$REPOSITORY" = there ]; then departures; fi) ||
                echo "note: the bucket does not give its list of departures; the list on the volume is used"
            exit 0
        fi
        # shellcheck source=/dev/null
        . "$(dirname "$0")/open.sh"

        fetched=$TARGET/fetched
        wanted=$${NOMAD_META_snapshot:-latest}
        [ "$REPOSITORY" = there ] || fail "$RESTIC_REPOSITORY holds no backups"

        # No command here takes a lock: a leftover lock must not block a restore, a read-only key suffices, and a backup that
        # prunes meanwhile can continue. Packs that it removes during the download exist under another name at the second
        # attempt.
        if [ "$${NOMAD_META_show:-}" != "" ]; then
            restic snapshots --no-lock --host "$PDS_HOSTNAME" --tag pds --compact
            exit 0
        fi

        began=$(date +%s)

        departures

        if ! said=$(restic snapshots --no-lock --host "$PDS_HOSTNAME" --tag pds --json "$wanted" 2>&1); then
            fail "there is no snapshot $wanted of $PDS_HOSTNAME in $RESTIC_REPOSITORY: $said"
        fi
        case $said in
            *short_id*) ;;
            *) fail "there is no snapshot $wanted of $PDS_HOSTNAME in $RESTIC_REPOSITORY" ;;
        esac

        # For one account: its folder and blobs, with the manifest and the account database, which identify its files.
        set --
        only=$${NOMAD_META_only:-}
        if [ "$only" != "" ]; then
            shelf=$(printf %s "$only" | sha256sum | cut -c 1-2)
            for path in /manifest.json /.pds-identity.json /account.sqlite "/actors/$shelf/$only" "/blocks/$only" "/blocks/quarantine/$only"; do
                set -- "$@" --include "$path"
            done
        fi

        # Checks for free space beside the existing data before it writes. Removes the files of an earlier run first.
        rm -rf "$fetched" "$fetched.part"
        size=$(restic stats --no-lock --json --mode restore-size --host "$PDS_HOSTNAME" --tag pds "$wanted")
        size=$(($(echo "$size" | sed 's/.*"total_size":\([0-9]*\).*/\1/') / 1048576))
        free=$(($(df -Pk "$TARGET" | tail -n 1 | awk '{ print $4 }') / 1024))
        # The size of a single account is not known in advance.
        [ "$only" != "" ] || [ $((free - size)) -ge "$${PDS_SNAPSHOT_RESERVE_MIB:-256}" ] ||
            fail "the snapshot takes $size MiB and $free MiB are free. Make the volume larger: 'volume: {size_gib: …}'."

        got=no
        for _attempt in 1 2; do
            rm -rf "$fetched.part"
            if restic restore "$wanted" --no-lock --host "$PDS_HOSTNAME" --tag pds --target "$fetched.part" "$@"; then
                got=yes
                break
            fi
        done
        [ "$got" = yes ] || fail "snapshot $wanted could not be fetched"
        mv "$fetched.part" "$fetched"
        echo "{\"seconds\": $(($(date +%s) - began))}" >"$TARGET/fetched.json"
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
        {{ with nomadVar "nomad/jobs/pds-candidate" }}{{ range .Tuples }}{{ .K }}={{ .V | toJSON }}
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

    task "candidate" {
      driver = "docker"
      user   = "1000:1000"

      config {
        image           = "${NOMAD_META_image}"
        command         = "node"
        args            = ["/local/candidate.cjs"]
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

      env {
        TZ              = "UTC"
        PDS_HOSTNAME    = "noted.at"
        PDS_DID_PLC_URL = "https://plc.directory"
        TRIAL           = "candidate"
        TRIAL_PRELOAD   = "/local/durable.cjs"
      }

      template {
        destination = "local/candidate.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // Tests whether another version of the server works, on throw-away data: accounts, records, blobs, the event stream,
        // and all of it again after a restart. A successful health check proves little.
        //
        // Runs in the candidate's image, in a container without a network, and starts the image's own server. Identities need a
        // directory, so this starts a small one on loopback; the public directory never receives them. repository.cjs reads the
        // results back. The next task, which has the copy of the newest backup (serve.cjs), reads the outcome.
        "use strict";

        const crypto = require("node:crypto");
        const fs = require("node:fs");
        const http = require("node:http");
        const path = require("node:path");
        const { directory } = require("./directory.cjs");
        const { decodeAll, home, isDigestOf, openCar, problems, publicKey } = require("./repository.cjs");
        const { Server } = require("./server.cjs");

        const PATIENCE = 30000; // ms for an event
        const POSTS = "app.bsky.feed.post";
        const BLOBS = "at.noted.try.blob";
        const scratch = path.join(process.env.NOMAD_ALLOC_DIR, "data");
        const data = path.join(scratch, "throwaway");
        const domain = (process.env.PDS_SERVICE_HANDLE_DOMAINS || `.$${process.env.PDS_HOSTNAME}`).split(",")[0];

        class Wrong extends Error {}

        async function main() {
          const began = Date.now();
          const found = [];
          fs.mkdirSync(data, { recursive: true });
          const identities = await directory();
          const more = {
            PDS_DID_PLC_URL: identities.url,
            PDS_INVITE_REQUIRED: "false",
            PDS_DISABLE_SSRF_PROTECTION: "true", // newer servers refuse a directory on loopback otherwise
          };
          const server = new Server(data, more);
          try {
            await server.start();
            console.log(`candidate $${server.version} answers on throw-away data`);
            const made = await work(server);
            await server.stop();
            await server.start();
            await again(server, made);
            console.log("after a restart all of it is there, and more is taken");
          } catch (error) {
            found.push(error instanceof Wrong ? error.message : `$${error.message}\n$${error.stack}`);
          }
          await server.stop();
          fs.rmSync(data, { recursive: true, force: true });
          for (const problem of found) console.error(`FAULT: on throw-away data: $${problem}`);
          const verdict = { problems: found, seconds: (Date.now() - began) / 1000 };
          fs.writeFileSync(path.join(scratch, "verdict.json"), JSON.stringify(verdict), { flush: true });
          process.exit(found.length > 0 ? 1 : 0);
        }

        async function work(server) {
          const accounts = [];
          for (const name of ["one", "two"]) {
            const password = crypto.randomBytes(16).toString("hex");
            const body = { handle: `trial-$${name}$${domain}`, email: `$${name}@my-club.org`, password };
            accounts.push({ ...(await call(server, "server.createAccount", { body })), password });
          }
          const [{ did, accessJwt: token }] = accounts;
          const stream = await subscribe(server);
          const post = await record(server, did, token, POSTS, { text: "a trial", createdAt: new Date().toISOString() });
          await heard(stream, did, post);
          console.log("2 accounts made; a post written, and on the event stream");

          const content = crypto.randomBytes(100000);
          const { blob } = await call(server, "repo.uploadBlob", { token, content });
          const cid = blob.ref.$link;
          const kept = await record(server, did, token, BLOBS, { blob });
          await heard(stream, did, kept);
          const gone = await record(server, did, token, POSTS, { text: "to go", createdAt: new Date().toISOString() });
          await heard(stream, did, gone);
          const rkey = gone.uri.split("/").pop();
          await call(server, "repo.deleteRecord", { token, body: { repo: did, collection: POSTS, rkey } });
          await heard(stream, did, { ...gone, cid: null });
          stream.close();
          await served(server, did, cid, [post, kept]);
          console.log("a blob taken and given back, a post deleted, the repository whole");
          return { did, password: accounts[0].password, cid, records: [post, kept] };
        }

        async function again(server, { did, password, cid, records }) {
          const { accessJwt: token } = await call(server, "server.createSession", { body: { identifier: did, password } });
          await served(server, did, cid, records);
          await record(server, did, token, POSTS, { text: "once more", createdAt: new Date().toISOString() });
        }

        /** Reads the repository as the public sees it: every record, a consistent tree, and the blob. */
        async function served(server, did, cid, records) {
          const file = path.join(scratch, "throwaway.car");
          fs.writeFileSync(file, await call(server, "sync.getRepo", { parameters: { did } }));
          const car = openCar(file);
          const { rev } = await call(server, "sync.getLatestCommit", { parameters: { did } });
          const { verifier } = publicKey(fs.readFileSync(path.join(data, home(did), "key")));
          const wrong = [...problems({ ...car, rev, did, verifier })].map(({ text }) => text);
          for (const { uri, cid } of records) if (!car.blocks.has(cid)) wrong.push(`$${uri} is not in its repository`);
          car.close();
          fs.rmSync(file);
          if (wrong.length > 0) throw new Wrong(wrong.join("; "));
          const blob = await call(server, "sync.getBlob", { parameters: { did, cid } });
          if (!isDigestOf(cid, crypto.createHash("sha256").update(blob).digest())) throw new Wrong("a blob came back changed");
        }

        function record(server, did, token, collection, content) {
          const body = { repo: did, collection, record: { $type: collection, ...content }, validate: false };
          return call(server, "repo.createRecord", { token, body });
        }

        /** Calls a method. Returns JSON as a value, everything else as bytes. Throws the server's error. */
        async function call(server, method, { parameters = {}, body, content, token }) {
          const url = `$${server.url}/xrpc/com.atproto.$${method}?$${new URLSearchParams(parameters)}`;
          const type = content ? "application/octet-stream" : "application/json";
          const sent = content ?? (body && JSON.stringify(body));
          const headers = { ...(token && { authorization: `Bearer $${token}` }), ...(sent && { "content-type": type }) };
          const answer = await fetch(url, { method: sent ? "POST" : "GET", headers, body: sent });
          const bytes = Buffer.from(await answer.arrayBuffer());
          if (!answer.ok) throw new Wrong(`$${method} is answered with $${answer.status} $${bytes.toString().slice(0, 300)}`);
          return answer.headers.get("content-type")?.startsWith("application/json") ? JSON.parse(bytes) : bytes;
        }

        // --- the event stream: a WebSocket, of which only the server's frames are read (RFC 6455, section 5.2)

        async function subscribe(server) {
          const url = `$${server.url}/xrpc/com.atproto.sync.subscribeRepos`;
          const key = crypto.randomBytes(16).toString("base64");
          const headers = { connection: "Upgrade", upgrade: "websocket", "sec-websocket-version": "13" };
          const request = http.get(url, { headers: { ...headers, "sec-websocket-key": key } });
          const socket = await new Promise((resolve, reject) => {
            request.on("upgrade", (_answer, socket) => resolve(socket));
            request.on("response", (answer) => reject(new Wrong(`the event stream answers $${answer.statusCode}`)));
            request.on("error", reject);
          });
          const commits = [];
          let rest = Buffer.alloc(0);
          socket.on("error", () => {});
          socket.on("data", (chunk) => {
            rest = Buffer.concat([rest, chunk]);
            for (let frame; (frame = nextFrame(rest)); rest = rest.subarray(frame.end)) {
              if (frame.opcode !== 2) continue;
              const [header, event] = decodeAll(frame.content);
              if (header.t === "#commit") commits.push(event);
            }
          });
          return { commits, close: () => socket.destroy() };
        }

        function nextFrame(bytes) {
          if (bytes.length < 2) return null;
          const short = bytes[1] & 127;
          const start = short === 127 ? 10 : short === 126 ? 4 : 2;
          if (bytes.length < start) return null;
          const size = short === 127 ? Number(bytes.readBigUInt64BE(2)) : short === 126 ? bytes.readUInt16BE(2) : short;
          if (bytes.length < start + size) return null;
          return { opcode: bytes[0] & 15, content: bytes.subarray(start, start + size), end: start + size };
        }

        async function heard(stream, did, { uri, cid }) {
          const named = uri.split("/").slice(-2).join("/");
          const told = ({ repo, ops }) =>
            repo === did && ops.some((op) => op.path === named && (op.cid?.toString() ?? null) === cid);
          for (const end = Date.now() + PATIENCE; !stream.commits.some(told); ) {
            if (Date.now() > end) throw new Wrong(`the event stream says nothing of $${named}`);
            await new Promise((resume) => setTimeout(resume, 50));
          }
        }

        main();
        EOT
      }

      template {
        destination = "local/durable.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // Preloaded into the server's process: everything that the server acknowledges is on the disk, so a power cut loses
        // none of it.
        //
        // Upstream's server relies on better-sqlite3's build default: a database in WAL mode that is reopened has
        // `synchronous = NORMAL`, which flushes at checkpoints only. Blobs and keys are written without a flush.
        // This module gives every connection FULL, and flushes files and directories below the data directory before a call
        // returns.
        //
        // Before the server listens, its own stores write a trial account and blob beside the data. If one of these files is
        // not flushed, or an open database does not have FULL, the server refuses to start (`pds.durable_writes`). Other Node
        // processes of the container (`node -e`) are not affected.
        "use strict";

        if (process.execArgv.some((argument) => /^(-e|-p|-pe|--eval|--print)\b/.test(argument))) return;

        const crypto = require("node:crypto");
        const fs = require("node:fs");
        const net = require("node:net");
        const os = require("node:os");
        const path = require("node:path");
        const { createRequire, syncBuiltinESMExports } = require("node:module");
        const { pathToFileURL } = require("node:url");
        const { isMainThread } = require("node:worker_threads");

        const ASIDE = ".writing"; // below a root, on the same file system
        const FULL = 2;

        const { lstat, mkdir, open, rename, rm, writeFile } = fs.promises;
        const roots = [
          process.env.PDS_DATA_DIRECTORY,
          process.env.PDS_ACTOR_STORE_DIRECTORY,
          process.env.PDS_BLOBSTORE_DISK_LOCATION,
          process.env.PDS_BLOBSTORE_DISK_TMP_LOCATION,
        ]
          .filter(Boolean)
          .map((name) => path.resolve(name));

        // Everything flushed so far, for the proof; discarded after it.
        let witness = isMainThread ? { files: new Set(), databases: new Set() } : null;

        function real(name) {
          return fs.existsSync(name) ? fs.realpathSync(name) : name;
        }

        function refuse(problem) {
          console.error(
            `REFUSED: this version of the server cannot be made to flush what it acknowledges: $${problem}\n` +
              "  A power cut would lose posts, pictures or an account's key. Go back to the version before, or accept the loss " +
              "with 'pds: {durable_writes: false}' in the stack file."
          );
          process.exit(1);
        }

        // --- databases: FULL, once per connection

        const full = new WeakSet();

        const { dlopen } = process;
        process.dlopen = function (module, ...rest) {
          const result = dlopen.call(this, module, ...rest);
          // better-sqlite3's addon, identified by its exports: any copy, loaded by any module.
          const native = module.exports?.Database?.prototype;
          if (typeof native?.prepare === "function" && typeof native.exec === "function") hook(native);
          return result;
        };

        function hook(native) {
          const { prepare, exec } = native;
          native.prepare = function (source, ...rest) {
            beforeStatement(this, source);
            return prepare.call(this, source, ...rest);
          };
          native.exec = function (source, ...rest) {
            beforeStatement(this, source);
            return exec.call(this, source, ...rest);
          };

          function beforeStatement(connection, source) {
            // Not before a pragma: this one reads the schema, so it can find the database busy, and the server does not retry
            // its pragmas. A later pragma of the server is overridden.
            if (/^\s*pragma\b/i.test(source)) {
              if (/\bsynchronous\s*[=(]/i.test(source)) full.delete(connection);
              return;
            }
            if (full.has(connection) || connection.memory) return;
            exec.call(connection, "PRAGMA synchronous = FULL");
            const answer = prepare.call(connection, "PRAGMA synchronous", connection, true).pluck().get();
            if (answer !== FULL) refuse(`its database library answers 'PRAGMA synchronous' with $${answer}, not $${FULL}.`);
            full.add(connection);
            witness?.databases.add(real(connection.name));
          }
        }

        // --- files and directories: the content, then the entry

        const rootOf = (name) =>
          typeof name === "string" ? roots.find((root) => path.resolve(name).startsWith(root + path.sep)) : undefined;

        async function flush(name) {
          const handle = await open(name, "r");
          try {
            await handle.sync();
          } finally {
            await handle.close();
          }
        }

        // A directory of a concurrent call may be used before its entry is flushed, so writers inside it wait for that flush.
        const entries = new Set();

        function whileFlushing(promise) {
          const done = () => entries.delete(promise);
          entries.add(promise);
          promise.then(done, done);
          return promise;
        }

        Object.assign(fs.promises, {
          async mkdir(name, options) {
            const made = await mkdir(name, options);
            if (!rootOf(name)) return made;
            const last = path.resolve(name);
            const first = options?.recursive ? made && path.resolve(made) : last;
            const created = [];
            if (first) for (let one = last; one.length >= first.length; one = path.dirname(one)) created.push(one);
            await whileFlushing(Promise.all(created.map((one) => flush(path.dirname(one)))));
            for (const one of created) witness?.files.add(one);
            return made;
          },

          async rename(from, to) {
            if (!rootOf(from) && !rootOf(to)) return rename(from, to);
            // A file that was written to a temporary name by any means. If it is missing, `rename` reports that.
            await flush(from).catch((error) => error.code === "ENOENT" || Promise.reject(error));
            await rename(from, to);
            const folders = new Set([to, from].map((name) => path.dirname(path.resolve(name))));
            await Promise.all([...folders].map(flush));
            witness?.files.add(path.resolve(to));
          },

          async writeFile(name, data, options) {
            const root = rootOf(name);
            if (!root) return writeFile(name, data, options);
            const target = path.resolve(name);
            const found = await lstat(target).catch(() => null);
            const how = typeof options === "string" ? { encoding: options } : { ...options };
            if ((how.flag ?? "w") === "w" && (!found || found.isFile())) {
              // To a temporary name: half a file under its final name would pass for a complete blob.
              await replaceFile(root, target, data, how, found ? found.mode & 0o777 : (how.mode ?? 0o666));
            } else {
              await writeFile(name, data, options);
              await flush(target);
            }
            await flush(path.dirname(target));
            await Promise.all(entries);
            witness?.files.add(target);
          },
        });
        syncBuiltinESMExports();

        async function replaceFile(root, target, data, { encoding, signal }, mode) {
          await mkdir(path.join(root, ASIDE), { recursive: true, mode: 0o700 });
          const aside = path.join(root, ASIDE, crypto.randomUUID());
          try {
            const handle = await open(aside, "wx", mode);
            try {
              await handle.writeFile(data, { encoding, signal });
              await handle.sync();
            } finally {
              await handle.close();
            }
            await rename(aside, target);
          } catch (error) {
            await rm(aside, { force: true });
            throw error;
          }
        }

        // --- the proof, before the server listens

        if (isMainThread) {
          const { listen } = net.Server.prototype;
          let proof;
          net.Server.prototype.listen = function (...rest) {
            if (witness === null) return listen.apply(this, rest);
            proof ??= prove().catch((error) => refuse(error.message.split("\n")[0]));
            proof.then(() => listen.apply(this, rest));
            return this;
          };
        }

        async function prove() {
          for (const root of roots) await rm(path.join(root, ASIDE), { recursive: true, force: true }); // left by a power cut
          const place = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), "durable-")));
          roots.push(place);
          try {
            await useStores(place);
            inspect(place);
          } finally {
            roots.pop();
            await rm(place, { recursive: true, force: true });
          }
          const unknown = openDatabases().filter((name) => !witness.databases.has(name));
          if (unknown.length > 0) throw new Error(`it opened $${unknown.join(", ")} by other means than better-sqlite3.`);
          witness = null;
          console.log("what the server acknowledges is flushed to the disk");
        }

        /** Makes an account and a blob in `place` with the server's own stores, as its two version lines have them. */
        async function useStores(place) {
          const app = createRequire(path.join(process.cwd(), "x.js"));
          const server = path.join(path.dirname(app.resolve("@atproto/pds/package.json")), "dist");
          const load = (name) => import(pathToFileURL(path.join(server, name)));
          const did = "did:plc:trial";

          const { ActorStore } = await load("actor-store/actor-store.js");
          const accounts = new ActorStore({ directory: path.join(place, "actors"), cacheSize: 1 }, {});
          await accounts.create(did, { export: async () => crypto.randomBytes(32) });
          await accounts.storePlcOp(did, Buffer.from("trial"));
          await accounts.reserveKeypair(did);

          if (!process.env.PDS_BLOBSTORE_DISK_LOCATION) return; // object storage
          const { DiskBlobStore } = await load("disk-blobstore.js");
          const blobs = DiskBlobStore.creator(path.join(place, "blocks"), path.join(place, "temp"))(did);
          const cid = (name) => ({ toString: () => name });
          await blobs.putTemp(Buffer.from("trial"));
          await blobs.makePermanent(await blobs.putTemp(Buffer.from("trial")), cid("moved"));
          await blobs.putPermanent(cid("put"), Buffer.from("trial"));
          await blobs.quarantine(cid("put"));
        }

        /** Whether everything in `place` was flushed, and the stores made the expected files. */
        function inspect(place) {
          const found = [];
          for (const name of fs.readdirSync(place, { recursive: true }).sort()) {
            if (name.startsWith(ASIDE)) continue;
            const whole = path.join(place, name);
            const database = witness.databases.has(whole.replace(/-(wal|shm|journal)$/, ""));
            if (!database && !witness.files.has(whole)) {
              throw new Error(`its stores wrote $${name} by means that are not known here.`);
            }
            if (fs.statSync(whole).isFile()) found.push(`$${name.split(path.sep)[0]} $${database ? "database" : "file"}`);
          }
          const blobs = process.env.PDS_BLOBSTORE_DISK_LOCATION ? ["blocks file", "temp file"] : [];
          const lacking = ["actors database", "actors file", ...blobs].filter((kind) => !found.includes(kind));
          if (lacking.length > 0) throw new Error(`its stores left nothing to look at ($${lacking.join(", ")}).`);
        }

        /** The databases below the data directory that this process has open, if the system reports them. */
        function openDatabases() {
          const table = "/proc/self/fd";
          const names = fs.existsSync(table) ? fs.readdirSync(table) : [];
          // By name only: to open and close a database here would drop the locks that SQLite holds on it.
          const opened = names.map((number) => target(path.join(table, number)).replace(/-wal$/, ""));
          const ours = (name) => roots.some((root) => name.startsWith(real(root) + path.sep));
          return [...new Set(opened.filter((name) => ours(name) && /\.(sqlite3?|db)$/.test(name)))];
        }

        function target(link) {
          try {
            return fs.readlinkSync(link);
          } catch {
            return ""; // closed meanwhile
          }
        }
        EOT
      }

      template {
        destination = "local/directory.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // An in-memory directory of identities on loopback for throw-away accounts, with the calls that the server uses.
        //
        // The public directory must never receive a trial's identities: they are permanent there. This one validates nothing.
        "use strict";

        const http = require("node:http");

        /** Starts it on a free port. `url` is its address for the server. */
        async function directory() {
          const operations = new Map();
          const listener = http.createServer(async (request, response) => {
            const [, did, ...rest] = decodeURIComponent(request.url).split("/");
            if (request.method === "POST") {
              const chunks = [];
              for await (const chunk of request) chunks.push(chunk);
              operations.set(did, JSON.parse(Buffer.concat(chunks)));
              return response.end("{}");
            }
            const found = operations.get(did);
            const [status, answer] = found ? [200, view(did, found, rest.join("/"))] : [404, { message: "not registered" }];
            response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(answer));
          });
          await new Promise((resume) => listener.listen(0, "127.0.0.1", resume));
          listener.unref();
          // By name: the server refuses a bare IP address.
          return { url: `http://localhost:$${listener.address().port}` };
        }

        /** The three forms in which a directory returns an identity (web.plc.directory/spec). */
        function view(did, { verificationMethods, rotationKeys, alsoKnownAs, services, ...operation }, form) {
          if (form === "data") return { did, verificationMethods, rotationKeys, alsoKnownAs, services };
          if (form === "log/last") return { verificationMethods, rotationKeys, alsoKnownAs, services, ...operation };
          const publicKeyMultibase = verificationMethods.atproto.slice("did:key:".length);
          const { type, endpoint } = services.atproto_pds;
          return {
            "@context": ["https://www.w3.org/ns/did/v1"],
            id: did,
            alsoKnownAs,
            verificationMethod: [{ id: `$${did}#atproto`, type: "Multikey", controller: did, publicKeyMultibase }],
            service: [{ id: "#atproto_pds", type, serviceEndpoint: endpoint }],
          };
        }

        module.exports = { directory };
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
        destination = "local/server.cjs"
        change_mode = "noop"
        data        = <<-EOT
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
            this.url = `http://127.0.0.1:$${PORT}`;
            this.said = "";
            this.env = {
              ...process.env,
              // The module that the stack's own server preloads (durable.cjs).
              ...(process.env.TRIAL_PRELOAD && { NODE_OPTIONS: `--require="$${process.env.TRIAL_PRELOAD}"` }),
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

    task "serve" {
      driver = "docker"
      user   = "1000:1000"

      lifecycle {
        hook    = "poststop"
        sidecar = false
      }

      config {
        image           = "${NOMAD_META_image}"
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

      env {
        TZ              = "UTC"
        PDS_HOSTNAME    = "noted.at"
        PDS_DID_PLC_URL = "https://plc.directory"
        TRIAL           = "candidate"
        TRIAL_PRELOAD   = "/local/durable.cjs"
      }

      template {
        destination = "local/serve.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // Starts a server on the scratch copy of a backup, without a network, and checks that it serves every repository and
        // blob.
        //
        // Runs after the task whose verdict it reads: as the second half of a drill in the server's image (drill.cjs), and of a
        // trial in a candidate's (candidate.cjs). It requests every repository as the public would; repository.cjs reads it.
        // The copy is then removed. A drill's outcome is written to DATA/.stamps for the job that watches, also if the first
        // half found faults. A trial prints what it would do to the data.
        "use strict";

        const crypto = require("node:crypto");
        const fs = require("node:fs");
        const path = require("node:path");
        const { createRequire } = require("node:module");
        const { pipeline } = require("node:stream/promises");
        const { keptBlobs, read } = require("./account_check.cjs");
        const { home, isDigestOf, openCar, problems, publicKey } = require("./repository.cjs");
        const { Server } = require("./server.cjs");
        const { assessed, lines, verify } = require("./verify.cjs");

        const scratch = path.join(process.env.NOMAD_ALLOC_DIR, "data");
        const copy = path.join(scratch, "fetched");
        const drill = process.env.TRIAL !== "candidate";
        const { begin, end: outcome } = drill ? require("./stamp.cjs") : { begin: () => {}, end: () => {} };
        const NAMED = 20; // faults of one account
        const statuses = ["RepoDeactivated", "RepoTakendown", "RepoSuspended"];

        async function main() {
          begin("drill"); // a server that is killed for its memory reports nothing more
          const found = { problems: ["the copy was not looked at: see the task before"] };
          let manifest = null;
          try {
            Object.assign(found, JSON.parse(fs.readFileSync(path.join(scratch, "verdict.json"), "utf8")));
            manifest = JSON.parse(fs.readFileSync(path.join(copy, "manifest.json"), "utf8"));
          } catch (error) {
            if (error.code !== "ENOENT") throw error;
            if (!drill && found.problems.length === 0) found.problems.push("no backup was fetched: the first task says why");
          }
          const known = drill || manifest ? found.problems.length : 0; // they were reported already
          if (manifest && known === 0 && !drill) Object.assign(found, await assess());
          if (manifest && known === 0) await serve(manifest, found);
          for (const name of ["fetched", "served.car"]) fs.rmSync(path.join(scratch, name), { recursive: true, force: true });
          outcome("drill", found.problems, { of: manifest?.started, findings: found.findings ?? {} });
          for (const problem of found.problems.slice(known)) console.error(`FAULT: $${problem}`);
          if (found.problems.length > 0) process.exit(1);
          if (drill) report(manifest, found);
        }

        /** Faults of single accounts of the copy are no fault of another version of the server. */
        async function assess() {
          const { verdicts } = await verify(copy, {});
          for (const line of lines(verdicts)) console.log(`FINDING: $${line}`);
          return assessed(verdicts);
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
                // A server that is killed while it creates an account leaves this behind, and never serves it.
                console.log(`note: $${did} has a repository and no account`);
                continue;
              }
              if (found.left?.includes(did)) continue; // a finding of the first half
              const lost = found.lost?.[did] ?? [];
              const wrong = await wrongWith(server, did, found.damaged?.includes(did) ? null : known, manifest.blobs === "disk" && lost);
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

        /** The applied migrations of the server's databases, as "account.sqlite 007". */
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

        /** Unserved parts of an account. `known` is null if records are lost; `lost` are blobs, or false for no check. */
        async function wrongWith(server, did, known, lost) {
          // A connection that ended while a large repository was read fails only at the next request, so that one is repeated.
          const ask = (method, parameters) => {
            const url = `$${server.url}/xrpc/com.atproto.sync.$${method}?$${new URLSearchParams(parameters)}`;
            return fetch(url).catch(() => fetch(url));
          };
          const answer = await ask("getRepo", { did });
          if (!answer.ok) {
            const { error } = await answer.json();
            return statuses.includes(error) ? [] : [`its repository is not served: $${error}`];
          }
          const wrong = [];
          const file = path.join(scratch, "served.car");
          try {
            await pipeline(answer.body, fs.createWriteStream(file));
            if (known) wrong.push(...carProblems(file, did, known));
          } catch (error) {
            if (known) wrong.push(`what is served is no repository: $${error.message}`);
          }
          const kept = lost ? read(path.join(copy, home(did), "store.sqlite"), keptBlobs) : [];
          for (const cid of kept) {
            if (lost.includes(cid) || fs.existsSync(path.join(copy, "blocks", "quarantine", did, cid))) continue; // taken down
            const blob = await ask("getBlob", { did, cid });
            const hash = crypto.createHash("sha256");
            if (!blob.ok) wrong.push(`blob $${cid} is not served: $${(await blob.json()).error}`);
            else await pipeline(blob.body, hash);
            if (blob.ok && !isDigestOf(cid, hash.digest())) wrong.push(`blob $${cid} is served as something else`);
          }
          return wrong;
        }

        function carProblems(file, did, known) {
          const car = openCar(file);
          try {
            if (car.root !== known.cid) return [`$${car.root} is served, the manifest says $${known.cid}`];
            const { verifier } = publicKey(fs.readFileSync(path.join(copy, home(did), "key")));
            const wrong = [];
            for (const { text } of problems({ ...car, rev: known.rev, did, verifier })) {
              if (wrong.push(text) === NAMED) break; // all of a million records can differ
            }
            return wrong;
          } finally {
            car.close();
          }
        }

        main().catch((error) => {
          outcome("drill", [error.message], {});
          console.error(`FAILED: $${error.stack}`);
          process.exit(1);
        });
        EOT
      }

      template {
        destination = "local/durable.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // Preloaded into the server's process: everything that the server acknowledges is on the disk, so a power cut loses
        // none of it.
        //
        // Upstream's server relies on better-sqlite3's build default: a database in WAL mode that is reopened has
        // `synchronous = NORMAL`, which flushes at checkpoints only. Blobs and keys are written without a flush.
        // This module gives every connection FULL, and flushes files and directories below the data directory before a call
        // returns.
        //
        // Before the server listens, its own stores write a trial account and blob beside the data. If one of these files is
        // not flushed, or an open database does not have FULL, the server refuses to start (`pds.durable_writes`). Other Node
        // processes of the container (`node -e`) are not affected.
        "use strict";

        if (process.execArgv.some((argument) => /^(-e|-p|-pe|--eval|--print)\b/.test(argument))) return;

        const crypto = require("node:crypto");
        const fs = require("node:fs");
        const net = require("node:net");
        const os = require("node:os");
        const path = require("node:path");
        const { createRequire, syncBuiltinESMExports } = require("node:module");
        const { pathToFileURL } = require("node:url");
        const { isMainThread } = require("node:worker_threads");

        const ASIDE = ".writing"; // below a root, on the same file system
        const FULL = 2;

        const { lstat, mkdir, open, rename, rm, writeFile } = fs.promises;
        const roots = [
          process.env.PDS_DATA_DIRECTORY,
          process.env.PDS_ACTOR_STORE_DIRECTORY,
          process.env.PDS_BLOBSTORE_DISK_LOCATION,
          process.env.PDS_BLOBSTORE_DISK_TMP_LOCATION,
        ]
          .filter(Boolean)
          .map((name) => path.resolve(name));

        // Everything flushed so far, for the proof; discarded after it.
        let witness = isMainThread ? { files: new Set(), databases: new Set() } : null;

        function real(name) {
          return fs.existsSync(name) ? fs.realpathSync(name) : name;
        }

        function refuse(problem) {
          console.error(
            `REFUSED: this version of the server cannot be made to flush what it acknowledges: $${problem}\n` +
              "  A power cut would lose posts, pictures or an account's key. Go back to the version before, or accept the loss " +
              "with 'pds: {durable_writes: false}' in the stack file."
          );
          process.exit(1);
        }

        // --- databases: FULL, once per connection

        const full = new WeakSet();

        const { dlopen } = process;
        process.dlopen = function (module, ...rest) {
          const result = dlopen.call(this, module, ...rest);
          // better-sqlite3's addon, identified by its exports: any copy, loaded by any module.
          const native = module.exports?.Database?.prototype;
          if (typeof native?.prepare === "function" && typeof native.exec === "function") hook(native);
          return result;
        };

        function hook(native) {
          const { prepare, exec } = native;
          native.prepare = function (source, ...rest) {
            beforeStatement(this, source);
            return prepare.call(this, source, ...rest);
          };
          native.exec = function (source, ...rest) {
            beforeStatement(this, source);
            return exec.call(this, source, ...rest);
          };

          function beforeStatement(connection, source) {
            // Not before a pragma: this one reads the schema, so it can find the database busy, and the server does not retry
            // its pragmas. A later pragma of the server is overridden.
            if (/^\s*pragma\b/i.test(source)) {
              if (/\bsynchronous\s*[=(]/i.test(source)) full.delete(connection);
              return;
            }
            if (full.has(connection) || connection.memory) return;
            exec.call(connection, "PRAGMA synchronous = FULL");
            const answer = prepare.call(connection, "PRAGMA synchronous", connection, true).pluck().get();
            if (answer !== FULL) refuse(`its database library answers 'PRAGMA synchronous' with $${answer}, not $${FULL}.`);
            full.add(connection);
            witness?.databases.add(real(connection.name));
          }
        }

        // --- files and directories: the content, then the entry

        const rootOf = (name) =>
          typeof name === "string" ? roots.find((root) => path.resolve(name).startsWith(root + path.sep)) : undefined;

        async function flush(name) {
          const handle = await open(name, "r");
          try {
            await handle.sync();
          } finally {
            await handle.close();
          }
        }

        // A directory of a concurrent call may be used before its entry is flushed, so writers inside it wait for that flush.
        const entries = new Set();

        function whileFlushing(promise) {
          const done = () => entries.delete(promise);
          entries.add(promise);
          promise.then(done, done);
          return promise;
        }

        Object.assign(fs.promises, {
          async mkdir(name, options) {
            const made = await mkdir(name, options);
            if (!rootOf(name)) return made;
            const last = path.resolve(name);
            const first = options?.recursive ? made && path.resolve(made) : last;
            const created = [];
            if (first) for (let one = last; one.length >= first.length; one = path.dirname(one)) created.push(one);
            await whileFlushing(Promise.all(created.map((one) => flush(path.dirname(one)))));
            for (const one of created) witness?.files.add(one);
            return made;
          },

          async rename(from, to) {
            if (!rootOf(from) && !rootOf(to)) return rename(from, to);
            // A file that was written to a temporary name by any means. If it is missing, `rename` reports that.
            await flush(from).catch((error) => error.code === "ENOENT" || Promise.reject(error));
            await rename(from, to);
            const folders = new Set([to, from].map((name) => path.dirname(path.resolve(name))));
            await Promise.all([...folders].map(flush));
            witness?.files.add(path.resolve(to));
          },

          async writeFile(name, data, options) {
            const root = rootOf(name);
            if (!root) return writeFile(name, data, options);
            const target = path.resolve(name);
            const found = await lstat(target).catch(() => null);
            const how = typeof options === "string" ? { encoding: options } : { ...options };
            if ((how.flag ?? "w") === "w" && (!found || found.isFile())) {
              // To a temporary name: half a file under its final name would pass for a complete blob.
              await replaceFile(root, target, data, how, found ? found.mode & 0o777 : (how.mode ?? 0o666));
            } else {
              await writeFile(name, data, options);
              await flush(target);
            }
            await flush(path.dirname(target));
            await Promise.all(entries);
            witness?.files.add(target);
          },
        });
        syncBuiltinESMExports();

        async function replaceFile(root, target, data, { encoding, signal }, mode) {
          await mkdir(path.join(root, ASIDE), { recursive: true, mode: 0o700 });
          const aside = path.join(root, ASIDE, crypto.randomUUID());
          try {
            const handle = await open(aside, "wx", mode);
            try {
              await handle.writeFile(data, { encoding, signal });
              await handle.sync();
            } finally {
              await handle.close();
            }
            await rename(aside, target);
          } catch (error) {
            await rm(aside, { force: true });
            throw error;
          }
        }

        // --- the proof, before the server listens

        if (isMainThread) {
          const { listen } = net.Server.prototype;
          let proof;
          net.Server.prototype.listen = function (...rest) {
            if (witness === null) return listen.apply(this, rest);
            proof ??= prove().catch((error) => refuse(error.message.split("\n")[0]));
            proof.then(() => listen.apply(this, rest));
            return this;
          };
        }

        async function prove() {
          for (const root of roots) await rm(path.join(root, ASIDE), { recursive: true, force: true }); // left by a power cut
          const place = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), "durable-")));
          roots.push(place);
          try {
            await useStores(place);
            inspect(place);
          } finally {
            roots.pop();
            await rm(place, { recursive: true, force: true });
          }
          const unknown = openDatabases().filter((name) => !witness.databases.has(name));
          if (unknown.length > 0) throw new Error(`it opened $${unknown.join(", ")} by other means than better-sqlite3.`);
          witness = null;
          console.log("what the server acknowledges is flushed to the disk");
        }

        /** Makes an account and a blob in `place` with the server's own stores, as its two version lines have them. */
        async function useStores(place) {
          const app = createRequire(path.join(process.cwd(), "x.js"));
          const server = path.join(path.dirname(app.resolve("@atproto/pds/package.json")), "dist");
          const load = (name) => import(pathToFileURL(path.join(server, name)));
          const did = "did:plc:trial";

          const { ActorStore } = await load("actor-store/actor-store.js");
          const accounts = new ActorStore({ directory: path.join(place, "actors"), cacheSize: 1 }, {});
          await accounts.create(did, { export: async () => crypto.randomBytes(32) });
          await accounts.storePlcOp(did, Buffer.from("trial"));
          await accounts.reserveKeypair(did);

          if (!process.env.PDS_BLOBSTORE_DISK_LOCATION) return; // object storage
          const { DiskBlobStore } = await load("disk-blobstore.js");
          const blobs = DiskBlobStore.creator(path.join(place, "blocks"), path.join(place, "temp"))(did);
          const cid = (name) => ({ toString: () => name });
          await blobs.putTemp(Buffer.from("trial"));
          await blobs.makePermanent(await blobs.putTemp(Buffer.from("trial")), cid("moved"));
          await blobs.putPermanent(cid("put"), Buffer.from("trial"));
          await blobs.quarantine(cid("put"));
        }

        /** Whether everything in `place` was flushed, and the stores made the expected files. */
        function inspect(place) {
          const found = [];
          for (const name of fs.readdirSync(place, { recursive: true }).sort()) {
            if (name.startsWith(ASIDE)) continue;
            const whole = path.join(place, name);
            const database = witness.databases.has(whole.replace(/-(wal|shm|journal)$/, ""));
            if (!database && !witness.files.has(whole)) {
              throw new Error(`its stores wrote $${name} by means that are not known here.`);
            }
            if (fs.statSync(whole).isFile()) found.push(`$${name.split(path.sep)[0]} $${database ? "database" : "file"}`);
          }
          const blobs = process.env.PDS_BLOBSTORE_DISK_LOCATION ? ["blocks file", "temp file"] : [];
          const lacking = ["actors database", "actors file", ...blobs].filter((kind) => !found.includes(kind));
          if (lacking.length > 0) throw new Error(`its stores left nothing to look at ($${lacking.join(", ")}).`);
        }

        /** The databases below the data directory that this process has open, if the system reports them. */
        function openDatabases() {
          const table = "/proc/self/fd";
          const names = fs.existsSync(table) ? fs.readdirSync(table) : [];
          // By name only: to open and close a database here would drop the locks that SQLite holds on it.
          const opened = names.map((number) => target(path.join(table, number)).replace(/-wal$/, ""));
          const ours = (name) => roots.some((root) => name.startsWith(real(root) + path.sep));
          return [...new Set(opened.filter((name) => ours(name) && /\.(sqlite3?|db)$/.test(name)))];
        }

        function target(link) {
          try {
            return fs.readlinkSync(link);
          } catch {
            return ""; // closed meanwhile
          }
        }
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
        destination = "local/server.cjs"
        change_mode = "noop"
        data        = <<-EOT
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
            this.url = `http://127.0.0.1:$${PORT}`;
            this.said = "";
            this.env = {
              ...process.env,
              // The module that the stack's own server preloads (durable.cjs).
              ...(process.env.TRIAL_PRELOAD && { NODE_OPTIONS: `--require="$${process.env.TRIAL_PRELOAD}"` }),
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
        destination = "local/verify.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // Checks on the host whether a snapshot can be restored, account by account.
        //
        // Same checks and messages as tools/verify.py on the operator's machine, which has libraries beyond Node's and SQLite.
        // With this program, members' data do not leave the host. A fault of one account affects only that account
        // (account_check.cjs). The whole snapshot is refused for three reasons only: its manifest or its account database
        // cannot be read, or it belongs to another server.
        "use strict";

        const fs = require("node:fs");
        const path = require("node:path");
        const { NOT, WHOLE, checkAll, damageOf, read, sentences } = require("./account_check.cjs");
        const { home, sha256 } = require("./repository.cjs");

        const MANIFEST = "manifest.json";
        const MARK = ".pds-identity.json";
        const FIELDS = ["hostname", "package_version", "started", "counts", "blobs", "accounts", "repositories", "files"];

        /**
         * Checks the snapshot in `folder`, which should belong to `whose` (`hostname`, `rotation_public_key`; unknown ones are
         * omitted). Resolves to `manifest`; `refusals`, why nothing of it can be restored; `verdicts`, a map from DID to the
         * result of `checkAccount`; `keys`, a map from DID to did:key; `sequencer`, whether the events are usable; and `notes`.
         * If the folder has the files of `only` one account, the rest is not checked. `onAccounts` gets the DIDs before the
         * check, so that other queries about them can run meanwhile.
         */
        async function verify(folder, whose, only = null, onAccounts = () => {}) {
          const found = { manifest: null, refusals: [], verdicts: new Map(), keys: new Map(), sequencer: false, notes: [] };
          const refuse = (text) => ({ ...found, refusals: [text] });
          let manifest;
          try {
            manifest = JSON.parse(fs.readFileSync(path.join(folder, MANIFEST), "utf8"));
          } catch (error) {
            return refuse(`$${MANIFEST} cannot be read: $${error.message}`);
          }
          if (manifest?.format !== 1 || !FIELDS.every((field) => field in manifest)) {
            return refuse(`$${MANIFEST} is of an unknown format`);
          }
          manifest.findings ??= {}; // backups made before there were any
          found.refusals.push(...identity(folder, manifest, whose, found.notes));
          sweep(folder, manifest, found.notes);
          const damage = databaseDamage(folder, manifest, "account.sqlite", found.notes);
          if (damage) found.refusals.push(damage);
          if (found.refusals.length > 0) return { ...found, manifest };
          const events = only ? "not asked" : databaseDamage(folder, manifest, "sequencer.sqlite", found.notes);
          if (events && !only) found.notes.push(`$${events}; events begin anew`);

          const accounts = read(path.join(folder, "account.sqlite"), (db) => db.prepare("select did from actor").pluck().all());
          if (accounts.sort().join() !== [...manifest.accounts].sort().join()) {
            found.notes.push("account.sqlite has other accounts than the manifest");
          }
          const all = [...new Set([...accounts, ...Object.keys(manifest.repositories)])].sort();
          const dids = only ? all.filter((did) => did === only) : all;
          onAccounts(dids);
          const verdicts = await checkAll(folder, dids, { manifest });
          for (const did of dids) if (verdicts.get(did).key) found.keys.set(did, verdicts.get(did).key);
          return { ...found, manifest: { ...manifest, accounts }, verdicts, sequencer: !events };
        }

        function* identity(folder, manifest, whose, notes) {
          for (const [name, wanted] of Object.entries(whose)) {
            if (wanted && manifest[name] !== wanted) {
              yield `this is the snapshot of another PDS: its $${name} is $${manifest[name]}, not $${wanted}`;
            }
          }
          let mark;
          try {
            mark = JSON.parse(fs.readFileSync(path.join(folder, MARK), "utf8"));
          } catch (error) {
            notes.push(`$${MARK} cannot be read: $${error.code ?? error.message}`);
            return;
          }
          if (["hostname", "rotation_public_key"].some((name) => mark[name] !== manifest[name])) {
            yield `$${MARK} and $${MANIFEST} name two PDSes`;
          }
        }

        /**
         * Removes what is not part of the manifest. SQLite would read a log beside a database, so a log with content is put
         * aside. A killed reader leaves an empty log, and its index.
         */
        function sweep(folder, manifest, notes) {
          const known = (name) => name === MANIFEST || name.split(path.sep)[0] === "blocks" || name in manifest.files;
          for (const name of walk(folder).filter((name) => !known(name) && !name.endsWith(".left"))) {
            const file = path.join(folder, name);
            const [, base, suffix] = /^(.*)(-wal|-shm)$/.exec(name) ?? [];
            if (!(base in manifest.files)) notes.push(`$${name} is not in the manifest`);
            else if (suffix === "-shm" || fs.statSync(file).size === 0) fs.rmSync(file);
            else {
              fs.renameSync(file, `$${file}.left`);
              notes.push(`$${name} is not in the manifest`);
            }
          }
        }

        /** The damage that makes a database of the whole server unusable; null if there is none. */
        function databaseDamage(folder, manifest, name, notes) {
          const file = path.join(folder, name);
          if (!fs.existsSync(file)) return `$${name} is missing`;
          let damage;
          try {
            damage = read(file, (db) => damageOf(db, "integrity_check"));
          } catch (error) {
            damage = error.message;
          }
          if (damage) return `$${name} is damaged: $${damage}`;
          const written = manifest.files[name];
          if (fs.statSync(file).size !== written?.size || sha256(file) !== written.sha256) {
            notes.push(`$${name} is not what was written: its SHA-256 differs from the manifest's`);
          }
          return null;
        }

        /** The faults, one per line: `DID: state: sentence`. */
        function* lines(verdicts) {
          for (const [did, verdict] of verdicts) for (const text of sentences(verdict)) yield `$${did}: $${verdict.state}: $${text}`;
        }

        /**
         * Faults of a snapshot that are no fault of a server that serves it: `findings`, from DID to state and `what`; `left`,
         * DIDs that cannot be served; `lost`, from DID to its missing blobs; `damaged`, DIDs whose records have losses.
         */
        function assessed(verdicts) {
          const found = { findings: {}, left: [], lost: {}, damaged: [] };
          for (const [did, verdict] of verdicts) {
            if (verdict.state === WHOLE) continue;
            found.findings[did] = { state: verdict.state, what: sentences(verdict).slice(0, 3).join("; ") };
            if (verdict.state === NOT) found.left.push(did);
            if (verdict.blobs.length > 0) found.lost[did] = verdict.blobs;
            if (verdict.records.length > 0 || verdict.rebuild || verdict.changed.length > 0) found.damaged.push(did);
          }
          return found;
        }

        /**
         * Compares the keys of a verified snapshot with the DID documents. `active` are the accounts in use. Returns `unread`,
         * a map from DID to why its document cannot be read; `moved`, from DID to why it has left this server; and `swapped`,
         * from DID to the owner of the key that it has.
         */
        function held(keys, documents, active, hostname) {
          const owners = new Map([...keys].map(([did, key]) => [key, did]));
          const found = { unread: new Map(), moved: new Map(), swapped: new Map() };
          for (const did of active) {
            const { error, gone, server, key } = documents.get(did);
            const owner = key && owners.get(key);
            if (error) found.unread.set(did, `its DID document cannot be read: $${error}`);
            else if (gone) found.moved.set(did, `its identity is no more: $${gone}`);
            else if (server !== hostname) found.moved.set(did, `its DID document names the server $${server}`);
            else if (owner && owner !== did) {
              found.swapped.set(did, `its DID document names the key $${key}, which is the key that $${owner} has here`);
            } else if (key && keys.has(did) && key !== keys.get(did)) {
              found.moved.set(did, `its DID document names the key $${key}, which is not in this snapshot`);
            }
          }
          return found;
        }

        /** Every file below `folder`, as relative paths, in order. */
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

        module.exports = { MANIFEST, MARK, assessed, held, home, lines, verify, walk };
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
  }
}
