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
        args            = ["/local/unreferenced_blobs.cjs"]
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
        PDS_DATA_DIRECTORY              = "/pds"
        PDS_BLOBSTORE_DISK_TMP_LOCATION = "/pds/temp"
        UNREFERENCED_BLOB_DAYS          = "30"
      }

      template {
        script "unreferenced_blobs.cjs" sha256:43ecf1c686ad928827c6a609b8d9abeea4d4d349cc74cbc64cea3d573ea4042b
      }

      template {
        script "files.cjs" sha256:2d74029a758b067d0a3e115bfd42cc8c0ae67a2c47aa109e0a7125739a0c0a76
      }

      template {
        script "repository.cjs" sha256:bfd22c102bc1e187f2c88d9fc0543b16dbec8157d8759e24dbb2dc36770bfe29
      }

      template {
        script "run_status.cjs" sha256:66b19971449dd4ef793130d9443a716e97e832e5f24bb5ae6af7002ac8b62ece
      }

      template {
        script "blocks.cjs" sha256:4b6eab4b2648e953c0c4a980e6f96feaade76ddd608355562d11a50b35a4a851
      }

      template {
        script "car.cjs" sha256:1ea2314ed27193615bbd6fa25eeaca0bbabfbc300a4d96ca945d290bc27a71f3
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
