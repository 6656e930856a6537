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
        script "components/takeover/addresses.py" sha256:9f99ddad0a805fd3d2e14177a5549427cba94de11ed54b28d271b467c2aa5e72
      }

      template {
        script "components/takeover/decide.py" sha256:e80209c2b826389450b6cf71c84a3f5d4c2bd45acb532a9156e3e2bd37130b04
      }

      template {
        script "components/takeover/endpoint.py" sha256:2b8fa1aa78ad5c6196a6ed53460837d7b7eed59c6fd7bfefca4c4c8fc4dd04af
      }

      template {
        script "components/takeover/interfaces.py" sha256:fb9e6ec2006a2818450fcc1b4809321f524e696f6718fc75cdbe1e9dbafbb292
      }

      template {
        script "components/takeover/passes.py" sha256:b6bd1d57b774c0171a372435e76f2836495c9b6d9000a214c7668dd1c2d48b28
      }

      template {
        script "components/takeover/program.py" sha256:acdfeeef612ae50f9d8c2b1c0725cffd7c16f2f6975a7913bfc2eadb8e5f947b
      }

      template {
        script "components/takeover/rate_limit.py" sha256:307e9099f44d2b78e1714b4a2f0d2dd4a22a71ff7efa8b7089979101a4bdfc42
      }

      template {
        script "components/takeover/services.py" sha256:3c05d7ce68e00b035a8c116b9710797130aa9159da7de97226655045b412e955
      }

      template {
        script "components/takeover/spares.py" sha256:c5f7493e05ff09533730aaf595469eefe3ae7ae0d7064b84908dc1d7532ca31d
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
