job "pds-takeover" {
  datacenters = ["dc1"]
  node_pool   = "servers"
  region      = "global"
  type        = "service"
  priority    = 80

  group "pds-takeover" {
    count = 1

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

    task "takeover" {
      driver = "raw_exec"
      user   = "daemon"

      config {
        command = "/usr/bin/python3"
        args    = ["-m", "components.takeover.program"]
      }

      identity {
        env = true
      }

      env {
        PYTHONPATH              = "$${NOMAD_TASK_DIR}"
        PYTHONDONTWRITEBYTECODE = "1"
        NOMAD_ADDR              = "http://$${attr.unique.advertise.address}"
        TAKEOVER_TAG            = "pds-fleet-worker"
        TAKEOVER_AFTER_SECONDS  = "60"
        TAKEOVER_API_URL        = "https://api.digitalocean.com"
        TAKEOVER_NOTIFY_URL     = "https://hooks.slack.com/services/T1/B1/X1"
      }

      template {
        script "components/__init__.py" sha256:295617f06ebff0a303a9e641ad1023e23e262a8b32986da0e515325880528634
      }

      template {
        script "components/takeover/__init__.py" sha256:c27a4f195c24268bb50b4fdc0225672b2634fd478d26fd92a243493babfe57cf
      }

      template {
        script "components/takeover/decide.py" sha256:96fefc5359f67014458d7ed968a3be14e1eade157d64b0c3d1c09f7100cf48ed
      }

      template {
        script "components/takeover/passes.py" sha256:c3fdfcd2b82e0c358ded8ae18cfc7d3c71ed589b30603f53b98b0267121c9cd4
      }

      template {
        script "components/takeover/program.py" sha256:15d9fa01b0cd2a94eb2454a808cb52e8e5554040d9acc5d77f31aabec06b2321
      }

      template {
        script "components/takeover/services.py" sha256:cd0b10f572994edb6becbebb166e2e0cdf7ed401028bd455d827c7525a358ad7
      }

      template {
        destination = "secrets/takeover.env"
        env         = true
        change_mode = "restart"
        perms       = "0600"
        data        = <<-EOT
        {{ with nomadVar "nomad/jobs/pds-takeover" }}{{ range .Tuples }}{{ .K }}={{ .V | toJSON }}
        {{ end }}{{ end }}
        EOT
      }

      resources {
        cpu    = 50
        memory = 64
      }

      logs {
        max_files     = 3
        max_file_size = 5
      }
    }
  }
}
