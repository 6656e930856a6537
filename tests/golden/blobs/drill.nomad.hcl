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
        script "fetch.sh" sha256:5d25d9db865a6993df806fce5ae2f343587f6d97736236975cd64e140ff12f72
      }

      template {
        script "restic_open.sh" sha256:09df138ef6906da09c815a817af7207aa2afcefc9fda43cb2c4fb2bfcc4c0556
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
        script "drill.cjs" sha256:ea546c3ac8ba5a0bab667b6a79eb1912d239243d3e6a7f0543a4e89d20c8abbf
      }

      template {
        script "did_documents.cjs" sha256:0f0607b883afd9951ffd904e8b7340d00fa5d477b5d826aa802e793fb49a7207
      }

      template {
        script "verify.cjs" sha256:080a401813b2c0d92bbc94b5c5219acc329d8a278dad3fce01dc439fe7f60453
      }

      template {
        script "account_check.cjs" sha256:0f631d6f56b7c41e88a6bf07ac7333b8dac13adb16b9d4c58d1915507f2afa90
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

      resources {
        cpu    = 200
        memory = 256
      }

      logs {
        max_files     = 2
        max_file_size = 1
      }
    }

    task "blobs" {
      driver = "docker"
      user   = "1000:1000"

      config {
        image           = "ghcr.io/bluesky-social/pds:0.4.5037"
        command         = "node"
        args            = ["/local/drill_blobs.cjs"]
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
        script "drill_blobs.cjs" sha256:1590c8a4125beac5141d348c31e20b9bd1c111e837e37a27f6a44b63c651475b
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
        cpu    = 100
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
        script "serve.cjs" sha256:923bc1aab1259be53530ed9002f42d8eb989a1628ec114979fbe8a7766391d9c
      }

      template {
        script "account_check.cjs" sha256:0f631d6f56b7c41e88a6bf07ac7333b8dac13adb16b9d4c58d1915507f2afa90
      }

      template {
        script "repository.cjs" sha256:c258dd4effff4a46782db291c9c1eaf34ab303e24ffcf5b37f859706cb6b6d1b
      }

      template {
        script "server.cjs" sha256:774d74013a78ce8f7756b2e4c8214e4dd7935e8f30bcc44c8e17ffe8f01db0d2
      }

      template {
        script "verify.cjs" sha256:080a401813b2c0d92bbc94b5c5219acc329d8a278dad3fce01dc439fe7f60453
      }

      template {
        script "run_status.cjs" sha256:d65f3953197776016664afd5a539113a96902882ba4d0453846c8026060cd105
      }

      template {
        script "blocks.cjs" sha256:cb411720e96a0ac6a07c565762293f7020c15a3294a97ab8523b1340b143d9c5
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
