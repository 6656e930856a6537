# The same name on every rebuilt host: Raft and Serf store it, and their state is on the volume.
name       = "pds"
region     = "global"
datacenter = "dc1"
data_dir   = "/srv/nomad/agent"

# Loopback only; operators connect through stunnel. With a loopback bind Nomad requires advertised addresses.
bind_addr = "127.0.0.1"

advertise {
  http = "127.0.0.1"
  rpc  = "127.0.0.1"
  serf = "127.0.0.1"
}

# A restart of the agent does not stop tasks; the new agent finds them again.
leave_on_interrupt = false
leave_on_terminate = false

# No reports to HashiCorp.
disable_update_check        = true
disable_anonymous_signature = true

# For the metrics store on this host.
telemetry {
  prometheus_metrics         = false
  publish_allocation_metrics = false
  publish_node_metrics       = false
}

server {
  enabled          = true
  bootstrap_expect = 1
}

acl {
  enabled = true
}

client {
  enabled = true

  # Mounts of running tasks; the default is beside data_dir, which is on the volume and outlives them.
  alloc_mounts_dir = "/var/lib/nomad/alloc_mounts"

  # The default, 30 s, would cut the server's 60 s short.
  max_kill_timeout = "120s"

  host_network "loopback" {
    cidr = "127.0.0.1/32"
  }

  host_volume "pds" {
    path      = "/srv/nomad/pds"
    read_only = false
  }

  host_volume "io" {
    path      = "/srv/nomad/io"
    read_only = false
  }

  host_volume "caddy" {
    path      = "/srv/nomad/caddy"
    read_only = false
  }

  host_volume "metrics" {
    path      = "/srv/nomad/metrics"
    read_only = false
  }

  host_volume_plugin_dir = "/usr/local/lib/nomad/host-volume-plugins"

  # For Debian, Docker and this agent; the ports are SSH's and stunnel's.
  reserved {
    memory         = 512
    disk           = 1024
    reserved_ports = "22,4650"
  }

  # 0 is 'for ever': while the agent's server is unreachable, a task keeps its secrets and is not killed.
  template {
    nomad_retry {
      attempts = 0
    }
  }

  options = {
    "driver.allowlist" = "docker"
    # These query the metadata service or products that are not installed; each would wait for its timeout.
    "fingerprint.denylist" = "consul,env_aws,env_azure,env_digitalocean,env_gce,vault"
  }

  meta {
    pds_configuration = "6972a51c9a86dedc"
  }
}

plugin "docker" {
  config {
    allow_privileged = false

    # Nomad's own list without those that let a container make devices, change file capabilities, change its root or
    # write audit records. The PDS drops all. The rest is for the ingress, which binds 80 and 443.
    allow_caps = ["chown", "dac_override", "fowner", "kill", "net_bind_service", "setgid", "setuid"]

    # Processes and threads of one container. A job may request fewer, never more.
    pids_limit = 2048

    # Disables bind mounts of the host's paths. Nomad's host volumes still work.
    volumes {
      enabled = false
    }

    # With the default, 3 minutes, a restart after a short pause pulls the image, which needs the registry.
    gc {
      image       = true
      image_delay = "72h"
      container   = true
    }
  }
}

plugin "raw_exec" {
  config {
    enabled = false
  }
}
