package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/edges"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/output"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// namesAge is how long --watch uses a list of pods and Services for names.
const namesAge = 30 * time.Second

// edgesLook asks for edges, repeatedly with --watch.
type edgesLook struct {
	a         *app
	o         *statusOptions
	client    kubernetes.Interface
	collector edges.Collector

	names  *edges.Names
	notes  []string
	listed time.Time
}

func (l *edgesLook) look(ctx context.Context, args []string) (*edgesView, error) {
	found, err := l.a.lookAt(ctx, l.o.targets, args)
	if err != nil {
		return nil, err
	}
	views, err := l.collector.Collect(ctx, found.pods)
	if err != nil {
		return nil, err
	}
	for i := range views {
		if views[i].Err != nil {
			what, hint := told(views[i].Err)
			views[i].Err = api.WithHint(errors.New(what), hint)
		}
	}
	if l.names == nil || time.Since(l.listed) > namesAge {
		if l.names, l.notes, err = edges.ReadNames(ctx, l.client, found.pods); err != nil {
			return nil, err
		}
		l.listed = time.Now()
	}
	list := edges.Join(views, l.names)
	if l.o.by == byWorkload {
		list.ByWorkload(l.names)
	}
	if err := output.Sort(list.Items, l.o.sortBy); err != nil {
		return nil, err
	}
	home := found.namespace
	if several(found.pods) {
		home = ""
	}
	return &edgesView{list: list, notes: l.notes, home: home, found: found, wide: l.o.output == "wide", noHeaders: l.o.noHeaders}, nil
}

// runEdges shows who the selected pods talk to.
func (o *statusOptions) runEdges(ctx context.Context, a *app, args []string, look *edgesLook) error {
	if o.watch {
		return a.follow(ctx, o.interval, func(ctx context.Context) (statusView, error) { return look.look(ctx, args) })
	}
	view, err := look.look(ctx, args)
	if err != nil {
		return err
	}
	style, errStyle := terminal.For(a.Out, os.Getenv), terminal.For(a.ErrOut, os.Getenv)
	switch o.output {
	case "dot":
		err = view.list.DOT(a.Out)
	case "svg":
		err = view.list.SVG(a.Out)
	case "", "wide":
		err = view.show(a.Out, a.ErrOut, style, errStyle, time.Now())
	default:
		err = o.printList(a, "edges", view.list)
	}
	if err == nil && !o.table() {
		// What a picture cannot show, and the reasons of the exit code.
		rest := edges.List{Forgotten: view.list.Forgotten, Unlisted: view.list.Unlisted, Unasked: view.list.Unasked}
		err = rest.Summary(a.ErrOut, errStyle, view.notes)
	}
	if err != nil {
		return fmt.Errorf("printing the edges: %w", err)
	}
	err = a.reportMissing(view.missing())
	if len(view.list.Unasked) > 0 {
		err = errReported
	}
	return err
}

// edgesView is a list of edges.
type edgesView struct {
	list            *edges.List
	notes           []string
	home            string
	found           *selection
	wide, noHeaders bool
}

func (v *edgesView) show(out, errOut io.Writer, style, errStyle *terminal.Style, now time.Time) error {
	switch {
	case len(v.list.Items) > 0:
		if err := v.list.Table(out, style, edges.TableOptions{Home: v.home, Wide: v.wide, NoHeaders: v.noHeaders, Now: now}); err != nil {
			return err
		}
	case len(v.list.Unasked) == 0:
		if _, err := fmt.Fprintf(errOut, "no edges found in %s\nhint: gateways show the connections since they started; 'kubectl gateway status' shows the gateways\n", v.found.where()); err != nil {
			return err
		}
	}
	return v.list.Summary(errOut, errStyle, v.notes)
}

func (v *edgesView) missing() error { return v.found.missing }
