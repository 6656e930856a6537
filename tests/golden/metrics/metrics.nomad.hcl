job "pds-metrics" {
  datacenters = ["dc1"]
  region      = "global"
  type        = "service"
  priority    = 20

  group "pds-metrics" {
    count = 1

    network {
      port "http" {
        static       = 8428
        host_network = "loopback"
      }
    }

    service {
      name     = "pds-metrics"
      provider = "nomad"
      port     = "http"

      check {
        type     = "http"
        path     = "/health"
        interval = "30s"
        timeout  = "5s"

        check_restart {
          limit = 6
          grace = "5m"
        }
      }
    }

    volume "metrics" {
      type      = "host"
      read_only = false
      source    = "metrics"
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

    task "metrics" {
      driver       = "docker"
      user         = "1002:1002"
      kill_timeout = "60s"

      config {
        image           = "victoriametrics/victoria-metrics:v1.150.0"
        args            = ["-httpListenAddr=127.0.0.1:8428", "-httpAuth.username=pds", "-envflag.enable", "-http.disableCORS", "-storageDataPath=/metrics/data", "-retentionPeriod=30d", "-storage.minFreeDiskSpaceBytes=67108864", "-storage.maxHourlySeries=5000", "-storage.maxDailySeries=10000", "-memory.allowedBytes=44739242", "-search.maxConcurrentRequests=2", "-promscrape.config=/local/scrape.yaml", "-vmui.customDashboardsPath=/local/dashboards"]
        network_mode    = "host"
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
        pids_limit      = 128
      }

      volume_mount {
        volume      = "metrics"
        destination = "/metrics"
        read_only   = false
      }

      env {
        GOMEMLIMIT = "96MiB"
      }

      template {
        destination     = "local/scrape.yaml"
        change_mode     = "noop"
        left_delimiter  = "[[["
        right_delimiter = "]]]"
        data            = <<-EOT
        global:
          scrape_interval: 30s
          scrape_timeout: 10s
        scrape_configs:
        - job_name: nomad
          metrics_path: /v1/metrics
          params:
            format:
            - prometheus
          sample_limit: 20000
          static_configs:
          - targets:
            - 127.0.0.1:4646
          metric_relabel_configs:
          - source_labels:
            - __name__
            regex:
            - nomad_client_host_(cpu_(total_percent|user|system)|memory_.+|disk_(size|used|available|inodes_percent))
            - nomad_client_allocs_(memory_(usage|cache|rss|allocated)|cpu_total_percent|oom_killed|restart|failed)
            - nomad_client_((un)?allocated_(memory|cpu)|allocations_(running|blocked|pending)|uptime)
            - nomad_nomad_job_summary_(failed|lost|queued|running)
            - process_(resident_memory_bytes|cpu_seconds_total)
            action: keep
          - source_labels:
            - exported_job
            regex: ([^/]+)(/.*)?
            target_label: nomad_job
            replacement: $1
          - regex:
            - exported_job|alloc_id|parent_id|periodic_id|dispatch_id
            - host|datacenter|node_(id|class|pool|status|scheduling_eligibility)
            action: labeldrop
        - job_name: host
          sample_limit: 5000
          static_configs:
          - targets:
            - 127.0.0.1:9101
        - job_name: pds
          sample_limit: 20000
          static_configs:
          - targets:
            - 127.0.0.1:9464
          metric_relabel_configs:
          - source_labels:
            - __name__
            regex:
            - (account_created|session_created|oauth_authorization)_total
            - http_server_request_duration_(bucket|sum|count)
            - nodejs_eventloop_(delay_(p50|p99|max)|utilization)
            - v8js_memory_heap_(used|limit)
            - v8js_gc_duration_(sum|count)
            action: keep
          - source_labels:
            - __name__
            - http_route
            regex: http_server_request_duration_(bucket|sum|count);/xrpc/.+
            target_label: __tmp_route
            replacement: known
          - source_labels:
            - __name__
            - __tmp_route
            regex: http_server_request_duration_(bucket|sum);
            action: drop
          - source_labels:
            - __name__
            - __tmp_route
            regex: http_server_request_duration_count;
            target_label: http_route
            replacement: other
          - regex: __tmp_route|otel_scope_.+|network_protocol_version|url_scheme
            action: labeldrop
        - job_name: metrics
          basic_auth:
            username: pds
            password: '%%{METRICS_PASSWORD}'
          static_configs:
          - targets:
            - 127.0.0.1:8428
          metric_relabel_configs:
          - source_labels:
            - __name__
            regex:
            - process_resident_memory_(anon_)?bytes
            - vm_(data_size_bytes|free_disk_space_bytes|storage_is_read_only|rows|(hourly|daily)_series_limit_.+)
            action: keep
        EOT
      }

      template {
        script "dashboards/host.json" sha256:c88763cafeb0cbdf172ba5b9c10e65177a903658099fa8f38750ca24263addfb
      }

      template {
        script "dashboards/server.json" sha256:d34b212a7219cef49d6e9a62974ec0fd5d33bdc4ce730268182af6211c1ae89e
      }

      template {
        destination = "secrets/metrics.env"
        env         = true
        change_mode = "restart"
        splay       = "0s"
        perms       = "0600"
        data        = <<-EOT
        {{ with nomadVar "nomad/jobs/pds-metrics" }}METRICS_PASSWORD={{ .METRICS_PASSWORD | toJSON }}
        httpAuth_password={{ .METRICS_PASSWORD | toJSON }}{{ end }}
        EOT
      }

      resources {
        cpu    = 100
        memory = 128
      }

      logs {
        max_files     = 2
        max_file_size = 1
      }
    }
  }
}
