package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/tools/portforward"
)

// forwardPlan is what `forward` is told.
type forwardPlan struct {
	target
	// Ports of the pod; local ones are the kernel's choice.
	Ports []uint16
}

// forwardReport is what `forward` says, twice: at the beginning and in the end.
type forwardReport struct {
	// Ports that are listened on, in the plan's order.
	Ports []uint16
	// Errors of connections and, if it broke off, of the session.
	Errors   []string
	Upgrades []string
}

func forward(plans *json.Decoder, reports *json.Encoder) error {
	var plan forwardPlan
	if err := plans.Decode(&plan); err != nil {
		return err
	}
	dialer, through, err := plan.dialer()
	if err != nil {
		return err
	}
	var ports []string
	for _, port := range plan.Ports {
		ports = append(ports, fmt.Sprintf("0:%d", port))
	}
	errors := collectErrors()
	stop, ready, over := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	forwarder, err := portforward.New(dialer, ports, stop, ready, io.Discard, io.Discard)
	if err != nil {
		return err
	}
	go func() { over <- forwarder.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-over:
		return err
	}
	forwarded, err := forwarder.GetPorts()
	if err != nil {
		return err
	}
	var report forwardReport
	for _, port := range forwarded {
		report.Ports = append(report.Ports, port.Local)
	}
	if err := reports.Encode(report); err != nil {
		return err
	}
	// More doesn't come: this is the end of standard input. A session may break off before.
	var more any
	_ = plans.Decode(&more)
	close(stop)
	if err := <-over; err != nil {
		errors.add(err.Error())
	}
	report.Errors, report.Upgrades = errors.all(), through.seen()
	return reports.Encode(report)
}

// pairsPlan is what `pairs` is told: a port that sends back what it gets, and one that nobody listens on.
type pairsPlan struct {
	target
	Echo, Nobody uint16
}

// pairsReport is what the echo sent back, before and after the other's refusal, and that.
type pairsReport struct {
	Before, Refusal, After string
}

func pairs(plans *json.Decoder, reports *json.Encoder) error {
	var plan pairsPlan
	if err := plans.Decode(&plan); err != nil {
		return err
	}
	dialer, _, err := plan.dialer()
	if err != nil {
		return err
	}
	session, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
	if err != nil {
		return err
	}
	defer session.Close()
	echo, _, err := pair(session, plan.Echo, 0)
	if err != nil {
		return err
	}
	var report pairsReport
	if report.Before, err = echoed(echo, "before"); err != nil {
		return err
	}
	_, refusal, err := pair(session, plan.Nobody, 1)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(refusal)
	if err != nil {
		return err
	}
	report.Refusal = string(text)
	if report.After, err = echoed(echo, "after"); err != nil {
		return err
	}
	return reports.Encode(report)
}

// pair opens the two streams of a connection: data, errors.
func pair(session httpstream.Connection, port uint16, request int) (data, errors httpstream.Stream, err error) {
	headers := http.Header{}
	headers.Set(corev1.PortHeader, strconv.Itoa(int(port)))
	headers.Set(corev1.PortForwardRequestIDHeader, strconv.Itoa(request))
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	if errors, err = session.CreateStream(headers); err != nil {
		return nil, nil, err
	}
	errors.Close()
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err = session.CreateStream(headers)
	return data, errors, err
}

func echoed(stream httpstream.Stream, word string) (string, error) {
	if _, err := io.WriteString(stream, word); err != nil {
		return "", err
	}
	back := make([]byte, len(word))
	_, err := io.ReadFull(stream, back)
	return string(back), err
}

// collected errors are those that client-go tells nobody.
type collected struct {
	lock  sync.Mutex
	lines []string
}

func collectErrors() *collected {
	c := &collected{}
	runtime.ErrorHandlers = []runtime.ErrorHandler{func(_ context.Context, err error, message string, _ ...any) {
		c.add(fmt.Sprintf("%s: %v", message, err))
	}}
	return c
}

func (c *collected) add(line string) {
	c.lock.Lock()
	defer c.lock.Unlock()
	c.lines = append(c.lines, line)
}

func (c *collected) all() []string {
	c.lock.Lock()
	defer c.lock.Unlock()
	return c.lines
}
