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
      read_only = true
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
        read_only   = true
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
        // Looks at the volume, the number of accounts, and when a backup and a drill last went well, and tells a dead man's
        // switch: PING_URL while all is well, its /fail with the reasons else. A switch that hears nothing raises the alarm by
        // itself, so a host that is gone is noticed too.
        const fs = require("node:fs");
        const path = require("node:path");

        const directory = process.env.PDS_DATA_DIRECTORY;

        // As `df` counts: what is reserved for root is neither used nor free.
        function percent(used, free) {
          return used + free > 0 ? Math.ceil((100 * used) / (used + free)) : 0;
        }

        // One directory for each account, deactivated and taken down ones too: actors/XX/DID (actor-store of @atproto/pds).
        // SQLite is not asked: counting must never hold a lock that the server waits for.
        function accounts() {
          const actors = path.join(directory, "actors");
          if (!fs.existsSync(actors)) return 0;
          const names = fs.readdirSync(actors).flatMap((shard) => fs.readdirSync(path.join(actors, shard)));
          return names.filter((name) => name.startsWith("did:")).length;
        }

        // What stamp.cjs left. Before the first backup, time is counted from when the volume was marked as this PDS's; before
        // the first drill, from the first backup.
        function overdue() {
          const { WATCH_BACKUP_HOURS: hours, WATCH_DRILL_HOURS: drillHours } = process.env;
          if (!hours) return [];
          const marked = fs.statSync(path.join(directory, ".pds-identity.json"), { throwIfNoEntry: false })?.mtime;
          const [backup, drill] = ["backup", "drill"].map(stamped);
          const wrong = late("backup", backup, marked?.toISOString(), hours);
          wrong.push(...late("drill", drill, backup.first, drillHours));
          if (wrong.length > 0) return wrong;
          for (const [name, { failed, why }] of Object.entries({ backup, drill })) {
            if (failed) wrong.push(`the $${name} of $${failed} failed: $${why}`);
          }
          return wrong;
        }

        function stamped(name) {
          const file = path.join(directory, ".stamps", `$${name}.json`);
          return fs.existsSync(file) ? JSON.parse(fs.readFileSync(file, "utf8")) : {};
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

        async function main() {
          let wrong, summary;
          try {
            [wrong, summary] = findings();
          } catch (error) {
            [wrong, summary] = [[`the volume cannot be read: $${error.code ?? error.name}`], "volume not readable"];
          }
          const text = `$${process.env.PDS_HOSTNAME}: $${wrong.length > 0 ? wrong.join("; ") : summary}`;
          console.log(text);
          // Whoever has the URL can silence the alarm: it is never printed, nor is an error that may hold it.
          try {
            const url = process.env.PING_URL + (wrong.length > 0 ? "/fail" : "");
            const answer = await fetch(url, { method: "POST", body: text, signal: AbortSignal.timeout(30000) });
            if (answer.ok) return;
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
