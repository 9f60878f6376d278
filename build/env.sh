# Sourced from the top of the tree by scripts that call go: the Go of go.mod, also on a
# machine whose own is another, and the flags of all programs and tests. The Makefile does
# the same.
GOTOOLCHAIN=go$(sed -n 's/^go //p' go.mod)
CGO_ENABLED=0
GOFLAGS=$(go env GOFLAGS)
case " $GOFLAGS " in
*" -trimpath "*) ;;
*) GOFLAGS="-trimpath $GOFLAGS" ;;
esac
export GOTOOLCHAIN CGO_ENABLED GOFLAGS
