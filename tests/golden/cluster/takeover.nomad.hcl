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
        TAKEOVER_SERVERS        = "3"
        TAKEOVER_SPARES         = "1"
      }

      template {
        script "components/__init__.py" sha256:295617f06ebff0a303a9e641ad1023e23e262a8b32986da0e515325880528634
      }

      template {
        script "components/takeover/__init__.py" sha256:c27a4f195c24268bb50b4fdc0225672b2634fd478d26fd92a243493babfe57cf
      }

      template {
        script "components/takeover/addresses.py" sha256:9f99ddad0a805fd3d2e14177a5549427cba94de11ed54b28d271b467c2aa5e72
      }

      template {
        script "components/takeover/decide.py" sha256:9c24ff5c9f58af642314d2f37ada1d855b1fc97c3b58d95ba75c08ed8ddce7e8
      }

      template {
        script "components/takeover/endpoint.py" sha256:2a179ee9b2624132d8ae986cff7739cd732d1bae786daab43c9fbb93b0c85462
      }

      template {
        script "components/takeover/interfaces.py" sha256:667fe530a118c9dca3a4da7954b9804573ad328c023b0ba4648cf3fc9cb64af6
      }

      template {
        script "components/takeover/passes.py" sha256:1520f5e10bbc2747b97d0a8eae89236d93f14b53eceb4a8ea158512d2a57e5cb
      }

      template {
        script "components/takeover/program.py" sha256:7b2ca24de805a2f6b8590883de784bc8212ec6fd1568791d15e577079f25753a
      }

      template {
        script "components/takeover/rate_limit.py" sha256:307e9099f44d2b78e1714b4a2f0d2dd4a22a71ff7efa8b7089979101a4bdfc42
      }

      template {
        script "components/takeover/reporting.py" sha256:a9960eedd1a6c0337820f389eba3c8018ced3855f079f406f5ebe5f3c6864c14
      }

      template {
        script "components/takeover/services.py" sha256:3c05d7ce68e00b035a8c116b9710797130aa9159da7de97226655045b412e955
      }

      template {
        script "components/takeover/spares.py" sha256:c5f7493e05ff09533730aaf595469eefe3ae7ae0d7064b84908dc1d7532ca31d
      }

      template {
        script "components/takeover/watch.py" sha256:ba51aa76473bcaaa99735d36b51c77b4ff1152f54d87bd1a46591e75b1502c8e
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
