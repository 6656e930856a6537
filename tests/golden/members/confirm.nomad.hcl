job "pds-confirm" {
  datacenters = ["dc1"]
  region      = "global"
  type        = "batch"

  parameterized {
    payload = "forbidden"
  }

  group "pds-confirm" {
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

    task "confirm" {
      driver = "docker"
      user   = "1000:1000"

      config {
        image           = "ghcr.io/bluesky-social/pds:0.4.5037"
        command         = "node"
        args            = ["/local/confirm.cjs"]
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
        destination = "local/confirm.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // Marks the e-mail addresses of the accounts in PDS_CONFIRM_DIDS as confirmed, as a link in a message would: one short
        // transaction beside the running server, on these accounts only.
        const { createRequire } = require("node:module");
        const path = require("node:path");

        // The server's own SQLite module, resolved from the server's package: pnpm, which builds the image, links it only
        // there.
        const app = createRequire(path.join(process.cwd(), "package.json"));
        const Database = createRequire(app.resolve("@atproto/pds/package.json"))("better-sqlite3");

        const file = process.env.PDS_ACCOUNT_DB_LOCATION || path.join(process.env.PDS_DATA_DIRECTORY, "account.sqlite");
        const dids = process.env.PDS_CONFIRM_DIDS.split(" ").filter((word) => word.startsWith("did:"));

        const db = new Database(file, { fileMustExist: true, timeout: 20000 });
        db.pragma("synchronous = FULL"); // the stack's state will record it as done (decision 16)
        const known = db.prepare("SELECT 1 FROM account WHERE did = ?");
        const update = db.prepare("UPDATE account SET emailConfirmedAt = ? WHERE did = ? AND emailConfirmedAt IS NULL");
        const now = new Date().toISOString();
        const confirm = db.transaction(() => {
          for (const did of dids) {
            if (!known.get(did)) console.log(`$${did} is no account here`);
            else console.log(`$${did} $${update.run(now, did).changes ? "is confirmed now" : "was confirmed before"}`);
          }
        });
        confirm.immediate();
        db.close();
        EOT
      }

      template {
        destination = "local/dids.env"
        env         = true
        change_mode = "noop"
        data        = <<-EOT
        {{ with nomadVar "nomad/jobs/pds-confirm" }}PDS_CONFIRM_DIDS={{ .dids | toJSON }}{{ end }}
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
