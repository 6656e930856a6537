job "pds-backup" {
  datacenters = ["dc1"]
  region      = "global"
  type        = "batch"
  priority    = 40

  periodic {
    crons            = ["*/15 * * * *"]
    prohibit_overlap = true
  }

  group "pds-backup" {
    count = 1

    volume "pds" {
      type      = "host"
      read_only = false
      source    = "pds"
    }

    restart {
      attempts = 1
      interval = "10m"
      delay    = "30s"
      mode     = "fail"
    }

    reschedule {
      attempts  = 0
      unlimited = false
    }

    task "snapshot" {
      driver = "docker"
      user   = "1000:1000"

      lifecycle {
        hook    = "prestart"
        sidecar = false
      }

      config {
        image           = "ghcr.io/bluesky-social/pds:0.4.5037"
        command         = "node"
        args            = ["/local/snapshot.cjs"]
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
        PDS_HOSTNAME                = "noted.at"
        PDS_DATA_DIRECTORY          = "/pds"
        PDS_BLOBSTORE_DISK_LOCATION = "/pds/blocks"
        SPACE_REMEDY                = "raise 'volume.size_gib' and run `pulumi up`"
      }

      template {
        script "snapshot.cjs" sha256:0c3d6fbb792095bb735ebd141048a45846ea3a6cee41becd0b1cdcb4180db2cf
      }

      template {
        script "account_events.cjs" sha256:c7a164329e9235512c16f1fa06f6e2c39b1704a1f656a79b7a520ad64af99bd3
      }

      template {
        script "account_check.cjs" sha256:4a3e07e916953b6287f2a287b77bfab34732f1ce7762b0e64e055439a95c0c7b
      }

      template {
        script "files.cjs" sha256:2d74029a758b067d0a3e115bfd42cc8c0ae67a2c47aa109e0a7125739a0c0a76
      }

      template {
        script "snapshot_accounts.cjs" sha256:4aa808f0acedead045df2d9f60c09d6ead1c1dcbb4fcee9df9810ef22c02d45c
      }

      template {
        script "missing_accounts.cjs" sha256:304d4306bcf81cbe223b745493eb286de67203e3b83fc35eb21d201c47421bce
      }

      template {
        script "repository.cjs" sha256:bfd22c102bc1e187f2c88d9fc0543b16dbec8157d8759e24dbb2dc36770bfe29
      }

      template {
        script "run_status.cjs" sha256:66b19971449dd4ef793130d9443a716e97e832e5f24bb5ae6af7002ac8b62ece
      }

      template {
        script "left_out.cjs" sha256:d7aa525088b1e82e1f5cb187429452669a282be62751771949c351af359c4b9e
      }

      template {
        script "blocks.cjs" sha256:4b6eab4b2648e953c0c4a980e6f96feaade76ddd608355562d11a50b35a4a851
      }

      template {
        script "car.cjs" sha256:1ea2314ed27193615bbd6fa25eeaca0bbabfbc300a4d96ca945d290bc27a71f3
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

    task "send" {
      driver = "docker"
      user   = "1000:1000"

      config {
        image           = "restic/restic:0.19.1"
        entrypoint      = ["/bin/sh", "/local/send.sh"]
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
        pids_limit      = 128
        hostname        = "pds-backup-dev"

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
        PDS_HOSTNAME       = "noted.at"
        PDS_DATA_DIRECTORY = "/pds"
        RESTIC_REPOSITORY  = "s3:https://ams3.digitaloceanspaces.com/dev-noted-at-backup/noted.at"
        AWS_DEFAULT_REGION = "ams3"
        KEEP_DAYS          = "30"
      }

      template {
        script "send.sh" sha256:9557e27eb491e45191aacaa0d923b67bbb74d00ebc117be657614cb7cc608b4d
      }

      template {
        script "restic_open.sh" sha256:d771cdb4901ef9db2f518b1439c8a21a886d32d8d73b66c84cce714994dccea1
      }

      template {
        destination = "secrets/backup.env"
        env         = true
        change_mode = "noop"
        perms       = "0600"
        data        = <<-EOT
        {{ with nomadVar "nomad/jobs/pds-backup" }}{{ range .Tuples }}{{ .K }}={{ .V | toJSON }}
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

    task "run-status" {
      driver = "docker"
      user   = "1000:1000"

      lifecycle {
        hook    = "poststop"
        sidecar = false
      }

      config {
        image           = "ghcr.io/bluesky-social/pds:0.4.5037"
        command         = "node"
        args            = ["/local/run_status.cjs"]
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
        script "run_status.cjs" sha256:66b19971449dd4ef793130d9443a716e97e832e5f24bb5ae6af7002ac8b62ece
      }

      template {
        script "files.cjs" sha256:2d74029a758b067d0a3e115bfd42cc8c0ae67a2c47aa109e0a7125739a0c0a76
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
