job "pds-unreferenced-blobs" {
  datacenters = ["dc1"]
  region      = "global"
  type        = "batch"
  priority    = 30

  periodic {
    crons            = ["23 5 * * 1"]
    prohibit_overlap = true
  }

  group "pds-unreferenced-blobs" {
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

    task "unreferenced-blobs" {
      driver = "docker"
      user   = "1000:1000"

      config {
        image           = "ghcr.io/bluesky-social/pds:0.4.5037"
        command         = "node"
        args            = ["/local/unreferenced_in_bucket.cjs"]
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
        PDS_DATA_DIRECTORY               = "/pds"
        AWS_REQUEST_CHECKSUM_CALCULATION = "WHEN_REQUIRED"
        AWS_RESPONSE_CHECKSUM_VALIDATION = "WHEN_REQUIRED"
        PDS_BLOBSTORE_S3_BUCKET          = "club-blobs"
        PDS_BLOBSTORE_S3_REGION          = "fra1"
        PDS_BLOBSTORE_S3_ENDPOINT        = "https://fra1.digitaloceanspaces.com"
      }

      template {
        script "unreferenced_in_bucket.cjs" sha256:3c939df75cedc0b2731f716d2feaf91032b36f5e2b011989d70e0485936a1138
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
        script "run_status.cjs" sha256:d65f3953197776016664afd5a539113a96902882ba4d0453846c8026060cd105
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
        destination = "secrets/blobs.env"
        env         = true
        change_mode = "noop"
        perms       = "0600"
        data        = <<-EOT
        {{ with nomadVar "nomad/jobs/pds-unreferenced-blobs" }}{{ range .Tuples }}{{ .K }}={{ .V | toJSON }}
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
