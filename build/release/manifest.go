package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/krew/pkg/index"
	"sigs.k8s.io/yaml"
)

// manifest fills in krew's manifest and writes it to dir/plugins/gateway.yaml, where
// krew looks for it in an index.
func (o options) manifest(dir string, sums map[string]string) error {
	template, err := os.ReadFile(filepath.Join(o.root, "krew", "gateway.yaml"))
	if err != nil {
		return err
	}
	var plugin index.Plugin
	if err := yaml.UnmarshalStrict([]byte(strings.NewReplacer("{{VERSION}}", o.version, "{{URL}}", o.url).Replace(string(template))), &plugin); err != nil {
		return err
	}
	built := map[string]bool{}
	for _, p := range o.platforms {
		built[p.archive()] = true
	}
	var kept []index.Platform
	for _, p := range plugin.Spec.Platforms {
		name := p.URI[strings.LastIndex(p.URI, "/")+1:]
		if !built[name] {
			continue
		}
		delete(built, name)
		p.Sha256 = sums[name]
		p.Files = []index.FileOperation{{From: "*", To: "."}}
		kept = append(kept, p)
	}
	if len(built) > 0 {
		return fmt.Errorf("krew/gateway.yaml does not have %s", strings.Join(sortedKeys(built), ", "))
	}
	plugin.Spec.Platforms = kept
	text, err := yaml.Marshal(plugin)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, "plugins"), 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "plugins", "gateway.yaml"), text, 0o644)
}
