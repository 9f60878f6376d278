package output

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/muesli/termenv"
	"k8s.io/client-go/util/jsonpath"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// relaxed matches a path of fields with and without braces and the leading dot.
var relaxed = regexp.MustCompile(`^\{\.?([^{}]+)\}$|^\.?([^{}]+)$`)

// parsePath parses a JSONPath that is a single path, as columns and --sort-by have it. It returns
// the path in full as well.
func parsePath(text string) (*jsonpath.JSONPath, string, error) {
	parts := relaxed.FindStringSubmatch(text)
	if parts == nil {
		return nil, "", errors.New("unexpected path string, expected a 'name1.name2' or '.name1.name2' or '{name1.name2}' or '{.name1.name2}'")
	}
	full := "{." + parts[1] + parts[2] + "}"
	path := jsonpath.New("path").AllowMissingKeys(true)
	return path, full, path.Parse(full)
}

// newColumns returns the printer of columns: "HEADER:PATH,…", or in a file headers in the
// first line and paths in the second, between spaces.
func newColumns(spec string, file bool, o Options) (Printer, error) {
	headers, paths, err := splitColumns(spec, file)
	if err != nil {
		return nil, err
	}
	var cells []*jsonpath.JSONPath
	for _, text := range paths {
		path, _, err := parsePath(text)
		if err != nil {
			return nil, err
		}
		cells = append(cells, path)
	}
	return func(w io.Writer, value any) error {
		read, err := plain(value)
		if err != nil {
			return err
		}
		table := terminal.Table{Header: headers, NoHeader: o.NoHeaders}
		for _, item := range items(read) {
			var row []terminal.Cell
			for _, path := range cells {
				text, err := cell(path, item)
				if err != nil {
					return err
				}
				row = append(row, terminal.Cell{Text: text})
			}
			table.Rows = append(table.Rows, row)
		}
		return table.Print(w, terminal.New(w, false, termenv.Ascii))
	}, nil
}

func splitColumns(spec string, file bool) (headers, paths []string, err error) {
	if !file {
		for column := range strings.SplitSeq(spec, ",") {
			header, path, ok := strings.Cut(column, ":")
			if !ok {
				return nil, nil, fmt.Errorf("unexpected custom-columns spec: %s, expected <header>:<json-path-expr>", column)
			}
			headers, paths = append(headers, header), append(paths, path)
		}
		return headers, paths, nil
	}
	const want = "Expected format is one line of space separated headers, one line of space separated column specs"
	lines := bufio.NewScanner(strings.NewReader(spec))
	if !lines.Scan() {
		return nil, nil, errors.New("invalid template, missing header line. " + want)
	}
	headers = strings.Fields(lines.Text())
	if !lines.Scan() {
		return nil, nil, errors.New("invalid template, missing spec line. " + want)
	}
	if paths = strings.Fields(lines.Text()); len(paths) != len(headers) {
		return nil, nil, fmt.Errorf("number of headers (%d) and field specifications (%d) don't match", len(headers), len(paths))
	}
	return headers, paths, nil
}

// items returns the items of a list, or a value that is none as the only one.
func items(value any) []any {
	if object, ok := value.(map[string]any); ok {
		if list, ok := object["items"].([]any); ok {
			return list
		}
	}
	return []any{value}
}

// cell returns what path finds in item: the values between commas, or "<none>".
func cell(path *jsonpath.JSONPath, item any) (string, error) {
	found, err := path.FindResults(item)
	if err != nil {
		return "", err
	}
	var texts []string
	for _, values := range found {
		for _, value := range values {
			texts = append(texts, fmt.Sprint(value.Interface()))
		}
	}
	if texts == nil {
		return "<none>", nil
	}
	return strings.Join(texts, ","), nil
}
