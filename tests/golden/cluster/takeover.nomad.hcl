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
        script "components/takeover/decide.py" sha256:bff36b2d663965b637f833c3cc9cf62bfefb64e69342433036bc0e3f802f12ae
      }

      template {
        script "components/takeover/passes.py" sha256:976733bac191d44c679ccd236f188d216f405a25899b0132608f1dd1760326ca
      }

      template {
        script "components/takeover/program.py" sha256:a59fd7637c019508d66b04f27266d2f17a53ebcaff912f60e76adb4d69fa04fb
      }

      template {
        script "components/takeover/services.py" sha256:f89f67fe8ab40ffb830bcdafca30ab849d0480e3fdf19a9ca517ccacc87c9d4b
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
