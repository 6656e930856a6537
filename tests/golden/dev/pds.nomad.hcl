job "pds" {
  datacenters = ["dc1"]
  region      = "global"
  type        = "service"

  group "pds" {
    count          = 1
    shutdown_delay = "2s"

    network {
      port "http" {
        to           = 3000
        host_network = "loopback"
      }
    }

    service {
      name     = "pds"
      provider = "nomad"
      port     = "http"

      check {
        type     = "http"
        path     = "/xrpc/_health"
        interval = "10s"
        timeout  = "5s"

        check_restart {
          limit = 18
          grace = "15m"
        }
      }
    }

    volume "pds" {
      type      = "host"
      read_only = false
      source    = "pds"
    }

    restart {
      attempts = 10
      interval = "10m"
      delay    = "15s"
      mode     = "delay"
    }

    reschedule {
      delay          = "15s"
      delay_function = "constant"
      unlimited      = true
    }

    update {
      max_parallel = 0
    }

    task "guard" {
      driver = "docker"
      user   = "1000:1000"

      lifecycle {
        hook    = "prestart"
        sidecar = false
      }

      restart {
        attempts = 0
        interval = "10m"
        delay    = "15s"
        mode     = "fail"
      }

      config {
        image           = "ghcr.io/bluesky-social/pds:0.4.5037"
        command         = "node"
        args            = ["/local/guard.cjs"]
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
        PDS_HOSTNAME       = "noted.at"
        PDS_DATA_DIRECTORY = "/pds"
      }

      template {
        destination = "local/guard.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // Runs before the server: as a task of its own, and at every start in the server's process. Refuses a volume that is
        // another PDS's, or an empty one that nobody announced: a healthy empty PDS would make new identities for handles that
        // exist.
        //
        // The mark on the volume is the hostname and the rotation key's public half, which is in every DID document anyway.
        if (!require("node:worker_threads").isMainThread) return;

        const fs = require("node:fs");
        const path = require("node:path");
        const crypto = require("node:crypto");

        const directory = process.env.PDS_DATA_DIRECTORY;
        const mark = path.join(directory, ".pds-identity.json");

        function refuse(problem, remedy) {
          console.error(`REFUSED: $${problem}\n  $${remedy}`);
          process.exit(1);
        }

        const pair = crypto.createECDH("secp256k1");
        pair.setPrivateKey(process.env.PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX, "hex");
        const ours = {
          hostname: process.env.PDS_HOSTNAME,
          rotation_public_key: pair.getPublicKey("hex", "compressed"),
        };

        if (fs.existsSync(path.join(directory, ".restore", "swap.json"))) {
          refuse("a restore was cut short between the old data and the new.", "Run `./pds restore` again: it goes on there.");
        }

        if (fs.existsSync(mark)) {
          const theirs = JSON.parse(fs.readFileSync(mark, "utf8"));
          for (const name of Object.keys(ours)) {
            if (theirs[name] !== ours[name]) {
              refuse(
                `this volume belongs to a PDS with $${name} $${theirs[name]}; the stack has $${ours[name]}.`,
                "Attach this stack's own volume, or give the stack that PDS's hostname and rotation key (pds:secrets)."
              );
            }
          }
          console.log(`the volume is that of $${ours.hostname}`);
        } else {
          // The file system's own, what a crash of this script left behind, and what backup and restore begin with.
          const nothing = ["lost+found", `$${path.basename(mark)}.tmp`, ".snapshot", ".stamps", ".restore"];
          const data = fs.readdirSync(directory).filter((name) => !nothing.includes(name));
          if (data.length === 0 && process.env.PDS_GUARD_NEW !== "true") {
            refuse(
              "the volume is empty, and the stack does not say that this PDS is new.",
              "Restore its data, or for a first start write 'pds: {new: true}' in the stack file."
            );
          }
          if (data.length > 0 && process.env.PDS_GUARD_ADOPT !== "true") {
            refuse(
              "the volume holds data without the mark of any PDS.",
              "If it is this PDS's data, say so in the stack file: 'volume: {adopt: VOLUME-ID}'."
            );
          }
          // Written aside and renamed, so that a crash leaves no half mark.
          fs.writeFileSync(`$${mark}.tmp`, JSON.stringify(ours, null, 2) + "\n", { mode: 0o600, flush: true });
          fs.renameSync(`$${mark}.tmp`, mark);
          console.log(`marked the volume as that of $${ours.hostname}`);
        }
        EOT
      }

      template {
        destination = "secrets/guard.env"
        env         = true
        change_mode = "noop"
        perms       = "0600"
        data        = <<-EOT
        {{ with nomadVar "nomad/jobs/pds/pds" }}{{ range .Tuples }}{{ .K }}={{ .V | toJSON }}
        {{ end }}{{ end }}
        EOT
      }

      template {
        destination = "secrets/pds.env"
        env         = true
        change_mode = "noop"
        perms       = "0600"
        data        = <<-EOT
        {{ with nomadVar "nomad/jobs/pds" }}{{ range .Tuples }}{{ .K }}={{ .V | toJSON }}
        {{ end }}{{ end }}
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

    task "pds" {
      driver       = "docker"
      user         = "1000:1000"
      kill_timeout = "60s"

      config {
        image           = "ghcr.io/bluesky-social/pds:0.4.5037"
        ports           = ["http"]
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
        pids_limit      = 512

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
        TZ                              = "UTC"
        PDS_HOSTNAME                    = "noted.at"
        PDS_PORT                        = "3000"
        PDS_DATA_DIRECTORY              = "/pds"
        PDS_BLOBSTORE_DISK_LOCATION     = "/pds/blocks"
        PDS_BLOBSTORE_DISK_TMP_LOCATION = "/pds/temp"
        PDS_INVITE_REQUIRED             = "true"
        PDS_BLOB_UPLOAD_LIMIT           = "52428800"
        PDS_RATE_LIMITS_ENABLED         = "true"
        LOG_ENABLED                     = "true"
        PDS_DID_PLC_URL                 = "https://plc.directory"
        PDS_BSKY_APP_VIEW_URL           = "https://api.bsky.app"
        PDS_BSKY_APP_VIEW_DID           = "did:web:api.bsky.app"
        PDS_REPORT_SERVICE_URL          = "https://mod.bsky.app"
        PDS_REPORT_SERVICE_DID          = "did:plc:ar7c4by46qjdydhdevvrndac"
        PDS_CRAWLERS                    = "https://bsky.network"
        NODE_OPTIONS                    = "--require=/local/guard.cjs"
      }

      template {
        destination = "local/guard.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // Runs before the server: as a task of its own, and at every start in the server's process. Refuses a volume that is
        // another PDS's, or an empty one that nobody announced: a healthy empty PDS would make new identities for handles that
        // exist.
        //
        // The mark on the volume is the hostname and the rotation key's public half, which is in every DID document anyway.
        if (!require("node:worker_threads").isMainThread) return;

        const fs = require("node:fs");
        const path = require("node:path");
        const crypto = require("node:crypto");

        const directory = process.env.PDS_DATA_DIRECTORY;
        const mark = path.join(directory, ".pds-identity.json");

        function refuse(problem, remedy) {
          console.error(`REFUSED: $${problem}\n  $${remedy}`);
          process.exit(1);
        }

        const pair = crypto.createECDH("secp256k1");
        pair.setPrivateKey(process.env.PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX, "hex");
        const ours = {
          hostname: process.env.PDS_HOSTNAME,
          rotation_public_key: pair.getPublicKey("hex", "compressed"),
        };

        if (fs.existsSync(path.join(directory, ".restore", "swap.json"))) {
          refuse("a restore was cut short between the old data and the new.", "Run `./pds restore` again: it goes on there.");
        }

        if (fs.existsSync(mark)) {
          const theirs = JSON.parse(fs.readFileSync(mark, "utf8"));
          for (const name of Object.keys(ours)) {
            if (theirs[name] !== ours[name]) {
              refuse(
                `this volume belongs to a PDS with $${name} $${theirs[name]}; the stack has $${ours[name]}.`,
                "Attach this stack's own volume, or give the stack that PDS's hostname and rotation key (pds:secrets)."
              );
            }
          }
          console.log(`the volume is that of $${ours.hostname}`);
        } else {
          // The file system's own, what a crash of this script left behind, and what backup and restore begin with.
          const nothing = ["lost+found", `$${path.basename(mark)}.tmp`, ".snapshot", ".stamps", ".restore"];
          const data = fs.readdirSync(directory).filter((name) => !nothing.includes(name));
          if (data.length === 0 && process.env.PDS_GUARD_NEW !== "true") {
            refuse(
              "the volume is empty, and the stack does not say that this PDS is new.",
              "Restore its data, or for a first start write 'pds: {new: true}' in the stack file."
            );
          }
          if (data.length > 0 && process.env.PDS_GUARD_ADOPT !== "true") {
            refuse(
              "the volume holds data without the mark of any PDS.",
              "If it is this PDS's data, say so in the stack file: 'volume: {adopt: VOLUME-ID}'."
            );
          }
          // Written aside and renamed, so that a crash leaves no half mark.
          fs.writeFileSync(`$${mark}.tmp`, JSON.stringify(ours, null, 2) + "\n", { mode: 0o600, flush: true });
          fs.renameSync(`$${mark}.tmp`, mark);
          console.log(`marked the volume as that of $${ours.hostname}`);
        }
        EOT
      }

      template {
        destination = "secrets/guard.env"
        env         = true
        change_mode = "noop"
        perms       = "0600"
        data        = <<-EOT
        {{ with nomadVar "nomad/jobs/pds/pds" }}{{ range .Tuples }}{{ .K }}={{ .V | toJSON }}
        {{ end }}{{ end }}
        EOT
      }

      template {
        destination = "secrets/pds.env"
        env         = true
        change_mode = "restart"
        splay       = "0s"
        perms       = "0600"
        data        = <<-EOT
        {{ with nomadVar "nomad/jobs/pds" }}{{ range .Tuples }}{{ .K }}={{ .V | toJSON }}
        {{ end }}{{ end }}
        EOT
      }

      resources {
        cpu    = 500
        memory = 512
      }

      logs {
        max_files     = 5
        max_file_size = 10
      }
    }
  }
}
