# Two targets do everything on a fresh Debian-like machine with root and Go:
#   make demo   the main job, on an embedded two-node Kubernetes
#   make test   all tests: unit, eBPF in network namespaces, end to end
# "make help" lists the others.

# go.mod says which Go builds everything. GOTOOLCHAIN says it to machines whose own Go is
# another and that have GOTOOLCHAIN=local.
GO := $(shell sed -n 's/^go //p' go.mod)
export GOTOOLCHAIN := go$(GO)

# Programs and tests are compiled in the same way, so that what both need is compiled once. What
# is tested is vetted by "make check" alone, as that looks at all dependencies, too.
export CGO_ENABLED := 0
export GOFLAGS := -trimpath -vet=off $(filter-out -trimpath -vet=off,$(shell go env GOFLAGS))

VERSION ?= dev
IMAGE   ?= ghcr.io/kubectl-gateway/kube-gateway:$(VERSION)$(VARIANT)

# With FIPS=1, the gateway's image is the variant in FIPS 140-3 mode, of the newest module of Go's that is certified.
FIPS        ?=
FIPS_MODULE := v1.0.0
VARIANT      = $(if $(FIPS),-fips)

MODULE  := github.com/kubectl-gateway/kubectl-gateway
LDFLAGS := -s -w -X $(MODULE)/internal/version.stamp=$(VERSION)
GOBUILD := go build -ldflags '$(LDFLAGS)'

# Of images: this machine's alone, but for a release.
ARCHITECTURES ?= $(shell go env GOARCH)

# Modules of their own keep what they need out of the plugin's. build/chart, test/certmanager and
# test/cluster/programs are not among them: a check of their few files takes all of Helm, cert-manager or Kubernetes with it.
SUBMODULES := build/dashboard build/image build/release test/cluster

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 20

.PHONY: build
build: ## build the plugin and the gateway for this machine into bin/
	$(GOBUILD) -o bin/ ./cmd/kubectl-gateway ./cmd/kube-gateway

.PHONY: image
image: ## pack the gateway into dist/kube-gateway.tar (OCI; ARCHITECTURES="amd64 arm64": for both; FIPS=1: -fips)
	@for arch in $(ARCHITECTURES); do \
		GOOS=linux GOARCH=$$arch GOFIPS140=$(if $(FIPS),$(FIPS_MODULE),off) $(GOBUILD) -o dist/$$arch$(VARIANT)/kube-gateway ./cmd/kube-gateway || exit 1; \
	done
	go -C build/image run . --name $(IMAGE) --arg supervise --version $(VERSION) --output $(CURDIR)/dist/kube-gateway$(VARIANT).tar \
		$(foreach arch,$(ARCHITECTURES),$(arch)=$(CURDIR)/dist/$(arch)$(VARIANT)/kube-gateway)

PLUGIN_IMAGE ?= ghcr.io/kubectl-gateway/kubectl-gateway:$(VERSION)
.PHONY: plugin-image
plugin-image: ## pack the plugin, for watch in the cluster, into dist/kubectl-gateway.tar (OCI)
	@for arch in $(ARCHITECTURES); do \
		GOOS=linux GOARCH=$$arch $(GOBUILD) -o dist/$$arch/kubectl-gateway ./cmd/kubectl-gateway || exit 1; \
	done
	go -C build/image run . --name $(PLUGIN_IMAGE) --program kubectl-gateway --user 65532 --version $(VERSION) \
		--output $(CURDIR)/dist/kubectl-gateway.tar \
		$(foreach arch,$(ARCHITECTURES),$(arch)=$(CURDIR)/dist/$(arch)/kubectl-gateway)

.PHONY: demo-image
demo-image: cluster-tool ## pack the demo's application into dist/demo.tar
	GOOS=linux $(GOBUILD) -o dist/demo ./examples/demo
	bin/cluster image --name ghcr.io/kubectl-gateway/demo:latest --binary dist/demo -o dist/demo.tar

.PHONY: demo
demo: tools build image demo-image ## the main job, shown on the embedded cluster, which stays up
	bin/cluster up
	bin/cluster load dist/kube-gateway.tar dist/demo.tar
	. test/env.sh && go run ./test/demo

.PHONY: cluster-tool cluster-up cluster-load cluster-down
cluster-tool:
	go -C test/cluster build -o $(CURDIR)/bin/cluster .
cluster-up: cluster-tool ## start the embedded two-node Kubernetes
	bin/cluster up
cluster-load: cluster-tool image ## load the gateway's image into the cluster's nodes
	bin/cluster load dist/kube-gateway.tar
cluster-down: cluster-tool ## stop the cluster and remove all that it made
	bin/cluster down

# Those with a cluster wait for much of their time, in which a guest and the release's linkers find
# their processor.
.PHONY: test
test: tools build ## all tests
	build/beside "test-waiting test-netns test-e2e" "compile test-kernels-short test-release"

