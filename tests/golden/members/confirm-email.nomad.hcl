job "pds-confirm-email" {
  datacenters = ["dc1"]
  region      = "global"
  type        = "batch"

  parameterized {
    payload = "forbidden"
  }

  group "pds-confirm-email" {
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

    task "confirm-email" {
      driver = "docker"
      user   = "1000:1000"

      config {
        image           = "ghcr.io/bluesky-social/pds:0.4.5037"
        command         = "node"
        args            = ["/local/confirm_email.cjs"]
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
        script "confirm_email.cjs" sha256:9974175ed3a61aaff934ce68895a16287a71d0f2c558f03f47d5a6b8d87a60f6
      }

      template {
        destination = "local/dids.env"
        env         = true
        change_mode = "noop"
        data        = <<-EOT
        {{ with nomadVar "nomad/jobs/pds-confirm-email" }}PDS_CONFIRM_DIDS={{ .dids | toJSON }}{{ end }}
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
