package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/term"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/lists"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/parallel"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// checkConfirmation refuses a command line that needs a confirmation where there is no
// terminal to ask on. It does not ask the cluster, so that a script fails early.
func (o *podFlags) checkConfirmation(a *app) error {
	if o.yes || !o.targets.Wide() || isTerminal(a.In) && isTerminal(a.ErrOut) {
		return nil
	}
	which := "--all"
	if o.targets.AllNamespaces {
		which = "-A"
	}
	return api.WithHint(fmt.Errorf("%s needs a confirmation, and there is no terminal to ask on", which), "add --yes")
}

// confirm has the user confirm what, such as "enable", for pods that a wide selection
// (--all, -A) has found. It returns nil if the user agrees, or need not.
func (o *podFlags) confirm(ctx context.Context, a *app, what string, pods []corev1.Pod) error {
	if err := o.checkConfirmation(a); err != nil || o.yes || !o.targets.Wide() || len(pods) == 0 {
		return err
	}
	fmt.Fprintf(a.ErrOut, "%s %s? [y/N] ", what, howMany(pods))
	var text string
	// Reading a terminal does not end with a context: an interrupted command abandons
	// the reader.
	if err := parallel.Until(ctx, func() { text, _ = bufio.NewReader(a.In).ReadString('\n') }); err != nil {
		fmt.Fprintln(a.ErrOut)
		return err
	}
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "y", "yes":
		return nil
	}
	return errors.New("not confirmed: nothing was changed")
}

// howMany counts pods and names their namespace.
func howMany(pods []corev1.Pod) string {
	namespaces := sets.New(lists.Map(pods, func(pod corev1.Pod) string { return pod.Namespace })...)
	where := fmt.Sprintf("%d namespaces", len(namespaces))
	if len(namespaces) == 1 {
		where = fmt.Sprintf("namespace %q", pods[0].Namespace)
	}
	return terminal.Plural(len(pods), "pod") + " in " + where
}

// isTerminal reports whether a stream is a terminal.
func isTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
