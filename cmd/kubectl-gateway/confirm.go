package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/term"
	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/targets"
)

// confirmation has the user confirm a wide selection (--all, -A) before a verb changes
// anything.
type confirmation struct {
	yes bool
}

func (c *confirmation) addFlag(f *pflag.FlagSet) {
	f.BoolVarP(&c.yes, "yes", "y", false, "do not ask for a confirmation of --all and -A")
}

// check refuses a command line that needs a confirmation where there is no terminal to
// ask on. It does not ask the cluster, so that a script fails early.
func (c *confirmation) check(a *app, selected *targets.Flags) error {
	if c.yes || !selected.Wide() || isTerminal(a.In) && isTerminal(a.ErrOut) {
		return nil
	}
	which := "--all"
	if selected.AllNamespaces {
		which = "-A"
	}
	return api.WithHint(fmt.Errorf("%s needs a confirmation, and there is no terminal to ask on", which), "add --yes")
}

// ask has the user confirm what, such as "enable", for pods. It returns nil if the user
// agrees, or if selected needs no confirmation.
func (c *confirmation) ask(ctx context.Context, a *app, selected *targets.Flags, what string, pods []corev1.Pod) error {
	if err := c.check(a, selected); err != nil || c.yes || !selected.Wide() || len(pods) == 0 {
		return err
	}
	fmt.Fprintf(a.ErrOut, "%s %s? [y/N] ", what, howMany(pods))
	answer := make(chan string, 1)
	// Reading a terminal does not end with a context: an interrupted command abandons
	// the reader.
	go func() {
		text, _ := bufio.NewReader(a.In).ReadString('\n')
		answer <- text
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(a.ErrOut)
		return ctx.Err()
	case text := <-answer:
		switch strings.ToLower(strings.TrimSpace(text)) {
		case "y", "yes":
			return nil
		}
	}
	return errors.New("not confirmed: nothing was changed")
}

// howMany counts pods and names their namespace.
func howMany(pods []corev1.Pod) string {
	namespaces := map[string]bool{}
	for _, pod := range pods {
		namespaces[pod.Namespace] = true
	}
	where := fmt.Sprintf("%d namespaces", len(namespaces))
	if len(namespaces) == 1 {
		where = fmt.Sprintf("namespace %q", pods[0].Namespace)
	}
	if len(pods) == 1 {
		return "1 pod in " + where
	}
	return fmt.Sprintf("%d pods in %s", len(pods), where)
}

// isTerminal reports whether a stream is a terminal.
func isTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
