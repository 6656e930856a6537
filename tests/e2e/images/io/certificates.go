package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"time"
)

// An authority signs certificates in the place of a public one: no ACME here.
type authority struct {
	certificate *x509.Certificate
	key         crypto.PrivateKey
	mutex       sync.Mutex
	issued      map[string]*tls.Certificate
}

func newAuthority(file string) (*authority, error) {
	pair, err := tls.LoadX509KeyPair(file, file)
	if err != nil {
		return nil, err
	}
	return &authority{certificate: pair.Leaf, key: pair.PrivateKey, issued: map[string]*tls.Certificate{}}, nil
}

// ForNames has a certificate for each of the names, and a refusal for all others.
func (it *authority) forNames(names map[string]backend) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			name := strings.ToLower(hello.ServerName)
			if _, there := names[name]; !there {
				return nil, fmt.Errorf("no ingress has the name %q", name)
			}
			return it.issue(name)
		},
	}
}

func (it *authority) issue(name string) (*tls.Certificate, error) {
	it.mutex.Lock()
	defer it.mutex.Unlock()
	if made, there := it.issued[name]; there {
		return made, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	wanted := &x509.Certificate{
		SerialNumber: serial,
		DNSNames:     []string{name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().AddDate(0, 0, 60),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	signed, err := x509.CreateCertificate(rand.Reader, wanted, it.certificate, key.Public(), it.key)
	if err != nil {
		return nil, err
	}
	it.issued[name] = &tls.Certificate{Certificate: [][]byte{signed}, PrivateKey: key}
	return it.issued[name], nil
}
