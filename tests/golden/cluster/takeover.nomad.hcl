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
        script "components/takeover/decide.py" sha256:40bb226fcf074a73863433374e4ca87fb808351ed2c2741cc8f1e47c0d467f92
      }

      template {
        script "components/takeover/passes.py" sha256:3ac1e7d17ae6a877ffb0de3a62c4d0ce5299fbe8d1c26f36de90092a0553ef84
      }

      template {
        script "components/takeover/program.py" sha256:e8027361cfa846b6aaa3950b9b1972d8e5c1d18e6cae67575245040828e58187
      }

      template {
        script "components/takeover/rate_limit.py" sha256:b192b9762f2cb8b7cfeb97f02a8e634e5d0448a2a2ab229eb0a1ce8caa7ba0c9
      }

      template {
        script "components/takeover/services.py" sha256:3b6159cf3dba964a582da149eb5444e2c2e64556eedcae1cefb9ae95f3eb93ea
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
