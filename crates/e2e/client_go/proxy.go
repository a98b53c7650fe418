package main

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
)

// proxy passes requests on, as an old API server would: it has no WebSocket.
type proxy struct {
	url      string
	lock     sync.Mutex
	upgrades []string
}

// startProxy begins to listen for requests to the host of an address; ends with the program.
func startProxy(address string) (*proxy, error) {
	to, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	p := &proxy{}
	host := url.URL{Scheme: to.Scheme, Host: to.Host}
	pass := httputil.NewSingleHostReverseProxy(&host)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		wanted := r.Header.Get("Upgrade")
		p.lock.Lock()
		p.upgrades = append(p.upgrades, wanted)
		p.lock.Unlock()
		if strings.EqualFold(wanted, "websocket") {
			http.Error(w, "no WebSocket here", http.StatusForbidden)
			return
		}
		pass.ServeHTTP(w, r)
	}))
	p.url = server.URL + to.RequestURI()
	return p, nil
}

// seen are the upgrades that were asked for; none without a proxy.
func (p *proxy) seen() []string {
	if p == nil {
		return nil
	}
	p.lock.Lock()
	defer p.lock.Unlock()
	return p.upgrades
}
