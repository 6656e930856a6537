job "pds-watch" {
  datacenters = ["dc1"]
  region      = "global"
  type        = "batch"

  periodic {
    crons            = ["*/15 * * * *"]
    prohibit_overlap = true
  }

  group "pds-watch" {
    count = 1

    volume "pds" {
      type      = "host"
      read_only = false
      source    = "pds"
    }

    restart {
      attempts = 1
      interval = "10m"
      delay    = "15s"
      mode     = "fail"
    }

    task "watch" {
      driver = "docker"
      user   = "1000:1000"

      config {
        image           = "ghcr.io/bluesky-social/pds:0.4.5037"
        command         = "node"
        args            = ["/local/watch.cjs"]
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
        PDS_HOSTNAME         = "noted.at"
        PDS_DATA_DIRECTORY   = "/pds"
        WATCH_VOLUME_PERCENT = "80"
        WATCH_ACCOUNTS       = "80"
      }

      template {
        destination = "local/watch.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // Reports volume usage, account count and backup and drill status to a dead man's switch: PING_URL if all is well, else
        // its /fail with the reasons. A switch that receives nothing raises the alarm by itself, so it also detects a lost
        // host.
        const fs = require("node:fs");
        const path = require("node:path");
        const { killed, load, save } = require("./stamp.cjs");

        const NAMED = 5; // findings in one message
        const STUCK = 6 * 3600000; // ms; far longer than any backup or drill takes
        const TOLD = "told";

        const directory = process.env.PDS_DATA_DIRECTORY;

        // Like `df`: space reserved for root is neither used nor free.
        function percent(used, free) {
          return used + free > 0 ? Math.ceil((100 * used) / (used + free)) : 0;
        }

        // One directory for each account, including deactivated and taken down ones: actors/XX/DID (actor-store of
        // @atproto/pds). This never queries SQLite: counting must never hold a lock that the server waits for.
        function accounts() {
          const actors = path.join(directory, "actors");
          if (!fs.existsSync(actors)) return 0;
          const names = fs.readdirSync(actors).flatMap((shard) => fs.readdirSync(path.join(actors, shard)));
          return names.filter((name) => name.startsWith("did:")).length;
        }

        // Uses the statuses of stamp.cjs. Before the first backup, time counts from when the volume was marked as this PDS's;
        // before the first drill, from the first backup.
        function overdue() {
          const { WATCH_BACKUP_HOURS: hours, WATCH_DRILL_HOURS: drillHours } = process.env;
          if (!hours) return [];
          const marked = fs.statSync(path.join(directory, ".pds-identity.json"), { throwIfNoEntry: false })?.mtime;
          const [backup, drill] = ["backup", "drill"].map(status);
          const wrong = late("backup", backup, marked?.toISOString(), hours);
          wrong.push(...late("drill", drill, backup.first, drillHours));
          if (wrong.length > 0) return wrong;
          for (const [name, { failed, why }] of Object.entries({ backup, drill })) {
            if (failed) wrong.push(`the $${name} of $${failed} failed: $${why}`);
          }
          return wrong;
        }

        /** The status of a run. A run that began hours ago and has not ended was killed, and is reported as failed. */
        function status(name) {
          const found = load(name);
          const lasted = found.began ? Date.now() - Date.parse(found.began) : 0;
          return lasted > STUCK ? { ...found, ...killed(found.began) } : found;
        }

        /**
         * The faults of single accounts that backups and drills found. Each is reported once: repeating it in every run would
         * hide every other alarm. Reported faults are kept beside the statuses. Returns all of them, the new ones, and a
         * function that stores them.
         */
        function accountFindings() {
          const all = {};
          for (const name of ["drill", "backup"]) {
            for (const [did, { state, what }] of Object.entries(load(name).findings ?? {})) all[did] = `$${did}: $${state}: $${what}`;
          }
          const told = load(TOLD);
          const fresh = Object.entries(all).filter(([did, text]) => told[did] !== text);
          return { count: Object.keys(all).length, fresh: fresh.map(([, text]) => text), keep: () => save(TOLD, all) };
        }

        function late(name, { good, failed, why }, first, hours) {
          const since = good ?? first;
          if (!since || Date.now() - Date.parse(since) < hours * 3600000) return [];
          return [`no good $${name} since $${since}$${failed ? `; at $${failed}: $${why}` : ""}`];
        }

        function findings() {
          const volume = fs.statfsSync(directory);
          const space = percent(volume.blocks - volume.bfree, volume.bavail);
          const inodes = percent(volume.files - volume.ffree, volume.ffree);
          const count = accounts();
          const found = [
            [space >= process.env.WATCH_VOLUME_PERCENT, `the volume is $${space} % full: raise volume.size_gib`],
            [inodes >= process.env.WATCH_VOLUME_PERCENT, `$${inodes} % of the volume's files are used: raise volume.size_gib`],
            [count >= process.env.WATCH_ACCOUNTS, `$${count} accounts: a relay stops at 100 until it is asked to take more`],
          ];
          const wrong = found.filter(([bad]) => bad).map(([, text]) => text);
          wrong.push(...overdue());
          return [wrong, `volume $${space} % full, $${count} accounts`];
        }

        function keep({ fresh, keep: save }) {
          if (fresh.length === 0) return;
          try {
            save();
          } catch (error) {
            console.error(`that the findings were sent could not be noted, so they are sent again: $${error.code}`);
          }
        }

        async function main() {
          let wrong, summary, accounts;
          try {
            [wrong, summary] = findings();
            accounts = accountFindings();
          } catch (error) {
            [wrong, summary] = [[`the volume cannot be read: $${error.code ?? error.name}`], "volume not readable"];
            accounts = { count: 0, fresh: [], keep: () => {} };
          }
          const more = accounts.fresh.length > NAMED ? [`and $${accounts.fresh.length - NAMED} more: ./pds check`] : [];
          wrong.push(...accounts.fresh.slice(0, NAMED), ...more);
          if (accounts.count > 0) summary += `, $${accounts.count} findings about accounts (./pds check)`;
          const text = `$${process.env.PDS_HOSTNAME}: $${wrong.length > 0 ? wrong.join("; ") : summary}`;
          console.log(text);
          // The URL suffices to silence the alarm, so neither it nor an error that may contain it is printed.
          try {
            const url = process.env.PING_URL + (wrong.length > 0 ? "/fail" : "");
            const answer = await fetch(url, { method: "POST", body: text, signal: AbortSignal.timeout(30000) });
            if (answer.ok) return keep(accounts);
            console.error(`the ping was answered with $${answer.status}`);
          } catch (error) {
            console.error(`the ping did not arrive: $${error.cause?.code ?? error.name}`);
          }
          process.exitCode = 1;
        }

        main();
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
        destination = "secrets/ping.env"
        env         = true
        change_mode = "noop"
        perms       = "0600"
        data        = <<-EOT
        {{ with nomadVar "nomad/jobs/pds-watch" }}{{ range .Tuples }}{{ .K }}={{ .V | toJSON }}
        {{ end }}{{ end }}
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
