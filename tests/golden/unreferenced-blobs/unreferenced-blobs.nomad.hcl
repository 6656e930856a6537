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
        script "unreferenced_blobs.cjs" sha256:97aa76140a4fa0df7e02e70ddd3c341b9cc467b6751df7d6482ec26dabfeab8f
      }

      template {
        script "files.cjs" sha256:4d86dbbe1e2f1d2b8e61e72f8628b8efb5e0411aae1c95e2d665ac6d9bce7a9b
      }

      template {
        script "repository.cjs" sha256:c258dd4effff4a46782db291c9c1eaf34ab303e24ffcf5b37f859706cb6b6d1b
      }

      template {
        script "run_status.cjs" sha256:79a61cc91179bbd56f1791c0af836e4c1a1941165e14f30d47bfad44d3b423f2
      }

      template {
        script "blocks.cjs" sha256:cb411720e96a0ac6a07c565762293f7020c15a3294a97ab8523b1340b143d9c5
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
