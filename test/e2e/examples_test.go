//go:build e2e

package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
)

// example says how one line of the help texts is run.
type example struct {
	// before and after are lines of shell around it, which must succeed.
	before, after string
	// with are further arguments of the plugin, for what only a terminal is asked.
	with string
	// endless is a command that Ctrl-C ends once it has printed something.
	endless bool
	// code is the exit code, and says a part of what must be printed.
	code int
	says string
	// push is for what sends metrics to somebody else.
	push bool
	// slow is for what waits, and begins first where several run at the same time.
	slow bool
}

// keepBundle and restoreBundle stand around what changes whom the cluster trusts.
const (
	keepBundle = `kubectl -n kube-system get configmap kube-gateway-trust -o json |
		jq 'del(.metadata.resourceVersion, .metadata.uid, .metadata.creationTimestamp)' >bundle.json`
	restoreBundle = `kubectl replace --force -f bundle.json`
	// copyAuthority has a copy of the cluster's authority stand for it, whose key may be kept in another way.
	copyAuthority = `rm -rf copy && cp -r "$XDG_DATA_HOME/kubectl-gateway/$(kubectl get namespace kube-system -o jsonpath={.metadata.uid})" copy
		export KUBE_GATEWAY_AUTHORITY_DIR=$PWD/copy KUBE_GATEWAY_PASSPHRASE_FILE=$PWD/passphrase
		(umask 077 && echo correct horse battery >passphrase && echo staple staple staple >another)`
	noPolicy = `kubectl gateway admission remove`
	fresh    = `kubectl gateway disable --all --yes --drain-timeout=0s`
)

