job "pds-restore" {
  datacenters = ["dc1"]
  region      = "global"
  type        = "batch"

  parameterized {
    payload       = "forbidden"
    meta_optional = ["snapshot", "from", "show", "sequence", "rotation_public_key", "takedown", "delete", "bring_back", "forget"]
  }

  group "pds-restore" {
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
        entrypoint      = ["/bin/sh", "/local/fetch.sh"]
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
        PDS_HOSTNAME       = "noted.at"
        TARGET             = "/pds/.restore"
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
        {{ with nomadVar "nomad/jobs/pds-restore" }}{{ range .Tuples }}{{ .K }}={{ .V | toJSON }}
        {{ end }}{{ end }}
        {{ if nomadVarExists "nomad/jobs/pds-restore/pds-restore/fetch" }}{{ with nomadVar "nomad/jobs/pds-restore/pds-restore/fetch" }}{{ range .Tuples }}{{ .K }}={{ .V | toJSON }}
        {{ end }}{{ end }}{{ end }}
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

    task "restore" {
      driver = "docker"
      user   = "1000:1000"

      config {
        image           = "ghcr.io/bluesky-social/pds:0.4.5037"
        command         = "node"
        args            = ["/local/restore.cjs"]
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
        PDS_HOSTNAME       = "noted.at"
        PDS_DATA_DIRECTORY = "/pds"
        PDS_DID_PLC_URL    = "https://plc.directory"
        PDS_CRAWLERS       = "https://bsky.network"
      }

      template {
        destination = "local/restore.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // Makes a PDS's data directory ready to open from a snapshot. The server must not run; it opens what is left here.
        //
        // Runs in the server's own image. Everything is done beside the old data, in DATA/.restore/new: copy, the server's own
        // recovery, what happened since the snapshot, what relays need. The swap comes last and is renames alone. Killed before
        // it, the old data are as they were and the next run begins anew; killed in it, the next run finishes it first.
        // The old data stay in DATA/.restore/old-… until their owner says otherwise.
        //
        // What relays need (docs/decisions/0014): events with numbers above any that they saw, a first event at once, since the
        // server takes its newest row for the newest number, and for every repository a revision above any that they saw.
        "use strict";

        const crypto = require("node:crypto");
        const fs = require("node:fs");
        const path = require("node:path");
        const { createRequire } = require("node:module");
        const departures = require("./departures.cjs");
        const { documents } = require("./documents.cjs");
        const { Database, MANIFEST, MARK, held, home, read, repositoryProblems, verify, walk } = require("./verify.cjs");

        const MARGIN = 10000; // event numbers; who was not asked is not further ahead than this
        const MEBIBYTE = 1024 * 1024;
        const PATIENCE = 10000; // ms for a relay's answer
        const RACE = 60000; // ms; the server writes a repository first and its event a moment later
        const WAIT = 15 * 60 * 1000; // ms; a snapshot that is being made comes to its end

        class Refused extends Error {}

        const hostname = process.env.PDS_HOSTNAME;
        const data = process.env.PDS_DATA_DIRECTORY;
        const plc = process.env.PDS_DID_PLC_URL;
        const relays = (process.env.PDS_CRAWLERS ?? "").split(",").filter(Boolean);
        const place = path.join(data, ".restore");
        const [fetched, next, plan] = ["fetched", "new", "swap.json"].map((name) => path.join(place, name));
        const list = path.join(data, departures.LIST);
        const STAYS = [".restore", ".snapshot", ".stamps", departures.LIST, "lost+found"];

        // What the owner asked for (Nomad's meta of a dispatched job).
        const asked = (name) => process.env[`NOMAD_META_$${name}`] ?? "";
        const dids = (name) => asked(name).split(" ").filter(Boolean);

        async function main() {
          if (asked("show")) return; // the list was the task's before this one
          process.umask(0o077);
          const began = Date.now();
          fs.mkdirSync(place, { recursive: true, mode: 0o700 });
          fs.mkdirSync(path.join(data, ".snapshot"), { recursive: true, mode: 0o700 });
          alone();
          if (fs.existsSync(plan)) {
            swap();
            say("a restore that was cut short", "is finished");
          }
          if (asked("forget")) return forget();
          notServing();

          const source = asked("from") === "volume" ? path.join(data, ".snapshot", "current") : fetched;
          const { manifest, keys } = verified(source);
          say("snapshot", `of $${manifest.started}, $${manifest.counts.accounts} accounts, whole`);
          room(manifest);
          const before = whatWas();
          const known = departures.merged(before.list, departures.lines(path.join(place, "list", departures.LIST)));
          const world = await ask(manifest, keys, before);
          say("identities", `$${keys.size} asked, $${world.moved.size} are another server's`);
          say("events", `go on after number $${world.sequence}`);

          fs.rmSync(next, { recursive: true, force: true });
          stage(source, manifest);
          const done = await onTheServer((server) => work(server, manifest, world, departures.since(known, manifest.started)));
          clean(keys);
          if (known.length > 0) departures.write(list, known);
          swap({ old: path.join(place, `old-$${new Date().toISOString().replace(/[:.]/g, "")}`) });
          fs.rmSync(fetched, { recursive: true, force: true });

          for (const line of [...world.notes, ...done.notes]) console.log(`note: $${line}`);
          for (const [did, why] of done.left) console.log(`LEFT OUT: $${did}: $${why}`);
          const gone = manifest.accounts.length - done.active;
          say("ready", `$${done.active} accounts in use, $${gone} not; $${((Date.now() - began) / 1000).toFixed(1)} s`);
        }

        function say(what, text) {
          console.log(`$${what.padEnd(28)} $${text}`);
        }

        // --- before anything is touched

        function alone() {
          // The lock of the snapshot program: no copy is made of data that change places.
          try {
            const lock = new Database(path.join(data, ".snapshot", "lock.sqlite"), { timeout: WAIT });
            lock.exec("begin exclusive");
            alone.held = lock;
          } catch (error) {
            if (error.code === "SQLITE_BUSY") throw new Refused("a snapshot, or another restore, is under way.");
            throw error;
          }
        }

        /** The server has its account database open as long as it runs, and then nobody else can have it alone. */
        function notServing() {
          const file = path.join(data, "account.sqlite");
          if (!fs.existsSync(file)) return;
          try {
            const db = new Database(file, { fileMustExist: true, timeout: 2000 });
            db.pragma("locking_mode = exclusive");
            db.exec("begin immediate");
            db.exec("rollback");
            notServing.held = db; // and so no server starts on it meanwhile
          } catch (error) {
            if (error.code === "SQLITE_BUSY") throw new Refused("the server is running on these data. Pause it first.");
            console.log(`note: the old account.sqlite cannot be read ($${error.message}); it is kept as it is`);
          }
        }

        function verified(source) {
          const mark = path.join(data, MARK);
          const old = fs.existsSync(mark) ? JSON.parse(fs.readFileSync(mark, "utf8")).rotation_public_key : null;
          const found = verify(source, { hostname, rotation_public_key: asked("rotation_public_key") || old });
          if (found.problems.length > 0) {
            throw new Refused(`this snapshot cannot be restored. Nothing was changed.\n  $${found.problems.join("\n  ")}`);
          }
          if (Date.parse(found.manifest.started) > Date.now() + RACE) {
            throw new Refused(`the snapshot is of $${found.manifest.started}, which is to come: this host's clock is behind.`);
          }
          return found;
        }

        function room(manifest) {
          const needed = Object.values(manifest.files).reduce((sum, { size }) => sum + size, 0);
          const disk = fs.statfsSync(place);
          const free = disk.bavail * disk.bsize;
          const reserve = Number(process.env.PDS_SNAPSHOT_RESERVE_MIB ?? 256) * MEBIBYTE;
          if (free - needed < reserve) {
            const [has, takes] = [free, needed].map((bytes) => `$${Math.floor(bytes / MEBIBYTE)} MiB`);
            throw new Refused(`the volume has $${has} free, the databases take $${takes} beside the old ones. Make it larger.`);
          }
        }

        /** What the old data still tell, as far as they can be read: who left, and how far events and repositories were. */
        function whatWas() {
          const before = { list: departures.lines(list), sequence: 0, revisions: new Map() };
          const sequencer = path.join(data, "sequencer.sqlite");
          try {
            // The account database is open already, and nobody else can open it.
            const revisions = notServing.held?.prepare("select did, rev from repo_root").raw().all();
            before.revisions = new Map(revisions ?? []);
            if (!fs.existsSync(sequencer)) return before;
            const db = new Database(sequencer, { readonly: true, fileMustExist: true });
            before.sequence = db.prepare("select seq from sqlite_sequence where name = 'repo_seq'").pluck().get() ?? 0;
            before.list = departures.merged(before.list, departures.events(db, before.list.at(-1)?.seq ?? 0));
            db.close();
          } catch (error) {
            console.log(`note: the old data do not tell everything: $${error.message}`);
          }
          return before;
        }

        async function ask(manifest, keys, before) {
          const found = await documents(manifest.accounts, plc);
          const { problems, moved, notes } = held(keys, found, manifest.accounts, hostname);
          if (problems.length > 0) {
            throw new Refused(`identities do not fit. Nothing was changed.\n  $${problems.join("\n  ")}`);
          }
          const seen = await Promise.all(
            relays.map(async (relay) => [relay, await answer(relay, "getHostStatus", { hostname })])
          );
          const told = seen.filter(([, status]) => status !== null);
          for (const [relay, status] of seen) if (status === null) notes.push(`$${relay} did not say how far it is`);
          const given = Number(asked("sequence") || 0);
          if (relays.length > 0 && told.length === 0 && !given && !before.sequence) {
            throw new Refused(
              "no relay says how far it has followed this server's events, and the old ones are not here. Nothing was " +
                "changed. Give a number that is surely above: --sequence N."
            );
          }
          const heard = told.map(([, status]) => Number(status.seq ?? 0));
          const most = Math.max(manifest.sequence, given, before.sequence, ...heard);
          const revisions = new Map(before.revisions);
          const statuses = new Map();
          const [relay] = told[0] ?? [];
          for (const did of relay ? manifest.accounts : []) {
            const status = await answer(relay, "getRepoStatus", { did });
            if (status?.rev > (revisions.get(did) ?? "")) revisions.set(did, status.rev);
            if (status?.active === false) statuses.set(did, status.status);
          }
          return { moved, notes, documents: found, sequence: most + MARGIN, revisions, statuses };
        }

        /** A relay's answer; {} where it does not know the name, null where it cannot be asked. */
        async function answer(relay, method, parameters) {
          const url = `$${relay}/xrpc/com.atproto.sync.$${method}?$${new URLSearchParams(parameters)}`;
          try {
            const response = await fetch(url, { signal: AbortSignal.timeout(PATIENCE) });
            const body = await response.json();
            if (response.ok) return body;
            return response.status < 500 && /NotFound/.test(body.error) ? {} : null;
          } catch {
            return null;
          }
        }

        // --- beside the old data

        function stage(source, manifest) {
          for (const name of Object.keys(manifest.files)) {
            fs.mkdirSync(path.dirname(path.join(next, name)), { recursive: true });
            fs.copyFileSync(path.join(source, name), path.join(next, name));
          }
          for (const name of walk(path.join(source, "blocks"))) {
            const target = path.join(next, "blocks", name);
            fs.mkdirSync(path.dirname(target), { recursive: true });
            fs.linkSync(path.join(source, "blocks", name), target); // blobs never change
          }
        }

        /** The server's own code on the staged data: it can neither reach a relay nor change an identity. */
        async function onTheServer(job) {
          const keep = ["PDS_HOSTNAME", "PDS_SERVICE_HANDLE_DOMAINS", "PDS_DID_PLC_URL"];
          const given = Object.keys(process.env).filter((name) => name.startsWith("PDS_"));
          for (const name of given) if (!keep.includes(name)) delete process.env[name];
          const key = () => crypto.randomBytes(32).toString("hex");
          Object.assign(process.env, {
            LOG_ENABLED: "false",
            PDS_DATA_DIRECTORY: next,
            PDS_BLOBSTORE_DISK_LOCATION: path.join(next, "blocks"),
            PDS_BLOBSTORE_DISK_TMP_LOCATION: path.join(next, "temp"),
            PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX: "1".padStart(64, "0"),
            PDS_JWT_SECRET: key(),
            PDS_ADMIN_PASSWORD: key(),
          });
          const library = createRequire(path.join(process.cwd(), "x.js"))("@atproto/pds");
          const pds = await library.PDS.create(library.envToCfg(library.readEnv()), library.envToSecrets(library.readEnv()));
          try {
            await pds.ctx.sequencer.start(); // brings its database up to this version
            return await job({ ctx: pds.ctx, scripts: library.scripts });
          } finally {
            await pds.destroy();
            // With its last connection a database takes in its log.
            for (const { db } of [pds.ctx.sequencer.db, pds.ctx.accountManager.db]) await db.destroy();
          }
        }

        async function work(server, manifest, world, since) {
          const { ctx } = server;
          const left = new Map();
          const notes = [];
          await recover(server, manifest);
          const accounts = () => read(path.join(next, "account.sqlite"), (db) => db.prepare("select * from actor").all());
          const there = new Set(accounts().map(({ did }) => did));
          for (const did of Object.keys(manifest.repositories)) {
            if (!there.has(did)) notes.push(`$${did} was being made, or deleted; it has a repository here and no account`);
          }

          const deleted = new Set(dids("delete"));
          const hidden = new Set(dids("takedown"));
          const resting = new Map(world.moved);
          const broughtBack = new Set(dids("bring_back"));
          for (const [did, status] of since) {
            if (broughtBack.has(did)) continue;
            if (status === "deleted") deleted.add(did);
            if (status === "takendown" || status === "suspended") hidden.add(did);
            if (status === "deactivated") resting.set(did, "it was deactivated after the snapshot");
            if (status === "active") notes.push(`$${did} came into use again after the snapshot; here it is as it was then`);
          }
          for (const [did, status] of world.statuses) {
            if (broughtBack.has(did)) continue;
            if (["deleted", "deactivated"].includes(status)) resting.set(did, `the relay says that it was $${status}`);
            else notes.push(`the relay passes nothing on of $${did} ($${status}); if you took it down, do so again`);
          }
          for (const did of deleted) {
            if (!there.has(did)) continue;
            left.set(did, "it was deleted after the snapshot");
            await ctx.actorStore.destroy(did);
            await ctx.accountManager.deleteAccount(did);
          }
          for (const { did, handle, takedownRef, deactivatedAt } of accounts()) {
            if (hidden.has(did) && !takedownRef) {
              left.set(did, "it was taken down after the snapshot");
              close(did, "takedownRef");
            }
            if (resting.has(did) && !deactivatedAt) {
              left.set(did, resting.get(did));
              close(did, "deactivatedAt");
            }
            const names = world.documents.get(did)?.handles;
            if (names?.length && !names.includes(handle)) notes.push(`$${did}, $${handle} here, is $${names[0]} by its document`);
          }

          raise(ctx, world.sequence);
          for (const did of left.keys()) if (deleted.has(did)) await announceDeleted(ctx, did);
          let active = 0;
          for (const { did, handle, takedownRef, deactivatedAt } of accounts()) {
            if (world.moved.has(did)) continue; // its events are another server's
            const sync = await newRevision(ctx, did, world.revisions.get(did));
            const status = takedownRef ? "takendown" : deactivatedAt ? "deactivated" : "active";
            active += status === "active";
            await announce(ctx, did, handle, status, sync);
          }
          return { left, notes, active };
        }

        /** The server's own recovery: repositories that are behind the event stream are brought up to it. */
        async function recover(server, manifest) {
          const { ctx, scripts } = server;
          // Not from the beginning: an account that was deleted long ago and came back would be deleted again.
          const from = new Date(Date.parse(manifest.started) - RACE).toISOString();
          const first = await ctx.sequencer.earliestAfterTime(from);
          const told = console.log;
          console.log = () => {};
          const ask = (query) => read(path.join(next, "recovery.sqlite"), (db) => db.prepare(query).pluck().all());
          try {
            if (first) await scripts["sequencer-recovery"](ctx, [String(first.seq - 1), "4"]);
            if (first && ask("select did from failed").length > 0) await scripts["recovery-repair-repos"](ctx, []);
          } finally {
            console.log = told;
          }
          const failed = first ? ask("select did from failed where fixed = 0") : [];
          if (failed.length > 0) throw new Error(`the server's own recovery failed for $${failed.join(", ")}`);
          const made = first ? ask("select did from new_account") : [];
          if (made.length > 0) throw new Error(`the server's own recovery made new keys for $${made.join(", ")}`);
        }

        /** A takedown or deactivation without an event: what is announced is decided in one place. */
        function close(did, column) {
          const db = new Database(path.join(next, "account.sqlite"), { fileMustExist: true, timeout: 10000 });
          try {
            db.prepare(`update actor set "$${column}" = ? where did = ?`).run(new Date().toISOString(), did);
            // As the server does: a takedown ends every session; who deactivated herself may come back by logging in.
            const ended = column === "takedownRef" ? ["refresh_token", "token"] : [];
            for (const table of ended) db.prepare(`delete from $${table} where did = ?`).run(did);
          } finally {
            db.close();
          }
        }

        function raise(ctx, sequence) {
          const db = new Database(ctx.sequencer.dbLocation, { fileMustExist: true, timeout: 10000 });
          try {
            db.exec("begin immediate; delete from sqlite_sequence where name = 'repo_seq'");
            db.prepare("insert into sqlite_sequence (name, seq) values ('repo_seq', ?)").run(sequence);
            db.exec("commit");
          } finally {
            db.close();
          }
        }

        /** An empty signed commit. Its revision is the time, and has to be above what anybody saw of this repository. */
        async function newRevision(ctx, did, seen) {
          const sync = await ctx.actorStore.transact(did, async (store) => {
            await store.repo.processWrites([]);
            return store.repo.getSyncEventData();
          });
          if (seen && sync.rev <= seen) {
            throw new Refused(`$${did} was at $${seen} and is at $${sync.rev} now: this host's clock is behind.`);
          }
          await ctx.accountManager.updateRepoRoot(did, sync.cid, sync.rev);
          return sync;
        }

        // The two version lines of the server name these differently.

        async function announce(ctx, did, handle, status, sync) {
          const events = ctx.sequencer;
          await (events.sequenceAccount ?? events.sequenceAccountEvt).call(events, did, status);
          if (status !== "active") return;
          await (events.sequenceIdentity ?? events.sequenceIdentityEvt).call(events, did, handle);
          await (events.sequenceSync ?? events.sequenceSyncEvt).call(events, did, sync);
        }

        async function announceDeleted(ctx, did) {
          const events = ctx.sequencer;
          if (events.sequenceAccountDeletion) await events.sequenceAccountDeletion(did);
          else await events.deleteAllForUser(did, [await events.sequenceAccountEvt(did, "deleted")]);
        }

        /** Only what a server needs is left, it holds together after all that was done to it, and it is on the disk. */
        function clean(keys) {
          for (const name of fs.readdirSync(next)) {
            if (/^(recovery|did_cache)\.sqlite|^temp$/.test(name)) fs.rmSync(path.join(next, name), { recursive: true });
          }
          const wrong = [...keys.keys()]
            .filter((did) => fs.existsSync(path.join(next, home(did))))
            .flatMap((did) => repositoryProblems(next, did).map((problem) => `$${did}: $${problem}`));
          if (wrong.length > 0) throw new Error(`what was restored does not hold together:\n  $${wrong.join("\n  ")}`);
          const handles = [...walk(next), ...new Set(walk(next).map(path.dirname))];
          for (const name of [...handles, "."]) sync(path.join(next, name));
        }

        // --- the swap

        /** Old data out, new data in. What is still to be done is written down first; doing it twice is doing it once. */
        function swap(begun) {
          const todo = begun ? { ...begun, step: "out" } : JSON.parse(fs.readFileSync(plan, "utf8"));
          const remember = () => {
            fs.writeFileSync(`$${plan}.next`, JSON.stringify(todo), { flush: true });
            fs.renameSync(`$${plan}.next`, plan);
            sync(place);
          };
          if (begun) remember();
          if (todo.step === "out") {
            fs.mkdirSync(todo.old, { recursive: true });
            move(data, todo.old, (name) => !STAYS.includes(name));
            if (fs.readdirSync(todo.old).length === 0) fs.rmdirSync(todo.old); // a new volume
            todo.step = "in";
            remember();
          }
          if (fs.existsSync(next)) {
            move(next, data, (name) => name !== MARK);
            move(next, data, () => true); // the mark last: with it the server may start
            fs.rmdirSync(next);
          }
          fs.rmSync(plan);
          sync(place);
        }

        function move(from, to, which) {
          for (const name of fs.readdirSync(from).filter(which)) fs.renameSync(path.join(from, name), path.join(to, name));
          for (const folder of [from, to]) sync(folder);
        }

        function sync(name) {
          const handle = fs.openSync(name);
          try {
            fs.fsyncSync(handle);
          } finally {
            fs.closeSync(handle);
          }
        }

        function forget() {
          const olds = fs.readdirSync(place).filter((name) => name.startsWith("old-"));
          for (const name of olds) fs.rmSync(path.join(place, name), { recursive: true });
          say("old data", olds.length > 0 ? `removed: $${olds.join(", ")}` : "there are none");
        }

        main().then(
          () => process.exit(0), // not when the last idle connection ends
          (error) => {
            // Before the swap the old data are as they were.
            console.error(error instanceof Refused ? `REFUSED: $${error.message}` : `FAILED: $${error.stack}`);
            process.exit(1);
          }
        );
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
        cpu    = 500
        memory = 256
      }

      logs {
        max_files     = 2
        max_file_size = 1
      }
    }
  }
}
