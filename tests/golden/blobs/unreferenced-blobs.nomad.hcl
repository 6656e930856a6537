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
        script "unreferenced_in_bucket.cjs" sha256:caeef446b310046f6c6d606ce93965675b30f3f2eda60dc25883881e6c1d299b
      }

      template {
        script "account_check.cjs" sha256:4a3e07e916953b6287f2a287b77bfab34732f1ce7762b0e64e055439a95c0c7b
      }

      template {
        script "blob_copy.cjs" sha256:3c1056fc25f3b22a471d533df92e65dbbff39688b142dd89588dea58e2cb41d8
      }

      template {
        script "blob_stores.cjs" sha256:02950e034c8fb43d5019943bddd39885f9aff110a3ad045efe623d636d6b7a10
      }

      template {
        script "exclusive.cjs" sha256:54c7ac8680f2f2d8604c89518c469c6a3e20602b792884c9d60446e3a7e0ff6f
      }

      template {
        script "repository.cjs" sha256:bfd22c102bc1e187f2c88d9fc0543b16dbec8157d8759e24dbb2dc36770bfe29
      }

      template {
        script "run_status.cjs" sha256:66b19971449dd4ef793130d9443a716e97e832e5f24bb5ae6af7002ac8b62ece
      }

      template {
        script "account_events.cjs" sha256:c7a164329e9235512c16f1fa06f6e2c39b1704a1f656a79b7a520ad64af99bd3
      }

      template {
        script "files.cjs" sha256:2d74029a758b067d0a3e115bfd42cc8c0ae67a2c47aa109e0a7125739a0c0a76
      }

      template {
        script "blocks.cjs" sha256:4b6eab4b2648e953c0c4a980e6f96feaade76ddd608355562d11a50b35a4a851
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
