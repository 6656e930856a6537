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
        script "unreferenced_in_bucket.cjs" sha256:8209b6137ff82075956001ad396b2c1a554193fcc4108ef114e9d56c7b07eea3
      }

      template {
        script "account_check.cjs" sha256:6b5fd9c0cb4a61cd805c68c79218471517387f711044239b0e343a60d421aded
      }

      template {
        script "blob_copy.cjs" sha256:c4c4b05e33412d583858db796ed050e90dae60c3625e30e814ea95c8886c8e54
      }

      template {
        script "blob_stores.cjs" sha256:6f60d219c48c2fe0d2a8a833585dadc07e1e1bdac4c54e52ecb0a65957a17d49
      }

      template {
        script "repository.cjs" sha256:c258dd4effff4a46782db291c9c1eaf34ab303e24ffcf5b37f859706cb6b6d1b
      }

      template {
        script "run_status.cjs" sha256:79a61cc91179bbd56f1791c0af836e4c1a1941165e14f30d47bfad44d3b423f2
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
