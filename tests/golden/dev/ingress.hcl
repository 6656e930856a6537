ingress "noted.at" {
  name = "pds"
  backend = "nomad:pds"
}
