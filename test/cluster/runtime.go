//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
)

// ociRuntimeName is the name by which containerd calls this program in the
// place of runc.
const ociRuntimeName = "oci-runtime"

const (
	cgroupRoot = "/sys/fs/cgroup"
	// podsCgroup is kubelet's customary name for the parent of all pods' groups.
	podsCgroup = "/kubepods"
	// sandboxUID is the annotation in which containerd names the pod.
	sandboxUID = "io.kubernetes.cri.sandbox-uid"
)

// ociRuntime does what kubelet and runc do on a node with all controllers, and
// leaves the rest to runc: it gives each pod a control group with the groups of
// its containers in it, and removes it with the last of them.
func ociRuntime(args []string) error {
	runc, err := lookPath("runc")
	if err != nil {
		return err
	}
	switch command, bundle, id := parseRuntimeArgs(args); command {
	case "create", "run":
		if err := editBundle(filepath.Join(bundle, "config.json")); err != nil {
			return err
		}
	case "delete":
		pods, err := filepath.Glob(filepath.Join(cgroupRoot, podsCgroup, "pod*", id))
		if err != nil {
			return fmt.Errorf("finding the control group of %s: %w", id, err)
		}
		cmd := exec.Command(runc, args...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		err = cmd.Run()
		for _, pod := range pods {
			// Fails as long as the pod has another container, as it should.
			_ = syscall.Rmdir(filepath.Dir(pod))
		}
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			return exitStatus(exit.ExitCode())
		}
		return err
	}
	err = syscall.Exec(runc, append([]string{"runc"}, args...), os.Environ())
	return fmt.Errorf("starting runc: %w", err)
}

// parseRuntimeArgs finds the command in runc's command line, the value of its
// option --bundle, and its last argument, the container's ID.
func parseRuntimeArgs(args []string) (command, bundle, id string) {
	commands := map[string]bool{"create": true, "run": true, "delete": true}
	bundle = "."
	for i, arg := range args {
		option, value, hasValue := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		switch {
		case command == "" && !strings.HasPrefix(arg, "-") && commands[arg]:
			command = arg
		case command == "" || !strings.HasPrefix(arg, "-") || option != "bundle" && option != "b":
		case hasValue:
			bundle = value
		case i+1 < len(args):
			bundle = args[i+1]
		}
	}
	if len(args) > 0 {
		id = args[len(args)-1]
	}
	return command, bundle, id
}

// editBundle rewrites the configuration of a container that is to be created.
func editBundle(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("reading the container's configuration: %w", err)
	}
	edited, err := editSpec(data)
	if err != nil {
		return fmt.Errorf("editing the container's configuration: %w", err)
	}
	return writeFile(file, edited, 0o644)
}

// editSpec keeps only the device rules of a container's resources, since there
// are no controllers for the others, and puts it in its pod's control group.
// Everything else stays as it is, byte for byte.
func editSpec(data []byte) ([]byte, error) {
	var spec, linux, resources map[string]json.RawMessage
	if err := json.Unmarshal(data, &spec); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(spec["linux"], &linux); err != nil {
		return nil, err
	}
	if raw, ok := linux["resources"]; ok {
		if err := json.Unmarshal(raw, &resources); err != nil {
			return nil, err
		}
	}
	kept := map[string]json.RawMessage{}
	if devices, ok := resources["devices"]; ok {
		kept["devices"] = devices
	}
	var annotations map[string]string
	if raw, ok := spec["annotations"]; ok {
		if err := json.Unmarshal(raw, &annotations); err != nil {
			return nil, err
		}
	}
	var cgroup string
	if err := json.Unmarshal(linux["cgroupsPath"], &cgroup); err != nil {
		return nil, err
	}
	uid := annotations[sandboxUID]
	if uid == "" {
		return nil, fmt.Errorf("no annotation %s", sandboxUID)
	}
	for key, value := range map[string]any{
		"resources":   kept,
		"cgroupsPath": path.Join(podsCgroup, "pod"+uid, path.Base(cgroup)),
	} {
		raw, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		linux[key] = raw
	}
	raw, err := json.Marshal(linux)
	if err != nil {
		return nil, err
	}
	spec["linux"] = raw
	return json.Marshal(spec)
}
