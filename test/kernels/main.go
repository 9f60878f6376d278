//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	// The kernel takes the end of the thread that started QEMU for this program's.
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	ok, err := run(ctx, os.Args[1:], os.Stdout)
	if err != nil {
		fmt.Fprintf(os.Stderr, "error: %v\n", err)
	}
	if !ok {
		os.Exit(1)
	}
}

// The bounds of what may take long.
const (
	groupTimeout = 30 * time.Minute // the tests of one package, by the guest's clock
	fullTimeout  = 90 * time.Minute // everything in one guest
	shortTimeout = 20 * time.Minute // the same with -short
)

// options are what the command line asks for.
type options struct {
	kernels []kernel
	groups  []group
	only    *regexp.Regexp
	timeout time.Duration // of one guest
	accel   string
	logs    string
}

func parse(args []string) (o options, err error) {
	flags := flag.NewFlagSet("kernels", flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: kernels [flags] [KERNEL...], from the top of the source tree")
		for _, k := range kernels() {
			fmt.Fprintf(flags.Output(), "  %-5s Debian %s\n", k.Name, k.Suite)
		}
		flags.PrintDefaults()
	}
	brief := flags.Bool("short", false, "only a few tests, which touch everything")
	only := flags.String("run", ".", "only tests whose names match `REGEXP`")
	// /dev/kvm may be there and of no use, as in a virtual machine that cannot nest.
	flags.StringVar(&o.accel, "accel", "tcg", "`accelerator` of QEMU; kvm is 20 times faster where it works")
	flags.StringVar(&o.logs, "logs", "dist/kernels", "`directory` for what guests say")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.only, err = regexp.Compile(*only); err != nil {
		return o, err
	}
	o.groups, o.timeout = full(), fullTimeout
	if *brief {
		o.groups, o.timeout = short(), shortTimeout
	}
	o.kernels = kernels()
	if flags.NArg() > 0 {
		o.kernels, err = named(flags.Args())
	}
	return o, err
}

// named returns the kernels of that names.
func named(all []string) (chosen []kernel, err error) {
	for _, name := range all {
		i := slices.IndexFunc(kernels(), func(k kernel) bool { return k.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("%q is not a kernel: see -help", name)
		}
		chosen = append(chosen, kernels()[i])
	}
	return chosen, nil
}

// run runs the tests in one guest after the other. ok says that every test passed.
func run(ctx context.Context, args []string, stdout io.Writer) (ok bool, err error) {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	dir, err := os.MkdirTemp("", "kubectl-gateway-kernels-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	if err := os.MkdirAll(o.logs, 0o755); err != nil {
		return false, err
	}
	programs := filepath.Join(dir, "programs")
	steps, err := o.build(ctx, programs)
	if err != nil {
		return false, err
	}
	r := newResults()
	for _, k := range o.kernels {
		r.expect(k.Name, steps)
		err := o.boot(ctx, k, steps, dir, r, stdout)
		if ctx.Err() != nil {
			return false, errors.New("interrupted")
		}
		if err != nil {
			r.breakage("%s: %v", k.Name, err)
		}
	}
	return r.report(stdout, o.kernels), nil
}

// build compiles the tests into a directory and returns those that guests run. The tag guest
// has tests that need what only guests are sure to have.
func (o options) build(ctx context.Context, into string) (steps []step, err error) {
	if err := compile(ctx, filepath.Join(into, "app"), "build", "./test/e2e/app"); err != nil {
		return nil, err
	}
	for _, g := range o.groups {
		program := filepath.Join(into, g.program())
		if err := compile(ctx, program, "test", "-c", "-tags", "guest", "./"+g.Dir); err != nil {
			return nil, err
		}
		text, err := command(ctx, "", program, "-test.list", "^(Test|Fuzz|Example)")
		if err != nil {
			return nil, err
		}
		tests, err := g.choose(strings.Fields(text), o.only)
		if err != nil {
			return nil, err
		}
		if len(tests) > 0 {
			steps = append(steps, step{g, tests})
		}
	}
	if len(steps) == 0 {
		return nil, fmt.Errorf("no test matches %q", o.only)
	}
	return steps, nil
}

// compile runs "go build" or "go test -c" for guests. A package comes last in args.
func compile(ctx context.Context, into string, args ...string) error {
	last := len(args) - 1
	args = slices.Concat(args[:last], []string{"-trimpath", "-ldflags=-s -w", "-o", into}, args[last:])
	_, err := command(ctx, "", "env", append([]string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "go"}, args...)...)
	return err
}

// boot runs the steps on one kernel.
func (o options) boot(ctx context.Context, k kernel, steps []step, dir string, r *results, stdout io.Writer) error {
	c, err := openCache()
	if err != nil {
		return err
	}
	files, err := c.kernel(ctx, k)
	if err != nil {
		return err
	}
	userSpace, err := c.userSpace(ctx)
	if err != nil {
		return err
	}
	tests, err := packTests(ctx, dir, filepath.Join(dir, "programs"), script(k, steps, groupTimeout), steps)
	if err != nil {
		return err
	}
	g := guest{Accel: o.accel, Kernel: files, Archives: []string{userSpace, files.Modules, tests}, Dir: dir, Log: filepath.Join(o.logs, k.Name+".log")}
	fmt.Fprintf(stdout, "%s	%s\n", k.Name, k.describe(files.Package))
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	start := time.Now()
	err = g.run(ctx, func(said io.Reader) error { return r.follow(k.Name, said, stdout) })
	fmt.Fprintf(stdout, "%s	ended after %.0fs, log in %s\n", k.Name, time.Since(start).Seconds(), g.Log)
	if err == nil {
		err = r.unfinished(k.Name, steps)
	}
	if err != nil {
		console, _ := os.ReadFile(g.console())
		show(stdout, strings.Split(strings.TrimSpace(string(console)), "\n"))
	}
	return err
}