// changing are the examples that change something, in an order in which each has
// something to do. They run one after the other.
func changing() []map[string]example {
	return []map[string]example{
		{
			"kubectl gateway init-ca": {says: "unchanged"},
			"kubectl gateway init-ca --from-cert ca.crt --from-key ca.key": {
				before: keepBundle + ` && kubectl -n kube-system delete configmap kube-gateway-trust && export XDG_DATA_HOME=$PWD/data`,
				after:  restoreBundle, says: "authority/"},
			"kubectl gateway init-ca --encrypt": {before: copyAuthority, says: "updated"},
			"kubectl gateway init-ca --change-passphrase": {
				before: copyAuthority + ` && kubectl gateway init-ca --encrypt`, with: "--new-passphrase-file=another", says: "updated"},
			"kubectl gateway init-ca --key-command=kms-key --key-arg=projects/p/keys/mesh": {
				before: keepBundle + ` && kubectl -n kube-system delete configmap kube-gateway-trust && export KUBE_GATEWAY_AUTHORITY_DIR=$PWD/kms
					mkdir -p projects/p/keys && openssl ecparam -name prime256v1 -genkey -noout -out projects/p/keys/mesh`,
				after: restoreBundle, says: "key held by kms-key"},
			"kubectl gateway init-ca --signer=example.com/mesh": {
				before: keepBundle + ` && kubectl -n kube-system delete configmap kube-gateway-trust && export XDG_DATA_HOME=$PWD/signer
					jq -n --rawfile roots ca.crt '{apiVersion: "certificates.k8s.io/v1", kind: "ClusterTrustBundle", metadata: {name: "example.com:mesh:roots"},
						spec: {signerName: "example.com/mesh", trustBundle: $roots}}' | kubectl apply -f -`,
				after: `kubectl delete clustertrustbundle example.com:mesh:roots && ` + restoreBundle, says: "signer/example.com/mesh chosen"},
			"kubectl gateway init-ca --store=cluster": {says: "authority/",
				after: `kubectl -n kube-system delete secret kube-gateway-authority`},
		}, {
			"kubectl gateway enable -f manifests/ -R":                              {says: "pod/web-0 gateway enabled"},
			"kubectl gateway enable pod/web-0 pod/db-0":                            {before: fresh, says: "pod/db-0 gateway enabled"},
			"kubectl gateway enable deploy/web sts/db":                             {before: fresh, says: "pod/db-0 gateway enabled"},
			"kubectl gateway enable -l app=web --mode=strict":                      {before: fresh, says: "pod/web-0 gateway enabled"},
			"kubectl gateway enable pod/db-0 --mode=strict --allow='ns/prod/sa/*'": {before: fresh, says: "pod/db-0 gateway enabled"},
			"kubectl gateway enable pod/web-0 --delivery=csr":                      {before: fresh, says: "pod/web-0 gateway enabled"},
			"kubectl gateway enable deploy/web --metrics-addr=:18445":              {before: fresh, says: "gateway enabled"},
			"kubectl gateway enable pod/web-0 --dry-run=server -o yaml": {before: fresh, says: "ephemeralContainers",
				after: "kubectl gateway enable --all --yes && kubectl gateway disable pod/plain"},
			"kubectl gateway enable --all -A --yes": {before: fresh, says: "pod/db-0 -n "},
		}, {
			"kubectl gateway mode pod/web-0 strict":                                     {says: "mode strict"},
			"kubectl gateway mode pod/web-0 pod/db-0 permissive":                        {says: "mode permissive"},
			"kubectl gateway mode deploy/web strict":                                    {says: "mode strict"},
			"kubectl gateway mode -l app=web strict":                                    {says: "mode strict"},
			"kubectl gateway mode --all -A --yes strict":                                {says: "mode strict", after: "kubectl gateway mode --all --yes permissive"},
			"kubectl gateway allow pod/db-0 'ns/prod/sa/*'":                             {says: "allows ns/prod/sa/*"},
			"kubectl gateway allow sts/db 'ns/prod/sa/*'":                               {says: "allows ns/prod/sa/*"},
			"kubectl gateway allow -l app=db 'ns/prod/sa/web' 'ns/ops/sa/backup'":       {says: "allows ns/prod/sa/web ns/ops/sa/backup"},
			"kubectl gateway allow pod/db-0 --everyone":                                 {says: "allows everyone"},
			"kubectl gateway allow pod/db-0 'ns/prod/sa/web:5432,9000-9010'":            {says: "allows ns/prod/sa/web:5432,9000-9010"},
			"kubectl gateway allow pod/db-0 'ns/prod/sa/*' --audit":                     {says: "logs whom that refuses"},
			"kubectl gateway allow pod/db-0 --everyone --deny='ns/dev/sa/*'":            {says: "denies ns/dev/sa/*"},
			"kubectl gateway mode deploy/web strict --existing=reset":                   {says: "mode strict", after: "kubectl gateway mode deploy/web permissive && kubectl gateway allow pod/db-0 --everyone"},
			"kubectl gateway log pod/web-0 refused":                                     {says: "logs refused connections"},
			"kubectl gateway log deploy/web connections --limit=256Mi":                  {says: "logs connections, at most 256Mi an hour"},
			"kubectl gateway log --all -A --yes none":                                   {says: "logs no connections", after: "kubectl gateway log --all -A --yes connections"},
			"kubectl gateway refresh pod/web-0 --exclude-cidr=10.9.0.0/16":              {says: "10.9.0.0/16"},
			"kubectl gateway refresh pod/web-0 --capture-cidr=auto --service-cidr=auto": {with: "--exclude-cidr=none", says: "gateway refreshed"},
			"kubectl gateway refresh --all -A --yes":                                    {says: "pod/web-0"},
			"kubectl gateway rotate pod/web-0":                                          {says: "certificate renewed"},
			"kubectl gateway rotate --all -n shop":                                      {with: "--yes", says: "certificate renewed"},
			"kubectl gateway revoke pod/web-0":                                          {says: "refuses what is revoked", after: "kubectl gateway rotate pod/web-0"},
			"kubectl gateway revoke ns/shop/sa/web":                                     {says: "refuses what is revoked"},
			"kubectl gateway rotate -n shop -l app=web":                                 {says: "certificate renewed"},
			"kubectl annotate namespace shop kube-gateway.io=true":                      {says: "annotated"},
			"kubectl annotate namespace shop kube-gateway.io/mode=strict":               {says: "annotated", after: "kubectl annotate namespace shop kube-gateway.io/mode-"},
			"kubectl annotate deploy/web -n shop kube-gateway.io/log=refused":           {says: "annotated", after: "kubectl annotate deploy/web -n shop kube-gateway.io/log-"},
		}, {
			"kubectl gateway admission install":                                                      {says: "created", after: noPolicy},
			"kubectl gateway admission install --mode=permissive --startup-timeout=30s":              {says: "created", after: noPolicy},
			"kubectl gateway admission install --annotations=namespaces":                             {says: "created", after: noPolicy},
			"kubectl gateway admission install --requests=cpu=50m,memory=64Mi --limits=memory=256Mi": {says: "created", after: noPolicy},
			"kubectl gateway admission install --dry-run=client -o yaml":                             {says: "kind: MutatingAdmissionPolicyBinding"},
			"kubectl gateway admission diff":                                                         {code: 1, says: "+kind: MutatingAdmissionPolicyBinding"},
			"kubectl gateway admission show":                                                         {before: `kubectl gateway admission install`, says: "strict", after: noPolicy},
			"kubectl gateway admission remove":                                                       {before: `kubectl gateway admission install`, says: "deleted"},
		}, {
			"kubectl gateway upgrade pod/web-0":      {with: "--force", says: "gateway upgraded"},
			"kubectl gateway upgrade deploy/web":     {says: "already"},
			"kubectl gateway upgrade --all -A --yes": {says: "already"},
			"kubectl gateway upgrade deploy/web --image=registry.example/kube-gateway:v1.2.3 --drain-timeout=10m": {with: "--dry-run=client", says: "would be replaced"},
			"kubectl gateway upgrade --all --dry-run=server":                                                      {says: "already"},
			"kubectl gateway enable deploy/web --replace --on-failure=closed --wire=port":                         {with: "--dry-run=client", says: "would be replaced"},
		},
	}
}

