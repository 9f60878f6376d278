package ca

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// ParseTTL reads a lifetime: a number with the unit d (24 hours), w (7 days) or
// y (365 days), or what time.ParseDuration reads. It must be longer than zero.
func ParseTTL(text string) (time.Duration, error) {
	const hint = "write it like 12h, 90d, 8w or 10y"
	d, err := parseTTL(text)
	if err != nil {
		return 0, api.WithHint(fmt.Errorf("lifetime %q cannot be read", text), hint)
	}
	if d <= 0 {
		return 0, api.WithHint(fmt.Errorf("lifetime %q is not longer than zero", text), hint)
	}
	return d, nil
}

func parseTTL(text string) (time.Duration, error) {
	const day = 24 * time.Hour
	var unit time.Duration
	if text != "" {
		switch text[len(text)-1] {
		case 'd':
			unit = day
		case 'w':
			unit = 7 * day
		case 'y':
			unit = 365 * day
		}
	}
	if unit == 0 {
		return time.ParseDuration(text)
	}
	n, err := strconv.ParseInt(text[:len(text)-1], 10, 64)
	if err != nil {
		return 0, err
	}
	if n > math.MaxInt64/int64(unit) {
		return 0, strconv.ErrRange
	}
	return time.Duration(n) * unit, nil
}
