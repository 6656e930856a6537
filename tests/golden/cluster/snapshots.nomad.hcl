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
        SECTION            = "cluster.snapshots"
        KEEP_DAYS          = "14"
        RESTIC_REPOSITORY  = "s3:https://ams3.digitaloceanspaces.com/fleet-nomad-backup/nomad-fleet"
        AWS_DEFAULT_REGION = "ams3"
      }

      template {
        script "nomad_snapshot.sh" sha256:0664e7e1b4d289449775b8ee1e567c5ce6f848fb45f7a316d38fb78921c584e8
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
