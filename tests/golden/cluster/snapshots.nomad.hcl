job "pds-nomad-snapshots" {
  datacenters = ["dc1"]
  node_pool   = "servers"
  region      = "global"
  type        = "batch"
  priority    = 40

  periodic {
    crons            = ["7 */1 * * *"]
    prohibit_overlap = true
  }

  group "pds-nomad-snapshots" {
    count = 1

    restart {
      attempts = 1
      interval = "10m"
      delay    = "30s"
      mode     = "fail"
    }

    task "snapshot" {
      driver = "raw_exec"
      user   = "daemon"

      config {
        command = "/bin/sh"
        args    = ["local/nomad_snapshot.sh"]
      }

      identity {
        env = true
      }

      env {
        NOMAD_ADDR         = "http://$${attr.unique.advertise.address}"
        CLUSTER            = "fleet"
        RECORD             = "nomad/jobs/pds-nomad-snapshots/repository"
        SECTION            = "cluster.snapshots"
        KEEP_DAYS          = "14"
        RESTIC_REPOSITORY  = "s3:https://ams3.digitaloceanspaces.com/fleet-nomad-backup/nomad-fleet"
        AWS_DEFAULT_REGION = "ams3"
      }

      template {
        script "nomad_snapshot.sh" sha256:7af7317e8120186dd5e7fb29979d7d317c114280eb9642ae1c92b8dd46ebbae1
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
        {{ with nomadVar "nomad/jobs/pds-nomad-snapshots" }}{{ range .Tuples }}{{ .K }}={{ .V | toJSON }}
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
