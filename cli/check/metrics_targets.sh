# Prints which targets answer the metrics store: the result of the query `up`, as one line of JSON.
#
# BusyBox, which VictoriaMetrics' image has, reads the request from standard input: no password is an argument.
login=$(printf 'pds:%s' "$METRICS_PASSWORD" | base64 | tr -d '\n')
printf 'GET /api/v1/query?query=up&nocache=1 HTTP/1.0\r\nAuthorization: Basic %s\r\n\r\n' "$login" |
    nc "${STORE_HOST:-127.0.0.1}" "${STORE_PORT:-8428}" | tail -n 1
