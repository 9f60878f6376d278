package main

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestChart: the chart's archive has its files, and the version of the release.
func TestChart(t *testing.T) {
	dir := t.TempDir()
	o := options{root: sourceTree(t), version: "v1.2.3-rc.1"}
	name, err := o.chart(dir)
	if err != nil || name != "kube-gateway-1.2.3-rc.1.tgz" {
		t.Fatalf("%q, %v", name, err)
	}
	if found := files(t, dir); len(found) != 1 {
		t.Errorf("there are %q", found)
	}
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	compressed, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	got, archive := map[string]string{}, tar.NewReader(compressed)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		got[header.Name] = string(text)
	}
	source := filepath.Join(sourceTree(t), "install", "chart")
	all := files(t, source)
	if len(got) != len(all) {
		t.Errorf("%d files instead of %q", len(got), all)
	}
	for _, file := range all {
		want := read(t, filepath.Join(source, file))
		if file == "Chart.yaml" {
			want = strings.ReplaceAll(want, unreleased, "version: 1.2.3-rc.1\nappVersion: v1.2.3-rc.1\n")
		}
		if got["kube-gateway/"+filepath.ToSlash(file)] != want {
			t.Errorf("%s is\n%s", file, got["kube-gateway/"+file])
		}
	}
}
