job "pds-restore" {
  datacenters = ["dc1"]
  region      = "global"
  type        = "batch"

  parameterized {
    payload       = "forbidden"
    meta_optional = ["snapshot", "from", "show", "verify", "only", "step", "without", "sequence", "rotation_public_key", "takedown", "delete", "bring_back", "old_data", "forget"]
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
        script "fetch.sh" sha256:109f993854093cf773f2b72364638a9285f9bdf27b40fc6a7c1045f395981a9f
      }

      template {
        script "restic_open.sh" sha256:09df138ef6906da09c815a817af7207aa2afcefc9fda43cb2c4fb2bfcc4c0556
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
        BLOBS_SERVE        = "bucket"
        OLDER_BACKUPS      = "true"
      }

      template {
        script "restore.cjs" sha256:4c52ed5d9cd82f2340297a2c903a462c2a743d4848e34676e576f6cf8d8598f2
      }

      template {
        script "restore_server.cjs" sha256:e7d1a811064a83c969aceb8b46d32d47664e0d3cd73ad1bdeac5a1a685e1f289
      }

      template {
        script "account_events.cjs" sha256:14515ccf58b84edcfbb0951316f034f4801daa49b3b5eef316bd6d0c4a6a48b4
      }

      template {
        script "restore_accounts.cjs" sha256:532790662874ec120fd843bf77a40a35b778048d5939fdb0ae46d7cb39cfa78f
      }

      template {
        script "restore_request.cjs" sha256:5a8be7eace897afa95bd94b592b77fee7852a41c9d61bbc63813f58a295fbda5
      }

      template {
        script "restore_swap.cjs" sha256:240de54a9bc90851ed6c15f3f3d031f643aa4e477697ed02c2bdbc763a436214
      }

      template {
        script "account_check.cjs" sha256:6b5fd9c0cb4a61cd805c68c79218471517387f711044239b0e343a60d421aded
      }

      template {
        script "did_documents.cjs" sha256:0f0607b883afd9951ffd904e8b7340d00fa5d477b5d826aa802e793fb49a7207
      }

      template {
        script "files.cjs" sha256:4d86dbbe1e2f1d2b8e61e72f8628b8efb5e0411aae1c95e2d665ac6d9bce7a9b
      }

      template {
        script "repository.cjs" sha256:c258dd4effff4a46782db291c9c1eaf34ab303e24ffcf5b37f859706cb6b6d1b
      }

      template {
        script "restore_one.cjs" sha256:cf2eff99f376e55d62144b2548616a1a0f6c2672e6dd679e32f23d7584e5fcaa
      }

      template {
        script "restore_world.cjs" sha256:aad5cc605c40412937de92723cce9b3d02ef2886156fd9bb2e95f246f4dc0b6d
      }

      template {
        script "verify.cjs" sha256:080a401813b2c0d92bbc94b5c5219acc329d8a278dad3fce01dc439fe7f60453
      }

      template {
        script "exclusive.cjs" sha256:91aaa0b1fb34388aea1b3ab8f62736c762fc8ea18f18ea1a725cccf06f1b6f25
      }

      template {
        script "blob_place.cjs" sha256:5435225c7abff5ddddd5d2fc1a6ac0a1f9cf7c0ddfb5588c3d44379ef245c7e1
      }

      template {
        script "blocks.cjs" sha256:cb411720e96a0ac6a07c565762293f7020c15a3294a97ab8523b1340b143d9c5
      }

      template {
        script "car.cjs" sha256:1ea2314ed27193615bbd6fa25eeaca0bbabfbc300a4d96ca945d290bc27a71f3
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

    task "fetch-older" {
      driver = "docker"
      user   = "1000:1000"

      lifecycle {
        hook    = "poststart"
        sidecar = true
      }

      config {
        image           = "restic/restic:0.19.1"
        entrypoint      = ["/bin/sh", "/local/fetch_older.sh"]
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
        script "fetch_older.sh" sha256:32f647d01020466c0e3f9f17ccfbe9499dd2cec803b03c79d8f426a48d33fa82
      }

      template {
        script "restic_open.sh" sha256:09df138ef6906da09c815a817af7207aa2afcefc9fda43cb2c4fb2bfcc4c0556
      }

      template {
        destination = "secrets/backup.env"
        env         = true
        change_mode = "noop"
        perms       = "0600"
        data        = <<-EOT
        {{ with nomadVar "nomad/jobs/pds-restore" }}{{ range .Tuples }}{{ .K }}={{ .V | toJSON }}
        {{ end }}{{ end }}
        {{ if nomadVarExists "nomad/jobs/pds-restore/pds-restore/fetch-older" }}{{ with nomadVar "nomad/jobs/pds-restore/pds-restore/fetch-older" }}{{ range .Tuples }}{{ .K }}={{ .V | toJSON }}
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
