job "pds-drill" {
  datacenters = ["dc1"]
  region      = "global"
  type        = "batch"
  priority    = 30

  periodic {
    crons            = ["41 4 * * 0"]
    prohibit_overlap = true
  }

  group "pds-drill" {
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

    task "fetch" {
      driver = "docker"
      user   = "1000:1000"

      lifecycle {
        hook    = "prestart"
        sidecar = false
      }

      config {
        image           = "restic/restic:0.19.1"
        entrypoint      = ["/bin/sh", "-c", "sh /local/fetch.sh || true"]
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

      env {
        PDS_HOSTNAME       = "noted.at"
        RESTIC_REPOSITORY  = "s3:https://ams3.digitaloceanspaces.com/dev-noted-at-backup/noted.at"
        AWS_DEFAULT_REGION = "ams3"
      }

      template {
        script "fetch.sh" sha256:3c57514ea6154c6ff2fee4787a13a99c1c48f438da8bae578e0011a386aef78f
      }

      template {
        script "restic_open.sh" sha256:d771cdb4901ef9db2f518b1439c8a21a886d32d8d73b66c84cce714994dccea1
      }

      template {
        destination = "secrets/backup.env"
        env         = true
        change_mode = "noop"
        perms       = "0600"
        data        = <<-EOT
        {{ with nomadVar "nomad/jobs/pds-drill" }}{{ range .Tuples }}{{ .K }}={{ .V | toJSON }}
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

    task "verify" {
      driver = "docker"
      user   = "1000:1000"

      config {
        image           = "ghcr.io/bluesky-social/pds:0.4.5037"
        command         = "node"
        args            = ["/local/drill.cjs"]
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

      env {
        PDS_HOSTNAME    = "noted.at"
        PDS_DID_PLC_URL = "https://plc.directory"
      }

      template {
        script "drill.cjs" sha256:d5c73563b9fed62c0fc7ed85c6d72f721412594a585f777aec1912fd30315faf
      }

      template {
        script "account_check.cjs" sha256:4a3e07e916953b6287f2a287b77bfab34732f1ce7762b0e64e055439a95c0c7b
      }

      template {
        script "did_documents.cjs" sha256:a17b5f81b0776d141339d537346598e292494afb05022ce4e674e30915cdeb21
      }

      template {
        script "verify.cjs" sha256:8ec70d5ae4d019c651bd20af1125e49432f30f97aaebe717393a84bac6b7e647
      }

      template {
        script "repository.cjs" sha256:bfd22c102bc1e187f2c88d9fc0543b16dbec8157d8759e24dbb2dc36770bfe29
      }

      template {
        script "blocks.cjs" sha256:4b6eab4b2648e953c0c4a980e6f96feaade76ddd608355562d11a50b35a4a851
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

    task "serve" {
      driver = "docker"
      user   = "1000:1000"

      lifecycle {
        hook    = "poststop"
        sidecar = false
      }

      config {
        image           = "ghcr.io/bluesky-social/pds:0.4.5037"
        command         = "node"
        args            = ["/local/serve.cjs"]
        network_mode    = "none"
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
        TZ                 = "UTC"
        PDS_HOSTNAME       = "noted.at"
        PDS_DID_PLC_URL    = "https://plc.directory"
        PDS_DATA_DIRECTORY = "/pds"
      }

      template {
        script "serve.cjs" sha256:2c43616a5325c221150415c3146fb1c2deb5671b6d048e0dba9253828d4e5777
      }

      template {
        script "account_check.cjs" sha256:4a3e07e916953b6287f2a287b77bfab34732f1ce7762b0e64e055439a95c0c7b
      }

      template {
        script "damaged_copies.cjs" sha256:b0d97b990ef199ce5ed624de8e7076e92c9960c11677cf804a9b9d135aa7996f
      }

      template {
        script "repository.cjs" sha256:bfd22c102bc1e187f2c88d9fc0543b16dbec8157d8759e24dbb2dc36770bfe29
      }

      template {
        script "server.cjs" sha256:b5dfe49486cc0a194f37eb6048f4857dc88320c7e7bd37cf08803721c9720452
      }

      template {
        script "verify.cjs" sha256:8ec70d5ae4d019c651bd20af1125e49432f30f97aaebe717393a84bac6b7e647
      }

      template {
        script "run_status.cjs" sha256:66b19971449dd4ef793130d9443a716e97e832e5f24bb5ae6af7002ac8b62ece
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

      resources {
        cpu    = 200
        memory = 256
      }

      logs {
        max_files     = 2
        max_file_size = 1
      }
    }
  }
}
