variable "ingress_state" {
  type        = string
  default     = "closed"
  description = "'open' once the hostname resolves. A certificate order before that uses up the CA's rate limit."
}

job "io" {
  datacenters = ["dc1"]
  region      = "global"
  type        = "service"
  priority    = 60

  group "io" {
    count          = var.ingress_state == "open" ? 1 : 0
    shutdown_delay = "2s"

    network {
      port "http" {
        static = 80
      }

      port "https" {
        static = 443
      }

      port "ssh" {
        static = 2200
      }
    }

    service {
      name     = "io"
      provider = "nomad"
      port     = "https"
    }

    volume "io" {
      type      = "host"
      read_only = false
      source    = "io"
    }

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

    task "io" {
      driver       = "docker"
      kill_timeout = "30s"

      config {
        image        = "agentio/io:latest"
        args         = ["-c", "/local/io.hcl"]
        network_mode = "host"
        force_pull   = false
        security_opt = ["no-new-privileges=false"]
      }

      volume_mount {
        volume      = "io"
        destination = "/io"
        read_only   = false
      }

      template {
        destination = "local/io.hcl"
        change_mode = "restart"
        splay       = "0s"
        data        = <<-EOT
        {{ range nomadVarList "io/files" }}{{ with nomadVar .Path }}{{ .text }}
        {{ end }}{{ end }}
        EOT
      }

      resources {
        cpu    = 300
        memory = 256
      }

      logs {
        max_files     = 5
        max_file_size = 10
      }
    }
  }
}
