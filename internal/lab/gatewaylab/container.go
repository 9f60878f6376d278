//go:build linux

package gatewaylab

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/control"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/supervisor"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// resolvConf is a file of the sandbox in every container.
const resolvConf = "/etc/resolv.conf"

// Container holds the files that a container has to itself, in a directory that outlives it.
type Container struct {
	dir string
	// sandbox is the ID of the pod's sandbox.
	sandbox string
}

// NewContainer makes the files of a container in dir. sandbox is the ID of its pod's sandbox,
// empty if the container's mounts are to say nothing of it.
func NewContainer(dir, sandbox string) (*Container, error) {
	c := &Container{dir: dir, sandbox: sandbox}
	if err := os.MkdirAll(c.run(), 0o700); err != nil {
		return nil, err
	}
	// The kubelet makes an empty one at each start.
	if err := os.WriteFile(c.lastWords(), nil, 0o600); err != nil {
		return nil, err
	}
	if sandbox == "" {
		return c, nil
	}
	if err := os.MkdirAll(filepath.Dir(c.resolvConf()), 0o700); err != nil {
		return nil, err
	}
	return c, os.WriteFile(c.resolvConf(), nil, 0o600)
}

func (c *Container) run() string        { return filepath.Join(c.dir, "run") }
func (c *Container) lastWords() string  { return filepath.Join(c.dir, "termination-log") }
func (c *Container) resolvConf() string { return filepath.Join(c.dir, c.sandbox, "resolv.conf") }

// Socket is the path of a gateway's control socket, seen from outside.
func (c *Container) Socket() string { return filepath.Join(c.run(), filepath.Base(control.SocketPath)) }

// LastWords returns the termination message so far.
func (c *Container) LastWords() (string, error) {
	text, err := os.ReadFile(c.lastWords())
	return string(text), err
}

// In returns command as it runs in c.
func (c *Container) In(command netlab.Command) netlab.Command {
	command.Mount = c.mount
	return command
}

// mount shows the files where a container has them.
func (c *Container) mount() error {
	binds := map[string]string{c.lastWords(): supervisor.TerminationMessagePath}
	if c.sandbox != "" {
		binds[c.resolvConf()] = resolvConf
	}
	for _, d := range []string{"/run", "/dev", filepath.Dir(resolvConf)} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", d, "tmpfs", 0, "mode=755"); err != nil {
			return err
		}
	}
	err := unix.Mknod(os.DevNull, unix.S_IFCHR, int(unix.Mkdev(1, 3)))
	if err == nil {
		err = os.Chmod(os.DevNull, 0o666) // whatever the umask is
	}
	if err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Dir(control.SocketPath), 0o700); err != nil {
		return err
	}
	err = unix.Mount(c.run(), filepath.Dir(control.SocketPath), "", unix.MS_BIND, "")
	for from, to := range binds {
		err = errors.Join(err, os.WriteFile(to, nil, 0o600), unix.Mount(from, to, "", unix.MS_BIND, ""))
	}
	return err
}
