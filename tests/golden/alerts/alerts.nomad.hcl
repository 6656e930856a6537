job "pds-alerts" {
  datacenters = ["dc1"]
  region      = "global"
  type        = "batch"

  periodic {
    crons            = ["*/15 * * * *"]
    prohibit_overlap = true
  }

  group "pds-alerts" {
    count = 1

    volume "pds" {
      type      = "host"
      read_only = false
      source    = "pds"
    }

    restart {
      attempts = 1
      interval = "10m"
      delay    = "15s"
      mode     = "fail"
    }

    task "alerts" {
      driver = "docker"
      user   = "1000:1000"

      config {
        image           = "ghcr.io/bluesky-social/pds:0.4.5037"
        command         = "node"
        args            = ["/local/alerts.cjs"]
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
        PDS_HOSTNAME          = "noted.at"
        PDS_DATA_DIRECTORY    = "/pds"
        ALERTS_VOLUME_PERCENT = "80"
        ALERTS_ACCOUNTS       = "80"
        SPACE_REMEDY          = "raise 'volume.size_gib' and run `pulumi up`"
      }

      template {
        script "alerts.cjs" sha256:54c747531b87b9163c0d71f16613d0cb87d8fa697232821f7ab362c9a9f602f1
      }

      template {
        script "alert_reasons.cjs" sha256:a0d8e0428255ba3c5839bddf6d8f83b088ff3c2fd264295c175b7f9148e7c4e8
      }

      template {
        script "run_status.cjs" sha256:66b19971449dd4ef793130d9443a716e97e832e5f24bb5ae6af7002ac8b62ece
      }

      template {
        script "files.cjs" sha256:2d74029a758b067d0a3e115bfd42cc8c0ae67a2c47aa109e0a7125739a0c0a76
      }

      template {
        destination = "secrets/ping.env"
        env         = true
        change_mode = "noop"
        perms       = "0600"
        data        = <<-EOT
        {{ with nomadVar "nomad/jobs/pds-alerts" }}{{ range .Tuples }}{{ .K }}={{ .V | toJSON }}
        {{ end }}{{ end }}
        EOT
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
