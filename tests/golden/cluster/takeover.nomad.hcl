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
      }

      template {
        script "components/__init__.py" sha256:295617f06ebff0a303a9e641ad1023e23e262a8b32986da0e515325880528634
      }

      template {
        script "components/takeover/__init__.py" sha256:c27a4f195c24268bb50b4fdc0225672b2634fd478d26fd92a243493babfe57cf
      }

      template {
        script "components/takeover/decide.py" sha256:89e0c9d950089be7ad7edc162443e9b13b7a9767bfff08212e4d7d314e5ed521
      }

      template {
        script "components/takeover/passes.py" sha256:dd08f6fd2c0c74a35e4fa32572e23d0d3561ab580bdfb1837ec6954287cb10c9
      }

      template {
        script "components/takeover/program.py" sha256:37d7123e1e365c043e993034231aeac533645348510bef5807726f170ceb01c7
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
