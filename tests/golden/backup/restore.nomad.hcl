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
        script "fetch.sh" sha256:5d25d9db865a6993df806fce5ae2f343587f6d97736236975cd64e140ff12f72
      }

      template {
        script "restic_open.sh" sha256:725bc2b2f4036fe2948b4c726f0621739df799d87270daf1b9425c23dba03be3
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
        script "restore.cjs" sha256:049882951bef0ec9962986bce6b94b2e5d560797c9c0b7123b158f8c17e2f121
      }

      template {
        script "restore_server.cjs" sha256:e7d1a811064a83c969aceb8b46d32d47664e0d3cd73ad1bdeac5a1a685e1f289
      }

      template {
        script "account_events.cjs" sha256:14515ccf58b84edcfbb0951316f034f4801daa49b3b5eef316bd6d0c4a6a48b4
      }

      template {
        script "restore_accounts.cjs" sha256:c2f4a44138b911dd1bb077fa9453ecc4052a6e598d2ad0dc7ceffe48847758ab
      }

      template {
        script "restore_request.cjs" sha256:d6bf1776206a76a369a4817a23fc16aba1b562a3d2ae8b77760721c12d0c0d12
      }

      template {
        script "restore_swap.cjs" sha256:4be288b33183a726d6f8a1873f84ee27a5994bc97c5b6eb12d2c5f96f2b766a4
      }

      template {
        script "account_check.cjs" sha256:0f631d6f56b7c41e88a6bf07ac7333b8dac13adb16b9d4c58d1915507f2afa90
      }

      template {
        script "did_documents.cjs" sha256:0f0607b883afd9951ffd904e8b7340d00fa5d477b5d826aa802e793fb49a7207
      }

      template {
        script "repository.cjs" sha256:c258dd4effff4a46782db291c9c1eaf34ab303e24ffcf5b37f859706cb6b6d1b
      }

      template {
        script "restore_one.cjs" sha256:c7289a24c9042fa914d57af74a135492137a45fbd527c33e23f7dc91b6e3ddbb
      }

      template {
        script "restore_world.cjs" sha256:aad5cc605c40412937de92723cce9b3d02ef2886156fd9bb2e95f246f4dc0b6d
      }

      template {
        script "snapshot_accounts.cjs" sha256:5870c78b412e89550d45f30ad59acec0930ca59420deb890afd5d6170aeeee86
      }

      template {
        script "verify.cjs" sha256:080a401813b2c0d92bbc94b5c5219acc329d8a278dad3fce01dc439fe7f60453
      }

      template {
        script "blocks.cjs" sha256:cb411720e96a0ac6a07c565762293f7020c15a3294a97ab8523b1340b143d9c5
      }

      template {
        script "car.cjs" sha256:0140e82b1f69a723b86614b23c6706aeb8c9e4584c2d88f7e942aca6a923214e
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
        script "restic_open.sh" sha256:725bc2b2f4036fe2948b4c726f0621739df799d87270daf1b9425c23dba03be3
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
