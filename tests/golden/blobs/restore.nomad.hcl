job "pds-restore" {
  datacenters = ["dc1"]
  region      = "global"
  type        = "batch"

  parameterized {
    payload       = "forbidden"
    meta_optional = ["snapshot", "from", "show", "verify", "only", "step", "without", "without_directory", "without_departures", "sequence", "rotation_public_key", "takedown", "delete", "applied", "bring_back", "old_data", "whole", "forget"]
  }

  group "pds-restore" {
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
        entrypoint      = ["/bin/sh", "/local/fetch.sh"]
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
        PDS_HOSTNAME       = "noted.at"
        TARGET             = "/pds/.restore"
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
        {{ with nomadVar "nomad/jobs/pds-restore" }}{{ range .Tuples }}{{ .K }}={{ .V | toJSON }}
        {{ end }}{{ end }}
        {{ if nomadVarExists "nomad/jobs/pds-restore/pds-restore/fetch" }}{{ with nomadVar "nomad/jobs/pds-restore/pds-restore/fetch" }}{{ range .Tuples }}{{ .K }}={{ .V | toJSON }}
        {{ end }}{{ end }}{{ end }}
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

    task "restore" {
      driver = "docker"
      user   = "1000:1000"

      config {
        image           = "ghcr.io/bluesky-social/pds:0.4.5037"
        command         = "node"
        args            = ["/local/restore.cjs"]
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
        PDS_HOSTNAME       = "noted.at"
        PDS_DATA_DIRECTORY = "/pds"
        PDS_DID_PLC_URL    = "https://plc.directory"
        PDS_CRAWLERS       = "https://bsky.network"
        BLOBS_SERVE        = "bucket"
        OLDER_BACKUPS      = "true"
      }

      template {
        script "restore.cjs" sha256:461c6afdaafccbda1edfae950474b5094a751ccf521280e0defa0a39b5d40ce8
      }

      template {
        script "restore_server.cjs" sha256:585719b40ac9f33c1cb45e8a111099ea0d39d39961f1db8171f7066110292ad9
      }

      template {
        script "account_events.cjs" sha256:c7a164329e9235512c16f1fa06f6e2c39b1704a1f656a79b7a520ad64af99bd3
      }

      template {
        script "left_out.cjs" sha256:d7aa525088b1e82e1f5cb187429452669a282be62751771949c351af359c4b9e
      }

      template {
        script "restore_accounts.cjs" sha256:7b71ae78a6c77fa0e7662d69ebc5473480a0bd6fadea5b64c5b13f0e67b39359
      }

      template {
        script "restore_move.cjs" sha256:608420da3116b16f27353fd0f39c7c3dfff5ad1c07a7a6dca5f8e68263551fcd
      }

      template {
        script "restore_request.cjs" sha256:dbd1ce5dd779dc18394d4740223c8f26a97733f3bd2ada9d5ec71596bac37edc
      }

      template {
        script "restore_swap.cjs" sha256:a43d73a2e068639e0f96d8f3c39382d7553fa601e1079f51580944238365c8d1
      }

      template {
        script "account_check.cjs" sha256:4a3e07e916953b6287f2a287b77bfab34732f1ce7762b0e64e055439a95c0c7b
      }

      template {
        script "did_documents.cjs" sha256:a17b5f81b0776d141339d537346598e292494afb05022ce4e674e30915cdeb21
      }

      template {
        script "files.cjs" sha256:2d74029a758b067d0a3e115bfd42cc8c0ae67a2c47aa109e0a7125739a0c0a76
      }

      template {
        script "repository.cjs" sha256:bfd22c102bc1e187f2c88d9fc0543b16dbec8157d8759e24dbb2dc36770bfe29
      }

      template {
        script "restore_one.cjs" sha256:e2a4ce038f4d22763a948258c64cd26df8f55203847be77b3b1e8d8cfe9c6bea
      }

      template {
        script "restore_world.cjs" sha256:ac37735b4abd4bcd932ad9f0fabf583dcd4adc6f4c3a8bad508593752f93c830
      }

      template {
        script "verify.cjs" sha256:8ec70d5ae4d019c651bd20af1125e49432f30f97aaebe717393a84bac6b7e647
      }

      template {
        script "exclusive.cjs" sha256:54c7ac8680f2f2d8604c89518c469c6a3e20602b792884c9d60446e3a7e0ff6f
      }

      template {
        script "blob_place.cjs" sha256:5435225c7abff5ddddd5d2fc1a6ac0a1f9cf7c0ddfb5588c3d44379ef245c7e1
      }

      template {
        script "blocks.cjs" sha256:4b6eab4b2648e953c0c4a980e6f96feaade76ddd608355562d11a50b35a4a851
      }

      template {
        script "car.cjs" sha256:1ea2314ed27193615bbd6fa25eeaca0bbabfbc300a4d96ca945d290bc27a71f3
      }

      resources {
        cpu    = 500
        memory = 256
      }

      logs {
        max_files     = 2
        max_file_size = 1
      }
    }

    task "fetch-older" {
      driver = "docker"
      user   = "1000:1000"

      lifecycle {
        hook    = "poststart"
        sidecar = true
      }

      config {
        image           = "restic/restic:0.19.1"
        entrypoint      = ["/bin/sh", "/local/fetch_older.sh"]
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
        PDS_HOSTNAME       = "noted.at"
        TARGET             = "/pds/.restore"
        RESTIC_REPOSITORY  = "s3:https://ams3.digitaloceanspaces.com/dev-noted-at-backup/noted.at"
        AWS_DEFAULT_REGION = "ams3"
      }

      template {
        script "fetch_older.sh" sha256:9484a9816ca74716ece23d70044449de9a5803d7b5d911dd7af78acb80fce535
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
        {{ with nomadVar "nomad/jobs/pds-restore" }}{{ range .Tuples }}{{ .K }}={{ .V | toJSON }}
        {{ end }}{{ end }}
        {{ if nomadVarExists "nomad/jobs/pds-restore/pds-restore/fetch-older" }}{{ with nomadVar "nomad/jobs/pds-restore/pds-restore/fetch-older" }}{{ range .Tuples }}{{ .K }}={{ .V | toJSON }}
        {{ end }}{{ end }}{{ end }}
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
