//go:build !linux

package main

import (
	"context"
	"errors"
)

func record(context.Context, script) (*cast, error) {
	return nil, errors.New("recordings are made on Linux")
}
