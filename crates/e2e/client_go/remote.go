package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"
)

// remotePlan is a command or an attachment, as its address was asked for.
type remotePlan struct {
	target
	Stdin, TTY bool
	// Seconds is when to give up.
	Seconds int
	// Steps are taken in their order, while output is read.
	Steps []step
	// Output is the file that standard output goes to, if any.
	Output string
}

// step has one of its fields set.
type step struct {
	// Wait for this in standard output.
	Wait string
	// Send this.
	Send string
	// Random bytes to send, so many.
	Random int64
	// File to send.
	File string
	// Size of the terminal: columns, rows.
	Size []uint16
	// End the input.
	End bool
}

// remoteReport is what came of it.
type remoteReport struct {
	// Exit is the exit code; without one, Error says what is wrong.
	Exit  *int
	Error string
	// Left are the steps that were not taken to their end.
	Left                 int
	Sent, Stdout, Stderr *stream
	// Upgrades that the fallback's proxy has seen.
	Upgrades []string
}

// stream is what went over one.
type stream struct {
	Bytes  int64
	SHA256 string
	// Text is the beginning of it.
	Text string

	lock    sync.Mutex
	changed *sync.Cond
	text    strings.Builder
	hash    hash.Hash
	over    bool
	file    io.Writer
}

// longestText is how much of a stream a report shows.
const longestText = 1 << 20

func newStream(file io.Writer) *stream {
	s := &stream{hash: sha256.New(), file: file}
	s.changed = sync.NewCond(&s.lock)
	return s
}

func (s *stream) Write(bytes []byte) (int, error) {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.Bytes += int64(len(bytes))
	s.hash.Write(bytes)
	s.text.Write(bytes[:min(len(bytes), longestText-s.text.Len())])
	s.changed.Broadcast()
	return s.file.Write(bytes)
}

// wait until a word is in the text; tells whether it came.
func (s *stream) wait(word string) bool {
	s.lock.Lock()
	defer s.lock.Unlock()
	for !strings.Contains(s.text.String(), word) {
		if s.over {
			return false
		}
		s.changed.Wait()
	}
	return true
}

func (s *stream) end() {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.over, s.Text, s.SHA256 = true, s.text.String(), hex.EncodeToString(s.hash.Sum(nil))
	s.changed.Broadcast()
}

// sizes of a terminal, as client-go asks for them.
type sizes chan *remotecommand.TerminalSize

func (s sizes) Next() *remotecommand.TerminalSize { return <-s }

func remote(plans *json.Decoder, reports *json.Encoder) error {
	var plan remotePlan
	if err := plans.Decode(&plan); err != nil {
		return err
	}
	executor, through, err := plan.executor()
	if err != nil {
		return err
	}
	output := io.Discard
	if plan.Output != "" {
		file, err := os.Create(plan.Output)
		if err != nil {
			return err
		}
		defer file.Close()
		output = file
	}
	report := plan.run(executor, output)
	report.Upgrades = through.seen()
	return reports.Encode(report)
}

// run takes the steps while the executor moves the bytes.
func (p remotePlan) run(executor remotecommand.Executor, output io.Writer) *remoteReport {
	report := &remoteReport{Sent: newStream(io.Discard), Stdout: newStream(output), Stderr: newStream(io.Discard)}
	// What is read from the one end was written to the other, which the steps do.
	input, feed := io.Pipe()
	resized := make(sizes, len(p.Steps))
	options := remotecommand.StreamOptions{Stdout: report.Stdout, Tty: p.TTY}
	if p.Stdin {
		options.Stdin = input
	}
	if p.TTY {
		options.TerminalSizeQueue = resized
	} else {
		options.Stderr = report.Stderr
	}
	left := make(chan int, 1)
	go func() { left <- take(p.Steps, io.MultiWriter(feed, report.Sent), feed, report.Stdout, resized) }()
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(p.Seconds)*time.Second)
	defer cancel()
	report.ended(executor.StreamWithContext(ctx, options))
	// Steps that wait or send have nothing more to hope for.
	report.Stdout.end()
	report.Stderr.end()
	feed.Close()
	report.Left = <-left
	report.Sent.end()
	return report
}

// ended is told how.
func (r *remoteReport) ended(err error) {
	var exit exec.ExitError
	switch {
	case err == nil:
		r.Exit = new(int)
	case errors.As(err, &exit):
		code := exit.ExitStatus()
		r.Exit = &code
	default:
		r.Error = err.Error()
	}
}

// take the steps; gives the number of those that are left.
func take(steps []step, to io.Writer, feed io.Closer, output *stream, resized sizes) int {
	for taken, step := range steps {
		if err := step.take(to, feed, output, resized); err != nil {
			return len(steps) - taken
		}
	}
	return 0
}

func (s step) take(to io.Writer, feed io.Closer, output *stream, resized sizes) error {
	switch {
	case s.Wait != "" && !output.wait(s.Wait):
		return fmt.Errorf("no %q", s.Wait)
	case s.Send != "":
		_, err := io.WriteString(to, s.Send)
		return err
	case s.Random > 0:
		_, err := io.CopyBuffer(to, io.LimitReader(rand.NewChaCha8([32]byte{}), s.Random), make([]byte, 32<<10))
		return err
	case s.File != "":
		file, err := os.Open(s.File)
		if err != nil {
			return err
		}
		defer file.Close()
		_, err = io.Copy(to, file)
		return err
	case s.Size != nil:
		resized <- &remotecommand.TerminalSize{Width: s.Size[0], Height: s.Size[1]}
	case s.End:
		return feed.Close()
	}
	return nil
}
