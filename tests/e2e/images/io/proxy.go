package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// A proxy sends each request on to its ingress's backend, which is looked up every time: an allocation's port changes.
type proxy struct {
	ingresses map[string]backend
	nomad     string
	ask       *http.Client
	forward   *http.Transport
}

func newProxy(ingresses map[string]backend, nomad string) *proxy {
	// No proxy of the environment's: all of this is on the host.
	direct := &http.Transport{DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext}
	return &proxy{ingresses, nomad, &http.Client{Transport: direct, Timeout: 5 * time.Second}, direct}
}

func (it *proxy) ServeHTTP(answer http.ResponseWriter, request *http.Request) {
	backend, there := it.ingresses[hostOf(request)]
	if !there {
		http.Error(answer, "io-stand-in: no ingress has this name", http.StatusNotFound)
		return
	}
	address, err := it.find(request.Context(), backend)
	if err != nil {
		refuse(answer, request, err)
		return
	}
	// Else the server closes the request's body as soon as an answer begins. A backend that answers at the last byte is
	// then quicker than the transport, which reads on until the body's end, finds it closed and cuts the answer off.
	if err := http.NewResponseController(answer).EnableFullDuplex(); err != nil {
		refuse(answer, request, err)
		return
	}
	target := &url.URL{Scheme: "http", Host: address}
	through := &httputil.ReverseProxy{
		Rewrite: func(sent *httputil.ProxyRequest) {
			sent.SetURL(target)
			sent.Out.Host = sent.In.Host // the server knows itself, and its members' handles, by it
			sent.SetXForwarded()
		},
		Transport:     it.forward,
		FlushInterval: -1,
		ErrorHandler:  refuse,
	}
	through.ServeHTTP(answer, request)
}

// Find asks Nomad as any process on the host can, without a token.
func (it *proxy) find(ctx context.Context, from backend) (string, error) {
	if from.address != "" {
		return from.address, nil
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, it.nomad+"/v1/service/"+from.service, nil)
	if err != nil {
		return "", err
	}
	answer, err := it.ask.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(answer.Body, 200))
		return "", fmt.Errorf("Nomad answers %s to who asks for service %s without a token: %s",
			answer.Status, from.service, strings.TrimSpace(string(said)))
	}
	var found []struct {
		Address string
		Port    int
	}
	if err := json.NewDecoder(answer.Body).Decode(&found); err != nil {
		return "", fmt.Errorf("Nomad's answer about service %s: %w", from.service, err)
	}
	if len(found) == 0 {
		return "", fmt.Errorf("Nomad knows no service %s", from.service)
	}
	return net.JoinHostPort(found[0].Address, strconv.Itoa(found[0].Port)), nil
}

func refuse(answer http.ResponseWriter, request *http.Request, err error) {
	log.Printf("%s %s: %v", request.Method, request.URL.Path, err)
	http.Error(answer, "io-stand-in: "+err.Error(), http.StatusBadGateway)
}
