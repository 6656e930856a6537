job "pds" {
  datacenters = ["dc1"]
  region      = "global"
  type        = "service"

  group "pds" {
    count          = 1
    shutdown_delay = "2s"

    network {
      port "http" {
        to           = 3000
        host_network = "loopback"
      }
    }

    service {
      name     = "pds"
      provider = "nomad"
      port     = "http"

      check {
        type     = "http"
        path     = "/xrpc/_health"
        interval = "10s"
        timeout  = "5s"

        check_restart {
          limit = 18
          grace = "15m"
        }
      }
    }

    volume "pds" {
      type      = "host"
      read_only = false
      source    = "pds"
    }

    restart {
      attempts = 10
      interval = "10m"
      delay    = "15s"
      mode     = "delay"
    }

    reschedule {
      delay          = "15s"
      delay_function = "constant"
      unlimited      = true
    }

    update {
      max_parallel = 0
    }

    task "volume-check" {
      driver = "docker"
      user   = "1000:1000"

      lifecycle {
        hook    = "prestart"
        sidecar = false
      }

      restart {
        attempts = 0
        interval = "10m"
        delay    = "15s"
        mode     = "fail"
      }

      config {
        image           = "ghcr.io/bluesky-social/pds:0.4.5037"
        command         = "node"
        args            = ["/local/volume_check.cjs"]
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
        PDS_HOSTNAME       = "noted.at"
        PDS_DATA_DIRECTORY = "/pds"
      }

      template {
        script "volume_check.cjs" sha256:a99834691ecb633485c50379318674843696cb31fd08d7ad48b84ae78c1b6509
      }

      template {
        script "blob_place.cjs" sha256:5435225c7abff5ddddd5d2fc1a6ac0a1f9cf7c0ddfb5588c3d44379ef245c7e1
      }

      template {
        script "files.cjs" sha256:2d74029a758b067d0a3e115bfd42cc8c0ae67a2c47aa109e0a7125739a0c0a76
      }

      template {
        destination = "secrets/volume-check.env"
        env         = true
        change_mode = "noop"
        perms       = "0600"
        data        = <<-EOT
        {{ with nomadVar "nomad/jobs/pds/pds" }}{{ range .Tuples }}{{ .K }}={{ .V | toJSON }}
        {{ end }}{{ end }}
        EOT
      }

      template {
        destination = "secrets/pds.env"
        env         = true
        change_mode = "noop"
        perms       = "0600"
        data        = <<-EOT
        {{ with nomadVar "nomad/jobs/pds" }}{{ range .Tuples }}{{ .K }}={{ .V | toJSON }}
        {{ end }}{{ end }}
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

    task "pds" {
      driver       = "docker"
      user         = "1000:1000"
      kill_timeout = "60s"

      config {
        image           = "ghcr.io/bluesky-social/pds:0.4.5037"
        ports           = ["http"]
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
        pids_limit      = 512

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
        TZ                              = "UTC"
        PDS_HOSTNAME                    = "noted.at"
        PDS_PORT                        = "3000"
        PDS_DATA_DIRECTORY              = "/pds"
        PDS_BLOBSTORE_DISK_LOCATION     = "/pds/blocks"
        PDS_BLOBSTORE_DISK_TMP_LOCATION = "/pds/temp"
        PDS_INVITE_REQUIRED             = "true"
        PDS_BLOB_UPLOAD_LIMIT           = "104857600"
        PDS_RATE_LIMITS_ENABLED         = "true"
        LOG_ENABLED                     = "true"
        PDS_DID_PLC_URL                 = "https://plc.directory"
        PDS_BSKY_APP_VIEW_URL           = "https://api.bsky.app"
        PDS_BSKY_APP_VIEW_DID           = "did:web:api.bsky.app"
        PDS_REPORT_SERVICE_URL          = "https://mod.bsky.app"
        PDS_REPORT_SERVICE_DID          = "did:plc:ar7c4by46qjdydhdevvrndac"
        PDS_CRAWLERS                    = "https://bsky.network"
        NODE_OPTIONS                    = "--require=/local/volume_check.cjs --require=/local/durable.cjs --require=/local/data_lock.cjs"
      }

      template {
        script "volume_check.cjs" sha256:a99834691ecb633485c50379318674843696cb31fd08d7ad48b84ae78c1b6509
      }

      template {
        script "blob_place.cjs" sha256:5435225c7abff5ddddd5d2fc1a6ac0a1f9cf7c0ddfb5588c3d44379ef245c7e1
      }

      template {
        script "files.cjs" sha256:2d74029a758b067d0a3e115bfd42cc8c0ae67a2c47aa109e0a7125739a0c0a76
      }

      template {
        destination = "secrets/volume-check.env"
        env         = true
        change_mode = "noop"
        perms       = "0600"
        data        = <<-EOT
        {{ with nomadVar "nomad/jobs/pds/pds" }}{{ range .Tuples }}{{ .K }}={{ .V | toJSON }}
        {{ end }}{{ end }}
        EOT
      }

      template {
        script "durable.cjs" sha256:a68191522d864b6e47c1e079b818fdac7d0ffefa3cbe3ddfff2b9126bfb28fb6
      }

      template {
        script "data_lock.cjs" sha256:64decd09bf64d62251c25ed123f62865eead2bd5866c01847f8e1bd0127d247f
      }

      template {
        destination = "secrets/pds.env"
        env         = true
        change_mode = "restart"
        splay       = "0s"
        perms       = "0600"
        data        = <<-EOT
        {{ with nomadVar "nomad/jobs/pds" }}{{ range .Tuples }}{{ .K }}={{ .V | toJSON }}
        {{ end }}{{ end }}
        EOT
      }

      resources {
        cpu    = 500
        memory = 512
      }

      logs {
        max_files     = 5
        max_file_size = 10
      }
    }
  }
}
