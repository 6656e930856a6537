job "pds-blobs" {
  datacenters = ["dc1"]
  region      = "global"
  type        = "batch"
  priority    = 40

  parameterized {
    payload       = "forbidden"
    meta_optional = ["step", "to", "accept_losses", "only"]
  }

  group "pds-blobs" {
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

    task "blobs" {
      driver = "docker"
      user   = "1000:1000"

      config {
        image           = "ghcr.io/bluesky-social/pds:0.4.5037"
        command         = "node"
        args            = ["/local/blobs.cjs"]
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
        BLOBS_SERVE                      = "bucket"
        AWS_REQUEST_CHECKSUM_CALCULATION = "WHEN_REQUIRED"
        AWS_RESPONSE_CHECKSUM_VALIDATION = "WHEN_REQUIRED"
        PDS_BLOBSTORE_S3_BUCKET          = "club-blobs"
        PDS_BLOBSTORE_S3_REGION          = "fra1"
        PDS_BLOBSTORE_S3_ENDPOINT        = "https://fra1.digitaloceanspaces.com"
        RESTIC_REPOSITORY                = "s3:https://ams3.digitaloceanspaces.com/dev-noted-at-backup/noted.at"
        AWS_DEFAULT_REGION               = "ams3"
      }

      template {
        script "blobs.cjs" sha256:fe2af7d1a1306f09d7d2ed2962cd0e2c7197b48f53f60b3c829891f2798d4be8
      }

      template {
        script "blob_place.cjs" sha256:5435225c7abff5ddddd5d2fc1a6ac0a1f9cf7c0ddfb5588c3d44379ef245c7e1
      }

      template {
        script "blob_copy.cjs" sha256:ddda61060ade743ac8afe17ab10ce29e7c8faac51c532f180c93e901417dd532
      }

      template {
        script "blob_stores.cjs" sha256:6f60d219c48c2fe0d2a8a833585dadc07e1e1bdac4c54e52ecb0a65957a17d49
      }

      template {
        script "exclusive.cjs" sha256:91aaa0b1fb34388aea1b3ab8f62736c762fc8ea18f18ea1a725cccf06f1b6f25
      }

      template {
        script "files.cjs" sha256:4d86dbbe1e2f1d2b8e61e72f8628b8efb5e0411aae1c95e2d665ac6d9bce7a9b
      }

      template {
        script "account_check.cjs" sha256:0f631d6f56b7c41e88a6bf07ac7333b8dac13adb16b9d4c58d1915507f2afa90
      }

      template {
        script "account_events.cjs" sha256:14515ccf58b84edcfbb0951316f034f4801daa49b3b5eef316bd6d0c4a6a48b4
      }

      template {
        script "repository.cjs" sha256:c258dd4effff4a46782db291c9c1eaf34ab303e24ffcf5b37f859706cb6b6d1b
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
        {{ with nomadVar "nomad/jobs/pds-blobs" }}{{ range .Tuples }}{{ .K }}={{ .V | toJSON }}
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
  }
}
