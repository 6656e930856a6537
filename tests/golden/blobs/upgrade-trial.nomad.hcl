job "pds-upgrade-trial" {
  datacenters = ["dc1"]
  region      = "global"
  type        = "batch"
  priority    = 30

  parameterized {
    payload       = "forbidden"
    meta_required = ["image"]
  }

  group "pds-upgrade-trial" {
    count = 1

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
        script "fetch.sh" sha256:109f993854093cf773f2b72364638a9285f9bdf27b40fc6a7c1045f395981a9f
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
        {{ with nomadVar "nomad/jobs/pds-upgrade-trial" }}{{ range .Tuples }}{{ .K }}={{ .V | toJSON }}
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

    task "candidate" {
      driver = "docker"
      user   = "1000:1000"

      config {
        image           = "${NOMAD_META_image}"
        command         = "node"
        args            = ["/local/upgrade_trial.cjs"]
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

      env {
        TZ                 = "UTC"
        PDS_HOSTNAME       = "noted.at"
        PDS_DID_PLC_URL    = "https://plc.directory"
        TRIAL              = "candidate"
        TRIAL_NODE_OPTIONS = "--require=/local/durable.cjs --require=/local/data_lock.cjs"
      }

      template {
        script "upgrade_trial.cjs" sha256:ab49b8070d3a38d2c2e48cbd349ff6e716a0f8890e3fae2a1b5d86e70c205bf8
      }

      template {
        script "durable.cjs" sha256:a68191522d864b6e47c1e079b818fdac7d0ffefa3cbe3ddfff2b9126bfb28fb6
      }

      template {
        script "data_lock.cjs" sha256:f4a399c0b3019991aa5aca1bc4b10409580958f527f37e4eb8723d8450304060
      }

      template {
        script "fake_plc.cjs" sha256:d6bda1243b551f91a2e4780167f739e7ec0a00c2b29e2dc8e24edbb2e46c1b19
      }

      template {
        script "repository.cjs" sha256:c258dd4effff4a46782db291c9c1eaf34ab303e24ffcf5b37f859706cb6b6d1b
      }

      template {
        script "server.cjs" sha256:774d74013a78ce8f7756b2e4c8214e4dd7935e8f30bcc44c8e17ffe8f01db0d2
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

    task "serve" {
      driver = "docker"
      user   = "1000:1000"

      lifecycle {
        hook    = "poststop"
        sidecar = false
      }

      config {
        image           = "${NOMAD_META_image}"
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

      env {
        TZ                 = "UTC"
        PDS_HOSTNAME       = "noted.at"
        PDS_DID_PLC_URL    = "https://plc.directory"
        TRIAL              = "candidate"
        TRIAL_NODE_OPTIONS = "--require=/local/durable.cjs --require=/local/data_lock.cjs"
      }

      template {
        script "serve.cjs" sha256:5d9ce296a10778c3d87c71101dbb2946f46e63e94bcee756a3d0537fbc1830dd
      }

      template {
        script "durable.cjs" sha256:a68191522d864b6e47c1e079b818fdac7d0ffefa3cbe3ddfff2b9126bfb28fb6
      }

      template {
        script "data_lock.cjs" sha256:f4a399c0b3019991aa5aca1bc4b10409580958f527f37e4eb8723d8450304060
      }

      template {
        script "account_check.cjs" sha256:6b5fd9c0cb4a61cd805c68c79218471517387f711044239b0e343a60d421aded
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
        script "run_status.cjs" sha256:79a61cc91179bbd56f1791c0af836e4c1a1941165e14f30d47bfad44d3b423f2
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
