package targets

import (
	"errors"
	"io"

	"github.com/spf13/pflag"
	"k8s.io/cli-runtime/pkg/resource"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	values "github.com/kubectl-gateway/kubectl-gateway/internal/plugin/flags"
)

// Flags select pods, besides the arguments that name pods and workloads.
type Flags struct {
	// Selector is a label selector, in kubectl's syntax.
	Selector string
	// FieldSelector is a field selector; the server knows a few fields of pods.
	FieldSelector string
	// All selects every pod of the namespace.
	All bool
	// AllNamespaces widens Selector, FieldSelector and All to every namespace.
	AllNamespaces bool
	// Files name pods and workloads: files, directories, URLs, or "-" for In.
	Files resource.FilenameOptions
	// In is what "-" in Files stands for, by default the standard input.
	In io.Reader
}

// AddFlags registers -l/--selector, --field-selector, --all, -A/--all-namespaces,
// -f/--filename, -k/--kustomize and -R/--recursive.
func (f *Flags) AddFlags(flags *pflag.FlagSet) {
	f.addFlags(flags, "f")
}

// AddFlagsButF is AddFlags without -f, for verbs where -f means something else.
func (f *Flags) AddFlagsButF(flags *pflag.FlagSet) {
	f.addFlags(flags, "")
}

func (f *Flags) addFlags(flags *pflag.FlagSet, filename string) {
	flags.StringVarP(&f.Selector, "selector", "l", f.Selector,
		"select pods by label, for example app=web,tier!=cache")
	flags.StringVar(&f.FieldSelector, "field-selector", f.FieldSelector,
		"select pods by field, for example spec.nodeName=node-1; together with -l both must match")
	flags.BoolVar(&f.All, "all", f.All, "select all pods of the namespace")
	flags.BoolVarP(&f.AllNamespaces, "all-namespaces", "A", f.AllNamespaces, "look in all namespaces")
	flags.StringSliceVarP(&f.Files.Filenames, "filename", filename, f.Files.Filenames,
		"file, directory or URL of manifests that name pods and workloads, - for the standard input; may be repeated")
	flags.StringVarP(&f.Files.Kustomize, "kustomize", "k", f.Files.Kustomize,
		"directory of a kustomization that names pods and workloads")
	flags.BoolVarP(&f.Files.Recursive, "recursive", "R", f.Files.Recursive,
		"read the directories of --filename with all that is below them")
	values.Files(flags, "filename")
	values.Dirs(flags, "kustomize")
}

// Empty reports whether neither the flags nor args select any pod.
func (f *Flags) Empty(args []string) bool {
	return len(args) == 0 && !f.selects() && !f.All && !f.files()
}

// Wide reports whether all pods of a namespace or of all namespaces may be selected,
// which is easily more than the user means.
func (f *Flags) Wide() bool { return f.All || f.AllNamespaces }

func (f *Flags) selects() bool { return f.Selector != "" || f.FieldSelector != "" }

func (f *Flags) files() bool { return len(f.Files.Filenames) > 0 || f.Files.Kustomize != "" }

// check finds contradictions between args and flags.
func (f *Flags) check(args []string) error {
	const one = ": use one of them"
	for _, contradiction := range []struct {
		given bool
		err   error
	}{
		{len(args) > 0 && f.selects(), errors.New("pods are named and a selector is given" + one)},
		{len(args) > 0 && f.All, errors.New("pods are named and --all is given" + one)},
		{len(args) > 0 && f.files(), errors.New("pods are named and files are given" + one)},
		{f.files() && f.selects(), errors.New("files and a selector are both given" + one)},
		{f.files() && f.All, errors.New("files and --all are both given" + one)},
		{f.selects() && f.All, errors.New("--all and a selector are both given" + one)},
		{len(args) > 0 && f.AllNamespaces, errors.New("a pod cannot be named across all namespaces: use -n instead of -A")},
		{f.files() && f.AllNamespaces, errors.New("files name their namespaces: leave -A out, or use -n for those that name none")},
		{f.Files.Kustomize != "" && (len(f.Files.Filenames) > 0 || f.Files.Recursive), errors.New("-k goes neither with --filename nor with -R")},
		{f.Files.Recursive && len(f.Files.Filenames) == 0,
			api.WithHint(errors.New("-R is given without --filename"), "name the directory: --filename=DIRECTORY -R")},
		{f.Empty(args) && f.AllNamespaces,
			api.WithHint(ErrNothingNamed, "add --all for every pod of every namespace, or -l to select some")},
		{f.Empty(args), api.WithHint(ErrNothingNamed, "name a pod or a workload, as in pod/web-0 or deploy/web, or use -l, -f or --all")},
	} {
		if contradiction.given {
			return contradiction.err
		}
	}
	return nil
}
