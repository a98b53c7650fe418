package main

import (
	"fmt"
	"net/http"
	"net/url"

	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
)

// target is an address that the daemon has given, and how it is spoken to: a protocol of the tables below, or
// "fallback", which tries the first name of a table and then "spdy", by way of a proxy that has no WebSocket.
type target struct {
	URL      string
	Protocol string
}

type table[T any] map[string]func(*rest.Config, *url.URL) (T, error)

// executors run commands. The methods are kubectl's.
var executors = table[remotecommand.Executor]{
	"v5": func(config *rest.Config, to *url.URL) (remotecommand.Executor, error) {
		return remotecommand.NewWebSocketExecutor(config, http.MethodGet, to.String())
	},
	"v4": func(config *rest.Config, to *url.URL) (remotecommand.Executor, error) {
		return remotecommand.NewWebSocketExecutorForProtocols(config, http.MethodGet, to.String(), "v4.channel.k8s.io")
	},
	"spdy": func(config *rest.Config, to *url.URL) (remotecommand.Executor, error) {
		return remotecommand.NewSPDYExecutor(config, http.MethodPost, to)
	},
}

// dialers make sessions in which ports are forwarded.
var dialers = table[httpstream.Dialer]{
	"tunnel": func(config *rest.Config, to *url.URL) (httpstream.Dialer, error) {
		return portforward.NewSPDYOverWebsocketDialer(to, config)
	},
	"spdy": func(config *rest.Config, to *url.URL) (httpstream.Dialer, error) {
		transport, upgrader, err := spdy.RoundTripperFor(config)
		if err != nil {
			return nil, err
		}
		return spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, to), nil
	},
}

// executor is what runs a command at the target; the proxy is there for the fallback only.
func (t target) executor() (remotecommand.Executor, *proxy, error) {
	return choose(t, executors, "v5", func(first, second remotecommand.Executor) (remotecommand.Executor, error) {
		return remotecommand.NewFallbackExecutor(first, second, httpstream.IsUpgradeFailure)
	})
}

// dialer is what forwards ports of the target, likewise.
func (t target) dialer() (httpstream.Dialer, *proxy, error) {
	return choose(t, dialers, "tunnel", func(first, second httpstream.Dialer) (httpstream.Dialer, error) {
		return portforward.NewFallbackDialer(first, second, httpstream.IsUpgradeFailure), nil
	})
}

func choose[T any](t target, from table[T], first string, fallback func(T, T) (T, error)) (none T, _ *proxy, _ error) {
	if t.Protocol != "fallback" {
		only, err := from.open(t.Protocol, t.URL)
		return only, nil, err
	}
	through, err := startProxy(t.URL)
	if err != nil {
		return none, nil, err
	}
	tried, err := from.open(first, through.url)
	if err != nil {
		return none, nil, err
	}
	other, err := from.open("spdy", through.url)
	if err != nil {
		return none, nil, err
	}
	both, err := fallback(tried, other)
	return both, through, err
}

func (from table[T]) open(protocol, address string) (none T, _ error) {
	to, err := url.Parse(address)
	if err != nil {
		return none, err
	}
	open, known := from[protocol]
	if !known {
		return none, fmt.Errorf("no protocol %q", protocol)
	}
	return open(&rest.Config{Host: to.Host}, to)
}