// looking are the examples that change nothing. They run at the same time.
func looking() map[string]example {
	return map[string]example{
		"kubectl gateway check":                                 {says: "√"},
		"kubectl gateway check pod/web-0 deploy/api":            {says: "√"},
		"kubectl gateway check -n shop -o short":                {says: "shop"},
		"kubectl gateway check --wait 2m":                       {says: "√"},
		"kubectl gateway check --sign=example.com/kube-gateway": {says: "rights of signer example.com/kube-gateway"},
		// Nothing answers to that name.
		"kubectl gateway check --image=registry.example/kube-gateway:v1":              {with: "--image-timeout=5s", slow: true, code: 1, says: "registry.example/kube-gateway:v1"},
		`kubectl gateway check -o json | jq '.checks[] | select(.result == "error")'`: {},
		"kubectl gateway status":                                                                       {says: "web-0"},
		"kubectl gateway status pod/db-0 -o wide":                                                      {says: "AUDITED"},
		"kubectl gateway allow pod/db-0 --from-edges":                                                  {says: "kubectl gateway allow"},
		"kubectl gateway mode pod/web-0 strict --dry-run":                                              {says: "web-0"},
		"kubectl gateway revoke pod/web-0 --dry-run":                                                   {says: "(dry run)"},
		"kubectl gateway revoke --list":                                                                {},
		"kubectl gateway refresh deploy/web --dry-run=client":                                          {says: "(dry run)"},
		"kubectl gateway status pod/web-0 pod/db-0 -o wide":                                            {says: "OPTION-LOST"},
		"kubectl gateway status deploy/web sts/db":                                                     {says: "db-0"},
		"kubectl gateway status -A -o json --fail-if-expiring=7d >/dev/null":                           {},
		"kubectl gateway status --edges":                                                               {says: "pod/web-0"},
		"kubectl gateway status --edges --by workload --watch":                                         {endless: true, says: "sts/db"},
		"kubectl gateway status -A -o svg >edges.svg":                                                  {after: "grep '</svg>' edges.svg"},
		`kubectl gateway status -A -o json | jq '.items[] | select(.state != "ready")'`:                {},
		`kubectl gateway status -A -o jsonpath='{range .items[?(@.state!="ready")]}{.pod}{"\n"}{end}'`: {},
		"kubectl gateway status -A -o custom-columns=POD:.pod,ENDS:.status.certificate.notAfter --sort-by=.status.certificate.notAfter": {says: "web-0"},
		"kubectl gateway tail": {endless: true, says: "web-0"},
		"kubectl gateway tail pod/web-0 pod/db-0 --since=1h --no-follow":                                                                     {says: "db-0"},
		"kubectl gateway tail deploy/web":                                                                                                    {endless: true, says: "web-"},
		"kubectl gateway tail -A --plaintext-only":                                                                                           {endless: true, says: "plaintext"},
		"kubectl gateway tail -l app=web --errors --since=10m":                                                                               {endless: true, says: "web-"},
		"kubectl gateway tail --template '{{.Pod}} {{.Source}} {{.Destination}} {{.Peer}}'":                                                  {endless: true, says: "web-0 10."},
		`kubectl gateway tail --template '{{toTimestamp .Time "15:04:05" "America/New_York"}} {{.Pod}} {{.Peer}}'`:                           {endless: true, says: "web-0 spiffe://"},
		"kubectl gateway tail -A -o json | jq 'select(.encrypted == false)'":                                                                 {endless: true, says: `"encrypted": false`},
		"kubectl gateway support-bundle":                                                                                                     {says: "kubectl-gateway-support-"},
		"kubectl gateway support-bundle pod/web-0 deploy/api --mask-addresses -o web.tar.gz":                                                 {says: "web.tar.gz", after: "tar -xzOf web.tar.gz support-bundle/status.json | grep ipv4-"},
		"kubectl gateway support-bundle -A -o - | tar -tz":                                                                                   {says: "support-bundle/status.json"},
		"kubectl gateway packets pod/web-0 -w - | wireshark -k -i -":                                                                         {endless: true, says: "18443"},
		"kubectl gateway packets pod/web-0 -w web-0.pcapng --interface=eth0 --duration=1m":                                                   {with: "--duration=10s", slow: true, after: "tcpdump -n -r web-0.pcapng | grep 18443"},
		"kubectl gateway packets pod/web-0 -w - --port=18443 | tcpdump -n -r -":                                                              {endless: true, says: "18443"},
		"kubectl gateway metrics pod/web-0":                                                                                                  {says: "# TYPE kube_gateway"},
		`kubectl gateway metrics web-0 | grep -E 'result="(plaintext|refused)"'`:                                                             {says: "plaintext"},
		"kubectl gateway metrics web-0 | curl --data-binary @- http://pushgateway:9091/metrics/job/kube-gateway/namespace/default/pod/web-0": {push: true},
		`kubectl gateway metrics web-0 -o json | jq '.families[] | select(.name | contains("not_after"))'`:                                   {says: "not_after"},
		"kubectl gateway completion --install":                                                                                               {says: "installed"},
		`kubectl gateway completion --install --dir "$HOME/.local/bin"`:                                                                      {before: `mkdir -p "$HOME/.local/bin"`, says: "installed"},
		"source <(kubectl gateway completion bash)":                                                                                          {},
		"kubectl gateway completion fish > ~/.config/fish/completions/kubectl-gateway.fish":                                                  {before: "mkdir -p ~/.config/fish/completions"},
		"kubectl gateway completion powershell | Out-String | Invoke-Expression":                                                             {},
	}
}

