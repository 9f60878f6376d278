// Package output prints values in the formats of kubectl's -o: JSON, YAML, KYAML, JSONPath and Go
// templates, and columns. Formats, results and errors are kubectl's.
//
// The printers of kubectl are not used, but for JSONPath itself (90 kB of the plugin): those of
// cli-runtime import text/template, which calls methods by name, so that the linker keeps all
// methods of all types (26 MB), and kubectl's package get alone has the columns (2.4 MB without the rest,
// 28 MB with it). The plugin has 40 MB.
package output

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"k8s.io/cli-runtime/pkg/genericclioptions"
)

// Formats without an argument.
const (
	JSON  = "json"
	YAML  = "yaml"
	KYAML = "kyaml"
)

// Formats that take an argument after "=". Those that end with -file take the name of a file that
// holds the argument.
const (
	jsonPath       = "jsonpath"
	jsonPathFile   = "jsonpath-file"
	jsonPathAsJSON = "jsonpath-as-json"
	goTemplate     = "go-template"
	goTemplateFile = "go-template-file"
	columns        = "custom-columns"
	columnsFile    = "custom-columns-file"
)

// Templates returns the formats that apply a template to a value.
func Templates() []string {
	return []string{jsonPath, jsonPathFile, jsonPathAsJSON, goTemplate, goTemplateFile}
}

// Columns returns the formats that print a row of each item of a list.
func Columns() []string { return []string{columns, columnsFile} }

// maxFile bounds the file of a template, in bytes.
const maxFile = 1 << 20

// Parse checks text, what follows -o, which must be one of the allowed formats. It returns text for
// [New]: with the content of a file in the place of its name.
func Parse(text string, allowed []string) (string, error) {
	name, argument, given := strings.Cut(text, "=")
	takes := slices.Contains(Templates(), name) || slices.Contains(Columns(), name)
	if !slices.Contains(allowed, name) || given && !takes {
		return "", genericclioptions.NoCompatiblePrinterError{OutputFormat: &text, AllowedFormats: slices.Clone(allowed)}
	}
	if strings.HasSuffix(name, "-file") && argument != "" {
		content, err := read(argument)
		if err != nil {
			what := "--template"
			if name == columnsFile {
				what = "template"
			}
			return "", fmt.Errorf("error reading %s %s, %w", what, argument, err)
		}
		text = name + "=" + content
	}
	_, err := New(text, Options{})
	return text, err
}

func read(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	content, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if len(content) > maxFile {
		return "", fmt.Errorf("it is larger than %d bytes", maxFile)
	}
	return string(content), err
}

// Options are those of printers.
type Options struct {
	// NoHeaders leaves out the line above columns.
	NoHeaders bool
}

// New returns the printer of a format that [Parse] has returned.
func New(format string, o Options) (Printer, error) {
	name, argument, _ := strings.Cut(format, "=")
	switch name {
	case JSON:
		return printJSON, nil
	case YAML:
		return printYAML, nil
	case KYAML:
		return printKYAML, nil
	case columns, columnsFile:
		if argument == "" {
			return nil, errors.New("custom-columns format specified but no custom columns given")
		}
		return newColumns(argument, name == columnsFile, o)
	}
	if argument == "" {
		return nil, errors.New("template format specified but no template given")
	}
	if name == goTemplate || name == goTemplateFile {
		return newGoTemplate(argument)
	}
	return newJSONPath(argument, name == jsonPathAsJSON)
}
