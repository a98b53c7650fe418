//go:build programs

// Package metrics names metrics-server, which wants newer libraries than the kubelet beside it: a module of its own.
package metrics

import _ "sigs.k8s.io/metrics-server/cmd/metrics-server"