// ending are the examples after which things are as they were, one after the other.
// Those of verify are among them: they ask for pods that are not too busy to be watched.
func ending() []map[string]example {
	return []map[string]example{
		{
			"kubectl gateway verify pod/web-0 pod/db-0":                     {says: "√ encrypted"},
			"kubectl gateway verify deploy/web":                             {says: "√ encrypted"},
			"kubectl gateway verify pod/web-0 pod/db-0 --port=5432 -o json": {says: `"verdict": "encrypted"`},
		}, {
			"kubectl gateway watch": {endless: true, says: "watching all namespaces"},
			"kubectl gateway watch --sign=example.com/kube-gateway --sign-for='ns/shop/sa/scraper'": {endless: true, says: "watching all namespaces"},
			"kubectl gateway watch deploy/web -n shop":                                              {endless: true, says: "watching namespace shop"},
			"kubectl gateway watch --once -o json":                                                  {with: "-n shop", says: "pods watched"},
			"kubectl gateway rotate --ca --dry-run":                                                 {says: "(dry run)"},
			"kubectl gateway rotate --ca":                                                           {with: "--yes", says: " rotated"},
			"kubectl gateway rotate --ca --from-cert ca.crt --from-key ca.key":                      {with: "--yes", says: " rotated"},
		}, {
			"kubectl gateway disable --all --dry-run=client":        {with: "--yes", says: "(dry run)"},
			"kubectl gateway disable pod/web-0":                     {says: "pod/web-0 gateway disabled"},
			"kubectl gateway disable deploy/web":                    {says: "gateway disabled"},
			"kubectl gateway disable -l app=web --drain-timeout=5m": {says: "already disabled"},
		},
	}
}

