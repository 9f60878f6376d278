//go:build linux

package main

import (
	"context"
	"debug/elf"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/kubectl-gateway/kubectl-gateway/test/cluster/images"
)

// load imports image archives into every node, all nodes at once.
func load(ctx context.Context, c *Cluster, io streams, args []string) error {
	if len(args) == 0 {
		return withHint(errors.New("load takes image archives"), "make one with image, or with docker save")
	}
	settings, err := c.settings()
	if err != nil {
		return errDown(err)
	}
	for _, archive := range args {
		if _, err := os.Stat(archive); err != nil {
			return fmt.Errorf("finding an image archive: %w", err)
		}
	}
	failures := make([]error, settings.Nodes)
	var loading sync.WaitGroup
	for i, node := range settings.nodes() {
		loading.Go(func() { failures[i] = c.loadNode(ctx, node, args) })
	}
	loading.Wait()
	if err := errors.Join(failures...); err != nil {
		return err
	}
	for _, archive := range args {
		fmt.Fprintf(io.Err, "loaded %s into %d nodes\n", filepath.Base(archive), settings.Nodes)
	}
	return nil
}

func (c *Cluster) loadNode(ctx context.Context, self node, archives []string) error {
	pid, ok := c.unitPID(self.Name)
	if !ok {
		return withHint(fmt.Errorf("%s is not running", self.Name), "see status, then try down and up")
	}
	// The node's socket as seen from outside; the archive goes through it.
	socket := fmt.Sprintf("/proc/%d/root%s", pid, containerdSocket)
	for _, archive := range archives {
		if _, err := c.output(ctx, "", importArgs(socket, archive)...); err != nil {
			return fmt.Errorf("loading %s into %s: %w", archive, self.Name, err)
		}
	}
	return nil
}

// image is the verb image: it writes the archive of a one-binary image.
func image(_ context.Context, _ *Cluster, io streams, args []string) error {
	var options images.Options
	var output string
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	flags.SetOutput(io.Err)
	flags.StringVar(&options.Name, "name", "", "reference of the image, with its tag")
	flags.StringVar(&options.Binary, "binary", "", "static executable to put into it")
	flags.StringVar(&options.User, "user", "", "user that it runs as (default root)")
	flags.Func("entrypoint", "word of the entrypoint, may be repeated (default the binary)", func(word string) error {
		options.Entrypoint = append(options.Entrypoint, word)
		return nil
	})
	flags.StringVar(&output, "o", "", "archive to write")
	if err := parse(flags, args); err != nil {
		return err
	}
	if options.Name == "" || options.Binary == "" || output == "" {
		return withHint(errors.New("image needs --name, --binary and -o"), "for example: image --name localhost/app:1 --binary app -o app.tar")
	}
	var err error
	if options.Architecture, err = architecture(options.Binary); err != nil {
		return err
	}
	return images.Write(options, output)
}

// architecture reads a binary's from its header. It refuses dynamic
// executables: their loader is not in the image, and the error that a container
// then ends with ("no such file or directory") misleads.
func architecture(binary string) (string, error) {
	file, err := elf.Open(binary)
	if err != nil {
		return "", fmt.Errorf("reading the binary: %w", err)
	}
	defer file.Close()
	if file.Section(".interp") != nil {
		return "", withHint(fmt.Errorf("%s is not a static executable", binary), "build it with CGO_ENABLED=0")
	}
	switch file.Machine {
	case elf.EM_X86_64:
		return "amd64", nil
	case elf.EM_AARCH64:
		return "arm64", nil
	}
	return "", fmt.Errorf("%s is for %v, not for amd64 or arm64", binary, file.Machine)
}

// makePauseImage writes the archive of the image that holds pods' namespaces.
func (c *Cluster) makePauseImage() error {
	return images.Write(images.Options{
		Name: "localhost/pause:1", Binary: c.bin("pause"), User: "65535:65535", Architecture: runtime.GOARCH,
	}, c.path("pause.tar"))
}
