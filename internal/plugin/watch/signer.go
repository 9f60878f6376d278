package watch

import (
	"context"
	"slices"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/resend"
)

const (
	// signerInterval is how often it is looked whether the roots of a signer have changed, and
	// signerRetry the pause where gateways are in the way, each of which may take its timeout.
	signerInterval = 15 * time.Second
	signerRetry    = time.Minute
)

// followSigner keeps gateways at what the signer of their certificates is trusted by.
func (w *Watcher) followSigner(ctx context.Context) {
	var told []string
	for {
		words, err := w.askSigner(ctx)
		if ctx.Err() != nil {
			return
		}
		if len(words) > 0 && !slices.Equal(words, told) {
			w.report(Event{Action: Noticed, Warnings: words})
		}
		told = words
		pause := signerInterval
		if err != nil {
			pause = signerRetry
		}
		if resend.Pause(ctx, pause) != nil {
			return
		}
	}
}

// askSigner follows the signer once, and has what had failed tried again if that has changed anything. The words
// are for the user.
func (w *Watcher) askSigner(ctx context.Context) (words []string, err error) {
	changed, words, err := w.Actions.FollowSigner(ctx)
	if changed {
		w.retryFailed()
	}
	if err != nil {
		words = append(words, "the roots of the signer were not brought to all gateways: "+err.Error())
	}
	return words, err
}
