// Io-stand-in takes IO's place in the tests: it reads the file that IO would get, finds `nomad:SERVICE` by Nomad's API
// on loopback without a token, and proxies HTTP and WebSocket to it.
//
// It shows that the file parses, that it names a service that is found, and that Nomad's ACLs let an ingress on the
// host see it. It shows nothing about IO itself, which is a closed binary.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// What only the tests set, by the image's environment; the defaults are a host's. IO has no such settings.
const (
	// Addresses to listen on, as a prefix: an e2e environment's network stands for the addresses of a host.
	listenVariable = "IO_STAND_IN_LISTEN"
	// Ports for HTTP and HTTPS; 0 is a free one.
	portsVariable = "IO_STAND_IN_PORTS"
	// Nomad's API.
	nomadVariable = "IO_STAND_IN_NOMAD"
	// A file on the volume. If it exists, the one address to listen on: of a droplet that shares the machine with others.
	dropletFile = "/io/droplet-address"
	// Certificate and key of the authority that stands for the public one, PEM, in one file.
	caVariable = "IO_STAND_IN_CA"
)

type fileFlags []string

func (files *fileFlags) String() string { return strings.Join(*files, " ") }

func (files *fileFlags) Set(name string) error {
	*files = append(*files, name)
	return nil
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "io-stand-in: %v\n", err)
		os.Exit(1)
	}
}

// Run is IO's command line as far as the job uses it: -c FILE, again and again, and -x to read them and exit.
func run() error {
	var files fileFlags
	var exit bool
	for _, name := range []string{"c", "config"} {
		flag.Var(&files, name, "configuration file; may be given several times")
	}
	for _, name := range []string{"x", "exit"} {
		flag.BoolVar(&exit, name, false, "exit after reading the files")
	}
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("%q is no option", flag.Arg(0))
	}
	read, err := read(files)
	if err != nil {
		return err
	}
	fmt.Printf("%d ingresses in the dialect of %s\n", len(read.ingresses), read.dialect)
	for _, line := range read.leftOut {
		fmt.Println(line)
	}
	if exit {
		return nil
	}
	return serve(read)
}

func serve(read *config) error {
	listen := told(listenVariable, "0.0.0.0/32")
	if own, err := os.ReadFile(dropletFile); err == nil {
		listen = strings.TrimSpace(string(own)) + "/32"
	}
	prefix, err := netip.ParsePrefix(listen)
	if err != nil {
		return fmt.Errorf("%s: %w", listenVariable, err)
	}
	plainPort, tlsPort, _ := strings.Cut(told(portsVariable, "80,443"), ",")
	authority, err := newAuthority(told(caVariable, "/ca.pem"))
	if err != nil {
		return fmt.Errorf("%s: %w", caVariable, err)
	}
	ingress := &http.Server{
		Handler:           newProxy(read.ingresses, told(nomadVariable, "http://127.0.0.1:4646")),
		TLSConfig:         authority.forNames(read.ingresses),
		ReadHeaderTimeout: 10 * time.Second,
	}
	redirect := &http.Server{Handler: http.HandlerFunc(toHTTPS), ReadHeaderTimeout: 10 * time.Second}

	ended := make(chan error)
	var plain, encrypted []string
	for _, address := range hosts(prefix) {
		for _, one := range []struct {
			port  string
			names *[]string
			serve func(net.Listener) error
		}{
			{plainPort, &plain, redirect.Serve},
			{tlsPort, &encrypted, func(on net.Listener) error { return ingress.ServeTLS(on, "", "") }},
		} {
			listener, err := net.Listen("tcp", net.JoinHostPort(address.String(), one.port))
			if err != nil {
				return err
			}
			*one.names = append(*one.names, listener.Addr().String())
			go func() { ended <- one.serve(listener) }()
		}
	}
	fmt.Printf("http on %s, https on %s\n", shown(plain), shown(encrypted))

	asked, forget := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer forget()
	select {
	case err := <-ended:
		return err
	case <-asked.Done():
		patience, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := ingress.Shutdown(patience); errors.Is(err, context.DeadlineExceeded) {
			return ingress.Close()
		}
		return nil
	}
}

func told(variable, otherwise string) string {
	if text := os.Getenv(variable); text != "" {
		return text
	}
	return otherwise
}

// Hosts are the addresses of a prefix without its network's and its broadcast's, unless it is a single one.
func hosts(prefix netip.Prefix) []netip.Addr {
	if prefix.IsSingleIP() {
		return []netip.Addr{prefix.Addr()}
	}
	var found []netip.Addr
	for address := prefix.Masked().Addr().Next(); prefix.Contains(address.Next()); address = address.Next() {
		found = append(found, address)
	}
	return found
}

func shown(names []string) string {
	if len(names) == 1 {
		return names[0]
	}
	return fmt.Sprintf("%s to %s", names[0], names[len(names)-1])
}

func toHTTPS(answer http.ResponseWriter, request *http.Request) {
	http.Redirect(answer, request, "https://"+hostOf(request)+request.URL.RequestURI(), http.StatusPermanentRedirect)
}

func hostOf(request *http.Request) string {
	host, _, err := net.SplitHostPort(request.Host)
	if err != nil {
		host = request.Host
	}
	return strings.ToLower(host)
}
