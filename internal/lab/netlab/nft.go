//go:build linux

package netlab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// NFT runs a script of nft(8) in the node's namespace. It begins with an empty
// ruleset: what an earlier call made is gone. Without nft it skips the test, under CI=true
// it fails it.
func (n *Node) NFT(script string) {
	if n.lab.t != nil {
		n.lab.t.Helper()
	}
	err := n.TryNFT(script)
	if errors.Is(err, exec.ErrNotFound) && n.lab.t != nil && os.Getenv("CI") != "true" {
		n.lab.t.Skipf("netlab: %v", err)
	}
	if err != nil {
		n.lab.fatal(err)
	}
}

// TryNFT is NFT for those who handle errors themselves.
func (n *Node) TryNFT(script string) error {
	path, err := exec.LookPath("nft")
	if err != nil {
		return fmt.Errorf("running nft: %w", err)
	}
	p, err := n.TryStart(Command{
		Cgroup: n.OtherCgroup, Path: path, Args: []string{"-f", "-"}, Stdin: strings.NewReader("flush ruleset\n" + script),
	})
	if err != nil {
		return err
	}
	if err := p.Wait(); err != nil {
		return fmt.Errorf("running nft: %w: %s", err, strings.TrimSpace(p.Output()))
	}
	return nil
}
