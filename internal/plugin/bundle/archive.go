package bundle

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"regexp"
	"time"
)

// root is the folder that all files of an archive are in.
const root = "support-bundle"

// file is one file of an archive, or why there is none.
type file struct {
	name string
	text []byte
	err  error
}

// asJSON returns a file with a value, or with the error of finding it.
func asJSON(name string, value any, err error) file {
	if err != nil {
		return file{name: name, err: err}
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	err = encoder.Encode(value)
	return file{name: name, text: text.Bytes(), err: err}
}

// archive writes files in the order in which they come. All that is written passes clean.
type archive struct {
	gzip *gzip.Writer
	tar  *tar.Writer
	time time.Time
	mask *mask
	// missing are the files that could not be made.
	missing []Missing
}

// Missing is a file that is not in the archive.
type Missing struct {
	File string `json:"file"`
	Why  string `json:"why"`
}

func newArchive(w io.Writer, now time.Time, mask *mask) *archive {
	z := gzip.NewWriter(w)
	return &archive{gzip: z, tar: tar.NewWriter(z), time: now, mask: mask}
}

// add writes a file. One that could not be made becomes NAME.error, which says why.
func (a *archive) add(f file) error {
	if f.err != nil {
		why := a.clean([]byte(f.err.Error()))
		f.text = append(why, '\n')
		a.missing = append(a.missing, Missing{File: string(a.clean([]byte(f.name))), Why: string(why)})
		f.name += ".error"
	}
	text := a.clean(f.text)
	header := &tar.Header{Typeflag: tar.TypeReg, Name: path.Join(root, string(a.clean([]byte(f.name)))), Mode: 0o600,
		Size: int64(len(text)), ModTime: a.time, Format: tar.FormatPAX}
	err := a.tar.WriteHeader(header)
	if err == nil {
		_, err = a.tar.Write(text)
	}
	return writing(err)
}

func (a *archive) close() error { return writing(cmp.Or(a.tar.Close(), a.gzip.Close())) }

func writing(err error) error {
	if err != nil {
		return fmt.Errorf("writing the archive: %w", err)
	}
	return nil
}

// clean removes what looks like a secret, and masks addresses if that is wanted.
func (a *archive) clean(text []byte) []byte { return a.mask.apply(withoutSecrets(text)) }

// removed stands in the place of what looks like a secret.
const removed = "[removed]"

// withoutSecrets is the second line of defence: nothing that holds secrets is collected, and still
// somebody may have written one into an event or an error. Line ends and quotes may be those of JSON in JSON.
func withoutSecrets(text []byte) []byte {
	for _, secret := range []struct{ find, replace string }{
		// What has no end ends with the string that it is in.
		{`-----BEGIN [A-Z0-9 ]*-----((?s:.*?)-----END [A-Z0-9 ]*-----|([^"\\]|\\[^"])*)`, removed},
		{`(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}`, "$1 " + removed},
		{`\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*`, removed},
		{`(?i)(password|passwd|token|secret|api[_-]?key)(["'\\]*\s*[=:]\s*["'\\]*)[^\s"'\\,;&]+`, "$1$2" + removed},
		{`(://)[^/\s:@"]*:[^/\s@"]*@`, "$1" + removed + "@"},
	} {
		text = regexp.MustCompile(secret.find).ReplaceAll(text, []byte(secret.replace))
	}
	return text
}
