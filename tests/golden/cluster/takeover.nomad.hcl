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
        script "components/takeover/decide.py" sha256:8969ceb08df5a92b16764c3ae0473aa0c41e6c936a8625ab00191aa4d02a2f19
      }

      template {
        script "components/takeover/passes.py" sha256:112157fbe72a6c6152235cdbc59da4bf7fd752f1f81c4c0bb10fc575500db21b
      }

      template {
        script "components/takeover/program.py" sha256:27c180270b0810f504a138ffde638e6a757ca7af2387aa70aff46b9ece7b3615
      }

      template {
        script "components/takeover/rate_limit.py" sha256:b192b9762f2cb8b7cfeb97f02a8e634e5d0448a2a2ab229eb0a1ce8caa7ba0c9
      }

      template {
        script "components/takeover/services.py" sha256:8080845146ca1b8fa0097bc241a13042902159bdc8b31d7d8e9c1f1f2e6deaa4
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
