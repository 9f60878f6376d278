package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// chartName is that of the Helm chart in install/chart.
const chartName = "kube-gateway"

// unreleased are the versions of the chart in the source tree.
const unreleased = "version: 0.0.0-dev\nappVersion: dev\n"

// chart packs the Helm chart of the release into dir, as "helm package" does, and returns the archive's name. Its
// version is the release's, and so are the tags of the images.
func (o options) chart(dir string) (string, error) {
	top := filepath.Join(o.root, "install", "chart")
	description, err := os.ReadFile(filepath.Join(top, "Chart.yaml"))
	if err != nil {
		return "", err
	}
	version := strings.TrimPrefix(o.version, "v")
	stamped := strings.Replace(string(description), unreleased, fmt.Sprintf("version: %s\nappVersion: %s\n", version, o.version), 1)
	if stamped == string(description) {
		return "", errors.New("there is no place for the version in Chart.yaml")
	}
	file := filepath.Join(dir, "Chart.yaml")
	if err := os.WriteFile(file, []byte(stamped), 0o644); err != nil {
		return "", err
	}
	defer os.Remove(file)
	members := []member{{name: path.Join(chartName, "Chart.yaml"), path: file, mode: 0o644}}
	err = filepath.WalkDir(top, func(file string, e fs.DirEntry, err error) error {
		name, _ := filepath.Rel(top, file)
		if err == nil && !e.IsDir() && name != "Chart.yaml" {
			members = append(members, member{name: path.Join(chartName, filepath.ToSlash(name)), path: file, mode: 0o644})
		}
		return err
	})
	if err != nil {
		return "", err
	}
	archive := chartName + "-" + version + ".tgz"
	return archive, pack(filepath.Join(dir, archive), members)
}
