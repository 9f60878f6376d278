// Command docs makes the pictures of the documentation.
//
//	go run ./build/docs record docs/demo.cast   runs the demo's commands on the cluster of $KUBECONFIG
//	go run ./build/docs draw docs/demo.cast docs/demo.svg
//
// The recording holds what the commands really wrote and when; the picture is drawn
// from it alone, so that it is the same each time. "make docs" draws it. Tests of
// this directory check both, and all links between pages.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) == 2 && args[0] == "record":
		cast, err := record(ctx, demo())
		if err != nil {
			return fmt.Errorf("recording: %w", err)
		}
		return os.WriteFile(args[1], cast.encode(), 0o644)
	case len(args) == 3 && args[0] == "draw":
		text, err := os.ReadFile(args[1])
		if err != nil {
			return err
		}
		picture, err := drawCast(text)
		if err != nil {
			return fmt.Errorf("drawing %s: %w", args[1], err)
		}
		return os.WriteFile(args[2], picture, 0o644)
	}
	return fmt.Errorf("usage: docs record CAST | docs draw CAST SVG")
}
