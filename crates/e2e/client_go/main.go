// Command client_go does what a test asks for with libraries that others rely on: k8s.io/client-go, of which kubectl is made, that of
// Prometheus, and github.com/containerd/nri, of which plugins of the node are.
//
//	client_go remote     a command or an attachment: a plan from standard input, its report to standard output
//	client_go forward    forwards ports until standard input ends; says first which, and in the end what went wrong
//	client_go pairs      two connections over one session, of which one reaches nobody
//	client_go nri        a plugin of the node, until standard input ends; says every event
//	client_go lint       reads figures as Prometheus' own tools do, and says what they mind
//
// Plans and reports are JSON, their fields below. What is to be expected is the test's to say.
package main

import (
	"encoding/json"
	"fmt"
	"os"
)

// jobs are what this program does.
var jobs = map[string]func(*json.Decoder, *json.Encoder) error{
	"remote":  remote,
	"forward": forward,
	"pairs":   pairs,
	"nri":     nri,
	"lint":    lint,
}

func main() {
	if len(os.Args) != 2 || jobs[os.Args[1]] == nil {
		fail("usage: client_go remote|forward|pairs|nri|lint")
	}
	if err := jobs[os.Args[1]](json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)); err != nil {
		fail(err)
	}
}

func fail(why any) {
	fmt.Fprintln(os.Stderr, "client_go:", why)
	os.Exit(2)
}
