name       = "${name}"
region     = "${nomad_region}"
datacenter = "${nomad_datacenter}"

# Of this machine alone: the state is replicated, and a rebuilt server fetches it from the others.
data_dir = "/var/lib/nomad"

bind_addr = "0.0.0.0"

# Operators connect through stunnel.
addresses {
  http = "127.0.0.1"
}

# The address in the cluster's own network.
advertise {
  http = "127.0.0.1"
  rpc  = "{{ GetPrivateInterfaces | include \"network\" \"${network}\" | attr \"address\" }}"
  serf = "{{ GetPrivateInterfaces | include \"network\" \"${network}\" | attr \"address\" }}"
}

leave_on_interrupt = false
leave_on_terminate = false

disable_update_check        = true
disable_anonymous_signature = true

# Servers and workers prove themselves with certificates of the cluster's CA.
tls {
  rpc                    = true
  ca_file                = "/etc/stunnel/pds/ca.pem"
  cert_file              = "/etc/stunnel/pds/server.pem"
  key_file               = "/etc/stunnel/pds/server.key"
  verify_server_hostname = true
}

server {
  enabled          = true
  bootstrap_expect = ${count}

  # A new leader knows no heartbeats. The default, 300 s, would delay the news of a dead host so long.
  failover_heartbeat_ttl = "60s"

  # The default, 24h, would forget the node of a host that is down for a day, to which the clubs' volumes belong.
  node_gc_threshold = "8760h"

  # The reserved address leads to one of the servers, which knows the others.
  server_join {
    retry_join     = ["${address}"]
    retry_interval = "10s"
  }
}

acl {
  enabled = true
}

# For the takeover only: clubs' jobs are of the pool 'default', and their namespaces allow Docker alone.
client {
  enabled   = true
  node_pool = "servers"

  server_join {
    retry_join = ["127.0.0.1"]
  }

  reserved {
    memory         = ${system_reserve_mib}
    disk           = 1024
    reserved_ports = "22,4646-4650"
  }

  options = {
    "driver.allowlist"     = "raw_exec"
    "fingerprint.denylist" = "consul,env_aws,env_azure,env_digitalocean,env_gce,vault"
  }

  meta {
    pds_configuration = "${configuration}"
  }
}

plugin "raw_exec" {
  config {
    enabled = true
  }
}