# What tests with a cluster need and what takes long to compile. Whoever comes second waits.
.PHONY: compile compile-alone
compile:
	@mkdir -p dist
	@flock dist/compile.lock $(MAKE) --no-print-directory compile-alone
compile-alone: prometheus helm cert-manager cluster-tool
	bin/cluster build

# How many packages, and tests of one, run at the same time, of those that may: more than one a
# processor, as they mostly wait. Unit tests that may wait for servers that do not answer, and need
# no processor for that.
PACKAGES     := $(shell expr $$(nproc) + 1)
SIDE_BY_SIDE := $(shell expr $$(nproc) + 4)
WAITING      := 12

# Tests that depend on the kernel and not only on files: never from the cache.
NETNS := ./bpf ./internal/lab/netlab ./cmd/kube-gateway ./bench ./test/fidelity

# Unit tests wait for servers, and clusters are started.
.PHONY: test-waiting
test-waiting:
	$(MAKE) --no-print-directory -j2 test-unit test-cluster test-crowd

.PHONY: test-unit
test-unit: ## unit tests
	go test -p $(PACKAGES) -parallel $(WAITING) $$(go list ./... | grep -vE '/(bpf|internal/lab/netlab|cmd/kube-gateway|bench|test/fidelity)$$')
	go -C build/image test ./...
	go -C build/dashboard test -count=1 ./...
	go -C build/chart test -count=1 ./...

.PHONY: test-netns
test-netns: ## tests with eBPF and whole gateways in network namespaces (root)
	go test -p $(PACKAGES) -parallel $(SIDE_BY_SIDE) -count=1 -timeout 20m $(NETNS)

KERNELS ?= 5.10 6.1 6.12 7
KERNEL_PACKAGES := qemu-system-x86:/usr/bin/qemu-system-x86_64 cpio:/usr/bin/cpio kmod:/usr/sbin/depmod \
	xz-utils:/usr/bin/xz debian-archive-keyring:/usr/share/keyrings/debian-archive-keyring.gpg

# The program is executed and not "go run": its end by a signal is that of its guests.
.PHONY: kernels-tool test-kernels test-kernels-short
kernels-tool:
	@build/install-packages $(KERNEL_PACKAGES)
	go build -o bin/kernels ./test/kernels
test-kernels: kernels-tool ## eBPF and whole gateways on Debian's kernels in QEMU, an hour (KERNELS=5.10: on that one)
	bin/kernels $(KERNELS)
test-kernels-short: kernels-tool ## a few of these tests on Linux 5.10, in minutes
	bin/kernels -short 5.10

# It compiles for every platform, so the timeout is for a machine that has compiled nothing yet.
.PHONY: test-release
test-release: ## tests of the release: equal builds, sizes, and the real krew
	go -C build/release test -count=1 -timeout 75m ./...

# The cluster's programs are built before, as that takes longer than a test may.
.PHONY: test-cluster
test-cluster: compile ## tests of the embedded cluster itself
	go -C test/cluster test -count=1 ./...

.PHONY: prometheus
prometheus: ## build the Prometheus of the end-to-end tests into bin/
	go -C test/prometheus build -ldflags '-s -w' -tags 'remove_all_sd enable_kubernetes_sd' \
		-o $(CURDIR)/bin/prometheus github.com/prometheus/prometheus/cmd/prometheus

.PHONY: helm
helm: ## build the Helm of the end-to-end tests into bin/
	go -C build/chart build -ldflags '-s -w' -o $(CURDIR)/bin/helm helm.sh/helm/v4/cmd/helm

.PHONY: cert-manager
cert-manager: ## build the cert-manager of the end-to-end tests into bin/
	go -C test/certmanager build -ldflags '-s -w' -o $(CURDIR)/bin/cert-manager .

.PHONY: test-e2e
test-e2e: build image compile ## tests on the embedded cluster
	test/e2e/run

.PHONY: bench
bench: build ## measure the gateway beside direct TCP and a plain relay
	go run ./bench

.PHONY: bench-compare
bench-compare: build ## measure the gateway beside that of another commit, in one run (BASE=v0.1.0)
	bench/compare $(BASE)

.PHONY: bench-cluster
bench-cluster: build image compile ## measure through a Service between two nodes of the embedded cluster
	bench/on-cluster

.PHONY: bench-crowd test-crowd
bench-crowd: build compile ## measure the plugin with 1,000 pods on a real API server, some minutes
	go run ./bench/crowd
test-crowd: build compile ## the same with a few pods, as a test
	go run ./bench/crowd -pods 20 -nodes 2 -slow 0.2

# Every system and every architecture: none of our files is for a pair of them.
.PHONY: cross
cross: ## build for every system and architecture that is supported
	@for platform in linux/amd64 darwin/arm64 windows/amd64; do \
		echo "building the plugin for $$platform"; \
		GOOS=$${platform%/*} GOARCH=$${platform#*/} $(GOBUILD) -o /dev/null ./cmd/kubectl-gateway || exit 1; \
	done
	GOOS=linux GOARCH=arm64 $(GOBUILD) -o /dev/null ./cmd/kube-gateway