// stubs stand for what is no program here, and keep the rest from holding lines back.
var stubs = map[string]string{
	"jq":                `exec /usr/bin/jq --unbuffered "$@"`,
	"tcpdump":           `exec /usr/bin/tcpdump -l "$@"`,
	"wireshark":         `exec /usr/bin/tcpdump -l -n -r -`,
	"Out-String":        `exec grep -a "Register-ArgumentCompleter"`,
	"Invoke-Expression": `exec grep -c .`,
	"kms-key":           keyProgram,
	// It becomes the plugin, under the same number.
	"kubectl": `[ "$1" != gateway ] || echo $$ >"${EXAMPLE_PID:-/dev/null}"; exec "$REAL_KUBECTL" "$@"`,
}

// lineOfError finds errors of the plugin; what connections met is no error of it.
var lineOfError = regexp.MustCompile(`(?m)^(pod/\S+( -n \S+)?: )?error: `)

// helpExamples returns the lines of all examples of a command, and of those below it, in their order.
func helpExamples(t *testing.T, command ...string) []string {
	t.Helper()
	var lines []string
	help := gateway(t, append(command, "--help")...).stdout
	_, text, found := strings.Cut(help, "\nExamples:\n")
	if found {
		text, _, _ = strings.Cut(text, "\n\nFlags:")
		text, _, _ = strings.Cut(text, "\n\nAvailable Commands:")
		for line := range strings.Lines(text) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				lines = append(lines, line)
			}
		}
	}
	_, list, _ := strings.Cut(help, "Available Commands:")
	list, _, _ = strings.Cut(list, "\nFlags:")
	for _, below := range regexp.MustCompile(`(?m)^  ([a-z-]+) +\S`).FindAllStringSubmatch(list, -1) {
		for _, line := range helpExamples(t, append(slices.Clone(command), below[1])...) {
			if !slices.Contains(lines, line) {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

// TestExamples runs every example of every help text as a shell does. It shares the
// cluster's authority and looks at all namespaces, so no other test runs beside it.
func TestExamples(t *testing.T) {
	lines := helpExamples(t)
	known := looking()
	for _, group := range slices.Concat(changing(), ending()) {
		maps.Copy(known, group)
	}
	for _, line := range lines {
		if _, ok := known[line]; !ok {
			t.Errorf("nobody runs this example: %s", line)
		}
	}
	for line := range known {
		if !slices.Contains(lines, line) {
			t.Errorf("this is no example of any command: %s", line)
		}
	}
	if t.Failed() || len(lines) == 0 {
		t.Fatalf("%d examples", len(lines))
	}
	if publishedRoots(t) > 1 {
		gateway(t, "rotate", "--ca", "--yes") // a test that was killed has begun it
	}
	shell := newExampleShell(t)
	inOrder := func(groups []map[string]example) {
		for _, group := range groups {
			for _, line := range lines {
				if e, ok := group[line]; ok {
					t.Run(line, func(t *testing.T) { shell.run(t, line, e) })
				}
			}
		}
	}
	inOrder(changing())
	stop := shell.talk(t)
	var together errgroup.Group
	together.SetLimit(6)
	for _, slow := range []bool{true, false} {
		for line, e := range looking() {
			if e.slow == slow {
				together.Go(func() error {
					t.Run(line, func(t *testing.T) { shell.run(t, line, e) })
					return nil
				})
			}
		}
	}
	_ = together.Wait()
	stop()
	inOrder(ending())
}

// exampleShell is where examples run: pods of the names they use, and the plugin of
// somebody with an own home.
type exampleShell struct {
	namespace, dir string
	env            []string
	pushed         atomic.Int64
	proxy          string
}

func newExampleShell(t *testing.T) *exampleShell {
	t.Helper()
	s := &exampleShell{namespace: namespace(t), dir: t.TempDir()}
	for _, tool := range []string{"bash", "jq", "curl", "tcpdump", "grep", "openssl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatal(err)
		}
	}
	bin := filepath.Join(s.dir, "bin")
	write := func(name, text string, mode os.FileMode) {
		t.Helper()
		path := filepath.Join(s.dir, name)
		must.Do(t, errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), mode)))
	}
	for name, text := range stubs {
		write(filepath.Join("bin", name), "#!/bin/sh\n"+text+"\n", 0o755)
	}
	plugin := must.Get(exec.LookPath("kubectl-gateway"))(t)
	program := must.Get(os.ReadFile(plugin))(t)
	write("bin/kubectl-gateway", string(program), 0o755)
	config := must.Get(os.ReadFile(os.Getenv("KUBECONFIG")))(t)
	write("config", string(config), 0o600)
	kubectl := must.Get(exec.LookPath("kubectl"))(t)
	pushgateway := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Method == http.MethodPost && r.URL.Path == "/metrics/job/kube-gateway/namespace/default/pod/web-0" && strings.Contains(string(body), "# TYPE kube_gateway") {
			s.pushed.Add(1)
		}
	}))
	t.Cleanup(pushgateway.Close)
	s.proxy = pushgateway.URL
	s.env = append(os.Environ(), "HOME="+filepath.Join(s.dir, "home"), "KUBECONFIG="+filepath.Join(s.dir, "config"), "REAL_KUBECTL="+kubectl,
		"PATH="+bin+":"+os.Getenv("PATH"), "TZ=UTC", "SHELL=/bin/bash")
	write("home/.keep", "", 0o600)
	certificate, key := ownAuthority(t)
	write("ca.crt", certificate, 0o600)
	write("ca.key", key, 0o600)
	s.pods(t, write)
	return s
}

