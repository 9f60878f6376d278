package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

const top = "../.."

var (
	// Code is no text: what looks like a link in it is none.
	fence      = regexp.MustCompile("(?ms)^ *```.*?^ *```[ \t]*$")
	code       = regexp.MustCompile("`[^`\n]*`")
	link       = regexp.MustCompile(`\]\(([^()\s]+)\)|(?m:^\[[^\]]+\]:\s*(\S+))|(?:src|href)="([^"]+)"`)
	heading    = regexp.MustCompile(`(?m)^#{1,6}\s+(.+?)\s*#*$`)
	markdowned = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)|[*\x60]`)
)

// TestLinks follows every link from one page of the repository to another file,
// and to the heading in it. Links to elsewhere are not followed.
func TestLinks(t *testing.T) {
	pages := map[string]string{}
	err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == ".git" || entry.Name() == "dist" || entry.Name() == "bin"):
			return filepath.SkipDir
		case !entry.IsDir() && filepath.Ext(path) == ".md":
			text, err := os.ReadFile(path)
			pages[path] = string(text)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, text := range pages {
		for _, found := range links(text) {
			if problem := follow(pages, path, found); problem != "" {
				t.Errorf("%s: link to %s: %s", strings.TrimPrefix(path, top+"/"), found, problem)
			}
		}
	}
	for _, page := range []string{"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/ARCHITECTURE.md", "docs/SECURITY.md", "docs/OPERATIONS.md", "docs/REFERENCE.md", "docs/FIDELITY.md"} {
		if pages[filepath.Join(top, page)] == "" {
			t.Errorf("%s is missing", page)
		}
	}
}

// follow returns what is wrong with a link on the page at path, or nothing.
func follow(pages map[string]string, path, to string) string {
	if strings.Contains(to, "://") || strings.HasPrefix(to, "mailto:") {
		return ""
	}
	file, anchor, _ := strings.Cut(to, "#")
	target := path
	if file != "" {
		target = filepath.Join(filepath.Dir(path), file)
	}
	if relative, err := filepath.Rel(top, target); err != nil || strings.HasPrefix(relative, "..") {
		return "it leads out of the repository"
	}
	if _, err := os.Stat(target); err != nil && pages[target] == "" {
		return "there is no such file"
	}
	if anchor == "" {
		return ""
	}
	for _, a := range anchors(pages[target]) {
		if a == anchor {
			return ""
		}
	}
	return "there is no such heading"
}

func links(text string) []string {
	text = code.ReplaceAllString(fence.ReplaceAllString(text, ""), "code")
	var all []string
	for _, match := range link.FindAllStringSubmatch(text, -1) {
		all = append(all, match[1]+match[2]+match[3])
	}
	return all
}

// anchors returns the names of a page's headings, as GitHub makes them: lower case,
// without punctuation, with hyphens for spaces.
func anchors(text string) []string {
	var all []string
	for _, match := range heading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		title := markdowned.ReplaceAllString(match[1], "$1")
		var name strings.Builder
		for _, r := range strings.ToLower(title) {
			switch {
			case r == ' ':
				name.WriteByte('-')
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsNumber(r):
				name.WriteRune(r)
			}
		}
		all = append(all, name.String())
	}
	return all
}

func TestFollow(t *testing.T) {
	page := top + "/docs/A.md"
	pages := map[string]string{
		page:               "# A page\n\n## `rotate --ca`, and why\n\n```\n# no heading\n```\n",
		top + "/README.md": "[a](docs/A.md#a-page) `[no](link)` <img src=\"docs/x.svg\">\n```\n[no](link)\n```\n",
	}
	if got := strings.Join(links(pages[top+"/README.md"]), " "); got != "docs/A.md#a-page docs/x.svg" {
		t.Errorf("found the links %q", got)
	}
	for to, good := range map[string]bool{
		"#a-page": true, "#rotate---ca-and-why": true, "#no-heading": false, "#a": false, "../README.md": true,
		"../README.md#a-page": false, "B.md": false, "https://example.com/x": true, "../../elsewhere.md": false,
	} {
		if problem := follow(pages, page, to); (problem == "") != good {
			t.Errorf("%s: %q", to, problem)
		}
	}
}
