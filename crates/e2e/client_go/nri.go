package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"sync"

	"github.com/containerd/nri/pkg/api"
	nrilog "github.com/containerd/nri/pkg/log"
	"github.com/containerd/nri/pkg/stub"
	"google.golang.org/protobuf/encoding/protojson"
)

// nriPlan is what a plugin does. It ends when its standard input does.
type nriPlan struct {
	// Where the runtime listens; a plugin that the runtime has started has its connection already, and its name.
	Socket string `json:"socket"`
	Name   string `json:"name"`
	Index  string `json:"index"`
	// The container that is adjusted, by its name in the pod, and how.
	Container string          `json:"container"`
	Adjust    json.RawMessage `json:"adjust"`
	// What an update of any container becomes.
	Limits json.RawMessage `json:"limits"`
	// The event that is refused.
	Refuse string `json:"refuse"`
	// Whether it stays when its standard input ends.
	Stay bool `json:"stay"`
	// The event in which the plugin hangs for ever.
	Hang string `json:"hang"`
}

// nriReport is an event, or what came of an update.
type nriReport struct {
	Event     string   `json:"event"`
	Pod       string   `json:"pod,omitempty"`
	Container string   `json:"container,omitempty"`
	Env       []string `json:"env,omitempty"`
	State     string   `json:"state,omitempty"`
	// Of Synchronize: ids.
	Pods       []string `json:"pods,omitempty"`
	Containers []string `json:"containers,omitempty"`
	// Of Configure.
	Config  string `json:"config,omitempty"`
	Runtime string `json:"runtime,omitempty"`
	// Of an unsolicited update: how many failed, or why all did.
	Failed int    `json:"failed,omitempty"`
	Error  string `json:"error,omitempty"`
}

type nriPlugin struct {
	plan   nriPlan
	mutex  sync.Mutex
	report *json.Encoder
}

// nri is a plugin, made with the interface's own library. Each further line of standard input is a list of updates that it
// wants by itself.
func nri(in *json.Decoder, out *json.Encoder) error {
	plugin := &nriPlugin{report: out}
	if err := in.Decode(&plugin.plan); err != nil {
		return err
	}
	nrilog.Set(quiet{})
	gone := make(chan struct{})
	options := []stub.Option{stub.WithOnClose(func() { close(gone) })}
	if plugin.plan.Socket != "" {
		options = append(options, stub.WithSocketPath(plugin.plan.Socket),
			stub.WithPluginName(plugin.plan.Name), stub.WithPluginIdx(plugin.plan.Index))
	}
	running, err := stub.New(plugin, options...)
	if err != nil {
		return err
	}
	if err := running.Start(context.Background()); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() {
		if err := plugin.updates(running, io.MultiReader(in.Buffered(), os.Stdin)); err != nil || !plugin.plan.Stay {
			ended <- err
		}
	}()
	select {
	case err = <-ended:
		running.Stop()
	case <-gone:
	}
	plugin.say(nriReport{Event: "End"})
	return err
}

func (p *nriPlugin) updates(running stub.Stub, in io.Reader) error {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		if len(lines.Bytes()) == 0 {
			continue
		}
		request := &api.UpdateContainersRequest{}
		if err := protojson.Unmarshal(lines.Bytes(), request); err != nil {
			return err
		}
		failed, err := running.UpdateContainers(request.Update)
		report := nriReport{Event: "UpdateContainers", Failed: len(failed)}
		if err != nil {
			report.Error = err.Error()
		}
		p.say(report)
	}
	return lines.Err()
}

func (p *nriPlugin) say(report nriReport) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if err := p.report.Encode(report); err != nil {
		fail(err)
	}
}

func (p *nriPlugin) heard(event string, pod *api.PodSandbox, container *api.Container) error {
	state := ""
	if container != nil {
		state = container.GetState().String()
	}
	p.say(nriReport{Event: event, Pod: pod.GetName(), Container: container.GetName(), Env: container.GetEnv(), State: state})
	if event == p.plan.Hang {
		select {}
	}
	if event == p.plan.Refuse {
		return errors.New("the test refuses " + event)
	}
	return nil
}

func (p *nriPlugin) Configure(_ context.Context, config, runtime, version string) (stub.EventMask, error) {
	p.say(nriReport{Event: "Configure", Config: config, Runtime: runtime + " " + version})
	return 0, nil
}

func (p *nriPlugin) Synchronize(_ context.Context, pods []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	report := nriReport{Event: "Synchronize"}
	for _, pod := range pods {
		report.Pods = append(report.Pods, pod.GetId())
	}
	for _, container := range containers {
		report.Containers = append(report.Containers, container.GetId())
	}
	p.say(report)
	return nil, nil
}

func (p *nriPlugin) RunPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.heard("RunPodSandbox", pod, nil)
}

func (p *nriPlugin) StopPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.heard("StopPodSandbox", pod, nil)
}

func (p *nriPlugin) RemovePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.heard("RemovePodSandbox", pod, nil)
}

func (p *nriPlugin) CreateContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	if err := p.heard("CreateContainer", pod, container); err != nil || container.GetName() != p.plan.Container {
		return nil, nil, err
	}
	adjust := &api.ContainerAdjustment{}
	return adjust, nil, protojson.Unmarshal(p.plan.Adjust, adjust)
}

func (p *nriPlugin) PostCreateContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) error {
	return p.heard("PostCreateContainer", pod, container)
}

func (p *nriPlugin) StartContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) error {
	return p.heard("StartContainer", pod, container)
}

func (p *nriPlugin) PostStartContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) error {
	return p.heard("PostStartContainer", pod, container)
}

func (p *nriPlugin) UpdateContainer(_ context.Context, pod *api.PodSandbox, container *api.Container, _ *api.LinuxResources) ([]*api.ContainerUpdate, error) {
	if err := p.heard("UpdateContainer", pod, container); err != nil || p.plan.Limits == nil {
		return nil, err
	}
	limits := &api.LinuxResources{}
	if err := protojson.Unmarshal(p.plan.Limits, limits); err != nil {
		return nil, err
	}
	linux := &api.LinuxContainerUpdate{Resources: limits}
	return []*api.ContainerUpdate{{ContainerId: container.GetId(), Linux: linux}}, nil
}

func (p *nriPlugin) PostUpdateContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) error {
	return p.heard("PostUpdateContainer", pod, container)
}

func (p *nriPlugin) StopContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) ([]*api.ContainerUpdate, error) {
	return nil, p.heard("StopContainer", pod, container)
}

func (p *nriPlugin) RemoveContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) error {
	return p.heard("RemoveContainer", pod, container)
}

// quiet is a logger that says nothing: the library's own writes to standard error.
type quiet struct{}

func (quiet) Debugf(context.Context, string, ...interface{}) {}
func (quiet) Infof(context.Context, string, ...interface{})  {}
func (quiet) Warnf(context.Context, string, ...interface{})  {}
func (quiet) Errorf(context.Context, string, ...interface{}) {}