// pods starts what the examples name, in the namespace of the context and in shop.
func (s *exampleShell) pods(t *testing.T, write func(name, text string, mode os.FileMode)) {
	t.Helper()
	if out := s.shell(t, "kubectl config set-context --current --namespace="+s.namespace); out.code != 0 {
		t.Fatal(out.stderr)
	}
	// One of a run before may be on its way out.
	awaitKubectl(t, "namespace shop can be made", "create", "namespace", "shop")
	atEnd(t, "delete", "namespace", "shop", "--wait=false")
	awaitKubectl(t, "the service account of shop", "-n", "shop", "get", "serviceaccount", "default")
	template := func(labels map[string]string) corev1.PodTemplateSpec {
		pod := podSpec("any", "")
		return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod.Spec}
	}
	deployment := func(name string) string {
		labels := map[string]string{"app": name, "tier": "front"}
		return mustYAML(t, &appsv1.Deployment{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}, ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template(labels)}})
	}
	web := podSpec("web-0", node1)
	web.Labels = map[string]string{"app": "web"}
	labels := map[string]string{"app": "db"}
	db := template(labels)
	db.Spec.NodeName = node2
	second := db.Spec.Containers[0]
	second.Name, second.Command = "sql", []string{"/app", "listen", ":5432"}
	db.Spec.Containers = append(db.Spec.Containers, second)
	write("manifests/web/pod.yaml", mustYAML(t, web), 0o600)
	write("manifests/db.yaml", mustYAML(t, &appsv1.StatefulSet{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "StatefulSet"}, ObjectMeta: metav1.ObjectMeta{Name: "db"},
		Spec: appsv1.StatefulSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: db}}), 0o600)
	write("others/web.yaml", deployment("web"), 0o600)
	write("others/api.yaml", deployment("api"), 0o600)
	write("others/plain.yaml", mustYAML(t, podSpec("plain", node2)), 0o600)
	out := s.shell(t, `kubectl apply -R -f manifests -f others && kubectl -n shop apply -f others/web.yaml &&
		kubectl rollout status sts/db && kubectl rollout status deploy/web && kubectl rollout status deploy/api && kubectl -n shop rollout status deploy/web &&
		kubectl wait --for=condition=Ready pod/web-0 pod/plain --timeout=`+patience.String())
	if out.code != 0 {
		t.Fatal(out.stderr)
	}
}

// shell runs lines of shell where examples run.
func (s *exampleShell) shell(t *testing.T, lines string) output {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "-e", "-o", "pipefail", "-c", lines)
	cmd.Dir, cmd.Env = s.dir, s.env
	return outputOf(t, cmd)
}

