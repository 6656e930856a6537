variable "ingress_state" {
  type        = string
  default     = "closed"
  description = "'open' once the hostname resolves. A certificate order before that uses up the CA's rate limit."
}

job "caddy" {
  datacenters = ["dc1"]
  region      = "global"
  type        = "service"
  priority    = 60

  group "caddy" {
    count          = var.ingress_state == "open" ? 1 : 0
    shutdown_delay = "2s"

    network {
      port "http" {
        static = 80
      }

      port "https" {
        static = 443
      }

      port "ask" {
        static       = 2020
        host_network = "loopback"
      }
    }

    service {
      name     = "caddy"
      provider = "nomad"
      port     = "https"
    }

    volume "caddy" {
      type      = "host"
      read_only = false
      source    = "caddy"
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

    task "caddy" {
      driver       = "docker"
      user         = "1001:1001"
      kill_timeout = "10s"

      config {
        image           = "caddy:2.11.4"
        entrypoint      = ["/bin/sh", "/local/caddy.sh"]
        args            = ["start"]
        network_mode    = "host"
        force_pull      = false
        readonly_rootfs = true
        cap_drop        = ["all"]
        cap_add         = ["net_bind_service"]
        security_opt    = ["no-new-privileges=false"]
        pids_limit      = 512
      }

      volume_mount {
        volume      = "caddy"
        destination = "/data"
        read_only   = false
      }

      env {
        XDG_DATA_HOME   = "/data"
        XDG_CONFIG_HOME = "/local"
      }

      template {
        script "caddy.sh" sha256:a86b08c26bfdaa2bfa1a3a7f7126422e26d3f377d620ebfd8e0d5b7d15c0bfec
      }

      template {
        destination = "local/options"
        change_mode = "noop"
        data        = <<-EOT
        {
        	# A socket in the task's own directory: by TCP every program on the host could control Caddy.
        	admin unix//local/admin.sock
        	# Set, because Caddy would use another CA if this one fails, and a CAA record may forbid that.
        	acme_ca "https://acme-v02.api.letsencrypt.org/directory"
        	on_demand_tls {
        		ask http://127.0.0.1:2020/ask
        	}
        	# Of Caddy's own messages: an error has the request, too.
        	log {
        		format filter {
        			wrap json
        			fields {
        				request>headers delete
        				request>tls delete
        				resp_headers delete
        				request>uri regexp \?.* ""
        				request>remote_ip ip_mask {
        					ipv4 24
        					ipv6 48
        				}
        				request>client_ip ip_mask {
        					ipv4 24
        					ipv6 48
        				}
        			}
        		}
        	}
        	servers {
        		# No HTTP/3: its port, 443 of UDP, is closed.
        		protocols h1 h2
        	}
        }

        # Whether this name may have a certificate; the site's stack answers.
        http://:2020 {
        	bind 127.0.0.1
        	handle /ask {
        		rewrite * /
        		reverse_proxy 127.0.0.1:2020 {
        			header_up Host {query.domain}
        		}
        	}
        	handle {
        		respond 404
        	}
        }

        EOT
      }

      template {
        destination = "local/parts"
        change_mode = "script"
        splay       = "0s"
        data        = "{{ range $file := nomadVarList \"caddy/files\" }}{{ with nomadVar $file.Path }}{{ range .Tuples }}{{ $file.Path }} {{ .K }} {{ .V | base64Encode }}\n{{ end }}{{ end }}{{ end }}"

        change_script {
          command       = "/bin/sh"
          args          = ["/local/caddy.sh", "reload"]
          timeout       = "120s"
          fail_on_error = false
        }
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
