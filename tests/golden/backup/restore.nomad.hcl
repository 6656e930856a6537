job "pds-restore" {
  datacenters = ["dc1"]
  region      = "global"
  type        = "batch"

  parameterized {
    payload       = "forbidden"
    meta_optional = ["snapshot", "from", "show", "verify", "only", "step", "without", "sequence", "rotation_public_key", "takedown", "delete", "bring_back", "forget"]
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
        OLDER_BACKUPS      = "true"
      }

      template {
        destination = "local/restore.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // Prepares a PDS's data directory from a snapshot. The server must not run; it opens the result.
        //
        // Runs in the server's own image. All work happens beside the old data, in DATA/.restore/new: copy, the server's own
        // recovery, events since the snapshot, what relays need. The swap comes last and consists of renames. If it is killed
        // before the swap, the old data are unchanged and the next run starts again. If it is killed during the swap, the next
        // run finishes the swap first. The old data stay in DATA/.restore/old-… until the operator removes them.
        //
        // One account alone (`only`) is prepared while the server runs, in DATA/.restore/only. A second run (`step` is "in")
        // puts it in place while the server is stopped, which takes seconds.
        "use strict";

        const fs = require("node:fs");
        const path = require("node:path");
        const departures = require("./departures.cjs");
        const accountsOf = require("./restore_accounts.cjs");
        const request = require("./restore_request.cjs");
        const swaps = require("./restore_swap.cjs");
        const { Killed, NOT, checkAll, sentences } = require("./account_check.cjs");
        const { documents } = require("./documents.cjs");
        const { home } = require("./repository.cjs");
        const { finishOne, makeOneReady, putOneInPlace } = require("./restore_one.cjs");
        const { Unknown, oldData, whoLeft, world } = require("./restore_world.cjs");
        const { folders } = require("./snapshot_accounts.cjs");
        const { MARK, verify } = require("./verify.cjs");

        const MEBIBYTE = 1024 * 1024;
        const ROUNDS = 5;
        const RACE = 60000; // ms; tolerates a clock that is slightly behind

        const { Refused, asked, data, dids, hostname, notServing, onTheServer, plc, relays, repairs, say } = request;
        const { place, fetched, next, only, older: desk } = swaps.places(data);
        const list = path.join(data, departures.LIST);

        async function main() {
          if (asked("show")) return; // the task before this one printed the list
          process.umask(0o077);
          fs.mkdirSync(place, { recursive: true, mode: 0o700 });
          if (asked("verify")) return verifyAlone();
          if (asked("only") && asked("step") !== "in") return makeOneReady(asked("only"));
          fs.mkdirSync(path.join(data, ".snapshot"), { recursive: true, mode: 0o700 });
          request.alone();
          const finished = await finishWhatWasCutShort();
          if (asked("forget")) return forget();
          notServing();
          return asked("only") ? putOneInPlace(asked("only"), finished) : restoreAll();
        }

        // --- a whole server

        async function restoreAll() {
          const began = Date.now();
          const source = asked("from") === "volume" ? path.join(data, ".snapshot", "current") : fetched;
          let asking; // the directory answers while both cores check
          const found = await verified(source, (accounts) => (asking = documents(accounts, plc)));
          room(found.manifest);
          const before = oldData(data, notServing.held);
          const departed = departures.merged(before.list, departures.lines(path.join(place, "list", departures.LIST)));
          const since = departures.since(departed, found.manifest.started);
          const accounts = await choices(source, found, before, since);
          const keys = new Map([...accounts.chosen].map(([did, { verdict }]) => [did, verdict.key]));
          const told = await outside([...accounts.chosen.keys()], keys, before, found.manifest, await asking);
          say("identities", `$${keys.size} asked, $${Object.keys(told.moved).length} are another server's`);
          say("events", `go on after number $${told.sequence}`);

          const left = whoLeft({ since, statuses: told.statuses, wanted: wanted() });
          const done = await made(source, found, accounts, (now) => wholeJob(found, now, told, left));
          if (departed.length > 0) departures.write(list, departed);
          const todo = { step: "out", old: swaps.aside(data) };
          swaps.writePlan(data, todo);
          swaps.swapAll(data, todo);
          for (const name of [fetched, desk, only, path.join(place, "carried")]) fs.rmSync(name, { recursive: true, force: true });
          for (const line of [...told.notes, ...left.notes, ...accounts.notes, ...done.notes]) console.log(`note: $${line}`);
          for (const [did, why] of done.left) if (!accounts.leftOut.has(did)) console.log(`LEFT OUT: $${did}: $${why}`);
          for (const [did, why] of accounts.leftOut) console.log(`NOT RESTORED: $${did}: $${why}`);
          const gone = found.manifest.accounts.length + accounts.newer - done.active;
          say("ready", `$${done.active} accounts in use, $${gone} not; $${((Date.now() - began) / 1000).toFixed(1)} s`);
        }

        /** The new directory, and what was done to it: begun anew without the accounts, or their events, that the server's code fails at. */
        async function made(source, found, accounts, jobOf) {
          for (let round = 1; round <= ROUNDS; round++) {
            stage(source, found, accounts);
            const done = await onTheServer(jobOf(accounts));
            const failed = new Map(done.failed ?? (await holdsTogether(accounts, done)));
            const behind = done.unapplied ?? [];
            if (failed.size + behind.length === 0) return done;
            // A fault of the host, as of its disk, is no account's.
            if (failed.size > 1 && failed.size * 2 > accounts.chosen.size) {
              throw new Error(`what was restored does not hold together:\n  $${[...failed].map((line) => line.join(": ")).join("\n  ")}`);
            }
            for (const did of behind) accounts.unapplied.add(did);
            for (const [did, why] of failed) accountsOf.leaveOut(accounts, did, why);
          }
          throw new Error(`the server's code failed at other accounts in each of $${ROUNDS} rounds`);
        }

        function wanted() {
          return { delete: dids("delete"), takedown: dids("takedown"), bring_back: dids("bring_back") };
        }

        async function verified(source, onAccounts) {
          const found = await verify(source, request.whose(), null, onAccounts);
          if (found.refusals.length > 0) {
            throw new Refused(`this snapshot cannot be restored. Nothing was changed.\n  $${found.refusals.join("\n  ")}`);
          }
          if (Date.parse(found.manifest.started) > Date.now() + RACE) {
            throw new Refused(`the snapshot is of $${found.manifest.started}, which is to come: this host's clock is behind.`);
          }
          request.tell(found);
          return found;
        }

        async function choices(source, found, before, since) {
          const old = accountsOf.oldAccounts(data, notServing.held, before.accounts, folders(data, ({ message }) => console.log(`note: $${message}`)));
          const older = new accountsOf.Older(desk, found.manifest.started, request.olderAreThere);
          const shared = { found, old, scratch: place, without: dids("without") };
          const { chosen, leftOut } = await accountsOf.choose({ ...shared, source, older });
          const ended = [...since].filter(([, status]) => status === "deleted").map(([did]) => did);
          const carried = await accountsOf.newer({ ...shared, deleted: [...ended, ...dids("delete")] });
          for (const [did, { of, instead }] of chosen) {
            if (instead) console.log(`FROM $${of ? `THE BACKUP OF $${of}` : "THE OLD DATA"}: $${did}: $${instead}`);
            else if (of) console.log(`AS OF $${of}: $${did}: $${found.manifest.findings[did]?.what ?? "its last whole copy"}`);
          }
          for (const did of carried.chosen.keys()) console.log(`CARRIED OVER: $${did}: it was made after the snapshot`);
          return {
            snapshot: new Set(chosen.keys()),
            chosen: new Map([...chosen, ...carried.chosen]),
            carried: [...carried.chosen.keys()],
            leftOut: new Map([...leftOut, ...carried.leftOut]),
            newer: carried.chosen.size,
            unapplied: new Set(),
            notes: [],
          };
        }

        async function outside(accounts, keys, before, manifest, answers) {
          const known = { manifest: manifest.sequence, given: Number(asked("sequence") || 0), old: before.sequence };
          try {
            return await world({ dids: accounts, keys, hostname, plc, relays, known, revisions: before.revisions, asked: answers });
          } catch (error) {
            if (error instanceof Unknown) throw new Refused(`$${error.message} Nothing was changed.`);
            throw error;
          }
        }

        function stage(source, { manifest, sequencer }, accounts) {
          accounts.notes = [...accounts.unapplied].map((did) => `$${did}: what came while the snapshot was made could not be applied`);
          fs.rmSync(next, { recursive: true, force: true });
          fs.mkdirSync(next, { recursive: true });
          const { hostname: name, rotation_public_key } = manifest;
          fs.writeFileSync(path.join(next, MARK), JSON.stringify({ hostname: name, rotation_public_key }, null, 2) + "\n");
          for (const file of ["account.sqlite", ...(sequencer ? ["sequencer.sqlite"] : [])]) {
            fs.copyFileSync(path.join(source, file), path.join(next, file));
          }
          for (const did of accounts.carried) {
            try {
              const note = accountsOf.copyRows(notServing.held, path.join(next, "account.sqlite"), did);
              if (note) accounts.notes.push(note);
            } catch (error) {
              accountsOf.leaveOut(accounts, did, `it was made after the snapshot, which has another account with its e-mail address ($${error.message})`);
            }
          }
          const disk = manifest.blobs === "disk";
          for (const [did, account] of accounts.chosen) accountsOf.stageAccount(next, did, account, disk);
          for (const did of accounts.leftOut.keys()) accountsOf.stageKey(next, did, source);
          accountsOf.stageReservedKeys(next, [source, data]);
        }

        function wholeJob({ manifest, sequencer }, accounts, told, left) {
          const others = [...accounts.chosen].filter(([did, { of }]) => of || !accounts.snapshot.has(did)).map(([did]) => did);
          return {
            directory: next,
            started: manifest.started,
            recover: sequencer,
            without: [...others, ...accounts.leftOut.keys(), ...accounts.unapplied],
            leftOut: [...accounts.leftOut],
            repairs: repairs(accounts.chosen),
            moved: told.moved,
            resting: { ...told.resting, ...left.resting },
            deleted: left.deleted,
            hidden: left.hidden,
            revisions: told.revisions,
            handles: Object.fromEntries([...told.documents].map(([did, { handles }]) => [did, handles])),
            sequence: told.sequence,
          };
        }

        /** Changed accounts must be consistent as a whole. In the others only the newest commit is new. */
        async function holdsTogether(accounts, done) {
          swaps.toDisk(next);
          for (const name of fs.readdirSync(next)) {
            if (/^(recovery|did_cache)\.sqlite|^temp$/.test(name)) fs.rmSync(path.join(next, name), { recursive: true });
          }
          const touched = new Set([...repairs(accounts.chosen).map(([did]) => did), ...done.recovered]);
          const rest = [...accounts.chosen.keys()].filter((did) => fs.existsSync(path.join(next, home(did), "store.sqlite")));
          const manifest = { files: null, repositories: {}, blobs: "elsewhere" };
          const verdicts = await checkAll(next, rest.filter((did) => touched.has(did)), { manifest });
          const brief = await checkAll(next, rest.filter((did) => !touched.has(did)), { manifest, commitOnly: true });
          const wrong = [...verdicts, ...brief].filter(([, verdict]) => verdict.why.length + verdict.records.length > 0 || verdict.rebuild);
          return wrong.map(([did, verdict]) => [did, sentences(verdict).join("; ")]);
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

        async function finishWhatWasCutShort() {
          const todo = swaps.readPlan(data);
          if (!todo) return;
          if (todo.did) await finishOne(todo);
          else swaps.swapAll(data, todo);
          if (!todo.did) fs.rmSync(only, { recursive: true, force: true }); // made ready for the data before
          say("a restore that was cut short", "is finished");
          return todo.did;
        }

        // --- read-only

        /** Whether the snapshot can be restored, account by account. */
        async function verifyAlone() {
          const source = asked("from") === "volume" ? path.join(data, ".snapshot", "current") : fetched;
          const found = await verified(source);
          const without = dids("without");
          const broken = found.manifest.accounts.filter((did) => found.verdicts.get(did).state === NOT && !without.includes(did));
          if (source === fetched) fs.rmSync(fetched, { recursive: true, force: true });
          if (broken.length > 0) {
            throw new Refused(
              `$${broken.length} of $${found.manifest.accounts.length} accounts cannot be restored from it. To go on without ` +
                `them: $${broken.map((did) => `--without $${did}`).join(" ")}`
            );
          }
          say("verified", "it can be restored");
        }

        async function forget() {
          const { olds, refused } = await swaps.forget(data, { plc, deleted: dids("delete") });
          if (refused.length > 0) {
            throw new Refused(
              `the old data hold the last copy of a signing key. Nothing was removed.\n  $${refused.join("\n  ")}\n` +
                "Bring these accounts back, or list those that are meant to be gone under 'delete' in the stack file."
            );
          }
          say("old data", olds.length > 0 ? `removed: $${olds.join(", ")}` : "there are none");
        }

        main().then(
          () => process.exit(0), // not when the last idle connection ends
          (error) => {
            // Before the swap the old data are unchanged.
            const plain = error instanceof Refused || error instanceof Killed;
            console.error(plain ? `REFUSED: $${error.message}` : `FAILED: $${error.stack}`);
            process.exit(1);
          }
        );
        EOT
      }

      template {
        destination = "local/restore_server.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // The part of a restore that runs the server's own code, in a separate process: its recovery, new revisions, events.
        //
        // restore.cjs starts it and sends the job as its first message; it returns the outcome and ends. The server's code sees
        // one data directory, can reach no relay, and can change no identity. Relays need (docs/decisions/0014): events with
        // numbers above any that they saw, a first event at once, because the server takes its newest row for the newest
        // number, and for every repository a revision above any that they saw.
        "use strict";

        const crypto = require("node:crypto");
        const fs = require("node:fs");
        const path = require("node:path");
        const { createRequire } = require("node:module");
        const { Readable } = require("node:stream");
        const { Database, NO_ROOM, lostRecords, read } = require("./account_check.cjs");
        const { home, isHashOf } = require("./repository.cjs");

        const RACE = 60000; // ms; the server writes a repository first and its event a moment later
        const WRITES = 100; // in one commit; the server accepts 200
        const app = createRequire(path.join(process.cwd(), "x.js"));

        class Refused extends Error {}

        /**
         * Runs the `job` on its `directory`: for a whole restore everything, for one account (`only`) its revision and events.
         * Resolves to `left` (DID to why it is not in use), `notes` and the count of accounts in use, `active`.
         */
        async function work(job) {
          const pds = await load(job);
          try {
            const server = { ctx: pds.ctx, scripts: app("@atproto/pds").scripts, job };
            return await (job.only ? oneAccount(server) : allAccounts(server));
          } finally {
            await pds.destroy();
            // Closing the last connection merges a database's log.
            for (const { db } of [pds.ctx.sequencer.db, pds.ctx.accountManager.db]) await db.destroy();
          }
        }

        async function load({ directory, only }) {
          const keep = ["PDS_HOSTNAME", "PDS_SERVICE_HANDLE_DOMAINS", "PDS_DID_PLC_URL"];
          const given = Object.keys(process.env).filter((name) => name.startsWith("PDS_"));
          for (const name of given) if (!keep.includes(name)) delete process.env[name];
          const key = () => crypto.randomBytes(32).toString("hex");
          Object.assign(process.env, {
            LOG_ENABLED: "false",
            PDS_DATA_DIRECTORY: directory,
            PDS_BLOBSTORE_DISK_LOCATION: path.join(directory, "blocks"),
            PDS_BLOBSTORE_DISK_TMP_LOCATION: path.join(directory, "temp"),
            PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX: "1".padStart(64, "0"),
            PDS_JWT_SECRET: key(),
            PDS_ADMIN_PASSWORD: key(),
          });
          const library = app("@atproto/pds");
          if (!only) withoutFlush(); // one account is put in place among live data
          const pds = await library.PDS.create(library.envToCfg(library.readEnv()), library.envToSecrets(library.readEnv()));
          await pds.ctx.sequencer.start(); // migrates its database to this version
          return pds;
        }

        /** Skips flushes: restore.cjs flushes everything once at the end, and nothing counts before. */
        function withoutFlush() {
          const prepare = Database.prototype.prepare;
          const seen = new WeakSet();
          Database.prototype.prepare = function (...rest) {
            if (!seen.has(this) && !this.inTransaction) {
              seen.add(this);
              this.pragma("synchronous = off");
            }
            return prepare.apply(this, rest);
          };
        }

        // --- a whole restore

        async function allAccounts(server) {
          const { ctx, job } = server;
          const found = { left: new Map(job.leftOut), notes: [], active: 0, recovered: [] };
          const failed = new Map();
          if (job.recover) {
            const { unapplied, recovered } = await recover(server);
            if (unapplied.length > 0) return { unapplied, failed: [] };
            found.recovered = recovered;
          }
          for (const [did, loss] of job.repairs) await repair(server, did, loss, failed);
          await closeThoseWhoLeft(server, found);
          raise(ctx, job.sequence);
          for (const [did, deleted] of found.left) if (deleted === true) await announceDeleted(ctx, did);
          for (const { did, handle, takedownRef, deactivatedAt } of accounts(job.directory)) {
            if (job.moved[did]) continue; // another server publishes its events
            const status = takedownRef ? "takendown" : deactivatedAt ? "deactivated" : "active";
            let sync = null;
            try {
              if (fs.existsSync(path.join(job.directory, home(did), "store.sqlite"))) sync = await newRevision(ctx, did, job.revisions[did]);
            } catch (error) {
              if (error instanceof Refused || NO_ROOM.includes(error.code)) throw error;
              failed.set(did, `it takes no new revision: $${error.message}`);
              continue;
            }
            found.active += status === "active";
            await announce(ctx, did, handle, status, sync);
          }
          if (failed.size > 0) return { failed: [...failed] };
          return { ...found, left: [...found.left].map(([did, why]) => [did, why === true ? DELETED : why]) };
        }

        const DELETED = "it was deleted after the snapshot";

        function accounts(directory) {
          return read(path.join(directory, "account.sqlite"), (db) => db.prepare("select * from actor").all());
        }

        async function closeThoseWhoLeft({ ctx, job }, found) {
          const there = new Map(accounts(job.directory).map((account) => [account.did, account]));
          for (const did of job.deleted) {
            if (!there.has(did)) continue;
            found.left.set(did, true);
            there.delete(did);
            await ctx.actorStore.destroy(did);
            await ctx.accountManager.deleteAccount(did);
          }
          const hidden = new Set(job.hidden);
          const resting = new Map([...Object.entries(job.moved), ...Object.entries(job.resting), ...job.leftOut, ...found.left]);
          for (const { did, handle, takedownRef, deactivatedAt } of there.values()) {
            if (hidden.has(did) && !takedownRef) {
              found.left.set(did, "it was taken down after the snapshot");
              close(job.directory, did, "takedownRef");
            }
            if (typeof resting.get(did) === "string" && !deactivatedAt) {
              found.left.set(did, resting.get(did));
              close(job.directory, did, "deactivatedAt");
            }
            const names = job.handles[did];
            if (names?.length && !names.includes(handle)) {
              found.notes.push(`$${did}, $${handle} here, is $${names[0]} by its document`);
            }
          }
        }

        /** The server's own recovery: brings repositories that are behind the event stream up to date. */
        async function recover({ ctx, scripts, job }) {
          // Not from the beginning: an account that was deleted long ago and came back would be deleted again.
          const from = new Date(Date.parse(job.started) - RACE).toISOString();
          const first = await ctx.sequencer.earliestAfterTime(from);
          if (!first) return { unapplied: [], recovered: [] };
          // Events cannot be applied to accounts whose data are not the snapshot's.
          const db = new Database(ctx.sequencer.dbLocation, { fileMustExist: true, timeout: 10000 });
          for (const did of job.without) db.prepare("delete from repo_seq where did = ?").run(did);
          db.close();
          const ask = (query) => read(path.join(job.directory, "recovery.sqlite"), (db) => db.prepare(query).pluck().all());
          await quietly(async () => {
            await scripts["sequencer-recovery"](ctx, [String(first.seq - 1), "4"]);
            if (ask("select did from failed").length > 0) await scripts["recovery-repair-repos"](ctx, []);
          });
          const failed = ask("select did from failed where fixed = 0");
          // No new key is ever made for an identity that exists: such an account's events are not applied.
          const unapplied = [...new Set([...failed, ...ask("select did from new_account")])];
          const recovered = read(ctx.sequencer.dbLocation, (db) => db.prepare("select distinct did from repo_seq where seq >= ?").pluck().all(first.seq));
          return { unapplied, recovered };
        }

        async function quietly(task) {
          const log = console.log;
          console.log = () => {};
          try {
            return await task();
          } finally {
            console.log = log;
          }
        }

        /** Removes the lost records from a repository, so that the rest is consistent. */
        async function repair({ ctx, scripts, job }, did, { rebuild }, failed) {
          const store = path.join(job.directory, home(did), "store.sqlite");
          try {
            if (rebuild) {
              forgetRecords(store);
              answerNext();
              await quietly(() => scripts["rebuild-repo"](ctx, [did]));
              return;
            }
            const { AtUri } = createRequire(app.resolve("@atproto/pds/package.json"))("@atproto/syntax");
            const lost = read(store, (db) => [...lostRecords(db)]);
            for (let from = 0; from < lost.length; from += WRITES) {
              const writes = lost
                .slice(from, from + WRITES)
                .map((name) => ({ action: "delete", uri: new AtUri(`at://$${did}/$${name}`) }));
              const commit = await ctx.actorStore.transact(did, (actor) => actor.repo.processWrites(writes));
              await ctx.accountManager.updateRepoRoot(did, commit.cid, commit.rev);
            }
          } catch (error) {
            if (NO_ROOM.includes(error.code)) throw error;
            failed.set(did, `it could not be repaired: $${error.message}`);
          }
        }

        /** The server's rebuild-repo asks whether to go on. An empty line says so; each question reads all that its input has. */
        function answerNext() {
          Object.defineProperty(process, "stdin", { value: Readable.from(["\n"]), configurable: true });
        }

        function forgetRecords(store) {
          const db = new Database(store, { fileMustExist: true });
          const rows = db.prepare("select uri, cid from record where collection || '/' || rkey = ?");
          try {
            for (const name of [...lostRecords(db)]) {
              for (const { uri, cid } of rows.all(name)) {
                db.prepare("delete from repo_block where cid = ?").run(cid);
                db.prepare("delete from record where uri = ?").run(uri);
                db.prepare("delete from backlink where uri = ?").run(uri);
                db.prepare('delete from record_blob where "recordUri" = ?').run(uri);
              }
            }
            // The rebuilt tree has its own blocks. A damaged block under a CID that it needs must not pass for intact.
            const blocks = db.prepare("select cid, content from repo_block").raw();
            const bad = [];
            for (const [cid, content] of blocks.iterate()) if (!isHashOf(cid, content)) bad.push(cid);
            for (const cid of bad) db.prepare("delete from repo_block where cid = ?").run(cid);
          } finally {
            db.close();
          }
        }

        /** A takedown or deactivation without an event: one place decides which events are sent. */
        function close(directory, did, column) {
          const db = new Database(path.join(directory, "account.sqlite"), { fileMustExist: true, timeout: 10000 });
          try {
            db.prepare(`update actor set "$${column}" = ? where did = ?`).run(new Date().toISOString(), did);
            // As the server does: a takedown ends every session; a deactivated member may return by logging in.
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

        // --- one account in the data of a stopped server

        async function oneAccount({ ctx, scripts, job }) {
          const did = job.only;
          const failed = new Map();
          for (const [, loss] of job.repairs) await repair({ ctx, scripts, job }, did, loss, failed);
          if (failed.size > 0) throw new Error(`$${did}: $${failed.get(did)}`);
          const account = accounts(job.directory).find((other) => other.did === did);
          const sync = await newRevision(ctx, did, job.revisions[did]);
          const status = account.takedownRef ? "takendown" : account.deactivatedAt ? "deactivated" : "active";
          job.told = true;
          if (job.back) await announce(ctx, did, account.handle, status, sync);
          else if (status === "active") await announceSync(ctx, did, sync);
          return { left: [], notes: [] };
        }

        /** An empty signed commit. Its revision is the time, and must be above any seen of this repository. */
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
          if (status !== "active" || !sync) return;
          await (events.sequenceIdentity ?? events.sequenceIdentityEvt).call(events, did, handle);
          await announceSync(ctx, did, sync);
        }

        async function announceSync({ sequencer: events }, did, sync) {
          await (events.sequenceSync ?? events.sequenceSyncEvt).call(events, did, sync);
        }

        async function announceDeleted(ctx, did) {
          const events = ctx.sequencer;
          if (events.sequenceAccountDeletion) await events.sequenceAccountDeletion(did);
          else await events.deleteAllForUser(did, [await events.sequenceAccountEvt(did, "deleted")]);
        }

        process.once("disconnect", () => process.exit(1)); // restore.cjs was killed
        process.once("message", async (job) => {
          let answer;
          try {
            answer = await work(job);
          } catch (error) {
            answer = { told: job.told, refused: error instanceof Refused, error: error instanceof Refused ? error.message : error.stack };
          }
          process.send(answer, () => process.exit(0)); // not when the last idle connection ends
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
        destination = "local/restore_accounts.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // Chooses the source of each account of a restore: the snapshot; if it is not restorable there, the newest older backup
        // in which it is intact, else the old data on the volume; else it is left out and reported. Accounts that are newer
        // than the snapshot are carried over from the old data. Owns those choices, and assembles one new data directory from
        // them.
        "use strict";

        const fs = require("node:fs");
        const path = require("node:path");
        const { Database, LOSSES, NOT, WHOLE, blobOf, checkAll, copyDatabase, keptBlobs, read, sentences } = require("./account_check.cjs");
        const { home, publicKey, sha256 } = require("./repository.cjs");
        const { MANIFEST } = require("./verify.cjs");

        const NAMES = ["store.sqlite", "key", "did-op"]; // of an account's files
        const PATIENCE = 3600 * 1000; // ms for one answer of the task that has the bucket's key
        const LOOK = 200; // ms
        const AWAY = "the older backups could not be asked: try `./pds restore STACK --only` with this DID later";

        // --- older backups: another task has restic's key (older.sh); the two communicate by files in this folder

        class Older {
          /** `desk` is the folder; `before` the time that bounds older backups, or null; `on` whether that task exists. */
          constructor(desk, before, on) {
            Object.assign(this, { desk, before, on });
            this.judged = new Map(); // hashes of an account's files to their verdict
          }

          async ask(...words) {
            fs.mkdirSync(this.desk, { recursive: true });
            const [request, answer] = ["request", "answer"].map((name) => path.join(this.desk, name));
            fs.rmSync(answer, { force: true });
            fs.writeFileSync(`$${request}.next`, `$${words.join(" ")}\n`);
            fs.renameSync(`$${request}.next`, request);
            for (const end = Date.now() + PATIENCE; !fs.existsSync(answer); ) {
              if (Date.now() > end) return false;
              await new Promise((resume) => setTimeout(resume, LOOK));
            }
            return fs.readFileSync(answer, "utf8").trim() === "ok";
          }

          /** IDs of older backups, the newest first. */
          async list() {
            if (!this.on) return [];
            if (!this.ids) {
              const got = await this.ask("list");
              this.away = !got;
              const found = got ? JSON.parse(fs.readFileSync(path.join(this.desk, "list.json"), "utf8")) : [];
              const older = found.filter(({ time }) => !this.before || Date.parse(time) < Date.parse(this.before));
              this.ids = older.sort((one, other) => Date.parse(other.time) - Date.parse(one.time)).map(({ id }) => id);
            }
            return this.ids;
          }

          /** The newest older backup with an intact account, else the newest with a damaged one; null if there is none. */
          async find(did) {
            let second = null;
            for (const id of await this.list()) {
              const folder = path.join(this.desk, id);
              if (!(await this.ask("get", id, home(did), did)) || !fs.existsSync(path.join(folder, MANIFEST))) continue;
              const manifest = JSON.parse(fs.readFileSync(path.join(folder, MANIFEST), "utf8"));
              const verdict = await this.judge(folder, did, manifest);
              const found = { folder, verdict, of: manifest.repositories[did]?.of ?? manifest.started, manifest };
              if (verdict.state === WHOLE) return found;
              if (verdict.state === LOSSES) second ??= found;
            }
            return second;
          }

          async judge(folder, did, manifest) {
            const files = NAMES.map((name) => path.join(folder, home(did), name));
            const hashes = files.map((file) => (fs.existsSync(file) ? sha256(file) : "-")).join();
            if (!this.judged.has(hashes)) this.judged.set(hashes, (await checkAll(folder, [did], { manifest })).get(did));
            return this.judged.get(hashes);
          }
        }

        // --- choices

        /**
         * The source of each account: `chosen`, a map from DID to `folder`, `verdict`, and `of`, the time of its data if it is
         * not the snapshot's; and `leftOut`, a map from DID to why. `found` is what `verify` returned for `source`.
         */
        async function choose({ source, found, older, old, scratch, without }) {
          const result = { chosen: new Map(), leftOut: new Map() };
          for (const [did, verdict] of found.verdicts) {
            if (without.includes(did)) result.leftOut.set(did, "you left it out (--without)");
            else if (verdict.state !== NOT) result.chosen.set(did, { folder: source, verdict, of: found.manifest.repositories[did]?.of });
            else if (!found.manifest.accounts.includes(did)) result.leftOut.set(did, "it has no account, and its repository is damaged");
            else {
              const backup = await older.find(did);
              const here = backup?.verdict.state === WHOLE ? null : await fromOldData(old, scratch, did, found.manifest);
              const other = here?.verdict.state === WHOLE ? here : (backup ?? here);
              if (other) result.chosen.set(did, { ...other, instead: sentences(verdict)[0] });
              else result.leftOut.set(did, sentences(verdict).join("; ") + (older.away ? `; $${AWAY}` : ""));
            }
          }
          return result;
        }

        /** Accounts in the old data that the snapshot lacks, likewise; without those that are to be deleted. */
        async function newer({ found, old, scratch, deleted, without }) {
          const result = { chosen: new Map(), leftOut: new Map() };
          const known = new Set([...found.manifest.accounts, ...deleted]);
          for (const did of old.dids.filter((did) => !known.has(did))) {
            const carried = without.includes(did) ? null : await fromOldData(old, scratch, did, found.manifest);
            if (carried) result.chosen.set(did, { ...carried, of: null });
            else result.leftOut.set(did, without.includes(did) ? "you left it out (--without)" : `it was made after the snapshot, and $${old.why(did)}`);
          }
          return result;
        }

        /** Leave out one of the `accounts` that were chosen. */
        function leaveOut(accounts, did, why) {
          accounts.leftOut.set(did, why);
          accounts.chosen.delete(did);
          if (accounts.carried.includes(did)) accounts.newer--;
          accounts.carried = accounts.carried.filter((other) => other !== did);
        }

        /** The old data on the volume: `data`, an open connection to their account database, and the DIDs of their accounts. */
        function oldAccounts(data, accounts, dids, folderDids) {
          const faults = new Map();
          return {
            data,
            accounts,
            dids: dids ?? folderDids, // without an account database, the folders still identify the accounts
            faults,
            why: (did) => (accounts ? (faults.get(did) ?? "it cannot be read in the old data") : "the old account.sqlite cannot be read"),
          };
        }

        async function fromOldData(old, scratch, did, manifest) {
          if (!old.accounts || !old.dids.includes(did)) return null;
          const folder = path.join(scratch, "carried");
          fs.mkdirSync(path.join(folder, home(did)), { recursive: true });
          try {
            await copyDatabase(path.join(old.data, home(did), "store.sqlite"), path.join(folder, home(did), "store.sqlite"));
            for (const name of NAMES.slice(1)) {
              const file = path.join(old.data, home(did), name);
              if (fs.existsSync(file)) fs.copyFileSync(file, path.join(folder, home(did), name));
            }
            if (manifest.blobs === "disk") for (const place of ["", "quarantine"]) linkBlobs(old.data, folder, place, did);
          } catch (error) {
            old.faults.set(did, `its data cannot be read: $${error.message}`);
            return null;
          }
          const expected = { files: null, repositories: {}, blobs: manifest.blobs };
          const verdict = (await checkAll(folder, [did], { manifest: expected })).get(did);
          if (verdict.state !== NOT) return { folder, verdict, of: null };
          old.faults.set(did, verdict.why.join("; "));
          return null;
        }

        function linkBlobs(from, to, place, did) {
          const folder = path.join(from, "blocks", place, did);
          if (!fs.existsSync(folder)) return;
          fs.mkdirSync(path.join(to, "blocks", place, did), { recursive: true });
          for (const cid of fs.readdirSync(folder)) {
            const target = path.join(to, "blocks", place, did, cid);
            fs.rmSync(target, { force: true });
            fs.linkSync(path.join(folder, cid), target);
          }
        }

        // --- one new data directory

        /** Puts an account's files and intact blobs into `next`. Blobs never change, so they are linked. */
        function stageAccount(next, did, { folder, verdict }, disk) {
          for (const name of NAMES) {
            const file = path.join(folder, home(did), name);
            if (name === "did-op" && !fs.existsSync(file)) continue; // most have none; the others were there when it was checked
            fs.mkdirSync(path.join(next, home(did)), { recursive: true });
            fs.copyFileSync(file, path.join(next, home(did), name));
          }
          if (!disk) return;
          for (const cid of read(path.join(folder, home(did), "store.sqlite"), keptBlobs)) {
            const name = blobOf(folder, did, cid, { checked: true });
            if (verdict.blobs.includes(cid)) continue;
            if (!name) throw new Error(`blob $${cid} of $${did} was there when it was checked, and is gone`);
            fs.mkdirSync(path.dirname(path.join(next, name)), { recursive: true });
            fs.rmSync(path.join(next, name), { force: true });
            fs.linkSync(path.join(folder, name), path.join(next, name));
          }
        }

        /** Keeps the key of an account that is left out, if it is a valid key: it may be the only copy. */
        function stageKey(next, did, folder) {
          const file = path.join(folder, home(did), "key");
          try {
            publicKey(fs.readFileSync(file));
          } catch {
            return;
          }
          fs.mkdirSync(path.join(next, home(did)), { recursive: true });
          fs.copyFileSync(file, path.join(next, home(did), "key"));
        }

        /** Keys reserved for accounts that are migrating to this server, from any of `folders`. */
        function stageReservedKeys(next, folders) {
          for (const folder of folders.map((name) => path.join(name, "actors", "reserved_keys"))) {
            if (!fs.existsSync(folder)) continue;
            fs.mkdirSync(path.join(next, "actors", "reserved_keys"), { recursive: true });
            for (const name of fs.readdirSync(folder)) {
              const target = path.join(next, "actors", "reserved_keys", name);
              if (!fs.existsSync(target)) fs.copyFileSync(path.join(folder, name), target);
            }
          }
        }

        // --- an account's rows

        const FIRST = ["actor", "account"]; // others refer to them
        const NUMBERED = { token: "id" }; // columns that a database numbers by itself

        /**
         * Copies an account's rows from the account database `from` (an open connection) to the one in the file `to`: password,
         * e-mail address, app passwords, sessions, invite codes. Throws if another account has the e-mail address. Leaves a
         * handle of another account empty: the server restores it if the DID document names it. Returns a note, or null.
         */
        function copyRows(from, to, did) {
          const db = new Database(to, { fileMustExist: true, timeout: 10000 });
          try {
            return db.transaction(() => copyInto(from, db, did))();
          } finally {
            db.close();
          }
        }

        function copyInto(from, db, did) {
          const tables = db.prepare("select name from sqlite_master where type = 'table'").pluck().all();
          const columns = (base, table) => base.pragma(`table_info("$${table}")`).map(({ name }) => name);
          const owned = tables.filter((table) => columns(from, table).includes("did") && columns(db, table).includes("did"));
          const rest = owned.filter((table) => !FIRST.includes(table) && table !== "authorization_request");
          let note = null;
          const copy = (table, condition) => {
            const names = columns(db, table).filter((name) => columns(from, table).includes(name) && NUMBERED[table] !== name);
            const listed = names.map((name) => `"$${name}"`).join();
            const insert = db.prepare(`insert or $${FIRST.includes(table) ? "abort" : "ignore"} into "$${table}" ($${listed}) values ($${names.map(() => "?").join()})`);
            for (const row of from.prepare(`select $${listed} from "$${table}" where $${condition}`).raw().all(did)) {
              if (table === "actor" && taken(db, row[names.indexOf("handle")])) {
                note = `$${did}: its handle $${row[names.indexOf("handle")]} is another account's in the snapshot; it is without one`;
                row[names.indexOf("handle")] = null;
              }
              insert.run(...row);
            }
          };
          for (const table of FIRST) copy(table, "did = ?");
          if (tables.includes("account_device")) copy("device", 'id in (select "deviceId" from account_device where did = ?)');
          for (const table of rest) copy(table, "did = ?");
          copy("invite_code", '"forAccount" = ?');
          copy("invite_code_use", '"usedBy" = ?');
          return note;
        }

        /** Remove an account's rows from the account database in the file `name`. */
        function removeRows(name, did) {
          const db = new Database(name, { fileMustExist: true, timeout: 10000 });
          try {
            const tables = db.prepare("select name from sqlite_master where type = 'table'").pluck().all();
            const owned = tables.filter((table) => db.pragma(`table_info("$${table}")`).some((column) => column.name === "did"));
            const order = [...owned.filter((table) => !FIRST.includes(table)), ...FIRST.toReversed()];
            db.transaction(() => order.forEach((table) => db.prepare(`delete from "$${table}" where did = ?`).run(did)))();
          } finally {
            db.close();
          }
        }

        function taken(db, handle) {
          return handle !== null && db.prepare("select 1 from actor where lower(handle) = lower(?)").get(handle) !== undefined;
        }

        module.exports = { Older, choose, copyRows, leaveOut, newer, oldAccounts, removeRows, stageAccount, stageKey, stageReservedKeys };
        EOT
      }

      template {
        destination = "local/restore_request.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // The parts that a restore of a whole server (restore.cjs) and of one account (restore_one.cjs) share: its parameters,
        // its output, exclusive access to the data, and running the server's code.
        "use strict";

        const { fork } = require("node:child_process");
        const fs = require("node:fs");
        const path = require("node:path");
        const { Database, Killed, LOSSES, NOT, WHOLE, sentences } = require("./account_check.cjs");
        const { places } = require("./restore_swap.cjs");
        const { MARK } = require("./verify.cjs");

        const NAMED = 20; // losses of one account
        const WAIT = 15 * 60 * 1000; // ms; enough for a running snapshot to finish

        /** Nothing was changed; the message gives the reason. */
        class Refused extends Error {}

        const hostname = process.env.PDS_HOSTNAME;
        const data = process.env.PDS_DATA_DIRECTORY;
        const plc = process.env.PDS_DID_PLC_URL;
        const relays = (process.env.PDS_CRAWLERS ?? "").split(",").filter(Boolean);
        const olderAreThere = process.env.OLDER_BACKUPS === "true"; // a task that has the key of the backups (older.sh)

        /** The operator's parameter (Nomad's meta of a dispatched job): a text, or a list of DIDs. */
        const asked = (name) => process.env[`NOMAD_META_$${name}`] ?? "";
        const dids = (name) => asked(name).split(" ").filter(Boolean);

        function say(what, text) {
          console.log(`$${what.padEnd(28)} $${text}`);
        }

        function whose() {
          return { hostname, rotation_public_key: asked("rotation_public_key") || marked() };
        }

        function marked() {
          const mark = path.join(data, MARK);
          try {
            return fs.existsSync(mark) ? JSON.parse(fs.readFileSync(mark, "utf8")).rotation_public_key : null;
          } catch (error) {
            console.log(`note: $${MARK} on the volume cannot be read ($${error.message}); the snapshot has its own`);
            return null;
          }
        }

        /** Prints one line for all intact accounts, and one for each other account. Returns those that are not restorable. */
        function tell({ manifest, verdicts, notes }) {
          const counts = { [WHOLE]: 0, [LOSSES]: 0, [NOT]: 0 };
          for (const verdict of verdicts.values()) counts[verdict.state]++;
          say("snapshot", `of $${manifest.started}, $${Object.entries(counts).map(([state, count]) => `$${count} $${state}`).join(", ")}`);
          for (const note of notes) console.log(`note: $${note}`);
          for (const [did, { state, what }] of Object.entries(manifest.findings)) {
            if (!verdicts.has(did) || verdicts.get(did).state === WHOLE) console.log(`note: at the backup, $${did}: $${state}: $${what}`);
          }
          for (const [did, verdict] of verdicts) if (verdict.state === LOSSES) tellLosses(did, verdict);
          const broken = [...verdicts].filter(([, { state }]) => state === NOT);
          for (const [did, verdict] of broken) console.log(`NOT RESTORABLE: $${did}: $${sentences(verdict).join("; ")}`);
          return broken.map(([did]) => did);
        }

        function tellLosses(did, verdict) {
          const all = sentences(verdict);
          for (const text of all.slice(0, NAMED)) console.log(`WITH LOSSES: $${did}: $${text}`);
          if (all.length > NAMED) console.log(`WITH LOSSES: $${did}: and $${all.length - NAMED} more`);
        }

        // --- exclusive access to the data

        function alone() {
          // The lock of the snapshot program: it must not copy data that are being moved.
          try {
            const lock = new Database(path.join(data, ".snapshot", "lock.sqlite"), { timeout: WAIT });
            lock.exec("begin exclusive");
            alone.held = lock;
          } catch (error) {
            if (error.code === "SQLITE_BUSY") throw new Refused("a snapshot, or another restore, is under way.");
            throw error;
          }
        }

        /** A running server has its account database open, so no other program can lock it exclusively. */
        function notServing() {
          const file = path.join(data, "account.sqlite");
          if (!fs.existsSync(file)) return;
          try {
            const db = new Database(file, { fileMustExist: true, timeout: 2000 });
            db.pragma("locking_mode = exclusive");
            db.exec("begin immediate");
            db.exec("rollback");
            notServing.held = db; // so no server starts on it meanwhile
          } catch (error) {
            if (error.code === "SQLITE_BUSY") throw new Refused("the server is running on these data. Pause it first.");
            console.log(`note: the old account.sqlite cannot be read ($${error.message}); it is kept as it is`);
          }
        }

        /** Runs restore_server.cjs, which uses the server's code, on the `job`. Returns its outcome. */
        function onTheServer(job) {
          return new Promise((resolve, reject) => {
            const child = fork(path.join(__dirname, "restore_server.cjs"), { stdio: ["ignore", "inherit", "inherit", "ipc"] });
            child.on("message", ({ error, refused, told, ...done }) => {
              if (error) reject(Object.assign(refused ? new Refused(error) : new Error(error), { told }));
              else resolve(done);
            });
            child.on("error", reject);
            child.on("exit", (code, signal) => reject(new Killed("the restored data", signal ?? code)));
            child.send(job);
          });
        }

        function repairs(chosen) {
          return [...chosen].filter(([, { verdict }]) => verdict.records.length > 0 || verdict.rebuild).map(([did, { verdict }]) => [did, verdict]);
        }

        module.exports = {
          Refused,
          alone,
          asked,
          data,
          dids,
          hostname,
          notServing,
          olderAreThere,
          onTheServer,
          plc,
          relays,
          repairs,
          say,
          tell,
          tellLosses,
          whose,
        };
        EOT
      }

      template {
        destination = "local/restore_swap.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // Replaces the old data with the restored data, and decides when the old data may be removed.
        //
        // The swap consists of renames. The remaining steps are written down first, and repeating a step is harmless: after a
        // kill at any point, the next run finishes it. While the plan exists, no server starts (guard.cjs) and no snapshot is
        // made.
        "use strict";

        const { spawnSync } = require("node:child_process");
        const fs = require("node:fs");
        const path = require("node:path");
        const departures = require("./departures.cjs");
        const { documents } = require("./documents.cjs");
        const { home, publicKey } = require("./repository.cjs");
        const { folders } = require("./snapshot_accounts.cjs");
        const { MARK, walk } = require("./verify.cjs");

        const STAYS = [".restore", ".snapshot", ".stamps", departures.LIST, "lost+found"];

        /** The paths of a restore below `data`. */
        function places(data) {
          const place = path.join(data, ".restore");
          const below = (name) => path.join(place, name);
          return { place, fetched: below("fetched"), next: below("new"), only: below("only"), older: below("older"), plan: below("swap.json") };
        }

        /** Where a restore that begins now keeps the old data. */
        function aside(data) {
          return path.join(data, ".restore", `old-$${new Date().toISOString().replace(/[:.]/g, "")}`);
        }

        function readPlan(data) {
          const { plan } = places(data);
          return fs.existsSync(plan) ? JSON.parse(fs.readFileSync(plan, "utf8")) : null;
        }

        function writePlan(data, todo) {
          const { place, plan } = places(data);
          fs.writeFileSync(`$${plan}.next`, JSON.stringify(todo), { flush: true });
          fs.renameSync(`$${plan}.next`, plan);
          sync(place);
        }

        function forgetPlan(data) {
          const { place, plan } = places(data);
          fs.rmSync(plan);
          sync(place);
        }

        /** Moves the old data out and the new data in, for a whole server. */
        function swapAll(data, todo) {
          const { next } = places(data);
          if (todo.step === "out") {
            fs.mkdirSync(todo.old, { recursive: true });
            move(data, todo.old, (name) => !STAYS.includes(name));
            if (fs.readdirSync(todo.old).length === 0) fs.rmdirSync(todo.old); // a new volume
            writePlan(data, { ...todo, step: "in" });
          }
          if (fs.existsSync(next)) {
            move(next, data, (name) => name !== MARK);
            move(next, data, () => true); // the mark last: with it the server may start
            fs.rmdirSync(next);
          }
          forgetPlan(data);
        }

        /** Swaps the data of one account. Keeps the plan for the revision and events that follow. */
        function swapOne(data, todo) {
          const { only } = places(data);
          const folder = home(todo.did);
          if (todo.step === "out") {
            fs.mkdirSync(path.dirname(path.join(todo.old, folder)), { recursive: true });
            if (fs.existsSync(path.join(data, folder))) fs.renameSync(path.join(data, folder), path.join(todo.old, folder));
            writePlan(data, { ...todo, step: "in" });
          }
          if (fs.existsSync(path.join(only, folder))) {
            fs.mkdirSync(path.dirname(path.join(data, folder)), { recursive: true });
            fs.renameSync(path.join(only, folder), path.join(data, folder));
          }
          for (const name of walk(path.join(only, "blocks"))) {
            const target = path.join(data, "blocks", name);
            fs.mkdirSync(path.dirname(target), { recursive: true });
            fs.renameSync(path.join(only, "blocks", name), target);
          }
          toDisk(data);
          writePlan(data, { ...todo, step: "events" });
        }

        /** The old data of one account in its place again, if it had any; done twice it is done once. */
        function swapBack(data, todo) {
          const folder = home(todo.did);
          const [there, made, kept] = [data, places(data).only, todo.old].map((place) => path.join(place, folder));
          if (fs.existsSync(there) && (fs.existsSync(kept) || todo.back)) {
            fs.rmSync(made, { recursive: true, force: true });
            fs.mkdirSync(path.dirname(made), { recursive: true });
            fs.renameSync(there, made);
          }
          if (fs.existsSync(kept)) fs.renameSync(kept, there);
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

        /** Flushes everything below `folder` to the disk: by one `sync`, or file by file if the image has no such program. */
        function toDisk(folder) {
          if (spawnSync("sync").status === 0) return;
          const names = walk(folder);
          for (const name of [...names, ...new Set(names.map(path.dirname)), "."]) sync(path.join(folder, name));
        }

        // --- the old data

        /**
         * Removes the old data of earlier restores. Returns their names. Keeps old data with a signing key that exists nowhere
         * else and that its account's identity still names; then `refused` has a line for each such account.
         */
        async function forget(data, { plc, deleted }) {
          const { place } = places(data);
          const olds = fs.readdirSync(place).filter((name) => name.startsWith("old-"));
          const list = departures.lines(path.join(data, departures.LIST));
          const gone = new Set([...deleted, ...[...departures.since(list, "")].filter(([, status]) => status === "deleted").map(([did]) => did)]);
          const last = [...onlyThere(data, place, olds, gone)]; // an account can have several keys: one of them may be damaged
          for (const old of olds) for (const [did, key] of keysIn(path.join(place, old))) if (!isIn(data, did, key) && !gone.has(did)) last.push({ did, old, key });
          const refused = [];
          const asked = await documents([...new Set(last.map(({ did }) => did))].filter((did) => did.startsWith("did:")), plc);
          for (const { did, old, key } of last) {
            const { error, gone: ended, key: named, server } = asked.get(did) ?? { error: "it is a reserved key" };
            if (ended) continue;
            if (!key) {
              const here = error || server === process.env.PDS_HOSTNAME;
              if (here) refused.push(`$${did}: its repository is in .restore/$${old} alone, though it may be damaged`);
              continue;
            }
            if (!error && named !== didKey(key)) continue; // its identity needs another key
            refused.push(`$${did}: its signing key is in .restore/$${old} alone$${error ? ` ($${error})` : ""}`);
          }
          if (refused.length === 0) for (const old of olds) fs.rmSync(path.join(place, old), { recursive: true });
          return { olds, refused };
        }

        /** Accounts whose repository is in old data and not in the data that are served. */
        function* onlyThere(data, place, olds, gone) {
          const has = (folder, did) => fs.statSync(path.join(folder, home(did), "store.sqlite"), { throwIfNoEntry: false })?.size > 0;
          for (const old of olds) {
            for (const did of folders(path.join(place, old))) {
              if (!gone.has(did) && has(path.join(place, old), did) && !has(data, did)) yield { did, old, key: null };
            }
          }
        }

        function* keysIn(folder) {
          for (const did of folders(folder)) {
            const key = path.join(folder, home(did), "key");
            if (fs.existsSync(key)) yield [did, fs.readFileSync(key)];
          }
          const reserved = path.join(folder, "actors", "reserved_keys");
          for (const name of walk(reserved)) yield [`reserved_keys/$${name}`, fs.readFileSync(path.join(reserved, name))];
        }

        function isIn(data, did, key) {
          const name = did.startsWith("did:") ? path.join(home(did), "key") : path.join("actors", did);
          const file = path.join(data, name);
          return fs.existsSync(file) && fs.readFileSync(file).equals(key);
        }

        function didKey(key) {
          try {
            return publicKey(key).didKey;
          } catch {
            return null; // no key, so no identity names it
          }
        }

        module.exports = { aside, forget, forgetPlan, places, readPlan, swapAll, swapBack, swapOne, toDisk, writePlan };
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
        destination = "local/documents.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // Queries an account's DID document for its key and its server.
        //
        // Queries the PLC directory and, for did:web, the account's own domain; writes nothing anywhere. "Gone" and
        // "unreachable" are two answers: the first may be acted on, the second never.
        "use strict";

        const ATTEMPTS = 3;
        const AT_ONCE = 8;
        const AWAY = 16; // failures in a row after which the directory is not asked any more
        const PATIENCE = 10000; // ms for one answer

        /**
         * DID to `{ key, server, handles }`, `{ gone: why }`, or `{ error: why }` if the query failed. `plc` is the directory's
         * address.
         */
        async function documents(dids, plc) {
          const found = new Map();
          const left = [...dids];
          let failures = 0; // of the directory, in a row: each takes half a minute
          const ask = async () => {
            for (let did; (did = left.shift()); ) {
              const fromDirectory = did.startsWith("did:plc:");
              const answer = fromDirectory && failures >= AWAY ? { error: `$${plc} does not answer` } : await one(did, plc);
              if (fromDirectory) failures = answer.error ? failures + 1 : 0;
              found.set(did, answer);
            }
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
            // The older types give the key without naming its curve; such a key is not compared.
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
        destination = "local/restore_one.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // Restores one account of a backup and leaves all others unchanged.
        //
        // It is prepared beside the running server, in DATA/.restore/only: fetched, checked, its identity queried. It is then
        // put in place while the server is stopped, which takes seconds: renames, a new revision, and its events. If it is
        // killed before the plan is written, nothing has changed. If it is killed after it, the next run continues; no server
        // starts before.
        "use strict";

        const fs = require("node:fs");
        const path = require("node:path");
        const { Database, Killed, LOSSES, NOT, WHOLE, sentences } = require("./account_check.cjs");
        const accountsOf = require("./restore_accounts.cjs");
        const request = require("./restore_request.cjs");
        const swaps = require("./restore_swap.cjs");
        const { Unknown, world } = require("./restore_world.cjs");
        const { verify } = require("./verify.cjs");

        const { Refused, asked, data, hostname, notServing, plc, relays, say } = request;
        const { fetched, only, older: desk } = swaps.places(data);

        /** Fetches, checks and stages one account beside the running server. */
        async function makeOneReady(did) {
          // An interrupted restore needs its staged files until the run after this one finishes it.
          if (swaps.readPlan(data)) return say("a restore that was cut short", "is finished with the server at rest");
          const source = asked("from") === "volume" ? path.join(data, ".snapshot", "current") : fetched;
          const found = await verify(source, request.whose(), did);
          const fault = found.refusals[0] ?? (found.verdicts.has(did) ? null : `it has no account $${did}`);
          const of = found.manifest?.repositories[did]?.of ?? found.manifest?.started;
          let account = fault ? null : { folder: source, verdict: found.verdicts.get(did), of, manifest: found.manifest };
          if (account?.verdict.state !== WHOLE && !asked("snapshot") && !asked("from")) {
            const other = await new accountsOf.Older(desk, found.manifest?.started ?? null, request.olderAreThere).find(did);
            if (other && (!account || account.verdict.state === NOT || other.verdict.state === WHOLE)) account = other;
          }
          if (!account || account.verdict.state === NOT) {
            const why = fault ?? sentences(account.verdict).join("; ");
            throw new Refused(`$${did} cannot be restored from $${asked("snapshot") || "any backup"}: $${why}. Nothing was changed.`);
          }
          const told = await outsideOf(did, account.verdict.key);
          fs.rmSync(only, { recursive: true, force: true });
          accountsOf.stageAccount(only, did, account, account.manifest.blobs === "disk");
          fs.copyFileSync(path.join(source, "account.sqlite"), path.join(only, "account.sqlite"));
          const ready = { did, of: account.of, verdict: account.verdict, revisions: told.revisions };
          fs.writeFileSync(path.join(only, "ready.json"), JSON.stringify(ready));
          swaps.toDisk(only);
          for (const name of [fetched, desk]) fs.rmSync(name, { recursive: true, force: true });
          if (account.verdict.state === LOSSES) request.tellLosses(did, account.verdict);
          say("ready", `$${did} as of $${account.of}, $${account.verdict.state}; the server has not been touched`);
        }

        async function outsideOf(did, key) {
          const known = { manifest: 0, given: 1, old: 1 };
          const told = await world({ dids: [did], keys: new Map([[did, key]]), hostname, plc, relays, known, revisions: {} }).catch((error) => {
            throw error instanceof Unknown ? new Refused(`$${error.message} Nothing was changed.`) : error;
          });
          const elsewhere = told.moved[did] ?? told.swapped.get(did);
          if (elsewhere) throw new Refused(`$${did}: $${elsewhere}. Nothing was changed.`);
          return told;
        }

        /** Replaces the current account with the prepared one. The server is stopped. */
        async function putOneInPlace(did, finished) {
          const file = path.join(only, "ready.json");
          if (!fs.existsSync(file) && finished === did) return say("ready", "it is in place already");
          if (!fs.existsSync(file)) throw new Refused(`nothing of $${did} has been made ready: run the same again.`);
          const ready = JSON.parse(fs.readFileSync(file, "utf8"));
          if (ready.did !== did) throw new Refused(`what was made ready is $${ready.did}, not $${did}: begin again.`);
          if (!notServing.held) throw new Refused("the server's account.sqlite cannot be read: restore all of it.");
          const old = notServing.held.prepare("select rev from repo_root where did = ?").pluck().get(did);
          const there = notServing.held.prepare("select 1 from actor where did = ?").get(did) !== undefined;
          if (old > (ready.revisions[did] ?? "")) ready.revisions[did] = old;
          const todo = { step: "out", did, old: swaps.aside(data), back: !there, ...ready };
          swaps.writePlan(data, todo);
          await finishOne(todo);
          say("in place", `$${did} as of $${ready.of}; all others are as they were`);
        }

        async function finishOne(todo) {
          const { did, verdict, revisions } = todo;
          notServing.held?.close(); // the plan keeps every server from starting
          notServing.held = null;
          if (todo.step === "undo") return undoOne(todo);
          if (todo.step !== "events") swaps.swapOne(data, todo);
          const job = { directory: data, only: did, back: todo.back, repairs: request.repairs(new Map([[did, { verdict }]])), revisions };
          try {
            if (todo.back) restoreRows(did);
            await request.onTheServer(job);
          } catch (error) {
            // What was killed goes on in the next run. What failed would fail again, and no server starts while the plan is there.
            if (error instanceof Killed || error.told) throw error;
            undoOne(todo);
            throw error;
          }
          swaps.toDisk(data);
          fs.rmSync(only, { recursive: true, force: true });
          swaps.forgetPlan(data);
        }

        /** Nothing of it was told to relays: the account becomes what it was. */
        function undoOne(todo) {
          swaps.writePlan(data, { ...todo, step: "undo" });
          swaps.swapBack(data, todo);
          if (todo.back) accountsOf.removeRows(path.join(data, "account.sqlite"), todo.did);
          swaps.toDisk(data);
          swaps.forgetPlan(data);
          say("put back", `$${todo.did} is as it was before`);
        }

        function restoreRows(did) {
          const source = new Database(path.join(only, "account.sqlite"), { fileMustExist: true });
          try {
            const there = new Database(path.join(data, "account.sqlite"), { fileMustExist: true });
            const known = there.prepare("select 1 from actor where did = ?").get(did);
            there.close();
            if (!known) accountsOf.copyRows(source, path.join(data, "account.sqlite"), did);
          } catch (error) {
            if (!/^UNIQUE.*email/.test(error.message)) throw error;
            throw new Refused(`another account has the e-mail address of $${did} now. Give that one another address, then run the same again.`);
          } finally {
            source.close();
          }
        }

        module.exports = { finishOne, makeOneReady, putOneInPlace };
        EOT
      }

      template {
        destination = "local/restore_world.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // Collects what a snapshot does not contain before it is restored: the old data on the volume, DID documents, relays.
        "use strict";

        const fs = require("node:fs");
        const path = require("node:path");
        const departures = require("./departures.cjs");
        const { Database } = require("./account_check.cjs");
        const { documents } = require("./documents.cjs");
        const { held } = require("./verify.cjs");

        const AT_ONCE = 8; // concurrent queries to a relay
        const MARGIN = 10000; // event numbers; relays that were not queried are not further ahead than this
        const PATIENCE = 10000; // ms for a relay's answer

        /** The answers do not suffice for a restore. The message lists what is missing. */
        class Unknown extends Error {}

        /**
         * The readable part of the old data in `data`: account events, and the last numbers of events and repositories.
         * `accounts` is an open connection to the old account database, or undefined.
         */
        function oldData(data, accounts) {
          const list = departures.lines(path.join(data, departures.LIST));
          const before = { list, sequence: 0, revisions: {}, accounts: null };
          const sequencer = path.join(data, "sequencer.sqlite");
          try {
            before.revisions = Object.fromEntries(accounts?.prepare("select did, rev from repo_root").raw().all() ?? []);
            before.accounts = accounts ? accounts.prepare("select did from actor order by did").pluck().all() : null;
          } catch (error) {
            console.log(`note: the old account.sqlite cannot be read: $${error.message}`);
          }
          if (!fs.existsSync(sequencer)) return before;
          try {
            const db = new Database(sequencer, { readonly: true, fileMustExist: true });
            before.sequence = db.prepare("select seq from sqlite_sequence where name = 'repo_seq'").pluck().get() ?? 0;
            before.list = departures.merged(list, departures.events(db, list.at(-1)?.seq ?? 0));
            db.close();
          } catch (error) {
            console.log(`note: the old events cannot be read: $${error.message}`);
          }
          return before;
        }

        /**
         * Queries the directory and the `relays` about the accounts `dids`, whose keys are `keys`. `known` has the numbers from
         * other sources: `manifest`, `given` (by the operator) and `old`; `asked` are documents that are already available.
         * Resolves to `documents`, `moved`, `resting`, `swapped`, `notes`, `sequence`, `revisions` and `statuses`. Throws
         * Unknown if the directory is unreachable, or if no event number is known.
         */
        async function world({ dids, keys, hostname, plc, relays, known, revisions, asked = new Map() }) {
          const rest = dids.filter((did) => !asked.has(did));
          const wanted = new Set(dids);
          const found = new Map([...asked, ...(await documents(rest, plc))].filter(([did]) => wanted.has(did)));
          const { unread, moved, swapped } = held(keys, found, dids, hostname);
          const fromPlc = dids.filter((did) => did.startsWith("did:plc:"));
          const silent = [...unread.keys()].filter((did) => did.startsWith("did:plc:"));
          if (silent.length > 0 && silent.length === fromPlc.length) {
            throw new Unknown(`$${silent[0]}: $${unread.get(silent[0])}. The directory of identities has to answer.`);
          }
          const notes = [...unread].filter(([did]) => !silent.includes(did)).map(([did, why]) => `$${did}: $${why}`);
          const answers = await Promise.all(relays.map(async (relay) => [relay, await ask(relay, "getHostStatus", { hostname })]));
          for (const [relay, status] of answers) if (status === null) notes.push(`$${relay} did not say how far it is`);
          const heard = answers.filter(([, status]) => status !== null);
          if (relays.length > 0 && heard.length === 0 && !known.given && !known.old) {
            throw new Unknown(
              "no relay says how far it has followed this server's events, and the old ones are not here. Give a number that is " +
                "surely above: --sequence N."
            );
          }
          const sequence = Math.max(known.manifest, known.given, known.old, ...heard.map(([, status]) => Number(status.seq ?? 0)));
          const followed = heard.length > 0 ? await repositoriesAt(heard[0][0], dids) : new Map();
          const seen = { ...revisions };
          const statuses = new Map();
          for (const [did, status] of followed) {
            if (status?.rev > (seen[did] ?? "")) seen[did] = status.rev;
            if (status?.active === false) statuses.set(did, status.status);
          }
          const resting = Object.fromEntries(silent.map((did) => [did, `$${unread.get(did)}. The member can reactivate it`]));
          return { documents: found, moved: Object.fromEntries(moved), resting, swapped, notes, sequence: sequence + MARGIN, revisions: seen, statuses };
        }

        async function repositoriesAt(relay, dids) {
          const found = new Map();
          const left = [...dids];
          const next = async () => {
            for (let did; (did = left.shift()); ) found.set(did, await ask(relay, "getRepoStatus", { did }));
          };
          await Promise.all(Array.from({ length: AT_ONCE }, next));
          return found;
        }

        /** A relay's answer; {} if it does not know the name, null if the query fails. */
        async function ask(relay, method, parameters) {
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

        /**
         * Changes of accounts since the snapshot: `deleted` and `hidden` (DIDs), `resting` (DID to why), and `notes`. `since`
         * maps a DID to its last status in the list of departures; `wanted` has the operator's parameters (DIDs).
         */
        function whoLeft({ since, statuses, wanted }) {
          const left = { deleted: new Set(wanted.delete), hidden: new Set(wanted.takedown), resting: {}, notes: [] };
          const back = new Set(wanted.bring_back);
          for (const [did, status] of since) {
            if (back.has(did)) continue;
            if (status === "deleted") left.deleted.add(did);
            if (status === "takendown" || status === "suspended") left.hidden.add(did);
            if (status === "deactivated") left.resting[did] = "it was deactivated after the snapshot";
            if (status === "active") left.notes.push(`$${did} came into use again after the snapshot; here it is as it was then`);
          }
          for (const [did, status] of statuses) {
            if (back.has(did)) continue;
            if (["deleted", "deactivated"].includes(status)) left.resting[did] = `the relay says that it was $${status}`;
            else left.notes.push(`the relay passes nothing on of $${did} ($${status}); if you took it down, do so again`);
          }
          return { ...left, deleted: [...left.deleted], hidden: [...left.hidden] };
        }

        module.exports = { Unknown, oldData, whoLeft, world };
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
        cpu    = 500
        memory = 256
      }

      logs {
        max_files     = 2
        max_file_size = 1
      }
    }

    task "older" {
      driver = "docker"
      user   = "1000:1000"

      lifecycle {
        hook    = "poststart"
        sidecar = true
      }

      config {
        image           = "restic/restic:0.19.1"
        entrypoint      = ["/bin/sh", "/local/older.sh"]
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
        destination = "local/older.sh"
        change_mode = "noop"
        data        = <<-EOT
        #!/bin/sh
        # Owns a restore's access to older backups: the restore itself has no key of the bucket. Runs in restic's image beside
        # the task that restores, and ends with it. They communicate by files in TARGET/older: a `request` is "list", answered
        # with list.json, or "get ID FOLDER DID", answered with that account's files in ID; `answer` is "ok" or "failed".
        set -eu
        umask 077

        desk=$TARGET/older

        # This task never ends by itself: Nomad counts a sidecar that may not start again as failed, also after an exit with 0
        # (client/allocrunner/taskrunner/restarts), and then kills the restore. So the bucket is opened for each request, in a shell
        # of its own: one that is away is an answer. What an earlier run left on the desk is removed before both (fetch.sh).
        list() (
            # shellcheck source=/dev/null
            . "$(dirname "$0")/open.sh"
            [ "$REPOSITORY" = there ] || { echo "[]" >"$desk/list.json" && exit 0; }
            restic snapshots --no-lock --host "$PDS_HOSTNAME" --tag pds --json >"$desk/list.json"
        )

        get() (
            # shellcheck source=/dev/null
            . "$(dirname "$0")/open.sh"
            restic restore "$1" --no-lock --quiet --host "$PDS_HOSTNAME" --tag pds --target "$desk/$1" --include /manifest.json \
                --include "/$2" --include "/blocks/$3" --include "/blocks/quarantine/$3"
        )

        trap 'exit 0' TERM
        while :; do
            if [ -f "$desk/request" ]; then
                # shellcheck disable=SC2046 # its words
                set -- $(cat "$desk/request")
                rm -f "$desk/request"
                said=failed
                "$@" && said=ok
                { echo $said >"$desk/answer.part" && mv "$desk/answer.part" "$desk/answer"; } || true
            fi
            sleep 1
        done
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
        {{ with nomadVar "nomad/jobs/pds-restore" }}{{ range .Tuples }}{{ .K }}={{ .V | toJSON }}
        {{ end }}{{ end }}
        {{ if nomadVarExists "nomad/jobs/pds-restore/pds-restore/older" }}{{ with nomadVar "nomad/jobs/pds-restore/pds-restore/older" }}{{ range .Tuples }}{{ .K }}={{ .V | toJSON }}
        {{ end }}{{ end }}{{ end }}
        EOT
      }

      resources {
        cpu    = 100
        memory = 128
      }

      logs {
        max_files     = 2
        max_file_size = 1
      }
    }
  }
}
