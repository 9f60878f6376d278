package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// statusView is the result of asking gateways once.
type statusView interface {
	// show writes a table to one stream and what there is to say below to another. A
	// zero time leaves out what changes by itself as time goes by.
	show(out, errOut io.Writer, style, errStyle *terminal.Style, now time.Time) error
	// missing joins what went wrong with named pods.
	missing() error
}

// defaultInterval is the time between two looks of --watch.
const defaultInterval = 2 * time.Second

// follow looks over and over until ctx is done: in place on a terminal, and elsewhere
// whenever something has changed. The first look must succeed; later ones may fail.
func (a *app) follow(ctx context.Context, interval time.Duration, look func(context.Context) (statusView, error)) error {
	view, err := look(ctx)
	if err != nil {
		return err
	}
	f := &follower{a: a, style: terminal.For(a.Out, os.Getenv), errStyle: terminal.For(a.ErrOut, os.Getenv)}
	if file, ok := a.Out.(*os.File); ok && f.style.Terminal() {
		f.live = terminal.NewLive(file)
		defer io.WriteString(a.Out, f.live.End())
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		if err := f.print(view, err, interval); err != nil {
			return fmt.Errorf("printing the status: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if view, err = look(ctx); ctx.Err() != nil {
			return nil
		}
	}
}

// follower shows one view after the other.
type follower struct {
	a               *app
	style, errStyle *terminal.Style
	// live is nil off a terminal.
	live *terminal.Live
	last statusView
	// told and complained are what was printed last, without what changes by itself.
	told, complained string
	// blocks says that there was one.
	blocks bool
}

func (f *follower) print(view statusView, err error, interval time.Duration) error {
	if err == nil {
		f.last, err = view, view.missing()
	}
	if f.live != nil {
		return f.draw(err, interval)
	}
	complaint := ""
	if err != nil {
		complaint = err.Error()
	}
	if complaint != f.complained && complaint != "" {
		printErrors(f.a.ErrOut, err, "")
	}
	f.complained = complaint
	var now bytes.Buffer
	plain := terminal.For(&now, os.Getenv)
	if err := f.last.show(&now, &now, plain, plain, time.Time{}); err != nil {
		return err
	}
	if now.String() == f.told {
		return nil
	}
	f.told = now.String()
	var block bytes.Buffer
	if err := f.last.show(&block, f.a.ErrOut, f.style, f.errStyle, time.Now()); err != nil || block.Len() == 0 {
		return err
	}
	text := block.String()
	if f.blocks {
		text = "\n" + text
	}
	f.blocks = true
	_, err = io.WriteString(f.a.Out, text)
	return err
}

// draw shows everything in place, both streams in one.
func (f *follower) draw(err error, interval time.Duration) error {
	var text bytes.Buffer
	if err := f.last.show(&text, &text, f.style, f.style, time.Now()); err != nil {
		return err
	}
	lines := []string{f.style.Paint(terminal.Dim, fmt.Sprintf("every %v, Ctrl-C ends", interval)), ""}
	if err != nil {
		lines = append(lines, f.style.Paint(terminal.Bad, "error: "+words(err)))
	}
	lines = append(lines, strings.Split(strings.TrimRight(text.String(), "\n"), "\n")...)
	_, err = io.WriteString(f.a.Out, f.live.Draw(lines))
	return err
}