RELEASE ?= v0.0.0-snapshot
.PHONY: release-snapshot
release-snapshot: ## archives, checksums, component lists and krew's manifest in dist/release/
	go -C build/release run . --version $(RELEASE) --output $(CURDIR)/dist/release

.PHONY: release
release: vulncheck-strict ## the same for the tag VERSION=vX.Y.Z, with the images and krew's index (CONTRIBUTING.md)
	go -C build/release run . --version $(VERSION) --output $(CURDIR)/dist/release --tagged
	GOFLAGS=-buildvcs=false $(MAKE) image plugin-image VERSION=$(VERSION) ARCHITECTURES="amd64 arm64"
	GOFLAGS=-buildvcs=false $(MAKE) image FIPS=1 VERSION=$(VERSION) ARCHITECTURES="amd64 arm64"

.PHONY: release-push
release-push: ## push the images of "make release VERSION=vX.Y.Z" to their registry, and print their digests
	build/release/push dist/kube-gateway.tar $(IMAGE)
	build/release/push dist/kube-gateway-fips.tar $(IMAGE)-fips
	build/release/push dist/kubectl-gateway.tar $(PLUGIN_IMAGE)

.PHONY: release-sign
release-sign: ## sign the provenance of "make release" with KEY=key.pem, made by BUILDER=URI, where no workflow does
	go -C build/release run . --attest --version $(VERSION) --output $(CURDIR)/dist/release --key $(KEY) --builder $(BUILDER) \
		--image $(IMAGE)=$(CURDIR)/dist/kube-gateway.tar --image $(IMAGE)-fips=$(CURDIR)/dist/kube-gateway-fips.tar \
		--image $(PLUGIN_IMAGE)=$(CURDIR)/dist/kubectl-gateway.tar

.PHONY: release-verify
release-verify: ## build the tag that krew's index offers again, and compare the checksums
	go -C build/release run . --verify

.PHONY: check
check: toolchain-check versions-check fmt-check vet lint generate-check tidy-check ## fast checks of the source

# Whatever cannot read go.mod repeats its version.
.PHONY: toolchain-check
toolchain-check:
	@wrong=$$(git ls-files '*go.mod' | xargs grep -HnE '^(go|toolchain) ' | grep -v ':go $(GO)$$'; \
		grep -Hno 'golang:[0-9.]*' Dockerfile | grep -v ':golang:$(GO)$$'; \
		grep -HnoE '\bGo [0-9]+\.[0-9]+\.[0-9]+' README.md CONTRIBUTING.md | grep -v ':Go $(GO)$$'); \
	test -z "$$wrong" || { echo "not Go $(GO), as go.mod has it:"; echo "$$wrong"; exit 1; }

.PHONY: versions-check
versions-check:
	@build/versions-check

.PHONY: fmt-check
fmt-check:
	@files=$$(git ls-files '*.go' | xargs "$$(go env GOROOT)/bin/gofmt" -l); test -z "$$files" || { echo "not formatted (run gofmt -w):"; echo "$$files"; exit 1; }

.PHONY: vet
vet:
	go vet -tags e2e,guest ./...
	@for m in $(SUBMODULES); do go -C $$m vet ./... || exit 1; done

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
.PHONY: lint
lint:
	go run $(STATICCHECK) -tags e2e,guest ./...
	@for m in $(SUBMODULES); do (cd $$m && go run $(STATICCHECK) ./...) || exit 1; done

.PHONY: docs
docs: ## write docs/REFERENCE.md, the man pages, the table of rights, docs/demo.svg and the Kustomize base anew
	go test ./cmd/kubectl-gateway -run '^TestReference$$' -update
	go test ./internal/plugin/rights -run '^TestDocumentedTable$$' -update
	go test ./build/docs -run '^TestDemo$$' -update
	go -C build/chart test -run '^TestBase$$' . -update

.PHONY: docs-record
docs-record: build image demo-image ## record docs/demo.cast on the embedded cluster, which must be up, and draw it
	build/docs/record-demo
	$(MAKE) docs

.PHONY: generate
generate: ## compile the eBPF programs (clang 14)
	go generate ./bpf

# The objects are committed, so that building needs only Go; this shows that
# they are what the sources give.
.PHONY: generate-check
generate-check:
	bpf/generate.sh --check

.PHONY: tidy-check
tidy-check:
	@for m in . build/chart $(SUBMODULES); do go -C $$m mod tidy -diff || { echo "$$m: run go mod tidy"; exit 1; }; done

VULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0
.PHONY: vulncheck
vulncheck: ## look for known vulnerabilities, where their database can be reached
	@build/vulncheck $(VULNCHECK)

.PHONY: vulncheck-strict
vulncheck-strict: ## the same, and fail where the database cannot be reached
	@build/vulncheck --strict $(VULNCHECK)

.PHONY: tools
tools: ## install the Debian packages that demo and test need
	@build/install-packages

.PHONY: clean
clean: ## remove what was built
	rm -rf bin dist
