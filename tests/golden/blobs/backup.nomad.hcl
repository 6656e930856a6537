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
        PDS_HOSTNAME       = "noted.at"
        PDS_DATA_DIRECTORY = "/pds"
        BLOBS_SERVE        = "bucket"
      }

      template {
        script "snapshot.cjs" sha256:725f5e66bc36a701c2cd426501ced48e78b9e043df6fba31459ccb78f8fe45d6
      }

      template {
        script "account_events.cjs" sha256:14515ccf58b84edcfbb0951316f034f4801daa49b3b5eef316bd6d0c4a6a48b4
      }

      template {
        script "account_check.cjs" sha256:0f631d6f56b7c41e88a6bf07ac7333b8dac13adb16b9d4c58d1915507f2afa90
      }

      template {
        script "files.cjs" sha256:4d86dbbe1e2f1d2b8e61e72f8628b8efb5e0411aae1c95e2d665ac6d9bce7a9b
      }

      template {
        script "snapshot_accounts.cjs" sha256:f598606b613399547150898c1078c879887ed8794945d6318d17366b9efd3fe0
      }

      template {
        script "repository.cjs" sha256:c258dd4effff4a46782db291c9c1eaf34ab303e24ffcf5b37f859706cb6b6d1b
      }

      template {
        script "run_status.cjs" sha256:d65f3953197776016664afd5a539113a96902882ba4d0453846c8026060cd105
      }

      template {
        script "blocks.cjs" sha256:cb411720e96a0ac6a07c565762293f7020c15a3294a97ab8523b1340b143d9c5
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
        script "send.sh" sha256:264bd8225e572b2af2fda4f01a18a3c9e7f72bff87bb4032d08fa39f188f9310
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

    task "blobs" {
      driver = "docker"
      user   = "1000:1000"

      config {
        image           = "ghcr.io/bluesky-social/pds:0.4.5037"
        command         = "node"
        args            = ["/local/backup_blobs.cjs"]
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
        PDS_HOSTNAME                     = "noted.at"
        PDS_DATA_DIRECTORY               = "/pds"
        AWS_REQUEST_CHECKSUM_CALCULATION = "WHEN_REQUIRED"
        AWS_RESPONSE_CHECKSUM_VALIDATION = "WHEN_REQUIRED"
        PDS_BLOBSTORE_S3_BUCKET          = "club-blobs"
        PDS_BLOBSTORE_S3_REGION          = "fra1"
        PDS_BLOBSTORE_S3_ENDPOINT        = "https://fra1.digitaloceanspaces.com"
        RESTIC_REPOSITORY                = "s3:https://ams3.digitaloceanspaces.com/dev-noted-at-backup/noted.at"
        AWS_DEFAULT_REGION               = "ams3"
        KEEP_DAYS                        = "30"
      }

      template {
        script "backup_blobs.cjs" sha256:fabaf490be1381eecf32eaa6d1eeb2003a5eb2fdd136aac5795daf12628a9e43
      }

      template {
        script "account_check.cjs" sha256:0f631d6f56b7c41e88a6bf07ac7333b8dac13adb16b9d4c58d1915507f2afa90
      }

      template {
        script "blob_copy.cjs" sha256:ddda61060ade743ac8afe17ab10ce29e7c8faac51c532f180c93e901417dd532
      }

      template {
        script "blob_stores.cjs" sha256:6f60d219c48c2fe0d2a8a833585dadc07e1e1bdac4c54e52ecb0a65957a17d49
      }

      template {
        script "repository.cjs" sha256:c258dd4effff4a46782db291c9c1eaf34ab303e24ffcf5b37f859706cb6b6d1b
      }

      template {
        script "account_events.cjs" sha256:14515ccf58b84edcfbb0951316f034f4801daa49b3b5eef316bd6d0c4a6a48b4
      }

      template {
        script "files.cjs" sha256:4d86dbbe1e2f1d2b8e61e72f8628b8efb5e0411aae1c95e2d665ac6d9bce7a9b
      }

      template {
        script "blocks.cjs" sha256:cb411720e96a0ac6a07c565762293f7020c15a3294a97ab8523b1340b143d9c5
      }

      template {
        script "car.cjs" sha256:1ea2314ed27193615bbd6fa25eeaca0bbabfbc300a4d96ca945d290bc27a71f3
      }

      template {
        destination = "secrets/backup.env"
        env         = true
        change_mode = "noop"
        perms       = "0600"
        data        = <<-EOT
        {{ with nomadVar "nomad/jobs/pds-backup" }}{{ range .Tuples }}{{ .K }}={{ .V | toJSON }}
        {{ end }}{{ end }}
        {{ with nomadVar "nomad/jobs/pds-backup/pds-backup/blobs" }}{{ range .Tuples }}{{ .K }}={{ .V | toJSON }}
        {{ end }}{{ end }}
        EOT
      }

      resources {
        cpu    = 100
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
        BLOBS_COPIED       = "true"
      }

      template {
        script "run_status.cjs" sha256:d65f3953197776016664afd5a539113a96902882ba4d0453846c8026060cd105
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
