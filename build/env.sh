# Sourced from the top of the tree by scripts that call go: the Go of go.mod, also on a
# machine whose own is another. The Makefile does the same.
GOTOOLCHAIN=go$(sed -n 's/^go //p' go.mod)
export GOTOOLCHAIN