// run runs one example.
func (s *exampleShell) run(t *testing.T, line string, e example) {
	if e.with != "" {
		// Behind the plugin's own words, before a pipe.
		first, rest, piped := strings.Cut(line, " | ")
		line = first + " " + e.with
		if piped {
			line += " | " + rest
		}
	}
	pid := filepath.Join(t.TempDir(), "pid")
	script := line + "\n"
	if e.before != "" {
		script = e.before + "\n" + script
	}
	if e.push {
		script = "export http_proxy=" + s.proxy + " no_proxy=\n" + script
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-e", "-o", "pipefail", "-c", script)
	cmd.Dir, cmd.Env = s.dir, append(slices.Clip(s.env), "EXAMPLE_PID="+pid)
	cmd.WaitDelay = 10 * time.Second
	said := &lineCounter{want: -1}
	cmd.Stdout, cmd.Stderr = said, said
	if e.endless {
		watched := &untilSaid{lineCounter: said, word: e.says, call: func() { interrupt(t, pid) }}
		cmd.Stdout, cmd.Stderr = watched, watched
	}
	err := cmd.Run()
	var exit *exec.ExitError
	text := said.text.String()
	switch {
	case ctx.Err() != nil:
		t.Fatalf("it does not end, or never says %q:\n%s", e.says, text)
	case err != nil && !errors.As(err, &exit):
		t.Fatal(err)
	case cmd.ProcessState.ExitCode() != e.code:
		t.Errorf("exit code %d:\n%s", cmd.ProcessState.ExitCode(), text)
	case e.code == 0 && lineOfError.MatchString(text):
		t.Errorf("it reports an error:\n%s", text)
	case !strings.Contains(text, e.says):
		t.Errorf("it does not say %q:\n%s", e.says, text)
	case e.push && s.pushed.Load() != 1:
		t.Errorf("nothing was sent to the Pushgateway:\n%s", text)
	}
	if e.after != "" {
		if out := s.shell(t, e.after); out.code != 0 {
			t.Errorf("%s: exit code %d\n%s%s", e.after, out.code, out.stdout, out.stderr)
		}
	}
}

// untilSaid calls once when a word has been written.
type untilSaid struct {
	*lineCounter
	word string
	call func()
}

func (u *untilSaid) Write(b []byte) (int, error) {
	n, err := u.lineCounter.Write(b)
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.call != nil && strings.Contains(u.text.String(), u.word) {
		u.call()
		u.call = nil
	}
	return n, err
}

// interrupt sends what Ctrl-C does to the plugin whose number is in a file.
func interrupt(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Error(err)
		return
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Error(err)
		return
	}
	if err := syscall.Kill(pid, syscall.SIGINT); err != nil {
		t.Error(err)
	}
}

// talk has pods talk to each other until stop is called: encrypted, in plaintext, and
// to a port where nobody listens.
func (s *exampleShell) talk(t *testing.T) (stop func()) {
	t.Helper()
	web, db, plain := findPod(t, s.namespace, "web-0"), findPod(t, s.namespace, "db-0"), findPod(t, s.namespace, "plain")
	// Commands may be seconds apart on a busy machine, and what the application makes itself is not.
	load := startLoadWith(web, []string{"--workers=1", "--pause=200ms"}, db.addr(portTraffic))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	client := reach(t)
	workload := podsOf(t, s.namespace, "app=web")
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			for _, from := range workload {
				for _, to := range []string{db.addr(portEcho), plain.addr(portEcho), db.addr(1)} {
					ref := remote.Ref{Namespace: from.namespace, Pod: from.name, Container: "app"}
					_ = client.Runner.Run(ctx, ref, nil, io.Discard, "/app", "talk", to, "example")
				}
			}
		}
	}()
	web.traffic("the pods talk", func(traffic api.Traffic) bool {
		return traffic.Outbound.Encrypted > 0 && traffic.Outbound.Plaintext > 0
	})
	return func() {
		cancel()
		<-done
		load.stop()
	}
}

// ownAuthority returns a certificate that may sign others, and its key, as PEM.
func ownAuthority(t *testing.T) (certificate, key string) {
	t.Helper()
	private := must.Get(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: fmt.Sprintf("own %d", time.Now().UnixNano())},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	der := must.Get(x509.CreateCertificate(rand.Reader, template, template, private.Public(), private))(t)
	secret := must.Get(x509.MarshalPKCS8PrivateKey(private))(t)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}))
}
